//! A long text in pieces, as a page's records are collected.
//!
//! Pieces of one size come from memory that was just used and is still mapped, and need not be copied when the text
//! outgrows them; one block of some MiB is asked of the system anew for each page.

use bytes::Bytes;

/// Bytes of a piece, unless a single record is larger.
const PIECE_BYTES: usize = 128 << 10;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    full: Vec<Bytes>,
    full_bytes: usize,
    open: Vec<u8>,
    expected: usize,
}

impl Pieces {
    /// Bytes so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.full_bytes + self.open.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says how many bytes will follow, about, so that what is asked for is as large as what will be used.
    pub const fn expect(&mut self, more: usize) {
        self.expected = self.len() + more;
    }

    /// Where about so many bytes may be written.
    pub fn open(&mut self, about: usize) -> &mut Vec<u8> {
        if !self.open.is_empty() && self.open.len() + about > PIECE_BYTES {
            self.close();
        }
        if self.open.capacity() == 0 {
            let left = self.expected.saturating_sub(self.full_bytes);
            self.open.reserve(left.min(PIECE_BYTES).max(about));
        }
        &mut self.open
    }

    fn close(&mut self) {
        self.full_bytes += self.open.len();
        self.full.push(std::mem::take(&mut self.open).into());
    }

    /// Takes back what was written since [`Self::open`] gave a piece of this length.
    pub fn cut(&mut self, length: usize) {
        self.open.truncate(length);
    }

    /// Appends another text.
    pub fn append(&mut self, other: Self) {
        if !self.open.is_empty() {
            self.close();
        }
        self.full_bytes += other.full_bytes;
        self.full.extend(other.full);
        self.open = other.open;
    }

    /// The pieces, one after the other.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.close();
        }
        self.full
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(text: Vec<u8>) -> Self {
        Self { open: text, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_however_it_is_cut() {
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        pieces.expect(1 << 20);
        for n in 0..2000_usize {
            let word = n.to_string().repeat(n % 300);
            let out = pieces.open(word.len());
            let before = out.len();
            out.extend_from_slice(word.as_bytes());
            if n % 7 == 0 {
                pieces.cut(before);
            } else {
                expected.extend_from_slice(word.as_bytes());
            }
            assert_eq!(pieces.len(), expected.len());
        }
        let large = "x".repeat(2 * PIECE_BYTES);
        pieces.open(large.len()).extend_from_slice(large.as_bytes());
        expected.extend_from_slice(large.as_bytes());
        let mut all = Pieces::from(b"[".to_vec());
        all.append(pieces);
        all.open(1).push(b']');
        assert_eq!(all.len(), expected.len() + 2);
        let list = all.into_list();
        assert!(list.len() > 5 && list.iter().all(|piece| !piece.is_empty()));
        assert_eq!(list.concat(), [b"[", &expected[..], b"]"].concat());
    }
}

//! Kafka's primitive types, as far as its group records and the consumer protocol need them.
//!
//! **Invariant**: reading never allocates more than the input holds, and never panics.

use bytes::{BufMut, Bytes, BytesMut};

/// Writes Kafka's types. Strings longer than their length field allows are cut by whoever calls: names are bounded.
#[derive(Default)]
pub(super) struct Writer(pub(super) BytesMut);

impl Writer {
    pub(super) fn i16(&mut self, n: i16) {
        self.0.put_i16(n);
    }

    pub(super) fn i32(&mut self, n: i32) {
        self.0.put_i32(n);
    }

    pub(super) fn i64(&mut self, n: i64) {
        self.0.put_i64(n);
    }

    pub(super) fn string(&mut self, text: &str) {
        let length = text.floor_char_boundary(i16::MAX as usize);
        self.0.put_i16(length as i16);
        self.0.put_slice(&text.as_bytes()[..length]);
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None => self.0.put_i16(-1),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_i32(bytes.len() as i32);
        self.0.put_slice(bytes);
    }

    pub(super) fn varint(&mut self, mut n: u32) {
        while n >= 0x80 {
            self.0.put_u8(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.put_u8(n as u8);
    }

    pub(super) fn compact_string(&mut self, text: &str) {
        self.varint(text.len() as u32 + 1);
        self.0.put_slice(text.as_bytes());
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads them; `None` where the input does not fit.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        self.0.split_off(..length)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Option<&'a str> {
        self.nullable_string()?
    }

    pub(super) fn nullable_string(&mut self) -> Option<Option<&'a str>> {
        match self.i16()? {
            -1 => Some(None),
            length => {
                let text = self.take(usize::try_from(length).ok()?)?;
                std::str::from_utf8(text).ok().map(Some)
            }
        }
    }

    /// Null is read as empty.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        match self.i32()? {
            -1 => Some(&[]),
            length => self.take(usize::try_from(length).ok()?),
        }
    }

    /// The number of elements that follow; each takes at least `least` bytes.
    pub(super) fn count(&mut self, least: usize) -> Option<usize> {
        match self.i32()? {
            -1 => Some(0),
            count => usize::try_from(count).ok().filter(|count| *count <= self.0.len() / least),
        }
    }

    pub(super) fn varint(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = *self.0.split_off_first()?;
            if shift == 28 && byte > 0x0f {
                return None;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn compact_string(&mut self) -> Option<&'a str> {
        let length = self.varint()?.checked_sub(1)?;
        std::str::from_utf8(self.take(length as usize)?).ok()
    }
}

//! Runs: several neighbouring rows of a view in one row of sled.
//!
//! sled 0.34 puts at most 16 rows into a page, and of each page it keeps some hundred bytes in memory though the page
//! itself is on the disk. With a row for each key that came to 15 to 30 bytes a key; and building took a call of sled
//! for each. Neighbours in one row make both several times less.
//!
//! **Invariant**: a run lies under the key of its first row, or a lower one, and holds every row from its key up to the
//! next run's. Rows are in order. A row that stays only ever moves into a run with a higher key, so who walks upwards misses
//! none; one that is put again after its run went, into a lower one, is newer than the walk.
//!
//! Pure. Called by the store.
//!
//! ```text
//! row    bytes of the key shared with the run's (u8) | rest of the key: length (u32), bytes | value: length (u32), bytes
//! ```

use std::{borrow::Cow, ops::ControlFlow};

/// Bytes of rows in a run, unless it is a single row. Each change of a row writes its run, so more is not better.
pub(super) const RUN_BYTES: usize = 1 << 10;

/// Shared bytes, both lengths.
const HEADER_BYTES: usize = 9;

/// A run, and the key under which it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) key: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// Runs as sled has them: key and bytes.
pub(super) type Stored = Vec<(Vec<u8>, Vec<u8>)>;

/// A run that was cut off or written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// A row: its key is in two parts.
struct Entry<'a> {
    shared: &'a [u8],
    rest: &'a [u8],
    value: &'a [u8],
}

impl<'a> Run<'a> {
    fn entries(self) -> impl Iterator<Item = Result<Entry<'a>, Damaged>> {
        let mut left = self.bytes;
        std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let entry = take_entry(self.key, &mut left).ok_or(Damaged);
            if entry.is_err() {
                left = &[]; // what comes behind it can not be found
            }
            Some(entry)
        })
    }

    /// The value of a key.
    pub(super) fn get(self, key: &[u8]) -> Result<Option<&'a [u8]>, Damaged> {
        for entry in self.entries() {
            let entry = entry?;
            if key.strip_prefix(entry.shared) == Some(entry.rest) {
                return Ok(Some(entry.value));
            }
        }
        Ok(None)
    }

    /// Key and value of each row, in order. `key` is where the keys are put together.
    pub(super) fn for_each(
        self,
        key: &mut Vec<u8>,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Damaged> {
        for entry in self.entries() {
            let entry = entry?;
            key.clear();
            key.extend_from_slice(entry.shared);
            key.extend_from_slice(entry.rest);
            if visit(key, entry.value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The runs that stand in its place after these changes, which are in order and all belong here. The first has
    /// this run's key; there is none if no row is left.
    pub(super) fn changed(self, changes: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<Stored, Damaged> {
        let (mut rows, mut changes) = (Vec::new(), changes.peekable());
        let mut appended = true;
        for entry in self.entries() {
            let entry = entry?;
            let key = [entry.shared, entry.rest].concat();
            while let Some((key, value)) = changes.next_if(|(changed, _)| *changed < key) {
                rows.extend(value.map(|value| (key, Cow::Owned(value))));
                appended = false;
            }
            match changes.next_if(|(changed, _)| *changed == key) {
                Some((key, value)) => rows.extend(value.map(|value| (key, Cow::Owned(value)))),
                None => rows.push((key, Cow::Borrowed(entry.value))),
            }
        }
        rows.extend(changes.filter_map(|(key, value)| Some((key, Cow::Owned(value?)))));
        let bytes: usize = rows.iter().map(|(key, value)| entry_bytes(self.key, key, value)).sum();
        // Keys that only grow leave full runs behind; others come between, and need room on both sides.
        let parts = if appended { 1 } else { bytes.div_ceil(RUN_BYTES) };
        let most = if parts > 1 { bytes / parts + bytes / rows.len() } else { RUN_BYTES };
        let mut runs = Runs { most, key: self.key.to_vec(), bytes: Vec::new(), full: Vec::new() };
        rows.iter().for_each(|(key, value)| runs.push(key, value));
        Ok(runs.finish())
    }
}

/// Runs that are being written.
struct Runs {
    /// Bytes of one, unless it is a single row.
    most: usize,
    key: Vec<u8>,
    bytes: Vec<u8>,
    full: Stored,
}

impl Runs {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        if !self.bytes.is_empty() && self.bytes.len() + entry_bytes(&self.key, key, value) > self.most {
            let before = std::mem::replace(&mut self.key, key.to_vec());
            self.full.push((before, std::mem::take(&mut self.bytes)));
        }
        let shared = shared_bytes(&self.key, key);
        self.bytes.push(shared as u8);
        for part in [&key[shared..], value] {
            self.bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            self.bytes.extend_from_slice(part);
        }
    }

    fn finish(mut self) -> Stored {
        if !self.bytes.is_empty() {
            self.full.push((self.key, self.bytes));
        }
        self.full
    }
}

fn shared_bytes(run_key: &[u8], key: &[u8]) -> usize {
    run_key.iter().zip(key).take(usize::from(u8::MAX)).take_while(|(a, b)| a == b).count()
}

fn entry_bytes(run_key: &[u8], key: &[u8], value: &[u8]) -> usize {
    HEADER_BYTES + key.len() - shared_bytes(run_key, key) + value.len()
}

fn take_entry<'a>(run_key: &'a [u8], left: &mut &'a [u8]) -> Option<Entry<'a>> {
    let (shared, behind) = left.split_first()?;
    *left = behind;
    let shared = run_key.get(..usize::from(*shared))?;
    Some(Entry { shared, rest: take_part(left)?, value: take_part(left)? })
}

fn take_part<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = left.split_first_chunk()?;
    let (part, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *left = behind;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_grow_fill_their_runs_and_others_leave_room() {
        let row = |n: usize| (format!("key-{n:06}").into_bytes(), Some(vec![7; 100]));
        let run = Run { key: b"key-", bytes: &[] };
        let grown = run.changed((0..1000).map(row)).unwrap();
        let (last, full) = grown.split_last().unwrap();
        assert!(full.iter().all(|(_, bytes)| (RUN_BYTES - 120..=RUN_BYTES).contains(&bytes.len())));
        assert!(last.1.len() <= RUN_BYTES);
        // One that comes between divides its run in two halves.
        let (key, bytes) = &full[1];
        let between = [&key[..], b"0"].concat();
        let divided = Run { key, bytes }.changed([(between, Some(vec![7; 100]))].into_iter()).unwrap();
        assert_eq!(divided.len(), 2);
        assert!(divided.iter().all(|(_, bytes)| bytes.len() > RUN_BYTES / 3), "{divided:?}");
    }

    proptest! {
        #[test]
        fn a_damaged_run_is_an_error(key in proptest::collection::vec(any::<u8>(), 0..5), bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let run = Run { key: &key, bytes: &bytes };
            let read = run.for_each(&mut Vec::new(), |_, _| ControlFlow::Continue(())); // no panic
            prop_assert_eq!(read.is_ok(), run.changed(std::iter::empty()).is_ok());
            let whole = run.changed([(b"k".to_vec(), Some(b"v".to_vec()))].into_iter());
            if let Ok(whole) = whole {
                let (key, bytes) = whole.last().unwrap();
                prop_assert_eq!(Run { key, bytes: &bytes[..bytes.len() - 1] }.get(b"other"), Err(Damaged));
            }
        }
    }
}

//! A segment's `.index` and `.timeindex`, in Kafka's format: fixed-size entries in rising order, big-endian, nothing
//! else, so that Kafka's tools read them. They can be rebuilt from the segment, and are never trusted blindly: who
//! follows an entry checks that a batch begins where it points.
//!
//! **Invariant**: keys rise strictly; the entries in the file come before those in memory.
//!
//! Called by `segment`, from any thread; one thread at a time pushes and flushes.

use super::open_files::{Access, FileSlot, OpenFiles, read_up_to};
use parking_lot::Mutex;
use std::{io, sync::Arc};

/// Entries that are kept in memory before they go to the file.
pub(super) const PENDING_ENTRIES: usize = 512;
/// An index with this many entries is full (Kafka's `segment.index.bytes`, 10 MiB, of 8-byte entries).
pub(super) const MAX_ENTRIES: u32 = (10 << 20) / 8;
/// Entries that a lookup reads at once at its end.
const PAGE_ENTRIES: u32 = 64;

/// An entry of an index.
pub(super) trait IndexEntry: Copy + Send + Sync + 'static {
    /// Bytes in the file.
    const WIDTH: usize;
    /// Appends its bytes.
    fn encode(self, bytes: &mut Vec<u8>);
    /// From exactly `WIDTH` bytes.
    fn decode(bytes: &[u8]) -> Self;
    /// What it is looked up by.
    fn key(self) -> i64;
}

/// The batch at `position` ends with the offset `relative` above the segment's base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    /// The batch's last offset less the segment's base.
    pub(super) relative: u32,
    /// Where it begins in the segment.
    pub(super) position: u32,
}

impl IndexEntry for OffsetEntry {
    const WIDTH: usize = 8;
    fn encode(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.relative.to_be_bytes());
        bytes.extend_from_slice(&self.position.to_be_bytes());
    }
    fn decode(bytes: &[u8]) -> Self {
        Self { relative: u32_at(bytes, 0), position: u32_at(bytes, 4) }
    }
    fn key(self) -> i64 {
        i64::from(self.relative)
    }
}

/// No record up to the offset `relative` above the segment's base has a later timestamp than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeEntry {
    /// The greatest timestamp so far, Unix ms.
    pub(super) timestamp_ms: i64,
    /// The last offset of the batch that has it, less the segment's base.
    pub(super) relative: u32,
}

impl IndexEntry for TimeEntry {
    const WIDTH: usize = 12;
    fn encode(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes.extend_from_slice(&self.relative.to_be_bytes());
    }
    fn decode(bytes: &[u8]) -> Self {
        let timestamp = (u64::from(u32_at(bytes, 0)) << 32) | u64::from(u32_at(bytes, 4));
        Self { timestamp_ms: timestamp as i64, relative: u32_at(bytes, 8) }
    }
    fn key(self) -> i64 {
        self.timestamp_ms
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct State<E> {
    /// Entries in the file.
    flushed: u32,
    /// Entries after them, in memory.
    pending: Vec<E>,
    last: Option<E>,
}

/// An index of one segment.
pub(super) struct SparseIndex<E> {
    slot: Arc<FileSlot>,
    state: Mutex<State<E>>,
}

impl<E: IndexEntry> SparseIndex<E> {
    /// An empty index; its file is made at the first flush.
    pub(super) fn empty(slot: Arc<FileSlot>) -> Self {
        Self { slot, state: Mutex::new(State { flushed: 0, pending: Vec::new(), last: None }) }
    }

    /// The index as its file has it. `None` if the file is missing, or its length is no whole number of entries.
    pub(super) fn open(slot: Arc<FileSlot>, files: &OpenFiles) -> io::Result<Option<Self>> {
        if !files.disk().exists(slot.path()) {
            return Ok(None);
        }
        let file = files.get(&slot, Access::Blocking)?;
        let len = file.len()?;
        if !len.is_multiple_of(E::WIDTH as u64) || len / E::WIDTH as u64 > u64::from(MAX_ENTRIES) {
            return Ok(None);
        }
        let flushed = (len / E::WIDTH as u64) as u32;
        let last = match flushed {
            0 => None,
            n => read_entries::<E>(&*file, Access::Blocking, n - 1, 1)?.pop(),
        };
        Ok(Some(Self { slot, state: Mutex::new(State { flushed, pending: Vec::new(), last }) }))
    }

    /// The file.
    pub(super) fn slot(&self) -> &Arc<FileSlot> {
        &self.slot
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        let state = self.state.lock();
        state.flushed + state.pending.len() as u32
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<E> {
        self.state.lock().last
    }

    /// Adds an entry, if its key is above the last one's and there is room.
    pub(super) fn push(&self, entry: E) {
        let mut state = self.state.lock();
        let room = state.flushed + (state.pending.len() as u32) < MAX_ENTRIES;
        if room && state.last.is_none_or(|last| last.key() < entry.key()) {
            state.pending.push(entry);
            state.last = Some(entry);
        }
    }

    /// Whether enough is in memory to be worth a write.
    pub(super) fn wants_flush(&self) -> bool {
        self.state.lock().pending.len() >= PENDING_ENTRIES
    }

    /// Writes what is in memory to the file, and syncs it if asked.
    pub(super) fn flush(&self, files: &OpenFiles, sync: bool) -> io::Result<()> {
        let (at, count, bytes) = {
            let state = self.state.lock();
            let mut bytes = Vec::with_capacity(state.pending.len() * E::WIDTH);
            state.pending.iter().for_each(|entry| entry.encode(&mut bytes));
            (state.flushed, state.pending.len(), bytes)
        };
        let file = if at == 0 { files.create(&self.slot)? } else { files.get(&self.slot, Access::Blocking)? };
        file.write_all_at(&bytes, u64::from(at) * E::WIDTH as u64)?;
        if sync {
            file.sync_data()?;
        }
        // Only now out of memory: a reader finds each entry in one place or the other.
        let mut state = self.state.lock();
        state.pending.drain(..count);
        state.flushed += count as u32;
        Ok(())
    }

    /// The entry with the greatest key at or below this one.
    pub(super) fn lookup(&self, files: &OpenFiles, access: Access, key: i64) -> io::Result<Option<E>> {
        self.last_where(files, access, |entry| entry.key() <= key)
    }

    /// The last entry of which `holds` is true; it is true of all before that one.
    pub(super) fn last_where(
        &self,
        files: &OpenFiles,
        access: Access,
        holds: impl Fn(&E) -> bool,
    ) -> io::Result<Option<E>> {
        let flushed = {
            let state = self.state.lock();
            let after = state.pending.partition_point(&holds);
            if after > 0 {
                return Ok(Some(state.pending[after - 1]));
            }
            state.flushed
        };
        if flushed == 0 {
            return Ok(None);
        }
        let file = files.get(&self.slot, access)?;
        let (mut low, mut high) = (0, flushed); // it holds of those below `low`, and not from `high` on
        while high - low > PAGE_ENTRIES {
            let middle = low + (high - low) / 2;
            match read_entries::<E>(&*file, access, middle, 1)?.first() {
                Some(entry) if holds(entry) => low = middle,
                Some(_) => high = middle,
                None => return Ok(None), // the file is shorter than it was: as if there were no index
            }
        }
        let page = read_entries::<E>(&*file, access, low, high - low)?;
        Ok(page.into_iter().take_while(holds).last())
    }

    /// Keeps only the entries that `keep` holds of, up to the first that it does not, or whose key does not rise.
    pub(super) fn truncate(&self, files: &OpenFiles, keep: impl Fn(E) -> bool) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut kept = 0;
        let mut last: Option<E> = None;
        if state.flushed > 0 {
            let file = files.get(&self.slot, Access::Blocking)?;
            for entry in read_entries::<E>(&*file, Access::Blocking, 0, state.flushed)? {
                if !keep(entry) || last.is_some_and(|last| last.key() >= entry.key()) {
                    break;
                }
                last = Some(entry);
                kept += 1;
            }
            if kept < state.flushed {
                file.set_len(u64::from(kept) * E::WIDTH as u64)?;
                state.pending.clear();
            }
        }
        if kept == state.flushed {
            let pending = state.pending.iter().take_while(|entry| keep(**entry)).count();
            state.pending.truncate(pending);
            last = state.pending.last().copied().or(last);
        }
        state.flushed = kept;
        state.last = last;
        Ok(())
    }
}

fn read_entries<E: IndexEntry>(
    file: &dyn crate::sys::File,
    access: Access,
    first: u32,
    count: u32,
) -> io::Result<Vec<E>> {
    let mut bytes = vec![0; count as usize * E::WIDTH];
    let n = read_up_to(file, access, &mut bytes, u64::from(first) * E::WIDTH as u64)?;
    Ok(bytes[..n].chunks_exact(E::WIDTH).map(E::decode).collect())
}

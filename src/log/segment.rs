//! One segment: a run of batches in a `.log` file, with its two indexes.
//!
//! **Invariant**: bytes below [`LogSegment::size`] are published and never change while the segment is in the log's
//! list; readers go no further. Positions fit 32 bits.
//!
//! Called by `partition_log` (reads, any thread) and by its writer (one thread at a time).

use super::layout::{FileKind, file_path};
use super::open_files::{Access, FileSlot, OpenFiles};
use super::sparse_index::{IndexEntry as _, MAX_ENTRIES, OffsetEntry, SparseIndex, TimeEntry};
use crate::codec::BatchHeader;
use crate::types::Offset;
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

/// Bytes of batches between two entries of an index (Kafka's `index.interval.bytes`).
pub(super) const INDEX_INTERVAL_BYTES: u64 = 4096;
/// Bytes of batches after which the indexes go to their files, however few entries there are.
const FLUSH_BYTES: u64 = 4 << 20;
/// Stands for "no timestamp yet".
pub(super) const NO_TIMESTAMP: i64 = i64::MIN;

/// A segment of a log.
pub(super) struct LogSegment {
    /// The offset that it is named by: none in it is lower.
    pub(super) base: Offset,
    /// Its batches.
    pub(super) log: Arc<FileSlot>,
    /// Offset to position.
    pub(super) offsets: SparseIndex<OffsetEntry>,
    /// Timestamp to offset.
    pub(super) times: SparseIndex<TimeEntry>,
    size: AtomicU64,
    max_timestamp_ms: AtomicI64,
    max_timestamp_relative: AtomicU64,
    /// When its first batch was written, as far as known (Unix ms), for rolls by age.
    pub(super) first_append_ms: AtomicI64,
    unindexed: AtomicU64,
    /// Bytes of batches since the indexes were written out.
    unflushed: AtomicU64,
}

impl LogSegment {
    fn with(
        base: Offset,
        log: Arc<FileSlot>,
        offsets: SparseIndex<OffsetEntry>,
        times: SparseIndex<TimeEntry>,
        size: u64,
    ) -> Self {
        let last = times.last();
        Self {
            base,
            log,
            size: AtomicU64::new(size),
            max_timestamp_ms: AtomicI64::new(last.map_or(NO_TIMESTAMP, |last| last.timestamp_ms)),
            max_timestamp_relative: AtomicU64::new(last.map_or(0, |last| u64::from(last.relative))),
            first_append_ms: AtomicI64::new(NO_TIMESTAMP),
            unindexed: AtomicU64::new(0),
            unflushed: AtomicU64::new(0),
            offsets,
            times,
        }
    }

    /// Makes an empty segment; durable once the folder was synced.
    pub(super) fn create(files: &OpenFiles, folder: &Path, base: Offset) -> io::Result<Self> {
        let log = FileSlot::new(file_path(folder, base, FileKind::Log));
        files.create(&log)?;
        Ok(Self::with(
            base,
            log,
            SparseIndex::empty(FileSlot::new(file_path(folder, base, FileKind::Index))),
            SparseIndex::empty(FileSlot::new(file_path(folder, base, FileKind::TimeIndex))),
            0,
        ))
    }

    /// A segment that will take the place of one of this name; its file is written elsewhere, and its indexes stay in
    /// memory until it has its name.
    pub(super) fn replacing(folder: &Path, base: Offset) -> Self {
        let slot = |kind| FileSlot::new(file_path(folder, base, kind));
        let (index, times) = (slot(FileKind::Index), slot(FileKind::TimeIndex));
        Self::with(base, slot(FileKind::Log), SparseIndex::empty(index), SparseIndex::empty(times), 0)
    }

    /// Its files belong to another segment from now on, or are removed. Readers that have them open go on; who has to
    /// open them gets `NotFound`, and looks for the record anew.
    pub(super) fn retire(&self, files: &OpenFiles) {
        for slot in [&self.log, self.offsets.slot(), self.times.slot()] {
            slot.retire();
            files.close(slot);
        }
    }

    /// Stands for the segments of a log that could not be opened: there is no file behind it.
    pub(super) fn absent(folder: &Path) -> Self {
        let slot = |kind| FileSlot::new(file_path(folder, Offset::ZERO, kind));
        let (index, times) = (slot(FileKind::Index), slot(FileKind::TimeIndex));
        Self::with(Offset::ZERO, slot(FileKind::Log), SparseIndex::empty(index), SparseIndex::empty(times), 0)
    }

    /// Opens a segment; the second value is false if an index is missing or has an impossible length, and so is empty.
    pub(super) fn open(files: &OpenFiles, folder: &Path, base: Offset) -> io::Result<(Self, bool)> {
        let log = FileSlot::new(file_path(folder, base, FileKind::Log));
        let size = files.get(&log, Access::Blocking)?.len()?;
        let index_slot = FileSlot::new(file_path(folder, base, FileKind::Index));
        let time_slot = FileSlot::new(file_path(folder, base, FileKind::TimeIndex));
        let offsets = SparseIndex::open(Arc::clone(&index_slot), files)?;
        let times = SparseIndex::open(Arc::clone(&time_slot), files)?;
        Ok(match (offsets, times) {
            (Some(offsets), Some(times)) => (Self::with(base, log, offsets, times, size), true),
            _ => {
                let (offsets, times) = (SparseIndex::empty(index_slot), SparseIndex::empty(time_slot));
                (Self::with(base, log, offsets, times, size), false)
            }
        })
    }

    /// Bytes that readers may see.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Lets readers see up to here.
    pub(super) fn publish(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// The greatest timestamp of its records, if there is one.
    pub(super) fn max_timestamp_ms(&self) -> Option<i64> {
        Some(self.max_timestamp_ms.load(Ordering::Acquire)).filter(|ms| *ms != NO_TIMESTAMP)
    }

    /// Takes note of a batch at `position`: an index entry each [`INDEX_INTERVAL_BYTES`].
    pub(super) fn index_batch(&self, header: &BatchHeader, position: u64) {
        let relative = self.relative(header.last_offset());
        if header.max_timestamp_ms > self.max_timestamp_ms.load(Ordering::Relaxed) {
            self.max_timestamp_ms.store(header.max_timestamp_ms, Ordering::Release);
            self.max_timestamp_relative.store(u64::from(relative), Ordering::Release);
        }
        if self.unindexed.load(Ordering::Relaxed) > INDEX_INTERVAL_BYTES {
            self.offsets.push(OffsetEntry { relative, position: position as u32 });
            self.push_time();
            self.unindexed.store(0, Ordering::Relaxed);
        }
        self.unindexed.fetch_add(header.size as u64, Ordering::Relaxed);
        self.unflushed.fetch_add(header.size as u64, Ordering::Relaxed);
    }

    fn push_time(&self) {
        let timestamp_ms = self.max_timestamp_ms.load(Ordering::Acquire);
        if timestamp_ms != NO_TIMESTAMP {
            let relative = self.max_timestamp_relative.load(Ordering::Acquire) as u32;
            self.times.push(TimeEntry { timestamp_ms, relative });
        }
    }

    /// Whether a batch that ends with this offset can not be added because an index could not name it.
    pub(super) fn is_full_for(&self, last: Offset) -> bool {
        last.get() - self.base.get() > i64::from(i32::MAX) || self.offsets.len() >= MAX_ENTRIES
    }

    /// The position of a batch at or before the one that holds `offset`; 0 where the index knows none.
    pub(super) fn position_before(&self, files: &OpenFiles, access: Access, offset: Offset) -> io::Result<u64> {
        let relative = offset.get() - self.base.get();
        let entry = self.offsets.lookup(files, access, relative)?;
        Ok(entry.map_or(0, |entry| u64::from(entry.position)))
    }

    /// The position of the last batch that the index knows to begin below `position`; 0 where it knows none.
    pub(super) fn last_batch_before(&self, files: &OpenFiles, access: Access, position: u64) -> io::Result<u64> {
        let entry = self.offsets.last_where(files, access, |entry| u64::from(entry.position) < position)?;
        Ok(entry.map_or(0, |entry| u64::from(entry.position)))
    }

    /// The position of the last batch that the index knows to end below `end`; 0 where it knows none.
    pub(super) fn last_batch_below(&self, files: &OpenFiles, access: Access, end: Offset) -> io::Result<u64> {
        self.position_before(files, access, end.plus(-1))
    }

    /// An offset below which no record of this segment is as late as `timestamp_ms`.
    pub(super) fn offset_before(&self, files: &OpenFiles, access: Access, timestamp_ms: i64) -> io::Result<Offset> {
        let entry = self.times.lookup(files, access, timestamp_ms.saturating_sub(1))?;
        Ok(entry.map_or(self.base, |entry| self.base.plus(i64::from(entry.relative))))
    }

    /// Writes the indexes out. `last` when nothing more will come: then the greatest timestamp goes in, and both are
    /// synced.
    pub(super) fn flush_indexes(&self, files: &OpenFiles, last: bool) -> io::Result<()> {
        if last {
            self.push_time();
        }
        // Large batches make few entries: without the second rule a start after a crash would go over a whole segment.
        if last || self.offsets.wants_flush() || self.unflushed.load(Ordering::Relaxed) >= FLUSH_BYTES {
            self.unflushed.store(0, Ordering::Relaxed);
            self.offsets.flush(files, last)?;
            self.times.flush(files, last)?;
        }
        Ok(())
    }

    /// Takes out of the indexes the batches that end beyond `end` or past the file; the caller goes over those again.
    /// Gives the position of the last batch that is still in the index.
    pub(super) fn truncate_indexes(&self, files: &OpenFiles, end: Offset) -> io::Result<u64> {
        let size = self.size();
        self.offsets.truncate(files, |entry| {
            self.base.plus(i64::from(entry.relative)) < end && u64::from(entry.position) < size
        })?;
        let last = self.offsets.last();
        // The time index is written together with the other one, so its entries reach no further than that one's.
        let end = last.map_or(-1, |last| last.key());
        self.times.truncate(files, |entry| i64::from(entry.relative) <= end)?;
        let time = self.times.last();
        self.max_timestamp_ms.store(time.map_or(NO_TIMESTAMP, |t| t.timestamp_ms), Ordering::Release);
        self.max_timestamp_relative.store(time.map_or(0, |t| u64::from(t.relative)), Ordering::Release);
        self.unindexed.store(0, Ordering::Relaxed);
        Ok(last.map_or(0, |last| u64::from(last.position)))
    }

    /// Forgets its descriptors.
    pub(super) fn close(&self, files: &OpenFiles) {
        [&self.log, self.offsets.slot(), self.times.slot()].into_iter().for_each(|slot| files.close(slot));
    }

    /// Removes its files; readers that have them open go on.
    pub(super) fn remove(&self, files: &OpenFiles) -> io::Result<()> {
        for slot in [&self.log, self.offsets.slot(), self.times.slot()] {
            files.close(slot);
            if files.disk().exists(slot.path()) {
                files.disk().remove_file(slot.path())?;
            }
        }
        Ok(())
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.get() - self.base.get()).unwrap_or(u32::MAX)
    }
}

//! Reads of one log: the tail ring, then what is in the page cache, then a thread that may wait for the disk.
//!
//! **Invariant**: nothing at or above the end asked for is given, nothing that does not check, and no lock is held
//! across I/O. An index only says where to begin looking: what it points at must be a batch, at or below the offset
//! wanted, else the segment is walked from its start.
//!
//! Called by `partition_log`, from any thread.

use super::LogError;
use super::core::{LogCore, PositionHint};
use super::open_files::{Access, read_up_to};
use super::segment::LogSegment;
use crate::codec::{BatchError, DecompressLimit, HEADER_BYTES, RecordBatch};
use crate::sys::{Lane, run_blocking};
use crate::types::Offset;
use bytes::Bytes;
use std::{io, sync::Arc};

/// The least that one call reads: small reads cost as much.
const MIN_READ_BYTES: usize = 16 << 10;
/// The most that one call reads, unless a single batch is larger.
const MAX_READ_BYTES: usize = 4 << 20;
/// How many sequential readers' places a log remembers.
const HINTS: usize = 16;
/// How often a read looks again for a segment that was replaced meanwhile. Compaction comes seldom; a log whose reader
/// meets it this often in one read does not exist.
const REPLACED_ATTEMPTS: usize = 3;
/// Batches of our own are bounded by `max.message.bytes` before compression; a follower's or a producer's may expand.
const DECOMPRESS_BYTES: usize = 256 << 20;

/// Why a read failed.
pub(super) enum ReadError {
    Io(io::Error),
    Corrupt(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ReadError {
    fn into_log(self) -> LogError {
        match self {
            Self::Io(error) => LogError::io("reading a segment", &error),
            Self::Corrupt(text) => LogError::Corrupt(text),
        }
    }
}

impl LogCore {
    /// See [`super::PartitionLog::read`].
    pub(super) async fn read(
        self: &Arc<Self>,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, LogError> {
        let end = self.check_range(from, end)?;
        if from >= end {
            return Ok(Vec::new());
        }
        if let Some(batches) = self.tail.read(from, end, max_bytes).filter(|batches| !batches.is_empty()) {
            return Ok(batches);
        }
        self.read_resident_first(move |core, access| core.read_segments(access, from, end, max_bytes)).await
    }

    /// Where a read of these offsets ends.
    pub(super) fn check_range(&self, from: Offset, end: Offset) -> Result<Offset, LogError> {
        self.check_online()?;
        let (log_start, log_end) = (self.progress().log_start, self.log_end());
        if from < log_start.offset() || from > log_end {
            return Err(LogError::OffsetOutOfRange { requested: from, log_start, log_end: log_end.into() });
        }
        Ok(end.min(log_end))
    }

    /// Reads what is in memory here and now, and the rest on a thread that may block.
    pub(super) async fn read_resident_first<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Self, Access) -> Result<T, ReadError> + Clone + Send + 'static,
    ) -> Result<T, LogError> {
        match read(self, Access::Resident) {
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A segment that compaction or retention has just removed: look again, where it may be opened.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result.map_err(ReadError::into_log),
        }
        self.find_again(move |core| read(core, Access::Blocking)).await
    }

    /// Reads on a thread that may block, and once more where a segment was replaced under the reader's eyes: the change
    /// is complete when the log's job has come to what was asked of it after.
    async fn find_again<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Self) -> Result<T, ReadError> + Clone + Send + 'static,
    ) -> Result<T, LogError> {
        for _ in 0..REPLACED_ATTEMPTS {
            let (core, read) = (Arc::clone(self), read.clone());
            match run_blocking(&*self.context.sys.io, Lane::Read, move || read(&core)).await {
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => self.control(|_, _| ()).await?,
                result => return result.map_err(ReadError::into_log),
            }
        }
        let core = Arc::clone(self);
        run_blocking(&*self.context.sys.io, Lane::Read, move || read(&core)).await.map_err(ReadError::into_log)
    }

    /// See [`super::PartitionLog::offset_for_timestamp`].
    pub(super) async fn offset_for_timestamp(
        self: &Arc<Self>,
        timestamp_ms: i64,
    ) -> Result<Option<(Offset, i64)>, LogError> {
        self.check_online()?;
        self.find_again(move |core| core.find_timestamp(timestamp_ms)).await
    }

    fn find_timestamp(&self, timestamp_ms: i64) -> Result<Option<(Offset, i64)>, ReadError> {
        let corrupt = |error: BatchError| ReadError::Corrupt(error.to_string());
        let progress = self.progress();
        let end = progress.high_watermark.offset();
        let segments = self.segments.load_full();
        for segment in segments.iter().filter(|s| s.max_timestamp_ms().is_some_and(|max| max >= timestamp_ms)) {
            let start = segment.offset_before(&self.context.files, Access::Blocking, timestamp_ms)?;
            let mut from = start.max(progress.log_start.offset());
            while from < end {
                let batches = self.read_segment(Access::Blocking, segment, from, end, MAX_READ_BYTES)?;
                let Some(last) = batches.last() else { break };
                let next = last.header().next_offset();
                for batch in
                    batches.iter().filter(|b| !b.header().control && b.header().max_timestamp_ms >= timestamp_ms)
                {
                    for record in batch.records(DecompressLimit { max_bytes: DECOMPRESS_BYTES }).map_err(corrupt)? {
                        let record = record.map_err(corrupt)?;
                        if record.timestamp_ms >= timestamp_ms && record.offset >= from {
                            return Ok(Some((record.offset, record.timestamp_ms)));
                        }
                    }
                }
                from = next;
            }
        }
        Ok(None)
    }

    fn read_segments(
        &self,
        access: Access,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, ReadError> {
        let found = self.first_segment_with(from, end, |segment| {
            let batches = self.read_segment(access, segment, from, end, max_bytes)?;
            Ok((!batches.is_empty()).then_some(batches))
        })?;
        Ok(found.unwrap_or_default())
    }

    /// What is found in the segment that holds an offset, or where it has nothing (compaction left a hole) in the next ones.
    pub(super) fn first_segment_with<T>(
        &self,
        from: Offset,
        end: Offset,
        find: impl Fn(&LogSegment) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        let segments = self.segments.load_full();
        let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        let mut within = segments[first..].iter().take_while(|segment| segment.base < end);
        within.find_map(|segment| find(segment).transpose()).transpose()
    }

    fn read_segment(
        &self,
        access: Access,
        segment: &LogSegment,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, ReadError> {
        let (position, by_index) = self.position_for(access, segment, from)?;
        let mut walk = SegmentRead { core: self, access, segment, from, end, max_bytes };
        match walk.run(position, by_index) {
            Err(ReadError::Corrupt(why)) if position > 0 && by_index => {
                // Either the batch or the index is damaged: a walk from the start tells.
                tracing::warn!(path = %segment.log.path().display(), position, why, "an index entry leads nowhere");
                walk.run(0, true)
            }
            result => result,
        }
    }

    /// Where to begin to look for an offset, and whether the index says so, or a reader that was there.
    pub(super) fn position_for(&self, access: Access, segment: &LogSegment, from: Offset) -> io::Result<(u64, bool)> {
        let file = segment.log.id();
        let hint = self.hints.lock().iter().find(|hint| hint.file == file && hint.offset == from).copied();
        match hint {
            Some(hint) => Ok((hint.position, false)),
            None => Ok((segment.position_before(&self.context.files, access, from)?, true)),
        }
    }

    pub(super) fn remember(&self, hint: PositionHint) {
        let mut hints = self.hints.lock();
        if hints.len() >= HINTS {
            hints.pop_front();
        }
        hints.push_back(hint);
    }
}

struct SegmentRead<'a> {
    core: &'a LogCore,
    access: Access,
    segment: &'a LogSegment,
    from: Offset,
    end: Offset,
    max_bytes: usize,
}

impl SegmentRead<'_> {
    fn corrupt(&self, position: u64, why: impl std::fmt::Display) -> ReadError {
        ReadError::Corrupt(format!("{} at position {position}: {why}", self.segment.log.path().display()))
    }

    /// Whole batches from `from` on, beginning the search at `position`.
    fn run(&mut self, mut position: u64, by_index: bool) -> Result<Vec<RecordBatch>, ReadError> {
        let size = self.segment.size();
        if position >= size {
            return Ok(Vec::new());
        }
        let file = self.core.context.files.get(&self.segment.log, self.access)?;
        let mut want = self.max_bytes.clamp(MIN_READ_BYTES, MAX_READ_BYTES);
        let mut found: Vec<RecordBatch> = Vec::new();
        let mut found_bytes = 0;
        // Where a reader left off a hole of compaction may begin, so only an index is held to this.
        let mut first = by_index && position > 0;
        while position < size {
            let mut buffer = self.core.context.read_buffers.take(want.min((size - position) as usize));
            if read_up_to(&*file, self.access, &mut buffer, position)? < buffer.len() {
                return Err(self.corrupt(position, "the file ends within what was stored"));
            }
            let mut bytes = Bytes::from_owner(buffer);
            let before = position;
            while !bytes.is_empty() {
                let batch = match RecordBatch::split_from(&mut bytes) {
                    Ok(batch) => batch,
                    Err(BatchError::Truncated) => break,
                    Err(error) => return Err(self.corrupt(position, error)),
                };
                let header = batch.header();
                if std::mem::take(&mut first) && header.base_offset > self.from {
                    return Err(self.corrupt(position, "the index points past the offset"));
                }
                let (size, next) = (header.size, header.next_offset());
                if next <= self.from {
                    position += size as u64;
                    continue;
                }
                if next > self.end || (!found.is_empty() && found_bytes + size > self.max_bytes) {
                    return Ok(self.finish(found, position));
                }
                batch.verify_crc().map_err(|error| self.corrupt(position, error))?;
                position += size as u64;
                found_bytes += size;
                found.push(batch);
            }
            if !found.is_empty() {
                return Ok(self.finish(found, position));
            }
            if position == before {
                // Not one whole batch: read as much as this one says it has.
                let need = if bytes.len() < HEADER_BYTES {
                    HEADER_BYTES
                } else {
                    RecordBatch::parse_header(&bytes).map_err(|error| self.corrupt(position, error))?.size
                };
                if need as u64 > size - position || need <= want {
                    return Err(self.corrupt(position, "a batch reaches past the end of what was stored"));
                }
                want = need;
            }
        }
        Ok(found)
    }

    fn finish(&self, found: Vec<RecordBatch>, position: u64) -> Vec<RecordBatch> {
        if let Some(last) = found.last() {
            let offset = last.header().next_offset();
            self.core.remember(PositionHint { file: self.segment.log.id(), offset, position });
        }
        found
    }
}

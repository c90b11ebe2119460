//! Reads that only say where batches lie: the bytes go from the page cache to who sends them, in pieces, and are never in
//! memory as a whole.
//!
//! **Invariant**: a range holds whole batches below the end asked for, as their headers say; what was published never changes,
//! and the open file keeps it while the range lives, also after its segment was removed. CRCs are not checked here: who
//! gets the bytes does that.
//!
//! Called by `partition_log`, from any thread.

use super::LogError;
use super::core::{LogCore, PositionHint};
use super::open_files::{Access, read_up_to};
use super::reader::ReadError;
use super::segment::LogSegment;
use crate::codec::{BatchHeader, HEADER_BYTES, Piece, RecordBatch, StoredBytes};
use crate::sys::{File, IoPool, Lane, run_blocking};
use crate::types::Offset;
use futures_util::future::BoxFuture;
use std::{io, sync::Arc};

/// What is read at once where headers are looked at: an index entry is about so far from the next.
const WINDOW_BYTES: usize = 4 << 10;

/// Whole batches, in memory or on the disk.
#[derive(Default)]
pub struct StoredRead {
    /// The batches' bytes in order.
    pub pieces: Vec<Piece>,
    /// Bytes of the first batch; 0 if there is none.
    pub first_batch: usize,
    /// Where the batch after them begins; the offset asked for if there are none.
    pub next_offset: Offset,
}

/// A run of batches in a file.
struct StoredRange {
    file: Arc<dyn File>,
    io: Arc<dyn IoPool>,
    position: u64,
    len: usize,
}

impl StoredBytes for StoredRange {
    fn len(&self) -> usize {
        self.len
    }

    fn read<'a>(&'a self, at: usize, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut done = 0;
            while done < buffer.len() {
                let position = self.position + (at + done) as u64;
                match self.file.try_read_at(&mut buffer[done..], position) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => done += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let (file, missing) = (Arc::clone(&self.file), buffer.len() - done);
                        let read = move || {
                            let mut bytes = vec![0; missing];
                            file.read_exact_at(&mut bytes, position).map(|()| bytes)
                        };
                        buffer[done..].copy_from_slice(&run_blocking(&*self.io, Lane::Read, read).await?);
                        done = buffer.len();
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }
}

impl LogCore {
    /// See [`super::PartitionLog::read_stored`].
    pub(super) async fn read_stored(
        self: &Arc<Self>,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<StoredRead, LogError> {
        let end = self.check_range(from, end)?;
        if from >= end {
            return Ok(StoredRead { next_offset: from, ..StoredRead::default() });
        }
        if let Some(batches) = self.tail.read(from, end, max_bytes).filter(|batches| !batches.is_empty()) {
            return Ok(StoredRead {
                first_batch: batches[0].header().size,
                next_offset: batches[batches.len() - 1].header().next_offset(),
                pieces: batches.iter().map(|batch| Piece::Memory(batch.bytes().clone())).collect(),
            });
        }
        self.read_resident_first(move |core, access| core.locate(access, from, end, max_bytes)).await
    }

    fn locate(&self, access: Access, from: Offset, end: Offset, max_bytes: usize) -> Result<StoredRead, ReadError> {
        let found =
            self.first_segment_with(from, end, |segment| self.locate_in(access, segment, from, end, max_bytes))?;
        Ok(found.unwrap_or_else(|| StoredRead { next_offset: from, ..StoredRead::default() }))
    }

    fn locate_in(
        &self,
        access: Access,
        segment: &LogSegment,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<Option<StoredRead>, ReadError> {
        let size = segment.size();
        let (position, by_index) = self.position_for(access, segment, from)?;
        if position >= size {
            return Ok(None);
        }
        let file = self.context.files.get(&segment.log, access)?;
        let mut headers = Headers { file: &*file, access, segment, size, window: [0; WINDOW_BYTES], at: 0, filled: 0 };
        let found = match headers.holding(position, from, by_index && position > 0) {
            Err(ReadError::Corrupt(why)) if by_index && position > 0 => {
                headers.warn(position, &why);
                headers.holding(0, from, false)?
            }
            found => found?,
        };
        let Some((start, first)) = found.filter(|(_, first)| first.next_offset() <= end) else { return Ok(None) };
        let limit = (start + max_bytes.max(first.size) as u64).min(size);
        // From the last batch that the index knows within both limits, batch by batch.
        let by_position = segment.last_batch_before(&self.context.files, access, limit)?;
        let by_offset = segment.last_batch_below(&self.context.files, access, end)?;
        let (mut stop, mut next_offset) = (start + first.size as u64, first.next_offset());
        let mut at = by_position.min(by_offset).max(stop);
        while at < limit {
            let header = headers.at(at)?;
            let batch_end = at + header.size as u64;
            if batch_end > limit || header.next_offset() > end {
                break;
            }
            (stop, next_offset) = (batch_end, header.next_offset());
            at = batch_end;
        }
        if stop < at {
            // The index led to a batch that is already too much: all before it is whole.
            (stop, next_offset) = (at, headers.at(at)?.base_offset);
        }
        self.remember(PositionHint { file: segment.log.id(), offset: next_offset, position: stop });
        let range = StoredRange {
            len: (stop - start) as usize,
            position: start,
            io: Arc::clone(&self.context.sys.io),
            file: Arc::clone(&file),
        };
        Ok(Some(StoredRead { pieces: vec![Piece::Stored(Arc::new(range))], first_batch: first.size, next_offset }))
    }
}

/// Looks at the headers of a segment's batches, a window of the file at a time.
struct Headers<'a> {
    file: &'a dyn File,
    access: Access,
    segment: &'a LogSegment,
    size: u64,
    window: [u8; WINDOW_BYTES],
    /// Where the window lies, and how much of it is filled.
    at: u64,
    filled: usize,
}

impl Headers<'_> {
    fn corrupt(&self, position: u64, why: impl std::fmt::Display) -> ReadError {
        ReadError::Corrupt(format!("{} at position {position}: {why}", self.segment.log.path().display()))
    }

    fn warn(&self, position: u64, why: &str) {
        tracing::warn!(path = %self.segment.log.path().display(), position, why, "an index entry leads nowhere");
    }

    /// The header of the batch at this position, all of which was published.
    fn at(&mut self, position: u64) -> Result<BatchHeader, ReadError> {
        let inside = position >= self.at && position + HEADER_BYTES as u64 <= self.at + self.filled as u64;
        if !inside {
            let most = (self.size - position).min(WINDOW_BYTES as u64) as usize;
            self.filled = read_up_to(self.file, self.access, &mut self.window[..most], position)?;
            self.at = position;
        }
        let bytes = &self.window[(position - self.at) as usize..self.filled];
        let header = RecordBatch::parse_header(bytes).map_err(|error| self.corrupt(position, error))?;
        if header.size as u64 > self.size - position {
            return Err(self.corrupt(position, "a batch reaches past the end of what was stored"));
        }
        Ok(header)
    }

    /// The first batch from `position` on that ends above `from`. An index must not have led past it.
    fn holding(
        &mut self,
        mut position: u64,
        from: Offset,
        by_index: bool,
    ) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let mut first = by_index;
        while position < self.size {
            let header = self.at(position)?;
            if std::mem::take(&mut first) && header.base_offset > from {
                return Err(self.corrupt(position, "the index points past the offset"));
            }
            if header.next_offset() > from {
                return Ok(Some((position, header)));
            }
            position += header.size as u64;
        }
        Ok(None)
    }
}

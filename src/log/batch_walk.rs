//! Goes over the batches of a segment's file, one after the other, and looks for batches where none should be.
//!
//! **Invariant**: only reads. What it gives has a sound header and a CRC that fits. Blocks; called by `recovery` and
//! `inspect`.

use super::open_files::{Access, read_up_to};
use crate::codec::{BatchError, HEADER_BYTES, RecordBatch};
use crate::sys::File;
use crate::types::Offset;
use bytes::Bytes;
use std::io;

/// Bytes that are read at once, unless a single batch is larger.
const CHUNK_BYTES: u64 = 1 << 20;
/// Where a batch's version byte lies, and its value.
const MAGIC_AT: usize = 16;
const MAGIC: u8 = 2;

/// A walk over the batches of one file.
pub(super) struct BatchWalk<'a> {
    file: &'a dyn File,
    position: u64,
    len: u64,
    buffer: Bytes,
}

/// What comes next in a file.
pub(super) enum Walked {
    /// A whole batch, and where it begins.
    Batch(u64, RecordBatch),
    /// The end of the file, at a batch's end.
    End,
    /// No batch, and why.
    Bad(String),
}

impl<'a> BatchWalk<'a> {
    /// From `position`, up to `len`.
    pub(super) fn new(file: &'a dyn File, position: u64, len: u64) -> Self {
        Self { file, position, len, buffer: Bytes::new() }
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch. After anything else it stays where it is.
    pub(super) fn next(&mut self) -> io::Result<Walked> {
        if self.position >= self.len {
            return Ok(Walked::End);
        }
        if self.buffer.len() < HEADER_BYTES {
            self.fill(CHUNK_BYTES)?;
        }
        let mut rest = self.buffer.clone();
        let batch = match RecordBatch::split_from(&mut rest) {
            Err(BatchError::Truncated) if self.buffer.len() >= HEADER_BYTES => {
                let size = match RecordBatch::parse_header(&self.buffer) {
                    Ok(header) => header.size as u64,
                    Err(error) => return Ok(Walked::Bad(error.to_string())),
                };
                if size > self.len - self.position {
                    return Ok(Walked::Bad(BatchError::Truncated.to_string()));
                }
                self.fill(size.max(CHUNK_BYTES))?;
                rest = self.buffer.clone();
                RecordBatch::split_from(&mut rest)
            }
            result => result,
        };
        match batch.and_then(|batch| batch.verify_crc().map(|()| batch)) {
            Err(error) => Ok(Walked::Bad(error.to_string())),
            Ok(batch) => {
                let at = self.position;
                self.position += batch.header().size as u64;
                self.buffer = rest;
                Ok(Walked::Batch(at, batch))
            }
        }
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let mut buffer = vec![0; bytes.min(self.len - self.position) as usize];
        let n = read_up_to(self.file, Access::Blocking, &mut buffer, self.position)?;
        buffer.truncate(n);
        self.buffer = Bytes::from(buffer);
        Ok(())
    }
}

/// Whether the file holds nothing but zeros from `position` on.
pub(super) fn is_zero(file: &dyn File, mut position: u64, len: u64) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    while position < len {
        let want = CHUNK_BYTES.min(len - position) as usize;
        let n = read_up_to(file, Access::Blocking, &mut buffer[..want], position)?;
        if n == 0 || buffer[..n].iter().any(|byte| *byte != 0) {
            return Ok(n == 0);
        }
        position += n as u64;
    }
    Ok(true)
}

/// The first place from `position` on where a whole batch begins whose offsets are at least `least`.
pub(super) fn find_batch(file: &dyn File, mut position: u64, len: u64, least: Offset) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    while position + (HEADER_BYTES as u64) <= len {
        let want = CHUNK_BYTES.min(len - position) as usize;
        let n = read_up_to(file, Access::Blocking, &mut buffer[..want], position)?;
        if n < HEADER_BYTES {
            return Ok(None);
        }
        for magic in memchr::memchr_iter(MAGIC, &buffer[MAGIC_AT..=n - HEADER_BYTES + MAGIC_AT]) {
            let Ok(header) = RecordBatch::parse_header(&buffer[magic..n]) else { continue };
            let at = position + magic as u64;
            let plausible = header.base_offset >= least
                && header.base_offset.get() - least.get() <= i64::from(i32::MAX)
                && header.size as u64 <= len - at;
            if plausible && matches!(BatchWalk::new(file, at, at + header.size as u64).next()?, Walked::Batch(..)) {
                return Ok(Some(at));
            }
        }
        // The last bytes may be the beginning of a header.
        position += (n - HEADER_BYTES + 1) as u64;
    }
    Ok(None)
}

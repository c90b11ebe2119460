//! The write-ahead file: records in order, made durable before anybody relies on them.
//!
//! **Invariant**: a record that a [`WalFile::sync`] covered is there at every later opening, or the opening fails with
//! the place of the damage; it is never taken for a torn tail. A record that no sync covered may be lost.
//!
//! How an opening knows what was synced: each record carries how much of the file was durable when it was written, and
//! after each sync a record without payload (a mark) is written that says so for the records just synced. The mark is
//! itself not synced, since the next sync takes it along. So a bad record below the highest place that a valid record
//! names is damage, and so is one with a valid record behind it that names a place above it. Only a record whose mark
//! was lost by a power cut, and that decays after it, would be taken for a tail.
//!
//! What an opening keeps above the known place is written again in place and synced before it counts: after a failed
//! sync the kernel marks pages clean, and what reads back may not be on the disk.
//!
//! Called by `store`, by one thread at a time; every call may block.

use super::MetadataError;
use crate::sys::{Disk, File, OpenMode};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

const FILE_MAGIC: [u8; 8] = *b"SLUIWAL\n";
const FILE_VERSION: u32 = 1;
/// Magic, version, CRC of both.
const FILE_HEADER_BYTES: usize = 16;
/// Begins each record. The first byte occurs in no UTF-8 text, so no payload (JSON) holds it, and a search for
/// records behind a damaged one finds real ones only.
const RECORD_MAGIC: [u8; 4] = [0xff, b'R', b'E', b'C'];
/// Magic, CRC, payload length, durable length.
const RECORD_HEADER_BYTES: usize = 20;
/// A larger file than any that compaction leaves is not read into memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The file, open for appending.
pub(super) struct WalFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next record goes.
    len: u64,
    /// All below is durable.
    synced: u64,
}

impl WalFile {
    /// Opens the file, or makes it, and gives the payloads in it.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<(Self, Vec<Vec<u8>>), MetadataError> {
        let failed = |what: &str, error: io::Error| MetadataError::Io {
            context: format!("{what} {}", path.display()),
            kind: error.kind(),
        };
        if !disk.exists(&path) {
            disk.write_atomic(&path, &file_header()).map_err(|e| failed("making", e))?;
        }
        let file = disk.open(&path, OpenMode::ReadWrite).map_err(|e| failed("opening", e))?;
        let len = file.len().map_err(|e| failed("reading", e))?;
        if len > MAX_FILE_BYTES {
            return Err(MetadataError::Corrupt(format!("{} is far too long: {len} bytes", path.display())));
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|e| failed("reading", e))?;
        let Replay { payloads, valid, synced } = replay(&bytes, &path)?;
        let rewrite = || -> io::Result<()> {
            if valid < bytes.len() {
                file.set_len(valid as u64)?;
            }
            file.write_all_at(&bytes[synced..valid], synced as u64)?;
            file.sync_all()?;
            disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
        };
        rewrite().map_err(|e| failed("writing the tail of", e))?;
        let mut wal = Self { disk, path: path.clone(), file, len: valid as u64, synced: valid as u64 };
        wal.mark().map_err(|e| failed("writing", e))?;
        Ok((wal, payloads))
    }

    /// Writes records behind one another in one write. They are durable after the next [`Self::sync`].
    ///
    /// After an error the file must not be used any more.
    pub(super) fn append<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for payload in payloads {
            encode_record(&mut bytes, payload, self.synced);
        }
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes all records durable.
    ///
    /// After an error the file must not be used any more, and the call not be repeated.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = self.len;
        Ok(())
    }

    /// Writes down, not durably, how far the file is durable.
    pub(super) fn mark(&mut self) -> io::Result<()> {
        self.append([&[][..]])
    }

    /// Bytes of the file.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Puts a file with only these records in the place of this one, durably: a crash leaves the one or the other.
    pub(super) fn replace<'a>(&mut self, payloads: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut bytes = file_header().to_vec();
        for payload in payloads {
            encode_record(&mut bytes, payload, FILE_HEADER_BYTES as u64);
        }
        self.disk.write_atomic(&self.path, &bytes)?;
        self.file = self.disk.open(&self.path, OpenMode::ReadWrite)?;
        self.len = bytes.len() as u64;
        self.synced = self.len;
        self.mark()
    }
}

fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..8].copy_from_slice(&FILE_MAGIC);
    header[8..12].copy_from_slice(&FILE_VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

fn encode_record(into: &mut Vec<u8>, payload: &[u8], synced: u64) {
    let start = into.len();
    into.extend_from_slice(&RECORD_MAGIC);
    into.extend_from_slice(&[0; 4]);
    let length = u32::try_from(payload.len()).expect("a command is far below 4 GiB: requests are bounded");
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&synced.to_le_bytes());
    into.extend_from_slice(payload);
    let crc = crc32c::crc32c(&into[start + 8..]);
    into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

struct Record<'a> {
    payload: &'a [u8],
    synced: u64,
    end: usize,
}

/// The record at a place, if a whole and sound one is there.
fn record_at(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let header = bytes.get(at..at.checked_add(RECORD_HEADER_BYTES)?)?;
    let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let end = (at + RECORD_HEADER_BYTES).checked_add(word(8) as usize)?;
    if crc32c::crc32c(bytes.get(at + 8..end)?) != word(4) {
        return None;
    }
    let synced = u64::from(word(12)) | u64::from(word(16)) << 32;
    Some(Record { payload: &bytes[at + RECORD_HEADER_BYTES..end], synced, end })
}

struct Replay {
    payloads: Vec<Vec<u8>>,
    /// Where the last sound record ends.
    valid: usize,
    /// All below is known to have been durable.
    synced: usize,
}

fn replay(bytes: &[u8], path: &Path) -> Result<Replay, MetadataError> {
    check_file_header(bytes, path)?;
    let mut replay = Replay { payloads: Vec::new(), valid: FILE_HEADER_BYTES, synced: FILE_HEADER_BYTES };
    while let Some(record) = record_at(bytes, replay.valid) {
        replay.synced = replay.synced.max(record.synced as usize);
        if !record.payload.is_empty() {
            replay.payloads.push(record.payload.to_vec());
        }
        replay.valid = record.end;
    }
    let bad = replay.valid;
    let damaged = || {
        MetadataError::Corrupt(format!(
            "{} is damaged at byte {bad}, in what was safely on the disk: put the data folder back from a backup",
            path.display()
        ))
    };
    if replay.synced > bad {
        return Err(damaged());
    }
    // A sound record behind the bad one that was written after the bad one was synced tells decay from a torn tail.
    let rest = bytes.get(bad + 1..).unwrap_or_default();
    for at in memchr::memmem::find_iter(rest, &RECORD_MAGIC) {
        if record_at(bytes, bad + 1 + at).is_some_and(|r| r.synced as usize > bad) {
            return Err(damaged());
        }
    }
    Ok(replay)
}

fn check_file_header(bytes: &[u8], path: &Path) -> Result<(), MetadataError> {
    let expected = file_header();
    match bytes.get(..FILE_HEADER_BYTES) {
        Some(header) if header == expected => Ok(()),
        Some(header)
            if header[..8] == FILE_MAGIC
                && crc32c::crc32c(&header[..12]).to_le_bytes() == header[12..]
                && header[8..12] != expected[8..12] =>
        {
            Err(MetadataError::NewerVersion(path.display().to_string()))
        }
        _ => Err(MetadataError::Corrupt(format!(
            "{} does not begin as a metadata log does: put the data folder back from a backup",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests;

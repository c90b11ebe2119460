//! Looks a partition's folder over without changing anything, for `sluice doctor`.
//!
//! **Invariant**: only reads; no file is created, cut or repaired, and the first problem does not hide how much was
//! sound before it. To be called while no broker uses the folder: a tail that is being written looks unfinished.
//!
//! Blocks.

use super::LogError;
use super::batch_walk::{BatchWalk, Walked, is_zero};
use super::layout::{self, EPOCH_FILE, FileKind, LOG_START_FILE, META_FILE};
use super::leader_epoch_cache::LeaderEpochCache;
use super::recovery::DECOMPRESS_BYTES;
use super::recovery_point::RecoveryPoints;
use super::sparse_index::{IndexEntry, OffsetEntry, TimeEntry};
use crate::codec::{DecompressLimit, RecordBatch};
use crate::sys::{Disk, OpenMode};
use crate::types::{LogEndOffset, LogStartOffset, Offset, TopicName, TopicPartition};
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

/// Problems that a report names at most.
const MAX_PROBLEMS: usize = 20;

/// What was found in a partition's folder.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// The folder.
    pub folder: PathBuf,
    /// Which partition it says it is.
    pub id: Option<TopicPartition>,
    /// Its topic's name.
    pub topic: Option<TopicName>,
    /// Segments.
    pub segments: usize,
    /// Whole batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the batches.
    pub bytes: u64,
    /// The first offset that may be read.
    pub log_start: LogStartOffset,
    /// The offset after the last whole batch.
    pub log_end: LogEndOffset,
    /// Bytes after the last whole batch, that recovery will cut: zeros, or an append that was not acknowledged.
    pub unfinished_bytes: u64,
    /// What is wrong, in the order found, at most twenty.
    pub problems: Vec<Problem>,
}

/// Something wrong in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in it, in bytes.
    pub position: u64,
    /// What is wrong there.
    pub what: String,
    /// The next start puts it right by itself.
    pub repaired_at_start: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at position {}: {}", self.file.display(), self.position, self.what)?;
        if self.repaired_at_start { f.write_str(" (the next start puts it right)") } else { Ok(()) }
    }
}

/// Looks at the folder of one partition.
///
/// # Errors
/// The folder can not be listed. Everything else is in the report.
pub fn inspect(disk: &dyn Disk, folder: &Path) -> Result<PartitionReport, LogError> {
    let entries = disk.read_dir(folder);
    let entries = entries.map_err(|error| LogError::io(format!("reading {}", folder.display()), &error))?;
    let mut inspection = Inspection {
        disk,
        epochs: None,
        positions: BTreeMap::new(),
        times: BTreeMap::new(),
        report: PartitionReport {
            folder: folder.to_owned(),
            id: None,
            topic: None,
            segments: 0,
            batches: 0,
            records: 0,
            bytes: 0,
            log_start: LogStartOffset::ZERO,
            log_end: LogEndOffset::ZERO,
            unfinished_bytes: 0,
            problems: Vec::new(),
        },
    };
    inspection.small_files();
    let named = entries.iter().filter_map(|entry| layout::parse_file_name(&entry.name));
    let bases: Vec<Offset> = named.filter(|(_, kind)| *kind == FileKind::Log).map(|(base, _)| base).collect();
    inspection.segments(&bases);
    Ok(inspection.report)
}

struct Inspection<'a> {
    disk: &'a dyn Disk,
    epochs: Option<LeaderEpochCache>,
    /// Of the segment at hand: each batch's position and last offset.
    positions: BTreeMap<u64, Offset>,
    /// The same batches' last offsets, and greatest timestamps.
    times: BTreeMap<Offset, i64>,
    report: PartitionReport,
}

impl Inspection<'_> {
    fn problem(&mut self, file: &Path, position: u64, what: impl Into<String>, repaired_at_start: bool) {
        if self.report.problems.len() < MAX_PROBLEMS {
            self.report.problems.push(Problem {
                file: file.to_owned(),
                position,
                what: what.into(),
                repaired_at_start,
            });
        }
    }

    fn small_files(&mut self) {
        let path = self.report.folder.join(META_FILE);
        let what = path.display().to_string();
        match self.disk.read(&path).map_err(|error| LogError::io("reading it", &error)) {
            Ok(bytes) => match layout::decode_meta(&what, &bytes) {
                Ok((id, name)) => {
                    (self.report.id, self.report.topic) = (Some(id), Some(name));
                    let named =
                        self.report.folder.file_name().and_then(|name| layout::parse_folder_name(name.to_str()?));
                    if named.is_some_and(|named| named != id) {
                        self.problem(&path, 0, "it describes another partition than the folder's name", false);
                    }
                }
                Err(error) => self.problem(&path, 0, error.to_string(), false),
            },
            Err(error) => self.problem(&path, 0, error.to_string(), false),
        }
        let path = self.report.folder.join(LOG_START_FILE);
        match self.optional(&path, |bytes| layout::decode_log_start("the log start", bytes)) {
            Ok(start) => self.report.log_start = start.unwrap_or_default().into(),
            Err(error) => self.problem(&path, 0, error.to_string(), false),
        }
        let path = self.report.folder.join(EPOCH_FILE);
        match self.optional(&path, LeaderEpochCache::from_bytes) {
            Ok(epochs) => self.epochs = epochs,
            Err(error) => self.problem(&path, 0, error.to_string(), true),
        }
    }

    fn optional<T>(&self, path: &Path, decode: impl Fn(&[u8]) -> Result<T, LogError>) -> Result<Option<T>, LogError> {
        if !self.disk.exists(path) {
            return Ok(None);
        }
        let bytes = self.disk.read(path).map_err(|error| LogError::io("reading it", &error))?;
        decode(&bytes).map(Some)
    }

    fn segments(&mut self, bases: &[Offset]) {
        self.report.segments = bases.len();
        if let Some(first) = bases.first() {
            self.report.log_start = self.report.log_start.max((*first).into());
        }
        let durable_end = self.durable_end();
        let mut next = bases.first().copied().unwrap_or_default();
        for (i, base) in bases.iter().enumerate() {
            let path = layout::file_path(&self.report.folder, *base, FileKind::Log);
            if *base < next {
                self.problem(&path, 0, format!("the segment before it reaches up to offset {next}"), false);
            }
            self.positions.clear();
            self.times.clear();
            match self.segment(&path, *base, i + 1 == bases.len(), durable_end) {
                Ok(end) => next = end.max(next).max(*base),
                Err(error) => self.problem(&path, 0, error.to_string(), false),
            }
            self.index::<OffsetEntry>(*base, FileKind::Index, |inspection, entry| {
                let batch = inspection.positions.get(&u64::from(entry.position));
                batch.is_some_and(|last| last.get() - base.get() == i64::from(entry.relative))
            });
            self.index::<TimeEntry>(*base, FileKind::TimeIndex, |inspection, entry| {
                let named = base.plus(i64::from(entry.relative));
                inspection.times.get(&named) == Some(&entry.timestamp_ms)
            });
        }
        self.report.log_end = next.into();
        if let Some(durable_end) = durable_end.filter(|end| *end > next) {
            let path = self.report.folder.clone();
            self.problem(
                &path,
                0,
                format!("the log ends at offset {next}, but was durable up to {durable_end}"),
                false,
            );
        }
    }

    /// What the recovery points beside the folder say of it.
    fn durable_end(&self) -> Option<Offset> {
        RecoveryPoints::peek(self.disk, self.report.folder.parent()?, self.report.id?)
    }

    /// Walks one segment's batches, and every record in them. Gives the offset after the last whole batch.
    fn segment(&mut self, path: &Path, base: Offset, active: bool, durable_end: Option<Offset>) -> io::Result<Offset> {
        let file = self.disk.open(path, OpenMode::Read)?;
        let len = file.len()?;
        let mut walk = BatchWalk::new(&*file, 0, len);
        let mut next = base;
        loop {
            match walk.next()? {
                Walked::End => break,
                Walked::Batch(position, batch) => {
                    let header = batch.header();
                    if header.base_offset < next {
                        let what = format!("offset {} comes after offset {}", header.base_offset, next.get() - 1);
                        self.problem(path, position, what, false);
                    }
                    let expected = self.epochs.as_ref().and_then(|epochs| epochs.epoch_at(header.base_offset));
                    if let Some(epoch) = expected.filter(|epoch| *epoch != header.leader_epoch) {
                        let what = format!("leader epoch {} where {epoch} should be", header.leader_epoch);
                        self.problem(path, position, what, false);
                    }
                    match records(&batch) {
                        Ok(count) => self.report.records += count,
                        Err(what) => self.problem(path, position, what, false),
                    }
                    self.report.batches += 1;
                    self.report.bytes += header.size as u64;
                    self.positions.insert(position, header.last_offset());
                    self.times.insert(header.last_offset(), header.max_timestamp_ms);
                    next = header.next_offset();
                }
                Walked::Bad(what) => {
                    let position = walk.position();
                    let tail = active && durable_end.is_none_or(|end| next >= end);
                    if !(tail && is_zero(&*file, position, len)?) {
                        self.problem(path, position, what, tail);
                    }
                    if tail {
                        self.report.unfinished_bytes = len - position;
                    }
                    break;
                }
            }
        }
        Ok(next)
    }

    /// Every entry must point at a batch; an index that does not costs time and nothing else.
    fn index<E: IndexEntry>(&mut self, base: Offset, kind: FileKind, fits: impl Fn(&Self, E) -> bool) {
        let path = layout::file_path(&self.report.folder, base, kind);
        if !self.disk.exists(&path) {
            return; // it is written from time to time, and rebuilt where it is missing
        }
        match self.disk.read(&path) {
            Err(error) => self.problem(&path, 0, error.to_string(), true),
            Ok(bytes) => {
                let mut last: Option<i64> = None;
                for (i, entry) in bytes.chunks(E::WIDTH).enumerate() {
                    let position = (i * E::WIDTH) as u64;
                    let decoded = (entry.len() == E::WIDTH).then(|| E::decode(entry));
                    let sound =
                        decoded.filter(|entry| last.is_none_or(|last| last < entry.key()) && fits(self, *entry));
                    let Some(sound) = sound else {
                        self.problem(&path, position, "an entry that leads to no batch", true);
                        return;
                    };
                    last = Some(sound.key());
                }
            }
        }
    }
}

fn records(batch: &RecordBatch) -> Result<u64, String> {
    let mut records =
        batch.records(DecompressLimit { max_bytes: DECOMPRESS_BYTES }).map_err(|error| error.to_string())?;
    let mut count = 0;
    while let Some(record) = records.next_view() {
        record.map_err(|error| error.to_string())?;
        count += 1;
    }
    Ok(count)
}

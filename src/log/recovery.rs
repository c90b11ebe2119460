//! Brings a partition's folder to the state in which it may be served.
//!
//! **Invariant**: nothing that was durable is ever cut. The recovery point says what was: below it, and in all segments
//! but the last (a segment is begun only after the one before it was synced), anything that does not check is
//! corruption, and the log comes up offline. Beyond it, the log ends at the first batch that does not check; and what
//! is kept beyond it is written again and synced before it counts, because after a failed sync what reads back may not
//! be on the disk.
//!
//! Blocks; called by `log_manager` on the background lane, for several partitions at once.

use super::backlog::Pace;
use super::batch_walk::{BatchWalk, Walked, find_batch, is_zero};
use super::compaction::finish_swaps;
use super::core::{LogContext, LogCore, Opened};
use super::gathering::Gathering;
use super::idempotency::{IDEMPOTENCY_HEADER, IdempotencyLimits, IdempotencyTable, RecordMark};
use super::layout::{self, CLEANED_SUFFIX, EPOCH_FILE, FileKind, LOG_START_FILE, SWAP_SUFFIX};
use super::leader_epoch_cache::LeaderEpochCache;
use super::open_files::{Access, OpenFiles};
use super::preallocation::Preallocation;
use super::producer_state::ProducerStateTable;
use super::recovery_point::RecoveryPoint;
use super::segment::LogSegment;
use super::snapshot::{self, MAX_PRODUCERS};
use super::write_behind::WriteBehind;
use super::writer::{Phase, Unsettled, Writer};
use super::{LogConfig, LogError, LogSettings};
use crate::codec::{Compression, DecompressLimit, HEADER_BYTES, RecordBatch};
use crate::sys::File;
use crate::types::{FlushPolicy, LeaderEpoch, Offset, TopicName, TopicPartition};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes that are written again at once.
const REWRITE_BYTES: u64 = 1 << 20;
/// The most that a stored batch may decompress to.
pub(super) const DECOMPRESS_BYTES: usize = 256 << 20;

/// Which partition to open, and what is known of it.
pub(super) struct Recovery<'a> {
    pub(super) context: &'a Arc<LogContext>,
    pub(super) folder: &'a Path,
    pub(super) id: TopicPartition,
    pub(super) name: TopicName,
    pub(super) config: LogConfig,
    pub(super) point: RecoveryPoint,
    /// The folder was made just now, and holds nothing but its description.
    pub(super) fresh: bool,
    /// Bytes gone over, for the progress line.
    pub(super) walked: &'a AtomicU64,
}

/// How much an Idempotency-Key table may hold.
pub(super) fn idempotency_limits(settings: &LogSettings) -> IdempotencyLimits {
    IdempotencyLimits {
        max_entries: settings.idempotency_keys_per_partition,
        retention_ms: i64::try_from(settings.idempotency_retention.as_millis()).unwrap_or(i64::MAX),
    }
}

/// Where the log of the last segment ends, and what was found on the way there.
struct Tail {
    position: u64,
    end: Offset,
    /// Epochs of the batches walked, each with the first offset under it.
    epochs: Vec<(LeaderEpoch, Offset)>,
}

impl Recovery<'_> {
    /// Opens the log; it is offline if it could not be recovered.
    pub(super) fn run(self) -> Arc<LogCore> {
        match self.recover() {
            Ok(opened) => LogCore::new(Arc::clone(self.context), opened),
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "a partition comes up offline");
                let limits = idempotency_limits(&self.context.settings);
                let writer = self.writer(Arc::new(LogSegment::absent(self.folder)), 0, Offset::ZERO, LeaderEpoch::ZERO);
                let opened = Opened {
                    id: self.id,
                    name: self.name.clone(),
                    folder: self.folder.to_owned(),
                    config: self.config.clone(),
                    segments: Vec::new(),
                    log_start: Offset::ZERO,
                    log_end: Offset::ZERO,
                    epochs: LeaderEpochCache::default(),
                    idempotency: IdempotencyTable::new(limits),
                    writer,
                    offline: Some(error.to_string()),
                };
                LogCore::new(Arc::clone(self.context), opened)
            }
        }
    }

    fn files(&self) -> &OpenFiles {
        &self.context.files
    }

    fn failed(&self, what: &str) -> impl Fn(std::io::Error) -> LogError {
        let context = format!("{what} in {}", self.folder.display());
        move |error| LogError::io(context.clone(), &error)
    }

    fn writer(&self, segment: Arc<LogSegment>, position: u64, next_offset: Offset, epoch: LeaderEpoch) -> Writer {
        Writer {
            segment,
            position,
            next_offset,
            epoch,
            producers: ProducerStateTable::new(MAX_PRODUCERS),
            flush: self.config.topic.flush,
            // Who wrote a record made the folder durable before.
            unsettled: Unsettled { folder: next_offset == Offset::ZERO, epochs: false },
            touched: false,
            unsnapshotted: 0,
            write_behind: WriteBehind::default(),
            preallocation: Preallocation::default(),
            gathering: Gathering::default(),
            pace: Pace::default(),
            gathers: false,
            phase: Phase::Idle,
        }
    }

    /// The names in the folder, read once: ten thousand partitions are ten thousand folders.
    fn names(&self) -> Result<BTreeSet<String>, LogError> {
        let failed = self.failed("reading the folder");
        let disk = self.files().disk();
        let list = || disk.read_dir(self.folder).map(|all| all.into_iter().map(|entry| entry.name).collect());
        let names: BTreeSet<String> = list().map_err(&failed)?;
        if names.iter().any(|name| name.ends_with(SWAP_SUFFIX)) {
            finish_swaps(&**disk, self.folder).map_err(&failed)?;
            return list().map_err(&failed);
        }
        Ok(names)
    }

    fn recover(&self) -> Result<Opened, LogError> {
        let names = if self.fresh { BTreeSet::new() } else { self.names()? };
        let mut log_start = self.read_log_start(&names)?;
        let bases = self.clear_leftovers(&names, log_start)?;
        let mut segments = self.open_segments(&bases, log_start)?;
        log_start = log_start.max(segments[0].base);
        let stored = self.read_epochs(&names)?;
        let mut tail = self.recover_tail(&segments[segments.len() - 1], stored.as_ref())?;
        let epochs = self.recover_epochs(&segments, &tail, stored)?;
        if tail.end < log_start {
            // A laxly flushed tail went, and what is left is below the log start: offsets go on from there.
            segments.iter().try_for_each(|s| s.remove(self.files())).map_err(self.failed("removing segments"))?;
            segments = self.open_segments(&[], log_start)?;
            tail = Tail { position: 0, end: log_start, epochs: Vec::new() };
        }
        let (active, end) = (&segments[segments.len() - 1], tail.end);
        active.publish(tail.position);
        active.flush_indexes(self.files(), false).map_err(self.failed("writing an index"))?;
        self.date(active, &tail)?;
        let (producers, mut idempotency) = self.recover_snapshot(&names, &segments, end)?;
        idempotency.truncate_from_start(log_start);
        self.note_point(end)?;
        let epoch = epochs.latest().map_or(LeaderEpoch::ZERO, |(epoch, _)| epoch);
        let mut writer = self.writer(Arc::clone(active), tail.position, end, epoch);
        writer.producers = producers;
        Ok(Opened {
            id: self.id,
            name: self.name.clone(),
            folder: self.folder.to_owned(),
            config: self.config.clone(),
            log_start,
            log_end: end,
            epochs,
            idempotency,
            writer,
            segments,
            offline: None,
        })
    }

    fn read_log_start(&self, names: &BTreeSet<String>) -> Result<Offset, LogError> {
        if !names.contains(LOG_START_FILE) {
            return Ok(Offset::ZERO);
        }
        let path = self.folder.join(LOG_START_FILE);
        let bytes = self.files().disk().read(&path).map_err(self.failed("reading the log start"))?;
        layout::decode_log_start(&path.display().to_string(), &bytes)
    }

    /// Removes what an interrupted change left, and segments wholly below the log start; gives the bases that stay.
    fn clear_leftovers(&self, names: &BTreeSet<String>, log_start: Offset) -> Result<Vec<Offset>, LogError> {
        let disk = self.files().disk();
        let failed = self.failed("clearing leftovers");
        for name in names.iter().filter(|name| name.ends_with(".tmp") || name.ends_with(CLEANED_SUFFIX)) {
            disk.remove_file(&self.folder.join(name)).map_err(&failed)?;
        }
        let named = names.iter().filter_map(|name| layout::parse_file_name(name));
        let mut bases: Vec<Offset> = named.filter(|(_, kind)| *kind == FileKind::Log).map(|(base, _)| base).collect();
        let gone = bases.windows(2).take_while(|pair| pair[1] <= log_start).count();
        for base in bases.drain(..gone) {
            for kind in [FileKind::Log, FileKind::Index, FileKind::TimeIndex] {
                let path = layout::file_path(self.folder, base, kind);
                if disk.exists(&path) {
                    disk.remove_file(&path).map_err(&failed)?;
                }
            }
        }
        Ok(bases)
    }

    fn open_segments(&self, bases: &[Offset], log_start: Offset) -> Result<Vec<Arc<LogSegment>>, LogError> {
        let failed = self.failed("opening segments");
        if bases.is_empty() {
            if self.point.durable_end > log_start {
                let (start, end) = (log_start, self.point.durable_end);
                let folder = self.folder.display();
                return Err(LogError::Corrupt(format!(
                    "{folder}: the segments with offsets {start} to {end} are missing"
                )));
            }
            let segment = LogSegment::create(self.files(), self.folder, log_start).map_err(&failed)?;
            if log_start > Offset::ZERO {
                self.files().disk().sync_dir(self.folder).map_err(&failed)?; // else with the first record
            }
            return Ok(vec![Arc::new(segment)]);
        }
        let mut segments = Vec::with_capacity(bases.len());
        for (i, base) in bases.iter().enumerate() {
            let (segment, indexed) = LogSegment::open(self.files(), self.folder, *base).map_err(&failed)?;
            if !indexed && i + 1 < bases.len() {
                self.index_closed(&segment)?;
            }
            segments.push(Arc::new(segment));
        }
        Ok(segments)
    }

    /// Builds the indexes of a closed segment anew.
    fn index_closed(&self, segment: &LogSegment) -> Result<(), LogError> {
        let failed = self.failed("building an index");
        let file = self.files().get(&segment.log, Access::Blocking).map_err(&failed)?;
        let mut walk = BatchWalk::new(&*file, 0, segment.size());
        loop {
            match walk.next().map_err(&failed)? {
                Walked::Batch(position, batch) => segment.index_batch(batch.header(), position),
                Walked::End => break,
                Walked::Bad(why) => return Err(self.corrupt(segment, walk.position(), &why)),
            }
        }
        self.walked.fetch_add(walk.position(), Ordering::Relaxed);
        segment.flush_indexes(self.files(), true).map_err(&failed)
    }

    fn corrupt(&self, segment: &LogSegment, position: u64, why: &str) -> LogError {
        LogError::Corrupt(format!("{} at position {position}: {why}", segment.log.path().display()))
    }

    // ---- the tail -----------------------------------------------------------------------------------------------

    /// Batches in the last segment are as they were appended: dense, and each under the epoch that began at or before
    /// it. Both fields lie outside the CRC, so they are held to what must be there.
    fn recover_tail(&self, active: &LogSegment, epochs: Option<&LeaderEpochCache>) -> Result<Tail, LogError> {
        let failed = self.failed("recovering the tail");
        let file = self.files().get(&active.log, Access::Blocking).map_err(&failed)?;
        let len = active.size();
        let durable_end = self.point.durable_end.max(active.base);
        let start = self.start_of_walk(active, &*file, durable_end)?;
        let mut walk = BatchWalk::new(&*file, start, len);
        let mut tail = Tail { position: start, end: active.base, epochs: Vec::new() };
        let mut durable_position = start;
        let bad = loop {
            let (position, batch) = match walk.next().map_err(&failed)? {
                Walked::Batch(position, batch) => (position, batch),
                Walked::End => break None,
                Walked::Bad(why) => break Some(why),
            };
            let header = batch.header();
            if header.base_offset != tail.end && position > start || position == 0 && header.base_offset != active.base
            {
                break Some(format!("offset {} comes where {} should", header.base_offset, tail.end));
            }
            let expected = epochs.and_then(|epochs| epochs.epoch_at(header.base_offset));
            if let Some(epoch) = expected.filter(|epoch| *epoch != header.leader_epoch) {
                break Some(format!("leader epoch {} comes where {epoch} should", header.leader_epoch));
            }
            match tail.epochs.last() {
                Some((epoch, _)) if header.leader_epoch < *epoch => {
                    break Some(format!("leader epoch {} comes after {epoch}", header.leader_epoch));
                }
                Some((epoch, _)) if header.leader_epoch == *epoch => {}
                _ => tail.epochs.push((header.leader_epoch, header.base_offset)),
            }
            active.index_batch(header, position);
            tail.end = header.next_offset();
            tail.position = walk.position();
            if tail.end <= durable_end {
                durable_position = tail.position;
            }
        };
        self.walked.fetch_add(tail.position - start, Ordering::Relaxed);
        if tail.end < durable_end {
            let why = bad.unwrap_or_else(|| "the file ends".to_owned());
            let why = format!("{why}; the log was durable up to offset {durable_end}");
            return Err(self.corrupt(active, tail.position, &why));
        }
        self.cut(active, &*file, &tail, len, bad)?;
        self.rewrite(&*file, durable_position, tail.position, len)?;
        Ok(tail)
    }

    /// When the active segment began, for rolls by age: its first batch says, unless its producer's clock was ahead.
    fn date(&self, active: &LogSegment, tail: &Tail) -> Result<(), LogError> {
        let failed = self.failed("reading a segment");
        let file = self.files().get(&active.log, Access::Blocking).map_err(&failed)?;
        if let Walked::Batch(_, batch) = BatchWalk::new(&*file, 0, tail.position).next().map_err(&failed)? {
            let now_ms = self.context.sys.clock.now_ms();
            active.first_append_ms.store(batch.header().base_timestamp_ms.min(now_ms), Ordering::Relaxed);
        }
        Ok(())
    }

    /// The position of a batch from which the last segment is walked, with the indexes cut back to it.
    fn start_of_walk(&self, active: &LogSegment, file: &dyn File, durable_end: Offset) -> Result<u64, LogError> {
        let failed = self.failed("reading an index");
        let start = active.truncate_indexes(self.files(), durable_end).map_err(&failed)?;
        let expected = active.offsets.last().map(|entry| active.base.plus(i64::from(entry.relative)));
        let Some(expected) = expected else { return Ok(0) };
        let leads_there = start < active.size()
            && match BatchWalk::new(file, start, active.size()).next().map_err(&failed)? {
                Walked::Batch(_, batch) => batch.header().last_offset() == expected,
                _ => false,
            };
        if leads_there {
            return Ok(start);
        }
        // The index was not synced, or is damaged: the segment itself decides.
        active.truncate_indexes(self.files(), active.base).map_err(&failed)
    }

    /// Cuts off what lies beyond the tail, if it may be cut.
    fn cut(
        &self,
        active: &LogSegment,
        file: &dyn File,
        tail: &Tail,
        len: u64,
        bad: Option<String>,
    ) -> Result<(), LogError> {
        let Some(why) = bad else { return Ok(()) };
        let failed = self.failed("cutting the tail");
        if !is_zero(file, tail.position, len).map_err(&failed)? {
            if self.point.strict {
                let beyond = tail.position + self.context.settings.group_bytes as u64;
                if let Some(at) = find_batch(file, beyond, len, tail.end).map_err(&failed)? {
                    let why = format!("{why}, but a batch that was synced after it follows at position {at}");
                    return Err(self.corrupt(active, tail.position, &why));
                }
            }
            let (path, position, cut) = (active.log.path().display(), tail.position, len - tail.position);
            tracing::info!(%path, position, cut, why, "cutting an unfinished tail");
        }
        file.set_len(tail.position).and_then(|()| file.sync_all()).map_err(&failed)
    }

    /// Writes what is kept beyond the recovery point again, so that it is known to be on the disk.
    fn rewrite(&self, file: &dyn File, from: u64, to: u64, len: u64) -> Result<(), LogError> {
        if from == to && to == len {
            return Ok(());
        }
        let failed = self.failed("writing the tail again");
        let mut position = from;
        let mut buffer = vec![0; REWRITE_BYTES.min(to - from) as usize];
        while position < to {
            let chunk = &mut buffer[..REWRITE_BYTES.min(to - position) as usize];
            file.read_exact_at(chunk, position).map_err(&failed)?;
            file.write_all_at(chunk, position).map_err(&failed)?;
            position += chunk.len() as u64;
        }
        file.sync_all().map_err(&failed)?;
        self.files().disk().sync_dir(self.folder).map_err(&failed)
    }

    fn note_point(&self, end: Offset) -> Result<(), LogError> {
        let failed = self.failed("writing the recovery point");
        let strict = self.config.topic.flush == FlushPolicy::Commit;
        let point = RecoveryPoint { durable_end: end, strict };
        if point == self.point && !self.fresh {
            return Ok(()); // it stands there
        }
        self.context.points.set(self.id, point).map_err(&failed)?;
        // Laxer than it was: that must be known before the first append that relies on it.
        if self.point.strict && !strict { self.context.points.sync().map_err(&failed) } else { Ok(()) }
    }

    // ---- what is derived from the records -------------------------------------------------------------------------

    /// The leader epochs as their file has them; `None` if it is damaged.
    fn read_epochs(&self, names: &BTreeSet<String>) -> Result<Option<LeaderEpochCache>, LogError> {
        if !names.contains(EPOCH_FILE) {
            return Ok(Some(LeaderEpochCache::default()));
        }
        let path = self.folder.join(EPOCH_FILE);
        let bytes = self.files().disk().read(&path).map_err(self.failed("reading the leader epochs"))?;
        match LeaderEpochCache::from_bytes(&bytes) {
            Ok(epochs) => Ok(Some(epochs)),
            Err(error @ LogError::NewerVersion(_)) => Err(error),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "building the leader epochs anew from the log");
                Ok(None)
            }
        }
    }

    fn recover_epochs(
        &self,
        segments: &[Arc<LogSegment>],
        tail: &Tail,
        stored: Option<LeaderEpochCache>,
    ) -> Result<LeaderEpochCache, LogError> {
        let (mut epochs, mut changed) = match stored {
            Some(epochs) => (epochs, false),
            None => (self.rebuild_epochs(segments, tail)?, true),
        };
        changed |= epochs.truncate_from_end(tail.end);
        for (epoch, start) in &tail.epochs {
            // The walk may begin within an epoch that is known.
            if epochs.latest().is_none_or(|(latest, _)| latest < *epoch) {
                changed |= epochs.assign(*epoch, *start).unwrap_or(false);
            }
        }
        if changed {
            let written = self.files().disk().write_atomic(&self.folder.join(EPOCH_FILE), &epochs.to_bytes());
            written.map_err(self.failed("writing the leader epochs"))?;
        }
        Ok(epochs)
    }

    fn rebuild_epochs(&self, segments: &[Arc<LogSegment>], tail: &Tail) -> Result<LeaderEpochCache, LogError> {
        let mut epochs = LeaderEpochCache::default();
        for (i, segment) in segments.iter().enumerate() {
            let size = if i + 1 == segments.len() { tail.position } else { segment.size() };
            self.each_batch(segment, 0, size, |batch| {
                let _ = epochs.assign(batch.header().leader_epoch, batch.header().base_offset);
                Ok(())
            })?;
        }
        Ok(epochs)
    }

    fn each_batch(
        &self,
        segment: &LogSegment,
        position: u64,
        size: u64,
        mut see: impl FnMut(&RecordBatch) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let failed = self.failed("reading a segment");
        let file = self.files().get(&segment.log, Access::Blocking).map_err(&failed)?;
        let mut walk = BatchWalk::new(&*file, position, size);
        loop {
            match walk.next().map_err(&failed)? {
                Walked::Batch(_, batch) => see(&batch)?,
                Walked::Bad(why) => return Err(self.corrupt(segment, walk.position(), &why)),
                Walked::End => break,
            }
        }
        self.walked.fetch_add(walk.position() - position, Ordering::Relaxed);
        Ok(())
    }

    /// Producers and Idempotency-Keys: the newest snapshot that is whole, and the records after it.
    fn recover_snapshot(
        &self,
        names: &BTreeSet<String>,
        segments: &[Arc<LogSegment>],
        end: Offset,
    ) -> Result<(ProducerStateTable, IdempotencyTable), LogError> {
        let disk = self.files().disk();
        let failed = self.failed("reading a snapshot");
        let limits = idempotency_limits(&self.context.settings);
        let mut state = (ProducerStateTable::new(MAX_PRODUCERS), IdempotencyTable::new(limits));
        let mut from = segments[0].base;
        let named = names.iter().rev().filter_map(|name| layout::parse_file_name(name));
        for (offset, _) in named.filter(|(_, kind)| *kind == FileKind::Snapshot) {
            let path = layout::file_path(self.folder, offset, FileKind::Snapshot);
            if offset > end {
                disk.remove_file(&path).map_err(&failed)?; // of records that were cut off
                continue;
            }
            let bytes = disk.read(&path).map_err(&failed)?;
            match snapshot::decode(&path.display().to_string(), &bytes, limits) {
                Ok(found) => {
                    state = found;
                    from = offset;
                    break;
                }
                Err(error @ LogError::NewerVersion(_)) => return Err(error),
                Err(error) => tracing::warn!(%error, "a snapshot is passed over"),
            }
        }
        let now_ms = self.context.sys.clock.now_ms();
        let first = segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
        for segment in segments[first..].iter().filter(|_| from < end) {
            let position = segment.position_before(self.files(), Access::Blocking, from.max(segment.base));
            self.each_batch(segment, position.map_err(&failed)?, segment.size(), |batch| {
                if batch.header().next_offset() > from {
                    state.0.append(batch.header(), now_ms);
                    observe_keys(&mut state.1, batch, now_ms)?;
                }
                Ok(())
            })?;
        }
        Ok(state)
    }
}

/// Notes the Idempotency-Keys of a batch's records.
fn observe_keys(keys: &mut IdempotencyTable, batch: &RecordBatch, now_ms: i64) -> Result<(), LogError> {
    let plain = batch.header().compression == Compression::None;
    if plain && memchr::memmem::find(&batch.bytes()[HEADER_BYTES..], IDEMPOTENCY_HEADER).is_none() {
        return Ok(()); // most batches have none, and need not be taken apart
    }
    let corrupt = |error: crate::codec::BatchError| LogError::Corrupt(error.to_string());
    let records = batch.records(DecompressLimit { max_bytes: DECOMPRESS_BYTES }).map_err(corrupt)?;
    for record in records {
        let record = record.map_err(corrupt)?;
        let headers = record.headers.iter().map(|header| (&header.name[..], header.value.as_deref()));
        if let Some(mark) = RecordMark::find(headers) {
            keys.observe(mark, record.offset, record.timestamp_ms, now_ms);
        }
    }
    Ok(())
}

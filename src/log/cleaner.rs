//! Compaction (`cleanup.policy=compact`): what stays of a batch, and which segments are worth it.
//!
//! A pass has two steps. The [`OffsetMap`] takes the newest offset of each key from the records that came since the
//! last pass, as far as its memory goes; then every batch below [`OffsetMap::end`] goes through a [`Cleaner`], which
//! keeps it, rewrites it with holes, or drops it.
//!
//! What stays:
//! - the newest record of each key, at its offset, with its timestamp;
//! - a tombstone that is the newest of its key, for `delete.retention.ms` after the first pass that met it: that pass
//!   writes the time when it may go into the batch (the delete horizon of KIP-534), so that a reader who began before
//!   it has that long to see the tombstone, whatever the record's own timestamp says;
//! - records under an Idempotency-Key that the log still remembers, also where a newer one supersedes them, and then
//!   tombstones too, lest an older value come back;
//! - control batches, and a batch without records where it is a live producer's last.
//!
//! Records without a key go: compacted topics refuse them, and only a topic that became compacted later has any.
//!
//! **Invariant**: no record moves, none is lost that is the newest of its key, and a pass that stops anywhere leaves a
//! log that reads the same by key, as segments are replaced from the oldest on.
//!
//! Pure: batches in, batches out. Called by `compaction`, which moves the files.

use super::idempotency::RecordMark;
use super::retention::ClosedSegment;
use crate::codec::{BatchBuilder, BatchError, BatchHeader, DecompressLimit, RecordBatch, RecordView};
use crate::types::{HighWatermark, LogStartOffset, Offset, TopicConfig};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, ops::Range};

/// What a key takes in an [`OffsetMap`], about: 24 bytes, and the room that a hash table leaves empty or needs to grow.
pub const MAP_BYTES_PER_KEY: usize = 64;

type KeyHash = [u8; 16];

/// 16 bytes of SHA-256: two keys with one hash would cost one of them its record, so nobody may be able to make them.
fn hash_key(key: &[u8]) -> KeyHash {
    let digest = Sha256::digest(key);
    *digest.first_chunk().expect("a SHA-256 has 32 bytes")
}

/// The newest offset of each key in a stretch of a log, within bounded memory.
#[derive(Debug)]
pub struct OffsetMap {
    /// Never iterated.
    newest: HashMap<KeyHash, Offset>,
    max_keys: usize,
    end: Offset,
}

impl OffsetMap {
    /// A map over a stretch that begins at `from`, in about `max_bytes` (at least one key's).
    #[must_use]
    pub fn new(from: Offset, max_bytes: usize) -> Self {
        Self { newest: HashMap::new(), max_keys: (max_bytes / MAP_BYTES_PER_KEY).max(1), end: from }
    }

    /// Takes the next batch of the stretch in. Says whether all of it found room; if not, the pass ends within it, at
    /// [`Self::end`].
    ///
    /// # Errors
    /// [`BatchError`] if the batch is corrupt.
    pub fn index(&mut self, batch: &RecordBatch, limit: DecompressLimit) -> Result<bool, BatchError> {
        let header = batch.header();
        if header.next_offset() <= self.end {
            return Ok(true);
        }
        batch.verify_crc()?;
        if !header.control {
            let mut records = batch.records(limit)?;
            while let Some(record) = records.next_view() {
                let record = record?;
                let Some(key) = record.key.filter(|_| record.offset >= self.end) else { continue };
                let hash = hash_key(key);
                if self.newest.len() == self.max_keys && !self.newest.contains_key(&hash) {
                    self.end = record.offset;
                    return Ok(false);
                }
                self.newest.insert(hash, record.offset);
            }
        }
        self.end = header.next_offset();
        Ok(true)
    }

    /// Nothing is left below `offset` that was not looked at: the rest is holes.
    pub fn skip_to(&mut self, offset: Offset) {
        self.end = self.end.max(offset);
    }

    /// The first offset that was not looked at.
    #[must_use]
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// The offset of the record that supersedes this one, if there is one.
    fn superseded_by(&self, key: &[u8], offset: Offset) -> Option<Offset> {
        self.newest.get(&hash_key(key)).copied().filter(|newest| *newest > offset)
    }
}

/// What a pass goes by, beside the map.
#[derive(Clone, Copy)]
pub struct CleaningRules<'a> {
    /// The wall clock.
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// Records below it are gone for readers, and go.
    pub log_start: Offset,
    /// From here on records under an Idempotency-Key are remembered (`IdempotencyTable::oldest_offset`).
    pub idempotent_from: Option<Offset>,
    /// Whether a batch is the last of a producer that is remembered (`ProducerStateTable::is_last_batch`).
    pub is_last_of_producer: &'a dyn Fn(&BatchHeader) -> bool,
    /// Bounds a batch's records.
    pub limit: DecompressLimit,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CleanedBatch {
    /// It stays as it is.
    Kept,
    /// These bytes take its place: same first and last offset, fewer records.
    Rewritten(Bytes),
    /// Nothing of it stays.
    Dropped,
}

/// One pass over the batches of a log, in order.
pub struct Cleaner<'a> {
    map: &'a OffsetMap,
    rules: CleaningRules<'a>,
    buffer: BytesMut,
    /// Of the batch at hand, record by record: whether it stays.
    stays: Vec<bool>,
    next_map_from: Offset,
    dropped_records: u64,
}

/// What becomes of a record.
enum Fate {
    Goes,
    Stays,
    /// It stays, and no older record of its key does: it may go once the delete horizon has passed.
    StaysAsTombstone,
    /// It stays for its Idempotency-Key although the record at this offset supersedes it.
    StaysSuperseded(Offset),
}

/// What the records of a batch say together.
#[derive(Default)]
struct Verdict {
    kept: u32,
    dropped: u32,
    tombstones: u32,
    /// Those whose time begins with this pass.
    ripe_tombstones: u32,
}

impl<'a> Cleaner<'a> {
    /// Begins a pass.
    #[must_use]
    pub fn new(map: &'a OffsetMap, rules: CleaningRules<'a>) -> Self {
        Self { map, rules, buffer: BytesMut::new(), stays: vec![], next_map_from: map.end(), dropped_records: 0 }
    }

    /// What stays of a batch.
    ///
    /// # Errors
    /// [`BatchError`] if it is corrupt: the pass must stop, and leave the log as it is.
    pub fn clean(&mut self, batch: &RecordBatch) -> Result<CleanedBatch, BatchError> {
        let header = batch.header();
        if header.base_offset >= self.map.end() {
            return Ok(CleanedBatch::Kept);
        }
        batch.verify_crc()?;
        if header.last_offset() < self.rules.log_start {
            self.dropped_records += u64::from(header.record_count.unsigned_abs());
            return Ok(CleanedBatch::Dropped);
        }
        if header.control {
            return Ok(CleanedBatch::Kept);
        }
        let verdict = self.judge(batch)?;
        self.dropped_records += u64::from(verdict.dropped);
        if verdict.kept == 0 {
            return Ok(self.without_records(batch));
        }
        // The horizon is the batch's, so it is set when it is right for each of its tombstones.
        let ripe = verdict.ripe_tombstones > 0 && verdict.ripe_tombstones == verdict.tombstones;
        let new_horizon = (ripe && header.delete_horizon_ms.is_none())
            .then(|| self.rules.now_ms.saturating_add(self.rules.delete_retention_ms));
        if verdict.dropped == 0 && new_horizon.is_none() {
            return Ok(CleanedBatch::Kept);
        }
        self.rewrite(batch, new_horizon).map(CleanedBatch::Rewritten)
    }

    fn judge(&mut self, batch: &RecordBatch) -> Result<Verdict, BatchError> {
        let mut verdict = Verdict::default();
        self.stays.clear();
        let mut records = batch.records(self.rules.limit)?;
        while let Some(record) = records.next_view() {
            let record = record?;
            let fate = self.fate(batch.header(), &record);
            let stays = !matches!(fate, Fate::Goes);
            self.stays.push(stays);
            if !stays {
                verdict.dropped += 1;
                continue;
            }
            verdict.kept += 1;
            verdict.tombstones += u32::from(record.value.is_none());
            match fate {
                Fate::StaysAsTombstone => verdict.ripe_tombstones += 1,
                // The pass that drops it must have in its map what supersedes it.
                Fate::StaysSuperseded(by) => self.next_map_from = self.next_map_from.min(by),
                Fate::Goes | Fate::Stays => {}
            }
        }
        Ok(verdict)
    }

    fn fate(&self, header: &BatchHeader, record: &RecordView<'_>) -> Fate {
        if record.offset >= self.map.end() {
            return Fate::Stays;
        }
        if record.offset < self.rules.log_start {
            return Fate::Goes;
        }
        let remembered = self.rules.idempotent_from.is_some_and(|from| record.offset >= from);
        let marked = remembered && RecordMark::find(record.headers).is_some();
        let Some(key) = record.key else { return if marked { Fate::Stays } else { Fate::Goes } };
        if let Some(by) = self.map.superseded_by(key, record.offset) {
            return if marked { Fate::StaysSuperseded(by) } else { Fate::Goes };
        }
        // Where older records may have stayed for their Idempotency-Keys, a tombstone still has work to do.
        if record.value.is_some() || remembered {
            return Fate::Stays;
        }
        let due = header.delete_horizon_ms.is_some_and(|horizon| self.rules.now_ms >= horizon);
        if due { Fate::Goes } else { Fate::StaysAsTombstone }
    }

    fn without_records(&mut self, batch: &RecordBatch) -> CleanedBatch {
        let header = batch.header();
        if !(self.rules.is_last_of_producer)(header) {
            return CleanedBatch::Dropped;
        }
        if header.record_count == 0 {
            return CleanedBatch::Kept;
        }
        let builder = BatchBuilder::rewriting(std::mem::take(&mut self.buffer), header);
        CleanedBatch::Rewritten(builder.finish(header.compression))
    }

    fn rewrite(&mut self, batch: &RecordBatch, new_horizon_ms: Option<i64>) -> Result<Bytes, BatchError> {
        let header = batch.header();
        let mut builder = BatchBuilder::rewriting(std::mem::take(&mut self.buffer), header);
        if let Some(horizon) = new_horizon_ms {
            builder.set_delete_horizon(horizon);
        }
        let mut records = batch.records(self.rules.limit)?;
        for stays in &self.stays {
            let Some(record) = records.next_view() else { break };
            let record = record?;
            if *stays {
                builder.push_at(record.offset, record.timestamp_ms, record.key, record.value, record.headers);
            }
        }
        let (batch, buffer) = builder.finish_and_recycle(header.compression);
        self.buffer = buffer;
        Ok(batch)
    }

    /// Records dropped so far.
    #[must_use]
    pub const fn dropped_records(&self) -> u64 {
        self.dropped_records
    }

    /// Where the log stands after the pass has seen every batch below [`OffsetMap::end`].
    #[must_use]
    pub fn finish(self) -> CleanerCheckpoint {
        CleanerCheckpoint { clean_to: self.map.end, map_from: self.next_map_from }
    }
}

/// How far compaction came in a partition. Kept in a file; without it the whole log counts as dirty, which costs time
/// and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CleanerCheckpoint {
    /// Below it every record went through a pass.
    pub clean_to: Offset,
    /// Where the next map begins: at `clean_to`, or before it where superseded records stayed for their
    /// Idempotency-Keys.
    pub map_from: Offset,
}

impl CleanerCheckpoint {
    /// What is true of it after the log was cut at `log_end`.
    #[must_use]
    pub fn truncated(self, log_end: Offset) -> Self {
        Self { clean_to: self.clean_to.min(log_end), map_from: self.map_from.min(log_end) }
    }
}

/// A pass that is worth it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CleaningPlan {
    /// The map begins here.
    pub map_from: Offset,
    /// The map ends here at the latest: the end of a closed segment.
    pub end: Offset,
    /// The dirty part of what would be cleaned, by bytes: the dirtiest log goes first.
    pub dirty_ratio: f64,
}

/// Whether a log should be compacted now.
///
/// Dirty is what closed segments hold from `clean_to` on, up to the high watermark and to the first segment with a
/// record younger than `min.compaction.lag.ms`. A pass is due when that is at least `min.cleanable.dirty.ratio` of all
/// bytes up to there.
#[must_use]
pub fn plan_cleaning(
    closed: &[ClosedSegment],
    checkpoint: CleanerCheckpoint,
    config: &TopicConfig,
    log_start: LogStartOffset,
    high_watermark: HighWatermark,
    now_ms: i64,
) -> Option<CleaningPlan> {
    if !config.cleanup_policy.compact {
        return None;
    }
    let lag_ms = i64::try_from(config.min_compaction_lag.as_millis()).unwrap_or(i64::MAX);
    let young = |segment: &ClosedSegment| {
        lag_ms > 0 && segment.max_timestamp_ms.is_some_and(|newest| newest > now_ms.saturating_sub(lag_ms))
    };
    let start = log_start.offset();
    let (mut clean, mut dirty, mut end) = (0, 0, checkpoint.clean_to);
    for segment in closed.iter().filter(|segment| segment.end > start) {
        if segment.end <= checkpoint.clean_to {
            clean += segment.bytes;
            continue;
        }
        if segment.end > high_watermark.offset() || young(segment) {
            break;
        }
        dirty += segment.bytes;
        end = segment.end;
    }
    let dirty_ratio = dirty as f64 / ((clean + dirty) as f64).max(1.0);
    let due = dirty > 0 && dirty_ratio >= config.min_cleanable_dirty_ratio;
    due.then_some(CleaningPlan { map_from: checkpoint.map_from.max(start), end, dirty_ratio })
}

/// The runs of segments that become one each: all that begin below `end`, together no larger than `segment_bytes`
/// before they shrink, and no wider than an index's relative offsets.
#[must_use]
pub fn group_segments(closed: &[ClosedSegment], end: Offset, segment_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = vec![];
    let mut bytes = 0;
    for (i, segment) in closed.iter().enumerate().take_while(|(_, segment)| segment.base < end) {
        bytes += segment.bytes;
        match groups.last_mut() {
            Some(group)
                if bytes <= segment_bytes
                    && segment.end.get() - closed[group.start].base.get() <= i64::from(i32::MAX) =>
            {
                group.end = i + 1;
            }
            _ => {
                bytes = segment.bytes;
                groups.push(i..i + 1);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests;

//! What idempotent producers wrote last (KIP-98): a resent batch is found and not stored again, a lost one is missed.
//!
//! **Invariant**: an accepted batch follows its producer's last one without a gap, sequences wrapping at 2^31; an
//! older epoch never writes after a newer one. The table is bounded: above the limit the producer that was silent
//! longest is forgotten, and a forgotten producer may begin anywhere, as a new one may.
//!
//! Pure; `now_ms` is the wall clock of the append. The log's job checks a group's batches against a part of the table
//! that it takes for that group ([`ProducerStateTable::part`]), and notes them here when they are written: so a group that
//! the disk did not take leaves nothing, nor does a snapshot hold what was not written.

use super::LogError;
use super::frame::{frame, unframe};
use crate::codec::{BatchHeader, BatchProducer};
use crate::types::{Offset, ProducerEpoch, ProducerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many of a producer's batches are remembered: clients may have this many in flight.
pub const REMEMBERED_BATCHES: usize = 5;
/// How long a silent producer is remembered (Kafka's `producer.id.expiration.ms`).
pub const EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;

const MAGIC: [u8; 4] = *b"SLPS";
const VERSION: u16 = 1;
const WHAT: &str = "the producer snapshot";

/// What an idempotent producer's batch is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    /// It is the next one: append it.
    New,
    /// It is stored; answer what its first append was answered.
    Duplicate {
        /// Offset of its first record.
        base_offset: Offset,
        /// Its greatest timestamp.
        timestamp_ms: i64,
    },
    /// A batch before it is missing.
    OutOfOrder {
        /// The sequence that should come.
        expected: i32,
    },
    /// A newer epoch of this producer has written.
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
}

/// A producer as others may see it (DescribeProducers, KIP-664).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerSummary {
    /// Which.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of its last record, if that is remembered.
    pub last_sequence: Option<i32>,
    /// When it wrote last, Unix ms.
    pub last_active_ms: i64,
}

/// One stored batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredBatch {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    timestamp_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    last_active_ms: i64,
    /// Oldest first; empty if all were truncated.
    batches: VecDeque<StoredBatch>,
}

/// The idempotent producers of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerStateTable {
    producers: BTreeMap<ProducerId, Producer>,
    by_activity: BTreeSet<(i64, ProducerId)>,
    max_producers: usize,
}

/// The sequence `n` further on.
const fn advance(sequence: i32, n: i32) -> i32 {
    // Both are not negative, and the sum of two such numbers wraps into the sign bit at most.
    sequence.wrapping_add(n) & i32::MAX
}

impl ProducerStateTable {
    /// An empty table that remembers so many producers at most.
    #[must_use]
    pub const fn new(max_producers: usize) -> Self {
        Self { producers: BTreeMap::new(), by_activity: BTreeSet::new(), max_producers }
    }

    /// What is known of these producers, as a table of its own.
    #[must_use]
    pub fn part(&self, ids: impl Iterator<Item = ProducerId>) -> Self {
        let mut part = Self::new(self.max_producers);
        for id in ids {
            if let Some(known) = self.producers.get(&id) {
                part.by_activity.insert((known.last_active_ms, id));
                part.producers.insert(id, known.clone());
            }
        }
        part
    }

    /// Each producer's epoch, last sequence (if one is remembered) and last activity, by id.
    pub fn iter(&self) -> impl Iterator<Item = ProducerSummary> {
        self.producers.iter().map(|(id, known)| ProducerSummary {
            id: *id,
            epoch: known.epoch,
            last_sequence: known.batches.back().map(|batch| batch.last_sequence),
            last_active_ms: known.last_active_ms,
        })
    }

    /// What a batch of this producer is, by the offset delta of its last record.
    #[must_use]
    pub fn check(&self, batch: &BatchProducer, last_offset_delta: i32) -> SequenceCheck {
        let Some(known) = self.producers.get(&batch.id) else { return SequenceCheck::New };
        if batch.epoch < known.epoch {
            return SequenceCheck::Fenced { current: known.epoch };
        }
        if batch.epoch > known.epoch {
            // A new epoch counts from the start.
            let starts = batch.base_sequence == 0;
            return if starts { SequenceCheck::New } else { SequenceCheck::OutOfOrder { expected: 0 } };
        }
        let last_sequence = advance(batch.base_sequence, last_offset_delta);
        let same = |b: &&StoredBatch| b.base_sequence == batch.base_sequence && b.last_sequence == last_sequence;
        if let Some(stored) = known.batches.iter().rev().find(same) {
            let StoredBatch { base_offset, timestamp_ms, .. } = *stored;
            return SequenceCheck::Duplicate { base_offset, timestamp_ms };
        }
        match known.batches.back().map(|last| advance(last.last_sequence, 1)) {
            Some(expected) if expected != batch.base_sequence => SequenceCheck::OutOfOrder { expected },
            _ => SequenceCheck::New,
        }
    }

    /// Notes a batch that was appended (or found at recovery, or copied from a leader), by its final header. One
    /// without a producer, or that is noted already, changes nothing.
    pub fn append(&mut self, header: &BatchHeader, now_ms: i64) {
        let Some(batch) = header.producer else { return };
        let fresh = || Producer { epoch: batch.epoch, last_active_ms: now_ms, batches: VecDeque::new() };
        let known = self.producers.entry(batch.id).or_insert_with(fresh);
        if batch.epoch < known.epoch || known.batches.back().is_some_and(|last| last.base_offset >= header.base_offset)
        {
            return;
        }
        if batch.epoch > known.epoch {
            known.epoch = batch.epoch;
            known.batches.clear();
        }
        self.by_activity.remove(&(known.last_active_ms, batch.id));
        known.last_active_ms = known.last_active_ms.max(now_ms);
        self.by_activity.insert((known.last_active_ms, batch.id));
        // A transaction's marker has an epoch and no sequence.
        if batch.base_sequence >= 0 {
            if known.batches.len() == REMEMBERED_BATCHES {
                known.batches.pop_front();
            }
            known.batches.push_back(StoredBatch {
                base_sequence: batch.base_sequence,
                last_sequence: advance(batch.base_sequence, header.last_offset_delta),
                base_offset: header.base_offset,
                timestamp_ms: header.max_timestamp_ms,
            });
        }
        self.expire(now_ms);
    }

    /// Whether a batch is the last that its producer wrote, as far as it is remembered: compaction keeps its header.
    #[must_use]
    pub fn is_last_batch(&self, header: &BatchHeader) -> bool {
        let known = header.producer.and_then(|producer| self.producers.get(&producer.id));
        known.and_then(|known| known.batches.back()).is_some_and(|last| last.base_offset == header.base_offset)
    }

    /// Forgets producers that were silent for [`EXPIRATION_MS`], and the most silent ones above the limit.
    pub fn expire(&mut self, now_ms: i64) {
        while let Some((last_active, id)) = self.by_activity.first().copied() {
            let expired = last_active <= now_ms.saturating_sub(EXPIRATION_MS);
            if !expired && self.producers.len() <= self.max_producers {
                return;
            }
            self.by_activity.pop_first();
            self.producers.remove(&id);
        }
    }

    /// Forgets batches at or after the log's new end. A producer's epoch stays, which only fences more.
    pub fn truncate_from_end(&mut self, log_end: Offset) {
        for producer in self.producers.values_mut() {
            while producer.batches.back().is_some_and(|last| last.base_offset >= log_end) {
                producer.batches.pop_back();
            }
        }
    }

    /// How many producers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The snapshot, with magic, version and CRC.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.producers.len() * 64);
        for (id, producer) in &self.producers {
            payload.extend_from_slice(&id.get().to_be_bytes());
            payload.extend_from_slice(&producer.epoch.get().to_be_bytes());
            payload.extend_from_slice(&producer.last_active_ms.to_be_bytes());
            payload.push(producer.batches.len() as u8);
            for batch in &producer.batches {
                payload.extend_from_slice(&batch.base_sequence.to_be_bytes());
                payload.extend_from_slice(&batch.last_sequence.to_be_bytes());
                payload.extend_from_slice(&batch.base_offset.get().to_be_bytes());
                payload.extend_from_slice(&batch.timestamp_ms.to_be_bytes());
            }
        }
        frame(MAGIC, VERSION, &payload)
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], or [`LogError::NewerVersion`].
    pub fn from_bytes(bytes: &[u8], max_producers: usize) -> Result<Self, LogError> {
        let payload = unframe(WHAT, MAGIC, VERSION, bytes)?;
        let mut table = Self::new(max_producers);
        let mut rest = payload;
        while !rest.is_empty() {
            let (id, producer) = take_producer(&mut rest)
                .ok_or_else(|| LogError::Corrupt(format!("{WHAT}: an entry contradicts the format")))?;
            table.by_activity.insert((producer.last_active_ms, id));
            if table.producers.insert(id, producer).is_some() {
                return Err(LogError::Corrupt(format!("{WHAT}: producer {id} comes twice")));
            }
        }
        Ok(table)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*bytes)
}

fn take_producer(rest: &mut &[u8]) -> Option<(ProducerId, Producer)> {
    let id = i64::from_be_bytes(take(rest)?);
    let epoch = i16::from_be_bytes(take(rest)?);
    let last_active_ms = i64::from_be_bytes(take(rest)?);
    let [count] = take(rest)?;
    if id < 0 || epoch < 0 || usize::from(count) > REMEMBERED_BATCHES {
        return None;
    }
    let mut batches = VecDeque::with_capacity(REMEMBERED_BATCHES);
    for _ in 0..count {
        let base_sequence = i32::from_be_bytes(take(rest)?);
        let last_sequence = i32::from_be_bytes(take(rest)?);
        let base_offset = i64::from_be_bytes(take(rest)?);
        let timestamp_ms = i64::from_be_bytes(take(rest)?);
        if base_sequence < 0 || last_sequence < 0 || base_offset < 0 {
            return None;
        }
        batches.push_back(StoredBatch {
            base_sequence,
            last_sequence,
            base_offset: Offset::new(base_offset),
            timestamp_ms,
        });
    }
    Some((ProducerId::new(id), Producer { epoch: ProducerEpoch::new(epoch), last_active_ms, batches }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Compression;
    use crate::types::LeaderEpoch;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000_000;

    fn producer(id: i64, epoch: i16, base_sequence: i32) -> BatchProducer {
        BatchProducer { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch), base_sequence }
    }

    fn header(producer: BatchProducer, base_offset: i64, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset::new(base_offset),
            size: 100,
            leader_epoch: LeaderEpoch::ZERO,
            crc: 0,
            compression: Compression::None,
            log_append_time: false,
            transactional: false,
            control: false,
            delete_horizon_ms: None,
            base_timestamp_ms: base_offset,
            max_timestamp_ms: base_offset,
            last_offset_delta: count - 1,
            producer: Some(producer),
            record_count: count,
        }
    }

    fn duplicate(base_offset: i64) -> SequenceCheck {
        SequenceCheck::Duplicate { base_offset: Offset::new(base_offset), timestamp_ms: base_offset }
    }

    #[test]
    fn the_last_five_batches_are_found_again() {
        let mut table = ProducerStateTable::new(10);
        for i in 0..7 {
            let batch = producer(1, 0, i * 10);
            assert_eq!(table.check(&batch, 9), SequenceCheck::New, "{i}");
            table.append(&header(batch, i64::from(i) * 10, 10), NOW);
        }
        for i in 2..7 {
            assert_eq!(table.check(&producer(1, 0, i * 10), 9), duplicate(i64::from(i) * 10));
        }
        assert_eq!(table.check(&producer(1, 0, 10), 9), SequenceCheck::OutOfOrder { expected: 70 });
        assert_eq!(table.check(&producer(1, 0, 60), 5), SequenceCheck::OutOfOrder { expected: 70 }, "other end");
        assert_eq!(table.check(&producer(1, 0, 71), 0), SequenceCheck::OutOfOrder { expected: 70 });
        assert_eq!(table.check(&producer(1, 0, 70), 0), SequenceCheck::New);
    }

    #[test]
    fn sequences_wrap() {
        let mut table = ProducerStateTable::new(10);
        let last = producer(1, 0, i32::MAX - 1);
        table.append(&header(last, 0, 2), NOW);
        assert_eq!(table.check(&producer(1, 0, 0), 3), SequenceCheck::New);
        let across = producer(2, 0, i32::MAX);
        table.append(&header(across, 2, 3), NOW);
        assert_eq!(table.check(&across, 2), duplicate(2));
        assert_eq!(table.check(&producer(2, 0, 2), 0), SequenceCheck::New);
        assert_eq!(table.check(&producer(2, 0, 1), 0), SequenceCheck::OutOfOrder { expected: 2 });
    }

    #[test]
    fn a_newer_epoch_fences_the_older() {
        let mut table = ProducerStateTable::new(10);
        table.append(&header(producer(1, 3, 0), 0, 5), NOW);
        assert_eq!(table.check(&producer(1, 4, 5), 0), SequenceCheck::OutOfOrder { expected: 0 });
        assert_eq!(table.check(&producer(1, 4, 0), 4), SequenceCheck::New, "not a duplicate of epoch 3");
        table.append(&header(producer(1, 4, 0), 5, 5), NOW);
        let fenced = SequenceCheck::Fenced { current: ProducerEpoch::new(4) };
        assert_eq!(table.check(&producer(1, 3, 0), 4), fenced);
        table.append(&header(producer(1, 3, 5), 10, 5), NOW);
        assert_eq!(table.check(&producer(1, 4, 5), 0), SequenceCheck::New, "the older epoch changed nothing");
        // A marker raises the epoch and has no sequence.
        table.append(&header(producer(1, 5, -1), 11, 1), NOW);
        assert_eq!(table.check(&producer(1, 4, 5), 0), SequenceCheck::Fenced { current: ProducerEpoch::new(5) });
        assert_eq!(table.check(&producer(1, 5, 0), 0), SequenceCheck::New);
    }

    #[test]
    fn the_silent_are_forgotten() {
        let mut table = ProducerStateTable::new(2);
        table.append(&header(producer(1, 0, 0), 0, 1), NOW);
        table.append(&header(producer(2, 0, 0), 1, 1), NOW + 1);
        table.append(&header(producer(1, 0, 1), 2, 1), NOW + 2);
        table.append(&header(producer(3, 0, 0), 3, 1), NOW + 3);
        assert_eq!(table.len(), 2);
        assert_eq!(table.check(&producer(2, 0, 77), 0), SequenceCheck::New, "2 was silent longest");
        assert_eq!(table.check(&producer(1, 0, 1), 0), duplicate(2));
        table.expire(NOW + 2 + EXPIRATION_MS);
        assert_eq!(table.len(), 1);
        table.expire(NOW + 3 + EXPIRATION_MS);
        assert!(table.is_empty() && table.by_activity.is_empty());
    }

    #[test]
    fn what_was_cut_off_is_accepted_again() {
        let mut table = ProducerStateTable::new(2);
        table.append(&header(producer(1, 0, 0), 0, 1), NOW);
        table.append(&header(producer(1, 0, 1), 1, 1), NOW);
        table.truncate_from_end(Offset::new(1));
        assert_eq!(table.check(&producer(1, 0, 1), 0), SequenceCheck::New);
        assert_eq!(table.check(&producer(1, 0, 0), 0), duplicate(0));
    }

    #[test]
    fn a_replay_over_a_snapshot_changes_nothing() {
        let mut table = ProducerStateTable::new(2);
        let headers: Vec<_> = (0..8).map(|i| header(producer(1, 0, i), i64::from(i), 1)).collect();
        for header in &headers {
            table.append(header, NOW);
        }
        let before = table.clone();
        for header in &headers {
            table.append(header, NOW);
        }
        assert_eq!(table, before);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let mut table = ProducerStateTable::new(2);
        table.append(&header(producer(1, 0, 0), 0, 1), NOW);
        let bytes = table.to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(ProducerStateTable::from_bytes(&damaged, 2).is_err(), "{at}");
        }
    }

    proptest! {
        /// Producers that resend at will: every batch ends up stored once, in order; and the snapshot is whole.
        #[test]
        fn resends_are_free(steps in prop::collection::vec((0usize..3, 0usize..4, 1i32..4), 1..80)) {
            let mut table = ProducerStateTable::new(10);
            let mut log: Vec<(usize, BatchProducer, i32, i64)> = vec![];
            let mut next = [i32::MAX - 5, 0, 100];
            let mut end = 0;
            for (id, back, count) in steps {
                let sent: Vec<_> = log.iter().filter(|entry| entry.0 == id).copied().collect();
                if back > 0 && sent.len() >= back {
                    let (_, batch, delta, offset) = sent[sent.len() - back];
                    prop_assert_eq!(table.check(&batch, delta), duplicate(offset));
                    continue;
                }
                let batch = producer(id as i64, 0, next[id]);
                prop_assert_eq!(table.check(&batch, count - 1), SequenceCheck::New);
                table.append(&header(batch, end, count), NOW + end);
                log.push((id, batch, count - 1, end));
                end += i64::from(count);
                next[id] = advance(next[id], count);
                prop_assert_eq!(&ProducerStateTable::from_bytes(&table.to_bytes(), 10).unwrap(), &table);
            }
        }

        #[test]
        fn noise_never_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ProducerStateTable::from_bytes(&payload, 5);
            let _ = ProducerStateTable::from_bytes(&frame(MAGIC, VERSION, &payload), 5);
        }
    }
}

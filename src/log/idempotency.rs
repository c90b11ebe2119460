//! The Idempotency-Keys of one partition: what is stored or in flight under each.
//!
//! **Invariant**: a record of a request is stored at most once while its key is remembered. What is in flight is never
//! forgotten; what is stored is forgotten oldest first: after the retention, above the limit, and with the record
//! itself. A key that is forgotten is as new.
//!
//! Each record stored under a key carries the header [`IDEMPOTENCY_HEADER`], so the table can be built anew from the
//! log. The header stays on the record; whoever reads for a client leaves out what begins with `sluice-`.
//!
//! Pure; `now_ms` is the wall clock. Called by `partition_log` under its append lock: `begin` with the check of an
//! append, `complete` or `abort` with its outcome.

use super::LogError;
use super::frame::{frame, unframe};
use super::{IdempotencyEntry, IdempotencyMark};
use crate::types::{Header, Offset};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// The record header's name.
pub const IDEMPOTENCY_HEADER: &[u8] = b"sluice-idempotency";
/// Its value's length: hash of principal and key, hash of the request, index (u32, big-endian).
pub const IDEMPOTENCY_HEADER_BYTES: usize = 36;
/// What a remembered record takes in memory, about: its place in two collections.
pub const ENTRY_BYTES: usize = 160;

const MAGIC: [u8; 4] = *b"SLIK";
const VERSION: u16 = 1;
const WHAT: &str = "the snapshot of the Idempotency-Keys";
const STORED_BYTES: usize = 60;

/// One record's Idempotency-Key, as its header holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMark {
    /// Hash of principal and key.
    pub key: [u8; 16],
    /// Hash that guards the record: its request's, or its own.
    pub request: [u8; 16],
    /// Its index in its request.
    pub index: u32,
}

impl RecordMark {
    /// The header's value.
    #[must_use]
    pub fn to_bytes(self) -> [u8; IDEMPOTENCY_HEADER_BYTES] {
        let mut bytes = [0; IDEMPOTENCY_HEADER_BYTES];
        bytes[..16].copy_from_slice(&self.key);
        bytes[16..32].copy_from_slice(&self.request);
        bytes[32..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// The header as a record carries it.
    #[must_use]
    pub fn to_header(self) -> Header {
        Header { name: Bytes::from_static(IDEMPOTENCY_HEADER), value: Some(Bytes::copy_from_slice(&self.to_bytes())) }
    }

    /// The reverse of [`Self::to_bytes`]; `None` if it has another length.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value: &[u8; IDEMPOTENCY_HEADER_BYTES] = value.try_into().ok()?;
        let (key, rest) = value.split_first_chunk()?;
        let (request, index) = rest.split_first_chunk()?;
        Some(Self { key: *key, request: *request, index: u32::from_be_bytes(index.try_into().ok()?) })
    }

    /// The mark among a record's headers. Sluice puts it last, so that a client's own header of this name does not
    /// stand for it.
    #[must_use]
    pub fn find<'a>(headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Option<Self> {
        let (_, value) = headers.filter(|(name, _)| *name == IDEMPOTENCY_HEADER).last()?;
        Self::parse(value?)
    }
}

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyLimits {
    /// Stored records at most; each takes [`ENTRY_BYTES`], so it bounds the memory too.
    pub max_entries: usize,
    /// How long after it was stored.
    pub retention_ms: i64,
}

/// Why an append under an Idempotency-Key is not begun. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdempotencyRefusal {
    /// The key stands with another request.
    Conflict,
    /// One of these records is being written.
    InFlight,
    /// One of these records is stored: [`IdempotencyTable::lookup`] tells which, and the caller appends the others.
    Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    request: [u8; 16],
    /// `None` while it is in flight.
    stored: Option<Stored>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    offset: Offset,
    timestamp_ms: i64,
    stored_at_ms: i64,
}

type SlotKey = ([u8; 16], u32);

/// The Idempotency-Keys of one partition.
#[derive(Debug, Clone)]
pub struct IdempotencyTable {
    slots: BTreeMap<SlotKey, Slot>,
    /// Stored ones by offset, which is the order in which they go.
    by_offset: VecDeque<(Offset, SlotKey)>,
    limits: IdempotencyLimits,
}

impl IdempotencyTable {
    /// An empty table.
    #[must_use]
    pub const fn new(limits: IdempotencyLimits) -> Self {
        Self { slots: BTreeMap::new(), by_offset: VecDeque::new(), limits }
    }

    /// Takes changed limits; what is above them goes at the next [`Self::expire`] or [`Self::complete`].
    pub const fn set_limits(&mut self, limits: IdempotencyLimits) {
        self.limits = limits;
    }

    /// Puts the records of an append in flight, if all of them are new.
    ///
    /// # Errors
    /// [`IdempotencyRefusal::Conflict`] before the others: a record's index stands with another hash, or, unless each
    /// record has its own, anything under the key does.
    pub fn begin(&mut self, mark: &IdempotencyMark, now_ms: i64) -> Result<(), IdempotencyRefusal> {
        self.expire(now_ms);
        if !mark.per_record
            && let Some((_, request)) = mark.records.first()
            && self.slots_of(&mark.key).any(|(_, slot)| slot.request != *request)
        {
            return Err(IdempotencyRefusal::Conflict);
        }
        let mut refusal = None;
        for (index, request) in &mark.records {
            match self.slots.get(&(mark.key, *index)) {
                None => {}
                Some(slot) if slot.request != *request => return Err(IdempotencyRefusal::Conflict),
                Some(Slot { stored: None, .. }) => refusal = Some(IdempotencyRefusal::InFlight),
                Some(_) => refusal = refusal.or(Some(IdempotencyRefusal::Stored)),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        for (index, request) in &mark.records {
            self.slots.insert((mark.key, *index), Slot { request: *request, stored: None });
        }
        Ok(())
    }

    /// Notes that an append's records were stored, densely from `base_offset`, with these timestamps.
    pub fn complete(
        &mut self,
        mark: &IdempotencyMark,
        base_offset: Offset,
        timestamps_ms: impl IntoIterator<Item = i64>,
        now_ms: i64,
    ) {
        for (i, ((index, request), timestamp_ms)) in mark.records.iter().zip(timestamps_ms).enumerate() {
            let record = RecordMark { key: mark.key, request: *request, index: *index };
            self.insert(record, base_offset.plus(i as i64), timestamp_ms, now_ms);
        }
        self.expire(now_ms);
    }

    /// Forgets what an append put in flight and did not store.
    pub fn abort(&mut self, mark: &IdempotencyMark) {
        for (index, _) in &mark.records {
            let key = (mark.key, *index);
            if self.slots.get(&key).is_some_and(|slot| slot.stored.is_none()) {
                self.slots.remove(&key);
            }
        }
    }

    /// Notes a record that lies in the log: found at recovery, or copied from a leader.
    pub fn observe(&mut self, record: RecordMark, offset: Offset, timestamp_ms: i64, now_ms: i64) {
        self.insert(record, offset, timestamp_ms, now_ms);
        self.expire(now_ms);
    }

    fn insert(&mut self, record: RecordMark, offset: Offset, timestamp_ms: i64, stored_at_ms: i64) {
        let key = (record.key, record.index);
        let stored = Some(Stored { offset, timestamp_ms, stored_at_ms });
        let before = self.slots.insert(key, Slot { request: record.request, stored });
        if let Some(Stored { offset: old, stored_at_ms, .. }) = before.and_then(|slot| slot.stored) {
            if old == offset {
                // The same record again, as a replay over a snapshot gives it: its age counts from the first time.
                if let Some(Slot { stored: Some(stored), .. }) = self.slots.get_mut(&key) {
                    stored.stored_at_ms = stored_at_ms;
                }
                return;
            }
            self.unlist(old);
        }
        // Almost always the end: offsets are completed in order.
        let at = match self.by_offset.back() {
            Some((last, _)) if *last > offset => self.by_offset.partition_point(|(o, _)| *o < offset),
            _ => self.by_offset.len(),
        };
        self.by_offset.insert(at, (offset, key));
    }

    fn unlist(&mut self, offset: Offset) {
        if let Ok(at) = self.by_offset.binary_search_by_key(&offset, |(o, _)| *o) {
            self.by_offset.remove(at);
        }
    }

    /// What is known under a key, by index.
    #[must_use]
    pub fn lookup(&self, key: &[u8; 16]) -> Vec<IdempotencyEntry> {
        self.slots_of(key)
            .map(|(index, slot)| IdempotencyEntry {
                request: slot.request,
                index,
                offset: slot.stored.map(|stored| stored.offset),
                timestamp_ms: slot.stored.map_or(0, |stored| stored.timestamp_ms),
            })
            .collect()
    }

    fn slots_of(&self, key: &[u8; 16]) -> impl Iterator<Item = (u32, &Slot)> {
        self.slots.range((*key, 0)..=(*key, u32::MAX)).map(|((_, index), slot)| (*index, slot))
    }

    /// Forgets what is older than the retention, and the oldest above the limit.
    pub fn expire(&mut self, now_ms: i64) {
        let expired_at = now_ms.saturating_sub(self.limits.retention_ms);
        while let Some((_, key)) = self.by_offset.front() {
            let stored = self.slots.get(key).and_then(|slot| slot.stored);
            let expired = stored.is_none_or(|stored| stored.stored_at_ms <= expired_at);
            if !expired && self.by_offset.len() <= self.limits.max_entries {
                return;
            }
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, key)) = self.by_offset.pop_front() {
            self.slots.remove(&key);
        }
    }

    /// Forgets records below the log's new start.
    pub fn truncate_from_start(&mut self, log_start: Offset) {
        while self.by_offset.front().is_some_and(|(offset, _)| *offset < log_start) {
            self.pop_front();
        }
    }

    /// Forgets records at or after the log's new end.
    pub fn truncate_from_end(&mut self, log_end: Offset) {
        while self.by_offset.back().is_some_and(|(offset, _)| *offset >= log_end) {
            if let Some((_, key)) = self.by_offset.pop_back() {
                self.slots.remove(&key);
            }
        }
    }

    /// The lowest offset that is remembered: compaction keeps records with the header from here on.
    #[must_use]
    pub fn oldest_offset(&self) -> Option<Offset> {
        self.by_offset.front().map(|(offset, _)| *offset)
    }

    /// Records remembered, in flight included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// About how much memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.len() * ENTRY_BYTES
    }

    /// The snapshot of what is stored, with magic, version and CRC. What is in flight has no place in it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.by_offset.len() * STORED_BYTES);
        for (_, key) in &self.by_offset {
            let Some(Slot { request, stored: Some(stored) }) = self.slots.get(key) else { continue };
            payload.extend_from_slice(&RecordMark { key: key.0, request: *request, index: key.1 }.to_bytes());
            payload.extend_from_slice(&stored.offset.get().to_be_bytes());
            payload.extend_from_slice(&stored.timestamp_ms.to_be_bytes());
            payload.extend_from_slice(&stored.stored_at_ms.to_be_bytes());
        }
        frame(MAGIC, VERSION, &payload)
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], or [`LogError::NewerVersion`].
    pub fn from_bytes(bytes: &[u8], limits: IdempotencyLimits) -> Result<Self, LogError> {
        let corrupt = |why: &str| LogError::Corrupt(format!("{WHAT}: {why}"));
        let payload = unframe(WHAT, MAGIC, VERSION, bytes)?;
        let (entries, []) = payload.as_chunks::<STORED_BYTES>() else { return Err(corrupt("a length does not fit")) };
        let mut table = Self::new(limits);
        for entry in entries {
            let (mark, numbers) = entry.split_at(IDEMPOTENCY_HEADER_BYTES);
            let (numbers, []) = numbers.as_chunks::<8>() else { return Err(corrupt("a length does not fit")) };
            let [offset, timestamp_ms, stored_at_ms] = [0, 1, 2].map(|i| i64::from_be_bytes(numbers[i]));
            let record = RecordMark::parse(mark).ok_or_else(|| corrupt("a length does not fit"))?;
            let last = table.by_offset.back().map_or(-1, |(last, _)| last.get());
            if offset <= last {
                return Err(corrupt("offsets do not rise"));
            }
            table.insert(record, Offset::new(offset), timestamp_ms, stored_at_ms);
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests;

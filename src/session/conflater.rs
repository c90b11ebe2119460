//! The newest record of each key, for readers that would rather skip than lag (`slow=conflate`).
//!
//! **Invariant**: until all that it holds was given out, the reader's cursor stays where it began: whoever is cut off
//! in between gets some records again, and misses none that counts.

use super::cursor::Position;
use super::read_plan::{Gap, GapReason};
use crate::types::{Header, PartitionId, StoredRecord};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What it holds at most, about; then it gives out what it has.
const MAX_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Conflater {
    /// Where the reader was.
    pub from: Vec<Position>,
    newest: BTreeMap<Bytes, (PartitionId, StoredRecord)>,
    keyless: Vec<(PartitionId, StoredRecord)>,
    left_out: BTreeMap<PartitionId, u64>,
    bytes: usize,
}

/// What it gives out.
pub(super) struct Conflated {
    pub gaps: Vec<Gap>,
    /// In the order of partition and offset.
    pub records: Vec<(PartitionId, StoredRecord)>,
    pub left_out: u64,
}

impl Conflater {
    pub fn new(from: Vec<Position>) -> Self {
        Self { from, newest: BTreeMap::new(), keyless: Vec::new(), left_out: BTreeMap::new(), bytes: 0 }
    }

    pub const fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.keyless.is_empty()
    }

    pub fn add(&mut self, partition: PartitionId, record: &StoredRecord) {
        let record = detached(record);
        self.bytes += size(&record);
        let Some(key) = record.key.clone() else {
            self.keyless.push((partition, record));
            return;
        };
        if let Some((older_partition, older)) = self.newest.insert(key, (partition, record)) {
            self.bytes -= size(&older);
            *self.left_out.entry(older_partition).or_default() += 1;
        }
    }

    /// Gives out all. `to` is where the reader is now.
    pub fn finish(self, to: &[Position]) -> Conflated {
        let mut records: Vec<_> = self.newest.into_values().chain(self.keyless).collect();
        records.sort_by_key(|(partition, record)| (*partition, record.offset));
        let offset = |positions: &[Position], partition| {
            let found = positions.binary_search_by_key(&partition, |p: &Position| p.partition).ok()?;
            positions[found].offset()
        };
        let gap = |partition: &PartitionId| {
            let (from, to) = (offset(&self.from, *partition)?, offset(to, *partition)?);
            Some(Gap { partition: *partition, from, to, reason: GapReason::Conflated })
        };
        Conflated {
            gaps: self.left_out.keys().filter_map(gap).collect(),
            left_out: self.left_out.values().sum(),
            records,
        }
    }
}

fn size(record: &StoredRecord) -> usize {
    let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|h| h.name.len() + part(&h.value)).sum();
    part(&record.key) + part(&record.value) + headers + 128
}

/// A copy that does not hold the batch it came from.
fn detached(record: &StoredRecord) -> StoredRecord {
    let copy = |bytes: &Option<Bytes>| bytes.as_ref().map(|b| Bytes::copy_from_slice(b));
    let header = |h: &Header| Header { name: Bytes::copy_from_slice(&h.name), value: copy(&h.value) };
    StoredRecord {
        key: copy(&record.key),
        value: copy(&record.value),
        headers: record.headers.iter().map(header).collect(),
        ..*record
    }
}

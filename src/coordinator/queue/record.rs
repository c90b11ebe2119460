//! The records of the state topic: a kind in the key, then whose it is. Pure.
//!
//! | key | value |
//! |---|---|
//! | 1 | the epoch of the ownership that begins here |
//! | 2, queue id | the queue's definition as JSON; none: the queue was deleted |
//! | 3, queue id, partition | a [`Delta`] |
//! | 4, queue id, partition | a part of a snapshot: its number, how many there are, bytes |

use super::change::{Delta, number, put};
use super::definition::Definition;
use crate::types::{Record, StoredRecord};
use bytes::Bytes;

/// Bytes of a snapshot's part at most: below the limit of a record by far.
const PART_BYTES: usize = 256 << 10;

/// What a record says.
pub(super) enum Entry {
    Epoch(i32),
    Defined { queue: u64, name: String, definition: Definition },
    Deleted { queue: u64 },
    Delta { queue: u64, partition: i32, delta: Delta },
    SnapshotPart { queue: u64, partition: i32, part: u32, parts: u32, bytes: Bytes },
}

fn record(key: Vec<u8>, value: Option<Vec<u8>>) -> Record {
    Record { key: Some(key.into()), value: value.map(Bytes::from), ..Record::default() }
}

fn key(kind: u8, queue: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.push(kind);
    key.extend_from_slice(&queue.to_le_bytes());
    key
}

fn partition_key(kind: u8, queue: u64, partition: i32) -> Vec<u8> {
    let mut key = key(kind, queue);
    put(&mut key, i64::from(partition));
    key
}

pub(super) fn epoch(epoch: i32) -> Record {
    let mut value = Vec::new();
    put(&mut value, i64::from(epoch));
    record(vec![1], Some(value))
}

pub(super) fn defined(queue: u64, name: &str, definition: &Definition) -> Record {
    record(key(2, queue), Some(definition.encode(name)))
}

pub(super) fn deleted(queue: u64) -> Record {
    record(key(2, queue), None)
}

pub(super) fn delta(queue: u64, partition: i32, delta: &Delta) -> Record {
    let mut value = Vec::with_capacity(32);
    delta.encode(&mut value);
    record(partition_key(3, queue, partition), Some(value))
}

/// A snapshot's parts, in order; at least one.
pub(super) fn snapshot(queue: u64, partition: i32, bytes: &[u8]) -> Vec<Record> {
    let chunks: Vec<&[u8]> = bytes.chunks(PART_BYTES).collect();
    let part = |(n, chunk): (usize, &&[u8])| {
        let mut value = Vec::with_capacity(chunk.len() + 6);
        put(&mut value, n as i64);
        put(&mut value, chunks.len() as i64);
        value.extend_from_slice(chunk);
        record(partition_key(4, queue, partition), Some(value))
    };
    chunks.iter().enumerate().map(part).collect()
}

/// What a record of the log says; `None` if it can not be understood.
pub(super) fn parse(stored: &StoredRecord) -> Option<Entry> {
    let mut key: &[u8] = stored.key.as_deref()?;
    let kind = *key.split_off_first()?;
    let value = stored.value.as_ref();
    if kind == 1 {
        return Some(Entry::Epoch(number(&mut &value?[..]).ok()?));
    }
    let queue = u64::from_le_bytes(key.split_off(..8)?.try_into().ok()?);
    let partition = |key: &mut &[u8]| number(key).ok();
    match kind {
        2 => match value {
            None => Some(Entry::Deleted { queue }),
            Some(value) => {
                let (name, definition) = Definition::decode(value)?;
                Some(Entry::Defined { queue, name, definition })
            }
        },
        3 => Some(Entry::Delta { queue, partition: partition(&mut key)?, delta: Delta::decode(value?).ok()? }),
        4 => {
            let mut rest: &[u8] = value?;
            let (part, parts) = (number(&mut rest).ok()?, number(&mut rest).ok()?);
            let bytes = value?.slice_ref(rest);
            Some(Entry::SnapshotPart { queue, partition: partition(&mut key)?, part, parts, bytes })
        }
        _ => None,
    }
}

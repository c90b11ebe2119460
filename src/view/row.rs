//! The bytes of keys and rows in a view's store.
//!
//! ```text
//! V                                        version of this layout
//! A | topic id | partition                 applied: next offset, leader epoch
//! L | topic id | partition | record key    latest: flags, offset, leader epoch, timestamp, then
//!                                            a copy: headers, value     (most records)
//!                                            a pointer: payload bytes   (large ones: the log has it)
//! ```
//! A row holds the record itself, so that a page of a snapshot is one scan: read from the log, each row would cost a
//! batch. Only records above [`COPY_BYTES`] stay in the log, since sled is bad at large values. A tombstone keeps its
//! row, because a topic that got more partitions may have an older record of the key in another one.
//!
//! Numbers are big endian: rows are in the order of partitions, then keys.

use crate::types::{Header, LeaderEpoch, Offset, PartitionId, StoredRecord, TopicId, TopicPartition};
use bytes::Bytes;

/// The key under which the layout's version lies, and the version.
pub(super) const VERSION_KEY: &[u8] = b"V";
pub(super) const VERSION: &[u8] = &[1];

/// Records with more payload than this are pointed at, not copied. sled holds at least one page of 16 rows in each of the
/// 256 parts of its cache: 16 KiB make that 64 MiB.
pub(super) const COPY_BYTES: usize = 16 << 10;

const TOMBSTONE: u8 = 1;
const POINTER: u8 = 2;
/// Tag, topic id, partition.
const PREFIX_BYTES: usize = 1 + 16 + 4;

pub(super) const APPLIED_TAG: u8 = b'A';
const LATEST_TAG: u8 = b'L';

fn prefix(tag: u8, partition: TopicPartition) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES);
    key.push(tag);
    key.extend_from_slice(partition.topic.as_bytes());
    key.extend_from_slice(&partition.partition.get().to_be_bytes());
    key
}

/// Where a partition's applied offset lies.
pub(super) fn applied_key(partition: TopicPartition) -> Vec<u8> {
    prefix(APPLIED_TAG, partition)
}

/// The partition of an applied offset's key.
pub(super) fn applied_partition(key: &[u8]) -> Option<TopicPartition> {
    let (topic, partition) = key.strip_prefix(&[APPLIED_TAG])?.split_first_chunk()?;
    let partition = i32::from_be_bytes(partition.try_into().ok()?);
    (partition >= 0)
        .then(|| TopicPartition { topic: TopicId::from_bytes(*topic), partition: PartitionId::new(partition) })
}

/// What all rows of a partition begin with.
pub(super) fn latest_prefix(partition: TopicPartition) -> Vec<u8> {
    prefix(LATEST_TAG, partition)
}

/// Where the row of a record's key lies.
pub(super) fn latest_key(partition: TopicPartition, key: &[u8]) -> Vec<u8> {
    let mut row = prefix(LATEST_TAG, partition);
    row.extend_from_slice(key);
    row
}

/// The record's key of a row.
pub(super) fn record_key(row_key: &[u8]) -> &[u8] {
    row_key.get(PREFIX_BYTES..).unwrap_or_default()
}

/// How far a partition is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    /// The first offset that is not.
    pub(super) next: Offset,
    /// The leadership under which that was so.
    pub(super) epoch: LeaderEpoch,
}

impl Applied {
    pub(super) fn encode(self) -> Vec<u8> {
        [&self.next.get().to_be_bytes()[..], &self.epoch.get().to_be_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (next, epoch) = bytes.split_first_chunk()?;
        let (next, epoch) = (i64::from_be_bytes(*next), i32::from_be_bytes(epoch.try_into().ok()?));
        (next >= 0 && epoch >= 0).then(|| Self { next: Offset::new(next), epoch: LeaderEpoch::new(epoch) })
    }
}

/// What a row says of a key's latest record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) offset: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) timestamp_ms: i64,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Tombstone,
    Copy {
        value: Bytes,
        headers: Vec<Header>,
    },
    /// The log has it; bytes of its payload.
    Pointer(usize),
}

impl Row {
    /// Bytes that the record takes on a page.
    pub(super) fn payload_bytes(&self) -> usize {
        match &self.content {
            Content::Tombstone => 0,
            Content::Pointer(bytes) => *bytes,
            Content::Copy { value, headers } => value.len() + header_bytes(headers),
        }
    }

    /// The record, if the row has it.
    pub(super) fn into_record(self, key: Bytes) -> Option<StoredRecord> {
        let Content::Copy { value, headers } = self.content else { return None };
        Some(StoredRecord {
            offset: self.offset,
            leader_epoch: self.epoch,
            timestamp_ms: self.timestamp_ms,
            key: Some(key),
            value: Some(value),
            headers,
        })
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [flags] = take::<1>(&mut rest)?;
        let offset = i64::from_be_bytes(take(&mut rest)?);
        let epoch = i32::from_be_bytes(take(&mut rest)?);
        let timestamp_ms = i64::from_be_bytes(take(&mut rest)?);
        let content = match flags {
            TOMBSTONE => Content::Tombstone,
            POINTER => Content::Pointer(u32::from_be_bytes(take(&mut rest)?) as usize),
            0 => {
                let count = u32::from_be_bytes(take(&mut rest)?);
                let mut headers = Vec::new();
                for _ in 0..count {
                    let name = take_bytes(&mut rest)??;
                    headers.push(Header { name, value: take_bytes(&mut rest)? });
                }
                Content::Copy { value: Bytes::copy_from_slice(rest), headers }
            }
            _ => return None,
        };
        let sound = offset >= 0 && epoch >= 0;
        sound.then(|| Self { offset: Offset::new(offset), epoch: LeaderEpoch::new(epoch), timestamp_ms, content })
    }
}

fn header_bytes(headers: &[Header]) -> usize {
    headers.iter().map(|h| h.name.len() + h.value.as_ref().map_or(0, Bytes::len)).sum()
}

/// The row of a record.
pub(super) fn encode_row(record: &StoredRecord) -> Vec<u8> {
    let payload = record.value.as_ref().map_or(0, Bytes::len) + header_bytes(&record.headers);
    let (flags, copied) = match &record.value {
        None => (TOMBSTONE, 0),
        Some(_) if payload > COPY_BYTES => (POINTER, 0),
        Some(_) => (0, payload),
    };
    let mut row = Vec::with_capacity(25 + copied + 8 * record.headers.len());
    row.push(flags);
    row.extend_from_slice(&record.offset.get().to_be_bytes());
    row.extend_from_slice(&record.leader_epoch.get().to_be_bytes());
    row.extend_from_slice(&record.timestamp_ms.to_be_bytes());
    match &record.value {
        None => {}
        Some(_) if flags == POINTER => row.extend_from_slice(&(payload as u32).to_be_bytes()),
        Some(value) => {
            row.extend_from_slice(&(record.headers.len() as u32).to_be_bytes());
            for header in &record.headers {
                put_bytes(&mut row, Some(&header.name));
                put_bytes(&mut row, header.value.as_ref());
            }
            row.extend_from_slice(value);
        }
    }
    row
}

/// Length and bytes; `u32::MAX` stands for none at all.
fn put_bytes(row: &mut Vec<u8>, bytes: Option<&Bytes>) {
    let len = bytes.map_or(u32::MAX, |b| b.len() as u32);
    row.extend_from_slice(&len.to_be_bytes());
    row.extend_from_slice(bytes.map_or(&[], |b| &b[..]));
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}

#[allow(clippy::option_option)] // cut off, or a null header value
fn take_bytes(rest: &mut &[u8]) -> Option<Option<Bytes>> {
    let len = u32::from_be_bytes(take(rest)?);
    if len == u32::MAX {
        return Some(None);
    }
    let (taken, behind) = rest.split_at_checked(len as usize)?;
    *rest = behind;
    Some(Some(Bytes::copy_from_slice(taken)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn a_row_gives_its_record_back(
            value in proptest::option::of(bytes(50)),
            headers in proptest::collection::vec((bytes(9), proptest::option::of(bytes(9))), 0..4),
            offset in 0..i64::MAX,
            cut in any::<prop::sample::Index>(),
        ) {
            let key = Bytes::from_static(b"k");
            let record = StoredRecord {
                offset: Offset::new(offset),
                leader_epoch: LeaderEpoch::new(3),
                timestamp_ms: -1,
                key: Some(key.clone()),
                value,
                headers: headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
            };
            let row = encode_row(&record);
            let decoded = Row::decode(&row).unwrap();
            if record.value.is_none() {
                prop_assert_eq!(decoded.content, Content::Tombstone);
            } else {
                prop_assert_eq!(decoded.into_record(key), Some(record));
            }
            let _ = Row::decode(&row[..cut.index(row.len())]); // no panic
        }
    }

    #[test]
    fn a_large_record_is_pointed_at() {
        let record = StoredRecord {
            offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::ZERO,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![0; COPY_BYTES + 1].into()),
            headers: Vec::new(),
        };
        let row = encode_row(&record);
        assert!(row.len() < 100);
        assert_eq!(Row::decode(&row).unwrap().content, Content::Pointer(COPY_BYTES + 1));
    }
}

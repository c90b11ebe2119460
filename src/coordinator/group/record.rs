//! The records of `__consumer_offsets`, in Kafka's own formats: OffsetCommitKey/Value and GroupMetadataKey/Value.
//!
//! Offsets are written as version 4 (which has the topic's id), groups as version 3; every older version is read.

use super::wire::{Reader, Writer};
use super::{CommittedOffset, GroupState};
use crate::types::{LeaderEpoch, Offset, PartitionId, Record, TopicId, TopicName};
use bytes::Bytes;

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const OFFSET_VALUE: i16 = 4;
const GROUP_VALUE: i16 = 3;
/// The tag of the topic's id in an offset's value.
const TOPIC_ID_TAG: u32 = 0;

/// What a record's key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Offset { group: String, topic: TopicName, partition: PartitionId },
    Group(String),
}

impl Key {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader(bytes);
        match input.i16()? {
            0 | OFFSET_KEY => {
                let group = input.string()?.to_owned();
                let topic = TopicName::new(input.string()?).ok()?;
                let partition = input.i32().filter(|p| *p >= 0).map(PartitionId::new)?;
                Some(Self::Offset { group, topic, partition })
            }
            GROUP_KEY => Some(Self::Group(input.string()?.to_owned())),
            _ => None,
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::Offset { group, topic, partition } => {
                out.i16(OFFSET_KEY);
                out.string(group);
                out.string(topic.as_str());
                out.i32(partition.get());
            }
            Self::Group(group) => {
                out.i16(GROUP_KEY);
                out.string(group);
            }
        }
        out.finish()
    }

    /// The record that deletes what it names.
    pub(super) fn tombstone(&self, now_ms: i64) -> Record {
        Record { timestamp_ms: Some(now_ms), key: Some(self.encode()), value: None, headers: Vec::new() }
    }
}

/// A committed offset's record.
pub(super) fn offset_record(key: &Key, offset: &CommittedOffset) -> Record {
    let mut out = Writer::default();
    out.i16(OFFSET_VALUE);
    out.i64(offset.offset.get());
    out.i32(offset.leader_epoch.map_or(-1, LeaderEpoch::get));
    out.compact_string(&offset.metadata);
    out.i64(offset.committed_ms);
    match offset.topic_id {
        Some(id) => {
            [1, TOPIC_ID_TAG, 16].into_iter().for_each(|n| out.varint(n));
            out.0.extend_from_slice(id.as_bytes());
        }
        None => out.varint(0),
    }
    record(key, offset.committed_ms, out)
}

/// Reads an offset's value.
pub(super) fn decode_offset(bytes: &[u8]) -> Option<CommittedOffset> {
    let mut input = Reader(bytes);
    let version = input.i16().filter(|v| (0..=OFFSET_VALUE).contains(v))?;
    let offset = input.i64().filter(|o| *o >= 0).map(Offset::new)?;
    let epoch = if version >= 3 { input.i32()? } else { -1 };
    let metadata = if version >= 4 { input.compact_string()? } else { input.string()? }.to_owned();
    let committed_ms = input.i64()?;
    let mut topic_id = None;
    if version >= 4 {
        for _ in 0..input.varint()? {
            let (tag, length) = (input.varint()?, input.varint()?);
            let value = input.take(length as usize)?;
            if tag == TOPIC_ID_TAG {
                topic_id = Some(TopicId::from_bytes(value.try_into().ok()?));
            }
        }
    }
    let leader_epoch = (epoch >= 0).then(|| LeaderEpoch::new(epoch));
    Some(CommittedOffset { topic_id, offset, leader_epoch, metadata, committed_ms })
}

/// A group as it is stored: its members with their assignment, as of the last rebalance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredGroup {
    pub(super) protocol_type: String,
    pub(super) generation_id: i32,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    /// When it came into its state, Unix ms; −1 if the record does not say.
    pub(super) state_since_ms: i64,
    pub(super) members: Vec<StoredMember>,
}

impl StoredGroup {
    /// The state that the record stands for.
    pub(super) const fn state(&self) -> GroupState {
        if self.members.is_empty() { GroupState::Empty } else { GroupState::Stable }
    }
}

/// A member as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredMember {
    pub(super) member_id: String,
    pub(super) group_instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    pub(super) subscription: Bytes,
    pub(super) assignment: Bytes,
}

/// A group's record.
pub(super) fn group_record(group_id: &str, group: &StoredGroup, now_ms: i64) -> Record {
    let mut out = Writer::default();
    out.i16(GROUP_VALUE);
    out.string(&group.protocol_type);
    out.i32(group.generation_id);
    out.nullable_string(group.protocol.as_deref());
    out.nullable_string(group.leader.as_deref());
    out.i64(group.state_since_ms);
    out.i32(group.members.len() as i32);
    for member in &group.members {
        out.string(&member.member_id);
        out.nullable_string(member.group_instance_id.as_deref());
        out.string(&member.client_id);
        out.string(&member.client_host);
        out.i32(member.rebalance_timeout_ms);
        out.i32(member.session_timeout_ms);
        out.bytes(&member.subscription);
        out.bytes(&member.assignment);
    }
    record(&Key::Group(group_id.to_owned()), now_ms, out)
}

/// Reads a group's value.
pub(super) fn decode_group(bytes: &[u8]) -> Option<StoredGroup> {
    let mut input = Reader(bytes);
    let version = input.i16().filter(|v| (0..=GROUP_VALUE).contains(v))?;
    let protocol_type = input.string()?.to_owned();
    let generation_id = input.i32()?;
    let protocol = input.nullable_string()?.map(str::to_owned);
    let leader = input.nullable_string()?.map(str::to_owned);
    let state_since_ms = if version >= 2 { input.i64()? } else { -1 };
    let mut members = Vec::new();
    for _ in 0..input.count(16)? {
        let member_id = input.string()?.to_owned();
        let group_instance_id = if version >= 3 { input.nullable_string()?.map(str::to_owned) } else { None };
        let (client_id, client_host) = (input.string()?.to_owned(), input.string()?.to_owned());
        let rebalance_timeout_ms = if version >= 1 { Some(input.i32()?) } else { None };
        let session_timeout_ms = input.i32()?;
        members.push(StoredMember {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription: Bytes::copy_from_slice(input.bytes()?),
            assignment: Bytes::copy_from_slice(input.bytes()?),
        });
    }
    Some(StoredGroup { protocol_type, generation_id, protocol, leader, state_since_ms, members })
}

fn record(key: &Key, now_ms: i64, value: Writer) -> Record {
    Record { timestamp_ms: Some(now_ms), key: Some(key.encode()), value: Some(value.finish()), headers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_kafkas() {
        let key =
            Key::Offset { group: "g".into(), topic: TopicName::new("t").unwrap(), partition: PartitionId::new(7) };
        let mut offset = CommittedOffset {
            topic_id: None,
            offset: Offset::new(5),
            leader_epoch: Some(LeaderEpoch::new(2)),
            metadata: "m".into(),
            committed_ms: 9,
        };
        let record = offset_record(&key, &offset);
        assert_eq!(&record.key.unwrap()[..], [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 7]);
        let value = [0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 2, b'm', 0, 0, 0, 0, 0, 0, 0, 9, 0];
        assert_eq!(&record.value.unwrap()[..], value);
        // Version 3, as Kafka 3 writes it.
        let old = [&[0, 3][..], &value[2..14], &[0, 1, b'm'], &value[16..24]].concat();
        assert_eq!(decode_offset(&old), Some(offset.clone()));
        offset.topic_id = Some(TopicId::from_random([3; 16]));
        assert_eq!(decode_offset(&offset_record(&key, &offset).value.unwrap()), Some(offset));
        assert_eq!(&Key::Group("g".into()).tombstone(1).key.unwrap()[..], [0, 2, 0, 1, b'g']);
    }

    #[test]
    fn a_group_survives() {
        let member = StoredMember {
            member_id: "m-1".into(),
            group_instance_id: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 300_000,
            session_timeout_ms: 45_000,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"part"),
        };
        let group = StoredGroup {
            protocol_type: "consumer".into(),
            generation_id: 3,
            protocol: Some("range".into()),
            leader: Some("m-1".into()),
            state_since_ms: 77,
            members: vec![member],
        };
        let record = group_record("g", &group, 1);
        assert_eq!(Key::decode(&record.key.unwrap()), Some(Key::Group("g".into())));
        assert_eq!(decode_group(&record.value.unwrap()), Some(group));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_left_out(bytes: Vec<u8>) {
            let _ = (Key::decode(&bytes), decode_offset(&bytes), decode_group(&bytes));
        }
    }
}

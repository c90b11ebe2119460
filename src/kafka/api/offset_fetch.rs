//! OffsetFetch 1-10: how far groups have read, in the partitions asked for or in all. From 8 on several groups at once,
//! from 10 on with topics by id.

use super::super::{Door, error_code::ErrorCode};
use super::{topic_by_id, topic_by_name};
use crate::codec::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use crate::engine::{CommittedOffset, GroupOffsets};
use crate::types::{PartitionId, TopicName};

/// Since this version several groups come at once.
const SEVERAL_FROM: i16 = 8;
/// Since this version topics are named by their ids.
const TOPIC_IDS_FROM: i16 = 10;

pub(super) async fn answer(door: Door, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if version >= SEVERAL_FROM {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            groups.push(fetch(&door, version, group).await);
        }
        return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
    }
    let topics = request.topics.map(|topics| {
        let topic = |topic: crate::codec::messages::offset_fetch::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..OffsetFetchRequestTopics::default()
        };
        topics.into_iter().map(topic).collect()
    });
    let one = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..OffsetFetchRequestGroup::default() };
    let one = fetch(&door, version, one).await;
    let partition = |p: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: p.partition_index,
        committed_offset: p.committed_offset,
        committed_leader_epoch: p.committed_leader_epoch,
        metadata: p.metadata,
        // Before version 2 there is no other place for it.
        error_code: if p.error_code == 0 { one.error_code } else { p.error_code },
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    };
    OffsetFetchResponse {
        topics: one.topics.into_iter().map(topic).collect(),
        error_code: one.error_code,
        ..OffsetFetchResponse::default()
    }
}

async fn fetch(door: &Door, version: i16, group: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let committed = match door.engine().groups() {
        Ok(groups) => groups.fetch_offsets(&group.group_id).await,
        Err(error) => Err(error),
    };
    let (committed, error_code) = match committed {
        Ok(committed) => (committed, ErrorCode::None),
        Err(error) => (GroupOffsets::new(), ErrorCode::from(&error)),
    };
    let topics = match group.topics {
        Some(topics) => topics.into_iter().map(|topic| asked(door, version, topic, &committed)).collect(),
        None => all(door, &committed),
    };
    OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code: error_code.code() }
}

fn asked(
    door: &Door,
    version: i16,
    topic: OffsetFetchRequestTopics,
    committed: &GroupOffsets,
) -> OffsetFetchResponseTopics {
    let (name, unknown) = if version >= TOPIC_IDS_FROM {
        match topic_by_id(door, topic.topic_id) {
            Ok(info) => (Some(info.name.clone()), ErrorCode::None),
            Err(code) => (None, code),
        }
    } else {
        (TopicName::new(&topic.name).ok(), ErrorCode::None)
    };
    let partition = |index: i32| {
        let id = (index >= 0).then(|| PartitionId::new(index));
        let found = name.clone().zip(id).and_then(|place| committed.get(&place));
        OffsetFetchResponsePartitions { error_code: unknown.code(), ..partition(index, found) }
    };
    OffsetFetchResponseTopics {
        partitions: topic.partition_indexes.into_iter().map(partition).collect(),
        name: topic.name,
        topic_id: topic.topic_id,
    }
}

fn all(door: &Door, committed: &GroupOffsets) -> Vec<OffsetFetchResponseTopics> {
    let mut topics: Vec<OffsetFetchResponseTopics> = Vec::new();
    for ((topic, id), offset) in committed {
        let data = partition(id.get(), Some(offset));
        match topics.last_mut().filter(|last| last.name == topic.as_str()) {
            Some(last) => last.partitions.push(data),
            None => topics.push(OffsetFetchResponseTopics {
                topic_id: topic_by_name(door, topic.as_str()).map_or([0; 16], |info| *info.id.as_bytes()),
                name: topic.to_string(),
                partitions: vec![data],
            }),
        }
    }
    topics
}

/// A partition's place in the answer; −1 where nothing was committed.
fn partition(index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: committed.map_or(-1, |c| c.offset.get()),
        committed_leader_epoch: committed.and_then(|c| c.leader_epoch).map_or(-1, |epoch| epoch.get()),
        metadata: Some(committed.map(|c| c.metadata.clone()).unwrap_or_default()),
        error_code: ErrorCode::None.code(),
    }
}

//! DescribeTopicPartitions 0 (KIP-966): topics in the order of their names, so many partitions at a time.

use super::super::Door;
use super::super::error_code::ErrorCode;
use super::TOPIC_OPERATIONS;
use crate::codec::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponseCursor,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use crate::engine::PartitionDescription;
use crate::types::{BrokerId, TopicName};
use std::collections::BTreeSet;

/// The most partitions of one answer, as Kafka's `max.request.partition.size.limit`.
const MAX_PARTITIONS: usize = 2000;

pub(super) async fn answer(
    door: Door,
    _version: i16,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.unwrap_or_default();
    let mut names: BTreeSet<String> = request.topics.into_iter().map(|topic| topic.name).collect();
    if names.is_empty() {
        names = door.engine().topics().iter().map(|info| info.name.to_string()).collect();
    }
    let mut left = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, MAX_PARTITIONS);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|name| *name >= cursor.topic_name) {
        let first = if name == cursor.topic_name { cursor.partition_index.max(0) as usize } else { 0 };
        if left == 0 {
            let next = DescribeTopicPartitionsResponseCursor { topic_name: name, partition_index: first as i32 };
            response.next_cursor = Some(next);
            return response;
        }
        let described = match TopicName::new(&name) {
            Ok(name) => door.engine().describe_topic(&name).await.map_err(|error| ErrorCode::from(&error)),
            Err(_) => Err(ErrorCode::InvalidTopic),
        };
        let described = match described {
            Ok(described) => described,
            Err(code) => {
                response.topics.push(DescribeTopicPartitionsResponseTopic {
                    error_code: code.code(),
                    name: Some(name),
                    ..DescribeTopicPartitionsResponseTopic::default()
                });
                continue;
            }
        };
        let partitions: Vec<_> = described.partitions.iter().skip(first).take(left).map(partition).collect();
        let next = first + partitions.len();
        left -= partitions.len();
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.clone()),
            topic_id: *described.info.id.as_bytes(),
            is_internal: described.info.name.is_internal(),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribeTopicPartitionsResponseTopic::default()
        });
        if next < described.partitions.len() {
            let next = DescribeTopicPartitionsResponseCursor { topic_name: name, partition_index: next as i32 };
            response.next_cursor = Some(next);
            return response;
        }
    }
    response
}

fn partition(described: &PartitionDescription) -> DescribeTopicPartitionsResponsePartition {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.get()).collect();
    let code = match described.leader {
        Some(_) => ErrorCode::None,
        None => ErrorCode::LeaderNotAvailable,
    };
    DescribeTopicPartitionsResponsePartition {
        error_code: code.code(),
        partition_index: described.partition.get(),
        leader_id: described.leader.map_or(-1, |id| id.get()),
        leader_epoch: described.leader_epoch.get(),
        replica_nodes: ids(&described.replicas),
        isr_nodes: ids(&described.in_sync_replicas),
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        offline_replicas: Vec::new(),
    }
}

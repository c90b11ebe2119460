//! OffsetForLeaderEpoch 2-4 (KIP-101, KIP-320): where a leader epoch ended, so that a reader sees that it was cut.

use super::super::{Door, error_code::ErrorCode};
use super::{check_leader_epoch, partition_id, topic_by_name};
use crate::codec::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, OffsetForLeaderPartition,
    OffsetForLeaderTopicResult,
};
use crate::engine::TopicInfo;
use crate::types::LeaderEpoch;

pub(super) async fn answer(
    door: Door,
    _version: i16,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let info = topic_by_name(&door, &topic.topic);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let found = match &info {
                Ok(info) => find(&door, info, &partition).await,
                Err(code) => Err(*code),
            };
            partitions.push(found.unwrap_or_else(|code| EpochEndOffset {
                partition: partition.partition,
                error_code: code.code(),
                ..EpochEndOffset::default()
            }));
        }
        topics.push(OffsetForLeaderTopicResult { topic: topic.topic, partitions });
    }
    OffsetForLeaderEpochResponse { topics, ..OffsetForLeaderEpochResponse::default() }
}

async fn find(door: &Door, info: &TopicInfo, wanted: &OffsetForLeaderPartition) -> Result<EpochEndOffset, ErrorCode> {
    let partition = partition_id(wanted.partition)?;
    let current = door.engine().watch(info.id, partition)?.borrow().leader_epoch;
    check_leader_epoch(wanted.current_leader_epoch, current)?;
    if wanted.leader_epoch < 0 || wanted.leader_epoch > current.get() {
        return Ok(EpochEndOffset { partition: wanted.partition, ..EpochEndOffset::default() }); // nothing is known of it
    }
    let found = door.engine().epoch_end(info.id, partition, LeaderEpoch::new(wanted.leader_epoch)).await?;
    Ok(EpochEndOffset {
        partition: wanted.partition,
        leader_epoch: found.epoch.get(),
        end_offset: found.end.get(),
        ..EpochEndOffset::default()
    })
}

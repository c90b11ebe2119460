//! ListOffsets 1-10: an end of a log, or the first record at a timestamp.

use super::super::{Door, error_code::ErrorCode};
use super::{check_leader_epoch, partition_id, topic_by_name};
use crate::codec::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use crate::engine::{TimestampSpec, TopicInfo};

/// What stands for places instead of a time. Nothing lies in another tier, so its start is the log's, and its end is none.
mod place {
    pub(super) const LATEST: i64 = -1;
    pub(super) const EARLIEST: i64 = -2;
    pub(super) const MAX_TIMESTAMP: i64 = -3;
    pub(super) const EARLIEST_LOCAL: i64 = -4;
    pub(super) const LATEST_TIERED: i64 = -5;
}

pub(super) async fn answer(door: Door, _version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let info = topic_by_name(&door, &topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let found = match &info {
                Ok(info) => find(&door, info, &partition).await,
                Err(code) => Err(*code),
            };
            partitions.push(found.unwrap_or_else(|code| ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                error_code: code.code(),
                ..ListOffsetsPartitionResponse::default()
            }));
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
}

async fn find(
    door: &Door,
    info: &TopicInfo,
    wanted: &ListOffsetsPartition,
) -> Result<ListOffsetsPartitionResponse, ErrorCode> {
    let partition = partition_id(wanted.partition_index)?;
    let progress = *door.engine().watch(info.id, partition)?.borrow();
    check_leader_epoch(wanted.current_leader_epoch, progress.leader_epoch)?;
    let find = |spec| door.engine().offset_and_timestamp(info.id, partition, spec);
    // Of a place there is no timestamp, and of a record that is not there neither offset nor timestamp.
    let (offset, timestamp) = match wanted.timestamp {
        place::LATEST => (progress.high_watermark.get(), -1),
        place::EARLIEST | place::EARLIEST_LOCAL => (progress.log_start.get(), -1),
        place::LATEST_TIERED => (-1, -1),
        place::MAX_TIMESTAMP => {
            find(TimestampSpec::Greatest).await?.map_or((-1, -1), |(offset, timestamp)| (offset.get(), timestamp))
        }
        ms if ms >= 0 => {
            find(TimestampSpec::AtLeast(ms)).await?.map_or((-1, -1), |(offset, timestamp)| (offset.get(), timestamp))
        }
        _ => return Err(ErrorCode::InvalidRequest),
    };
    Ok(ListOffsetsPartitionResponse {
        partition_index: wanted.partition_index,
        timestamp,
        offset,
        leader_epoch: if offset < 0 { -1 } else { progress.leader_epoch.get() },
        ..ListOffsetsPartitionResponse::default()
    })
}

//! DeleteRecords 0-2: moves log starts up; −1 stands for the high watermark.

use super::super::{Door, error_code::ErrorCode};
use super::{partition_id, topic_by_name};
use crate::codec::messages::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteRecordsTopicResult,
};
use crate::engine::{OffsetSpec, TopicInfo, Truncation};
use crate::types::Offset;

pub(super) async fn answer(door: Door, _version: i16, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let info = topic_by_name(&door, &topic.name);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let outcome = match &info {
                Ok(info) => delete(&door, info, &partition).await,
                Err(code) => Err(*code),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: partition.partition_index,
                low_watermark: outcome.map_or(-1, Offset::get),
                error_code: outcome.err().unwrap_or(ErrorCode::None).code(),
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() }
}

async fn delete(door: &Door, info: &TopicInfo, wanted: &DeleteRecordsPartition) -> Result<Offset, ErrorCode> {
    let partition = partition_id(wanted.partition_index)?;
    let before = match wanted.offset {
        -1 => door.engine().offset_for(info.id, partition, OffsetSpec::Latest).await?,
        offset if offset < 0 => return Err(ErrorCode::OffsetOutOfRange),
        offset => Offset::new(offset),
    };
    let starts = door.engine().truncate(&info.name, vec![Truncation { partition, before }]).await?;
    starts.first().map(|(_, start)| *start).ok_or(ErrorCode::UnknownServerError)
}

//! DescribeProducers 0 (KIP-664): the idempotent producers that a partition remembers.

use super::super::Door;
use super::super::error_code::{ErrorCode, code_and_text};
use super::{partition_id, topic_by_name};
use crate::codec::messages::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use crate::engine::TopicInfo;

pub(super) async fn answer(door: Door, _version: i16, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let info = topic_by_name(&door, &topic.name);
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let producers = match &info {
                Ok(info) => producers(&door, info, index).await,
                Err(code) => Err((code.code(), None)),
            };
            let mut response = PartitionResponse { partition_index: index, ..PartitionResponse::default() };
            match producers {
                Ok(producers) => response.active_producers = producers,
                Err((code, text)) => (response.error_code, response.error_message) = (code, text),
            }
            partitions.push(response);
        }
        topics.push(TopicResponse { name: topic.name, partitions });
    }
    DescribeProducersResponse { topics, ..DescribeProducersResponse::default() }
}

async fn producers(door: &Door, info: &TopicInfo, index: i32) -> Result<Vec<ProducerState>, (i16, Option<String>)> {
    let partition = partition_id(index).map_err(|code: ErrorCode| (code.code(), None))?;
    let producers = door.engine().producers(info.id, partition).await.map_err(|error| code_and_text(&error))?;
    let state = |producer: &crate::engine::ProducerSummary| ProducerState {
        producer_id: producer.id.get(),
        producer_epoch: producer.epoch.get().into(),
        last_sequence: producer.last_sequence.unwrap_or(-1),
        last_timestamp: producer.last_active_ms,
        coordinator_epoch: -1,
        ..ProducerState::default()
    };
    Ok(producers.iter().map(state).collect())
}

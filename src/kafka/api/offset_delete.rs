//! OffsetDelete 0 (KIP-496): a group forgets how far it was.

use super::super::{Door, error_code::ErrorCode};
use super::partition_id;
use crate::codec::messages::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::types::TopicName;

pub(super) async fn answer(door: Door, _version: i16, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let mut wanted = Vec::new();
    let mut topics: Vec<OffsetDeleteResponseTopic> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let name = TopicName::new(&topic.name);
        let partitions = topic.partitions.into_iter().map(|partition| {
            let partition_index = partition.partition_index;
            let code = match (&name, partition_id(partition_index)) {
                (Ok(name), Ok(id)) => {
                    wanted.push((name.clone(), id));
                    ErrorCode::None
                }
                (Err(_), _) => ErrorCode::InvalidTopic,
                (_, Err(code)) => code,
            };
            OffsetDeleteResponsePartition { partition_index, error_code: code.code() }
        });
        topics.push(OffsetDeleteResponseTopic { partitions: partitions.collect(), name: topic.name });
    }
    let deleted = match door.engine().groups() {
        Ok(groups) => groups.delete_offsets(&request.group_id, wanted).await,
        Err(error) => Err(error),
    };
    match deleted {
        Ok(results) => {
            let asked = topics.iter_mut().flat_map(|topic| &mut topic.partitions).filter(|p| p.error_code == 0);
            for (partition, result) in asked.zip(results) {
                partition.error_code = result.err().map_or(ErrorCode::None, |error| ErrorCode::from(&error)).code();
            }
            OffsetDeleteResponse { topics, ..OffsetDeleteResponse::default() }
        }
        Err(error) => {
            OffsetDeleteResponse { error_code: ErrorCode::from(&error).code(), ..OffsetDeleteResponse::default() }
        }
    }
}

//! CreatePartitions 0-3: more partitions, never fewer.

use super::super::{
    Door,
    error_code::{ErrorCode, code_and_text},
};
use super::topic_by_name;
use crate::codec::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};
use crate::engine::AlterTopic;

pub(super) async fn answer(door: Door, _version: i16, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let outcome = grow(&door, &topic, request.validate_only).await;
        let (error_code, error_message) = outcome.err().unwrap_or((ErrorCode::None.code(), None));
        results.push(CreatePartitionsTopicResult { name: topic.name, error_code, error_message });
    }
    CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() }
}

async fn grow(door: &Door, topic: &CreatePartitionsTopic, validate_only: bool) -> Result<(), (i16, Option<String>)> {
    let info = topic_by_name(door, &topic.name).map_err(|code| (code.code(), None))?;
    if topic.count == info.partitions {
        let text = format!("topic '{}' has {} partitions already", info.name, info.partitions);
        return Err((ErrorCode::InvalidPartitions.code(), Some(text)));
    }
    let change = AlterTopic { partitions: Some(topic.count), ..AlterTopic::default() };
    let changed = if validate_only {
        door.engine().check_alter_topic(&info.name, change).await
    } else {
        door.engine().alter_topic(&info.name, change).await.map(drop)
    };
    changed.map_err(|error| code_and_text(&error))
}

//! DeleteTopics 1-6: by name, and from 6 on by name or id.

use super::super::{
    Door,
    error_code::{ErrorCode, code_and_text},
};
use super::{topic_by_id, topic_by_name};
use crate::codec::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use crate::engine::TopicInfo;
use std::sync::Arc;

/// Since this version a topic may be named by its id.
const TOPIC_IDS_FROM: i16 = 6;

pub(super) async fn answer(door: Door, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = |name| DeleteTopicState { name: Some(name), ..DeleteTopicState::default() };
    let wanted =
        if version >= TOPIC_IDS_FROM { request.topics } else { request.topic_names.into_iter().map(named).collect() };
    let mut responses = Vec::with_capacity(wanted.len());
    for topic in wanted {
        let found = match &topic.name {
            Some(name) => topic_by_name(&door, name),
            None => topic_by_id(&door, topic.topic_id),
        };
        responses.push(match found {
            Ok(info) => delete(&door, &info).await,
            Err(code) => DeletableTopicResult {
                name: topic.name,
                topic_id: topic.topic_id,
                error_code: code.code(),
                error_message: None,
            },
        });
    }
    DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
}

async fn delete(door: &Door, info: &Arc<TopicInfo>) -> DeletableTopicResult {
    let (error_code, error_message) = match door.engine().delete_topic(&info.name).await {
        Ok(()) => (ErrorCode::None.code(), None),
        Err(error) => code_and_text(&error),
    };
    let (name, topic_id) = (Some(info.name.to_string()), *info.id.as_bytes());
    DeletableTopicResult { name, topic_id, error_code, error_message }
}

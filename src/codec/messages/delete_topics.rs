//! DeleteTopics, key 20, versions 1 to 6, flexible from 4.

use super::{Uuid, messages};

messages! {
    DeleteTopics (DeleteTopicsRequest => DeleteTopicsResponse)
    DeleteTopicsRequest {
        topics: Vec<DeleteTopicState> [6..],
        topic_names: Vec<String> [0..=5],
        timeout_ms: i32 [0..],
    }
    DeleteTopicState {
        name: Option<String> [6..],
        topic_id: Uuid [6..],
    }
    DeleteTopicsResponse {
        throttle_time_ms: i32 [0..],
        responses: Vec<DeletableTopicResult> [0..],
    }
    DeletableTopicResult {
        name: Option<String> [0..],
        topic_id: Uuid [6..],
        error_code: i16 [0..],
        error_message: Option<String> [5..],
    }
}

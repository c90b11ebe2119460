//! CreatePartitions, key 37, versions 0 to 3, flexible from 2.

use super::messages;

messages! {
    CreatePartitions (CreatePartitionsRequest => CreatePartitionsResponse)
    CreatePartitionsRequest {
        topics: Vec<CreatePartitionsTopic> [0..],
        timeout_ms: i32 [0..],
        validate_only: bool [0..],
    }
    CreatePartitionsTopic {
        name: String [0..],
        count: i32 [0..],
        assignments: Option<Vec<CreatePartitionsAssignment>> [0..],
    }
    CreatePartitionsAssignment {
        broker_ids: Vec<i32> [0..],
    }
    CreatePartitionsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<CreatePartitionsTopicResult> [0..],
    }
    CreatePartitionsTopicResult {
        name: String [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0..],
    }
}

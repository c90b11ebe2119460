//! ListPartitionReassignments, key 46, versions 0 to 0, flexible from 0.

use super::messages;

messages! {
    ListPartitionReassignments (ListPartitionReassignmentsRequest => ListPartitionReassignmentsResponse)
    ListPartitionReassignmentsRequest {
        timeout_ms: i32 [0..] = 60000,
        topics: Option<Vec<ListPartitionReassignmentsTopics>> [0..],
    }
    ListPartitionReassignmentsTopics {
        name: String [0..],
        partition_indexes: Vec<i32> [0..],
    }
    ListPartitionReassignmentsResponse {
        throttle_time_ms: i32 [0..],
        error_code: i16 [0..],
        error_message: Option<String> [0..],
        topics: Vec<OngoingTopicReassignment> [0..],
    }
    OngoingTopicReassignment {
        name: String [0..],
        partitions: Vec<OngoingPartitionReassignment> [0..],
    }
    OngoingPartitionReassignment {
        partition_index: i32 [0..],
        replicas: Vec<i32> [0..],
        adding_replicas: Vec<i32> [0..],
        removing_replicas: Vec<i32> [0..],
    }
}

//! DeleteGroups, key 42, versions 0 to 2, flexible from 2.

use super::messages;

messages! {
    DeleteGroups (DeleteGroupsRequest => DeleteGroupsResponse)
    DeleteGroupsRequest {
        groups_names: Vec<String> [0..],
    }
    DeleteGroupsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<DeletableGroupResult> [0..],
    }
    DeletableGroupResult {
        group_id: String [0..],
        error_code: i16 [0..],
    }
}

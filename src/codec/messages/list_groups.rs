//! ListGroups, key 16, versions 0 to 5, flexible from 3.

use super::messages;

messages! {
    ListGroups (ListGroupsRequest => ListGroupsResponse)
    ListGroupsRequest {
        states_filter: Vec<String> [4..],
        types_filter: Vec<String> [5..],
    }
    ListGroupsResponse {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
        groups: Vec<ListedGroup> [0..],
    }
    ListedGroup {
        group_id: String [0..],
        protocol_type: String [0..],
        group_state: String [4..],
        group_type: String [5..],
    }
}

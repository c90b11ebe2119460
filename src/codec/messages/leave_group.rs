//! LeaveGroup, key 13, versions 0 to 5, flexible from 4.

use super::messages;

messages! {
    LeaveGroup (LeaveGroupRequest => LeaveGroupResponse)
    LeaveGroupRequest {
        group_id: String [0..],
        member_id: String [0..=2],
        members: Vec<MemberIdentity> [3..],
    }
    MemberIdentity {
        member_id: String [3..],
        group_instance_id: Option<String> [3..],
        reason: Option<String> [5..],
    }
    LeaveGroupResponse {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
        members: Vec<MemberResponse> [3..],
    }
    MemberResponse {
        member_id: String [3..],
        group_instance_id: Option<String> [3..],
        error_code: i16 [3..],
    }
}

//! Heartbeat, key 12, versions 0 to 4, flexible from 4.

use super::messages;

messages! {
    Heartbeat (HeartbeatRequest => HeartbeatResponse)
    HeartbeatRequest {
        group_id: String [0..],
        generation_id: i32 [0..],
        member_id: String [0..],
        group_instance_id: Option<String> [3..],
    }
    HeartbeatResponse {
        throttle_time_ms: i32 [1..],
        error_code: i16 [0..],
    }
}

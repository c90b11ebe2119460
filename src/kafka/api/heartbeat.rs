//! Heartbeat 0-4: a member is alive, and hears whether its group rebalances.

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use crate::engine::GroupHeartbeat;

pub(super) async fn answer(door: Door, _version: i16, request: HeartbeatRequest) -> HeartbeatResponse {
    let heartbeat = GroupHeartbeat {
        group_id: request.group_id,
        generation_id: request.generation_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
    };
    let beaten = match door.engine().groups() {
        Ok(groups) => groups.group_heartbeat(heartbeat).await,
        Err(error) => Err(error),
    };
    let error_code = beaten.map_or_else(|error| ErrorCode::from(&error), |()| ErrorCode::None).code();
    HeartbeatResponse { error_code, ..HeartbeatResponse::default() }
}

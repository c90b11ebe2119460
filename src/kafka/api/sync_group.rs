//! SyncGroup 0-5: the leader says who reads what, and each member hears its part.

use super::super::{Door, error_code::ErrorCode};
use super::join_group::detached;
use crate::codec::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};
use crate::engine::SyncGroup;

pub(super) async fn answer(door: Door, _version: i16, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request.assignments.into_iter().map(|part| (part.member_id, detached(&part.assignment)));
    let sync = SyncGroup {
        group_id: request.group_id,
        generation_id: request.generation_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        protocol_type: request.protocol_type,
        protocol_name: request.protocol_name,
        assignments: assignments.collect(),
    };
    let synced = match door.engine().groups() {
        Ok(groups) => groups.sync_group(sync).await,
        Err(error) => Err(error),
    };
    match synced {
        Ok(synced) => SyncGroupResponse {
            protocol_type: synced.protocol_type,
            protocol_name: synced.protocol_name,
            assignment: synced.assignment,
            ..SyncGroupResponse::default()
        },
        Err(error) => SyncGroupResponse { error_code: ErrorCode::from(&error).code(), ..SyncGroupResponse::default() },
    }
}

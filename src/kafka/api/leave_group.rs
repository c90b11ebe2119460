//! LeaveGroup 0-5: a member leaves, and from 3 on several (KIP-345).

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse};
use crate::engine::{LeaveGroup, LeavingMember};

/// Since this version a request has several members.
const SEVERAL_FROM: i16 = 3;

pub(super) async fn answer(door: Door, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let members = if version >= SEVERAL_FROM {
        request.members
    } else {
        vec![MemberIdentity { member_id: request.member_id, ..MemberIdentity::default() }]
    };
    let leaving = members.iter().map(|member| LeavingMember {
        member_id: member.member_id.clone(),
        group_instance_id: member.group_instance_id.clone(),
    });
    let leave = LeaveGroup { group_id: request.group_id, members: leaving.collect() };
    let left = match door.engine().groups() {
        Ok(groups) => groups.leave_group(leave).await,
        Err(error) => Err(error),
    };
    let codes = match left {
        Ok(results) => {
            results.into_iter().map(|r| r.err().map_or(ErrorCode::None, |error| ErrorCode::from(&error)).code())
        }
        Err(error) => {
            let error_code = ErrorCode::from(&error).code();
            return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
        }
    };
    let members: Vec<_> = members
        .into_iter()
        .zip(codes)
        .map(|(member, error_code)| MemberResponse {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            error_code,
        })
        .collect();
    // Before several could come, the one member's code was the whole answer's.
    let error_code = members.first().filter(|_| version < SEVERAL_FROM).map_or(0, |member| member.error_code);
    LeaveGroupResponse { error_code, members, ..LeaveGroupResponse::default() }
}

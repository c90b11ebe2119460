//! JoinGroup 0-9: a member joins and waits until the group has gathered.
//!
//! From 4 on a new member is told its id first (KIP-394), from 9 on the leader may be told to leave the assignment as it is
//! (KIP-814).

use super::super::{Door, error_code::ErrorCode};
use super::millis;
use crate::codec::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use crate::engine::{EngineError, GroupError, GroupProtocol, JoinGroup, JoinedGroup};

/// Who asks.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) host: String,
}

pub(super) async fn answer(door: Door, version: i16, request: JoinGroupRequest, client: Client) -> JoinGroupResponse {
    let member_id = request.member_id.clone();
    let joined = match door.engine().groups() {
        Ok(groups) => groups.join_group(read(version, request, client)).await,
        Err(error) => Err(error),
    };
    match joined {
        Ok(joined) => response(version, joined),
        Err(error) => JoinGroupResponse {
            error_code: ErrorCode::from(&error).code(),
            // Null only since version 7.
            protocol_name: (version < 7).then(String::new),
            member_id: match error {
                EngineError::Group(GroupError::MemberIdRequired(id)) => id,
                _ => member_id,
            },
            ..JoinGroupResponse::default()
        },
    }
}

fn read(version: i16, request: JoinGroupRequest, client: Client) -> JoinGroup {
    let session_timeout = millis(request.session_timeout_ms);
    JoinGroup {
        group_id: request.group_id,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        client_id: client.id,
        client_host: client.host,
        session_timeout,
        rebalance_timeout: if version >= 1 { millis(request.rebalance_timeout_ms) } else { session_timeout },
        protocol_type: request.protocol_type,
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| GroupProtocol { name: protocol.name, metadata: detached(&protocol.metadata) })
            .collect(),
        require_known_member_id: version >= 4,
        supports_skip_assignment: version >= 9,
    }
}

/// A copy in memory of its own: what a group keeps must not keep a frame.
pub(super) fn detached(bytes: &bytes::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

fn response(version: i16, joined: JoinedGroup) -> JoinGroupResponse {
    JoinGroupResponse {
        generation_id: joined.generation_id,
        protocol_type: joined.protocol_type,
        protocol_name: joined.protocol_name.or_else(|| (version < 7).then(String::new)),
        leader: joined.leader,
        skip_assignment: joined.skip_assignment,
        member_id: joined.member_id,
        members: joined
            .members
            .into_iter()
            .map(|member| JoinGroupResponseMember {
                member_id: member.member_id,
                group_instance_id: member.group_instance_id,
                metadata: member.metadata,
            })
            .collect(),
        ..JoinGroupResponse::default()
    }
}

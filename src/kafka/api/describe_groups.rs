//! DescribeGroups 0-6: a group's state and members. From 6 on an unknown group is an error (KIP-1043), before that it is
//! one that is dead.

use super::super::{Door, error_code::ErrorCode, error_code::code_and_text};
use super::{GROUP_OPERATIONS, OPERATIONS_NOT_ASKED};
use crate::codec::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use crate::engine::{GroupDescription, GroupState};

/// Since this version an unknown group is an error.
const UNKNOWN_FROM: i16 = 6;

pub(super) async fn answer(door: Door, version: i16, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    for group_id in request.groups {
        let described = match door.engine().groups() {
            Ok(groups) => groups.describe_group(&group_id).await,
            Err(error) => Err(error),
        };
        let mut group = match described {
            Ok(described) => describe(version, described),
            Err(error) => {
                let (error_code, error_message) = code_and_text(&error);
                DescribedGroup { error_code, error_message, group_id, ..DescribedGroup::default() }
            }
        };
        let asked = request.include_authorized_operations;
        group.authorized_operations = if asked { GROUP_OPERATIONS } else { OPERATIONS_NOT_ASKED };
        groups.push(group);
    }
    DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }
}

fn describe(version: i16, group: GroupDescription) -> DescribedGroup {
    let unknown = group.state == GroupState::Dead && version >= UNKNOWN_FROM;
    let members = group.members.into_iter().map(|member| DescribedGroupMember {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    });
    DescribedGroup {
        error_code: if unknown { ErrorCode::GroupIdNotFound } else { ErrorCode::None }.code(),
        error_message: unknown.then(|| format!("there is no group '{}'", group.group_id)),
        group_id: group.group_id,
        group_state: group.state.as_str().to_owned(),
        protocol_type: group.protocol_type,
        protocol_data: group.protocol_name,
        members: members.collect(),
        ..DescribedGroup::default()
    }
}

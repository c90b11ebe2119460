//! ListGroups 0-5: the groups that this broker coordinates, from 4 on by state, from 5 on by type.

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};
use crate::engine::GroupListing;

/// The only type there is: groups of the classic protocol.
const TYPE: &str = "classic";

pub(super) async fn answer(door: Door, _version: i16, request: ListGroupsRequest) -> ListGroupsResponse {
    let listed = match door.engine().groups() {
        Ok(groups) => groups.list_groups().await,
        Err(error) => Err(error),
    };
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            let error_code = ErrorCode::from(&error).code();
            return ListGroupsResponse { error_code, ..ListGroupsResponse::default() };
        }
    };
    let among = |filter: &[String], text: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(text))
    };
    let wanted = |group: &GroupListing| {
        among(&request.states_filter, group.state.as_str()) && among(&request.types_filter, TYPE)
    };
    let groups = listed.into_iter().filter(wanted).map(|group| ListedGroup {
        group_id: group.group_id,
        protocol_type: group.protocol_type,
        group_state: group.state.as_str().to_owned(),
        group_type: TYPE.to_owned(),
    });
    ListGroupsResponse { groups: groups.collect(), ..ListGroupsResponse::default() }
}

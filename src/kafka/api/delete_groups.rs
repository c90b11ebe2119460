//! DeleteGroups 0-2: groups without members, and their offsets.

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

pub(super) async fn answer(door: Door, _version: i16, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let deleted = match door.engine().groups() {
            Ok(groups) => groups.delete_group(&group_id).await,
            Err(error) => Err(error),
        };
        let code = deleted.map_or_else(|error| ErrorCode::from(&error), |()| ErrorCode::None);
        results.push(DeletableGroupResult { group_id, error_code: code.code() });
    }
    DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() }
}

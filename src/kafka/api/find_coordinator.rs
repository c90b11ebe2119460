//! FindCoordinator 0-6: which broker a group belongs to. Transactions and share groups have none.

use super::super::{
    Door,
    error_code::{ErrorCode, code_and_text},
};
use super::metadata::brokers;
use crate::codec::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

/// The key is a group's name.
const GROUP: i8 = 0;
/// Since this version several keys come at once.
const SEVERAL_FROM: i16 = 4;

pub(super) async fn answer(door: Door, version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let keys = if version >= SEVERAL_FROM { request.coordinator_keys } else { vec![request.key] };
    let mut coordinators = Vec::with_capacity(keys.len());
    for key in keys {
        let (error_code, error_message) = match find(&door, &key, request.key_type).await {
            Ok(found) => {
                coordinators.push(Coordinator { key, ..found });
                continue;
            }
            Err(refused) => refused,
        };
        coordinators.push(Coordinator { key, node_id: -1, port: -1, error_code, error_message, ..Default::default() });
    }
    if version >= SEVERAL_FROM {
        return FindCoordinatorResponse { coordinators, ..FindCoordinatorResponse::default() };
    }
    let one = coordinators.pop().unwrap_or_default();
    FindCoordinatorResponse {
        error_code: one.error_code,
        error_message: one.error_message,
        node_id: one.node_id,
        host: one.host,
        port: one.port,
        ..FindCoordinatorResponse::default()
    }
}

async fn find(door: &Door, key: &str, key_type: i8) -> Result<Coordinator, (i16, Option<String>)> {
    if key_type != GROUP {
        let text = "transactions and share groups are not supported".to_owned();
        return Err((ErrorCode::UnsupportedVersion.code(), Some(text)));
    }
    let groups = door.engine().groups().map_err(|error| code_and_text(&error))?;
    let id = groups.group_coordinator(key).await.map_err(|error| code_and_text(&error))?;
    let node = brokers(door).into_iter().find(|node| node.id == id.get());
    let node = node.ok_or((ErrorCode::CoordinatorNotAvailable.code(), None))?;
    Ok(Coordinator { node_id: node.id, host: node.host, port: node.port, ..Coordinator::default() })
}

//! InitProducerId 0-5: a number for an idempotent producer.
//!
//! A producer that asks with an id it has (KIP-360) gets a new one: without transactions nobody else could write under the
//! old one. Transactions are refused, and not offered anywhere.

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

pub(super) async fn answer(door: Door, _version: i16, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let given = if request.transactional_id.is_some() {
        Err(ErrorCode::UnsupportedVersion)
    } else {
        door.engine().allocate_producer_id().await.map_err(|error| match ErrorCode::from(error) {
            // What clients wait and ask again for.
            ErrorCode::RequestTimedOut | ErrorCode::NotLeaderOrFollower => ErrorCode::CoordinatorNotAvailable,
            other => other,
        })
    };
    match given {
        Ok(id) => InitProducerIdResponse { producer_id: id.get(), producer_epoch: 0, ..Default::default() },
        Err(code) => InitProducerIdResponse {
            error_code: code.code(),
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        },
    }
}

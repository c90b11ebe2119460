//! ListPartitionReassignments 0: replicas do not move yet, so none is under way.

use super::super::Door;
use crate::codec::messages::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

pub(super) async fn answer(
    _door: Door,
    _version: i16,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}

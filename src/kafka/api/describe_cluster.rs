//! DescribeCluster 0-2 (KIP-700).

use super::super::{Door, error_code::ErrorCode};
use super::metadata::brokers;
use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED};
use crate::codec::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

/// The endpoints that clients may use; controllers have none of their own.
const BROKERS: i8 = 1;

pub(super) async fn answer(door: Door, _version: i16, request: DescribeClusterRequest) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some("this is a broker's endpoint; use --bootstrap-server".to_owned()),
            ..DescribeClusterResponse::default()
        };
    }
    let cluster = door.engine().cluster();
    let broker = |node: super::metadata::Node| DescribeClusterBroker {
        broker_id: node.id,
        host: node.host,
        port: node.port,
        ..DescribeClusterBroker::default()
    };
    DescribeClusterResponse {
        cluster_id: cluster.cluster_id.to_string(),
        controller_id: cluster.broker_id.get(),
        brokers: brokers(&door).into_iter().map(broker).collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        ..DescribeClusterResponse::default()
    }
}

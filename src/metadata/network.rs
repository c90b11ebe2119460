//! How this member of the controller's group reaches the others.
//!
//! **Invariant**: every call has an answer within its deadline. A broker alone calls nobody; [`Alone`] says that every
//! other member is unreachable. A cluster brings its own factory, and changes nothing else.

use super::raft_types::{NodeId, TypeConfig};
use openraft::{
    BasicNode,
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use std::io;

/// The network of a broker that knows no way to the others.
pub(super) struct Alone;

/// No connection.
pub(super) struct NoConnection;

type RpcError<E = openraft::error::Infallible> = RPCError<NodeId, BasicNode, RaftError<NodeId, E>>;

fn unreachable<E: std::error::Error>() -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(&io::Error::from(io::ErrorKind::HostUnreachable)))
}

impl RaftNetworkFactory<TypeConfig> for Alone {
    type Network = NoConnection;

    async fn new_client(&mut self, _target: NodeId, _node: &BasicNode) -> NoConnection {
        NoConnection
    }
}

impl RaftNetwork<TypeConfig> for NoConnection {
    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        Err(unreachable())
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        Err(unreachable())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        Err(unreachable())
    }
}

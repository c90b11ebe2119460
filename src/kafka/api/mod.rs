//! The requests: one file each, headed by its versions and what it does.
//!
//! **Invariant**: what is offered in ApiVersions is what is answered here, and nothing else. A request of another version
//! ends the connection, as in Kafka, but for ApiVersions itself, which answers in version 0 what there is.

mod alter_configs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod sasl;
mod sync_group;

use super::Door;
use super::connection::{Answer, Begun, Ending};
use super::error_code::ErrorCode;
use crate::codec::WireError;
use crate::codec::messages::{ApiKey, Request, RequestHeader, encode_response};
use crate::engine::TopicInfo;
use crate::telemetry::{ApiLabels, metrics};
use crate::types::{TopicId, TopicName};
use bytes::Bytes;
use std::{net::SocketAddr, sync::Arc};

/// What may be done with a topic, as bits of Kafka's operations (KIP-430): read, write, create, delete, alter, describe,
/// describe and alter its configuration. Nobody is denied anything yet.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// The same for the cluster: create, alter, describe, act in it, describe and alter its configuration, write idempotently.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// The same for a group: read, delete, describe.
const GROUP_OPERATIONS: i32 = 0b1_0100_1000;
/// What stands for operations that were not asked for.
const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// The versions of each request that are offered. What is not finished is not here: a client that sees it will use it.
const OFFERED: &[ApiKey] = &[
    ApiKey::Produce,
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::LeaveGroup,
    ApiKey::SyncGroup,
    ApiKey::DescribeGroups,
    ApiKey::ListGroups,
    ApiKey::SaslHandshake,
    ApiKey::ApiVersions,
    ApiKey::CreateTopics,
    ApiKey::DeleteTopics,
    ApiKey::DeleteRecords,
    ApiKey::InitProducerId,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::DescribeConfigs,
    ApiKey::AlterConfigs,
    ApiKey::DescribeLogDirs,
    ApiKey::SaslAuthenticate,
    ApiKey::CreatePartitions,
    ApiKey::DeleteGroups,
    ApiKey::IncrementalAlterConfigs,
    ApiKey::ListPartitionReassignments,
    ApiKey::OffsetDelete,
    ApiKey::DescribeCluster,
    ApiKey::DescribeProducers,
    ApiKey::DescribeTopicPartitions,
];

/// Begins a request. What it appends is in order once there is an answer to wait for; the rest comes with that.
pub(super) fn begin(door: &Door, peer: SocketAddr, mut frame: Bytes) -> Result<Begun, Ending> {
    let header = RequestHeader::split_from(&mut frame)?;
    let unsupported = WireError::Unsupported { api_key: header.api_key, version: header.version };
    let is_answered =
        |api: &ApiKey| OFFERED.contains(api) && (*api != ApiKey::Produce || header.version >= produce::ANSWERED_FROM);
    let Some(api) = header.api().filter(is_answered) else { return Err(unsupported.into()) };
    let labels = ApiLabels { api: api.name() };
    metrics().kafka_requests.get_or_create(&labels).inc();
    let since = door.0.sys.clock.monotonic();
    let begun = if api == ApiKey::ApiVersions && !api.versions().contains(&header.version) {
        let frame = encode_response(0, header.correlation_id, &api_versions::unsupported());
        Begun::Now(Box::pin(async { Ok(Some(frame)) }))
    } else {
        route(door, peer, api, &header, frame)?
    };
    let door = door.clone();
    Ok(begun.map(move |answer| {
        Box::pin(async move {
            let answer = answer.await;
            let took = door.0.sys.clock.monotonic().saturating_sub(since);
            metrics().kafka_request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
            answer
        })
    }))
}

fn route(door: &Door, peer: SocketAddr, api: ApiKey, header: &RequestHeader, body: Bytes) -> Result<Begun, Ending> {
    let answer = match api {
        ApiKey::Produce => return produce::begin(door, header, body),
        ApiKey::Fetch => answer(door, header, body, fetch::answer),
        ApiKey::ListOffsets => answer(door, header, body, list_offsets::answer),
        ApiKey::Metadata => answer(door, header, body, metadata::answer),
        ApiKey::SaslHandshake => answer(door, header, body, sasl::handshake),
        ApiKey::SaslAuthenticate => answer(door, header, body, sasl::authenticate),
        ApiKey::ApiVersions => answer(door, header, body, api_versions::answer),
        ApiKey::CreateTopics => answer(door, header, body, create_topics::answer),
        ApiKey::DeleteTopics => answer(door, header, body, delete_topics::answer),
        ApiKey::DeleteRecords => answer(door, header, body, delete_records::answer),
        ApiKey::InitProducerId => answer(door, header, body, init_producer_id::answer),
        ApiKey::OffsetForLeaderEpoch => answer(door, header, body, offset_for_leader_epoch::answer),
        ApiKey::DescribeConfigs => answer(door, header, body, describe_configs::answer),
        ApiKey::AlterConfigs => answer(door, header, body, alter_configs::answer),
        ApiKey::IncrementalAlterConfigs => answer(door, header, body, alter_configs::answer_incremental),
        ApiKey::DescribeLogDirs => answer(door, header, body, describe_log_dirs::answer),
        ApiKey::CreatePartitions => answer(door, header, body, create_partitions::answer),
        ApiKey::ListPartitionReassignments => answer(door, header, body, list_partition_reassignments::answer),
        ApiKey::DescribeCluster => answer(door, header, body, describe_cluster::answer),
        ApiKey::DescribeProducers => answer(door, header, body, describe_producers::answer),
        ApiKey::DescribeTopicPartitions => answer(door, header, body, describe_topic_partitions::answer),
        ApiKey::FindCoordinator => answer(door, header, body, find_coordinator::answer),
        ApiKey::JoinGroup => {
            let client =
                join_group::Client { id: header.client_id.clone().unwrap_or_default(), host: peer.ip().to_string() };
            answer(door, header, body, |door, version, request| join_group::answer(door, version, request, client))
        }
        ApiKey::SyncGroup => answer(door, header, body, sync_group::answer),
        ApiKey::Heartbeat => answer(door, header, body, heartbeat::answer),
        ApiKey::LeaveGroup => answer(door, header, body, leave_group::answer),
        ApiKey::OffsetCommit => answer(door, header, body, offset_commit::answer),
        ApiKey::OffsetFetch => answer(door, header, body, offset_fetch::answer),
        ApiKey::OffsetDelete => answer(door, header, body, offset_delete::answer),
        ApiKey::DescribeGroups => answer(door, header, body, describe_groups::answer),
        ApiKey::ListGroups => answer(door, header, body, list_groups::answer),
        ApiKey::DeleteGroups => answer(door, header, body, delete_groups::answer),
    };
    answer.map(Begun::Now)
}

/// A request whose order among others does not matter: read here, answered by `handle` in its own time.
fn answer<R, F, A>(door: &Door, header: &RequestHeader, body: Bytes, handle: F) -> Result<Answer, Ending>
where
    R: Request + Send + 'static,
    R::Response: Send,
    F: FnOnce(Door, i16, R) -> A,
    A: Future<Output = R::Response> + Send + 'static,
{
    let (version, correlation_id) = (header.version, header.correlation_id);
    let answer = handle(door.clone(), version, R::decode(body, version)?);
    Ok(Box::pin(async move { Ok(Some(encode_response(version, correlation_id, &answer.await))) }))
}

/// The topic that a request names, or the code to answer.
fn topic_by_name(door: &Door, name: &str) -> Result<Arc<TopicInfo>, ErrorCode> {
    let name = TopicName::new(name).map_err(|_| ErrorCode::InvalidTopic)?;
    door.engine().topic(&name).ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// The same by identity.
fn topic_by_id(door: &Door, id: [u8; 16]) -> Result<Arc<TopicInfo>, ErrorCode> {
    door.engine().topic_by_id(TopicId::from_bytes(id)).ok_or(ErrorCode::UnknownTopicId)
}

/// A partition's number as it stands in a request.
fn partition_id(index: i32) -> Result<crate::types::PartitionId, ErrorCode> {
    if index < 0 { Err(ErrorCode::UnknownTopicOrPartition) } else { Ok(crate::types::PartitionId::new(index)) }
}

/// Whether a client that knows this leader epoch is up to date (KIP-320); −1 does not say.
fn check_leader_epoch(given: i32, current: crate::types::LeaderEpoch) -> Result<(), ErrorCode> {
    match given {
        -1 => Ok(()),
        older if older < current.get() => Err(ErrorCode::FencedLeaderEpoch),
        newer if newer > current.get() => Err(ErrorCode::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// How long a client wants to wait, within reason.
fn millis(ms: i32) -> std::time::Duration {
    std::time::Duration::from_millis(ms.max(0) as u64)
}

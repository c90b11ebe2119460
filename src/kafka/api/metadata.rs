//! Metadata 0-13: the brokers, and topics with their partitions; unknown topics are made where client and broker allow it.

use super::super::{Door, error_code::ErrorCode};
use super::{CLUSTER_OPERATIONS, OPERATIONS_NOT_ASKED, TOPIC_OPERATIONS, topic_by_id};
use crate::codec::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use crate::engine::{PartitionDescription, TopicDescription};
use crate::types::TopicName;

pub(super) async fn answer(door: Door, version: i16, request: MetadataRequest) -> MetadataResponse {
    let asks_operations = request.include_topic_authorized_operations;
    // In version 0 an empty list asks for all, and from 1 on null does.
    let named = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let mut topics = Vec::new();
    match named {
        None => {
            for info in door.engine().topics() {
                if let Ok(described) = door.engine().describe_topic(&info.name).await {
                    topics.push(topic(&described, asks_operations));
                }
            }
        }
        Some(named) => {
            let may_create = door.settings().auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
            for wanted in named {
                topics.push(named_topic(&door, wanted, may_create, asks_operations).await);
            }
        }
    }
    let cluster = door.engine().cluster();
    MetadataResponse {
        brokers: brokers(&door)
            .into_iter()
            .map(|broker| MetadataResponseBroker {
                node_id: broker.id,
                host: broker.host,
                port: broker.port,
                rack: None,
            })
            .collect(),
        cluster_id: Some(cluster.cluster_id.to_string()),
        // Every broker takes what is for the controller and hands it on.
        controller_id: cluster.broker_id.get(),
        topics,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            OPERATIONS_NOT_ASKED
        },
        ..MetadataResponse::default()
    }
}

async fn named_topic(
    door: &Door,
    wanted: MetadataRequestTopic,
    may_create: bool,
    asks_operations: bool,
) -> MetadataResponseTopic {
    let refused = |error: ErrorCode| MetadataResponseTopic {
        error_code: error.code(),
        name: wanted.name.clone(),
        topic_id: wanted.topic_id,
        topic_authorized_operations: OPERATIONS_NOT_ASKED,
        ..MetadataResponseTopic::default()
    };
    let name = match &wanted.name {
        None => match topic_by_id(door, wanted.topic_id) {
            Ok(info) => info.name.clone(),
            Err(code) => return refused(code),
        },
        Some(name) => match TopicName::new(name) {
            Ok(name) => name,
            Err(_) => return refused(ErrorCode::InvalidTopic),
        },
    };
    if may_create
        && !name.is_internal()
        && let Err(error) = door.engine().topic_or_create(&name).await
    {
        return refused((&error).into());
    }
    match door.engine().describe_topic(&name).await {
        Ok(described) => topic(&described, asks_operations),
        Err(error) => refused(error.into()),
    }
}

fn topic(described: &TopicDescription, asks_operations: bool) -> MetadataResponseTopic {
    MetadataResponseTopic {
        name: Some(described.info.name.to_string()),
        topic_id: *described.info.id.as_bytes(),
        is_internal: described.info.name.is_internal(),
        partitions: described.partitions.iter().map(partition).collect(),
        topic_authorized_operations: if asks_operations { TOPIC_OPERATIONS } else { OPERATIONS_NOT_ASKED },
        ..MetadataResponseTopic::default()
    }
}

fn partition(described: &PartitionDescription) -> MetadataResponsePartition {
    let ids = |brokers: &[crate::types::BrokerId]| brokers.iter().map(|id| id.get()).collect();
    MetadataResponsePartition {
        error_code: match described.leader {
            Some(_) => ErrorCode::None.code(),
            None => ErrorCode::LeaderNotAvailable.code(),
        },
        partition_index: described.partition.get(),
        leader_id: described.leader.map_or(-1, |id| id.get()),
        leader_epoch: described.leader_epoch.get(),
        replica_nodes: ids(&described.replicas),
        isr_nodes: ids(&described.in_sync_replicas),
        offline_replicas: Vec::new(),
    }
}

/// A broker as clients are told of it.
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) host: String,
    pub(super) port: i32,
}

/// This broker, and the others that speak Kafka.
pub(super) fn brokers(door: &Door) -> Vec<Node> {
    let (me, settings) = (door.engine().cluster().broker_id, door.settings());
    let ours = Node { id: me.get(), host: settings.host.clone(), port: settings.port.into() };
    let others = door.engine().brokers().into_iter().filter(|broker| broker.id != me && !broker.fenced);
    let others = others.filter_map(|broker| {
        let (host, port) = broker.kafka.as_ref()?.rsplit_once(':')?;
        Some(Node { id: broker.id.get(), host: host.trim_matches(['[', ']']).to_owned(), port: port.parse().ok()? })
    });
    let mut all: Vec<_> = others.chain([ours]).collect();
    all.sort_by_key(|node| node.id);
    all
}

//! The cluster's metadata at one moment, as every broker sees it.
//!
//! **Invariant**: an image never changes; a new one is published before a command is answered. What did not change is
//! shared with the image before.

use super::{FEATURE_LEVEL, FeatureLevel, Refusal, form};
use crate::types::{BrokerId, LeaderEpoch, PartitionId, ProducerId, TopicId, TopicName, TopicPartition};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Everything that the controller decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataImage {
    /// The number of the last change (index in the Raft log); rises only.
    pub version: u64,
    /// Which commands the cluster understands.
    pub feature_level: FeatureLevel,
    /// The topics.
    pub topics: Arc<TopicsImage>,
    /// The brokers that ever registered.
    pub brokers: Arc<BTreeMap<BrokerId, BrokerImage>>,
    /// The cluster's own settings.
    pub cluster_config: Arc<BTreeMap<String, String>>,
    /// The next producer id that was never handed out.
    pub next_producer_id: ProducerId,
    /// The last broker epoch that was handed out.
    pub last_broker_epoch: u64,
}

impl Default for MetadataImage {
    fn default() -> Self {
        Self {
            version: 0,
            feature_level: FEATURE_LEVEL,
            topics: Arc::default(),
            brokers: Arc::default(),
            cluster_config: Arc::default(),
            next_producer_id: ProducerId::ZERO,
            last_broker_epoch: 0,
        }
    }
}

impl MetadataImage {
    /// A topic by its identity.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.by_id.get(&id)
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic_by_name(&self, name: &TopicName) -> Option<&Arc<TopicImage>> {
        self.topics.by_name.get(name)
    }

    /// Every topic, in the order of names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.by_name.values()
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, partition: TopicPartition) -> Option<&PartitionImage> {
        self.topic(partition.topic)?.partition(partition.partition)
    }

    /// Replicas for new partitions: the unfenced brokers in turn, from a place that `start` (random) picks, so that
    /// leaders spread over them.
    ///
    /// # Errors
    /// [`Refusal::InvalidReplicas`] if there are not as many unfenced brokers as replicas.
    pub fn assign(
        &self,
        partitions: usize,
        replication_factor: usize,
        start: u64,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let brokers: Vec<BrokerId> = self.brokers.iter().filter(|(_, b)| !b.fenced).map(|(id, _)| *id).collect();
        if replication_factor == 0 || replication_factor > brokers.len() {
            return Err(Refusal::InvalidReplicas(format!(
                "{replication_factor} replicas need as many brokers, and at least 1; {} are in service",
                brokers.len()
            )));
        }
        let start = (start % brokers.len() as u64) as usize;
        let replica = |partition: usize, i: usize| brokers[(start + partition + i) % brokers.len()];
        Ok((0..partitions).map(|p| (0..replication_factor).map(|i| replica(p, i)).collect()).collect())
    }

    /// A broker.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerImage> {
        self.brokers.get(&id)
    }
}

/// The topics, by name and by identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicsImage {
    pub(super) by_name: BTreeMap<TopicName, Arc<TopicImage>>,
    pub(super) by_id: BTreeMap<TopicId, Arc<TopicImage>>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicImage {
    /// Its name.
    #[serde(with = "form")]
    pub name: TopicName,
    /// Its identity.
    #[serde(with = "form")]
    pub id: TopicId,
    /// Its partitions, by number from 0; at least one.
    pub partitions: Vec<PartitionImage>,
    /// Configuration that differs from the defaults, by Kafka's keys.
    pub overrides: BTreeMap<String, String>,
    /// When it was made, Unix time in milliseconds.
    pub created_ms: i64,
}

impl TopicImage {
    /// One partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(partition.get()).ok()?)
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        self.partitions.len() as i32
    }

    /// Replicas of each partition.
    #[must_use]
    pub fn replication_factor(&self) -> i16 {
        self.partitions.first().map_or(0, |p| p.replicas.len() as i16)
    }

    /// The partitions with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (PartitionId, &PartitionImage)> {
        self.partitions.iter().enumerate().map(|(i, p)| (PartitionId::new(i as i32), p))
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionImage {
    /// Who holds a copy, the preferred leader first.
    #[serde(with = "form")]
    pub replicas: Vec<BrokerId>,
    /// Whose copy keeps up, in the order of numbers.
    #[serde(with = "form")]
    pub isr: Vec<BrokerId>,
    /// Its leader; `None` while it has none.
    #[serde(with = "form")]
    pub leader: Option<BrokerId>,
    /// The number of the leadership; rises at each change of leader, and at each start of the leader.
    #[serde(with = "form")]
    pub leader_epoch: LeaderEpoch,
    /// Rises at every change of this partition.
    pub partition_epoch: i32,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerImage {
    /// Its registration: rises at each start, over all brokers.
    pub epoch: u64,
    /// Random, made at its start.
    pub incarnation: u64,
    /// The identity of its disk.
    pub storage_id: [u8; 16],
    /// Where it tells clients to find its HTTP door (`host:port`).
    pub http: Option<String>,
    /// Where it tells Kafka clients to find it (`host:port`).
    #[serde(default)]
    pub kafka: Option<String>,
    /// Where other brokers reach it (`host:port`).
    pub peer: Option<String>,
    /// It may not lead.
    pub fenced: bool,
    /// The newest feature level that it knows.
    pub feature_level: FeatureLevel,
    /// When it registered, Unix time in milliseconds.
    pub registered_ms: i64,
}

// ---- the form in a snapshot -----------------------------------------------------------------------------------------

/// An image as it lies in a snapshot: every topic once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ImageForm {
    version: u64,
    feature_level: FeatureLevel,
    topics: Vec<TopicImage>,
    #[serde(with = "form")]
    brokers: BTreeMap<BrokerId, BrokerImage>,
    cluster_config: BTreeMap<String, String>,
    #[serde(with = "form")]
    next_producer_id: ProducerId,
    last_broker_epoch: u64,
}

impl From<&MetadataImage> for ImageForm {
    fn from(image: &MetadataImage) -> Self {
        Self {
            version: image.version,
            feature_level: image.feature_level,
            topics: image.topics().map(|t| TopicImage::clone(t)).collect(),
            brokers: BTreeMap::clone(&image.brokers),
            cluster_config: BTreeMap::clone(&image.cluster_config),
            next_producer_id: image.next_producer_id,
            last_broker_epoch: image.last_broker_epoch,
        }
    }
}

impl From<ImageForm> for MetadataImage {
    fn from(form: ImageForm) -> Self {
        let mut topics = TopicsImage::default();
        for topic in form.topics.into_iter().map(Arc::new) {
            topics.by_name.insert(topic.name.clone(), topic.clone());
            topics.by_id.insert(topic.id, topic);
        }
        Self {
            version: form.version,
            feature_level: form.feature_level,
            topics: Arc::new(topics),
            brokers: Arc::new(form.brokers),
            cluster_config: Arc::new(form.cluster_config),
            next_producer_id: form.next_producer_id,
            last_broker_epoch: form.last_broker_epoch,
        }
    }
}

//! What may be asked of the controller, and what it answers.
//!
//! **Invariant**: a command carries every id, time and random choice, so that applying it gives the same on every
//! broker. Its form is what lies in the Raft log: a field is never given another meaning; a new command or field comes
//! with a new [`FeatureLevel`], and is refused until the cluster was raised to it.

use super::form;
use crate::types::{BrokerId, ConfigError, LeaderEpoch, PartitionId, ProducerId, TopicId, TopicName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which commands a cluster understands: every broker in it knows at least this level.
pub type FeatureLevel = u16;

/// The level that this program was written for, and which it formats new clusters with.
pub const FEATURE_LEVEL: FeatureLevel = 1;

/// A command as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// The feature level that knows the command.
    pub level: FeatureLevel,
    /// The command.
    pub command: Command,
}

/// A change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Command {
    /// A broker started: it gets a new broker epoch, and each partition that it leads a new leader epoch.
    RegisterBroker(BrokerRegistration),
    /// Takes a broker out of service, or puts it back. Refused as stale under another broker epoch.
    FenceBroker {
        /// Which.
        #[serde(with = "form")]
        broker: BrokerId,
        /// The registration that is meant.
        broker_epoch: u64,
        /// Out of service or in.
        fenced: bool,
    },
    /// Makes a topic. Names, ids, replicas and configuration are settled by who asks.
    CreateTopic {
        /// Its name.
        #[serde(with = "form")]
        name: TopicName,
        /// Its identity, random.
        #[serde(with = "form")]
        id: TopicId,
        /// The replicas of each partition, the preferred leader first.
        #[serde(with = "form")]
        assignment: Vec<Vec<BrokerId>>,
        /// Configuration that differs from the defaults, checked already.
        config: BTreeMap<String, String>,
        /// Unix time in milliseconds.
        now_ms: i64,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its identity.
        #[serde(with = "form")]
        id: TopicId,
    },
    /// Changes a topic's configuration and adds partitions; all of it or nothing.
    AlterTopic {
        /// Its identity.
        #[serde(with = "form")]
        id: TopicId,
        /// Configuration to set, checked already.
        set: BTreeMap<String, String>,
        /// Keys to put back to the default.
        reset: Vec<String>,
        /// Replicas of each partition to add.
        #[serde(with = "form")]
        add_partitions: Vec<Vec<BrokerId>>,
        /// How many partitions there were when the change was made up, so that two of them do not add twice.
        expected_partitions: i32,
    },
    /// A leader's change of its partition's in-sync replicas (KIP-497): compare-and-set on both epochs.
    AlterPartition {
        /// The topic.
        #[serde(with = "form")]
        topic: TopicId,
        /// Its partition.
        #[serde(with = "form")]
        partition: PartitionId,
        /// The leadership that asks.
        #[serde(with = "form")]
        leader_epoch: LeaderEpoch,
        /// The partition epoch that it knows.
        partition_epoch: i32,
        /// The new in-sync replicas, each with the broker epoch that the leader saw (KIP-903).
        isr: Vec<IsrMember>,
    },
    /// Hands out the next block of producer ids.
    AllocateProducerIds {
        /// To whom.
        #[serde(with = "form")]
        broker: BrokerId,
        /// Under which registration.
        broker_epoch: u64,
        /// How many.
        count: u32,
    },
    /// Sets (a text) or removes (none) the cluster's own settings.
    SetClusterConfig {
        /// By name.
        changes: BTreeMap<String, Option<String>>,
    },
    /// Raises the feature level; never lowers it.
    SetFeatureLevel {
        /// The new one.
        level: FeatureLevel,
    },
}

/// A broker as it registers at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    /// Its number.
    #[serde(with = "form")]
    pub broker: BrokerId,
    /// Random, made at each start: the same registration sent twice counts once.
    pub incarnation: u64,
    /// The identity of its disk, from the data folder.
    pub storage_id: [u8; 16],
    /// Where it tells clients to find its HTTP door (`host:port`), if it has one.
    pub http: Option<String>,
    /// Where it tells Kafka clients to find it (`host:port`), if it has that door.
    #[serde(default)]
    pub kafka: Option<String>,
    /// Where other brokers reach it (`host:port`), if they may.
    pub peer: Option<String>,
    /// The newest feature level that it knows.
    pub feature_level: FeatureLevel,
    /// Unix time in milliseconds.
    pub now_ms: i64,
}

/// A member of a partition's in-sync replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    /// The broker.
    #[serde(with = "form")]
    pub broker: BrokerId,
    /// Its registration.
    pub broker_epoch: u64,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done; look at the image.
    Done,
    /// The broker is registered.
    Registered {
        /// Its epoch from now on.
        broker_epoch: u64,
    },
    /// Producer ids from `first`, as many as asked for.
    ProducerIds {
        /// The first.
        #[serde(with = "form")]
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// The partition's state after the change.
    PartitionAltered {
        /// To be named in the next change.
        partition_epoch: i32,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why the controller did not do it. It stands in the log's answer, so it is made of plain values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A topic of this name is there already.
    #[error("topic '{0}' exists already")]
    TopicExists(#[serde(with = "form")] TopicName),
    /// No such topic (any more).
    #[error("there is no topic with id {0}")]
    UnknownTopic(#[serde(with = "form")] TopicId),
    /// No such partition.
    #[error("the topic has no partition {0}")]
    UnknownPartition(#[serde(with = "form")] PartitionId),
    /// The number of partitions does not fit.
    #[error("{0}")]
    InvalidPartitions(String),
    /// Replicas that do not exist, are too many, or repeat.
    #[error("{0}")]
    InvalidReplicas(String),
    /// A configuration key or value that does not fit.
    #[error("{0}")]
    InvalidConfig(String),
    /// No such broker.
    #[error("broker {0} is not registered")]
    UnknownBroker(#[serde(with = "form")] BrokerId),
    /// The broker started again since, or another broker has its number.
    #[error("broker {broker} has epoch {current}, not {given}")]
    StaleBrokerEpoch {
        /// Which.
        #[serde(with = "form")]
        broker: BrokerId,
        /// What was said.
        given: u64,
        /// What is.
        current: u64,
    },
    /// The partition has another leader, or changed meanwhile: look at the image.
    #[error("the partition changed meanwhile (leader epoch {leader_epoch}, partition epoch {partition_epoch})")]
    StalePartition {
        /// Its leader epoch.
        #[serde(with = "form")]
        leader_epoch: LeaderEpoch,
        /// Its partition epoch.
        partition_epoch: i32,
    },
    /// The command needs a higher feature level than the cluster's.
    #[error("this needs feature level {needed}; the cluster is at {current}: upgrade every broker, then raise it")]
    FeatureLevel {
        /// What it needs.
        needed: FeatureLevel,
        /// What is.
        current: FeatureLevel,
    },
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::InvalidConfig(error.to_string())
    }
}

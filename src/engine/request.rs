//! What goes through the engine's port.

use super::EngineError;
use crate::codec::{Piece, ProducedRecords, RecordBatch};
use crate::types::{
    BrokerId, ClusterId, HighWatermark, LeaderEpoch, LogEndOffset, LogStartOffset, Offset, PartitionId, Record,
    StoredRecord, TopicConfig, TopicId, TopicName,
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// A topic to make.
#[derive(Debug, Clone)]
pub struct CreateTopic {
    /// Its name.
    pub name: TopicName,
    /// How many partitions; `None` takes the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` takes the broker's default.
    pub replication_factor: Option<i16>,
    /// Configuration that differs from the defaults, by Kafka's keys.
    pub config: BTreeMap<String, String>,
}

/// A change of a topic. Everything is checked before anything is changed.
#[derive(Debug, Clone, Default)]
pub struct AlterTopic {
    /// Configuration to set.
    pub set: BTreeMap<String, String>,
    /// Configuration to put back to the default.
    pub reset: Vec<String>,
    /// The new number of partitions; never fewer.
    pub partitions: Option<i32>,
}

/// What a door needs to route to a topic; kept in memory and shared.
#[derive(Debug, Clone)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// How many partitions it has, numbered from 0.
    pub partitions: i32,
    /// Replicas of each partition.
    pub replication_factor: i16,
    /// Its whole configuration.
    pub config: TopicConfig,
    /// The part of it that the topic sets itself.
    pub overrides: BTreeMap<String, String>,
}

/// A topic with the state of its partitions.
#[derive(Debug, Clone)]
pub struct TopicDescription {
    /// The topic.
    pub info: std::sync::Arc<TopicInfo>,
    /// Each partition, in order.
    pub partitions: Vec<PartitionDescription>,
}

/// The state of a partition.
#[derive(Debug, Clone)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// Its leader; `None` while it has none.
    pub leader: Option<BrokerId>,
    /// The number of its leadership.
    pub leader_epoch: LeaderEpoch,
    /// Who holds a copy.
    pub replicas: Vec<BrokerId>,
    /// Whose copy keeps up.
    pub in_sync_replicas: Vec<BrokerId>,
    /// First readable offset.
    pub log_start: LogStartOffset,
    /// First offset that can not be read yet.
    pub high_watermark: HighWatermark,
    /// The offset that the next record gets.
    pub log_end: LogEndOffset,
    /// Bytes of its segments.
    pub size_bytes: u64,
    /// Why it takes no requests, if it does not.
    pub offline: Option<String>,
}

/// Moves one log start.
#[derive(Debug, Clone, Copy)]
pub struct Truncation {
    /// Which partition.
    pub partition: PartitionId,
    /// The new log start; records below it go.
    pub before: Offset,
}

/// The acknowledgement asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Every in-sync replica.
    #[default]
    All,
    /// The leader alone.
    Leader,
}

/// An Idempotency-Key's identity, and what may be sent under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyTag {
    /// Hash of principal and key (first 16 bytes of SHA-256).
    pub key: [u8; 16],
    /// What is sent under it; the same key with anything else is refused.
    pub content: TaggedContent,
}

/// What an Idempotency-Key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaggedContent {
    /// One request, by its hash (first 16 bytes of SHA-256); its records are numbered from 0.
    Request([u8; 16]),
    /// A stream of records (`ingest`), each held by its own hash: a resend from the first line may go on where the
    /// first one was cut off.
    Records {
        /// The number (line) of the first record of this call.
        first_index: u32,
        /// One hash for each record of this call.
        hashes: Vec<[u8; 16]>,
    },
}

/// A record with where it should go.
#[derive(Debug, Clone, Default)]
pub struct RecordToProduce {
    /// The record.
    pub record: Record,
    /// Its partition; `None` takes the key's, or where there is no key one that the engine picks.
    pub partition: Option<PartitionId>,
}

/// Records to store.
#[derive(Debug)]
pub struct ProduceRequest {
    /// The topic, by identity: a topic deleted meanwhile is never written under its old name.
    pub topic: TopicId,
    /// In order.
    pub records: Vec<RecordToProduce>,
    /// The acknowledgement asked for.
    pub acks: Acks,
    /// How long to wait for it. A record that was not acknowledged by then may still be stored.
    pub timeout: Duration,
    /// Makes a resend free.
    pub idempotency: Option<IdempotencyTag>,
}

/// What became of each record, in the order of the request.
#[derive(Debug)]
pub struct ProduceReceipt {
    /// One each.
    pub results: Vec<Result<ProducedRecord, EngineError>>,
    /// Every record was stored by an earlier request under this Idempotency-Key.
    pub replayed: bool,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducedRecord {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// Its timestamp (the producer's, or the leader's).
    pub timestamp_ms: i64,
}

/// A producer's whole batch to store in one partition.
#[derive(Debug)]
pub struct ProduceBatch {
    /// The topic.
    pub topic: TopicId,
    /// Its partition.
    pub partition: PartitionId,
    /// One batch as it came; its offset and epoch are the leader's to set.
    pub batch: RecordBatch,
    /// What [`RecordBatch::verify_produced`] found, if the caller had it looked at within [`super::DECOMPRESSED_BATCH`]
    /// already; otherwise that is done first.
    pub verified: Option<ProducedRecords>,
    /// The batch is nearly all of the memory that its bytes lie in, so that it may keep that.
    pub owns_memory: bool,
    /// The acknowledgement asked for.
    pub acks: Acks,
    /// How long to wait for it.
    pub timeout: Duration,
}

/// Where a producer's batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducedBatch {
    /// Offset of its first record; the others follow densely.
    pub base_offset: Offset,
    /// Each record's timestamp, where the topic takes the leader's (`LogAppendTime`).
    pub append_time_ms: Option<i64>,
    /// First readable offset of the partition.
    pub log_start: LogStartOffset,
}

/// A record by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampSpec {
    /// The first with this timestamp (Unix ms) or a later one.
    AtLeast(i64),
    /// The first with the greatest timestamp (KIP-734).
    Greatest,
}

/// A read from one partition.
#[derive(Debug, Clone, Copy)]
pub struct FetchRequest {
    /// The topic.
    pub topic: TopicId,
    /// Its partition.
    pub partition: PartitionId,
    /// The first offset wanted.
    pub from: Offset,
    /// About how many bytes of batches; at least one batch comes, even if it is larger.
    pub max_bytes: usize,
}

/// Batches of one partition.
#[derive(Debug, Clone)]
pub struct FetchResponse {
    /// Whole batches as stored, in order, none at or above the high watermark. The first may begin below the offset
    /// asked for; control batches are among them. Use [`RecordBatch::records`].
    pub batches: Vec<RecordBatch>,
    /// First readable offset.
    pub log_start: LogStartOffset,
    /// First offset that can not be read yet.
    pub high_watermark: HighWatermark,
    /// The leadership that answered.
    pub leader_epoch: LeaderEpoch,
}

/// Batches of one partition, as bytes to hand on.
#[derive(Debug, Clone)]
pub struct StoredFetch {
    /// Whole batches as stored, in order, as in [`FetchResponse::batches`]. Only their headers were looked at.
    pub pieces: Vec<Piece>,
    /// Bytes of the first batch; 0 if there is none.
    pub first_batch: usize,
    /// The offset after them; the one asked for if there are none.
    pub next_offset: Offset,
    /// First readable offset.
    pub log_start: LogStartOffset,
    /// First offset that can not be read yet.
    pub high_watermark: HighWatermark,
}

/// A place in a partition by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record with this timestamp or a later one; the high watermark if there is none.
    Timestamp(i64),
}

/// The end of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch at or below the one asked for that this log knows.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// A fixed state of a topic's latest-by-key view.
#[derive(Debug, Clone)]
pub struct ViewSnapshot {
    /// The topic.
    pub topic: TopicId,
    /// Per partition the first offset that is not part of it, where live begins, with the leader epoch there.
    pub applied: Vec<(PartitionId, Offset, LeaderEpoch)>,
}

/// Some rows of a snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotPage {
    /// Records that are the latest of their key, tombstones and keyless ones left out.
    pub records: Vec<(PartitionId, StoredRecord)>,
    /// Where the next page goes on (exclusive); `None` after the last.
    pub next: Option<(PartitionId, Bytes)>,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct ClusterInfo {
    /// Its identity.
    pub cluster_id: ClusterId,
    /// This broker.
    pub broker_id: BrokerId,
    /// The broker that leads the metadata; `None` while there is none.
    pub controller_id: Option<BrokerId>,
    /// The last metadata change that this broker has applied.
    pub metadata_version: u64,
}

/// A broker.
#[derive(Debug, Clone)]
pub struct BrokerInfo {
    /// Its number.
    pub id: BrokerId,
    /// Where it serves HTTP, as others are told (`host:port`).
    pub http: Option<String>,
    /// Where it serves Kafka clients, as they are told (`host:port`).
    pub kafka: Option<String>,
    /// Whether it may lead partitions.
    pub fenced: bool,
}

//! The port between the doors and the broker: what HTTP and Kafka may ask, and the errors they get.
//!
//! **Invariant**: a door knows no file, replica or offset index; it sees topics, partitions, records and this
//! module's errors. An implementation serves every call from any thread, and never blocks an async thread.

mod batches;
mod catalog;
mod error;
mod groups;
mod idempotency;
mod internal;
mod produce;
mod queues;
mod request;
mod routed;
mod topics;

pub use crate::codec::{BatchError, DecompressLimit, Piece, ProducedRecords, RecordBatch, RecordView, Records};
pub use crate::coordinator::group::{
    Assignment, CommitOffsets, CommitResults, CommittedOffset, GroupDescription, GroupError, GroupHeartbeat,
    GroupListing, GroupOffsets, GroupProtocol, GroupSettings, GroupState, HttpMember, JoinGroup, JoinedGroup,
    JoinedMember, LeaveGroup, LeavingMember, MemberDescription, Membership, OffsetToCommit, SyncGroup, SyncedGroup,
    http_member_id,
};
pub use crate::coordinator::queue::{
    Backoff, Counts as QueueCounts, Definition as QueueDefinition, GivenUpFilter, HolderState, LeaseSigner,
    MAX_DELIVERIES, OnExhausted, PartitionSettings as QueueSettings, QueueRefusal, QueueStart, ReceiveTag,
    SettleOutcome, Settlement, Totals as QueueTotals,
};
pub use crate::log::ProducerSummary;
pub use batches::DECOMPRESSED_BATCH;
pub use error::{EngineError, RecordError, SideEffects};
pub use groups::{GroupPosition, Groups};
pub use produce::check_record;
pub use queues::{
    BlockedKey, GivenUpMessage, QueueDescription, QueueMessage, QueuePartition, QueueToPut, Queues, ReceiveRequest,
    ReceivedMessages,
};
pub use request::{
    Acks, AlterTopic, BrokerInfo, ClusterInfo, CreateTopic, EpochEnd, FetchRequest, FetchResponse, IdempotencyTag,
    OffsetSpec, PartitionDescription, ProduceBatch, ProduceReceipt, ProduceRequest, ProducedBatch, ProducedRecord,
    RecordToProduce, SnapshotPage, StoredFetch, TaggedContent, TimestampSpec, TopicDescription, TopicInfo, Truncation,
    ViewSnapshot,
};
pub use routed::{EngineSettings, RoutedEngine};

use crate::types::{Offset, PartitionId, PartitionProgress, ProducerId, StoredRecord, TopicId, TopicName};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// What an engine's calls give.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// A broker, or something that can act as one.
pub trait Engine: Send + Sync + 'static {
    // ---- topics -------------------------------------------------------------------------------------------------

    /// Makes a topic.
    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicDescription>;
    /// Whether [`Engine::create_topic`] would make it; nothing is changed.
    fn check_create_topic(&self, request: CreateTopic) -> Answer<'_, ()> {
        let _ = request;
        Box::pin(async { Err(EngineError::Unsupported("checking a topic before it is made")) })
    }
    /// Whether [`Engine::alter_topic`] would change it; nothing is changed.
    fn check_alter_topic(&self, name: &TopicName, change: AlterTopic) -> Answer<'_, ()> {
        let _ = (name, change);
        Box::pin(async { Err(EngineError::Unsupported("checking a change before it is made")) })
    }
    /// What is needed to route to a topic, from memory. `None` if there is none of this name.
    fn topic(&self, name: &TopicName) -> Option<Arc<TopicInfo>>;
    /// The same by identity.
    fn topic_by_id(&self, id: TopicId) -> Option<Arc<TopicInfo>> {
        self.topics().into_iter().find(|topic| topic.id == id)
    }
    /// Every topic, sorted by name, from memory.
    fn topics(&self) -> Vec<Arc<TopicInfo>>;
    /// Changes whenever a topic comes, goes, or gets another configuration or more partitions.
    fn watch_topics(&self) -> watch::Receiver<u64>;
    /// A topic with the state of each of its partitions.
    fn describe_topic(&self, name: &TopicName) -> Answer<'_, TopicDescription>;
    /// Sets and resets configuration, adds partitions.
    fn alter_topic(&self, name: &TopicName, change: AlterTopic) -> Answer<'_, TopicDescription>;
    /// Deletes a topic and its records.
    fn delete_topic(&self, name: &TopicName) -> Answer<'_, ()>;
    /// Moves log starts up (Kafka's DeleteRecords). Gives the log start of each partition named.
    fn truncate(&self, name: &TopicName, truncations: Vec<Truncation>) -> Answer<'_, Vec<(PartitionId, Offset)>>;
    /// The topic of this name, made with the broker's defaults if there is none and the broker may.
    fn topic_or_create(&self, name: &TopicName) -> Answer<'_, Arc<TopicInfo>>;

    // ---- records ------------------------------------------------------------------------------------------------

    /// Stores records, in order, each in the partition it names, its key's, or one that the engine picks for the
    /// whole request. Answers when each record reached the acknowledgement asked for, or failed.
    ///
    /// Dropping the future does not take the records back.
    fn produce(&self, request: ProduceRequest) -> Answer<'_, ProduceReceipt>;
    /// How long ago this call last saw that what waits to be stored in a partition of the topic waits longer than it should;
    /// `None` if never. A door takes less of it meanwhile. From memory.
    fn since_late(&self, topic: &TopicName) -> Option<Duration> {
        let _ = topic;
        None
    }
    /// Stores one batch that a producer made, as it is, after a check of all of it. An idempotent producer's batch that is
    /// stored already gets the answer that its first one got. Batches of one partition are stored in the order of the
    /// calls: what is known at once is done before this returns. The rest is as with [`Engine::produce`].
    fn produce_batch(&self, request: ProduceBatch) -> Answer<'static, ProducedBatch> {
        let _ = request;
        Box::pin(async { Err(EngineError::Unsupported("whole batches")) })
    }
    /// An idempotent producer's number that nobody else has or had.
    fn allocate_producer_id(&self) -> Answer<'_, ProducerId> {
        Box::pin(async { Err(EngineError::Unsupported("idempotent producers")) })
    }
    /// The idempotent producers that a partition remembers.
    fn producers(&self, topic: TopicId, partition: PartitionId) -> Answer<'_, Vec<ProducerSummary>> {
        let _ = (topic, partition);
        Box::pin(async { Err(EngineError::Unsupported("idempotent producers")) })
    }
    /// Batches from one partition, from the one that holds `from`; empty at the end. Never waits for new records:
    /// [`Engine::watch`] does.
    fn fetch(&self, request: FetchRequest) -> Answer<'_, FetchResponse>;
    /// The same for who only hands the bytes on, and whose client checks them (a Kafka consumer does): they may stay on the
    /// disk until they are sent.
    fn fetch_stored(&self, request: FetchRequest) -> Answer<'_, StoredFetch> {
        Box::pin(async move {
            let FetchResponse { batches, log_start, high_watermark, .. } = self.fetch(request).await?;
            Ok(StoredFetch {
                first_batch: batches.first().map_or(0, |batch| batch.header().size),
                next_offset: batches.last().map_or(request.from, |batch| batch.header().next_offset()),
                pieces: batches.iter().map(|batch| Piece::Memory(batch.bytes().clone())).collect(),
                log_start,
                high_watermark,
            })
        })
    }
    /// The partition's progress; the sender is dropped when the partition is deleted.
    fn watch(&self, topic: TopicId, partition: PartitionId) -> Result<watch::Receiver<PartitionProgress>, EngineError>;
    /// Where to start for a point in time, or an end of the log.
    fn offset_for(&self, topic: TopicId, partition: PartitionId, spec: OffsetSpec) -> Answer<'_, Offset>;
    /// The first record that a timestamp points at, with its own timestamp; `None` if there is none that can be read.
    fn offset_and_timestamp(
        &self,
        topic: TopicId,
        partition: PartitionId,
        spec: TimestampSpec,
    ) -> Answer<'_, Option<(Offset, i64)>> {
        let _ = (topic, partition, spec);
        Box::pin(async { Err(EngineError::Unsupported("looking up timestamps")) })
    }
    /// Where a leader epoch ended (OffsetForLeaderEpoch, KIP-101): what a reader that was there under that epoch may
    /// still rely on.
    fn epoch_end(
        &self,
        topic: TopicId,
        partition: PartitionId,
        epoch: crate::types::LeaderEpoch,
    ) -> Answer<'_, EpochEnd>;

    // ---- views --------------------------------------------------------------------------------------------------

    /// A key's latest record over all partitions, by (timestamp, partition, offset); `None` if there is none or it is
    /// a tombstone. Brings the partition with it.
    fn latest(&self, topic: TopicId, key: &[u8]) -> Answer<'_, Option<(PartitionId, StoredRecord)>>;
    /// Fixes the state of a topic's latest-by-key view, waiting until it has applied all that is committed now.
    fn snapshot(&self, topic: TopicId, partitions: Vec<PartitionId>) -> Answer<'_, ViewSnapshot>;
    /// The next rows of a snapshot, in the order of partition and key, after the key given (none: from the start).
    /// Rows newer than the snapshot are left out: they come live.
    fn snapshot_page<'a>(
        &'a self,
        snapshot: &'a ViewSnapshot,
        after: Option<(PartitionId, bytes::Bytes)>,
        max_bytes: usize,
    ) -> Answer<'a, SnapshotPage>;

    // ---- consumer groups ----------------------------------------------------------------------------------------

    /// Consumer groups.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] where there are none.
    fn groups(&self) -> Result<&dyn Groups, EngineError> {
        Err(EngineError::Unsupported("consumer groups"))
    }

    // ---- queues -------------------------------------------------------------------------------------------------

    /// Queues.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] where there are none.
    fn queues(&self) -> Result<&dyn Queues, EngineError> {
        Err(EngineError::Unsupported("queues"))
    }

    // ---- the broker ---------------------------------------------------------------------------------------------

    /// The cluster as this broker sees it.
    fn cluster(&self) -> ClusterInfo;
    /// The brokers.
    fn brokers(&self) -> Vec<BrokerInfo>;
    /// True once it serves, false again when it drains.
    fn is_ready(&self) -> bool;
}

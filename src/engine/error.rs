//! Why the engine did not do what was asked.

use crate::coordinator::group::GroupError;
use crate::coordinator::queue::QueueRefusal;
use crate::types::{LogEndOffset, LogStartOffset, PartitionId, TopicName};

/// What a failed request may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideEffects {
    /// Nothing was changed.
    None,
    /// It may have been done, or will be.
    Unknown,
    /// It was done, though not as well as asked.
    Applied,
}

/// An engine's refusal or failure. One variant for each case that a caller treats differently; the doors map each of
/// them once (`http/problem.rs`, and Kafka's codes).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// No topic of this name or id, and none was to be made.
    #[error("there is no topic '{0}'")]
    UnknownTopic(String),
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}; it has {partitions}, numbered from 0")]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// What was asked for.
        partition: PartitionId,
        /// How many there are.
        partitions: i32,
    },
    /// A topic of this name is there already.
    #[error("topic '{0}' exists already")]
    TopicExists(TopicName),
    /// The topic is the server's own.
    #[error("topic '{0}' is internal")]
    InternalTopic(TopicName),
    /// The configuration does not fit.
    #[error("{0}")]
    InvalidConfig(#[from] crate::types::ConfigError),
    /// The number of partitions does not fit.
    #[error("{0}")]
    InvalidPartitions(String),
    /// More replicas than brokers, or none.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A record that can not be stored as it is.
    #[error("{0}")]
    InvalidRecord(#[from] RecordError),
    /// A producer's batch that can not be stored as it is.
    #[error("{0}")]
    InvalidBatch(#[from] crate::codec::BatchError),
    /// An idempotent producer's batch before this one is missing.
    #[error("the batch is out of order: the producer's next sequence is {expected}")]
    OutOfOrderSequence {
        /// What should come.
        expected: i32,
    },
    /// A newer epoch of this idempotent producer has written.
    #[error("the producer was fenced by its newer epoch {0}")]
    ProducerFenced(crate::types::ProducerEpoch),
    /// The Idempotency-Key was used with another request.
    #[error("this Idempotency-Key was used for another request; use a new key for a new request")]
    IdempotencyConflict,
    /// The request that first used the Idempotency-Key is still under way.
    #[error("a request with this Idempotency-Key is still in flight; wait for it, or send it again later")]
    IdempotencyInFlight,
    /// The offset lies below the log start or above the end.
    #[error("offset {requested} is out of range: the partition holds {log_start} to {log_end} (exclusive)")]
    OffsetOutOfRange {
        /// Where.
        partition: PartitionId,
        /// What was asked for.
        requested: i64,
        /// First offset there.
        log_start: LogStartOffset,
        /// First offset that is not there yet.
        log_end: LogEndOffset,
    },
    /// The record itself is fine, but another one of its request was refused, so nothing was stored.
    #[error("not stored, because another record of this request was refused")]
    RejectedWithRequest,
    /// Fewer replicas are in sync than the topic asks for.
    #[error("partition {partition} has {in_sync} in-sync replicas, and min.insync.replicas is {required}; try again")]
    NotEnoughReplicas {
        /// Which.
        partition: PartitionId,
        /// How many are in sync.
        in_sync: usize,
        /// How many it takes.
        required: i32,
    },
    /// The partition's view is still being built.
    #[error("the view of partition {0} is still being built; try again")]
    ViewNotReady(PartitionId),
    /// Nobody leads the partition now.
    #[error("partition {0} has no leader now; try again")]
    NoLeader(PartitionId),
    /// The partition is offline here: its disk failed, or its log is damaged.
    #[error("partition {partition} is offline: {reason}")]
    PartitionOffline {
        /// Which.
        partition: PartitionId,
        /// Why, for people.
        reason: String,
    },
    /// A consumer group's refusal.
    #[error("{0}")]
    Group(#[from] GroupError),
    /// A queue's refusal.
    #[error("{0}")]
    Queue(#[from] QueueRefusal),
    /// Another broker coordinates the group or queue, or none does now.
    #[error("this broker does not coordinate that now; try again")]
    NotCoordinator,
    /// The coordinator has no state now: it is being loaded, or its partition's log takes no writes.
    #[error("the coordinator is not available now: {0}")]
    CoordinatorNotAvailable(String),
    /// The disk has no room.
    #[error("the disk is full; nothing was stored")]
    DiskFull,
    /// The acknowledgement did not come in time. The records may be stored.
    #[error("the records were not acknowledged in time; they may still be stored")]
    TimedOut,
    /// Too much is waiting to be stored.
    #[error("too many writes are waiting; try again")]
    Overloaded,
    /// The server is going away.
    #[error("the server is shutting down; try another, or again")]
    ShuttingDown,
    /// The backend can not do this.
    #[error("this server can not do that: {0}")]
    Unsupported(&'static str),
    /// A fault of ours or of the disk. The text is for the log, not for clients.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Group(error) => matches!(error, GroupError::RebalanceInProgress | GroupError::TooManyGroups),
            Self::NoLeader(_)
            | Self::NotCoordinator
            | Self::CoordinatorNotAvailable(_)
            | Self::ViewNotReady(_)
            | Self::NotEnoughReplicas { .. }
            | Self::DiskFull
            | Self::TimedOut
            | Self::Overloaded
            | Self::ShuttingDown
            | Self::IdempotencyInFlight
            | Self::PartitionOffline { .. } => true,
            Self::UnknownTopic(_)
            | Self::Queue(_)
            | Self::UnknownPartition { .. }
            | Self::TopicExists(_)
            | Self::InternalTopic(_)
            | Self::InvalidConfig(_)
            | Self::InvalidPartitions(_)
            | Self::InvalidReplicationFactor(_)
            | Self::InvalidRecord(_)
            | Self::InvalidBatch(_)
            | Self::OutOfOrderSequence { .. }
            | Self::ProducerFenced(_)
            | Self::RejectedWithRequest
            | Self::IdempotencyConflict
            | Self::OffsetOutOfRange { .. }
            | Self::Unsupported(_)
            | Self::Internal(_) => false,
        }
    }

    /// What the failed request may have left behind.
    #[must_use]
    pub const fn side_effects(&self) -> SideEffects {
        match self {
            Self::TimedOut
            | Self::PartitionOffline { .. }
            | Self::Internal(_)
            | Self::ShuttingDown
            | Self::NotCoordinator
            | Self::CoordinatorNotAvailable(_) => SideEffects::Unknown,
            Self::NoLeader(_)
            | Self::Group(_)
            | Self::Queue(_)
            | Self::ViewNotReady(_)
            | Self::NotEnoughReplicas { .. }
            | Self::RejectedWithRequest
            | Self::DiskFull
            | Self::Overloaded
            | Self::IdempotencyInFlight
            | Self::UnknownTopic(_)
            | Self::UnknownPartition { .. }
            | Self::TopicExists(_)
            | Self::InternalTopic(_)
            | Self::InvalidConfig(_)
            | Self::InvalidPartitions(_)
            | Self::InvalidReplicationFactor(_)
            | Self::InvalidRecord(_)
            | Self::InvalidBatch(_)
            | Self::OutOfOrderSequence { .. }
            | Self::ProducerFenced(_)
            | Self::IdempotencyConflict
            | Self::OffsetOutOfRange { .. }
            | Self::Unsupported(_) => SideEffects::None,
        }
    }
}

/// Why one record can not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// As a batch of its own it would be larger than the topic's `max.message.bytes`.
    #[error("the record takes up to {bytes} bytes as a batch; this topic takes at most {limit} (max.message.bytes)")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A compacted topic needs keys.
    #[error("this topic is compacted (cleanup.policy=compact), so each record needs a key")]
    KeyRequired,
    /// The timestamp can not be stored.
    #[error("timestamp_ms {0} is out of range: it is Unix time in milliseconds, 0 or more")]
    Timestamp(i64),
    /// The named partition does not exist.
    #[error("there is no partition {partition}; the topic has {partitions}, numbered from 0")]
    UnknownPartition {
        /// What was asked for.
        partition: i32,
        /// How many there are.
        partitions: i32,
    },
}

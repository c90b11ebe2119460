//! Kafka's error codes, and the one mapping from the engine's errors to them.
//!
//! **Invariant**: the mapping names every [`EngineError`]. A code that clients retry stands only where the same request may
//! succeed later. Texts of internal errors are logged here and never sent.

use crate::engine::{BatchError, EngineError, GroupError, RecordError};

macro_rules! codes {
    ($($name:ident = $code:literal,)*) => {
        /// An error code of Kafka's protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(i16)]
        #[allow(missing_docs)] // each is Kafka's code of its name
        pub enum ErrorCode {
            $($name = $code,)*
        }
    };
}

codes! {
    UnknownServerError = -1,
    None = 0,
    OffsetOutOfRange = 1,
    CorruptMessage = 2,
    UnknownTopicOrPartition = 3,
    LeaderNotAvailable = 5,
    NotLeaderOrFollower = 6,
    RequestTimedOut = 7,
    MessageTooLarge = 10,
    OffsetMetadataTooLarge = 12,
    CoordinatorNotAvailable = 15,
    NotCoordinator = 16,
    InvalidTopic = 17,
    NotEnoughReplicas = 19,
    InvalidRequiredAcks = 21,
    IllegalGeneration = 22,
    InconsistentGroupProtocol = 23,
    InvalidGroupId = 24,
    UnknownMemberId = 25,
    InvalidSessionTimeout = 26,
    RebalanceInProgress = 27,
    UnsupportedSaslMechanism = 33,
    IllegalSaslState = 34,
    UnsupportedVersion = 35,
    TopicAlreadyExists = 36,
    InvalidPartitions = 37,
    InvalidReplicationFactor = 38,
    InvalidConfig = 40,
    InvalidRequest = 42,
    UnsupportedForMessageFormat = 43,
    OutOfOrderSequenceNumber = 45,
    InvalidProducerEpoch = 47,
    KafkaStorageError = 56,
    NonEmptyGroup = 68,
    GroupIdNotFound = 69,
    FetchSessionIdNotFound = 70,
    InvalidFetchSessionEpoch = 71,
    FencedLeaderEpoch = 74,
    UnknownLeaderEpoch = 76,
    MemberIdRequired = 79,
    GroupMaxSizeReached = 81,
    FencedInstanceId = 82,
    GroupSubscribedToTopic = 86,
    InvalidRecord = 87,
    UnknownTopicId = 100,
    FetchSessionTopicIdError = 106,
    MismatchedEndpointType = 114,
}

impl ErrorCode {
    /// As it stands in a message.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }
}

impl From<&EngineError> for ErrorCode {
    fn from(error: &EngineError) -> Self {
        use EngineError as E;
        match error {
            E::UnknownTopic(_) | E::UnknownPartition { .. } => Self::UnknownTopicOrPartition,
            E::TopicExists(_) => Self::TopicAlreadyExists,
            E::InternalTopic(_) => Self::InvalidTopic,
            E::InvalidConfig(_) => Self::InvalidConfig,
            E::InvalidPartitions(_) => Self::InvalidPartitions,
            E::InvalidReplicationFactor(_) => Self::InvalidReplicationFactor,
            E::InvalidRecord(RecordError::TooLarge { .. }) | E::InvalidBatch(BatchError::TooLarge(_)) => {
                Self::MessageTooLarge
            }
            E::InvalidRecord(RecordError::KeyRequired | RecordError::Timestamp(_)) => Self::InvalidRecord,
            E::InvalidRecord(RecordError::UnknownPartition { .. }) => Self::UnknownTopicOrPartition,
            E::InvalidBatch(BatchError::Crc | BatchError::Truncated) => Self::CorruptMessage,
            E::InvalidBatch(BatchError::OldFormat(_)) => Self::UnsupportedForMessageFormat,
            E::InvalidBatch(BatchError::Corrupt(_)) => Self::InvalidRecord,
            E::OutOfOrderSequence { .. } => Self::OutOfOrderSequenceNumber,
            E::ProducerFenced(_) => Self::InvalidProducerEpoch,
            // Only HTTP has Idempotency-Keys; nobody asks for one here.
            E::IdempotencyConflict | E::IdempotencyInFlight | E::RejectedWithRequest => Self::InvalidRequest,
            E::OffsetOutOfRange { .. } => Self::OffsetOutOfRange,
            E::NotEnoughReplicas { .. } => Self::NotEnoughReplicas,
            // Clients ask for the metadata again and retry.
            E::NoLeader(_) | E::ShuttingDown => Self::NotLeaderOrFollower,
            E::Group(refusal) => Self::from(refusal),
            // Queues have a door of their own; nobody asks for one here.
            E::Queue(_) => Self::InvalidRequest,
            E::NotCoordinator => Self::NotCoordinator,
            E::CoordinatorNotAvailable(_) => Self::CoordinatorNotAvailable,
            E::PartitionOffline { .. } | E::DiskFull => Self::KafkaStorageError,
            // Too much to do: of the codes that every client retries, the one that says least of the reason.
            E::TimedOut | E::Overloaded | E::ViewNotReady(_) => Self::RequestTimedOut,
            E::Unsupported(_) => Self::InvalidRequest,
            E::Internal(text) => {
                tracing::error!(error = text, "internal error");
                Self::UnknownServerError
            }
        }
    }
}

impl From<&GroupError> for ErrorCode {
    fn from(error: &GroupError) -> Self {
        use GroupError as G;
        match error {
            G::InvalidGroupId => Self::InvalidGroupId,
            G::InvalidSessionTimeout { .. } => Self::InvalidSessionTimeout,
            G::MemberIdRequired(_) => Self::MemberIdRequired,
            G::UnknownMemberId => Self::UnknownMemberId,
            G::IllegalGeneration => Self::IllegalGeneration,
            G::FencedInstanceId => Self::FencedInstanceId,
            G::RebalanceInProgress => Self::RebalanceInProgress,
            G::InconsistentGroupProtocol => Self::InconsistentGroupProtocol,
            G::GroupMaxSizeReached => Self::GroupMaxSizeReached,
            G::GroupIdNotFound => Self::GroupIdNotFound,
            G::NonEmptyGroup => Self::NonEmptyGroup,
            G::GroupSubscribedToTopic => Self::GroupSubscribedToTopic,
            G::OffsetMetadataTooLarge(_) => Self::OffsetMetadataTooLarge,
            G::UnknownTopicOrPartition => Self::UnknownTopicOrPartition,
            G::InvalidRequest(_) => Self::InvalidRequest,
            G::TooManyGroups => Self::CoordinatorNotAvailable,
        }
    }
}

impl From<EngineError> for ErrorCode {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

/// The code, and the text that goes with it.
#[must_use]
pub fn code_and_text(error: &EngineError) -> (i16, Option<String>) {
    let text = match error {
        EngineError::Internal(_) => "the server failed; its log says more".to_owned(),
        EngineError::PartitionOffline { partition, .. } => format!("partition {partition} is offline here"),
        other => other.to_string(),
    };
    (ErrorCode::from(error).code(), Some(text))
}

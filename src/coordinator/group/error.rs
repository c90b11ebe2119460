//! What a group refuses, by Kafka's names.

/// A group's refusal: one variant for each of Kafka's error codes that a group can answer with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// INVALID_GROUP_ID: the group's name is empty.
    #[error("a group's name can not be empty")]
    InvalidGroupId,
    /// INVALID_SESSION_TIMEOUT.
    #[error("the session timeout is out of range: {min_ms} to {max_ms} ms are allowed")]
    InvalidSessionTimeout {
        /// The least.
        min_ms: i64,
        /// The most.
        max_ms: i64,
    },
    /// MEMBER_ID_REQUIRED (KIP-394): join again with this id.
    #[error("join again with the member id {0}")]
    MemberIdRequired(String),
    /// UNKNOWN_MEMBER_ID: it left, its session ended, or it never joined.
    #[error("the group has no such member: it left, its session ended, or it never joined; join again")]
    UnknownMemberId,
    /// ILLEGAL_GENERATION: the group went on without it.
    #[error("the epoch (generation) is not the group's current one")]
    IllegalGeneration,
    /// FENCED_INSTANCE_ID (KIP-345): another member has its instance id now.
    #[error("another member has this group instance id now")]
    FencedInstanceId,
    /// REBALANCE_IN_PROGRESS: join again.
    #[error("the group is rebalancing; join again")]
    RebalanceInProgress,
    /// INCONSISTENT_GROUP_PROTOCOL: no protocol is understood by every member, or none was named.
    #[error("no assignor (protocol) that this member offers is offered by every other member too")]
    InconsistentGroupProtocol,
    /// GROUP_MAX_SIZE_REACHED.
    #[error("the group has as many members as it may have")]
    GroupMaxSizeReached,
    /// GROUP_ID_NOT_FOUND.
    #[error("there is no such group")]
    GroupIdNotFound,
    /// NON_EMPTY_GROUP: it has members.
    #[error("the group has members; stop them, or wait until their sessions end")]
    NonEmptyGroup,
    /// GROUP_SUBSCRIBED_TO_TOPIC: a member reads it.
    #[error("a member of the group reads this topic")]
    GroupSubscribedToTopic,
    /// OFFSET_METADATA_TOO_LARGE.
    #[error("the commit's metadata is larger than {0} bytes")]
    OffsetMetadataTooLarge(usize),
    /// UNKNOWN_TOPIC_OR_PARTITION.
    #[error("there is no such topic or partition")]
    UnknownTopicOrPartition,
    /// INVALID_REQUEST: contradicts itself.
    #[error("the request contradicts itself: {0}")]
    InvalidRequest(&'static str),
    /// COORDINATOR_NOT_AVAILABLE: too many groups.
    #[error("this coordinator takes no more groups")]
    TooManyGroups,
}

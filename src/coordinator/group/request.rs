//! What is asked of groups, and what they answer: Kafka's requests without their wire form.

use super::GroupError;
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// An assignor that a member offers, with what it tells the leader (opaque to the coordinator).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupProtocol {
    /// Its name: `range`, `roundrobin`, `cooperative-sticky`, or a client's own.
    pub name: String,
    /// The member's subscription, in the protocol's own form (for consumers Kafka's ConsumerProtocolSubscription).
    pub metadata: Bytes,
}

/// JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroup {
    /// Which group; made if there is none.
    pub group_id: String,
    /// Empty for a member that has none yet.
    pub member_id: String,
    /// Of a static member (KIP-345).
    pub group_instance_id: Option<String>,
    /// Who says it is.
    pub client_id: String,
    /// From where.
    pub client_host: String,
    /// How long it may be silent.
    pub session_timeout: Duration,
    /// How long it may take to join again; where the version has no such field, the session timeout.
    pub rebalance_timeout: Duration,
    /// `consumer`, `connect`, …
    pub protocol_type: String,
    /// In the order of its preference; not empty.
    pub protocols: Vec<GroupProtocol>,
    /// From version 4 on: a new dynamic member is told an id first and joins again with it (KIP-394).
    pub require_known_member_id: bool,
    /// From version 9 on: the leader may be told to leave the assignment as it is (KIP-814).
    pub supports_skip_assignment: bool,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// What it told for the chosen protocol.
    pub metadata: Bytes,
}

/// JoinGroup's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedGroup {
    /// The generation that the member is part of.
    pub generation_id: i32,
    /// The group's kind.
    pub protocol_type: Option<String>,
    /// The assignor that was chosen.
    pub protocol_name: Option<String>,
    /// Who assigns.
    pub leader: String,
    /// The leader leaves the assignment as it is.
    pub skip_assignment: bool,
    /// The member's own id.
    pub member_id: String,
    /// For the leader: every member. Empty for the others.
    pub members: Vec<JoinedMember>,
}

/// SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    /// Which group.
    pub group_id: String,
    /// As JoinGroup gave it.
    pub generation_id: i32,
    /// The member.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// From version 5 on; checked where given.
    pub protocol_type: Option<String>,
    /// From version 5 on; checked where given.
    pub protocol_name: Option<String>,
    /// From the leader: each member's assignment. Empty from the others.
    pub assignments: BTreeMap<String, Bytes>,
}

/// SyncGroup's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedGroup {
    /// The group's kind.
    pub protocol_type: Option<String>,
    /// The assignor.
    pub protocol_name: Option<String>,
    /// The member's part, in the protocol's own form.
    pub assignment: Bytes,
}

/// Heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHeartbeat {
    /// Which group.
    pub group_id: String,
    /// As JoinGroup gave it.
    pub generation_id: i32,
    /// The member.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
}

/// Who leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingMember {
    /// Its id; may be empty where the instance id is given.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
}

/// LeaveGroup (from version 3 on with several members).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveGroup {
    /// Which group.
    pub group_id: String,
    /// Who leaves.
    pub members: Vec<LeavingMember>,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to read.
    pub offset: Offset,
    /// The epoch of the record before it, if the member knows.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The member's own note.
    pub metadata: String,
}

/// OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitOffsets {
    /// Which group.
    pub group_id: String,
    /// Negative from who is no member (a reset, a consumer that assigns itself).
    pub generation_id: i32,
    /// Empty from who is no member.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// What to commit.
    pub offsets: Vec<OffsetToCommit>,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic's identity when it was committed; `None` where it came from a log that did not say.
    pub topic_id: Option<TopicId>,
    /// The next offset to read.
    pub offset: Offset,
    /// The epoch of the record before it, if the member knew.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The member's own note.
    pub metadata: String,
    /// When, Unix time in milliseconds.
    pub committed_ms: i64,
}

/// Committed offsets by topic and partition.
pub type GroupOffsets = BTreeMap<(TopicName, PartitionId), CommittedOffset>;

/// A group's state, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    /// No members.
    Empty,
    /// Waits for its members to join again.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Every member has its part.
    Stable,
    /// There is no such group.
    Dead,
}

impl GroupState {
    /// Kafka's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group_id: String,
    /// `consumer`, …; empty for a group that has only offsets.
    pub protocol_type: String,
    /// Its state.
    pub state: GroupState,
    /// How many members it has.
    pub members: usize,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group_id: String,
    /// Its state; [`GroupState::Dead`] if there is no such group.
    pub state: GroupState,
    /// The last generation.
    pub generation_id: i32,
    /// `consumer`, …; empty for a group that has only offsets.
    pub protocol_type: String,
    /// The assignor chosen; empty while there is none.
    pub protocol_name: String,
    /// Its members, by id.
    pub members: Vec<MemberDescription>,
}

impl GroupDescription {
    /// There is no such group.
    #[must_use]
    pub const fn dead(group_id: String) -> Self {
        Self {
            group_id,
            state: GroupState::Dead,
            generation_id: 0,
            protocol_type: String::new(),
            protocol_name: String::new(),
            members: Vec::new(),
        }
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// Of a static member.
    pub group_instance_id: Option<String>,
    /// Who says it is.
    pub client_id: String,
    /// From where.
    pub client_host: String,
    /// What it told for the chosen protocol; empty while the group rebalances.
    pub metadata: Bytes,
    /// Its part, in the protocol's own form; empty while the group rebalances.
    pub assignment: Bytes,
    /// The name that an HTTP member goes by; `None` for a Kafka client.
    pub http_name: Option<String>,
    /// Its part, read; `None` if it is not in Kafka's consumer protocol.
    pub partitions: Option<Assignment>,
}

/// Partitions by topic.
pub type Assignment = BTreeMap<TopicName, Vec<PartitionId>>;

/// What an HTTP member sends to join, and then as its heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMember {
    /// Which group; made if there is none.
    pub group_id: String,
    /// The member's own name.
    pub member: String,
    /// What it wants to read.
    pub topics: Vec<TopicName>,
    /// How long it may be silent.
    pub session_timeout: Duration,
}

/// Where an HTTP member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group's generation.
    pub epoch: i32,
    /// False while the group rebalances: the assignment is the old one then, good for a last commit.
    pub stable: bool,
    /// The member's part.
    pub assignment: Assignment,
    /// When to call again.
    pub heartbeat_interval: Duration,
    /// The committed offsets of its part.
    pub offsets: GroupOffsets,
}

/// What a commit gave, one for each offset in the order of the request.
pub type CommitResults = Vec<Result<(), GroupError>>;

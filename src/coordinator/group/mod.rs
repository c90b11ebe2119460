//! Consumer groups: who is a member, who reads which partition, and how far each group has read. Pure.
//!
//! **Invariant**: no clock, no async, no lock; what outlives a crash is what its records say, and they are Kafka's own.
//! A commit is taken only from who may commit: a member under the current generation, or anybody while there are no
//! members.
//!
//! One [`GroupMachine`] serves one partition of `__consumer_offsets` under [`super::CoordinatorRuntime`]. The protocol
//! is Kafka's classic one (KIP-62, 345, 394, 814); HTTP members are members like the others (`http_member`), for whom
//! the coordinator itself does the leader's part.

mod assignor;
mod classic;
mod consumer_protocol;
mod error;
mod http_member;
mod member;
mod offsets;
mod record;
mod request;
#[cfg(test)]
mod tests;
mod wire;

pub use error::GroupError;
pub use http_member::http_member_id;
pub use request::{
    Assignment, CommitOffsets, CommitResults, CommittedOffset, GroupDescription, GroupHeartbeat, GroupListing,
    GroupOffsets, GroupProtocol, GroupState, HttpMember, JoinGroup, JoinedGroup, JoinedMember, LeaveGroup,
    LeavingMember, MemberDescription, Membership, OffsetToCommit, SyncGroup, SyncedGroup,
};

use super::{Now, Outcome, ReplyToken, StateMachine};
use crate::types::{PartitionId, StoredRecord, TopicId, TopicName};
use classic::Group;
use record::Key;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

/// The internal topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Groups of one partition: a bound on what clients that make up names can do.
const MAX_GROUPS: usize = 100_000;

/// What the broker's configuration says about groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// Shortest session timeout that a member may ask for.
    pub min_session_timeout: Duration,
    /// Longest session timeout that a member may ask for.
    pub max_session_timeout: Duration,
    /// How long a group that was empty waits for more members (`group.initial.rebalance.delay.ms`).
    pub initial_rebalance_delay: Duration,
    /// Members of one group, at most (`group.max.size`).
    pub max_size: usize,
    /// How long offsets outlive the last member of their group (`offsets.retention.minutes`).
    pub offsets_retention: Duration,
    /// How often that is looked at (`offsets.retention.check.interval.ms`).
    pub retention_check_interval: Duration,
    /// Bytes of a commit's metadata (`offset.metadata.max.bytes`).
    pub max_metadata_bytes: usize,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            min_session_timeout: Duration::from_secs(1),
            max_session_timeout: Duration::from_mins(30),
            initial_rebalance_delay: Duration::from_millis(200),
            max_size: 1000,
            offsets_retention: Duration::from_hours(7 * 24),
            retention_check_interval: Duration::from_mins(10),
            max_metadata_bytes: 4096,
        }
    }
}

/// The topics as groups need them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TopicTable {
    version: u64,
    topics: BTreeMap<TopicName, (TopicId, i32)>,
}

impl TopicTable {
    /// As of a version of the metadata: each topic's identity and number of partitions.
    #[must_use]
    pub const fn new(version: u64, topics: BTreeMap<TopicName, (TopicId, i32)>) -> Self {
        Self { version, topics }
    }

    /// How many partitions; 0 if there is no such topic.
    fn partitions(&self, topic: &TopicName) -> i32 {
        self.topics.get(topic).map_or(0, |(_, partitions)| *partitions)
    }

    /// The topic's identity, if it has this partition.
    fn id_with(&self, topic: &TopicName, partition: PartitionId) -> Option<TopicId> {
        self.topics.get(topic).filter(|(_, partitions)| partition.get() < *partitions).map(|(id, _)| *id)
    }

    fn id(&self, topic: &TopicName) -> Option<TopicId> {
        self.topics.get(topic).map(|(id, _)| *id)
    }
}

/// What is asked of groups.
#[derive(Debug)]
pub enum GroupCommand {
    /// JoinGroup, with the id that a new member gets. Answers [`GroupReply::Joined`] when the group has gathered.
    Join(JoinGroup, String),
    /// SyncGroup. Answers [`GroupReply::Synced`] when the leader has assigned.
    Sync(SyncGroup),
    /// Heartbeat: [`GroupReply::Done`].
    Heartbeat(GroupHeartbeat),
    /// LeaveGroup: [`GroupReply::Each`].
    Leave(LeaveGroup),
    /// OffsetCommit: [`GroupReply::Each`].
    Commit(CommitOffsets, Arc<TopicTable>),
    /// OffsetFetch: [`GroupReply::Offsets`], all of the group's.
    Offsets(String),
    /// OffsetDelete: [`GroupReply::Each`].
    DeleteOffsets(String, Vec<(TopicName, PartitionId)>),
    /// DescribeGroups: [`GroupReply::Described`].
    Describe(String),
    /// ListGroups: [`GroupReply::Listed`].
    List,
    /// DeleteGroups: [`GroupReply::Done`].
    Delete(String),
    /// An HTTP member joins, or says that it is alive: [`GroupReply::Member`].
    HttpMember(HttpMember, Arc<TopicTable>),
    /// An HTTP member reads: renews its session and tells where it stands: [`GroupReply::Member`].
    HttpTouch {
        /// Which group.
        group_id: String,
        /// The member's own name.
        member: String,
    },
    /// The metadata changed: [`GroupReply::Done`].
    Topics(Arc<TopicTable>),
}

/// What groups answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupReply {
    /// Refused.
    Refused(GroupError),
    /// Done.
    Done,
    /// To a join.
    Joined(JoinedGroup),
    /// To a sync.
    Synced(SyncedGroup),
    /// One result for each item of the request.
    Each(CommitResults),
    /// Committed offsets.
    Offsets(GroupOffsets),
    /// A description.
    Described(GroupDescription),
    /// The partition's groups, by name.
    Listed(Vec<GroupListing>),
    /// An HTTP member's place.
    Member(Membership),
}

/// The timers of groups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupTimer {
    /// A member's session ends.
    Session(String, String),
    /// An id was given out, and nobody joined with it.
    PendingJoin(String, String),
    /// The time to join again is over.
    Join(String),
    /// The time to sync is over.
    Sync(String),
    /// Look for offsets that nobody needs any more.
    Retention,
}

/// What every step of a group may look at and fill.
struct Context<'a> {
    now: Now,
    settings: &'a GroupSettings,
    topics: &'a TopicTable,
    out: &'a mut Outcome<GroupMachine>,
}

impl Context<'_> {
    fn refuse(&mut self, token: ReplyToken, error: GroupError) {
        self.out.reply(token, GroupReply::Refused(error));
    }

    fn set_timer(&mut self, timer: GroupTimer, after: Duration) {
        self.out.set_timer(timer, self.now.monotonic + after);
    }
}

/// The groups of one partition.
pub struct GroupMachine {
    settings: Arc<GroupSettings>,
    topics: Arc<TopicTable>,
    groups: BTreeMap<String, Group>,
}

impl GroupMachine {
    /// Without any group.
    #[must_use]
    pub const fn new(settings: Arc<GroupSettings>, topics: Arc<TopicTable>) -> Self {
        Self { settings, topics, groups: BTreeMap::new() }
    }

    /// Runs a step of a group that there is; what is left without members, offsets and history is let go.
    fn with<T>(
        &mut self,
        group_id: &str,
        now: Now,
        out: &mut Outcome<Self>,
        step: impl FnOnce(&mut Group, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(group_id)?;
        let mut context = Context { now, settings: &self.settings, topics: &self.topics, out };
        let result = step(group, &mut context);
        if group.is_nothing() {
            self.groups.remove(group_id);
        }
        Some(result)
    }

    /// The same with a group that is made if there is none.
    fn with_or_new<T>(
        &mut self,
        group_id: &str,
        now: Now,
        out: &mut Outcome<Self>,
        step: impl FnOnce(&mut Group, &mut Context<'_>) -> T,
    ) -> Result<T, GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let full = self.groups.len() >= MAX_GROUPS;
        if let Entry::Vacant(place) = self.groups.entry(group_id.to_owned()) {
            if full {
                return Err(GroupError::TooManyGroups);
            }
            place.insert(Group::new(group_id.to_owned(), now.wall_ms));
        }
        self.with(group_id, now, out, step).ok_or(GroupError::GroupIdNotFound)
    }

    fn check_session(&self, timeout: Duration) -> Result<(), GroupError> {
        let (min, max) = (self.settings.min_session_timeout, self.settings.max_session_timeout);
        if (min..=max).contains(&timeout) {
            return Ok(());
        }
        Err(GroupError::InvalidSessionTimeout { min_ms: min.as_millis() as i64, max_ms: max.as_millis() as i64 })
    }

    /// Takes a newer state of the topics: offsets of topics that are gone go too, and HTTP groups take over new
    /// partitions.
    fn see(&mut self, topics: Arc<TopicTable>, now: Now, out: &mut Outcome<Self>) {
        if topics.version <= self.topics.version && self.topics.version > 0 {
            return;
        }
        self.topics = topics;
        self.look_at_topics(now, out);
    }

    fn look_at_topics(&mut self, now: Now, out: &mut Outcome<Self>) {
        let mut context = Context { now, settings: &self.settings, topics: &self.topics, out };
        self.groups.retain(|_, group| {
            group.drop_offsets_of_other_topics(&mut context);
            group.rebalance_if_partitions_changed(&mut context);
            !group.is_nothing()
        });
    }

    fn join(&mut self, request: JoinGroup, new_id: String, reply: ReplyToken, now: Now, out: &mut Outcome<Self>) {
        let is_new = request.member_id.is_empty();
        let done = self.check_session(request.session_timeout).and_then(|()| {
            if !is_new && !self.groups.contains_key(&request.group_id) {
                return Err(GroupError::UnknownMemberId);
            }
            let group_id = request.group_id.clone();
            self.with_or_new(&group_id, now, out, |group, context| group.join(request, new_id, reply, context))?
        });
        if let Err(error) = done {
            out.reply(reply, GroupReply::Refused(error));
        }
    }

    fn http_member(&mut self, request: HttpMember, reply: ReplyToken, now: Now, out: &mut Outcome<Self>) {
        let done = self.check_session(request.session_timeout).and_then(|()| {
            let group_id = request.group_id.clone();
            self.with_or_new(&group_id, now, out, |group, context| group.http_member(request, context))?
        });
        out.reply(reply, done.map_or_else(GroupReply::Refused, GroupReply::Member));
    }

    fn commit(&mut self, request: CommitOffsets, now: Now, out: &mut Outcome<Self>) -> GroupReply {
        // Who assigns itself may commit to a group that nobody has joined.
        if request.generation_id >= 0 && !self.groups.contains_key(&request.group_id) {
            return GroupReply::Refused(GroupError::IllegalGeneration);
        }
        let group_id = request.group_id.clone();
        let done = self.with_or_new(&group_id, now, out, |group, context| group.commit(request, context));
        done.and_then(|results| results).map_or_else(GroupReply::Refused, GroupReply::Each)
    }

    fn dispatch(
        &mut self,
        command: GroupCommand,
        reply: ReplyToken,
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Option<GroupReply> {
        let result = match command {
            GroupCommand::Join(request, new_id) => {
                self.join(request, new_id, reply, now, out);
                return None;
            }
            GroupCommand::HttpMember(request, topics) => {
                self.see(topics, now, out);
                self.http_member(request, reply, now, out);
                return None;
            }
            GroupCommand::Sync(request) => {
                let group_id = request.group_id.clone();
                let done = self.with(&group_id, now, out, |group, context| group.sync(request, reply, context));
                match done {
                    None => GroupReply::Refused(GroupError::UnknownMemberId),
                    Some(Err(error)) => GroupReply::Refused(error),
                    Some(Ok(())) => return None,
                }
            }
            GroupCommand::Heartbeat(request) => {
                let done = self.with(&request.group_id, now, out, |group, context| group.heartbeat(&request, context));
                done_or_refused(done.unwrap_or(Err(GroupError::UnknownMemberId)))
            }
            GroupCommand::Leave(request) => {
                let done = self.with(&request.group_id, now, out, |group, context| group.leave(&request, context));
                let unknown = || request.members.iter().map(|_| Err(GroupError::UnknownMemberId)).collect();
                GroupReply::Each(done.unwrap_or_else(unknown))
            }
            GroupCommand::Commit(request, topics) => {
                self.see(topics, now, out);
                self.commit(request, now, out)
            }
            GroupCommand::Offsets(group_id) => {
                GroupReply::Offsets(self.groups.get(&group_id).map(|g| g.offsets.clone()).unwrap_or_default())
            }
            GroupCommand::DeleteOffsets(group_id, offsets) => {
                let done = self.with(&group_id, now, out, |group, context| group.delete_offsets(&offsets, context));
                done.unwrap_or(Err(GroupError::GroupIdNotFound)).map_or_else(GroupReply::Refused, GroupReply::Each)
            }
            GroupCommand::Describe(group_id) => {
                let described = self.groups.get(&group_id).map(Group::describe);
                GroupReply::Described(described.unwrap_or_else(|| GroupDescription::dead(group_id)))
            }
            GroupCommand::List => GroupReply::Listed(self.groups.values().map(Group::listing).collect()),
            GroupCommand::Delete(group_id) => {
                let done = self.with(&group_id, now, out, |group, context| group.delete(context));
                done_or_refused(done.unwrap_or(Err(GroupError::GroupIdNotFound)))
            }
            GroupCommand::HttpTouch { group_id, member } => {
                let done = self.with(&group_id, now, out, |group, context| group.http_touch(&member, context));
                done.unwrap_or(Err(GroupError::UnknownMemberId)).map_or_else(GroupReply::Refused, GroupReply::Member)
            }
            GroupCommand::Topics(topics) => {
                self.see(topics, now, out);
                GroupReply::Done
            }
        };
        Some(result)
    }
}

fn done_or_refused(result: Result<(), GroupError>) -> GroupReply {
    result.map_or_else(GroupReply::Refused, |()| GroupReply::Done)
}

impl StateMachine for GroupMachine {
    type Command = GroupCommand;
    type Reply = GroupReply;
    type Timer = GroupTimer;
    type Mark = ();

    fn replay(&mut self, record: StoredRecord) {
        let Some(key) = record.key.as_deref().and_then(Key::decode) else {
            tracing::warn!(offset = %record.offset, "a record of {OFFSETS_TOPIC} has an unknown key and is left out");
            return;
        };
        let (Key::Group(group_id) | Key::Offset { group: group_id, .. }) = &key;
        let group =
            self.groups.entry(group_id.clone()).or_insert_with(|| Group::new(group_id.clone(), record.timestamp_ms));
        let understood = match (key, record.value.as_deref()) {
            (Key::Offset { topic, partition, .. }, None) => {
                group.offsets.remove(&(topic, partition));
                true
            }
            (Key::Offset { topic, partition, .. }, Some(value)) => {
                let offset = record::decode_offset(value);
                offset.map(|offset| group.offsets.insert((topic, partition), offset)).is_some()
            }
            (Key::Group(_), None) => {
                group.forget_members();
                true
            }
            (Key::Group(_), Some(value)) => record::decode_group(value).map(|stored| group.restore(stored)).is_some(),
        };
        if !understood {
            tracing::warn!(offset = %record.offset, "a record of {OFFSETS_TOPIC} has an unknown value and is left out");
        }
    }

    fn loaded(&mut self, now: Now, out: &mut Outcome<Self>) {
        self.groups.retain(|_, group| !group.is_nothing());
        let mut context = Context { now, settings: &self.settings, topics: &self.topics, out };
        for group in self.groups.values() {
            group.start_sessions(&mut context);
        }
        context.set_timer(GroupTimer::Retention, self.settings.retention_check_interval);
        if self.topics.version > 0 {
            self.look_at_topics(now, out);
        }
    }

    fn handle(&mut self, command: GroupCommand, reply: ReplyToken, now: Now, out: &mut Outcome<Self>) {
        if let Some(answer) = self.dispatch(command, reply, now, out) {
            out.reply(reply, answer);
        }
    }

    fn timer(&mut self, timer: GroupTimer, now: Now, out: &mut Outcome<Self>) {
        match timer {
            GroupTimer::Session(group, member) => {
                self.with(&group, now, out, |group, context| group.session_ended(&member, context));
            }
            GroupTimer::PendingJoin(group, member) => {
                self.with(&group, now, out, |group, context| group.pending_join_ended(&member, context));
            }
            GroupTimer::Join(group) => {
                self.with(&group, now, out, Group::join_time_over);
            }
            GroupTimer::Sync(group) => {
                self.with(&group, now, out, Group::sync_time_over);
            }
            GroupTimer::Retention => {
                let mut context = Context { now, settings: &self.settings, topics: &self.topics, out };
                context.set_timer(GroupTimer::Retention, self.settings.retention_check_interval);
                self.groups.retain(|_, group| {
                    group.expire_offsets(&mut context);
                    !group.is_nothing()
                });
            }
        }
    }
}

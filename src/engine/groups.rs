//! Consumer groups behind the port: each request goes to the coordinator of its group.

use super::internal::InternalTopic;
use super::routed::RoutedEngine;
use super::{
    Answer, CommitOffsets, CommitResults, Engine, EngineError, FetchRequest, GroupDescription, GroupError,
    GroupHeartbeat, GroupListing, GroupOffsets, HttpMember, JoinGroup, JoinedGroup, LeaveGroup, Membership, SyncGroup,
    SyncedGroup, TopicInfo,
};
use crate::codec::DecompressLimit;
use crate::coordinator::group::{GroupCommand, GroupMachine, GroupReply, GroupSettings, OFFSETS_TOPIC, TopicTable};
use crate::coordinator::{CoordinatorRuntime, partition_for_name};
use crate::metadata::MetadataImage;
use crate::sys::Sys;
use crate::types::{BrokerId, LogEndOffset, LogStartOffset, Offset, PartitionId, TopicId, TopicName};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use std::sync::Arc;

/// A batch is decompressed for one record's time.
const DECOMPRESS: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };

/// Consumer groups, by Kafka's requests and by HTTP's. What a group refuses is [`EngineError::Group`].
pub trait Groups: Send + Sync {
    /// FindCoordinator: who coordinates a group. Makes the internal topic if there is none.
    fn group_coordinator(&self, group_id: &str) -> Answer<'_, BrokerId>;
    /// JoinGroup. Waits until the group has gathered, at most its members' rebalance timeout.
    fn join_group(&self, request: JoinGroup) -> Answer<'_, JoinedGroup>;
    /// SyncGroup. Waits for the leader's assignment, at most the members' rebalance timeout.
    fn sync_group(&self, request: SyncGroup) -> Answer<'_, SyncedGroup>;
    /// Heartbeat.
    fn group_heartbeat(&self, request: GroupHeartbeat) -> Answer<'_, ()>;
    /// LeaveGroup: one result a member.
    fn leave_group(&self, request: LeaveGroup) -> Answer<'_, CommitResults>;
    /// OffsetCommit: one result an offset. Offsets are taken as they are, also below those before and beyond the end.
    fn commit_offsets(&self, request: CommitOffsets) -> Answer<'_, CommitResults>;
    /// OffsetFetch: all of a group's offsets, committed and durable. Empty if there is no such group.
    fn fetch_offsets(&self, group_id: &str) -> Answer<'_, GroupOffsets>;
    /// OffsetDelete: one result a partition.
    fn delete_offsets(&self, group_id: &str, offsets: Vec<(TopicName, PartitionId)>) -> Answer<'_, CommitResults>;
    /// ListGroups: those that this broker coordinates, by name.
    fn list_groups(&self) -> Answer<'_, Vec<GroupListing>>;
    /// DescribeGroups. [`super::GroupState::Dead`] if there is no such group.
    fn describe_group(&self, group_id: &str) -> Answer<'_, GroupDescription>;
    /// DeleteGroups.
    fn delete_group(&self, group_id: &str) -> Answer<'_, ()>;

    /// An HTTP member joins, joins again, or says that it is alive.
    fn http_member(&self, request: HttpMember) -> Answer<'_, Membership>;
    /// Where an HTTP member stands; renews its session.
    fn touch_http_member(&self, group_id: &str, member: &str) -> Answer<'_, Membership>;
    /// How far a group is in each partition that it has an offset of, or a member reads.
    fn group_positions(&self, group_id: &str) -> Answer<'_, Vec<GroupPosition>>;
}

/// A group's place in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPosition {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The id of the member that reads it, if one does.
    pub member_id: Option<String>,
    /// The next offset to read; `None` if nothing was committed.
    pub committed: Option<Offset>,
    /// The note that was committed with it.
    pub metadata: String,
    /// First readable offset.
    pub log_start: LogStartOffset,
    /// First offset that can not be read yet.
    pub log_end: LogEndOffset,
    /// Records that were not read yet: from the committed offset, or from the log start, to the end.
    pub lag: u64,
    /// How old the first of them is, in milliseconds; 0 if there is none.
    pub lag_ms: u64,
}

/// What the engine keeps for groups.
pub(super) struct GroupCoordinators {
    runtime: CoordinatorRuntime<GroupMachine>,
    topics: Arc<ArcSwap<TopicTable>>,
    topic: InternalTopic,
}

impl GroupCoordinators {
    pub(super) fn new(sys: Sys, settings: GroupSettings, partitions: i32) -> Self {
        let topics: Arc<ArcSwap<TopicTable>> = Arc::default();
        let (settings, table) = (Arc::new(settings), topics.clone());
        let runtime = CoordinatorRuntime::new(sys, move |_| GroupMachine::new(settings.clone(), table.load_full()));
        Self { runtime, topics, topic: InternalTopic { name: OFFSETS_TOPIC, partitions, cleanup_policy: "compact" } }
    }

    /// Takes over what the metadata says. Called before a door can see it, so that a commit to a new topic never
    /// comes first.
    pub(super) fn act_on(&self, image: &MetadataImage, replicas: &crate::replication::ReplicaManager) {
        let id = |name| TopicName::new(name).ok().and_then(|name| Some(image.topic_by_name(&name)?.id));
        let offsets = id(self.topic.name);
        let table = image.topics().map(|topic| (topic.name.clone(), (topic.id, topic.partition_count()))).collect();
        let table = Arc::new(TopicTable::new(image.version, table));
        self.topics.store(table.clone());
        self.runtime.apply(offsets.and_then(|id| replicas.topic(id)).as_deref());
        for partition in self.runtime.partitions() {
            // Nobody waits for it. Where the inbox is full, the next commit or member brings the table along.
            drop(self.runtime.call(partition, GroupCommand::Topics(table.clone())));
        }
    }

    pub(super) fn stop(&self) {
        self.runtime.stop();
    }
}

impl RoutedEngine {
    /// Asks a group's coordinator; there is none before the first group.
    async fn ask_if_any(
        &self,
        group_id: &str,
        command: impl FnOnce(Arc<TopicTable>) -> GroupCommand,
    ) -> Result<Option<GroupReply>, EngineError> {
        match self.internal_topic(&self.groups.topic) {
            Some(info) => self.ask_in(&info, group_id, command).await.map(Some),
            None => Ok(None),
        }
    }

    /// Asks a group's coordinator, and makes their topic if there is none.
    async fn ask(
        &self,
        group_id: &str,
        command: impl FnOnce(Arc<TopicTable>) -> GroupCommand,
    ) -> Result<GroupReply, EngineError> {
        let info = self.internal_topic_or_create(&self.groups.topic).await?;
        self.ask_in(&info, group_id, command).await
    }

    async fn ask_in(
        &self,
        info: &TopicInfo,
        group_id: &str,
        command: impl FnOnce(Arc<TopicTable>) -> GroupCommand,
    ) -> Result<GroupReply, EngineError> {
        let partition = partition_for_name(group_id, info.partitions);
        let command = command(self.groups.topics.load_full());
        match self.groups.runtime.call(partition, command).await? {
            GroupReply::Refused(error) => Err(error.into()),
            reply => Ok(reply),
        }
    }

    /// The id that a new member gets: its client's name, so that people know it, and what nobody guesses.
    fn new_member_id(&self, client_id: &str) -> String {
        let mut random = [0; 16];
        self.sys.rng.fill(&mut random);
        format!("{client_id}-{}", TopicId::from_random(random))
    }

    async fn position(
        &self,
        topic: &TopicInfo,
        partition: PartitionId,
        committed: Option<&super::CommittedOffset>,
    ) -> Result<GroupPosition, EngineError> {
        let progress = *self.watch(topic.id, partition)?.borrow();
        let (start, end) = (progress.log_start.offset(), progress.high_watermark.offset());
        let next = committed.map_or(start, |c| c.offset).clamp(start, end);
        let lag = (end.get() - next.get()).unsigned_abs();
        let lag_ms = if lag == 0 { 0 } else { self.age(topic.id, partition, next).await? };
        Ok(GroupPosition {
            topic: topic.name.clone(),
            partition,
            member_id: None,
            committed: committed.map(|c| c.offset),
            metadata: committed.map(|c| c.metadata.clone()).unwrap_or_default(),
            log_start: start.into(),
            log_end: end.into(),
            lag,
            lag_ms,
        })
    }

    /// How old the first record from an offset on is; 0 if there is none.
    async fn age(&self, topic: TopicId, partition: PartitionId, from: Offset) -> Result<u64, EngineError> {
        let read = self.fetch(FetchRequest { topic, partition, from, max_bytes: 1 }).await;
        // Retention was faster: the next look is right again.
        let Ok(read) = read else { return Ok(0) };
        for batch in read.batches.iter().filter(|batch| !batch.header().control) {
            let Ok(mut records) = batch.records(DECOMPRESS) else { continue };
            while let Some(Ok(record)) = records.next_view() {
                if record.offset >= from {
                    let age = self.sys.clock.now_ms().saturating_sub(record.timestamp_ms);
                    return Ok(u64::try_from(age).unwrap_or(0));
                }
            }
        }
        Ok(0)
    }
}

fn unexpected(reply: &GroupReply) -> EngineError {
    EngineError::Internal(format!("a group answered {reply:?}"))
}

/// Takes the answer that a command has.
macro_rules! expect {
    ($reply:expr, $variant:ident) => {
        match $reply {
            GroupReply::$variant(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    };
}

fn expect_done(reply: &GroupReply) -> Result<(), EngineError> {
    if *reply == GroupReply::Done { Ok(()) } else { Err(unexpected(reply)) }
}

impl Groups for RoutedEngine {
    fn group_coordinator(&self, group_id: &str) -> Answer<'_, BrokerId> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            if group_id.is_empty() {
                return Err(GroupError::InvalidGroupId.into());
            }
            let info = self.internal_topic_or_create(&self.groups.topic).await?;
            let partition = partition_for_name(&group_id, info.partitions);
            let image = self.metadata.image();
            let topic = image.topic(info.id).ok_or(EngineError::NotCoordinator)?;
            topic.partition(partition).and_then(|p| p.leader).ok_or(EngineError::NotCoordinator)
        })
    }

    fn join_group(&self, request: JoinGroup) -> Answer<'_, JoinedGroup> {
        Box::pin(async move {
            let (group_id, new_id) = (request.group_id.clone(), self.new_member_id(&request.client_id));
            expect!(self.ask(&group_id, |_| GroupCommand::Join(request, new_id)).await?, Joined)
        })
    }

    fn sync_group(&self, request: SyncGroup) -> Answer<'_, SyncedGroup> {
        Box::pin(async move {
            let group_id = request.group_id.clone();
            let reply = self.ask_if_any(&group_id, |_| GroupCommand::Sync(request)).await?;
            expect!(reply.ok_or(GroupError::UnknownMemberId)?, Synced)
        })
    }

    fn group_heartbeat(&self, request: GroupHeartbeat) -> Answer<'_, ()> {
        Box::pin(async move {
            let group_id = request.group_id.clone();
            let reply = self.ask_if_any(&group_id, |_| GroupCommand::Heartbeat(request)).await?;
            expect_done(&reply.ok_or(GroupError::UnknownMemberId)?)
        })
    }

    fn leave_group(&self, request: LeaveGroup) -> Answer<'_, CommitResults> {
        Box::pin(async move {
            let group_id = request.group_id.clone();
            let members = request.members.len();
            match self.ask_if_any(&group_id, |_| GroupCommand::Leave(request)).await? {
                Some(reply) => expect!(reply, Each),
                None => Ok(vec![Err(GroupError::UnknownMemberId); members]),
            }
        })
    }

    fn commit_offsets(&self, request: CommitOffsets) -> Answer<'_, CommitResults> {
        Box::pin(async move {
            let group_id = request.group_id.clone();
            expect!(self.ask(&group_id, |topics| GroupCommand::Commit(request, topics)).await?, Each)
        })
    }

    fn fetch_offsets(&self, group_id: &str) -> Answer<'_, GroupOffsets> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            let Some(reply) = self.ask_if_any(&group_id, |_| GroupCommand::Offsets(group_id.clone())).await? else {
                return Ok(GroupOffsets::new());
            };
            let mut offsets = expect!(reply, Offsets)?;
            // Of a topic that was made again since: the coordinator lets go of them in a moment.
            offsets.retain(|(topic, _), offset| {
                self.topic(topic).is_some_and(|info| offset.topic_id.is_none_or(|id| id == info.id))
            });
            Ok(offsets)
        })
    }

    fn delete_offsets(&self, group_id: &str, offsets: Vec<(TopicName, PartitionId)>) -> Answer<'_, CommitResults> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            let command = |_| GroupCommand::DeleteOffsets(group_id.clone(), offsets);
            expect!(self.ask_if_any(&group_id, command).await?.ok_or(GroupError::GroupIdNotFound)?, Each)
        })
    }

    fn list_groups(&self) -> Answer<'_, Vec<GroupListing>> {
        Box::pin(async move {
            let runtime = &self.groups.runtime;
            let asked = runtime.partitions().into_iter().map(|partition| runtime.call(partition, GroupCommand::List));
            let mut all = Vec::new();
            for reply in join_all(asked).await {
                all.append(&mut expect!(reply?, Listed)?);
            }
            all.sort_unstable_by(|a, b| a.group_id.cmp(&b.group_id));
            Ok(all)
        })
    }

    fn describe_group(&self, group_id: &str) -> Answer<'_, GroupDescription> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            let reply = self.ask_if_any(&group_id, |_| GroupCommand::Describe(group_id.clone())).await?;
            match reply {
                Some(reply) => expect!(reply, Described),
                None => Ok(GroupDescription::dead(group_id)),
            }
        })
    }

    fn delete_group(&self, group_id: &str) -> Answer<'_, ()> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            let reply = self.ask_if_any(&group_id, |_| GroupCommand::Delete(group_id.clone())).await?;
            expect_done(&reply.ok_or(GroupError::GroupIdNotFound)?)
        })
    }

    fn http_member(&self, request: HttpMember) -> Answer<'_, Membership> {
        Box::pin(async move {
            let group_id = request.group_id.clone();
            expect!(self.ask(&group_id, |topics| GroupCommand::HttpMember(request, topics)).await?, Member)
        })
    }

    fn touch_http_member(&self, group_id: &str, member: &str) -> Answer<'_, Membership> {
        let (group_id, member) = (group_id.to_owned(), member.to_owned());
        Box::pin(async move {
            let command = |_| GroupCommand::HttpTouch { group_id: group_id.clone(), member };
            expect!(self.ask_if_any(&group_id, command).await?.ok_or(GroupError::UnknownMemberId)?, Member)
        })
    }

    fn group_positions(&self, group_id: &str) -> Answer<'_, Vec<GroupPosition>> {
        let group_id = group_id.to_owned();
        Box::pin(async move {
            let offsets = self.fetch_offsets(&group_id).await?;
            let group = self.describe_group(&group_id).await?;
            let mut readers = std::collections::BTreeMap::new();
            for member in &group.members {
                for (topic, partitions) in member.partitions.iter().flatten() {
                    readers.extend(partitions.iter().map(|p| ((topic.clone(), *p), member.member_id.clone())));
                }
            }
            let mut parts: Vec<_> = offsets.keys().chain(readers.keys()).collect();
            parts.sort_unstable();
            parts.dedup();
            let mut positions = Vec::with_capacity(parts.len());
            for part in parts {
                let Some(info) = self.topic(&part.0).filter(|info| part.1.get() < info.partitions) else { continue };
                let mut position = self.position(&info, part.1, offsets.get(part)).await?;
                position.member_id = readers.get(part).cloned();
                positions.push(position);
            }
            Ok(positions)
        })
    }
}

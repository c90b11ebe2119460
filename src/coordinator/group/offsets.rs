//! A group's committed offsets: who may commit, and when they are let go.

use super::classic::Group;
use super::record::{self, Key};
use super::{CommitOffsets, CommitResults, CommittedOffset, Context, GroupError, GroupState};
use crate::types::{PartitionId, TopicName};

impl Group {
    /// OffsetCommit. Everything is refused, or each offset by itself.
    pub(super) fn commit(
        &mut self,
        request: CommitOffsets,
        context: &mut Context<'_>,
    ) -> Result<CommitResults, GroupError> {
        self.check_may_commit(&request)?;
        if !request.member_id.is_empty() {
            self.renew(&request.member_id, context);
        }
        let limit = context.settings.max_metadata_bytes;
        let mut results = Vec::with_capacity(request.offsets.len());
        for given in request.offsets {
            if given.metadata.len() > limit {
                results.push(Err(GroupError::OffsetMetadataTooLarge(limit)));
                continue;
            }
            let Some(topic_id) = context.topics.id_with(&given.topic, given.partition) else {
                results.push(Err(GroupError::UnknownTopicOrPartition));
                continue;
            };
            let offset = CommittedOffset {
                topic_id: Some(topic_id),
                offset: given.offset,
                leader_epoch: given.leader_epoch,
                metadata: given.metadata,
                committed_ms: context.now.wall_ms,
            };
            let key = self.offset_key(&given.topic, given.partition);
            context.out.record(record::offset_record(&key, &offset));
            self.offsets.insert((given.topic, given.partition), offset);
            results.push(Ok(()));
        }
        Ok(results)
    }

    fn check_may_commit(&self, request: &CommitOffsets) -> Result<(), GroupError> {
        if request.generation_id < 0 && self.state == GroupState::Empty {
            return Ok(()); // a reset, or a consumer that assigns itself
        }
        if request.generation_id < 0 && request.member_id.is_empty() && request.group_instance_id.is_none() {
            return Err(GroupError::UnknownMemberId); // there are members, and only they may commit
        }
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMemberId),
            GroupState::CompletingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::PreparingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// OffsetDelete: those of topics that a member reads stay.
    pub(super) fn delete_offsets(
        &mut self,
        offsets: &[(TopicName, PartitionId)],
        context: &mut Context<'_>,
    ) -> Result<CommitResults, GroupError> {
        if !self.members.is_empty() && !self.is_consumer_group() {
            return Err(GroupError::NonEmptyGroup);
        }
        let mut results = Vec::with_capacity(offsets.len());
        for (topic, partition) in offsets {
            if self.is_subscribed(topic) {
                results.push(Err(GroupError::GroupSubscribedToTopic));
                continue;
            }
            self.tombstone_offsets([(topic.clone(), *partition)], context);
            results.push(Ok(()));
        }
        Ok(results)
    }

    fn is_subscribed(&self, topic: &TopicName) -> bool {
        let reads = |m: &super::member::Member| m.subscription(m.protocols.first().map(|p| p.name.as_str()));
        self.members.values().any(|member| reads(member).topics.contains(topic))
    }

    /// Lets go of offsets of topics that were deleted, also if there is another one of the name.
    pub(super) fn drop_offsets_of_other_topics(&mut self, context: &mut Context<'_>) {
        let topics = context.topics;
        let is_other = |topic: &TopicName, offset: &CommittedOffset| {
            let id = topics.id(topic);
            id.is_none() || (offset.topic_id.is_some() && offset.topic_id != id)
        };
        let gone = self.offsets.iter().filter(|((topic, _), offset)| is_other(topic, offset));
        let gone: Vec<_> = gone.map(|(part, _)| part.clone()).collect();
        self.tombstone_offsets(gone, context);
    }

    /// Lets go of offsets that nobody has needed for the retention time: of a group without members, counted from when
    /// the last one left; of a topic that no member reads, from the commit.
    pub(super) fn expire_offsets(&mut self, context: &mut Context<'_>) {
        let retention = context.settings.offsets_retention.as_millis() as i64;
        let now = context.now.wall_ms;
        let old = |since: i64| now.saturating_sub(since) >= retention;
        let had_members = self.protocol_type.is_some();
        let is_expired = |topic: &TopicName, offset: &CommittedOffset| match self.state {
            GroupState::Empty if had_members => old(self.state_since_ms.max(offset.committed_ms)),
            GroupState::Empty => old(offset.committed_ms),
            GroupState::Stable if self.is_consumer_group() => old(offset.committed_ms) && !self.is_subscribed(topic),
            _ => false,
        };
        let expired = self.offsets.iter().filter(|((topic, _), offset)| is_expired(topic, offset));
        let expired: Vec<_> = expired.map(|(part, _)| part.clone()).collect();
        self.tombstone_offsets(expired, context);
        if self.state == GroupState::Empty && self.offsets.is_empty() && old(self.state_since_ms) {
            self.tombstone_group(context);
        }
    }

    /// Removes offsets, in the log too.
    pub(super) fn tombstone_offsets(
        &mut self,
        parts: impl IntoIterator<Item = (TopicName, PartitionId)>,
        context: &mut Context<'_>,
    ) {
        for part in parts {
            if self.offsets.remove(&part).is_some() {
                let key = self.offset_key(&part.0, part.1);
                context.out.record(key.tombstone(context.now.wall_ms));
            }
        }
    }

    fn offset_key(&self, topic: &TopicName, partition: PartitionId) -> Key {
        Key::Offset { group: self.id.clone(), topic: topic.clone(), partition }
    }
}

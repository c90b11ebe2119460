//! A group under Kafka's classic protocol: join, sync, heartbeat, leave, and the timeouts.
//!
//! **Invariant**: members of one generation have one assignment; a new generation begins only when every member has
//! joined again or was dropped. Every token that a member waits with is answered once: with its result, or when the
//! member goes.

mod rebalance;

use super::consumer_protocol::CONSUMER;
use super::http_member::is_http_id;
use super::member::Member;
use super::record::{self, Key, StoredGroup};
use super::{
    CommitResults, Context, GroupDescription, GroupError, GroupHeartbeat, GroupListing, GroupOffsets, GroupReply,
    GroupState, GroupTimer, JoinGroup, JoinedGroup, JoinedMember, LeaveGroup, LeavingMember, ReplyToken, SyncGroup,
    SyncedGroup,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a member that has just joined may wait for its first rebalance to end (Kafka's NewMemberJoinTimeoutMs):
/// its client may be gone, and nobody would tell.
const NEW_MEMBER_TIMEOUT: Duration = Duration::from_mins(5);

/// The wait of a group that was empty for more members.
#[derive(Debug)]
struct InitialDelay {
    /// How much longer it may be drawn out.
    remaining: Duration,
    /// Somebody joined since it was last set.
    joined: bool,
}

/// A group.
pub(super) struct Group {
    pub(super) id: String,
    pub(super) state: GroupState,
    /// When it came into its state, Unix ms.
    pub(super) state_since_ms: i64,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Instance id → member id.
    static_members: BTreeMap<String, String>,
    /// Ids that were given out (KIP-394).
    pending_joins: BTreeSet<String>,
    /// Members of this generation that have not synced yet.
    pending_syncs: BTreeSet<String>,
    initial: Option<InitialDelay>,
    pub(super) offsets: GroupOffsets,
    /// The log has a record of the group itself.
    pub(super) stored: bool,
}

impl Group {
    pub(super) const fn new(id: String, now_ms: i64) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            state_since_ms: now_ms,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            initial: None,
            offsets: GroupOffsets::new(),
            stored: false,
        }
    }

    /// Nothing would be lost with it.
    pub(super) fn is_nothing(&self) -> bool {
        let empty = self.state == GroupState::Empty && self.pending_joins.is_empty();
        empty && self.offsets.is_empty() && !self.stored
    }

    // ---- join ---------------------------------------------------------------------------------------------------

    /// JoinGroup. The answer comes now or later, under the token; an error is for the caller to send.
    pub(super) fn join(
        &mut self,
        request: JoinGroup,
        new_id: String,
        token: ReplyToken,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        if is_http_id(&request.member_id) {
            return Err(GroupError::UnknownMemberId);
        }
        let names = || request.protocols.iter().map(|p| p.name.as_str());
        if request.protocols.is_empty() || !self.supports(&request.protocol_type, names()) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        if !request.member_id.is_empty() {
            return self.join_again(request, token, context);
        }
        let instance = request.group_instance_id.as_ref();
        if let Some(old) = instance.and_then(|instance| self.static_members.get(instance)).cloned() {
            self.replace_static(&old, new_id, request, token, context);
            return Ok(());
        }
        self.check_size(context)?;
        if instance.is_none() && request.require_known_member_id {
            let timer = GroupTimer::PendingJoin(self.id.clone(), new_id.clone());
            context.set_timer(timer, request.session_timeout);
            self.pending_joins.insert(new_id.clone());
            return Err(GroupError::MemberIdRequired(new_id));
        }
        self.add(new_id, request, token, context);
        Ok(())
    }

    pub(super) fn check_size(&self, context: &Context<'_>) -> Result<(), GroupError> {
        let full = self.members.len() + self.pending_joins.len() >= context.settings.max_size;
        if full { Err(GroupError::GroupMaxSizeReached) } else { Ok(()) }
    }

    /// Whether a member with these protocols could be one of this group.
    pub(super) fn supports<'a>(&self, protocol_type: &str, mut names: impl Iterator<Item = &'a str>) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && names.any(|name| self.members.values().all(|member| member.offers(name)))
    }

    fn join_again(
        &mut self,
        request: JoinGroup,
        token: ReplyToken,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        let id = request.member_id.clone();
        if self.pending_joins.remove(&id) {
            context.out.cancel_timer(GroupTimer::PendingJoin(self.id.clone(), id.clone()));
            self.add(id, request, token, context);
            return Ok(());
        }
        self.check_member(&id, request.group_instance_id.as_deref())?;
        let member = self.members.get_mut(&id).ok_or(GroupError::UnknownMemberId)?;
        let unchanged = member.protocols == request.protocols;
        let is_leader = self.leader.as_deref() == Some(&id);
        match self.state {
            GroupState::CompletingRebalance if unchanged => {}
            // A leader that joins again wants a new assignment; the others only ask what they have.
            GroupState::Stable if unchanged && !is_leader => {}
            GroupState::Stable | GroupState::CompletingRebalance | GroupState::PreparingRebalance => {
                if let Some(old) = member.awaiting_join.replace(token) {
                    context.refuse(old, GroupError::RebalanceInProgress);
                }
                member.session_timeout = request.session_timeout;
                member.rebalance_timeout = request.rebalance_timeout;
                member.protocols = request.protocols;
                self.rebalance(context);
                return Ok(());
            }
            GroupState::Empty | GroupState::Dead => return Err(GroupError::UnknownMemberId),
        }
        self.renew(&id, context);
        let answer = self.joined(&id, is_leader);
        context.out.reply(token, GroupReply::Joined(answer));
        Ok(())
    }

    fn add(&mut self, id: String, request: JoinGroup, token: ReplyToken, context: &mut Context<'_>) {
        let (instance, kind) = (request.group_instance_id.clone(), request.protocol_type.clone());
        self.insert(id.clone(), kind, Member::joining(request, token));
        if let Some(instance) = instance {
            self.static_members.insert(instance, id.clone());
        }
        context.set_timer(GroupTimer::Session(self.id.clone(), id), NEW_MEMBER_TIMEOUT);
        self.rebalance(context);
    }

    /// Takes a member in; who calls begins the rebalance.
    pub(super) fn insert(&mut self, id: String, protocol_type: String, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type);
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
        if let Some(initial) = &mut self.initial {
            initial.joined = true;
        }
    }

    /// A static member is back under a new id (KIP-345): where it wants the same as before, nobody else is disturbed.
    fn replace_static(
        &mut self,
        old: &str,
        id: String,
        request: JoinGroup,
        token: ReplyToken,
        context: &mut Context<'_>,
    ) {
        let leader_before = self.leader.clone();
        let Some(mut member) = self.members.remove(old) else { return };
        for token in [member.awaiting_join.take(), member.awaiting_sync.take()].into_iter().flatten() {
            context.refuse(token, GroupError::FencedInstanceId);
        }
        context.out.cancel_timer(GroupTimer::Session(self.id.clone(), old.to_owned()));
        self.pending_syncs.remove(old);
        let same = member.metadata(self.protocol.as_deref());
        let skips = request.supports_skip_assignment;
        if let Some(instance) = &request.group_instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        let mut replacement = Member::joining(request, token);
        replacement.is_new = false;
        replacement.assignment = std::mem::take(&mut member.assignment);
        self.members.insert(id.clone(), replacement);
        if leader_before.as_deref() == Some(old) {
            self.leader = Some(id.clone());
        }
        self.renew(&id, context);
        let unchanged = self.select_protocol() == self.protocol
            && self.members.get(&id).is_some_and(|m| m.metadata(self.protocol.as_deref()) == same);
        if self.state != GroupState::Stable || !unchanged {
            self.rebalance(context);
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.awaiting_join = None;
        }
        self.store(context);
        let is_leader = self.leader.as_deref() == Some(&id);
        let mut answer = self.joined(&id, is_leader && skips);
        answer.skip_assignment = is_leader && skips;
        if is_leader && !skips {
            // It must not think that it is to assign: it is told of a leader that is not there any more.
            answer.leader = old.to_owned();
        }
        context.out.reply(token, GroupReply::Joined(answer));
    }

    fn joined(&self, id: &str, with_members: bool) -> JoinedGroup {
        let protocol = self.protocol.as_deref();
        let member = |(id, member): (&String, &Member)| JoinedMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol),
        };
        JoinedGroup {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: id.to_owned(),
            members: if with_members { self.members.iter().map(member).collect() } else { Vec::new() },
        }
    }

    // ---- sync, heartbeat, leave ---------------------------------------------------------------------------------

    /// SyncGroup.
    pub(super) fn sync(
        &mut self,
        request: SyncGroup,
        token: ReplyToken,
        context: &mut Context<'_>,
    ) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |given: &Option<String>, ours: &Option<String>| given.is_some() && given != ours;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol_name, &self.protocol) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMemberId),
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::CompletingRebalance => {
                self.synced(&request.member_id, context);
                let member = self.members.get_mut(&request.member_id).ok_or(GroupError::UnknownMemberId)?;
                if let Some(old) = member.awaiting_sync.replace(token) {
                    context.refuse(old, GroupError::RebalanceInProgress);
                }
                if self.leader.as_deref() == Some(&request.member_id) {
                    self.take_assignments(request.assignments, context);
                }
                Ok(())
            }
            GroupState::Stable => {
                self.synced(&request.member_id, context);
                let answer = self.synced_answer(&request.member_id);
                context.out.reply(token, answer);
                Ok(())
            }
        }
    }

    fn synced(&mut self, id: &str, context: &mut Context<'_>) {
        self.renew(id, context);
        if self.pending_syncs.remove(id) && self.pending_syncs.is_empty() {
            context.out.cancel_timer(GroupTimer::Sync(self.id.clone()));
        }
    }

    fn synced_answer(&self, id: &str) -> GroupReply {
        let assignment = self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default();
        let (protocol_type, protocol_name) = (self.protocol_type.clone(), self.protocol.clone());
        GroupReply::Synced(SyncedGroup { protocol_type, protocol_name, assignment })
    }

    fn take_assignments(&mut self, mut assignments: BTreeMap<String, Bytes>, context: &mut Context<'_>) {
        self.enter(GroupState::Stable, context);
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
        }
        self.store(context);
        let waiting: Vec<(String, ReplyToken)> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| Some((id.clone(), member.awaiting_sync.take()?)))
            .collect();
        for (id, token) in waiting {
            let answer = self.synced_answer(&id);
            context.out.reply(token, answer);
            self.renew(&id, context);
        }
    }

    /// Members that joined and did not sync in time go.
    pub(super) fn sync_time_over(&mut self, context: &mut Context<'_>) {
        let late = std::mem::take(&mut self.pending_syncs);
        if late.is_empty() || !matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable) {
            return;
        }
        late.iter().for_each(|id| self.drop_member(id, context));
        self.rebalance(context);
    }

    /// Heartbeat.
    pub(super) fn heartbeat(&mut self, request: &GroupHeartbeat, context: &mut Context<'_>) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMemberId),
            GroupState::PreparingRebalance => {
                self.renew(&request.member_id, context);
                Err(GroupError::RebalanceInProgress)
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.renew(&request.member_id, context);
                Ok(())
            }
        }
    }

    /// LeaveGroup.
    pub(super) fn leave(&mut self, request: &LeaveGroup, context: &mut Context<'_>) -> CommitResults {
        let results: CommitResults = request.members.iter().map(|member| self.leave_one(member, context)).collect();
        if results.iter().any(Result::is_ok) {
            self.after_loss(context);
        }
        results
    }

    fn leave_one(&mut self, leaving: &LeavingMember, context: &mut Context<'_>) -> Result<(), GroupError> {
        if self.pending_joins.remove(&leaving.member_id) {
            context.out.cancel_timer(GroupTimer::PendingJoin(self.id.clone(), leaving.member_id.clone()));
            return Ok(());
        }
        let mut id = leaving.member_id.clone();
        if let Some(instance) = &leaving.group_instance_id {
            let current = self.static_members.get(instance).ok_or(GroupError::UnknownMemberId)?;
            if id.is_empty() {
                id.clone_from(current);
            }
        }
        self.check_member(&id, leaving.group_instance_id.as_deref())?;
        self.drop_member(&id, context);
        Ok(())
    }

    /// Members are gone: the rest shares anew.
    fn after_loss(&mut self, context: &mut Context<'_>) {
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.rebalance(context),
            GroupState::PreparingRebalance => self.end_if_all_joined(context),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    /// Takes a member out and answers what it waits for; who calls looks after the rest.
    fn drop_member(&mut self, id: &str, context: &mut Context<'_>) {
        let Some(member) = self.members.remove(id) else { return };
        for token in [member.awaiting_join, member.awaiting_sync].into_iter().flatten() {
            context.refuse(token, GroupError::UnknownMemberId);
        }
        if let Some(instance) = &member.instance_id {
            self.static_members.remove(instance);
        }
        self.pending_syncs.remove(id);
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        context.out.cancel_timer(GroupTimer::Session(self.id.clone(), id.to_owned()));
    }

    /// A member was silent for too long.
    pub(super) fn session_ended(&mut self, id: &str, context: &mut Context<'_>) {
        let Some(member) = self.members.get(id) else { return };
        let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        if waits && !member.is_new {
            return; // it waits for us, and its session begins anew when it is answered
        }
        tracing::info!(group = %self.id, member = id, "a member's session ended");
        self.drop_member(id, context);
        self.after_loss(context);
    }

    /// Nobody joined with an id that was given out.
    pub(super) fn pending_join_ended(&mut self, id: &str, context: &mut Context<'_>) {
        if self.pending_joins.remove(id) {
            self.end_if_all_joined(context);
        }
    }

    /// Begins a member's session anew.
    pub(super) fn renew(&self, id: &str, context: &mut Context<'_>) {
        if let Some(member) = self.members.get(id) {
            context.set_timer(GroupTimer::Session(self.id.clone(), id.to_owned()), member.session_timeout);
        }
    }

    /// Whether an id is a member's, and under its instance id the current one.
    pub(super) fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(GroupError::UnknownMemberId),
                Some(current) if current != id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    // ---- the group as a whole -----------------------------------------------------------------------------------

    /// DeleteGroups.
    pub(super) fn delete(&mut self, context: &mut Context<'_>) -> Result<(), GroupError> {
        if !self.members.is_empty() || !self.pending_joins.is_empty() {
            return Err(GroupError::NonEmptyGroup);
        }
        let all: Vec<_> = self.offsets.keys().cloned().collect();
        self.tombstone_offsets(all, context);
        self.tombstone_group(context);
        Ok(())
    }

    pub(super) fn tombstone_group(&mut self, context: &mut Context<'_>) {
        if std::mem::take(&mut self.stored) {
            context.out.record(Key::Group(self.id.clone()).tombstone(context.now.wall_ms));
        }
    }

    fn store(&mut self, context: &mut Context<'_>) {
        self.stored = true;
        let protocol = self.protocol.as_deref();
        let stored = StoredGroup {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation_id: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: self.members.iter().map(|(id, member)| member.to_stored(id, protocol)).collect(),
        };
        context.out.record(record::group_record(&self.id, &stored, context.now.wall_ms));
    }

    /// Takes over what the log says.
    pub(super) fn restore(&mut self, stored: StoredGroup) {
        self.forget_members();
        self.stored = true;
        self.state = stored.state();
        if stored.state_since_ms >= 0 {
            self.state_since_ms = stored.state_since_ms;
        }
        self.generation = stored.generation_id;
        self.protocol_type = Some(stored.protocol_type).filter(|kind| !kind.is_empty());
        self.protocol = stored.protocol;
        self.leader = stored.leader;
        let protocol = self.protocol.clone().unwrap_or_default();
        for member in stored.members {
            let id = member.member_id.clone();
            if let Some(instance) = &member.group_instance_id {
                self.static_members.insert(instance.clone(), id.clone());
            }
            self.members.insert(id, Member::restored(member, &protocol));
        }
    }

    /// The log says that there is no such group (any more).
    pub(super) fn forget_members(&mut self) {
        let offsets = std::mem::take(&mut self.offsets);
        *self = Self { offsets, ..Self::new(std::mem::take(&mut self.id), self.state_since_ms) };
    }

    /// After loading: everybody has a whole session to be heard of again.
    pub(super) fn start_sessions(&self, context: &mut Context<'_>) {
        self.members.keys().for_each(|id| self.renew(id, context));
    }

    pub(super) fn listing(&self) -> GroupListing {
        GroupListing {
            group_id: self.id.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state,
            members: self.members.len(),
        }
    }

    pub(super) fn describe(&self) -> GroupDescription {
        let (protocol, stable) = (self.protocol.as_deref(), self.state == GroupState::Stable);
        GroupDescription {
            group_id: self.id.clone(),
            state: self.state,
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol_name: self.protocol.clone().unwrap_or_default(),
            members: self.members.iter().map(|(id, member)| member.describe(id, protocol, stable)).collect(),
        }
    }

    /// Whether offsets are the group's only content, or its members are Kafka's consumers.
    pub(super) fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref().is_none_or(|kind| kind == CONSUMER)
    }
}

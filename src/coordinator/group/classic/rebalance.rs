//! A rebalance: members gather, a leader and a protocol are chosen, and where the coordinator leads it assigns.
//!
//! **Invariant**: it ends when every member has joined again, or at the latest when the longest of their rebalance timeouts is
//! over; who has not joined by then is dropped.

use super::{Group, InitialDelay};
use crate::coordinator::group::assignor::{self, COOPERATIVE_STICKY, Subscriptions};
use crate::coordinator::group::consumer_protocol::{decode_assignment, encode_assignment};
use crate::coordinator::group::member::Member;
use crate::coordinator::group::{Context, GroupError, GroupReply, GroupState, GroupTimer};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

impl Group {
    /// Begins a rebalance unless one gathers members already, and ends it if all are there.
    pub(in super::super) fn rebalance(&mut self, context: &mut Context<'_>) {
        if self.state != GroupState::PreparingRebalance {
            self.prepare(context);
        }
        self.end_if_all_joined(context);
    }

    fn prepare(&mut self, context: &mut Context<'_>) {
        let was_empty = self.state == GroupState::Empty;
        if self.state == GroupState::CompletingRebalance {
            let mut waiting = Vec::new();
            for (id, member) in &mut self.members {
                member.assignment = Bytes::new();
                waiting.extend(member.awaiting_sync.take().map(|token| (id.clone(), token)));
            }
            for (id, token) in waiting {
                context.refuse(token, GroupError::RebalanceInProgress);
                self.renew(&id, context); // it was waiting for us, and may have said nothing since
            }
        }
        context.out.cancel_timer(GroupTimer::Sync(self.id.clone()));
        self.pending_syncs.clear();
        self.enter(GroupState::PreparingRebalance, context);
        let mut wait = self.rebalance_timeout();
        let delay = context.settings.initial_rebalance_delay;
        if was_empty && !delay.is_zero() {
            self.initial = Some(InitialDelay { remaining: wait.saturating_sub(delay), joined: false });
            wait = delay;
        }
        context.set_timer(GroupTimer::Join(self.id.clone()), wait);
    }

    pub(super) fn enter(&mut self, state: GroupState, context: &Context<'_>) {
        self.state = state;
        self.state_since_ms = context.now.wall_ms;
    }

    fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|m| m.rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn end_if_all_joined(&mut self, context: &mut Context<'_>) {
        let gathering = self.state == GroupState::PreparingRebalance && self.initial.is_none();
        if gathering && self.pending_joins.is_empty() && self.members.values().all(Member::has_joined) {
            self.complete_join(context);
        }
    }

    /// The time to join again is over.
    pub(in super::super) fn join_time_over(&mut self, context: &mut Context<'_>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        if let Some(initial) = &mut self.initial
            && initial.joined
            && !initial.remaining.is_zero()
        {
            let delay = context.settings.initial_rebalance_delay.min(initial.remaining);
            initial.remaining -= delay;
            initial.joined = false;
            context.set_timer(GroupTimer::Join(self.id.clone()), delay);
            return;
        }
        self.complete_join(context);
    }

    fn complete_join(&mut self, context: &mut Context<'_>) {
        self.initial = None;
        context.out.cancel_timer(GroupTimer::Join(self.id.clone()));
        let late = |m: &Member| !m.has_joined() && m.instance_id.is_none();
        let gone: Vec<String> = self.members.iter().filter(|(_, m)| late(m)).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.drop_member(id, context));
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            (self.protocol, self.leader) = (None, None);
            self.enter(GroupState::Empty, context);
            self.store(context);
            return;
        }
        if !self.members.values().any(Member::has_joined) {
            // Static members only, none of them back yet: they keep their places as long as their sessions last.
            self.generation -= 1;
            context.set_timer(GroupTimer::Join(self.id.clone()), self.rebalance_timeout());
            return;
        }
        self.elect();
        self.protocol = self.select_protocol();
        self.enter(GroupState::CompletingRebalance, context);
        let http = self.members.values().any(|m| m.http.is_some());
        if http {
            self.assign(context);
        }
        self.answer_joins(context);
        if http {
            // The coordinator does the leader's part, so there is nobody to wait for.
            self.enter(GroupState::Stable, context);
            self.store(context);
        }
        if !self.pending_syncs.is_empty() {
            context.set_timer(GroupTimer::Sync(self.id.clone()), self.rebalance_timeout());
        }
    }

    /// An HTTP member leads where there is one; else who led before, else the first that has joined.
    fn elect(&mut self) {
        let joined = |id: &String| self.members.get(id).is_some_and(Member::has_joined);
        let http = self.members.iter().find(|(_, m)| m.http.is_some()).map(|(id, _)| id.clone());
        let kept = self.leader.take().filter(joined);
        let first = || self.members.iter().find(|(_, m)| m.has_joined()).map(|(id, _)| id.clone());
        self.leader = http.or(kept).or_else(first);
    }

    /// Of the protocols that every member offers, the one that most would take first.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let common = |name: &str| self.members.values().all(|member| member.offers(name));
        let mut votes: Vec<(&str, usize)> = Vec::new();
        for member in self.members.values() {
            let Some(choice) = member.protocols.iter().map(|p| p.name.as_str()).find(|name| common(name)) else {
                continue;
            };
            match votes.iter_mut().find(|(name, _)| *name == choice) {
                Some((_, count)) => *count += 1,
                None => votes.push((choice, 1)),
            }
        }
        let most = votes.iter().map(|(_, count)| *count).max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    fn answer_joins(&mut self, context: &mut Context<'_>) {
        self.pending_syncs = self.members.iter().filter(|(_, m)| m.http.is_none()).map(|(id, _)| id.clone()).collect();
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let is_leader = self.leader.as_deref() == Some(&id);
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.is_new = false;
            if let Some(part) = &mut member.http {
                part.rejoined = false;
                continue;
            }
            if let Some(token) = member.awaiting_join.take() {
                let answer = self.joined(&id, is_leader);
                context.out.reply(token, GroupReply::Joined(answer));
            }
            self.renew(&id, context);
        }
    }

    /// Does the leader's part.
    fn assign(&mut self, context: &Context<'_>) {
        let protocol = self.protocol.as_deref();
        let wants: Subscriptions = self
            .members
            .iter()
            .map(|(id, member)| {
                let mut subscription = member.subscription(protocol);
                if member.http.is_some() {
                    subscription.owned = decode_assignment(&member.assignment).unwrap_or_default();
                    // Of the generation before this one: what Kafka members claim of an older one is out of date.
                    subscription.generation = Some(self.generation - 1);
                }
                (id.clone(), subscription)
            })
            .collect();
        let mut assignments = assignor::assign(protocol.unwrap_or_default(), &wants, context.topics);
        if protocol == Some(COOPERATIVE_STICKY) {
            // A cooperative Kafka member reads on while it rebalances. What moves away from it is free only once it has
            // seen that, and joined again. HTTP members are fenced by their epoch and need not be waited for.
            let kafka = |id: &str| self.members.get(id).is_some_and(|m| m.http.is_none());
            for (owner, subscription) in wants.iter().filter(|(id, _)| kafka(id)) {
                for (_, part) in assignments.iter_mut().filter(|(id, _)| *id != owner) {
                    for (topic, owned) in &subscription.owned {
                        if let Some(given) = part.get_mut(topic) {
                            given.retain(|partition| !owned.contains(partition));
                        }
                    }
                }
            }
        }
        for (id, mut assignment) in assignments {
            assignment.retain(|_, partitions| !partitions.is_empty());
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = encode_assignment(&assignment);
            }
        }
    }

    /// The coordinator leads, and partitions came or went.
    pub(in super::super) fn rebalance_if_partitions_changed(&mut self, context: &mut Context<'_>) {
        let leads = self.members.values().any(|m| m.http.is_some());
        if self.state != GroupState::Stable || !leads {
            return;
        }
        let mut assigned: BTreeMap<_, i32> = BTreeMap::new();
        for member in self.members.values() {
            for topic in member.subscription(self.protocol.as_deref()).topics {
                assigned.entry(topic).or_default();
            }
            for (topic, partitions) in decode_assignment(&member.assignment).unwrap_or_default() {
                *assigned.entry(topic).or_default() += partitions.len() as i32;
            }
        }
        if assigned.iter().any(|(topic, count)| context.topics.partitions(topic) != *count) {
            self.rebalance(context);
        }
    }
}

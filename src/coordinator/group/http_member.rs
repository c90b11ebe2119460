//! Members over HTTP: no connection belongs to them, so nothing waits for them and they are told by their next call.
//!
//! Each offers the three standard assignors with Kafka's own subscription bytes, so that Kafka clients and HTTP members
//! share one group. Its id is its name behind [`PREFIX`], which no Kafka client is given. While the group rebalances, the
//! member's next `PUT` is its joining again; until the rebalance ends it may still commit under the epoch it has.

use super::assignor::ASSIGNORS;
use super::classic::Group;
use super::consumer_protocol::{CONSUMER, Subscription, decode_assignment};
use super::member::Member;
use super::record::StoredMember;
use super::{Context, GroupError, GroupOffsets, GroupProtocol, GroupState, HttpMember, Membership};
use crate::types::TopicName;
use bytes::Bytes;
use std::{collections::BTreeSet, time::Duration};

/// In front of the name of an HTTP member: no name may hold a colon, so no two members meet.
const PREFIX: &str = "http:";
/// How often a member is to be heard of, at most: a rebalance waits for it so long (Kafka's `heartbeat.interval.ms`).
const MAX_HEARTBEAT: Duration = Duration::from_secs(3);
/// The same while the group rebalances.
const HURRY: Duration = Duration::from_millis(200);

/// The id of the member with this name.
#[must_use]
pub fn http_member_id(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Whether an id can only be an HTTP member's.
pub(super) fn is_http_id(id: &str) -> bool {
    id.starts_with(PREFIX)
}

/// What only an HTTP member has.
pub(super) struct HttpPart {
    pub(super) name: String,
    pub(super) topics: BTreeSet<TopicName>,
    /// Has called since the rebalance began.
    pub(super) rejoined: bool,
}

impl HttpPart {
    /// Of a stored member, if it is one.
    pub(super) fn restored(stored: &StoredMember) -> Option<Self> {
        let name = stored.member_id.strip_prefix(PREFIX)?.to_owned();
        let topics = Subscription::decode(&stored.subscription)?.topics;
        Some(Self { name, topics, rejoined: false })
    }

    /// The assignors that it offers. What it owns the coordinator knows better, and fills in when it assigns.
    pub(super) fn protocols(&self) -> Vec<GroupProtocol> {
        let subscription = Subscription { topics: self.topics.clone(), ..Subscription::default() };
        let metadata = subscription.encode();
        ASSIGNORS.map(|name| GroupProtocol { name: name.to_owned(), metadata: metadata.clone() }).into()
    }
}

impl Group {
    /// An HTTP member joins, joins again, or says that it is alive.
    pub(super) fn http_member(
        &mut self,
        request: HttpMember,
        context: &mut Context<'_>,
    ) -> Result<Membership, GroupError> {
        let id = http_member_id(&request.member);
        let topics: BTreeSet<TopicName> = request.topics.into_iter().collect();
        match self.members.get_mut(&id) {
            None => {
                if !self.supports(CONSUMER, ASSIGNORS.into_iter()) {
                    return Err(GroupError::InconsistentGroupProtocol);
                }
                self.check_size(context)?;
                let part = HttpPart { name: request.member, topics, rejoined: false };
                self.insert(id.clone(), CONSUMER.to_owned(), new_member(part, request.session_timeout));
                self.http_rejoin(&id, context);
            }
            Some(member) => {
                member.session_timeout = request.session_timeout;
                member.rebalance_timeout = request.session_timeout;
                let Some(part) = &mut member.http else { return Err(GroupError::UnknownMemberId) };
                let changed = part.topics != topics;
                if changed {
                    part.topics = topics;
                    member.protocols = part.protocols();
                }
                if changed || self.state == GroupState::PreparingRebalance {
                    self.http_rejoin(&id, context);
                }
            }
        }
        self.renew(&id, context);
        self.membership(&id).ok_or(GroupError::UnknownMemberId)
    }

    /// Counts the call as the member's joining the rebalance, which begins with it if none is under way.
    fn http_rejoin(&mut self, id: &str, context: &mut Context<'_>) {
        if let Some(part) = self.members.get_mut(id).and_then(|member| member.http.as_mut()) {
            part.rejoined = true;
        }
        self.rebalance(context);
    }

    /// An HTTP member reads or commits: it is alive.
    pub(super) fn http_touch(&mut self, name: &str, context: &mut Context<'_>) -> Result<Membership, GroupError> {
        let id = http_member_id(name);
        self.renew(&id, context);
        self.membership(&id).ok_or(GroupError::UnknownMemberId)
    }

    fn membership(&self, id: &str) -> Option<Membership> {
        let member = self.members.get(id)?;
        let stable = self.state == GroupState::Stable;
        let assignment = decode_assignment(&member.assignment).unwrap_or_default();
        let parts = assignment.iter().flat_map(|(topic, parts)| parts.iter().map(|p| (topic.clone(), *p)));
        let offsets: GroupOffsets =
            parts.filter_map(|part| Some((part.clone(), self.offsets.get(&part)?.clone()))).collect();
        let calm = (member.session_timeout / 3).min(MAX_HEARTBEAT);
        let heartbeat_interval = if stable { calm } else { calm.min(HURRY) };
        Some(Membership { epoch: self.generation, stable, assignment, heartbeat_interval, offsets })
    }
}

fn new_member(part: HttpPart, session_timeout: Duration) -> Member {
    Member {
        instance_id: None,
        client_id: part.name.clone(),
        client_host: "http".to_owned(),
        session_timeout,
        rebalance_timeout: session_timeout,
        protocols: part.protocols(),
        assignment: Bytes::new(),
        awaiting_join: None,
        awaiting_sync: None,
        is_new: true,
        http: Some(part),
    }
}

//! One member of a group.

use super::consumer_protocol::{Subscription, decode_assignment};
use super::http_member::HttpPart;
use super::record::StoredMember;
use super::{GroupProtocol, JoinGroup, MemberDescription, ReplyToken};
use bytes::Bytes;
use std::time::Duration;

/// A member, of either kind.
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    /// In the order of its preference.
    pub(super) protocols: Vec<GroupProtocol>,
    pub(super) assignment: Bytes,
    pub(super) awaiting_join: Option<ReplyToken>,
    pub(super) awaiting_sync: Option<ReplyToken>,
    /// Has not been part of a generation yet.
    pub(super) is_new: bool,
    /// Of an HTTP member.
    pub(super) http: Option<HttpPart>,
}

impl Member {
    pub(super) fn joining(request: JoinGroup, token: ReplyToken) -> Self {
        Self {
            instance_id: request.group_instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout: request.session_timeout,
            rebalance_timeout: request.rebalance_timeout,
            protocols: request.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
            http: None,
        }
    }

    pub(super) fn restored(stored: StoredMember, protocol: &str) -> Self {
        let millis = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let http = HttpPart::restored(&stored);
        let protocols = match &http {
            Some(part) => part.protocols(),
            None => vec![GroupProtocol { name: protocol.to_owned(), metadata: stored.subscription }],
        };
        Self {
            instance_id: stored.group_instance_id,
            client_id: stored.client_id,
            client_host: stored.client_host,
            session_timeout: millis(stored.session_timeout_ms),
            rebalance_timeout: millis(stored.rebalance_timeout_ms),
            protocols,
            assignment: stored.assignment,
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            http,
        }
    }

    pub(super) fn to_stored(&self, member_id: &str, protocol: Option<&str>) -> StoredMember {
        let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        StoredMember {
            member_id: member_id.to_owned(),
            group_instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: millis(self.rebalance_timeout),
            session_timeout_ms: millis(self.session_timeout),
            subscription: self.metadata(protocol),
            assignment: self.assignment.clone(),
        }
    }

    /// Has joined the rebalance under way.
    pub(super) fn has_joined(&self) -> bool {
        self.awaiting_join.is_some() || self.http.as_ref().is_some_and(|part| part.rejoined)
    }

    /// What it told for a protocol; empty for one that it does not offer.
    pub(super) fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let of = |name: &str| self.protocols.iter().find(|p| p.name == name).map(|p| p.metadata.clone());
        protocol.and_then(of).unwrap_or_default()
    }

    pub(super) fn offers(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| p.name == protocol)
    }

    pub(super) fn subscription(&self, protocol: Option<&str>) -> Subscription {
        Subscription::decode(&self.metadata(protocol)).unwrap_or_default()
    }

    pub(super) fn describe(&self, member_id: &str, protocol: Option<&str>, stable: bool) -> MemberDescription {
        let shown = |bytes: Bytes| if stable { bytes } else { Bytes::new() };
        MemberDescription {
            member_id: member_id.to_owned(),
            group_instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            metadata: shown(self.metadata(protocol)),
            assignment: shown(self.assignment.clone()),
            http_name: self.http.as_ref().map(|part| part.name.clone()),
            partitions: decode_assignment(&self.assignment),
        }
    }
}

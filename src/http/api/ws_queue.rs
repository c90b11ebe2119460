//! Queues on the multiplexing socket: `receive` opens a flow of `message` frames, `settle` ends their leases.
//!
//! **Invariant**: a flow sends no more messages than it has credit for. Credit comes with `receive` and `credit` frames,
//! and a lease that ran out gives its own back: its message is no longer with this client.

use super::{
    queues::MAX_LEASE_MS,
    queues_receive::{DEFAULT_BYTES, write_message},
    queues_settle::{SettleMessages, SettledMessages, settled},
};
use crate::{
    engine::{Engine, ReceiveRequest, ReceivedMessages, SettleOutcome, Settlement},
    http::{
        extract::{whole_if_given, within},
        problem::Problem,
    },
    session::json::{RecordWriter, ValueEncoding, write_string},
    types::validate_name,
};
use futures_util::future::AbortHandle;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Messages of one look at the queue.
const MAX_AT_ONCE: u64 = 100;
/// How long one look waits; then it looks again.
const WAIT: Duration = Duration::from_secs(30);
/// Credit that a flow may have.
const MAX_CREDIT: u64 = 100_000;

/// What a `receive` frame says besides its id and credit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReceiveFrame {
    queue: String,
    #[serde(default, deserialize_with = "whole_if_given")]
    lease_ms: Option<i64>,
}

/// A flow of messages.
pub(super) struct Flow {
    /// Tells it from an earlier one of the same id.
    pub(super) serial: u64,
    pub(super) queue: String,
    lease_ms: Option<i64>,
    credit: u64,
    /// Stops the look at the queue that is under way.
    pub(super) looking: Option<AbortHandle>,
    /// Leases of this flow that nobody settled, and when they end.
    leases: BTreeMap<String, Instant>,
    ends: BTreeSet<(Instant, String)>,
}

impl Flow {
    pub(super) fn new(serial: u64, frame: ReceiveFrame, credit: u64) -> Result<Self, Problem> {
        validate_name(&frame.queue).map_err(|e| Problem::invalid_name(format!("queue: {e}")))?;
        let lease_ms = frame.lease_ms.map(|ms| within("lease_ms", Some(ms), ms, 1..=MAX_LEASE_MS)).transpose()?;
        let (leases, ends) = (BTreeMap::new(), BTreeSet::new());
        let credit = credit.min(MAX_CREDIT);
        Ok(Self { serial, queue: frame.queue, lease_ms, credit, looking: None, leases, ends })
    }

    pub(super) fn add_credit(&mut self, more: u64) {
        self.credit = self.credit.saturating_add(more).min(MAX_CREDIT);
    }

    /// What to ask the queue for; `None` without credit, or while it is being asked.
    pub(super) fn next_look(&self) -> Option<ReceiveRequest> {
        (self.credit > 0 && self.looking.is_none()).then(|| ReceiveRequest {
            queue: self.queue.clone(),
            max: self.credit.min(MAX_AT_ONCE) as usize,
            max_bytes: DEFAULT_BYTES,
            wait: WAIT,
            lease_ms: self.lease_ms,
            tag: None,
        })
    }

    /// The frames of what came.
    pub(super) fn take(&mut self, id: &str, received: &ReceivedMessages, now_ms: i64) -> Vec<String> {
        let writer = RecordWriter::new(&received.topic.name, ValueEncoding::Auto);
        let frame = |message: &crate::engine::QueueMessage| {
            let mut out = b"{\"type\":\"message\",\"id\":".to_vec();
            write_string(&mut out, id);
            out.push(b',');
            write_message(&mut out, message, &writer);
            String::from_utf8(out).unwrap_or_default()
        };
        for message in &received.messages {
            self.credit = self.credit.saturating_sub(1);
            self.hold(message.lease.clone(), message.leased_until_ms, now_ms);
        }
        received.messages.iter().map(frame).collect()
    }

    fn hold(&mut self, lease: String, until_ms: i64, now_ms: i64) {
        let left = Duration::from_millis(until_ms.saturating_sub(now_ms).max(0).unsigned_abs());
        let end = Instant::now() + left;
        self.let_go(&lease);
        self.leases.insert(lease.clone(), end);
        self.ends.insert((end, lease));
    }

    fn let_go(&mut self, lease: &str) {
        if let Some(end) = self.leases.remove(lease) {
            self.ends.remove(&(end, lease.to_owned()));
        }
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Leases that ran out give their credit back. True if any did.
    pub(super) fn lapse(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some((end, lease)) = self.ends.first().cloned().filter(|(end, _)| *end <= now) {
            self.ends.remove(&(end, lease.clone()));
            self.leases.remove(&lease);
            self.add_credit(1);
            any = true;
        }
        any
    }

    /// What a settlement means for the leases of this flow.
    pub(super) fn settled(&mut self, leases: &[String], outcomes: &[SettleOutcome], now_ms: i64) {
        for (lease, outcome) in leases.iter().zip(outcomes) {
            match outcome {
                SettleOutcome::Extended(until) if self.leases.contains_key(lease) => {
                    self.hold(lease.clone(), *until, now_ms);
                }
                SettleOutcome::Extended(_) => {}
                SettleOutcome::Settled | SettleOutcome::AlreadySettled => self.let_go(lease),
                SettleOutcome::Lost => {
                    if self.leases.contains_key(lease) {
                        self.let_go(lease);
                        self.add_credit(1);
                    }
                }
            }
        }
    }
}

/// A settlement that was carried out.
pub(super) struct Settling {
    pub(super) leases: Vec<String>,
    pub(super) outcomes: Vec<SettleOutcome>,
}

/// Settles what a frame says.
pub(super) async fn settle(
    engine: &dyn Engine,
    queue: &str,
    settlements: Vec<(String, Settlement)>,
) -> Result<Settling, Problem> {
    let leases = settlements.iter().map(|(lease, _)| lease.clone()).collect();
    let outcomes = engine.queues()?.settle(queue, settlements).await?;
    Ok(Settling { leases, outcomes })
}

/// Reads a `settle` frame's verdicts.
pub(super) fn verdicts(rest: &str) -> Result<Vec<(String, Settlement)>, Problem> {
    crate::http::extract::parse_json::<SettleMessages>(rest.as_bytes())?.check()
}

/// The frame that answers a settlement.
pub(super) fn settled_text(id: &str, outcomes: &[SettleOutcome]) -> Result<String, Problem> {
    let SettledMessages { results } = settled(outcomes)?;
    let mut out = b"{\"type\":\"settled\",\"id\":".to_vec();
    write_string(&mut out, id);
    out.extend_from_slice(b",\"results\":");
    out.extend_from_slice(serde_json::to_string(&results).unwrap_or_default().as_bytes());
    out.push(b'}');
    Ok(String::from_utf8(out).unwrap_or_default())
}

//! Settling what was received from queues.

use super::queues::MAX_LEASE_MS;
use crate::{
    engine::{SettleOutcome, Settlement},
    http::{
        AppState,
        extract::{JsonBody, QueuePath, whole, whole_if_given, within},
        problem::{Effects, OutcomeStatus, Problem, RecordOutcome},
    },
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Leases of one settlement.
const MAX_SETTLED: usize = 10_000;
/// Characters of a reason; the queue keeps the first 256 bytes.
const MAX_REASON: usize = 4096;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(settle_messages))
}

/// Verdicts over leases. At least one, and 10,000 at most.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleMessages {
    /// Done.
    #[serde(default)]
    #[schema(required = false, max_items = 10000)]
    ack: Vec<String>,
    /// Not done: deliver them again.
    #[serde(default)]
    #[schema(required = false, max_items = 10000)]
    nack: Vec<NackLease>,
    /// They can not be done: give them up now.
    #[serde(default)]
    #[schema(required = false, max_items = 10000)]
    reject: Vec<RejectLease>,
    /// They take longer.
    #[serde(default)]
    #[schema(required = false, max_items = 10000)]
    extend: Vec<ExtendLease>,
}

/// Delivers a message again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NackLease {
    /// The lease.
    lease: String,
    /// Not before so long from now, in milliseconds; without it as the queue's backoff says.
    #[schema(nullable = false, minimum = 0, maximum = 43200000)]
    #[serde(default, deserialize_with = "whole_if_given")]
    delay_ms: Option<i64>,
    /// Why; kept if it was the last delivery.
    #[schema(nullable = false, max_length = 4096)]
    reason: Option<String>,
}

/// Gives a message up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectLease {
    /// The lease.
    lease: String,
    /// Why.
    #[schema(nullable = false, max_length = 4096)]
    reason: Option<String>,
}

/// Keeps a lease.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendLease {
    /// The lease.
    lease: String,
    /// At least so long from now, in milliseconds; it never gets shorter.
    #[schema(minimum = 1, maximum = 43200000, example = 30000)]
    #[serde(deserialize_with = "whole")]
    lease_ms: i64,
}

/// What became of each lease, in the order ack, nack, reject, extend.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettledMessages {
    /// One each.
    pub(super) results: Vec<LeaseSettled>,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct LeaseSettled {
    /// What.
    #[schema(inline)]
    pub(super) status: LeaseStatus,
    /// Until when it holds, Unix time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) leased_until_ms: Option<i64>,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseStatus {
    /// As asked.
    Settled,
    /// The same was said of it before.
    AlreadySettled,
    /// It holds longer.
    Extended,
}

impl SettleMessages {
    /// Every lease with what is to become of it.
    pub(super) fn check(self) -> Result<Vec<(String, Settlement)>, Problem> {
        let count = self.ack.len() + self.nack.len() + self.reject.len() + self.extend.len();
        if count == 0 {
            return Err(Problem::invalid_request("name at least one lease in ack, nack, reject or extend"));
        }
        if count > MAX_SETTLED {
            let detail = format!("a settlement has at most {MAX_SETTLED} leases, not {count}");
            let title = "Too many leases for one settlement";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too-many-leases", title, detail));
        }
        let reason = |given: Option<String>, default: &str| match given {
            None => Ok(default.to_owned()),
            Some(text) if text.chars().count() <= MAX_REASON => Ok(text),
            Some(_) => Err(Problem::invalid_request(format!("a reason has at most {MAX_REASON} characters"))),
        };
        let mut all: Vec<_> = self.ack.into_iter().map(|lease| (lease, Settlement::Ack)).collect();
        for NackLease { lease, delay_ms, reason: why } in self.nack {
            within("delay_ms", delay_ms, 0, 0..=MAX_LEASE_MS)?;
            all.push((lease, Settlement::Nack { delay_ms, reason: reason(why, "not acknowledged")? }));
        }
        for RejectLease { lease, reason: why } in self.reject {
            all.push((lease, Settlement::Reject { reason: reason(why, "rejected")? }));
        }
        for ExtendLease { lease, lease_ms } in self.extend {
            let lease_ms = within("lease_ms", Some(lease_ms), lease_ms, 1..=MAX_LEASE_MS)?;
            all.push((lease, Settlement::Extend { lease_ms }));
        }
        Ok(all)
    }
}

/// Settle messages
///
/// Acknowledges, gives back, gives up, or keeps leases; 200 once that is stored. If any lease was lost the answer is 409
/// with `results`: the others are settled all the same. The same settlement again is `already-settled`. A token that is
/// none is 422, and nothing is done.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/settle", tag = "queues", operation_id = "settle_messages",
    request_body = SettleMessages,
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "Each lease is as asked", body = SettledMessages)),
)]
pub async fn settle_messages(
    State(app): State<AppState>,
    QueuePath(queue): QueuePath,
    JsonBody(settle): JsonBody<SettleMessages>,
) -> Result<Json<SettledMessages>, Problem> {
    let outcomes = app.engine.queues()?.settle(&queue, settle.check()?).await?;
    settled(&outcomes).map(Json)
}

/// The answer, or the problem that one is lost.
pub(super) fn settled(outcomes: &[SettleOutcome]) -> Result<SettledMessages, Problem> {
    let each = |outcome: &SettleOutcome| {
        let (status, leased_until_ms) = match outcome {
            SettleOutcome::Settled => (LeaseStatus::Settled, None),
            SettleOutcome::AlreadySettled => (LeaseStatus::AlreadySettled, None),
            SettleOutcome::Extended(until) => (LeaseStatus::Extended, Some(*until)),
            SettleOutcome::Lost => return None,
        };
        Some(LeaseSettled { status, leased_until_ms })
    };
    let results: Option<Vec<_>> = outcomes.iter().map(each).collect();
    results.map(|results| SettledMessages { results }).ok_or_else(|| lost(outcomes))
}

fn lost(outcomes: &[SettleOutcome]) -> Problem {
    let count = outcomes.iter().filter(|o| **o == SettleOutcome::Lost).count();
    let results = outcomes.iter().enumerate().map(|(index, outcome)| {
        let (status, leased_until_ms) = match outcome {
            SettleOutcome::Settled => (OutcomeStatus::Settled, None),
            SettleOutcome::AlreadySettled => (OutcomeStatus::AlreadySettled, None),
            SettleOutcome::Extended(until) => (OutcomeStatus::Extended, Some(*until)),
            SettleOutcome::Lost => (OutcomeStatus::Lost, None),
        };
        RecordOutcome { leased_until_ms, ..RecordOutcome::not_stored(index, status) }
    });
    let detail = format!(
        "not held any more: {count} of {} leases; such a lease ran out, or was settled in another way, and the others are as asked",
        outcomes.len()
    );
    let effects = if count == outcomes.len() { Effects::None } else { Effects::Applied };
    Problem::new(StatusCode::CONFLICT, "lease-lost", "A lease was lost", detail)
        .with_side_effects(effects)
        .with_results(results.collect())
}

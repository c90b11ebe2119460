//! The one shape of an error at this door (RFC 9457). `mapping` makes it of the errors of the layers below.
//!
//! **Invariant**: every answer of status 400 and up is a [`Problem`]; its `code` is stable and belongs to one kind of
//! failure.
//!
//! Callers: every handler and extractor; SSE `problem` events and WebSocket `error` frames send [`Problem::to_json`].

use super::api::group_members::{MembershipState, TopicPartitions};
use crate::{
    engine::{ProducedRecord, SideEffects},
    http::trace,
};
use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{borrow::Cow, time::Duration};
use utoipa::ToSchema;

mod mapping;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error, as `application/problem+json`. Cheap to move: one pointer.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem(Box<Body>);

/// What failed, why, whether to try again, and what it may have left behind (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Body {
    /// Identifies the kind of problem: `urn:sluice:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:sluice:problem:unknown-topic")]
    pub kind: String,
    /// The kind of problem in words; the same for each of its kind.
    #[schema(example = "There is no such topic")]
    pub title: Cow<'static, str>,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    #[schema(example = "there is no topic 'games'")]
    pub detail: Cow<'static, str>,
    /// The kind of problem for programs; it never changes its meaning.
    #[schema(example = "unknown-topic")]
    pub code: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What the failed request may have left behind.
    pub side_effects: Effects,
    /// How long to wait before trying again, in milliseconds; also as `Retry-After`, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub retry_after_ms: Option<u64>,
    /// The request's trace (W3C Trace Context), as it stands in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    pub trace_id: Option<String>,
    /// For batches: what became of each record or lease, in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub results: Option<Vec<RecordOutcome>>,
    /// For an offset out of range: the partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub partition: Option<i32>,
    /// For an offset out of range: the first offset that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub log_start_offset: Option<i64>,
    /// For an offset out of range: the first offset that is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub high_watermark: Option<i64>,
    /// For a rebalance: the group's epoch now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub epoch: Option<i32>,
    /// For a rebalance: whether it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub state: Option<MembershipState>,
    /// For a rebalance: what the member reads now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub assignment: Option<Vec<TopicPartitions>>,
}

/// What a failed request may have left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SideEffects)]
pub enum Effects {
    /// Nothing was changed.
    None,
    /// It may have been done, or will be.
    Unknown,
    /// Some or all of it was done.
    Applied,
}

impl From<SideEffects> for Effects {
    fn from(effects: SideEffects) -> Self {
        match effects {
            SideEffects::None => Self::None,
            SideEffects::Unknown => Self::Unknown,
            SideEffects::Applied => Self::Applied,
        }
    }
}

/// What became of one record, or one lease, of a request that failed.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RecordOutcome {
    /// Its place in the request, from 0.
    #[schema(minimum = 0)]
    pub index: usize,
    /// What became of it.
    pub status: OutcomeStatus,
    /// Where it was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub partition: Option<i32>,
    /// Its offset there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub offset: Option<i64>,
    /// Its timestamp, Unix time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub timestamp_ms: Option<i64>,
    /// Until when the lease holds, Unix time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    pub leased_until_ms: Option<i64>,
    /// Why not, for programs: the code of a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<Cow<'static, str>>,
    /// Why not, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<Cow<'static, str>>,
    /// Whether this record may be stored by the same request later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retryable: Option<bool>,
    /// Whether it may be stored all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub side_effects: Option<Effects>,
}

/// What became of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeStatus {
    /// It reached the acknowledgement asked for.
    Stored,
    /// It did not; its code says why.
    Failed,
    /// It was refused; its code says why.
    Invalid,
    /// Nothing is wrong with it, but another record was refused, so it was not tried.
    NotStored,
    /// The lease is settled as asked.
    Settled,
    /// The same was said of the same lease before.
    AlreadySettled,
    /// The lease holds longer.
    Extended,
    /// The lease was not held any more.
    Lost,
}

impl Problem {
    /// A problem that leaves nothing behind and will not pass by itself.
    #[must_use]
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self(Box::new(Body {
            kind: format!("urn:sluice:problem:{code}"),
            title: Cow::Borrowed(title),
            status: status.as_u16(),
            detail: detail.into(),
            code: Cow::Borrowed(code),
            retryable: false,
            side_effects: Effects::None,
            retry_after_ms: None,
            trace_id: trace::current().map(|id| id.to_string()),
            results: None,
            partition: None,
            log_start_offset: None,
            high_watermark: None,
            epoch: None,
            state: None,
            assignment: None,
        }))
    }

    /// 400 `invalid-request`: a parameter or a body that can not be understood.
    #[must_use]
    pub fn invalid_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-request", "The request can not be understood", detail)
    }

    /// 400 `invalid-name`: a topic, queue or group name that breaks Kafka's rule.
    #[must_use]
    pub fn invalid_name(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid-name", "The name is not allowed", detail)
    }

    /// 413 `request-too-large`.
    #[must_use]
    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request-too-large", "The request is too large", detail)
    }

    /// 415 `unsupported-media-type`.
    #[must_use]
    pub fn unsupported_media_type(detail: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported-media-type", "The body's type is not supported here", detail)
    }

    /// 404 `not-found`: no such route, or nothing under it.
    #[must_use]
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here", detail)
    }

    /// 404 `unknown-topic`.
    #[must_use]
    pub fn unknown_topic(name: &str) -> Self {
        let detail = format!("there is no topic '{name}'");
        Self::new(StatusCode::NOT_FOUND, "unknown-topic", "There is no such topic", detail)
    }

    /// 500 `internal`. The text goes to the log and not to the client.
    #[must_use]
    pub fn internal(text: &str) -> Self {
        tracing::error!(error = text, trace_id = trace::current().map(tracing::field::display), "internal error");
        let detail = "the server failed; its log says more under this trace_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
            .with_side_effects(Effects::Unknown)
    }

    /// Says that the same request may succeed later, and when to try.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retryable = true;
        self.0.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Says what was left behind.
    #[must_use]
    pub fn with_side_effects(mut self, effects: Effects) -> Self {
        self.0.side_effects = effects;
        self
    }

    /// Adds what became of each record.
    #[must_use]
    pub fn with_results(mut self, results: Vec<RecordOutcome>) -> Self {
        self.0.results = Some(results);
        self
    }

    /// Names the trace, where the problem is made outside of the request's handler (in a body's stream).
    #[must_use]
    pub fn with_trace_id(mut self, trace_id: impl ToString) -> Self {
        self.0.trace_id = Some(trace_id.to_string());
        self
    }

    /// Another wording of this time's detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// With where a group's member stands now.
    #[must_use]
    pub fn with_assignment(mut self, epoch: i32, state: MembershipState, assignment: Vec<TopicPartitions>) -> Self {
        (self.0.epoch, self.0.state, self.0.assignment) = (Some(epoch), Some(state), Some(assignment));
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// All of it.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.0
    }

    /// The JSON object, for an answer's body, an SSE `problem` event or a WebSocket `error` frame.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&*self.0).expect("a problem has only strings and numbers")
    }

    /// This failure as the outcome of one record of a batch.
    #[must_use]
    pub fn to_outcome(&self, index: usize, status: OutcomeStatus) -> RecordOutcome {
        RecordOutcome {
            index,
            status,
            partition: None,
            offset: None,
            timestamp_ms: None,
            leased_until_ms: None,
            code: Some(self.0.code.clone()),
            detail: Some(self.0.detail.clone()),
            retryable: Some(self.0.retryable),
            side_effects: Some(self.0.side_effects),
        }
    }
}

impl RecordOutcome {
    /// A record that was stored.
    #[must_use]
    pub fn stored(index: usize, record: ProducedRecord) -> Self {
        Self {
            partition: Some(record.partition.get()),
            offset: Some(record.offset.get()),
            timestamp_ms: Some(record.timestamp_ms),
            ..Self::not_stored(index, OutcomeStatus::Stored)
        }
    }

    /// A record with nothing to say but its status.
    #[must_use]
    pub const fn not_stored(index: usize, status: OutcomeStatus) -> Self {
        Self {
            index,
            status,
            partition: None,
            offset: None,
            timestamp_ms: None,
            leased_until_ms: None,
            code: None,
            detail: None,
            retryable: None,
            side_effects: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status(), self.to_json()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(ms) = self.0.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        headers.insert(HeaderName::from_static("sluice-problem"), code_value(&self.0.code));
        response
    }
}

/// A code as a header's value; codes are kebab-case, so it always fits.
fn code_value(code: &str) -> HeaderValue {
    HeaderValue::from_str(code).unwrap_or(HeaderValue::from_static("internal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineError;
    use crate::types::PartitionId;

    fn json(problem: &Problem) -> serde_json::Value {
        serde_json::from_str(&problem.to_json()).unwrap()
    }

    #[test]
    fn a_problem_has_every_member_and_no_null() {
        let value = json(&Problem::from(EngineError::NoLeader(PartitionId::new(2))));
        assert_eq!(value["type"], "urn:sluice:problem:no-leader");
        assert_eq!(value["status"], 503);
        assert_eq!(value["retryable"], true);
        assert_eq!(value["side_effects"], "none");
        assert_eq!(value["retry_after_ms"], 500);
        assert!(value.as_object().unwrap().values().all(|v| !v.is_null()), "{value}");
    }

    #[test]
    fn retry_after_is_rounded_up_to_seconds() {
        let response = Problem::from(EngineError::Overloaded).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(response.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
    }
}

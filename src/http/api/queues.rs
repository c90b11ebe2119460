//! Queues: make, change, delete. Receiving, settling, what they are doing, and what they gave up are beside it.

use super::{
    queues_dead,
    queues_describe::{self, Queue},
    queues_receive, queues_settle,
    read_parameters::rfc3339,
};
use crate::{
    engine::{Backoff, MAX_DELIVERIES, OnExhausted, QueueSettings, QueueStart, QueueToPut},
    http::{
        AppState,
        extract::{JsonBody, QueuePath, whole, whole_if_given, within},
        problem::Problem,
    },
    types::TopicName,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

const DEFAULT_LEASE_MS: i64 = 30_000;
/// The longest lease, and the longest delay: longer work extends its lease.
pub(super) const MAX_LEASE_MS: i64 = 43_200_000;
const MAX_BACKOFF_MS: i64 = 86_400_000;
const MAX_HELD: i64 = 1_000_000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(queues_describe::list_queues))
        .routes(routes!(put_queue, queues_describe::get_queue, delete_queue))
        .merge(queues_receive::routes())
        .merge(queues_settle::routes())
        .merge(queues_dead::routes())
}

/// A queue to make, or what an existing one should become.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueDefinition {
    /// The topic that it delivers; it can not be changed.
    #[schema(pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")]
    topic: String,
    /// Where it begins: `earliest`, `latest`, or a time (RFC 3339); it can not be changed.
    #[schema(nullable = false, default = "earliest", example = "earliest")]
    start: Option<String>,
    /// How long a message is leased where the receiver does not say, in milliseconds.
    #[schema(nullable = false, minimum = 1, maximum = 43200000, default = 30000)]
    #[serde(default, deserialize_with = "whole_if_given")]
    lease_ms: Option<i64>,
    /// How often a message is delivered before it is given up.
    #[schema(nullable = false, minimum = 1, maximum = 10000, default = 5)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max_deliveries: Option<i64>,
    /// Whether messages of a key are delivered one after the other; it can not be changed.
    #[schema(nullable = false, inline, default = "none")]
    order: Option<QueueOrder>,
    /// How long a message waits after a `nack` that names no delay; without it, not at all.
    #[schema(nullable = false)]
    backoff: Option<QueueBackoff>,
    /// What becomes of a message after its last delivery.
    #[schema(nullable = false, inline, default = "dead")]
    on_exhausted: Option<QueueExhausted>,
    /// How many messages of a partition may be delayed, blocked, parked or dead before it stops taking new ones.
    #[schema(nullable = false, minimum = 1, maximum = 1000000, default = 100000)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max_held: Option<i64>,
}

/// Whether order matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueOrder {
    /// Messages are delivered as soon as somebody asks.
    #[default]
    None,
    /// Within a partition at most one message of a key is out, and the others of that key wait behind it.
    Key,
}

/// How waits grow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueBackoff {
    /// After the first delivery, in milliseconds.
    #[schema(minimum = 0, maximum = 86400000, example = 1000)]
    #[serde(deserialize_with = "whole")]
    pub(super) min_ms: i64,
    /// At most, in milliseconds.
    #[schema(minimum = 0, maximum = 86400000, example = 60000)]
    #[serde(deserialize_with = "whole")]
    pub(super) max_ms: i64,
    /// From each delivery to the next.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    pub(super) factor: f64,
}

/// What becomes of a message that was given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueExhausted {
    /// It is a dead letter, and its key goes on.
    #[default]
    Dead,
    /// It is put aside, and its key waits until it is redriven or discarded. Needs `order` `key`.
    ParkKey,
    /// It is settled, and counted as skipped.
    Skip,
}

impl QueueDefinition {
    fn check(self) -> Result<QueueToPut, Problem> {
        let topic = TopicName::new(&self.topic).map_err(|e| Problem::invalid_name(format!("topic: {e}")))?;
        let start = match self.start.as_deref() {
            None | Some("earliest") => QueueStart::Earliest,
            Some("latest") => QueueStart::Latest,
            // Not so long ago: the same definition again would be another one.
            Some(text) => QueueStart::Timestamp(rfc3339(text).ok_or_else(|| {
                unfit(format!("start: '{text}' is neither earliest nor latest nor a time such as 2026-11-23T12:00:00Z"))
            })?),
        };
        let order_by_key = self.order.unwrap_or_default() == QueueOrder::Key;
        let on_exhausted = match self.on_exhausted.unwrap_or_default() {
            QueueExhausted::Dead => OnExhausted::Dead,
            QueueExhausted::Skip => OnExhausted::Skip,
            QueueExhausted::ParkKey if order_by_key => OnExhausted::ParkKey,
            QueueExhausted::ParkKey => {
                return Err(unfit("on_exhausted 'park_key' blocks a key, which needs \"order\":\"key\""));
            }
        };
        let defaults = QueueSettings::default();
        let backoff = self.backoff.map(QueueBackoff::check).transpose()?;
        let settings = QueueSettings {
            max_deliveries: within(
                "max_deliveries",
                self.max_deliveries,
                defaults.max_deliveries.into(),
                1..=MAX_DELIVERIES.into(),
            )? as u16,
            order_by_key,
            backoff,
            on_exhausted,
            max_held: within("max_held", self.max_held, defaults.max_held.into(), 1..=MAX_HELD)? as u32,
            window: defaults.window,
        };
        let lease_ms = within("lease_ms", self.lease_ms, DEFAULT_LEASE_MS, 1..=MAX_LEASE_MS)?;
        Ok(QueueToPut { topic, start, lease_ms, settings })
    }
}

impl QueueBackoff {
    fn check(self) -> Result<Backoff, Problem> {
        let Self { min_ms, max_ms, factor } = self;
        if !(0..=MAX_BACKOFF_MS).contains(&min_ms) || !(min_ms..=MAX_BACKOFF_MS).contains(&max_ms) {
            return Err(unfit(format!("backoff: 0 <= min_ms <= max_ms <= {MAX_BACKOFF_MS}")));
        }
        if !(1.0..=100.0).contains(&factor) {
            return Err(unfit("backoff: factor is a number from 1 to 100"));
        }
        Ok(Backoff { min_ms, max_ms, factor })
    }
}

fn unfit(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-queue", "The queue's settings do not fit", detail)
}

/// Make or change a queue
///
/// A queue is a view of one topic with acknowledgements of its own; the topic keeps its records. Again changes it, but
/// another `topic`, `start` or `order` is 409.
#[utoipa::path(
    put, path = "/v1/queues/{queue}", tag = "queues", operation_id = "put_queue", request_body = QueueDefinition,
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses(
        (status = 200, description = "The queue was there, and is as asked now", body = Queue),
        (status = 201, description = "The queue was made", body = Queue,
            headers(("location" = String, description = "The queue's own path"))),
    ),
)]
pub async fn put_queue(
    State(app): State<AppState>,
    QueuePath(name): QueuePath,
    JsonBody(definition): JsonBody<QueueDefinition>,
) -> Result<Response, Problem> {
    let queue = definition.check()?;
    let queues = app.engine.queues()?;
    let new = queues.put_queue(&name, queue).await?;
    let described = Json(Queue::of(queues.describe_queue(&name).await?));
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = (status, described).into_response();
    if new && let Ok(location) = HeaderValue::try_from(format!("/v1/queues/{name}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Delete a queue
///
/// Its state goes, its dead letters too; the topic and its records stay.
#[utoipa::path(
    delete, path = "/v1/queues/{queue}", tag = "queues", operation_id = "delete_queue",
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 204, description = "The queue is gone")),
)]
pub async fn delete_queue(State(app): State<AppState>, QueuePath(name): QueuePath) -> Result<StatusCode, Problem> {
    app.engine.queues()?.delete_queue(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

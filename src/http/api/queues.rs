//! Queues: make, list, describe, delete; receive and settle.

use super::produce::{IdempotencyKey, REPLAYED};
use super::read_parameters::moment;
use super::records::LogRecord;
use crate::{
    engine::{
        Backoff, EngineError, HolderState, MAX_DELIVERIES, OnExhausted, QueueCounts, QueueDescription, QueueSettings,
        QueueStart, QueueToPut, ReceiveRequest, ReceivedMessages, SettleOutcome, Settlement,
    },
    http::{
        AppState,
        extract::{JsonBody, QueuePath, whole, whole_if_given},
        problem::{OutcomeStatus, Problem, RecordOutcome},
        state::App,
    },
    session::json::{RecordWriter, ValueEncoding},
    types::TopicName,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

const DEFAULT_LEASE_MS: i64 = 30_000;
/// The longest lease, and the longest delay: longer work extends its lease.
pub(super) const MAX_LEASE_MS: i64 = 43_200_000;
const MAX_BACKOFF_MS: i64 = 86_400_000;
const MAX_HELD: u32 = 1_000_000;
pub(super) const MAX_MESSAGES: usize = 1000;
pub(super) const DEFAULT_BYTES: usize = 4 << 20;
const MAX_BYTES: usize = 16 << 20;
const MAX_WAIT_MS: u64 = 60_000;
/// Leases of one settlement.
const MAX_SETTLED: usize = 10_000;
/// What a reason may have; the queue keeps the first 256 bytes.
const MAX_REASON: usize = 4096;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_queues))
        .routes(routes!(put_queue, get_queue, delete_queue))
        .routes(routes!(receive_messages))
        .routes(routes!(settle_messages))
        .merge(super::queues_dead::routes())
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
    max_deliveries: Option<u16>,
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
    max_held: Option<u32>,
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
    min_ms: i64,
    /// At most, in milliseconds.
    #[schema(minimum = 0, maximum = 86400000, example = 60000)]
    #[serde(deserialize_with = "whole")]
    max_ms: i64,
    /// From each delivery to the next.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    factor: f64,
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

/// A queue as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Queue {
    /// Its name.
    #[schema(example = "scores")]
    name: String,
    /// Its topic.
    topic: String,
    /// Its topic was deleted; nothing comes out of it any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    topic_deleted: bool,
    /// Where it began.
    start: String,
    /// How long a message is leased where the receiver does not say, in milliseconds.
    #[schema(minimum = 1)]
    lease_ms: i64,
    /// How often a message is delivered before it is given up.
    #[schema(minimum = 1)]
    max_deliveries: u16,
    /// Whether messages of a key are delivered one after the other.
    #[schema(inline)]
    order: QueueOrder,
    /// How long a message waits after a `nack` that names no delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    backoff: Option<QueueBackoff>,
    /// What becomes of a message after its last delivery.
    #[schema(inline)]
    on_exhausted: QueueExhausted,
    /// How many messages of a partition may be held back.
    #[schema(minimum = 1)]
    max_held: u32,
    /// Messages by what they wait for.
    #[serde(flatten)]
    counts: QueueCountsJson,
    /// Messages that retention or compaction removed before they were settled.
    #[schema(minimum = 0)]
    lost: u64,
    /// Messages that were acknowledged.
    #[schema(minimum = 0)]
    acked: u64,
    /// Messages that were given up and skipped.
    #[schema(minimum = 0)]
    skipped: u64,
    /// Messages that were discarded by hand.
    #[schema(minimum = 0)]
    discarded: u64,
    /// How old the oldest ready message is, in milliseconds; left out if none is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    oldest_ready_age_ms: Option<u64>,
    /// What holds messages back, the worst first; left out if nothing does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    blocked_by: Vec<QueueBlock>,
    /// By partition.
    partitions: Vec<QueuePartitionState>,
}

/// Messages by what they wait for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = QueueCounts)]
pub struct QueueCountsJson {
    /// To be delivered.
    #[schema(minimum = 0)]
    ready: u64,
    /// At a consumer.
    #[schema(minimum = 0)]
    leased: u64,
    /// Until their time comes.
    #[schema(minimum = 0)]
    delayed: u64,
    /// Behind another message of their key.
    #[schema(minimum = 0)]
    blocked: u64,
    /// Given up, and their key waits.
    #[schema(minimum = 0)]
    parked: u64,
    /// Dead letters.
    #[schema(minimum = 0)]
    dead: u64,
}

/// What holds messages back.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueBlock {
    /// `key`: another message of the key; `held-full`: a partition holds as many back as it may, and stopped.
    #[schema(inline)]
    reason: BlockReason,
    /// The key, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<String>,
    /// The key in base64, if it is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_base64: Option<String>,
    /// The partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// The message that holds the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    offset: Option<i64>,
    /// Whether that one is leased, delayed or parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, inline)]
    state: Option<BlockState>,
    /// Since when, Unix time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    since_ms: Option<i64>,
    /// How many messages wait behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    waiting: Option<u64>,
}

/// Why messages are held back.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockReason {
    /// Another message of the key.
    Key,
    /// A partition holds as many back as it may.
    HeldFull,
}

/// How a message holds its key.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BlockState {
    /// A consumer has it.
    Leased,
    /// It waits for its time.
    Delayed,
    /// It was given up.
    Parked,
}

/// A queue over one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuePartitionState {
    /// Which.
    #[schema(minimum = 0)]
    partition: i32,
    /// Messages below it are settled, but for those held back.
    #[schema(minimum = 0)]
    start_offset: i64,
    /// Messages by what they wait for.
    #[serde(flatten)]
    counts: QueueCountsJson,
}

/// The queues.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueList {
    /// Sorted by name.
    queues: Vec<Queue>,
}

/// What to receive.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiveMessages {
    /// Messages at most.
    #[schema(nullable = false, minimum = 1, maximum = 1000, default = 10)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max: Option<usize>,
    /// Bytes of keys and values at most; one message comes even if it is larger.
    #[schema(nullable = false, minimum = 1, maximum = 16777216, default = 4194304)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max_bytes: Option<usize>,
    /// How long to wait for the first message, in milliseconds.
    #[schema(nullable = false, minimum = 0, maximum = 60000, default = 0)]
    #[serde(default, deserialize_with = "whole_if_given")]
    wait_ms: Option<u64>,
    /// How long they are leased, in milliseconds; without it as the queue says.
    #[schema(nullable = false, minimum = 1, maximum = 43200000)]
    #[serde(default, deserialize_with = "whole_if_given")]
    lease_ms: Option<i64>,
}

/// A message of a queue.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `write_message` writes it
pub struct QueueMessage {
    /// What settles it; opaque.
    #[schema(max_length = 96)]
    lease: String,
    /// Which delivery it is, from 1.
    #[schema(minimum = 1)]
    attempt: u16,
    /// Until when it is leased, Unix time in milliseconds.
    leased_until_ms: i64,
    /// The record.
    record: LogRecord,
}

/// Messages.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `messages_json` writes it
pub struct QueueMessages {
    /// In each partition's order; perhaps none.
    messages: Vec<QueueMessage>,
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

impl QueueDefinition {
    fn check(self, now_ms: i64) -> Result<QueueToPut, Problem> {
        let topic = TopicName::new(&self.topic).map_err(|e| Problem::invalid_name(format!("topic: {e}")))?;
        let start = match self.start.as_deref() {
            None | Some("earliest") => QueueStart::Earliest,
            Some("latest") => QueueStart::Latest,
            Some(text) => QueueStart::Timestamp(moment("start", text, now_ms)?),
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
            max_deliveries: within("max_deliveries", self.max_deliveries, defaults.max_deliveries, MAX_DELIVERIES)?,
            order_by_key,
            backoff,
            on_exhausted,
            max_held: within("max_held", self.max_held, defaults.max_held, MAX_HELD)?,
            window: defaults.window,
        };
        let lease_ms = within("lease_ms", self.lease_ms, DEFAULT_LEASE_MS, MAX_LEASE_MS)?;
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

pub(super) fn within<T: PartialOrd + From<u8> + std::fmt::Display>(
    name: &str,
    given: Option<T>,
    default: T,
    most: T,
) -> Result<T, Problem> {
    match given {
        None => Ok(default),
        Some(n) if n >= T::from(1) && n <= most => Ok(n),
        Some(_) => Err(Problem::invalid_request(format!("{name} is a whole number from 1 to {most}"))),
    }
}

fn unfit(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-queue", "The queue's settings do not fit", detail)
}

impl QueueCountsJson {
    const fn of(counts: &QueueCounts) -> Self {
        let QueueCounts { ready, leased, delayed, blocked, parked, dead } = *counts;
        Self { ready, leased, delayed, blocked, parked, dead }
    }
}

impl Queue {
    fn of(described: QueueDescription) -> Self {
        let definition = &described.definition;
        let settings = &definition.settings;
        let full = described.partitions.iter().filter(|p| p.held_full).map(|p| QueueBlock {
            reason: BlockReason::HeldFull,
            key: None,
            key_base64: None,
            partition: p.partition.get(),
            offset: None,
            state: None,
            since_ms: None,
            waiting: None,
        });
        let mut blocked_by: Vec<_> = full.collect();
        blocked_by.extend(described.blocked_by.iter().map(QueueBlock::of));
        let partitions = described.partitions.iter().map(|p| QueuePartitionState {
            partition: p.partition.get(),
            start_offset: p.start,
            counts: QueueCountsJson::of(&p.counts),
        });
        Self {
            topic: definition.topic.to_string(),
            topic_deleted: described.topic_deleted,
            start: match definition.start {
                QueueStart::Earliest => "earliest".to_owned(),
                QueueStart::Latest => "latest".to_owned(),
                QueueStart::Timestamp(ms) => ms.to_string(),
            },
            lease_ms: definition.lease_ms,
            max_deliveries: settings.max_deliveries,
            order: if settings.order_by_key { QueueOrder::Key } else { QueueOrder::None },
            backoff: settings.backoff.map(|b| QueueBackoff { min_ms: b.min_ms, max_ms: b.max_ms, factor: b.factor }),
            on_exhausted: match settings.on_exhausted {
                OnExhausted::Dead => QueueExhausted::Dead,
                OnExhausted::ParkKey => QueueExhausted::ParkKey,
                OnExhausted::Skip => QueueExhausted::Skip,
            },
            max_held: settings.max_held,
            counts: QueueCountsJson::of(&described.counts),
            lost: described.totals.lost,
            acked: described.totals.acked,
            skipped: described.totals.skipped,
            discarded: described.totals.discarded,
            oldest_ready_age_ms: described.oldest_ready_age_ms,
            blocked_by,
            partitions: partitions.collect(),
            name: described.name,
        }
    }
}

impl QueueBlock {
    fn of(blocked: &crate::engine::BlockedKey) -> Self {
        let key = blocked.key.as_deref();
        let text = key.and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned);
        Self {
            reason: BlockReason::Key,
            key_base64: key.filter(|_| text.is_none()).map(|key| base64_simd::STANDARD.encode_to_string(key)),
            key: text,
            partition: blocked.partition.get(),
            offset: Some(blocked.offset),
            state: Some(match blocked.state {
                HolderState::Leased => BlockState::Leased,
                HolderState::Delayed => BlockState::Delayed,
                HolderState::Parked => BlockState::Parked,
            }),
            since_ms: Some(blocked.since_ms),
            waiting: Some(blocked.waiting),
        }
    }
}

/// List the queues
///
/// Sorted by name, each with its counts.
#[utoipa::path(
    get, path = "/v1/queues", tag = "queues", operation_id = "list_queues",
    responses((status = 200, description = "The queues", body = QueueList)),
)]
pub async fn list_queues(State(app): State<AppState>) -> Result<Json<QueueList>, Problem> {
    let queues = app.engine.queues()?.list_queues().await?;
    Ok(Json(QueueList { queues: queues.into_iter().map(Queue::of).collect() }))
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
    let queue = definition.check(app.sys.clock.now_ms())?;
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

/// Describe a queue
///
/// What it is, how many messages wait for what, and what holds them back.
#[utoipa::path(
    get, path = "/v1/queues/{queue}", tag = "queues", operation_id = "get_queue",
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "The queue", body = Queue)),
)]
pub async fn get_queue(State(app): State<AppState>, QueuePath(name): QueuePath) -> Result<Json<Queue>, Problem> {
    Ok(Json(Queue::of(app.engine.queues()?.describe_queue(&name).await?)))
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

/// Receive messages
///
/// Each comes with a lease: until it runs out nobody else gets the message, and whoever holds its token may settle it.
/// Under an Idempotency-Key a lost answer costs nothing: the resend gets those of its leases that are still held, or
/// receives anew if none is.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/receive", tag = "queues", operation_id = "receive_messages",
    request_body = ReceiveMessages,
    params(
        ("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        ("Idempotency-Key" = inline(Option<String>), Header, description = "Makes a resend free: it gets the same leases", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", nullable = false),
    ),
    responses((status = 200, description = "Messages, perhaps none", body = QueueMessages,
        headers(("idempotency-replayed" = String, description = "`true` if an earlier request under this Idempotency-Key leased them")))),
)]
pub async fn receive_messages(
    State(app): State<AppState>,
    QueuePath(queue): QueuePath,
    headers: HeaderMap,
    JsonBody(wanted): JsonBody<ReceiveMessages>,
) -> Result<Response, Problem> {
    let max = within("max", wanted.max.map(|n| n as u64), 10, MAX_MESSAGES as u64)? as usize;
    let max_bytes = within("max_bytes", wanted.max_bytes.map(|n| n as u64), DEFAULT_BYTES as u64, MAX_BYTES as u64)?;
    let lease_ms = wanted.lease_ms.map(|ms| within("lease_ms", Some(ms), 1, MAX_LEASE_MS)).transpose()?;
    let wait_ms = wanted.wait_ms.unwrap_or(0);
    if wait_ms > MAX_WAIT_MS {
        return Err(Problem::invalid_request(format!("wait_ms is at most {MAX_WAIT_MS}")));
    }
    let tag = IdempotencyKey::of(&headers)?.map(|key| key.for_receive(&queue, max, max_bytes, lease_ms));
    let wait = Duration::from_millis(wait_ms);
    let request = ReceiveRequest { queue, max, max_bytes: max_bytes as usize, wait, lease_ms, tag };
    let received = receive(&app, request).await?;
    let mut response = Response::new(Body::from(messages_json(&received)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if received.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn receive(app: &App, request: ReceiveRequest) -> Result<ReceivedMessages, Problem> {
    let waits = !request.wait.is_zero();
    tokio::select! {
        biased;
        received = app.engine.queues()?.receive(request) => Ok(received?),
        () = app.drain.started(), if waits => Err(EngineError::ShuttingDown.into()),
    }
}

fn messages_json(received: &ReceivedMessages) -> Vec<u8> {
    let writer = RecordWriter::new(&received.topic.name, ValueEncoding::Auto);
    let mut body = b"{\"messages\":[".to_vec();
    for (i, message) in received.messages.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.push(b'{');
        write_message(&mut body, message, &writer);
    }
    body.extend_from_slice(b"]}");
    body
}

/// Writes a message's fields and the brace that closes it.
pub(super) fn write_message(out: &mut Vec<u8>, message: &crate::engine::QueueMessage, writer: &RecordWriter) {
    let (lease, attempt, until) = (&message.lease, message.attempt, message.leased_until_ms);
    // A token is base64url: it needs no escapes.
    out.extend_from_slice(
        format!(r#""lease":"{lease}","attempt":{attempt},"leased_until_ms":{until},"record":"#).as_bytes(),
    );
    writer.write(out, message.partition, &message.record);
    out.push(b'}');
}

impl SettleMessages {
    /// Every lease with what is to become of it.
    pub(super) fn check(self) -> Result<Vec<(String, Settlement)>, Problem> {
        let count = self.ack.len() + self.nack.len() + self.reject.len() + self.extend.len();
        if count == 0 {
            return Err(Problem::invalid_request("name at least one lease in ack, nack, reject or extend"));
        }
        if count > MAX_SETTLED {
            return Err(Problem::invalid_request(format!(
                "a settlement has at most {MAX_SETTLED} leases, not {count}"
            )));
        }
        let reason = |given: Option<String>, default: &str| match given {
            None => Ok(default.to_owned()),
            Some(text) if text.len() <= MAX_REASON => Ok(text),
            Some(_) => Err(Problem::invalid_request(format!("a reason has at most {MAX_REASON} bytes"))),
        };
        let mut all: Vec<_> = self.ack.into_iter().map(|lease| (lease, Settlement::Ack)).collect();
        for NackLease { lease, delay_ms, reason: why } in self.nack {
            if delay_ms.is_some_and(|ms| !(0..=MAX_LEASE_MS).contains(&ms)) {
                return Err(Problem::invalid_request(format!("delay_ms is a whole number from 0 to {MAX_LEASE_MS}")));
            }
            all.push((lease, Settlement::Nack { delay_ms, reason: reason(why, "not acknowledged")? }));
        }
        for RejectLease { lease, reason: why } in self.reject {
            all.push((lease, Settlement::Reject { reason: reason(why, "rejected")? }));
        }
        for ExtendLease { lease, lease_ms } in self.extend {
            let lease_ms = within("lease_ms", Some(lease_ms), 1, MAX_LEASE_MS)?;
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
        "{count} of {} leases were not held any more: they ran out, or were settled in another way; the others are as asked",
        outcomes.len()
    );
    let effects = if count == outcomes.len() {
        crate::http::problem::Effects::None
    } else {
        crate::http::problem::Effects::Applied
    };
    Problem::new(StatusCode::CONFLICT, "lease-lost", "A lease was lost", detail)
        .with_side_effects(effects)
        .with_results(results.collect())
}

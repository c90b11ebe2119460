//! What queues are and what they are doing: list, describe.

use super::{
    queues::{QueueBackoff, QueueExhausted, QueueOrder},
    read_parameters::to_rfc3339,
};
use crate::{
    engine::{HolderState, OnExhausted, QueueCounts, QueueDescription, QueueStart},
    http::{AppState, extract::QueuePath, problem::Problem},
};
use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

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
    /// Where it began: `earliest`, `latest`, or a time (RFC 3339).
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

impl QueueCountsJson {
    const fn of(counts: &QueueCounts) -> Self {
        let QueueCounts { ready, leased, delayed, blocked, parked, dead } = *counts;
        Self { ready, leased, delayed, blocked, parked, dead }
    }
}

impl Queue {
    pub(super) fn of(described: QueueDescription) -> Self {
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
                QueueStart::Timestamp(ms) => to_rfc3339(ms),
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

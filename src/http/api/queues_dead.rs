//! What queues gave up: list, redrive, discard.

use super::records::LogRecord;
use crate::{
    engine::{GivenUpFilter, GivenUpMessage},
    http::{
        AppState,
        extract::{JsonBody, Parameters, QueuePath, whole, whole_if_given, within},
        problem::Problem,
    },
    session::json::{RecordWriter, ValueEncoding},
    types::TopicName,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

const DEFAULT_PAGE: i64 = 100;
const LARGEST_PAGE: i64 = 1000;
/// Records that one request may name.
const MAX_NAMED: usize = 10_000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_dead_messages))
        .routes(routes!(redrive_dead_messages))
        .routes(routes!(discard_dead_messages))
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadParameters {
    /// The `next_page_token` of the page before.
    #[param(nullable = false, pattern = "^[0-9]{1,19}-[0-9]{1,19}$")]
    page_token: Option<String>,
    /// Messages of a page at most.
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<i64>,
}

/// A message that was given up.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `write_dead` writes it
pub struct DeadMessage {
    /// Its partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// Its offset.
    #[schema(minimum = 0)]
    offset: i64,
    /// A dead letter, or parked: then its key waits.
    #[schema(inline)]
    state: DeadState,
    /// Deliveries before it was given up.
    #[schema(minimum = 0)]
    attempts: u16,
    /// When, Unix time in milliseconds.
    given_up_ms: i64,
    /// Why, in its consumer's words.
    reason: String,
    /// The record; left out if it is gone.
    #[schema(nullable = false)]
    record: Option<LogRecord>,
    /// Retention or compaction removed the record; left out otherwise.
    #[schema(schema_with = only_gone, required = false)]
    gone: bool,
}

fn only_gone() -> RefOr<Schema> {
    let text = "Retention or compaction removed the record; left out otherwise.";
    ObjectBuilder::new().schema_type(Type::Boolean).enum_values(Some([true])).description(Some(text)).into()
}

/// What a message that was given up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeadState {
    /// A dead letter.
    Dead,
    /// Its key waits.
    Parked,
}

/// A page of messages that were given up.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; the handler writes it
pub struct DeadMessages {
    /// In the order of partitions and offsets.
    messages: Vec<DeadMessage>,
    /// Give this as `page_token` for the next page; left out on the last.
    #[schema(nullable = false)]
    next_page_token: Option<String>,
}

/// Which messages: those that fit all that is said. All of them take `{"all":true}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadFilter {
    /// Every one.
    #[serde(default)]
    #[schema(required = false, default = false)]
    all: bool,
    /// Of this partition.
    #[schema(nullable = false, minimum = 0)]
    #[serde(default, deserialize_with = "whole_if_given")]
    partition: Option<i32>,
    /// These.
    #[serde(default)]
    #[schema(nullable = false, min_items = 1, max_items = 10000)]
    messages: Option<Vec<DeadPlace>>,
    /// Dead letters, or parked ones.
    #[schema(nullable = false, inline)]
    state: Option<DeadState>,
    /// With exactly this reason.
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// Where a message lies.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadPlace {
    /// Its partition.
    #[schema(minimum = 0)]
    #[serde(deserialize_with = "whole")]
    partition: i32,
    /// Its offset.
    #[schema(minimum = 0)]
    #[serde(deserialize_with = "whole")]
    offset: i64,
}

/// How many it were.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadEnded {
    /// How many.
    #[schema(minimum = 0)]
    count: usize,
}

impl DeadFilter {
    fn check(self) -> Result<GivenUpFilter, Problem> {
        let Self { all, partition, messages, state, reason } = self;
        let says = partition.is_some() || messages.is_some() || state.is_some() || reason.is_some();
        if all == says {
            return Err(Problem::invalid_request(
                "say which messages by partition, messages, state or reason, or send {\"all\":true} for every one",
            ));
        }
        if messages.as_ref().is_some_and(|named| named.is_empty() || named.len() > MAX_NAMED) {
            return Err(Problem::invalid_request(format!(
                "messages names 1 to {MAX_NAMED}, each by partition and offset"
            )));
        }
        let negative = |place: &DeadPlace| place.partition < 0 || place.offset < 0;
        if partition.is_some_and(|p| p < 0) || messages.iter().flatten().any(negative) {
            return Err(Problem::invalid_request("partition and offset are whole numbers, 0 or more"));
        }
        Ok(GivenUpFilter {
            partition,
            records: messages.map(|named| named.iter().map(|place| (place.partition, place.offset)).collect()),
            parked: state.map(|state| state == DeadState::Parked),
            reason,
        })
    }
}

/// List dead letters and parked messages
///
/// They lie where they were in the topic: listed with their reason and attempts, and the record while it is there.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/dead", tag = "queues", operation_id = "list_dead_messages",
    params(
        ("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        DeadParameters,
    ),
    responses((status = 200, description = "A page", body = DeadMessages)),
)]
pub async fn list_dead_messages(
    State(app): State<AppState>,
    QueuePath(queue): QueuePath,
    Parameters(parameters): Parameters<DeadParameters>,
) -> Result<Response, Problem> {
    let size = within("page_size", parameters.page_size, DEFAULT_PAGE, 1..=LARGEST_PAGE)? as usize;
    let after = parameters.page_token.as_deref().map(parse_token).transpose()?;
    let queues = app.engine.queues()?;
    let topic = queues.describe_queue(&queue).await?.definition.topic.clone();
    let mut messages = queues.given_up(&queue, after, size + 1).await?;
    let more = messages.len() > size;
    messages.truncate(size);
    let mut response = Response::new(Body::from(dead_json(&topic, &messages, more)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn parse_token(token: &str) -> Result<(i32, i64), Problem> {
    // Digits only, and never out of range: what is larger than any place is after all of them.
    let number = |text: &str, most: i64| {
        let is_number = !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<i64>().unwrap_or(i64::MAX).min(most))
    };
    let parse = || {
        let (partition, offset) = token.split_once('-')?;
        Some((number(partition, i64::from(i32::MAX))? as i32, number(offset, i64::MAX)?))
    };
    let refuse = || Problem::invalid_request("page_token is no token of an earlier page; leave it out to start again");
    parse().ok_or_else(refuse)
}

fn dead_json(topic: &TopicName, messages: &[GivenUpMessage], more: bool) -> Vec<u8> {
    let writer = RecordWriter::new(topic, ValueEncoding::Auto);
    let mut body = b"{\"messages\":[".to_vec();
    for (i, message) in messages.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        write_dead(&mut body, message, &writer);
    }
    body.push(b']');
    if let Some(last) = messages.last().filter(|_| more) {
        body.extend_from_slice(format!(r#","next_page_token":"{}-{}""#, last.partition, last.offset).as_bytes());
    }
    body.push(b'}');
    body
}

fn write_dead(out: &mut Vec<u8>, message: &GivenUpMessage, writer: &RecordWriter) {
    let GivenUpMessage { partition, offset, parked, attempts, at_ms, reason, record } = message;
    let state = if *parked { "parked" } else { "dead" };
    let reason = serde_json::Value::from(reason.as_str());
    let head = format!(
        r#"{{"partition":{partition},"offset":{offset},"state":"{state}","attempts":{attempts},"given_up_ms":{at_ms},"reason":{reason}"#
    );
    out.extend_from_slice(head.as_bytes());
    match record {
        Some(record) => {
            out.extend_from_slice(b",\"record\":");
            writer.write(out, *partition, record);
        }
        None => out.extend_from_slice(b",\"gone\":true"),
    }
    out.push(b'}');
}

/// Redrive messages that were given up
///
/// They are delivered again from their own place, with a new count of deliveries; they may come after later messages.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/redrive", tag = "queues", operation_id = "redrive_dead_messages",
    request_body = DeadFilter,
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "They are ready", body = DeadEnded)),
)]
pub async fn redrive_dead_messages(
    State(app): State<AppState>,
    QueuePath(queue): QueuePath,
    JsonBody(filter): JsonBody<DeadFilter>,
) -> Result<Json<DeadEnded>, Problem> {
    let count = app.engine.queues()?.end_given_up(&queue, filter.check()?, true).await?;
    Ok(Json(DeadEnded { count }))
}

/// Discard messages that were given up
///
/// They are settled for good; their records stay in the topic.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/dead/discard", tag = "queues", operation_id = "discard_dead_messages",
    request_body = DeadFilter,
    params(("queue" = String, Path, description = "The queue's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "They are gone from the queue", body = DeadEnded)),
)]
pub async fn discard_dead_messages(
    State(app): State<AppState>,
    QueuePath(queue): QueuePath,
    JsonBody(filter): JsonBody<DeadFilter>,
) -> Result<Json<DeadEnded>, Problem> {
    let count = app.engine.queues()?.end_given_up(&queue, filter.check()?, false).await?;
    Ok(Json(DeadEnded { count }))
}

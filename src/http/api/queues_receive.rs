//! Receiving from queues.

use super::{
    produce::{IdempotencyKey, REPLAYED},
    queues::MAX_LEASE_MS,
    records::LogRecord,
};
use crate::{
    engine::{EngineError, ReceiveRequest, ReceivedMessages},
    http::{
        AppState,
        extract::{JsonBody, QueuePath, whole_if_given, within},
        problem::Problem,
        state::App,
    },
    session::json::{RecordWriter, ValueEncoding},
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde::Deserialize;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

const DEFAULT_MESSAGES: i64 = 10;
const MAX_MESSAGES: i64 = 1000;
pub(super) const DEFAULT_BYTES: usize = 4 << 20;
const MAX_BYTES: i64 = 16 << 20;
const MAX_WAIT_MS: i64 = 60_000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(receive_messages))
}

/// What to receive.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiveMessages {
    /// Messages at most.
    #[schema(nullable = false, minimum = 1, maximum = 1000, default = 10)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max: Option<i64>,
    /// Bytes of keys and values at most; one message comes even if it is larger.
    #[schema(nullable = false, minimum = 1, maximum = 16777216, default = 4194304)]
    #[serde(default, deserialize_with = "whole_if_given")]
    max_bytes: Option<i64>,
    /// How long to wait for the first message, in milliseconds.
    #[schema(nullable = false, minimum = 0, maximum = 60000, default = 0)]
    #[serde(default, deserialize_with = "whole_if_given")]
    wait_ms: Option<i64>,
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
    let max = within("max", wanted.max, DEFAULT_MESSAGES, 1..=MAX_MESSAGES)? as usize;
    let max_bytes = within("max_bytes", wanted.max_bytes, DEFAULT_BYTES as i64, 1..=MAX_BYTES)? as u64;
    let lease_ms = wanted.lease_ms.map(|ms| within("lease_ms", Some(ms), ms, 1..=MAX_LEASE_MS)).transpose()?;
    let wait_ms = within("wait_ms", wanted.wait_ms, 0, 0..=MAX_WAIT_MS)? as u64;
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

//! The bare handler's side of queues and groups: the answers of a server that keeps nothing, made anew for each request.
//!
//! A receive that waits gets what is published next, one receiver each, as a queue would give it.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::oneshot;

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];
/// Receivers that may wait.
const WAITING: usize = 20_000;
/// A receive that waits so long wants what is published next.
const LONG_WAIT_MS: u64 = 1000;
/// As long as what the server puts around a value.
const BEFORE: &[u8] = br#"{"lease":"AaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA","attempt":1,"leased_until_ms":1700000000000,"record":{"topic":"bench","partition":0,"offset":1000000,"timestamp_ms":1700000000000,"key":"key-1234","value":"#;
const AFTER: &[u8] = b"}}";

/// Receivers that wait for something to be published.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<VecDeque<oneshot::Sender<Bytes>>>>);

impl Waiting {
    /// Gives a value to the one that has waited longest.
    pub(super) fn publish(&self, value: &Bytes) {
        loop {
            let Some(first) = self.0.lock().pop_front() else { return };
            // One that has gone does not take it.
            if first.send(value.clone()).is_ok() {
                return;
            }
        }
    }

    async fn next(&self) -> Option<Bytes> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.0.lock();
            if waiting.len() >= WAITING {
                return None;
            }
            waiting.push_back(sender);
        }
        receiver.await.ok()
    }
}

/// The routes.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(waiting: Waiting) -> Router<S> {
    Router::new()
        .route("/v1/queues/{queue}/receive", post(receive))
        .route("/v1/queues/{queue}/settle", post(settle))
        .route("/v1/groups/{group}/members/{member}/commit", post(commit))
        .with_state(waiting)
}

#[derive(Deserialize)]
struct Wanted {
    max: usize,
    wait_ms: u64,
}

/// As many messages as are wanted; the queue's name ends with the size of their values.
async fn receive(State(waiting): State<Waiting>, Path(queue): Path<String>, body: Bytes) -> Response {
    let Ok(Wanted { max, wait_ms }) = serde_json::from_slice(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let size = queue.rsplit('-').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let (value, count) = match wait_ms >= LONG_WAIT_MS {
        true => match waiting.next().await {
            Some(value) => (value, 1),
            None => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        },
        false => (Bytes::from(super::produce::value(size.min(16 << 20))), max.min(1000)),
    };
    let mut answer = Vec::with_capacity(count * (BEFORE.len() + value.len() + 3) + 32);
    answer.extend_from_slice(b"{\"messages\":[");
    for n in 0..count {
        if n > 0 {
            answer.push(b',');
        }
        [BEFORE, &value, AFTER].iter().for_each(|part| answer.extend_from_slice(part));
    }
    answer.extend_from_slice(b"]}");
    (JSON, answer).into_response()
}

#[derive(Deserialize)]
struct Settling<'a> {
    #[serde(borrow)]
    ack: Vec<&'a str>,
}

async fn settle(body: Bytes) -> Response {
    let Ok(Settling { ack }) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let results = vec![r#"{"status":"settled"}"#; std::hint::black_box(ack).len()];
    (JSON, format!("{{\"results\":[{}]}}", results.join(","))).into_response()
}

#[derive(Deserialize)]
struct Committing<'a> {
    #[serde(borrow)]
    offsets: &'a RawValue,
}

async fn commit(body: Bytes) -> StatusCode {
    match serde_json::from_slice::<Committing>(&body) {
        Ok(parsed) => {
            std::hint::black_box(parsed.offsets);
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

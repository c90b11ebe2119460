//! Server-sent events: a subscription as an answer's body.
//!
//! **Invariant**: a record is a plain message event, everything else a named one, so that `onmessage` gets records and
//! nothing else. Every event that moves the reader carries its cursor as `id`. The body is made only when the connection
//! takes it, so a reader that stops holds a cursor and at most one chunk.

use super::{AppState, api::records::write_gap, drain::Drain, long_answer, problem::Problem, trace};
use crate::{
    session::{Budget, Ended, SessionEvent, Subscription, json::write_string},
    telemetry::metrics,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use std::{collections::VecDeque, convert::Infallible, pin::Pin, time::Duration};
use tokio::time::Sleep;

/// A silent stream says at least so often that it lives, and where it is.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// What a client sends back when it reconnects.
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The shortest wait before a client reconnects; up to twice more is added by chance, so that they do not come at once.
const RETRY_MS: u64 = 1000;

/// The cursor of the last event that a reconnecting client got.
#[must_use]
pub fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty())
}

/// When to reconnect, in milliseconds.
fn retry_ms(app: &AppState) -> u64 {
    RETRY_MS + app.sys.rng.next_u64() % (2 * RETRY_MS)
}

fn answer(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.append(header::VARY, HeaderValue::from_static("last-event-id"));
    response
}

/// EventSource gives up for good on any status but 200, so what will pass is told in the stream.
#[must_use]
pub fn retryable_problem(app: &AppState, problem: &Problem) -> Response {
    let wait = problem.body().retry_after_ms.unwrap_or(0).max(retry_ms(app));
    let mut text = format!("retry: {wait}\n\n").into_bytes();
    push_event(&mut text, "problem", None, problem.to_json().as_bytes());
    answer(Body::from(text))
}

/// One named event.
fn push_event(out: &mut Vec<u8>, name: &str, cursor: Option<&str>, data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    if let Some(cursor) = cursor {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(cursor.as_bytes());
    }
    out.extend_from_slice(b"\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

struct State {
    subscription: Subscription,
    /// Ready to be written.
    queue: VecDeque<Bytes>,
    over: bool,
    drain: Drain,
    drained: BoxFuture<'static, ()>,
    heartbeat: Pin<Box<Sleep>>,
    /// Something was written since the last heartbeat.
    busy: bool,
    trace_id: Option<trace::TraceId>,
}

/// The subscription as a stream of events.
#[must_use]
pub fn stream(app: &AppState, subscription: Subscription) -> Response {
    let drain = app.drain.clone();
    let opening = format!("retry: {}\n\n", retry_ms(app));
    let state = State {
        subscription,
        queue: VecDeque::from([Bytes::from(opening)]),
        over: false,
        drained: Box::pin({
            let drain = drain.clone();
            async move { drain.started().await }
        }),
        drain,
        heartbeat: Box::pin(tokio::time::sleep(HEARTBEAT)),
        busy: false,
        trace_id: trace::current(),
    };
    let chunks = stream::unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        metrics().stream_bytes.inc_by(chunk.len() as u64);
        Some((chunk, state))
    });
    let mut answer = answer(Body::from_stream(chunks.map(Ok::<_, Infallible>)));
    long_answer::mark(&mut answer);
    answer
}

impl State {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.queue.pop_front() {
                self.busy = true;
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            if self.drain.is_started() {
                self.go_away();
                continue;
            }
            // Records first: what seldom happens is asked for only by a reader that has nothing to send.
            tokio::select! {
                biased;
                event = self.subscription.next(Budget::UNLIMITED) => match event {
                    Ok(event) => self.write(event),
                    Err(error) => self.fail(error.into()),
                },
                () = &mut self.drained => self.go_away(),
                () = &mut self.heartbeat => self.beat(),
            }
        }
    }

    fn push(&mut self, name: &str, cursor: Option<&str>, data: &[u8]) {
        let mut text = Vec::with_capacity(data.len() + 64);
        push_event(&mut text, name, cursor, data);
        self.queue.push_back(text.into());
        metrics().sse_events.inc();
    }

    fn write(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Records(chunks) => {
                for frames in chunks {
                    metrics().sse_events.inc_by(frames.count() as u64);
                    self.queue.push_back(frames.bytes);
                }
            }
            SessionEvent::Gap(gap, cursor) => {
                let mut data = Vec::new();
                write_gap(&mut data, &gap);
                self.push("gap", Some(&cursor), &data);
            }
            SessionEvent::CaughtUp(cursor) => self.push("caught-up", Some(&cursor), &cursor_data(&cursor)),
            SessionEvent::SnapshotEnd(cursor) => self.push("snapshot-end", Some(&cursor), &cursor_data(&cursor)),
            SessionEvent::End(why, cursor) => {
                let data = format!(r#"{{"reason":"{}"}}"#, why.as_str());
                // A reader that was sent away resumes; one that is through gets 204 when it comes again.
                let name = if why == Ended::TooSlow { "goaway" } else { "end" };
                self.push(name, Some(&cursor), data.as_bytes());
                self.over = true;
            }
        }
    }

    fn go_away(&mut self) {
        let cursor = self.subscription.cursor();
        self.push("goaway", cursor.as_deref(), br#"{"reason":"shutting-down"}"#);
        self.over = true;
    }

    fn fail(&mut self, problem: Problem) {
        let problem = match self.trace_id {
            Some(id) => problem.with_trace_id(id),
            None => problem,
        };
        self.push("problem", None, problem.to_json().as_bytes());
        self.over = true;
    }

    fn beat(&mut self) {
        self.heartbeat.as_mut().reset(tokio::time::Instant::now() + HEARTBEAT);
        if std::mem::take(&mut self.busy) {
            return;
        }
        let text = self.subscription.cursor().map_or(":\n\n".to_owned(), |cursor| format!("id: {cursor}\n\n"));
        self.queue.push_back(text.into());
        // Writing it does not make the stream busy.
    }
}

/// `{"cursor":"…"}`
#[must_use]
pub fn cursor_data(cursor: &str) -> Vec<u8> {
    let mut data = b"{\"cursor\":".to_vec();
    write_string(&mut data, cursor);
    data.push(b'}');
    data
}

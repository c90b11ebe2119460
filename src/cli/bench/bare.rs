//! The bare handler: the same HTTP stack as the server's, and nothing behind it. What it reaches is the limit of this
//! machine, this stack and this load generator together.
//!
//! It takes the same requests at the same paths. It keeps nothing: a stream gives what is published while it is open, and
//! what is read again is made up on the way. What is shared by all subscribers is made once, socket writes are
//! coalesced: as fast as it could be done.

use super::bare_work::{self, Waiting};
use crate::cli::CliError;
use crate::sys::{Listener, Sys};
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use hyper::upgrade::OnUpgrade;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};
use tokio::{io::AsyncWriteExt as _, sync::broadcast};

/// As the server's own: a deadline for headers costs a timer per request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Publications that a subscriber may be behind.
const BACKLOG: usize = 4096;
/// What goes out in one write, about.
const CHUNK_BYTES: usize = 64 << 10;
/// As long as what the server puts around a value.
const BEFORE: &[u8] = br#"{"type":"record","cursor":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","record":{"topic":"bench","partition":0,"offset":1000000,"timestamp_ms":1700000000000,"key":"key-1234","value":"#;
const AFTER: &[u8] = b"}}";

/// Answers requests with fixed bytes; the bench starts it for itself
#[derive(Debug, clap::Args)]
pub struct BareArgs {
    /// As the server's
    #[arg(long)]
    ready_file: PathBuf,
}

/// What the handlers share.
#[derive(Clone)]
struct Bare {
    fanout: broadcast::Sender<Published>,
    waiting: Waiting,
}

/// What was published at once, in the form of each transport.
#[derive(Clone)]
struct Published {
    events: Bytes,
    frames: Bytes,
}

/// Serves until it is killed.
///
/// # Errors
/// No port, or no ready-file.
pub async fn run(args: BareArgs) -> Result<(), CliError> {
    let sys = Sys::real();
    let failed = |e: std::io::Error| CliError::failed(format!("the bare handler cannot serve: {e}"));
    let listener = sys.network.bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let ready = serde_json::json!({"http": address.to_string(), "pid": std::process::id()}).to_string();
    sys.disk.write_atomic(&args.ready_file, ready.as_bytes()).map_err(failed)?;
    serve(listener).await;
    Ok(())
}

async fn serve(listener: Box<dyn Listener>) {
    let waiting = Waiting::default();
    let state = Bare { fanout: broadcast::channel(BACKLOG).0, waiting: waiting.clone() };
    let router = Router::new()
        .route("/readyz", get(StatusCode::OK))
        .route("/v1/topics", post(StatusCode::CREATED))
        .route("/v1/topics/{topic}/events", post(one))
        .route("/v1/topics/{topic}/records", post(batch))
        .route("/v1/topics/{topic}/ingest", post(ingest))
        .route("/v1/topics/{topic}/stream", get(subscribe))
        .route("/repeat/{size}/{times}", get(repeat))
        .route("/page/{size}/{records}", get(page))
        .merge(bare_work::routes(waiting))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state);
    let service = TowerToHyperService::new(router);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    while let Ok((socket, _)) = listener.accept().await {
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move {
            let _ = connection.await; // how a client goes is its own affair
        });
    }
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

async fn one(State(bare): State<Bare>, body: Bytes) -> impl IntoResponse {
    bare.publish(&[&body]);
    bare.waiting.publish(&body);
    (StatusCode::CREATED, JSON, r#"{"topic":"bench","partition":0,"offset":1000000,"timestamp_ms":1700000000000}"#)
}

/// A batch as any server has to parse it.
#[derive(Deserialize)]
struct Records<'a> {
    #[serde(borrow)]
    records: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
}

async fn batch(State(bare): State<Bare>, body: Bytes) -> Response {
    let Ok(parsed) = serde_json::from_slice::<Records>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let values: Vec<&[u8]> = parsed.records.iter().map(|line| line.value.get().as_bytes()).collect();
    bare.publish(&values);
    let mut answer = String::from(r#"{"results":["#);
    for n in 0..values.len() {
        answer.push_str(if n > 0 { "," } else { "" });
        answer.push_str(r#"{"partition":0,"offset":1000000,"timestamp_ms":1700000000000}"#);
    }
    answer.push_str("]}");
    (StatusCode::OK, JSON, answer).into_response()
}

async fn ingest(body: Bytes) -> Response {
    let mut stored = 0;
    for line in body.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(parsed) => stored += usize::from(!std::hint::black_box(parsed).value.get().is_empty()),
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        }
    }
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/x-ndjson")], format!("{{\"end\":{{\"stored\":{stored}}}}}\n"))
        .into_response()
}

/// A server's text frame (RFC 6455, 5.2).
fn put_frame(frames: &mut BytesMut, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    frames.put_u8(0x81);
    match length {
        0..126 => frames.put_u8(length as u8),
        126..65_536 => {
            frames.put_u8(126);
            frames.put_u16(length as u16);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(length as u64);
        }
    }
    parts.iter().for_each(|part| frames.put_slice(part));
}

fn put_event(events: &mut BytesMut, value: &[u8]) {
    [b"data: ", BEFORE, value, AFTER, b"\n\n"].iter().for_each(|part| events.put_slice(part));
}

impl Bare {
    fn publish(&self, values: &[&[u8]]) {
        if self.fanout.receiver_count() == 0 {
            std::hint::black_box(values);
            return;
        }
        let (mut events, mut frames) = (BytesMut::new(), BytesMut::new());
        for value in values {
            put_event(&mut events, value);
            put_frame(&mut frames, &[BEFORE, value, AFTER]);
        }
        let _ = self.fanout.send(Published { events: events.freeze(), frames: frames.freeze() }); // all may have gone
    }
}

/// What waits goes out in one write.
async fn coalesced(receiver: &mut broadcast::Receiver<Published>, form: impl Fn(Published) -> Bytes) -> Option<Bytes> {
    let first = form(receiver.recv().await.ok()?);
    let Ok(next) = receiver.try_recv() else { return Some(first) };
    let mut all = BytesMut::from([first, form(next)].concat().as_slice());
    while all.len() < CHUNK_BYTES
        && let Ok(next) = receiver.try_recv()
    {
        all.extend_from_slice(&form(next));
    }
    Some(all.freeze())
}

fn event_stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// The other half of a handshake that nobody checks.
fn switch(request: &mut Request) -> Option<(OnUpgrade, Response)> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Some((upgrade, response))
}

async fn subscribe(State(bare): State<Bare>, mut request: Request) -> Response {
    let mut receiver = bare.fanout.subscribe();
    if request.headers().contains_key(header::UPGRADE)
        && let Some((upgrade, response)) = switch(&mut request)
    {
        tokio::spawn(async move {
            let Ok(socket) = upgrade.await else { return };
            let mut socket = TokioIo::new(socket);
            while let Some(frames) = coalesced(&mut receiver, |p| p.frames).await {
                if socket.write_all(&frames).await.is_err() {
                    break;
                }
            }
        });
        return response;
    }
    let events = stream::unfold(receiver, |mut receiver| async move {
        let events = coalesced(&mut receiver, |p| p.events).await?;
        Some((Ok::<_, Infallible>(events), receiver))
    });
    event_stream(Body::from_stream(events))
}

/// A stream of so many records with values of a size, in chunks of about 64 KiB.
async fn repeat(Path((size, times)): Path<(usize, usize)>, mut request: Request) -> Response {
    let value = vec![b'1'; size.clamp(1, 16 << 20)];
    let frames = request.headers().contains_key(header::UPGRADE);
    let mut one = BytesMut::new();
    match frames {
        true => put_frame(&mut one, &[BEFORE, &value, AFTER]),
        false => put_event(&mut one, &value),
    }
    let per_chunk = (CHUNK_BYTES / one.len()).max(1);
    let (chunk, length) = (Bytes::from(one.repeat(per_chunk)), one.len());
    let pieces = move |left: usize| {
        let n = left.min(per_chunk);
        (n > 0).then(|| (chunk.slice(..n * length), left - n))
    };
    if frames && let Some((upgrade, response)) = switch(&mut request) {
        tokio::spawn(async move {
            let Ok(socket) = upgrade.await else { return };
            let (mut socket, mut left) = (TokioIo::new(socket), times);
            while let Some((piece, rest)) = pieces(left) {
                left = rest;
                if socket.write_all(&piece).await.is_err() {
                    return;
                }
            }
            let _ = socket.shutdown().await; // the reader may have gone first
        });
        return response;
    }
    event_stream(Body::from_stream(stream::unfold((times, pieces), |(left, pieces)| async move {
        let (piece, rest) = pieces(left)?;
        Some((Ok::<_, Infallible>(piece), (rest, pieces)))
    })))
}

/// A page of so many records with values of a size, made anew as a server has to.
async fn page(Path((size, records)): Path<(usize, usize)>) -> impl IntoResponse {
    let value = vec![b'1'; size.clamp(1, 16 << 20)];
    let mut body = Vec::with_capacity(records.min(100_000) * (BEFORE.len() + size + 3) + 100);
    body.extend_from_slice(b"{\"records\":[");
    for n in 0..records.min(100_000) {
        if n > 0 {
            body.push(b',');
        }
        [BEFORE, &value, AFTER].iter().for_each(|part| body.extend_from_slice(part));
    }
    body.extend_from_slice(br#"],"next_cursor":"AAAA","caught_up":false}"#);
    (JSON, body)
}

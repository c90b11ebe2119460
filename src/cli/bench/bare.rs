//! The bare handler: the same HTTP stack as the server's, and nothing behind it. What it reaches is the limit of this
//! machine, this stack and this load generator together.

use crate::cli::CliError;
use crate::sys::{Listener, Sys};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::sync::broadcast;

/// As the server's own: a deadline for headers costs a timer per request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Messages that a subscriber of the bare fan-out may be behind.
const FANOUT_BACKLOG: usize = 4096;

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
    fanout: broadcast::Sender<Bytes>,
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
    let state = Bare { fanout: broadcast::channel(FANOUT_BACKLOG).0 };
    let router = Router::new()
        .route("/v1/topics/{topic}/events", post(one))
        .route("/v1/topics/{topic}/records", post(batch))
        .route("/repeat/{event}/{times}", get(repeat))
        .route("/fanout", get(subscribe).post(publish))
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

async fn one(body: Bytes) -> impl IntoResponse {
    std::hint::black_box(body);
    (StatusCode::CREATED, JSON, r#"{"topic":"bench","partition":0,"offset":1000000,"timestamp_ms":1700000000000}"#)
}

async fn batch(body: Bytes) -> impl IntoResponse {
    std::hint::black_box(body);
    (StatusCode::OK, JSON, r#"{"results":[{"partition":0,"offset":1000000,"timestamp_ms":1700000000000}]}"#)
}

/// A stream of `times` events of so many bytes, in chunks of about 64 KiB.
async fn repeat(axum::extract::Path((event, times)): axum::extract::Path<(usize, usize)>) -> Response {
    let one = [b"data: ".as_slice(), &vec![b'x'; event.clamp(16, 1 << 20) - 8], b"\n\n"].concat();
    let per_chunk = ((64 << 10) / one.len()).max(1);
    let chunk = Bytes::from(one.repeat(per_chunk));
    let length = one.len();
    let chunks = stream::unfold(times, move |left| {
        let n = left.min(per_chunk);
        let piece = chunk.slice(..n * length);
        async move { (n > 0).then_some((Ok::<_, std::convert::Infallible>(piece), left - n)) }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(chunks)).into_response()
}

async fn publish(State(bare): State<Bare>, body: Bytes) -> StatusCode {
    let _ = bare.fanout.send(body); // nobody may listen yet
    StatusCode::NO_CONTENT
}

async fn subscribe(State(bare): State<Bare>) -> Response {
    let events = stream::unfold(bare.fanout.subscribe(), |mut receiver| async move {
        let mut event = receiver.recv().await.ok()?;
        // What waits goes out in one write, as a server would do it.
        if let Ok(next) = receiver.try_recv() {
            let mut all = [event, next].concat();
            while all.len() < 64 << 10 {
                match receiver.try_recv() {
                    Ok(next) => all.extend_from_slice(&next),
                    Err(_) => break,
                }
            }
            event = all.into();
        }
        Some((Ok::<_, std::convert::Infallible>(event), receiver))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

//! Our own accept loop on hyper: axum's `serve` sets no deadline for headers, no bound on connections, and hyper's
//! deadlines are inert without a timer.
//!
//! **Invariant**: a connection costs at most its buffers; one that does not finish a request's headers in time is closed.
//! An error of `accept` never ends the loop. A drain lets requests in flight finish, and ends within the drain timeout.
//!
//! Caller: the server. Threading: one task for each connection.

use super::{
    AppState,
    long_answer::{self, HandOff},
    router,
};
use crate::{
    sys::{Listener, Socket},
    telemetry::{DoorLabels, metrics},
};
use axum::{body::Body, response::Response};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tower::Service as _;

pub(super) const DOOR: DoorLabels = DoorLabels { door: "http" };
/// The first and the longest wait after `accept` failed, which it does when descriptors run out.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// How often an HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const HTTP2_PING: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(20)];
/// What hyper may buffer of a request's head. It is twice the limit on headers, so that a request somewhat over that
/// gets a problem that says so, and only one far over it a bare 431.
const HEAD_BUFFER_FACTOR: usize = 2;
/// Once we have closed our end: how long the peer has to close its own, how long it may be silent, and how much it may
/// still send, so that the answer that refuses a body of this size arrives.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;
/// Bytes that one HTTP/2 stream may send ahead.
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that one HTTP/2 connection may send ahead.
const HTTP2_CONNECTION_WINDOW: u32 = 1 << 20;

/// Serves until the drain starts, and then until what is in flight is done or `Limits::drain_timeout` is over.
pub async fn serve(listener: Box<dyn Listener>, state: AppState) {
    let door = router(state.clone());
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(state.limits().connections));
    let builder = builder(&state);
    let mut back_off = BACK_OFF[0];
    loop {
        let accepted = tokio::select! {
            biased;
            () = state.drain.started() => break,
            accepted = accept(&*listener, &connections) => accepted,
        };
        let (socket, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The connection that failed, or a lack of descriptors: others must be closed first.
                if !is_the_peers_fault(&error) {
                    metrics().connections_refused.get_or_create(&DOOR).inc();
                    tracing::warn!(%error, "accept failed; waiting");
                    tokio::time::sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF[1]);
                }
                continue;
            }
        };
        back_off = BACK_OFF[0];
        metrics().connections_accepted.get_or_create(&DOOR).inc();
        let hand_off = HandOff::default();
        let io = TokioIo::new(Wire::new(socket, &state, OpenConnection::new(permit), hand_off.clone()));
        let service = service(door.clone(), state.clone(), hand_off.clone());
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        tokio::spawn(until_handed_over(graceful.watch(connection), hand_off));
    }
    drop(listener);
    let done = async {
        graceful.shutdown().await;
        state.drain.released().await;
    };
    if tokio::time::timeout(state.limits().drain_timeout, done).await.is_err() {
        tracing::warn!("requests were still in flight when the drain timeout ended");
    }
}

/// A connection's service.
fn service(
    door: super::Door,
    state: AppState,
    hand_off: HandOff,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future = impl Future<Output = Result<Response, Infallible>> + Send + 'static,
> + Send
+ 'static {
    service_fn(move |request: Request<Incoming>| {
        let may_be_long = long_answer::may_be_long(&request);
        let answer = door.clone().call(request.map(Body::new));
        let (state, hand_off) = (state.clone(), hand_off.clone());
        async move {
            let answer = answer.await?;
            Ok(if may_be_long { hand_off.pass(answer, &state.drain).await } else { answer })
        }
    })
}

/// Serves a connection to its end, or until it has a long answer to give: then hyper's part of it is dropped here.
async fn until_handed_over<E: std::fmt::Display>(connection: impl Future<Output = Result<(), E>>, hand_off: HandOff) {
    let mut connection = std::pin::pin!(connection);
    let served = std::future::poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Pending if hand_off.is_full() => Poll::Ready(Ok(())),
        polled => polled,
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &dyn Listener,
    connections: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Socket>, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _peer) = listener.accept().await?;
    Ok((socket, permit))
}

fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn builder(state: &AppState) -> auto::Builder<TokioExecutor> {
    let limits = state.limits();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(limits.header_bytes * HEAD_BUFFER_FACTOR);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .keep_alive_interval(HTTP2_PING[0])
        .keep_alive_timeout(HTTP2_PING[1]);
    builder
}

/// Counts a connection while it lives, as a WebSocket too, and holds its place among all.
struct OpenConnection {
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics().connections.get_or_create(&DOOR).inc();
        Self { _permit: permit }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics().connections.get_or_create(&DOOR).dec();
    }
}

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection's bytes, with what hyper does not see to. At its beginning, a deadline on the bytes that tell HTTP/2 from
/// HTTP/1.1, for hyper's own begins only when it knows. At its end, a lingering close: a client that is refused while it
/// still sends would otherwise get a reset, which throws the answer away. A long answer goes on from its end.
pub(super) struct Wire {
    socket: Box<dyn Socket>,
    /// The deadline and how much of the preface came; `None` once it is known what the peer speaks.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
    /// Whether the peer has closed its end, or is gone.
    ended: bool,
    open: Option<OpenConnection>,
    hand_off: HandOff,
    state: AppState,
}

impl Wire {
    fn new(socket: Box<dyn Socket>, state: &AppState, open: OpenConnection, hand_off: HandOff) -> Self {
        let waiting = Some((Box::pin(tokio::time::sleep(state.limits().header_timeout)), 0));
        Self { socket, waiting, ended: false, open: Some(open), hand_off, state: state.clone() }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let open = self.open.take();
        let long = self.hand_off.take();
        if self.ended {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut socket = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
            let now_ms = self.state.sys.clock.now_ms();
            if let Some((answer, hold)) = long.map(|long| *long) {
                runtime.spawn(async move {
                    let written = long_answer::write(&mut socket, answer, now_ms).await;
                    drop(hold);
                    if written.is_ok() {
                        // In a box of its own: its space would stand in every long answer's task from the beginning.
                        let _ = tokio::time::timeout(LINGER, Box::pin(linger(socket))).await;
                    }
                    drop(open);
                });
                return;
            }
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, linger(socket)).await;
                drop(open);
            });
        }
    }
}

/// Closes our end, and throws away what comes until the peer closes its own, falls silent, or has sent too much.
async fn linger(mut socket: Box<dyn Socket>) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let mut space = [0; 8 << 10];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match tokio::time::timeout(LINGER_SILENCE, socket.read(&mut space)).await {
            Ok(Ok(n)) if n > 0 => left = left.saturating_sub(n),
            _ => return,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        let polled = Pin::new(&mut this.socket).poll_read(cx, buf);
        let came = &buf.filled()[before..];
        match &polled {
            Poll::Ready(Ok(())) => this.ended |= came.is_empty() && had_room,
            Poll::Ready(Err(_)) => this.ended = true,
            Poll::Pending => {
                let Some((deadline, _)) = &mut this.waiting else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        if let Some((_, seen)) = &mut this.waiting {
            let rest = &PREFACE[*seen..];
            let same = came.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if same < came.len() || same == rest.len() || came.is_empty() {
                this.waiting = None;
            } else {
                *seen += same;
            }
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;

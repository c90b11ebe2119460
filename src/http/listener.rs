//! Our own accept loop on hyper: axum's `serve` sets no deadline for headers, no bound on connections, and hyper's
//! deadlines are inert without a timer.
//!
//! **Invariant**: a connection costs at most its buffers; one that does not finish a request's headers in time is closed.
//! An error of `accept` never ends the loop. A drain lets requests in flight finish, and ends within the drain timeout.
//!
//! Caller: the server. Threading: one task for each connection.

use super::{AppState, router};
use crate::{
    sys::{Listener, Socket},
    telemetry::{DoorLabels, metrics},
};
use axum::body::Body;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Semaphore,
    time::{Instant, Sleep},
};
use tower::Service as _;

const DOOR: DoorLabels = DoorLabels { door: "http" };
/// The first and the longest wait after `accept` failed, which it does when descriptors run out.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];
/// How often an HTTP/2 peer is asked whether it is there, and how long it may take to say so.
const HTTP2_PING: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(20)];
/// What hyper may buffer of a request's head. It is twice the limit on headers, so that a request somewhat over that
/// gets a problem that says so, and only one far over it a bare 431.
const HEAD_BUFFER_FACTOR: usize = 2;
/// How long a peer may be silent once we have closed our end, and how much it may still send: an answer that refuses a
/// body of this size arrives.
const LINGER_SILENCE: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;
/// Bytes that one HTTP/2 stream may send ahead.
const HTTP2_STREAM_WINDOW: u32 = 256 << 10;
/// Bytes that one HTTP/2 connection may send ahead.
const HTTP2_CONNECTION_WINDOW: u32 = 1 << 20;

/// Serves until the drain starts, and then until what is in flight is done or `Limits::drain_timeout` is over.
pub async fn serve(listener: Box<dyn Listener>, state: AppState) {
    let router = router(state.clone());
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
        let io = TokioIo::new(Wire::new(socket, state.limits().header_timeout));
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| router.clone().call(request.map(Body::new)));
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            metrics().connections_accepted.get_or_create(&DOOR).inc();
            let open = OpenConnection::new();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop((open, permit));
        });
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

/// The next connection, once there is room for it.
async fn accept(
    listener: &dyn Listener,
    connections: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Socket>, tokio::sync::OwnedSemaphorePermit)> {
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
        .header_read_timeout(limits.header_timeout)
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

/// Counts a connection while it lives.
struct OpenConnection;

impl OpenConnection {
    fn new() -> Self {
        metrics().connections.get_or_create(&DOOR).inc();
        Self
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
/// still sends would otherwise get a reset, which throws the answer away.
struct Wire {
    socket: Box<dyn Socket>,
    /// The deadline and how much of the preface came; `None` once it is known what the peer speaks.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
    /// After our end was closed: until when, and how many bytes more, the peer's are read and thrown away.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Wire {
    fn new(socket: Box<dyn Socket>, deadline: Duration) -> Self {
        Self { socket, waiting: Some((Box::pin(tokio::time::sleep(deadline)), 0)), lingering: None }
    }

    /// Reads until the peer closes its end, falls silent, or has sent too much.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (silence, left) =
            self.lingering.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER_SILENCE)), LINGER_BYTES));
        let mut space = [MaybeUninit::uninit(); 8 << 10];
        loop {
            let mut discarded = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.socket).poll_read(cx, &mut discarded) {
                Poll::Ready(Ok(())) if !discarded.filled().is_empty() && *left > 0 => {
                    *left = left.saturating_sub(discarded.filled().len());
                    silence.as_mut().reset(Instant::now() + LINGER_SILENCE);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return silence.as_mut().poll(cx),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((deadline, seen)) = &mut this.waiting else { return Pin::new(&mut this.socket).poll_read(cx, buf) };
        let before = buf.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buf) {
            Poll::Pending => {
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                let came = &buf.filled()[before..];
                let rest = &PREFACE[*seen..];
                let same = came.iter().zip(rest).take_while(|(a, b)| a == b).count();
                if same < came.len() || same == rest.len() || came.is_empty() {
                    this.waiting = None;
                } else {
                    *seen += same;
                }
                Poll::Ready(result)
            }
        }
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
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
        }
        self.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests;

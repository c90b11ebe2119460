//! WebSocket: the handshake, one socket with bounded buffers, and a single subscription on it.
//!
//! Reading, control frames and closing are tungstenite's. Records come from the session as whole frames that all readers
//! share, and go past tungstenite's buffer straight to the socket, many in one vectored write.
//!
//! **Invariant**: shared frames are put on the socket only behind everything tungstenite has to write, and tungstenite
//! writes nothing before they are out: `RawFrames` keeps the order. A peer's message is at most [`MAX_MESSAGE`].

use super::{AppState, api::records::write_gap, listener::Wire, outgoing::Outgoing, problem::Problem, sse::HEARTBEAT};
use crate::{
    session::{Budget, Ended, SessionError, SessionEvent, Subscription, json::write_string},
    telemetry::{DirectionLabels, metrics},
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::OnUpgrade;
use hyper_util::{rt::TokioIo, server::conn::auto::upgrade};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// The largest message that a client may send.
pub const MAX_MESSAGE: usize = 1 << 20;
const READ_BUFFER: usize = 4 << 10;
/// The same where a client has little to say.
const SMALL_READ_BUFFER: usize = 512;
/// Events in a row after which what seldom happens is looked at first, once.
const EVENTS_IN_A_ROW: u32 = 16;
const WRITE_BUFFER: usize = 64 << 10;
/// A write that takes longer than this makes the reader give back what was fetched ahead.
const PARK_AFTER: Duration = Duration::from_millis(250);
/// A client that is silent for so long, our pings included, is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a client has for its side of the closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the server closes. 4000 to 4499: come back with your cursor; 4500 to 4999: final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Close {
    GoingAway = 4000,
    TooSlow = 4001,
    Retry = 4002,
    Complete = 4500,
    TopicDeleted = 4501,
    Refused = 4502,
    TooLarge = 4503,
    Protocol = 4504,
}

impl Close {
    const fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "the server is shutting down; come back with your cursor",
            Self::TooSlow => "too slow; come back with your cursor",
            Self::Retry => "a failure that will pass; come back with your cursor",
            Self::Complete => "the range was read to its end",
            Self::TopicDeleted => "the topic was deleted",
            Self::Refused => "refused; see the error frame",
            Self::TooLarge => "the message is too large",
            Self::Protocol => "not the protocol of this socket",
        }
    }

    /// What a problem closes with.
    #[must_use]
    pub fn of(problem: &Problem) -> Self {
        if problem.body().retryable { Self::Retry } else { Self::Refused }
    }
}

/// Whether the request asks for a WebSocket.
#[must_use]
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// A checked handshake (RFC 6455, 4.2).
pub struct Handshake {
    on_upgrade: OnUpgrade,
    accept: String,
    protocol: Option<&'static str>,
}

impl Handshake {
    /// Checks the request. With `protocol`, a client that names subprotocols must name this one.
    ///
    /// # Errors
    /// 400, or 426 for another version of the protocol.
    pub fn check(parts: &mut Parts, protocol: Option<&'static str>) -> Result<Self, Problem> {
        let has = |name: &header::HeaderName, token: &str| {
            let values = parts.headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
            values.flat_map(|v| v.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
        };
        let refuse = |detail: &'static str| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid-handshake", "The WebSocket handshake is not valid", detail)
        };
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(refuse("a WebSocket begins with GET over HTTP/1.1"));
        }
        if !is_upgrade(&parts.headers) || !has(&header::CONNECTION, "upgrade") {
            let detail = "this is a WebSocket: send 'connection: upgrade' and 'upgrade: websocket'";
            return Err(Problem::new(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade-required",
                "A WebSocket is needed",
                detail,
            ));
        }
        if !has(&header::SEC_WEBSOCKET_VERSION, "13") {
            return Err(refuse("'sec-websocket-version' must be 13"));
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.filter(|k| k.len() == 24).ok_or_else(|| refuse("'sec-websocket-key' is missing or not valid"))?;
        let accept = derive_accept_key(key.as_bytes());
        let protocol = match protocol {
            Some(name) if has(&header::SEC_WEBSOCKET_PROTOCOL, name) => Some(name),
            Some(_) if parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) => {
                return Err(refuse("of the subprotocols offered none is known here; /v1/ws speaks sluice.v1.json"));
            }
            _ => None,
        };
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        let on_upgrade = on_upgrade.ok_or_else(|| refuse("this connection can not become a WebSocket"))?;
        Ok(Self { on_upgrade, accept, protocol })
    }

    /// Answers 101 and runs `serve` on the socket, as a task of its own.
    pub fn accept<F: Future<Output = ()> + Send>(self, serve: impl FnOnce(Socket) -> F + Send + 'static) -> Response {
        let on_upgrade = self.on_upgrade;
        let read_buffer = if self.protocol.is_some() { READ_BUFFER } else { SMALL_READ_BUFFER };
        tokio::spawn(async move {
            let Ok(upgraded) = on_upgrade.await else { return };
            // Every connection is `listener`'s; without hyper's layers around it a write is one call.
            let Ok(parts) = upgrade::downcast::<TokioIo<Wire>>(upgraded) else { return };
            let mut config = WebSocketConfig::default();
            config.read_buffer_size = read_buffer;
            config.write_buffer_size = 0;
            config.max_write_buffer_size = WRITE_BUFFER + MAX_MESSAGE;
            config.max_message_size = Some(MAX_MESSAGE);
            config.max_frame_size = Some(MAX_MESSAGE);
            let upgrade::Parts { io, read_buf, .. } = parts;
            let raw = RawFrames { io: io.into_inner(), pending: Outgoing::default() };
            let early = read_buf.to_vec();
            // An empty one, too, holds the whole buffer that hyper read the request into.
            drop(read_buf);
            let inner = WebSocketStream::from_partially_read(raw, early, Role::Server, Some(config)).await;
            serve(Socket { inner }).await;
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        response
    }
}

/// A stream on which whole frames go out ahead of what is written after them.
struct RawFrames<T> {
    io: T,
    pending: Outgoing,
}

impl<T: AsyncWrite + Unpin> RawFrames<T> {
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pending.poll_write(&mut self.io, cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for RawFrames<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for RawFrames<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// An open WebSocket.
pub struct Socket {
    inner: WebSocketStream<RawFrames<Wire>>,
}

/// What comes from a client.
pub enum Incoming {
    /// A text message.
    Text(String),
    /// A ping or a pong: it lives.
    Alive,
    /// Something else that the protocol does not have.
    Unexpected,
    /// A message above [`MAX_MESSAGE`].
    TooLarge,
    /// It is gone.
    Gone,
}

impl Socket {
    /// The next message.
    pub async fn receive(&mut self) -> Incoming {
        match self.inner.next().await {
            Some(Ok(Message::Text(text))) => {
                metrics().websocket_frames.get_or_create(&DirectionLabels { direction: "in" }).inc();
                Incoming::Text(text.as_str().to_owned())
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::Alive,
            Some(Ok(Message::Binary(_) | Message::Frame(_))) => Incoming::Unexpected,
            Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. }))) => Incoming::TooLarge,
            Some(Ok(Message::Close(_)) | Err(_)) | None => Incoming::Gone,
        }
    }

    /// Sends whole frames. Waits as long as the client takes.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_frames(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        self.inner.flush().await?; // what tungstenite has begun goes first
        let raw = self.inner.get_mut();
        for frame in frames {
            metrics().stream_bytes.inc_by(frame.len() as u64);
            raw.pending.push(frame);
        }
        self.flush().await
    }

    /// Waits until everything is out.
    ///
    /// # Errors
    /// The socket's.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.inner.flush().await
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_text(&mut self, text: String) -> Result<(), Error> {
        metrics().websocket_frames.get_or_create(&DirectionLabels { direction: "out" }).inc();
        self.inner.send(Message::text(text)).await
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// The socket's.
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.inner.send(Message::Ping(Bytes::new())).await
    }

    /// Closes, and waits a little for the client's close.
    pub async fn close(mut self, why: Close) {
        let frame = CloseFrame { code: CloseCode::from(why as u16), reason: why.reason().into() };
        let closing = async {
            if self.inner.close(Some(frame)).await.is_ok() {
                while let Some(Ok(_)) = self.inner.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

/// The frame of an event that is no record. `id` names the subscription on a socket of many.
#[must_use]
pub fn event_text(id: Option<&str>, event: &SessionEvent) -> String {
    let mut out = b"{\"type\":".to_vec();
    let (name, cursor) = match event {
        SessionEvent::Records(_) => ("record", None),
        SessionEvent::Gap(_, cursor) => ("gap", Some(cursor)),
        SessionEvent::CaughtUp(cursor) => ("caught-up", Some(cursor)),
        SessionEvent::SnapshotEnd(cursor) => ("snapshot-end", Some(cursor)),
        SessionEvent::End(Ended::TooSlow, cursor) => ("goaway", Some(cursor)),
        SessionEvent::End(_, cursor) => ("end", Some(cursor)),
    };
    write_string(&mut out, name);
    push_id(&mut out, id);
    if let Some(cursor) = cursor {
        out.extend_from_slice(b",\"cursor\":");
        write_string(&mut out, cursor);
    }
    match event {
        SessionEvent::Gap(gap, _) => {
            out.extend_from_slice(b",\"gap\":");
            write_gap(&mut out, gap);
        }
        SessionEvent::End(why, _) => {
            out.extend_from_slice(b",\"reason\":");
            write_string(&mut out, why.as_str());
        }
        _ => {}
    }
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

fn push_id(out: &mut Vec<u8>, id: Option<&str>) {
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        write_string(out, id);
    }
}

/// `{"type":"error","problem":{…}}`
#[must_use]
pub fn error_text(id: Option<&str>, problem: &Problem) -> String {
    let mut out = b"{\"type\":\"error\"".to_vec();
    push_id(&mut out, id);
    out.extend_from_slice(b",\"problem\":");
    out.extend_from_slice(problem.to_json().as_bytes());
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

/// `{"type":"goaway","reason":"shutting-down"}`, with the cursor behind all that was sent.
#[must_use]
pub fn goaway_text(cursor: Option<&str>) -> String {
    let cursor = cursor.map_or(String::new(), |cursor| format!(r#","cursor":"{cursor}""#));
    format!(r#"{{"type":"goaway","reason":"shutting-down"{cursor}}}"#)
}

/// What a subscription's end closes with.
const fn close_of(why: Ended) -> Close {
    match why {
        Ended::Complete => Close::Complete,
        Ended::TopicDeleted => Close::TopicDeleted,
        Ended::TooSlow => Close::TooSlow,
    }
}

/// What a socket with one subscription has to do next.
enum Next {
    Drained,
    Incoming(Incoming),
    Event(Result<SessionEvent, SessionError>),
    Beat,
}

/// Runs one subscription on a socket until either ends.
pub async fn serve_one(mut socket: Socket, app: AppState, mut subscription: Subscription) {
    let drain = app.drain.clone();
    let mut drained = Box::pin(async move { drain.started().await });
    let mut heard = Instant::now();
    let mut beat = Box::pin(tokio::time::sleep(HEARTBEAT));
    let mut in_a_row = 0;
    loop {
        // Records first: looking for what seldom happens costs more than a look for records, and each wake-up is for these.
        let next = if in_a_row < EVENTS_IN_A_ROW {
            tokio::select! {
                biased;
                event = subscription.next(Budget::UNLIMITED) => Next::Event(event),
                () = &mut drained => Next::Drained,
                incoming = socket.receive() => Next::Incoming(incoming),
                () = &mut beat => Next::Beat,
            }
        } else {
            tokio::select! {
                biased;
                () = &mut drained => Next::Drained,
                incoming = socket.receive() => Next::Incoming(incoming),
                () = &mut beat => Next::Beat,
                event = subscription.next(Budget::UNLIMITED) => Next::Event(event),
            }
        };
        in_a_row = if matches!(next, Next::Event(_)) && in_a_row < EVENTS_IN_A_ROW { in_a_row + 1 } else { 0 };
        let going_on = match next {
            Next::Drained => {
                let text = goaway_text(subscription.cursor().as_deref());
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.send_text(text)).await;
                return socket.close(Close::GoingAway).await;
            }
            Next::Incoming(incoming) => {
                heard = Instant::now();
                answer(&mut socket, incoming).await
            }
            Next::Event(event) => give(&mut socket, event, &mut subscription, &mut drained).await,
            Next::Beat => {
                beat.as_mut().reset(Instant::now() + HEARTBEAT);
                let lost = heard.elapsed() > GONE_AFTER || socket.ping().await.is_err();
                if lost { Err(None) } else { Ok(()) }
            }
        };
        match going_on {
            Ok(()) => {}
            Err(Some(why)) => return socket.close(why).await,
            Err(None) => return,
        }
    }
}

/// Deals with what a client sends, who has nothing to say here. An error ends the socket, by a close if it names one.
async fn answer(socket: &mut Socket, incoming: Incoming) -> Result<(), Option<Close>> {
    match incoming {
        Incoming::Alive => Ok(()),
        Incoming::Text(text) if is_auth(&text) => Ok(()),
        Incoming::Text(_) => {
            let detail = "this socket only sends; for subscribe and produce frames use /v1/ws";
            let problem = Problem::invalid_request(detail);
            socket.send_text(error_text(None, &problem)).await.map_err(|_| None)
        }
        Incoming::Unexpected => Err(Some(Close::Protocol)),
        Incoming::TooLarge => Err(Some(Close::TooLarge)),
        Incoming::Gone => Err(None),
    }
}

/// Sends an event. An error ends the socket, by a close if it names one.
async fn give(
    socket: &mut Socket,
    event: Result<SessionEvent, SessionError>,
    subscription: &mut Subscription,
    drained: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), Option<Close>> {
    let written = match event {
        Ok(SessionEvent::Records(chunks)) => {
            let out = DirectionLabels { direction: "out" };
            let count: usize = chunks.iter().map(crate::session::Frames::count).sum();
            metrics().websocket_frames.get_or_create(&out).inc_by(count as u64);
            send_patiently(socket, chunks.into_iter().map(|c| c.bytes).collect(), subscription, drained).await
        }
        Ok(event @ SessionEvent::End(why, _)) => {
            let _ = socket.send_text(event_text(None, &event)).await;
            return Err(Some(close_of(why)));
        }
        Ok(event) => socket.send_text(event_text(None, &event)).await,
        Err(error) => {
            let problem = Problem::from(error);
            let _ = socket.send_text(error_text(None, &problem)).await;
            return Err(Some(Close::of(&problem)));
        }
    };
    written.map_err(|_| None)
}

/// Sends for as long as it takes; a slow client's subscription gives back what was fetched ahead.
async fn send_patiently(
    socket: &mut Socket,
    frames: Vec<Bytes>,
    subscription: &mut Subscription,
    drained: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), Error> {
    let mut sending = std::pin::pin!(socket.send_frames(frames));
    if let Ok(sent) = tokio::time::timeout(PARK_AFTER, &mut sending).await {
        return sent;
    }
    subscription.park();
    tokio::select! {
        biased;
        sent = sending => sent,
        () = drained => Err(Error::ConnectionClosed),
    }
}

/// Whether a message is an `auth`, which is taken and needs no answer while no rights are configured.
fn is_auth(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|message| message["type"] == "auth")
}

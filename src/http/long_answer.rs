//! Answers that go on for long: an event stream leaves hyper when its head is due, and goes to the socket from here.
//!
//! So hyper's buffers are not kept for as long as a reader listens (they were most of what an idle one cost), and all
//! that is ready goes out as one chunk in one vectored write.
//!
//! **Invariant**: only a `GET` over HTTP/1.1 is handed over; such an answer is chunked (RFC 9112, 7.1) and the last of its
//! connection. The body is asked for more only while less than [`GATHERED`] waits. A peer that closes its end is gone, as
//! for hyper.
//!
//! The hand-over: the service leaves the answer in its connection's [`HandOff`] and never comes back; the connection's task
//! sees it and drops hyper's connection; the socket, dropped with it, finds the answer and goes on with it (`listener`).

use super::drain::{Drain, Hold};
use super::outgoing::Outgoing;
use crate::sys::Socket;
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http_body::Body as _;
use hyper::{Method, Request, Version, header, http::response::Parts};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

/// Bytes from which on the body is not asked for more before they are out.
const GATHERED: usize = 64 << 10;
/// Pieces of one chunk.
const PIECES: usize = 24;
/// What a client that listens still sends is thrown away in such pieces.
const IGNORED: usize = 512;

/// Says that an answer goes on for long.
#[derive(Debug, Clone, Copy)]
struct Long;

/// Marks an answer as one that goes on for long.
pub fn mark(answer: &mut Response) {
    answer.extensions_mut().insert(Long);
}

/// Whether the answer to this request may be handed over.
pub(super) fn may_be_long<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11 && request.method() == Method::GET
}

/// A long answer, with what keeps the server from exiting before its end.
type Held = Box<(Response, Hold)>;

/// Where a connection's service leaves a long answer.
#[derive(Clone, Default)]
pub(super) struct HandOff(Arc<Mutex<Option<Held>>>);

impl HandOff {
    /// Gives the answer back, or keeps it and does not come back.
    pub async fn pass(&self, answer: Response, drain: &Drain) -> Response {
        if answer.extensions().get::<Long>().is_none() {
            return answer;
        }
        *self.0.lock() = Some(Box::new((answer, drain.hold())));
        std::future::pending().await
    }

    /// Whether an answer waits to be taken.
    pub fn is_full(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Takes it.
    pub fn take(&self) -> Option<Held> {
        self.0.lock().take()
    }
}

/// Writes the whole answer; comes back when it has ended or its reader is gone.
///
/// # Errors
/// The socket's.
pub(super) async fn write(socket: &mut Box<dyn Socket>, answer: Response, now_ms: i64) -> io::Result<()> {
    let (parts, body) = answer.into_parts();
    let mut out = Outgoing::default();
    out.push(head(&parts, now_ms).into());
    drop(parts);
    let mut writing = Writing { socket, body, out, ended: false };
    std::future::poll_fn(|cx| writing.poll(cx)).await
}

struct Writing<'a> {
    socket: &'a mut Box<dyn Socket>,
    body: Body,
    out: Outgoing,
    /// The body was read to its end.
    ended: bool,
}

/// Why no more was gathered.
enum Gathered {
    Nothing,
    Enough,
    All,
}

impl Writing<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let gathered = self.gather(cx)?;
            ready!(self.out.poll_write(self.socket, cx))?;
            ready!(Pin::new(&mut *self.socket).poll_flush(cx))?;
            match gathered {
                Gathered::Enough => {}
                Gathered::All => return Poll::Ready(Ok(())),
                Gathered::Nothing => return self.poll_gone(cx),
            }
        }
    }

    /// Takes what the body has, as one chunk.
    fn gather(&mut self, cx: &mut Context<'_>) -> io::Result<Gathered> {
        if self.ended {
            return Ok(Gathered::All);
        }
        let (before, bytes_before) = (self.out.count(), self.out.bytes());
        let gathered = loop {
            if self.out.bytes() >= GATHERED || self.out.count() - before >= PIECES {
                break Gathered::Enough;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => break Gathered::Nothing,
                Poll::Ready(None) => break Gathered::All,
                Poll::Ready(Some(Err(error))) => return Err(io::Error::other(error)),
                // Trailers need a client that asked for them.
                Poll::Ready(Some(Ok(frame))) => self.out.push(frame.into_data().unwrap_or_default()),
            }
        };
        let (pieces, bytes) = (self.out.count() - before, self.out.bytes() - bytes_before);
        if bytes > 0 {
            self.out.insert(pieces, format!("{bytes:x}\r\n").into());
            self.out.push(Bytes::from_static(b"\r\n"));
        }
        if matches!(gathered, Gathered::All) {
            self.ended = true;
            self.out.push(Bytes::from_static(b"0\r\n\r\n"));
        }
        Ok(gathered)
    }

    /// Comes back when the peer has closed its end.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut space = [0; IGNORED];
            let mut space = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *self.socket).poll_read(cx, &mut space))?;
            if space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn head(parts: &Parts, now_ms: i64) -> Vec<u8> {
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16()).into_bytes();
    let own = [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::DATE];
    for (name, value) in parts.headers.iter().filter(|(name, _)| !own.contains(name)) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(format!("date: {}\r\n", http_date(now_ms)).as_bytes());
    head.extend_from_slice(b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    head
}

/// A time as HTTP writes it (RFC 9110, 5.6.7).
fn http_date(unix_ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = unix_ms.max(0) / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, in cycles of 400: so the leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = era * 400 + year_of_era + i64::from(month < 2);
    let (weekday, month) = (DAYS[(days % 7) as usize], MONTHS[month as usize]);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn dates_are_those_of_http() {
        for (ms, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777_000, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599_999, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400_000, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(http_date(ms), text);
        }
    }

    fn answer(pieces: Vec<Bytes>, then_waits: bool) -> Response {
        let pieces = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        let body = match then_waits {
            true => Body::from_stream(futures_util::StreamExt::chain(pieces, stream::pending())),
            false => Body::from_stream(pieces),
        };
        let mut answer = Response::new(body);
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
        answer
    }

    /// The text of a chunked body.
    fn unchunked(mut body: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        loop {
            let end = memchr::memchr(b'\n', body).unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
            let data = &body[end + 1..];
            assert_eq!(&data[size..size + 2], b"\r\n");
            text.extend_from_slice(&data[..size]);
            body = &data[size + 2..];
            if size == 0 {
                assert!(body.is_empty());
                return text;
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_written_whole_however_little_the_peer_takes() {
        let pieces: Vec<Bytes> = (0..200_usize).map(|n| Bytes::from(vec![b'a' + (n % 26) as u8; n * 37])).collect();
        let expected = pieces.concat();
        let (near, mut far) = tokio::io::duplex(1000);
        let writing = tokio::spawn(async move {
            let mut socket: Box<dyn Socket> = Box::new(near);
            write(&mut socket, answer(pieces, false), 0).await
        });
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap().unwrap();
        let end = memchr::memmem::find(&all, b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&all[..end]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ndate: Thu, 01 Jan"), "{head}");
        assert!(unchunked(&all[end..]) == expected);
    }

    #[tokio::test]
    async fn a_reader_that_left_ends_it() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let writing = tokio::spawn(async move {
            let mut socket: Box<dyn Socket> = Box::new(near);
            write(&mut socket, answer(vec![Bytes::from_static(b"one")], true), 0).await
        });
        let mut space = [0; 4096];
        let mut got = Vec::new();
        while memchr::memmem::find(&got, b"3\r\none\r\n").is_none() {
            let n = far.read(&mut space).await.unwrap();
            got.extend_from_slice(&space[..n]);
        }
        far.write_all(b"what nobody asked for").await.unwrap();
        drop(far);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn only_what_is_marked_is_handed_over() {
        let (hand_off, drain) = (HandOff::default(), Drain::default());
        hand_off.pass(answer(Vec::new(), false), &drain).await;
        assert!(hand_off.take().is_none());
        let mut long = answer(Vec::new(), false);
        mark(&mut long);
        assert!(futures_util::FutureExt::now_or_never(hand_off.pass(long, &drain)).is_none() && hand_off.is_full());
        assert!(hand_off.take().is_some() && !hand_off.is_full());
    }
}

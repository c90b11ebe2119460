//! A subscriber that costs little: it counts what comes, or looks for numbers in it, and parses nothing else.

use super::http1::{Chunk, Connection, request};
use crate::sys::Sys;
use std::io;

/// How subscribers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Server-sent events
    Sse,
    /// WebSocket
    Websocket,
}

impl Transport {
    /// For the name of a figure.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Websocket => "websocket",
        }
    }
}

/// A subscription.
pub struct Subscriber {
    connection: Connection,
    how: How,
}

enum How {
    Events { lines: DataLines, chunk: Chunk },
    Frames,
}

impl Subscriber {
    /// Subscribes; returns when the server said yes.
    pub async fn open(sys: &Sys, address: &str, path: &str, transport: Transport) -> io::Result<Self> {
        let mut connection = Connection::open(sys, address).await?;
        let (headers, expected, how) = match transport {
            Transport::Sse => {
                ("accept: text/event-stream\r\n", 200, How::Events { lines: DataLines::default(), chunk: Chunk::Head })
            }
            Transport::Websocket => (
                "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: c2x1aWNlLWJlbmNoLWtleQ==\r\n",
                101,
                How::Frames,
            ),
        };
        match connection.start(&request(address, "GET", path, headers, b"")).await? {
            status if status == expected => Ok(Self { connection, how }),
            status => Err(io::Error::other(format!("a subscription was answered with status {status}"))),
        }
    }

    /// Waits for more; gives how many records came with it, and shows its bytes. `None` at the end of the stream.
    pub async fn next(&mut self, mut show: impl FnMut(&[u8])) -> io::Result<Option<u64>> {
        match &mut self.how {
            How::Events { lines, chunk } => {
                let mut count = 0;
                let more = self.connection.chunk(chunk, |bytes| {
                    show(bytes);
                    count += lines.count(bytes);
                });
                Ok(more.await?.then_some(count))
            }
            How::Frames => frame(&mut self.connection, &mut show).await,
        }
    }
}

/// Reads a server's frame (RFC 6455, 5.2): a text frame that says it is a record counts.
async fn frame(connection: &mut Connection, show: &mut impl FnMut(&[u8])) -> io::Result<Option<u64>> {
    const TEXT: u8 = 1;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    /// How every record's frame begins.
    const RECORD: &[u8] = br#"{"type":"record""#;
    let head = connection.peek(2).await?;
    let (opcode, short) = (head[0] & 0x0f, usize::from(head[1] & 0x7f));
    let (header, length) = match short {
        126 => {
            let head = connection.peek(4).await?;
            (4, usize::from(u16::from_be_bytes([head[2], head[3]])))
        }
        127 => {
            let head = connection.peek(10).await?;
            (10, u64::from_be_bytes(head[2..10].try_into().expect("eight bytes")) as usize)
        }
        _ => (2, short),
    };
    connection.consume(header);
    let mut count = 0;
    match opcode {
        CLOSE => return Ok(None),
        PING => {
            let payload = connection.peek(length).await?[..length].to_vec();
            // Masked with zeros, which leaves the payload as it is.
            let pong = [&[0x8a, 0x80 | length as u8, 0, 0, 0, 0], payload.as_slice()].concat();
            connection.write(&pong).await?;
        }
        TEXT if connection.peek(length.min(RECORD.len())).await?.starts_with(RECORD) => count = 1,
        _ => (),
    }
    connection.take(length, show).await?;
    Ok(Some(count))
}

/// Counts the lines of a stream that begin with `data:`, of events without a name.
#[derive(Debug, Default)]
pub struct DataLines {
    /// The beginning of a line whose end has not come, as far as it matters.
    begun: Vec<u8>,
    is_named: bool,
}

impl DataLines {
    /// The lines that end in these bytes.
    pub fn count(&mut self, bytes: &[u8]) -> u64 {
        const PREFIX: usize = 6;
        let mut count = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let piece = &bytes[start..end];
            start = end + 1;
            let line: &[u8] = if self.begun.is_empty() {
                piece
            } else {
                let missing = PREFIX.saturating_sub(self.begun.len()).min(piece.len());
                self.begun.extend_from_slice(&piece[..missing]);
                &self.begun
            };
            match line {
                [] | [b'\r'] => self.is_named = false,
                _ if line.starts_with(b"event:") => self.is_named = true,
                _ if line.starts_with(b"data:") && !self.is_named => count += 1,
                _ => (),
            }
            self.begun.clear();
        }
        let rest = &bytes[start..];
        let missing = PREFIX.saturating_sub(self.begun.len()).min(rest.len());
        self.begun.extend_from_slice(&rest[..missing]);
        count
    }
}

/// The field that carries an event's number.
pub const NUMBER_FIELD: &str = "\"bench_n\":";
/// Digits of the longest number.
const MAX_DIGITS: usize = 20;

/// Finds the numbers of events in a stream's bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The end of what came last, where a number may have begun.
    rest: Vec<u8>,
}

impl Numbers {
    /// Gives each number that ends in these bytes.
    pub fn find(&mut self, bytes: &[u8], mut take: impl FnMut(u64)) {
        let joined;
        let text: &[u8] = if self.rest.is_empty() {
            bytes
        } else {
            joined = [self.rest.as_slice(), bytes].concat();
            &joined
        };
        let mut done = 0;
        for at in memchr::memmem::find_iter(text, NUMBER_FIELD.as_bytes()) {
            let digits = at + NUMBER_FIELD.len();
            let length = text[digits..].iter().take(MAX_DIGITS).take_while(|b| b.is_ascii_digit()).count();
            if digits + length == text.len() {
                done = at; // more digits may come
                break;
            }
            if let Some(n) = std::str::from_utf8(&text[digits..digits + length]).ok().and_then(|t| t.parse().ok()) {
                take(n);
            }
            done = digits + length;
        }
        let kept = done.max(text.len().saturating_sub(NUMBER_FIELD.len() + MAX_DIGITS));
        self.rest = text[kept..].to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_they_are_cut() {
        let text = b"id: 1\ndata: {}\n\n: c\n\nevent: caught-up\ndata: {}\n\nid: 2\ndata: data:\n\n";
        for size in 1..text.len() {
            let mut lines = DataLines::default();
            assert_eq!(text.chunks(size).map(|c| lines.count(c)).sum::<u64>(), 2, "cut every {size} bytes");
        }
    }

    #[test]
    fn numbers_are_found_once_however_they_are_cut() {
        let text = br#"data: {"bench_n":0,"note":"x"}  {"bench_n":12345678901,"bench_n":7} "bench_n":x "bench_n":42 "#;
        for size in 1..text.len() {
            let mut numbers = Numbers::default();
            let mut found = Vec::new();
            text.chunks(size).for_each(|c| numbers.find(c, |n| found.push(n)));
            assert_eq!(found, [0, 12_345_678_901, 7, 42], "cut every {size} bytes");
        }
    }
}

//! An HTTP/1.1 client that costs little: the load generator shares the machine with what it measures.
//!
//! **Invariant**: it knows just what the bench's own requests bring back: `Content-Length` or chunked bodies, one request
//! in flight.

use crate::sys::{Socket, Sys};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// The longest head of an answer.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// A kept connection.
pub struct Connection {
    socket: Box<dyn Socket>,
    /// What was read and not yet taken: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last answer said that the server closes.
    closing: bool,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
    /// None: the connection became something else (101), or there is no body.
    Open,
}

/// Where in a chunked body the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Before a chunk's size.
    Head,
    /// So many bytes of a chunk are to come, with the line end behind them.
    Data(usize),
    /// Behind the last.
    End,
}

fn broken(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(sys: &Sys, address: &str) -> io::Result<Self> {
        let socket = sys.network.connect(address.to_owned()).await?;
        Ok(Self { socket, buffer: vec![0; READ_BYTES], start: 0, end: 0, closing: false })
    }

    /// Whether the last answer was the last on this connection.
    pub const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends a whole request, head and body, and reads the answer; the body lands in `body`.
    pub async fn exchange(&mut self, request: &[u8], body: &mut Vec<u8>) -> io::Result<u16> {
        self.socket.write_all(request).await?;
        body.clear();
        let (status, length) = self.head().await?;
        match length {
            Length::Known(mut left) => {
                while left > 0 {
                    let available = self.fill().await?;
                    let n = available.min(left);
                    body.extend_from_slice(&self.buffer[self.start..self.start + n]);
                    self.start += n;
                    left -= n;
                }
            }
            Length::Chunked => {
                let mut chunk = Chunk::Head;
                while self.chunk(&mut chunk, |bytes| body.extend_from_slice(bytes)).await? {}
            }
            Length::Open => (),
        }
        Ok(status)
    }

    /// Sends a request whose answer is a stream, and reads its head.
    pub async fn start(&mut self, request: &[u8]) -> io::Result<u16> {
        self.socket.write_all(request).await?;
        self.head().await.map(|(status, _)| status)
    }

    /// Gives the next piece of a chunked body to `take`; false at its end.
    pub async fn chunk(&mut self, chunk: &mut Chunk, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        loop {
            match *chunk {
                Chunk::End => return Ok(false),
                Chunk::Head => {
                    let line = self.line().await?;
                    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
                    let text = std::str::from_utf8(digits).map_err(|_| broken("a chunk without a size"))?;
                    let size = usize::from_str_radix(text.trim(), 16).map_err(|_| broken("a chunk without a size"))?;
                    if size == 0 {
                        self.line().await?;
                        *chunk = Chunk::End;
                    } else {
                        *chunk = Chunk::Data(size + 2);
                    }
                }
                Chunk::Data(left) => {
                    let n = self.fill().await?.min(left);
                    let data = n.min(left.saturating_sub(2));
                    if data > 0 {
                        take(&self.buffer[self.start..self.start + data]);
                    }
                    self.start += n;
                    *chunk = if n == left { Chunk::Head } else { Chunk::Data(left - n) };
                    if data > 0 {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Bytes of a connection that is no HTTP any more: at least `n`, not taken yet.
    pub async fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        while self.end - self.start < n {
            self.read_more().await?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes bytes that were peeked at.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
    }

    /// Takes bytes that may not have come yet, and shows them as they come.
    pub async fn take(&mut self, mut n: usize, show: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while n > 0 {
            let some = self.fill().await?.min(n);
            show(&self.buffer[self.start..self.start + some]);
            self.start += some;
            n -= some;
        }
        Ok(())
    }

    /// Writes to a connection that is no HTTP any more.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    async fn head(&mut self) -> io::Result<(u16, Length)> {
        let mut searched = 0;
        let end = loop {
            let available = &self.buffer[self.start..self.end];
            if let Some(at) = memchr::memmem::find(&available[searched..], b"\r\n\r\n") {
                break searched + at + 4;
            }
            if available.len() > MAX_HEAD_BYTES {
                return Err(broken("the head of an answer is too long"));
            }
            searched = available.len().saturating_sub(3);
            self.read_more().await?;
        };
        let head = &self.buffer[self.start..self.start + end];
        let status = head.get(9..12).and_then(|s| std::str::from_utf8(s).ok()?.parse().ok());
        let status: u16 = status.ok_or_else(|| broken("an answer without a status"))?;
        let mut length = Length::Open;
        for line in head.split(|b| *b == b'\n').skip(1) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                let n = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                length = Length::Known(n.ok_or_else(|| broken("a content-length that is no number"))?);
            } else if name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close") {
                self.closing = true;
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") {
                length = Length::Chunked;
            }
        }
        self.start += end;
        Ok((status, length))
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let available = &self.buffer[self.start..self.end];
            if let Some(at) = memchr::memchr(b'\n', available) {
                let line = available[..at].trim_ascii_end().to_vec();
                self.start += at + 1;
                return Ok(line);
            }
            if available.len() > MAX_HEAD_BYTES {
                return Err(broken("a line is too long"));
            }
            self.read_more().await?;
        }
    }

    /// Waits until there is something to take; gives how much.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            self.read_more().await?;
        }
        Ok(self.end - self.start)
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        match self.socket.read(&mut self.buffer[self.end..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }
}

/// A request's bytes; `host` is the server's address, which it checks.
#[must_use]
pub fn request(host: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if method == "GET" { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{length}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection over a pipe, whose other end sends these bytes in pieces of a size.
    fn receiving(bytes: &'static [u8], piece: usize) -> Connection {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                far.write_all(piece).await.expect("the reader is there");
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        });
        Connection { socket: Box::new(near), buffer: vec![0; 16], start: 0, end: 0, closing: false }
    }

    #[tokio::test]
    async fn bodies_of_both_kinds_are_read_however_they_are_cut() {
        let bytes =
            b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\
                      \r\n5\r\nhello\r\nb;x=1\r\n wide world\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        for piece in 1..60 {
            let mut connection = receiving(bytes, piece);
            let mut body = Vec::new();
            assert_eq!(connection.exchange(b"", &mut body).await.unwrap(), 201);
            assert_eq!(body, b"abc");
            assert_eq!(connection.exchange(b"", &mut body).await.unwrap(), 200);
            assert_eq!(body, b"hello wide world");
            assert_eq!(connection.exchange(b"", &mut body).await.unwrap(), 204);
        }
    }
}

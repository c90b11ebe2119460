//! What a live reader costs that waits at the tail: its own state, and no buffer of the request that it came with.

use super::harness::{PATIENCE, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Readers before the first look: what the first ones make the server do once is not the readers'.
const FIRST: usize = 100;
const READERS: usize = 300;
const WEBSOCKET: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: c2x1aWNlLWlkbGUtcmVhZA==\r\n";

/// Resident memory of a process, in bytes.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// A reader that has been told that it is at the tail.
async fn reader(address: &str, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/topics/idle/stream HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while memchr::memmem::find(&answer, b"caught-up").is_none() {
        let read = tokio::time::timeout(PATIENCE, socket.read_buf(&mut answer)).await.expect("it is at the tail");
        assert!(read.unwrap() > 0, "the server ended a stream: {}", String::from_utf8_lossy(&answer));
    }
    socket
}

async fn readers(address: &str, headers: &str, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(reader(address, headers).await);
    }
    all
}

#[tokio::test]
async fn a_reader_at_the_tail_keeps_no_buffer() {
    // Targets of a build that serves; the one under test has larger tasks. A server each, for what an earlier reader left behind would hide what a later one costs.
    for (transport, headers, limit) in [("SSE", "", 14 << 10), ("WebSocket", WEBSOCKET, 8 << 10)] {
        let server = Server::start().await;
        let made = server.client().post_json("/v1/topics", &json!({"name": "idle", "partitions": 1})).await;
        assert_eq!(made.status, 201, "{made:?}");
        let first = readers(server.http(), headers, FIRST).await;
        let before = memory(server.pid());
        let rest = readers(server.http(), headers, READERS).await;
        let each = memory(server.pid()).saturating_sub(before) / READERS;
        drop((first, rest));
        eprintln!("{transport}: {each} bytes a reader");
        assert!(each <= limit, "{transport}: {each} bytes a reader");
    }
}

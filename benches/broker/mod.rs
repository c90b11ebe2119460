//! The whole server on one thread: its own HTTP door, engine and log, over a network and a disk in memory.
//!
//! **Invariant**: what runs is the library's code, from the bytes of a request to the bytes of its answer. Nothing here
//! asks the machine for time, randomness or a thread, so the same run takes the same instructions.

#![allow(dead_code, reason = "each bench takes the part that it needs")]

use futures_util::future::BoxFuture;
use sluice::config::ServerConfig;
use sluice::server::Server;
use sluice::sys::sim::{SimDisk, machine};
use sluice::sys::{IoPool, Job, Lane, Socket, Step, Sys};
use sluice::view::ViewBackend;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, RngSeed, Runtime};

const SEED: u64 = 7;
const EPOCH_MS: i64 = 1_700_000_000_000;
const MEMORY: u64 = 256 << 20;
const READ_BYTES: usize = 64 << 10;

/// A runtime whose order of tasks and whose time follow from the seed.
pub fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().start_paused(true).rng_seed(RngSeed::from_bytes(&SEED.to_le_bytes()));
    builder.build().expect("a runtime")
}

/// Jobs as tasks, one step after the other: no threads, and no time in between.
struct TaskPool;

impl IoPool for TaskPool {
    fn submit(&self, _lane: Lane, job: Arc<dyn Job>) {
        tokio::spawn(async move {
            while job.step() != Step::Done {
                tokio::task::yield_now().await;
            }
        });
    }

    fn hurry(&self, _lane: Lane, _job: &Arc<dyn Job>) {
        // No job waits here.
    }
}

/// A disk and a network in memory, and jobs that run where they are submitted.
pub fn world() -> Sys {
    Sys { io: Arc::new(TaskPool), ..machine(&SimDisk::new(SEED), SEED, EPOCH_MS) }
}

/// A running server.
pub struct Broker {
    _server: Server,
    sys: Sys,
    address: String,
}

impl Broker {
    /// Starts one with a topic `bench` of so many partitions.
    pub async fn start(partitions: u32) -> Self {
        let sys = world();
        let mut config = ServerConfig::with_memory(MEMORY);
        (config.kafka, config.peer, config.data) = (None, None, PathBuf::from("/data"));
        let server = Server::start_with_views(config, sys.clone(), ViewBackend::Memory).await.expect("it starts");
        let address = server.http_addr().expect("its door is open").to_string();
        let broker = Self { _server: server, sys, address };
        let body = format!(r#"{{"name":"bench","partitions":{partitions}}}"#);
        let status = broker.connect().await.exchange(&request("POST", "/v1/topics", body.as_bytes())).await;
        assert_eq!(status, 201, "the topic is made");
        broker
    }

    /// A connection to its door.
    pub async fn connect(&self) -> Client {
        let socket = self.sys.network.connect(self.address.clone()).await.expect("it listens");
        Client { socket, received: Vec::with_capacity(READ_BYTES) }
    }

    /// A subscription at the tail, or from the start.
    pub async fn subscribe(&self, query: &str, websocket: bool) -> Client {
        let headers = match websocket {
            true => {
                "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: c2x1aWNlLWJlbmNoLWtleQ==\r\n"
            }
            false => "accept: text/event-stream\r\n",
        };
        let mut client = self.connect().await;
        let head = format!("GET /v1/topics/bench/stream?{query} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        client.socket.write_all(head.as_bytes()).await.expect("it reads");
        client.until(if websocket { b"101 Switching" } else { b"200 OK" }, 1).await;
        client
    }
}

/// A request's bytes.
pub fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A JSON value of about this size.
pub fn value(size: usize) -> String {
    format!(r#"{{"type":"goal","minute":57,"score":[2,1],"note":"{}"}}"#, "abcdefghijklmnop".repeat(size / 16))
}

/// A batch of records of a size, with keys from `first` on.
pub fn batch(records: usize, size: usize, first: usize) -> Vec<u8> {
    let value = value(size);
    let record = |n: usize| format!(r#"{{"key":"key-{}","value":{value}}}"#, first + n);
    let records: Vec<String> = (0..records).map(record).collect();
    format!(r#"{{"records":[{}]}}"#, records.join(",")).into_bytes()
}

/// The other end of a connection.
pub struct Client {
    socket: Box<dyn Socket>,
    received: Vec<u8>,
}

impl Client {
    /// Sends a request and reads its whole answer, which has a length; gives the status.
    pub async fn exchange(&mut self, request: &[u8]) -> u16 {
        self.socket.write_all(request).await.expect("it reads");
        loop {
            if let Some((status, length)) = answer(&self.received) {
                self.received.drain(..length);
                return status;
            }
            self.more().await;
        }
    }

    /// Reads until this came so many times; what follows stays.
    pub async fn until(&mut self, what: &[u8], times: usize) {
        let mut left = times;
        while left > 0 {
            let mut end = 0;
            for at in memchr::memmem::find_iter(&self.received, what).take(left) {
                left -= 1;
                end = at + what.len();
            }
            if left > 0 {
                // What is left may hold the beginning of the next.
                end = end.max(self.received.len().saturating_sub(what.len() - 1));
            }
            self.received.drain(..end);
            if left > 0 {
                self.more().await;
            }
        }
    }

    async fn more(&mut self) {
        let n = self.socket.read_buf(&mut self.received).await.expect("it writes");
        assert!(n > 0, "the connection ended");
    }
}

/// The status and the length of the answer that these bytes begin with, once it is whole.
fn answer(bytes: &[u8]) -> Option<(u16, usize)> {
    const LENGTH: &[u8] = b"content-length: ";
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let at = memchr::memmem::find(&bytes[..head], LENGTH).expect("the answer has a length") + LENGTH.len();
    let digits = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = |from: usize, to: usize| std::str::from_utf8(&bytes[from..to]).ok()?.parse::<usize>().ok();
    let length = head + number(at, at + digits)?;
    (bytes.len() >= length).then(|| (number(9, 12).unwrap_or_default() as u16, length))
}

/// Work that is counted or timed.
pub type Work = BoxFuture<'static, ()>;

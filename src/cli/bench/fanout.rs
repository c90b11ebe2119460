//! One topic, many live subscribers: how many deliveries a second, and how long until the last has a message.

use super::{
    Bench, Round,
    http1::{Chunk, Connection, request},
    process::Process,
    produce,
    replay::DataLines,
};
use crate::cli::CliError;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// Messages of a request while the rate is measured.
const BATCH: u32 = 20;
/// Single messages whose way to all is timed, in each round.
const SINGLES: u32 = 20;
/// Subscribers that connect at once.
const CONNECTING: usize = 64;
/// A delivery that takes longer is lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// How subscribers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Server-sent events
    Sse,
    /// WebSocket
    Websocket,
}

/// Deliveries so far, and whom to tell when a number of them is reached.
struct Deliveries {
    count: AtomicU64,
    wanted: AtomicU64,
    reached: watch::Sender<u64>,
}

impl Deliveries {
    fn add(&self, n: u64) {
        let count = self.count.fetch_add(n, Ordering::AcqRel) + n;
        if n > 0 && count >= self.wanted.load(Ordering::Acquire) {
            self.reached.send_replace(count);
        }
    }

    /// Waits until there were so many in all.
    async fn wait(&self, wanted: u64) -> Result<(), CliError> {
        let mut reached = self.reached.subscribe();
        self.wanted.store(wanted, Ordering::Release);
        if self.count.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let all = tokio::time::timeout(DELIVERY_TIMEOUT, reached.wait_for(|count| *count >= wanted)).await;
        all.map(drop).map_err(|_| {
            let count = self.count.load(Ordering::Acquire);
            CliError::failed(format!("fan-out: only {count} of {wanted} deliveries came"))
        })
    }
}

/// What subscribers connect to, and what the publisher sends.
pub struct Plan {
    /// Where to subscribe.
    pub subscribe: String,
    /// How.
    pub transport: Transport,
    /// A request that publishes one message.
    pub one: Vec<u8>,
    /// A request that publishes [`BATCH`] messages.
    pub many: Vec<u8>,
}

impl Plan {
    /// Against the server.
    pub fn server(bench: &Bench, host: &str, topic: &str, transport: Transport) -> Self {
        let batch = |n| produce::batch(host, topic, n, bench.args.size, |i| format!("key-{i}"));
        Self {
            subscribe: format!("/v1/topics/{topic}/stream?from=latest"),
            transport,
            one: batch(1),
            many: batch(BATCH),
        }
    }

    /// Against the bare handler, with messages as long as the server's: a record's JSON is about 90 bytes longer than
    /// its value, and an event has its cursor.
    pub fn bare(bench: &Bench, host: &str) -> Self {
        let event = [b"data: ".as_slice(), &vec![b'x'; bench.args.size + 150], b"\n\n"].concat();
        let post = |n| request(host, "POST", "/fanout", "", &event.repeat(n));
        Self { subscribe: "/fanout".to_owned(), transport: Transport::Sse, one: post(1), many: post(BATCH as usize) }
    }
}

/// Connected subscribers, and a publisher.
pub struct Audience {
    deliveries: Arc<Deliveries>,
    subscribers: JoinSet<io::Result<()>>,
    publisher: Connection,
    size: u64,
    plan: Plan,
    /// Memory that each subscriber costs the server while nothing happens, in bytes.
    pub idle_bytes: Option<u64>,
}

impl Audience {
    /// Connects them all.
    pub async fn gather(bench: &Bench, target: &Process, plan: Plan) -> Result<Self, CliError> {
        let failed = |e: io::Error| CliError::failed(format!("fan-out: {e}"));
        let before = target.resident_bytes();
        let deliveries = Arc::new(Deliveries {
            count: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            reached: watch::Sender::new(0),
        });
        let mut subscribers = JoinSet::new();
        let turns = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
        let (connected, mut all_connected) = watch::channel(0_u64);
        let size = u64::from(bench.args.subscribers);
        for _ in 0..size {
            let (sys, address, path) = (bench.sys.clone(), target.address.clone(), plan.subscribe.clone());
            let (deliveries, turns, connected) = (deliveries.clone(), turns.clone(), connected.clone());
            let transport = plan.transport;
            subscribers.spawn(async move {
                let turn = turns.acquire().await.map_err(io::Error::other)?;
                let mut connection = subscribe(&sys, &address, &path, transport).await?;
                drop(turn);
                connected.send_modify(|n| *n += 1);
                match transport {
                    Transport::Sse => receive_events(&mut connection, &deliveries).await,
                    Transport::Websocket => receive_frames(&mut connection, &deliveries).await,
                }
            });
        }
        tokio::select! {
            biased;
            Some(ended) = subscribers.join_next() => {
                return Err(failed(match ended {
                    Ok(Err(e)) => e,
                    _ => io::Error::other("a subscriber ended"),
                }));
            }
            all = tokio::time::timeout(DELIVERY_TIMEOUT, all_connected.wait_for(|n| *n == size)) => {
                all.map(drop).map_err(|_| CliError::failed("fan-out: not every subscriber could connect"))?;
            }
        }
        let idle_bytes = target.resident_bytes().zip(before).map(|(after, before)| after.saturating_sub(before) / size);
        let publisher = Connection::open(&bench.sys, &target.address).await.map_err(failed)?;
        Ok(Self { deliveries, subscribers, publisher, size, plan, idle_bytes })
    }

    /// Publishes singly, and times the way to the last; then as fast as it goes for a while, and counts.
    pub async fn round(&mut self, target: &Process, duration: Duration) -> Result<Round, CliError> {
        let mut latency = super::histogram();
        for _ in 0..SINGLES {
            let started = Instant::now();
            let wanted = self.deliveries.count.load(Ordering::Acquire) + self.size;
            self.publish(false).await?;
            self.deliveries.wait(wanted).await?;
            latency.saturating_record(started.elapsed().as_micros() as u64);
        }
        let before = self.deliveries.count.load(Ordering::Acquire);
        let cpu = target.cpu_seconds();
        let started = Instant::now();
        let mut published = 0;
        while started.elapsed() < duration {
            self.publish(true).await?;
            published += u64::from(BATCH);
            // A publisher that runs far ahead would measure catching up, not the live tail.
            let behind = before + (published * self.size).saturating_sub(u64::from(BATCH) * 4 * self.size);
            self.deliveries.wait(behind).await?;
        }
        self.deliveries.wait(before + published * self.size).await?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu_seconds = target.cpu_seconds().zip(cpu).map(|(after, before)| after - before);
        if self.subscribers.len() as u64 != self.size {
            return Err(CliError::failed("fan-out: a subscriber was cut off"));
        }
        Ok(Round { records: published * self.size, seconds, latency, cpu_seconds })
    }

    async fn publish(&mut self, many: bool) -> Result<(), CliError> {
        let request = if many { &self.plan.many } else { &self.plan.one };
        let mut body = Vec::new();
        match self.publisher.exchange(request, &mut body).await {
            Ok(200..300) => Ok(()),
            Ok(status) => {
                Err(CliError::failed(format!("fan-out: status {status}: {}", String::from_utf8_lossy(&body))))
            }
            Err(e) => Err(CliError::failed(format!("fan-out: {e}"))),
        }
    }
}

async fn subscribe(sys: &crate::sys::Sys, address: &str, path: &str, transport: Transport) -> io::Result<Connection> {
    let mut connection = Connection::open(sys, address).await?;
    let (headers, expected) = match transport {
        Transport::Sse => ("accept: text/event-stream\r\n", 200),
        Transport::Websocket => (
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: c2x1aWNlLWJlbmNoLWtleQ==\r\n",
            101,
        ),
    };
    match connection.start(&request(address, "GET", path, headers, b"")).await? {
        status if status == expected => Ok(connection),
        status => Err(io::Error::other(format!("a subscription was answered with status {status}"))),
    }
}

async fn receive_events(connection: &mut Connection, deliveries: &Deliveries) -> io::Result<()> {
    let mut lines = DataLines::default();
    let mut chunk = Chunk::Head;
    while connection.chunk(&mut chunk, |bytes| deliveries.add(lines.count(bytes))).await? {}
    Ok(())
}

/// Reads a server's frames (RFC 6455, 5.2) without looking into them: a text frame that says it is a record counts.
async fn receive_frames(connection: &mut Connection, deliveries: &Deliveries) -> io::Result<()> {
    const TEXT: u8 = 1;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    /// How every record's frame begins.
    const RECORD: &[u8] = br#"{"type":"record""#;
    loop {
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
        match opcode {
            CLOSE => return Ok(()),
            PING => {
                let payload = connection.peek(length).await?[..length].to_vec();
                // Masked with zeros, which leaves the payload as it is.
                let pong = [&[0x8a, 0x80 | length as u8, 0, 0, 0, 0], payload.as_slice()].concat();
                connection.write(&pong).await?;
            }
            TEXT if connection.peek(length.min(RECORD.len())).await?.starts_with(RECORD) => deliveries.add(1),
            _ => (),
        }
        connection.skip(length).await?;
    }
}

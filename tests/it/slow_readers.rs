//! Readers that stop reading: they cost the server a cursor each, resume without a gap, and keep nobody else waiting.
//!
//! By default small; `SLUICE_SLOW_READERS=1000 SLUICE_SLOW_SECONDS=60` for the real thing.

use super::harness::{PATIENCE, Server};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const WRITERS: usize = 8;
const BATCH: usize = 50;
const MEMORY: u64 = 256 << 20;
/// The program itself: code, threads' stacks, the allocator's slack.
const PROGRAM: u64 = 128 << 20;
/// How many of the stopped readers read on to the very end.
const TO_THE_END: usize = 10;
/// How many records each of the others reads on.
const A_WHILE: u64 = 5_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// One subscriber on a socket of its own.
struct Reader {
    lines: BufReader<TcpStream>,
    line: Vec<u8>,
    /// The next offset that it must get, by partition.
    next: BTreeMap<u64, u64>,
}

impl Reader {
    async fn open(address: &str, topic: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /v1/topics/{topic}/stream?from=earliest HTTP/1.1\r\nHost: {address}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        Self { lines: BufReader::with_capacity(8 << 10, socket), line: Vec::new(), next: BTreeMap::new() }
    }

    /// Reads one line, and checks the record if it carries one: each partition's offsets come one after another.
    /// May be dropped half-way, and called again.
    async fn step(&mut self) {
        let read = self.lines.read_until(b'\n', &mut self.line).await.expect("the stream goes on");
        assert!(read > 0, "the server ended a stream");
        let whole = std::mem::take(&mut self.line);
        let Ok(line) = std::str::from_utf8(&whole) else { return };
        assert!(!line.starts_with("event: gap") && !line.starts_with("event: problem"), "{line}");
        if !line.starts_with("data:") || !line.contains("\"offset\":") {
            return;
        }
        let (partition, offset) = (number(line, "\"partition\":"), number(line, "\"offset\":"));
        let expected = self.next.entry(partition).or_insert(0);
        assert_eq!(offset, *expected, "partition {partition}: a gap, or a record twice");
        *expected += 1;
    }

    async fn read_until(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let _ = tokio::time::timeout(Duration::from_millis(200), self.step()).await;
        }
    }
}

fn number(line: &str, after: &str) -> u64 {
    let digits = &line[line.find(after).expect("the record names it") + after.len()..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().expect("digits")
}

/// Peak resident memory of a process, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Writes as fast as the server takes it.
async fn write(client: super::harness::Client, topic: &'static str, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let value = "x".repeat(80);
    while !stop.load(Ordering::Relaxed) {
        let records: Vec<_> = (0..BATCH).map(|_| json!({ "value": value })).collect();
        let reply = client.post_json(&format!("/v1/topics/{topic}/records"), &json!({ "records": records })).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        written.fetch_add(BATCH as u64, Ordering::Relaxed);
    }
}

async fn write_for(server: &Server, topic: &'static str, time: Duration) -> u64 {
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> =
        (0..WRITERS).map(|_| tokio::spawn(write(server.client(), topic, stop.clone(), written.clone()))).collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    written.load(Ordering::Relaxed)
}

/// Subscribers that read on until they are told to stop.
struct Audience {
    stop: Arc<AtomicBool>,
    readers: Vec<tokio::task::JoinHandle<Reader>>,
}

impl Audience {
    async fn of(server: &Server, topic: &str, count: usize) -> Self {
        let mut audience = Self { stop: Arc::new(AtomicBool::new(false)), readers: Vec::new() };
        for _ in 0..count {
            let mut reader = Reader::open(server.http(), topic).await;
            let stop = audience.stop.clone();
            audience.readers.push(tokio::spawn(async move {
                reader.read_until(&stop).await;
                reader
            }));
        }
        audience
    }

    /// How many records they were given.
    async fn leave(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut delivered = 0;
        for reader in self.readers {
            delivered += reader.await.unwrap().next.values().sum::<u64>();
        }
        delivered
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_readers_cost_a_cursor_and_resume_without_a_gap() {
    let readers = setting("SLUICE_SLOW_READERS", 60) as usize;
    let time = Duration::from_secs(setting("SLUICE_SLOW_SECONDS", 3));
    let server = Server::start_with(&["--memory", &MEMORY.to_string()]).await;
    for name in ["before", "load"] {
        let made = server.client().post_json("/v1/topics", &json!({"name": name, "partitions": 3})).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    // What the writers get through with the reading half alone: to be read beside what they do with the stopped half.
    let audience = Audience::of(&server, "before", readers / 2).await;
    let before = write_for(&server, "before", time / 3).await;
    audience.leave().await;

    // Something to see, so that a reader can be known to be subscribed.
    let first = server.client().post_json("/v1/topics/load/records", &json!({"records": [{"value": 1}]})).await;
    assert_eq!(first.status, 200, "{first:?}");
    let mut stopped = Vec::new();
    for _ in 0..readers - readers / 2 {
        let mut reader = Reader::open(server.http(), "load").await;
        while reader.next.is_empty() {
            tokio::time::timeout(PATIENCE, reader.step()).await.expect("a first record");
        }
        stopped.push(reader);
    }
    let audience = Audience::of(&server, "load", readers / 2).await;
    let written = write_for(&server, "load", time).await;
    let delivered = audience.leave().await;
    let at_rest = peak_memory(server.pid());

    let topic = server.client().get("/v1/topics/load").await.json();
    let ends: BTreeMap<u64, u64> = (topic["partitions"].as_array().unwrap().iter())
        .map(|p| (p["partition"].as_u64().unwrap(), p["high_watermark"].as_u64().unwrap()))
        .collect();
    // Some read on to the very end, the others for a while: whatever they get must follow what they had.
    for (n, mut reader) in stopped.into_iter().enumerate() {
        let enough: u64 = ends.values().sum::<u64>().min(if n < TO_THE_END { u64::MAX } else { A_WHILE });
        while reader.next.values().sum::<u64>() < enough {
            tokio::time::timeout(PATIENCE, reader.step()).await.expect("a stopped reader catches up");
        }
    }
    let memory = peak_memory(server.pid());
    eprintln!(
        "{readers} readers, half of them stopped, {time:?}: {:.0} records/s written ({:.0} without the stopped ones), \
         {delivered} delivered; peak memory {} MiB, {} MiB when all had resumed",
        written as f64 / time.as_secs_f64(),
        before as f64 / (time / 3).as_secs_f64(),
        at_rest >> 20,
        memory >> 20
    );
    assert!(memory <= MEMORY + PROGRAM, "{} MiB of {} MiB", memory >> 20, MEMORY >> 20);
}

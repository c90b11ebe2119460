//! A small memory budget holds: under large bodies, small ones, and readers that stop reading, all at once; and for the
//! latest record of many keys.

use super::harness::{Client, PATIENCE, Server};
use hyper::{Method, body::Bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MEMORY: u64 = 64 << 20;
/// The program itself beside its budgets: the threads' stacks, what the allocator keeps. Its code is not counted: a debug build
/// has several times that of the real one.
const PROGRAM: u64 = 64 << 20;
const LARGE_WRITERS: usize = 24;
const SMALL_WRITERS: usize = 32;
const STOPPED_READERS: usize = 60;
/// The largest batch that this server says it takes, about.
const LARGE_BODY: usize = 3 << 20;

fn status(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// A budget's number in the metrics.
fn metric(text: &str, name: &str, budget: &str) -> Option<u64> {
    let start = format!("sluice_{name}{{budget=\"{budget}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    stored: AtomicU64,
    turned_away: AtomicU64,
}

/// Sends the same batch again and again. What is turned away says when to come again.
async fn write(client: Client, body: Bytes, records: u64, counts: Arc<Counts>) {
    let headers = [("content-type", "application/json")];
    while !counts.stop.load(Ordering::Relaxed) {
        // A connection that is closed on a refusal is no answer.
        let sent = client.try_request(Method::POST, "/v1/topics/t/records", &headers, body.clone()).await;
        match sent {
            Some(reply) if reply.status == 200 => drop(counts.stored.fetch_add(records, Ordering::Relaxed)),
            Some(reply) => {
                assert_eq!(reply.status, 503, "{reply:?}");
                assert_eq!(reply.json()["code"], "overloaded", "{reply:?}");
                assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
                counts.turned_away.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_budget_holds_under_large_bodies_and_stopped_readers() {
    let server = Server::start_with(&["--memory", &MEMORY.to_string()]).await;
    let topic = serde_json::json!({"name": "t", "partitions": 3, "config": {"flush": "os"}});
    assert_eq!(server.client().post_json("/v1/topics", &topic).await.status, 201);
    let mut stopped = Vec::new();
    for _ in 0..STOPPED_READERS {
        let mut socket = TcpStream::connect(server.http()).await.unwrap();
        socket.write_all(b"GET /v1/topics/t/stream?from=earliest HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        tokio::time::timeout(PATIENCE, socket.read_exact(&mut head)).await.expect("an answer").unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stopped.push(socket); // and is never read again
    }
    let counts = Arc::new(Counts::default());
    let value = "x".repeat(1000);
    let record = format!("{{\"value\":\"{value}\"}}");
    let batch = |records: usize| Bytes::from(format!("{{\"records\":[{}]}}", vec![record.clone(); records].join(",")));
    let (large, small) = (batch(LARGE_BODY / record.len()), batch(2));
    let mut writers = Vec::new();
    for n in 0..LARGE_WRITERS + SMALL_WRITERS {
        let (body, records) =
            if n < LARGE_WRITERS { (large.clone(), (LARGE_BODY / record.len()) as u64) } else { (small.clone(), 2) };
        writers.push(tokio::spawn(write(server.client(), body, records, counts.clone())));
    }
    let mut peaks = [0_u64; 2];
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = server.client().get("/metrics").await.text();
        for (peak, budget) in peaks.iter_mut().zip(["request", "append"]) {
            let (used, limit) = (metric(&text, "memory_bytes", budget), metric(&text, "memory_budget_bytes", budget));
            assert!(used <= limit && limit.is_some(), "{budget}: {used:?} of {limit:?}");
            *peak = used.unwrap_or(0).max(*peak);
        }
    }
    counts.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let (stored, turned_away) = (counts.stored.load(Ordering::Relaxed), counts.turned_away.load(Ordering::Relaxed));
    let code = status(server.pid(), "RssFile:");
    let memory = status(server.pid(), "VmHWM:").saturating_sub(code);
    eprintln!(
        "{stored} records stored, {turned_away} requests turned away, peaks of requests {} and appends {} KiB; peak \
         memory {} MiB, now {} MiB, beside {} MiB of code",
        peaks[0] >> 10,
        peaks[1] >> 10,
        memory >> 20,
        status(server.pid(), "RssAnon:") >> 20,
        code >> 20
    );
    assert!(stored > 0 && turned_away > 0, "{stored} records stored, {turned_away} requests turned away");
    assert!(memory <= MEMORY + PROGRAM, "{} MiB of {} MiB", memory >> 20, MEMORY >> 20);
    // All that was acknowledged is there, and nothing that was not.
    let topic = server.client().get("/v1/topics/t").await.json();
    let ends = topic["partitions"].as_array().unwrap().iter().map(|p| p["high_watermark"].as_u64().unwrap());
    assert!(ends.sum::<u64>() >= stored, "{topic}");
    let text = server.client().get("/metrics").await.text();
    for budget in ["tail", "append", "request", "stream", "sequencer", "view"] {
        assert!(metric(&text, "memory_budget_bytes", budget).is_some_and(|n| n > 0 && n < MEMORY), "{budget}: {text}");
    }
    // What was turned away, or cut off, holds nothing any more.
    let idle = async {
        loop {
            let text = server.client().get("/metrics").await.text();
            let used = ["append", "request"].map(|budget| metric(&text, "memory_bytes", budget));
            if used == [Some(0), Some(0)] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.expect("all that was reserved is given back");
    drop(stopped);
}

/// Keys that no order helps: neighbours in time are far apart in the view.
fn scattered(n: u64) -> String {
    format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_of_many_keys_takes_its_budget_and_not_more() {
    const KEYS: u64 = 300_000;
    // sled's own, what its cache has yet to count, and a budget of 8 MiB.
    const MOST: u64 = 160 << 20;
    let server = Server::start_with(&["--memory", &MEMORY.to_string()]).await;
    let client = server.client();
    let topic = serde_json::json!({"name": "t", "partitions": 1, "config": {"flush": "os"}});
    assert_eq!(client.post_json("/v1/topics", &topic).await.status, 201);
    let value = "x".repeat(50);
    for first in (0..KEYS).step_by(1000) {
        let records: Vec<_> =
            (first..first + 1000).map(|n| serde_json::json!({"key": scattered(n), "value": value})).collect();
        let stored = client.post_json("/v1/topics/t/records", &serde_json::json!({"records": records})).await;
        assert_eq!(stored.status, 200, "{stored:?}");
    }
    let before = status(server.pid(), "VmRSS:");
    // The first question waits while the view is built, and says so if that takes too long.
    let built = async {
        loop {
            let answer = client.get(&format!("/v1/topics/t/latest?key={}", scattered(KEYS / 2))).await;
            match answer.status {
                200 => return,
                503 => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{answer:?}"),
            }
        }
    };
    tokio::time::timeout(6 * PATIENCE, built).await.expect("the view is built");
    let (now, peak) = (status(server.pid(), "VmRSS:"), status(server.pid(), "VmHWM:"));
    eprintln!("{} MiB before the view, {} with it, at most {}", before >> 20, now >> 20, peak >> 20);
    // Before there was a bound, this took more than 1 KiB a key.
    assert!(peak <= before + MOST, "{} MiB became {} MiB, at most {}", before >> 20, now >> 20, peak >> 20);
}

//! What data costs: the size of a topic, of a record, and the number of keys.

use super::super::{
    Bench, CliError, Topic,
    figure::{median, millis},
    histogram,
    http1::{Connection, request},
    load,
    process::Process,
    produce::{self, Kind, Producing},
    replay::{self, Source},
    report,
    subscriber::{Subscriber, Transport},
};
use super::{Plot, points};
use crate::cli::output;
use hdrhistogram::Histogram;
use std::{fmt::Write as _, io, time::Duration};
use tokio::{task::JoinSet, time::Instant};

const GIB: f64 = (1_u64 << 30) as f64;
const MOST_GIB: f64 = 50.0;
/// Free disk beside what is written.
const SPARE_BYTES: f64 = 2.0 * GIB;
/// Bytes that a replay from the middle reads.
const REPLAYED_BYTES: f64 = 128.0 * 1024.0 * 1024.0;
/// Requests whose median is a point.
const REQUESTS: u64 = 50;
const STARTS: usize = 3;
const MOST_RECORD_BYTES: f64 = 10.0 * 1024.0 * 1024.0;
const MOST_KEYS: f64 = 10_000_000.0;
/// How long a view may be built.
const MOST_BUILDING: Duration = Duration::from_secs(600);
const KEY_BATCH: u64 = 2000;
const KEY_VALUE_BYTES: usize = 100;
const FILLERS: u64 = 4;

/// Times of one request, sent again and again.
async fn times(bench: &Bench, server: &Process, path: &str) -> Result<Histogram<u64>, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("{path}: {e}"));
    let mut connection = Connection::open(&bench.sys, &server.address).await.map_err(failed)?;
    let request = request(&server.address, "GET", path, "", b"");
    let mut body = Vec::new();
    let mut times = histogram();
    for _ in 0..REQUESTS {
        let sent = Instant::now();
        match connection.exchange(&request, &mut body).await.map_err(failed)? {
            200 => times.saturating_record(sent.elapsed().as_micros() as u64),
            status => {
                let text = String::from_utf8_lossy(&body);
                return Err(CliError::failed(format!("{path} was refused: {status} {text}")));
            }
        }
    }
    Ok(times)
}

/// One topic that grows: start, seek, and a replay from its middle.
pub async fn topic_size(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    const X: &str = "MiB in the topic";
    let mut start = Plot::new("topic-size-start", "Start after kill -9", X, "ms");
    let mut seek = Plot::new("topic-size-seek", "The first record at the middle, median", X, "ms");
    let mut rate = Plot::new("topic-size-replay", "Replay from the middle", X, "records/s");
    let mut memory = Plot::new("topic-size-memory", "Memory after writing, and after a start", X, "bytes");
    let mut server = bench.own_server().await?;
    let topic = bench.topic(&server, 1, &bench.args.flush).await?;
    let size = bench.args.size;
    let mut stored = 0;
    let mut half_ms = 0;
    for mib in points(1.0, 1024.0 * MOST_GIB * bench.args.extent) {
        let records = (mib * 1024.0 * 1024.0 / size as f64) as u64;
        let free = bench.sys.disk.free_space(bench.folder.path()).unwrap_or(u64::MAX);
        if (records - stored.min(records)) as f64 * size as f64 + SPARE_BYTES > free as f64 {
            start.note = Some(format!("ended there: the disk has {} left", output::bytes(free)));
            break;
        }
        report::doing(&format!("topic of {mib} MiB"));
        if records / 2 > stored {
            stored += replay::fill(bench, &server, &topic, records / 2 - stored, size).await?;
            half_ms = bench.sys.clock.now_ms();
        }
        stored += replay::fill(bench, &server, &topic, records - stored.min(records), size).await?;
        memory.push("after writing", mib, server.resident_bytes().map(|bytes| bytes as f64));
        let mut starts = Vec::new();
        for _ in 0..STARTS {
            server.again().await?;
            starts.push(server.started_in.as_secs_f64() * 1000.0);
        }
        start.push("start", mib, median(&starts));
        memory.push("after a start", mib, server.resident_bytes().map(|bytes| bytes as f64));
        let (name, middle) = (&topic.name, stored / 2);
        let by_offset = format!("/v1/topics/{name}/records?partition=0&offset={middle}&limit=1");
        seek.push("by offset", mib, millis(&times(bench, &server, &by_offset).await?, 0.5));
        let by_time = format!("/v1/topics/{name}/records?since={half_ms}&limit=1");
        seek.push("by time", mib, millis(&times(bench, &server, &by_time).await?, 0.5));
        let read = (stored - middle).min((REPLAYED_BYTES / size as f64) as u64).max(1);
        let query = format!("partition=0&offset={middle}");
        let path = format!("/v1/topics/{name}/stream?{query}");
        let stream = Source::Stream { path, transport: Transport::Sse };
        let pages = Source::Pages { topic: name.clone(), from: query };
        for (series, source) in [("sse", stream), ("pages", pages)] {
            let round = replay::round(bench, &server, &source, read, 1).await?;
            rate.push(series, mib, round.records as f64 / round.seconds);
        }
    }
    Ok(vec![start, seek, rate, memory])
}

/// Records of rising size: produced and replayed.
pub async fn record_size(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    const X: &str = "bytes of a value";
    /// Connections of small and of large records, at most.
    const CONNECTIONS: (u32, u32) = (64, 4);
    /// Bytes of requests under way that the server surely takes; more are refused, and a record counts about three times.
    const UNDER_WAY: f64 = 64.0 * 1024.0 * 1024.0;
    let mut produced =
        Plot::new("record-size-produce", "Single events, one after the other on each connection", X, "bytes/s");
    let mut rate = Plot::new("record-size-produce-rate", "Single events", X, "records/s");
    let mut replayed = Plot::new("record-size-replay", "Replay over SSE", X, "bytes/s");
    let flags = ["--limits-record-bytes=16MiB", "--limits-batch-bytes=32MiB"].map(str::to_owned);
    let more = [flags.as_slice(), &bench.args.server_flag].concat();
    let server = Process::server(&bench.sys, bench.folder.path(), &more).await?;
    for size in points(10.0, (MOST_RECORD_BYTES * bench.args.extent).max(100.0)) {
        report::doing(&format!("records of {size} bytes"));
        let config = serde_json::json!({"flush": bench.args.flush, "max.message.bytes": (32 << 20).to_string()});
        let topic = bench.topic_with(&server, 1, config).await?;
        let most = if size < 1e5 { CONNECTIONS.0 } else { CONNECTIONS.1 };
        let producing = Producing {
            kind: Kind::Single,
            connections: ((UNDER_WAY / (3.0 * size)) as u32).clamp(1, most),
            batch: 1,
            size: size as usize,
            flush: bench.args.flush.clone(),
            partitions: 1,
            rate: None,
        };
        producing.round(bench, &server, &topic.name, bench.warm_up()).await?;
        let requests = |connection| producing.requests(&server.address, &topic.name, connection);
        let outcome = load::run(&bench.sys, &server.address, &producing.load(), &requests, bench.round_time()).await?;
        let records = outcome.accepted_requests();
        let value_bytes = produce::value(size as usize).len() as f64;
        rate.push("produce", size, records as f64 / outcome.seconds);
        produced.push("produce", size, records as f64 * value_bytes / outcome.seconds);
        let path = format!("/v1/topics/{}/stream?from=earliest", topic.name);
        let source = Source::Stream { path, transport: Transport::Sse };
        let read = records.min((REPLAYED_BYTES / size) as u64).max(1);
        let round = replay::round(bench, &server, &source, read, 1).await?;
        replayed.push("replay", size, round.records as f64 * value_bytes / round.seconds);
        bench.delete(&server, topic).await?;
    }
    Ok(vec![produced, rate, replayed])
}

/// More and more keys in a topic read with `view=latest`.
pub async fn keys(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    const X: &str = "keys";
    let mut build = Plot::new("keys-build", "The view's first answer, and a snapshot of all keys", X, "ms");
    let mut look_up = Plot::new("keys-look-up", "The latest record of a key, median", X, "ms");
    let mut memory = Plot::new("keys-memory", "Memory with the view", X, "bytes");
    for count in points(1.0, (MOST_KEYS * bench.args.extent).max(10.0)) {
        report::doing(&format!("{count} keys"));
        let server = bench.own_server().await?;
        let topic = bench.topic(&server, 1, &bench.args.flush).await?;
        let keys = count as u64;
        fill_keys(bench, &server, &topic, keys).await?;
        let middle = format!("/v1/topics/{}/latest?key=key-{}", topic.name, keys / 2);
        build.push("first answer", count, first_answer(bench, &server, &middle).await?);
        look_up.push("look-up", count, millis(&times(bench, &server, &middle).await?, 0.5));
        build.push("snapshot", count, snapshot(bench, &server, &topic, keys).await?);
        memory.push("with the view", count, server.resident_bytes().map(|bytes| bytes as f64));
    }
    Ok(vec![build, look_up, memory])
}

/// One record for each key.
async fn fill_keys(bench: &Bench, server: &Process, topic: &Topic, keys: u64) -> Result<(), CliError> {
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let (sys, address, topic) = (bench.sys.clone(), server.address.clone(), topic.name.clone());
        fillers.spawn(async move {
            let mut connection = Connection::open(&sys, &address).await?;
            let value = String::from_utf8(produce::value(KEY_VALUE_BYTES)).expect("the value is ASCII");
            let mut answer = Vec::new();
            for first in (filler * KEY_BATCH..keys).step_by((FILLERS * KEY_BATCH) as usize) {
                let mut body = String::from("{\"records\":[");
                for key in first..(first + KEY_BATCH).min(keys) {
                    let comma = if key > first { "," } else { "" };
                    write!(body, "{comma}{{\"key\":\"key-{key}\",\"value\":{value}}}").expect("strings take it");
                }
                body.push_str("]}");
                let (path, headers) = (format!("/v1/topics/{topic}/records"), "content-type: application/json\r\n");
                let request = request(&address, "POST", &path, headers, body.as_bytes());
                let status = connection.exchange(&request, &mut answer).await?;
                if status != 200 {
                    return Err(io::Error::other(format!("{status} {}", String::from_utf8_lossy(&answer))));
                }
            }
            Ok(())
        });
    }
    while let Some(filler) = fillers.join_next().await {
        let filled = filler.map_err(io::Error::other).flatten();
        filled.map_err(|e| CliError::failed(format!("filling the topic: {e}")))?;
    }
    Ok(())
}

/// Milliseconds until the view answers. A question waits ten seconds for it, and is then told to come again.
async fn first_answer(bench: &Bench, server: &Process, path: &str) -> Result<f64, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("{path}: {e}"));
    let started = Instant::now();
    let mut connection = Connection::open(&bench.sys, &server.address).await.map_err(failed)?;
    let request = request(&server.address, "GET", path, "", b"");
    let mut body = Vec::new();
    loop {
        match connection.exchange(&request, &mut body).await.map_err(failed)? {
            200 => return Ok(started.elapsed().as_secs_f64() * 1000.0),
            503 if started.elapsed() < MOST_BUILDING => {}
            status => {
                let text = String::from_utf8_lossy(&body);
                return Err(CliError::failed(format!("{path} was refused: {status} {text}")));
            }
        }
    }
}

/// Milliseconds of a snapshot over SSE, which has to give every key.
async fn snapshot(bench: &Bench, server: &Process, topic: &Topic, keys: u64) -> Result<f64, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("the snapshot: {e}"));
    let path = format!("/v1/topics/{}/stream?view=latest", topic.name);
    let started = Instant::now();
    let mut subscriber = Subscriber::open(&bench.sys, &server.address, &path, Transport::Sse).await.map_err(failed)?;
    let mut count = 0;
    while count < keys {
        match subscriber.next(|_| ()).await.map_err(failed)? {
            Some(n) => count += n,
            None => return Err(CliError::failed(format!("the snapshot ended after {count} of {keys} keys"))),
        }
    }
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

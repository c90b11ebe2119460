//! `sluice produce`: lines of stdin become records.
//!
//! **Invariant**: records of one key keep the order of their lines, though several requests are in flight: a key belongs
//! to one lane, and a lane sends a batch only after the one before it was answered. Every batch has an Idempotency-Key
//! of its own, so that sending it again after a lost answer stores nothing twice.

use super::{
    CliError,
    http_client::{Client, HttpError, Target, encode, with_query},
    output::{self, OutputArgs},
    record::{self, OutRecord},
};
use crate::sys::{OsRng, Rng as _};
use crate::types::murmur2;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufRead as _, IsTerminal as _, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// Lines that wait for a lane.
const QUEUED_LINES: usize = 1024;
/// The longest line; the server's limit of a record is far below.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// A batch is sent when it has this many bytes, half of a server's usual limit.
const BATCH_BYTES: usize = 4 << 20;
/// How long a batch that is not full waits for more lines.
const LINGER: Duration = Duration::from_millis(5);
/// How long one batch is tried before its error counts.
const RETRY_FOR: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Store the lines of stdin as records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ProduceArgs {
    /// The topic; made with the server's defaults if there is none and the server may
    topic: String,
    /// Each line is KEY, this, and the value
    #[arg(long, value_name = "TEXT", conflicts_with = "ndjson")]
    key_separator: Option<String>,
    /// The key of every record
    #[arg(long, conflicts_with_all = ["key_separator", "ndjson"])]
    key: Option<String>,
    /// Each line is a record as JSON, as `consume -o json` prints it: {"key":…,"value":…}
    #[arg(long)]
    ndjson: bool,
    /// Store all of it in this partition
    #[arg(long)]
    partition: Option<u32>,
    /// Who must have a record before it counts as stored: all (in-sync replicas), or the leader
    #[arg(long, value_parser = ["all", "leader"], default_value = "all")]
    acks: String,
    /// Records in a request, at most
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Requests in flight, at most
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  echo '{\"home\":1,\"away\":0}' | sluice produce games --key match-1
  sluice produce games --key-separator ':' < scores.txt
  sluice consume games -o json | sluice produce copy-of-games --ndjson
  tail -F app.log | sluice produce logs";

/// A line on its way.
struct Line {
    number: u64,
    record: OutRecord,
}

/// What is stored in a partition so far.
#[derive(Debug, Clone, Copy)]
struct Stored {
    first_offset: i64,
    last_offset: i64,
    count: u64,
}

/// What all lanes share.
struct Run {
    client: Client,
    path: String,
    batch: usize,
    /// Makes the Idempotency-Keys of this run different from all others'.
    id: String,
    stored: AtomicU64,
    /// Some request was answered: from now on a closed port is a restart, and not a slip in the URL.
    reached: AtomicBool,
    partitions: parking_lot::Mutex<BTreeMap<i32, Stored>>,
    /// The line at which the reading stopped; what came before it is still sent.
    bad_line: parking_lot::Mutex<Option<CliError>>,
}

/// Sends all of stdin.
///
/// # Errors
/// The first line or batch that cannot be stored; what came before it stays stored, and is counted.
pub async fn run(args: ProduceArgs) -> Result<(), CliError> {
    let parameters = [("acks", Some(args.acks.clone()))];
    let run = Arc::new(Run {
        client: Client::new(&args.target)?,
        path: with_query(&format!("/v1/topics/{}/records", encode(&args.topic)), &parameters),
        batch: args.batch as usize,
        id: format!("produce-{:016x}", OsRng.next_u64()),
        stored: AtomicU64::new(0),
        reached: AtomicBool::new(false),
        partitions: parking_lot::Mutex::default(),
        bad_line: parking_lot::Mutex::default(),
    });
    if std::io::stdin().is_terminal() {
        eprintln!("one record a line; end with Ctrl-D");
    }
    let mut tasks = JoinSet::new();
    let lanes: Vec<_> = (0..args.in_flight)
        .map(|lane| {
            let (sender, lines) = mpsc::channel(args.batch as usize);
            tasks.spawn(run_lane(run.clone(), lane, lines));
            sender
        })
        .collect();
    let output = args.output;
    tasks.spawn(distribute(run.clone(), read_lines(args), lanes));
    let finished = all(&mut tasks, &run).await;
    let finished = finished.and_then(|()| run.bad_line.lock().take().map_or(Ok(()), Err));
    report(&run, output, finished.is_ok())?;
    finished
}

/// Waits for all, and shows on a terminal how far it is; ends with the first error.
async fn all(tasks: &mut JoinSet<Result<(), CliError>>, run: &Run) -> Result<(), CliError> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval_at(started + Duration::from_secs(1), Duration::from_secs(1));
    let is_terminal = std::io::stderr().is_terminal() && !std::io::stdin().is_terminal();
    loop {
        tokio::select! {
            biased;
            done = tasks.join_next() => match done {
                None => return Ok(()),
                Some(result) => result.map_err(|e| CliError::failed(e.to_string()))??,
            },
            _ = ticks.tick() => if is_terminal {
                let stored = run.stored.load(Ordering::Relaxed);
                eprint!("\r{stored} records, {:.0}/s ", stored as f64 / started.elapsed().as_secs_f64());
            },
        }
    }
}

/// Reads stdin on a thread of its own, because reading it blocks.
fn read_lines(args: ProduceArgs) -> mpsc::Receiver<Result<Line, CliError>> {
    let (sender, lines) = mpsc::channel(QUEUED_LINES);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        for number in 1_u64.. {
            let mut bytes = Vec::new();
            let line = match (&mut input).take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes) {
                Ok(0) => break,
                Ok(n) if n as u64 == MAX_LINE_BYTES => Err(format!("it is longer than {MAX_LINE_BYTES} bytes")),
                Ok(_) => parse(&args, trim_end(&bytes)),
                Err(e) => Err(e.to_string()),
            };
            let line = match line {
                Ok(None) => continue,
                Ok(Some(record)) => Ok(Line { number, record }),
                Err(e) => Err(CliError::failed(format!("line {number}: {e}"))),
            };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                break;
            }
        }
    });
    lines
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// One line; `None` for one that says nothing.
fn parse(args: &ProduceArgs, line: &[u8]) -> Result<Option<OutRecord>, String> {
    if args.ndjson {
        return if line.trim_ascii().is_empty() { Ok(None) } else { record::from_json(line, args.partition).map(Some) };
    }
    let (key, value) = match &args.key_separator {
        None => (args.key.as_deref().map(str::as_bytes), line),
        Some(separator) => {
            let at = memchr::memmem::find(line, separator.as_bytes())
                .ok_or_else(|| format!("there is no '{separator}' after a key"))?;
            (Some(&line[..at]), &line[at + separator.len()..])
        }
    };
    Ok(Some(record::from_bytes(key, value, args.partition)))
}

/// Gives each line to its lane.
async fn distribute(
    run: Arc<Run>,
    mut lines: mpsc::Receiver<Result<Line, CliError>>,
    lanes: Vec<mpsc::Sender<Line>>,
) -> Result<(), CliError> {
    let mut keyless = 0;
    while let Some(line) = lines.recv().await {
        let line = match line {
            Ok(line) => line,
            Err(e) => {
                *run.bad_line.lock() = Some(e);
                break;
            }
        };
        let lane = match &line.record.key {
            Some(key) => murmur2(key) as usize % lanes.len(),
            None => {
                keyless += 1;
                keyless / run.batch % lanes.len()
            }
        };
        if lanes[lane].send(line).await.is_err() {
            break; // the lane failed, and says so itself
        }
    }
    Ok(())
}

async fn run_lane(run: Arc<Run>, lane: u32, mut lines: mpsc::Receiver<Line>) -> Result<(), CliError> {
    for number in 0_u64.. {
        let Some(first) = lines.recv().await else { break };
        let deadline = Instant::now() + LINGER;
        let mut bytes = first.record.json.len();
        let mut batch = vec![first];
        while batch.len() < run.batch && bytes < BATCH_BYTES {
            match tokio::time::timeout_at(deadline, lines.recv()).await {
                Ok(Some(line)) => {
                    bytes += line.record.json.len();
                    batch.push(line);
                }
                Ok(None) | Err(_) => break,
            }
        }
        send(&run, &batch, &format!("{}-{lane}-{number}", run.id)).await?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Receipt {
    results: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    partition: i32,
    offset: i64,
}

async fn send(run: &Run, batch: &[Line], idempotency_key: &str) -> Result<(), CliError> {
    let mut body = String::from("{\"records\":[");
    for (i, line) in batch.iter().enumerate() {
        body.push_str(if i > 0 { "," } else { "" });
        body.push_str(&line.record.json);
    }
    body.push_str("]}");
    let body = Bytes::from(body);
    let headers = [("content-type", "application/json"), ("idempotency-key", idempotency_key)];
    let give_up = Instant::now() + RETRY_FOR;
    let mut backoff = FIRST_BACKOFF;
    loop {
        let answer = match run.client.send(Method::POST, &run.path, &headers, body.clone()).await {
            Ok(answer) => run.client.whole(answer).await,
            Err(e) => Err(e),
        };
        let e = match answer {
            Ok(bytes) => {
                run.reached.store(true, Ordering::Relaxed);
                let receipt: Receipt = serde_json::from_slice(&bytes)
                    .map_err(|e| HttpError::Strange { url: run.client.url().to_owned(), cause: e.to_string() })?;
                note(run, &receipt);
                return Ok(());
            }
            Err(e) => e,
        };
        let never_reached = matches!(e, HttpError::Connect { .. }) && !run.reached.load(Ordering::Relaxed);
        if !e.is_retryable() || never_reached || Instant::now() >= give_up {
            return Err(CliError::failed(format!("{e}{}", bad_lines(&e, batch))));
        }
        let asked = match &e {
            HttpError::Problem(problem) => problem.retry_after().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        tokio::time::sleep(asked.clamp(backoff, MAX_BACKOFF.max(backoff))).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Which lines a problem is about, as far as it says so.
fn bad_lines(e: &HttpError, batch: &[Line]) -> String {
    const SHOWN: usize = 5;
    let HttpError::Problem(problem) = e else { return String::new() };
    let Some(results) = problem.body["results"].as_array() else { return String::new() };
    results
        .iter()
        .filter_map(|result| {
            let line = batch.get(usize::try_from(result["index"].as_u64()?).ok()?)?;
            let why = result["detail"].as_str().or(result["problem"]["detail"].as_str())?;
            Some(format!("\nline {}: {why}", line.number))
        })
        .take(SHOWN)
        .collect()
}

fn note(run: &Run, receipt: &Receipt) {
    run.stored.fetch_add(receipt.results.len() as u64, Ordering::Relaxed);
    let mut partitions = run.partitions.lock();
    for place in &receipt.results {
        let stored = partitions.entry(place.partition).or_insert(Stored {
            first_offset: place.offset,
            last_offset: place.offset,
            count: 0,
        });
        stored.first_offset = stored.first_offset.min(place.offset);
        stored.last_offset = stored.last_offset.max(place.offset);
        stored.count += 1;
    }
}

fn report(run: &Run, output: OutputArgs, is_whole: bool) -> Result<(), CliError> {
    let stored = run.stored.load(Ordering::Relaxed);
    let partitions = run.partitions.lock();
    if output.is_json() {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|(partition, s)| {
                json!({"partition": partition, "first_offset": s.first_offset, "last_offset": s.last_offset,
                       "count": s.count})
            })
            .collect();
        return output::json_line(&json!({ "stored": stored, "partitions": partitions }));
    }
    let start = if std::io::stderr().is_terminal() && !std::io::stdin().is_terminal() { "\r" } else { "" };
    let end = if is_whole { "" } else { " before the failure" };
    let (records, partitions) = (output::count(stored, "record"), output::count(partitions.len() as u64, "partition"));
    eprintln!("{start}{records} stored in {partitions}{end}");
    Ok(())
}

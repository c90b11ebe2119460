//! How soon a new message is at a worker that waits for it: from the moment its producer had the answer.
//!
//! One message at a time, and only once all workers wait again, so that nothing but the way through an idle queue is
//! measured. A message that came before its producer's answer took no time.

use super::{
    Bench, CliError, Round,
    figure::{Figure, Measure},
    histogram,
    http1::{Connection, request},
    process::Process,
    produce::{self, PARTITIONS},
    queue::{acknowledgement, leases},
    subscriber::Numbers,
};
use crate::sys::Sys;
use std::{io, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

const TARGET_MS: f64 = 2.0;
/// How long a worker's call waits.
const WAIT_MS: u32 = 30_000;
/// Until the worker that had a message waits for the next.
const PAUSE: Duration = Duration::from_millis(3);
/// A message that takes longer is lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// A message's number, and when a worker had it.
type Receipt = (u64, Instant);

pub(super) async fn measure(bench: &Bench, server: &Process, bare: &Process, workers: u32) -> Result<Figure, CliError> {
    let flush = &bench.args.flush;
    let topic = bench.topic(server, bench.args.partitions.unwrap_or(PARTITIONS), flush).await?;
    let queue = format!("/v1/queues/{}", topic.name);
    bench.ask(server, "PUT", &queue, &format!("{{\"topic\":\"{}\"}}", topic.name)).await?;
    let name = format!("queue-latency/{flush}/w={workers}");
    let mut figures = [Figure::new(name, "ms (p99)", Measure::LatencyMs(0.99))
        .with_latency_of("receipt by a waiting worker, from when the producer had its answer")
        .with_target(TARGET_MS, None)];
    bench
        .alternate(
            &mut figures,
            async |duration| round(bench, bare, &topic.name, "/v1/queues/bare", workers, duration).await,
            async |duration| round(bench, server, &topic.name, &queue, workers, duration).await,
        )
        .await?;
    bench.ask(server, "DELETE", &queue, "").await?;
    bench.delete(server, topic).await?;
    let [figure] = figures;
    Ok(figure)
}

async fn round(
    bench: &Bench,
    target: &Process,
    topic: &str,
    queue: &str,
    workers: u32,
    duration: Duration,
) -> Result<Round, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("{}: {e}", target.address));
    let (sender, mut receipts) = mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    for _ in 0..workers {
        waiting.spawn(wait(bench.sys.clone(), target.address.clone(), queue.to_owned(), sender.clone()));
    }
    let mut producer = Connection::open(&bench.sys, &target.address).await.map_err(failed)?;
    let (before, start) = (target.costs(), Instant::now());
    let (mut latency, mut answer) = (histogram(), Vec::new());
    tokio::time::sleep(PAUSE).await;
    while start.elapsed() < duration || latency.is_empty() {
        let n = latency.len();
        let path = format!("/v1/topics/{topic}/events?key=key-{n}");
        let value = produce::numbered(n, bench.args.size);
        let event = request(&target.address, "POST", &path, "content-type: application/json\r\n", &value);
        let status = producer.exchange(&event, &mut answer).await.map_err(failed)?;
        let answered = Instant::now();
        if status != 201 {
            return Err(CliError::failed(format!("an event was refused: {status}")));
        }
        let at = loop {
            let receipt = tokio::select! {
                biased;
                receipt = tokio::time::timeout(DELIVERY_TIMEOUT, receipts.recv()) => receipt.ok().flatten(),
                Some(ended) = waiting.join_next() => {
                    let why = ended.map_err(|e| e.to_string()).flatten();
                    return Err(CliError::failed(format!("a worker ended: {}", why.err().unwrap_or_default())));
                }
            };
            match receipt {
                Some((got, at)) if got == n => break at,
                Some(_) => {}
                None => return Err(CliError::failed(format!("message {n} came to no worker"))),
            }
        };
        latency.saturating_record(at.saturating_duration_since(answered).as_micros() as u64);
        tokio::time::sleep(PAUSE).await;
    }
    waiting.shutdown().await;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Round { records: latency.len(), seconds, latency, costs: target.costs().since(&before) })
}

/// A worker: waits, says what it got and when, acknowledges.
async fn wait(
    sys: Sys,
    address: String,
    queue: String,
    receipts: mpsc::UnboundedSender<Receipt>,
) -> Result<(), String> {
    let mut connection = Connection::open(&sys, &address).await.map_err(|e| e.to_string())?;
    let wanted = format!("{{\"max\":1,\"wait_ms\":{WAIT_MS}}}");
    let json = "content-type: application/json\r\n";
    let receive = request(&address, "POST", &format!("{queue}/receive"), json, wanted.as_bytes());
    let mut answer = Vec::new();
    loop {
        let status = connection.exchange(&receive, &mut answer).await.map_err(|e| e.to_string())?;
        let now = Instant::now();
        if status != 200 {
            return Err(format!("a receive was refused: {status} {}", String::from_utf8_lossy(&answer)));
        }
        Numbers::default().find(&answer, |n| {
            let _ = receipts.send((n, now)); // the round may be over
        });
        let settle = match leases(&answer) {
            leases if leases.is_empty() => continue,
            leases => acknowledgement(&address, &queue, &leases),
        };
        let status = connection.exchange(&settle, &mut answer).await.map_err(|e| e.to_string())?;
        if status != 200 {
            return Err(format!("an acknowledgement was refused: {status}"));
        }
    }
}

//! A queue worked through: receive and acknowledge, by several workers, in several sizes, with order by key and without.
//!
//! The bare handler takes the very same two requests for a message, so the share of its rate is what a queue leaves of the
//! stack's own.

use super::{
    Bench, CliError, Round,
    figure::{Figure, Measure},
    histogram,
    http1::{Connection, request},
    load::{self, Load},
    process::Process,
    produce::{Kind, PARTITIONS, Producing},
    queue_latency,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Records of one request that makes them ready.
const FEED: u32 = 1_000;
/// How long records are made ready before it is counted how many.
const FEED_TIME: Duration = Duration::from_millis(100);
/// Messages a second that are wanted: in batches of this size, by so many workers.
const TARGET: (u32, u32, f64) = (100, 16, 100_000.0);
/// Of single messages by so many workers: messages a second, and the share of the bare handler's.
const SINGLES: (u32, f64, f64) = (16, 25_000.0, 0.6);

/// All sizes, or the one that `--batch` and `--connections` name; and how long a new message takes to a waiting worker.
pub(super) async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let workers = bench.args.connections.map_or(vec![1, 16], |n| vec![n]);
    let batches = bench.args.batch.map_or(vec![1, 10, 100], |n| vec![n.min(1000)]);
    let mut figures = Vec::new();
    for order in ["none", "key"] {
        for &workers in &workers {
            for &batch in &batches {
                figures.push(measure(bench, &server, &bare, Working { workers, batch, order }).await?);
            }
        }
    }
    for &workers in &workers {
        figures.push(queue_latency::measure(bench, &server, &bare, workers).await?);
    }
    Ok(figures)
}

#[derive(Clone, Copy)]
struct Working {
    workers: u32,
    batch: u32,
    order: &'static str,
}

impl Working {
    fn figure(self) -> Figure {
        let Self { workers, batch, order } = self;
        let name = format!("queue/{batch}/order={order}/w={workers}");
        let figure = Figure::new(name, "messages/s", Measure::Rate).with_latency_of("receive and acknowledge");
        if (batch, workers) == (TARGET.0, TARGET.1) {
            figure.with_target(TARGET.2, None)
        } else if (batch, workers) == (1, SINGLES.0) {
            figure.with_target(SINGLES.1, Some(SINGLES.2))
        } else {
            figure
        }
    }

    /// More messages than it can take in a second: a round that runs dry ends early.
    fn ready_per_second(self) -> f64 {
        (f64::from(self.workers * self.batch) * 5_000.0).clamp(20_000.0, 400_000.0)
    }
}

async fn measure(bench: &Bench, server: &Process, bare: &Process, working: Working) -> Result<Figure, CliError> {
    let topic = bench.topic(server, bench.args.partitions.unwrap_or(PARTITIONS), "os").await?;
    let queue = format!("/v1/queues/{}", topic.name);
    let body = format!("{{\"topic\":\"{}\",\"order\":\"{}\"}}", topic.name, working.order);
    bench.ask(server, "PUT", &queue, &body).await?;
    let producing = Producing { batch: FEED, rate: None, ..Producing::new(bench, Kind::Batch, 4) };
    let bare_queue = format!("/v1/queues/bare-{}", bench.args.size);
    let mut figures = [working.figure()];
    let mut ready = 0;
    bench
        .alternate(
            &mut figures,
            async |duration| work(bench, bare, &bare_queue, working, duration).await,
            async |duration: Duration| {
                let wanted = (duration.as_secs_f64() * working.ready_per_second()) as u64;
                let requests = |connection| producing.requests(&server.address, &topic.name, connection);
                ready += feed(bench, server, wanted.saturating_sub(ready), &requests).await?;
                let round = work(bench, server, &queue, working, duration).await?;
                ready = ready.saturating_sub(round.records);
                Ok(round)
            },
        )
        .await?;
    bench.ask(server, "DELETE", &queue, "").await?;
    bench.delete(server, topic).await?;
    let [mut figure] = figures;
    figure.more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
    Ok(figure)
}

/// Makes at least so many records ready; gives how many.
async fn feed(bench: &Bench, server: &Process, records: u64, requests: &load::Requests<'_>) -> Result<u64, CliError> {
    let load = Load { connections: 4, per_request: u64::from(FEED), rate: None, tolerant: false };
    let mut made = 0;
    while made < records {
        made += load::round(&bench.sys, server, &load, requests, FEED_TIME).await?.records;
    }
    Ok(made)
}

/// Works for a while, or until nothing is left.
async fn work(
    bench: &Bench,
    target: &Process,
    queue: &str,
    working: Working,
    duration: Duration,
) -> Result<Round, CliError> {
    let before = target.costs();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..working.workers {
        let (sys, address, queue) = (bench.sys.clone(), target.address.clone(), queue.to_owned());
        running.spawn(async move {
            let failed = |e: std::io::Error| CliError::failed(format!("{address}: {e}"));
            let mut connection = Connection::open(&sys, &address).await.map_err(failed)?;
            let json = "content-type: application/json\r\n";
            let wanted = format!("{{\"max\":{},\"wait_ms\":50}}", working.batch);
            let receive = request(&address, "POST", &format!("{queue}/receive"), json, wanted.as_bytes());
            let (mut latency, mut count, mut answer) = (histogram(), 0u64, Vec::new());
            while start.elapsed() < duration {
                let begun = Instant::now();
                let status = connection.exchange(&receive, &mut answer).await.map_err(failed)?;
                let leases = leases(&answer);
                if status != 200 {
                    return Err(CliError::failed(format!("a receive was refused: {status}")));
                }
                if leases.is_empty() {
                    break;
                }
                let settle = acknowledgement(&address, &queue, &leases);
                let messages = leases.len() as u64;
                let status = connection.exchange(&settle, &mut answer).await.map_err(failed)?;
                if status != 200 {
                    return Err(CliError::failed(format!("an acknowledgement was refused: {status}")));
                }
                count += messages;
                latency.record(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)).ok();
            }
            Ok((count, latency, start.elapsed()))
        });
    }
    let mut round = Round { records: 0, seconds: 0.0, latency: histogram(), costs: target.costs().since(&before) };
    while let Some(done) = running.join_next().await {
        let (count, latency, took) = done.map_err(|e| CliError::failed(e.to_string()))??;
        round.records += count;
        round.latency.add(&latency).expect("all histograms have one shape");
        round.seconds = round.seconds.max(took.as_secs_f64());
    }
    round.costs = target.costs().since(&before);
    Ok(round)
}

/// The request that acknowledges these.
pub(super) fn acknowledgement(host: &str, queue: &str, leases: &[&str]) -> Vec<u8> {
    let body = format!("{{\"ack\":[{}]}}", leases.join(","));
    request(host, "POST", &format!("{queue}/settle"), "content-type: application/json\r\n", body.as_bytes())
}

/// The tokens of an answer, each with its quotes.
pub(super) fn leases(answer: &[u8]) -> Vec<&str> {
    const FIELD: &str = "{\"lease\":";
    let text = std::str::from_utf8(answer).unwrap_or_default();
    text.match_indices(FIELD)
        .filter_map(|(at, _)| {
            let token = &text[at + FIELD.len()..];
            let end = token.get(1..)?.find('"')?;
            token.get(..end + 2)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn leases_are_found() {
        let answer = br#"{"messages":[{"lease":"ab-_1","attempt":1,"record":{"value":1}},{"lease":"c","attempt":2}]}"#;
        assert_eq!(super::leases(answer), ["\"ab-_1\"", "\"c\""]);
    }
}

//! A queue worked through: receive and acknowledge, by several workers, in several sizes, with order by key and without.
//!
//! The bare handler's figure is of two requests for as many records; a message takes two as well.

use super::{
    Bench, CliError, Round,
    figure::{Figure, Measure},
    histogram,
    http1::{Connection, request},
    load::{self, Load},
    process::Process,
    produce::{Kind, Producing},
};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Records made ready for a second of each round, at most: a round that runs dry ends early.
const READY_PER_SECOND: f64 = 150_000.0;
/// Records of one request that makes them ready.
const FEED: u32 = 1_000;

/// All sizes, or the one that `--batch` and `--connections` name.
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
    Ok(figures)
}

#[derive(Clone, Copy)]
struct Working {
    workers: u32,
    batch: u32,
    order: &'static str,
}

async fn measure(bench: &Bench, server: &Process, bare: &Process, working: Working) -> Result<Figure, CliError> {
    let Working { workers, batch, order } = working;
    let name = format!("queue/{batch}/order={order}/w={workers}");
    let mut figure = Figure::new(name, "messages/s", Measure::Rate).with_latency_of("receive and acknowledge");
    if (workers, batch, order) == (16, 100, "none") {
        figure = figure.with_target(100_000.0, None);
    }
    let topic = bench.topic(server, 3, "os").await?;
    let queue = format!("/v1/queues/{}", topic.name);
    let body = format!("{{\"topic\":\"{}\",\"order\":\"{order}\"}}", topic.name);
    bench.ask(server, "PUT", &queue, &body).await?;
    let producing = |connections, batch| Producing {
        connections,
        batch,
        flush: "os".to_owned(),
        ..Producing::new(bench, Kind::Batch, connections)
    };
    let mut figures = [figure];
    bench
        .alternate(
            &mut figures,
            async |duration| {
                let mut round = producing(workers, batch).round(bench, bare, &topic.name, duration).await?;
                round.records /= 2;
                Ok(round)
            },
            async |duration: Duration| {
                let records = (duration.as_secs_f64() * READY_PER_SECOND) as u64;
                let requests = |connection| producing(4, FEED).requests(&server.address, &topic.name, connection);
                feed(bench, server, records, &requests).await?;
                work(bench, server, &queue, working, duration).await
            },
        )
        .await?;
    bench.ask(server, "DELETE", &queue, "").await?;
    bench.delete(server, topic).await?;
    let [figure] = figures;
    Ok(figure)
}

/// Makes at least so many records ready.
async fn feed(bench: &Bench, server: &Process, records: u64, requests: &load::Requests<'_>) -> Result<(), CliError> {
    let load = Load { connections: 4, per_request: u64::from(FEED), rate: None, tolerant: false };
    let mut made = 0;
    while made < records {
        made += load::round(&bench.sys, server, &load, requests, Duration::from_millis(300)).await?.records;
    }
    Ok(())
}

/// Works for a while, or until nothing is left.
async fn work(
    bench: &Bench,
    server: &Process,
    queue: &str,
    working: Working,
    duration: Duration,
) -> Result<Round, CliError> {
    let before = server.costs();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..working.workers {
        let (sys, address, queue) = (bench.sys.clone(), server.address.clone(), queue.to_owned());
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
                let body = format!("{{\"ack\":[{}]}}", leases.join(","));
                let settle = request(&address, "POST", &format!("{queue}/settle"), json, body.as_bytes());
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
    let mut round = Round { records: 0, seconds: 0.0, latency: histogram(), costs: server.costs().since(&before) };
    while let Some(done) = running.join_next().await {
        let (count, latency, took) = done.map_err(|e| CliError::failed(e.to_string()))??;
        round.records += count;
        round.latency.add(&latency).expect("all histograms have one shape");
        round.seconds = round.seconds.max(took.as_secs_f64());
    }
    round.costs = server.costs().since(&before);
    Ok(round)
}

/// The tokens of an answer, each with its quotes.
fn leases(answer: &[u8]) -> Vec<&str> {
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

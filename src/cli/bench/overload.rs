//! Twice as much as the server can take: what it accepts and refuses, how fast, and how long it needs afterwards.

use super::{
    Bench, CliError,
    figure::{Better, Figure, millis},
    histogram,
    http1::{Connection, request},
    load::{self, Load},
    process::Process,
    produce::{self, Kind, Producing},
    report,
};
use hdrhistogram::Histogram;
use std::time::Duration;
use tokio::time::Instant;

/// How much more is offered than was measured to be its capacity.
const FACTOR: f64 = 2.0;
/// Connections: so many that what they have in flight is more than the server may hold.
const CONNECTIONS: u32 = 1000;
/// Connections that find the capacity.
const CAPACITY_CONNECTIONS: u32 = 32;
const BATCH: u32 = 100;
/// Requests that say what is normal.
const PROBES: u64 = 100;
/// So many answers in a row within so many times what is normal: recovered.
const IN_A_ROW: u32 = 20;
const NORMAL_TIMES: f64 = 3.0;
/// At least this counts as normal, in milliseconds: a disk has its moods.
const NORMAL_MS: f64 = 5.0;
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Capacity, then overload, then recovery; each round anew.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let server = bench.server().await?;
    let args = &bench.args;
    let partitions = args.partitions.unwrap_or(1);
    let topic = bench.topic(&server, partitions, &args.flush).await?;
    let kind = if args.batch == Some(1) { Kind::Single } else { Kind::Batch };
    let closed = Producing {
        kind,
        connections: CAPACITY_CONNECTIONS,
        batch: args.batch.unwrap_or(BATCH),
        size: args.size,
        flush: args.flush.clone(),
        partitions,
        rate: None,
    };
    let mut accepted = Figure::plain("overload/accepted", "records/s", Better::Higher);
    accepted.limit_of = "the same server's capacity, closed loop";
    let mut p99 = Figure::plain("overload/accepted-p99", "ms", Better::Lower);
    p99.limit_of = "at capacity, closed loop";
    // A load generator on the same machine is late itself under twice the capacity: this is the server's part.
    let mut served = Figure::plain("overload/accepted-p99-from-send", "ms", Better::Lower);
    served.limit_of = "at capacity, closed loop";
    let mut recovery = Figure::plain("overload/recovery", "ms", Better::Lower);
    let shares = ["2xx", "429", "503", "other", "broken", "unsent"];
    let mut shares = shares.map(|name| {
        let better = if name == "2xx" { Better::Higher } else { Better::Lower };
        Figure::plain(format!("overload/share-{name}"), "%", better)
    });
    closed.round(bench, &server, &topic.name, bench.warm_up()).await?;
    for number in 1..=args.rounds {
        let normal = millis(&probe(bench, &server, &topic.name).await?, 0.99);
        let capacity = closed.round(bench, &server, &topic.name, bench.round_time()).await?;
        let rate = capacity.records as f64 / capacity.seconds;
        let per_request = closed.load().per_request;
        let load = Load {
            connections: args.connections.unwrap_or(CONNECTIONS),
            per_request,
            rate: Some(FACTOR * rate / per_request as f64),
            tolerant: true,
        };
        let open = Producing { connections: load.connections, ..closed.clone() };
        let requests = |connection| open.requests(&server.address, &topic.name, connection);
        let outcome = load::run(&bench.sys, &server.address, &load, &requests, bench.round_time()).await?;
        accepted.values.push(outcome.accepted_requests() as f64 * per_request as f64 / outcome.seconds);
        accepted.limits.push(rate);
        p99.values.push(millis(&outcome.accepted, 0.99));
        p99.limits.push(millis(&capacity.latency, 0.99));
        served.values.push(millis(&outcome.served, 0.99));
        served.limits.push(millis(&capacity.latency, 0.99));
        for (figure, share) in shares.iter_mut().zip(shares_of(&outcome)) {
            figure.values.push(share);
        }
        recovery.values.push(recover(bench, &server, &topic.name, normal).await?);
        report::progress(number, &accepted);
    }
    accepted.more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
    bench.delete(&server, topic).await?;
    Ok([accepted, p99, served, recovery].into_iter().chain(shares).collect())
}

/// Parts of what was due, in percent: accepted, 429, 503, other answers, broken connections, never sent.
fn shares_of(outcome: &load::Outcome) -> [f64; 6] {
    let of = |status: u16| outcome.statuses.get(&status).copied().unwrap_or_default();
    let (accepted, answers) = (outcome.accepted_requests(), outcome.statuses.values().sum::<u64>());
    let other = answers - accepted - of(429) - of(503) - of(0);
    [accepted, of(429), of(503), other, of(0), outcome.unsent].map(|n| 100.0 * n as f64 / outcome.due().max(1) as f64)
}

fn one_request(bench: &Bench, server: &Process, topic: &str) -> Vec<u8> {
    let value = produce::value(bench.args.size);
    let path = format!("/v1/topics/{topic}/events");
    request(&server.address, "POST", &path, "content-type: application/json\r\n", &value)
}

/// What a lone request takes.
async fn probe(bench: &Bench, server: &Process, topic: &str) -> Result<Histogram<u64>, CliError> {
    let failed = |e: std::io::Error| CliError::failed(format!("probing: {e}"));
    let request = one_request(bench, server, topic);
    let mut connection = Connection::open(&bench.sys, &server.address).await.map_err(failed)?;
    let mut latency = histogram();
    for _ in 0..PROBES {
        let sent = Instant::now();
        connection.exchange(&request, &mut Vec::new()).await.map_err(failed)?;
        latency.saturating_record(sent.elapsed().as_micros() as u64);
    }
    Ok(latency)
}

/// Milliseconds until lone requests take about as long as before.
async fn recover(bench: &Bench, server: &Process, topic: &str, normal_ms: f64) -> Result<f64, CliError> {
    let request = one_request(bench, server, topic);
    let start = Instant::now();
    let most = Duration::from_secs_f64((normal_ms * NORMAL_TIMES).max(NORMAL_MS) / 1000.0);
    let (mut row, mut since) = (0, start);
    let mut connection = None;
    let mut body = Vec::new();
    while row < IN_A_ROW {
        if start.elapsed() > RECOVERY_TIMEOUT {
            return Err(CliError::failed("the server did not recover within a minute"));
        }
        let sent = Instant::now();
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::open(&bench.sys, &server.address).await {
                Ok(open) => open,
                Err(_) => continue,
            },
        };
        let answer = open.exchange(&request, &mut body).await;
        let good = matches!(answer, Ok(200..300)) && sent.elapsed() <= most;
        if answer.is_ok() && !open.is_closing() {
            connection = Some(open);
        }
        match good {
            true if row == 0 => (row, since) = (1, sent),
            true => row += 1,
            false => row = 0,
        }
    }
    Ok((since - start).as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn shares_make_a_hundred() {
        let statuses = BTreeMap::from([(0, 1), (200, 50), (201, 20), (429, 10), (503, 5), (404, 4)]);
        let (accepted, served) = (histogram(), histogram());
        let outcome = load::Outcome { statuses, accepted, served, unsent: 10, start: Instant::now(), seconds: 1.0 };
        assert_eq!(shares_of(&outcome), [70.0, 10.0, 5.0, 4.0, 1.0, 10.0]);
    }
}

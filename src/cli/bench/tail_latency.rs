//! From the moment an event should be sent until a subscriber has it: at a fixed rate, so that the slow ones count.

use super::{
    Bench, CliError, Round,
    figure::{Figure, Measure},
    histogram,
    http1::request,
    load::{self, Load},
    process::Process,
    produce::{self, PARTITIONS},
    subscriber::{Numbers, Subscriber, Transport},
};
use std::{io, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Events a second, where nothing else is said: far below what it can take.
const RATE: f64 = 1000.0;
/// So many that a slow answer does not hold up the next event.
const CONNECTIONS: u32 = 64;
/// An event that takes longer is lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Each transport.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let args = &bench.args;
    let rate = args.rate.unwrap_or(RATE);
    let mut figures = Vec::new();
    for transport in args.transports() {
        let topic = bench.topic(&server, args.partitions.unwrap_or(PARTITIONS), &args.flush).await?;
        let name = format!("tail-latency/{}/{}/rate={rate}", transport.name(), args.flush);
        let mut measured = [Figure::new(name, "ms (p99)", Measure::LatencyMs(0.99))
            .with_latency_of("receipt by a subscriber, from when the event was due")];
        bench
            .alternate(
                &mut measured,
                async |duration| round(bench, &bare, &topic.name, transport, rate, duration).await,
                async |duration| round(bench, &server, &topic.name, transport, rate, duration).await,
            )
            .await?;
        bench.delete(&server, topic).await?;
        figures.extend(measured);
    }
    Ok(figures)
}

async fn round(
    bench: &Bench,
    target: &Process,
    topic: &str,
    transport: Transport,
    rate: f64,
    duration: Duration,
) -> Result<Round, CliError> {
    let failed = |e: io::Error| CliError::failed(format!("subscribing: {e}"));
    let path = format!("/v1/topics/{topic}/stream?from=latest");
    let mut subscriber = Subscriber::open(&bench.sys, &target.address, &path, transport).await.map_err(failed)?;
    let (sender, mut receipts) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        let mut numbers = Numbers::default();
        loop {
            // One time for all that came in one piece: they can be taken no sooner.
            let more = subscriber.next(|bytes| {
                let now = Instant::now();
                numbers.find(bytes, |n| {
                    let _ = sender.send((n, now)); // the round may be over
                });
            });
            if more.await?.is_none() {
                return Ok::<_, io::Error>(());
            }
        }
    });
    let connections = bench.args.connections.unwrap_or(CONNECTIONS);
    let load = Load { connections, per_request: 1, rate: Some(rate), tolerant: false };
    let each = (rate * duration.as_secs_f64() / f64::from(connections)).ceil() as u64 + 1;
    let size = bench.args.size;
    let requests = |connection: u32| {
        let event = |k: u64| {
            let n = k * u64::from(connections) + u64::from(connection);
            let path = format!("/v1/topics/{topic}/events?key=key-{}", n % 10_000);
            let value = produce::numbered(n, size);
            request(&target.address, "POST", &path, "content-type: application/json\r\n", &value)
        };
        (0..each).map(event).collect()
    };
    let before = target.costs();
    let outcome = load::run(&bench.sys, &target.address, &load, &requests, duration).await?;
    let mut latency = histogram();
    let sent = outcome.accepted_requests();
    while latency.len() < sent {
        let receipt = tokio::time::timeout(DELIVERY_TIMEOUT, receipts.recv()).await.ok().flatten();
        let Some((n, at)) = receipt else {
            return Err(CliError::failed(format!("only {} of {sent} events came to the subscriber", latency.len())));
        };
        let due = load::due(outcome.start, rate, n);
        latency.saturating_record(at.saturating_duration_since(due).as_micros() as u64);
    }
    reading.abort();
    Ok(Round { records: sent, seconds: outcome.seconds, latency, costs: target.costs().since(&before) })
}

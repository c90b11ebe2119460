//! What live subscribers cost, each to everything or each to a key of its own.

use super::super::{
    Bench, CliError, Round,
    audience::{Audience, Plan},
    figure::millis,
    process, report,
};
use super::{Plot, points};

const MOST: f64 = 20_000.0;
/// Descriptors that the bench and the server need for themselves.
const OTHER_DESCRIPTORS: u64 = 400;
const X: &str = "subscribers";

/// How many there can be, and what to say if that is fewer than were asked for.
fn most(bench: &Bench) -> (f64, Option<String>) {
    let wanted = (MOST * bench.args.extent).max(10.0);
    let possible = process::descriptor_limit().saturating_sub(OTHER_DESCRIPTORS) as f64;
    match wanted > possible {
        true => (possible, Some(format!("capped at {possible} by the limit of open descriptors (ulimit -n)"))),
        false => (wanted, None),
    }
}

pub async fn plots(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    let mut rate = Plot::new("subscribers-rate", "Deliveries to live subscribers of everything", X, "deliveries/s");
    let mut all = Plot::new("subscribers-all", "One message to all subscribers, median", X, "ms");
    let mut memory = Plot::new("subscribers-memory", "Memory of an idle subscriber", X, "bytes");
    let (most, note) = most(bench);
    for transport in bench.args.transports() {
        for size in points(10.0, most) {
            report::doing(&format!("{size} subscribers by {}", transport.name()));
            let (round, idle) = measure(bench, size as u32, false, transport).await?;
            rate.push(transport.name(), size, round.records as f64 / round.seconds);
            all.push(transport.name(), size, millis(&round.latency, 0.5));
            memory.push(transport.name(), size, idle);
        }
    }
    let mut plots = vec![rate, all, memory];
    plots.iter_mut().for_each(|plot| plot.note.clone_from(&note));
    Ok(plots)
}

pub async fn keyed_plots(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    let mut cpu = Plot::new(
        "keyed-subscribers-cpu",
        "Server's processor time for a record with one reader, among many",
        X,
        "us CPU/record",
    );
    let mut time = Plot::new("keyed-subscribers-latency", "One message to its one subscriber, median", X, "ms");
    let (most, note) = most(bench);
    for transport in bench.args.transports() {
        for size in points(10.0, most) {
            report::doing(&format!("{size} keyed subscribers by {}", transport.name()));
            let (round, _) = measure(bench, size as u32, true, transport).await?;
            cpu.push(transport.name(), size, round.costs.server.map(|s| s * 1e6 / round.records.max(1) as f64));
            time.push(transport.name(), size, millis(&round.latency, 0.5));
        }
    }
    let mut plots = vec![cpu, time];
    plots.iter_mut().for_each(|plot| plot.note.clone_from(&note));
    Ok(plots)
}

/// One round on a fresh server, and the memory of an idle subscriber.
async fn measure(
    bench: &Bench,
    size: u32,
    keyed: bool,
    transport: super::super::subscriber::Transport,
) -> Result<(Round, Option<f64>), CliError> {
    let server = bench.own_server().await?;
    let topic = bench.topic(&server, bench.args.partitions.unwrap_or(1), &bench.args.flush).await?;
    let batch = if keyed { 100 } else { 20 };
    let plan = Plan { topic: topic.name, size, transport, keyed, batch, value: bench.args.size };
    let few = Plan { size: 1, ..plan.clone() };
    Audience::gather(bench, &server, few).await?.round(&server, bench.warm_up()).await?;
    let mut audience = Audience::gather(bench, &server, plan).await?;
    audience.round(&server, bench.warm_up()).await?;
    let round = audience.round(&server, bench.round_time()).await?;
    Ok((round, audience.idle_bytes.map(|bytes| bytes as f64)))
}

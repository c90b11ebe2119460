//! Starting: empty, and after kill -9 under load with so much data; and what memory it takes, idle and loaded.

use super::{
    Bench, CliError, Topic,
    figure::{Better, Figure},
    load,
    process::Process,
    produce::{Kind, PARTITIONS, Producing},
    replay, report,
};
use std::time::Duration;

/// Until a fresh server has settled, before its memory is looked at.
const SETTLING: Duration = Duration::from_secs(1);
/// Load before the kill, and all of the load.
const KILLED_AFTER: Duration = Duration::from_millis(300);
const LOAD: Duration = Duration::from_millis(500);
/// Free disk beside what is written: segments are made ahead, and others write too.
const SPARE_BYTES: u64 = 2 << 30;
const GIB: f64 = (1_u64 << 30) as f64;

/// Empty starts, and starts with as many GiB as were asked for.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let sizes = if bench.args.gib.is_empty() { vec![1.0] } else { bench.args.gib.clone() };
    let mut figures = empty(bench).await?;
    figures.extend(with_data(bench, &sizes).await?);
    Ok(figures)
}

/// Starts on fresh folders, beside those of the bare handler; and idle memory.
pub async fn empty(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let mut start = Figure::plain("start/empty", "ms", Better::Lower);
    let mut memory = Figure::plain("memory/idle", "bytes", Better::Lower);
    (start.limit_of, memory.limit_of) = ("bare handler", "bare handler");
    for _ in 0..bench.args.rounds {
        let (bare, server) = (bench.bare().await?, bench.own_server().await?);
        start.values.push(millis(server.started_in));
        start.limits.push(millis(bare.started_in));
        tokio::time::sleep(SETTLING).await;
        memory.values.extend(server.resident_bytes().map(|bytes| bytes as f64));
        memory.limits.extend(bare.resident_bytes().map(|bytes| bytes as f64));
    }
    Ok(vec![start, memory])
}

/// Starts after kill -9 under load, with rising amounts of data; and loaded memory.
pub async fn with_data(bench: &Bench, gib: &[f64]) -> Result<Vec<Figure>, CliError> {
    let mut server = bench.own_server().await?;
    let topic = bench.topic(&server, bench.args.partitions.unwrap_or(PARTITIONS), &bench.args.flush).await?;
    let mut figures = Vec::new();
    let mut stored = 0.0;
    for size in gib {
        let missing = (size - stored).max(0.0) * GIB;
        let free = bench.sys.disk.free_space(bench.folder.path()).unwrap_or(u64::MAX);
        if missing as u64 + SPARE_BYTES > free {
            eprintln!("left out the start with {size} GiB: the disk has {} left", crate::cli::output::bytes(free));
            continue;
        }
        report::doing(&format!("filling to {size} GiB"));
        let records = (missing / bench.args.size as f64) as u64;
        if records > 0 {
            replay::fill(bench, &server, &topic, records, bench.args.size).await?;
        }
        stored = size.max(stored);
        let loaded = server.resident_bytes();
        let mut start = Figure::plain(format!("restart/{size}GiB"), "ms", Better::Lower);
        start.limit_of = "bare handler, which has nothing to recover";
        for _ in 0..bench.args.rounds {
            start.limits.push(millis(bench.bare().await?.started_in));
            kill_under_load(bench, &mut server, &topic).await?;
            server.again().await?;
            // It serves what is stored, and does not only say so.
            bench.ask(&server, "GET", &format!("/v1/topics/{}/records?limit=1", topic.name), "").await?;
            start.values.push(millis(server.started_in));
        }
        figures.push(start);
        figures
            .extend(loaded.map(|b| Figure::of(format!("memory/loaded-{size}GiB"), "bytes", Better::Lower, b as f64)));
    }
    Ok(figures)
}

async fn kill_under_load(bench: &Bench, server: &mut Process, topic: &Topic) -> Result<(), CliError> {
    let producing = Producing { rate: None, batch: 100, ..Producing::new(bench, Kind::Batch, 8) };
    let (address, name) = (server.address.clone(), topic.name.clone());
    let requests = |connection| producing.requests(&address, &name, connection);
    let load = load::Load { tolerant: true, ..producing.load() };
    let killing = async {
        tokio::time::sleep(KILLED_AFTER).await;
        server.kill();
    };
    let (outcome, ()) = tokio::join!(load::run(&bench.sys, &address, &load, &requests, LOAD), killing);
    outcome.map(drop)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

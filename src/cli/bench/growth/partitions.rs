//! What partitions cost: memory, descriptors and start while they are idle, and throughput with some of them busy.

use super::super::{
    Bench, CliError, Topic,
    http1::request,
    load::{self, Load},
    process::Process,
    produce, report,
};
use super::{Plot, points};
use std::time::Duration;
use tokio::time::Instant;

const MOST: f64 = 10_000.0;
/// Partitions that records go to, as many as there are.
const BUSY: [u32; 3] = [1, 12, 1000];
const CONNECTIONS: u32 = 64;
/// Until a fresh topic has settled.
const SETTLING: Duration = Duration::from_secs(1);

pub async fn plots(bench: &Bench) -> Result<Vec<Plot>, CliError> {
    const X: &str = "partitions";
    let mut memory = Plot::new("partitions-memory", "Memory of a server with idle partitions", X, "bytes");
    let mut descriptors = Plot::new("partitions-descriptors", "Open descriptors with idle partitions", X, "open");
    let mut start = Plot::new("partitions-start", "Making a topic, a start after kill -9, deleting the topic", X, "ms");
    let mut rate =
        Plot::new("partitions-throughput", "Single events, 64 connections, some partitions busy", X, "records/s");
    for count in points(1.0, MOST * bench.args.extent) {
        report::doing(&format!("partitions: {count}"));
        let mut server = bench.own_server().await?;
        let making = Instant::now();
        let topic = bench.topic(&server, count as u32, &bench.args.flush).await?;
        start.push("make the topic", count, making.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(SETTLING).await;
        memory.push("idle", count, server.resident_bytes().map(|bytes| bytes as f64));
        descriptors.push("idle", count, server.descriptors().map(|n| n as f64));
        for busy in BUSY.into_iter().filter(|busy| f64::from(*busy) <= count) {
            let name = format!("{busy} busy");
            rate.push(&name, count, throughput(bench, &server, &topic, busy).await?);
        }
        memory.push("after the load", count, server.resident_bytes().map(|bytes| bytes as f64));
        server.again().await?;
        start.push("start after kill -9", count, server.started_in.as_secs_f64() * 1000.0);
        let deleting = Instant::now();
        bench.delete(&server, topic).await?;
        start.push("delete the topic", count, deleting.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(vec![memory, descriptors, start, rate])
}

/// Records a second, into so many of the partitions.
async fn throughput(bench: &Bench, server: &Process, topic: &Topic, busy: u32) -> Result<f64, CliError> {
    let load = Load { connections: CONNECTIONS, per_request: 1, rate: None, tolerant: false };
    let value = produce::value(bench.args.size);
    let each = busy.div_ceil(CONNECTIONS).max(1);
    let requests = |connection: u32| {
        let event = |n: u32| {
            let partition = (connection * each + n) % busy;
            let path = format!("/v1/topics/{}/events?partition={partition}", topic.name);
            request(&server.address, "POST", &path, "content-type: application/octet-stream\r\n", &value)
        };
        (0..each).map(event).collect()
    };
    load::run(&bench.sys, &server.address, &load, &requests, bench.warm_up()).await?;
    let outcome = load::run(&bench.sys, &server.address, &load, &requests, bench.round_time()).await?;
    Ok(outcome.accepted_requests() as f64 / outcome.seconds)
}

//! One topic to many live subscribers, and many subscribers each to its own key.
//!
//! Every figure has a fresh server, so that what an idle subscriber costs is not hidden in memory that earlier ones
//! left behind.

use super::{
    Bench, CliError,
    audience::{Audience, Plan},
    figure::{Better, Figure, Measure},
    subscriber::Transport,
};

/// Records of a request while the rate is measured.
const BATCH: u32 = 20;
const KEYED_BATCH: u32 = 100;
/// What the many are compared with.
const FEW: u32 = 10;
/// Partitions where none are given: one order, and many to bring into one.
const PARTITIONS: [u32; 2] = [1, 12];

/// Every transport, on one partition and on twelve: rate, and memory of an idle subscriber.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let args = &bench.args;
    let partitions = args.partitions.map_or_else(|| PARTITIONS.to_vec(), |p| vec![p]);
    let mut figures = Vec::new();
    for partitions in partitions {
        for transport in args.transports() {
            figures.extend(measure(bench, transport, args.subscribers.unwrap_or(1000), partitions).await?);
        }
    }
    Ok(figures)
}

/// The rate, the time of one message to all, and, on a server of its own, the memory of an idle subscriber.
pub async fn measure(
    bench: &Bench,
    transport: Transport,
    subscribers: u32,
    partitions: u32,
) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let topic = bench.topic(&server, partitions, &bench.args.flush).await?;
    let plan = Plan {
        topic: topic.name.clone(),
        size: subscribers,
        transport,
        keyed: false,
        batch: BATCH,
        value: bench.args.size,
    };
    // What the first use of everything costs is not the subscribers'.
    Audience::gather(bench, &server, Plan { size: 1, ..plan.clone() }).await?.round(&server, bench.warm_up()).await?;
    let mut audience = Audience::gather(bench, &server, plan.clone()).await?;
    let mut bare_audience = Audience::gather(bench, &bare, plan).await?;
    let name = format!("{}/n={subscribers}/p={partitions}", transport.name());
    let mut figures = vec![
        Figure::new(format!("fanout/{name}"), "deliveries/s", Measure::Rate),
        Figure::new(format!("fanout-all/{name}"), "ms (p50)", Measure::LatencyMs(0.5))
            .with_latency_of("one message to all subscribers"),
    ];
    bench
        .alternate(
            &mut figures,
            async |duration| bare_audience.round(&bare, duration).await,
            async |duration| audience.round(&server, duration).await,
        )
        .await?;
    figures[0].more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
    if let Some(bytes) = audience.idle_bytes {
        let mut idle = Figure::of(format!("fanout-idle/{name}"), "bytes", Better::Lower, bytes as f64);
        idle.limit_of = "bare handler";
        idle.limits.extend(bare_audience.idle_bytes.map(|bytes| bytes as f64));
        figures.push(idle);
    }
    drop((audience, bare_audience));
    bench.delete(&server, topic).await?;
    Ok(figures)
}

/// Subscribers each to its own key: many, beside few. A record has one reader in both, and should cost the same.
pub async fn keyed(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let mut figures = Vec::new();
    for transport in bench.args.transports() {
        figures.push(keyed_figure(bench, transport, bench.args.subscribers.unwrap_or(1000)).await?);
    }
    Ok(figures)
}

/// Many, beside few.
pub async fn keyed_figure(bench: &Bench, transport: Transport, subscribers: u32) -> Result<Figure, CliError> {
    let (server, few_server) = (bench.server().await?, bench.server().await?);
    let partitions = bench.args.partitions.unwrap_or(super::produce::PARTITIONS);
    let (topic, few_topic) = (
        bench.topic(&server, partitions, &bench.args.flush).await?,
        bench.topic(&few_server, partitions, &bench.args.flush).await?,
    );
    let plan = |topic: &str, size| Plan {
        topic: topic.to_owned(),
        size,
        transport,
        keyed: true,
        batch: KEYED_BATCH,
        value: bench.args.size,
    };
    let mut many = Audience::gather(bench, &server, plan(&topic.name, subscribers)).await?;
    let mut few = Audience::gather(bench, &few_server, plan(&few_topic.name, FEW)).await?;
    let name = format!("fanout-keyed/{}/n={subscribers}", transport.name());
    let mut figures =
        [Figure::new(name, "us server CPU/record", Measure::CpuMicros)
            .with_latency_of("one message to its subscriber")];
    bench
        .alternate(
            &mut figures,
            async |duration| few.round(&few_server, duration).await,
            async |duration| many.round(&server, duration).await,
        )
        .await?;
    let [mut figure] = figures;
    figure.limit_of = "10 subscribers";
    figure.more.extend(many.idle_bytes.map(|bytes| ("idle_subscriber_bytes".to_owned(), bytes as f64)));
    drop((many, few));
    bench.delete(&server, topic).await?;
    bench.delete(&few_server, few_topic).await?;
    Ok(figure)
}

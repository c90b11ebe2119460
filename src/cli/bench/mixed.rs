//! Writers, live subscribers and a replay at once; and the same for a long time.

use super::{
    Bench, CliError, Round,
    audience::{Audience, Plan},
    figure::{Better, Figure, Measure, median, millis},
    histogram,
    process::Process,
    produce::{Kind, PARTITIONS, Producing},
    replay::{self, Source},
    report,
    subscriber::Transport,
};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Events a second, where nothing else is said.
const RATE: f64 = 2000.0;
const CONNECTIONS: u32 = 64;
const SUBSCRIBERS: u32 = 100;
/// Pieces of a soak, of which each has its own figures.
const SLICES: u32 = 60;
/// What a soak keeps of each partition, so that it can go on for ever.
const SOAK_RETENTION_BYTES: u64 = 256 << 20;

/// What the three did.
struct Mix {
    produced: Round,
    delivered: Round,
    replayed: Round,
}

/// The mix on one target.
struct Mixer<'a> {
    bench: &'a Bench,
    target: &'a Process,
    topic: String,
    source: Source,
    /// Records of one replay.
    records: u64,
    producing: Producing,
    audience: Audience,
}

impl Mixer<'_> {
    async fn round(&self, duration: Duration) -> Result<Mix, CliError> {
        let before = self.target.costs();
        let (start, delivered) = (Instant::now(), self.audience.count());
        let replaying = async {
            let mut round = Round { records: 0, seconds: 0.0, latency: histogram(), costs: Default::default() };
            while start.elapsed() < duration {
                round.records += replay::round(self.bench, self.target, &self.source, self.records, 1).await?.records;
            }
            round.seconds = start.elapsed().as_secs_f64();
            Ok::<_, CliError>(round)
        };
        let producing = async {
            let produced = self.producing.round(self.bench, self.target, &self.topic, duration).await?;
            let acknowledged = Instant::now();
            let wanted = delivered + produced.records * u64::from(self.audience.size());
            self.audience.wait(wanted).await?;
            let mut lag = histogram();
            lag.saturating_record(acknowledged.elapsed().as_micros() as u64);
            let records = self.audience.count() - delivered;
            Ok((
                produced,
                Round { records, seconds: start.elapsed().as_secs_f64(), latency: lag, costs: Default::default() },
            ))
        };
        let (replayed, (produced, delivered)) = tokio::try_join!(replaying, producing)?;
        let costs = self.target.costs().since(&before);
        Ok(Mix { produced: Round { costs, ..produced }, delivered, replayed })
    }
}

/// The three at once, beside the same on a bare handler.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let args = &bench.args;
    let transport = args.transport.unwrap_or(Transport::Sse);
    let topic = bench.topic(&server, args.partitions.unwrap_or(PARTITIONS), &args.flush).await?;
    let records = replay::fill(bench, &server, &topic, args.records, args.size).await?;
    let (source, limit) = replay::sources(&topic.name, args.size, records, Some(transport));
    let measured = mixer(bench, &server, &topic.name, source, records).await?;
    let limit = mixer(bench, &bare, &topic.name, limit, records).await?;
    let rate = measured.producing.rate.unwrap_or_default();
    let mut figures = [
        Figure::new(format!("mixed/produce/rate={rate}"), "ms (p99)", Measure::LatencyMs(0.99))
            .with_latency_of("answer, from when it was due"),
        Figure::new(format!("mixed/live/n={}", measured.audience.size()), "deliveries/s", Measure::Rate)
            .with_latency_of("the last delivery, after the last answer"),
        Figure::new("mixed/replay", "records/s", Measure::Rate),
    ];
    for mixer in [&limit, &measured] {
        mixer.round(bench.warm_up()).await?;
    }
    for number in 1..=args.rounds {
        let (limit, mix) = (limit.round(bench.round_time()).await?, measured.round(bench.round_time()).await?);
        let limits = [&limit.produced, &limit.delivered, &limit.replayed];
        let rounds = [&mix.produced, &mix.delivered, &mix.replayed];
        for ((figure, limit), round) in figures.iter_mut().zip(limits).zip(rounds) {
            figure.push_limit(limit);
            figure.push(round);
            report::progress(number, figure);
        }
    }
    figures[0].more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
    drop((measured, limit));
    bench.delete(&server, topic).await?;
    Ok(figures.into())
}

async fn mixer<'a>(
    bench: &'a Bench,
    target: &'a Process,
    topic: &str,
    source: Source,
    records: u64,
) -> Result<Mixer<'a>, CliError> {
    let args = &bench.args;
    let plan = Plan {
        topic: topic.to_owned(),
        size: args.subscribers.unwrap_or(SUBSCRIBERS),
        transport: args.transport.unwrap_or(Transport::Sse),
        keyed: false,
        batch: 1,
        value: args.size,
    };
    let producing =
        Producing { rate: Some(args.rate.unwrap_or(RATE)), ..Producing::new(bench, Kind::Single, CONNECTIONS) };
    let audience = Audience::gather(bench, target, plan).await?;
    Ok(Mixer { bench, target, topic: topic.to_owned(), source, records, producing, audience })
}

/// The mix for a long time, with a bounded topic: what should stay the same, and whether it does.
pub async fn soak(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let server = bench.server().await?;
    let args = &bench.args;
    let config = json!({"flush": args.flush, "retention.bytes": SOAK_RETENTION_BYTES.to_string(),
        "segment.bytes": (SOAK_RETENTION_BYTES / 4).to_string()});
    let topic = bench.topic_with(&server, args.partitions.unwrap_or(PARTITIONS), config).await?;
    let records = replay::fill(bench, &server, &topic, 1000, args.size).await?;
    let transport = args.transport.unwrap_or(Transport::Sse);
    let source = Source::Stream { path: format!("/v1/topics/{}/stream?last=300", topic.name), transport };
    let mixer = mixer(bench, &server, &topic.name, source, records.min(300)).await?;
    let mut figures = [
        Figure::new("soak/produce", "ms (p99)", Measure::LatencyMs(0.99))
            .with_latency_of("answer, from when it was due"),
        Figure::plain("soak/memory", "bytes", Better::Lower),
        Figure::plain("soak/descriptors", "open", Better::Lower),
    ];
    let slice = Duration::from_secs_f64((args.round_seconds() / f64::from(SLICES)).max(0.05));
    let start = Instant::now();
    let mut times = Vec::new();
    while start.elapsed() < bench.round_time() {
        let mix = mixer.round(slice).await?;
        figures[0].push(&mix.produced);
        figures[1].values.extend(server.resident_bytes().map(|bytes| bytes as f64));
        figures[2].values.extend(server.descriptors().map(|n| n as f64));
        times.push(start.elapsed().as_secs_f64() / 3600.0);
        report::doing(&format!(
            "soak: {:.0} s, p99 {:.2} ms, {:.0} MiB",
            start.elapsed().as_secs_f64(),
            millis(&mix.produced.latency, 0.99),
            figures[1].values.last().copied().unwrap_or_default() / f64::from(1 << 20),
        ));
    }
    for figure in &mut figures {
        let values = figure.values.clone();
        let quarter = (values.len() / 4).max(1);
        let first = median(&values[..quarter.min(values.len())]);
        let last = median(&values[values.len().saturating_sub(quarter)..]);
        figure.more.push(("first_quarter".to_owned(), first));
        figure.more.push(("last_quarter".to_owned(), last));
        figure.more.push(("growth_per_hour".to_owned(), slope(&times, &values)));
    }
    drop(mixer);
    bench.delete(&server, topic).await?;
    Ok(figures.into())
}

/// How steeply values rise: least squares.
fn slope(times: &[f64], values: &[f64]) -> f64 {
    let n = times.len().min(values.len());
    if n < 2 {
        return 0.0;
    }
    let mean = |all: &[f64]| all[..n].iter().sum::<f64>() / n as f64;
    let (time, value) = (mean(times), mean(values));
    let (mut rise, mut run) = (0.0, 0.0);
    for (t, v) in times.iter().zip(values) {
        rise += (t - time) * (v - value);
        run += (t - time).powi(2);
    }
    if run == 0.0 { 0.0 } else { rise / run }
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_slope_is_the_rise_in_a_unit_of_time() {
        assert_eq!(slope(&[0.0, 1.0, 2.0], &[5.0, 7.0, 9.0]), 2.0);
        assert_eq!(slope(&[0.0, 1.0, 2.0], &[4.0, 4.0, 4.0]), 0.0);
        assert_eq!(slope(&[1.0], &[4.0]), 0.0);
        assert_eq!(slope(&[1.0, 1.0], &[4.0, 5.0]), 0.0);
    }
}

//! Figures: medians over the rounds, beside the limits of the machine.

use super::{BenchArgs, Round, disk::DiskLimits, histogram};
use crate::cli::{CliError, output};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::io::IsTerminal as _;

/// One measured thing.
pub struct Figure {
    name: &'static str,
    unit: &'static str,
    /// What the latency is of; empty if there is none.
    latency_of: &'static str,
    /// The server's rounds.
    pub rounds: Vec<Round>,
    /// The bare handler's.
    pub limit: Vec<Round>,
    /// Memory of an idle subscriber.
    pub idle_bytes: Option<u64>,
}

/// All of a run.
pub struct Report {
    /// The disk.
    pub disk: DiskLimits,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
    /// The server's memory at the end.
    pub resident_bytes: Option<u64>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn rate(rounds: &[Round]) -> f64 {
    median(rounds.iter().map(|r| r.records as f64 / r.seconds).collect())
}

fn latency(rounds: &[Round]) -> Histogram<u64> {
    let mut all = histogram();
    for round in rounds {
        all.add(&round.latency).expect("all histograms have one shape");
    }
    all
}

fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1000.0
}

impl Figure {
    /// Without rounds yet.
    pub const fn new(name: &'static str, unit: &'static str, latency_of: &'static str) -> Self {
        Self { name, unit, latency_of, rounds: Vec::new(), limit: Vec::new(), idle_bytes: None }
    }

    /// Microseconds of the server's processor time for a record.
    fn cpu_micros(&self) -> Option<f64> {
        let each = self.rounds.iter().map(|r| r.cpu_seconds.map(|cpu| cpu * 1e6 / r.records.max(1) as f64));
        each.collect::<Option<Vec<_>>>().map(median)
    }

    fn to_json(&self) -> Value {
        let (rate, limit) = (rate(&self.rounds), rate(&self.limit));
        let mut line = json!({
            "figure": self.name, "unit": self.unit, "rate": rate, "bare_handler_rate": limit, "ratio": rate / limit,
            "rounds": self.rounds.iter().map(|r| r.records as f64 / r.seconds).collect::<Vec<_>>(),
        });
        if let Some(micros) = self.cpu_micros() {
            line["server_cpu_us_per_record"] = micros.into();
            line["server_cpu_seconds"] = self.rounds.iter().filter_map(|r| r.cpu_seconds).sum::<f64>().into();
        }
        if let Some(bytes) = self.idle_bytes {
            line["idle_bytes_per_subscriber"] = bytes.into();
        }
        if !self.latency_of.is_empty() {
            let of = |rounds: &[Round]| {
                let all = latency(rounds);
                json!({"p50": millis(&all, 0.5), "p99": millis(&all, 0.99), "p99_9": millis(&all, 0.999)})
            };
            line["latency_ms"] = of(&self.rounds);
            line["bare_handler_latency_ms"] = of(&self.limit);
        }
        line
    }

    fn row(&self) -> Vec<String> {
        let (rate, limit) = (rate(&self.rounds), rate(&self.limit));
        let all = latency(&self.rounds);
        let time = |quantile| match self.latency_of {
            "" => "-".to_owned(),
            _ => format!("{:.2}", millis(&all, quantile)),
        };
        vec![
            self.name.to_owned(),
            format!("{rate:.0} {}", self.unit),
            format!("{limit:.0}"),
            format!("{:.2}", rate / limit),
            time(0.5),
            time(0.99),
            time(0.999),
            self.cpu_micros().map_or("-".to_owned(), |micros| format!("{micros:.2}")),
        ]
    }
}

/// A round is over: says so to whoever waits at a terminal.
pub fn progress(round: u32, figure: &Figure) {
    if std::io::stderr().is_terminal()
        && let (Some(last), Some(limit)) = (figure.rounds.last(), figure.limit.last())
    {
        let of = |r: &Round| r.records as f64 / r.seconds;
        eprintln!("{} round {round}: {:.0} {}, bare {:.0}", figure.name, of(last), figure.unit, of(limit));
    }
}

impl Report {
    /// Prints it all.
    pub fn print(&self, args: &BenchArgs) -> Result<(), CliError> {
        let sync = |quantile| self.disk.sync_micros.value_at_quantile(quantile);
        if args.output.is_json() {
            let settings = json!({
                "concurrency": args.concurrency, "batch": args.batch, "size": args.size, "flush": args.flush,
                "partitions": args.partitions, "subscribers": args.subscribers, "readers": args.readers,
                "seconds": args.seconds, "rounds": args.rounds,
            });
            for figure in &self.figures {
                let mut line = figure.to_json();
                line["settings"] = settings.clone();
                line["disk_write_bytes_per_second"] = self.disk.sequential_bytes_per_second.into();
                line["disk_sync_us"] = json!({"p50": sync(0.5), "p99": sync(0.99)});
                if let Some(bytes) = self.resident_bytes {
                    line["server_resident_bytes"] = bytes.into();
                }
                output::json_line(&line)?;
            }
            return Ok(());
        }
        eprintln!(
            "values of {} bytes, {} partitions, flush={}; medians of {} rounds of {} s",
            args.size, args.partitions, args.flush, args.rounds, args.seconds
        );
        let rows: Vec<_> = self.figures.iter().map(Figure::row).collect();
        output::table(&["WORKLOAD", "RATE", "BARE HANDLER", "RATIO", "P50 MS", "P99 MS", "P99.9 MS", "CPU US"], &rows)?;
        for figure in self.figures.iter().filter(|f| !f.latency_of.is_empty()) {
            eprintln!("{}: times are of {}; CPU US is the server's per record", figure.name, figure.latency_of);
            if let Some(bytes) = figure.idle_bytes {
                eprintln!("{}: {} for each idle subscriber", figure.name, output::bytes(bytes));
            }
        }
        eprintln!(
            "disk: writes {}/s, fdatasync after 1 KiB p50 {} µs, p99 {} µs; server's memory at the end: {}",
            output::bytes(self.disk.sequential_bytes_per_second as u64),
            sync(0.5),
            sync(0.99),
            self.resident_bytes.map_or("not known".to_owned(), output::bytes),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_beside_their_limit() {
        let round = |records, micros| {
            let mut latency = histogram();
            latency.record(micros).unwrap();
            Round { records, seconds: 2.0, latency, cpu_seconds: Some(0.001) }
        };
        let mut figure = Figure::new("x", "records/s", "answer");
        figure.rounds = vec![round(100, 1000), round(1000, 3000), round(200, 2000)];
        figure.limit = vec![round(400, 500)];
        let line = figure.to_json();
        assert_eq!((line["rate"].as_f64(), line["ratio"].as_f64()), (Some(100.0), Some(0.5)));
        assert_eq!(line["server_cpu_us_per_record"].as_f64(), Some(5.0));
        let p50 = line["latency_ms"]["p50"].as_f64().unwrap();
        assert!((p50 - 2.0).abs() < 0.01, "{p50}");
        assert_eq!(median(vec![1.0, 4.0, 2.0, 3.0]), 2.5);
    }
}

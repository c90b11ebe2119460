//! What the bench is asked for: the workload, its sizes, and how long.
//!
//! A size that is not given takes the workload's own default, so that `sluice bench WORKLOAD` alone is a useful
//! measurement.

use super::subscriber::Transport;
use crate::cli::output::OutputArgs;
use std::path::PathBuf;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// The table: every row of the targets, beside them
    Table,
    /// POST of one event a request
    ProduceSingle,
    /// POST of many records a request
    ProduceBatch,
    /// POST of a stream of lines a request
    Ingest,
    /// A queue worked through: receive and acknowledge; and how soon a waiting worker has a new message
    Queue,
    /// A consumer group: rebalances among many HTTP members, and their commits
    Group,
    /// A whole topic again: SSE, WebSocket and pages
    Replay,
    /// From the moment an event should be sent until a subscriber has it
    TailLatency,
    /// One topic to many live subscribers
    Fanout,
    /// Many live subscribers, each to a key of its own
    FanoutKeyed,
    /// Writers, live subscribers and a replay at once
    Mixed,
    /// Start, kill -9, start again
    Restart,
    /// The same load for a long time
    Soak,
    /// Twice as much as it can take
    Overload,
    /// Curves over partitions, subscribers, data, record size and keys, drawn as SVG files
    Growth,
}

/// A curve of `growth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Curve {
    /// Partitions, up to 10,000: idle memory, descriptors, start, throughput
    Partitions,
    /// Live subscribers, up to 20,000: rate, time to all, memory
    Subscribers,
    /// Live subscribers, each to its key, up to 20,000: cost of a record
    KeyedSubscribers,
    /// Data in a topic, up to 50 GiB: start, seek, replay from the middle
    TopicSize,
    /// Bytes of a record, up to 10 MiB: produce and replay
    RecordSize,
    /// Keys of a topic read with view=latest, up to 10 million: build, snapshot, look-up
    Keys,
}

/// Measure this machine, beside its own limits
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// What is measured
    #[arg(value_enum, default_value = "table")]
    pub workload: Workload,
    /// A running server; without it the bench starts one on a fresh folder and ends it again
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Connections that produce; workers of a queue, members of a group
    #[arg(short, long, visible_alias = "concurrency", value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub connections: Option<u32>,
    /// Requests a second, at fixed times whatever the server does; answers count from the time they were due. Without
    /// it each connection sends its next request when it has the answer to the last
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Records in a request (produce-batch, ingest), messages of a receive (queue)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: Option<u32>,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Partitions of the topic
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub partitions: Option<u32>,
    /// When an acknowledged record is on disk: the topic's flush
    #[arg(long, default_value = "commit", value_parser = ["commit", "interval", "os"])]
    pub flush: String,
    /// Records of the topic (replay, mixed)
    #[arg(long, default_value_t = 200_000)]
    pub records: u64,
    /// Readers at once (replay)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    /// Subscribers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub subscribers: Option<u32>,
    /// How subscribers listen; both if not given
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// Seconds of a round; of the whole run for soak
    #[arg(long, value_parser = positive)]
    pub seconds: Option<f64>,
    /// Rounds; figures are their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    pub rounds: u32,
    /// Seconds before the first round that do not count
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub warm_up: f64,
    /// GiB of data to start again on (restart); several with commas
    #[arg(long, value_delimiter = ',', value_parser = gib)]
    pub gib: Vec<f64>,
    /// Which rows (table); several with commas, all if not given
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=10))]
    pub rows: Vec<u8>,
    /// Which curves (growth); several with commas, all if not given
    #[arg(long, value_enum, value_delimiter = ',')]
    pub curves: Vec<Curve>,
    /// How far curves go (growth): a part of their full length, 1 for all of it
    #[arg(long, default_value_t = 0.1, value_parser = part)]
    pub extent: f64,
    /// Where the drawings go (growth)
    #[arg(long, value_name = "DIR", default_value = "bench-growth")]
    pub out: PathBuf,
    /// The figures of an earlier run (-o json): say what moved beyond the noise
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
    /// With --compare: take these figures instead of measuring
    #[arg(long, value_name = "FILE", requires = "compare")]
    pub figures: Option<PathBuf>,
    /// The folder in which the run makes its own: its disk is what is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// More flags for the server that the bench starts
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub server_flag: Vec<String>,
    /// How figures are printed
    #[command(flatten)]
    pub output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  sluice bench                                     the table, in about ten minutes
  sluice bench -o json > old.json                  keep its figures
  sluice bench --compare old.json                  measure again, and say what moved
  sluice bench table --rows 1,2,3                  some of its rows
  sluice bench produce-single --connections 512
  sluice bench produce-single -c 64 --rate 20000   latency at a fixed rate
  sluice bench produce-batch --batch 100 --flush os -c 8
  sluice bench tail-latency --transport sse
  sluice bench queue --connections 16 --batch 100
  sluice bench group --connections 100
  sluice bench fanout --subscribers 1000 --transport websocket
  sluice bench growth --curves partitions,keys --extent 0.01 --out curves
  sluice bench produce-single --server-flag=--memory=256MiB

Use a release build, and a quiet machine.";

fn number(text: &str, range: std::ops::RangeInclusive<f64>, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| format!("write {what}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 0.01..=864_000.0, "a number of seconds")
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.1..=10_000_000.0, "a number of requests a second")
}

fn gib(text: &str) -> Result<f64, String> {
    number(text, 0.001..=1000.0, "a number of GiB")
}

fn part(text: &str) -> Result<f64, String> {
    number(text, 0.0001..=1.0, "a part of the whole, from 0.0001 to 1")
}

impl BenchArgs {
    /// Seconds of a round.
    pub fn round_seconds(&self) -> f64 {
        self.seconds.unwrap_or(match self.workload {
            Workload::Table => 2.0,
            Workload::Soak => 600.0,
            Workload::Growth => 1.0,
            Workload::TailLatency | Workload::Overload => 5.0,
            _ => 3.0,
        })
    }

    /// The transports to measure.
    pub fn transports(&self) -> Vec<Transport> {
        match self.transport {
            Some(one) => vec![one],
            None => vec![Transport::Sse, Transport::Websocket],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(line: &str) -> Result<BenchArgs, clap::Error> {
        Only::try_parse_from(line.split_whitespace()).map(|only| only.bench)
    }

    #[test]
    fn without_a_workload_it_is_the_table() {
        let args = parse("bench").unwrap();
        assert_eq!((args.workload, args.rounds, args.round_seconds()), (Workload::Table, 5, 2.0));
        assert_eq!(parse("bench --rows 1,10").unwrap().rows, [1, 10]);
        assert!(parse("bench --rows 11").is_err());
    }

    #[test]
    fn connections_have_their_old_name_too() {
        for line in ["bench produce-single -c 7", "bench produce-single --concurrency 7"] {
            assert_eq!(parse(line).unwrap().connections, Some(7));
        }
    }

    #[test]
    fn numbers_without_sense_are_refused() {
        for line in ["--rate 0", "--rate nan", "--seconds -1", "--extent 2", "--gib 0,1", "--connections 0"] {
            assert!(parse(&format!("bench soak {line}")).is_err(), "{line}");
        }
        assert_eq!(parse("bench growth --curves keys,topic-size").unwrap().curves, [Curve::Keys, Curve::TopicSize]);
        assert_eq!(parse("bench restart --gib 0.5,10").unwrap().gib, [0.5, 10.0]);
    }

    #[test]
    fn figures_are_compared_with_something() {
        assert!(parse("bench --figures new.json").is_err());
        assert!(parse("bench --figures new.json --compare old.json").is_ok());
    }

    #[test]
    fn both_transports_unless_one_is_named() {
        assert_eq!(parse("bench fanout").unwrap().transports().len(), 2);
        assert_eq!(parse("bench fanout --transport sse").unwrap().transports(), [Transport::Sse]);
    }
}

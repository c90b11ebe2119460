//! `sluice bench`: what this machine does, beside what it could do.
//!
//! **Invariant**: no figure stands alone. Each is the median of its rounds, beside the same load on a bare handler of
//! the same HTTP stack, in turns within the same run, and beside the disk's own rates; read the ratio, not the number.
//!
//! The load generator shares the machine with the server that it starts; the server is a process of its own, so that its
//! processor time and memory can be told apart.

pub mod bare;
mod disk;
mod fanout;
mod http1;
mod process;
mod produce;
mod replay;
mod report;

use super::{CliError, output::OutputArgs};
use crate::sys::Sys;
use fanout::{Audience, Plan, Transport};
use hdrhistogram::Histogram;
use http1::{Connection, request};
use process::{Folder, Process};
use replay::Source;
use report::{Figure, Report};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

/// The topic of a run.
const TOPIC: &str = "bench";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Workload {
    /// POST of one event a request, closed loop
    ProduceSingle,
    /// POST of many records a request, closed loop
    ProduceBatch,
    /// A whole topic again, by stream and by pages
    Replay,
    /// One topic to many live subscribers
    Fanout,
}

/// Measure this machine, beside its own limits
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// What is measured
    #[arg(value_enum)]
    workload: Workload,
    /// A running server; without it the bench starts one on a fresh folder and ends it again
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Connections that produce
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// Records in a request (produce-batch)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Partitions of the topic
    #[arg(long, default_value_t = 3)]
    partitions: u32,
    /// When an acknowledged record is on disk: the topic's flush
    #[arg(long, default_value = "commit", value_parser = ["commit", "interval", "os"])]
    flush: String,
    /// Records of the topic (replay)
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Readers at once (replay)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    readers: u32,
    /// Subscribers (fanout)
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    subscribers: u32,
    /// How subscribers listen (fanout); both if not given
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// Seconds of a round
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    seconds: f64,
    /// Rounds; figures are their medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    rounds: u32,
    /// Seconds before the first round that do not count
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    warm_up: f64,
    /// The folder in which the run makes its own: its disk is what is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// More flags for the server that the bench starts
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
Examples:
  sluice bench produce-single --concurrency 512
  sluice bench produce-batch --batch 100 --flush os -c 8
  sluice bench replay --records 500000
  sluice bench fanout --subscribers 1000 --transport websocket
  sluice bench produce-single --server-flag=--memory=256MiB -o json

Use a release build, and a quiet machine.";

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|s| (0.01..=3600.0).contains(s)).ok_or_else(|| "write a number of seconds".to_owned())
}

/// What the workloads share.
struct Bench {
    args: BenchArgs,
    sys: Sys,
}

impl Bench {
    fn is_batch(&self) -> bool {
        self.args.workload == Workload::ProduceBatch
    }

    fn round_time(&self) -> Duration {
        Duration::from_secs_f64(self.args.seconds)
    }
}

/// What one round gave.
struct Round {
    records: u64,
    seconds: f64,
    /// Microseconds.
    latency: Histogram<u64>,
    /// The measured process's, not the load generator's.
    cpu_seconds: Option<f64>,
}

/// An empty histogram of microseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are valid")
}

/// Runs a workload and prints its figures.
///
/// # Errors
/// A server that cannot be started, or that refuses a request.
pub async fn run(args: BenchArgs) -> Result<(), CliError> {
    process::raise_descriptors();
    let bench = Bench { sys: Sys::real(), args };
    let folder = Folder::new(&bench.sys, &bench.args.dir)?;
    let disk = disk::measure(&bench.sys, folder.path()).await?;
    let server = match &bench.args.url {
        Some(url) => Process::at_url(&bench.sys, url)?,
        None => Process::server(&bench.sys, folder.path(), &bench.args.server_flag).await?,
    };
    let bare = Process::bare(&bench.sys, folder.path()).await?;
    let topic = make_topic(&bench, &server).await?;
    let mut report = Report { disk, figures: Vec::new(), resident_bytes: None };
    match bench.args.workload {
        Workload::ProduceSingle | Workload::ProduceBatch => {
            report.figures.push(produce(&bench, &server, &bare, &topic).await?);
        }
        Workload::Replay => report.figures = replay(&bench, &server, &bare, &topic).await?,
        Workload::Fanout => report.figures = fanout(&bench, &server, &bare, &topic).await?,
    }
    report.resident_bytes = server.resident_bytes();
    if bench.args.url.is_some() {
        delete_topic(&bench, &server, &topic).await;
    }
    report.print(&bench.args)
}

/// Makes the topic of this run; on a server of somebody else's under a name that nobody else has.
async fn make_topic(bench: &Bench, server: &Process) -> Result<String, CliError> {
    let name = match bench.args.url {
        Some(_) => format!("{TOPIC}-{}", std::process::id()),
        None => TOPIC.to_owned(),
    };
    let body = json!({"name": name, "partitions": bench.args.partitions, "config": {"flush": bench.args.flush}});
    let headers = "content-type: application/json\r\n";
    let request = request(&server.address, "POST", "/v1/topics", headers, body.to_string().as_bytes());
    let failed = |e: std::io::Error| CliError::failed(format!("no server answers at {}: {e}", server.address));
    let mut connection = Connection::open(&bench.sys, &server.address).await.map_err(failed)?;
    let mut answer = Vec::new();
    match connection.exchange(&request, &mut answer).await.map_err(failed)? {
        201 => Ok(name),
        status => {
            Err(CliError::failed(format!("the topic was refused: {status} {}", String::from_utf8_lossy(&answer))))
        }
    }
}

async fn delete_topic(bench: &Bench, server: &Process, topic: &str) {
    let request = request(&server.address, "DELETE", &format!("/v1/topics/{topic}"), "", b"");
    let deleted = match Connection::open(&bench.sys, &server.address).await {
        Ok(mut connection) => connection.exchange(&request, &mut Vec::new()).await,
        Err(e) => Err(e),
    };
    if !matches!(deleted, Ok(204)) {
        eprintln!("the topic {topic} could not be deleted");
    }
}

async fn produce(bench: &Bench, server: &Process, bare: &Process, topic: &str) -> Result<Figure, CliError> {
    let warm_up = Duration::from_secs_f64(bench.args.warm_up);
    for target in [bare, server] {
        produce::round(bench, target, topic, warm_up).await?;
    }
    let name = if bench.is_batch() { "produce-batch" } else { "produce-single" };
    let mut figure = Figure::new(name, "records/s", "answer");
    for round in 0..bench.args.rounds {
        figure.limit.push(produce::round(bench, bare, topic, bench.round_time()).await?);
        figure.rounds.push(produce::round(bench, server, topic, bench.round_time()).await?);
        report::progress(round + 1, &figure);
    }
    Ok(figure)
}

async fn replay(bench: &Bench, server: &Process, bare: &Process, topic: &str) -> Result<Vec<Figure>, CliError> {
    let records = replay::fill(bench, server, topic).await?;
    // As long as a record's event: its JSON is about 90 bytes longer than its value, and there is its cursor.
    let limit = Source::Stream(format!("/repeat/{}/{records}", bench.args.size + 150));
    let sources = [
        ("replay-sse", Source::Stream(format!("/v1/topics/{topic}/stream?from=earliest"))),
        ("replay-pages", Source::Pages(topic.to_owned())),
    ];
    let mut figures = Vec::new();
    for (name, source) in sources {
        replay::round(bench, server, source.clone(), records).await?;
        let mut figure = Figure::new(name, "records/s", "");
        for round in 0..bench.args.rounds {
            figure.limit.push(replay::round(bench, bare, limit.clone(), records).await?);
            figure.rounds.push(replay::round(bench, server, source.clone(), records).await?);
            report::progress(round + 1, &figure);
        }
        figures.push(figure);
    }
    Ok(figures)
}

async fn fanout(bench: &Bench, server: &Process, bare: &Process, topic: &str) -> Result<Vec<Figure>, CliError> {
    let transports = match bench.args.transport {
        Some(one) => vec![one],
        None => vec![Transport::Sse, Transport::Websocket],
    };
    let warm_up = Duration::from_secs_f64(bench.args.warm_up);
    let mut figures = Vec::new();
    for transport in transports {
        let name = match transport {
            Transport::Sse => "fanout-sse",
            Transport::Websocket => "fanout-websocket",
        };
        let mut figure = Figure::new(name, "deliveries/s", "one message to all");
        let mut audience =
            Audience::gather(bench, server, Plan::server(bench, &server.address, topic, transport)).await?;
        let mut bare_audience = Audience::gather(bench, bare, Plan::bare(bench, &bare.address)).await?;
        figure.idle_bytes = audience.idle_bytes;
        bare_audience.round(bare, warm_up).await?;
        audience.round(server, warm_up).await?;
        for round in 0..bench.args.rounds {
            figure.limit.push(bare_audience.round(bare, bench.round_time()).await?);
            figure.rounds.push(audience.round(server, bench.round_time()).await?);
            report::progress(round + 1, &figure);
        }
        figures.push(figure);
    }
    Ok(figures)
}

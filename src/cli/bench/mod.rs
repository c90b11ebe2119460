//! `sluice bench`: what this machine does, beside what it could do.
//!
//! **Invariant**: no figure stands alone. Each is the median of its rounds, beside the same load on a bare handler of
//! the same HTTP stack, in turns within the same run, and beside the disk's own rates; read the ratio, not the number.
//!
//! The load generator shares the machine with the server that it starts; the server is a process of its own, so that its
//! processor time and memory can be told apart from the load generator's.

mod args;
mod audience;
pub mod bare;
mod bare_work;
mod compare;
mod disk;
mod fanout;
mod figure;
mod group;
mod growth;
mod http1;
mod load;
mod mixed;
mod overload;
mod pacer;
mod process;
mod produce;
mod queue;
mod queue_latency;
mod replay;
mod report;
mod restart;
mod subscriber;
mod svg;
mod table;
mod tail_latency;

pub use args::BenchArgs;

use super::CliError;
use crate::sys::Sys;
use args::Workload;
use disk::DiskLimits;
use figure::Figure;
use hdrhistogram::Histogram;
use http1::{Connection, request};
use process::{Costs, Folder, Process};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// What the workloads share.
struct Bench {
    args: BenchArgs,
    sys: Sys,
    folder: Folder,
    disk: DiskLimits,
    topics: AtomicU32,
}

/// What one round gave.
#[derive(Debug)]
struct Round {
    records: u64,
    seconds: f64,
    /// Microseconds.
    latency: Histogram<u64>,
    costs: Costs,
}

/// An empty histogram of microseconds up to ten minutes, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are valid")
}

/// Runs a workload and prints its figures.
///
/// # Errors
/// A server that cannot be started, or that refuses a request.
pub async fn run(args: BenchArgs) -> Result<(), CliError> {
    let sys = Sys::real();
    if let (Some(old), Some(new)) = (&args.compare, &args.figures) {
        return report::print_comparison(&args, &report::read(&sys, old)?, &report::read(&sys, new)?);
    }
    let old = args.compare.as_ref().map(|path| report::read(&sys, path)).transpose()?;
    process::raise_descriptors();
    let folder = Folder::new(&sys, &args.dir)?;
    let disk = disk::measure(&sys, folder.path()).await?;
    let bench = Bench { args, sys, folder, disk, topics: AtomicU32::new(0) };
    let figures = match bench.args.workload {
        Workload::ProduceSingle => produce::singles(&bench).await,
        Workload::ProduceBatch => produce::batches(&bench).await,
        Workload::Ingest => produce::ingest(&bench).await,
        Workload::Queue => queue::figures(&bench).await,
        Workload::Group => group::figures(&bench).await,
        Workload::Replay => replay::figures(&bench).await,
        Workload::Fanout => fanout::figures(&bench).await,
        Workload::FanoutKeyed => fanout::keyed(&bench).await,
        Workload::TailLatency => tail_latency::figures(&bench).await,
        Workload::Mixed => mixed::figures(&bench).await,
        Workload::Restart => restart::figures(&bench).await,
        Workload::Soak => mixed::soak(&bench).await,
        Workload::Overload => overload::figures(&bench).await,
        Workload::Growth => growth::figures(&bench).await,
        Workload::Table => table::figures(&bench).await,
    }?;
    report::print(&bench, &figures)?;
    match old {
        Some(old) => {
            let lines: Vec<_> = figures.iter().map(Figure::to_json).collect();
            report::print_comparison(&bench.args, &old, &lines)
        }
        None => Ok(()),
    }
}

impl Bench {
    /// A server on a fresh folder, or the one that `--url` names.
    async fn server(&self) -> Result<Process, CliError> {
        match &self.args.url {
            Some(url) => Process::at_url(&self.sys, url),
            None => Process::server(&self.sys, self.folder.path(), &self.args.server_flag).await,
        }
    }

    /// A server on a fresh folder.
    async fn own_server(&self) -> Result<Process, CliError> {
        match self.args.url {
            Some(_) => Err(CliError::usage("this workload starts a server of its own: leave out --url")),
            None => self.server().await,
        }
    }

    async fn bare(&self) -> Result<Process, CliError> {
        Process::bare(&self.sys, self.folder.path()).await
    }

    fn round_time(&self) -> Duration {
        Duration::from_secs_f64(self.args.round_seconds())
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.args.warm_up)
    }

    /// Makes a topic of this run.
    async fn topic(&self, server: &Process, partitions: u32, flush: &str) -> Result<Topic, CliError> {
        self.topic_with(server, partitions, json!({"flush": flush})).await
    }

    /// The same with more configuration.
    async fn topic_with(&self, server: &Process, partitions: u32, config: Value) -> Result<Topic, CliError> {
        let number = self.topics.fetch_add(1, Ordering::Relaxed);
        let name = format!("bench-{}-{number}", std::process::id());
        let body = json!({"name": name, "partitions": partitions, "config": config});
        self.ask(server, "POST", "/v1/topics", &body.to_string()).await?;
        Ok(Topic { name })
    }

    /// Deletes a topic, so that the next workload does not pay for it.
    async fn delete(&self, server: &Process, topic: Topic) -> Result<(), CliError> {
        self.ask(server, "DELETE", &format!("/v1/topics/{}", topic.name), "").await.map(drop)
    }

    /// One request whose answer is a success.
    async fn ask(&self, server: &Process, method: &str, path: &str, body: &str) -> Result<Vec<u8>, CliError> {
        let headers = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let request = request(&server.address, method, path, headers, body.as_bytes());
        let failed = |e: std::io::Error| CliError::failed(format!("{method} {path} at {}: {e}", server.address));
        let mut connection = Connection::open(&self.sys, &server.address).await.map_err(failed)?;
        let mut answer = Vec::new();
        match connection.exchange(&request, &mut answer).await.map_err(failed)? {
            200..300 => Ok(answer),
            status => {
                let text = String::from_utf8_lossy(&answer);
                Err(CliError::failed(format!("{method} {path} was refused: {status} {text}")))
            }
        }
    }

    /// Measures in turns: the bare handler, then the server, after a warm-up of both. Each round counts for all figures.
    async fn alternate(
        &self,
        figures: &mut [Figure],
        mut limit: impl AsyncFnMut(Duration) -> Result<Round, CliError>,
        mut measured: impl AsyncFnMut(Duration) -> Result<Round, CliError>,
    ) -> Result<(), CliError> {
        limit(self.warm_up()).await?;
        measured(self.warm_up()).await?;
        for number in 1..=self.args.rounds {
            let (limit, round) = (limit(self.round_time()).await?, measured(self.round_time()).await?);
            for figure in &mut *figures {
                figure.push_limit(&limit);
                figure.push(&round);
                report::progress(number, figure);
            }
        }
        Ok(())
    }
}

/// A topic of this run.
struct Topic {
    name: String,
}

//! `sluice queue work`: runs a command for each message.
//!
//! **Invariant**: a message is acknowledged only after its command ended with 0. Its lease is extended while the command
//! runs; once it is lost the command is killed, because somebody else has the message.

use super::path;
use crate::cli::{
    CliError,
    http_client::{Client, HttpError, Target},
    output,
    record::LogRecord,
    signals::Signals,
};
use bytes::Bytes;
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How long a receive call waits for a message.
const WAIT_MS: u64 = 20_000;
/// The same with `--until-done`, which then looks whether anything is left.
const SHORT_WAIT_MS: u64 = 200;

/// Run a command for each message: acknowledged when it ends with 0, else delivered again
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WorkArgs {
    /// The queue
    name: String,
    /// The command, for `sh -c`; the value is its stdin
    #[arg(long, value_name = "CMD")]
    exec: String,
    /// How many at once
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    jobs: u16,
    /// How long a lease holds before it is extended, in milliseconds
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=43_200_000))]
    lease_ms: u32,
    /// How long a message waits after a failure, in milliseconds; the queue's backoff if not given
    #[arg(long)]
    delay_ms: Option<u32>,
    /// End when nothing is ready, leased, delayed or blocked any more
    #[arg(long)]
    until_done: bool,
    #[command(flatten)]
    target: Target,
}

const EXAMPLES: &str = "\
The command gets SLUICE_QUEUE, SLUICE_TOPIC, SLUICE_PARTITION, SLUICE_OFFSET, SLUICE_ATTEMPT, and SLUICE_KEY if the key is text.
With the first SIGTERM or SIGINT it takes no new messages and waits for the commands; with the second it ends at once.

Examples:
  sluice queue work scores --exec 'curl -sf -d @- http://127.0.0.1:9000/score'
  sluice queue work thumbnails -j 8 --exec ./make-thumbnail";

/// A message as the server sent it.
#[derive(Debug, Deserialize)]
struct Message<'a> {
    lease: &'a str,
    attempt: u16,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// The part that other commands use.
pub(super) struct ReceivedMessage<'a> {
    pub(super) lease: &'a str,
    pub(super) record: &'a RawValue,
    pub(super) raw: &'a RawValue,
    attempt: u16,
}

/// Reads an answer to a receive call.
pub(super) fn parse_messages(body: &[u8]) -> Result<Vec<ReceivedMessage<'_>>, CliError> {
    #[derive(Deserialize)]
    struct Messages<'a> {
        #[serde(borrow)]
        messages: Vec<&'a RawValue>,
    }
    let strange = |e: serde_json::Error| CliError::failed(format!("the server's messages are not understood: {e}"));
    let messages: Messages<'_> = serde_json::from_slice(body).map_err(strange)?;
    messages
        .messages
        .into_iter()
        .map(|raw| {
            let Message { lease, attempt, record } = serde_json::from_str(raw.get()).map_err(strange)?;
            Ok(ReceivedMessage { lease, record, raw, attempt })
        })
        .collect()
}

/// What all jobs share.
struct Worker {
    client: Client,
    args: WorkArgs,
    stop: CancellationToken,
}

/// How a command ended.
enum Ended {
    With(ExitStatus),
    NotStarted(std::io::Error),
    LeaseLost,
}

/// A command, in a process group of its own: a terminal's interrupt is for the worker alone, and with the command ends
/// what it started.
struct Running(Child);

impl Running {
    fn kill(&self) {
        // Without an id it has ended and was waited for.
        let group = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL); // it may have ended meanwhile
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Works until it is asked to stop, or with `--until-done` until nothing is left.
///
/// # Errors
/// What the server refuses for good.
pub async fn run(args: WorkArgs) -> Result<(), CliError> {
    let jobs = args.jobs;
    let stop = CancellationToken::new();
    let worker = std::sync::Arc::new(Worker { client: Client::new(&args.target)?, args, stop: stop.clone() });
    let mut signals = Signals::new()?;
    let mut running = JoinSet::new();
    for _ in 0..jobs {
        let worker = worker.clone();
        running.spawn(async move { worker.work().await });
    }
    let mut result = Ok(());
    let mut is_asked = false;
    loop {
        let ended = tokio::select! {
            biased;
            ended = running.join_next() => ended,
            () = signals.next() => {
                if is_asked {
                    running.shutdown().await; // which kills the commands
                    return Err(CliError::failed("ended at once; what was in work comes again when its lease runs out"));
                }
                is_asked = true;
                stop.cancel();
                eprintln!("waiting for the commands that run; a second signal ends them");
                continue;
            }
        };
        match ended {
            None => return result,
            Some(Ok(Ok(()))) => {}
            Some(ended) => {
                stop.cancel();
                result = ended.unwrap_or_else(|e| Err(CliError::failed(e.to_string())));
            }
        }
    }
}

impl Worker {
    async fn work(&self) -> Result<(), CliError> {
        let mut backoff = FIRST_BACKOFF;
        while !self.stop.is_cancelled() {
            let body = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                body = self.receive() => body,
            };
            let body = match body {
                Ok(body) => body,
                Err(error) if error.is_retryable() => {
                    eprintln!("{error}");
                    tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            backoff = FIRST_BACKOFF;
            let messages = parse_messages(&body)?;
            if messages.is_empty() && self.args.until_done && self.is_done().await {
                return Ok(());
            }
            for message in messages {
                self.handle(&message).await?;
            }
        }
        Ok(())
    }

    async fn receive(&self) -> Result<Bytes, HttpError> {
        let wait_ms = if self.args.until_done { SHORT_WAIT_MS } else { WAIT_MS };
        let wanted = json!({"max": 1, "wait_ms": wait_ms, "lease_ms": self.args.lease_ms});
        let (path, headers) = (format!("{}/receive", path(&self.args.name)), [("content-type", "application/json")]);
        let answer = self.client.send(Method::POST, &path, &headers, wanted.to_string().into()).await?;
        self.client.whole(answer).await
    }

    async fn is_done(&self) -> bool {
        let Ok(queue) = self.client.json(Method::GET, &path(&self.args.name), None).await else { return false };
        ["ready", "leased", "delayed", "blocked"].iter().all(|field| queue[field] == 0)
            || (queue["ready"] == 0 && queue["leased"] == 0 && queue["delayed"] == 0 && queue["parked"] != 0)
    }

    async fn handle(&self, message: &ReceivedMessage<'_>) -> Result<(), CliError> {
        let record: LogRecord<'_> = serde_json::from_str(message.record.get())
            .map_err(|e| CliError::failed(format!("the server sent a record that is not understood: {e}")))?;
        let place = format!("{}@{}", record.partition, record.offset);
        let verdict = match self.execute(message, &record).await {
            Ended::With(status) if status.success() => json!({"ack": [message.lease]}),
            Ended::With(status) => self.nack(message.lease, &status.to_string()),
            Ended::NotStarted(error) => self.nack(message.lease, &format!("the command did not start: {error}")),
            Ended::LeaseLost => {
                eprintln!("{place}: its lease was lost, so its command was killed");
                return Ok(());
            }
        };
        if verdict.get("ack").is_none() {
            let reason = output::cell(&verdict["nack"][0]["reason"]);
            eprintln!("{place}: attempt {} failed: {reason}", message.attempt);
        }
        match self.settle(&verdict).await {
            Err(HttpError::Problem(problem)) if problem.code() == "lease-lost" => {
                eprintln!("{place}: its lease was lost before its command's end was told");
                Ok(())
            }
            other => other.map_err(CliError::from),
        }
    }

    fn nack(&self, lease: &str, reason: &str) -> Value {
        let mut nack = json!({"lease": lease, "reason": reason});
        if let Some(ms) = self.args.delay_ms {
            nack["delay_ms"] = ms.into();
        }
        json!({"nack": [nack]})
    }

    /// The same settlement may be sent again, so that a lost answer is no question. It ends: after the lease is over the
    /// server says that it is lost.
    async fn settle(&self, verdict: &Value) -> Result<(), HttpError> {
        let mut backoff = FIRST_BACKOFF;
        let until = tokio::time::Instant::now() + Duration::from_millis(u64::from(self.args.lease_ms));
        loop {
            match self.client.json(Method::POST, &format!("{}/settle", path(&self.args.name)), Some(verdict)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Runs the command, and keeps the lease while it runs.
    async fn execute(&self, message: &ReceivedMessage<'_>, record: &LogRecord<'_>) -> Ended {
        let mut running = match self.start(message, record) {
            Ok(child) => Running(child),
            Err(error) => return Ended::NotStarted(error),
        };
        if let Some(mut stdin) = running.0.stdin.take() {
            let value = record.value().unwrap_or_default();
            // A command need not read its input.
            tokio::spawn(async move { stdin.write_all(&value).await });
        }
        let third = Duration::from_millis(u64::from(self.args.lease_ms / 3).max(1));
        let extend = json!({"extend": [{"lease": message.lease, "lease_ms": self.args.lease_ms}]});
        loop {
            tokio::select! {
                biased;
                status = running.0.wait() => return status.map_or_else(Ended::NotStarted, Ended::With),
                () = tokio::time::sleep(third) => {}
            }
            let path = format!("{}/settle", path(&self.args.name));
            let extended = tokio::time::timeout(third, self.client.json(Method::POST, &path, Some(&extend))).await;
            if let Ok(Err(HttpError::Problem(problem))) = extended
                && problem.code() == "lease-lost"
            {
                running.kill();
                let _ = running.0.wait().await; // so that it is no zombie
                return Ended::LeaseLost;
            }
        }
    }

    fn start(&self, message: &ReceivedMessage<'_>, record: &LogRecord<'_>) -> std::io::Result<Child> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.args.exec).stdin(Stdio::piped()).kill_on_drop(true).process_group(0);
        command.env("SLUICE_QUEUE", &self.args.name).env("SLUICE_TOPIC", record.topic.as_deref().unwrap_or_default());
        command.env("SLUICE_PARTITION", record.partition.to_string()).env("SLUICE_OFFSET", record.offset.to_string());
        command.env("SLUICE_ATTEMPT", message.attempt.to_string()).env_remove("SLUICE_KEY");
        // An environment holds text without zero bytes.
        if let Some(key) = record.key().and_then(|key| String::from_utf8(key).ok()).filter(|key| !key.contains('\0')) {
            command.env("SLUICE_KEY", key);
        }
        command.spawn()
    }
}

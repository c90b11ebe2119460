//! `sluice consume`: records to stdout, from pages up to the end, or live from a stream.
//!
//! **Invariant**: no record is printed twice and none is missing without a word on stderr: after a lost connection the
//! stream goes on from the cursor of the last event that was printed.

use super::{
    CliError,
    consume_group::{self, Membership},
    http_client::{Client, EventStream, HttpError, Problem, Target, encode, with_query},
    output::{self, OutputArgs},
    record::LogRecord,
    sse::SseEvent,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{
    io::{BufWriter, Stdout, Write},
    time::Duration,
};

/// Records in a page, at most.
const PAGE: u64 = 1000;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Print the records of a topic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConsumeArgs {
    /// The topic
    topic: String,
    /// Where to start: earliest, latest, an offset (with one --partition), a time (2026-05-01T12:00:00Z, or -15m).
    /// Default: earliest, with --follow latest
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    from: Option<String>,
    /// Go on with what comes, until it is interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only records of this key
    #[arg(long)]
    key: Option<String>,
    /// Only these partitions
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    partition: Vec<u32>,
    /// Read as a member of this consumer group: its members share the partitions, and it remembers how far they were read.
    /// Where to start is then what the group has committed (the first record if nothing)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "key", "partition"])]
    group: Option<String>,
    /// With --group: this member's own name; made up if not given
    #[arg(long, value_name = "NAME", requires = "group")]
    member: Option<String>,
    /// End after this many records
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// Print the key and this in front of each value
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: OutputArgs,
}

const EXAMPLES: &str = "\
On a terminal each line is partition@offset, key and value; elsewhere it is the value alone, byte for byte.

Examples:
  sluice consume games
  sluice consume games --follow --from -15m
  sluice consume games --key match-1 -o json | jq .value
  sluice consume games --partition 0 --from 42 --limit 1
  sluice consume games --group workers --follow";

/// Prints what was asked for.
///
/// # Errors
/// What the server says.
pub async fn run(args: ConsumeArgs) -> Result<(), CliError> {
    let client = Client::new(&args.target)?;
    let mut printer = Printer::new(&args);
    let start = start(&args)?;
    let partitions: Vec<String> = args.partition.iter().map(u32::to_string).collect();
    // One is named by `partition`, which an offset needs beside it.
    let (name, partitions) = match partitions.len() {
        0 => ("partitions", None),
        1 => ("partition", Some(partitions[0].clone())),
        _ => ("partitions", Some(partitions.join(","))),
    };
    let selection = vec![("key", args.key.clone()), (name, partitions)];
    if args.limit == Some(0) {
        return Ok(());
    }
    if let Some(group) = &args.group {
        let member = args.member.clone().unwrap_or_else(|| format!("sluice-{}", std::process::id()));
        let membership = Membership { topic: &args.topic, group, member: &member, follow: args.follow };
        return consume_group::run(&client, membership, &mut printer).await;
    }
    match args.follow {
        true => follow(&client, &args.topic, &[start, selection].concat(), &mut printer).await,
        false => pages(&client, &args.topic, start, &selection, &mut printer).await,
    }
}

type Query = Vec<(&'static str, Option<String>)>;

/// The parameter that says where to start.
fn start(args: &ConsumeArgs) -> Result<Query, CliError> {
    let Some(from) = args.from.as_deref() else { return Ok(Vec::new()) };
    let name = match from {
        "earliest" | "latest" => "from",
        offset if !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_digit()) => {
            if args.partition.len() != 1 {
                return Err(CliError::usage("an offset is one partition's: name it with --partition"));
            }
            "offset"
        }
        _ => "since",
    };
    Ok(vec![(name, Some(from.to_owned()))])
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_cursor: String,
    caught_up: bool,
    #[serde(default)]
    gaps: Vec<Value>,
    #[serde(default)]
    unavailable: Vec<i32>,
}

async fn pages(
    client: &Client,
    topic: &str,
    start: Query,
    selection: &Query,
    printer: &mut Printer,
) -> Result<(), CliError> {
    let path = format!("/v1/topics/{}/records", encode(topic));
    let mut told: Vec<i32> = Vec::new();
    let mut position = start;
    loop {
        let limit = printer.left.unwrap_or(PAGE).min(PAGE).to_string();
        let query = [position, selection.clone(), vec![("limit", Some(limit))]].concat();
        let answer = client.send(Method::GET, &with_query(&path, &query), &[], bytes::Bytes::new()).await?;
        let bytes = client.whole(answer).await?;
        let page: Page<'_> = serde_json::from_slice(&bytes)
            .map_err(|e| HttpError::Strange { url: client.url().to_owned(), cause: e.to_string() })?;
        page.gaps.iter().for_each(warn_of_gap);
        for partition in page.unavailable {
            if !told.contains(&partition) {
                eprintln!("partition {partition} has no leader now: its records are missing here");
                told.push(partition);
            }
        }
        for record in &page.records {
            if printer.print(record.get())? {
                return printer.flush();
            }
        }
        if page.caught_up {
            return printer.flush();
        }
        position = vec![("cursor", Some(page.next_cursor))];
    }
}

/// What an event of the stream asks for.
enum Next {
    Go,
    Reconnect(Option<Duration>),
    End,
}

async fn follow(client: &Client, topic: &str, query: &Query, printer: &mut Printer) -> Result<(), CliError> {
    let path = with_query(&format!("/v1/topics/{}/stream", encode(topic)), query);
    let mut cursor: Option<String> = None;
    let mut backoff = FIRST_BACKOFF;
    let mut is_first = true;
    loop {
        let asked = match client.events(&path, cursor.as_deref()).await {
            Ok(None) => return printer.flush(),
            Ok(Some(mut stream)) => {
                is_first = false;
                match read(&mut stream, &mut cursor, &mut backoff, printer).await? {
                    Next::End => return printer.flush(),
                    Next::Reconnect(asked) => asked,
                    Next::Go => None,
                }
            }
            Err(e) if is_first || !e.is_retryable() => return Err(e.into()),
            Err(e) => {
                eprintln!("{e}\ntrying again");
                None
            }
        };
        printer.flush()?;
        tokio::time::sleep(asked.unwrap_or(backoff)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// One connection's events, until it ends.
async fn read(
    stream: &mut EventStream,
    cursor: &mut Option<String>,
    backoff: &mut Duration,
    printer: &mut Printer,
) -> Result<Next, CliError> {
    loop {
        let event = match stream.ready() {
            Some(event) => event,
            None => {
                printer.flush()?; // nothing more for now: whoever reads along wants it
                match stream.next().await {
                    Ok(Some(event)) => event,
                    Ok(None) => return Ok(Next::Go),
                    Err(e) => {
                        eprintln!("{e}\ngoing on where it stopped");
                        return Ok(Next::Go);
                    }
                }
            }
        };
        *backoff = FIRST_BACKOFF;
        let next = handle(&event, printer)?;
        cursor.clone_from(&event.id);
        if !matches!(next, Next::Go) {
            return Ok(next);
        }
    }
}

fn handle(event: &SseEvent, printer: &mut Printer) -> Result<Next, CliError> {
    match event.name.as_str() {
        "message" => return Ok(if printer.print(&event.data)? { Next::End } else { Next::Go }),
        "gap" => warn_of_gap(&serde_json::from_str(&event.data).unwrap_or_default()),
        "problem" => {
            let body: Value = serde_json::from_str(&event.data).unwrap_or_default();
            let status = body["status"].as_u64().and_then(|s| u16::try_from(s).ok()).unwrap_or(500);
            let problem = Problem { status, body };
            if !problem.is_retryable() {
                return Err(HttpError::Problem(Box::new(problem)).into());
            }
            eprintln!("{problem}");
            return Ok(Next::Reconnect(problem.retry_after()));
        }
        "goaway" => return Ok(Next::Reconnect(None)),
        "end" => return Ok(Next::End),
        _ => (), // caught-up, heartbeats, and what a later version may add
    }
    Ok(Next::Go)
}

pub(super) fn warn_of_gap(gap: &Value) {
    eprintln!(
        "gap in partition {}: offsets {} to {} are gone ({})",
        output::cell(&gap["partition"]),
        output::cell(&gap["from_offset"]),
        output::cell(&gap["to_offset"]),
        output::cell(&gap["reason"]),
    );
}

/// Writes records as asked for, and counts them.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    is_json: bool,
    is_terminal: bool,
    key_separator: Option<String>,
    left: Option<u64>,
}

impl Printer {
    fn new(args: &ConsumeArgs) -> Self {
        Self {
            out: BufWriter::with_capacity(64 << 10, std::io::stdout()),
            is_json: args.output.is_json(),
            is_terminal: output::stdout_is_terminal(),
            key_separator: args.key_separator.clone(),
            left: args.limit,
        }
    }

    /// How many records are still to be printed, where that is bounded.
    pub(super) const fn left(&self) -> Option<u64> {
        self.left
    }

    /// Prints a record, given as JSON. True if it was the last one asked for.
    pub(super) fn print(&mut self, json: &str) -> Result<bool, CliError> {
        if self.is_json {
            writeln!(self.out, "{json}")?;
        } else {
            self.print_text(json)?;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(self.left == Some(0))
    }

    fn print_text(&mut self, json: &str) -> Result<(), CliError> {
        let record: LogRecord<'_> =
            serde_json::from_str(json).map_err(|e| CliError::failed(format!("the server sent no record: {e}")))?;
        let key = record.key();
        if let Some(separator) = &self.key_separator {
            self.out.write_all(&key.unwrap_or_default())?;
            self.out.write_all(separator.as_bytes())?;
        } else if self.is_terminal {
            let key = key.map_or("-".into(), |k| printable(&k));
            write!(self.out, "{}@{}  {key}  ", record.partition, record.offset)?;
        }
        match record.value() {
            Some(value) if self.is_terminal => self.out.write_all(printable(&value).as_bytes())?,
            Some(value) => self.out.write_all(&value)?,
            None if self.is_terminal => self.out.write_all(b"(deleted)")?,
            None => (),
        }
        Ok(self.out.write_all(b"\n")?)
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.out.flush()?)
    }
}

/// Text that does a terminal no harm, whatever the bytes are.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

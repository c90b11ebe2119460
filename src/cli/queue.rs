//! `sluice queue`: queues over HTTP. Working through one by a command is in `work`.

mod work;

use super::{
    CliError,
    http_client::{Client, Common, encode, with_query},
    output,
    record::LogRecord,
};
use hyper::Method;
use serde_json::{Map, Value, json};
use std::io::Write as _;

/// Queues: create, receive, work, stats, dead, redrive, discard, delete
#[derive(Debug, clap::Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, clap::Subcommand)]
enum QueueCommand {
    /// Make a queue on a topic, or change it
    #[command(after_help = "Examples:\n  sluice queue create scores --topic games\n  \
                            sluice queue create scores --topic games --order key --max-deliveries 3 --on-exhausted park_key")]
    Create(CreateArgs),
    /// Lease messages and print them; they come back when the lease runs out
    #[command(after_help = "Examples:\n  sluice queue receive scores --max 10 --ack\n  \
                            sluice queue receive scores -o json | jq -r .lease")]
    Receive {
        /// The queue
        name: String,
        /// Messages at most
        #[arg(long, default_value_t = 1)]
        max: u32,
        /// How long to wait for the first, in milliseconds
        #[arg(long, default_value_t = 0)]
        wait_ms: u32,
        /// How long they are leased, in milliseconds; the queue's own time if not given
        #[arg(long)]
        lease_ms: Option<u32>,
        /// Acknowledge them once they are printed
        #[arg(long)]
        ack: bool,
        #[command(flatten)]
        rest: Common,
    },
    Work(work::WorkArgs),
    /// Show how many messages wait for what, of one queue or all
    #[command(after_help = "Examples:\n  sluice queue stats\n  sluice queue stats scores")]
    Stats {
        /// The queue; all if not given
        name: Option<String>,
        #[command(flatten)]
        rest: Common,
    },
    /// List dead letters and parked messages
    #[command(after_help = "Examples:\n  sluice queue dead scores -o json | jq .reason")]
    Dead {
        /// The queue
        name: String,
        #[command(flatten)]
        rest: Common,
    },
    /// Deliver dead letters or parked messages again
    #[command(after_help = "Examples:\n  sluice queue redrive scores --all\n  \
                            sluice queue redrive scores --reason 'no such game'\n  sluice queue redrive scores 0@17 2@4")]
    Redrive(EndArgs),
    /// Settle dead letters or parked messages for good
    #[command(after_help = "Examples:\n  sluice queue discard scores 0@17")]
    Discard(EndArgs),
    /// Delete queues; their topics stay
    #[command(after_help = "Examples:\n  sluice queue delete scores")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        rest: Common,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Its name: letters, digits, dot, underscore, hyphen
    name: String,
    /// The topic that it delivers
    #[arg(long)]
    topic: String,
    /// Where it begins: earliest, latest, or a time (2026-05-01T12:00:00Z); earliest if not given
    #[arg(long)]
    start: Option<String>,
    /// How long a message is leased, in milliseconds
    #[arg(long)]
    lease_ms: Option<u32>,
    /// Deliveries before a message is given up
    #[arg(long)]
    max_deliveries: Option<u16>,
    /// With key: one message of a key at a time, in order
    #[arg(long, value_parser = ["none", "key"])]
    order: Option<String>,
    /// What becomes of a message after its last delivery
    #[arg(long, value_parser = ["dead", "park_key", "skip"])]
    on_exhausted: Option<String>,
    /// Waits after failures, in milliseconds: the first, the longest, and how they grow
    #[arg(long, value_name = "MIN,MAX,FACTOR", value_parser = backoff)]
    backoff: Option<Value>,
    /// Messages of a partition that may be held back
    #[arg(long)]
    max_held: Option<u32>,
    #[command(flatten)]
    rest: Common,
}

#[derive(Debug, clap::Args)]
struct EndArgs {
    /// The queue
    name: String,
    /// Which: PARTITION@OFFSET
    #[arg(value_parser = place)]
    messages: Vec<Value>,
    /// Every one
    #[arg(long, conflicts_with_all = ["messages", "reason", "state", "partition"])]
    all: bool,
    /// Those with exactly this reason
    #[arg(long)]
    reason: Option<String>,
    /// Those that are this
    #[arg(long, value_parser = ["dead", "parked"])]
    state: Option<String>,
    /// Those of this partition
    #[arg(long)]
    partition: Option<u32>,
    #[command(flatten)]
    rest: Common,
}

fn backoff(text: &str) -> Result<Value, String> {
    let parse = || {
        let mut parts = text.split(',');
        let (min, max) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
        let factor = parts.next()?.parse::<f64>().ok()?;
        parts.next().is_none().then(|| json!({"min_ms": min, "max_ms": max, "factor": factor}))
    };
    parse().ok_or_else(|| "write MIN,MAX,FACTOR, as in 1000,60000,2".to_owned())
}

fn place(text: &str) -> Result<Value, String> {
    let parse = || {
        let (partition, offset) = text.split_once('@')?;
        Some(json!({"partition": partition.parse::<u32>().ok()?, "offset": offset.parse::<u64>().ok()?}))
    };
    parse().ok_or_else(|| "write PARTITION@OFFSET, as in 0@17".to_owned())
}

fn path(name: &str) -> String {
    format!("/v1/queues/{}", encode(name))
}

/// Runs one of the commands.
///
/// # Errors
/// What the server says.
pub async fn run(args: QueueArgs) -> Result<(), CliError> {
    match args.command {
        QueueCommand::Create(args) => create(args).await,
        QueueCommand::Receive { name, max, wait_ms, lease_ms, ack, rest } => {
            let mut wanted = json!({"max": max, "wait_ms": wait_ms});
            if let Some(ms) = lease_ms {
                wanted["lease_ms"] = ms.into();
            }
            receive(&name, &wanted, ack, &rest).await
        }
        QueueCommand::Work(args) => work::run(args).await,
        QueueCommand::Stats { name, rest } => stats(name, &rest).await,
        QueueCommand::Dead { name, rest } => dead(&name, &rest).await,
        QueueCommand::Redrive(args) => end(args, "redrive", "redrove").await,
        QueueCommand::Discard(args) => end(args, "discard", "discarded").await,
        QueueCommand::Delete { names, rest } => {
            let client = Client::new(&rest.target)?;
            for name in names {
                client.json(Method::DELETE, &path(&name), None).await?;
                rest.done(&json!({"name": name, "deleted": true}), &format!("deleted queue {name}"))?;
            }
            Ok(())
        }
    }
}

async fn create(args: CreateArgs) -> Result<(), CliError> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("topic", Some(args.topic.into()));
    put("start", args.start.map(Value::from));
    put("lease_ms", args.lease_ms.map(Value::from));
    put("max_deliveries", args.max_deliveries.map(Value::from));
    put("order", args.order.map(Value::from));
    put("on_exhausted", args.on_exhausted.map(Value::from));
    put("backoff", args.backoff);
    put("max_held", args.max_held.map(Value::from));
    let client = Client::new(&args.rest.target)?;
    let queue = client.json(Method::PUT, &path(&args.name), Some(&Value::Object(body))).await?;
    args.rest.done(&queue, &format!("queue {} is on topic {}", args.name, output::cell(&queue["topic"])))
}

async fn receive(name: &str, wanted: &Value, ack: bool, rest: &Common) -> Result<(), CliError> {
    let client = Client::new(&rest.target)?;
    let headers = [("content-type", "application/json")];
    let answer =
        client.send(Method::POST, &format!("{}/receive", path(name)), &headers, wanted.to_string().into()).await?;
    let body = client.whole(answer).await?;
    let messages = work::parse_messages(&body)?;
    let mut out = std::io::stdout().lock();
    for message in &messages {
        if rest.output.is_json() {
            writeln!(out, "{}", message.raw)?;
            continue;
        }
        let record: LogRecord<'_> = serde_json::from_str(message.record.get())
            .map_err(|e| CliError::failed(format!("the server sent a record that is not understood: {e}")))?;
        write!(out, "{}@{} ", record.partition, record.offset)?;
        if let Some(key) = record.key() {
            out.write_all(&key)?;
            out.write_all(b" ")?;
        }
        out.write_all(&record.value().unwrap_or_default())?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    drop(out);
    if ack && !messages.is_empty() {
        let leases: Vec<&str> = messages.iter().map(|message| message.lease).collect();
        client.json(Method::POST, &format!("{}/settle", path(name)), Some(&json!({"ack": leases}))).await?;
    }
    Ok(())
}

async fn stats(name: Option<String>, rest: &Common) -> Result<(), CliError> {
    let client = Client::new(&rest.target)?;
    let queues = match name {
        Some(name) => vec![client.json(Method::GET, &path(&name), None).await?],
        None => client.json(Method::GET, "/v1/queues", None).await?["queues"].as_array().cloned().unwrap_or_default(),
    };
    if rest.output.is_json() {
        return queues.iter().try_for_each(output::json_line);
    }
    const FIELDS: [&str; 9] = ["name", "topic", "ready", "leased", "delayed", "blocked", "parked", "dead", "lost"];
    let row = |queue: &Value| {
        let mut row = FIELDS.map(|field| output::cell(&queue[field])).to_vec();
        row.push(output::span(&queue["oldest_ready_age_ms"]));
        row
    };
    let mut head = FIELDS.map(str::to_uppercase).to_vec();
    head.push("OLDEST READY".to_owned());
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    output::table(&head, &queues.iter().map(row).collect::<Vec<_>>())?;
    let mut out = std::io::stdout().lock();
    for queue in &queues {
        for block in queue["blocked_by"].as_array().into_iter().flatten() {
            let (name, partition) = (output::cell(&queue["name"]), output::cell(&block["partition"]));
            if block["reason"] == "held-full" {
                writeln!(out, "{name}: partition {partition} holds back as many as it may, and takes no new messages")?;
                continue;
            }
            let [offset, state, waiting] = ["offset", "state", "waiting"].map(|field| output::cell(&block[field]));
            writeln!(out, "{name}: {waiting} behind key {}, {state} at {partition}@{offset}", key(block))?;
        }
    }
    Ok(())
}

/// The key of a record or of what holds messages back, as text if it is some.
fn key(of: &Value) -> String {
    output::cell(if of["key"].is_null() { &of["key_base64"] } else { &of["key"] })
}

async fn dead(name: &str, rest: &Common) -> Result<(), CliError> {
    let client = Client::new(&rest.target)?;
    let mut rows = Vec::new();
    let mut token = None;
    loop {
        let page = with_query(&format!("{}/dead", path(name)), &[("page_token", token)]);
        let page = client.json(Method::GET, &page, None).await?;
        for message in page["messages"].as_array().into_iter().flatten() {
            if rest.output.is_json() {
                output::json_line(message)?;
                continue;
            }
            let place = format!("{}@{}", output::cell(&message["partition"]), output::cell(&message["offset"]));
            let state = if message["gone"] == true { "gone".to_owned() } else { output::cell(&message["state"]) };
            let [attempts, reason] = ["attempts", "reason"].map(|field| output::cell(&message[field]));
            rows.push(vec![place, state, attempts, key(&message["record"]), reason]);
        }
        token = page["next_page_token"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if rest.output.is_json() {
        return Ok(());
    }
    output::table(&["MESSAGE", "STATE", "ATTEMPTS", "KEY", "REASON"], &rows)
}

async fn end(args: EndArgs, what: &str, past: &str) -> Result<(), CliError> {
    let mut filter = Map::new();
    if args.all {
        filter.insert("all".to_owned(), true.into());
    }
    if !args.messages.is_empty() {
        filter.insert("messages".to_owned(), args.messages.into());
    }
    for (name, value) in [
        ("reason", args.reason.map(Value::from)),
        ("state", args.state.map(Value::from)),
        ("partition", args.partition.map(Value::from)),
    ] {
        filter.extend(value.map(|value| (name.to_owned(), value)));
    }
    if filter.is_empty() {
        return Err(CliError::usage("say which: PARTITION@OFFSET, --reason, --state, --partition, or --all"));
    }
    let client = Client::new(&args.rest.target)?;
    let path = format!("{}/dead/{what}", path(&args.name));
    let ended = client.json(Method::POST, &path, Some(&Value::Object(filter))).await?;
    let messages = output::count(ended["count"].as_u64().unwrap_or_default(), "message");
    args.rest.done(&ended, &format!("{past} {messages}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_backoffs_are_read_strictly() {
        assert_eq!(place("2@17"), Ok(json!({"partition": 2, "offset": 17})));
        for bad in ["17", "a@1", "1@", "-1@2", "1@2@3"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert_eq!(backoff("1000,60000,2"), Ok(json!({"min_ms": 1000, "max_ms": 60000, "factor": 2.0})));
        for bad in ["1000", "1,2", "1,2,x", "1,2,3,4"] {
            assert!(backoff(bad).is_err(), "{bad}");
        }
    }
}

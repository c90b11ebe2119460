//! `sluice topic`: topics over HTTP.

use super::{
    CliError,
    http_client::{Client, Common, HttpError, encode, with_query},
    output,
};
use hyper::Method;
use serde_json::{Map, Value, json};
use std::io::Write as _;

/// Topics: create, list, describe, alter, delete
#[derive(Debug, clap::Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TopicCommand {
    /// Make a topic
    #[command(after_help = "Examples:\n  sluice topic create games\n  \
                            sluice topic create scores --partitions 12 --config cleanup.policy=compact --config flush=os")]
    Create {
        /// Its name: letters, digits, dot, underscore, hyphen
        name: String,
        /// How many partitions; the server's default if not given
        #[arg(long)]
        partitions: Option<u32>,
        /// How many brokers hold each partition; the server's default if not given
        #[arg(long)]
        replication_factor: Option<u16>,
        /// Configuration by Kafka's keys; may be given more than once
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        config: Vec<(String, String)>,
        #[command(flatten)]
        rest: Common,
    },
    /// List the topics
    #[command(after_help = "Examples:\n  sluice topic list\n  sluice topic list -o json | jq -r .name")]
    List {
        /// The server's own topics too
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        rest: Common,
    },
    /// Show a topic: its partitions and its configuration
    #[command(after_help = "Examples:\n  sluice topic describe games")]
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        rest: Common,
    },
    /// Change a topic's configuration, or give it more partitions
    #[command(after_help = "Examples:\n  sluice topic alter games --set retention.ms=86400000\n  \
                            sluice topic alter games --reset retention.ms --partitions 6")]
    Alter {
        /// Its name
        name: String,
        /// Configuration to set; may be given more than once
        #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
        set: Vec<(String, String)>,
        /// Configuration to put back to the default; may be given more than once
        #[arg(long, value_name = "KEY")]
        reset: Vec<String>,
        /// The new number of partitions; never fewer. Keys move to other partitions
        #[arg(long)]
        partitions: Option<u32>,
        #[command(flatten)]
        rest: Common,
    },
    /// Delete topics with all their records
    #[command(after_help = "Examples:\n  sluice topic delete games scores")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        rest: Common,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, as in retention.ms=86400000".to_owned()),
    }
}

fn object(pairs: Vec<(String, String)>) -> Value {
    Value::Object(pairs.into_iter().map(|(k, v)| (k, Value::String(v))).collect())
}

/// Runs one of the commands.
///
/// # Errors
/// What the server says.
pub async fn run(args: TopicArgs) -> Result<(), CliError> {
    match args.command {
        TopicCommand::Create { name, partitions, replication_factor, config, rest } => {
            let mut body = json!({ "name": name });
            if let Some(n) = partitions {
                body["partitions"] = n.into();
            }
            if let Some(n) = replication_factor {
                body["replication_factor"] = n.into();
            }
            if !config.is_empty() {
                body["config"] = object(config);
            }
            let topic = Client::new(&rest.target)?.json(Method::POST, "/v1/topics", Some(&body)).await?;
            rest.done(&topic, &format!("made topic {name}"))
        }
        TopicCommand::List { internal, rest } => list(internal, &rest).await,
        TopicCommand::Describe { name, rest } => {
            let topic = Client::new(&rest.target)?.json(Method::GET, &path(&name), None).await?;
            if rest.output.is_json() { output::json_line(&topic) } else { show(&topic) }
        }
        TopicCommand::Alter { name, set, reset, partitions, rest } => {
            let mut body = Map::new();
            if !set.is_empty() {
                body.insert("config".to_owned(), object(set));
            }
            if !reset.is_empty() {
                body.insert("reset".to_owned(), reset.into());
            }
            if let Some(n) = partitions {
                body.insert("partitions".to_owned(), n.into());
            }
            if body.is_empty() {
                return Err(CliError::usage("nothing to change: give --set, --reset or --partitions"));
            }
            let topic =
                Client::new(&rest.target)?.json(Method::PATCH, &path(&name), Some(&Value::Object(body))).await?;
            if let Some(warning) = topic["warning"].as_str() {
                eprintln!("{warning}");
            }
            rest.done(&topic, &format!("changed topic {name}"))
        }
        TopicCommand::Delete { names, rest } => {
            let client = Client::new(&rest.target)?;
            for name in names {
                client.json(Method::DELETE, &path(&name), None).await?;
                rest.done(&json!({ "name": name, "deleted": true }), &format!("deleted topic {name}"))?;
            }
            Ok(())
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/topics/{}", encode(name))
}

async fn list(internal: bool, rest: &Common) -> Result<(), CliError> {
    let client = Client::new(&rest.target)?;
    let mut rows = Vec::new();
    let mut token = None;
    loop {
        let parameters = [("internal", internal.then(|| "true".to_owned())), ("page_token", token)];
        let page = client.json(Method::GET, &with_query("/v1/topics", &parameters), None).await?;
        let topics = page["topics"].as_array().ok_or_else(|| HttpError::Strange {
            url: client.url().to_owned(),
            cause: "the list has no 'topics'".to_owned(),
        })?;
        for topic in topics {
            if rest.output.is_json() {
                output::json_line(topic)?;
                continue;
            }
            rows.push(vec![
                output::cell(&topic["name"]),
                output::cell(&topic["partition_count"]),
                output::cell(&topic["replication_factor"]),
            ]);
        }
        token = page["next_page_token"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if rest.output.is_json() { Ok(()) } else { output::table(&["NAME", "PARTITIONS", "REPLICAS"], &rows) }
}

fn show(topic: &Value) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}  ({})", output::cell(&topic["name"]), output::cell(&topic["topic_id"]))?;
    for (key, value) in topic["config"].as_object().into_iter().flatten() {
        writeln!(out, "  {key} = {}", output::cell(value))?;
    }
    drop(out);
    let empty = Vec::new();
    let rows: Vec<Vec<String>> = topic["partitions"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|p| {
            let mut row: Vec<String> =
                ["partition", "leader", "replicas", "in_sync_replicas", "log_start_offset", "high_watermark"]
                    .map(|field| output::cell(&p[field]))
                    .to_vec();
            row.push(p["size_bytes"].as_u64().map_or_else(|| "-".to_owned(), output::bytes));
            row
        })
        .collect();
    output::table(&["PARTITION", "LEADER", "REPLICAS", "IN SYNC", "START", "END", "SIZE"], &rows)
}

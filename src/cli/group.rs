//! `sluice group`: consumer groups over HTTP.

use super::{
    CliError,
    http_client::{Client, Common, encode, with_query},
    output,
};
use hyper::Method;
use serde_json::{Value, json};
use std::io::Write as _;

/// Consumer groups: list, describe, reset, delete
#[derive(Debug, clap::Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GroupCommand {
    /// List the groups
    #[command(after_help = "Examples:\n  sluice group list\n  sluice group list -o json | jq -r .group")]
    List {
        #[command(flatten)]
        rest: Common,
    },
    /// Show a group: its members, and how far it is in each partition
    #[command(
        after_help = "Examples:\n  sluice group describe workers\n  sluice group describe workers -o json | jq .lag"
    )]
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        rest: Common,
    },
    /// Set where a group without members goes on
    #[command(after_help = "Examples:\n  sluice group reset workers --to earliest\n  \
                            sluice group reset workers --to -1h --topic games\n  \
                            sluice group reset workers --offset games:0=42 --offset games:1=17")]
    Reset {
        /// Its name; made if there is none
        name: String,
        /// earliest, latest, or a time (2026-05-01T12:00:00Z, or -15m)
        #[arg(long, value_name = "WHERE", allow_hyphen_values = true, required_unless_present = "offset")]
        to: Option<String>,
        /// With --to: only these topics; all that the group has offsets of if not given
        #[arg(long, value_delimiter = ',', value_name = "NAME,…", conflicts_with = "offset")]
        topic: Vec<String>,
        /// The next offset to read of one partition; may be given more than once
        #[arg(long, value_name = "TOPIC:PARTITION=OFFSET", value_parser = offset, conflicts_with = "to")]
        offset: Vec<(String, i32, i64)>,
        #[command(flatten)]
        rest: Common,
    },
    /// Delete groups without members, with their offsets
    #[command(after_help = "Examples:\n  sluice group delete workers")]
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        rest: Common,
    },
}

fn offset(text: &str) -> Result<(String, i32, i64), String> {
    let parsed = || {
        let (place, offset) = text.split_once('=')?;
        let (topic, partition) = place.rsplit_once(':')?;
        let (partition, offset) = (partition.parse::<u32>().ok()?, offset.parse::<i64>().ok()?);
        (!topic.is_empty() && offset >= 0).then(|| Some((topic.to_owned(), i32::try_from(partition).ok()?, offset)))?
    };
    parsed().ok_or_else(|| "write TOPIC:PARTITION=OFFSET, as in games:0=42".to_owned())
}

fn path(group: &str) -> String {
    format!("/v1/groups/{}", encode(group))
}

/// Runs one of the commands.
///
/// # Errors
/// What the server says.
pub async fn run(args: GroupArgs) -> Result<(), CliError> {
    match args.command {
        GroupCommand::List { rest } => list(&rest).await,
        GroupCommand::Describe { name, rest } => {
            let group = Client::new(&rest.target)?.json(Method::GET, &path(&name), None).await?;
            if rest.output.is_json() { output::json_line(&group) } else { show(&group) }
        }
        GroupCommand::Reset { name, to, topic, offset, rest } => {
            let mut body = match to.as_deref() {
                Some(end @ ("earliest" | "latest")) => json!({ "from": end }),
                Some(time) => json!({ "since": time }),
                None => {
                    let offsets = offset.iter().map(|(t, p, o)| json!({"topic": t, "partition": p, "offset": o}));
                    json!({ "offsets": offsets.collect::<Vec<_>>() })
                }
            };
            if !topic.is_empty() {
                body["topics"] = json!(topic);
            }
            let client = Client::new(&rest.target)?;
            let set = client.json(Method::PUT, &format!("{}/offsets", path(&name)), Some(&body)).await?;
            if rest.output.is_json() {
                return output::json_line(&set);
            }
            let row = |o: &Value| ["topic", "partition", "offset"].map(|field| output::cell(&o[field])).to_vec();
            let rows: Vec<_> = set["offsets"].as_array().into_iter().flatten().map(row).collect();
            output::table(&["TOPIC", "PARTITION", "OFFSET"], &rows)
        }
        GroupCommand::Delete { names, rest } => {
            let client = Client::new(&rest.target)?;
            for name in names {
                client.json(Method::DELETE, &path(&name), None).await?;
                rest.done(&json!({"group": name, "deleted": true}), &format!("deleted group {name}"))?;
            }
            Ok(())
        }
    }
}

async fn list(rest: &Common) -> Result<(), CliError> {
    let client = Client::new(&rest.target)?;
    let (mut rows, mut token) = (Vec::new(), None);
    loop {
        let page = client.json(Method::GET, &with_query("/v1/groups", &[("page_token", token)]), None).await?;
        for group in page["groups"].as_array().into_iter().flatten() {
            if rest.output.is_json() {
                output::json_line(group)?;
                continue;
            }
            rows.push(["group", "state", "members", "protocol_type"].map(|field| output::cell(&group[field])).to_vec());
        }
        token = page["next_page_token"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if rest.output.is_json() { Ok(()) } else { output::table(&["NAME", "STATE", "MEMBERS", "KIND"], &rows) }
}

fn show(group: &Value) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}  {}, epoch {}, {} records behind ({})",
        output::cell(&group["group"]),
        output::cell(&group["state"]),
        output::cell(&group["epoch"]),
        output::cell(&group["lag"]),
        output::span(&group["lag_ms"]),
    )?;
    for member in group["members"].as_array().into_iter().flatten() {
        let [name, kind, host] = ["member", "kind", "host"].map(|field| output::cell(&member[field]));
        let from = if kind == "http" { kind } else { format!("{kind}, {host}") };
        writeln!(out, "  {name}  ({from})")?;
    }
    drop(out);
    let row = |o: &Value| {
        let mut row = ["topic", "partition", "committed_offset", "log_start_offset", "high_watermark", "lag"]
            .map(|field| output::cell(&o[field]))
            .to_vec();
        row.extend([output::span(&o["lag_ms"]), output::cell(&o["member"])]);
        row
    };
    let rows: Vec<_> = group["offsets"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["TOPIC", "PARTITION", "COMMITTED", "START", "END", "LAG", "BEHIND", "MEMBER"], &rows)
}

#[cfg(test)]
mod tests {
    use super::offset;

    #[test]
    fn offsets_are_read_strictly() {
        assert_eq!(offset("games:3=42"), Ok(("games".to_owned(), 3, 42)));
        for bad in ["games", "games=1", "games:x=1", "games:-1=1", "games:1=-1", ":1=1", "games:1="] {
            assert!(offset(bad).is_err(), "{bad}");
        }
    }
}

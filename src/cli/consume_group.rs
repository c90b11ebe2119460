//! `sluice consume --group`: a member of a consumer group, over HTTP.
//!
//! **Invariant**: what is committed was printed and flushed before. So a record is printed at least once by somebody,
//! and after a rebalance perhaps by two.

use super::{
    CliError,
    consume::{Printer, warn_of_gap},
    http_client::{Client, HttpError, encode, with_query},
    signals::Signals,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::time::Duration;

/// Records in a page, at most.
const PAGE: u64 = 1000;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Shorter than the shortest heartbeat interval of a calm group, so that one loop does for reading and for heartbeats.
const WAIT_MS: u64 = 1000;

/// What to read, and as whom.
pub struct Membership<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The group.
    pub group: &'a str,
    /// The member's own name.
    pub member: &'a str,
    /// Go on with what comes; otherwise it ends when all was read.
    pub follow: bool,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_cursor: String,
    caught_up: bool,
    #[serde(default)]
    gaps: Vec<Value>,
}

/// Joins, prints and commits until it is interrupted, or has all that was asked for; then leaves.
///
/// # Errors
/// What the server says, unless trying again may help.
pub async fn run(client: &Client, membership: Membership<'_>, printer: &mut Printer) -> Result<(), CliError> {
    let path = format!("/v1/groups/{}/members/{}", encode(membership.group), encode(membership.member));
    let mut signals = Signals::new()?;
    expect_topic(client, &membership).await?;
    let mut has_joined = false;
    let worked = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        worked = work(client, &path, &membership, printer, &mut has_joined) => worked,
    };
    if !has_joined {
        return worked;
    }
    // Without it the others would wait for the session to end.
    match client.json(Method::DELETE, &path, None).await {
        Err(HttpError::Problem(problem)) if problem.status == 404 => {}
        Err(error) => eprintln!("{error}\nthe group drops this member when its session ends"),
        Ok(_) => {}
    }
    worked
}

/// A group may wait for a topic that somebody makes later; whoever does not follow has mistaken its name.
async fn expect_topic(client: &Client, membership: &Membership<'_>) -> Result<(), CliError> {
    let path = format!("/v1/topics/{}", encode(membership.topic));
    match client.json(Method::GET, &path, None).await {
        Err(HttpError::Problem(problem)) if problem.status == 404 && membership.follow => {
            eprintln!("there is no topic '{}' yet; waiting for it", membership.topic);
            Ok(())
        }
        Err(error) if membership.follow && error.is_retryable() => Ok(()),
        other => other.map(drop).map_err(CliError::from),
    }
}

async fn work(
    client: &Client,
    path: &str,
    membership: &Membership<'_>,
    printer: &mut Printer,
    has_joined: &mut bool,
) -> Result<(), CliError> {
    let join = json!({ "topics": [membership.topic] });
    let mut backoff = FIRST_BACKOFF;
    loop {
        let joined = client.json(Method::PUT, path, Some(&join)).await;
        let place = match joined {
            Ok(place) => place,
            Err(error) if error.is_retryable() => {
                eprintln!("{error}\ntrying again");
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        (backoff, *has_joined) = (FIRST_BACKOFF, true);
        if place["state"] != "stable" {
            let interval = place["heartbeat_interval_ms"].as_u64().unwrap_or(200);
            tokio::time::sleep(Duration::from_millis(interval)).await;
            continue;
        }
        match read(client, path, &place["epoch"], membership.follow, printer).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Failure::Http(error)) if is_passing(&error) => {}
            Err(Failure::Http(error)) => return Err(error.into()),
            Err(Failure::Cli(error)) => return Err(error),
        }
    }
}

/// What joining again mends.
fn is_passing(error: &HttpError) -> bool {
    let code = match error {
        HttpError::Problem(problem) => problem.code(),
        _ => "",
    };
    matches!(code, "rebalance" | "unknown-member") || error.is_retryable()
}

enum Failure {
    Http(HttpError),
    Cli(CliError),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<CliError> for Failure {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

/// Reads and commits under one epoch. True when it has all that was asked for.
async fn read(
    client: &Client,
    path: &str,
    epoch: &Value,
    follow: bool,
    printer: &mut Printer,
) -> Result<bool, Failure> {
    let mut cursor: Option<String> = None;
    loop {
        let limit = printer.left().unwrap_or(PAGE).min(PAGE).to_string();
        let query = [
            ("epoch", Some(epoch.to_string())),
            ("cursor", cursor),
            ("limit", Some(limit)),
            ("wait_ms", follow.then(|| WAIT_MS.to_string())),
        ];
        let records = with_query(&format!("{path}/records"), &query);
        let answer = client.send(Method::GET, &records, &[], bytes::Bytes::new()).await?;
        let bytes = client.whole(answer).await?;
        let page: Page<'_> = serde_json::from_slice(&bytes)
            .map_err(|e| HttpError::Strange { url: client.url().to_owned(), cause: e.to_string() })?;
        page.gaps.iter().for_each(|gap| warn_of_gap(&gap["gap"]));
        let mut is_last = false;
        for record in &page.records {
            is_last = printer.print(record.get())?;
        }
        printer.flush()?;
        if !page.records.is_empty() || !page.gaps.is_empty() {
            let commit = json!({ "epoch": epoch, "cursor": page.next_cursor });
            client.json(Method::POST, &format!("{path}/commit"), Some(&commit)).await?;
        }
        if is_last || (!follow && page.caught_up) {
            return Ok(true);
        }
        cursor = Some(page.next_cursor);
    }
}

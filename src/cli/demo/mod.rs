//! `sluice demo`: posts a made-up season of games, so that there is something to look at.

mod season;

use super::{
    CliError,
    http_client::{Client, HttpError, Target, encode},
};
use crate::sys::{OsRng, Rng as _};
use hyper::Method;
use season::{SeasonEvent, season};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Events in a request, at most.
const BATCH: usize = 500;
/// How often what is due is sent; a few at once look live, and cost little.
const TICK: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often a batch is tried again before the demo gives up.
const RETRIES: u32 = 30;

/// Post a made-up season of games, to have something to look at
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// The topic; made if there is none
    #[arg(long, default_value = "games")]
    topic: String,
    /// Minutes of the games in a second; 0 posts everything at once
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Another season for another number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seasons, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    seasons: u32,
    #[command(flatten)]
    target: Target,
}

const EXAMPLES: &str = "\
Each event is keyed by its match: kickoff, goals, half_time, full_time. A seed gives the same season each time.

Examples:
  sluice demo                       a match in a minute and three quarters; open http://127.0.0.1:8080/ beside it
  sluice demo --speed 20            faster
  sluice demo --speed 0 --seed 7    a whole season at once, another one";

fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (0.0..=1e6).contains(s))
        .ok_or_else(|| "write a number, 0 or more, as in 2.5".to_owned())
}

/// Posts the seasons.
///
/// # Errors
/// What the server says.
pub async fn run(args: DemoArgs) -> Result<(), CliError> {
    let client = Client::new(&args.target)?;
    match client.json(Method::POST, "/v1/topics", Some(&json!({ "name": args.topic }))).await {
        Ok(_) => eprintln!("made topic {}", args.topic),
        Err(HttpError::Problem(problem)) if problem.code() == "topic-exists" => (),
        Err(e) => return Err(e.into()),
    }
    for number in 1..=args.seasons {
        let events = season(args.seed, number);
        eprintln!("season {number}: {} events to topic {} at {}", events.len(), args.topic, client.url());
        play(&client, &args, &events).await?;
    }
    Ok(())
}

async fn play(client: &Client, args: &DemoArgs, events: &[SeasonEvent]) -> Result<(), CliError> {
    // Not the season's own: the same season posted again is meant to be stored again.
    let id = format!("demo-{:016x}", OsRng.next_u64());
    let started = Instant::now();
    let mut sent = 0;
    while sent < events.len() {
        let now_minutes = match args.speed {
            0.0 => f64::INFINITY,
            speed => started.elapsed().as_secs_f64() * speed,
        };
        let due = events[sent..].iter().take(BATCH).take_while(|e| e.at_minutes <= now_minutes).count();
        if due == 0 {
            tokio::time::sleep(TICK).await;
            continue;
        }
        post(client, &args.topic, &format!("{id}-{sent}"), &events[sent..sent + due]).await?;
        events[sent..sent + due].iter().for_each(tell);
        sent += due;
    }
    Ok(())
}

/// Sends a batch, again and again under its Idempotency-Key where that may help.
async fn post(client: &Client, topic: &str, idempotency_key: &str, events: &[SeasonEvent]) -> Result<(), CliError> {
    let path = format!("/v1/topics/{}/records", encode(topic));
    let records: Vec<_> = events.iter().map(|e| json!({ "key": e.key, "value": e.value })).collect();
    let body = bytes::Bytes::from(json!({ "records": records }).to_string());
    let headers = [("content-type", "application/json"), ("idempotency-key", idempotency_key)];
    let mut tries = 0;
    loop {
        match client.send(Method::POST, &path, &headers, body.clone()).await {
            Ok(answer) => return Ok(client.whole(answer).await.map(drop)?),
            Err(e) if e.is_retryable() && tries < RETRIES => tokio::time::sleep(RETRY_AFTER).await,
            Err(e) => return Err(e.into()),
        }
        tries += 1;
    }
}

/// A line for each final score, on stderr: the data is in the topic.
fn tell(event: &SeasonEvent) {
    let value = &event.value;
    if value["type"] == "full_time" {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (one, two) = (&value["score"][0], &value["score"][1]);
        eprintln!("{}: {} {one}–{two} {}", text("league"), text("team1"), text("team2"));
    }
}

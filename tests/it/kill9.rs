//! Writers under load, kill -9 in the middle, restart: nothing that was acknowledged is lost, nothing is there twice.
//!
//! A writer that got no answer does not know whether its record is stored, so it sends it again under the same
//! Idempotency-Key after the restart; that must leave one record, and answer the place of the first.
//! `SLUICE_KILL_ROUNDS=20` kills more often than the default.

use crate::harness::{Client, Reply, Server};
use hyper::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tempfile::TempDir;

const WRITERS: u32 = 8;
const PARTITIONS: i64 = 3;
const DEFAULT_ROUNDS: u32 = 3;

/// Where a record is: partition and offset.
type Place = (i64, i64);

/// One request of one writer.
#[derive(Clone)]
struct Send {
    idempotency_key: String,
    /// Its values, each unique in the whole run. One goes through `events`, more through `records`.
    values: Vec<String>,
}

/// What the writers know.
#[derive(Default)]
struct History {
    acknowledged: BTreeMap<String, Place>,
    unanswered: Vec<Send>,
    /// Answers to resends that had been stored before.
    replayed: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9_once_each() {
    let rounds = std::env::var("SLUICE_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(DEFAULT_ROUNDS, |text| text.parse().expect("SLUICE_KILL_ROUNDS is a number"));
    let mut folder = TempDir::new().expect("a temporary folder");
    let mut history = History::default();
    for round in 0..rounds {
        let server = Server::start_in(folder, &[]).await;
        let client = server.client();
        if round == 0 {
            let topic = json!({"name": "load", "partitions": PARTITIONS, "config": {"flush": "commit"}});
            let reply = client.post_json("/v1/topics", &topic).await;
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        resend(&client, &mut history).await;
        check(&client, &history).await;
        let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write(server.client(), round, w))).collect();
        // Another moment each round, so that the kill falls into other steps; nothing below depends on it.
        tokio::time::sleep(Duration::from_millis(150 + u64::from(round * 97 % 400))).await;
        folder = server.kill9();
        for writer in writers {
            let (acknowledged, unanswered) = writer.await.expect("a writer does not panic");
            history.acknowledged.extend(acknowledged);
            history.unanswered.extend(unanswered);
        }
    }
    let server = Server::start_in(folder, &[]).await;
    resend(&server.client(), &mut history).await;
    check(&server.client(), &history).await;
    assert!(history.acknowledged.len() > 50, "the load was no load: {}", history.acknowledged.len());
    println!("{} acknowledged, {} of them on the resend only", history.acknowledged.len(), history.replayed);
}

/// Sends until the server is gone.
async fn write(client: Client, round: u32, writer: u32) -> (BTreeMap<String, Place>, Option<Send>) {
    let mut acknowledged = BTreeMap::new();
    for n in 0.. {
        let id = format!("{round}-{writer}-{n}");
        let count = if n % 4 == 3 { 5 } else { 1 };
        let values = (0..count).map(|i| format!("v{id}-{i}")).collect();
        let send = Send { idempotency_key: format!("k{id}"), values };
        match attempt(&client, &send).await {
            Some(reply) => acknowledged.extend(places(&send, &reply)),
            None => return (acknowledged, Some(send)),
        }
    }
    unreachable!("the server is killed before the numbers end")
}

async fn attempt(client: &Client, send: &Send) -> Option<Reply> {
    let key = [("idempotency-key", send.idempotency_key.as_str())];
    if let [value] = send.values.as_slice() {
        let path = format!("/v1/topics/load/events?key={value}");
        return client.try_request(Method::POST, &path, &key, value.clone()).await;
    }
    let records: Vec<Value> = send.values.iter().map(|value| json!({"key": value, "value": value})).collect();
    let headers = [key[0], ("content-type", "application/json")];
    let body = json!({ "records": records }).to_string();
    client.try_request(Method::POST, "/v1/topics/load/records", &headers, body).await
}

/// Where the answer says that the values are.
fn places(send: &Send, reply: &Reply) -> Vec<(String, Place)> {
    let place = |result: &Value| {
        let number = |name: &str| result[name].as_i64().unwrap_or_else(|| panic!("no {name} in {reply:?}"));
        (number("partition"), number("offset"))
    };
    if let [value] = send.values.as_slice() {
        assert_eq!(reply.status, 201, "{reply:?}");
        return vec![(value.clone(), place(&reply.json()))];
    }
    assert_eq!(reply.status, 200, "{reply:?}");
    let body = reply.json();
    let results = body["results"].as_array().expect("results is a list");
    assert_eq!(results.len(), send.values.len(), "{reply:?}");
    send.values.iter().cloned().zip(results.iter().map(place)).collect()
}

async fn resend(client: &Client, history: &mut History) {
    for send in std::mem::take(&mut history.unanswered) {
        let reply = attempt(client, &send).await.expect("the restarted server answers");
        history.replayed += usize::from(reply.header("idempotency-replayed") == "true");
        let first = places(&send, &reply);
        history.acknowledged.extend(first.clone());
        // Once more: the same answer, and the check below finds no twin.
        let again = attempt(client, &send).await.expect("the restarted server answers");
        assert_eq!(again.header("idempotency-replayed"), "true", "{again:?}");
        assert_eq!(places(&send, &again), first);
    }
}

/// Reads every partition from its start and compares.
async fn check(client: &Client, history: &History) {
    let mut found: BTreeMap<String, Place> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut expected = 0;
        let mut query = "from=earliest".to_owned();
        loop {
            let path = format!("/v1/topics/load/records?partition={partition}&limit=1000&{query}");
            let reply = client.get(&path).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let page = reply.json();
            assert!(page.get("gaps").is_none(), "{reply:?}");
            for record in page["records"].as_array().expect("records is a list") {
                let offset = record["offset"].as_i64().expect("a record has its offset");
                assert_eq!(offset, expected, "offsets are dense in partition {partition}");
                expected += 1;
                let value = record["text"].as_str().or_else(|| record["value"].as_str()).expect("a text").to_owned();
                assert_eq!(record["key"], Value::String(value.clone()), "a record is as it was sent");
                if let Some(twin) = found.insert(value.clone(), (partition, offset)) {
                    panic!("{value} is at {twin:?} and at {:?}", (partition, offset));
                }
            }
            if page["caught_up"] == Value::Bool(true) {
                break;
            }
            query = format!("cursor={}", page["next_cursor"].as_str().expect("a page has its cursor"));
        }
    }
    for (value, place) in &history.acknowledged {
        assert_eq!(found.get(value), Some(place), "{value} was acknowledged at {place:?}");
    }
    // All that was unanswered has been sent again by now, so there is nothing that nobody knows of.
    let known: BTreeSet<&String> = history.acknowledged.keys().collect();
    let phantoms: Vec<&String> = found.keys().filter(|value| !known.contains(value)).collect();
    assert!(phantoms.is_empty(), "nobody was told of {phantoms:?}");
}

//! What goes wrong around a queue: leases that are late, foreign, or from before a crash; receivers whose queue is changed
//! or deleted; messages that nobody can do; topics that lose records.

use crate::harness::{Client, Reply, Server};
use crate::queues::{describe, produce, queue, receive, settle, topic, value};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// What a settlement says of each lease, with its status.
fn told(reply: &Reply) -> (u16, Vec<String>) {
    let results = reply.json()["results"].as_array().expect("a settlement has results").clone();
    (reply.status, results.iter().map(|result| result["status"].as_str().unwrap().to_owned()).collect())
}

fn values(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(value).collect()
}

/// A queue over a topic with the values 0 to `count`.
async fn filled(client: &Client, count: i64, definition: &Value) {
    topic(client, "jobs", 1).await;
    produce(client, "jobs", (0..count).map(|n| json!({"value": n})).collect()).await;
    queue(client, "q", definition).await;
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("a clock after 1970").as_millis() as i64
}

#[tokio::test]
async fn a_lease_that_ran_out_or_went_to_another_is_lost() {
    let (server, stranger) = (Server::start().await, Server::start().await);
    let client = server.client();
    filled(&client, 2, &json!({"topic": "jobs"})).await;
    // Its worker vanishes, and another one gets the message.
    receive(&client, "q", json!({"max": 1})).await;
    let first = receive(&client, "q", json!({"max": 1, "lease_ms": 50})).await;
    let second = receive(&client, "q", json!({"max": 1, "wait_ms": 60000})).await;
    assert_eq!((values(&first), values(&second), &second[0]["attempt"]), (vec![1], vec![1], &json!(2)));
    let (old, new) = (&first[0]["lease"], &second[0]["lease"]);
    for late in [
        json!({"ack": [old]}),
        json!({"nack": [{"lease": old}]}),
        json!({"extend": [{"lease": old, "lease_ms": 9000}]}),
    ] {
        assert_eq!(told(&settle(&client, "q", late).await), (409, vec!["lost".to_owned()]));
    }
    let reply = settle(&client, "q", json!({"ack": [old, new]})).await;
    assert_eq!(
        told(&reply),
        (409, vec!["lost".to_owned(), "settled".to_owned()]),
        "the good one is settled all the same"
    );
    assert_eq!(reply.json()["side_effects"], "applied");
    // Twice in one settlement, and after it.
    assert_eq!(
        told(&settle(&client, "q", json!({"ack": [new, new]})).await),
        (200, vec!["already-settled".to_owned(); 2])
    );
    assert_eq!(told(&settle(&client, "q", json!({"ack": [old]})).await), (409, vec!["lost".to_owned()]), "still");
    // Ran out, and nobody has it yet.
    produce(&client, "jobs", json!([{"value": 2}])).await;
    let third = receive(&client, "q", json!({"max": 1, "lease_ms": 1})).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(told(&settle(&client, "q", json!({"ack": [third[0]["lease"]]})).await), (409, vec!["lost".to_owned()]));
    assert_eq!(values(&receive(&client, "q", json!({})).await), [2]);
    // Another cluster's lease is a forgery here, whatever it says.
    let there = stranger.client();
    filled(&there, 1, &json!({"topic": "jobs"})).await;
    let foreign = receive(&there, "q", json!({})).await;
    let refused = settle(&client, "q", json!({"ack": [foreign[0]["lease"]]})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid-lease")), "{refused:?}");
}

#[tokio::test]
async fn a_broker_that_is_killed_keeps_what_was_settled_and_ends_every_lease() {
    let server = Server::start().await;
    let client = server.client();
    filled(&client, 6, &json!({"topic": "jobs", "max_deliveries": 3})).await;
    let call = |client: Client| async move {
        let headers = [("idempotency-key", "once")];
        client.send_json(Method::POST, "/v1/queues/q/receive", &headers, &json!({"max": 4})).await
    };
    let got = call(client.clone()).await.json()["messages"].as_array().unwrap().clone();
    let lease = |n: usize| got[n]["lease"].clone();
    let verdicts =
        json!({"ack": [lease(0)], "nack": [{"lease": lease(1), "reason": "busy"}], "reject": [{"lease": lease(2)}]});
    assert_eq!(settle(&client, "q", verdicts.clone()).await.status, 200);
    let server = Server::start_in(server.kill9(), &[]).await;
    let client = server.client();
    // The answer was lost: the same settlement is known. The lease that nobody spoke of went with the broker.
    assert_eq!(told(&settle(&client, "q", verdicts).await), (200, vec!["already-settled".to_owned(); 3]));
    for late in [json!({"ack": [lease(3)]}), json!({"extend": [{"lease": lease(3), "lease_ms": 9000}]})] {
        assert_eq!(told(&settle(&client, "q", late).await), (409, vec!["lost".to_owned()]));
    }
    // None of what the key leased is held any more, so the resend is a new call: it gets what is ready.
    let again = call(client.clone()).await;
    assert_eq!(again.header("idempotency-replayed"), "", "{again:?}");
    let again = again.json()["messages"].as_array().unwrap().clone();
    assert_eq!(values(&again), [1, 3, 4, 5]);
    // A failure counts over the restart; a lease that the broker's end cut short does not.
    assert_eq!([0, 1].map(|n| again[n]["attempt"].clone()), [2, 1]);
    let replay = call(client.clone()).await;
    assert_eq!(
        (replay.header("idempotency-replayed"), &replay.json()["messages"][0]["lease"]),
        ("true", &again[0]["lease"])
    );
    let state = describe(&client, "q").await;
    assert_eq!(["acked", "dead", "leased", "ready"].map(|f| state[f].clone()), [1, 1, 4, 0], "{state}");
}

#[tokio::test]
async fn what_nobody_can_do_ends_as_the_queue_says() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", json!([{"key": "a", "value": 0}, {"key": "a", "value": 1}, {"key": "b", "value": 2}]))
        .await;
    for (way, field, after) in
        [("dead", "dead", vec![1, 2]), ("skip", "skipped", vec![1, 2]), ("park_key", "parked", vec![2])]
    {
        queue(&client, way, &json!({"topic": "jobs", "order": "key", "max_deliveries": 2, "on_exhausted": way})).await;
        for attempt in 1..=2 {
            let got = receive(&client, way, json!({"max": 1})).await;
            assert_eq!((values(&got), &got[0]["attempt"]), (vec![0], &json!(attempt)), "{way}");
            settle(&client, way, json!({"nack": [{"lease": got[0]["lease"], "delay_ms": 0, "reason": "poison"}]}))
                .await;
        }
        let state = describe(&client, way).await;
        assert_eq!((&state[field], &state["acked"]), (&json!(1), &json!(0)), "{way}: {state}");
        assert_eq!(values(&receive(&client, way, json!({})).await), after, "{way}");
        let given_up =
            client.get(&format!("/v1/queues/{way}/dead")).await.json()["messages"].as_array().unwrap().clone();
        assert_eq!(given_up.len(), usize::from(way != "skip"));
        if let Some(one) = given_up.first() {
            assert_eq!(
                (&one["reason"], &one["attempts"], &one["record"]["value"]),
                (&json!("poison"), &json!(2), &json!(0))
            );
        }
    }
    // A parked one that is discarded lets its key go on.
    assert_eq!(client.post_json("/v1/queues/park_key/dead/discard", &json!({"all": true})).await.json()["count"], 1);
    assert_eq!(values(&receive(&client, "park_key", json!({})).await), [1]);
}

#[tokio::test]
async fn retention_that_was_faster_is_counted_where_people_look() {
    let server = Server::start().await;
    let client = server.client();
    filled(&client, 10, &json!({"topic": "jobs"})).await;
    let leased = receive(&client, "q", json!({"max": 2, "lease_ms": 3000})).await;
    let truncate = json!({"partitions": [{"partition": 0, "before_offset": 6}]});
    assert_eq!(client.post_json("/v1/topics/jobs/truncate", &truncate).await.status, 200);
    // Nobody has received since.
    let state = describe(&client, "q").await;
    assert_eq!(["lost", "leased", "ready"].map(|f| state[f].clone()), [4, 2, 4], "{state}");
    // A lease over what is gone may still be settled. If it runs out, there is nothing to deliver again.
    assert_eq!(settle(&client, "q", json!({"ack": [leased[0]["lease"]]})).await.status, 200);
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    while describe(&client, "q").await["leased"] != 0 {
        assert!(tokio::time::Instant::now() < deadline, "the lease does not run out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let server = Server::start_in(server.kill9(), &[]).await;
    let state = describe(&server.client(), "q").await;
    assert_eq!(["lost", "acked", "ready"].map(|f| state[f].clone()), [5, 1, 4], "{state}");
    assert_eq!(values(&receive(&server.client(), "q", json!({})).await), [6, 7, 8, 9]);
}

#[tokio::test]
async fn a_record_may_name_its_time_in_a_field_or_a_header() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    let (soon, far) = (now_ms() + 3000, now_ms() + 3_600_000);
    let header = |at: i64| json!([{"name": "deliver_at_ms", "value": at.to_string()}]);
    let records = json!([
        {"value": 0, "deliver_at_ms": far},
        {"value": 1, "deliver_at_ms": soon},
        {"value": 2, "headers": header(far)},
        {"value": 3, "headers": header(soon)},
        {"value": 4, "deliver_at_ms": now_ms() - 1000},
        {"value": 5, "headers": [{"name": "deliver_at_ms", "value": "noon"}]},
    ]);
    produce(&client, "jobs", records).await;
    let sent = client
        .request(Method::POST, "/v1/topics/jobs/events", &[("record-header-deliver_at_ms", &far.to_string())], "6")
        .await;
    assert_eq!(sent.status, 201, "{sent:?}");
    queue(&client, "q", &json!({"topic": "jobs"})).await;
    // A time that has passed, or that is none, holds nothing back.
    assert_eq!(values(&receive(&client, "q", json!({"lease_ms": 60000})).await), [4, 5]);
    assert_eq!(describe(&client, "q").await["delayed"], 5);
    let mut later = Vec::new();
    while later.len() < 2 {
        let got = receive(&client, "q", json!({"wait_ms": 60000, "lease_ms": 60000})).await;
        assert!(now_ms() >= soon, "{got:?} came before its time");
        later.extend(values(&got));
    }
    assert_eq!(later, [1, 3]);
    // Over a restart the others still wait.
    let server = Server::start_in(server.kill9(), &[]).await;
    assert_eq!(values(&receive(&server.client(), "q", json!({})).await), [1, 3, 4, 5]);
    assert_eq!(describe(&server.client(), "q").await["delayed"], 3);
    for bad in [json!(-1), json!("soon"), json!(1.5), json!(null)] {
        let refused = server
            .client()
            .post_json("/v1/topics/jobs/records", &json!({"records": [{"value": 1, "deliver_at_ms": bad}]}))
            .await;
        assert!([400, 422].contains(&refused.status), "{bad}: {refused:?}");
    }
}

#[tokio::test]
async fn queues_begin_where_they_are_told_and_know_nothing_of_each_other() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 2).await;
    let at = |n: i64| 1_577_836_800_000 + n * 1000; // 2020-01-01T00:00:00Z and n seconds
    let records = (0..8).map(|n| json!({"value": n, "partition": n % 2, "timestamp_ms": at(n)})).collect();
    produce(&client, "jobs", records).await;
    for (name, start, expected) in [
        ("early", "earliest", (0..8).collect::<Vec<_>>()),
        ("timed", "2020-01-01T00:00:05Z", vec![5, 6, 7]),
        ("late", "latest", vec![]),
    ] {
        let made = queue(&client, name, &json!({"topic": "jobs", "start": start})).await;
        assert_eq!(made["ready"], expected.len(), "{name}: {made}");
        let again = client
            .send_json(Method::PUT, &format!("/v1/queues/{name}"), &[], &json!({"topic": "jobs", "start": start}))
            .await;
        assert_eq!(again.status, 200, "{again:?}");
        let mut got = values(&receive(&client, name, json!({"max": 100})).await);
        got.sort_unstable();
        assert_eq!(got, expected, "{name}");
    }
    produce(&client, "jobs", json!([{"value": 8}])).await;
    for name in ["early", "timed", "late"] {
        let got = receive(&client, name, json!({})).await;
        assert_eq!(values(&got), [8], "{name}");
        settle(&client, name, json!({"ack": [got[0]["lease"]]})).await;
    }
    let listed = client.get("/v1/queues").await.json();
    let acked: Vec<_> =
        listed["queues"].as_array().unwrap().iter().map(|q| (q["name"].clone(), q["acked"].clone())).collect();
    assert_eq!(acked, ["early", "late", "timed"].map(|name| (json!(name), json!(1))));
}

/// A receive call that waits longer than a test has patience.
fn waiting(server: &Server, name: &'static str) -> tokio::task::JoinHandle<Reply> {
    let client = server.client();
    tokio::spawn(async move {
        client.post_json(&format!("/v1/queues/{name}/receive"), &json!({"max": 1, "wait_ms": 60000})).await
    })
}

#[tokio::test]
async fn a_waiting_receiver_is_told_what_becomes_of_its_queue() {
    let server = Server::start().await;
    let client = server.client();
    filled(&client, 1, &json!({"topic": "jobs"})).await;
    let held = receive(&client, "q", json!({"lease_ms": 3_600_000})).await;
    // The queue is changed under it: it still hears of what comes after.
    let receiver = waiting(&server, "q");
    tokio::time::sleep(Duration::from_millis(100)).await;
    queue(&client, "q", &json!({"topic": "jobs", "lease_ms": 5000})).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    settle(&client, "q", json!({"nack": [{"lease": held[0]["lease"]}]})).await;
    let got = receiver.await.unwrap().json()["messages"].as_array().unwrap().clone();
    assert_eq!((values(&got), &got[0]["attempt"]), (vec![0], &json!(2)));
    settle(&client, "q", json!({"ack": [got[0]["lease"]]})).await;
    // Deleted.
    let receiver = waiting(&server, "q");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.delete("/v1/queues/q").await.status, 204);
    let gone = receiver.await.unwrap();
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("unknown-queue")), "{gone:?}");
    // Its topic is deleted.
    queue(&client, "q", &json!({"topic": "jobs", "start": "latest"})).await;
    let receiver = waiting(&server, "q");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.delete("/v1/topics/jobs").await.status, 204);
    let gone = receiver.await.unwrap();
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("unknown-topic")), "{gone:?}");
    // Made again over another topic, it is another queue.
    assert_eq!(client.delete("/v1/queues/q").await.status, 204);
    topic(&client, "other", 2).await;
    queue(&client, "q", &json!({"topic": "other"})).await;
    let receiver = waiting(&server, "q");
    produce(&client, "other", json!([{"value": 7}])).await;
    assert_eq!(receiver.await.unwrap().json()["messages"][0]["record"]["topic"], "other");
    let late = settle(&client, "q", json!({"ack": [held[0]["lease"]]})).await;
    assert_eq!(told(&late), (409, vec!["lost".to_owned()]), "a lease of the queue before");
    // More partitions, while somebody waits.
    let receiver = waiting(&server, "q");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.send_json(Method::PATCH, "/v1/topics/other", &[], &json!({"partitions": 3})).await.status, 200);
    produce(&client, "other", json!([{"value": 8, "partition": 2}])).await;
    produce(&client, "other", json!([{"value": 9, "partition": 0}])).await;
    let first = receiver.await.unwrap().json()["messages"].as_array().unwrap().clone();
    let mut both = values(&first);
    both.extend(values(&receive(&client, "q", json!({"wait_ms": 60000})).await));
    both.sort_unstable();
    assert_eq!(both, [8, 9]);
}

//! Queues through the real server: every verdict, bad leases, order by key, what a waiting receiver hears of, and what
//! becomes of a queue whose topic changes.

use crate::harness::{Client, Reply, Server};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

pub async fn topic(client: &Client, name: &str, partitions: i32) {
    let reply = client.post_json("/v1/topics", &json!({"name": name, "partitions": partitions})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

pub async fn queue(client: &Client, name: &str, definition: &Value) -> Value {
    let reply = client.send_json(Method::PUT, &format!("/v1/queues/{name}"), &[], definition).await;
    assert!(reply.status == 201 || reply.status == 200, "{reply:?}");
    reply.json()
}

pub async fn produce(client: &Client, topic: &str, records: Value) {
    let reply = client.post_json(&format!("/v1/topics/{topic}/records"), &json!({"records": records})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

pub async fn receive(client: &Client, queue: &str, wanted: Value) -> Vec<Value> {
    let reply = client.post_json(&format!("/v1/queues/{queue}/receive"), &wanted).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["messages"].as_array().expect("a list").clone()
}

pub async fn settle(client: &Client, queue: &str, verdicts: Value) -> Reply {
    client.post_json(&format!("/v1/queues/{queue}/settle"), &verdicts).await
}

pub async fn describe(client: &Client, queue: &str) -> Value {
    client.get(&format!("/v1/queues/{queue}")).await.json()
}

pub fn value(message: &Value) -> i64 {
    message["record"]["value"].as_i64().expect("the test's values are numbers")
}

#[tokio::test]
async fn every_verdict_and_what_comes_of_it() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", (0..5).map(|n| json!({"value": n})).collect()).await;
    let unknown = client.send_json(Method::PUT, "/v1/queues/q", &[], &json!({"topic": "nowhere"})).await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (404, &json!("unknown-topic")));
    let made = client.send_json(Method::PUT, "/v1/queues/q", &[], &json!({"topic": "jobs", "max_deliveries": 2})).await;
    assert_eq!((made.status, made.header("location")), (201, "/v1/queues/q"), "{made:?}");
    assert_eq!(made.json()["ready"], 5);
    for (field, other) in [("start", json!("latest")), ("order", json!("key"))] {
        let other = json!({"topic": "jobs", field: other});
        let refused = client.send_json(Method::PUT, "/v1/queues/q", &[], &other).await;
        assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("queue-exists")));
    }
    let got = receive(&client, "q", json!({"max": 10, "lease_ms": 60000})).await;
    assert_eq!(got.iter().map(value).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(got[0]["attempt"], 1);
    let lease = |i: usize| got[i]["lease"].clone();
    let verdicts = json!({
        "ack": [lease(0)], "nack": [{"lease": lease(1)}], "reject": [{"lease": lease(2), "reason": "no such game"}],
        "extend": [{"lease": lease(3), "lease_ms": 120000}],
    });
    let settled = settle(&client, "q", verdicts.clone()).await;
    assert_eq!(settled.status, 200, "{settled:?}");
    let results = settled.json()["results"].clone();
    assert_eq!([0, 1, 2, 3].map(|i| results[i]["status"].clone()), ["settled", "settled", "settled", "extended"]);
    // Again: the same verdicts are known; another one is lost.
    let again = settle(&client, "q", verdicts).await.json();
    assert_eq!([0, 1, 2].map(|i| again["results"][i]["status"].clone()), ["already-settled"; 3]);
    let other = settle(&client, "q", json!({"ack": [lease(4)], "nack": [{"lease": lease(0)}]})).await;
    assert_eq!(
        (other.status, &other.json()["code"], &other.json()["side_effects"]),
        (409, &json!("lease-lost"), &json!("applied"))
    );
    assert_eq!([0, 1].map(|i| other.json()["results"][i]["status"].clone()), ["settled", "lost"]);
    let state = describe(&client, "q").await;
    assert_eq!(["ready", "leased", "dead", "acked"].map(|f| state[f].clone()), [1, 1, 1, 2], "{state}");
    // The second failure is the last; the reason is kept.
    let second = receive(&client, "q", json!({"max": 10})).await;
    assert_eq!((second.len(), value(&second[0]), &second[0]["attempt"]), (1, 1, &json!(2)));
    settle(&client, "q", json!({"nack": [{"lease": second[0]["lease"], "reason": "disk full"}]})).await;
    let dead = client.get("/v1/queues/q/dead").await.json();
    let reasons: Vec<_> = dead["messages"].as_array().unwrap().iter().map(|m| m["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["disk full", "no such game"]);
    assert_eq!((&dead["messages"][1]["record"]["value"], &dead["messages"][1]["attempts"]), (&json!(2), &json!(1)));
    let page = client.get("/v1/queues/q/dead?page_size=1").await.json();
    let next = client.get(&format!("/v1/queues/q/dead?page_token={}", page["next_page_token"].as_str().unwrap())).await;
    assert_eq!(next.json()["messages"][0]["reason"], "no such game");
    let none = client.post_json("/v1/queues/q/dead/redrive", &json!({})).await;
    assert_eq!(none.status, 400, "{none:?}");
    let redriven = client.post_json("/v1/queues/q/dead/redrive", &json!({"reason": "disk full"})).await.json();
    assert_eq!(redriven["count"], 1);
    let discarded = client.post_json("/v1/queues/q/dead/discard", &json!({"all": true})).await.json();
    assert_eq!(discarded["count"], 1);
    let third = receive(&client, "q", json!({})).await;
    assert_eq!((value(&third[0]), &third[0]["attempt"]), (1, &json!(1)));
    assert_eq!(client.delete("/v1/queues/q").await.status, 204);
    assert_eq!(client.get("/v1/queues/q").await.json()["code"], "unknown-queue");
    let late = settle(&client, "q", json!({"ack": [third[0]["lease"]]})).await;
    assert_eq!((late.status, &late.json()["code"]), (404, &json!("unknown-queue")));
}

#[tokio::test]
async fn bad_leases_and_bad_requests() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", json!([{"value": 1}, {"value": 2}])).await;
    queue(&client, "a", &json!({"topic": "jobs"})).await;
    queue(&client, "b", &json!({"topic": "jobs"})).await;
    // Several queues on one topic know nothing of one another.
    let of_a = receive(&client, "a", json!({"max": 1, "lease_ms": 100})).await;
    let of_b = receive(&client, "b", json!({"max": 1})).await;
    assert_eq!((value(&of_a[0]), value(&of_b[0])), (1, 1));
    let foreign = settle(&client, "a", json!({"ack": [of_b[0]["lease"]]})).await;
    assert_eq!((foreign.status, &foreign.json()["results"][0]["status"]), (409, &json!("lost")));
    let token = of_b[0]["lease"].as_str().unwrap();
    let forged = format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { "B" } else { "A" });
    let refused = settle(&client, "b", json!({"ack": [token, forged, "x"]})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("invalid-lease")), "{refused:?}");
    assert_eq!(
        refused.json()["results"].as_array().unwrap().iter().map(|r| r["index"].clone()).collect::<Vec<_>>(),
        [1, 2]
    );
    // Nothing was done, so that the good one is still held.
    assert_eq!(settle(&client, "b", json!({"ack": [token]})).await.status, 200);
    // Expired, and redelivered to somebody else.
    let again = receive(&client, "a", json!({"max": 1, "wait_ms": 5000})).await;
    if value(&again[0]) == 1 {
        assert_eq!(again[0]["attempt"], 2);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = settle(&client, "a", json!({"ack": [of_a[0]["lease"]]})).await;
    assert_eq!((late.status, &late.json()["results"][0]["status"]), (409, &json!("lost")));
    for bad in [
        json!({}),
        json!({"ack": []}),
        json!({"ack": null}),
        json!({"extend": [{"lease": "x", "lease_ms": 0}]}),
        json!({"nack": [{"lease": "x", "delay_ms": -1}]}),
    ] {
        assert_eq!(settle(&client, "a", bad.clone()).await.status, 400, "{bad}");
    }
    for bad in [json!({"max": 0}), json!({"max": 1001}), json!({"wait_ms": 60001}), json!({"maximum": 1})] {
        assert_eq!(client.post_json("/v1/queues/a/receive", &bad).await.status, 400, "{bad}");
    }
    for (bad, status) in [
        (json!({"topic": "jobs", "on_exhausted": "park_key"}), 422),
        (json!({"topic": "jobs", "start": "soon"}), 422),
        (json!({"topic": "jobs", "max_deliveries": 0}), 400),
        (json!({"topic": "jobs", "backoff": {"min_ms": 5, "max_ms": 1, "factor": 2}}), 422),
        (json!({"topic": "__share_group_state"}), 403),
    ] {
        let refused = client.send_json(Method::PUT, "/v1/queues/c", &[], &bad).await;
        assert_eq!(refused.status, status, "{bad}: {refused:?}");
    }
}

#[tokio::test]
async fn an_idempotency_key_gives_the_same_leases() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", (0..4).map(|n| json!({"value": n})).collect()).await;
    queue(&client, "q", &json!({"topic": "jobs"})).await;
    let (headers, wanted) = ([("idempotency-key", "k1")], json!({"max": 2}));
    let call = || client.send_json(Method::POST, "/v1/queues/q/receive", &headers, &wanted);
    let (first, again) = (call().await, call().await);
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    let leases = |reply: &Reply| {
        let json = reply.json();
        json["messages"].as_array().unwrap().iter().map(|m| m["lease"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(leases(&first), leases(&again));
    let other = json!({"max": 3});
    let other = client.send_json(Method::POST, "/v1/queues/q/receive", &[("idempotency-key", "k1")], &other).await;
    assert_eq!(other.status, 422, "{other:?}");
    settle(&client, "q", json!({"ack": leases(&first)})).await;
    assert_eq!(call().await.json()["messages"].as_array().unwrap().iter().map(value).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn keys_wait_their_turn_and_a_parked_one_blocks_only_itself() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    let records = (0..9).map(|n| json!({"key": format!("k{}", n % 3), "value": n})).collect();
    produce(&client, "jobs", records).await;
    let definition = json!({"topic": "jobs", "order": "key", "max_deliveries": 1, "on_exhausted": "park_key"});
    queue(&client, "q", &definition).await;
    let first = receive(&client, "q", json!({"max": 10})).await;
    assert_eq!(first.iter().map(value).collect::<Vec<_>>(), [0, 1, 2]);
    let state = describe(&client, "q").await;
    assert_eq!((&state["blocked"], &state["blocked_by"][0]["waiting"]), (&json!(6), &json!(2)), "{state}");
    assert_eq!(state["blocked_by"][0]["state"], "leased");
    settle(
        &client,
        "q",
        json!({"ack": [first[1]["lease"], first[2]["lease"]], "nack": [{"lease": first[0]["lease"]}]}),
    )
    .await;
    let mut seen = Vec::new();
    loop {
        let next = receive(&client, "q", json!({"max": 10})).await;
        if next.is_empty() {
            break;
        }
        seen.extend(next.iter().map(value));
        let leases: Vec<_> = next.iter().map(|m| m["lease"].clone()).collect();
        assert_eq!(settle(&client, "q", json!({"ack": leases})).await.status, 200);
    }
    assert_eq!(seen, [4, 5, 7, 8]);
    let state = describe(&client, "q").await;
    assert_eq!(
        (&state["parked"], &state["blocked"], &state["blocked_by"][0]["key"]),
        (&json!(1), &json!(2), &json!("k0"))
    );
    let redriven = client.post_json("/v1/queues/q/dead/redrive", &json!({"state": "parked"})).await.json();
    assert_eq!(redriven["count"], 1);
    for expected in [0, 3, 6] {
        let next = receive(&client, "q", json!({"max": 10})).await;
        assert_eq!(next.iter().map(value).collect::<Vec<_>>(), [expected]);
        settle(&client, "q", json!({"ack": [next[0]["lease"]]})).await;
    }
}

#[tokio::test]
async fn a_waiting_receiver_hears_of_records_releases_and_leases_that_run_out() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 3).await;
    queue(&client, "q", &json!({"topic": "jobs", "start": "latest"})).await;
    let waiting = |client: Client| async move { receive(&client, "q", json!({"max": 1, "wait_ms": 20000})).await };
    let receiver = tokio::spawn(waiting(server.client()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    produce(&client, "jobs", json!([{"value": 1}])).await;
    let first = receiver.await.unwrap();
    assert_eq!(value(&first[0]), 1);
    // Given back.
    let receiver = tokio::spawn(waiting(server.client()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    settle(&client, "q", json!({"nack": [{"lease": first[0]["lease"]}]})).await;
    assert_eq!(receiver.await.unwrap()[0]["attempt"], 2);
    // Its worker vanishes: the lease runs out.
    produce(&client, "jobs", json!([{"value": 2}])).await;
    let lost = receive(&client, "q", json!({"max": 1, "lease_ms": 300})).await;
    assert_eq!(value(&lost[0]), 2);
    let found = waiting(server.client()).await;
    assert_eq!((value(&found[0]), &found[0]["attempt"]), (2, &json!(2)));
    // A time of its own.
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64 + 400;
    let header = json!([{"name": "deliver_at_ms", "value": soon.to_string()}]);
    produce(&client, "jobs", json!([{"value": 3, "headers": header}])).await;
    assert!(receive(&client, "q", json!({})).await.is_empty());
    assert_eq!(describe(&client, "q").await["delayed"], 1);
    assert_eq!(value(&waiting(server.client()).await[0]), 3);
    // And a server that goes away says so.
    let receiver = tokio::spawn({
        let client = server.client();
        async move { client.post_json("/v1/queues/q/receive", &json!({"wait_ms": 20000})).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (status, _folder) = server.terminate().await;
    assert!(status.success());
    assert_eq!(receiver.await.unwrap().status, 503);
}

#[tokio::test]
async fn retention_and_deletion_under_a_queue_are_shown() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", (0..20).map(|n| json!({"value": n})).collect()).await;
    queue(&client, "q", &json!({"topic": "jobs"})).await;
    let leased = receive(&client, "q", json!({"max": 4})).await;
    settle(&client, "q", json!({"reject": [{"lease": leased[0]["lease"]}]})).await;
    let truncate = json!({"partitions": [{"partition": 0, "before_offset": 10}]});
    assert_eq!(client.post_json("/v1/topics/jobs/truncate", &truncate).await.status, 200);
    let next = receive(&client, "q", json!({"max": 1})).await;
    assert_eq!(value(&next[0]), 10);
    let state = describe(&client, "q").await;
    // 4..10 were never delivered; the three leases may still be settled, and the dead letter stays one.
    assert_eq!((&state["lost"], &state["dead"], &state["leased"]), (&json!(6), &json!(1), &json!(4)), "{state}");
    assert_eq!(settle(&client, "q", json!({"ack": [leased[1]["lease"]]})).await.status, 200);
    let dead = client.get("/v1/queues/q/dead").await.json();
    assert_eq!(dead["messages"][0]["gone"], true, "{dead}");
    // The topic goes, and comes again under its name: the queue stays with the first.
    assert_eq!(client.delete("/v1/topics/jobs").await.status, 204);
    topic(&client, "jobs", 1).await;
    let gone = client.post_json("/v1/queues/q/receive", &json!({})).await;
    assert_eq!((gone.status, &gone.json()["code"]), (404, &json!("unknown-topic")), "{gone:?}");
    assert_eq!(describe(&client, "q").await["topic_deleted"], true);
    let other = client.send_json(Method::PUT, "/v1/queues/q", &[], &json!({"topic": "jobs"})).await;
    assert_eq!(other.status, 409, "{other:?}");
    assert_eq!(client.delete("/v1/queues/q").await.status, 204);
    queue(&client, "q", &json!({"topic": "jobs"})).await;
}

//! What a client of groups and queues is told when its request can not be carried out: a status, a stable code, and words
//! that say what to write instead.

use crate::harness::Server;
use hyper::Method;
use serde_json::{Value, json};

/// A request, the status and code of its answer, and words of the detail.
type Refused<'a> = (&'a Method, &'a str, Value, (u16, &'a str), &'a str);

#[tokio::test]
async fn every_refusal_says_what_to_write_instead() {
    let server = Server::start().await;
    let client = server.client();
    let made = client.post_json("/v1/topics", &json!({"name": "jobs", "partitions": 1})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = client.send_json(Method::PUT, "/v1/queues/q", &[], &json!({"topic": "jobs"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (put, post) = (Method::PUT, Method::POST);
    let request = (400, "invalid-request");
    let all: Vec<Refused<'_>> = vec![
        (&put, "/v1/queues/x", json!({"topic": "jobs", "lease": 5}), request, "did you mean 'lease_ms'?"),
        (&put, "/v1/queues/x", json!({"topic": "jobs", "order": "keys"}), request, "order: unknown variant `keys`"),
        (&put, "/v1/queues/x", json!({"topic": "jobs", "lease_ms": "5"}), request, "lease_ms: invalid type: string"),
        (
            &put,
            "/v1/queues/x",
            json!({"topic": "jobs", "max_deliveries": 70000}),
            request,
            "max_deliveries is a whole number from 1 to 10000, not 70000",
        ),
        (
            &put,
            "/v1/queues/x",
            json!({"topic": "jobs", "backoff": {"min_ms": "a", "max_ms": 1, "factor": 2}}),
            request,
            "backoff.min_ms: invalid type",
        ),
        (
            &put,
            "/v1/queues/x",
            json!({"topic": "jobs", "start": "-15m"}),
            (422, "invalid-queue"),
            "neither earliest nor",
        ),
        (&put, "/v1/queues/x?lease_ms=5", json!({"topic": "jobs"}), request, "unknown parameter 'lease_ms'"),
        (&post, "/v1/queues/q/receive", json!({"max": -1}), request, "max is a whole number from 1 to 1000, not -1"),
        (
            &post,
            "/v1/queues/q/receive",
            json!({"wait_ms": 60001}),
            request,
            "wait_ms is a whole number from 0 to 60000",
        ),
        (&post, "/v1/queues/q/receive?max=5", json!({}), request, "unknown parameter 'max'"),
        (
            &post,
            "/v1/queues/q/settle",
            json!({"nack": [{"lease": "a"}, {"lease": "b", "delay_ms": 0.5}]}),
            request,
            "nack[1].delay_ms: invalid type",
        ),
        (
            &post,
            "/v1/queues/q/settle",
            json!({"ack": ["x"]}),
            (422, "invalid-lease"),
            "nothing was settled: one of the leases",
        ),
        (&post, "/v1/queues/q/dead/redrive", json!({}), request, "{\"all\":true}"),
        (&post, "/v1/queues/q/dead/redrive", json!({"all": true, "partition": 0}), request, "say which"),
        (&post, "/v1/queues/q/dead/discard", json!({"messages": []}), request, "messages names 1 to"),
        (&post, "/v1/queues/q/dead/discard", json!({"partition": -1}), request, "0 or more"),
        (
            &put,
            "/v1/groups/g/offsets",
            json!({"from": "earliest"}),
            (422, "invalid-position"),
            "'g' has no offsets yet",
        ),
        (&put, "/v1/groups/g/offsets", json!({"since": "x"}), (422, "invalid-position"), "'x' is no time"),
        (&put, "/v1/groups/g/offsets", json!({"since": 5}), request, "since: invalid type: integer"),
        (
            &post,
            "/v1/groups/g/members/m/commit",
            json!({"epoch": -1, "cursor": "x"}),
            request,
            "epoch is a whole number",
        ),
    ];
    for (method, path, body, (status, code), words) in all {
        let reply = client.send_json(method.clone(), path, &[], &body).await;
        let problem = reply.json();
        let detail = problem["detail"].as_str().unwrap_or_default();
        let got = (reply.status, problem["code"].as_str().unwrap_or_default());
        assert!(got == (status, code) && detail.contains(words), "{method} {path} {body}: {problem}");
    }
    for (path, status, words) in [
        ("/v1/groups/nobody", 404, "there is no group 'nobody'"),
        ("/v1/queues/q/dead?page_size=0", 400, "page_size is a whole number from 1 to 1000, not 0"),
        ("/v1/queues/q/dead?page_token=+0-1", 400, "no token of an earlier page"),
        ("/v1/groups/g/members/m/records?epoch=-1", 400, "epoch is a whole number from 0"),
        ("/v1/groups?page_size=1001", 400, "page_size is a whole number from 1 to 1000, not 1001"),
    ] {
        let reply = client.get(path).await;
        let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(reply.status == status && detail.contains(words), "{path}: {} {detail}", reply.status);
    }
    let empty = client.request(post, "/v1/queues/q/receive", &[], "").await;
    assert!(empty.status == 400 && empty.text().contains("there is no body; send a JSON object"), "{empty:?}");
    // Larger than every place, and no token that is refused: a page after the last.
    let last = client.get("/v1/queues/q/dead?page_token=9999999999-9999999999999999999").await;
    assert_eq!((last.status, last.json()), (200, json!({"messages": []})));
}

#[tokio::test]
async fn a_queue_says_when_it_began_as_it_was_told() {
    let server = Server::start().await;
    let client = server.client();
    client.post_json("/v1/topics", &json!({"name": "jobs", "partitions": 1})).await;
    let definition = json!({"topic": "jobs", "start": "2026-02-28T23:59:59.500+01:00"});
    for status in [201, 200] {
        let reply = client.send_json(Method::PUT, "/v1/queues/q", &[], &definition).await;
        assert_eq!((reply.status, &reply.json()["start"]), (status, &json!("2026-02-28T22:59:59.500Z")), "{reply:?}");
    }
}

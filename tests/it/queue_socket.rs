//! Queues on the multiplexing socket: flows of messages under credit, and settlements.

use crate::harness::Server;
use crate::queues::{describe, produce, queue, receive, topic};
use crate::reading::Socket;
use serde_json::{Value, json};

/// The next frame, which is a message of the flow `q`.
async fn message(socket: &mut Socket) -> Value {
    let frame = socket.next().await;
    assert_eq!((&frame["type"], &frame["id"]), (&json!("message"), &json!("q")), "{frame}");
    frame
}

fn value(frame: &Value) -> i64 {
    frame["record"]["value"].as_i64().expect("the test's values are numbers")
}

async fn start(count: i64, definition: &Value) -> (Server, Socket) {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "jobs", 1).await;
    produce(&client, "jobs", (0..count).map(|n| json!({"value": n})).collect()).await;
    queue(&client, "work", definition).await;
    let socket = Socket::open(&server, "/v1/ws").await;
    (server, socket)
}

#[tokio::test]
async fn nothing_comes_without_credit_and_no_more_than_it_allows() {
    let (server, mut socket) = start(5, &json!({"topic": "jobs", "max_deliveries": 3})).await;
    let client = server.client();
    socket.send(json!({"type": "receive", "id": "q", "queue": "work", "lease_ms": 60000})).await;
    assert!(socket.is_silent().await, "no credit, no message");
    assert_eq!(describe(&client, "work").await["leased"], 0, "nor a lease");
    socket.send(json!({"type": "credit", "id": "q", "credit": {"records": 2}})).await;
    let (first, second) = (message(&mut socket).await, message(&mut socket).await);
    assert_eq!((value(&first), value(&second), &first["attempt"]), (0, 1, &json!(1)));
    assert!(first["leased_until_ms"].as_i64().is_some() && first["lease"].as_str().is_some(), "{first}");
    assert!(socket.is_silent().await, "the credit is used up");
    assert_eq!(describe(&client, "work").await["leased"], 2);
    // A settlement is answered in the order ack, nack, reject, extend, and gives no credit by itself.
    let verdicts = json!({"type": "settle", "id": "q", "ack": [first["lease"]], "extend": [{"lease": second["lease"], "lease_ms": 120000}]});
    socket.send(verdicts).await;
    let settled = socket.next().await;
    assert_eq!((&settled["type"], &settled["id"]), (&json!("settled"), &json!("q")), "{settled}");
    assert_eq!(
        (&settled["results"][0]["status"], &settled["results"][1]["status"]),
        (&json!("settled"), &json!("extended"))
    );
    assert!(settled["results"][1]["leased_until_ms"].as_i64() > second["leased_until_ms"].as_i64(), "{settled}");
    assert!(socket.is_silent().await);
    socket.send(json!({"type": "settle", "id": "q", "ack": [first["lease"]]})).await;
    assert_eq!(socket.next().await["results"][0]["status"], "already-settled");
    // A lease that somebody else received may be settled here, and one of here elsewhere.
    let others = receive(&client, "work", json!({"max": 1, "lease_ms": 60000})).await;
    socket.send(json!({"type": "settle", "id": "q", "nack": [{"lease": others[0]["lease"], "delay_ms": 0}], "reject": [{"lease": second["lease"], "reason": "no"}]})).await;
    let settled = socket.next().await;
    assert_eq!(
        (&settled["results"][0]["status"], &settled["results"][1]["status"]),
        (&json!("settled"), &json!("settled"))
    );
    socket.send(json!({"type": "settle", "id": "q", "ack": [second["lease"]]})).await;
    let lost = socket.next().await;
    assert_eq!(
        (&lost["type"], &lost["id"], &lost["problem"]["code"]),
        (&json!("error"), &json!("q"), &json!("lease-lost")),
        "{lost}"
    );
    assert_eq!(lost["problem"]["results"][0]["status"], "lost");
    socket.send(json!({"type": "credit", "id": "q", "credit": {"records": 100}})).await;
    let mut rest = Vec::new();
    for _ in 0..3 {
        rest.push(message(&mut socket).await);
    }
    assert_eq!(rest.iter().map(value).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(rest[0]["attempt"], 2);
    // What is produced later comes as well, while credit is left.
    produce(&client, "jobs", json!([{"value": 5}])).await;
    assert_eq!(value(&message(&mut socket).await), 5);
    socket.send(json!({"type": "unsubscribe", "id": "q"})).await;
    produce(&client, "jobs", json!([{"value": 6}])).await;
    assert!(socket.is_silent().await, "the flow is closed");
    socket.send(json!({"type": "settle", "id": "q", "ack": [rest[0]["lease"]]})).await;
    assert_eq!(socket.next().await["problem"]["code"], "unknown-subscription");
    let closed = json!({"ack": rest.iter().map(|m| m["lease"].clone()).collect::<Vec<_>>()});
    assert_eq!(crate::queues::settle(&client, "work", closed).await.status, 200, "its leases still hold");
}

#[tokio::test]
async fn a_lease_that_runs_out_gives_its_credit_back() {
    let (server, mut socket) = start(2, &json!({"topic": "jobs", "max_deliveries": 2})).await;
    let receive = json!({"type": "receive", "id": "q", "queue": "work", "lease_ms": 1500, "credit": {"records": 1}});
    socket.send(receive).await;
    let first = message(&mut socket).await;
    assert_eq!((value(&first), &first["attempt"]), (0, &json!(1)));
    // Nobody gives credit and nobody settles: the end of the lease is enough.
    let again = message(&mut socket).await;
    assert_eq!((value(&again), &again["attempt"]), (0, &json!(2)), "{again}");
    // It had its last delivery, so the credit that comes back is the next one's.
    let next = message(&mut socket).await;
    assert_eq!((value(&next), &next["attempt"]), (1, &json!(1)), "{next}");
    assert_eq!(describe(&server.client(), "work").await["dead"], 1);
    // A lease that is extended keeps its credit, one that was settled elsewhere or here has used it.
    socket.send(json!({"type": "settle", "id": "q", "extend": [{"lease": next["lease"], "lease_ms": 60000}]})).await;
    assert_eq!(socket.next().await["results"][0]["status"], "extended");
    tokio::time::sleep(std::time::Duration::from_millis(1700)).await;
    produce(&server.client(), "jobs", json!([{"value": 2}])).await;
    assert!(socket.is_silent().await, "its credit is out");
    socket.send(json!({"type": "settle", "id": "q", "ack": [next["lease"]]})).await;
    assert_eq!(socket.next().await["results"][0]["status"], "settled");
    assert!(socket.is_silent().await, "what was settled gives no credit back");
    socket.send(json!({"type": "credit", "id": "q", "credit": {"records": 1}})).await;
    assert_eq!(value(&message(&mut socket).await), 2);
}

#[tokio::test]
async fn bad_frames_are_refused_and_the_socket_goes_on() {
    let (server, mut socket) = start(1, &json!({"topic": "jobs"})).await;
    socket.send(json!({"type": "receive", "id": "q", "queue": "work"})).await;
    for (frame, code) in [
        (json!({"type": "receive", "id": "q", "queue": "work"}), "duplicate-id"),
        (json!({"type": "receive", "queue": "work"}), "invalid-request"),
        (json!({"type": "receive", "id": "x"}), "invalid-request"),
        (json!({"type": "receive", "id": "x", "queue": "a/b"}), "invalid-name"),
        (json!({"type": "receive", "id": "x", "queue": "work", "lease_ms": 0}), "invalid-request"),
        (json!({"type": "receive", "id": "x", "queue": "work", "lease_ms": null}), "invalid-request"),
        (json!({"type": "receive", "id": "x", "queue": "work", "max": 3}), "invalid-request"),
        (json!({"type": "receive", "id": "x", "queue": "work", "credit": {"records": -1}}), "invalid-request"),
        (json!({"type": "receive", "id": "x", "queue": "none", "credit": {"records": 1}}), "unknown-queue"),
        (json!({"type": "credit", "id": "x", "credit": {"records": 1}}), "unknown-subscription"),
        (json!({"type": "settle", "id": "x", "ack": ["a"]}), "unknown-subscription"),
        (json!({"type": "settle", "ack": ["a"]}), "invalid-request"),
        (json!({"type": "settle", "id": "q"}), "invalid-request"),
        (json!({"type": "settle", "id": "q", "ack": "a"}), "invalid-request"),
        (json!({"type": "settle", "id": "q", "ack": ["forged"]}), "invalid-lease"),
        (json!({"type": "settle", "id": "q", "nack": [{"lease": "a", "delay_ms": -1}]}), "invalid-request"),
        (json!({"type": "settle", "id": "q", "done": ["a"]}), "invalid-request"),
    ] {
        socket.send(frame.clone()).await;
        let answer = socket.next().await;
        assert_eq!((&answer["type"], &answer["id"]), (&json!("error"), &frame["id"]), "{frame}: {answer}");
        assert_eq!(answer["problem"]["code"], code, "{frame}: {answer}");
    }
    // After all that the flow still works, and hears of its queue's end.
    socket.send(json!({"type": "credit", "id": "q", "credit": {"records": 2}})).await;
    assert_eq!(value(&message(&mut socket).await), 0);
    assert_eq!(server.client().delete("/v1/queues/work").await.status, 204);
    let gone = socket.next().await;
    assert_eq!(
        (&gone["type"], &gone["id"], &gone["problem"]["code"]),
        (&json!("error"), &json!("q"), &json!("unknown-queue")),
        "{gone}"
    );
    // Its id is free again.
    queue(&server.client(), "work", &json!({"topic": "jobs"})).await;
    socket.send(json!({"type": "receive", "id": "q", "queue": "work", "credit": {"records": 1}})).await;
    assert_eq!(value(&message(&mut socket).await), 0);
    let (status, _folder) = server.terminate().await;
    assert!(status.success());
    assert_eq!(socket.next().await["type"], "goaway");
}

//! Reading through real sockets: pages, SSE and WebSocket give the same bytes, cursors mean the same everywhere, and
//! refusals say why.

use super::harness::{Client, PATIENCE, Server};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

/// An SSE event: its name (`message` if it has none), id and data.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

struct Sse {
    body: hyper::body::Incoming,
    text: String,
}

impl Sse {
    async fn open(client: &Client, path: &str, headers: &[(&str, &str)]) -> Self {
        let response = client.open(Method::GET, path, headers, "").await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body(), text: String::new() }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let found = block.lines().find_map(|line| line.strip_prefix(name));
                    found.map(|value| value.trim_start().to_owned()).unwrap_or_default()
                };
                let event = Event { name: field("event:"), id: field("id:"), data: field("data:") };
                let nothing = event.data.is_empty();
                self.text = rest.to_owned();
                if nothing {
                    continue; // `retry:`, a heartbeat
                }
                return Some(event);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            let data = frame.ok()?.into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn records(&mut self, count: usize) -> Vec<Event> {
        let mut records = Vec::new();
        while records.len() < count {
            let event = self.next().await.expect("the stream goes on");
            if event.name.is_empty() {
                records.push(event);
            }
        }
        records
    }
}

/// A WebSocket's client.
pub struct Socket(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub async fn open(server: &Server, path: &str) -> Self {
        let mut request = format!("ws://{}{path}", server.http()).into_client_request().unwrap();
        if path == "/v1/ws" {
            request.headers_mut().insert("sec-websocket-protocol", "sluice.v1.json".parse().unwrap());
        }
        Self(connect_async(request).await.unwrap().0)
    }

    pub async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub async fn message(&mut self) -> Message {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a message in time");
            match message.expect("the socket is open").unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    async fn text(&mut self) -> String {
        match self.message().await {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn next(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.message().await {
                return frame.map_or(0, |CloseFrame { code, .. }| code.into());
            }
        }
    }

    /// Nothing comes for a while.
    pub async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.0.next()).await.is_err()
    }
}

async fn topic(client: &Client, name: &str, partitions: i32) -> String {
    let reply = client.post_json("/v1/topics", &json!({"name": name, "partitions": partitions})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()["topic_id"].as_str().unwrap().to_owned()
}

async fn produce(client: &Client, name: &str, records: Value) {
    let reply = client.post_json(&format!("/v1/topics/{name}/records"), &json!({"records": records})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Each kind of value, key and header.
fn odd_records() -> Value {
    json!([
        {"key": "a", "value": {"x": 1, "y": [true, "é\n"]}},
        {"key": "b", "text": "two\nlines \"quoted\" \u{1}"},
        {"key_base64": "/w==", "base64": "//4=", "headers": [{"name": "h", "value": "v"}, {"name": "n"}]},
        {"key": "b", "tombstone": true},
        {"value": 1.10},
        {"text": ""},
    ])
}

#[tokio::test]
async fn three_doors_give_the_same_bytes_and_one_cursor() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "odd", 1).await;
    produce(&client, "odd", odd_records()).await;
    let spaced = client
        .request(Method::POST, "/v1/topics/odd/events", &[("content-type", "application/json")], "{\r\n \"a\" : 1e2\n}")
        .await;
    assert_eq!(spaced.status, 201);
    let page = client.get("/v1/topics/odd/records").await;
    assert_eq!(page.json()["records"].as_array().unwrap().len(), 7, "{page:?}");
    assert!(page.text().contains(r#""value":{   "a" : 1e2 }"#), "{page:?}");
    assert_eq!(client.get("/v1/topics/odd/partitions/0/records/6/value").await.text(), "{\r\n \"a\" : 1e2\n}");

    let mut sse = Sse::open(&client, "/v1/topics/odd/stream?from=earliest", &[]).await;
    let mut socket = Socket::open(&server, "/v1/topics/odd/stream?from=earliest").await;
    let mut events = sse.records(7).await;
    let mut frames = Vec::new();
    for _ in 0..7 {
        frames.push(socket.text().await);
    }
    assert_eq!(sse.next().await.unwrap().name, "caught-up");
    assert_eq!(socket.next().await["type"], "caught-up");
    // The same record and cursor in each, whether from the log or from the shared stream.
    produce(&client, "odd", json!([{"key": "live", "value": [1, 2]}])).await;
    events.extend(sse.records(1).await);
    frames.push(socket.text().await);
    let page = client.get("/v1/topics/odd/records").await;
    for (event, frame) in events.iter().zip(&frames) {
        assert_eq!(*frame, format!(r#"{{"type":"record","cursor":"{}","record":{}}}"#, event.id, event.data));
        assert!(page.text().contains(&event.data), "{}", event.data);
    }
    // A cursor of one door resumes at every other.
    let third = &events[2].id;
    let rest = client.get(&format!("/v1/topics/odd/records?cursor={third}")).await.json();
    let offsets: Vec<_> = rest["records"].as_array().unwrap().iter().map(|r| r["offset"].as_i64().unwrap()).collect();
    assert_eq!(offsets, [3, 4, 5, 6, 7]);
    let mut resumed = Sse::open(&client, "/v1/topics/odd/stream?from=latest", &[("last-event-id", third)]).await;
    assert_eq!(resumed.records(5).await, events[3..]);
    let mut resumed = Socket::open(&server, &format!("/v1/topics/odd/stream?cursor={third}")).await;
    assert_eq!(resumed.text().await, frames[3]);
}

#[tokio::test]
async fn starts_filters_and_bounds() {
    let server = Server::start().await;
    let client = server.client();
    let id = topic(&client, "t", 2).await;
    for i in 0..10 {
        let key = ["a", "b"][i % 2];
        produce(&client, "t", json!([{"key": key, "value": i, "partition": i % 2, "timestamp_ms": 1000 + i}])).await;
    }
    let get = async |query: &str| client.get(&format!("/v1/topics/t/records?{query}")).await;
    let values = async |query: &str| -> Vec<i64> {
        let page = get(query).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let mut values: Vec<_> =
            page.json()["records"].as_array().unwrap().iter().map(|r| r["value"].as_i64().unwrap()).collect();
        values.sort_unstable();
        values
    };
    assert_eq!(values("from=latest").await, [0i64; 0]);
    assert_eq!(values("last=1").await, [8, 9]);
    assert_eq!(values("partition=1&offset=3").await, [7, 9]);
    assert_eq!(values("partitions=0,1&since=1007").await, [7, 8, 9]);
    assert_eq!(values("key=a").await, [0, 2, 4, 6, 8]);
    assert_eq!(values("key_base64=Yg&limit=2").await, [1, 3]);
    assert_eq!(values("partition=0&offset=1&until=3").await, [2, 4]);
    assert_eq!(values("view=latest").await, [8, 9]);
    assert_eq!(values("partition=1&offset=5").await, [0i64; 0], "the end is an empty page");
    assert_eq!(get("partition=1&offset=6").await.status, 416);
    for bad in [
        "from=earliest&last=1",
        "offset=1",
        "limit=0",
        "wait_ms=60001",
        "since=yesterday",
        "partition=0&partitions=1",
        "key=a&key_base64=YQ",
        "form=latest",
        "slow=park",
        "from=",
        "cursor=x",
        "max_bytes=0",
    ] {
        let reply = get(bad).await;
        assert_eq!((reply.status, reply.header("content-type")), (400, "application/problem+json"), "{bad}: {reply:?}");
    }
    assert_eq!(get("partition=2").await.status, 404);
    assert_eq!(get("topic_id=AAAAAAAAAAAAAAAAAAAAAA").await.status, 404);
    topic(&client, "other", 2).await;
    let cursor = get("").await.json()["next_cursor"].as_str().unwrap().to_owned();
    let elsewhere = client.get(&format!("/v1/topics/other/records?cursor={cursor}")).await;
    assert_eq!(elsewhere.json()["code"], "invalid-cursor");
    assert_eq!(get(&format!("cursor={}", &cursor[1..])).await.json()["code"], "invalid-cursor");

    // A closed range of a topic by its id never changes; anything else is asked for again.
    let closed = get(&format!("topic_id={id}&partition=0&offset=0&until=3")).await;
    assert!(closed.header("cache-control").contains("immutable"), "{closed:?}");
    let open = get("partition=0&offset=0").await;
    assert_eq!(open.header("cache-control"), "no-cache");
    let etag = open.header("etag").to_owned();
    let path = "/v1/topics/t/records?partition=0&offset=0";
    assert_eq!(client.request(Method::GET, path, &[("if-none-match", &etag)], "").await.status, 304);
    produce(&client, "t", json!([{"value": 10, "partition": 0}])).await;
    assert_eq!(client.request(Method::GET, path, &[("if-none-match", &etag)], "").await.status, 200);

    // Retention: an error that names both ends, or a gap.
    let cut = json!({"partitions": [{"partition": 0, "before_offset": 2}]});
    assert_eq!(client.post_json("/v1/topics/t/truncate", &cut).await.status, 200);
    let gone = get("partition=0&offset=1").await;
    assert_eq!((gone.status, &gone.json()["log_start_offset"]), (410, &json!(2)), "{gone:?}");
    let reset = get("partition=0&offset=1&reset=earliest").await.json();
    let gap = json!([{"partition": 0, "from_offset": 1, "to_offset": 2, "reason": "retention"}]);
    assert_eq!(reset["gaps"], gap, "{reset}");
    let mut sse = Sse::open(&client, "/v1/topics/t/stream?partition=0&offset=1&until=4", &[]).await;
    let gap = sse.next().await.unwrap();
    assert_eq!(gap.name, "gap");
    sse.records(2).await;
    let end = sse.next().await.unwrap();
    assert_eq!((end.name.as_str(), sse.next().await), ("end", None));
    let path = "/v1/topics/t/stream?partition=0&offset=1&until=4";
    let over = client.request(Method::GET, path, &[("last-event-id", &end.id)], "").await;
    assert_eq!(over.status, 204, "an ended stream is not opened again");
}

#[tokio::test]
async fn a_long_poll_wakes_and_a_latest_record_changes() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "t", 1).await;
    let waiting = client.get("/v1/topics/t/records?wait_ms=20000");
    let producing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        produce(&client, "t", json!([{"key": "k", "value": 1}])).await;
    };
    let (page, ()) = tokio::join!(waiting, producing);
    assert_eq!(page.json()["records"][0]["value"], 1);
    assert_eq!(page.json()["caught_up"], true);
    let latest = client.get("/v1/topics/t/latest?key=k").await;
    assert_eq!(latest.json()["value"], 1);
    produce(&client, "t", json!([{"key": "k", "tombstone": true}])).await;
    assert_eq!(client.get("/v1/topics/t/latest?key=k").await.status, 404);
    assert_eq!(client.get("/v1/topics/t/latest").await.status, 400);
    assert_eq!(client.get("/v1/topics/t/partitions/0/records/1/value").await.status, 204);
    assert_eq!(client.get("/v1/topics/t/partitions/0/records/2").await.status, 416);
    assert_eq!(client.get("/v1/topics/t/partitions/7/records/0").await.status, 404);
}

#[tokio::test]
async fn one_socket_for_many() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "t", 1).await;
    produce(&client, "t", json!([{"value": 0}, {"value": 1}, {"value": 2}])).await;
    let mut socket = Socket::open(&server, "/v1/ws").await;
    socket.send(json!({"type": "auth", "token": "any"})).await;
    socket.send(json!({"type": "subscribe", "id": "s", "topic": "t", "from": "earliest"})).await;
    let subscribed = socket.next().await;
    assert_eq!((&subscribed["type"], &subscribed["id"]), (&json!("subscribed"), &json!("s")));
    assert!(socket.is_silent().await, "nothing without credit");
    socket.send(json!({"type": "credit", "id": "s", "credit": {"records": 2}})).await;
    for value in [0, 1] {
        let frame = socket.next().await;
        assert_eq!(
            (&frame["type"], &frame["id"], &frame["record"]["value"]),
            (&json!("record"), &json!("s"), &json!(value))
        );
    }
    assert!(socket.is_silent().await, "the credit is used up");
    socket.send(json!({"type": "credit", "id": "s", "credit": {"records": 100, "bytes": 100_000}})).await;
    assert_eq!(socket.next().await["record"]["value"], 2);
    assert_eq!(socket.next().await["type"], "caught-up");
    socket
        .send(json!({"type": "produce", "id": "p", "topic": "t", "key": "k", "value": 3, "idempotency_key": "i"}))
        .await;
    let mut got = [socket.next().await, socket.next().await];
    got.sort_by_key(|frame| frame["type"].to_string());
    assert_eq!((&got[0]["type"], &got[0]["id"], &got[0]["offset"]), (&json!("produced"), &json!("p"), &json!(3)));
    assert_eq!(got[1]["record"]["value"], 3);
    socket
        .send(json!({"type": "produce", "id": "p", "topic": "t", "key": "k", "value": 3, "idempotency_key": "i"}))
        .await;
    assert_eq!(socket.next().await["offset"], 3, "a resend is free");

    for (frame, code) in [
        (json!({"type": "subscribe", "id": "s", "topic": "t"}), "duplicate-id"),
        (json!({"type": "subscribe", "id": "x", "topic": "none"}), "unknown-topic"),
        (json!({"type": "subscribe", "id": "x", "topic": "t", "form": "latest"}), "invalid-request"),
        (json!({"type": "subscribe", "topic": "t"}), "invalid-request"),
        (json!({"type": "credit", "id": "y", "credit": {"records": 1}}), "unknown-subscription"),
        (json!({"type": "produce", "id": "p", "topic": "t"}), "invalid-record"),
        (json!({"type": "receive", "id": "q", "queue": "q", "credit": 1}), "invalid-request"),
        (json!({"type": "dance"}), "invalid-request"),
        (json!([1]), "invalid-json"),
    ] {
        socket.send(frame.clone()).await;
        let answer = socket.next().await;
        assert_eq!(answer["type"], "error", "{frame}");
        assert_eq!(answer["id"], frame["id"]);
        let given = answer["problem"]["code"].as_str().unwrap();
        assert!(given == code || (code == "invalid-record" && given.starts_with("invalid")), "{frame}: {answer}");
    }
    socket.0.send(Message::text("no json")).await.unwrap();
    assert_eq!(socket.next().await["problem"]["code"], "invalid-json");
    socket.send(json!({"type": "unsubscribe", "id": "s"})).await;
    produce(&client, "t", json!([{"value": 4}])).await;
    assert!(socket.is_silent().await);
    socket.0.send(Message::text("x".repeat(2 << 20))).await.unwrap();
    assert_eq!(socket.close_code().await, 4503);
    let mut binary = Socket::open(&server, "/v1/ws").await;
    binary.0.send(Message::binary(vec![1])).await.unwrap();
    assert_eq!(binary.close_code().await, 4504);
}

#[tokio::test]
async fn everybody_is_told_when_the_server_goes() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "t", 1).await;
    produce(&client, "t", json!([{"value": 0}])).await;
    let mut sse = Sse::open(&client, "/v1/topics/t/stream?from=earliest", &[]).await;
    let mut socket = Socket::open(&server, "/v1/topics/t/stream").await;
    let mut many = Socket::open(&server, "/v1/ws").await;
    assert_eq!(sse.records(1).await.len(), 1);
    assert_eq!(socket.next().await["type"], "caught-up");
    let told = async {
        assert_eq!(sse.next().await.unwrap().name, "caught-up");
        let goaway = sse.next().await.unwrap();
        assert_eq!(goaway.name, "goaway");
        assert!(!goaway.id.is_empty(), "it says where the reader is");
        assert_eq!(socket.next().await["type"], "goaway");
        assert_eq!(socket.close_code().await, 4000);
        assert_eq!(many.next().await["type"], "goaway");
        assert_eq!(many.close_code().await, 4000);
    };
    let ((status, _folder), ()) = tokio::join!(server.terminate(), told);
    assert!(status.success(), "{status:?}");
}

#[tokio::test]
async fn a_handshake_is_checked() {
    let server = Server::start().await;
    let client = server.client();
    assert_eq!(client.get("/v1/ws").await.status, 426);
    let mut request = format!("ws://{}/v1/ws", server.http()).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().unwrap());
    assert!(connect_async(request).await.is_err());
    topic(&client, "t", 1).await;
    let mut request = format!("ws://{}/v1/topics/t/stream", server.http()).into_client_request().unwrap();
    request.headers_mut().insert("origin", "https://elsewhere.example".parse().unwrap());
    assert!(connect_async(request).await.is_err(), "another origin");
    assert_eq!(client.get("/v1/topics/none/stream").await.status, 404);
}

//! Producing and managing topics through real sockets: what is taken, what is refused and how, and what a client sees
//! that stops half-way.

use super::harness::{Client, PATIENCE, Reply, Server};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use std::io::Write as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The code of a problem; checks that it is one.
fn code(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), "application/problem+json", "{reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], reply.status, "{reply:?}");
    assert!(problem["detail"].is_string() && problem["trace_id"].is_string(), "{reply:?}");
    problem["code"].as_str().unwrap().to_owned()
}

async fn post(client: &Client, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    client.request(Method::POST, path, headers, body).await
}

async fn stored(client: &Client, topic: &str) -> i64 {
    let described = client.get(&format!("/v1/topics/{topic}")).await.json();
    described["partitions"].as_array().unwrap().iter().map(|p| p["high_watermark"].as_i64().unwrap()).sum()
}

#[tokio::test]
async fn refusals_over_a_socket_are_problems() {
    let server = Server::start().await;
    let client = server.client();
    let json = [("content-type", "application/json")];
    let (large, name) = ("x".repeat((1 << 20) + 1), "x".repeat(250));
    let huge = format!(r#"{{"records":[{{"text":"{}"}}]}}"#, "x".repeat(17 << 20));
    for (path, headers, body, status, expected) in [
        ("/v1/topics/a%20b/events", &json[..], "x", 400, "invalid-name"),
        (&format!("/v1/topics/{name}/events"), &json, "x", 400, "invalid-name"),
        ("/v1/topics/t/events", &json, &large, 413, "request-too-large"),
        ("/v1/topics/t/records", &json, &huge, 413, "request-too-large"),
        ("/v1/topics/t/records", &json, r#"{"records":[{"value":1},{}]}"#, 422, "invalid-records"),
        ("/v1/topics/t/records", &json, r#"{"records":[{"value":null}]}"#, 400, "invalid-request"),
        ("/v1/topics/t/records", &json, "{", 400, "invalid-json"),
        ("/v1/topics/t/records", &[], "{", 400, "invalid-json"),
        ("/v1/topics/t/events?tombston=true", &json, "", 400, "invalid-request"),
        ("/v1/topics", &json, r#"{"name":"t","replication_factor":9}"#, 422, "invalid-replication-factor"),
        ("/v1/cluster", &json, "{}", 405, "method-not-allowed"),
        ("/v2", &json, "{}", 404, "not-found"),
    ] {
        let reply = post(&client, path, headers, body.to_owned()).await;
        assert_eq!((reply.status, code(&reply).as_str()), (status, expected), "{path}: {reply:?}");
    }
    assert_eq!(client.get("/v1/topics/t").await.status, 404, "a refused request makes no topic");
    assert_eq!(post(&client, "/v1/cluster", &json, "{}").await.header("allow"), "GET,HEAD");
}

#[tokio::test]
async fn an_unknown_topic_stays_unknown_where_it_is_not_made() {
    let server = Server::start_with(&["--auto-create-topics", "false"]).await;
    let client = server.client();
    for path in ["events", "records", "ingest"] {
        let reply = post(&client, &format!("/v1/topics/nowhere/{path}"), &[], r#"{"records":[{"value":1}]}"#).await;
        assert_eq!((reply.status, code(&reply).as_str()), (404, "unknown-topic"));
    }
}

#[tokio::test]
async fn a_compressed_batch_and_its_resend_are_stored_once() {
    let server = Server::start().await;
    let client = server.client();
    let body = json!({"records": [{"key": "a", "value": {"n": 1}}, {"value": 2}, {"key": "b", "tombstone": true}]});
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.to_string().as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let plain = [("content-type", "application/json"), ("idempotency-key", "one")];
    let packed = [plain[0], plain[1], ("content-encoding", "gzip")];
    let first = post(&client, "/v1/topics/t/records", &packed, gzip).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, ""), "{first:?}");
    let again = post(&client, "/v1/topics/t/records", &plain, body.to_string()).await;
    assert_eq!((again.text(), again.header("idempotency-replayed")), (first.text(), "true"));
    let folder = server.kill9();
    let server = Server::start_in(folder, &[]).await;
    let client = server.client();
    let after = post(&client, "/v1/topics/t/records", &plain, body.to_string()).await;
    assert_eq!((after.text(), after.header("idempotency-replayed")), (first.text(), "true"), "after a crash");
    let other = post(&client, "/v1/topics/t/records", &plain, r#"{"records":[{"value":3}]}"#).await;
    assert_eq!((other.status, code(&other).as_str()), (422, "idempotency-conflict"));
    assert_eq!(stored(&client, "t").await, 3);
}

#[tokio::test]
async fn ingest_answers_line_by_line_while_it_is_written() {
    let server = Server::start().await;
    let client = server.client();
    let (lines, pieces) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces = stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    lines.send("{\"value\":0}\n".into()).await.unwrap();
    let headers = [("content-type", "application/x-ndjson")];
    let open = client.open_streaming(Method::POST, "/v1/topics/i/ingest?receipts=each", &headers, pieces.boxed());
    let mut answer = tokio::time::timeout(PATIENCE, open).await.unwrap().unwrap().into_body();
    let mut text = String::new();
    for sent in 1..=3 {
        while text.lines().count() < sent {
            let frame = tokio::time::timeout(PATIENCE, answer.frame()).await.unwrap().unwrap().unwrap();
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        let receipt: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(receipt["line"], sent, "{text}");
        lines.send(format!("{{\"value\":{sent}}}\n").into()).await.unwrap();
    }
    lines.send("{\"value\":4}\nno json\n{\"value\":5}\n".into()).await.unwrap();
    drop(lines);
    let rest = tokio::time::timeout(PATIENCE, answer.collect()).await.unwrap().unwrap().to_bytes();
    text.push_str(std::str::from_utf8(&rest).unwrap());
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["line"], &last["stored"], &last["problem"]["code"]),
        (&json!(6), &json!(5), &json!("invalid-json"))
    );
    assert_eq!(stored(&client, "i").await, 5);
}

#[tokio::test]
async fn what_a_client_leaves_half_written_is_not_stored() {
    let server = Server::start().await;
    let client = server.client();
    for path in ["events", "records", "ingest"] {
        assert_eq!(post(&client, "/v1/topics/cut/events", &[], "x").await.status, 201);
        let before = stored(&client, "cut").await;
        let mut socket = TcpStream::connect(server.http()).await.unwrap();
        let head = format!("POST /v1/topics/cut/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n");
        socket.write_all(format!("{head}{{\"records\":[{{\"value\":1}},").as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the server ends it").unwrap();
        assert_eq!(stored(&client, "cut").await, before, "{path}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn an_ingest_keeps_the_lines_before_the_cut_and_goes_on_from_there() {
    let server = Server::start().await;
    let client = server.client();
    let lines: Vec<String> = (0..3000).map(|n| format!("{{\"key\":\"k{}\",\"value\":{n}}}\n", n % 5)).collect();
    let mut socket = TcpStream::connect(server.http()).await.unwrap();
    let head =
        "POST /v1/topics/i/ingest HTTP/1.1\r\nhost: localhost\r\nidempotency-key: one\r\ncontent-length: 1000000\r\n";
    socket.write_all(format!("{head}\r\n{}{{\"key\":", lines[..1000].concat()).as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the server ends it").unwrap();
    let headers = [("content-type", "application/x-ndjson"), ("idempotency-key", "one")];
    let whole = post(&client, "/v1/topics/i/ingest", &headers, lines.concat()).await;
    assert_eq!(whole.json()["end"]["stored"], 3000, "{whole:?}");
    assert_eq!(stored(&client, "i").await, 3000, "no line is stored twice");
    let again = post(&client, "/v1/topics/i/ingest", &headers, lines.concat()).await;
    assert_eq!((again.header("idempotency-replayed"), again.text()), ("true", whole.text()));
}

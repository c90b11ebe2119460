use super::super::{Settings, fake_tests::FakeEngine};
use super::*;
use crate::engine::EngineError;
use axum::body::to_bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt as _;

struct Door {
    engine: Arc<FakeEngine>,
    router: super::Door,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The problem's code; checks that it is a whole problem.
    fn code(&self) -> String {
        assert_eq!(self.headers[header::CONTENT_TYPE], problem::CONTENT_TYPE, "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status);
        for member in ["type", "title", "detail", "code", "side_effects"] {
            assert!(body[member].is_string(), "{member}: {body}");
        }
        assert_eq!(body["trace_id"].as_str().map(str::len), Some(32), "{body}");
        assert!(body["retryable"].is_boolean());
        body["code"].as_str().unwrap().to_owned()
    }
}

fn door_with(auto_create: bool, settings: Settings) -> Door {
    let engine = FakeEngine::new(auto_create);
    let router = router(engine.app(settings));
    Door { engine, router }
}

fn door() -> Door {
    door_with(true, Settings::default())
}

impl Door {
    async fn send(&self, request: axum::http::Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    async fn call(&self, line: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn json(&self, line: &str, body: &str) -> Reply {
        self.call(line, &[("content-type", "application/json")], body.to_owned()).await
    }
}

#[tokio::test]
async fn topics_are_made_listed_changed_and_deleted() {
    let door = door();
    let made =
        door.json("POST /v1/topics", r#"{"name":"games","partitions":2,"config":{"retention.ms":"1000"}}"#).await;
    assert_eq!((made.status, made.headers[header::LOCATION].to_str().unwrap()), (201, "/v1/topics/games"));
    assert_eq!(made.json()["config"]["retention.ms"], "1000");
    assert_eq!(made.json()["config_overrides"], json!({"retention.ms": "1000"}));
    assert_eq!(made.json()["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(door.json("POST /v1/topics", r#"{"name":"games"}"#).await.code(), "topic-exists");
    for name in ["a", "b", "z"] {
        assert_eq!(door.json("POST /v1/topics", &format!(r#"{{"name":"{name}"}}"#)).await.status, 201);
    }
    let page = door.call("GET /v1/topics?page_size=3", &[], "").await.json();
    assert_eq!(page["next_page_token"], "games");
    let rest = door.call("GET /v1/topics?page_size=3&page_token=games", &[], "").await.json();
    assert_eq!(rest["topics"][0]["name"], "z");
    assert!(rest.get("next_page_token").is_none());
    let altered = door.json("PATCH /v1/topics/games", r#"{"partitions":4,"reset":["retention.ms"]}"#).await.json();
    assert_eq!(altered["config_overrides"], json!({}));
    assert!(altered["warnings"][0].as_str().unwrap().contains("from 2 to 4"), "{altered}");
    assert_eq!(door.json("PATCH /v1/topics/games", r#"{"partitions":1}"#).await.code(), "invalid-partitions");
    let cut =
        door.json("POST /v1/topics/games/truncate", r#"{"partitions":[{"partition":1,"before_offset":0}]}"#).await;
    assert_eq!(cut.json(), json!({"partitions":[{"partition":1,"log_start_offset":0}]}));
    assert_eq!(door.call("DELETE /v1/topics/games", &[], "").await.status, 204);
    assert_eq!(door.call("GET /v1/topics/games", &[], "").await.code(), "unknown-topic");
}

#[tokio::test]
async fn what_is_refused_is_a_problem() {
    let door = door();
    let long = format!("POST /v1/topics/{}/events", "x".repeat(250));
    let json = &[("content-type", "application/json")][..];
    #[allow(clippy::type_complexity, reason = "a table of cases")]
    let cases: &[(&str, &[(&str, &str)], &str, u16, &str)] = &[
        ("GET /nowhere", &[], "", 404, "not-found"),
        ("GET /v1/topics/a/events", &[], "", 405, "method-not-allowed"),
        ("DELETE /v1/topics", &[], "", 405, "method-not-allowed"),
        ("GET /v1/topics/a%2Fb", &[], "", 400, "invalid-name"),
        ("GET /v1/topics/%FF", &[], "", 400, "invalid-request"),
        ("POST /v1/topics/../events", &[], "x", 400, "invalid-name"),
        (&long, &[], "x", 400, "invalid-name"),
        ("GET /v1/topics?page_sze=1", &[], "", 400, "invalid-request"),
        ("GET /v1/topics?page_size=0", &[], "", 400, "invalid-request"),
        ("GET /v1/topics?page_size=1&page_size=2", &[], "", 400, "invalid-request"),
        ("POST /v1/topics", json, r#"{"name":"a b"}"#, 400, "invalid-name"),
        ("POST /v1/topics", json, r#"{"name":null}"#, 400, "invalid-request"),
        ("POST /v1/topics", json, r#"{"nam":"a"}"#, 400, "invalid-request"),
        ("POST /v1/topics", json, "{", 400, "invalid-json"),
        ("POST /v1/topics", json, r#"{"name":"__own"}"#, 403, "internal-topic"),
        ("POST /v1/topics", json, r#"{"name":"a","config":{"retention.hours":"1"}}"#, 422, "invalid-config"),
        ("POST /v1/topics", json, r#"{"name":"a","config":{"retention.ms":1}}"#, 400, "invalid-request"),
        ("POST /v1/topics", &[("content-type", "text/plain")], r#"{"name":"a"}"#, 415, "unsupported-media-type"),
        ("POST /v1/topics/a/records", json, r#"{"records":[{"value":1},{}]}"#, 422, "invalid-records"),
        ("POST /v1/topics/a/records?acks=none", json, r#"{"records":[{"value":1}]}"#, 400, "invalid-request"),
        ("POST /v1/topics/a/records?timeout_ms=0", json, r#"{"records":[{"value":1}]}"#, 400, "invalid-request"),
        ("POST /v1/topics/a/events?partition=9", &[], "x", 404, "unknown-partition"),
        ("POST /v1/topics/a/events?partition=-1", &[], "x", 404, "unknown-partition"),
        ("POST /v1/topics/a/events?timestamp_ms=-1", &[], "x", 422, "invalid-timestamp"),
        ("POST /v1/topics/a/events?tombstone=true", &[], "x", 400, "invalid-request"),
        ("POST /v1/topics/a/events?key=a", &[("record-key", "b")], "x", 400, "invalid-request"),
        ("POST /v1/topics/a/events", &[("idempotency-key", "")], "x", 400, "invalid-request"),
        ("POST /v1/topics/a/events", &[("content-encoding", "br")], "x", 415, "unsupported-media-type"),
        ("POST /v1/topics/__own/events", &[], "x", 403, "internal-topic"),
        (
            "POST /v1/topics/a/events",
            &[("origin", "http://evil.example"), ("host", "x")],
            "x",
            403,
            "origin-not-allowed",
        ),
        ("POST /v1/topics/a/ingest", &[("content-type", "text/csv")], "x", 415, "unsupported-media-type"),
    ];
    for (line, headers, body, status, code) in cases {
        let reply = door.call(line, headers, (*body).to_owned()).await;
        assert_eq!((reply.status, reply.code().as_str()), (*status, *code), "{line} {headers:?} {body}: {reply:?}");
        assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    }
    let allow = door.call("DELETE /v1/topics", &[], "").await.headers[header::ALLOW].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let name = "x".repeat(70_000);
    assert_eq!(door.call("GET /livez", &[("a", &name)], "").await.code(), "headers-too-large");
}

#[tokio::test]
async fn sizes_are_bounded_and_a_refused_request_makes_no_topic() {
    let door = door();
    let large = "x".repeat((1 << 20) + 1);
    assert_eq!(door.call("POST /v1/topics/new/events", &[], large.clone()).await.code(), "request-too-large");
    let batch = format!(r#"{{"records":[{{"value":1}},{{"text":"{large}"}}]}}"#);
    let reply = door.json("POST /v1/topics/new/records", &batch).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "record-too-large"));
    assert_eq!(reply.json()["results"][0]["status"], "not-stored");
    let huge = format!(r#"{{"records":[{{"text":"{}"}}]}}"#, "x".repeat(17 << 20));
    assert_eq!(door.json("POST /v1/topics/new/records", &huge).await.code(), "request-too-large");
    let line = door.call("POST /v1/topics/new/ingest", &[], format!(r#"{{"text":"{large}"}}"#)).await;
    assert_eq!(line.json()["problem"]["code"], "record-too-large");
    assert_eq!(door.call("GET /v1/topics/new", &[], "").await.code(), "unknown-topic");
    let own = r#"{"name":"wide","config":{"max.message.bytes":"3000000"}}"#;
    assert_eq!(door.json("POST /v1/topics", own).await.status, 201);
    assert_eq!(door.call("POST /v1/topics/wide/events", &[], large).await.status, 201);
}

#[tokio::test]
async fn an_event_is_stored_byte_for_byte() {
    let door = door();
    let headers = [
        ("content-type", "application/vnd.x+json"),
        ("Record-Header-Source", "board"),
        ("ce-type", "goal"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let body: Vec<u8> = (0..=255).collect();
    let reply = door.call("POST /v1/topics/games/events?key=m%201&timestamp_ms=5", &headers, body.clone()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let receipt = reply.json();
    assert_eq!(
        (&receipt["topic"], &receipt["offset"], &receipt["timestamp_ms"]),
        (&json!("games"), &json!(0), &json!(5))
    );
    let location = format!("/v1/topics/games/partitions/{}/records/0", receipt["partition"]);
    assert_eq!(reply.headers[header::LOCATION], location.as_str());
    let record = door.engine.stored("games").remove(0).record;
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"m 1"[..]), Some(&body[..])));
    let mut names: Vec<_> = record.headers.iter().map(|h| String::from_utf8_lossy(&h.name).into_owned()).collect();
    names.sort();
    assert_eq!(names, ["ce_type", "content-type", "source", "traceparent"]);
    assert_eq!(door.call("POST /v1/topics/e/events", &[], "").await.status, 201);
    assert_eq!(door.engine.stored("e")[0].record.value.as_deref(), Some(&b""[..]));
    assert_eq!(door.call("POST /v1/topics/t/events?key=a&tombstone=true", &[], "").await.status, 201);
    assert_eq!(door.engine.stored("t")[0].record.value, None);
}

#[tokio::test]
async fn a_resend_under_an_idempotency_key_is_free() {
    let door = door();
    let key = [("idempotency-key", "k1"), ("content-type", "application/json")];
    for (path, body, other) in [
        ("POST /v1/topics/a/events?key=1", "x", "y"),
        (
            "POST /v1/topics/b/records",
            r#"{"records":[{"key":"1","value":1},{"value":2}]}"#,
            r#"{"records":[{"value":1}]}"#,
        ),
    ] {
        let first = door.call(path, &key, body).await;
        let again = door.call(path, &key, body).await;
        assert_eq!(first.text, again.text);
        assert!(!first.headers.contains_key("idempotency-replayed"));
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let conflict = door.call(path, &key, other).await;
        assert_eq!((conflict.status, conflict.code().as_str()), (422, "idempotency-conflict"), "{conflict:?}");
        door.engine.state_reset();
    }
}

#[tokio::test]
async fn a_batch_is_all_or_says_what_became_of_each() {
    let door = door();
    let body = r#"{"records":[{"key":"a","value":{"n":1.10}},{"key":"a","text":"x"}]}"#;
    assert_eq!(door.json("POST /v1/topics/b/records", body).await.json()["results"].as_array().unwrap().len(), 2);
    assert_eq!(door.engine.stored("b")[0].record.value.as_deref(), Some(&br#"{"n":1.10}"#[..]));
    door.engine.fail_next([None, Some(EngineError::TimedOut)]);
    let part = door.json("POST /v1/topics/b/records", body).await;
    assert_eq!((part.status, part.code().as_str()), (503, "partially-stored"));
    assert_eq!(part.json()["side_effects"], "applied");
    assert_eq!(
        (&part.json()["results"][0]["status"], &part.json()["results"][0]["offset"]),
        (&json!("stored"), &json!(2))
    );
    assert_eq!(part.json()["results"][1]["code"], "timed-out");
    door.engine.fail_next([Some(EngineError::DiskFull)]);
    let full = door.call("POST /v1/topics/b/events", &[], "x").await;
    assert_eq!(
        (full.status, full.code().as_str(), full.headers["retry-after"].to_str().unwrap()),
        (507, "disk-full", "1")
    );
}

#[tokio::test]
async fn an_ingest_stops_at_the_first_bad_line() {
    let door = door();
    let lines: String = (0..5000).map(|n| format!("{{\"key\":\"k{}\",\"value\":{n}}}\n", n % 7)).collect();
    let end = door.call("POST /v1/topics/i/ingest", &[("content-type", "application/x-ndjson")], lines).await;
    assert_eq!((end.status, end.headers[header::CONTENT_TYPE].to_str().unwrap()), (200, "application/x-ndjson"));
    assert_eq!(end.json()["end"]["stored"], 5000);
    let counts: u64 =
        end.json()["end"]["partitions"].as_array().unwrap().iter().map(|p| p["count"].as_u64().unwrap()).sum();
    assert_eq!(counts, 5000);
    let stored = door.engine.stored("i");
    let of_key: Vec<i64> = stored
        .iter()
        .filter(|r| r.record.key.as_deref() == Some(b"k3"))
        .map(|r| std::str::from_utf8(r.record.value.as_ref().unwrap()).unwrap().parse().unwrap())
        .collect();
    assert!(of_key.is_sorted() && of_key.len() > 700, "{of_key:?}");

    let bad = door
        .call("POST /v1/topics/j/ingest", &[], "{\"value\":1}\n\n{\"value\":2}\n{\"value\":tru}\n{\"value\":3}")
        .await;
    let last = bad.json();
    assert_eq!((&last["line"], &last["stored"]), (&json!(4), &json!(2)));
    assert_eq!(
        (&last["problem"]["code"], &last["problem"]["side_effects"]),
        (&json!("invalid-json"), &json!("applied"))
    );
    assert!(last["problem"]["trace_id"].is_string());
    assert_eq!(door.engine.stored("j").len(), 2);

    door.json("POST /v1/topics", r#"{"name":"c","config":{"cleanup.policy":"compact"}}"#).await;
    let keyless =
        door.call("POST /v1/topics/c/ingest", &[], "{\"key\":\"a\",\"value\":1}\n{\"value\":2}\n").await.json();
    assert_eq!((&keyless["line"], &keyless["stored"]), (&json!(2), &json!(1)));
    assert_eq!(keyless["problem"]["code"], "key-required");
}

#[tokio::test]
async fn ingest_receipts_come_line_by_line_and_a_resend_is_free() {
    let door = door();
    let headers = [("idempotency-key", "i")];
    let lines = "{\"key\":\"a\",\"value\":1}\n{\"key\":\"a\",\"value\":2}";
    let first = door.call("POST /v1/topics/i/ingest?receipts=each", &headers, lines).await;
    let parsed: Vec<Value> = first.text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&parsed[0]["line"], &parsed[1]["offset"]), (&json!(1), &json!(1)));
    assert_eq!(parsed[2]["end"]["stored"], 2);
    let longer = format!("{lines}\n{{\"key\":\"a\",\"value\":3}}");
    let again = door.call("POST /v1/topics/i/ingest", &headers, longer).await.json();
    assert_eq!(again["end"]["stored"], 3);
    assert_eq!(door.engine.stored("i").len(), 3);
}

#[tokio::test]
async fn a_body_that_is_cut_off_stores_no_half_line() {
    let door = door();
    let chunks = ["{\"value\":1}\n{\"val", "ue\":2}\n{\"value\":3"].map(|c| Ok(bytes::Bytes::from(c)));
    let cut = std::iter::once(Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
    let body = Body::from_stream(futures_util::stream::iter(chunks.into_iter().chain(cut)));
    let last = door.call("POST /v1/topics/i/ingest", &[], body).await.json();
    assert_eq!(
        (&last["problem"]["code"], &last["stored"], &last["line"]),
        (&json!("body-incomplete"), &json!(2), &json!(3))
    );
    assert_eq!(door.engine.stored("i").len(), 2);
}

#[tokio::test]
async fn without_auto_create_an_unknown_topic_is_unknown() {
    let door = door_with(false, Settings::default());
    door.json("POST /v1/topics", r#"{"name":"games"}"#).await;
    for line in ["POST /v1/topics/game/events", "POST /v1/topics/game/records", "POST /v1/topics/game/ingest"] {
        let reply = door.call(line, &[], r#"{"records":[{"value":1}]}"#).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "unknown-topic"));
        assert!(reply.json()["detail"].as_str().unwrap().contains("did you mean 'games'"));
    }
    assert_eq!(door.engine.calls(), 0);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read() {
    let settings = Settings { cors_origins: vec!["https://app.example".to_owned()], ..Settings::default() };
    let door = door_with(true, settings);
    let origin = ("origin", "https://app.example");
    let reply = door.call("GET /v1/cluster", &[origin], "").await;
    assert_eq!(reply.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
    assert!(reply.headers.get_all(header::VARY).iter().any(|v| v == "origin"));
    let ask =
        [origin, ("access-control-request-method", "POST"), ("access-control-request-headers", "idempotency-key")];
    let preflight = door.call("OPTIONS /v1/topics/a/events", &ask, "").await;
    assert_eq!(
        (preflight.status, &preflight.headers[header::ACCESS_CONTROL_ALLOW_HEADERS]),
        (204, &HeaderValue::from_static("idempotency-key"))
    );
    assert_eq!(door.call("GET /v1/cluster", &[("origin", "https://app.example.evil")], "").await.status, 403);
}

#[tokio::test]
async fn the_server_tells_of_itself() {
    let door = door();
    for path in
        ["/livez", "/readyz", "/v1/cluster", "/v1/brokers", "/v1/capabilities", "/openapi.json", "/openapi-3.0.json"]
    {
        let reply = door.call(&format!("GET {path}"), &[], "").await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.json().is_object());
    }
    let metrics = door.call("GET /metrics", &[], "").await;
    assert!(
        metrics.text.contains("sluice_http_requests_total{method=\"GET\",route=\"/livez\",status=\"200\"}"),
        "{}",
        metrics.text
    );
    for (path, holds) in
        [("/", "<html"), ("/docs", "swagger-ui"), ("/docs/start.js", "/openapi.json"), ("/assets/app.js", "import")]
    {
        let reply = door.call(&format!("GET {path}"), &[], "").await;
        assert!(reply.status == 200 && reply.text.contains(holds), "{path}: {}", reply.status);
        let etag = reply.headers[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(door.call(&format!("GET {path}"), &[("if-none-match", &etag)], "").await.status, 304);
        assert!(reply.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self'"));
    }
    assert!(!door.call("GET /docs", &[], "").await.text.contains("https://"), "no page loads from elsewhere");
    assert_eq!(door.call("GET /assets/../Cargo.toml", &[], "").await.status, 404);
}

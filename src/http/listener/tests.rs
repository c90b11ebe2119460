use super::*;
use crate::{
    http::{Limits, Settings, fake_tests::FakeEngine},
    sys::{Network as _, TcpNetwork},
    telemetry::ShedLabels,
};
use std::net::SocketAddr;
use tokio::task::JoinHandle;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Serving {
    address: SocketAddr,
    state: AppState,
    task: JoinHandle<()>,
}

async fn serving(limits: Limits) -> Serving {
    serving_from(&FakeEngine::new(true), limits).await
}

async fn serving_from(engine: &Arc<FakeEngine>, limits: Limits) -> Serving {
    let listener = TcpNetwork.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = engine.app(Settings { limits, listen: Some(address), ..Settings::default() });
    let task = tokio::spawn(serve(listener, state.clone()));
    Serving { address, state, task }
}

impl Serving {
    async fn connect(&self) -> Box<dyn Socket> {
        TcpNetwork.connect(self.address.to_string()).await.unwrap()
    }

    /// Writes, and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut socket = self.connect().await;
        socket.write_all(bytes).await.unwrap();
        rest(&mut socket).await
    }
}

/// All that comes until the server closes.
async fn rest(socket: &mut Box<dyn Socket>) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server closes the connection"); // a reset is a close, too
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_until(socket: &mut Box<dyn Socket>, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let n = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await.expect("an answer").unwrap();
        assert!(n > 0, "closed after: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    text
}

fn quick() -> Limits {
    let short = Duration::from_millis(100);
    Limits { header_timeout: short, idle_timeout: short, body_silence: short, ..Limits::default() }
}

#[tokio::test]
async fn slow_headers_are_cut_off_whatever_the_protocol() {
    let serving = serving(quick()).await;
    for start in ["", "GET /livez HT", "GET /livez HTTP/1.1\r\nhost: localhost\r\nx", "PRI * HTTP/2.0\r\n"] {
        let answer = serving.exchange(start.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{start}: {answer}");
    }
    let whole = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert!(serving.exchange(whole).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_may_stand_idle_for_longer_than_a_new_one_may_be_silent() {
    let serving = serving(Limits { idle_timeout: Duration::from_secs(60), ..quick() }).await;
    let mut socket = serving.connect().await;
    for _ in 0..2 {
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        assert!(read_until(&mut socket, "ok").await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_silent_body_is_answered_and_cut_off() {
    let serving = serving(quick()).await;
    let head = "POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = serving.exchange(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body-timeout"), "{answer}");
}

#[tokio::test]
async fn headers_are_bounded() {
    let serving = serving(Limits::default()).await;
    let request = |extra: &str| format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{extra}connection: close\r\n\r\n");
    let somewhat = request(&format!("a: {}\r\n", "x".repeat(70_000)));
    let answer = serving.exchange(somewhat.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431") && answer.contains("headers-too-large"), "{answer}");
    let far = request(&format!("a: {}\r\n", "x".repeat(120_000)));
    assert!(serving.exchange(far.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..200).map(|n| format!("h{n}: x\r\n")).collect();
    assert!(serving.exchange(request(&many).as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_foreign_host_is_refused_on_loopback() {
    let serving = serving(Limits::default()).await;
    let answer = serving.exchange(b"GET /livez HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421") && answer.contains("host-not-allowed"), "{answer}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let serving = serving(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = serving.connect().await;
    let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    first.write_all(request).await.unwrap();
    read_until(&mut first, "ok").await;
    let mut second = serving.connect().await;
    second.write_all(request).await.unwrap();
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte)).await;
    assert!(early.is_err(), "the second connection is served beside the first");
    drop(first);
    assert!(read_until(&mut second, "ok").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_comes_while_others_wait_too_long_is_sent_away_and_taken_again_afterwards() {
    let engine = FakeEngine::new(true);
    let serving = serving_from(&engine, Limits { request_memory: 1 << 20, ..Limits::default() }).await;
    // One connection for all: a refusal ends none.
    let mut socket = serving.connect().await;
    let body = "x".repeat(10_000);
    let mut send = async |method: &str, path: &str| {
        tokio::time::sleep(Duration::from_millis(2)).await; // for one, what was said of a topic holds
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        let answer = read_until(&mut socket, "}").await.to_ascii_lowercase();
        (answer[9..12].to_owned(), answer)
    };
    let shed = || metrics().http_requests_shed.get_or_create(&ShedLabels { reason: "delay" }).get();
    let events = "/v1/topics/a/events";
    assert_eq!(send("POST", events).await.0, "201");
    let now = Some(Duration::ZERO);
    engine.set_late(now);
    let before = shed();
    assert_eq!(send("POST", events).await.0, "201", "few requests are under way");
    assert_eq!(shed(), before);
    let others = serving.state.memory.reserve(1 << 19);
    for path in [events, "/v1/topics/a/records", "/v1/topics/a/ingest"] {
        let (status, answer) = send("POST", path).await;
        assert_eq!(status, "503", "{path}: {answer}");
        assert!(answer.contains("\r\nretry-after: ") && answer.contains("\"overloaded\""), "{path}: {answer}");
        assert!(!answer.contains("connection: close"), "{path}: {answer}");
    }
    assert!(shed() >= before + 3, "it is counted");
    engine.set_late(Some(Duration::from_millis(200)));
    assert_eq!(send("POST", events).await.0, "503", "half of the memory is taken, and less is given yet");
    for ago in [Some(Duration::from_millis(600)), Some(Duration::MAX), None] {
        engine.set_late(ago);
        assert_eq!(send("POST", events).await.0, "201", "{ago:?}");
    }
    engine.set_late(now);
    drop(others);
    assert_eq!(send("POST", events).await.0, "201", "nobody else is under way");
    assert_eq!(engine.stored("a").len(), 6);
    let _others = serving.state.memory.reserve(1 << 19);
    assert_ne!(send("PUT", "/v1/topics/b").await.0, "503", "only what stores records is sent away");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let serving = serving(Limits::default()).await;
    let mut busy = serving.connect().await;
    let head = b"POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nha";
    busy.write_all(head).await.unwrap();
    let mut idle = serving.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut idle, "ok").await;
    serving.state.drain.start();
    assert_eq!(rest(&mut idle).await, "", "an idle connection is closed");
    assert!(TcpNetwork.connect(serving.address.to_string()).await.is_err() || serving.task.is_finished());
    busy.write_all(b"lf").await.unwrap();
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 201"));
    tokio::time::timeout(PATIENCE, serving.task).await.expect("it ends when all is done").unwrap();
}

#[tokio::test]
async fn a_drain_ends_in_time_whatever_is_in_flight() {
    let serving = serving(Limits { drain_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stuck = serving.connect().await;
    let head = b"POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nha";
    stuck.write_all(head).await.unwrap();
    serving.state.drain.start();
    tokio::time::timeout(PATIENCE, serving.task).await.expect("it ends by its own deadline").unwrap();
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let serving = serving(Limits::default()).await;
    let mut socket = serving.connect().await;
    let body = vec![b'x'; 20 << 20];
    let head =
        format!("POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    tokio::time::timeout(PATIENCE, socket.write_all(&body)).await.unwrap().expect("the whole body is taken");
    let answer = rest(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("request-too-large"), "{answer}");
}

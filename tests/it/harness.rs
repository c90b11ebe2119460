//! Starts the server as a process of its own in a folder of its own, talks HTTP to it, and ends it.
//!
//! ```ignore
//! let server = Server::start().await;
//! let reply = server.client().post_json("/v1/topics", &json!({"name": "games"})).await;
//! assert_eq!(reply.status, 201, "{reply:?}");
//! ```
//! A server is killed when it is dropped. To restart one on its data: [`Server::kill9`] or [`Server::terminate`] give
//! its folder, [`Server::start_in`] takes it.

#![allow(dead_code, reason = "each subject takes the part that it needs")]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::{Client as HyperClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything that must happen may take; far more than it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    child: Child,
    folder: Option<TempDir>,
    ready: Value,
}

impl Server {
    /// Starts one with the defaults, on a fresh folder.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(TempDir::new().expect("a temporary folder"), arguments).await
    }

    /// Starts one on a folder that an earlier one may have used.
    ///
    /// # Panics
    /// If it ends, or does not serve in time; with all that it wrote to stderr.
    pub async fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let ready_file = folder.path().join("ready.json");
        let _ = std::fs::remove_file(&ready_file); // a killed server leaves it behind
        let stderr = std::fs::File::options().create(true).append(true).open(folder.path().join("stderr"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        // Settings of whoever runs the tests must not reach the server.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")) {
            command.env_remove(name);
        }
        command
            .args(["serve", "--http", "127.0.0.1:0", "--kafka", "off", "--peer", "off", "--log-level", "info"])
            .arg("--data")
            .arg(folder.path().join("data"))
            .arg("--ready-file")
            .arg(&ready_file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.expect("a file for stderr"));
        let child = command.spawn().expect("the server's program was built");
        let mut server = Self { child, folder: Some(folder), ready: Value::Null };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read(&ready_file) {
                server.ready = serde_json::from_slice(&text).expect("the ready file is written whole");
                return server;
            }
            if let Some(status) = server.child.try_wait().expect("it is our child") {
                panic!("the server ended with {status} before it served:\n{}", server.stderr());
            }
            assert!(Instant::now() < deadline, "the server does not serve:\n{}", server.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `IP:PORT` of its HTTP door.
    pub fn http(&self) -> &str {
        self.ready["http"].as_str().expect("the ready file names the HTTP door")
    }

    /// What the ready file says.
    pub const fn ready(&self) -> &Value {
        &self.ready
    }

    /// A client of its HTTP door, with a connection pool of its own.
    pub fn client(&self) -> Client {
        Client::new(&format!("http://{}", self.http()))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder: `data`, `ready.json`, `stderr`.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("a running server has its folder").path()
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// What it has written to stderr, by all servers of its folder.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder().join("stderr")).unwrap_or_default()
    }

    /// Kills it at once; gives its folder.
    pub fn kill9(mut self) -> TempDir {
        self.kill();
        self.folder.take().expect("a running server has its folder")
    }

    /// Sends SIGTERM and waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn terminate(mut self) -> (ExitStatus, TempDir) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is our child");
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not drain:\n{}", self.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        (status, self.folder.take().expect("a running server has its folder"))
    }

    fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && self.folder.is_some() {
            eprintln!("--- the server wrote:\n{}", self.stderr());
        }
    }
}

/// A small HTTP client.
#[derive(Clone)]
pub struct Client {
    base: String,
    hyper: HyperClient<HttpConnector, Body>,
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// An answer that has been read to its end.
#[derive(Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// A client of `http://HOST:PORT`.
    pub fn new(base: &str) -> Self {
        let hyper = HyperClient::builder(TokioExecutor::new()).build_http();
        Self { base: base.to_owned(), hyper }
    }

    /// Sends a request and gives the answer's head, its body still to be read (for streams).
    ///
    /// # Errors
    /// When no answer came.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        self.send(method, path, headers, Full::new(body.into()).boxed_unsync()).await
    }

    /// The same with a body that comes in pieces.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn open_streaming(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        pieces: impl futures_util::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let frames = futures_util::StreamExt::map(pieces, |piece| Ok(Frame::data(piece)));
        self.send(method, path, headers, StreamBody::new(frames).boxed_unsync()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().expect("the test's path is a URI");
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).expect("the test's header has a name");
            request.headers_mut().append(name, HeaderValue::try_from(*value).expect("the test's header has a value"));
        }
        self.hyper.request(request).await
    }

    /// Sends a request and reads the whole answer. `None` when it was cut off, or took longer than [`PATIENCE`].
    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Option<Reply> {
        let whole = async {
            let response = self.open(method, path, headers, body).await.ok()?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.ok()?.to_bytes();
            Some(Reply { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(PATIENCE, whole).await.ok().flatten()
    }

    /// The same, for a server that must answer.
    pub async fn request(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let what = format!("{method} {path}");
        self.try_request(method, path, headers, body).await.unwrap_or_else(|| panic!("no answer to {what}"))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Reply {
        self.request(Method::GET, path, &[], Bytes::new()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Reply {
        self.request(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// POST of a JSON body.
    pub async fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.send_json(Method::POST, path, &[], body).await
    }

    /// Any method with a JSON body.
    pub async fn send_json(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let mut all = vec![(CONTENT_TYPE.as_str(), "application/json")];
        all.extend(headers);
        self.request(method, path, &all, body.to_string()).await
    }
}

impl Reply {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

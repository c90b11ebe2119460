//! The client side of the HTTP door, as far as the commands need it.
//!
//! **Invariant**: an answer of status 400 and up never looks like success: it becomes an [`HttpError`] that carries the
//! server's problem. Every wait has a limit.

use super::{
    CliError,
    output::{self, OutputArgs},
    sse::SseParser,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, Uri, body::Incoming};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use std::{fmt::Write as _, time::Duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any answer takes that is not a stream; a long poll is at most 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The server sends a heartbeat every 15 s: three missed ones are a lost connection.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);
/// An answer that is read whole; pages and documents are far below.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Which server a client command talks to.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The server
    #[arg(long, env = "SLUICE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

/// What every command has that asks a server for data.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Whom it asks.
    #[command(flatten)]
    pub target: Target,
    /// How it prints what it got.
    #[command(flatten)]
    pub output: OutputArgs,
}

impl Common {
    /// A change is no data: people read about it on stderr, programs get what it left.
    ///
    /// # Errors
    /// What stdout says.
    pub fn done(&self, left: &Value, text: &str) -> Result<(), CliError> {
        if self.output.is_json() {
            return output::json_line(left);
        }
        eprintln!("{text}");
        Ok(())
    }
}

/// Talks to one server, over connections that are kept.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: HyperClient<HttpConnector, Full<Bytes>>,
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens there.
    #[error(
        "no server answers at {url}: {cause}\nstart one with `sluice serve`, or name another with --url or SLUICE_URL"
    )]
    Connect {
        /// The server's URL.
        url: String,
        /// What the system said.
        cause: String,
    },
    /// The connection broke, or the answer did not come in time: the request may or may not have been carried out.
    #[error("the connection to {url} broke: {cause}")]
    Lost {
        /// The server's URL.
        url: String,
        /// What happened.
        cause: String,
    },
    /// The server refused.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// What answered is no Sluice, or another version.
    #[error("{url} answered what this program does not understand: {cause}")]
    Strange {
        /// The server's URL.
        url: String,
        /// What was wrong with it.
        cause: String,
    },
}

/// A problem (RFC 9457) from the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// Its whole object; empty if the answer was something else.
    pub body: Value,
}

impl Problem {
    /// Its stable name.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.body["retryable"].as_bool().unwrap_or(matches!(self.status, 429 | 502 | 503 | 504))
    }

    /// How long the server asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.body["retry_after_ms"].as_u64().map(Duration::from_millis)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.body["title"].as_str() {
            Some(title) => f.write_str(title)?,
            None => write!(f, "the server answered with status {}", self.status)?,
        }
        if let Some(detail) = self.body["detail"].as_str() {
            write!(f, "\n{detail}")?;
        }
        match self.code() {
            "unknown-topic" => f.write_str("\nsee `sluice topic list`, or make it with `sluice topic create`")?,
            "topic-exists" => f.write_str("\nsee `sluice topic describe`, or change it with `sluice topic alter`")?,
            "unknown-queue" => f.write_str("\nsee `sluice queue stats`, or make it with `sluice queue create`")?,
            "unknown-group" => f.write_str("\nsee `sluice group list`")?,
            _ if self.is_retryable() => f.write_str("\nit may work later: try again")?,
            _ => (),
        }
        if let Some(trace) = self.body["trace_id"].as_str() {
            write!(f, "\n(trace {trace})")?;
        }
        Ok(())
    }
}

impl HttpError {
    /// Whether the same request may succeed later; whoever sends it again has to know that this does no harm.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => true,
            Self::Problem(problem) => problem.is_retryable(),
            Self::Strange { .. } => false,
        }
    }
}

impl From<HttpError> for CliError {
    fn from(e: HttpError) -> Self {
        Self::failed(e.to_string())
    }
}

impl Client {
    /// A client of the target; connects with the first request.
    ///
    /// # Errors
    /// Usage: the URL is none that can be asked.
    pub fn new(target: &Target) -> Result<Self, CliError> {
        let base = target.url.trim_end_matches('/').to_owned();
        let wrong = |what: &str| CliError::usage(format!("--url {base}: {what}; write http://HOST:PORT"));
        let uri: Uri = base.parse().map_err(|_| wrong("it is no URL"))?;
        match uri.scheme_str() {
            Some("http") => (),
            Some("https") => return Err(wrong("https is not supported yet")),
            _ => return Err(wrong("it does not begin with http://")),
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Self { base, http: HyperClient::builder(TokioExecutor::new()).build(connector) })
    }

    /// The server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Sends a request; gives its answer as soon as the head is there.
    ///
    /// # Errors
    /// Also for every status of 400 and up.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| self.strange(e))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.http.request(request)).await;
        let answer = answer.map_err(|_| self.lost("no answer in time"))?.map_err(|e| match e.is_connect() {
            true => HttpError::Connect { url: self.base.clone(), cause: root_cause(&e) },
            false => self.lost(root_cause(&e)),
        })?;
        if answer.status().as_u16() < 400 {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = self.whole(answer).await.unwrap_or_default();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Err(HttpError::Problem(Box::new(Problem { status, body })))
    }

    /// Sends a request that has a JSON answer, or none (`Null`).
    ///
    /// # Errors
    /// As [`Self::send`], and an answer that is no JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, HttpError> {
        let headers: &[_] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let answer = self.send(method, path, headers, bytes).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let bytes = self.whole(answer).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.strange(e))
    }

    /// Opens a stream of server-sent events; `None` if the server says (204) that there is nothing more to come.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn events(&self, path: &str, last_event_id: Option<&str>) -> Result<Option<EventStream>, HttpError> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        let answer = self.send(Method::GET, path, &headers, Bytes::new()).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Ok(Some(EventStream { client: self.clone(), body: answer.into_body(), parser: SseParser::default() }))
    }

    /// The whole body of an answer.
    ///
    /// # Errors
    /// The connection broke, or the body is beyond any that is expected.
    pub async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes, HttpError> {
        let mut body = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.frame(&mut body).await? {
            if bytes.len() + frame.len() > MAX_ANSWER_BYTES {
                return Err(self.strange("the answer is too long"));
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(bytes.freeze())
    }

    async fn frame(&self, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = tokio::time::timeout(SILENCE_TIMEOUT, body.frame()).await;
            match frame.map_err(|_| self.lost("the server fell silent"))? {
                None => return Ok(None),
                Some(Err(e)) => return Err(self.lost(root_cause(&e))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn lost(&self, cause: impl ToString) -> HttpError {
        HttpError::Lost { url: self.base.clone(), cause: cause.to_string() }
    }

    fn strange(&self, cause: impl ToString) -> HttpError {
        HttpError::Strange { url: self.base.clone(), cause: cause.to_string() }
    }
}

/// An open stream of server-sent events.
pub struct EventStream {
    client: Client,
    body: Incoming,
    parser: SseParser,
}

impl EventStream {
    /// An event that has come already.
    pub fn ready(&mut self) -> Option<super::sse::SseEvent> {
        self.parser.next()
    }

    /// The next event, comments left out; `None` when the server closed the stream.
    ///
    /// # Errors
    /// The connection broke, or nothing came for three heartbeats.
    pub async fn next(&mut self) -> Result<Option<super::sse::SseEvent>, HttpError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            match self.client.frame(&mut self.body).await? {
                None => return Ok(None),
                Some(bytes) => self.parser.push(&bytes).map_err(|e| self.client.strange(e))?,
            }
        }
    }
}

/// The last cause in the chain: the first ones only say that a client failed.
fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Percent-encodes a path segment, or a query's name or value.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'~' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    out
}

/// A path with a query of those parameters that have a value.
#[must_use]
pub fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut out = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        if let Some(value) = value {
            let _ = write!(out, "{separator}{}={}", encode(name), encode(value));
            separator = '&';
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let parameters = [("key", Some("a b/ü&".to_owned())), ("x", None), ("limit", Some("3".to_owned()))];
        assert_eq!(with_query("/v1", &parameters), "/v1?key=a%20b%2F%C3%BC%26&limit=3");
    }

    #[test]
    fn problems_say_what_to_do() {
        let body = serde_json::json!({"title": "There is no such topic", "detail": "no 'x'", "code": "unknown-topic"});
        let text = Problem { status: 404, body }.to_string();
        assert!(text.contains("There is no such topic\nno 'x'\n") && text.contains("sluice topic create"), "{text}");
        let foreign = Problem { status: 503, body: Value::Null };
        assert!(foreign.is_retryable() && foreign.to_string().contains("503"));
    }

    #[tokio::test]
    async fn a_closed_port_says_how_to_start_a_server() {
        let client = Client::new(&Target { url: "http://127.0.0.1:1".to_owned() }).unwrap();
        let e = client.json(Method::GET, "/v1/topics", None).await.unwrap_err();
        assert!(e.is_retryable() && e.to_string().contains("sluice serve"), "{e}");
        for bad in ["127.0.0.1:8080", "https://x", "http://"] {
            assert_eq!(Client::new(&Target { url: bad.to_owned() }).err().map(|e| e.status()), Some(2), "{bad}");
        }
    }
}

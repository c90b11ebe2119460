//! What every handler has: the engine, the clock, the limits and the settings.

use super::drain::Drain;
use crate::{engine::Engine, session::Sessions, sys::Sys, telemetry::MemoryBudget};
use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

/// Bounds of this door. Each is published at `/v1/capabilities` where clients need to know it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest record over HTTP: key, value and headers, in bytes. A topic that sets `max.message.bytes` has its own.
    pub record_bytes: usize,
    /// Largest body of a batch, after decompression, in bytes.
    pub batch_bytes: usize,
    /// Largest body of any other request, in bytes.
    pub request_bytes: usize,
    /// Most records of one batch.
    pub batch_records: usize,
    /// Most headers of one record.
    pub record_headers: usize,
    /// Deepest JSON.
    pub json_depth: usize,
    /// Header fields of a request, in bytes together.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Time for the first bytes of a connection.
    pub header_timeout: Duration,
    /// How long a connection may stand idle, and the headers of a request may take.
    pub idle_timeout: Duration,
    /// Longest silence in a request's body.
    pub body_silence: Duration,
    /// Streams of one HTTP/2 connection.
    pub http2_streams: u32,
    /// Connections at once.
    pub connections: usize,
    /// What came out of a decompressed body for each byte that went in.
    pub decompression_ratio: usize,
    /// Wait for an acknowledgement where the request names none.
    pub produce_timeout: Duration,
    /// Longest wait for an acknowledgement that a request may ask for.
    pub max_produce_timeout: Duration,
    /// Time for requests in flight at shutdown.
    pub drain_timeout: Duration,
    /// Memory of all requests under way together, in bytes; above it requests are sent away, to come again later.
    pub request_memory: usize,
    /// Frames of all live readers' shared streams together, in bytes.
    pub ring_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes: 1 << 20,
            batch_bytes: 16 << 20,
            request_bytes: 1 << 20,
            batch_records: 100_000,
            record_headers: 100,
            json_depth: 128,
            header_bytes: 64 << 10,
            headers: 100,
            header_timeout: Duration::from_secs(10),
            // More than the minute for which proxies and pools of clients keep theirs: who closes second loses no request.
            idle_timeout: Duration::from_secs(75),
            body_silence: Duration::from_secs(30),
            http2_streams: 100,
            connections: 20_000,
            decompression_ratio: 100,
            produce_timeout: Duration::from_secs(30),
            max_produce_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(30),
            request_memory: 64 << 20,
            ring_memory: 64 << 20,
        }
    }
}

/// What the operator chose for this door.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The bounds.
    pub limits: Limits,
    /// Origins (`https://example.org`) whose pages may read answers, and open streams and sockets. Exact; none by
    /// default, which leaves pages that this server gave itself.
    pub cors_origins: Vec<String>,
    /// Host names that a request may name, besides IP addresses, `localhost` and the advertised one, where the server
    /// listens on loopback only. A page elsewhere can make its own name resolve to 127.0.0.1.
    pub allowed_hosts: Vec<String>,
    /// Where it listens; `None` in tests without a socket.
    pub listen: Option<SocketAddr>,
    /// What others are told to connect to, `host:port`.
    pub advertised: Option<String>,
    /// Whether an unknown topic is made by the first record for it.
    pub auto_create_topics: bool,
    /// How long Idempotency-Keys are kept, as `/v1/capabilities` says it.
    pub idempotency_retention: Duration,
    /// How many records under Idempotency-Keys each partition keeps, as `/v1/capabilities` says it.
    pub idempotency_keys_per_partition: usize,
}

/// The state behind each handler.
pub struct App {
    /// The broker.
    pub engine: Arc<dyn Engine>,
    /// Clock and randomness.
    pub sys: Sys,
    /// What the operator chose.
    pub settings: Settings,
    /// What live readers share.
    pub sessions: Arc<Sessions>,
    /// Tells when the server goes away.
    pub drain: Drain,
    /// Memory of the requests under way.
    pub memory: Arc<MemoryBudget>,
}

/// The state behind each handler; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<App>);

impl AppState {
    /// State for [`super::router`].
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, sys: Sys, settings: Settings) -> Self {
        let Limits { request_memory, ring_memory, .. } = settings.limits;
        let sessions = Arc::new(Sessions::new(engine.clone(), sys.clock.clone(), ring_memory));
        let memory = MemoryBudget::new("request", request_memory);
        Self(Arc::new(App { engine, sys, settings, sessions, drain: Drain::default(), memory }))
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.settings.limits
    }
}

impl Deref for AppState {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

//! The Kafka wire: what Kafka's own clients and tools speak, on a port of its own.
//!
//! **Invariant**: it asks the same engine that HTTP asks, and there is no other way around it: a record means the same at
//! both doors. A connection costs at most its buffers; a frame is bounded before it is read, and all frames together by a
//! budget. Answers leave in the order of their requests, which run side by side.
//!
//! One file for each request under `api`. Caller: the server. Threading: one task for each connection.

mod api;
mod connection;
mod error_code;
mod fetch_session;
#[cfg(test)]
mod fuzz_tests;
mod listener;

pub use error_code::ErrorCode;
pub use listener::serve;

use crate::{engine::Engine, sys::Sys, telemetry::MemoryBudget};
use fetch_session::FetchSessions;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};

/// The largest frame, as Kafka's `socket.request.max.bytes`.
const MAX_FRAME_BYTES: usize = 100 << 20;
/// The least that the budget for requests must be: one batch of the default size, and some room.
const MIN_REQUEST_MEMORY: usize = 4 << 20;
/// The unit in which the budget is counted: a semaphore's permits are 32 bits.
const MEMORY_UNIT: usize = 1 << 10;
/// Places for incremental fetch sessions, as Kafka's `max.incremental.fetch.session.cache.slots`.
const FETCH_SESSIONS: usize = 1000;

/// What the door needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The host that clients are told to connect to.
    pub host: String,
    /// The port that clients are told.
    pub port: u16,
    /// The most connections at once.
    pub connections: usize,
    /// Bytes of all requests that are read or under way.
    pub request_memory: usize,
    /// About the most record bytes of one fetch response, as Kafka's `fetch.max.bytes`. They are read while they are sent.
    pub fetch_bytes: usize,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// How long requests in flight may take once the drain started.
    pub drain_timeout: Duration,
    /// Whether a metadata request may make topics.
    pub auto_create_topics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 9092,
            connections: 10_000,
            request_memory: 64 << 20,
            fetch_bytes: 55 << 20,
            idle_timeout: Duration::from_mins(10),
            drain_timeout: Duration::from_secs(30),
            auto_create_topics: true,
        }
    }
}

/// What all connections share. Cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    engine: Arc<dyn Engine>,
    sys: Sys,
    settings: Settings,
    /// Units of [`MEMORY_UNIT`].
    memory: Arc<Semaphore>,
    /// The same in bytes, for the metrics.
    budget: Arc<MemoryBudget>,
    sessions: FetchSessions,
    draining: watch::Sender<bool>,
}

impl Door {
    /// A door to this engine.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, sys: Sys, settings: Settings) -> Self {
        let bytes = settings.request_memory.max(MIN_REQUEST_MEMORY);
        let (memory, budget) = (bytes / MEMORY_UNIT, MemoryBudget::new("kafka", bytes));
        let memory = Arc::new(Semaphore::new(memory.min(u32::MAX as usize >> 1)));
        let sessions = FetchSessions::new(FETCH_SESSIONS);
        Self(Arc::new(Shared { engine, sys, settings, memory, budget, sessions, draining: watch::Sender::new(false) }))
    }

    /// From now on no request is taken; what is under way is finished.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    fn engine(&self) -> &dyn Engine {
        &*self.0.engine
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The largest frame that is read: never more than the budget for all.
    fn max_frame_bytes(&self) -> usize {
        MAX_FRAME_BYTES.min(self.0.settings.request_memory.max(MIN_REQUEST_MEMORY))
    }

    /// Comes back when the drain starts, or at once if it has.
    async fn drained(&self) {
        // The sender lives in self, so the wait can not fail.
        let _ = self.0.draining.subscribe().wait_for(|draining| *draining).await;
    }
}

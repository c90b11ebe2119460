//! What a client and a producer can be told.

use crate::codec::Compression;
use std::time::Duration;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Addresses (`host:port`) to ask first. One that answers is enough; the rest comes from it.
    pub bootstrap: Vec<String>,
    /// What the client calls itself.
    pub client_id: String,
    /// The longest that making a connection may take, the agreement on versions included.
    pub connect_timeout: Duration,
    /// The longest that one request waits for its answer; a call with a later deadline tries again.
    pub request_timeout: Duration,
    /// The first wait before something is tried again. It doubles up to [`Self::retry_backoff_max`], with jitter.
    pub retry_backoff: Duration,
    /// The longest wait before something is tried again.
    pub retry_backoff_max: Duration,
    /// What is known of leaders is asked for anew after this time.
    pub metadata_max_age: Duration,
    /// Connections open at once, to all brokers together.
    pub max_connections: usize,
    /// Requests on one connection that are not answered yet; further ones wait.
    pub max_in_flight: usize,
    /// The largest answer that is read, in bytes. A larger one ends the connection before memory is taken for it.
    pub max_response_bytes: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            client_id: "sluice".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            retry_backoff: Duration::from_millis(20),
            retry_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(60),
            max_connections: 128,
            max_in_flight: 64,
            max_response_bytes: 128 << 20,
        }
    }
}

/// Whose copy of a record an acknowledgement stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The leader's.
    Leader,
    /// Every in-sync replica's.
    All,
}

impl Acks {
    pub(super) const fn number(self) -> i16 {
        match self {
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// How a producer behaves.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// How batches are compressed.
    pub compression: Compression,
    /// Records that wait are put into one batch up to this size; a larger call gets a batch of its own.
    pub batch_bytes: usize,
    /// Bytes of all records that wait, over all partitions; a call above it waits for its turn.
    pub buffered_bytes: usize,
    /// A partition that nobody writes to is forgotten after this time.
    pub idle: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            compression: Compression::None,
            batch_bytes: 1 << 20,
            buffered_bytes: 64 << 20,
            idle: Duration::from_secs(60),
        }
    }
}

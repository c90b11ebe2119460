//! The server's configuration: a TOML file, the environment and flags, read once into [`ServerConfig`] and handed down.
//!
//! **Invariant**: every setting stands once, in the table [`SETTINGS`]; its key in the file, its flag, its environment
//! variable, its default and what `--print-config` shows all come from there. Flags win over the environment, the
//! environment over the file. A name that no setting has is an error, and never ignored.
//!
//! Called by `cli` before anything else runs; what it gives is plain data, and nothing below reads a file or a variable
//! for itself.

mod error;
mod file;
mod load;
mod machine;
mod settings;
mod show;
mod value;

pub use error::{ConfigError, ConfigErrors};
pub use load::{EffectiveConfig, Origin, Sources, load};
pub use machine::{default_memory, kernel_text};
pub use settings::{Kind, SETTINGS, Setting};

use crate::types::{BrokerId, FlushPolicy, RECORD_OVERHEAD, TopicDefaults};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Everything that can be set on a server, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Where HTTP listens; `None` keeps that door closed.
    pub http: Option<SocketAddr>,
    /// Where the Kafka protocol listens.
    pub kafka: Option<SocketAddr>,
    /// Where the other brokers connect.
    pub peer: Option<SocketAddr>,
    /// `host:port` that HTTP clients are told; the listener's address if `None`.
    pub advertised_http: Option<String>,
    /// `host:port` that Kafka clients are told; the listener's address if `None`.
    pub advertised_kafka: Option<String>,
    /// `host:port` that other brokers are told; the listener's address if `None`.
    pub advertised_peer: Option<String>,
    /// The only folder that the server writes.
    pub data: PathBuf,
    /// This broker's number in the cluster.
    pub node_id: BrokerId,
    /// Partitions of a topic that does not say how many.
    pub default_partitions: i32,
    /// Replicas of a topic that does not say how many; `None` takes as many as there are brokers, up to 3.
    pub default_replication_factor: Option<i16>,
    /// `min.insync.replicas` of a topic that does not set it; `None` takes 2, or 1 with fewer than 3 brokers.
    pub min_insync_replicas: Option<i32>,
    /// Whether a produce to an unknown topic makes it.
    pub auto_create_topics: bool,
    /// `flush` of a topic that does not set it.
    pub flush: FlushPolicy,
    /// Bytes of all buffers and caches together.
    pub memory: u64,
    /// `None`: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// A level (`info`), or levels by module (`info,sluice::log=debug`).
    pub log_level: String,
    /// A file that says where the server listens, there for as long as it serves.
    pub ready_file: Option<PathBuf>,
    /// Origins of other hosts whose pages may use the HTTP door. Pages that the server itself serves always may.
    pub allowed_origins: Vec<String>,
    /// Names under which clients may reach a loopback listener, besides its own (behind a proxy, say).
    pub allowed_hosts: Vec<String>,
    /// The partitions' logs.
    pub log: LogOptions,
    /// Consumer groups.
    pub groups: GroupOptions,
    /// What one request may bring.
    pub limits: Limits,
}

/// Settings of the partitions' logs.
#[derive(Debug, Clone, PartialEq)]
pub struct LogOptions {
    /// `segment.bytes` of a topic that does not set it.
    pub segment_bytes: u32,
    /// How often a topic with `flush=interval` syncs.
    pub flush_interval: Duration,
    /// How long an Idempotency-Key is kept.
    pub idempotency_retention: Duration,
    /// Idempotency-Keys kept per partition, at most.
    pub idempotency_keys: usize,
}

/// Settings of consumer groups.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupOptions {
    /// Partitions of the internal topic that holds groups, where it is made.
    pub partitions: i32,
    /// Shortest session timeout that a member may ask for.
    pub min_session_timeout: Duration,
    /// Longest session timeout that a member may ask for.
    pub max_session_timeout: Duration,
    /// How long the first member of a group waits for more.
    pub initial_rebalance_delay: Duration,
    /// Members of one group, at most.
    pub max_size: usize,
    /// How long offsets outlive their group's last member.
    pub offsets_retention: Duration,
}

/// Limits of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of one record's value.
    pub record_bytes: u32,
    /// Bytes of a batch's body.
    pub batch_bytes: u32,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ServerConfig {
    /// The configuration in which nobody set anything, on a machine where the server may use this much memory.
    #[must_use]
    pub fn with_memory(memory: u64) -> Self {
        let loopback = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let topic = TopicDefaults::default();
        Self {
            http: loopback(8080),
            kafka: loopback(9092),
            peer: loopback(9093),
            advertised_http: None,
            advertised_kafka: None,
            advertised_peer: None,
            data: PathBuf::from("./sluice-data"),
            node_id: BrokerId::new(1),
            default_partitions: 3,
            default_replication_factor: None,
            min_insync_replicas: None,
            auto_create_topics: true,
            flush: topic.flush,
            memory,
            log_format: None,
            log_level: "info".to_owned(),
            ready_file: None,
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            log: LogOptions {
                segment_bytes: topic.segment_bytes,
                flush_interval: Duration::from_millis(100),
                idempotency_retention: Duration::from_secs(24 * 3600),
                idempotency_keys: 100_000,
            },
            groups: GroupOptions {
                partitions: 16,
                min_session_timeout: Duration::from_secs(1),
                max_session_timeout: Duration::from_mins(30),
                initial_rebalance_delay: Duration::from_millis(200),
                max_size: 1000,
                offsets_retention: Duration::from_hours(7 * 24),
            },
            limits: Limits { record_bytes: 1 << 20, batch_bytes: 16 << 20 },
        }
    }

    /// Replicas of a topic that does not say how many, in a cluster of this many brokers.
    #[must_use]
    pub fn replication_factor(&self, brokers: usize) -> i16 {
        self.default_replication_factor.unwrap_or_else(|| brokers.clamp(1, 3) as i16)
    }

    /// What topics take that set nothing themselves, in a cluster of this many brokers.
    #[must_use]
    pub fn topic_defaults(&self, brokers: usize) -> TopicDefaults {
        TopicDefaults {
            flush: self.flush,
            min_insync_replicas: self.min_insync_replicas.unwrap_or(if brokers < 3 { 1 } else { 2 }),
            segment_bytes: self.log.segment_bytes,
            max_message_bytes: self.limits.record_bytes.saturating_add(RECORD_OVERHEAD),
        }
    }
}

#[cfg(test)]
mod tests;

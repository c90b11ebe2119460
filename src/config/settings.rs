//! The table of settings.

use super::{ServerConfig, value};
use crate::types::BrokerId;
use std::time::Duration;

/// How a value is written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number; a string with a unit is taken as well where the setting is a number of bytes.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An array of strings; in flags and variables parted by commas.
    List,
}

/// One thing that can be set.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its key in the file; tables are parted by dots.
    pub name: &'static str,
    /// What stands for the value in the help.
    pub placeholder: &'static str,
    /// What it takes, as the end of the sentence "write …".
    pub expected: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// How it is written in TOML.
    pub kind: Kind,
    /// What holds while it has no value of its own.
    pub automatic: &'static str,
    /// Its value is never shown.
    pub secret: bool,
    set: fn(&mut ServerConfig, &str) -> Option<()>,
    get: fn(&ServerConfig) -> Option<String>,
}

impl Setting {
    /// Its flag without the dashes in front.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('.', "-")
    }

    /// Its environment variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("SLUICE_{}", self.name.replace(['.', '-'], "_").to_ascii_uppercase())
    }

    /// Sets it from its text; `None` if the text does not fit.
    pub fn set(&self, config: &mut ServerConfig, text: &str) -> Option<()> {
        (self.set)(config, text)
    }

    /// The text of its value, as [`Self::set`] takes it; `None` while it has none and `Self::automatic` says what holds.
    #[must_use]
    pub fn get(&self, config: &ServerConfig) -> Option<String> {
        (self.get)(config)
    }

    const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    const fn automatic(mut self, text: &'static str) -> Self {
        self.automatic = text;
        self
    }
}

const fn setting(
    name: &'static str,
    placeholder: &'static str,
    expected: &'static str,
    help: &'static str,
    set: fn(&mut ServerConfig, &str) -> Option<()>,
    get: fn(&ServerConfig) -> Option<String>,
) -> Setting {
    Setting { name, placeholder, expected, help, kind: Kind::Text, automatic: "", secret: false, set, get }
}

/// Puts a value that was read where it belongs: `put!(field = value)` gives `None` if there was none.
macro_rules! put {
    ($place:expr, $value:expr) => {{
        $place = $value?;
        Some(())
    }};
}

const LISTENER: &str = "IP:PORT as in 127.0.0.1:8080 (port 0 takes a free one), or off";
const HOST_PORT: &str = "HOST:PORT as in broker-1.example.org:9092";
const MILLIS: &str = "a number of milliseconds, 1 or more";
/// The longest time that can be set: a year. More is a slip.
const MAX_MILLIS: u64 = 366 * 24 * 3_600_000;

/// Every setting, in the order in which it is shown.
pub static SETTINGS: &[Setting] = &[
    setting(
        "http",
        "IP:PORT|off",
        LISTENER,
        "Where HTTP, SSE and WebSocket listen",
        |c, t| put!(c.http, value::listener(t)),
        |c| value::show_listener(c.http),
    ),
    setting(
        "kafka",
        "IP:PORT|off",
        LISTENER,
        "Where the Kafka protocol listens",
        |c, t| put!(c.kafka, value::listener(t)),
        |c| value::show_listener(c.kafka),
    ),
    setting(
        "peer",
        "IP:PORT|off",
        LISTENER,
        "Where the other brokers connect",
        |c, t| put!(c.peer, value::listener(t)),
        |c| value::show_listener(c.peer),
    ),
    setting(
        "advertised-http",
        "HOST:PORT",
        HOST_PORT,
        "The address that HTTP clients are told",
        |c, t| put!(c.advertised_http, value::host_and_port(t)),
        |c| c.advertised_http.clone(),
    )
    .automatic("the listener's"),
    setting(
        "advertised-kafka",
        "HOST:PORT",
        HOST_PORT,
        "The address that Kafka clients are told",
        |c, t| put!(c.advertised_kafka, value::host_and_port(t)),
        |c| c.advertised_kafka.clone(),
    )
    .automatic("the listener's"),
    setting(
        "advertised-peer",
        "HOST:PORT",
        HOST_PORT,
        "The address that other brokers are told",
        |c, t| put!(c.advertised_peer, value::host_and_port(t)),
        |c| c.advertised_peer.clone(),
    )
    .automatic("the listener's"),
    setting(
        "data",
        "DIR",
        "the path of a folder",
        "The data folder, the only one that is written",
        |c, t| put!(c.data, value::path(t)),
        |c| Some(c.data.to_string_lossy().into_owned()),
    ),
    setting(
        "node-id",
        "N",
        "a whole number, 0 or more",
        "This broker's number in the cluster",
        |c, t| put!(c.node_id, value::number(t, 0, i32::MAX).map(BrokerId::new)),
        |c| Some(c.node_id.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "default-partitions",
        "N",
        "a whole number from 1 to 10000",
        "Partitions of a topic that does not say how many",
        |c, t| put!(c.default_partitions, value::number(t, 1, 10_000)),
        |c| Some(c.default_partitions.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "default-replication-factor",
        "N",
        "a whole number from 1 to 32",
        "Replicas of a topic that does not say how many",
        |c, t| put!(c.default_replication_factor, value::number(t, 1, 32).map(Some)),
        |c| c.default_replication_factor.map(|n| n.to_string()),
    )
    .kind(Kind::Number)
    .automatic("as many as there are brokers, up to 3"),
    setting(
        "min-insync-replicas",
        "N",
        "a whole number from 1 to 32",
        "Replicas that must have a record before acks=all is answered, where the topic does not set it",
        |c, t| put!(c.min_insync_replicas, value::number(t, 1, 32).map(Some)),
        |c| c.min_insync_replicas.map(|n| n.to_string()),
    )
    .kind(Kind::Number)
    .automatic("2, or 1 with fewer than 3 brokers"),
    setting(
        "auto-create-topics",
        "true|false",
        "true or false",
        "Whether producing to an unknown topic makes it",
        |c, t| put!(c.auto_create_topics, value::boolean(t)),
        |c| Some(c.auto_create_topics.to_string()),
    )
    .kind(Kind::Boolean),
    setting(
        "flush",
        "commit|interval|os",
        "commit, interval or os",
        "When an acknowledged record is on disk, where the topic does not set it",
        |c, t| put!(c.flush, value::flush(t)),
        |c| Some(value::show_flush(c.flush)),
    ),
    setting(
        "memory",
        "BYTES",
        "a number of bytes, 16 MiB or more, as in 512MiB or 2GiB",
        "The budget for every buffer and cache together; by default a quarter of the machine's or the control group's memory",
        |c, t| put!(c.memory, value::bytes(t).filter(|n| *n >= 16 << 20)),
        |c| Some(c.memory.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "log-format",
        "text|json",
        "text or json",
        "How log lines are written",
        |c, t| put!(c.log_format, value::log_format(t)),
        |c| {
            c.log_format.map(|f| {
                match f {
                    super::LogFormat::Text => "text",
                    super::LogFormat::Json => "json",
                }
                .to_owned()
            })
        },
    )
    .automatic("text on a terminal, else json"),
    setting(
        "log-level",
        "LEVEL",
        "off, error, warn, info, debug or trace, or levels by module as in info,sluice::log=debug",
        "Which log lines are written",
        |c, t| put!(c.log_level, value::log_level(t)),
        |c| Some(c.log_level.clone()),
    ),
    setting(
        "ready-file",
        "FILE",
        "the path of a file",
        "Once it serves, the addresses and the process id are written there; removed at exit",
        |c, t| put!(c.ready_file, value::path(t).map(Some)),
        |c| c.ready_file.as_ref().map(|p| p.to_string_lossy().into_owned()),
    )
    .automatic("none"),
    setting(
        "allowed-origins",
        "ORIGIN,…",
        "origins as in https://example.org or http://localhost:3000, without a path, and never *",
        "Other origins whose pages may use the HTTP door (CORS, SSE, WebSocket)",
        |c, t| put!(c.allowed_origins, value::origins(t)),
        |c| Some(c.allowed_origins.join(",")),
    )
    .kind(Kind::List),
    setting(
        "allowed-hosts",
        "HOST,…",
        "names of hosts without a port, as in games.example.org",
        "Names under which a loopback listener may be reached, besides its own (behind a proxy)",
        |c, t| put!(c.allowed_hosts, value::hosts(t)),
        |c| Some(c.allowed_hosts.join(",")),
    )
    .kind(Kind::List),
    setting(
        "log.segment-bytes",
        "BYTES",
        "a number of bytes from 16KiB to 1GiB",
        "Size of a segment file, where the topic does not set it",
        |c, t| put!(c.log.segment_bytes, value::small_bytes(t, 16 << 10, 1 << 30)),
        |c| Some(c.log.segment_bytes.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "log.flush-interval-ms",
        "MS",
        MILLIS,
        "How often topics with flush=interval are synced",
        |c, t| put!(c.log.flush_interval, value::number(t, 1, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.log.flush_interval.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "log.idempotency-retention-ms",
        "MS",
        MILLIS,
        "How long an Idempotency-Key is kept",
        |c, t| put!(c.log.idempotency_retention, value::number(t, 1, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.log.idempotency_retention.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "log.idempotency-keys",
        "N",
        "a whole number from 1 to 10000000",
        "Idempotency-Keys kept per partition, at most",
        |c, t| put!(c.log.idempotency_keys, value::number(t, 1, 10_000_000)),
        |c| Some(c.log.idempotency_keys.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.partitions",
        "N",
        "a whole number from 1 to 1000",
        "Partitions of the internal topic of consumer groups, when it is made",
        |c, t| put!(c.groups.partitions, value::number(t, 1, 1000)),
        |c| Some(c.groups.partitions.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.min-session-timeout-ms",
        "MS",
        MILLIS,
        "Shortest session timeout that a group's member may ask for",
        |c, t| put!(c.groups.min_session_timeout, value::number(t, 1, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.groups.min_session_timeout.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.max-session-timeout-ms",
        "MS",
        MILLIS,
        "Longest session timeout that a group's member may ask for",
        |c, t| put!(c.groups.max_session_timeout, value::number(t, 1, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.groups.max_session_timeout.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.initial-rebalance-delay-ms",
        "MS",
        "a number of milliseconds, 0 or more",
        "How long a group's first member waits for others to join with it",
        |c, t| put!(c.groups.initial_rebalance_delay, value::number(t, 0, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.groups.initial_rebalance_delay.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.max-size",
        "N",
        "a whole number from 1 to 100000",
        "Members of one group, at most",
        |c, t| put!(c.groups.max_size, value::number(t, 1, 100_000)),
        |c| Some(c.groups.max_size.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "groups.offsets-retention-ms",
        "MS",
        MILLIS,
        "How long a group's offsets outlive its last member",
        |c, t| put!(c.groups.offsets_retention, value::number(t, 1, MAX_MILLIS).map(Duration::from_millis)),
        |c| Some(c.groups.offsets_retention.as_millis().to_string()),
    )
    .kind(Kind::Number),
    setting(
        "limits.record-bytes",
        "BYTES",
        "a number of bytes from 1KiB to 512MiB",
        "Largest record",
        |c, t| put!(c.limits.record_bytes, value::small_bytes(t, 1 << 10, 512 << 20)),
        |c| Some(c.limits.record_bytes.to_string()),
    )
    .kind(Kind::Number),
    setting(
        "limits.batch-bytes",
        "BYTES",
        "a number of bytes from 1KiB to 1GiB",
        "Largest body of a request with many records",
        |c, t| put!(c.limits.batch_bytes, value::small_bytes(t, 1 << 10, 1 << 30)),
        |c| Some(c.limits.batch_bytes.to_string()),
    )
    .kind(Kind::Number),
];

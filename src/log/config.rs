//! What a log needs to know of its topic and of its broker.

use crate::types::TopicConfig;

/// A partition's settings: its topic's, in the part that a log acts on.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// The topic's configuration (`types::TopicConfig` holds nothing that is not a log's, but
    /// `min_insync_replicas`, which a log ignores).
    pub topic: TopicConfig,
}

/// The settings of all logs of a broker.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Bytes of the tail rings of all partitions together.
    pub tail_ring_bytes: usize,
    /// Bytes of one group commit: what a partition's turn on the I/O pool writes at most.
    pub group_bytes: usize,
    /// Bytes that may wait to be written, in one partition; above it appends are refused as overload.
    pub staged_bytes_per_partition: usize,
    /// Bytes of appends that are not answered yet, in all partitions together; above it appends are refused as overload.
    pub staged_bytes: usize,
    /// How often `flush=interval` syncs.
    pub flush_interval: std::time::Duration,
    /// Idempotency-Keys kept per partition, at most.
    pub idempotency_keys_per_partition: usize,
    /// How long an Idempotency-Key is kept.
    pub idempotency_retention: std::time::Duration,
    /// How many files may be open, over all partitions.
    pub open_files: usize,
}

/// Who decides how far readers may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatermarkSource {
    /// This is the only replica: the high watermark is what this log may acknowledge (durable on `flush=commit`,
    /// else the log end).
    #[default]
    Local,
    /// Replication moves it.
    Replication,
}

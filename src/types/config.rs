//! A topic's configuration: Kafka's keys, parsed once, and one typed struct for the layers below.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// When an acknowledged record is on disk (`flush`, Sluice's own key).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushPolicy {
    /// Before it is acknowledged: it survives a power cut.
    #[default]
    Commit,
    /// Within a short interval after it was acknowledged.
    Interval,
    /// When the operating system likes: it survives a crash of the process, not of the machine.
    Os,
}

/// What the log does with old records (`cleanup.policy`). Both may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Whole segments go by age and size.
    pub delete: bool,
    /// Only the newest record of each key stays.
    pub compact: bool,
}

/// Whose clock a record's timestamp is (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The leader's, at the append.
    LogAppendTime,
}

/// How the leader stores batches (`compression.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent them; what comes over HTTP stays uncompressed.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// The broker's defaults for what a topic does not set itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDefaults {
    /// `flush`.
    pub flush: FlushPolicy,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self {
            flush: FlushPolicy::Commit,
            min_insync_replicas: 1,
            segment_bytes: 128 << 20,
            max_message_bytes: (1 << 20) + RECORD_OVERHEAD,
        }
    }
}

/// What a batch of one record needs beside the record's own bytes, generously: its header, lengths, and the headers that
/// the server adds. So a record of the largest size that HTTP takes fits the default of `max.message.bytes`.
pub const RECORD_OVERHEAD: u32 = 4096;

/// A topic's whole configuration, every value set.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`, default `delete`.
    pub cleanup_policy: CleanupPolicy,
    /// `retention.ms`; `None` (−1) keeps for ever. Default 7 days.
    pub retention: Option<Duration>,
    /// `retention.bytes` per partition; `None` (−1, the default) has no limit.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`, default 128 MiB.
    pub segment_bytes: u32,
    /// `segment.ms`, default 7 days.
    pub segment_age: Duration,
    /// `max.message.bytes`: the largest batch, and so the largest record.
    pub max_message_bytes: u32,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `message.timestamp.type`, default `CreateTime`.
    pub timestamp_type: TimestampType,
    /// `compression.type`, default `producer`.
    pub compression: CompressionType,
    /// `delete.retention.ms`: how long compaction keeps a tombstone. Default one day.
    pub delete_retention: Duration,
    /// `min.compaction.lag.ms`, default 0.
    pub min_compaction_lag: Duration,
    /// `min.cleanable.dirty.ratio`, default 0.5.
    pub min_cleanable_dirty_ratio: f64,
    /// `flush`.
    pub flush: FlushPolicy,
}

/// A configuration key, by Kafka's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each is the key of the same name in Kafka, see `as_str`
pub enum ConfigKey {
    CleanupPolicy,
    CompressionType,
    DeleteRetentionMs,
    Flush,
    MaxMessageBytes,
    MessageTimestampType,
    MinCleanableDirtyRatio,
    MinCompactionLagMs,
    MinInsyncReplicas,
    RetentionBytes,
    RetentionMs,
    SegmentBytes,
    SegmentMs,
}

impl ConfigKey {
    /// Every key, in the order of its name.
    pub const ALL: [Self; 13] = [
        Self::CleanupPolicy,
        Self::CompressionType,
        Self::DeleteRetentionMs,
        Self::Flush,
        Self::MaxMessageBytes,
        Self::MessageTimestampType,
        Self::MinCleanableDirtyRatio,
        Self::MinCompactionLagMs,
        Self::MinInsyncReplicas,
        Self::RetentionBytes,
        Self::RetentionMs,
        Self::SegmentBytes,
        Self::SegmentMs,
    ];

    /// Kafka's name of the key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CleanupPolicy => "cleanup.policy",
            Self::CompressionType => "compression.type",
            Self::DeleteRetentionMs => "delete.retention.ms",
            Self::Flush => "flush",
            Self::MaxMessageBytes => "max.message.bytes",
            Self::MessageTimestampType => "message.timestamp.type",
            Self::MinCleanableDirtyRatio => "min.cleanable.dirty.ratio",
            Self::MinCompactionLagMs => "min.compaction.lag.ms",
            Self::MinInsyncReplicas => "min.insync.replicas",
            Self::RetentionBytes => "retention.bytes",
            Self::RetentionMs => "retention.ms",
            Self::SegmentBytes => "segment.bytes",
            Self::SegmentMs => "segment.ms",
        }
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ConfigKey {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        Self::ALL.into_iter().find(|key| key.as_str() == name).ok_or_else(|| ConfigError::UnknownKey(name.to_owned()))
    }
}

/// Why a configuration is refused. The text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("unknown config key '{0}'; the keys are {keys}", keys = ConfigKey::ALL.map(ConfigKey::as_str).join(", "))]
    UnknownKey(String),
    /// The key exists, the value does not fit it.
    #[error("'{value}' is no value for {key}: use {expected}")]
    InvalidValue {
        /// The key.
        key: ConfigKey,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl TopicConfig {
    /// The configuration of a topic that sets nothing itself.
    #[must_use]
    pub const fn new(defaults: &TopicDefaults) -> Self {
        Self {
            cleanup_policy: CleanupPolicy { delete: true, compact: false },
            retention: Some(Duration::from_hours(7 * 24)),
            retention_bytes: None,
            segment_bytes: defaults.segment_bytes,
            segment_age: Duration::from_hours(7 * 24),
            max_message_bytes: defaults.max_message_bytes,
            min_insync_replicas: defaults.min_insync_replicas,
            timestamp_type: TimestampType::CreateTime,
            compression: CompressionType::Producer,
            delete_retention: Duration::from_hours(24),
            min_compaction_lag: Duration::ZERO,
            min_cleanable_dirty_ratio: 0.5,
            flush: defaults.flush,
        }
    }

    /// The configuration of a topic with these overrides, each a key of Kafka's and its text.
    ///
    /// # Errors
    /// The first key or value that does not fit.
    pub fn with_overrides(defaults: &TopicDefaults, overrides: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::new(defaults);
        for (key, value) in overrides {
            config.set(key.parse()?, value)?;
        }
        Ok(config)
    }

    /// Sets one key from its text.
    ///
    /// # Errors
    /// [`ConfigError::InvalidValue`] with what the key takes.
    pub fn set(&mut self, key: ConfigKey, value: &str) -> Result<(), ConfigError> {
        let refuse = |expected| ConfigError::InvalidValue { key, value: value.to_owned(), expected };
        let at_least = |least: u64, expected| {
            value.parse::<u64>().ok().filter(|n| *n >= least && *n <= i64::MAX as u64).ok_or_else(|| refuse(expected))
        };
        let millis = || at_least(0, "a number of milliseconds").map(Duration::from_millis);
        let unlimited = |text: &str| text == "-1";
        match key {
            ConfigKey::CleanupPolicy => {
                self.cleanup_policy =
                    parse_cleanup_policy(value).ok_or_else(|| refuse("delete, compact or compact,delete"))?
            }
            ConfigKey::CompressionType => {
                self.compression = match value {
                    "producer" => CompressionType::Producer,
                    "uncompressed" => CompressionType::Uncompressed,
                    "gzip" => CompressionType::Gzip,
                    "snappy" => CompressionType::Snappy,
                    "lz4" => CompressionType::Lz4,
                    "zstd" => CompressionType::Zstd,
                    _ => return Err(refuse("producer, uncompressed, gzip, snappy, lz4 or zstd")),
                }
            }
            ConfigKey::DeleteRetentionMs => self.delete_retention = millis()?,
            ConfigKey::Flush => {
                self.flush = match value {
                    "commit" => FlushPolicy::Commit,
                    "interval" => FlushPolicy::Interval,
                    "os" => FlushPolicy::Os,
                    _ => return Err(refuse("commit, interval or os")),
                }
            }
            ConfigKey::MaxMessageBytes => {
                self.max_message_bytes =
                    small(value, 1024, 1 << 30).ok_or_else(|| refuse("a number of bytes from 1024 to 1073741824"))?
            }
            ConfigKey::MessageTimestampType => {
                self.timestamp_type = match value {
                    "CreateTime" => TimestampType::CreateTime,
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => return Err(refuse("CreateTime or LogAppendTime")),
                }
            }
            ConfigKey::MinCleanableDirtyRatio => {
                self.min_cleanable_dirty_ratio = value
                    .parse()
                    .ok()
                    .filter(|r| (0.0..=1.0).contains(r))
                    .ok_or_else(|| refuse("a ratio from 0 to 1"))?;
            }
            ConfigKey::MinCompactionLagMs => self.min_compaction_lag = millis()?,
            ConfigKey::MinInsyncReplicas => {
                self.min_insync_replicas =
                    small(value, 1, 1 << 15).ok_or_else(|| refuse("a whole number, 1 or more"))? as i32
            }
            ConfigKey::RetentionBytes if unlimited(value) => self.retention_bytes = None,
            ConfigKey::RetentionBytes => {
                self.retention_bytes = Some(at_least(0, "a number of bytes, or -1 for no limit")?)
            }
            ConfigKey::RetentionMs if unlimited(value) => self.retention = None,
            ConfigKey::RetentionMs => {
                self.retention =
                    Some(Duration::from_millis(at_least(0, "a number of milliseconds, or -1 for no limit")?))
            }
            ConfigKey::SegmentBytes => {
                self.segment_bytes = small(value, 16 << 10, 1 << 30)
                    .ok_or_else(|| refuse("a number of bytes from 16384 to 1073741824"))?
            }
            ConfigKey::SegmentMs => {
                self.segment_age = Duration::from_millis(at_least(1, "a number of milliseconds, 1 or more")?)
            }
        }
        Ok(())
    }

    /// The text of one key's value, as [`Self::set`] takes it.
    #[must_use]
    pub fn get(&self, key: ConfigKey) -> String {
        let millis = |d: Duration| d.as_millis().to_string();
        match key {
            ConfigKey::CleanupPolicy => match self.cleanup_policy {
                CleanupPolicy { compact: true, delete: true } => "compact,delete",
                CleanupPolicy { compact: true, delete: false } => "compact",
                CleanupPolicy { compact: false, .. } => "delete",
            }
            .to_owned(),
            ConfigKey::CompressionType => match self.compression {
                CompressionType::Producer => "producer",
                CompressionType::Uncompressed => "uncompressed",
                CompressionType::Gzip => "gzip",
                CompressionType::Snappy => "snappy",
                CompressionType::Lz4 => "lz4",
                CompressionType::Zstd => "zstd",
            }
            .to_owned(),
            ConfigKey::DeleteRetentionMs => millis(self.delete_retention),
            ConfigKey::Flush => match self.flush {
                FlushPolicy::Commit => "commit",
                FlushPolicy::Interval => "interval",
                FlushPolicy::Os => "os",
            }
            .to_owned(),
            ConfigKey::MaxMessageBytes => self.max_message_bytes.to_string(),
            ConfigKey::MessageTimestampType => match self.timestamp_type {
                TimestampType::CreateTime => "CreateTime",
                TimestampType::LogAppendTime => "LogAppendTime",
            }
            .to_owned(),
            ConfigKey::MinCleanableDirtyRatio => self.min_cleanable_dirty_ratio.to_string(),
            ConfigKey::MinCompactionLagMs => millis(self.min_compaction_lag),
            ConfigKey::MinInsyncReplicas => self.min_insync_replicas.to_string(),
            ConfigKey::RetentionBytes => self.retention_bytes.map_or_else(|| "-1".to_owned(), |n| n.to_string()),
            ConfigKey::RetentionMs => self.retention.map_or_else(|| "-1".to_owned(), millis),
            ConfigKey::SegmentBytes => self.segment_bytes.to_string(),
            ConfigKey::SegmentMs => millis(self.segment_age),
        }
    }
}

fn small(text: &str, least: u32, most: u32) -> Option<u32> {
    text.parse().ok().filter(|n| (least..=most).contains(n))
}

fn parse_cleanup_policy(text: &str) -> Option<CleanupPolicy> {
    let mut policy = CleanupPolicy { delete: false, compact: false };
    for part in text.split(',') {
        match part.trim() {
            "delete" => policy.delete = true,
            "compact" => policy.compact = true,
            _ => return None,
        }
    }
    Some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_what_it_gives() {
        let mut config = TopicConfig::new(&TopicDefaults::default());
        for (key, value) in [
            (ConfigKey::CleanupPolicy, "compact,delete"),
            (ConfigKey::CompressionType, "zstd"),
            (ConfigKey::Flush, "os"),
            (ConfigKey::RetentionMs, "-1"),
            (ConfigKey::RetentionBytes, "1000"),
            (ConfigKey::MinCleanableDirtyRatio, "0.25"),
        ] {
            config.set(key, value).unwrap();
            assert_eq!(config.get(key), value);
        }
        for key in ConfigKey::ALL {
            assert_eq!(key.as_str().parse(), Ok(key));
            let text = config.get(key);
            config.set(key, &text).unwrap();
            assert!(config.set(key, "no such value").is_err(), "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = "retention.hours".parse::<ConfigKey>().unwrap_err().to_string();
        assert!(error.contains("retention.hours") && error.contains("retention.ms"), "{error}");
    }
}

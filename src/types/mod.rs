//! The vocabulary that every layer shares: identifiers, offsets, records, topic configuration.
//!
//! **Invariant**: plain values only. No I/O, no async, no clock, no `Serialize`; a form on the wire or on disk
//! belongs to the layer that owns that wire or that file.

mod config;
mod id;
pub mod json;
mod name;
mod offset;
mod partitioner;
mod record;

pub use config::{
    CleanupPolicy, CompressionType, ConfigError, ConfigKey, FlushPolicy, RECORD_OVERHEAD, TimestampType, TopicConfig,
    TopicDefaults,
};
pub use id::{BrokerId, ClusterId, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition};
pub use name::{InvalidName, TopicName, validate_name};
pub use offset::{HighWatermark, LeaderEpoch, LogEndOffset, LogStartOffset, Offset, PartitionProgress};
pub use partitioner::{murmur2, partition_for_key};
pub use record::{Header, Record, StoredRecord};

//! The log: partitions as folders of segments on one disk.
//!
//! **Invariant**: an offset never changes its record once it was acknowledged; what is acknowledged on
//! `flush=commit` is on the disk. This layer knows no topic configuration beyond its own [`LogConfig`], no network and
//! no replicas: who replicates it says so through [`WatermarkSource`].
//!
//! Called by `replication` (appends, reads), `metadata` (folders) and `cli::doctor` (offline). A [`PartitionLog`] may
//! be used from any thread; its appends are written by one thread of the I/O pool at a time.

mod backlog;
mod batch_walk;
mod batching;
pub mod cleaner;
mod compaction;
mod config;
mod control;
mod core;
mod error;
mod frame;
mod gathering;
pub mod idempotency;
mod inspect;
mod layout;
pub mod leader_epoch_cache;
mod log_manager;
mod open_files;
mod partition_log;
mod preallocation;
pub mod producer_state;
mod read_buffers;
mod reader;
mod recovery;
mod recovery_point;
pub mod retention;
#[cfg(feature = "sabotage")]
pub mod sabotage;
mod segment;
mod snapshot;
mod sparse_index;
mod stored_read;
mod tail_ring;
#[cfg(test)]
mod tests;
mod write_behind;
mod writer;

pub use self::core::batch_bytes;
pub use config::{LogConfig, LogSettings, WatermarkSource};
pub use error::LogError;
pub use inspect::{PartitionReport, Problem, inspect};
pub use log_manager::{LogManager, OpenProgress};
pub use partition_log::{Append, AppendOutcome, AppendRecords, IdempotencyEntry, IdempotencyMark, PartitionLog};
pub use producer_state::ProducerSummary;
pub use stored_read::StoredRead;

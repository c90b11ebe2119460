//! One partition's log: the append buffer, the segments behind it, and what readers may see.

use super::{LogConfig, LogError};
use crate::codec::RecordBatch;
use crate::types::{LeaderEpoch, LogEndOffset, Offset, PartitionProgress, Record, TopicPartition};
use futures_util::future::BoxFuture;
use std::{any::Any, sync::Arc};
use tokio::sync::watch;

/// Records to append as a leader: they get the next offsets, and share a batch with others that wait.
pub struct AppendRecords {
    /// In order.
    pub records: Vec<Record>,
    /// The Idempotency-Key over them, with each record's index under it.
    pub idempotency: Option<IdempotencyMark>,
    /// Kept until the outcome is known, and then dropped, also when nobody waits for it any more.
    pub hold: Option<Arc<dyn Any + Send + Sync>>,
}

/// The Idempotency-Key of an append.
///
/// Refused as a conflict: a record whose index stands in the table under this key with another hash; and, unless the
/// mark is `per_record`, any entry under this key with another hash.
#[derive(Debug, Clone)]
pub struct IdempotencyMark {
    /// Hash of principal and key.
    pub key: [u8; 16],
    /// Each record's index in its request, and the hash that guards it: the request's, or with `per_record` its own.
    pub records: Vec<(u32, [u8; 16])>,
    /// Each record has its own hash (`ingest`, which may be resent in part).
    pub per_record: bool,
}

/// What a log remembers of an Idempotency-Key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyEntry {
    /// Hash of the request that stored the record.
    pub request: [u8; 16],
    /// The record's index in that request.
    pub index: u32,
    /// Its offset; `None` while it is being written.
    pub offset: Option<Offset>,
    /// Its timestamp.
    pub timestamp_ms: i64,
}

/// Resolves when the append is acknowledged (`acks=all`: below the high watermark) or failed.
pub type Append = BoxFuture<'static, Result<AppendOutcome, LogError>>;

/// Where the records of an append are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendOutcome {
    /// Offset of the first; the others follow it densely.
    pub base_offset: Offset,
    /// The timestamps as stored, one each, if they differ from those given; a record that had none got this.
    pub append_time_ms: i64,
}

/// One partition's log.
pub struct PartitionLog {}

impl PartitionLog {
    /// Which partition it is.
    pub fn id(&self) -> TopicPartition {
        todo!()
    }
    /// Puts records into the append buffer, in the order of the calls; never blocks. Everything is checked before
    /// anything is put there.
    ///
    /// # Errors
    /// At once (the outer result) what can be known at once: too large, overloaded, offline, Idempotency-Key in
    /// conflict or flight. Later, through the future, what the disk says.
    pub fn append(&self, _request: AppendRecords) -> Result<Append, LogError> {
        todo!()
    }
    /// What is known of an Idempotency-Key (by its hash): one entry for each record stored or in flight under it.
    pub fn idempotency(&self, _key: &[u8; 16]) -> Vec<IdempotencyEntry> {
        todo!()
    }
    /// Whole batches from the one that holds `from` (or, where compaction left a hole, the next one) up to `end`, at
    /// least one, about `max_bytes`. `from == end` is empty. From the tail ring, the page cache, or a pool thread.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`], or what the disk says.
    pub async fn read(&self, _from: Offset, _end: Offset, _max_bytes: usize) -> Result<Vec<RecordBatch>, LogError> {
        todo!()
    }
    /// The progress that readers see; changes after each commit. Dropped when the log is deleted.
    pub fn watch(&self) -> watch::Receiver<PartitionProgress> {
        todo!()
    }
    /// The same, now.
    pub fn progress(&self) -> PartitionProgress {
        todo!()
    }
    /// The next offset on this replica.
    pub fn log_end(&self) -> LogEndOffset {
        todo!()
    }
    /// Bytes of the segments.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }
    /// Why it is offline, if it is.
    pub fn offline_reason(&self) -> Option<String> {
        todo!()
    }
    /// The first offset whose timestamp is at least this; `None` if there is none.
    pub async fn offset_for_timestamp(&self, _timestamp_ms: i64) -> Result<Option<Offset>, LogError> {
        todo!()
    }
    /// The largest known epoch at or below the one given, and the offset after its last record (KIP-101).
    pub fn epoch_end(&self, _epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        todo!()
    }
    /// Appends from now on carry this epoch, which is durable in the epoch cache before this returns.
    pub async fn become_leader(&self, _epoch: LeaderEpoch) -> Result<(), LogError> {
        todo!()
    }
    /// Moves the log start up (never past the high watermark; never down). Durable when it returns.
    pub async fn truncate_prefix(&self, _before: Offset) -> Result<Offset, LogError> {
        todo!()
    }
    /// Takes a changed configuration.
    pub fn configure(&self, _config: LogConfig) {
        todo!()
    }
}

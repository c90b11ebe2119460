//! One partition's log: the append buffer, the segments behind it, and what readers may see.

use super::backlog::Backlog;
use super::core::LogCore;
use super::producer_state::ProducerSummary;
use super::stored_read::StoredRead;
use super::{LogConfig, LogError, WatermarkSource};
use crate::codec::RecordBatch;
use crate::types::{
    HighWatermark, LeaderEpoch, LogEndOffset, Offset, PartitionProgress, Record, TopicName, TopicPartition,
};
use futures_util::future::BoxFuture;
use std::{any::Any, sync::Arc, time::Duration};
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
    /// The timestamp of each record under `LogAppendTime`, and else of those that came without one. Of a batch that was
    /// stored before, its greatest timestamp.
    pub append_time_ms: i64,
}

/// One partition's log. Cheap to call from any thread; what may wait for the disk is async.
pub struct PartitionLog {
    core: Arc<LogCore>,
}

impl PartitionLog {
    pub(super) fn new(core: Arc<LogCore>) -> Arc<Self> {
        Arc::new(Self { core })
    }

    pub(super) fn core(&self) -> &Arc<LogCore> {
        &self.core
    }

    /// Which partition it is.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        self.core.id
    }

    /// The name of its topic, as its folder says.
    #[must_use]
    pub fn topic_name(&self) -> &TopicName {
        &self.core.name
    }

    /// Puts records into the append buffer, in the order of the calls; never blocks. Everything is checked before
    /// anything is put there.
    ///
    /// # Errors
    /// At once (the outer result) what can be known at once: too large, overloaded, offline, Idempotency-Key in
    /// conflict or flight. Later, through the future, what the disk says.
    pub fn append(&self, request: AppendRecords) -> Result<Append, LogError> {
        self.core.append(request)
    }

    /// Puts a producer's whole batch into the append buffer, as [`Self::append`] does with records: it is stored as it
    /// is, with the offset and epoch that it gets here. It must be verified already. An idempotent producer's batch that is
    /// stored already gets the answer of its first append.
    ///
    /// # Errors
    /// At once: too large, overloaded, offline. Later: [`LogError::OutOfOrderSequence`], [`LogError::ProducerFenced`], or
    /// what the disk says.
    pub fn append_batch(&self, batch: RecordBatch) -> Result<Append, LogError> {
        self.core.append_batch(batch)
    }

    /// How long ago it was last seen, by this call, that what waits to be written waits longer than it should: zero if it
    /// does now, `None` if never. Few appends never do.
    #[must_use]
    pub fn since_late(&self) -> Option<Duration> {
        let now = self.core.context.sys.clock.monotonic();
        let mut front = self.core.front.lock();
        if let Some(first) = front.staged.front() {
            let (appends, bytes) = (front.staged.len(), front.staged_bytes);
            if (Backlog { appends, bytes, oldest: first.since }).is_late(front.pace, self.core.group_limit(), now) {
                front.late = Some(now);
            }
        }
        front.late.map(|late| now.saturating_sub(late))
    }

    /// The idempotent producers that the log remembers.
    ///
    /// # Errors
    /// The log is closed.
    pub async fn producers(&self) -> Result<Vec<ProducerSummary>, LogError> {
        self.core.control(|_, writer| writer.producers.iter().collect()).await
    }

    /// What is known of an Idempotency-Key (by its hash): one entry for each record stored or in flight under it.
    #[must_use]
    pub fn idempotency(&self, key: &[u8; 16]) -> Vec<IdempotencyEntry> {
        self.core.idempotency(key)
    }

    /// Whole batches from the one that holds `from` (or, where compaction left a hole, the next one) up to `end`, at
    /// least one, about `max_bytes`. `from == end` is empty. From the tail ring, the page cache, or a pool thread.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`], or what the disk says.
    pub async fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> Result<Vec<RecordBatch>, LogError> {
        self.core.read(from, end, max_bytes).await
    }

    /// The same, where the batches may stay on the disk until they are sent: unchecked but for their headers.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_stored(&self, from: Offset, end: Offset, max_bytes: usize) -> Result<StoredRead, LogError> {
        self.core.read_stored(from, end, max_bytes).await
    }

    /// The progress that readers see; changes after each commit. Dropped when the log is deleted.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PartitionProgress> {
        self.core.watch()
    }

    /// The same, now.
    #[must_use]
    pub fn progress(&self) -> PartitionProgress {
        self.core.progress()
    }

    /// The next offset on this replica.
    #[must_use]
    pub fn log_end(&self) -> LogEndOffset {
        self.core.log_end().into()
    }

    /// All below it is on the disk, whatever happens to the power.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.core.durable_end()
    }

    /// Bytes of the segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.core.segments.load().iter().map(|segment| segment.size()).sum()
    }

    /// Why it is offline, if it is.
    #[must_use]
    pub fn offline_reason(&self) -> Option<String> {
        self.core.offline_reason()
    }

    /// The first offset whose timestamp is at least this, below the high watermark, and that timestamp; `None` if there
    /// is none.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<(Offset, i64)>, LogError> {
        self.core.offset_for_timestamp(timestamp_ms).await
    }

    /// The greatest timestamp of all that is stored.
    #[must_use]
    pub fn max_timestamp_ms(&self) -> Option<i64> {
        self.core.segments.load().iter().filter_map(|segment| segment.max_timestamp_ms()).max()
    }

    /// The largest known epoch at or below the one given, and the offset after its last record (KIP-101). For an epoch
    /// before all that are known: that epoch, and where the known ones begin.
    #[must_use]
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        self.core.epoch_end(epoch)
    }

    /// Appends from now on carry this epoch, which is durable in the epoch cache before the first of them is written.
    ///
    /// # Errors
    /// The log is offline or closed, a newer epoch is known, or what the disk says.
    pub async fn become_leader(&self, epoch: LeaderEpoch) -> Result<(), LogError> {
        self.core.control(move |core, writer| core.lead(writer, epoch)).await?
    }

    /// Moves the log start up (never past the high watermark; never down). Durable when it returns.
    ///
    /// # Errors
    /// The log is offline or closed, or what the disk says.
    pub async fn truncate_prefix(&self, before: Offset) -> Result<Offset, LogError> {
        self.core.control(move |core, _| core.raise_log_start(before)).await?
    }

    /// Takes a changed configuration.
    pub fn configure(&self, config: LogConfig) {
        self.core.configure(config);
    }

    /// Says who moves the high watermark. A log begins with [`WatermarkSource::Local`].
    pub fn set_watermark_source(&self, source: WatermarkSource) {
        self.core.set_watermark_source(source);
    }

    /// Moves the high watermark up, where replication does that: never down, never past the log end. Appends below it
    /// are acknowledged.
    pub fn advance_high_watermark(&self, watermark: HighWatermark) {
        self.core.advance_high_watermark(watermark.offset());
    }
}

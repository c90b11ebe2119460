//! What the parts of one log share: the append buffer in front, the segments behind, and what readers may see.
//!
//! **Invariant**: all that changes the log's files goes through its [`Job`], one step at a time: appends, and
//! [`LogCore::control`] for everything else. So no two changes ever meet, and no lock is held across I/O that an
//! append or a read could wait for. The locks, outermost first: `writer`, `front`, `progress`.
//!
//! Called by `partition_log` (its public face), `writer`, `reader`, `recovery` and `log_manager`.

use super::backlog::Pace;
use super::compaction::CompactionState;
use super::gathering::Gathering;
use super::idempotency::{
    IDEMPOTENCY_HEADER, IDEMPOTENCY_HEADER_BYTES, IdempotencyRefusal, IdempotencyTable, RecordMark,
};
use super::leader_epoch_cache::LeaderEpochCache;
use super::open_files::OpenFiles;
use super::read_buffers::ReadBuffers;
use super::recovery_point::RecoveryPoints;
use super::segment::LogSegment;
use super::tail_ring::{TailBudget, TailRing};
use super::writer::Writer;
use super::{
    Append, AppendOutcome, AppendRecords, IdempotencyEntry, IdempotencyMark, LogConfig, LogError, LogSettings,
    WatermarkSource,
};
use crate::codec::{BatchBuilder, HEADER_BYTES, RecordBatch};
use crate::sys::{Lane, Sys};
use crate::telemetry::{MemoryBudget, Reserved, metrics};
use crate::types::{
    FlushPolicy, HighWatermark, LeaderEpoch, Offset, PartitionProgress, Record, TopicConfig, TopicName, TopicPartition,
};
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use std::{
    any::Any,
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// What an Idempotency-Key adds to a record: its header with two lengths.
const MARK_BYTES: usize = IDEMPOTENCY_HEADER.len() + IDEMPOTENCY_HEADER_BYTES + 4;

/// The most bytes of a batch that holds nothing but this record, uncompressed: what `max.message.bytes` bounds.
#[must_use]
pub fn batch_bytes(record: &Record, under_idempotency_key: bool) -> usize {
    HEADER_BYTES + BatchBuilder::record_bytes(record) + if under_idempotency_key { MARK_BYTES } else { 0 }
}

/// What all logs of a data folder share.
pub(super) struct LogContext {
    pub(super) sys: Sys,
    pub(super) settings: LogSettings,
    pub(super) files: OpenFiles,
    pub(super) tail: Arc<TailBudget>,
    pub(super) staged: Arc<MemoryBudget>,
    pub(super) points: RecoveryPoints,
    pub(super) read_buffers: Arc<ReadBuffers>,
}

/// What an append brings.
pub(super) enum Payload {
    /// Records that share a batch with others.
    Records(AppendRecords),
    /// A producer's own batch, to be stored as it is. Taken out when its group is put together.
    Batch(Option<RecordBatch>),
}

impl Payload {
    pub(super) fn mark(&self) -> Option<&IdempotencyMark> {
        match self {
            Self::Records(request) => request.idempotency.as_ref(),
            Self::Batch(_) => None,
        }
    }
}

/// What waits to be written.
pub(super) struct StagedAppend {
    pub(super) payload: Payload,
    pub(super) bytes: usize,
    /// Its part of the budget of all logs, until it is answered.
    pub(super) _reserved: Reserved,
    /// When it was taken, by the monotonic clock.
    pub(super) since: Duration,
    pub(super) reply: oneshot::Sender<Result<AppendOutcome, LogError>>,
}

/// Changes a log between two groups.
pub(super) type Control = Box<dyn FnOnce(&LogCore, &mut Writer) + Send>;

/// The append buffer, and what is decided under its lock.
pub(super) struct Front {
    pub(super) staged: VecDeque<StagedAppend>,
    pub(super) staged_bytes: usize,
    /// Before the next group.
    pub(super) controls: VecDeque<Control>,
    /// When nothing is staged any more.
    pub(super) finals: VecDeque<Control>,
    /// How fast it is taken from here, as of the last group.
    pub(super) pace: Pace,
    /// When it was last seen that what is staged is late, by the monotonic clock.
    pub(super) late: Option<Duration>,
    /// The job stands in the pool's line, or runs.
    pub(super) enqueued: bool,
    /// The job lets appends gather, until there are so many.
    pub(super) gathering: Option<usize>,
    /// Takes no more appends.
    pub(super) closed: bool,
    pub(super) idempotency: IdempotencyTable,
}

/// How the job learns of something new.
enum Call {
    /// It comes by anyway.
    Not,
    Submit,
    Hurry,
}

impl Front {
    /// Whether the job stands in line already, and whether it has waited enough.
    fn call_job(&mut self) -> Call {
        if !std::mem::replace(&mut self.enqueued, true) {
            return Call::Submit;
        }
        let enough = |count: usize| {
            let pressing = !self.controls.is_empty() || !self.finals.is_empty();
            pressing || Gathering::is_enough(count, self.staged.len(), self.staged_bytes)
        };
        if self.gathering.is_some_and(enough) {
            self.gathering = None;
            return Call::Hurry;
        }
        Call::Not
    }
}

/// An append that is in the log and waits for the high watermark.
pub(super) struct AwaitingAppend {
    pub(super) end: Offset,
    pub(super) since: Duration,
    pub(super) outcome: AppendOutcome,
    pub(super) reply: oneshot::Sender<Result<AppendOutcome, LogError>>,
    pub(super) hold: Option<Arc<dyn Any + Send + Sync>>,
}

/// Where a sequential reader goes on, so that it needs no index.
#[derive(Debug, Clone, Copy)]
pub(super) struct PositionHint {
    pub(super) file: u64,
    pub(super) offset: Offset,
    pub(super) position: u64,
}

/// One log.
pub(super) struct LogCore {
    me: Weak<LogCore>,
    pub(super) id: TopicPartition,
    pub(super) name: TopicName,
    pub(super) folder: PathBuf,
    pub(super) context: Arc<LogContext>,
    pub(super) config: ArcSwap<TopicConfig>,
    pub(super) front: Mutex<Front>,
    pub(super) writer: Mutex<Writer>,
    pub(super) segments: ArcSwap<Vec<Arc<LogSegment>>>,
    pub(super) tail: Arc<TailRing>,
    pub(super) hints: Mutex<VecDeque<PositionHint>>,
    pub(super) epochs: RwLock<LeaderEpochCache>,
    progress: RwLock<Option<watch::Sender<PartitionProgress>>>,
    log_end: AtomicI64,
    durable_end: AtomicI64,
    source: RwLock<WatermarkSource>,
    awaiting: Mutex<VecDeque<AwaitingAppend>>,
    offline: RwLock<Option<String>>,
    /// Held while a segment's file is synced.
    pub(super) sync_failed: Mutex<bool>,
    /// Held by the pass that runs.
    pub(super) compaction: tokio::sync::Mutex<CompactionState>,
}

/// What a log starts with.
pub(super) struct Opened {
    pub(super) id: TopicPartition,
    pub(super) name: TopicName,
    pub(super) folder: PathBuf,
    pub(super) config: LogConfig,
    pub(super) segments: Vec<Arc<LogSegment>>,
    pub(super) log_start: Offset,
    pub(super) log_end: Offset,
    pub(super) epochs: LeaderEpochCache,
    pub(super) idempotency: IdempotencyTable,
    pub(super) writer: Writer,
    pub(super) offline: Option<String>,
}

impl LogCore {
    pub(super) fn new(context: Arc<LogContext>, opened: Opened) -> Arc<Self> {
        let online = opened.offline.is_none();
        let progress = PartitionProgress {
            log_start: opened.log_start.into(),
            high_watermark: opened.log_end.into(),
            leader_epoch: opened.epochs.latest().map_or(LeaderEpoch::ZERO, |(epoch, _)| epoch),
            online,
        };
        metrics().partitions.inc();
        metrics().segments.inc_by(opened.segments.len() as i64);
        metrics().log_bytes.inc_by(opened.segments.iter().map(|s| s.size() as i64).sum());
        if !online {
            metrics().partitions_offline.inc();
        }
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            id: opened.id,
            name: opened.name,
            folder: opened.folder,
            tail: TailRing::new(Arc::clone(&context.tail)),
            context,
            config: ArcSwap::from_pointee(opened.config.topic),
            front: Mutex::new(Front {
                staged: VecDeque::new(),
                staged_bytes: 0,
                pace: Pace::default(),
                late: None,
                controls: VecDeque::new(),
                finals: VecDeque::new(),
                enqueued: false,
                gathering: None,
                closed: false,
                idempotency: opened.idempotency,
            }),
            writer: Mutex::new(opened.writer),
            segments: ArcSwap::from_pointee(opened.segments),
            hints: Mutex::default(),
            epochs: RwLock::new(opened.epochs),
            progress: RwLock::new(Some(watch::Sender::new(progress))),
            log_end: AtomicI64::new(opened.log_end.get()),
            durable_end: AtomicI64::new(opened.log_end.get()),
            source: RwLock::default(),
            awaiting: Mutex::default(),
            offline: RwLock::new(opened.offline),
            sync_failed: Mutex::new(false),
            compaction: tokio::sync::Mutex::default(),
        })
    }

    /// For what outlives a call.
    pub(super) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    // ---- appends ------------------------------------------------------------------------------------------------

    /// See [`super::PartitionLog::append`].
    pub(super) fn append(self: &Arc<Self>, mut request: AppendRecords) -> Result<Append, LogError> {
        self.check_online()?;
        let bytes = self.check_size(&request)?;
        if let Some(mark) = &request.idempotency {
            for (record, (index, request)) in request.records.iter_mut().zip(&mark.records) {
                record.headers.push(RecordMark { key: mark.key, request: *request, index: *index }.to_header());
            }
        }
        let (reply, outcome) = oneshot::channel();
        let call = {
            let mut front = self.front.lock();
            if front.closed {
                return Err(LogError::Closed);
            }
            self.check_online()?; // again, under the lock that a failure takes to answer what is staged
            if request.records.is_empty() {
                let base_offset = self.log_end();
                let append_time_ms = self.context.sys.clock.now_ms();
                return Ok(Box::pin(async move { Ok(AppendOutcome { base_offset, append_time_ms }) }));
            }
            let reserved = self.reserve(&front, bytes)?;
            if let Some(mark) = &request.idempotency {
                front.idempotency.begin(mark, self.context.sys.clock.now_ms()).map_err(|refusal| match refusal {
                    IdempotencyRefusal::Conflict => LogError::IdempotencyConflict,
                    // What was stored since the caller looked it up is found when it looks again.
                    IdempotencyRefusal::InFlight | IdempotencyRefusal::Stored => LogError::IdempotencyInFlight,
                })?;
            }
            self.stage(&mut front, Payload::Records(request), (bytes, reserved), reply)
        };
        Ok(self.staged(call, outcome))
    }

    /// See [`super::PartitionLog::append_batch`].
    pub(super) fn append_batch(self: &Arc<Self>, batch: RecordBatch) -> Result<Append, LogError> {
        self.check_online()?;
        let bytes = batch.header().size;
        let config = self.config.load();
        let limit = config.max_message_bytes.min(config.segment_bytes) as usize;
        if bytes > limit {
            return Err(LogError::TooLarge { bytes, limit });
        }
        let (reply, outcome) = oneshot::channel();
        let call = {
            let mut front = self.front.lock();
            if front.closed {
                return Err(LogError::Closed);
            }
            self.check_online()?; // again, under the lock that a failure takes to answer what is staged
            let reserved = self.reserve(&front, bytes)?;
            self.stage(&mut front, Payload::Batch(Some(batch)), (bytes, reserved), reply)
        };
        Ok(self.staged(call, outcome))
    }

    /// Room for an append in this log's buffer, and in the budget of all.
    fn reserve(&self, front: &Front, bytes: usize) -> Result<Reserved, LogError> {
        let LogSettings { staged_bytes_per_partition: most, .. } = self.context.settings;
        if front.staged_bytes + bytes > most && front.staged_bytes > 0 {
            return Err(LogError::Overloaded);
        }
        let staged = &self.context.staged;
        // A coordinator whose record is refused has to load its state anew: that would add to the load.
        if self.name.is_internal() {
            Ok(staged.reserve(bytes))
        } else {
            staged.try_reserve(bytes).ok_or(LogError::Overloaded)
        }
    }

    /// Puts an append into the buffer.
    fn stage(
        &self,
        front: &mut Front,
        payload: Payload,
        (bytes, reserved): (usize, Reserved),
        reply: oneshot::Sender<Result<AppendOutcome, LogError>>,
    ) -> Call {
        front.staged_bytes += bytes;
        let since = self.context.sys.clock.monotonic();
        front.staged.push_back(StagedAppend { payload, bytes, _reserved: reserved, since, reply });
        front.call_job()
    }

    fn staged(self: &Arc<Self>, call: Call, outcome: oneshot::Receiver<Result<AppendOutcome, LogError>>) -> Append {
        self.call(call);
        // Dropped without an answer only by a writer that panicked, in the middle of it.
        let abandoned = || Err(LogError::Offline("its writer panicked".to_owned()));
        Box::pin(async move { outcome.await.unwrap_or_else(|_| abandoned()) })
    }

    /// The bytes that the records take at most.
    fn check_size(&self, request: &AppendRecords) -> Result<usize, LogError> {
        let limit = self.config.load().max_message_bytes as usize;
        let mut total = 0;
        for record in &request.records {
            let bytes = batch_bytes(record, request.idempotency.is_some());
            if bytes > limit {
                return Err(LogError::TooLarge { bytes, limit });
            }
            total += bytes - HEADER_BYTES;
        }
        Ok(total)
    }

    /// See [`super::PartitionLog::idempotency`].
    pub(super) fn idempotency(&self, key: &[u8; 16]) -> Vec<IdempotencyEntry> {
        self.front.lock().idempotency.lookup(key)
    }

    /// Answers an append that is not in the log, and lets its Idempotency-Key go.
    pub(super) fn fail_append(&self, append: StagedAppend, error: &LogError) {
        if let Some(mark) = append.payload.mark() {
            self.front.lock().idempotency.abort(mark);
        }
        let _ = append.reply.send(Err(error.clone())); // the one who asked may have gone
    }

    /// Runs a change between two groups, and waits for its result.
    pub(super) async fn control<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self, &mut Writer) -> T + Send + 'static,
    ) -> Result<T, LogError> {
        self.enqueue_control(false, change)?.await.map_err(|_| LogError::Closed)
    }

    /// The same; with `last` it comes after all that is staged, and from now on no append is taken.
    pub(super) fn enqueue_control<T: Send + 'static>(
        self: &Arc<Self>,
        last: bool,
        change: impl FnOnce(&Self, &mut Writer) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, LogError> {
        let (reply, result) = oneshot::channel();
        let control: Control = Box::new(move |core, writer| {
            let _ = reply.send(change(core, writer)); // the one who asked may have gone
        });
        let call = {
            let mut front = self.front.lock();
            if front.closed {
                return Err(LogError::Closed);
            }
            if last {
                front.closed = true;
                front.finals.push_back(control);
            } else {
                front.controls.push_back(control);
            }
            front.call_job()
        };
        self.call(call);
        Ok(result)
    }

    /// Outside of the front's lock, so that the thread that wakes does not find it taken.
    fn call(self: &Arc<Self>, call: Call) {
        match call {
            Call::Not => {}
            Call::Submit => {
                let waits = self.flush_policy() == FlushPolicy::Commit;
                let lane = if waits { Lane::Append } else { Lane::QuickAppend };
                self.context.sys.io.submit(lane, Arc::clone(self) as _);
            }
            Call::Hurry => self.context.sys.io.hurry(Lane::Append, &(Arc::clone(self) as _)),
        }
    }

    /// See [`super::PartitionLog::configure`].
    pub(super) fn configure(self: &Arc<Self>, config: LogConfig) {
        let flush = config.topic.flush;
        self.config.store(Arc::new(config.topic));
        // What the recovery point says of the tail changes before the first append does: see `set_flush`.
        let _ = self.enqueue_control(false, move |core, writer| core.set_flush(writer, flush));
    }

    pub(super) fn flush_policy(&self) -> FlushPolicy {
        self.config.load().flush
    }

    // ---- progress -----------------------------------------------------------------------------------------------

    pub(super) fn log_end(&self) -> Offset {
        Offset::new(self.log_end.load(Ordering::Acquire))
    }

    pub(super) fn durable_end(&self) -> Offset {
        Offset::new(self.durable_end.load(Ordering::Acquire))
    }

    pub(super) fn set_durable_end(&self, end: Offset) {
        self.durable_end.store(end.get(), Ordering::Release);
    }

    pub(super) fn set_log_end(&self, end: Offset) {
        self.log_end.store(end.get(), Ordering::Release);
    }

    /// See [`super::PartitionLog::progress`].
    pub(super) fn progress(&self) -> PartitionProgress {
        self.progress.read().as_ref().map(|sender| *sender.borrow()).unwrap_or_default()
    }

    /// See [`super::PartitionLog::watch`].
    pub(super) fn watch(&self) -> watch::Receiver<PartitionProgress> {
        match &*self.progress.read() {
            Some(sender) => sender.subscribe(),
            None => watch::Sender::new(PartitionProgress::default()).subscribe(),
        }
    }

    /// Changes what readers see, and wakes them if it did change.
    pub(super) fn update_progress(&self, change: impl FnOnce(&mut PartitionProgress)) {
        if let Some(sender) = &*self.progress.read() {
            sender.send_if_modified(|progress| {
                let before = *progress;
                change(progress);
                *progress != before
            });
        }
    }

    /// Tells everybody who watches that the log is gone.
    pub(super) fn drop_watch(&self) {
        *self.progress.write() = None;
    }

    pub(super) fn watermark_source(&self) -> WatermarkSource {
        *self.source.read()
    }

    /// See [`super::PartitionLog::set_watermark_source`].
    pub(super) fn set_watermark_source(&self, source: WatermarkSource) {
        *self.source.write() = source;
        if source == WatermarkSource::Local {
            let end = if self.flush_policy() == FlushPolicy::Commit { self.durable_end() } else { self.log_end() };
            self.advance_high_watermark(end);
        }
    }

    /// Moves the high watermark up and answers the appends below it.
    pub(super) fn advance_high_watermark(&self, watermark: Offset) {
        let watermark = HighWatermark::from(watermark.min(self.log_end()));
        self.update_progress(|progress| progress.high_watermark = progress.high_watermark.max(watermark));
        self.answer_awaiting();
    }

    /// Keeps an append until the high watermark passed it.
    pub(super) fn await_watermark(&self, appends: impl Iterator<Item = AwaitingAppend>) {
        self.awaiting.lock().extend(appends);
    }

    pub(super) fn answer_awaiting(&self) {
        let watermark = self.progress().high_watermark.offset();
        let done: Vec<AwaitingAppend> = {
            let mut awaiting = self.awaiting.lock();
            let done = awaiting.partition_point(|append| append.end <= watermark);
            awaiting.drain(..done).collect()
        };
        let now = self.context.sys.clock.monotonic();
        for append in done {
            metrics().append_seconds.observe(now.saturating_sub(append.since).as_secs_f64());
            drop(append.hold);
            let _ = append.reply.send(Ok(append.outcome)); // the one who asked may have gone
        }
    }

    // ---- failure ------------------------------------------------------------------------------------------------

    /// See [`super::PartitionLog::offline_reason`].
    pub(super) fn offline_reason(&self) -> Option<String> {
        self.offline.read().clone()
    }

    pub(super) fn check_online(&self) -> Result<(), LogError> {
        match &*self.offline.read() {
            None => Ok(()),
            Some(reason) => Err(LogError::Offline(reason.clone())),
        }
    }

    /// Takes the log offline for good (until it is recovered), and answers everything that waits.
    pub(super) fn go_offline(&self, reason: String) -> LogError {
        let error = LogError::Offline(reason.clone());
        let first = {
            let mut offline = self.offline.write();
            let first = offline.is_none();
            offline.get_or_insert(reason);
            first
        };
        if first {
            tracing::error!(topic = %self.name, partition = %self.id.partition, %error, "partition goes offline");
            metrics().partitions_offline.inc();
        }
        self.fail_all(&error);
        self.update_progress(|progress| progress.online = false);
        error
    }

    /// Answers every append that waits, in the buffer or for the watermark.
    pub(super) fn fail_all(&self, error: &LogError) {
        let staged: Vec<StagedAppend> = {
            let mut front = self.front.lock();
            front.staged_bytes = 0;
            front.staged.drain(..).collect()
        };
        for append in staged {
            self.fail_append(append, error);
        }
        for append in std::mem::take(&mut *self.awaiting.lock()) {
            let _ = append.reply.send(Err(error.clone())); // the one who asked may have gone
        }
    }

    /// See [`super::PartitionLog::epoch_end`].
    pub(super) fn epoch_end(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let end = self.epochs.read().end_offset_for(epoch, self.log_end());
        end.unwrap_or_else(|| (epoch, self.progress().log_start.offset()))
    }
}

impl Drop for LogCore {
    fn drop(&mut self) {
        let segments = self.segments.load();
        metrics().partitions.dec();
        metrics().segments.dec_by(segments.len() as i64);
        metrics().log_bytes.dec_by(segments.iter().map(|s| s.size() as i64).sum());
        if self.offline.get_mut().is_some() {
            metrics().partitions_offline.dec();
        }
    }
}

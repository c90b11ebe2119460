//! Follows one partition's log and keeps its rows up to the high watermark.
//!
//! **Invariant**: rows and applied offset change together, so a crash loses both or neither. What was applied is a
//! prefix of the log as it is now: if the log lost its tail since (a power cut on `flush=os`), its leader epochs say
//! so, and the partition's rows are made anew.
//!
//! One task a partition; the work is done in steps on the background lane, a few partitions at a time.

use super::ViewError;
use super::row::{self, Applied, Row};
use super::store::{Changes, ViewStore};
use crate::codec::{BatchError, DecompressLimit, RecordBatch};
use crate::log::{LogError, PartitionLog};
use crate::sys::{Lane, Sys, run_blocking};
use crate::types::{LeaderEpoch, LogStartOffset, Offset, PartitionProgress, TopicPartition};
use futures_util::future::BoxFuture;
use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};

/// Bytes of batches that one step reads.
const READ_BYTES: usize = 1 << 20;
/// Bytes of rows that go into the store at once: a compressed batch may hold many times its size.
const APPLY_BYTES: usize = 4 << 20;
/// Rows that go into the store at once: until they are in, nothing that the store gives up for them is freed, and nobody
/// reads from it.
const APPLY_ROWS: usize = 250;
/// Bytes that a batch may decompress to. What a topic takes is below it, whatever its `max.message.bytes`.
pub(super) const DECOMPRESS: DecompressLimit = DecompressLimit { max_bytes: 1 << 30 };
/// Steps of all partitions at once: each holds what it read.
pub(super) const STEPS_AT_ONCE: usize = 4;
/// Rows that one step of a sweep or a removal looks at.
pub(super) const SWEEP_ROWS: usize = 250;
/// How often rows below the log start are looked for, at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How long after a failure the next try comes.
const RETRY: Duration = Duration::from_secs(1);
/// The same when the log moved its ends.
const SOON: Duration = Duration::from_millis(10);

/// What a view needs of a log.
pub(super) trait LogSource: Send + Sync + 'static {
    fn id(&self) -> TopicPartition;
    fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> BoxFuture<'_, Result<Vec<RecordBatch>, LogError>>;
    fn watch(&self) -> watch::Receiver<PartitionProgress>;
    fn epoch_end(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset);
}

impl LogSource for PartitionLog {
    fn id(&self) -> TopicPartition {
        Self::id(self)
    }

    fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> BoxFuture<'_, Result<Vec<RecordBatch>, LogError>> {
        Box::pin(Self::read(self, from, end, max_bytes))
    }

    fn watch(&self) -> watch::Receiver<PartitionProgress> {
        Self::watch(self)
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        Self::epoch_end(self, epoch)
    }
}

/// What all followers of a broker share.
pub(super) struct Shared {
    pub(super) sys: Sys,
    pub(super) store: Arc<dyn ViewStore>,
    /// Rows changed since the last checkpoint.
    pub(super) dirty: AtomicBool,
    pub(super) steps: Semaphore,
}

impl Shared {
    /// Calls the store on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        lane: Lane,
        call: impl FnOnce(&dyn ViewStore) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<T, ViewError> {
        let store = self.store.clone();
        run_blocking(&*self.sys.io, lane, move || call(&*store)).await
    }

    async fn change(
        &self,
        call: impl FnOnce(&dyn ViewStore) -> Result<Option<Vec<u8>>, ViewError> + Send + 'static,
    ) -> Result<Option<Vec<u8>>, ViewError> {
        self.dirty.store(true, Ordering::Relaxed);
        self.blocking(Lane::Background, call).await
    }

    /// Removes everything of a partition.
    pub(super) async fn clear(&self, partition: TopicPartition) -> Result<(), ViewError> {
        // First the applied offset: a removal that is cut off is then begun anew and not resumed from.
        let applied = Changes::from([(row::applied_key(partition), None)]);
        self.change(move |store| store.apply_batch(applied).map(|()| None)).await?;
        self.remove_rows(partition, None).await
    }

    /// Removes the rows of a partition that lie below an offset, or all.
    async fn remove_rows(&self, partition: TopicPartition, below: Option<Offset>) -> Result<(), ViewError> {
        let mut from = Some(row::latest_prefix(partition));
        while let Some(start) = from {
            from = self.change(move |store| remove_some(store, partition, &start, below)).await?;
        }
        Ok(())
    }
}

/// Looks at some rows, removes those meant, and says where to go on.
fn remove_some(
    store: &dyn ViewStore,
    partition: TopicPartition,
    from: &[u8],
    below: Option<Offset>,
) -> Result<Option<Vec<u8>>, ViewError> {
    let (mut changes, mut seen, mut next) = (Changes::new(), 0, None);
    store.scan(&row::latest_prefix(partition), from, &mut |key, value| {
        if seen == SWEEP_ROWS {
            next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        seen += 1;
        let goes = below.is_none_or(|below| Row::decode(value).is_none_or(|row| row.offset < below));
        if goes {
            changes.insert(key.to_vec(), None);
        }
        ControlFlow::Continue(())
    })?;
    store.apply_batch(changes)?;
    Ok(next)
}

/// How far a partition's view is.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// All below is in the view; `None` until the first step.
    pub(super) applied: Option<Offset>,
    /// The leadership under which that was so.
    pub(super) epoch: LeaderEpoch,
    /// Why it does not go on. It is tried again.
    pub(super) problem: Option<ViewError>,
}

impl State {
    /// Whether it is as far as a log was under a leadership. What was applied under an older one may be gone.
    pub(super) fn is_at(&self, target: (Offset, LeaderEpoch)) -> bool {
        self.epoch >= target.1 && self.applied.is_some_and(|applied| applied >= target.0)
    }
}

/// One partition's follower.
pub(super) struct Follower {
    pub(super) log: Arc<dyn LogSource>,
    pub(super) state: watch::Sender<State>,
}

impl Follower {
    pub(super) fn new(log: Arc<dyn LogSource>) -> Self {
        let state = State { applied: None, epoch: LeaderEpoch::ZERO, problem: None };
        Self { log, state: watch::Sender::new(state) }
    }

    fn problem(&self, problem: ViewError) {
        self.state.send_modify(|state| state.problem = Some(problem));
    }

    fn log_problem(&self, error: &LogError) -> ViewError {
        ViewError::Log { partition: self.log.id().partition, reason: error.to_string() }
    }
}

/// Where a follower is, between its steps.
struct Position {
    applied: Applied,
    /// The leadership for which [`Applied`] was last held against the log.
    checked: LeaderEpoch,
    swept: LogStartOffset,
    swept_at: Option<Instant>,
}

enum Next {
    AtOnce,
    /// The log moved its ends meanwhile: look again when its progress says so too.
    Soon,
    WhenTheLogGrows,
}

/// Follows until it is told to stop, or the log is gone.
pub(super) async fn follow(shared: Arc<Shared>, follower: Arc<Follower>, mut stop: watch::Receiver<bool>) {
    let mut log = follower.log.watch();
    let mut position = None;
    loop {
        let progress = *log.borrow_and_update();
        // Never cut off in the middle: what a thread of the pool does goes on, and would meet whoever comes next.
        let outcome = step(&shared, &follower, &mut position, progress).await;
        let retry = match outcome {
            Ok(Next::AtOnce) if !*stop.borrow() => continue,
            Ok(Next::Soon) => Some(SOON),
            Ok(_) => None,
            Err(ViewError::Closed) => return follower.problem(ViewError::Closed),
            Err(problem) => {
                if follower.state.borrow().problem.as_ref() != Some(&problem) {
                    tracing::warn!(partition = ?follower.log.id(), error = %problem, "a view does not go on");
                }
                follower.problem(problem);
                position = None; // whatever failed, begin from what is in the store
                Some(RETRY)
            }
        };
        let again = async {
            match retry {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            changed = log.changed() => {
                if changed.is_err() {
                    return follower.problem(follower.log_problem(&LogError::Closed));
                }
            }
            () = again => {}
        }
    }
}

async fn step(
    shared: &Shared,
    follower: &Follower,
    position: &mut Option<Position>,
    progress: PartitionProgress,
) -> Result<Next, ViewError> {
    let partition = follower.log.id();
    if !progress.online {
        return Err(follower.log_problem(&LogError::Offline("it takes no requests".to_owned())));
    }
    let place = match position {
        Some(place) => place,
        None => position.insert(load(shared, partition, progress).await?),
    };
    if place.checked != progress.leader_epoch {
        if diverged(&*follower.log, place.applied) {
            follower.state.send_modify(|state| state.applied = None);
            tracing::info!(?partition, "the log lost records that the view had: it is built anew");
            shared.clear(partition).await?;
            place.applied = Applied { next: progress.log_start.offset(), epoch: LeaderEpoch::ZERO };
        }
        place.checked = progress.leader_epoch;
    }
    place.applied.next = place.applied.next.max(progress.log_start.offset());
    let end = progress.high_watermark.offset();
    if place.applied.next < end && !apply_some(shared, follower, place, end).await? {
        place.checked = not_yet(progress.leader_epoch);
        return Ok(Next::Soon);
    }
    follower.state.send_modify(|state| {
        state.applied = Some(place.applied.next);
        state.epoch = place.applied.epoch.max(progress.leader_epoch);
        state.problem = None;
    });
    if place.applied.next < end {
        return Ok(Next::AtOnce);
    }
    let due = place.swept_at.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL);
    if place.swept < progress.log_start && due {
        shared.remove_rows(partition, Some(progress.log_start.offset())).await?;
        place.swept = progress.log_start;
        place.swept_at = Some(Instant::now());
    }
    Ok(Next::WhenTheLogGrows)
}

async fn load(shared: &Shared, partition: TopicPartition, progress: PartitionProgress) -> Result<Position, ViewError> {
    let key = row::applied_key(partition);
    let stored = shared.blocking(Lane::Background, move |store| store.get(&key)).await?;
    let applied = match stored.as_deref().map(Applied::decode) {
        Some(Some(applied)) => applied,
        _ => {
            shared.clear(partition).await?;
            Applied { next: progress.log_start.offset(), epoch: LeaderEpoch::ZERO }
        }
    };
    let checked = not_yet(progress.leader_epoch);
    Ok(Position { applied, checked, swept: LogStartOffset::ZERO, swept_at: None })
}

/// Another epoch than this, so that the next step compares.
fn not_yet(epoch: LeaderEpoch) -> LeaderEpoch {
    LeaderEpoch::new(i32::from(epoch == LeaderEpoch::ZERO))
}

/// Whether the log does not have what was applied any more, or has other records there (KIP-101).
fn diverged(log: &dyn LogSource, applied: Applied) -> bool {
    let progress = *log.watch().borrow();
    if applied.next <= progress.log_start.offset() {
        return false; // all of it is gone by now anyway
    }
    let (epoch, end) = log.epoch_end(applied.epoch);
    epoch != applied.epoch || end < applied.next
}

/// Applies a step's worth; false if the log moved its ends meanwhile.
async fn apply_some(
    shared: &Shared,
    follower: &Follower,
    place: &mut Position,
    end: Offset,
) -> Result<bool, ViewError> {
    let _turn = shared.steps.acquire().await.map_err(|_| ViewError::Closed)?;
    let batches = match follower.log.read(place.applied.next, end, READ_BYTES).await {
        Ok(batches) => batches,
        Err(LogError::OffsetOutOfRange { .. }) => return Ok(false),
        Err(error) => return Err(follower.log_problem(&error)),
    };
    if batches.is_empty() {
        let reason = format!("nothing to read at {} though the log goes on", place.applied.next);
        return Err(ViewError::Log { partition: follower.log.id().partition, reason });
    }
    shared.dirty.store(true, Ordering::Relaxed);
    let (partition, from) = (follower.log.id(), place.applied);
    place.applied =
        shared.blocking(Lane::Background, move |store| apply(store, partition, from, end, &batches)).await?;
    Ok(true)
}

/// Puts the records from the applied offset up to `end` into the store, and gives the new applied offset.
fn apply(
    store: &dyn ViewStore,
    partition: TopicPartition,
    from: Applied,
    end: Offset,
    batches: &[RecordBatch],
) -> Result<Applied, ViewError> {
    let damaged = |e: BatchError| ViewError::Log { partition: partition.partition, reason: e.to_string() };
    let (mut applied, mut changes, mut bytes) = (from, Changes::new(), 0);
    let flush = |changes: &mut Changes, applied: Applied| {
        changes.insert(row::applied_key(partition), Some(applied.encode()));
        store.apply_batch(std::mem::take(changes))
    };
    for batch in batches {
        let header = batch.header();
        if header.next_offset() <= applied.next || header.base_offset >= end {
            continue;
        }
        if !header.control {
            for record in batch.records(DECOMPRESS).map_err(damaged)? {
                let record = record.map_err(damaged)?;
                if record.offset < applied.next || record.offset >= end {
                    continue;
                }
                applied = Applied { next: record.offset.plus(1), epoch: header.leader_epoch };
                let Some(key) = &record.key else { continue };
                let value = row::encode_row(&record);
                bytes += value.len() + key.len();
                changes.insert(row::latest_key(partition, key), Some(value));
                if bytes >= APPLY_BYTES || changes.len() >= APPLY_ROWS {
                    flush(&mut changes, applied)?;
                    bytes = 0;
                }
            }
        }
        applied = Applied { next: header.next_offset().min(end).max(applied.next), epoch: header.leader_epoch };
    }
    flush(&mut changes, applied)?;
    Ok(applied)
}

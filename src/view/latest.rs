//! The latest record of each key.
//!
//! **Invariant**: an answer has every record that was committed when the question came, or it is an error; rows at or
//! above a snapshot's offsets are left out of its pages, since those records come live, and so are rows below the log
//! start. A key that changes while a snapshot is paged may come twice, never not at all.
//!
//! A partition's view is built on first use. Questions may come from any thread.

use super::follower::{DECOMPRESS, Follower, LogSource, STEPS_AT_ONCE, SWEEP_ROWS, Shared, State, follow};
use super::lazy_store::LazyStore;
use super::row::{self, Content, Row};
use super::sled_store::SledStore;
use super::store::{Changes, MemoryStore, ViewStore};
use crate::log::{LogError, PartitionLog};
use crate::sys::{Lane, Sys, run_blocking};
use crate::telemetry::{BudgetLabels, metrics};
use crate::types::{LeaderEpoch, Offset, PartitionId, StoredRecord, TopicId, TopicPartition};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

/// Rows that one page looks at, at most: a snapshot whose rows are nearly all newer must not hold a thread.
const PAGE_ROWS: usize = 20_000;
/// How often what was applied becomes durable. Nothing is lost without it but the work of applying it again.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Where a view keeps its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ViewBackend {
    /// In sled, in the view's folder.
    #[default]
    Sled,
    /// In memory: rebuilt at each start. The simulation's twin of sled.
    Memory,
}

/// Settings of a broker's views.
#[derive(Debug, Clone)]
pub struct ViewSettings {
    /// Where the rows are kept.
    pub backend: ViewBackend,
    /// Bytes of memory that the store should take, about; some ten a key come on top.
    pub cache_bytes: u64,
    /// How long a question waits for the view to catch up.
    pub wait: Duration,
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self { backend: ViewBackend::Sled, cache_bytes: 64 << 20, wait: Duration::from_secs(10) }
    }
}

/// Why a view did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// It is still being built, or fell behind: try again.
    #[error("the view of partition {partition} is still being built ({applied} of {target}); try again")]
    Behind {
        /// Which partition.
        partition: PartitionId,
        /// How far it is.
        applied: Offset,
        /// How far it must be.
        target: Offset,
    },
    /// Nobody called [`LatestView::ensure`] for it.
    #[error("partition {0} has no view")]
    NotViewed(PartitionId),
    /// The log behind it can not be read.
    #[error("the log of partition {partition} can not be read: {reason}")]
    Log {
        /// Which partition.
        partition: PartitionId,
        /// Why, for people.
        reason: String,
    },
    /// The store failed. It is rebuilt at the next start.
    #[error("the view's store failed: {0}")]
    Store(String),
    /// The view is closed.
    #[error("the view is closed")]
    Closed,
}

/// A fixed state of a topic's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The topic.
    pub topic: TopicId,
    /// Per partition, in order, the first offset that is not part of it, with the leader epoch there.
    pub applied: Vec<(PartitionId, Offset, LeaderEpoch)>,
}

/// Some rows of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Records that are the latest of their key, in the order of partition and key.
    pub records: Vec<(PartitionId, StoredRecord)>,
    /// Where the next page goes on (exclusive); `None` after the last.
    pub next: Option<(PartitionId, Bytes)>,
}

/// The latest-by-key views of a broker.
pub struct LatestView {
    shared: Arc<Shared>,
    settings: ViewSettings,
    viewed: Mutex<BTreeMap<TopicPartition, Viewed>>,
    /// Tells the checkpoints to stop, also by being dropped.
    stop: watch::Sender<bool>,
    checkpoints: Mutex<Option<JoinHandle<()>>>,
}

/// A partition with its follower.
struct Viewed {
    follower: Arc<Follower>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl LatestView {
    /// Makes the folder; the store in it is opened when a view is first asked for. One that can not be opened is moved
    /// aside and begun anew, and so are the views.
    ///
    /// # Errors
    /// If the folder can not be made or read.
    pub async fn open(sys: Sys, dir: PathBuf, settings: ViewSettings) -> Result<Arc<Self>, ViewError> {
        // What of it is used only sled knows, and does not say.
        let budget = metrics().memory_budget_bytes.get_or_create(&BudgetLabels { budget: "view" }).clone();
        budget.set(i64::try_from(settings.cache_bytes).unwrap_or(i64::MAX));
        let store = {
            let (io, sys, settings) = (sys.io.clone(), sys.clone(), settings.clone());
            run_blocking(&*io, Lane::Background, move || lazy_store(sys, dir, settings)).await?
        };
        let shared =
            Arc::new(Shared { sys, store, dirty: AtomicBool::new(false), steps: Semaphore::new(STEPS_AT_ONCE) });
        let stop = watch::Sender::new(false);
        let checkpoints = tokio::spawn(make_checkpoints(shared.clone(), stop.subscribe()));
        Ok(Arc::new(Self {
            shared,
            settings,
            viewed: Mutex::default(),
            stop,
            checkpoints: Mutex::new(Some(checkpoints)),
        }))
    }

    /// Stops following what does not exist any more, and removes its rows: to be called after opening (a topic may have
    /// been deleted while nobody followed it), and when topics were deleted.
    ///
    /// # Errors
    /// What the store says.
    pub async fn retain(&self, known: impl Fn(TopicPartition) -> bool + Send) -> Result<(), ViewError> {
        let viewed: Vec<_> = self.viewed.lock().keys().copied().filter(|id| !known(*id)).collect();
        for partition in viewed {
            self.remove(partition).await;
        }
        let list = |store: &dyn ViewStore| {
            let mut partitions = Vec::new();
            if store.is_new() {
                return Ok(partitions);
            }
            store.scan(&[row::APPLIED_TAG], &[], &mut |key, _| {
                partitions.extend(row::applied_partition(key));
                ControlFlow::Continue(())
            })?;
            Ok(partitions)
        };
        for partition in self.shared.blocking(Lane::Background, list).await? {
            if !known(partition) {
                self.shared.clear(partition).await?;
            }
        }
        Ok(())
    }

    /// Sees to it that a partition is viewed: from the first call on a task follows its log. Cheap when it is there.
    pub fn ensure(self: &Arc<Self>, log: &Arc<PartitionLog>) {
        self.ensure_source(log.id(), Arc::as_ptr(log).cast(), || log.clone());
    }

    fn ensure_source(&self, id: TopicPartition, address: *const (), log: impl FnOnce() -> Arc<dyn LogSource>) {
        let mut viewed = self.viewed.lock();
        if viewed.get(&id).is_some_and(|v| Arc::as_ptr(&v.follower.log).cast() == address) {
            return;
        }
        // The log was closed and opened again: the old follower ends before the new one begins.
        let before = viewed.remove(&id);
        let follower = Arc::new(Follower::new(log()));
        let (stop, stopped) = watch::channel(false);
        let (shared, followed) = (self.shared.clone(), follower.clone());
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.end().await;
            }
            follow(shared, followed, stopped).await;
        });
        viewed.insert(id, Viewed { follower, stop, task });
    }

    /// The key's latest record over these partitions, by (timestamp, partition, offset); `None` if there is none or
    /// it is a tombstone. Waits until all that is committed now is in the view.
    ///
    /// # Errors
    /// [`ViewError::Behind`] if that takes too long.
    pub async fn latest(
        &self,
        topic: TopicId,
        partitions: &[PartitionId],
        key: &[u8],
    ) -> Result<Option<(PartitionId, StoredRecord)>, ViewError> {
        let caught_up = self.caught_up(topic, partitions).await?;
        let keys: Vec<_> = partitions.iter().map(|p| row::latest_key(tp(topic, *p), key)).collect();
        let get = move |store: &dyn ViewStore| keys.iter().map(|key| store.get(key)).collect::<Result<Vec<_>, _>>();
        let rows = self.shared.blocking(Lane::Read, get).await?;
        let mut latest: Option<(PartitionId, Row, &Arc<Follower>)> = None;
        for ((partition, row), (follower, _)) in partitions.iter().zip(rows).zip(&caught_up) {
            let Some(row) = row else { continue };
            let row = decode_row(&row)?;
            let readable = row.offset >= follower.log.watch().borrow().log_start.offset();
            let order = |p: PartitionId, r: &Row| (r.timestamp_ms, p, r.offset);
            if readable && latest.as_ref().is_none_or(|(p, r, _)| order(*partition, &row) > order(*p, r)) {
                latest = Some((*partition, row, follower));
            }
        }
        let Some((partition, row, follower)) = latest else { return Ok(None) };
        let record = resolve(follower, Bytes::copy_from_slice(key), row).await?;
        Ok(record.map(|record| (partition, record)))
    }

    /// Fixes the view's state, waiting until all that is committed now is in it.
    ///
    /// # Errors
    /// [`ViewError::Behind`] if that takes too long.
    pub async fn snapshot(&self, topic: TopicId, partitions: &[PartitionId]) -> Result<Snapshot, ViewError> {
        let caught_up = self.caught_up(topic, partitions).await?;
        let applied = |state: &State| state.applied.expect("a state that was waited for is at an offset");
        let mut applied: Vec<_> =
            partitions.iter().zip(&caught_up).map(|(p, (_, state))| (*p, applied(state), state.epoch)).collect();
        applied.sort_unstable();
        Ok(Snapshot { topic, applied })
    }

    /// The next rows of a snapshot after the place given (`None`: from the start): about `max_bytes`, at least one
    /// record unless it was the last page or few rows of many were wanted. Only `next` says whether there are more.
    ///
    /// # Errors
    /// What the store or the log says; [`ViewError::Behind`] while the view is built anew.
    pub async fn page(
        &self,
        snapshot: &Snapshot,
        after: Option<(PartitionId, Bytes)>,
        max_bytes: usize,
    ) -> Result<Page, ViewError> {
        let first = after.as_ref().map_or(PartitionId::ZERO, |(partition, _)| *partition);
        let mut parts = Vec::new();
        let mut followers = BTreeMap::new();
        let deadline = Instant::now() + self.settings.wait;
        for (partition, end, epoch) in snapshot.applied.iter().filter(|(p, ..)| *p >= first) {
            let id = tp(snapshot.topic, *partition);
            let follower = self.follower(id)?;
            wait_applied(&follower, *partition, (*end, *epoch), deadline).await?;
            let log_start = follower.log.watch().borrow().log_start.offset();
            parts.push(Part { id, log_start, end: *end });
            followers.insert(*partition, follower);
        }
        let scan = move |store: &dyn ViewStore| scan_page(store, &parts, after, max_bytes);
        let (rows, next) = self.shared.blocking(Lane::Read, scan).await?;
        for (partition, end, epoch) in snapshot.applied.iter().filter(|(p, ..)| *p >= first) {
            // If it was begun anew meanwhile, rows may be missing: wait for them.
            let follower: &Follower = &followers[partition];
            if !follower.state.borrow().is_at((*end, *epoch)) {
                return Err(ViewError::Behind { partition: *partition, applied: Offset::ZERO, target: *end });
            }
        }
        let mut records = Vec::with_capacity(rows.len());
        for (partition, key, row) in rows {
            if let Some(record) = resolve(&followers[&partition], key, row).await? {
                records.push((partition, record));
            }
        }
        Ok(Page { records, next })
    }

    /// Stops following a partition and removes its rows: its topic was deleted.
    pub async fn remove(&self, partition: TopicPartition) {
        let viewed = self.viewed.lock().remove(&partition);
        if let Some(viewed) = viewed {
            viewed.end().await;
        }
        if let Err(error) = self.shared.clear(partition).await {
            // They are looked for again at the next start.
            tracing::warn!(?partition, %error, "rows of a deleted partition are left in the view");
        }
    }

    /// Stops following and makes a checkpoint.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let viewed = std::mem::take(&mut *self.viewed.lock());
        for viewed in viewed.into_values() {
            viewed.end().await;
        }
        let checkpoints = self.checkpoints.lock().take();
        if let Some(checkpoints) = checkpoints {
            let _ = checkpoints.await; // it only panics if we do
        }
        let close = |store: &dyn ViewStore| {
            let made = store.checkpoint();
            store.close();
            made
        };
        match self.shared.blocking(Lane::Background, close).await {
            Ok(()) | Err(ViewError::Closed) => {}
            Err(error) => tracing::warn!(%error, "the view has no last checkpoint; it will apply some records again"),
        }
    }

    fn follower(&self, id: TopicPartition) -> Result<Arc<Follower>, ViewError> {
        let viewed = self.viewed.lock();
        viewed.get(&id).map(|v| v.follower.clone()).ok_or(ViewError::NotViewed(id.partition))
    }

    /// Waits until all that is committed now in these partitions is applied.
    async fn caught_up(
        &self,
        topic: TopicId,
        partitions: &[PartitionId],
    ) -> Result<Vec<(Arc<Follower>, State)>, ViewError> {
        let deadline = Instant::now() + self.settings.wait;
        let mut followers = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let follower = self.follower(tp(topic, *partition))?;
            let progress = *follower.log.watch().borrow();
            let target = (progress.high_watermark.offset(), progress.leader_epoch);
            followers.push((follower, target));
        }
        let mut caught_up = Vec::with_capacity(partitions.len());
        for (partition, (follower, target)) in partitions.iter().zip(followers) {
            let state = wait_applied(&follower, *partition, target, deadline).await?;
            caught_up.push((follower, state));
        }
        Ok(caught_up)
    }
}

impl Viewed {
    async fn end(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a view's follower panicked");
        }
    }
}

fn tp(topic: TopicId, partition: PartitionId) -> TopicPartition {
    TopicPartition { topic, partition }
}

async fn wait_applied(
    follower: &Follower,
    partition: PartitionId,
    target: (Offset, LeaderEpoch),
    deadline: Instant,
) -> Result<State, ViewError> {
    let mut states = follower.state.subscribe();
    let there = timeout_at(deadline, states.wait_for(|s| s.problem.is_some() || s.is_at(target))).await;
    match there {
        Ok(Ok(state)) => match &state.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(state.clone()),
        },
        Ok(Err(_gone)) => Err(ViewError::Closed),
        Err(_elapsed) => {
            let applied = follower.state.borrow().applied.unwrap_or(Offset::ZERO);
            Err(ViewError::Behind { partition, applied, target: target.0 })
        }
    }
}

fn lazy_store(sys: Sys, dir: PathBuf, settings: ViewSettings) -> Result<Arc<dyn ViewStore>, ViewError> {
    let failed = |e: std::io::Error| ViewError::Store(format!("making {}: {e}", dir.display()));
    sys.disk.create_dir_all(&dir).map_err(failed)?;
    let holds_rows = !sys.disk.read_dir(&dir).map_err(failed)?.is_empty();
    Ok(Arc::new(LazyStore::new(holds_rows, move || open_store(&sys, &dir, &settings))))
}

fn open_store(sys: &Sys, dir: &Path, settings: &ViewSettings) -> Result<Arc<dyn ViewStore>, ViewError> {
    let store: Arc<dyn ViewStore> = match settings.backend {
        ViewBackend::Sled => Arc::new(SledStore::open(sys, dir, settings.cache_bytes)?),
        ViewBackend::Memory => Arc::new(MemoryStore::open(sys.disk.clone(), dir.join("rows"))),
    };
    if store.get(row::VERSION_KEY)?.as_deref() != Some(row::VERSION) {
        // New, or laid out otherwise: nothing in it is worth keeping.
        loop {
            let mut changes = Changes::new();
            store.scan(&[], &[], &mut |key, _| {
                changes.insert(key.to_vec(), None);
                if changes.len() < SWEEP_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if changes.is_empty() {
                break;
            }
            store.apply_batch(changes)?;
        }
        store.apply_batch(Changes::from([(row::VERSION_KEY.to_vec(), Some(row::VERSION.to_vec()))]))?;
    }
    Ok(store)
}

async fn make_checkpoints(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = sleep(CHECKPOINT_INTERVAL) => {}
        }
        if shared.dirty.swap(false, Ordering::Relaxed) {
            match shared.blocking(Lane::Background, |store| store.checkpoint()).await {
                Ok(()) => {}
                Err(ViewError::Closed) => return,
                Err(error) => tracing::warn!(%error, "a checkpoint of the view failed"),
            }
        }
    }
}

/// What a page takes of one partition.
struct Part {
    id: TopicPartition,
    log_start: Offset,
    end: Offset,
}

type Rows = Vec<(PartitionId, Bytes, Row)>;

fn scan_page(
    store: &dyn ViewStore,
    parts: &[Part],
    after: Option<(PartitionId, Bytes)>,
    max_bytes: usize,
) -> Result<(Rows, Option<(PartitionId, Bytes)>), ViewError> {
    let (mut rows, mut bytes, mut seen) = (Rows::new(), 0, 0);
    let mut last = None;
    let mut failed = None;
    for part in parts {
        let partition = part.id.partition;
        let from = match &after {
            Some((p, key)) if *p == partition => {
                let mut from = row::latest_key(part.id, key);
                from.push(0); // the next possible key
                from
            }
            _ => row::latest_prefix(part.id),
        };
        let mut full = false;
        store.scan(&row::latest_prefix(part.id), &from, &mut |key, value| {
            // A row that no longer fits says that there is a next page, so it is looked at before it is taken.
            if (bytes >= max_bytes && !rows.is_empty()) || seen == PAGE_ROWS {
                full = true;
                return ControlFlow::Break(());
            }
            seen += 1;
            let key = Bytes::copy_from_slice(row::record_key(key));
            last = Some((partition, key.clone()));
            let row = match decode_row(value) {
                Ok(row) => row,
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let wanted = (part.log_start..part.end).contains(&row.offset) && row.content != Content::Tombstone;
            if wanted {
                bytes += key.len() + row.payload_bytes();
                rows.push((partition, key, row));
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if full {
            return Ok((rows, last));
        }
    }
    Ok((rows, None))
}

fn decode_row(bytes: &[u8]) -> Result<Row, ViewError> {
    Row::decode(bytes).ok_or_else(|| ViewError::Store("a row is damaged".to_owned()))
}

/// The record of a row; large ones are in the log. `None` for a tombstone, and for what compaction took meanwhile.
async fn resolve(follower: &Follower, key: Bytes, row: Row) -> Result<Option<StoredRecord>, ViewError> {
    let Content::Pointer(_) = row.content else { return Ok(row.into_record(key)) };
    let partition = follower.log.id().partition;
    let damaged = |reason: String| ViewError::Log { partition, reason };
    let batches = match follower.log.read(row.offset, row.offset.plus(1), 1).await {
        Ok(batches) => batches,
        Err(LogError::OffsetOutOfRange { .. }) => return Ok(None),
        Err(error) => return Err(damaged(error.to_string())),
    };
    for batch in &batches {
        for record in batch.records(DECOMPRESS).map_err(|e| damaged(e.to_string()))? {
            let record = record.map_err(|e| damaged(e.to_string()))?;
            if record.offset == row.offset {
                return Ok(Some(record));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

//! Every partition of a data folder: opening, creating, deleting, and the work in the background.
//!
//! **Invariant**: a folder is a partition's only if its name, its own description and the metadata agree; any other is
//! set aside in `quarantine/`, never deleted. A deleted partition's folder first loses its name, so that a crash leaves
//! it whole or gone.
//!
//! Called by `replication`; async, and what blocks runs on the pool.

use super::core::{LogContext, LogCore};
use super::layout::{self, DELETED_SUFFIX, META_FILE, QUARANTINE};
use super::open_files::OpenFiles;
use super::recovery::Recovery;
use super::recovery_point::{RecoveryPoint, RecoveryPoints};
use super::tail_ring::TailBudget;
use super::{LogConfig, LogError, LogSettings, PartitionLog};
use crate::sys::{Disk, Lane, OpenMode, Sys, run_blocking};
use crate::telemetry::MemoryBudget;
use crate::types::{FlushPolicy, PartitionId, TopicId, TopicName, TopicPartition};
use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};

/// Logs that are recovered, created or closed at once.
const CONCURRENT: usize = 16;
/// How often retention and rolls by age are looked at (Kafka's `log.retention.check.interval.ms` is 5 minutes).
const RETENTION_INTERVAL: Duration = Duration::from_secs(30);
/// How often logs are looked at for something to compact (Kafka's `log.cleaner.backoff.ms`).
const COMPACTION_INTERVAL: Duration = Duration::from_secs(15);
/// Partitions that are deleted at once: they share two syncs.
const DELETED_AT_ONCE: usize = 256;

/// How far the opening is, for a progress line.
#[derive(Debug, Clone, Copy)]
pub struct OpenProgress {
    /// Partitions recovered.
    pub done: usize,
    /// Partitions to recover.
    pub total: usize,
    /// Bytes walked.
    pub bytes: u64,
}

/// The logs of one broker.
pub struct LogManager {
    context: Arc<LogContext>,
    dir: PathBuf,
    logs: RwLock<BTreeMap<TopicPartition, Arc<PartitionLog>>>,
    /// Held by who makes or removes a partition's folder, so that the two never meet in one folder.
    changing: Mutex<BTreeSet<TopicPartition>>,
    changed: Notify,
    stop: watch::Sender<bool>,
    started: Mutex<bool>,
}

/// A folder that the metadata knows.
struct Found {
    id: TopicPartition,
    name: TopicName,
    folder: PathBuf,
    config: LogConfig,
    point: RecoveryPoint,
}

impl LogManager {
    /// Opens `dir/` and recovers every partition in it, several at once on the background lane. `known` says for each
    /// folder whether the metadata knows its topic, and with what configuration; folders that nobody knows are moved to
    /// a `quarantine` folder beside them, never deleted. A log that is damaged comes up offline.
    ///
    /// # Errors
    /// Only what stops the whole broker: the folder itself can not be read or written.
    pub async fn open(
        sys: Sys,
        dir: PathBuf,
        settings: LogSettings,
        known: Arc<dyn Fn(TopicPartition) -> Option<LogConfig> + Send + Sync>,
        progress: Arc<dyn Fn(OpenProgress) + Send + Sync>,
    ) -> Result<Arc<Self>, LogError> {
        let (disk, folder) = (Arc::clone(&sys.disk), dir.clone());
        let scanned = run_blocking(&*sys.io, Lane::Background, move || scan(&*disk, &folder, &*known)).await?;
        let (points, found) = scanned;
        let context = Arc::new(LogContext {
            files: OpenFiles::new(Arc::clone(&sys.disk), settings.open_files),
            tail: TailBudget::new(settings.tail_ring_bytes),
            staged: MemoryBudget::new("append", settings.staged_bytes),
            points,
            read_buffers: Arc::default(),
            settings,
            sys,
        });
        let (total, done, bytes) = (found.len(), AtomicUsize::new(0), Arc::new(AtomicU64::new(0)));
        progress(OpenProgress { done: 0, total, bytes: 0 });
        let recoveries = found.into_iter().map(|found| {
            let (context, bytes) = (Arc::clone(&context), Arc::clone(&bytes));
            async move {
                let io = Arc::clone(&context.sys.io);
                run_blocking(&*io, Lane::Background, move || recover(&context, found, &bytes)).await
            }
        });
        let mut recoveries = stream::iter(recoveries).buffer_unordered(CONCURRENT);
        let mut logs = BTreeMap::new();
        while let Some(core) = recoveries.next().await {
            logs.insert(core.id, PartitionLog::new(core));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress(OpenProgress { done, total, bytes: bytes.load(Ordering::Relaxed) });
        }
        drop(recoveries);
        Ok(Arc::new(Self {
            context,
            dir,
            logs: RwLock::new(logs),
            changing: Mutex::default(),
            changed: Notify::new(),
            stop: watch::Sender::new(false),
            started: Mutex::new(false),
        }))
    }

    /// A partition's log.
    #[must_use]
    pub fn get(&self, partition: TopicPartition) -> Option<Arc<PartitionLog>> {
        self.logs.read().get(&partition).cloned()
    }

    /// Makes a partition's folder (durable with its first record), or gives the one that is there, with this configuration.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn create(
        &self,
        topic: TopicId,
        name: &TopicName,
        partition: PartitionId,
        config: LogConfig,
    ) -> Result<Arc<PartitionLog>, LogError> {
        let id = TopicPartition { topic, partition };
        let _turn = self.turn(id).await;
        if let Some(log) = self.get(id) {
            log.configure(config);
            return Ok(log);
        }
        if *self.stop.borrow() {
            return Err(LogError::Closed);
        }
        let (context, dir, name) = (Arc::clone(&self.context), self.dir.clone(), name.clone());
        let make = move || make_folder(&context, &dir, id, name, config);
        let core = run_blocking(&*self.context.sys.io, Lane::Append, make).await?;
        let log = PartitionLog::new(core);
        self.logs.write().insert(id, Arc::clone(&log));
        Ok(log)
    }

    /// Closes a partition and removes its folder. Readers that hold batches keep them.
    ///
    /// # Errors
    /// What the disk says; the folder is set aside at the next start then.
    pub async fn delete(&self, partition: TopicPartition) -> Result<(), LogError> {
        self.delete_all(&[partition]).await
    }

    /// The same with many, which share their syncs.
    ///
    /// # Errors
    /// The first; the others are removed all the same.
    pub async fn delete_all(&self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let mut outcome = Ok(());
        for some in partitions.chunks(DELETED_AT_ONCE) {
            let removed = self.delete_some(some).await;
            outcome = outcome.and(removed.map_err(|error| LogError::io("removing a partition's folder", &error)));
        }
        outcome
    }

    async fn delete_some(&self, partitions: &[TopicPartition]) -> io::Result<()> {
        let gone = |core: &LogCore, _: &mut super::writer::Writer| {
            core.fail_all(&LogError::Closed);
            core.drop_watch();
            core.tail.clear();
        };
        let (mut turns, mut logs, mut closing) = (Vec::new(), Vec::new(), Vec::new());
        for partition in partitions {
            turns.push(self.turn(*partition).await);
            let Some(log) = self.logs.write().remove(partition) else { continue };
            // If it is closed already, nothing writes to it any more.
            closing.extend(log.core().enqueue_control(true, gone));
            logs.push(log);
        }
        for closed in closing {
            let _ = closed.await; // a writer that panicked is through as well
        }
        let (context, dir) = (Arc::clone(&self.context), self.dir.clone());
        let remove = move || {
            for log in &logs {
                log.core().segments.load().iter().for_each(|segment| segment.close(&context.files));
            }
            remove_folders(&context, &dir, &logs)
        };
        run_blocking(&*self.context.sys.io, Lane::Background, remove).await
    }

    /// Waits until nobody else makes or removes this partition's folder.
    async fn turn(&self, id: TopicPartition) -> Turn<'_> {
        loop {
            let changed = self.changed.notified();
            if self.changing.lock().insert(id) {
                return Turn { manager: self, id };
            }
            changed.await;
        }
    }

    /// Starts retention, compaction and interval flushing; they stop when the manager is closed or dropped.
    pub fn start_background(self: &Arc<Self>) {
        if std::mem::replace(&mut *self.started.lock(), true) {
            return;
        }
        let flush = self.context.settings.flush_interval;
        self.spawn_every(flush, |manager| Box::pin(async move { manager.flush_interval().await }));
        self.spawn_every(RETENTION_INTERVAL, |manager| Box::pin(async move { manager.retain().await }));
        self.spawn_every(COMPACTION_INTERVAL, |manager| Box::pin(async move { manager.compact().await }));
    }

    fn spawn_every(
        self: &Arc<Self>,
        interval: Duration,
        work: impl Fn(Arc<Self>) -> futures_util::future::BoxFuture<'static, ()> + Send + 'static,
    ) {
        let manager = Arc::downgrade(self);
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(interval) => {}
                }
                let Some(manager) = manager.upgrade() else { return };
                work(manager).await;
            }
        });
    }

    fn all(&self) -> Vec<Arc<PartitionLog>> {
        self.logs.read().values().cloned().collect()
    }

    /// Syncs every log with `flush=interval` that has something to sync.
    pub async fn flush_interval(&self) {
        let interval = self.all().into_iter().filter(|log| {
            log.core().flush_policy() == FlushPolicy::Interval && log.durable_end() < log.log_end().offset()
        });
        // What goes wrong took the log offline, with a line of its own.
        let flush = async |log: Arc<PartitionLog>| {
            let _ = log.core().control(|core, writer| core.flush_interval(writer)).await;
        };
        stream::iter(interval).for_each_concurrent(CONCURRENT, flush).await;
    }

    /// Begins new segments where the last one is old enough, and drops those that retention no longer keeps.
    pub async fn retain(&self) {
        let retain = async |log: Arc<PartitionLog>| {
            let retained = log.core().control(|core, writer| core.retain(writer)).await;
            if let Ok(Err(error)) = retained {
                tracing::warn!(topic = %log.topic_name(), partition = %log.id().partition, %error, "retention failed");
            }
        };
        stream::iter(self.all()).for_each_concurrent(CONCURRENT, retain).await;
    }

    /// Compacts the logs that are due, one after the other: a pass takes the disk for a while, and memory for its map.
    pub async fn compact(&self) {
        for log in self.all() {
            if *self.stop.borrow() {
                return;
            }
            let (topic, partition) = (log.topic_name(), log.id().partition);
            match log.core().compact().await {
                Ok(None) | Err(LogError::Closed) => {}
                Ok(Some(outcome)) => tracing::info!(%topic, %partition, ?outcome, "compacted"),
                Err(error) => tracing::warn!(%topic, %partition, %error, "compaction failed"),
            }
        }
    }

    /// Writes what waits, syncs, truncates the preallocated ends and closes every log. Appends are refused from now on.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let close = async |log: Arc<PartitionLog>| {
            if let Ok(done) = log.core().enqueue_control(true, |core, writer| core.finish(writer)) {
                let _ = done.await;
            }
        };
        stream::iter(self.all()).for_each_concurrent(CONCURRENT, close).await;
        let context = Arc::clone(&self.context);
        let synced = run_blocking(&*self.context.sys.io, Lane::Background, move || context.points.sync()).await;
        if let Err(error) = synced {
            tracing::warn!(%error, "the next start takes longer: syncing the recovery points failed");
        }
    }
}

/// The right to make or remove one partition's folder.
struct Turn<'a> {
    manager: &'a LogManager,
    id: TopicPartition,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.manager.changing.lock().remove(&self.id);
        self.manager.changed.notify_waiters();
    }
}

/// Looks at every folder: those that the metadata knows, and the others, which are set aside.
fn scan(
    disk: &dyn Disk,
    dir: &Path,
    known: &dyn Fn(TopicPartition) -> Option<LogConfig>,
) -> Result<(RecoveryPoints, Vec<Found>), LogError> {
    let failed = |error: io::Error| LogError::io(format!("reading {}", dir.display()), &error);
    disk.create_dir_all(dir).map_err(failed)?;
    let (points, mut by_id) = RecoveryPoints::open(disk, dir)?;
    let mut found = Vec::new();
    for entry in disk.read_dir(dir).map_err(failed)? {
        let folder = dir.join(&entry.name);
        if !entry.is_dir || entry.name == QUARANTINE {
            continue;
        }
        if entry.name.ends_with(DELETED_SUFFIX) {
            disk.remove_dir_all(&folder).map_err(failed)?;
            continue;
        }
        let config = layout::parse_folder_name(&entry.name).and_then(|id| Some((id, known(id)?)));
        let Some((id, config)) = config else {
            quarantine(disk, dir, &entry.name).map_err(failed)?;
            continue;
        };
        let path = folder.join(META_FILE);
        let what = path.display().to_string();
        let meta = disk.read(&path).map_err(|error| LogError::io(format!("reading {what}"), &error));
        match meta.and_then(|bytes| layout::decode_meta(&what, &bytes)) {
            Ok((described, name)) if described == id => {
                let point = by_id.remove(&id).unwrap_or_default();
                found.push(Found { id, name, folder, config, point });
            }
            Err(error @ LogError::NewerVersion(_)) => return Err(error),
            // A creation that the power cut short, or a damaged file: the records, if any, are kept.
            other => {
                let error = other.err().map_or_else(|| "it describes another partition".to_owned(), |e| e.to_string());
                tracing::error!(folder = %folder.display(), error, "a partition's folder is set aside");
                quarantine(disk, dir, &entry.name).map_err(failed)?;
            }
        }
    }
    for gone in by_id.into_keys() {
        points.clear(gone).map_err(failed)?;
    }
    Ok((points, found))
}

fn quarantine(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<()> {
    let aside = dir.join(QUARANTINE);
    disk.create_dir_all(&aside)?;
    let mut to = aside.join(name);
    let mut n = 1;
    while disk.exists(&to) {
        to = aside.join(format!("{name}.{n}"));
        n += 1;
    }
    tracing::warn!(folder = name, to = %to.display(), "a folder that the metadata does not know is set aside");
    disk.rename(&dir.join(name), &to)?;
    disk.sync_dir(&aside)?;
    disk.sync_dir(dir)
}

fn recover(context: &Arc<LogContext>, found: Found, walked: &AtomicU64) -> Arc<LogCore> {
    let Found { id, name, folder, config, point } = found;
    Recovery { context, folder: &folder, id, name, config, point, fresh: false, walked }.run()
}

fn make_folder(
    context: &Arc<LogContext>,
    dir: &Path,
    id: TopicPartition,
    name: TopicName,
    config: LogConfig,
) -> Result<Arc<LogCore>, LogError> {
    let disk = &*context.sys.disk;
    let folder = dir.join(layout::folder_name(id));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => LogError::DiskFull,
        _ => LogError::io(format!("making {}", folder.display()), &error),
    };
    if disk.exists(&folder) {
        // What an earlier attempt left, or a partition that was here before: either way nothing is deleted.
        quarantine(disk, dir, &layout::folder_name(id)).map_err(failed)?;
    }
    // Not synced: that comes with the first record. Until then a crash leaves a whole partition, or one that is made anew.
    disk.create_dir_all(&folder).map_err(failed)?;
    let meta = disk.open(&folder.join(META_FILE), OpenMode::CreateNew);
    meta.and_then(|file| file.write_all_at(&layout::encode_meta(id, &name), 0)).map_err(failed)?;
    let walked = AtomicU64::new(0);
    let recovery = Recovery {
        context,
        folder: &folder,
        id,
        name,
        config,
        point: RecoveryPoint::default(),
        fresh: true,
        walked: &walked,
    };
    let core = recovery.run();
    match core.check_online() {
        Ok(()) => Ok(core),
        Err(LogError::Offline(reason)) => Err(LogError::Offline(reason)),
        Err(error) => Err(error),
    }
}

/// Takes the folders' names away, durably, and then what is in them.
fn remove_folders(context: &LogContext, dir: &Path, logs: &[Arc<PartitionLog>]) -> io::Result<()> {
    let disk = &*context.sys.disk;
    let mut outcome = Ok(());
    let mut renamed = Vec::with_capacity(logs.len());
    for log in logs {
        let folder = &log.core().folder;
        let gone = layout::with_suffix(folder, DELETED_SUFFIX);
        match disk.rename(folder, &gone).and_then(|()| context.points.clear(log.id())) {
            Ok(()) => renamed.push(gone),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    disk.sync_dir(dir)?;
    // Synced, so that a partition that comes back under a name is not held to what this one had.
    context.points.sync()?;
    for folder in renamed {
        outcome = outcome.and(disk.remove_dir_all(&folder));
    }
    outcome
}

//! The partitions that this broker holds, kept as the metadata says.
//!
//! Reads of the table are lock-free; only [`ReplicaManager::apply`] changes it, one call at a time.

use super::partition::{Command, TopicAssignment, commands};
use super::{PartitionAssignment, ReplicationError};
use crate::codec::RecordBatch;
use crate::log::{
    AppendOutcome, AppendRecords, IdempotencyEntry, LogConfig, LogError, LogManager, PartitionLog, StoredRead,
};
use crate::types::{
    BrokerId, LeaderEpoch, Offset, PartitionId, PartitionProgress, TopicConfig, TopicId, TopicPartition,
};
use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// How many partitions are created, opened or deleted at once: each costs a few syncs, which overlap well.
const CONCURRENT_CHANGES: usize = 16;

type Table = BTreeMap<TopicId, Arc<TopicReplicas>>;

/// A topic's partitions on this broker.
pub struct TopicReplicas {
    assignment: Arc<TopicAssignment>,
    /// By number; `None` where another broker holds it, or where its log could not be made.
    partitions: Vec<Option<Arc<Partition>>>,
}

impl TopicReplicas {
    /// A partition that this broker holds.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(id.get()).ok()?)?.as_ref()
    }

    /// All partitions that this broker holds.
    pub fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.iter().flatten()
    }

    /// How many partitions the topic has, anywhere.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.partitions.len() as i32
    }
}

/// One replica of a partition.
pub struct Partition {
    me: BrokerId,
    id: PartitionId,
    log: Arc<PartitionLog>,
    assignment: PartitionAssignment,
    min_insync_replicas: i32,
}

/// What a read gives.
#[derive(Debug)]
pub struct PartitionRead {
    /// Whole batches below the high watermark.
    pub batches: Vec<RecordBatch>,
    /// What readers see of the partition.
    pub progress: PartitionProgress,
}

impl Partition {
    /// Its number.
    #[must_use]
    pub const fn id(&self) -> PartitionId {
        self.id
    }

    /// Its log.
    #[must_use]
    pub const fn log(&self) -> &Arc<PartitionLog> {
        &self.log
    }

    /// What the metadata says of it.
    #[must_use]
    pub const fn assignment(&self) -> &PartitionAssignment {
        &self.assignment
    }

    /// Whether this broker leads it.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.assignment.leader == Some(self.me)
    }

    fn check_leader(&self) -> Result<(), ReplicationError> {
        if self.is_leader() { Ok(()) } else { Err(ReplicationError::NotLeader) }
    }

    /// Appends as the leader. With one replica both acknowledgements mean the same.
    ///
    /// # Errors
    /// Outer: refused at once, nothing was done. Through the future: what became of it.
    pub fn append_records(
        &self,
        request: AppendRecords,
    ) -> Result<impl Future<Output = Result<AppendOutcome, LogError>> + Send + 'static + use<>, ReplicationError> {
        self.check_writable()?;
        Ok(self.log.append(request)?)
    }

    /// The same for a producer's whole batch, verified already.
    ///
    /// # Errors
    /// As [`Self::append_records`].
    pub fn append_batch(
        &self,
        batch: RecordBatch,
    ) -> Result<impl Future<Output = Result<AppendOutcome, LogError>> + Send + 'static + use<>, ReplicationError> {
        self.check_writable()?;
        Ok(self.log.append_batch(batch)?)
    }

    fn check_writable(&self) -> Result<(), ReplicationError> {
        self.check_leader()?;
        let in_sync = self.assignment.in_sync.len();
        if in_sync < self.min_insync_replicas as usize {
            return Err(ReplicationError::NotEnoughReplicas { in_sync, required: self.min_insync_replicas });
        }
        Ok(())
    }

    /// Reads as the leader, up to the high watermark.
    ///
    /// # Errors
    /// [`ReplicationError::OffsetOutOfRange`] with both ends, not leader, or what the log says.
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<PartitionRead, ReplicationError> {
        let progress = self.readable(from)?;
        let read = self.log.read(from, progress.high_watermark.offset(), max_bytes).await;
        Ok(PartitionRead { batches: read.map_err(|error| self.read_error(from, error))?, progress })
    }

    /// The same, where the batches may stay on the disk until they are sent.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_stored(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<(StoredRead, PartitionProgress), ReplicationError> {
        let progress = self.readable(from)?;
        let read = self.log.read_stored(from, progress.high_watermark.offset(), max_bytes).await;
        Ok((read.map_err(|error| self.read_error(from, error))?, progress))
    }

    /// What a reader of this offset sees.
    fn readable(&self, from: Offset) -> Result<PartitionProgress, ReplicationError> {
        self.check_leader()?;
        let progress = self.log.progress();
        if from < progress.log_start.offset() || from > progress.high_watermark.offset() {
            return Err(ReplicationError::OffsetOutOfRange { requested: from, progress });
        }
        Ok(progress)
    }

    fn read_error(&self, from: Offset, error: LogError) -> ReplicationError {
        match error {
            // Retention was faster than this read.
            LogError::OffsetOutOfRange { .. } => {
                ReplicationError::OffsetOutOfRange { requested: from, progress: self.log.progress() }
            }
            error => error.into(),
        }
    }

    /// What the log knows of an Idempotency-Key.
    #[must_use]
    pub fn idempotency(&self, key: &[u8; 16]) -> Vec<IdempotencyEntry> {
        self.log.idempotency(key)
    }

    /// The progress that readers see.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<PartitionProgress> {
        self.log.watch()
    }
}

/// All replicas of this broker.
pub struct ReplicaManager {
    me: BrokerId,
    logs: Arc<LogManager>,
    table: ArcSwap<Table>,
    applying: tokio::sync::Mutex<()>,
}

impl ReplicaManager {
    /// Over the logs that were opened; it holds nothing until the first [`Self::apply`].
    #[must_use]
    pub fn new(me: BrokerId, logs: Arc<LogManager>) -> Self {
        Self { me, logs, table: ArcSwap::default(), applying: tokio::sync::Mutex::default() }
    }

    /// A topic that this broker holds partitions of.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<Arc<TopicReplicas>> {
        self.table.load().get(&id).cloned()
    }

    /// The logs behind it.
    #[must_use]
    pub const fn logs(&self) -> &Arc<LogManager> {
        &self.logs
    }

    /// Brings this broker's replicas to what the metadata says: creates, leads, configures, deletes. A partition that
    /// fails is left out, logged, and tried again by the next call. True if none is left out.
    pub async fn apply(&self, topics: Vec<Arc<TopicAssignment>>) -> bool {
        let _one_at_a_time = self.applying.lock().await;
        let old = self.table.load_full();
        let mut new = Table::new();
        for after in topics {
            let before = old.get(&after.id);
            let complete = before.is_some_and(|t| t.holds_all(self.me));
            if let Some(unchanged) = before.filter(|t| complete && Arc::ptr_eq(&t.assignment, &after)) {
                new.insert(after.id, unchanged.clone());
                continue;
            }
            let topic = self.apply_topic(before.map(Arc::as_ref), &after).await;
            new.insert(after.id, Arc::new(topic));
        }
        let gone: Vec<_> = old.iter().filter(|(id, _)| !new.contains_key(id)).map(|(_, t)| t.clone()).collect();
        let complete = new.values().all(|t| t.holds_all(self.me));
        // Out of the table before the folders go: nobody finds a log that is being deleted.
        self.table.store(Arc::new(new));
        for topic in gone {
            self.delete(&topic).await;
        }
        complete
    }

    async fn apply_topic(&self, before: Option<&TopicReplicas>, after: &Arc<TopicAssignment>) -> TopicReplicas {
        let held_before = before.map(|t| t.held_part());
        let commands = commands(self.me, held_before.as_ref(), Some(after));
        let mut logs: BTreeMap<PartitionId, Arc<PartitionLog>> =
            before.into_iter().flat_map(TopicReplicas::partitions).map(|p| (p.id, p.log.clone())).collect();
        let mut by_partition: BTreeMap<PartitionId, Vec<Command>> = BTreeMap::new();
        for command in commands {
            let id = match &command {
                Command::Create(id)
                | Command::Lead(id, _)
                | Command::Resign(id)
                | Command::Configure(id)
                | Command::Delete(id) => *id,
            };
            by_partition.entry(id).or_default().push(command);
        }
        let work = by_partition.into_iter().map(|(id, commands)| {
            let log = logs.get(&id).cloned();
            async move { (id, self.run(after, id, log, commands).await) }
        });
        let done: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENT_CHANGES).collect().await;
        for (id, result) in done {
            match result {
                Ok(Some(log)) => drop(logs.insert(id, log)),
                Ok(None) => drop(logs.remove(&id)),
                Err(error) => {
                    logs.remove(&id);
                    tracing::error!(topic = %after.name, partition = %id, %error, "the partition can not be served");
                }
            }
        }
        let partitions = (0..).map(PartitionId::new).zip(&after.partitions).map(|(id, assignment)| {
            logs.remove(&id).map(|log| {
                Arc::new(Partition {
                    me: self.me,
                    id,
                    log,
                    assignment: assignment.clone(),
                    min_insync_replicas: after.config.min_insync_replicas,
                })
            })
        });
        TopicReplicas { partitions: partitions.collect(), assignment: after.clone() }
    }

    async fn run(
        &self,
        topic: &TopicAssignment,
        id: PartitionId,
        mut log: Option<Arc<PartitionLog>>,
        commands: Vec<Command>,
    ) -> Result<Option<Arc<PartitionLog>>, LogError> {
        for command in commands {
            match (command, &log) {
                (Command::Create(_), _) => {
                    log = Some(self.logs.create(topic.id, &topic.name, id, log_config(&topic.config)).await?);
                }
                (Command::Lead(_, epoch), Some(log)) => lead(log, epoch).await?,
                (Command::Configure(_), Some(log)) => log.configure(log_config(&topic.config)),
                (Command::Delete(_), _) => {
                    log = None;
                    self.logs.delete(TopicPartition { topic: topic.id, partition: id }).await?;
                }
                (Command::Resign(_), _) | (_, None) => {}
            }
        }
        Ok(log)
    }

    async fn delete(&self, topic: &TopicReplicas) {
        let id = |partition: &Arc<Partition>| TopicPartition { topic: topic.assignment.id, partition: partition.id };
        let ids: Vec<_> = topic.partitions().map(id).collect();
        if let Err(error) = self.logs.delete_all(&ids).await {
            // What is left is set aside at the next start, since the metadata does not know it any more.
            tracing::error!(topic = %topic.assignment.name, %error, "a deleted topic's folders could not all be removed");
        }
    }
}

impl TopicReplicas {
    fn holds_all(&self, me: BrokerId) -> bool {
        self.assignment.partitions.iter().zip(&self.partitions).all(|(a, p)| p.is_some() || !a.replicas.contains(&me))
    }

    /// The assignment without the partitions whose log could not be made: they are to be created again.
    fn held_part(&self) -> TopicAssignment {
        let mut held = (*self.assignment).clone();
        for (assignment, partition) in held.partitions.iter_mut().zip(&self.partitions) {
            if partition.is_none() {
                assignment.replicas.clear();
            }
        }
        held
    }
}

fn log_config(topic: &TopicConfig) -> LogConfig {
    LogConfig { topic: topic.clone() }
}

/// A damaged log comes up offline; it is still this broker's, and its requests get the reason.
async fn lead(log: &PartitionLog, epoch: LeaderEpoch) -> Result<(), LogError> {
    match log.become_leader(epoch).await {
        Err(LogError::Offline(_) | LogError::Corrupt(_)) => Ok(()),
        other => other,
    }
}

//! Every partition of a data folder: opening, creating, deleting, and the work in the background.

use super::{LogConfig, LogError, LogSettings, PartitionLog};
use crate::sys::Sys;
use crate::types::{PartitionId, TopicId, TopicName, TopicPartition};
use std::{path::PathBuf, sync::Arc};

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
pub struct LogManager {}

impl LogManager {
    /// Opens `dir/` and recovers every partition in it, several at once on the background lane. `known` says for each
    /// folder whether the metadata knows its topic, and with what configuration; folders that nobody knows are moved to
    /// a `quarantine` folder beside them, never deleted. A log that is damaged comes up offline.
    ///
    /// # Errors
    /// Only what stops the whole broker: the folder itself can not be read or written.
    pub async fn open(
        _sys: Sys,
        _dir: PathBuf,
        _settings: LogSettings,
        _known: Arc<dyn Fn(TopicPartition) -> Option<LogConfig> + Send + Sync>,
        _progress: Arc<dyn Fn(OpenProgress) + Send + Sync>,
    ) -> Result<Arc<Self>, LogError> {
        todo!()
    }
    /// A partition's log.
    pub fn get(&self, _partition: TopicPartition) -> Option<Arc<PartitionLog>> {
        todo!()
    }
    /// Makes a partition's folder (durable when it returns), or gives the one that is there.
    pub async fn create(
        &self,
        _topic: TopicId,
        _name: &TopicName,
        _partition: PartitionId,
        _config: LogConfig,
    ) -> Result<Arc<PartitionLog>, LogError> {
        todo!()
    }
    /// Closes a partition and removes its folder. Readers that hold batches keep them.
    pub async fn delete(&self, _partition: TopicPartition) -> Result<(), LogError> {
        todo!()
    }
    /// Starts retention, compaction and interval flushing; they stop when the manager is closed.
    pub fn start_background(self: &Arc<Self>) {
        todo!()
    }
    /// Writes what waits, syncs, truncates the preallocated ends and closes every log. Appends are refused from now on.
    pub async fn close(&self) {
        todo!()
    }
}

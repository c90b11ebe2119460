//! The latest record of each key.

use crate::log::PartitionLog;
use crate::sys::Sys;
use crate::types::{LeaderEpoch, Offset, PartitionId, StoredRecord, TopicId, TopicPartition};
use bytes::Bytes;
use std::{path::PathBuf, sync::Arc, time::Duration};

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
    /// Bytes that the store may cache.
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
pub struct LatestView {}

impl LatestView {
    /// Opens the store in `dir`. One that can not be opened is moved aside and begun anew, and so are the views.
    ///
    /// # Errors
    /// If not even an empty store can be made there.
    pub async fn open(_sys: Sys, _dir: PathBuf, _settings: ViewSettings) -> Result<Arc<Self>, ViewError> {
        todo!()
    }

    /// Sees to it that a partition is viewed: from the first call on a task follows its log. Cheap when it is there.
    pub fn ensure(self: &Arc<Self>, _log: &Arc<PartitionLog>) {
        todo!()
    }

    /// The key's latest record over these partitions, by (timestamp, partition, offset); `None` if there is none or
    /// it is a tombstone. Waits until all that is committed now is in the view.
    ///
    /// # Errors
    /// [`ViewError::Behind`] if that takes too long.
    pub async fn latest(
        &self,
        _topic: TopicId,
        _partitions: &[PartitionId],
        _key: &[u8],
    ) -> Result<Option<(PartitionId, StoredRecord)>, ViewError> {
        todo!()
    }

    /// Fixes the view's state, waiting until all that is committed now is in it.
    ///
    /// # Errors
    /// [`ViewError::Behind`] if that takes too long.
    pub async fn snapshot(&self, _topic: TopicId, _partitions: &[PartitionId]) -> Result<Snapshot, ViewError> {
        todo!()
    }

    /// The next rows of a snapshot after the place given (`None`: from the start): about `max_bytes`, at least one
    /// record unless it was the last page or few rows of many were wanted. Only `next` says whether there are more.
    ///
    /// # Errors
    /// What the store or the log says.
    pub async fn page(
        &self,
        _snapshot: &Snapshot,
        _after: Option<(PartitionId, Bytes)>,
        _max_bytes: usize,
    ) -> Result<Page, ViewError> {
        todo!()
    }

    /// Stops following a partition and removes its rows: its topic was deleted.
    pub async fn remove(&self, _partition: TopicPartition) {
        todo!()
    }

    /// Stops following and makes a checkpoint.
    pub async fn close(&self) {
        todo!()
    }
}

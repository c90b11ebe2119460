//! Why a partition did not take a write or a read.

use crate::log::LogError;
use crate::types::{Offset, PartitionProgress};

/// A partition's refusal or failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplicationError {
    /// This broker holds no such partition.
    #[error("this broker does not hold the partition")]
    NotHere,
    /// This broker does not lead it.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// Fewer replicas are in sync than `min.insync.replicas`.
    #[error("{in_sync} replicas are in sync, {required} are required")]
    NotEnoughReplicas {
        /// In sync now.
        in_sync: usize,
        /// Asked for.
        required: i32,
    },
    /// Below the log start, or beyond what readers may see.
    #[error("offset {requested} is out of range")]
    OffsetOutOfRange {
        /// Asked for.
        requested: Offset,
        /// What there is.
        progress: PartitionProgress,
    },
    /// What the log said.
    #[error(transparent)]
    Log(#[from] LogError),
}

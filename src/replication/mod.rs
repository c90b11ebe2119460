//! Replication: which partitions this broker holds, in which role, and the path from a produce to its log.
//!
//! **Invariant**: a write is taken only by a partition's leader, under the leader epoch that the metadata gave it, and
//! only while as many replicas are in sync as the topic asks for. Readers never see past the high watermark.
//!
//! Called by `engine`. [`partition`] is pure; [`ReplicaManager`] does what it decides.

mod error;
pub mod partition;
mod replica_manager;

pub use error::ReplicationError;
pub use partition::{PartitionAssignment, TopicAssignment};
pub use replica_manager::{Partition, PartitionRead, ReplicaManager, TopicReplicas};

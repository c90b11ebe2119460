//! Why a coordinator did not answer.

use crate::replication::ReplicationError;

/// A coordinator's failure to handle a command at all; what it refuses by its own rules is a reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CoordinatorError {
    /// This broker does not lead the partition, or stopped to while the command waited.
    #[error("this broker does not coordinate it now")]
    NotCoordinator,
    /// Too many commands wait.
    #[error("too many requests wait for this coordinator")]
    Overloaded,
    /// The partition's log could not be read, so there is no state. Nothing was done.
    #[error("its state could not be loaded: {0}")]
    NotLoaded(String),
    /// The command's records, or those of one before it, could not be stored. They may be there nevertheless.
    #[error("its change could not be stored: {0}")]
    NotStored(#[from] ReplicationError),
}

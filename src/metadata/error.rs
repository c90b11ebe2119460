//! Why the metadata could not be opened or changed.

use super::Refusal;

/// A failure of the metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The controller looked at the command and said no. Nothing was changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No answer in time. The change may still happen.
    #[error("the controller did not answer in time; the change may still happen")]
    TimedOut,
    /// Nobody leads the metadata now. Nothing was changed.
    #[error("the cluster has no controller now; try again")]
    NoController,
    /// Too little room on the disk for a change. Nothing was changed.
    #[error("the disk is full; the metadata was not changed")]
    DiskFull,
    /// The metadata's disk failed: nothing can be changed until the broker is started again. The text says why.
    #[error("the metadata store failed: {0}; restart the broker when the disk is well")]
    Failed(String),
    /// Bytes that were durable are damaged: names the file and the place in it.
    #[error("{0}")]
    Corrupt(String),
    /// Written by a newer version of the program.
    #[error("{0} was written by a newer version of sluice; start that version")]
    NewerVersion(String),
    /// The disk failed a call while opening.
    #[error("{context}: {kind}")]
    Io {
        /// What was being done to which file.
        context: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// The metadata is closed.
    #[error("the metadata is closed")]
    Closed,
}

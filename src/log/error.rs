//! Why a log did not do what was asked.

use crate::types::{LogEndOffset, LogStartOffset, Offset, ProducerEpoch};

/// A log's refusal or failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Below the log start or above the log end.
    #[error("offset {requested} is out of range [{log_start}, {log_end}]")]
    OffsetOutOfRange {
        /// Asked for.
        requested: Offset,
        /// First one there.
        log_start: LogStartOffset,
        /// First one not there.
        log_end: LogEndOffset,
    },
    /// A single record or batch is larger than `max.message.bytes`.
    #[error("a batch of {bytes} bytes is larger than max.message.bytes ({limit})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The Idempotency-Key stands with another request.
    #[error("the Idempotency-Key was used for another request")]
    IdempotencyConflict,
    /// The first request under the Idempotency-Key is still being written.
    #[error("a request with this Idempotency-Key is in flight")]
    IdempotencyInFlight,
    /// An idempotent producer's batch before this one is missing.
    #[error("the producer's sequence {expected} should come next")]
    OutOfOrderSequence {
        /// What should come.
        expected: i32,
    },
    /// A newer epoch of this producer has written.
    #[error("the producer was fenced by its epoch {current}")]
    ProducerFenced {
        /// That epoch.
        current: ProducerEpoch,
    },
    /// Too many bytes wait to be written.
    #[error("too many bytes wait to be written")]
    Overloaded,
    /// No room on the disk. Nothing of the append was stored; the next one may succeed.
    #[error("the disk is full")]
    DiskFull,
    /// The log is offline, and stays so until it was recovered: the text says why.
    #[error("the log is offline: {0}")]
    Offline(String),
    /// Bytes that were durable are damaged.
    #[error("the log is corrupt: {0}")]
    Corrupt(String),
    /// The log was closed or deleted.
    #[error("the log is closed")]
    Closed,
    /// The disk failed a call.
    #[error("{context}: {kind}")]
    Io {
        /// What was being done to which file.
        context: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// Written by a newer version of the program.
    #[error("{0} was written by a newer version")]
    NewerVersion(String),
}

impl LogError {
    /// A failed call of the disk, with what was being done.
    pub(super) fn io(context: impl Into<String>, error: &std::io::Error) -> Self {
        Self::Io { context: context.into(), kind: error.kind() }
    }
}

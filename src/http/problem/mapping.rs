//! The one mapping from the errors of the engine and of sessions to problems.
//!
//! **Invariant**: each `match` is exhaustive, so that a new error gets its code here. Texts of [`EngineError::Internal`]
//! and the like are logged here and never sent.

use super::{OutcomeStatus, Problem, RecordOutcome};
use crate::{
    engine::{EngineError, GroupError, QueueRefusal, RecordError},
    session::{SessionError, cursor::CursorError},
};
use axum::http::StatusCode;
use std::time::Duration;

/// How long a client should wait before it tries again when nothing better is known.
const DEFAULT_RETRY: Duration = Duration::from_millis(500);

/// A queue's refusal.
fn queue_problem(error: &QueueRefusal) -> Problem {
    use QueueRefusal as Q;
    let text = || error.to_string();
    match error {
        Q::UnknownQueue(_) => Problem::new(StatusCode::NOT_FOUND, "unknown-queue", "There is no such queue", text()),
        Q::TopicDeleted(..) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown-topic", "The queue's topic was deleted", text())
        }
        Q::Conflict(_) => {
            Problem::new(StatusCode::CONFLICT, "queue-exists", "The queue exists with another setting", text())
        }
        Q::TooManyQueues => Problem::new(StatusCode::CONFLICT, "too-many-queues", "There are too many queues", text()),
        Q::InvalidLeases(which) => unprocessable("invalid-lease", "That is no lease", text()).with_results(
            which.iter().map(|index| RecordOutcome::not_stored(*index, OutcomeStatus::Invalid)).collect(),
        ),
        Q::IdempotencyConflict => Problem::from(&EngineError::IdempotencyConflict),
    }
}

/// A group's refusal.
fn group_problem(error: &GroupError) -> Problem {
    use GroupError as G;
    let conflict = |code, title| Problem::new(StatusCode::CONFLICT, code, title, error.to_string());
    let missing = |code, title| Problem::new(StatusCode::NOT_FOUND, code, title, error.to_string());
    match error {
        G::InvalidGroupId => unprocessable("invalid-group", "The group's name does not fit", error.to_string()),
        G::InvalidSessionTimeout { .. } => {
            unprocessable("invalid-session-timeout", "The session timeout is out of range", error.to_string())
        }
        G::InvalidRequest(_) => unprocessable("invalid-request", "The request contradicts itself", error.to_string()),
        G::OffsetMetadataTooLarge(_) => {
            unprocessable("offset-metadata-too-large", "The commit's note is too large", error.to_string())
        }
        G::UnknownMemberId | G::MemberIdRequired(_) => missing("unknown-member", "The group has no such member"),
        G::GroupIdNotFound => missing("unknown-group", "There is no such group"),
        G::UnknownTopicOrPartition => missing("unknown-partition", "There is no such topic or partition"),
        G::IllegalGeneration | G::RebalanceInProgress | G::FencedInstanceId => {
            conflict("rebalance", "The group has another assignment now")
        }
        G::InconsistentGroupProtocol => conflict("inconsistent-protocol", "The members have no assignor in common"),
        G::GroupMaxSizeReached => conflict("group-full", "The group is full"),
        G::NonEmptyGroup => conflict("group-not-empty", "The group has members"),
        G::GroupSubscribedToTopic => conflict("group-subscribed", "A member reads this topic"),
        G::TooManyGroups => unavailable("too-many-groups", "There are too many groups", error.to_string()),
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

/// The one mapping from the engine's errors.
impl From<&EngineError> for Problem {
    fn from(error: &EngineError) -> Self {
        use EngineError as E;
        let text = || error.to_string();
        let mut problem = match error {
            E::UnknownTopic(name) => Self::unknown_topic(name),
            E::UnknownPartition { .. } => unknown_partition(text()),
            E::TopicExists(_) => Self::new(StatusCode::CONFLICT, "topic-exists", "The topic exists already", text()),
            E::InternalTopic(_) => Self::new(StatusCode::FORBIDDEN, "internal-topic", "The topic is internal", text()),
            E::InvalidConfig(_) => unprocessable("invalid-config", "The configuration does not fit", text()),
            E::InvalidPartitions(_) => {
                unprocessable("invalid-partitions", "The number of partitions does not fit", text())
            }
            E::InvalidReplicationFactor(_) => {
                unprocessable("invalid-replication-factor", "The replication factor does not fit", text())
            }
            E::InvalidRecord(record) => Self::from(record),
            E::InvalidBatch(_) => unprocessable("invalid-batch", "The batch can not be stored", text()),
            E::OutOfOrderSequence { .. } => {
                Self::new(StatusCode::CONFLICT, "out-of-order-sequence", "A batch of the producer is missing", text())
            }
            E::ProducerFenced(_) => {
                Self::new(StatusCode::CONFLICT, "producer-fenced", "The producer was fenced", text())
            }
            E::IdempotencyConflict => {
                unprocessable("idempotency-conflict", "The Idempotency-Key stands for another request", text())
            }
            E::IdempotencyInFlight => {
                let title = "The first request with this Idempotency-Key is in flight";
                Self::new(StatusCode::CONFLICT, "idempotency-in-flight", title, text())
            }
            E::OffsetOutOfRange { .. } => offset_out_of_range(error),
            E::RejectedWithRequest => {
                unprocessable("rejected-with-request", "Another record of the request was refused", text())
            }
            E::NotEnoughReplicas { .. } => unavailable("not-enough-replicas", "Too few replicas are in sync", text()),
            E::ViewNotReady(_) => unavailable("view-not-ready", "The view is still being built", text()),
            E::NoLeader(_) => unavailable("no-leader", "The partition has no leader now", text()),
            E::PartitionOffline { partition, reason } => {
                tracing::warn!(%partition, reason, "a request met an offline partition");
                let detail = format!("partition {partition} is offline here; the server's log says why");
                unavailable("partition-offline", "The partition is offline", detail)
            }
            E::Group(refusal) => group_problem(refusal),
            E::Queue(refusal) => queue_problem(refusal),
            E::NotCoordinator => unavailable("no-coordinator", "Nobody coordinates this now", text()),
            E::CoordinatorNotAvailable(reason) => {
                tracing::warn!(reason, "a request met a coordinator that is not available");
                let detail = "the coordinator is loading its state, or can not store; the server's log says why";
                unavailable("coordinator-not-available", "The coordinator is not available", detail.to_owned())
            }
            E::DiskFull => Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", "The disk is full", text()),
            E::TimedOut => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", "The acknowledgement did not come in time", text())
            }
            E::Overloaded => unavailable("overloaded", "Too much is waiting", text()),
            E::ShuttingDown => unavailable("shutting-down", "The server is shutting down", text()),
            E::Unsupported(_) => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "unsupported", "This server can not do that", text())
            }
            E::Internal(text) => Self::internal(text),
        };
        problem.0.side_effects = error.side_effects().into();
        if error.is_retryable() { problem.retry_after(DEFAULT_RETRY) } else { problem }
    }
}

impl From<&RecordError> for Problem {
    fn from(error: &RecordError) -> Self {
        let text = error.to_string();
        match error {
            RecordError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "The record is too large", text)
            }
            RecordError::KeyRequired => unprocessable("key-required", "The record needs a key", text),
            RecordError::Timestamp(_) => unprocessable("invalid-timestamp", "The timestamp does not fit", text),
            RecordError::UnknownPartition { .. } => unknown_partition(text),
        }
    }
}

/// The one mapping from the refusals of sessions.
impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Engine(error) => Self::from(error),
            SessionError::Invalid(detail) => Self::invalid_request(detail),
            SessionError::Cursor(error @ CursorError::TooManyPartitions(_)) => {
                let title = "Too many partitions for one cursor";
                Self::new(StatusCode::BAD_REQUEST, "too-many-partitions", title, error.to_string())
            }
            SessionError::Cursor(error @ CursorError::KeyTooLong(_)) => {
                unprocessable("key-too-long", "The key does not fit into a cursor", error.to_string())
            }
            SessionError::Cursor(error) => {
                Self::new(StatusCode::BAD_REQUEST, "invalid-cursor", "The cursor is not valid here", error.to_string())
            }
        }
    }
}

impl From<crate::types::InvalidName> for Problem {
    fn from(error: crate::types::InvalidName) -> Self {
        Self::invalid_name(error.to_string())
    }
}

fn unprocessable(code: &'static str, title: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, detail)
}

fn unavailable(code: &'static str, title: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, detail)
}

fn unknown_partition(detail: String) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown-partition", "There is no such partition", detail)
}

/// 410 below the log start, 416 above the end, both with both ends.
fn offset_out_of_range(error: &EngineError) -> Problem {
    let EngineError::OffsetOutOfRange { partition, requested, log_start, log_end } = error else {
        return Problem::internal("an offset problem was made of another error");
    };
    let status = if *requested < log_start.get() { StatusCode::GONE } else { StatusCode::RANGE_NOT_SATISFIABLE };
    let mut problem = Problem::new(status, "offset-out-of-range", "The offset is out of range", error.to_string());
    problem.0.partition = Some(partition.get());
    problem.0.log_start_offset = Some(log_start.get());
    problem.0.high_watermark = Some(log_end.get());
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogEndOffset, LogStartOffset, PartitionId};

    #[test]
    fn internal_text_stays_inside() {
        let secret = "open /var/lib/x: EIO";
        for error in [
            EngineError::Internal(secret.to_owned()),
            EngineError::PartitionOffline { partition: PartitionId::new(0), reason: secret.to_owned() },
        ] {
            let text = Problem::from(error).to_json();
            assert!(!text.contains("EIO"), "{text}");
        }
    }

    #[test]
    fn an_offset_out_of_range_names_both_ends() {
        for (requested, status) in [(3, 410), (12, 416)] {
            let problem = Problem::from(EngineError::OffsetOutOfRange {
                partition: PartitionId::new(1),
                requested,
                log_start: LogStartOffset::new(5),
                log_end: LogEndOffset::new(10),
            });
            let value: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
            assert_eq!(value["status"], status);
            assert_eq!(value["log_start_offset"], 5);
            assert_eq!(value["high_watermark"], 10);
        }
    }
}

//! What is to be read of a topic, and how far; and what a reader is told that it does not get.
//!
//! Plain data: made by `start`, used by `log_reader`.

use super::cursor::Position;
use crate::engine::TopicInfo;
use crate::types::{Offset, PartitionId};
use bytes::Bytes;
use std::sync::Arc;

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// They were removed before they were read.
    Retention,
    /// What was read there was lost with a leader (its epoch ended below); other records may stand there now.
    Truncated,
    /// Left out for a slow reader that asked for it.
    Conflated,
    /// The topic was deleted, and made again under its name.
    TopicRecreated,
}

impl GapReason {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Truncated => "truncated",
            Self::Conflated => "conflated",
            Self::TopicRecreated => "topic-recreated",
        }
    }
}

/// Offsets that the reader does not get, `from` to `to` (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Where.
    pub partition: PartitionId,
    /// The first.
    pub from: Offset,
    /// After the last.
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// Where a bounded reader ends (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At this offset of each partition.
    Offset(Offset),
    /// At the first record of this time (Unix ms) or later, or when that time has come and nothing more is there.
    Time(i64),
}

/// How a reader is set up.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// The topic.
    pub topic: Arc<TopicInfo>,
    /// Every partition, those added later too.
    pub all: bool,
    /// Where to begin, sorted by partition.
    pub positions: Vec<Position>,
    /// Only records with this key.
    pub key: Option<Bytes>,
    /// Where to end.
    pub until: Option<Until>,
    /// A place that retention has passed is an error, and not a gap.
    pub refuse_retention_gap: bool,
}

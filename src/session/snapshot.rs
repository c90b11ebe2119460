//! Walking over a fixed state of a topic's latest-by-key view (`view=latest`).
//!
//! **Invariant**: live reading begins at exactly the offsets that the snapshot was fixed at, before its first row was
//! read. So a key that changes meanwhile may come twice, never not at all.

use super::SessionError;
use super::cursor::Position;
use super::read_plan::ReadPlan;
use crate::engine::{Engine, TopicInfo, ViewSnapshot};
use crate::types::{PartitionId, StoredRecord};
use bytes::Bytes;
use std::sync::Arc;

/// See the module.
pub struct SnapshotWalk {
    topic: Arc<TopicInfo>,
    snapshot: ViewSnapshot,
    after: Option<(PartitionId, Bytes)>,
    done: bool,
    key: Option<Bytes>,
    /// All partitions are wanted, so that one key can be looked up at once.
    all: bool,
}

impl SnapshotWalk {
    /// Fixes the state now.
    ///
    /// # Errors
    /// The engine's.
    pub async fn begin(engine: &dyn Engine, plan: &ReadPlan) -> Result<Self, SessionError> {
        let partitions = plan.positions.iter().map(|p| p.partition).collect();
        let mut snapshot = engine.snapshot(plan.topic.id, partitions).await?;
        snapshot.applied.sort_unstable_by_key(|(partition, ..)| *partition);
        let (topic, key, all) = (plan.topic.clone(), plan.key.clone(), plan.all);
        Ok(Self { topic, snapshot, after: None, done: false, key, all })
    }

    /// Goes on with a state that was fixed earlier, after this row.
    #[must_use]
    pub fn resume(plan: &ReadPlan, after: Option<(PartitionId, Bytes)>) -> Self {
        let at = |p: &Position| match p.place {
            super::cursor::Place::At(offset, epoch) => Some((p.partition, offset, epoch)),
            super::cursor::Place::Pending(_) => None,
        };
        let applied = plan.positions.iter().filter_map(at).collect();
        Self {
            topic: plan.topic.clone(),
            snapshot: ViewSnapshot { topic: plan.topic.id, applied },
            after,
            done: false,
            key: plan.key.clone(),
            all: plan.all,
        }
    }

    /// Where live begins.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.snapshot
            .applied
            .iter()
            .map(|(partition, offset, epoch)| Position::at(*partition, *offset, *epoch))
            .collect()
    }

    /// The row behind which the next page begins.
    #[must_use]
    pub const fn after(&self) -> Option<&(PartitionId, Bytes)> {
        self.after.as_ref()
    }

    /// Whether every row was given.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Some more rows, at most `limit`, perhaps none of them wanted; `None` after the last.
    ///
    /// # Errors
    /// The engine's.
    pub async fn next_page(
        &mut self,
        engine: &dyn Engine,
        max_bytes: usize,
        limit: usize,
    ) -> Result<Option<Vec<(PartitionId, StoredRecord)>>, SessionError> {
        if self.done {
            return Ok(None);
        }
        if self.all
            && let Some(key) = &self.key
        {
            // Its latest may be newer than the snapshot, and then comes again live.
            let latest = engine.latest(self.topic.id, key).await?;
            self.done = true;
            return Ok(Some(latest.into_iter().collect()));
        }
        let page = engine.snapshot_page(&self.snapshot, self.after.clone(), max_bytes).await?;
        self.done = page.next.is_none();
        self.after = page.next;
        let mut records = page.records;
        if records.len() > limit {
            records.truncate(limit);
            self.done = false;
            self.after = records.last().map(|(partition, row)| (*partition, row.key.clone().unwrap_or_default()));
        }
        if let Some(key) = &self.key {
            records.retain(|(_, record)| record.key.as_ref() == Some(key));
        }
        Ok(Some(records))
    }
}

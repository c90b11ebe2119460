//! What people see of a queue: counts from the coordinator, records and ages from the log.

use super::delivery::{DECOMPRESS, damaged, log_starts, stored};
use super::{GivenUpMessage, unexpected};
use crate::coordinator::queue::{
    BlockedBy, Counts, Definition, GivenUpAt, HolderState, PartitionState, QueueCommand, QueueRefusal, QueueReply,
    QueueState, Totals,
};
use crate::engine::routed::RoutedEngine;
use crate::engine::{Engine, EngineError, TopicInfo};
use crate::types::{PartitionId, StoredRecord};
use bytes::Bytes;
use std::sync::Arc;

/// Keys that a description names.
const BLOCKED_KEYS: usize = 10;

/// A queue as it is now.
#[derive(Debug)]
pub struct QueueDescription {
    /// Its name.
    pub name: String,
    /// What it is.
    pub definition: Arc<Definition>,
    /// Its topic was deleted.
    pub topic_deleted: bool,
    /// Records by what they wait for, with those that were not looked at yet among the ready ones.
    pub counts: Counts,
    /// Settled since it was made.
    pub totals: Totals,
    /// How long ago the oldest ready record was written, ms.
    pub oldest_ready_age_ms: Option<u64>,
    /// A partition holds as many records back as it may.
    pub held_full: bool,
    /// Keys behind which most records wait.
    pub blocked_by: Vec<BlockedKey>,
    /// By partition.
    pub partitions: Vec<QueuePartition>,
}

/// A queue over one partition.
#[derive(Debug)]
pub struct QueuePartition {
    /// Which.
    pub partition: PartitionId,
    /// Records by what they wait for.
    pub counts: Counts,
    /// All below it is settled, or held back.
    pub start: i64,
    /// It holds as many records back as it may.
    pub held_full: bool,
}

/// A key that records wait for.
#[derive(Debug)]
pub struct BlockedKey {
    /// The key; `None` if its record is gone.
    pub key: Option<Bytes>,
    /// Where the record lies that holds it.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: i64,
    /// Why it holds it.
    pub state: HolderState,
    /// Since when, Unix ms.
    pub since_ms: i64,
    /// How many wait.
    pub waiting: u64,
}

impl RoutedEngine {
    pub(super) async fn describe_one(&self, name: &str) -> Result<QueueDescription, EngineError> {
        let (topic, QueueState { definition, partitions, .. }) = loop {
            let handle = self.queue_handle(name).await?;
            let topic = self.topic_of_queue(name, &handle.definition).ok();
            // What retention took since somebody received is lost, and this is where people look.
            let progress = topic.as_deref().map(|topic| self.progress(topic));
            // Without it the topic has gone just now, or is not led here: then others count what is lost.
            let log_starts = progress.and_then(Result::ok).map_or_else(Vec::new, |progress| log_starts(&progress));
            let command = QueueCommand::Describe { queue: name.to_owned(), id: handle.id, log_starts };
            match self.ask_queue(name, command).await {
                // Deleted, or made again: the next turn finds out.
                Err(EngineError::Queue(QueueRefusal::UnknownQueue(_))) => continue,
                Ok(QueueReply::Described(state)) => break (topic, *state),
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => return Err(error),
            }
        };
        let mut described = QueueDescription {
            name: name.to_owned(),
            topic_deleted: topic.is_none(),
            definition,
            counts: Counts::default(),
            totals: Totals::default(),
            oldest_ready_age_ms: None,
            held_full: false,
            blocked_by: Vec::new(),
            partitions: Vec::new(),
        };
        let mut blocked: Vec<(i32, BlockedBy)> = Vec::new();
        for state in partitions {
            blocked.extend(state.blocked_by.iter().map(|b| (state.partition, *b)));
            self.add_partition(topic.as_deref(), &state, &mut described).await?;
        }
        blocked.sort_by_key(|(_, b)| std::cmp::Reverse(b.waiting));
        for (partition, blocked) in blocked.into_iter().take(BLOCKED_KEYS) {
            let record = match &topic {
                Some(topic) => self.record_at(topic, partition, blocked.offset).await?,
                None => None,
            };
            described.blocked_by.push(BlockedKey {
                key: record.and_then(|record| record.key),
                partition: PartitionId::new(partition),
                offset: blocked.offset,
                state: blocked.state,
                since_ms: blocked.since_ms,
                waiting: blocked.waiting,
            });
        }
        Ok(described)
    }

    async fn add_partition(
        &self,
        topic: Option<&TopicInfo>,
        state: &PartitionState,
        all: &mut QueueDescription,
    ) -> Result<(), EngineError> {
        let mut counts = state.counts;
        let progress = topic.and_then(|t| self.watch(t.id, PartitionId::new(state.partition)).ok());
        let end = progress.map_or(state.looked_at, |watch| watch.borrow().high_watermark.get());
        let unseen = (end - state.looked_at).max(0).unsigned_abs();
        counts.ready += unseen.saturating_sub(state.settled_ahead);
        let oldest = state.oldest_ready.or((unseen > state.settled_ahead).then_some(state.looked_at));
        if let (Some(topic), Some(oldest)) = (topic, oldest)
            && let Some(record) = self.first_record(topic, state.partition, oldest).await?
        {
            let age = self.sys.clock.now_ms().saturating_sub(record.timestamp_ms).max(0).unsigned_abs();
            all.oldest_ready_age_ms = all.oldest_ready_age_ms.max(Some(age));
        }
        for (sum, more) in [
            (&mut all.counts.ready, counts.ready),
            (&mut all.counts.leased, counts.leased),
            (&mut all.counts.delayed, counts.delayed),
            (&mut all.counts.blocked, counts.blocked),
            (&mut all.counts.parked, counts.parked),
            (&mut all.counts.dead, counts.dead),
            (&mut all.totals.acked, state.totals.acked),
            (&mut all.totals.skipped, state.totals.skipped),
            (&mut all.totals.discarded, state.totals.discarded),
            (&mut all.totals.lost, state.totals.lost),
        ] {
            *sum += more;
        }
        all.held_full |= state.held_full;
        let (partition, start, held_full) = (PartitionId::new(state.partition), state.start, state.held_full);
        all.partitions.push(QueuePartition { partition, counts, start, held_full });
        Ok(())
    }

    /// The record at an offset, if it is there.
    async fn record_at(
        &self,
        topic: &TopicInfo,
        partition: i32,
        offset: i64,
    ) -> Result<Option<StoredRecord>, EngineError> {
        Ok(self.first_record(topic, partition, offset).await?.filter(|record| record.offset.get() == offset))
    }

    /// The first record from an offset on.
    async fn first_record(
        &self,
        topic: &TopicInfo,
        partition: i32,
        offset: i64,
    ) -> Result<Option<StoredRecord>, EngineError> {
        let batches = match self.fetch_from(topic, partition, offset, 1).await {
            Ok(batches) => batches,
            Err(EngineError::OffsetOutOfRange { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        for batch in batches.iter().filter(|batch| !batch.header().control) {
            let mut records = batch.records(DECOMPRESS).map_err(damaged)?;
            while let Some(view) = records.next_view() {
                let view = view.map_err(damaged)?;
                if view.offset.get() >= offset {
                    return Ok(Some(stored(&view, batch)));
                }
            }
        }
        Ok(None)
    }

    pub(super) async fn list_given_up(
        &self,
        name: String,
        after: Option<(i32, i64)>,
        limit: usize,
    ) -> Result<Vec<GivenUpMessage>, EngineError> {
        let handle = self.queue_handle(&name).await?;
        let topic = self.topic_of_queue(&name, &handle.definition).ok();
        let listed = match self.ask_queue(&name, QueueCommand::GivenUp { queue: name.clone(), after, limit }).await? {
            QueueReply::GivenUp(listed) => listed,
            other => return Err(unexpected(&other)),
        };
        let mut all = Vec::with_capacity(listed.len());
        for GivenUpAt { partition, offset, parked, attempts, at_ms, reason, gone } in listed {
            let record = match &topic {
                Some(topic) if !gone => self.record_at(topic, partition, offset).await?,
                _ => None,
            };
            let partition = PartitionId::new(partition);
            all.push(GivenUpMessage { partition, offset, parked, attempts, at_ms, reason, record });
        }
        Ok(all)
    }
}

//! Where in the log each thing was last written whole, and so what lies below all of them and may go.

use super::{QueueMachine, record};
use crate::coordinator::Outcome;
use crate::coordinator::queue::change::Delta;
use crate::types::{Offset, Record};
use std::collections::{BTreeMap, BTreeSet};

/// Deltas of a partition before its state is written whole.
const SNAPSHOT_EVERY: u32 = 500;
/// How far the log may go past what was written longest ago.
const LAG: i64 = 5_000;
/// How much has to be free before the log start is moved: it costs a write.
const PRUNE_STEP: i64 = 1_000;

/// What is written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entity {
    Epoch,
    Queue(u64),
    Partition(u64, i32),
}

/// Asks where something was written: its last record's offset, and how many lie before that.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotMark {
    entity: Entity,
    before: i64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Written {
    deltas: u32,
    delta_bytes: usize,
    snapshot_bytes: usize,
}

/// The bookkeeping.
#[derive(Debug, Default)]
pub(super) struct Journal {
    positions: BTreeMap<Entity, Offset>,
    oldest: BTreeSet<(Offset, Entity)>,
    /// Written again, and not committed yet.
    rewriting: BTreeSet<Entity>,
    since: BTreeMap<(u64, i32), Written>,
    /// Nothing lies below it.
    pruned: Option<Offset>,
    /// Deltas since anything was written whole.
    unmarked: i64,
}

impl Journal {
    /// A record of the log.
    pub(super) fn saw(&mut self, at: Offset) {
        self.pruned.get_or_insert(at);
    }

    /// It stands whole at this offset.
    pub(super) fn written(&mut self, entity: Entity, at: Offset) {
        if let Some(before) = self.positions.insert(entity, at) {
            self.oldest.remove(&(before, entity));
        }
        self.oldest.insert((at, entity));
    }

    /// A queue is no more.
    pub(super) fn forget(&mut self, queue: u64) {
        let of_queue = |entity: &Entity| matches!(entity, Entity::Queue(id) | Entity::Partition(id, _) if *id == queue);
        self.positions.retain(|entity, _| !of_queue(entity));
        self.oldest.retain(|(_, entity)| !of_queue(entity));
        self.rewriting.retain(|entity| !of_queue(entity));
        self.since.retain(|(id, _), _| *id != queue);
    }

    pub(super) fn write_epoch(&mut self, epoch: i32, out: &mut Outcome<QueueMachine>) {
        self.write(Entity::Epoch, vec![record::epoch(epoch)], out);
    }

    /// Writes something whole.
    pub(super) fn write(&mut self, entity: Entity, records: Vec<Record>, out: &mut Outcome<QueueMachine>) {
        if let Entity::Partition(queue, partition) = entity {
            let snapshot_bytes = records.iter().map(Record::payload_bytes).sum();
            self.since.insert((queue, partition), Written { snapshot_bytes, ..Written::default() });
        }
        self.rewriting.insert(entity);
        self.unmarked = 0;
        let last = records.len().saturating_sub(1);
        for (n, record) in records.into_iter().enumerate() {
            if n == last {
                out.mark(SnapshotMark { entity, before: n as i64 });
            }
            out.record(record);
        }
    }

    /// Writes a delta. True if the partition's state should be written whole now: after some hundred, but not before
    /// the deltas have cost as much as that will.
    pub(super) fn write_delta(
        &mut self,
        queue: u64,
        partition: i32,
        delta: &Delta,
        out: &mut Outcome<QueueMachine>,
    ) -> bool {
        let record = record::delta(queue, partition, delta);
        let written = self.since.entry((queue, partition)).or_default();
        written.deltas += 1;
        written.delta_bytes += record.payload_bytes();
        self.unmarked += 1;
        out.record(record);
        written.deltas >= SNAPSHOT_EVERY && written.delta_bytes >= written.snapshot_bytes
    }

    /// What was written longest ago, if the log has gone on for long without anything written whole.
    pub(super) fn neglected(&mut self) -> Option<Entity> {
        if self.unmarked < LAG {
            return None;
        }
        self.unmarked = 0;
        self.oldest.first().map(|(_, entity)| *entity).filter(|entity| !self.rewriting.contains(entity))
    }

    /// Something was written whole, up to this offset. Gives what should be written again.
    pub(super) fn committed(
        &mut self,
        mark: SnapshotMark,
        offset: Offset,
        out: &mut Outcome<QueueMachine>,
    ) -> Option<Entity> {
        if !self.rewriting.remove(&mark.entity) {
            // Its queue was deleted meanwhile.
            return None;
        }
        self.written(mark.entity, Offset::new(offset.get() - mark.before));
        let &(oldest, entity) = self.oldest.first()?;
        let pruned = self.pruned.unwrap_or(Offset::ZERO);
        if oldest.get() - pruned.get() >= PRUNE_STEP {
            self.pruned = Some(oldest);
            out.prune(oldest);
        }
        // Enough for each to be written once in a while, however many there are.
        let lag = LAG.max(4 * self.positions.len() as i64);
        (offset.get() - oldest.get() > lag && !self.rewriting.contains(&entity)).then_some(entity)
    }
}

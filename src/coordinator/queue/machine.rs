//! The queues of one partition of the state topic. Pure.
//!
//! **Invariant**: a queue lives wholly in the partition of its name: its definition and the state over each partition of
//! its topic. What a command changed is in its outcome's records, so that no answer tells of what may be lost; leases are
//! not recorded, but each ownership has an epoch, recorded before it leases anything, by which older leases are refused.
//!
//! The log is never compacted. Each partition's state is written whole after some hundred deltas, and what lies below
//! the oldest that still counts is pruned; what is idle is written again when the log has gone far past it.
//!
//! **A receive's answer does not wait for what others have just settled**: it tells of leases, which are not stored anyway.
//! It waits for the ownership's epoch and for the queue itself; and a record with a key waits until the settlement of the
//! one before it is stored, so that a crash never brings that one back after a later one was delivered.

mod command;
mod execute;
mod journal;
mod released;
#[cfg(test)]
mod tests;

use super::definition::Definition;
use super::durable::DurablePartition;
use super::receives::Receives;
use super::record::{self, Entry};
use super::share_partition::SharePartition;
use crate::coordinator::{Now, Outcome, ReplyToken, StateMachine};
use crate::types::{Offset, StoredRecord};
pub use command::{
    GivenUpAt, GivenUpFilter, Leased, Offer, PartitionState, QueueCommand, QueueRefusal, QueueReply, QueueState,
    Received, Wake, Want,
};
use execute::Answer;
use journal::Journal;
pub use journal::SnapshotMark;
use released::Released;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The internal topic of the queues' state.
pub const STATE_TOPIC: &str = "__share_group_state";
/// Queues of one partition of the state topic, at most.
const MAX_QUEUES: usize = 10_000;

/// The state machine.
#[derive(Default)]
pub struct QueueMachine {
    epoch: i32,
    queues: BTreeMap<String, Queue>,
    journal: Journal,
    replayed: Replayed,
}

/// What replay has gathered.
#[derive(Default)]
struct Replayed {
    definitions: BTreeMap<u64, (String, Definition)>,
    partitions: BTreeMap<(u64, i32), DurablePartition>,
    /// The parts of a snapshot that is not whole yet, and where it began.
    parts: Option<(u64, i32, Offset, Vec<u8>)>,
}

struct Queue {
    id: u64,
    definition: Arc<Definition>,
    partitions: BTreeMap<i32, SharePartition>,
    receives: Receives,
    /// The partition that the next receive begins with, so that all get their turn.
    next: i32,
    /// Records decided when it last began: the ownership's epoch, the queue itself, a partition. No lease without them.
    since: u64,
    released: Released,
}

impl Queue {
    fn new(id: u64, definition: Definition, since: u64) -> Self {
        let (partitions, receives, released) = (BTreeMap::new(), Receives::default(), Released::default());
        Self { id, definition: Arc::new(definition), partitions, receives, next: 0, since, released }
    }
}

impl QueueMachine {
    /// Without any queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn take_snapshot_part(&mut self, at: Offset, queue: u64, partition: i32, part: u32, parts: u32, bytes: &[u8]) {
        if part == 0 {
            self.replayed.parts = Some((queue, partition, at, Vec::new()));
        }
        let Some((of, of_partition, begin, all)) = &mut self.replayed.parts else { return };
        if (*of, *of_partition) != (queue, partition) || begin.plus(i64::from(part)) != at {
            // The power went in the middle of it: what came before it still counts.
            self.replayed.parts = None;
            return;
        }
        all.extend_from_slice(bytes);
        if part + 1 < parts {
            return;
        }
        let begin = *begin;
        match DurablePartition::decode(all) {
            Ok(durable) => {
                self.replayed.partitions.insert((queue, partition), durable);
                self.journal.written(journal::Entity::Partition(queue, partition), begin);
            }
            Err(error) => tracing::error!(%error, %at, "a snapshot of a queue's state is left out"),
        }
        self.replayed.parts = None;
    }
}

impl StateMachine for QueueMachine {
    type Command = QueueCommand;
    type Reply = QueueReply;
    type Timer = ();
    type Mark = SnapshotMark;

    fn replay(&mut self, stored: StoredRecord) {
        let at = stored.offset;
        self.journal.saw(at);
        match record::parse(&stored) {
            None => tracing::error!(%at, "a record of the queues' state is not understood, and left out"),
            Some(Entry::Epoch(epoch)) => {
                self.epoch = self.epoch.max(epoch);
                self.journal.written(journal::Entity::Epoch, at);
            }
            Some(Entry::Defined { queue, name, definition }) => {
                self.replayed.definitions.insert(queue, (name, definition));
                self.journal.written(journal::Entity::Queue(queue), at);
            }
            Some(Entry::Deleted { queue }) => {
                self.replayed.definitions.remove(&queue);
                self.replayed.partitions.retain(|(of, _), _| *of != queue);
                self.journal.forget(queue);
            }
            Some(Entry::Delta { queue, partition, delta }) => {
                // Without its base it lies before a snapshot that is further on.
                if let Some(durable) = self.replayed.partitions.get_mut(&(queue, partition)) {
                    durable.apply(&delta);
                }
            }
            Some(Entry::SnapshotPart { queue, partition, part, parts, bytes }) => {
                self.take_snapshot_part(at, queue, partition, part, parts, &bytes);
            }
        }
    }

    fn loaded(&mut self, now: Now, out: &mut Outcome<Self>) {
        self.epoch += 1;
        self.journal.write_epoch(self.epoch, out);
        let replayed = std::mem::take(&mut self.replayed);
        for (id, (name, definition)) in replayed.definitions {
            self.queues.insert(name, Queue::new(id, definition, out.decided()));
        }
        let names: BTreeMap<u64, String> = self.queues.iter().map(|(name, queue)| (queue.id, name.clone())).collect();
        for ((id, partition), durable) in replayed.partitions {
            if let Some(queue) = names.get(&id).and_then(|name| self.queues.get_mut(name)) {
                let share = SharePartition::new(durable, queue.definition.settings, self.epoch, now);
                queue.partitions.insert(partition, share);
            }
        }
    }

    fn handle(&mut self, command: QueueCommand, reply: ReplyToken, now: Now, out: &mut Outcome<Self>) {
        let Answer { answer, after } = self.execute(command, now, out);
        match after {
            Some(decided) => out.reply_after(decided, reply, answer),
            None => out.reply(reply, answer),
        }
    }

    fn timer(&mut self, (): (), _now: Now, _out: &mut Outcome<Self>) {}

    fn committed(&mut self, mark: SnapshotMark, offset: Offset, _now: Now, out: &mut Outcome<Self>) {
        if let Some(oldest) = self.journal.committed(mark, offset, out) {
            self.rewrite(oldest, out);
        }
    }
}

//! How commands are done.

use super::command::{
    GivenUpAt, GivenUpFilter, Leased, Offer, PartitionState, QueueCommand, QueueRefusal, QueueReply, QueueState,
    Received, Wake, Want,
};
use super::journal::Entity;
use super::{MAX_QUEUES, Queue, QueueMachine, record};
use crate::coordinator::queue::definition::Definition;
use crate::coordinator::queue::durable::DurablePartition;
use crate::coordinator::queue::lease::LeaseRef;
use crate::coordinator::queue::receives::ReceiveTag;
use crate::coordinator::queue::share_partition::{Acquired, Outcome as Settled, Settlement, SharePartition};
use crate::coordinator::{Now, Outcome};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Keys that [`PartitionState::blocked_by`] names, of each partition.
const BLOCKED_BY: usize = 10;

/// A reply, and after how many records it may go out; `None`: all.
pub(super) struct Answer {
    pub(super) answer: QueueReply,
    pub(super) after: Option<u64>,
}

impl QueueMachine {
    pub(super) fn execute(&mut self, command: QueueCommand, now: Now, out: &mut Outcome<Self>) -> Answer {
        let mut after = None;
        let done = match command {
            QueueCommand::Put { name, id, definition, starts } => self.put(name, id, definition, &starts, now, out),
            QueueCommand::Delete(name) => self.delete(&name, out),
            QueueCommand::List => Ok(QueueReply::Queues(self.queues.keys().cloned().collect())),
            QueueCommand::Find(name) => self.find(&name).map(|q| QueueReply::Found(q.id, q.definition.clone())),
            QueueCommand::Describe { queue, id, log_starts } => {
                self.find_same(&queue, id).and_then(|()| self.describe(&queue, &log_starts, now, out))
            }
            QueueCommand::Receive { queue, id, max, lease_ms, tag, log_starts, offers } => {
                let asked = (max, lease_ms, tag);
                let same = self.find_same(&queue, id);
                let received = same.and_then(|()| self.receive(&queue, asked, &log_starts, &offers, now, out));
                received.map(|(received, decided)| {
                    after = Some(decided);
                    QueueReply::Received(received)
                })
            }
            QueueCommand::Return { queue, unsent, gone } => self.take_back(&queue, &unsent, &gone, now, out),
            QueueCommand::Settle { queue, settlements } => self.settle(&queue, &settlements, now, out),
            QueueCommand::GivenUp { queue, after, limit } => self.given_up(&queue, after, limit),
            QueueCommand::EndGivenUp { queue, filter, redrive } => {
                self.end_given_up(&queue, &filter, redrive, now, out)
            }
        };
        if let Some(entity) = self.journal.neglected() {
            self.rewrite(entity, out);
        }
        Answer { answer: done.unwrap_or_else(QueueReply::Refused), after }
    }

    fn find(&self, name: &str) -> Result<&Queue, QueueRefusal> {
        self.queues.get(name).ok_or_else(|| QueueRefusal::UnknownQueue(name.to_owned()))
    }

    /// Whether there is this queue, and not another one under its name.
    fn find_same(&self, name: &str, id: u64) -> Result<(), QueueRefusal> {
        match self.find(name)?.id == id {
            true => Ok(()),
            false => Err(QueueRefusal::UnknownQueue(name.to_owned())),
        }
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Queue, QueueRefusal> {
        self.queues.get_mut(name).ok_or_else(|| QueueRefusal::UnknownQueue(name.to_owned()))
    }

    fn put(
        &mut self,
        name: String,
        id: u64,
        definition: Definition,
        starts: &[i64],
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<QueueReply, QueueRefusal> {
        let count = self.queues.len();
        if let Some(queue) = self.queues.get_mut(&name) {
            if let Some(field) = queue.definition.conflict(&definition) {
                return Err(QueueRefusal::Conflict(field));
            }
            if *queue.definition != definition {
                queue.partitions.values_mut().for_each(|p| p.configure(definition.settings));
                let records = vec![record::defined(queue.id, &name, &definition)];
                queue.definition = Arc::new(definition);
                self.journal.write(Entity::Queue(queue.id), records, out);
            }
            return Ok(QueueReply::Put(false));
        }
        if count >= MAX_QUEUES {
            return Err(QueueRefusal::TooManyQueues);
        }
        self.journal.write(Entity::Queue(id), vec![record::defined(id, &name, &definition)], out);
        self.queues.insert(name.clone(), Queue::new(id, definition, out.decided()));
        for (partition, start) in (0..).zip(starts) {
            self.begin(&name, partition, *start, now, out);
        }
        Ok(QueueReply::Put(true))
    }

    /// A partition's state begins.
    fn begin(&mut self, name: &str, partition: i32, start: i64, now: Now, out: &mut Outcome<Self>) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let durable = DurablePartition::new(start);
        let mut bytes = Vec::new();
        durable.encode(&mut bytes);
        let records = record::snapshot(queue.id, partition, &bytes);
        self.journal.write(Entity::Partition(queue.id, partition), records, out);
        queue.partitions.insert(partition, SharePartition::new(durable, queue.definition.settings, self.epoch, now));
        queue.since = out.decided();
    }

    fn delete(&mut self, name: &str, out: &mut Outcome<Self>) -> Result<QueueReply, QueueRefusal> {
        let id = self.find(name)?.id;
        self.queues.remove(name);
        self.journal.forget(id);
        out.record(record::deleted(id));
        Ok(QueueReply::Done)
    }

    /// Writes what changed in a partition.
    fn flush(&mut self, name: &str, partition: i32, out: &mut Outcome<Self>) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let Some(share) = queue.partitions.get_mut(&partition) else { return };
        let keys = share.take_released();
        let Some(delta) = share.take_delta() else { return };
        let full = self.journal.write_delta(queue.id, partition, &delta, out);
        queue.released.add(partition, keys, out.decided(), out.committed());
        if full {
            let id = queue.id;
            self.rewrite(Entity::Partition(id, partition), out);
        }
    }

    /// Writes something whole.
    pub(super) fn rewrite(&mut self, entity: Entity, out: &mut Outcome<Self>) {
        let id = match entity {
            Entity::Epoch => return self.journal.write_epoch(self.epoch, out),
            Entity::Queue(id) | Entity::Partition(id, _) => id,
        };
        let Some((name, queue)) = self.queues.iter().find(|(_, queue)| queue.id == id) else { return };
        let records = match entity {
            Entity::Partition(_, partition) => {
                let Some(share) = queue.partitions.get(&partition) else { return };
                let mut bytes = Vec::new();
                share.durable().encode(&mut bytes);
                record::snapshot(id, partition, &bytes)
            }
            Entity::Queue(_) | Entity::Epoch => vec![record::defined(id, name, &queue.definition)],
        };
        self.journal.write(entity, records, out);
    }

    fn receive(
        &mut self,
        name: &str,
        (max, lease_ms, tag): (usize, Option<i64>, Option<ReceiveTag>),
        log_starts: &[(i32, i64)],
        offers: &[Offer],
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<(Received, u64), QueueRefusal> {
        let known = &self.find(name)?.partitions;
        let new: Vec<_> = log_starts.iter().filter(|(p, _)| !known.contains_key(p)).copied().collect();
        for (partition, log_start) in new {
            // A partition that was added later is read from its first record.
            self.begin(name, partition, log_start, now, out);
        }
        let queue = self.find_mut(name)?;
        queue.pass_time(log_starts, now);
        for Offer { partition, from, to, records } in offers {
            if let Some(share) = queue.partitions.get_mut(partition) {
                share.offer(*from, *to, records, now);
            }
        }
        let received = queue.lease(max, lease_ms, tag, now);
        let touched: Vec<i32> = queue.partitions.keys().copied().collect();
        for partition in touched {
            self.flush(name, partition, out);
        }
        let received = received?;
        let after = self.find(name)?.told_after(&received.leases);
        Ok((received, after))
    }

    fn take_back(
        &mut self,
        name: &str,
        unsent: &[LeaseRef],
        gone: &[LeaseRef],
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<QueueReply, QueueRefusal> {
        let queue = self.find_mut(name)?;
        let mut touched = BTreeSet::new();
        for (lease, is_gone) in unsent.iter().map(|l| (l, false)).chain(gone.iter().map(|l| (l, true))) {
            let Some(share) = queue.held(lease) else { continue };
            share.tick(now);
            if is_gone {
                share.gone(lease.offset, lease.generation);
            } else {
                share.give_back(lease.offset, lease.generation);
            }
            touched.insert(lease.partition);
        }
        for partition in touched {
            self.flush(name, partition, out);
        }
        Ok(QueueReply::Done)
    }

    fn settle(
        &mut self,
        name: &str,
        settlements: &[(LeaseRef, Settlement)],
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<QueueReply, QueueRefusal> {
        let queue = self.find_mut(name)?;
        // By offset, so that neighbours become one range of the delta.
        let mut order: Vec<usize> = (0..settlements.len()).collect();
        order.sort_by_key(|i| settlements[*i].0);
        let mut outcomes = vec![Settled::Lost; settlements.len()];
        let (mut touched, mut ready) = (BTreeSet::new(), false);
        for i in order {
            let (lease, settlement) = &settlements[i];
            if lease.queue != queue.id {
                continue;
            }
            let Some(share) = queue.partitions.get_mut(&lease.partition) else { continue };
            if touched.insert(lease.partition) {
                share.tick(now);
            }
            let before = (share.counts_ready(), share.is_narrow());
            outcomes[i] = share.settle_lease(*lease, settlement, now);
            ready |= share.counts_ready() > before.0 || (before.1 && !share.is_narrow());
        }
        let next_due = queue.next_due();
        for partition in touched {
            self.flush(name, partition, out);
        }
        Ok(QueueReply::Settled(outcomes, Wake { ready, next_due }))
    }

    fn given_up(&self, name: &str, after: Option<(i32, i64)>, limit: usize) -> Result<QueueReply, QueueRefusal> {
        let queue = self.find(name)?;
        let (from, after) = after.map_or((i32::MIN, -1), |(partition, offset)| (partition, offset));
        let mut all = Vec::new();
        for (&partition, share) in queue.partitions.range(from..) {
            let after = if partition == from { after } else { -1 };
            all.extend(share.given_up(after).take(limit - all.len()).map(|g| GivenUpAt {
                partition,
                offset: g.offset,
                parked: g.parked,
                attempts: g.deliveries,
                at_ms: g.given_up.at_ms,
                reason: g.given_up.reason.to_string(),
                gone: g.gone,
            }));
        }
        Ok(QueueReply::GivenUp(all))
    }

    fn end_given_up(
        &mut self,
        name: &str,
        filter: &GivenUpFilter,
        redrive: bool,
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<QueueReply, QueueRefusal> {
        let queue = self.find_mut(name)?;
        let (mut touched, mut ended) = (Vec::new(), 0);
        for (&partition, share) in &mut queue.partitions {
            share.tick(now);
            let fits = |offset: i64, parked: bool, reason: &str| {
                filter.partition.is_none_or(|p| p == partition)
                    && filter.records.as_ref().is_none_or(|r| r.contains(&(partition, offset)))
                    && filter.parked.is_none_or(|p| p == parked)
                    && filter.reason.as_deref().is_none_or(|r| r == reason)
            };
            let chosen: Vec<i64> =
                share.given_up(-1).filter(|g| fits(g.offset, g.parked, &g.given_up.reason)).map(|g| g.offset).collect();
            for offset in chosen {
                let done = if redrive { share.redrive(offset) } else { share.discard(offset) };
                ended += usize::from(done);
            }
            touched.push(partition);
        }
        for partition in touched {
            self.flush(name, partition, out);
        }
        Ok(QueueReply::Ended(ended))
    }

    fn describe(
        &mut self,
        name: &str,
        log_starts: &[(i32, i64)],
        now: Now,
        out: &mut Outcome<Self>,
    ) -> Result<QueueReply, QueueRefusal> {
        let queue = self.find_mut(name)?;
        queue.pass_time(log_starts, now);
        let mut partitions = Vec::with_capacity(queue.partitions.len());
        for (&partition, share) in &mut queue.partitions {
            let (looked_at, settled_ahead) = share.looked_at();
            partitions.push(PartitionState {
                partition,
                counts: share.counts(),
                totals: share.totals(),
                looked_at,
                settled_ahead,
                start: share.start_offset(),
                oldest_ready: share.oldest_ready(),
                held_full: share.is_held_full(),
                blocked_by: share.blocked_by(BLOCKED_BY),
            });
        }
        let state = QueueState { id: queue.id, definition: queue.definition.clone(), partitions };
        let touched: Vec<i32> = queue.partitions.keys().copied().collect();
        for partition in touched {
            self.flush(name, partition, out);
        }
        Ok(QueueReply::Described(Box::new(state)))
    }
}

impl Queue {
    /// Leases run out, delays end, and retention takes what it takes.
    fn pass_time(&mut self, log_starts: &[(i32, i64)], now: Now) {
        self.partitions.values_mut().for_each(|share| share.tick(now));
        for (partition, log_start) in log_starts {
            if let Some(share) = self.partitions.get_mut(partition) {
                share.log_start_moved(*log_start);
            }
        }
    }

    fn held(&mut self, lease: &LeaseRef) -> Option<&mut SharePartition> {
        let share = self.partitions.get_mut(&lease.partition)?;
        (lease.queue == self.id && share.holds(*lease)).then_some(share)
    }

    fn lease_ref(&self, partition: i32, acquired: &Acquired, epoch: i32) -> Leased {
        let Acquired { offset, generation, attempt, leased_until_ms } = *acquired;
        let lease = LeaseRef { queue: self.id, partition, offset, generation, epoch };
        Leased { lease, attempt, leased_until_ms }
    }

    fn lease(
        &mut self,
        max: usize,
        lease_ms: Option<i64>,
        tag: Option<ReceiveTag>,
        now: Now,
    ) -> Result<Received, QueueRefusal> {
        if let Some(tag) = tag
            && let Some(leases) = self.leased_before(tag, now)?
        {
            return Ok(Received { leases, wants: Vec::new(), more: false, next_due: None, replayed: true });
        }
        let lease_ms = lease_ms.unwrap_or(self.definition.lease_ms);
        let mut leases = Vec::new();
        let first = self.next;
        let order: Vec<i32> =
            self.partitions.range(first..).chain(self.partitions.range(..first)).map(|(p, _)| *p).collect();
        for partition in &order {
            let Some(share) = self.partitions.get_mut(partition) else { continue };
            let acquired = share.acquire(max - leases.len(), lease_ms, now);
            let epoch = share.epoch();
            leases.extend(acquired.iter().map(|a| self.lease_ref(*partition, a, epoch)));
            if leases.len() >= max {
                // The one after it is next.
                self.next = partition + 1;
                break;
            }
        }
        if let Some(tag) = tag.filter(|_| !leases.is_empty()) {
            self.receives.put(tag, leases.iter().map(|l| l.lease).collect());
        }
        let mut wants = Vec::new();
        for (&partition, share) in &mut self.partitions {
            wants.extend(share.wants().map(|(from, room)| Want { partition, from, room }));
        }
        let more = self.partitions.values().any(|share| share.counts_ready() > 0);
        Ok(Received { leases, wants, more, next_due: self.next_due(), replayed: false })
    }

    fn next_due(&self) -> Option<Duration> {
        let next_due = self.partitions.values().filter_map(SharePartition::next_due_ms).min();
        next_due.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs()))
    }

    /// After how many records these leases may be told of.
    fn told_after(&self, leases: &[Leased]) -> u64 {
        if self.released.is_empty() {
            return self.since;
        }
        let of_key = |leased: &Leased| {
            let LeaseRef { partition, offset, .. } = leased.lease;
            let key = self.partitions.get(&partition).and_then(|share| share.key(offset));
            key.map_or(0, |key| self.released.after(partition, key))
        };
        leases.iter().map(of_key).fold(self.since, u64::max)
    }

    /// What of an earlier call under the same Idempotency-Key is still held.
    fn leased_before(&self, tag: ReceiveTag, now: Now) -> Result<Option<Vec<Leased>>, QueueRefusal> {
        let Some((request, leases)) = self.receives.get(&tag.key) else { return Ok(None) };
        if request != tag.request {
            return Err(QueueRefusal::IdempotencyConflict);
        }
        let held = leases.iter().filter_map(|lease| {
            let share = self.partitions.get(&lease.partition)?;
            let acquired = share.held_lease(*lease, now)?;
            Some(self.lease_ref(lease.partition, &acquired, share.epoch()))
        });
        let held: Vec<_> = held.collect();
        Ok((!held.is_empty()).then_some(held))
    }
}

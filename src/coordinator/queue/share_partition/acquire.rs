//! Taking records from the log into the window, and out of it to consumers.

use super::{Change, Durable, Now, SharePartition, Slot, State, Timing, Wait};
use crate::coordinator::queue::change::Cause;
use crate::coordinator::queue::due_blocks::block_of;
#[cfg(feature = "sabotage")]
use crate::coordinator::sabotage;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The log is looked at again when fewer than so many records are left that were not offered yet, so that no consumer has to
/// wait for a look.
const AHEAD: usize = 1_000;

/// A record of the log, as far as its delivery is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Its offset.
    pub offset: i64,
    /// Hash of its key, if it has one and order is by key.
    pub key: Option<u64>,
    /// Not to be delivered before, Unix ms.
    pub deliver_at_ms: Option<i64>,
}

/// A record that was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Its offset.
    pub offset: i64,
    /// The receive call, which is part of the lease.
    pub generation: u32,
    /// Which delivery it is, from 1.
    pub attempt: u16,
    /// Until when, Unix ms.
    pub leased_until_ms: i64,
}

impl SharePartition {
    /// From where on records of the log should be offered soon, and how many there is room for; `None` while there are
    /// enough others, or no room.
    pub fn wants(&mut self) -> Option<(i64, usize)> {
        self.skip_known();
        let window = self.settings.window as usize;
        let room = window.saturating_sub(self.slots.len());
        let left = (self.end() - self.fresh).max(0).unsigned_abs() as usize;
        // While some are left a little room waits for more.
        let enough = if left == 0 { 1 } else { self.window_part() };
        (left < AHEAD.min(window.div_ceil(4)) && room >= enough && !self.is_held_full()).then(|| (self.end(), room))
    }

    /// Takes the log's records of `from..to`, in order; offsets without one are holes. Gives the offset up to which it
    /// looked: less than `to` where the window is full. Nothing happens if `from` is not where [`Self::wants`] said.
    pub fn offer(&mut self, from: i64, to: i64, records: &[Offered], now: Now) -> i64 {
        if from != self.end() {
            return self.end();
        }
        for record in records {
            if record.offset < self.end() {
                continue;
            }
            if !self.pass_holes(record.offset) || !self.has_room() {
                break;
            }
            self.take(record, now);
        }
        if records.last().is_none_or(|last| self.end() > last.offset) {
            self.pass_holes(to);
        }
        self.known.drop_below(self.end());
        self.advance();
        self.end()
    }

    fn has_room(&self) -> bool {
        self.slots.len() < self.settings.window as usize
    }

    fn take(&mut self, record: &Offered, now: Now) {
        let offset = record.offset;
        let known = self.known.get(offset);
        let state = known.unwrap_or(Durable::NEW);
        let slot = self.slot_of(offset, state, record.key);
        // Of what the log speaks of, it also says when: what was redriven is not to wait again.
        if known.is_none()
            && let Some(wall_ms) = record.deliver_at_ms.filter(|at| *at > now.wall_ms)
        {
            self.waits.insert(offset, Wait::Wall(wall_ms));
        }
        self.push(slot);
    }

    fn push(&mut self, slot: Slot) {
        self.count(slot.state, true);
        if self.slots.len() == self.slots.capacity() {
            // As much again, but never more than a full window needs.
            let more =
                self.slots.len().clamp(64, (self.settings.window as usize).saturating_sub(self.slots.len()).max(64));
            self.slots.reserve_exact(more);
            self.timings.reserve_exact(more);
        }
        let offset = self.end();
        self.slots.push_back(slot);
        self.timings.push_back(Timing::default());
        self.note_parked(offset, slot);
    }

    /// Offsets up to `to` have no record. False if there is no room for the slots that say so.
    fn pass_holes(&mut self, to: i64) -> bool {
        while self.end() < to {
            let at = self.end();
            let given_up = self.given_up.from(at).next().map(|(offset, _)| offset).filter(|offset| *offset < to);
            if self.slots.is_empty() && given_up != Some(at) {
                // Nothing before them is left, so that the window can begin after them.
                self.jump_to(given_up.unwrap_or(to));
                continue;
            }
            if !self.has_room() {
                return false;
            }
            // A dead letter whose record is gone stays one until it is discarded; a parked one blocks nobody any more.
            let state = self.known.get(at).filter(|state| matches!(state, Durable::GivenUp { parked: false, .. }));
            let slot = self.slot_of(at, state.unwrap_or(Durable::Settled), None);
            self.push(slot);
            if let Some(Durable::GivenUp { parked: true, key, .. }) = self.known.get(at) {
                self.lose_parked(at, key);
                self.note(Change::Settled { from: at, to: at + 1, cause: Cause::Lost, by: None });
                self.totals.lost += 1;
            }
        }
        true
    }

    /// A parked record that was not looked at again is gone.
    fn lose_parked(&mut self, offset: i64, key: Option<u64>) {
        self.given_up.remove(offset);
        if let Some(key) = key {
            self.release(key, offset);
        }
    }

    /// Passes over slots that the log's state says are no longer to be delivered.
    fn skip_known(&mut self) {
        while self.fresh < self.end() && self.slot(self.fresh).is_some_and(|slot| slot.state != State::Ready) {
            self.fresh += 1;
        }
    }

    /// The ready record that comes first; where too many are held, only one that was delivered before.
    fn next_ready(&mut self) -> Option<i64> {
        let redelivered = loop {
            match self.ready.peek() {
                Some(&Reverse(offset)) if self.slot(offset).is_none_or(|slot| slot.state != State::Ready) => {
                    self.ready.pop();
                }
                peeked => break peeked.map(|offset| offset.0),
            }
        };
        self.skip_known();
        let fresh = (self.fresh < self.end() && !self.is_held_full()).then_some(self.fresh);
        match (redelivered, fresh) {
            (Some(offset), fresh) if fresh.is_none_or(|fresh| offset < fresh) => {
                self.ready.pop();
                Some(offset)
            }
            (_, Some(fresh)) => {
                self.fresh += 1;
                Some(fresh)
            }
            (_, None) => None,
        }
    }

    /// Leases up to `max` ready records for `lease_ms`, the lowest offsets first.
    pub fn acquire(&mut self, max: usize, lease_ms: i64, now: Now) -> Vec<Acquired> {
        let mut acquired = Vec::new();
        while acquired.len() < max {
            let Some(offset) = self.next_ready() else { break };
            if self.must_wait(offset, now) {
                continue;
            }
            if acquired.is_empty() {
                self.generation = self.generation.wrapping_add(1);
            }
            acquired.push(self.lease(offset, lease_ms, now));
        }
        if self.ready.is_empty() {
            // Whatever a peak needed goes back.
            self.ready = BinaryHeap::new();
        }
        self.advance();
        acquired
    }

    /// Whether its key is held or its time not come; then it waits for that.
    fn must_wait(&mut self, offset: i64, now: Now) -> bool {
        let key = self.key(offset);
        #[cfg(feature = "sabotage")]
        let key = key.filter(|_| !sabotage::is_on(&sabotage::KEYS_DO_NOT_WAIT));
        if let Some(key) = key
            && self.holder_of(key).is_some_and(|holder| holder != offset)
        {
            self.set_state(offset, State::Blocked);
            self.add_waiter(key, offset);
            return true;
        }
        let Some(wait) = self.waits.get(offset).copied() else { return false };
        if let Some(look_at) = wait.look_at(self.began_ms, now) {
            self.delay(offset, look_at, now);
            return true;
        }
        self.waits.remove(offset);
        false
    }

    fn lease(&mut self, offset: i64, lease_ms: i64, now: Now) -> Acquired {
        let generation = self.generation;
        let mut attempt = 0;
        if let Some(slot) = self.slot_mut(offset) {
            slot.generation = generation;
            slot.deliveries = slot.deliveries.saturating_add(1);
            attempt = slot.deliveries;
        }
        self.set_state(offset, State::Leased);
        self.start_timer(offset, now.monotonic_ms().saturating_add(lease_ms), now);
        if let Some(key) = self.key(offset) {
            self.set_holder(key, offset);
        }
        Acquired { offset, generation, attempt, leased_until_ms: now.wall_ms.saturating_add(lease_ms) }
    }

    /// Takes a lease back that no consumer ever saw: it does not count as a delivery.
    pub fn give_back(&mut self, offset: i64, generation: u32) {
        let Some(slot) = self.slot_mut(offset) else { return };
        if slot.state != State::Leased || slot.generation != generation {
            return;
        }
        slot.deliveries -= 1;
        self.make_ready(offset);
        self.release_key(offset);
    }

    /// A leased record is not in the log any more: retention or compaction was faster.
    pub fn gone(&mut self, offset: i64, generation: u32) {
        let leased = self.slot(offset).is_some_and(|s| s.state == State::Leased && s.generation == generation);
        if leased {
            self.settle(offset, Cause::Lost, None);
            self.advance();
        }
    }

    /// Readers can not see below this any more. What was not settled there is lost, and counted; a lease may still be
    /// settled, and dead letters stay as what they were.
    pub fn log_start_moved(&mut self, log_start: i64) {
        if log_start <= self.log_start {
            return;
        }
        self.log_start = log_start;
        let held: Vec<i64> = self.held.iter().map(|(offset, _)| offset).take_while(|o| *o < log_start).collect();
        let window = self.start..log_start.min(self.end());
        for offset in held.into_iter().chain(window) {
            let state = self.slot(offset).map_or(State::Settled, |slot| slot.state);
            if matches!(state, State::Ready | State::Delayed | State::Blocked | State::Parked) {
                self.settle(offset, Cause::Lost, None);
            }
        }
        if log_start > self.end() {
            self.lose_unseen(log_start);
        }
        self.skip_known();
        self.advance();
    }

    /// Retention overtook the window itself.
    fn lose_unseen(&mut self, log_start: i64) {
        while let Some(front) = self.slots.front().copied() {
            if front.state != State::Settled {
                self.hold_front(front);
            }
            self.drop_front();
        }
        let mut at = self.start;
        while at < log_start {
            let state = self.known.get(at);
            let next = self.known.next_boundary(at).unwrap_or(log_start).min(log_start);
            match state {
                Some(Durable::Settled) => {}
                Some(state @ Durable::GivenUp { parked: false, key, .. }) => {
                    let slot = self.slot_of(at, state, key);
                    self.count(slot.state, true);
                    self.note(Change::Held { offset: at, key: slot.key() });
                    self.hold(at, slot, Timing::default());
                }
                Some(Durable::Waiting { .. } | Durable::GivenUp { .. }) | None => {
                    if let Some(Durable::GivenUp { key, .. }) = state {
                        self.lose_parked(at, key);
                    }
                    self.totals.lost += (next - at).cast_unsigned();
                    self.note(Change::Settled { from: at, to: next, cause: Cause::Lost, by: None });
                }
            }
            at = next;
        }
        self.jump_to(log_start);
        self.known.drop_below(log_start);
    }

    /// The window, which is empty, begins here.
    fn jump_to(&mut self, start: i64) {
        let block = block_of(self.start);
        (self.start, self.fresh) = (start, start);
        self.forget_if_empty(block);
    }
}

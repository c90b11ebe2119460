//! Taking records from the log into the window, and out of it to consumers.

use super::{Change, Durable, Held, NotBefore, Now, SharePartition, Slot, State};
use crate::coordinator::queue::change::Cause;
#[cfg(feature = "sabotage")]
use crate::coordinator::sabotage;
use std::cmp::Reverse;

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
    /// From where on records of the log should be offered before the next [`Self::acquire`], and how many there is room
    /// for; `None` while there are others, or no room.
    pub fn wants(&mut self) -> Option<(i64, usize)> {
        self.skip_known();
        let room = (self.settings.window as usize).saturating_sub(self.slots.len());
        (self.fresh >= self.end() && room > 0 && !self.is_held_full()).then(|| (self.end(), room))
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
        let state = known.unwrap_or(Durable::Waiting { deliveries: 0, not_before_ms: 0 });
        let slot = self.slot_of(offset, state, record.key);
        // Of what the log speaks of, it also says when: what was redriven is not to wait again.
        if known.is_none()
            && let Some(wall_ms) = record.deliver_at_ms.filter(|at| *at > now.wall_ms)
        {
            self.not_before.insert(offset, NotBefore { wall_ms, monotonic_ms: None });
        }
        self.push(slot);
    }

    fn push(&mut self, slot: Slot) {
        self.count(slot.state, true);
        self.slots.push_back(slot);
        self.timers.push_back(super::NONE);
    }

    /// Offsets up to `to` have no record. False if there is no room for the slots that say so.
    fn pass_holes(&mut self, to: i64) -> bool {
        while self.end() < to {
            let at = self.end();
            let given_up = self.given_up.range(at..to).next().map(|(offset, _)| *offset);
            if self.slots.is_empty() && given_up != Some(at) {
                // Nothing before them is left, so that the window can begin after them.
                self.start = given_up.unwrap_or(to);
                self.fresh = self.start;
                continue;
            }
            if !self.has_room() {
                return false;
            }
            // A dead letter whose record is gone stays one until it is discarded.
            let state = self.known.get(at).filter(|state| matches!(state, Durable::GivenUp { parked: false, .. }));
            let slot = self.slot_of(at, state.unwrap_or(Durable::Settled), None);
            self.push(slot);
        }
        true
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
        self.advance();
        acquired
    }

    /// Whether its key is held or its time not come; then it waits for that.
    fn must_wait(&mut self, offset: i64, now: Now) -> bool {
        let key = self.slot(offset).and_then(Slot::key);
        #[cfg(feature = "sabotage")]
        let key = key.filter(|_| !sabotage::is_on(&sabotage::KEYS_DO_NOT_WAIT));
        if let Some(key) = key
            && self.holders.get(&key).is_some_and(|holder| *holder != offset)
        {
            self.set_state(offset, State::Blocked);
            self.waiters.insert((key, offset));
            return true;
        }
        match self.not_before.get(&offset).copied() {
            Some(wait) if !wait.is_over(now) => {
                self.delay(offset, wait.look_at(now), now);
                true
            }
            Some(_) => {
                self.not_before.remove(&offset);
                false
            }
            None => false,
        }
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
        let timer = self.wheel.insert(offset, now.monotonic_ms().saturating_add(lease_ms), now.wall_ms);
        self.set_timer(offset, timer);
        if let Some(key) = self.slot(offset).and_then(Slot::key) {
            self.holders.insert(key, offset);
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
        self.stop_timer(offset);
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
        let held: Vec<i64> = self.held.range(..log_start).map(|(offset, _)| *offset).collect();
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
                    self.held.insert(at, Held { slot, timer: super::NONE });
                }
                Some(Durable::Waiting { .. } | Durable::GivenUp { .. }) | None => {
                    if let Some(Durable::GivenUp { key: Some(key), .. }) = state {
                        self.given_up.remove(&at);
                        self.release(key, at);
                    }
                    self.totals.lost += (next - at).cast_unsigned();
                    self.note(Change::Settled { from: at, to: next, cause: Cause::Lost, by: None });
                }
            }
            at = next;
        }
        self.start = log_start;
        self.fresh = log_start;
        self.known.drop_below(log_start);
    }
}

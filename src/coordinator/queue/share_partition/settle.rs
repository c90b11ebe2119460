//! What consumers and operators decide about single records.

use super::{By, Cause, Change, Durable, NotBefore, Now, SharePartition, Slot, State};
use crate::coordinator::queue::change::Verdict;
use crate::coordinator::queue::lease::LeaseRef;

/// What to do with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It is not: deliver it again, after the delay (ms), or the queue's backoff.
    Nack {
        /// How long to wait; `None`: as the queue says.
        delay_ms: Option<i64>,
        /// Why, for people; kept if it was the last delivery.
        reason: String,
    },
    /// It can not be done: give it up now.
    Reject {
        /// Why, for people.
        reason: String,
    },
    /// Keep the lease at least this long from now (ms).
    Extend {
        /// How long.
        lease_ms: i64,
    },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Settled,
    /// The same was said of the same lease before.
    AlreadySettled,
    /// The lease holds until this Unix time in ms.
    Extended(i64),
    /// The lease was not held any more: it ran out, or was settled in another way.
    Lost,
}

impl SharePartition {
    /// Settles or extends one lease. What it changed is in the next delta, and no answer may go out before that is
    /// committed.
    pub fn settle_lease(&mut self, lease: LeaseRef, settlement: &Settlement, now: Now) -> Outcome {
        let LeaseRef { offset, generation, epoch, .. } = lease;
        let held = epoch == self.epoch
            && self.slot(offset).is_some_and(|s| s.state == State::Leased && s.generation == generation);
        let verdict = match settlement {
            Settlement::Ack => Verdict::Ack,
            Settlement::Nack { .. } => Verdict::Nack,
            Settlement::Reject { .. } => Verdict::Reject,
            Settlement::Extend { lease_ms } if held => return self.extend(offset, *lease_ms, now),
            Settlement::Extend { .. } => return Outcome::Lost,
        };
        if !held {
            let before = self.history.verdict(epoch, generation, offset);
            return if before == Some(verdict) { Outcome::AlreadySettled } else { Outcome::Lost };
        }
        let by = Some(By { generation, verdict });
        match settlement {
            Settlement::Nack { delay_ms, reason } => {
                let deliveries = self.slot(offset).map_or(0, |slot| slot.deliveries);
                let backoff = || self.settings.backoff.map_or(0, |backoff| backoff.after(deliveries));
                let delay_ms = delay_ms.unwrap_or_else(backoff);
                self.give_back_or_up(offset, delay_ms, reason, by, now);
            }
            Settlement::Reject { .. } if offset < self.log_start => self.settle(offset, Cause::Lost, by),
            Settlement::Reject { reason } => self.give_up(offset, reason, by, now),
            Settlement::Ack | Settlement::Extend { .. } => self.settle(offset, Cause::Acked, by),
        }
        self.advance();
        Outcome::Settled
    }

    /// An extension never shortens.
    fn extend(&mut self, offset: i64, lease_ms: i64, now: Now) -> Outcome {
        let due = self.due_ms(self.timing(offset)).max(now.monotonic_ms().saturating_add(lease_ms));
        self.postpone(offset, due);
        Outcome::Extended(now.wall_ms.saturating_add(due - now.monotonic_ms()))
    }

    /// Whether a lease is held now.
    #[must_use]
    pub fn holds(&self, lease: LeaseRef) -> bool {
        lease.epoch == self.epoch
            && self.slot(lease.offset).is_some_and(|s| s.state == State::Leased && s.generation == lease.generation)
    }

    /// The lease that is held under this generation, as [`super::Acquired`] said it, with its present end.
    #[must_use]
    pub fn held_lease(&self, lease: LeaseRef, now: Now) -> Option<super::Acquired> {
        if !self.holds(lease) {
            return None;
        }
        let left = self.due_ms(self.timing(lease.offset)) - now.monotonic_ms();
        Some(super::Acquired {
            offset: lease.offset,
            generation: lease.generation,
            attempt: self.slot(lease.offset)?.deliveries,
            leased_until_ms: now.wall_ms.saturating_add(left),
        })
    }

    /// Delivers a dead letter or parked record again, with a new count. False if it is neither; one whose record is gone
    /// is lost instead.
    pub fn redrive(&mut self, offset: i64) -> bool {
        self.end_giving_up(offset, None)
    }

    /// Settles a dead letter or parked record for good. False if it is neither.
    pub fn discard(&mut self, offset: i64) -> bool {
        self.end_giving_up(offset, Some(Cause::Discarded))
    }

    fn end_giving_up(&mut self, offset: i64, cause: Option<Cause>) -> bool {
        let cause = cause.or((offset < self.log_start).then_some(Cause::Lost));
        if offset >= self.end() {
            return self.end_known(offset, cause);
        }
        if !self.slot(offset).is_some_and(|slot| matches!(slot.state, State::Dead | State::Parked)) {
            return false;
        }
        if let Some(cause) = cause {
            self.settle(offset, cause, None);
        } else {
            self.given_up.remove(offset);
            if let Some(slot) = self.slot_mut(offset) {
                slot.deliveries = 0;
            }
            self.note(Change::Waiting {
                from: offset,
                to: offset + 1,
                deliveries: 0,
                not_before: NotBefore::AT_ONCE,
                by: None,
            });
            self.make_ready(offset);
            self.release_key(offset);
        }
        self.advance();
        true
    }

    /// The same of one that was not looked at again since this ownership began.
    fn end_known(&mut self, offset: i64, cause: Option<Cause>) -> bool {
        let Some(Durable::GivenUp { key, .. }) = self.known.get(offset) else { return false };
        let (from, to) = (offset, offset + 1);
        self.given_up.remove(offset);
        match cause {
            Some(cause) => {
                self.known.set(from, to, Durable::Settled);
                self.totals.add(cause, 1);
                self.note(Change::Settled { from, to, cause, by: None });
            }
            None => {
                self.known.set(from, to, Durable::NEW);
                self.note(Change::Waiting { from, to, deliveries: 0, not_before: NotBefore::AT_ONCE, by: None });
            }
        }
        if let Some(key) = key {
            self.release(key, offset);
        }
        true
    }
}

impl Slot {
    /// For tests and statistics.
    pub(super) const fn is_given_up(&self) -> bool {
        matches!(self.state, State::Dead | State::Parked)
    }
}

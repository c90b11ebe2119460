//! What operators see of it.

use super::{Durable, SharePartition, Slot, State};
use crate::coordinator::queue::change::Cause;
use crate::coordinator::queue::durable::GivenUp;

/// Records by what they wait for. What was not looked at yet (from [`SharePartition::looked_at`] on) is in none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be delivered now.
    pub ready: u64,
    /// At a consumer.
    pub leased: u64,
    /// Until their time comes.
    pub delayed: u64,
    /// Behind another record of their key.
    pub blocked: u64,
    /// Given up, their key blocked.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
}

/// Records that were settled since the queue was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Acknowledged.
    pub acked: u64,
    /// Given up and skipped.
    pub skipped: u64,
    /// Discarded by hand.
    pub discarded: u64,
    /// Removed by retention or compaction before they were settled.
    pub lost: u64,
}

impl Totals {
    pub(in crate::coordinator::queue) fn add(&mut self, cause: Cause, count: u64) {
        let total = match cause {
            Cause::Acked => &mut self.acked,
            Cause::Skipped => &mut self.skipped,
            Cause::Discarded => &mut self.discarded,
            Cause::Lost => &mut self.lost,
        };
        *total = total.saturating_add(count);
    }

    pub(in crate::coordinator::queue) const fn all(&self) -> [u64; 4] {
        [self.acked, self.skipped, self.discarded, self.lost]
    }

    pub(in crate::coordinator::queue) const fn from_all([acked, skipped, discarded, lost]: [u64; 4]) -> Self {
        Self { acked, skipped, discarded, lost }
    }
}

/// In which state a record holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderState {
    /// A consumer has it.
    Leased,
    /// It waits for its time.
    Delayed,
    /// It was given up, and waits for somebody.
    Parked,
}

/// A key behind which records wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockedBy {
    /// The record that holds it.
    pub offset: i64,
    /// How.
    pub state: HolderState,
    /// Since when, Unix ms.
    pub since_ms: i64,
    /// How many wait.
    pub waiting: u64,
}

/// A record that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpRecord<'a> {
    /// Its offset.
    pub offset: i64,
    /// Whether it blocks its key.
    pub parked: bool,
    /// Deliveries before.
    pub deliveries: u16,
    /// When and why.
    pub given_up: &'a GivenUp,
    /// Retention removed the record.
    pub gone: bool,
}

impl SharePartition {
    /// Records by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            ready: self.counts[State::Ready as usize],
            leased: self.counts[State::Leased as usize],
            delayed: self.counts[State::Delayed as usize],
            blocked: self.counts[State::Blocked as usize],
            parked: self.counts[State::Parked as usize],
            dead: self.counts[State::Dead as usize],
        };
        // Given up before this ownership, and not looked at again.
        for (_, _, state) in self.known.iter() {
            match state {
                Durable::GivenUp { parked: true, .. } => counts.parked += 1,
                Durable::GivenUp { parked: false, .. } => counts.dead += 1,
                Durable::Settled | Durable::Waiting { .. } => {}
            }
        }
        counts
    }

    /// How many are ready.
    #[must_use]
    pub const fn counts_ready(&self) -> u64 {
        self.counts[State::Ready as usize]
    }

    /// The window or the held set is full, so that nothing new is taken from the log.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.slots.len() >= self.settings.window as usize || self.is_held_full()
    }

    /// Records settled since the queue was made.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// The first offset of the log that was not looked at yet, and how many records from there on are settled already.
    #[must_use]
    pub fn looked_at(&self) -> (i64, u64) {
        let settled = |(from, to, state): (i64, i64, Durable)| match state {
            Durable::Settled | Durable::GivenUp { .. } => (to - from).cast_unsigned(),
            Durable::Waiting { .. } => 0,
        };
        (self.end(), self.known.iter().map(settled).sum())
    }

    /// Where the window begins: below it all is settled or held.
    #[must_use]
    pub const fn start_offset(&self) -> i64 {
        self.start
    }

    /// The lowest offset that would be delivered now; `None` if it would have to be looked for in the log.
    #[must_use]
    pub fn oldest_ready(&self) -> Option<i64> {
        let is_ready = |offset: &i64| self.slot(*offset).is_some_and(|slot| slot.state == State::Ready);
        // The heap's first may be stale; then any other will do, and all of them are few.
        let redelivered = self.ready.iter().map(|r| r.0).filter(is_ready).min();
        let fresh = (self.fresh..self.end()).find(is_ready);
        redelivered.into_iter().chain(fresh).min()
    }

    /// Too many are held: nothing new is taken from the log.
    #[must_use]
    pub fn is_held_full(&self) -> bool {
        let [_, _, delayed, blocked, parked, dead] = self.counts;
        // Held records that became ready with a new ownership may be blocked again.
        let held = (delayed + blocked + parked + dead).max(self.held.len() as u64);
        held >= u64::from(self.settings.max_held)
    }

    /// The keys behind which most records wait, at most `limit`.
    #[must_use]
    pub fn blocked_by(&self, limit: usize) -> Vec<BlockedBy> {
        let mut waiting: Vec<(u64, u64)> = Vec::new();
        for key in self.waiters.iter().map(|offset| self.key_at(*offset)) {
            match waiting.last_mut().filter(|(last, _)| *last == key) {
                Some((_, count)) => *count += 1,
                None => waiting.push((key, 1)),
            }
        }
        let blocked = |(key, waiting)| self.holder(self.holder_of(key)?, waiting);
        let mut all: Vec<_> = waiting.into_iter().filter_map(blocked).collect();
        all.sort_by_key(|blocked| (std::cmp::Reverse(blocked.waiting), blocked.offset));
        all.truncate(limit);
        all
    }

    fn holder(&self, offset: i64, waiting: u64) -> Option<BlockedBy> {
        let since_timer = || self.since_ms(self.timing(offset));
        let since_given_up = || self.given_up.get(offset).map_or(0, |given_up| given_up.at_ms);
        let (state, since_ms) = match self.slot(offset).map(|slot| slot.state) {
            Some(State::Leased) => (HolderState::Leased, since_timer()),
            Some(State::Delayed) => (HolderState::Delayed, since_timer()),
            Some(State::Parked) | None => (HolderState::Parked, since_given_up()),
            Some(State::Ready | State::Blocked | State::Dead | State::Settled) => return None,
        };
        Some(BlockedBy { offset, state, since_ms, waiting })
    }

    /// Dead letters and parked records above an offset, in order.
    pub fn given_up(&self, after: i64) -> impl Iterator<Item = GivenUpRecord<'_>> {
        self.given_up.from(after.saturating_add(1)).filter_map(|(offset, given_up)| {
            let (parked, deliveries) =
                match (self.slot(offset).filter(|slot| slot.is_given_up()), self.known.get(offset)) {
                    (Some(slot), _) => (slot.state == State::Parked, slot.deliveries),
                    (None, Some(Durable::GivenUp { parked, deliveries, .. })) => (parked, deliveries),
                    _ => return None,
                };
            Some(GivenUpRecord { offset, parked, deliveries, given_up, gone: offset < self.log_start })
        })
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.timings.capacity() * size_of::<super::Timing>()
            + self.ready.capacity() * size_of::<i64>()
            + self.due.memory()
            + self.held.memory()
            + self.holders.memory()
            + self.waiters.memory()
            + self.waits.memory()
            + self.given_up.memory()
    }
}

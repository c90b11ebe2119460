//! Times: when leases run out and delays end.
//!
//! **Invariant**: a record that is leased or delayed has a time after the last tick, at most 49 days after it; whatever was
//! due then is over. So four bytes say which millisecond it is.

use super::{NotBefore, SharePartition, State, due_blocks};
use crate::coordinator::Now;
#[cfg(feature = "sabotage")]
use crate::coordinator::sabotage;

/// How long a wait until a given Unix time goes without looking at the clock again, which may have jumped.
pub(super) const LOOK_AGAIN_MS: i64 = 5_000;

/// When a record was leased or delayed, and until when: the low 32 bits of monotonic milliseconds. All that can still
/// fire does so within 49 days of the last tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    due: u32,
    since: u32,
}

/// Until when a record is not to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until this time of day (Unix ms), which the record names.
    Wall(i64),
    /// For a delay that began under this ownership and ends with its timer; the rest is what survives.
    Delay { wall_ms: i64, delay_ms: u32 },
    /// For a delay that began under an earlier ownership. The time of day says when it ends, but a clock that is wrong does
    /// not make it longer: no later than its length after this ownership began.
    Stored { wall_ms: i64, delay_ms: u32 },
}

const _: () = assert!(size_of::<Wait>() == 16);

impl Wait {
    /// As the log says; `None` if it waits for nothing.
    pub(super) const fn stored(not_before: NotBefore) -> Option<Self> {
        match not_before {
            NotBefore { wall_ms: ..=0, .. } => None,
            NotBefore { wall_ms, delay_ms: 0 } => Some(Self::Wall(wall_ms)),
            NotBefore { wall_ms, delay_ms } => Some(Self::Stored { wall_ms, delay_ms }),
        }
    }

    pub(super) const fn not_before(&self) -> NotBefore {
        let (wall_ms, delay_ms) = match *self {
            Self::Wall(wall_ms) => (wall_ms, 0),
            Self::Delay { wall_ms, delay_ms } | Self::Stored { wall_ms, delay_ms } => (wall_ms, delay_ms),
        };
        NotBefore { wall_ms, delay_ms }
    }

    /// When to look at the clock again, monotonic, under an ownership that began then; `None` if its time has come.
    pub(super) fn look_at(&self, began_ms: i64, now: Now) -> Option<i64> {
        let now_ms = now.monotonic_ms();
        let (wall_ms, latest_ms) = match *self {
            Self::Delay { .. } => return None,
            Self::Wall(wall_ms) => (wall_ms, i64::MAX),
            Self::Stored { wall_ms, delay_ms } => (wall_ms, began_ms + i64::from(delay_ms)),
        };
        let left = wall_ms.saturating_sub(now.wall_ms).min(latest_ms.saturating_sub(now_ms)).min(LOOK_AGAIN_MS);
        (left > 0).then(|| now_ms + left)
    }
}

impl SharePartition {
    /// Lets time pass: leases that ran out are over, delays that ended too.
    pub fn tick(&mut self, now: Now) {
        let mut due = Vec::new();
        for block in self.due.take_due(now.monotonic_ms()) {
            self.look_through(block, now, &mut due);
        }
        self.ticked = now;
        for offset in due {
            match self.slot(offset).map(|slot| slot.state) {
                #[cfg(feature = "sabotage")]
                Some(State::Leased) if sabotage::is_on(&sabotage::LEASES_STAY) => {}
                Some(State::Leased) => self.give_back_or_up(offset, 0, "its lease ran out", None, now),
                Some(State::Delayed) => self.end_delay(offset, now),
                _ => {}
            }
        }
        self.advance();
    }

    /// Whose time has come of a block, in order; of the others it notes when to look again.
    fn look_through(&mut self, block: i64, now: Now, due: &mut Vec<i64>) {
        let offsets = due_blocks::offsets_of(block);
        let held = self.held.from(offsets.start).take_while(|(offset, _)| *offset < offsets.end.min(self.start));
        let held = held.map(|(offset, held)| (offset, held.slot.state, held.timing));
        let window = offsets.start.max(self.start)..offsets.end.min(self.end());
        let window = window.filter_map(|offset| {
            let at = usize::try_from(offset - self.start).ok()?;
            Some((offset, self.slots.get(at)?.state, *self.timings.get(at)?))
        });
        let mut least = None;
        for (offset, state, timing) in held.chain(window) {
            if !matches!(state, State::Leased | State::Delayed) {
                continue;
            }
            let due_ms = self.due_ms(timing);
            if due_ms <= now.monotonic_ms() {
                due.push(offset);
            } else {
                least = Some(least.map_or(due_ms, |least: i64| least.min(due_ms)));
            }
        }
        if let Some(least) = least {
            self.due.note(block, least);
        }
    }

    /// A moment of the monotonic clock before which [`Self::tick`] has nothing to do.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<i64> {
        self.due.next_ms()
    }

    fn end_delay(&mut self, offset: i64, now: Now) {
        let wait = self.waits.get(offset).copied();
        if let Some(look_at) = wait.and_then(|wait| wait.look_at(self.began_ms, now)) {
            self.postpone(offset, look_at);
            return;
        }
        // A time of day is looked at once more when its turn comes: the clock may be set back until then.
        if matches!(wait, Some(Wait::Delay { .. })) {
            self.waits.remove(offset);
        }
        self.make_ready(offset);
        self.release_key(offset);
    }

    pub(super) fn timing(&self, offset: i64) -> Timing {
        let found = if offset < self.start {
            self.held.get(offset).map(|held| held.timing)
        } else {
            usize::try_from(offset - self.start).ok().and_then(|at| self.timings.get(at).copied())
        };
        found.unwrap_or_default()
    }

    fn timing_mut(&mut self, offset: i64) -> Option<&mut Timing> {
        if offset < self.start {
            return self.held.get_mut(offset).map(|held| &mut held.timing);
        }
        self.timings.get_mut(usize::try_from(offset - self.start).ok()?)
    }

    /// When it fires, on the monotonic clock: nothing is set that was due at the last tick.
    pub(super) fn due_ms(&self, timing: Timing) -> i64 {
        let ticked = self.ticked.monotonic_ms();
        ticked + i64::from(timing.due.wrapping_sub(ticked as u32))
    }

    /// The time of day when it was set.
    pub(super) fn since_ms(&self, timing: Timing) -> i64 {
        self.ticked.wall_ms - i64::from((self.ticked.monotonic_ms() as u32).wrapping_sub(timing.since))
    }

    /// Sets its time; the state says that it has one.
    pub(super) fn start_timer(&mut self, offset: i64, due_ms: i64, now: Now) {
        if let Some(timing) = self.timing_mut(offset) {
            timing.since = now.monotonic_ms() as u32;
        }
        self.postpone(offset, due_ms);
    }

    pub(super) fn postpone(&mut self, offset: i64, due_ms: i64) {
        let due_ms = due_ms.min(self.ticked.monotonic_ms() + i64::from(u32::MAX / 2));
        if let Some(timing) = self.timing_mut(offset) {
            timing.due = due_ms as u32;
            self.due.note(due_blocks::block_of(offset), due_ms);
        }
    }

    /// A block all of which lies below the window, and of which nothing is held, has nothing that could be due.
    pub(super) fn forget_if_empty(&mut self, block: i64) {
        let offsets = due_blocks::offsets_of(block);
        let held = self.held.from(offsets.start).next().is_some_and(|(offset, _)| offset < offsets.end);
        if offsets.end <= self.start && !held {
            self.due.forget(block);
        }
    }
}

//! How long a log lets appends gather before it writes and syncs them. Pure.
//!
//! A sync costs as much for one record as for a hundred. Producers that wait for each answer send their next record
//! right after it; where many do, a sync for the few that are back already would be followed by the next at once, and the
//! machine would spend itself on syncs. So the log waits for those that it expects, as many as it saw come within one
//! wait. It looks after every [`SLICE`], and goes on only while some came in it, and no longer than [`MOST_TIME`]: where
//! fewer producers are than expected, that costs a slice.
//!
//! **Invariant**: where few producers are, nothing waits: below [`FROM`] in flight the answer is always no.

use std::time::Duration;

/// From so many appends in flight at once it pays to wait.
const FROM: usize = 8;
/// A group of so many is large enough that its sync is a small part of each.
const MOST: usize = 128;
/// Bytes that are worth a sync of their own.
const MOST_BYTES: usize = 256 << 10;
/// A look whether more came.
const SLICE: Duration = Duration::from_micros(250);
/// The longest wait. Where it is reached, that many producers share the machine that each waits longer for its turn.
const MOST_TIME: Duration = Duration::from_millis(5);
/// After so many waits that were filled in time, more are asked for: there may be more producers than were seen.
const PROBE_AFTER: u32 = 8;

/// What one log knows of its producers.
#[derive(Debug)]
pub(super) struct Gathering {
    /// How many are expected.
    expected: usize,
    /// Waits in a row that were filled in time.
    filled: u32,
    /// When the wait under way began, by the monotonic clock.
    since: Duration,
    /// How many had come at the last look.
    seen: usize,
}

impl Default for Gathering {
    fn default() -> Self {
        Self { expected: FROM, filled: 0, since: Duration::ZERO, seen: 0 }
    }
}

impl Gathering {
    /// Whether to begin a wait, with `answered` appends just answered and these staged: for how many, and until when
    /// to look.
    pub(super) fn wait(
        &mut self,
        now: Duration,
        answered: usize,
        staged: usize,
        staged_bytes: usize,
    ) -> Option<(usize, Duration)> {
        let worth = answered + staged >= FROM && staged < self.expected && staged_bytes < MOST_BYTES;
        (self.since, self.seen) = (now, staged);
        worth.then_some((self.expected, SLICE))
    }

    /// Whether a wait goes on after a slice, and for how long.
    pub(super) fn goes_on(&mut self, now: Duration, staged: usize) -> Option<Duration> {
        let more = staged > std::mem::replace(&mut self.seen, staged);
        (more && now.saturating_sub(self.since) < MOST_TIME).then_some(SLICE)
    }

    /// Whether these end a wait for `expected`.
    pub(super) const fn is_enough(expected: usize, staged: usize, staged_bytes: usize) -> bool {
        staged >= expected || staged_bytes >= MOST_BYTES
    }

    /// A wait is over, with so many staged; `filled` if they were enough.
    pub(super) fn ended(&mut self, filled: bool, staged: usize) {
        if !filled {
            // Half of what is missing may be late only this once.
            self.expected = usize::midpoint(self.expected, staged).clamp(FROM, MOST);
            self.filled = 0;
            return;
        }
        self.filled += 1;
        if self.filled >= PROBE_AFTER {
            self.expected = (self.expected * 2).min(MOST);
            self.filled = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    #[test]
    fn few_producers_never_wait() {
        let mut gathering = Gathering::default();
        for in_flight in 0..FROM {
            assert_eq!(gathering.wait(NOW, in_flight, 0, 0), None);
            assert_eq!(gathering.wait(NOW, 0, in_flight, 0), None);
        }
    }

    #[test]
    fn large_groups_do_not_wait_for_more() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.wait(NOW, FROM, 3, MOST_BYTES), None);
        (0..1000).for_each(|_| gathering.ended(true, MOST));
        assert_eq!(gathering.wait(NOW, MOST, MOST, 0), None);
        assert_eq!(gathering.wait(NOW, MOST, MOST - 1, 0), Some((MOST, SLICE)));
        assert!(Gathering::is_enough(MOST, 1, MOST_BYTES) && !Gathering::is_enough(MOST, 1, 0));
    }

    #[test]
    fn a_wait_goes_on_while_some_come_and_not_for_ever() {
        let mut gathering = Gathering::default();
        assert!(gathering.wait(NOW, FROM, 2, 0).is_some());
        assert_eq!(gathering.goes_on(NOW + SLICE, 3), Some(SLICE));
        assert_eq!(gathering.goes_on(NOW + SLICE * 2, 3), None, "nothing came");
        assert!(gathering.wait(NOW, FROM, 2, 0).is_some());
        assert_eq!(gathering.goes_on(NOW + MOST_TIME, 7), None, "it took too long");
    }

    #[test]
    fn it_learns_how_many_there_are() {
        let mut gathering = Gathering::default();
        // 21 producers: a wait for more runs out of time, and few waits do.
        let mut ran_out = 0;
        for _ in 0..100 {
            let Some((expected, _)) = gathering.wait(NOW, 21, 0, 0) else { panic!("21 are in flight") };
            ran_out += usize::from(expected > 21);
            gathering.ended(expected <= 21, expected.min(21));
        }
        assert!((1..=40).contains(&ran_out), "{ran_out}");
    }
}

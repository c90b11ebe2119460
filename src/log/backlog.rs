//! Whether what waits to be written is late: what came now would be later still, and is better refused. Pure.
//!
//! An append waits for the group that is being written, and goes into the next one. While all that waits fits into that one,
//! more of it costs nobody time, however slow the disk is; what is beyond it waits for a group more. So a log is late if what
//! waits is more than a group and takes longer than it should; or if the first of it waits so long already, because many logs
//! share the disk and the processors.
//!
//! **Invariant**: few appends are never late, however large they are and however long they wait: up to [`FEW`] the answer is
//! always no.
//!
//! Called by `partition_log`, with the front's lock held, and by `writer`.

use std::time::Duration;

/// So many appends may always wait: with fewer the disk and the processors would run dry between two groups.
const FEW: usize = 32;
/// The wait that is wanted at most, besides that for the disk. It is more than appends gather for (see `gathering`).
const WAIT: Duration = Duration::from_millis(10);
/// Syncs that an append may wait for: the one under way, and one for its log's turn among others.
const SYNCS: u32 = 2;
/// Groups of at least this part of the largest say how long that one takes; in small ones each byte costs more.
const LARGE_PART: usize = 16;
/// How much of what is known of a group's time stays when the next is seen, in parts of `KEPT + 1`.
const KEPT: u32 = 3;

/// How fast a log is written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// How long the last sync took that appends waited for.
    sync: Duration,
    /// How long the largest group takes, about, from its beginning until it is published.
    group: Duration,
    /// A group was written: before, nothing is known of the disk.
    known: bool,
}

impl Pace {
    /// A sync that appends waited for.
    pub(super) fn synced(&mut self, took: Duration) {
        self.sync = took;
    }

    /// A group was published, of `bytes`, where `largest` are possible.
    pub(super) fn published(&mut self, bytes: usize, largest: usize, took: Duration) {
        self.known = true;
        if bytes >= largest / LARGE_PART && bytes > 0 {
            let whole = took.mul_f64(largest as f64 / bytes as f64);
            self.group = if self.group.is_zero() { whole } else { (self.group * KEPT + whole) / (KEPT + 1) };
        }
    }
}

/// The appends that wait in one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    /// How many.
    pub(super) appends: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    /// When the first of them came, by the monotonic clock.
    pub(super) oldest: Duration,
}

impl Backlog {
    /// Whether they wait longer than they should, where a group has at most so many bytes.
    pub(super) fn is_late(&self, pace: Pace, largest: usize, now: Duration) -> bool {
        let has_waited = || pace.known && now.saturating_sub(self.oldest) > WAIT + pace.sync * SYNCS;
        let will_wait = || pace.group.mul_f64(self.bytes as f64 / largest.max(1) as f64) > WAIT;
        self.appends > FEW && (self.bytes > largest && will_wait() || has_waited())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);
    const GROUP: usize = 4 << 20;

    #[test]
    fn few_appends_are_never_late() {
        let pace = Pace { sync: Duration::ZERO, group: MS, known: true };
        let backlog = |appends| Backlog { appends, bytes: GROUP * 100, oldest: Duration::ZERO };
        assert!(!backlog(FEW).is_late(pace, GROUP, Duration::from_hours(1)));
        assert!(backlog(FEW + 1).is_late(pace, GROUP, Duration::from_hours(1)));
        assert!(backlog(FEW + 1).is_late(pace, GROUP, Duration::ZERO), "a hundred groups of a millisecond");
    }

    #[test]
    fn the_disks_own_time_is_no_delay() {
        let backlog = Backlog { appends: 1000, bytes: GROUP, oldest: 100 * MS };
        let pace = Pace { sync: 50 * MS, group: 60 * MS, known: true };
        assert!(!backlog.is_late(pace, GROUP, 200 * MS + WAIT), "the next group takes them all");
        assert!(backlog.is_late(pace, GROUP, 201 * MS + WAIT), "two syncs, and it has not come");
        assert!(Backlog { bytes: GROUP + 1, ..backlog }.is_late(pace, GROUP, 100 * MS), "it does not take them all");
        assert!(!backlog.is_late(pace, GROUP, Duration::ZERO), "a clock that went back");
    }

    #[test]
    fn small_groups_do_not_say_how_long_large_ones_take() {
        let mut pace = Pace::default();
        pace.published(0, GROUP, MS);
        pace.published(GROUP / LARGE_PART - 1, GROUP, MS);
        assert_eq!(pace.group, Duration::ZERO);
        pace.published(GROUP / 4, GROUP, MS);
        assert_eq!(pace.group, 4 * MS);
        pace.published(GROUP, GROUP, 8 * MS);
        assert_eq!(pace.group, 5 * MS, "one moves it by a quarter");
    }

    /// A log that writes one group after the other, as `writer` does. All appends have the same size.
    struct Log {
        /// How many a group takes at most.
        group: usize,
        /// What a group takes besides its sync, for each append.
        each: Duration,
        sync: Duration,
        now: Duration,
        pace: Pace,
        staged: VecDeque<Duration>,
        refused: usize,
        accepted: usize,
    }

    impl Log {
        fn new(group: usize, each: Duration, sync: Duration) -> Self {
            let (now, pace, staged) = (Duration::ZERO, Pace::default(), VecDeque::new());
            Self { group, each, sync, now, pace, staged, refused: 0, accepted: 0 }
        }

        fn offer(&mut self, at: Duration) {
            let (appends, oldest) = (self.staged.len(), self.staged.front().copied().unwrap_or_default());
            let backlog = Backlog { appends, bytes: appends * GROUP / self.group, oldest };
            if backlog.is_late(self.pace, GROUP, at) {
                self.refused += 1;
            } else {
                self.accepted += 1;
                self.staged.push_back(at);
            }
        }

        /// Writes a group while others come, `gap` after each other; gives the longest time from coming to the answer.
        fn turn(&mut self, gap: Option<Duration>, next: &mut Duration) -> Duration {
            if self.staged.is_empty() {
                self.now = self.now.max(*next);
                self.offer(self.now);
                *next = self.now + gap.unwrap_or_default();
            }
            let taken: Vec<_> = self.staged.drain(..self.group.min(self.staged.len())).collect();
            let end = self.now + self.each * taken.len() as u32 + self.sync;
            while let Some(gap) = gap.filter(|_| *next < end) {
                self.offer(*next);
                *next += gap;
            }
            self.pace.synced(self.sync);
            self.pace.published(taken.len() * GROUP / self.group, GROUP, end - self.now);
            self.now = end;
            taken.iter().map(|came| end - *came).max().unwrap_or_default()
        }

        /// An open loop at a multiple of what it can take: the longest time to an answer (once the pace is known), and the
        /// part of its capacity that was accepted.
        fn load(&mut self, times: f64) -> (Duration, f64) {
            let capacity = self.group as f64 / (self.each * self.group as u32 + self.sync).as_secs_f64();
            let gap = Duration::from_secs_f64(1.0 / (times * capacity));
            let (mut next, mut longest) = (Duration::ZERO, Duration::ZERO);
            while self.now < Duration::from_secs(20) {
                let took = self.turn(Some(gap), &mut next);
                longest = if self.now < Duration::from_secs(5) { took } else { longest.max(took) };
            }
            (longest, self.accepted as f64 / (capacity * self.now.as_secs_f64()))
        }
    }

    #[test]
    fn beyond_capacity_the_wait_is_bounded_and_nothing_is_lost_of_the_throughput() {
        for sync in [MS / 10, MS, 4 * MS, 50 * MS] {
            for times in [1.5, 2.0, 10.0] {
                let mut log = Log::new(40, Duration::from_micros(100), sync);
                let turn = log.each * 40 + sync;
                let (longest, accepted) = log.load(times);
                assert!(log.refused > 0, "{times} times what it can take");
                assert!(longest <= WAIT + turn * 3, "{sync:?}, {times}: {longest:?}");
                assert!(accepted > 0.97, "{sync:?}, {times}: {accepted} of its capacity");
            }
        }
    }

    #[test]
    fn below_capacity_nothing_is_refused_however_slow_the_disk_is() {
        for sync in [MS / 10, MS, 50 * MS, 1000 * MS] {
            for times in [0.01, 0.5, 0.9] {
                let mut log = Log::new(400, Duration::from_micros(10), sync);
                log.load(times);
                assert!(log.accepted > 0 && log.refused == 0, "{sync:?}, {times}: {} refused", log.refused);
            }
        }
    }

    #[test]
    fn producers_that_wait_for_their_answers_are_never_refused_while_a_group_holds_them_all() {
        for sync in [MS / 10, 5 * MS, 50 * MS] {
            let mut log = Log::new(4000, Duration::from_micros(10), sync);
            for round in 0..1000 {
                // Each sends its next append when it has the answer to the last; half of them are out of step.
                let answered = if round == 0 { 512 } else { 256 };
                (0..answered).for_each(|n| log.offer(log.now + Duration::from_micros(n)));
                log.now += Duration::from_micros(answered);
                let (rest, now) = (log.staged.split_off(256), log.now);
                log.turn(None, &mut now.clone());
                log.staged = rest;
            }
            assert_eq!((log.refused, log.accepted), (0, 256 * 1001), "{sync:?}");
        }
    }

    #[test]
    fn it_takes_all_again_once_what_waits_is_a_group() {
        let mut log = Log::new(40, Duration::from_micros(100), 4 * MS);
        let mut next = Duration::ZERO;
        while log.refused == 0 {
            log.turn(Some(MS / 50), &mut next);
        }
        while log.staged.len() > 40 {
            log.turn(None, &mut next);
        }
        let refused = log.refused;
        log.offer(log.now);
        assert_eq!(log.refused, refused);
    }
}

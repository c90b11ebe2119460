//! A simple model beside the real thing, under random work, clocks and crashes; and single cases by name.

mod checks;

use super::timing::LOOK_AGAIN_MS;
use super::*;
use crate::coordinator::queue::lease::LeaseRef;
use crate::coordinator::queue::settings::Backoff;
use std::time::Duration;

fn at(monotonic_ms: i64, wall_ms: i64) -> Now {
    Now { monotonic: Duration::from_millis(monotonic_ms.unsigned_abs()), wall_ms }
}

/// SplitMix64: a seed is a whole run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> i64 {
        (self.next() % n).cast_signed()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Waiting,
    Leased { generation: u32, until: i64 },
    Dead,
    Parked,
    Settled,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hole: bool,
    key: Option<u64>,
    deliver_at: Option<i64>,
    is: Is,
    deliveries: u16,
    /// Until one of them has come.
    not_before: Option<Until>,
    /// What of it the log would say: the time of day, and the delay's length.
    logged: Option<(i64, i64)>,
    redriven: bool,
    /// Its own time had come once: when the clock is set back it may wait again, or not.
    was_due: bool,
}

/// Times, in ms.
#[derive(Debug, Clone, Copy)]
struct Until {
    wall: Option<i64>,
    monotonic: Option<i64>,
}

impl Until {
    fn wall(wall: i64) -> Self {
        Self { wall: Some(wall), monotonic: None }
    }
}

/// What the queue ought to say.
#[derive(Clone)]
struct Model {
    log: Vec<Entry>,
    verdicts: BTreeMap<(i32, u32, i64), super::super::Verdict>,
    log_start: i64,
}

struct Run {
    dice: Dice,
    settings: PartitionSettings,
    model: Model,
    real: SharePartition,
    /// Every delta with the model after it; `committed` of them are safe.
    deltas: Vec<(Delta, Model)>,
    committed: usize,
    leases: Vec<LeaseRef>,
    monotonic: i64,
    skew: i64,
    narrow: bool,
    ops: u64,
}

const LEASE_MS: i64 = 3_000;
const EPOCH_WALL: i64 = 1_700_000_000_000;

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let order_by_key = dice.one_in(2);
        let narrow = dice.one_in(3);
        let settings = PartitionSettings {
            max_deliveries: 1 + dice.below(4) as u16,
            order_by_key,
            backoff: dice.one_in(2).then_some(Backoff { min_ms: 500, max_ms: 4_000, factor: 2.0 }),
            on_exhausted: match dice.below(4) {
                0 => OnExhausted::Skip,
                1 if order_by_key => OnExhausted::ParkKey,
                _ => OnExhausted::Dead,
            },
            max_held: if narrow { 6 } else { 100_000 },
            window: if narrow { 12 } else { 10_000 },
        };
        let model = Model { log: Vec::new(), verdicts: BTreeMap::new(), log_start: 0 };
        let real = SharePartition::new(DurablePartition::new(0), settings, 1, at(10_000, EPOCH_WALL + 10_000));
        let (deltas, leases) = (Vec::new(), Vec::new());
        Self { dice, settings, model, real, deltas, committed: 0, leases, monotonic: 10_000, skew: 0, narrow, ops: 0 }
    }

    fn now(&self) -> Now {
        at(self.monotonic, EPOCH_WALL + self.monotonic + self.skew)
    }

    fn step(&mut self) {
        self.ops += 1;
        match self.dice.below(100) {
            0..12 => self.produce(),
            12..22 => self.fill(),
            22..50 => self.receive(),
            50..80 => self.settle_some(),
            80..88 => self.pass_time(),
            88..92 => self.operate(),
            92..94 => self.lose_one(),
            94 => self.retention(),
            95..98 => {
                self.committed = self.dice.below(self.deltas.len() as u64 + 1).max(self.committed as i64) as usize
            }
            98 => self.crash(),
            _ => self.step_clock(),
        }
        self.collect();
    }

    fn produce(&mut self) {
        for _ in 0..1 + self.dice.below(20) {
            let key = (self.settings.order_by_key && !self.dice.one_in(8)).then(|| self.dice.next() % 5);
            let wall = self.now().wall_ms;
            let deliver_at = self.dice.one_in(15).then(|| wall + self.dice.below(8_000) - 1_000);
            let hole = self.dice.one_in(12);
            let is = if hole { Is::Settled } else { Is::Waiting };
            self.model.log.push(Entry {
                hole,
                key,
                deliver_at,
                is,
                deliveries: 0,
                not_before: None,
                logged: None,
                redriven: false,
                was_due: false,
            });
        }
    }

    fn fill(&mut self) {
        self.tick();
        let Some((from, _)) = self.real.wants() else { return };
        let to = (from + 1 + self.dice.below(30)).min(self.model.log.len() as i64);
        // Below the log start nothing can be read.
        if from >= to || from < self.model.log_start {
            return;
        }
        let records: Vec<_> = (from..to)
            .filter(|o| !self.model.log[*o as usize].hole)
            .map(|offset| {
                let entry = &self.model.log[offset as usize];
                Offered { offset, key: entry.key, deliver_at_ms: entry.deliver_at }
            })
            .collect();
        let now = self.now();
        let reached = self.real.offer(from, to, &records, now);
        for offset in from..reached {
            let entry = &mut self.model.log[offset as usize];
            entry.was_due |= entry.deliver_at.is_some_and(|at| at <= now.wall_ms);
            if entry.is == Is::Waiting && entry.deliveries == 0 && !entry.redriven {
                entry.not_before = entry.deliver_at.filter(|at| *at > now.wall_ms).map(Until::wall);
            }
        }
    }

    fn is_over(&self, entry: &Entry, now: Now) -> bool {
        let Some(Until { wall, monotonic }) = entry.not_before else { return true };
        wall.is_some_and(|at| now.wall_ms >= at) || monotonic.is_some_and(|at| now.monotonic_ms() >= at)
    }

    /// Why a record may not be delivered, if it may not.
    fn obstacle(&self, offset: i64, now: Now) -> Option<String> {
        let entry = &self.model.log[offset as usize];
        if entry.is != Is::Waiting {
            return Some(format!("it is {:?}", entry.is));
        }
        let may_go = entry.was_due && entry.logged.is_none();
        if !may_go && !self.is_over(entry, now) {
            return Some(format!("it waits until {:?}", entry.not_before));
        }
        let key = entry.key?;
        for (other, o) in (0..).zip(&self.model.log) {
            if o.key != Some(key) || other == offset {
                continue;
            }
            if matches!(o.is, Is::Leased { .. } | Is::Parked) {
                return Some(format!("{other} of its key is {:?}", o.is));
            }
            if other < offset && o.is == Is::Waiting {
                return Some(format!("{other} of its key comes first"));
            }
        }
        None
    }

    fn tick(&mut self) {
        let now = self.now();
        self.real.tick(now);
        for offset in 0..self.model.log.len() as i64 {
            if let Is::Leased { until, .. } = self.model.log[offset as usize].is
                && now.monotonic_ms() >= until
            {
                self.fail(offset, 0, now);
            }
        }
    }

    /// A delivery did not succeed.
    fn fail(&mut self, offset: i64, delay: i64, now: Now) {
        let gone = offset < self.model.log_start;
        let entry = &mut self.model.log[offset as usize];
        if gone {
            entry.is = Is::Settled;
        } else if entry.deliveries >= self.settings.max_deliveries {
            self.give_up(offset);
        } else {
            entry.is = Is::Waiting;
            let monotonic = Some(now.monotonic_ms() + delay);
            entry.not_before = (delay > 0).then_some(Until { wall: None, monotonic });
            entry.logged = (delay > 0).then(|| (now.wall_ms + delay, delay));
        }
    }

    fn give_up(&mut self, offset: i64) {
        let entry = &mut self.model.log[offset as usize];
        (entry.not_before, entry.logged) = (None, None);
        entry.is = match self.settings.on_exhausted {
            OnExhausted::Skip => Is::Settled,
            OnExhausted::ParkKey if entry.key.is_some() => Is::Parked,
            _ => Is::Dead,
        };
    }

    fn receive(&mut self) {
        self.tick();
        let (max, now) = (1 + self.dice.below(6) as usize, self.now());
        let got = self.real.acquire(max, LEASE_MS, now);
        for acquired in &got {
            let obstacle = self.obstacle(acquired.offset, now);
            let entry = &self.model.log[acquired.offset as usize];
            assert_eq!(obstacle, None, "{} must not be delivered: {entry:?}", acquired.offset);
            let entry = &mut self.model.log[acquired.offset as usize];
            entry.deliveries += 1;
            entry.not_before = None;
            entry.was_due = true;
            assert_eq!(acquired.attempt, entry.deliveries);
            assert_eq!(acquired.leased_until_ms, now.wall_ms + LEASE_MS);
            entry.is = Is::Leased { generation: acquired.generation, until: now.monotonic_ms() + LEASE_MS };
            let (generation, epoch) = (acquired.generation, self.real.epoch());
            self.leases.push(LeaseRef { queue: 1, partition: 0, offset: acquired.offset, generation, epoch });
        }
        if got.len() < max && !self.narrow {
            let end = self.real.looked_at().0;
            let left = (0..end).find(|o| self.obstacle(*o, now).is_none() && !self.may_hold_back(*o, now));
            assert_eq!(left, None, "it ought to be delivered");
        }
    }

    /// Whether it may wait for its time, or for a later record of its key that does.
    fn may_hold_back(&self, offset: i64, now: Now) -> bool {
        let key = self.model.log[offset as usize].key;
        let waits = |e: &Entry| e.key == key && e.is == Is::Waiting && !self.is_over(e, now);
        waits(&self.model.log[offset as usize])
            || (key.is_some() && self.model.log[offset as usize..].iter().any(waits))
    }

    fn settle_some(&mut self) {
        self.tick();
        for _ in 0..1 + self.dice.below(5) {
            if self.leases.is_empty() {
                return;
            }
            // Old ones stay in the list: a settlement is sent twice, or too late.
            let index = self.dice.below(self.leases.len() as u64) as usize;
            let lease = if self.dice.one_in(4) { self.leases[index] } else { self.leases.swap_remove(index) };
            self.settle_one(lease);
        }
    }

    fn settle_one(&mut self, lease: LeaseRef) {
        use super::super::Verdict;
        let now = self.now();
        let reason = || "because".to_owned();
        let (settlement, verdict) = match self.dice.below(10) {
            0..6 => (Settlement::Ack, Some(Verdict::Ack)),
            6 => (Settlement::Nack { delay_ms: None, reason: reason() }, Some(Verdict::Nack)),
            7 => (Settlement::Nack { delay_ms: Some(self.dice.below(3_000)), reason: reason() }, Some(Verdict::Nack)),
            8 => (Settlement::Reject { reason: reason() }, Some(Verdict::Reject)),
            _ => (Settlement::Extend { lease_ms: self.dice.below(5_000) }, None),
        };
        let LeaseRef { offset, generation, epoch, .. } = lease;
        let entry = self.model.log[offset as usize];
        let held = match entry.is {
            Is::Leased { generation: g, until } if g == generation && epoch == self.real.epoch() => Some(until),
            _ => None,
        };
        let before = self.model.verdicts.get(&(epoch, generation, offset)).copied();
        let outcome = self.real.settle_lease(lease, &settlement, now);
        let Some(until) = held else {
            let again = verdict.is_some() && before == verdict;
            assert_eq!(outcome, if again { Outcome::AlreadySettled } else { Outcome::Lost }, "{lease:?}");
            return;
        };
        if let Some(verdict) = verdict {
            assert_eq!(outcome, Outcome::Settled);
            self.model.verdicts.insert((epoch, generation, offset), verdict);
        }
        match settlement {
            Settlement::Ack => self.model.log[offset as usize].is = Is::Settled,
            Settlement::Nack { delay_ms, .. } => {
                let backoff = self.settings.backoff.map_or(0, |b| b.after(entry.deliveries));
                self.fail(offset, delay_ms.unwrap_or(backoff), now);
            }
            Settlement::Reject { .. } if offset < self.model.log_start => {
                self.model.log[offset as usize].is = Is::Settled
            }
            Settlement::Reject { .. } => self.give_up(offset),
            Settlement::Extend { lease_ms } => {
                let until = until.max(now.monotonic_ms() + lease_ms);
                assert_eq!(outcome, Outcome::Extended(now.wall_ms + until - now.monotonic_ms()));
                self.model.log[offset as usize].is = Is::Leased { generation, until };
                self.leases.push(lease);
            }
        }
    }

    fn pass_time(&mut self) {
        self.monotonic += if self.dice.one_in(4) { self.dice.below(9_000) } else { self.dice.below(400) };
        self.tick();
    }

    /// Somebody sets the clock; what waits for a time of day sees it within seconds.
    fn step_clock(&mut self) {
        self.skew += self.dice.below(7_200_000) - 3_600_000;
        self.tick();
        self.monotonic += LOOK_AGAIN_MS + 100;
        self.tick();
    }

    fn operate(&mut self) {
        let redrive = self.dice.one_in(2);
        let listed: Vec<_> = self.real.given_up(-1).map(|g| (g.offset, g.parked)).collect();
        let expected: Vec<_> = (0..)
            .zip(&self.model.log)
            .filter(|(_, e)| matches!(e.is, Is::Dead | Is::Parked))
            .map(|(o, e)| (o, e.is == Is::Parked))
            .collect();
        assert_eq!(listed, expected);
        for (offset, _) in listed {
            if self.dice.one_in(2) {
                continue;
            }
            assert!(if redrive { self.real.redrive(offset) } else { self.real.discard(offset) });
            let gone = offset < self.model.log_start;
            let entry = &mut self.model.log[offset as usize];
            entry.is = if redrive && !gone { Is::Waiting } else { Is::Settled };
            entry.deliveries = 0;
            (entry.redriven, entry.logged) = (true, None);
        }
        let nothing = self.model.log.iter().position(|e| !matches!(e.is, Is::Dead | Is::Parked));
        if let Some(offset) = nothing {
            assert!(!self.real.redrive(offset as i64) && !self.real.discard(offset as i64));
        }
    }

    /// A leased record turns out to be gone, or its message was never sent.
    fn lose_one(&mut self) {
        self.tick();
        let Some(lease) = self.leases.last().copied() else { return };
        let entry = &mut self.model.log[lease.offset as usize];
        let held = self.real.holds(lease);
        if self.dice.one_in(2) {
            self.real.gone(lease.offset, lease.generation);
            if held {
                entry.is = Is::Settled;
            }
        } else if lease.epoch == self.real.epoch() {
            self.real.give_back(lease.offset, lease.generation);
            if held {
                entry.is = Is::Waiting;
                entry.deliveries -= 1;
            }
        }
    }

    fn retention(&mut self) {
        self.tick();
        let log_start = self.model.log_start + self.dice.below(12);
        if log_start > self.model.log.len() as i64 {
            return;
        }
        let lost_before = self.real.totals().lost;
        let waiting = |e: &Entry| matches!(e.is, Is::Waiting | Is::Parked);
        let mut lost = 0;
        let looked_at = self.real.looked_at().0;
        for (offset, entry) in (0..log_start).zip(&mut self.model.log) {
            // What was never looked at counts as lost whether it was there or not.
            lost += u64::from(waiting(entry) || (entry.hole && offset >= looked_at));
            if waiting(entry) {
                entry.is = Is::Settled;
            }
        }
        self.model.log_start = log_start;
        self.real.log_start_moved(log_start);
        let counted = self.real.totals().lost - lost_before;
        assert!(counted >= lost.saturating_sub(counted_holes(&self.model)) && counted <= lost, "{counted} of {lost}");
    }

    fn collect(&mut self) {
        if let Some(delta) = self.real.take_delta() {
            let mut bytes = Vec::new();
            delta.encode(&mut bytes);
            assert_eq!(Delta::decode(&bytes).as_ref(), Ok(&delta));
            self.deltas.push((delta, self.model.clone()));
        }
        if self.dice.one_in(40) {
            self.check_durable();
            self.check_counts();
        }
    }

    /// The owner dies: what was not committed is gone, and so are the leases.
    fn crash(&mut self) {
        self.deltas.truncate(self.committed);
        let durable = self.replayed(self.committed);
        let before = self.deltas.last().map(|(_, model)| model.clone());
        let mut model = before.unwrap_or_else(|| Model { log: Vec::new(), verdicts: BTreeMap::new(), log_start: 0 });
        // The log itself lives elsewhere; what was added since is there, and as new.
        model.log_start = self.model.log_start;
        for offset in 0..self.model.log.len() {
            let now = self.model.log[offset];
            if offset >= model.log.len() {
                let is = if now.hole { Is::Settled } else { Is::Waiting };
                model.log.push(Entry { is, deliveries: 0, not_before: None, logged: None, redriven: false, ..now });
            }
            let entry = &mut model.log[offset];
            entry.was_due = now.was_due;
            if let Is::Leased { .. } = entry.is {
                entry.is = Is::Waiting;
                entry.deliveries -= 1;
            }
            let own_time = entry.deliver_at.filter(|_| entry.deliveries == 0 && !entry.redriven);
            // A clock that was wrong before, or is now, makes no delay longer than it is.
            let stored = entry.logged.map(|(wall, delay)| (Some(wall), Some(self.monotonic + delay)));
            let stored = stored.map(|(wall, monotonic)| Until { wall, monotonic });
            entry.not_before = stored.or(own_time.map(Until::wall));
            if (offset as i64) < model.log_start && matches!(entry.is, Is::Waiting | Is::Parked) {
                entry.is = Is::Settled;
            }
        }
        let epoch = self.real.epoch() + 1;
        self.real = SharePartition::new(durable, self.settings, epoch, self.now());
        self.model = model;
        self.real.log_start_moved(self.model.log_start);
    }

    /// Whatever happened, every record can be brought to an end.
    fn drain(&mut self) {
        for round in 0..10_000 {
            self.monotonic += 10_000;
            self.skew += 10_000;
            self.tick();
            if round % 3 == 2 {
                for offset in self.real.given_up(-1).map(|g| g.offset).collect::<Vec<_>>() {
                    assert!(self.real.redrive(offset));
                    let gone = offset < self.model.log_start;
                    let entry = &mut self.model.log[offset as usize];
                    entry.is = if gone { Is::Settled } else { Is::Waiting };
                    entry.deliveries = 0;
                    entry.redriven = true;
                }
            }
            self.fill();
            self.receive();
            while let Some(lease) = self.leases.pop() {
                if self.real.settle_lease(lease, &Settlement::Ack, self.now()) == Outcome::Settled {
                    self.model.log[lease.offset as usize].is = Is::Settled;
                }
            }
            self.collect();
            if self.model.log.iter().all(|e| e.is == Is::Settled) && self.real.end() == self.model.log.len() as i64 {
                assert_eq!(self.real.counts(), Counts::default());
                assert_eq!(self.real.start, self.real.end());
                let maps = (self.real.held.len(), self.real.holders.len(), self.real.waiters.len());
                assert_eq!((maps, self.real.waits.len(), self.real.given_up.len()), ((0, 0, 0), 0, 0));
                assert!(self.real.due.len() <= 1, "at most the block that the window begins in");
                return;
            }
        }
        let left: Vec<_> = (0..).zip(&self.model.log).filter(|(_, e)| e.is != Is::Settled).collect();
        panic!("{left:?} never came to an end; looked at {}", self.real.looked_at().0);
    }
}

fn counted_holes(model: &Model) -> u64 {
    model.log.iter().filter(|e| e.hole).count() as u64
}

fn run(seed: u64, steps: u64) -> u64 {
    let mut run = Run::new(seed);
    for _ in 0..steps {
        run.step();
    }
    run.drain();
    run.ops
}

/// More than 100,000 operations. A failure names its seed; the same seed does the same again.
#[test]
fn it_does_what_the_model_does() {
    let mut ops = 0;
    for seed in 0..450 {
        let done = std::panic::catch_unwind(|| run(seed, 250));
        match done {
            Ok(count) => ops += count,
            Err(_) => panic!("seed {seed}"),
        }
    }
    assert!(ops >= 100_000, "{ops}");
}

/// All of a window is out for long: what is done beside it asks for the log once in a while, and not for each slot.
#[test]
fn a_full_window_gets_room_for_many_at_once() {
    const WINDOW: i64 = 1_600;
    let now = at(10_000, EPOCH_WALL + 10_000);
    let settings = PartitionSettings { window: WINDOW as u32, ..PartitionSettings::default() };
    let mut share = SharePartition::new(DurablePartition::new(0), settings, 1, now);
    let offer = |share: &mut SharePartition| {
        let Some((from, room)) = share.wants() else { return false };
        let to = from + room as i64;
        let records: Vec<_> = (from..to).map(|offset| Offered { offset, key: None, deliver_at_ms: None }).collect();
        assert_eq!(share.offer(from, to, &records, now), to);
        true
    };
    assert!(offer(&mut share));
    assert_eq!(share.acquire(WINDOW as usize, LEASE_MS, now).len(), WINDOW as usize);
    let mut looks = 0;
    for done in 0..1_000 {
        looks += u32::from(offer(&mut share));
        let got = share.acquire(1, LEASE_MS, now);
        assert_eq!(got.len(), 1, "after {done} there is another");
        let Acquired { offset, generation, .. } = got[0];
        let lease = LeaseRef { queue: 1, partition: 0, offset, generation, epoch: 1 };
        assert_eq!(share.settle_lease(lease, &Settlement::Ack, now), Outcome::Settled);
    }
    assert!((1..=20).contains(&looks), "{looks} looks at the log for 1,000 messages");
    assert_eq!(share.counts().leased, WINDOW as u64, "all the others are still out");
}

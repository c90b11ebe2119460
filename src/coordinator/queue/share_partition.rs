//! One queue over one partition, live. Pure.
//!
//! Offsets below `start` are settled, but for the held ones; `start..end` is the window, a slot each; from `end` on the log
//! was not looked at yet. A record waits in the window (or held) as ready, leased, delayed, blocked, parked or dead.
//!
//! **Invariants**
//! - With order by key, at most one record of a key is leased, delayed or parked (its holder), and of those that are ready
//!   the lowest offset goes first. Which of the ready ones are behind a holder is found when their turn comes: each costs
//!   one step into the waiters and one out of them.
//! - A record is in the heap at most once, and only while it is ready; ready ones at or above `fresh` are not in it.
//! - Every settlement, expiry and step over `start` is in the next delta, and replaying the deltas gives what
//!   [`SharePartition::durable`] says. Leases are not in it: who begins from it finds them ready, with the count from before.
//! - At most `window` slots of 24 bytes, and about `max_held` held records of 32; a record takes eight more while it is ready,
//!   holds its key or waits for it, and what is over costs memory while it is there only.
//!
//! Receiving k records costs O(k + r log r) with r of them redelivered; ack, nack and extend are O(1) where nobody waits
//! for the key. Whoever calls holds it exclusively, and calls [`SharePartition::tick`] first.

mod acquire;
mod keys;
#[cfg(test)]
mod memory_tests;
mod settle;
mod stats;
#[cfg(test)]
mod tests;
mod timing;

use super::change::{By, Cause, Change, Delta, NotBefore};
use super::chunked::{ByOffset, Chunked, Place};
use super::due_blocks::{self, DueBlocks};
use super::durable::{DurablePartition, GivenUp, HeldRecord, Ranges, State as Durable};
use super::history::History;
use super::settings::{OnExhausted, PartitionSettings};
use crate::coordinator::Now;
pub use acquire::{Acquired, Offered};
pub use settle::{Outcome, Settlement};
pub use stats::{BlockedBy, Counts, GivenUpRecord, HolderState, Totals};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use timing::{Timing, Wait};

/// Reasons for giving up that are shared by all that have them.
const REASONS: usize = 16;
/// Slots of a window that is not worth giving memory back.
const SMALL_WINDOW: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Ready,
    Leased,
    Delayed,
    Blocked,
    Parked,
    Dead,
    Settled,
}

/// One offset of the window.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Hash of the record's key; 0 where it has none or the order is free.
    key: u64,
    /// The receive call that leased it last.
    generation: u32,
    deliveries: u16,
    state: State,
    keyed: bool,
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    const SETTLED: Self = Self { key: 0, generation: 0, deliveries: 0, state: State::Settled, keyed: false };

    const fn key(&self) -> Option<u64> {
        if self.keyed { Some(self.key) } else { None }
    }
}

#[derive(Debug, Clone, Copy)]
struct Held {
    slot: Slot,
    timing: Timing,
}

/// The live state.
#[derive(Debug)]
pub struct SharePartition {
    settings: PartitionSettings,
    epoch: i32,
    generation: u32,
    start: i64,
    /// The window, from `start`.
    slots: VecDeque<Slot>,
    /// Of each slot; it counts while that is leased or delayed.
    timings: VecDeque<Timing>,
    /// Slots from here on were never offered to a consumer under this ownership.
    fresh: i64,
    /// Ready offsets below `fresh`, the lowest first; one that is not ready any more is passed over.
    ready: BinaryHeap<Reverse<i64>>,
    held: ByOffset<Held>,
    /// The records that hold a key, in the order of their keys, which lie in their slots.
    holders: Chunked<i64>,
    /// Parked ones that were not looked at again yet, by key.
    parked_ahead: BTreeMap<u64, i64>,
    /// Records behind a holder, in the order of their keys and offsets.
    waiters: Chunked<i64>,
    waits: ByOffset<Wait>,
    given_up: ByOffset<GivenUp>,
    /// What the log said of offsets that were not looked at again yet.
    known: Ranges,
    due: DueBlocks,
    /// When this ownership began, monotonic.
    began_ms: i64,
    /// The last tick.
    ticked: Now,
    history: History,
    counts: [u64; 6],
    totals: Totals,
    /// First offset that can be read.
    log_start: i64,
    /// For the next delta.
    changes: Vec<Change>,
    /// Keys that became free with it.
    released: Vec<u64>,
    /// Reasons of late.
    reasons: VecDeque<Arc<str>>,
}

impl SharePartition {
    /// Begins from what the log says. `epoch` is greater than that of any ownership before.
    #[must_use]
    pub fn new(durable: DurablePartition, settings: PartitionSettings, epoch: i32, now: Now) -> Self {
        let DurablePartition { start, known, held, given_up, history, totals } = durable;
        let mut partition = Self {
            settings,
            epoch,
            generation: 0,
            start,
            slots: VecDeque::new(),
            timings: VecDeque::new(),
            fresh: start,
            ready: BinaryHeap::new(),
            held: ByOffset::default(),
            holders: Chunked::default(),
            parked_ahead: BTreeMap::new(),
            waiters: Chunked::default(),
            waits: ByOffset::default(),
            given_up,
            known,
            due: DueBlocks::default(),
            began_ms: now.monotonic_ms(),
            ticked: now,
            history,
            counts: [0; 6],
            totals,
            log_start: 0,
            changes: Vec::new(),
            released: Vec::new(),
            reasons: VecDeque::new(),
        };
        for (offset, HeldRecord { state, key }) in held {
            let slot = partition.slot_of(offset, state, key);
            partition.count(slot.state, true);
            if slot.state == State::Ready {
                partition.ready.push(Reverse(offset));
            }
            partition.hold(offset, slot, Timing::default());
        }
        // Before any record of their key is looked at.
        for (offset, _, state) in partition.known.iter() {
            if let Durable::GivenUp { parked: true, key: Some(key), .. } = state {
                partition.parked_ahead.insert(key, offset);
            }
        }
        partition
    }

    /// The ownership whose leases it takes.
    #[must_use]
    pub const fn epoch(&self) -> i32 {
        self.epoch
    }

    /// Takes changed settings. What was decided under the old ones stays.
    pub fn configure(&mut self, settings: PartitionSettings) {
        self.settings = settings;
    }

    /// What changed since the last call; `None` if nothing that must survive.
    pub fn take_delta(&mut self) -> Option<Delta> {
        if self.changes.is_empty() {
            return None;
        }
        Some(Delta { epoch: self.epoch, start: self.start, changes: std::mem::take(&mut self.changes) })
    }

    /// Keys that became free with the last delta, some of them perhaps twice: their next records are to be told of only
    /// once that is stored.
    pub fn take_released(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.released)
    }

    /// The hash of a record's key, if it has one, order is by key, and it was looked at.
    #[must_use]
    pub fn key(&self, offset: i64) -> Option<u64> {
        self.slot(offset).and_then(Slot::key)
    }

    /// What a crash right now, with every delta so far committed, would leave.
    #[must_use]
    pub fn durable(&self) -> DurablePartition {
        let mut durable = DurablePartition::new(self.start);
        let mut changes = Vec::new();
        for (offset, held) in self.held.iter() {
            changes.push(Change::Held { offset, key: held.slot.key() });
            changes.extend(self.durable_change(offset, &held.slot));
        }
        for (offset, slot) in (self.start..).zip(&self.slots) {
            if let Some(change) = self.durable_change(offset, slot) {
                add(&mut changes, change);
            }
        }
        durable.apply(&Delta { epoch: 0, start: self.start, changes });
        self.known.iter().for_each(|(from, to, state)| durable.known.set(from, to, state));
        durable.given_up.clone_from(&self.given_up);
        durable.history.clone_from(&self.history);
        durable.totals = self.totals;
        durable
    }

    fn durable_change(&self, offset: i64, slot: &Slot) -> Option<Change> {
        let (from, to) = (offset, offset + 1);
        match slot.state {
            State::Settled => Some(Change::Settled { from, to, cause: Cause::Acked, by: None }),
            State::Parked | State::Dead => {
                let (at_ms, reason) = self.given_up.get(offset).map_or((0, "".into()), |g| (g.at_ms, g.reason.clone()));
                let (parked, deliveries, key) = (slot.state == State::Parked, slot.deliveries, slot.key());
                Some(Change::GivenUp { offset, parked, deliveries, at_ms, reason, key, by: None })
            }
            state => {
                // A lease's delivery counts once it is over.
                let deliveries = slot.deliveries - u16::from(state == State::Leased);
                let not_before = self.waits.get(offset).map_or(NotBefore::AT_ONCE, Wait::not_before);
                let default = deliveries == 0 && not_before == NotBefore::AT_ONCE;
                (!default).then_some(Change::Waiting { from, to, deliveries, not_before, by: None })
            }
        }
    }

    // ---- a record's place -----------------------------------------------------------------------------------------

    fn end(&self) -> i64 {
        self.start + self.slots.len() as i64
    }

    fn slot(&self, offset: i64) -> Option<&Slot> {
        if offset < self.start {
            return self.held.get(offset).map(|held| &held.slot);
        }
        self.slots.get(usize::try_from(offset - self.start).ok()?)
    }

    fn slot_mut(&mut self, offset: i64) -> Option<&mut Slot> {
        if offset < self.start {
            return self.held.get_mut(offset).map(|held| &mut held.slot);
        }
        self.slots.get_mut(usize::try_from(offset - self.start).ok()?)
    }

    // ---- states -----------------------------------------------------------------------------------------------------

    fn count(&mut self, state: State, up: bool) {
        if state != State::Settled {
            let count = &mut self.counts[state as usize];
            *count = if up { *count + 1 } else { *count - 1 };
        }
    }

    fn set_state(&mut self, offset: i64, state: State) {
        let Some(slot) = self.slot_mut(offset) else { return };
        let before = std::mem::replace(&mut slot.state, state);
        self.count(before, false);
        self.count(state, true);
        if state == State::Settled && offset < self.start {
            self.held.remove(offset);
            self.forget_if_empty(due_blocks::block_of(offset));
        }
    }

    /// A slot as the log says.
    fn slot_of(&mut self, offset: i64, state: Durable, key: Option<u64>) -> Slot {
        let key = key.filter(|_| self.settings.order_by_key);
        let slot = Slot { key: key.unwrap_or(0), keyed: key.is_some(), ..Slot::SETTLED };
        match state {
            Durable::Settled => slot,
            Durable::Waiting { deliveries, not_before } => {
                if let Some(wait) = Wait::stored(not_before) {
                    self.waits.insert(offset, wait);
                }
                Slot { state: State::Ready, deliveries, ..slot }
            }
            Durable::GivenUp { parked, deliveries, .. } => {
                Slot { state: if parked { State::Parked } else { State::Dead }, deliveries, ..slot }
            }
        }
    }

    /// A record goes below the window, or is found there.
    fn hold(&mut self, offset: i64, slot: Slot, timing: Timing) {
        self.held.insert(offset, Held { slot, timing });
        self.note_parked(offset, slot);
    }

    // ---- what waits -------------------------------------------------------------------------------------------------

    /// Puts a record (below `fresh`) among the ready ones.
    fn make_ready(&mut self, offset: i64) {
        self.set_state(offset, State::Ready);
        self.ready.push(Reverse(offset));
    }

    /// After a delivery that did not succeed: ready again after the delay, or given up.
    fn give_back_or_up(&mut self, offset: i64, delay_ms: i64, reason: &str, by: Option<By>, now: Now) {
        let Some(slot) = self.slot(offset).copied() else { return };
        if offset < self.log_start {
            // There is nothing to deliver any more.
            self.settle(offset, Cause::Lost, by);
        } else if slot.deliveries >= self.settings.max_deliveries {
            self.give_up(offset, reason, by, now);
        } else {
            self.wait(offset, delay_ms, by, now);
        }
    }

    fn wait(&mut self, offset: i64, delay_ms: i64, by: Option<By>, now: Now) {
        let deliveries = self.slot(offset).map_or(0, |slot| slot.deliveries);
        let mut not_before = NotBefore::AT_ONCE;
        if delay_ms > 0 {
            let due = now.monotonic_ms().saturating_add(delay_ms);
            // A time of 0 would be: at once.
            let wall_ms = now.wall_ms.saturating_add(delay_ms).max(1);
            let delay_ms = u32::try_from(delay_ms).unwrap_or(u32::MAX);
            not_before = NotBefore { wall_ms, delay_ms };
            self.waits.insert(offset, Wait::Delay { wall_ms, delay_ms });
            self.delay(offset, due, now);
        } else {
            self.waits.remove(offset);
            self.make_ready(offset);
            self.release_key(offset);
        }
        self.note(Change::Waiting { from: offset, to: offset + 1, deliveries, not_before, by });
    }

    /// It holds its key until its time comes.
    fn delay(&mut self, offset: i64, look_at_ms: i64, now: Now) {
        self.set_state(offset, State::Delayed);
        self.start_timer(offset, look_at_ms, now);
        if let Some(key) = self.key(offset) {
            self.set_holder(key, offset);
        }
    }

    fn give_up(&mut self, offset: i64, reason: &str, by: Option<By>, now: Now) {
        let Some(slot) = self.slot(offset).copied() else { return };
        let parked = match self.settings.on_exhausted {
            OnExhausted::Skip => return self.settle(offset, Cause::Skipped, by),
            OnExhausted::ParkKey => slot.keyed,
            OnExhausted::Dead => false,
        };
        self.waits.remove(offset);
        let reason = self.shared_reason(cut(reason, super::durable::MAX_REASON));
        let given_up = GivenUp { at_ms: now.wall_ms, reason };
        self.note(Change::GivenUp {
            offset,
            parked,
            deliveries: slot.deliveries,
            at_ms: given_up.at_ms,
            reason: given_up.reason.clone(),
            key: slot.key(),
            by,
        });
        self.given_up.insert(offset, given_up);
        self.set_state(offset, if parked { State::Parked } else { State::Dead });
        if !parked {
            self.release_key(offset);
        }
    }

    /// Most are given up for one of a few reasons, which need not be kept once for each.
    fn shared_reason(&mut self, reason: &str) -> Arc<str> {
        if let Some(known) = self.reasons.iter().find(|known| ***known == *reason) {
            return known.clone();
        }
        let new: Arc<str> = reason.into();
        if self.reasons.len() >= REASONS {
            self.reasons.pop_front();
        }
        self.reasons.push_back(new.clone());
        new
    }

    /// Nothing more is to be done about it.
    fn settle(&mut self, offset: i64, cause: Cause, by: Option<By>) {
        self.totals.add(cause, 1);
        self.note(Change::Settled { from: offset, to: offset + 1, cause, by });
        self.waits.remove(offset);
        self.given_up.remove(offset);
        // As long as its key can be seen.
        if let Some(key) = self.key(offset) {
            self.remove_waiter(key, offset);
            self.release(key, offset);
        }
        self.set_state(offset, State::Settled);
    }

    /// Adds to the next delta, and to the history; neighbours become one range.
    fn note(&mut self, change: Change) {
        let by = match &change {
            Change::Settled { from, to, by, .. } | Change::Waiting { from, to, by, .. } => {
                by.map(|by| (by, *from, *to))
            }
            Change::GivenUp { offset, by, .. } => by.map(|by| (by, *offset, offset + 1)),
            Change::Held { .. } => None,
        };
        if let Some((by, from, to)) = by {
            self.history.add(self.epoch, by, from, to);
        }
        add(&mut self.changes, change);
    }

    // ---- the window -------------------------------------------------------------------------------------------------

    /// Moves the start over what is settled, and where the window gets narrow also over what may take long.
    fn advance(&mut self) {
        let (window, part) = (self.settings.window as usize, self.window_part());
        let was_full = self.slots.len() >= window;
        while let Some(front) = self.slots.front().copied() {
            let narrow = self.slots.len() * 2 >= window;
            // Many at once: for a single slot each receive would look at the log again.
            let full = was_full && self.slots.len() + part > window;
            let leaves = match front.state {
                State::Settled => true,
                State::Delayed | State::Blocked | State::Parked | State::Dead => narrow,
                // One that is worked on for long must not stop all the others.
                State::Leased => full,
                State::Ready => false,
            };
            if !leaves || self.start >= self.fresh {
                break;
            }
            if front.state != State::Settled {
                self.hold_front(front);
            }
            self.drop_front();
        }
        // A front that nobody was offered yet may be settled too: by what the log said, or a hole.
        while self.start >= self.fresh && self.slots.front().is_some_and(|slot| slot.state == State::Settled) {
            self.drop_front();
        }
        self.fresh = self.fresh.max(self.start);
    }

    /// The room that is worth a look at the log.
    fn window_part(&self) -> usize {
        (self.settings.window as usize / 16).max(1)
    }

    fn hold_front(&mut self, front: Slot) {
        let timing = self.timings.front().copied().unwrap_or_default();
        self.note_held(self.start, &front);
        self.held.insert(self.start, Held { slot: front, timing });
    }

    fn note_held(&mut self, offset: i64, slot: &Slot) {
        self.note(Change::Held { offset, key: slot.key() });
        // A time that the record itself names is not known from a delta yet.
        if let Some(wait @ Wait::Wall(_)) = self.waits.get(offset) {
            let not_before = wait.not_before();
            let deliveries = slot.deliveries - u16::from(slot.state == State::Leased);
            self.note(Change::Waiting { from: offset, to: offset + 1, deliveries, not_before, by: None });
        }
    }

    fn drop_front(&mut self) {
        self.slots.pop_front();
        self.timings.pop_front();
        self.start += 1;
        let block = due_blocks::block_of(self.start - 1);
        if block != due_blocks::block_of(self.start) {
            self.forget_if_empty(block);
        }
        let len = self.slots.len();
        if self.slots.capacity() > SMALL_WINDOW && len * 2 < self.slots.capacity() {
            // Whatever a peak needed goes back.
            self.slots.shrink_to(len + len / 4);
            self.timings.shrink_to(len + len / 4);
        }
    }
}

/// Adds to changes; neighbours become one range.
fn add(changes: &mut Vec<Change>, change: Change) {
    match (changes.last_mut(), &change) {
        (Some(Change::Settled { to: end, cause: c, by: b, .. }), Change::Settled { from, to, cause, by })
            if end == from && c == cause && b == by =>
        {
            *end = *to
        }
        (
            Some(Change::Waiting { to: end, deliveries: d, not_before: n, by: b, .. }),
            Change::Waiting { from, to, deliveries, not_before, by },
        ) if end == from && d == deliveries && n == not_before && b == by => *end = *to,
        _ => changes.push(change),
    }
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

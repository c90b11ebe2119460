//! What of a queue's partition survives a crash: the sum of its deltas. Pure.
//!
//! **Invariant**: below `start` everything is settled but what is in `held`; from `start` on everything is waiting, never
//! delivered, but what is in `known`. Applying a change twice in a row does what applying it once does, its totals aside.
//!
//! Replay builds it, [`super::SharePartition`] begins from it, and a snapshot is its bytes.

use super::change::{self, By, Cause, Change, Delta, DeltaError, NotBefore};
use super::chunked::ByOffset;
use super::history::History;
use super::share_partition::Totals;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a reason at most; what is longer is cut.
pub(super) const MAX_REASON: usize = 256;

/// What is remembered of one record that is not settled, or of a range that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Settled,
    Waiting { deliveries: u16, not_before: NotBefore },
    GivenUp { parked: bool, deliveries: u16, key: Option<u64> },
}

impl State {
    /// Of what nobody was given yet.
    pub(super) const NEW: Self = Self::Waiting { deliveries: 0, not_before: NotBefore::AT_ONCE };
}

/// A dead letter or parked record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// When, Unix ms.
    pub at_ms: i64,
    /// Why, for people.
    pub reason: Arc<str>,
}

/// A record below the start that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldRecord {
    pub(super) state: State,
    pub(super) key: Option<u64>,
}

/// States of ranges of offsets, apart from one another, joined with neighbours of the same state; but what was given up
/// is a range of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<i64, (i64, State)>);

impl Ranges {
    /// The state of an offset.
    pub(super) fn get(&self, offset: i64) -> Option<State> {
        let (_, (to, state)) = self.0.range(..=offset).next_back()?;
        (offset < *to).then_some(*state)
    }

    /// Each range (from, to, state), from the lowest.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, i64, State)> {
        self.0.iter().map(|(from, (to, state))| (*from, *to, *state))
    }

    /// Where the range at an offset ends, or if there is none, where the next one begins.
    pub(super) fn next_boundary(&self, offset: i64) -> Option<i64> {
        let here = self.0.range(..=offset).next_back().map(|(_, (to, _))| *to).filter(|to| *to > offset);
        here.or_else(|| self.0.range(offset + 1..).next().map(|(from, _)| *from))
    }

    /// Forgets all below an offset.
    pub(super) fn drop_below(&mut self, start: i64) {
        if self.0.is_empty() {
            return;
        }
        let above = self.0.split_off(&start);
        let crossing = self.0.last_key_value().filter(|(_, (to, _))| *to > start).map(|(_, range)| *range);
        self.0 = above;
        if let Some(range) = crossing {
            self.0.insert(start, range);
        }
    }

    /// Sets a range; an empty one is nothing.
    pub(super) fn set(&mut self, from: i64, to: i64, state: State) {
        if from < to {
            self.cut(from, to);
            self.insert(from, to, state);
        }
    }

    /// Takes a range out.
    fn cut(&mut self, from: i64, to: i64) {
        if let Some((&before, &(end, state))) = self.0.range(..from).next_back()
            && end > from
        {
            self.0.insert(before, (from, state));
            if end > to {
                self.0.insert(to, (end, state));
            }
        }
        while let Some((&at, &(end, state))) = self.0.range(from..to).next() {
            self.0.remove(&at);
            if end > to {
                self.0.insert(to, (end, state));
            }
        }
    }

    /// Puts a range where nothing is, joined with neighbours of the same state.
    fn insert(&mut self, mut from: i64, mut to: i64, state: State) {
        // Each of those has a reason of its own.
        let single = matches!(state, State::GivenUp { .. });
        if let Some((&before, &(end, other))) = self.0.range(..from).next_back()
            && (end, other) == (from, state)
            && !single
        {
            self.0.remove(&before);
            from = before;
        }
        if let Some(&(end, other)) = self.0.get(&to)
            && other == state
            && !single
        {
            self.0.remove(&to);
            to = end;
        }
        self.0.insert(from, (to, state));
    }
}

/// The durable state of one queue over one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurablePartition {
    pub(super) start: i64,
    /// At and above `start`.
    pub(super) known: Ranges,
    /// Below `start`.
    pub(super) held: BTreeMap<i64, HeldRecord>,
    /// For each that was given up, in `known` or `held`.
    pub(super) given_up: ByOffset<GivenUp>,
    pub(super) history: History,
    pub(super) totals: Totals,
}

impl DurablePartition {
    /// A queue that begins here.
    #[must_use]
    pub fn new(start: i64) -> Self {
        Self {
            start,
            known: Ranges::default(),
            held: BTreeMap::new(),
            given_up: ByOffset::default(),
            history: History::default(),
            totals: Totals::default(),
        }
    }

    /// All below it that is not held is settled.
    #[must_use]
    pub const fn start(&self) -> i64 {
        self.start
    }

    /// Does what a delta says.
    pub fn apply(&mut self, delta: &Delta) {
        for change in &delta.changes {
            self.change(delta.epoch, change);
        }
        if delta.start > self.start {
            self.start = delta.start;
            // What is left below it is settled: what was not is held.
            self.known.drop_below(delta.start);
        }
    }

    fn change(&mut self, epoch: i32, change: &Change) {
        match *change {
            Change::Settled { from, to, cause, by } => {
                self.set(from, to, State::Settled);
                self.totals.add(cause, (to - from).cast_unsigned());
                self.remember(epoch, by, from, to);
            }
            Change::Waiting { from, to, deliveries, not_before, by } => {
                self.set(from, to, State::Waiting { deliveries, not_before });
                self.remember(epoch, by, from, to);
            }
            Change::GivenUp { offset, parked, deliveries, at_ms, ref reason, key, by } => {
                self.set(offset, offset + 1, State::GivenUp { parked, deliveries, key });
                self.given_up.insert(offset, GivenUp { at_ms, reason: reason.clone() });
                self.remember(epoch, by, offset, offset + 1);
            }
            Change::Held { offset, key } => {
                let state = self.known.get(offset).unwrap_or(State::NEW);
                self.held.insert(offset, HeldRecord { state, key });
            }
        }
    }

    fn remember(&mut self, epoch: i32, by: Option<By>, from: i64, to: i64) {
        if let Some(by) = by {
            self.history.add(epoch, by, from, to);
        }
    }

    fn set(&mut self, from: i64, to: i64, state: State) {
        let gone: Vec<i64> = self.given_up.from(from).map(|(offset, _)| offset).take_while(|o| *o < to).collect();
        gone.iter().for_each(|offset| drop(self.given_up.remove(*offset)));
        let held: Vec<_> = self.held.range(from..to).map(|(offset, _)| *offset).collect();
        for offset in held {
            if state == State::Settled {
                self.held.remove(&offset);
            } else if let Some(record) = self.held.get_mut(&offset) {
                record.state = state;
            }
        }
        self.known.set(from.max(self.start), to, state);
    }

    /// The bytes of a snapshot, from which [`Self::decode`] makes the same again.
    pub fn encode(&self, out: &mut Vec<u8>) {
        use change::put;
        out.push(change::VERSION);
        put(out, self.start);
        for total in self.totals.all() {
            put(out, total.cast_signed());
        }
        put(out, self.history.iter().len() as i64);
        let mut at = self.start;
        for (epoch, by, from, to) in self.history.iter() {
            put(out, i64::from(epoch));
            out.push(by.verdict as u8);
            put(out, i64::from(by.generation));
            change::put_range(out, &mut at, from, to);
        }
        change::put_changes(out, self.start, &self.as_changes());
    }

    /// What makes this state of a new one with the same start; totals and history aside.
    fn as_changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&offset, record) in &self.held {
            changes.push(Change::Held { offset, key: record.key });
            changes.push(self.as_change(offset, offset + 1, record.state));
        }
        changes.extend(self.known.iter().map(|(from, to, state)| self.as_change(from, to, state)));
        changes
    }

    fn as_change(&self, from: i64, to: i64, state: State) -> Change {
        match state {
            State::Settled => Change::Settled { from, to, cause: Cause::Acked, by: None },
            State::Waiting { deliveries, not_before } => Change::Waiting { from, to, deliveries, not_before, by: None },
            State::GivenUp { parked, deliveries, key } => {
                let (at_ms, reason) = self.given_up.get(from).map_or((0, "".into()), |g| (g.at_ms, g.reason.clone()));
                Change::GivenUp { offset: from, parked, deliveries, at_ms, reason, key, by: None }
            }
        }
    }

    /// Reads a snapshot's bytes.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DeltaError> {
        use change::{number, take};
        let bytes = &mut bytes;
        change::check_version(bytes)?;
        let start = take(bytes)?;
        if start < 0 {
            return Err(DeltaError::Damaged);
        }
        let mut partition = Self::new(start);
        let mut totals = [0u64; 4];
        for total in &mut totals {
            *total = take(bytes)?.cast_unsigned();
        }
        let mut at = start;
        for _ in 0..take(bytes)? {
            let epoch = number(bytes)?;
            let verdict = change::verdict(*bytes.split_off_first().ok_or(DeltaError::Damaged)?)?;
            let generation = number(bytes)?;
            let (from, to) = change::take_range(bytes, &mut at)?;
            partition.history.add(epoch, By { generation, verdict }, from, to);
        }
        for change in change::take_changes(bytes, start)? {
            partition.change(0, &change);
        }
        if !bytes.is_empty() {
            return Err(DeltaError::Damaged);
        }
        partition.totals = Totals::from_all(totals);
        Ok(partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Plain(State);

    proptest! {
        /// Ranges against one entry an offset.
        #[test]
        fn ranges_are_as_good_as_single_offsets(steps in proptest::collection::vec((0..40i64, 1..12i64, 0..4u8), 1..60)) {
            let (mut ranges, mut plain) = (DurablePartition::new(0), BTreeMap::<i64, Plain>::new());
            for (from, length, kind) in steps {
                let state = match kind {
                    0 | 1 => State::Settled,
                    n => State::Waiting { deliveries: u16::from(n), not_before: NotBefore::AT_ONCE },
                };
                let change = ranges.as_change(from, from + length, state);
                ranges.apply(&Delta { epoch: 1, start: 0, changes: vec![change] });
                plain.extend((from..from + length).map(|o| (o, Plain(state))));
                for offset in 0..60 {
                    prop_assert_eq!(ranges.known.get(offset).map(Plain), plain.get(&offset).copied());
                }
                // Apart, and joined where they are the same.
                let all: Vec<_> = ranges.known.iter().collect();
                prop_assert!(all.windows(2).all(|w| w[0].1 < w[1].0 || (w[0].1 == w[1].0 && w[0].2 != w[1].2)));
                let mut bytes = Vec::new();
                ranges.encode(&mut bytes);
                prop_assert_eq!(DurablePartition::decode(&bytes), Ok(ranges.clone()));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Some(first) = bytes.first_mut() { *first = change::VERSION; }
            let _ = DurablePartition::decode(&bytes);
        }
    }
}

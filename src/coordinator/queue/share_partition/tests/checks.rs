//! What must hold at any moment: the living state, its deltas played again, and the model say the same.

use super::*;

impl Run {
    pub(super) fn replayed(&self, count: usize) -> DurablePartition {
        let mut durable = DurablePartition::new(0);
        for (i, (delta, _)) in self.deltas[..count].iter().enumerate() {
            durable.apply(delta);
            if i % 7 == 3 {
                let mut snapshot = Vec::new();
                durable.encode(&mut snapshot);
                durable = DurablePartition::decode(&snapshot).expect("a snapshot is read as it was written");
            }
        }
        durable
    }

    /// What a crash would leave is what the live state says, record by record.
    pub(super) fn check_durable(&self) {
        let (replayed, live) = (self.replayed(self.deltas.len()), self.real.durable());
        for (offset, entry) in (0..).zip(&self.model.log) {
            if entry.hole {
                continue;
            }
            let (r, l) = (effective(&replayed, offset), effective(&live, offset));
            assert_eq!((r.0, r.1), (l.0, l.1), "offset {offset}");
            // A wait that is over may be forgotten by the living.
            assert!(l.2 == NotBefore::AT_ONCE || l.2 == r.2, "offset {offset}: {l:?}, {r:?}");
            let (expected, deliveries) = match entry.is {
                Is::Settled => ("settled", 0),
                Is::Dead => ("dead", entry.deliveries),
                Is::Parked => ("parked", entry.deliveries),
                Is::Waiting => ("waiting", entry.deliveries),
                Is::Leased { .. } => ("waiting", entry.deliveries - 1),
            };
            assert_eq!((l.0, l.1), (expected, deliveries), "offset {offset}");
        }
        assert_eq!(replayed.totals, live.totals);
        assert_eq!(replayed.given_up, live.given_up);
        assert_eq!(replayed.history, live.history);
        assert!(self.real.slots.len() <= self.settings.window as usize);
    }

    pub(super) fn check_counts(&self) {
        let counts = self.real.counts();
        let count = |f: &dyn Fn(&Is) -> bool| self.model.log.iter().filter(|e| f(&e.is)).count() as u64;
        assert_eq!(counts.leased, count(&|is| matches!(is, Is::Leased { .. })));
        assert_eq!(counts.dead, count(&|is| *is == Is::Dead));
        assert_eq!(counts.parked, count(&|is| *is == Is::Parked));
        let waiting = |e: &&Entry| e.is == Is::Waiting;
        let seen = self.model.log[..self.real.looked_at().0 as usize].iter().filter(waiting).count() as u64;
        assert_eq!(counts.ready + counts.delayed + counts.blocked, seen);
    }
}

/// State, deliveries, and where it was delivered the time it waits for.
fn effective(durable: &DurablePartition, offset: i64) -> (&'static str, u16, NotBefore) {
    let state = if offset < durable.start {
        durable.held.get(&offset).map_or(Durable::Settled, |held| held.state)
    } else {
        durable.known.get(offset).unwrap_or(Durable::NEW)
    };
    match state {
        Durable::Settled => ("settled", 0, NotBefore::AT_ONCE),
        // A time that the record names itself is read again with it.
        Durable::Waiting { deliveries: 0, .. } => ("waiting", 0, NotBefore::AT_ONCE),
        Durable::Waiting { deliveries, not_before } => ("waiting", deliveries, not_before),
        Durable::GivenUp { parked, deliveries, .. } => {
            (if parked { "parked" } else { "dead" }, deliveries, NotBefore::AT_ONCE)
        }
    }
}

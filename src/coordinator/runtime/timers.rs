//! The timers of one state machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Times by name, and names by time.
pub(super) struct Timers<T> {
    by_name: BTreeMap<T, Duration>,
    by_time: BTreeSet<(Duration, T)>,
}

impl<T: Ord + Clone> Timers<T> {
    pub(super) const fn new() -> Self {
        Self { by_name: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Sets or cancels one.
    pub(super) fn set(&mut self, timer: T, at: Option<Duration>) {
        let before = match at {
            Some(at) => self.by_name.insert(timer.clone(), at),
            None => self.by_name.remove(&timer),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, timer.clone()));
        }
        if let Some(at) = at {
            self.by_time.insert((at, timer));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_name.remove(&timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_fire_in_order_of_time_once_each() {
        let mut timers = Timers::new();
        let s = Duration::from_secs;
        timers.set("b", Some(s(2)));
        timers.set("a", Some(s(3)));
        timers.set("a", Some(s(1)));
        timers.set("c", Some(s(1)));
        timers.set("c", None);
        timers.set("never", None);
        assert_eq!(timers.next(), Some(s(1)));
        assert_eq!(timers.pop_due(s(0)), None);
        assert_eq!([timers.pop_due(s(5)), timers.pop_due(s(5)), timers.pop_due(s(5))], [Some("a"), Some("b"), None]);
    }
}

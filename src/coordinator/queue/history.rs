//! The verdicts that came last, so that a settlement sent again is told from one that comes too late. Pure.
//!
//! **Invariant**: bounded; the oldest goes first. A range is one verdict over neighbouring records of one receive call.

use super::change::{By, Verdict};
use std::collections::{BTreeMap, VecDeque};

/// Ranges kept: about 100 KiB a partition when every call takes a single record.
const RANGES: usize = 1024;

/// Recent verdicts by (epoch, generation, first offset).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    ranges: BTreeMap<(i32, u32, i64), (i64, Verdict)>,
    order: VecDeque<(i32, u32, i64)>,
}

impl History {
    /// Remembers a verdict over `from..to`.
    pub(super) fn add(&mut self, epoch: i32, by: By, from: i64, to: i64) {
        // The newest range grows when its neighbour follows.
        if let Some(&last) = self.order.back()
            && (last.0, last.1) == (epoch, by.generation)
            && let Some(range) = self.ranges.get_mut(&last)
            && (range.0, range.1) == (from, by.verdict)
        {
            range.0 = to;
            return;
        }
        let key = (epoch, by.generation, from);
        if self.ranges.insert(key, (to, by.verdict)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > RANGES
            && let Some(oldest) = self.order.pop_front()
        {
            self.ranges.remove(&oldest);
        }
    }

    /// What was said of a lease.
    pub(super) fn verdict(&self, epoch: i32, generation: u32, offset: i64) -> Option<Verdict> {
        let range = self.ranges.range((epoch, generation, i64::MIN)..=(epoch, generation, offset)).next_back()?;
        (offset < range.1.0).then_some(range.1.1)
    }

    /// Every range, the oldest first.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (i32, By, i64, i64)> {
        self.order.iter().map(|key| {
            let (to, verdict) = self.ranges[key];
            (key.0, By { generation: key.1, verdict }, key.2, to)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_ranges_and_forgets_the_oldest() {
        let mut history = History::default();
        let ack = |generation| By { generation, verdict: Verdict::Ack };
        history.add(1, ack(7), 10, 11);
        history.add(1, ack(7), 11, 20);
        history.add(1, By { generation: 7, verdict: Verdict::Nack }, 20, 21);
        assert_eq!(history.iter().len(), 2);
        assert_eq!(history.verdict(1, 7, 19), Some(Verdict::Ack));
        assert_eq!(history.verdict(1, 7, 20), Some(Verdict::Nack));
        assert_eq!(
            [(1, 7, 21), (1, 7, 9), (1, 8, 10), (2, 7, 10)].map(|(e, g, o)| history.verdict(e, g, o)),
            [None; 4]
        );
        for generation in 100..100 + RANGES as u32 {
            history.add(1, ack(generation), 0, 1);
        }
        assert_eq!(history.verdict(1, 7, 15), None);
        assert_eq!(history.iter().len(), RANGES);
    }
}

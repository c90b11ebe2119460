//! When leases run out and delays end: for each block of neighbouring offsets the least time of any of them. Pure.
//!
//! The times themselves stand beside the records, four bytes each. A block is looked through when its least time comes;
//! what was settled meanwhile costs at most that one look.
//!
//! **Invariant**: a block's time is at or before that of each of its records, so that nothing fires late. A block that has
//! no record any more is forgotten by who removes the last, so memory follows the records that are there and not those that
//! ever were.
//!
//! Called by `share_partition`, which owns it; times are milliseconds of the monotonic clock.

use super::chunked::ByOffset;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Offsets of a block: 512.
const BLOCK_BITS: u32 = 9;
/// Times in the heap that no block has any more, beyond as many as there are blocks.
const STALE: usize = 64;

/// The least times.
#[derive(Debug, Default)]
pub(super) struct DueBlocks {
    least: ByOffset<i64>,
    /// Each block's time once, and some that are not true any more.
    heap: BinaryHeap<Reverse<(i64, i64)>>,
}

/// The block of an offset.
pub(super) const fn block_of(offset: i64) -> i64 {
    offset >> BLOCK_BITS
}

/// The offsets of a block.
pub(super) const fn offsets_of(block: i64) -> Range<i64> {
    block << BLOCK_BITS..(block + 1) << BLOCK_BITS
}

impl DueBlocks {
    /// A record of this block has this time.
    pub(super) fn note(&mut self, block: i64, due_ms: i64) {
        if self.least.get(block).is_some_and(|least| *least <= due_ms) {
            return;
        }
        self.least.insert(block, due_ms);
        self.heap.push(Reverse((due_ms, block)));
        if self.heap.len() > 2 * self.least.len() + STALE {
            self.heap = self.least.iter().map(|(block, due)| Reverse((*due, block))).collect();
        }
    }

    /// It has no record any more.
    pub(super) fn forget(&mut self, block: i64) {
        self.least.remove(block);
        if self.least.len() == 0 {
            // Whatever a peak needed goes back.
            self.heap = BinaryHeap::new();
        }
    }

    /// The blocks whose time has come, in order. They have none any more until it is noted again.
    pub(super) fn take_due(&mut self, now_ms: i64) -> Vec<i64> {
        let mut blocks = Vec::new();
        while let Some(&Reverse((due, block))) = self.heap.peek()
            && due <= now_ms
        {
            self.heap.pop();
            if self.least.get(block) == Some(&due) {
                self.least.remove(block);
                blocks.push(block);
            }
        }
        blocks.sort_unstable();
        blocks
    }

    /// A time before which nothing fires; `None` if nothing is set.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Blocks that have a time.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.least.len()
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.least.memory() + self.heap.capacity() * size_of::<Reverse<(i64, i64)>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against every time by itself: nothing fires late, and nothing is looked through without a reason.
        #[test]
        fn it_fires_in_time(steps in proptest::collection::vec((0..4u8, 0..6i64, 0..3_000i64), 1..300)) {
            let (mut blocks, mut now, mut plain) = (DueBlocks::default(), 5_000i64, BTreeMap::<i64, i64>::new());
            for (kind, block, amount) in steps {
                match kind {
                    0 | 1 => {
                        blocks.note(block, now + amount);
                        let least = plain.entry(block).or_insert(i64::MAX);
                        *least = (*least).min(now + amount);
                    }
                    2 => {
                        blocks.forget(block);
                        plain.remove(&block);
                    }
                    _ => {
                        let next = blocks.next_ms();
                        prop_assert!(plain.values().min().is_none_or(|least| next.is_some_and(|next| next <= *least)));
                        now += amount / 4;
                        let expected: Vec<_> = plain.extract_if(.., |_, due| *due <= now).map(|(block, _)| block).collect();
                        prop_assert_eq!(blocks.take_due(now), expected);
                    }
                }
                prop_assert_eq!(blocks.len(), plain.len());
            }
        }
    }

    #[test]
    fn memory_follows_what_is_there() {
        let mut blocks = DueBlocks::default();
        for n in 0..100_000 {
            blocks.note(n, 3_600_000 + n);
            blocks.note(n, 3_600_000 - n);
            blocks.forget(n - 3);
        }
        assert!(blocks.memory() < 16 << 10, "{}", blocks.memory());
    }

    #[test]
    fn a_block_is_a_range_of_offsets() {
        for offset in [0, 1, 511, 512, 1 << 40] {
            assert!(offsets_of(block_of(offset)).contains(&offset));
        }
        assert_eq!(offsets_of(1), 512..1024);
    }
}

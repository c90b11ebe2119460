//! When leases run out and delays end: a hashed wheel with linked buckets. Pure.
//!
//! **Invariant**: insert, remove and move are O(1), and a removed timer leaves nothing behind, so that memory follows the
//! leases that are held and not those that ever were. A timer fires at its time or up to [`TICK_MS`] after it, never
//! before.
//!
//! Called by `share_partition`, which owns it; times are milliseconds of the monotonic clock.

/// How fine the wheel is.
pub(super) const TICK_MS: i64 = 16;
/// Buckets of one round: 8 s. Longer timers stay in their bucket for more rounds.
const BUCKETS: usize = 512;
/// No timer.
pub(super) const NONE: u32 = u32::MAX;

/// One timer.
#[derive(Debug, Clone, Copy)]
struct Node {
    offset: i64,
    due_ms: i64,
    /// When it was set, as the caller counts.
    since_ms: i64,
    previous: u32,
    next: u32,
    bucket: u32,
}

/// The wheel.
#[derive(Debug)]
pub(super) struct TimerWheel {
    heads: Box<[u32]>,
    nodes: Vec<Node>,
    /// First unused node, linked by `next`.
    free: u32,
    /// The tick that the next sweep begins with.
    tick: i64,
    len: usize,
}

impl Default for TimerWheel {
    fn default() -> Self {
        Self { heads: vec![NONE; BUCKETS].into(), nodes: Vec::new(), free: NONE, tick: i64::MIN, len: 0 }
    }
}

impl TimerWheel {
    /// Sets a timer, and gives its number, by which it is removed.
    pub(super) fn insert(&mut self, offset: i64, due_ms: i64, since_ms: i64) -> u32 {
        let node = Node { offset, due_ms, since_ms, previous: NONE, next: NONE, bucket: 0 };
        let id = if self.free == NONE {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        } else {
            let id = self.free;
            self.free = self.nodes[id as usize].next;
            self.nodes[id as usize] = node;
            id
        };
        self.len += 1;
        self.link(id);
        id
    }

    /// Takes a timer away. [`NONE`] is nothing to do.
    pub(super) fn remove(&mut self, id: u32) {
        if id == NONE {
            return;
        }
        self.unlink(id);
        self.nodes[id as usize].next = self.free;
        self.free = id;
        self.len -= 1;
        if self.len == 0 {
            // Whatever a peak needed goes back.
            self.nodes = Vec::new();
            self.free = NONE;
        }
    }

    /// Puts a timer to another time.
    pub(super) fn postpone(&mut self, id: u32, due_ms: i64) {
        self.unlink(id);
        self.nodes[id as usize].due_ms = due_ms;
        self.link(id);
    }

    /// When a timer fires.
    pub(super) fn due_ms(&self, id: u32) -> i64 {
        self.nodes[id as usize].due_ms
    }

    /// When it was set.
    pub(super) fn since_ms(&self, id: u32) -> i64 {
        self.nodes[id as usize].since_ms
    }

    /// Gives every timer that is due to `out`, in the order of offsets. They stay set: who gets them removes them.
    pub(super) fn due(&mut self, now_ms: i64, out: &mut Vec<i64>) {
        let now = now_ms.div_euclid(TICK_MS);
        if self.len > 0 {
            let first = self.tick.max(now - BUCKETS as i64 + 1);
            for tick in first..=now {
                let mut at = self.heads[bucket_of(tick)];
                while at != NONE {
                    let node = &self.nodes[at as usize];
                    if node.due_ms <= now_ms {
                        out.push(node.offset);
                    }
                    at = node.next;
                }
            }
            out.sort_unstable();
        }
        // The present tick is not over.
        self.tick = self.tick.max(now);
    }

    /// A time at or before which nothing fires; `None` if no timer is set. Exact for what fires within a round.
    pub(super) fn next_due_ms(&self) -> Option<i64> {
        if self.len == 0 {
            return None;
        }
        let from = if self.tick == i64::MIN { return self.all().map(|n| n.due_ms).min() } else { self.tick };
        for tick in from..from + BUCKETS as i64 {
            let mut at = self.heads[bucket_of(tick)];
            let mut least = i64::MAX;
            while at != NONE {
                let node = &self.nodes[at as usize];
                if node.due_ms < (tick + 1) * TICK_MS {
                    least = least.min(node.due_ms);
                }
                at = node.next;
            }
            if least != i64::MAX {
                return Some(least);
            }
        }
        Some((from + BUCKETS as i64) * TICK_MS)
    }

    /// Timers that are set.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.nodes.capacity() * size_of::<Node>()
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.heads.iter().flat_map(|&head| {
            let next = |node: &&Node| self.nodes.get(node.next as usize);
            std::iter::successors(self.nodes.get(head as usize), next)
        })
    }

    fn link(&mut self, id: u32) {
        // What is due already waits for the next sweep.
        let tick = self.nodes[id as usize].due_ms.div_euclid(TICK_MS).max(self.tick);
        let bucket = bucket_of(tick);
        let head = self.heads[bucket];
        let node = &mut self.nodes[id as usize];
        (node.bucket, node.previous, node.next) = (bucket as u32, NONE, head);
        if head != NONE {
            self.nodes[head as usize].previous = id;
        }
        self.heads[bucket] = id;
    }

    fn unlink(&mut self, id: u32) {
        let Node { previous, next, bucket, .. } = self.nodes[id as usize];
        match previous {
            NONE => self.heads[bucket as usize] = next,
            previous => self.nodes[previous as usize].next = next,
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
    }
}

fn bucket_of(tick: i64) -> usize {
    tick.rem_euclid(BUCKETS as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Against a plain map: the same timers are due, none is forgotten, none comes early.
        #[test]
        fn it_fires_what_is_due(steps in proptest::collection::vec((0..5u8, 0..40i64, 0..30_000i64), 1..200)) {
            let (mut wheel, mut now, mut plain) = (TimerWheel::default(), 5_000i64, BTreeMap::<i64, (u32, i64)>::new());
            for (kind, offset, amount) in steps {
                match (kind, plain.get(&offset).copied()) {
                    (0 | 1, None) => {
                        let id = wheel.insert(offset, now + amount, now);
                        plain.insert(offset, (id, now + amount));
                    }
                    (0, Some((id, _))) => {
                        wheel.postpone(id, now + amount);
                        plain.insert(offset, (id, now + amount));
                    }
                    (1, Some((id, due))) => {
                        prop_assert_eq!(wheel.due_ms(id), due);
                        wheel.remove(id);
                        plain.remove(&offset);
                    }
                    _ => {
                        let least = plain.values().map(|(_, due)| *due).min();
                        let said = wheel.next_due_ms();
                        prop_assert_eq!(said.is_some(), least.is_some());
                        prop_assert!(said.zip(least).is_none_or(|(said, least)| said <= least.max(now)), "{said:?} {least:?}");
                        now += amount / 4;
                        let mut fired = Vec::new();
                        wheel.due(now, &mut fired);
                        let expected: Vec<_> = plain.iter().filter(|(_, (_, due))| *due <= now).map(|(o, _)| *o).collect();
                        prop_assert_eq!(&fired, &expected);
                        for offset in fired {
                            wheel.remove(plain.remove(&offset).unwrap().0);
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), plain.len());
            }
        }
    }

    #[test]
    fn memory_follows_what_is_set() {
        let mut wheel = TimerWheel::default();
        for i in 0..100_000 {
            let id = wheel.insert(i, i + 3_600_000, i);
            wheel.remove(id);
        }
        assert!(wheel.memory() < 4096, "{}", wheel.memory());
    }
}

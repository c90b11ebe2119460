//! The newest batches of every partition, in memory, under one budget.
//!
//! **Invariant**: a ring holds an unbroken run of a log's batches that ends at the log's end, or nothing. What counts
//! against the budget counts until the last reader lets go of it. Over the budget, the oldest batches of the ring
//! that was used least recently go first.
//!
//! Called by `partition_log`, from any thread.

use crate::codec::RecordBatch;
use crate::telemetry::{MemoryBudget, Reserved};
use crate::types::Offset;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// A read makes its ring the newest only if this many changes of the order came since it was: so hot rings do not
/// fight for the lock.
const TOUCH_INTERVAL: u64 = 64;
/// What a batch costs besides its bytes: its header and its place in the ring.
const ENTRY_BYTES: usize = 160;

/// The budget, and the order in which rings were used.
pub(super) struct TailBudget {
    memory: Arc<MemoryBudget>,
    order: Mutex<Order>,
}

#[derive(Default)]
struct Order {
    rings: BTreeMap<u64, Weak<TailRing>>,
    next: u64,
}

/// Bytes that count against the budget while anybody holds them.
struct Counted {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl TailBudget {
    /// A budget of so many bytes.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { memory: MemoryBudget::new("tail", limit), order: Mutex::default() })
    }

    /// Bytes that count now.
    pub(super) fn used(&self) -> usize {
        self.memory.used()
    }

    /// Counts a batch's bytes from now until they are dropped everywhere.
    pub(super) fn count(&self, bytes: Bytes) -> Bytes {
        let reserved = self.memory.reserve(bytes.len() + ENTRY_BYTES);
        Bytes::from_owner(Counted { bytes, _reserved: reserved })
    }

    fn touch(&self, ring: &Arc<TailRing>) {
        let mut order = self.order.lock();
        let tick = order.next;
        order.next += 1;
        let old = ring.tick.swap(tick, Ordering::AcqRel);
        order.rings.remove(&old);
        order.rings.insert(tick, Arc::downgrade(ring));
    }

    fn touch_seldom(&self, ring: &Arc<TailRing>) {
        let stale = |order: &Order| ring.tick.load(Ordering::Acquire) + TOUCH_INTERVAL < order.next;
        // Who does not get the lock at once leaves it: somebody else is changing the order just now.
        if self.order.try_lock().is_some_and(|order| stale(&order)) {
            self.touch(ring);
        }
    }

    /// Drops batches until the budget holds, or no ring has any left.
    fn shrink(&self) {
        while self.used() > self.memory.limit() {
            let oldest = {
                let mut order = self.order.lock();
                let Some((tick, ring)) = order.rings.pop_first() else { return };
                let ring = ring.upgrade();
                if ring.as_ref().is_some_and(|ring| !ring.is_empty()) {
                    order.rings.insert(tick, ring.as_ref().map_or_else(Weak::new, Arc::downgrade));
                }
                ring
            };
            if let Some(ring) = oldest {
                ring.drop_oldest();
            }
        }
    }
}

/// The newest batches of one partition.
pub(super) struct TailRing {
    budget: Arc<TailBudget>,
    tick: AtomicU64,
    batches: Mutex<VecDeque<RecordBatch>>,
}

impl TailRing {
    /// An empty ring.
    pub(super) fn new(budget: Arc<TailBudget>) -> Arc<Self> {
        Arc::new(Self { budget, tick: AtomicU64::new(u64::MAX), batches: Mutex::default() })
    }

    /// The budget that it shares.
    pub(super) fn budget(&self) -> &TailBudget {
        &self.budget
    }

    /// Adds batches at the end. Their bytes must have gone through [`TailBudget::count`].
    pub(super) fn extend(self: &Arc<Self>, new: impl IntoIterator<Item = RecordBatch>) {
        {
            let mut batches = self.batches.lock();
            for batch in new {
                let follows =
                    batches.back().is_none_or(|last| last.header().next_offset() == batch.header().base_offset);
                if !follows {
                    batches.clear();
                }
                batches.push_back(batch);
            }
        }
        self.budget.touch(self);
        self.budget.shrink();
    }

    /// Forgets everything, because the log's end was cut.
    pub(super) fn clear(&self) {
        self.batches.lock().clear();
    }

    /// Batches from the one that holds `from`, all of them below `end`, at least one if there is one, about
    /// `max_bytes`. `None` if the ring does not reach back that far.
    pub(super) fn read(self: &Arc<Self>, from: Offset, end: Offset, max_bytes: usize) -> Option<Vec<RecordBatch>> {
        let found = {
            let batches = self.batches.lock();
            if batches.front().is_none_or(|first| from < first.header().base_offset) {
                return None;
            }
            let start = batches.partition_point(|batch| batch.header().next_offset() <= from);
            let mut bytes = 0;
            let take = |batch: &&RecordBatch| {
                let fits = bytes == 0 || bytes + batch.header().size <= max_bytes;
                bytes += batch.header().size;
                fits && batch.header().next_offset() <= end
            };
            batches.range(start..).take_while(take).cloned().collect()
        };
        self.budget.touch_seldom(self);
        Some(found)
    }

    fn is_empty(&self) -> bool {
        self.batches.lock().is_empty()
    }

    fn drop_oldest(&self) {
        let oldest = self.batches.lock().pop_front();
        drop(oldest); // its memory goes outside the lock
    }
}

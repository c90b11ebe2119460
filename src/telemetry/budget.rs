//! Budgets of memory: how many bytes of one kind may be held at once, and how many are.
//!
//! **Invariant**: what is reserved is given back when the [`Reserved`] is dropped, whatever became of it. A budget that is
//! used up refuses; only a lone reservation always fits, so that a small budget makes nothing impossible. Each budget
//! shows what is used and its limit in the metrics, by its name.
//!
//! Callers: whoever holds bytes for others. Threading: atomics only.

use super::metrics::{BudgetLabels, metrics};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// One budget.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    gauge: Gauge,
}

/// Bytes of a budget, until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of so many bytes. The name is the metrics' label.
    #[must_use]
    pub fn new(name: &'static str, limit: usize) -> Arc<Self> {
        let labels = BudgetLabels { budget: name };
        metrics().memory_budget_bytes.get_or_create(&labels).set(i64::try_from(limit).unwrap_or(i64::MAX));
        let gauge = metrics().memory_bytes.get_or_create(&labels).clone();
        Arc::new(Self { limit, used: AtomicUsize::new(0), gauge })
    }

    /// Takes bytes if they fit, or if nothing else is taken.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        if before > 0 && before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            return None;
        }
        self.gauge.inc_by(bytes as i64);
        Some(Reserved { budget: Arc::clone(self), bytes })
    }

    /// Takes bytes that are there already: the budget may be exceeded, and its owner makes room.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Reserved {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        self.gauge.inc_by(bytes as i64);
        Reserved { budget: Arc::clone(self), bytes }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Bytes that may be.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // In this order the gauge never shows more than is taken.
        self.budget.gauge.dec_by(self.bytes as i64);
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_a_lone_one_always_fits() {
        let budget = MemoryBudget::new("of-this-test", 100);
        let large = budget.try_reserve(1000).expect("nothing else is taken");
        assert!(budget.try_reserve(1).is_none());
        drop(large);
        let held: Vec<_> = (0..4).map_while(|_| budget.try_reserve(30)).collect();
        assert_eq!((held.len(), budget.used()), (3, 90));
        let over = budget.reserve(50);
        assert_eq!((budget.used(), budget.limit()), (140, 100));
        let text = metrics().render();
        assert!(text.contains("sluice_memory_bytes{budget=\"of-this-test\"} 140"), "{text}");
        assert!(text.contains("sluice_memory_budget_bytes{budget=\"of-this-test\"} 100"), "{text}");
        drop((held, over));
        assert_eq!(budget.used(), 0);
    }
}

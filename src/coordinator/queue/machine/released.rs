//! Keys whose record was settled a moment ago, as long as that is not committed. Pure.
//!
//! **Invariant**: bounded by what may be decided and not committed; what is committed is forgotten with the next key.

use std::collections::{BTreeMap, VecDeque};

/// Where a key lies.
type Place = (i32, u64);

/// By partition and key, after how many records each may be told to be free.
#[derive(Debug, Default)]
pub(super) struct Released {
    after: BTreeMap<Place, u64>,
    order: VecDeque<(u64, Place)>,
}

impl Released {
    /// Keys of a partition are free once so many records are committed, of which `committed` are.
    pub(super) fn add(&mut self, partition: i32, keys: Vec<u64>, decided: u64, committed: u64) {
        while let Some(&(after, place)) = self.order.front()
            && after <= committed
        {
            self.order.pop_front();
            if self.after.get(&place) == Some(&after) {
                self.after.remove(&place);
            }
        }
        for key in keys {
            self.after.insert((partition, key), decided);
            self.order.push_back((decided, (partition, key)));
        }
    }

    /// After how many records a key is free; 0 if it was not held lately.
    pub(super) fn after(&self, partition: i32, key: u64) -> u64 {
        self.after.get(&(partition, key)).copied().unwrap_or(0)
    }

    /// No key was.
    pub(super) fn is_empty(&self) -> bool {
        self.after.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_until_its_release_is_committed() {
        let mut released = Released::default();
        released.add(0, vec![7, 8], 5, 0);
        released.add(0, vec![7], 9, 3);
        assert_eq!([released.after(0, 7), released.after(0, 8), released.after(1, 7)], [9, 5, 0]);
        released.add(0, vec![], 10, 5);
        assert_eq!([released.after(0, 7), released.after(0, 8)], [9, 0]);
        released.add(0, vec![], 10, 9);
        assert!(released.is_empty() && released.order.is_empty());
    }
}

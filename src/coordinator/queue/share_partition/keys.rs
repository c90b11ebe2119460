//! Keys: who holds one, who waits behind it.
//!
//! **Invariant**: both lists hold offsets alone, eight bytes each, and are in the order of keys that stand in the records'
//! slots. So a record is taken out of them before its slot goes, and its key never changes.

use super::{Place, SharePartition, Slot, State};

impl SharePartition {
    pub(super) fn key_at(&self, offset: i64) -> u64 {
        self.slot(offset).map_or(0, |slot| slot.key)
    }

    /// The record that holds a key.
    pub(super) fn holder_of(&self, key: u64) -> Option<i64> {
        match self.holders.find(|offset| self.key_at(*offset).cmp(&key)) {
            Ok(place) => self.holders.get(place).copied(),
            Err(_) => self.parked_ahead.get(&key).copied(),
        }
    }

    /// A record, whose slot is there, holds its key.
    pub(super) fn set_holder(&mut self, key: u64, offset: i64) {
        match self.holders.find(|offset| self.key_at(*offset).cmp(&key)) {
            Ok(place) => {
                if let Some(holder) = self.holders.get_mut(place) {
                    *holder = offset;
                }
            }
            Err(place) => self.holders.insert(place, offset),
        }
    }

    fn free(&mut self, key: u64) {
        if let Ok(place) = self.holders.find(|offset| self.key_at(*offset).cmp(&key)) {
            self.holders.remove(place);
        }
        self.parked_ahead.remove(&key);
    }

    fn find_waiter(&self, key: u64, offset: i64) -> Result<Place, Place> {
        self.waiters.find(|other| (self.key_at(*other), *other).cmp(&(key, offset)))
    }

    pub(super) fn add_waiter(&mut self, key: u64, offset: i64) {
        if let Err(place) = self.find_waiter(key, offset) {
            self.waiters.insert(place, offset);
        }
    }

    pub(super) fn remove_waiter(&mut self, key: u64, offset: i64) {
        if let Ok(place) = self.find_waiter(key, offset) {
            self.waiters.remove(place);
        }
    }

    /// The first that waits for a key.
    fn first_waiter(&self, key: u64) -> Option<i64> {
        let (Ok(place) | Err(place)) = self.find_waiter(key, i64::MIN);
        self.waiters.iter_from(place).next().copied().filter(|offset| self.key_at(*offset) == key)
    }

    /// Its key is free: the first that waits behind it is ready.
    pub(super) fn release_key(&mut self, offset: i64) {
        let Some(key) = self.slot(offset).and_then(Slot::key) else { return };
        self.release(key, offset);
    }

    pub(super) fn release(&mut self, key: u64, offset: i64) {
        self.released.push(key);
        match self.holder_of(key) {
            Some(holder) if holder != offset => return,
            Some(_) => self.free(key),
            // It was ready, and the next behind it.
            None => {}
        }
        if let Some(next) = self.first_waiter(key) {
            self.remove_waiter(key, next);
            self.make_ready(next);
        }
    }

    /// Where the log says that a record is parked, it holds its key.
    pub(super) fn note_parked(&mut self, offset: i64, slot: Slot) {
        if slot.state == State::Parked && slot.keyed {
            self.parked_ahead.remove(&slot.key);
            self.set_holder(slot.key, offset);
        }
    }
}

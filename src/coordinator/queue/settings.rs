//! What a queue's definition means for one of its partitions.

/// The most deliveries that a queue may allow: the count takes 16 bits of a slot.
pub const MAX_DELIVERIES: u16 = 10_000;
/// The most offsets between the oldest that is not settled and the newest that was looked at.
pub const MAX_WINDOW: u32 = 100_000;

/// What becomes of a record whose deliveries are used up, or that was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExhausted {
    /// It is put aside as a dead letter, and its key goes on.
    #[default]
    Dead,
    /// It is put aside and its key stays blocked until somebody redrives or discards it. A record without a key is a dead
    /// letter.
    ParkKey,
    /// It is settled as if it had been acknowledged, and counted.
    Skip,
}

/// How long a record waits after a `nack` that names no delay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// After the first delivery, in ms.
    pub min_ms: i64,
    /// At most, in ms.
    pub max_ms: i64,
    /// From each delivery to the next.
    pub factor: f64,
}

impl Backoff {
    /// The wait after this many deliveries.
    #[must_use]
    pub fn after(&self, deliveries: u16) -> i64 {
        let grown = self.min_ms as f64 * self.factor.powi(i32::from(deliveries.saturating_sub(1)));
        // A float that is too large, or not a number, becomes the most.
        if grown < self.max_ms as f64 { grown as i64 } else { self.max_ms }
    }
}

/// The part of a queue's definition that its partitions follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartitionSettings {
    /// Deliveries before a record is given up; at least 1.
    pub max_deliveries: u16,
    /// At most one record of a key is leased, delayed or parked.
    pub order_by_key: bool,
    /// After a `nack` without a delay; `None`: none.
    pub backoff: Option<Backoff>,
    /// After the last delivery.
    pub on_exhausted: OnExhausted,
    /// Records that may be delayed, blocked, parked or dead at once before no new one is taken from the log.
    pub max_held: u32,
    /// Offsets in the delivery window.
    pub window: u32,
}

impl Default for PartitionSettings {
    fn default() -> Self {
        Self {
            max_deliveries: 5,
            order_by_key: false,
            backoff: None,
            on_exhausted: OnExhausted::Dead,
            max_held: 100_000,
            window: 10_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_and_ends() {
        let backoff = Backoff { min_ms: 100, max_ms: 1_000, factor: 2.0 };
        assert_eq!([1, 2, 3, 4, 5, u16::MAX].map(|n| backoff.after(n)), [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(Backoff { factor: f64::INFINITY, ..backoff }.after(2), 1_000);
        assert_eq!(Backoff { factor: 0.0, ..backoff }.after(9), 0);
    }
}

//! A clock that is tokio's, so that paused time moves it.

use crate::sys::Clock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Tokio's clock, with a wall clock that the test may set wrong.
#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    start_ms: i64,
    skew_ms: AtomicI64,
}

impl SimClock {
    /// A wall clock that shows `start_ms` (Unix time in milliseconds) now.
    #[must_use]
    pub fn new(start_ms: i64) -> Self {
        Self { started: Instant::now(), start_ms, skew_ms: AtomicI64::new(0) }
    }

    /// Moves the wall clock (only that) away from the true time, by this from now on.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        self.start_ms + self.started.elapsed().as_millis() as i64 + self.skew_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_moves_with_tokios_time_and_only_the_wall_clock_jumps() {
        let clock = SimClock::new(1_000);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_250, Duration::from_millis(250)));
        clock.set_skew_ms(-3_600_000);
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_250 - 3_600_000, Duration::from_millis(250)));
    }
}

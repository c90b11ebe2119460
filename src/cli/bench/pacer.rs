//! Waiting until an exact moment.
//!
//! tokio's timers go by the millisecond, which is longer than many of the answers that are timed here; the kernel's
//! go by the nanosecond, and waking from one costs no thread of its own.

use tokio::time::Instant;

#[cfg(target_os = "linux")]
mod exact {
    use rustix::{
        fd::OwnedFd,
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
        },
    };
    use std::{io, time::Duration};
    use tokio::io::{Interest, unix::AsyncFd};

    /// A timer of the kernel (timerfd_create(2)).
    pub struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for types that change their descriptor; this one owns it"
        )]
        pub fn new() -> io::Result<Self> {
            let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            Ok(Self(AsyncFd::with_interest(fd, Interest::READABLE)?))
        }

        pub async fn sleep(&self, time: Duration) -> io::Result<()> {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().max(1).into() };
            let once = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            loop {
                let mut ready = self.0.readable().await?;
                let mut expirations = [0; 8];
                match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?)) {
                    Ok(read) => return read.map(drop),
                    Err(_would_block) => (),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod exact {
    use std::{io, time::Duration};

    /// Where there is no better: up to a millisecond late.
    pub struct Timer;

    impl Timer {
        pub fn new() -> io::Result<Self> {
            Ok(Self)
        }

        pub async fn sleep(&self, time: Duration) -> io::Result<()> {
            tokio::time::sleep(time).await;
            Ok(())
        }
    }
}

/// Wakes its owner at given moments.
pub struct Pacer(exact::Timer);

impl Pacer {
    /// One with a timer of its own.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        exact::Timer::new().map(Self)
    }

    /// Waits until then; not at all if it has passed.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn until(&self, moment: Instant) -> std::io::Result<()> {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        self.0.sleep(left).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn it_wakes_never_before_the_moment_and_can_be_used_again() {
        let pacer = Pacer::new().unwrap();
        for micros in [0, 1, 300, 2000] {
            let moment = Instant::now() + Duration::from_micros(micros);
            pacer.until(moment).await.unwrap();
            assert!(Instant::now() >= moment);
        }
    }
}

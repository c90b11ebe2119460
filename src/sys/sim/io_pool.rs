//! Threads that may block, as tasks whose steps fall where the seed says.
//!
//! **Invariant**: between any two steps of a job simulated time may pass, so a crash can fall there. Jobs of one lane
//! overtake one another, as threads do; one job's steps never overlap.

use super::SimRng;
use crate::sys::{IoPool, Job, Lane, Step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The pool's twin: each job is a task of the runtime it was submitted in.
#[derive(Debug)]
pub struct SimIoPool {
    rng: SimRng,
    halted: Arc<AtomicBool>,
}

impl SimIoPool {
    /// A pool whose delays follow from `rng`.
    #[must_use]
    pub fn new(rng: SimRng) -> Self {
        Self { rng, halted: Arc::default() }
    }

    /// From now on no job takes another step, and nobody learns of it, as if the power had gone.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::Relaxed);
    }
}

impl IoPool for SimIoPool {
    fn submit(&self, _lane: Lane, job: Arc<dyn Job>) {
        let (rng, halted) = (self.rng.fork(), self.halted.clone());
        tokio::spawn(async move {
            loop {
                delay(&rng).await;
                if halted.load(Ordering::Relaxed) {
                    // The job is kept: dropping it would tell whoever waits for it.
                    std::future::pending::<()>().await;
                }
                match job.step() {
                    Step::Done => return,
                    Step::Gather(wait) => tokio::time::sleep(wait).await,
                    Step::Again | Step::Requeue => {}
                }
            }
        });
    }

    fn hurry(&self, _lane: Lane, _job: &Arc<dyn Job>) {
        // A wait may be as long as it was asked for.
    }
}

/// Mostly none or about a millisecond (tokio's smallest), sometimes that of a disk that hangs.
async fn delay(rng: &SimRng) {
    match rng.below(20) {
        0..8 => {
            for _ in 0..rng.below(4) {
                tokio::task::yield_now().await;
            }
        }
        8..19 => tokio::time::sleep(Duration::from_millis(1 + rng.below(4))).await,
        _ => tokio::time::sleep(Duration::from_millis(10 + rng.below(90))).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run_blocking;
    use parking_lot::Mutex;

    struct Count {
        name: u32,
        left: Mutex<u32>,
        seen: Arc<Mutex<Vec<u32>>>,
    }

    impl Job for Count {
        fn step(&self) -> Step {
            self.seen.lock().push(self.name);
            let mut left = self.left.lock();
            *left -= 1;
            if *left == 0 { Step::Done } else { Step::Again }
        }
    }

    async fn order(seed: u64) -> Vec<u32> {
        let pool = SimIoPool::new(SimRng::new(seed));
        let seen = Arc::new(Mutex::new(Vec::new()));
        for name in 0..4 {
            pool.submit(Lane::Append, Arc::new(Count { name, left: Mutex::new(3), seen: seen.clone() }));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        Arc::into_inner(seen).expect("all jobs are done").into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn the_seed_decides_the_order_of_steps() {
        let first = order(1).await;
        assert_eq!(first.len(), 12);
        assert_eq!(order(1).await, first);
        let mut differs = false;
        for seed in 2..10 {
            differs |= order(seed).await != first;
        }
        assert!(differs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_halted_pool_neither_runs_nor_answers() {
        let pool = SimIoPool::new(SimRng::new(1));
        assert_eq!(run_blocking(&pool, Lane::Read, || 5).await, 5);
        pool.halt();
        let waiting = run_blocking(&pool, Lane::Read, || 5);
        assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_err());
    }
}

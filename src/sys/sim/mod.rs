//! The twins that the simulation puts in place of the machine: a disk that loses what was not synced, threads that
//! step in an order the seed picks, a clock that is tokio's, a network in memory.
//!
//! **Invariant**: with tokio's clock paused and its random numbers seeded, a run is a function of its seed. Nothing
//! here asks the real machine for anything.
//!
//! A *machine* is one tokio runtime with one set of twins. [`SimDisk`] is the hardware that outlives it: power is cut
//! (or the process killed) on the disk first, then the runtime is dropped, and another one mounts the disk again.
//! [`machine`] makes the set. Used by `tests/sim` and by the unit tests of the layers above; all on one thread.

mod clock;
mod disk;
mod file_state;
mod folder_state;
mod io_pool;
mod network;
mod rng;

pub use clock::SimClock;
pub use disk::{DiskFault, DiskOperation, SimDisk};
pub use io_pool::SimIoPool;
pub use network::SimNetwork;
pub use rng::SimRng;

use super::Sys;
use std::sync::Arc;

/// A machine's set of twins over a disk, which it mounts. `start_ms` is the wall clock's time at the start; all that
/// is random follows from `seed`.
///
/// # Panics
/// Outside a tokio runtime.
#[must_use]
pub fn machine(disk: &SimDisk, seed: u64, start_ms: i64) -> Sys {
    let rng = SimRng::new(seed);
    Sys {
        clock: Arc::new(SimClock::new(start_ms)),
        disk: disk.mount(),
        network: Arc::new(SimNetwork::default()),
        io: Arc::new(SimIoPool::new(rng.fork())),
        rng: Arc::new(rng),
    }
}

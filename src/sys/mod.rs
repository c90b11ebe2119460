//! The only door outside: clock, disk, network, randomness and the threads that may block.
//!
//! **Invariant**: nothing outside this folder names `std::fs`, `std::net`, `tokio::net`, `std::time::{Instant,
//! SystemTime}` or `rand`; so the whole broker runs under simulation, where the twins in [`sim`] stand in.
//! `tokio::time` is free to use everywhere: the simulation owns tokio's clock.

mod clock;
mod disk;
mod io_pool;
mod network;
mod real_disk;
mod rng;
pub mod sim;
mod tcp_network;
mod thread_pool;

pub use clock::{Clock, SystemClock};
pub use disk::{DirEntry, DirLock, Disk, File, OpenMode};
pub use io_pool::{IoPool, Job, Lane, Step, run_blocking};
pub use network::{Listener, Network, Socket};
pub use real_disk::RealDisk;
pub use rng::{OsRng, Rng};
pub use tcp_network::TcpNetwork;
pub use thread_pool::ThreadPool;

use std::sync::Arc;

/// The outside world, as one value that is handed down. Cheap to clone.
#[derive(Clone)]
pub struct Sys {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Files and folders.
    pub disk: Arc<dyn Disk>,
    /// Listeners and connections.
    pub network: Arc<dyn Network>,
    /// Random bytes.
    pub rng: Arc<dyn Rng>,
    /// Threads that may block on the disk.
    pub io: Arc<dyn IoPool>,
}

impl Sys {
    /// The machine itself. Starts the threads of the I/O pool.
    #[must_use]
    pub fn real() -> Self {
        Self {
            clock: Arc::new(SystemClock::default()),
            disk: Arc::new(RealDisk),
            network: Arc::new(TcpNetwork),
            rng: Arc::new(OsRng),
            io: Arc::new(ThreadPool::default()),
        }
    }
}

//! The only door outside: clock, disk, network, randomness and the threads that may block.
//!
//! **Invariant**: nothing outside this folder names `std::fs`, `std::net`, `tokio::net`, `std::time::{Instant,
//! SystemTime}` or `rand`; so the whole broker runs under simulation, where the twins in [`sim`] stand in.
//! `tokio::time` is free to use everywhere: the simulation owns tokio's clock.

mod clock;
mod disk;
mod io_pool;
mod network;
mod rng;
pub mod sim;

pub use clock::{Clock, SystemClock};
pub use disk::{DirEntry, DirLock, Disk, File, OpenMode, RealDisk};
pub use io_pool::{IoPool, Job, Lane, Step, ThreadPool, run_blocking};
pub use network::{Listener, Network, Socket, TcpNetwork};
pub use rng::{OsRng, Rng};

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

//! Threads that may block, and the rule by which they share the work.
//!
//! **Invariant**: a job that wants to go on after a bounded piece of work goes to the back of its lane's line, so one
//! busy partition never starves another.

use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Which threads a job runs on, so that slow work of one kind never holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Writes and syncs that producers wait for.
    Append,
    /// The same without syncs: done by the async threads themselves while the disk takes writes at once, else as
    /// [`Lane::Append`].
    QuickAppend,
    /// Reads that were not in memory.
    Read,
    /// Recovery, compaction, retention, views.
    Background,
}

/// What a job wants after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next step at once, on this thread. In the simulation time may pass, or the power go, in between.
    Again,
    /// The next step after the others in line had their turn.
    Requeue,
    /// The next step after this long, or when [`IoPool::hurry`] says so, or when a thread has other work anyway and
    /// comes by: a wait that saves work, and may always be shorter.
    Gather(Duration),
    /// Nothing more.
    Done,
}

/// Work for a thread that may block, in steps between which a power cut may fall.
pub trait Job: Send + Sync + 'static {
    /// Does the next step. At most one thread is in a job's step at a time, as long as it is submitted once until
    /// it is `Done`.
    fn step(&self) -> Step;

    /// Does the next step if it is short and waits for no disk, so that an async thread may take it: a hop to another
    /// thread and back costs more than a small write into the page cache. `None` if it is not, and nothing was done.
    fn quick_step(&self) -> Option<Step> {
        None
    }

    /// Its step panicked on a thread of the pool. It may have done half of its work: what it guards has to be taken out of
    /// service, and who waits for it told. Gives how it goes on. (In the simulation a panic ends the run instead.)
    fn panicked(&self, _text: &str) -> Step {
        Step::Done
    }
}

/// A pool of threads that may block.
pub trait IoPool: Send + Sync + 'static {
    /// Puts the job at the back of its lane's line. Never blocks. The line's length is bounded by who submits: one
    /// entry a partition, one a request.
    fn submit(&self, lane: Lane, job: Arc<dyn Job>);

    /// Ends the wait of a job that said [`Step::Gather`]; nothing if it does not wait.
    fn hurry(&self, lane: Lane, job: &Arc<dyn Job>);
}

/// Runs a closure on a lane's thread and waits for its result.
///
/// # Panics
/// If the pool is shut down before it ran, or the closure panicked.
pub async fn run_blocking<T: Send + 'static>(
    io: &dyn IoPool,
    lane: Lane,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (reply, result) = oneshot::channel();
    let once = Once { work: parking_lot::Mutex::new(Some((work, reply))) };
    io.submit(lane, Arc::new(once));
    result.await.expect("the I/O pool runs every job that it took")
}

struct Once<F, T> {
    work: parking_lot::Mutex<Option<(F, oneshot::Sender<T>)>>,
}

impl<F: FnOnce() -> T + Send + 'static, T: Send + 'static> Job for Once<F, T> {
    fn step(&self) -> Step {
        if let Some((work, reply)) = self.work.lock().take() {
            let _ = reply.send(work()); // the one who asked may have gone
        }
        Step::Done
    }
}

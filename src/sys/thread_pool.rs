//! Real threads for the work that may block: a few for appends, for reads and for background work each.
//!
//! **Invariant**: each lane is one first-in-first-out line. A job that asks for [`Step::Requeue`] goes to its back; a
//! job that panics is asked how it goes on ([`Job::panicked`]), with a line in the log, and its thread lives.
//!
//! Threads park on a condition variable while their line is empty. A submission wakes one only if one is parked, so a
//! busy lane costs its submitters no system call. Dropping the pool lets the threads empty their lines and end.
//!
//! Appends that need no sync are done where they come from, as a task among those of their producers
//! ([`Job::quick_step`]), as long as the disk takes them at once.

use super::io_pool::{IoPool, Job, Lane, Step};
use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Threads that sync for producers: enough that one slow file does not stop the others, few enough that each turn
/// finds a group to commit.
const APPEND_THREADS: usize = 4;
/// Threads for cold reads.
const READ_THREADS: usize = 2;
/// Threads for recovery, compaction and views.
const BACKGROUND_THREADS: usize = 2;

/// A quick step that took longer was none: the disk does not take writes at once just now (too many dirty pages).
const QUICK: Duration = Duration::from_millis(5);
/// For so long after that, all steps are the threads' again.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// Real threads, with one line of jobs for each lane.
pub struct ThreadPool {
    inline: Arc<Inline>,
    append: Arc<Line>,
    read: Arc<Line>,
    background: Arc<Line>,
}

impl Default for ThreadPool {
    fn default() -> Self {
        Self::new(APPEND_THREADS, READ_THREADS, BACKGROUND_THREADS)
    }
}

impl ThreadPool {
    /// Starts the threads of each lane.
    ///
    /// # Panics
    /// If a number is 0, or the system refuses a thread.
    #[must_use]
    pub fn new(append: usize, read: usize, background: usize) -> Self {
        Self {
            inline: Arc::new(Inline { start: Instant::now(), slow_until_ms: AtomicU64::new(0) }),
            append: Line::start("append", append),
            read: Line::start("read", read),
            background: Line::start("background", background),
        }
    }

    fn line(&self, lane: Lane) -> &Arc<Line> {
        match lane {
            Lane::Append | Lane::QuickAppend => &self.append,
            Lane::Read => &self.read,
            Lane::Background => &self.background,
        }
    }
}

impl IoPool for ThreadPool {
    fn submit(&self, lane: Lane, job: Arc<dyn Job>) {
        let line = self.line(lane);
        match Handle::try_current() {
            Ok(runtime) if lane == Lane::QuickAppend && !self.inline.is_slow() => {
                runtime.spawn(run_inline(Arc::clone(&self.inline), Arc::clone(line), job));
            }
            _ => line.push(job),
        }
    }

    fn hurry(&self, lane: Lane, job: &Arc<dyn Job>) {
        self.line(lane).hurry(job);
    }
}

/// Whether quick steps are quick.
struct Inline {
    start: Instant,
    /// From the start.
    slow_until_ms: AtomicU64,
}

impl Inline {
    fn is_slow(&self) -> bool {
        let until = self.slow_until_ms.load(Ordering::Relaxed);
        until > 0 && self.start.elapsed() < Duration::from_millis(until)
    }

    fn took(&self, took: Duration) {
        if took > QUICK {
            let until = (self.start.elapsed() + SLOW_FOR).as_millis();
            self.slow_until_ms.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// Does a job's quick steps as a task, and gives it to the threads for any other. It begins behind the tasks that are
/// ready now, so that what those append goes into the same group.
async fn run_inline(inline: Arc<Inline>, line: Arc<Line>, job: Arc<dyn Job>) {
    loop {
        tokio::task::yield_now().await;
        let begun = Instant::now();
        let step = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match job.quick_step() {
                    Some(Step::Again) => {}
                    other => return other,
                }
            }
        }));
        match step {
            Ok(Some(Step::Done)) => return inline.took(begun.elapsed()),
            Ok(Some(_)) if !inline.is_slow() => inline.took(begun.elapsed()),
            Ok(_) => return line.push(job),
            Err(panic) => match panicked(&*job, &*panic) {
                Ok(Step::Done) | Err(_) => return,
                Ok(_) => return line.push(job),
            },
        }
    }
}

/// Asks a job that panicked how it goes on.
fn panicked(job: &dyn Job, panic: &(dyn Any + Send)) -> std::thread::Result<Step> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = text, "a job of the I/O pool panicked");
    catch_unwind(AssertUnwindSafe(|| job.panicked(text)))
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        for line in [&self.append, &self.read, &self.background] {
            line.state.lock().closed = true;
            line.ready.notify_all();
        }
    }
}

struct Line {
    state: Mutex<LineState>,
    ready: Condvar,
}

#[derive(Default)]
struct LineState {
    jobs: VecDeque<Arc<dyn Job>>,
    /// Jobs that wait, each until its time. Few: a job is here only if its thread found nothing else to do.
    gathering: Vec<(Instant, Arc<dyn Job>)>,
    /// A parked thread wakes when the first of them is due.
    watched: bool,
    parked: usize,
    closed: bool,
}

/// A job that goes on, now or after a wait.
struct Unfinished {
    job: Arc<dyn Job>,
    wait: Option<Duration>,
}

impl Line {
    fn start(name: &str, threads: usize) -> Arc<Self> {
        assert!(threads > 0, "a lane without a thread would never run its jobs");
        let line = Arc::new(Self { state: Mutex::default(), ready: Condvar::new() });
        for i in 0..threads {
            let line = line.clone();
            let builder = std::thread::Builder::new().name(format!("io-{name}-{i}"));
            builder.spawn(move || line.run()).expect("the system gives the few threads that a start needs");
        }
        line
    }

    fn push(&self, job: Arc<dyn Job>) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        let wake = state.parked > 0;
        drop(state); // so that the thread that wakes does not find the lock taken
        if wake {
            self.ready.notify_one();
        }
    }

    fn hurry(&self, job: &Arc<dyn Job>) {
        let mut state = self.state.lock();
        let Some(at) = state.gathering.iter().position(|(_, waits)| Arc::ptr_eq(waits, job)) else { return };
        let (_, job) = state.gathering.swap_remove(at);
        state.jobs.push_back(job);
        let wake = state.parked > 0;
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// The next job; `unfinished` goes to the back first, or waits. `None` once the line is closed and empty.
    fn next(&self, unfinished: Option<Unfinished>) -> Option<Arc<dyn Job>> {
        let mut state = self.state.lock();
        match unfinished {
            Some(Unfinished { job, wait: Some(wait) }) if state.jobs.is_empty() => {
                state.gathering.push((Instant::now() + wait, job));
            }
            Some(Unfinished { job, .. }) => state.jobs.push_back(job),
            None => {}
        }
        loop {
            if !state.gathering.is_empty() {
                let (now, closed) = (Instant::now(), state.closed);
                let due: Vec<_> = state.gathering.extract_if(.., |(until, _)| closed || *until <= now).collect();
                state.jobs.extend(due.into_iter().map(|(_, job)| job));
            }
            let first = state.gathering.iter().map(|(until, _)| *until).min();
            if let Some(job) = state.jobs.pop_front() {
                // One parked thread watches over those that wait: this one can not any more.
                if first.is_some() && !state.watched && state.parked > 0 {
                    self.ready.notify_one();
                }
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.parked += 1;
            match first.filter(|_| !state.watched) {
                Some(until) => {
                    state.watched = true;
                    self.ready.wait_until(&mut state, until);
                    state.watched = false;
                }
                None => self.ready.wait(&mut state),
            }
            state.parked -= 1;
        }
    }

    fn run(&self) {
        let mut unfinished = None;
        while let Some(job) = self.next(unfinished.take()) {
            let run = || {
                loop {
                    match job.step() {
                        Step::Again => {}
                        other => return other,
                    }
                }
            };
            // Unwind safety is the job's own business: it is told.
            match catch_unwind(AssertUnwindSafe(run)).or_else(|panic| panicked(&*job, &*panic)) {
                Ok(Step::Requeue | Step::Again) => unfinished = Some(Unfinished { job, wait: None }),
                Ok(Step::Gather(wait)) => unfinished = Some(Unfinished { job, wait: Some(wait) }),
                Ok(Step::Done) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run_blocking;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(20);

    struct Steps {
        name: char,
        left: Mutex<Vec<Step>>,
        seen: mpsc::Sender<char>,
    }

    impl Job for Steps {
        fn step(&self) -> Step {
            self.seen.send(self.name).expect("the test listens");
            self.left.lock().pop().unwrap_or(Step::Done)
        }
    }

    /// Holds its thread until the test lets go.
    struct Gate(Mutex<mpsc::Receiver<()>>);

    impl Job for Gate {
        fn step(&self) -> Step {
            let _ = self.0.lock().recv_timeout(LONG);
            Step::Done
        }
    }

    #[test]
    fn a_requeued_job_goes_behind_those_in_line_and_again_does_not() {
        let pool = ThreadPool::new(1, 1, 1);
        let (open, gate) = mpsc::channel();
        pool.submit(Lane::Append, Arc::new(Gate(Mutex::new(gate))));
        let (seen, order) = mpsc::channel();
        let job = |name, steps: &[Step]| {
            let left = Mutex::new(steps.iter().rev().copied().collect());
            Arc::new(Steps { name, left, seen: seen.clone() })
        };
        pool.submit(Lane::Append, job('a', &[Step::Requeue, Step::Done]));
        pool.submit(Lane::Append, job('b', &[Step::Again, Step::Requeue, Step::Done]));
        pool.submit(Lane::Append, job('c', &[Step::Done]));
        open.send(()).unwrap();
        let seen: String = (0..6).map(|_| order.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(seen, "abbcab");
    }

    #[tokio::test]
    async fn a_panic_costs_the_job_and_not_the_thread() {
        let pool = Arc::new(ThreadPool::new(1, 1, 1));
        let task = tokio::spawn({
            let pool = pool.clone();
            async move { run_blocking(&*pool, Lane::Read, || panic!("on purpose")).await }
        });
        assert!(task.await.is_err(), "the one who waits learns of it");
        assert_eq!(run_blocking(&*pool, Lane::Read, || 7).await, 7, "the only thread of the lane still runs");
    }

    #[tokio::test]
    async fn lanes_do_not_wait_for_one_another() {
        let pool = ThreadPool::new(1, 1, 1);
        let (open, gate) = mpsc::channel();
        pool.submit(Lane::Background, Arc::new(Gate(Mutex::new(gate))));
        for lane in [Lane::Append, Lane::Read] {
            assert_eq!(run_blocking(&pool, lane, || 1).await, 1);
        }
        open.send(()).unwrap();
    }

    #[test]
    fn a_gathering_job_goes_on_in_time_or_when_hurried() {
        let pool = ThreadPool::new(1, 1, 1);
        let (seen, order) = mpsc::channel();
        let job = |name, wait| {
            let left = Mutex::new(vec![Step::Done, Step::Gather(wait)]);
            Arc::new(Steps { name, left, seen: seen.clone() })
        };
        pool.submit(Lane::Append, job('a', Duration::from_millis(1)));
        let in_time: String = (0..2).map(|_| order.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(in_time, "aa");
        let patient: Arc<dyn Job> = job('b', LONG * 10);
        pool.submit(Lane::Append, patient.clone());
        assert_eq!(order.recv_timeout(LONG), Ok('b'));
        // It may not wait yet when it is hurried.
        let hurried = (0..1000).find_map(|_| {
            pool.hurry(Lane::Append, &patient);
            order.recv_timeout(Duration::from_millis(10)).ok()
        });
        assert_eq!(hurried, Some('b'));
        pool.submit(Lane::Append, job('c', LONG * 10));
        assert_eq!(order.recv_timeout(LONG), Ok('c'));
        drop(pool);
        assert_eq!(order.recv_timeout(LONG), Ok('c'), "a pool that ends does not wait");
    }

    #[test]
    fn a_gathering_job_is_not_forgotten_when_its_thread_does_something_else() {
        let pool = ThreadPool::new(1, 1, 1);
        let (seen, order) = mpsc::channel();
        for _ in 0..20 {
            let gathers = Mutex::new(vec![Step::Done, Step::Gather(Duration::from_millis(20))]);
            pool.submit(Lane::Append, Arc::new(Steps { name: 'g', left: gathers, seen: seen.clone() }));
            assert_eq!(order.recv_timeout(LONG), Ok('g'));
            pool.submit(Lane::Append, Arc::new(Steps { name: 'x', left: Mutex::default(), seen: seen.clone() }));
            let mut rest: Vec<char> = (0..2).map(|_| order.recv_timeout(LONG).unwrap()).collect();
            rest.sort_unstable();
            assert_eq!(rest, ['g', 'x']);
        }
    }

    /// Says on which thread each step was taken.
    struct Places {
        quick: Mutex<Vec<Option<Step>>>,
        takes: Duration,
        seen: mpsc::Sender<(&'static str, std::thread::ThreadId)>,
    }

    impl Job for Places {
        fn step(&self) -> Step {
            let _ = self.seen.send(("step", std::thread::current().id()));
            Step::Done
        }

        fn quick_step(&self) -> Option<Step> {
            let step = self.quick.lock().pop().flatten()?;
            std::thread::sleep(self.takes);
            let _ = self.seen.send(("quick", std::thread::current().id()));
            Some(step)
        }
    }

    #[tokio::test]
    async fn quick_steps_are_taken_where_they_were_asked_for_and_others_by_the_threads() {
        let pool = ThreadPool::new(1, 1, 1);
        let (seen, order) = mpsc::channel();
        let submit = |lane, quick: &[Option<Step>], takes| {
            let quick = Mutex::new(quick.iter().rev().copied().collect());
            pool.submit(lane, Arc::new(Places { quick, takes, seen: seen.clone() }));
        };
        let here = std::thread::current().id();
        let next = async || {
            for _ in 0..2000 {
                if let Ok((step, thread)) = order.try_recv() {
                    return (step, thread == here);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("no step was taken");
        };
        let steps = [Some(Step::Again), Some(Step::Requeue), None];
        submit(Lane::QuickAppend, &steps, Duration::ZERO);
        assert_eq!([next().await, next().await, next().await], [("quick", true), ("quick", true), ("step", false)]);
        submit(Lane::QuickAppend, &[Some(Step::Done)], Duration::ZERO);
        assert_eq!(next().await, ("quick", true));
        submit(Lane::Append, &[Some(Step::Done)], Duration::ZERO);
        assert_eq!(next().await, ("step", false));
        // A disk that takes its time has the threads to itself for a while.
        submit(Lane::QuickAppend, &[Some(Step::Done)], QUICK * 2);
        assert_eq!(next().await, ("quick", true));
        submit(Lane::QuickAppend, &[Some(Step::Done)], Duration::ZERO);
        assert_eq!(next().await, ("step", false));
    }

    #[test]
    fn a_dropped_pool_still_runs_what_it_took() {
        let (seen, order) = mpsc::channel();
        let pool = ThreadPool::new(1, 1, 1);
        for name in ['x', 'y', 'z'] {
            pool.submit(Lane::Append, Arc::new(Steps { name, left: Mutex::default(), seen: seen.clone() }));
        }
        drop((pool, seen));
        assert_eq!(order.iter().collect::<String>(), "xyz");
    }
}

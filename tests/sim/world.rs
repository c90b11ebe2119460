//! Machines one after the other on one disk, each ended by the fault that the seed picks.
//!
//! Each machine is a runtime of its own: tokio's clock paused, its random numbers seeded. A power cut is one of the disk
//! first, then the runtime is dropped, and every task with it. The last machine has no fault: on it what is pending
//! is sent again, and all is read.

use crate::checker::{Event, Promise, check};
use crate::workload::{Load, Subject, Workload};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use sluice::sys::Sys;
use sluice::sys::sim::{DiskFault, DiskOperation, SimClock, SimDisk, SimRng, machine};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, RngSeed, Runtime, UnhandledPanic};

/// Simulated time that anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(600);
/// Seeds of a plain `cargo test`.
const DEFAULT_SEEDS: u64 = 30;
/// Where the wall clock of the first machine starts.
pub const EPOCH_MS: i64 = 1_700_000_000_000;
/// How far a wall clock jumps.
const CLOCK_STEP_MS: i64 = 3_600_000;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What the topic promises.
    pub promise: Promise,
    /// Which faults may come.
    pub faults: &'static [Fault],
    /// Machines before the last.
    pub machines: u64,
    /// Who is at work on them.
    pub load: Load,
    /// How many times as long as usual a machine lives.
    pub stretch: u64,
    /// Whether wall clocks jump.
    pub clock_steps: bool,
}

impl Plan {
    /// Every fault, and the usual load.
    pub const fn new(promise: Promise, machines: u64) -> Self {
        Self { promise, faults: ALL_FAULTS, machines, load: Load::LOG, stretch: 1, clock_steps: false }
    }
}

/// How a machine's life goes and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power goes at some time.
    PowerCut,
    /// The power goes just before some change of the disk.
    PowerCutBetweenChanges,
    /// The power goes while it starts.
    PowerCutInRecovery,
    /// The process is killed.
    Kill,
    /// It stops in good order, and then the power goes.
    Close,
    /// A sync fails; then the power goes, or the process is killed.
    FailedSync,
    /// The disk becomes full, and later has room again; then the power goes.
    DiskFull,
}

/// Every fault, the more telling ones more often.
pub const ALL_FAULTS: &[Fault] = &[
    Fault::PowerCut,
    Fault::PowerCut,
    Fault::PowerCutBetweenChanges,
    Fault::PowerCutBetweenChanges,
    Fault::PowerCutInRecovery,
    Fault::Kill,
    Fault::Close,
    Fault::FailedSync,
    Fault::FailedSync,
    Fault::DiskFull,
];

/// Starts a subject on a machine; the number is that of the machine, from 1, and rises by one each start.
pub type Start = dyn Fn(Sys, i32) -> BoxFuture<'static, Result<Arc<dyn Subject>, String>>;

/// Runs the seeds that the environment asks for.
///
/// # Panics
/// At the first seed whose history has an anomaly.
pub fn run_seeds(name: &str, plan: Plan, start: &Start) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let seeds = match number("SLUICE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLUICE_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    let (mut events, mut acknowledged, mut delivered) = (0, 0, 0);
    for seed in seeds.clone() {
        let hint = FailedSeed { name, seed };
        let history = run(seed, plan, start);
        let anomalies = check(&history, plan.promise);
        if !anomalies.is_empty() {
            let list: Vec<String> = anomalies.iter().take(10).map(ToString::to_string).collect();
            panic!("{} anomalies, the first:\n{}", anomalies.len(), list.join("\n"));
        }
        events += history.len();
        let is_acknowledged = |event: &Event| matches!(event, Event::Acknowledged { .. } | Event::TopicCreated { .. });
        acknowledged += history.iter().filter(|(_, event)| is_acknowledged(event)).count();
        delivered += history.iter().filter(|(_, event)| matches!(event, Event::Received { .. })).count();
        std::mem::forget(hint);
    }
    let seeds = seeds.count();
    println!("{name}: {seeds} seeds, {events} events, {acknowledged} acknowledgements, {delivered} receive calls");
    assert!(acknowledged > seeds * 10, "so few acknowledgements prove nothing");
    assert!(plan.load.workers == 0 || delivered > seeds * 20, "so few receive calls prove nothing");
}

/// Says how to run a seed again, if it is dropped in a panic.
struct FailedSeed<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for FailedSeed<'_> {
    fn drop(&mut self) {
        let Self { name, seed } = self;
        eprintln!("seed {seed} failed; again: SLUICE_SIM_SEED={seed} cargo test --test sim {name}");
    }
}

/// Held shared by a run of the program as it is, and alone by one with a known bug: the switch is the process's.
static SABOTAGE: RwLock<()> = RwLock::new(());

/// Runs one seed, and gives its history.
///
/// # Panics
/// If a task panics, or what is pending at the end is never acknowledged or read.
pub fn run(seed: u64, plan: Plan, start: &Start) -> Vec<(u64, Event)> {
    let _as_it_is = SABOTAGE.read();
    run_one(seed, plan, start)
}

/// Puts a known bug back, and gives the first seed at which the checker sees it, with what it sees.
#[cfg(feature = "sabotage")]
pub fn first_seed_that_sees(
    bug: &std::sync::atomic::AtomicBool,
    seeds: u64,
    plan: Plan,
    start: &Start,
) -> Option<(u64, Vec<crate::checker::Anomaly>)> {
    use std::sync::atomic::Ordering;
    let _alone = SABOTAGE.write();
    bug.store(true, Ordering::Relaxed);
    let found = (0..seeds).find_map(|seed| {
        let history = run_one(seed, plan, start);
        let anomalies = check(&history, plan.promise);
        (!anomalies.is_empty()).then_some((seed, anomalies))
    });
    bug.store(false, Ordering::Relaxed);
    found
}

fn run_one(seed: u64, plan: Plan, start: &Start) -> Vec<(u64, Event)> {
    let rng = SimRng::new(seed);
    let mut world = World {
        disk: SimDisk::new(rng.fork().below(u64::MAX)),
        workload: Workload::new(&rng.fork(), plan.load),
        plan,
        clock_ms: 0,
        rng,
        machines: 0,
        power_cut: false,
    };
    for _ in 0..plan.machines {
        let fault = plan.faults[world.rng.below(plan.faults.len() as u64) as usize];
        world.live(fault, start);
    }
    world.last(start);
    world.workload.history().events()
}

/// A runtime whose time passes only while nothing else is to do.
pub fn runtime(seed: u64) -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).unhandled_panic(UnhandledPanic::ShutdownRuntime);
    builder.rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()));
    builder.build().expect("a runtime needs nothing that could be missing")
}

struct World {
    disk: SimDisk,
    workload: Workload,
    plan: Plan,
    /// Simulated time before this machine.
    clock_ms: u64,
    rng: SimRng,
    machines: i32,
    /// How the machine before this one ended.
    power_cut: bool,
}

impl World {
    /// The next machine, whose wall clock is that much away from the true time.
    fn machine(&mut self, skew_ms: i64) -> Sys {
        self.machines += 1;
        let start_ms = EPOCH_MS + self.clock_ms as i64;
        let mut sys = machine(&self.disk, self.rng.below(u64::MAX), start_ms);
        if self.plan.clock_steps {
            let clock = Arc::new(SimClock::new(start_ms));
            clock.set_skew_ms(skew_ms);
            sys.clock = clock.clone();
            if skew_ms == 0 {
                tokio::spawn(step_clock(clock, self.rng.fork()));
            }
        }
        sys
    }

    /// A machine with a fault.
    fn live(&mut self, fault: Fault, start: &Start) {
        let runtime = runtime(self.rng.below(u64::MAX));
        let power_goes = runtime.block_on(async {
            let started = tokio::time::Instant::now();
            let sys = self.machine(0);
            if fault == Fault::PowerCutInRecovery {
                self.disk.power_cut_after(1 + self.rng.below(30));
            }
            let work = async {
                let subject = self.serve(sys, start).await?;
                self.disrupt(fault).await;
                Some(subject)
            };
            let clock = keep_time(&self.workload, self.clock_ms);
            let down = is_down(&self.disk);
            let subject = tokio::select! {
                biased;
                () = clock => unreachable!("it never ends"),
                () = down => None,
                subject = work => subject,
            };
            self.clock_ms += started.elapsed().as_millis() as u64;
            if let (Fault::Close, Some(subject)) = (fault, &subject) {
                let closed = tokio::time::timeout(PATIENCE, subject.close()).await;
                assert!(closed.is_ok(), "it does not stop");
                self.clock_ms += 1;
                return false; // what follows may lose nothing
            }
            match fault {
                Fault::Kill => false,
                Fault::FailedSync => self.rng.one_in(2),
                _ => true,
            }
        });
        match fault {
            _ if self.disk.is_down() => {}
            Fault::Close => self.disk.power_cut(),
            _ if power_goes => self.disk.power_cut(),
            _ => self.disk.process_crash(),
        }
        self.power_cut |= power_goes;
        self.disk.clear_faults();
        self.disk.set_capacity(None);
        drop(runtime);
        self.clock_ms += self.rng.below(5_000);
    }

    /// Brings the subject up, scans it, and starts the load. `None` if the machine's fault came first.
    async fn serve(&self, sys: Sys, start: &Start) -> Option<Arc<dyn Subject>> {
        let faults = self.disk.faults_hit();
        let subject = match start(sys, self.machines).await {
            Ok(subject) => subject,
            Err(_) if self.disk.is_down() || self.disk.faults_hit() > faults => return None,
            Err(why) => {
                self.workload.history().add(Event::DoesNotStart { why });
                return None;
            }
        };
        self.workload.history().add(Event::Restarted { power_cut: self.power_cut });
        for partition in 0..subject.partitions() {
            if self.workload.scan(&*subject, partition).await.is_none() && !self.disk.is_down() {
                self.workload.history().add(Event::Unreadable { partition });
                return None;
            }
        }
        self.workload.list_topics(&*subject);
        self.workload.start(&subject);
        Some(subject)
    }

    /// Lets the load run, with the fault in it, until the machine's end.
    async fn disrupt(&self, fault: Fault) {
        let sleep = |ms| tokio::time::sleep(Duration::from_millis(ms * self.plan.stretch));
        sleep(self.rng.below(400)).await;
        match fault {
            Fault::PowerCutBetweenChanges => {
                self.disk.power_cut_after(1 + self.rng.below(300));
                sleep(60_000 / self.plan.stretch).await; // the cut comes first, or there was nothing to do
            }
            Fault::FailedSync => {
                let files = ["", ".log", ".log"][self.rng.below(3) as usize];
                self.disk.inject(DiskFault::new(DiskOperation::Sync, files).skip(self.rng.below(20)));
                sleep(100 + self.rng.below(1_000)).await;
            }
            Fault::DiskFull => {
                let used: u64 = self.disk.files().iter().map(|(_, bytes)| bytes).sum();
                self.workload.history().add(Event::DiskFull { full: true });
                self.disk.set_capacity(Some(used + self.rng.below(50_000)));
                sleep(100 + self.rng.below(500)).await;
                self.disk.set_capacity(None);
                self.workload.history().add(Event::DiskFull { full: false });
                sleep(self.rng.below(1_000)).await;
            }
            _ => sleep(self.rng.below(1_000)).await,
        }
    }

    /// The machine without a fault.
    fn last(&mut self, start: &Start) {
        let runtime = runtime(self.rng.below(u64::MAX));
        runtime.block_on(async {
            // What was put off by a clock that was wrong is due by now.
            let sys = self.machine(2 * CLOCK_STEP_MS);
            let work = async {
                // Without a subject the history says why.
                let Some(subject) = self.serve(sys, start).await else { return };
                assert!(
                    self.workload.finish(PATIENCE).await,
                    "what is pending is not acknowledged: {:?}",
                    self.workload.history().last_unknown()
                );
                self.workload.queue_at_rest(&*subject).await;
                self.workload.list_topics(&*subject);
                let mut ends = BTreeMap::new();
                for partition in 0..subject.partitions() {
                    let end = self.workload.scan(&*subject, partition).await;
                    ends.insert(partition, end.expect("nothing disturbs the last machine"));
                }
                let caught_up = ends.is_empty() || self.workload.caught_up(&ends, PATIENCE).await;
                assert!(caught_up, "the readers do not reach the end {ends:?}");
                subject.close().await;
            };
            tokio::select! {
                biased;
                () = keep_time(&self.workload, self.clock_ms) => unreachable!("it never ends"),
                () = work => {}
            }
        });
    }
}

/// Sets a wall clock wrong, and right again.
async fn step_clock(clock: Arc<SimClock>, rng: SimRng) {
    loop {
        tokio::time::sleep(Duration::from_millis(rng.below(2_000))).await;
        clock.set_skew_ms([0, CLOCK_STEP_MS, -CLOCK_STEP_MS][rng.below(3) as usize]);
    }
}

/// Keeps the history's clock.
async fn keep_time(workload: &Workload, since_ms: u64) {
    let started = tokio::time::Instant::now();
    loop {
        workload.history().set_time(since_ms + started.elapsed().as_millis() as u64);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ends when the disk's power went by itself.
async fn is_down(disk: &SimDisk) {
    while !disk.is_down() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

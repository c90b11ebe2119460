//! The task of one partition: load, handle, append, release.

use super::timers::Timers;
use super::{Now, Outcome, ReplyToken, StateMachine};
use crate::codec::DecompressLimit;
use crate::coordinator::CoordinatorError;
use crate::log::{AppendOutcome, AppendRecords, LogError};
use crate::replication::{Partition, ReplicationError};
use crate::sys::Sys;
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Commands handled before the next look at what else is to do.
const DRAIN: usize = 512;
/// Bytes of records that make up an append at most, give or take one command's.
const APPEND_BYTES: usize = 1 << 20;
/// How often those that are ready to ask go first before an append begins.
const GATHER: usize = 4;
/// Replies that may be owed: commands in hand, and those that the state machine keeps waiting.
const OWED: usize = 65_536;
/// Bytes of batches that a step of loading reads.
const LOAD_BYTES: usize = 1 << 20;
/// How soon after a failure the state is loaded again. Until then commands are refused.
const RETRY: Duration = Duration::from_millis(200);
/// Our own records are far smaller; a batch may hold a whole append.
const DECOMPRESS: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };

type Reply<S> = oneshot::Sender<Result<<S as StateMachine>::Reply, CoordinatorError>>;

/// A command on its way.
pub(super) struct Message<S: StateMachine> {
    pub(super) command: S::Command,
    pub(super) reply: Reply<S>,
}

/// One partition's coordinator, between its loads.
pub(super) struct Shard<S: StateMachine> {
    sys: Sys,
    partition: Arc<ArcSwap<Partition>>,
    inbox: mpsc::Receiver<Message<S>>,
    stop: CancellationToken,
    make: Box<dyn Fn() -> S + Send + Sync>,
}

/// An append under way, and what waits for it.
struct Flight<S: StateMachine> {
    append: BoxFuture<'static, Result<AppendOutcome, LogError>>,
    /// The rest of the outcome whose records it carries.
    rest: Outcome<S>,
    /// Records decided up to its last.
    decided: u64,
}

/// Why serving ended.
enum End {
    Stopped,
    Failed(ReplicationError),
}

impl<S: StateMachine> Shard<S> {
    pub(super) fn new(
        sys: Sys,
        partition: Arc<ArcSwap<Partition>>,
        inbox: mpsc::Receiver<Message<S>>,
        stop: CancellationToken,
        make: Box<dyn Fn() -> S + Send + Sync>,
    ) -> Self {
        Self { sys, partition, inbox, stop, make }
    }

    /// Serves until it is stopped.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        loop {
            let loaded = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                loaded = self.load() => loaded,
            };
            let error = match loaded {
                Ok(machine) => {
                    match Serving::new(&self.sys, &self.partition, machine).run(&mut self.inbox, &stop).await {
                        End::Stopped => return,
                        End::Failed(error) => error.to_string(),
                    }
                }
                Err(error) => error,
            };
            let partition = self.partition.load().log().id().partition;
            tracing::warn!(topic = %self.partition.load().log().topic_name(), %partition, %error, "a coordinator loads its state anew");
            if self.refuse(&error).await.is_none() {
                return;
            }
        }
    }

    /// Rebuilds the state from the log. All that is in it when this leadership begins counts once it is committed.
    async fn load(&self) -> Result<S, String> {
        let log = self.partition.load().log().clone();
        let end = log.log_end().offset();
        let mut progress = log.watch();
        let settled = progress.wait_for(|p| p.high_watermark.offset() >= end || !p.online).await;
        let settled = *settled.map_err(|_| "its partition is gone")?;
        if let Some(reason) = log.offline_reason() {
            return Err(reason);
        }
        let mut machine = (self.make)();
        let mut at = settled.log_start.offset();
        while at < end {
            let batches = log.read(at, end, LOAD_BYTES).await.map_err(|error| error.to_string())?;
            let Some(last) = batches.last() else { break };
            at = last.header().next_offset();
            for batch in batches.iter().filter(|batch| !batch.header().control) {
                for record in batch.records(DECOMPRESS).map_err(|error| error.to_string())? {
                    machine.replay(record.map_err(|error| error.to_string())?);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(machine)
    }

    /// Answers commands with a failure for a moment. `None` when it was stopped.
    async fn refuse(&mut self, error: &str) -> Option<()> {
        let over = tokio::time::sleep(RETRY);
        tokio::pin!(over);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = &mut over => return Some(()),
                message = self.inbox.recv() => {
                    let _ = message?.reply.send(Err(CoordinatorError::NotLoaded(error.to_owned())));
                }
            }
        }
    }
}

/// A loaded state machine at work.
struct Serving<'a, S: StateMachine> {
    sys: &'a Sys,
    partition: &'a ArcSwap<Partition>,
    machine: S,
    timers: Timers<S::Timer>,
    owed: BTreeMap<ReplyToken, Reply<S>>,
    next_token: u64,
    /// Decided since the append under way began.
    pending: Outcome<S>,
    flight: Option<Flight<S>>,
}

impl<'a, S: StateMachine> Serving<'a, S> {
    fn new(sys: &'a Sys, partition: &'a ArcSwap<Partition>, machine: S) -> Self {
        let (timers, owed, pending) = (Timers::new(), BTreeMap::new(), Outcome::default());
        Self { sys, partition, machine, timers, owed, next_token: 0, pending, flight: None }
    }

    fn now(&self) -> Now {
        Now { monotonic: self.sys.clock.monotonic(), wall_ms: self.sys.clock.now_ms() }
    }

    async fn run(mut self, inbox: &mut mpsc::Receiver<Message<S>>, stop: &CancellationToken) -> End {
        self.machine.loaded(self.now(), &mut self.pending);
        let mut commands = Vec::with_capacity(DRAIN);
        let end = loop {
            self.release_early();
            self.gather(inbox, &mut commands).await;
            if let Err(error) = self.settle() {
                break End::Failed(error);
            }
            let full = self.pending.bytes >= APPEND_BYTES;
            tokio::select! {
                biased;
                () = stop.cancelled() => break End::Stopped,
                outcome = landed(&mut self.flight) => {
                    if let Err(error) = self.land(outcome) {
                        break End::Failed(error.into());
                    }
                }
                () = due(self.sys, self.timers.next()), if !full => self.fire(),
                count = inbox.recv_many(&mut commands, DRAIN), if !full => {
                    if count == 0 {
                        break End::Stopped;
                    }
                    commands.drain(..).for_each(|message| self.handle(message));
                }
            }
        };
        let error = match &end {
            End::Stopped => CoordinatorError::NotCoordinator,
            End::Failed(error) => CoordinatorError::NotStored(error.clone()),
        };
        for (_, reply) in std::mem::take(&mut self.owed) {
            let _ = reply.send(Err(error.clone())); // the one who asked may have gone
        }
        end
    }

    /// Before an append begins, whoever is ready to ask does so first: what several ask is then stored by one sync. It waits for
    /// tasks that run anyway, and not for time; where nobody else is at work it waits for nothing.
    async fn gather(&mut self, inbox: &mut mpsc::Receiver<Message<S>>, commands: &mut Vec<Message<S>>) {
        if self.flight.is_some() || self.pending.records.is_empty() {
            return;
        }
        for _ in 0..GATHER {
            tokio::task::yield_now().await;
            let before = self.pending.records.len();
            while self.pending.bytes < APPEND_BYTES
                && commands.len() < DRAIN
                && let Ok(message) = inbox.try_recv()
            {
                commands.push(message);
            }
            commands.drain(..).for_each(|message| self.handle(message));
            if self.pending.records.len() == before {
                return;
            }
        }
    }

    fn handle(&mut self, message: Message<S>) {
        if self.owed.len() >= OWED {
            let _ = message.reply.send(Err(CoordinatorError::Overloaded)); // the one who asked may have gone
            return;
        }
        let token = ReplyToken(self.next_token);
        self.next_token += 1;
        self.owed.insert(token, message.reply);
        let now = self.now();
        self.machine.handle(message.command, token, now, &mut self.pending);
        self.take_timers();
    }

    /// Fires the timers that are due now, each once: one that a step sets to the past waits for the next turn.
    fn fire(&mut self) {
        let now = self.now();
        let mut due = Vec::new();
        while due.len() < DRAIN
            && let Some(timer) = self.timers.pop_due(now.monotonic)
        {
            due.push(timer);
        }
        for timer in due {
            self.machine.timer(timer, now, &mut self.pending);
        }
        self.take_timers();
    }

    fn take_timers(&mut self) {
        for (timer, at) in self.pending.timers.drain(..) {
            self.timers.set(timer, at);
        }
    }

    /// Begins the next append if none is under way; releases what waits for nothing, or no longer.
    fn settle(&mut self) -> Result<(), ReplicationError> {
        self.take_timers();
        self.release_early();
        if self.flight.is_some() {
            return Ok(());
        }
        let mut rest = self.pending.take();
        if rest.records.is_empty() {
            self.release(rest);
            return Ok(());
        }
        #[cfg(feature = "sabotage")]
        if crate::coordinator::sabotage::is_on(&crate::coordinator::sabotage::REPLY_BEFORE_COMMIT) {
            let replies = std::mem::take(&mut rest.replies);
            self.release(Outcome { replies, ..Outcome::default() });
        }
        let records = std::mem::take(&mut rest.records);
        let append = AppendRecords { records, idempotency: None, hold: None };
        let append = Box::pin(self.partition.load().append_records(append)?);
        let decided = rest.decided;
        self.flight = Some(Flight { append, rest, decided });
        Ok(())
    }

    /// What tells of committed records only goes out; what tells of those under way goes with them.
    fn release_early(&mut self) {
        if self.pending.early.is_empty() {
            return;
        }
        let (mut ready, mut left) = (Outcome::default(), Vec::new());
        for (after, token, reply) in std::mem::take(&mut self.pending.early) {
            if after <= self.pending.committed {
                ready.replies.push((token, reply));
                continue;
            }
            match &mut self.flight {
                Some(flight) if after <= flight.decided => flight.rest.replies.push((token, reply)),
                _ => left.push((after, token, reply)),
            }
        }
        self.pending.early = left;
        self.release(ready);
    }

    /// The append under way is committed, or failed.
    fn land(&mut self, outcome: Result<AppendOutcome, LogError>) -> Result<(), LogError> {
        let Some(mut flight) = self.flight.take() else { return Ok(()) };
        let base = outcome?.base_offset;
        self.pending.committed = flight.decided;
        let now = self.now();
        for (index, mark) in std::mem::take(&mut flight.rest.marks) {
            self.machine.committed(mark, base.plus(index as i64), now, &mut self.pending);
        }
        self.release(flight.rest);
        Ok(())
    }

    fn release(&mut self, outcome: Outcome<S>) {
        let early = outcome.early.into_iter().map(|(_, token, reply)| (token, reply));
        for (token, reply) in outcome.replies.into_iter().chain(early) {
            match self.owed.remove(&token) {
                Some(sender) => drop(sender.send(Ok(reply))), // the one who asked may have gone
                None => debug_assert!(false, "a command was answered twice"),
            }
        }
        if let Some(before) = outcome.prune_before {
            let log = self.partition.load().log().clone();
            tokio::spawn(async move {
                if let Err(error) = log.truncate_prefix(before).await {
                    tracing::warn!(topic = %log.topic_name(), %error, "old state could not be pruned; it will be later");
                }
            });
        }
    }
}

async fn landed<S: StateMachine>(flight: &mut Option<Flight<S>>) -> Result<AppendOutcome, LogError> {
    match flight {
        Some(flight) => (&mut flight.append).await,
        None => std::future::pending().await,
    }
}

async fn due(sys: &Sys, at: Option<Duration>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_sub(sys.clock.monotonic())).await,
        None => std::future::pending().await,
    }
}

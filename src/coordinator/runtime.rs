//! Runs one state machine per partition of an internal topic: appends the records it makes, parks its replies until
//! they are committed, and fires its timers.
//!
//! **Invariant**: a reply is released only when everything that the state machine had decided by then is below the
//! high watermark, so that reads never tell of what may be lost; a machine that knows that a reply tells of less says so
//! ([`Outcome::reply_after`]). Of one partition at most one append is under way, and nothing is stored on top of records
//! that failed: after a failed append the state is thrown away and replayed.
//!
//! One task a partition. While its append is being synced, commands go on being handled, and what they make is
//! appended together next: that is the group commit. The inbox, the records in hand and the parked replies are bounded.
//! Called by `engine`; a state machine itself is pure and is tested by comparing [`Outcome`]s.

mod shard;
#[cfg(test)]
mod tests;
mod timers;

use super::CoordinatorError;
use crate::replication::{Partition, TopicReplicas};
use crate::sys::Sys;
use crate::types::{LeaderEpoch, Offset, PartitionId, Record, StoredRecord};
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use shard::{Message, Shard};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Commands that may wait for one partition.
const INBOX: usize = 8192;

/// The time as a state machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timers and timeouts: it never jumps.
    pub monotonic: Duration,
    /// For what is stored, in Unix milliseconds: it may jump either way.
    pub wall_ms: i64,
}

impl Now {
    /// The monotonic time in milliseconds.
    #[must_use]
    pub const fn monotonic_ms(&self) -> i64 {
        self.monotonic.as_millis() as i64
    }
}

/// Names a command whose reply is owed. Each is answered once, in the same step or in a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyToken(u64);

impl ReplyToken {
    /// For tests of state machines.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// A state machine over one partition's log. Pure: what it does depends on the calls alone.
///
/// Its state after `handle` is its state after replaying the records that `handle` made, as far as it is meant to
/// survive. Records of one step may be stored in part (a prefix of them) when the power goes in between.
pub trait StateMachine: Send + Sized + 'static {
    /// What is asked of it.
    type Command: Send + 'static;
    /// What it answers, refusals by its own rules included.
    type Reply: Send + 'static;
    /// Names one of its timers.
    type Timer: Ord + Clone + Send + Sync + fmt::Debug + 'static;
    /// Names a record whose offset it wants to learn ([`Outcome::mark`]).
    type Mark: Send + 'static;

    /// Takes a committed record while the state is being rebuilt. What it does not understand it leaves out, and says
    /// so in the log.
    fn replay(&mut self, record: StoredRecord);

    /// All records were replayed: sets the timers.
    fn loaded(&mut self, now: Now, out: &mut Outcome<Self>);

    /// Handles a command.
    fn handle(&mut self, command: Self::Command, reply: ReplyToken, now: Now, out: &mut Outcome<Self>);

    /// A timer that it set is due; it is not set any more.
    fn timer(&mut self, timer: Self::Timer, now: Now, out: &mut Outcome<Self>);

    /// A marked record is committed, at this offset.
    fn committed(&mut self, mark: Self::Mark, offset: Offset, now: Now, out: &mut Outcome<Self>) {
        let _ = (mark, offset, now, out);
    }
}

/// What a state machine decided: collected over one or more steps.
pub struct Outcome<S: StateMachine> {
    /// To append, in order.
    pub records: Vec<Record>,
    /// To send once all records so far are committed.
    pub replies: Vec<(ReplyToken, S::Reply)>,
    /// To send once so many records are committed ([`Self::decided`]).
    pub early: Vec<(u64, ReplyToken, S::Reply)>,
    /// Timers to set (to a monotonic time) or to cancel, in order.
    pub timers: Vec<(S::Timer, Option<Duration>)>,
    /// Records, by their place in `records`, whose offsets are wanted.
    pub marks: Vec<(usize, S::Mark)>,
    /// What lies below is needed no more: the log start moves here once all records so far are committed.
    pub prune_before: Option<Offset>,
    /// Bytes of the records.
    bytes: usize,
    /// Records since the state was loaded.
    decided: u64,
    /// Of them, those that are committed.
    committed: u64,
}

impl<S: StateMachine> Default for Outcome<S> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            replies: Vec::new(),
            early: Vec::new(),
            timers: Vec::new(),
            marks: Vec::new(),
            prune_before: None,
            bytes: 0,
            decided: 0,
            committed: 0,
        }
    }
}

impl<S: StateMachine> Outcome<S> {
    /// Appends a record.
    pub fn record(&mut self, record: Record) {
        self.bytes += record.payload_bytes();
        self.decided += 1;
        self.records.push(record);
    }

    /// Asks for the offset of the next record ([`StateMachine::committed`]).
    pub fn mark(&mut self, mark: S::Mark) {
        self.marks.push((self.records.len(), mark));
    }

    /// Answers a command.
    pub fn reply(&mut self, token: ReplyToken, reply: S::Reply) {
        self.replies.push((token, reply));
    }

    /// Answers a command as soon as the first `decided` records are committed: the answer tells of no other.
    pub fn reply_after(&mut self, decided: u64, token: ReplyToken, reply: S::Reply) {
        self.early.push((decided, token, reply));
    }

    /// Records decided since the state was loaded, whether they are stored yet or not.
    #[must_use]
    pub const fn decided(&self) -> u64 {
        self.decided
    }

    /// How many of them are committed.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.committed
    }

    /// Takes what was collected; the counts go on.
    pub(crate) fn take(&mut self) -> Self {
        let next = Self { decided: self.decided, committed: self.committed, ..Self::default() };
        std::mem::replace(self, next)
    }

    /// Sets a timer, in place of the one of this name.
    pub fn set_timer(&mut self, timer: S::Timer, at: Duration) {
        self.timers.push((timer, Some(at)));
    }

    /// Cancels a timer, if it is set.
    pub fn cancel_timer(&mut self, timer: S::Timer) {
        self.timers.push((timer, None));
    }

    /// Lets go of the log below an offset.
    pub fn prune(&mut self, before: Offset) {
        self.prune_before = self.prune_before.max(Some(before));
    }
}

/// The state machines of an internal topic's partitions that this broker leads.
pub struct CoordinatorRuntime<S: StateMachine> {
    sys: Sys,
    make: Arc<dyn Fn(PartitionId) -> S + Send + Sync>,
    shards: RwLock<BTreeMap<PartitionId, ShardHandle<S>>>,
}

struct ShardHandle<S: StateMachine> {
    epoch: LeaderEpoch,
    inbox: mpsc::Sender<Message<S>>,
    partition: Arc<ArcSwap<Partition>>,
    stop: CancellationToken,
}

impl<S: StateMachine> Drop for ShardHandle<S> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<S: StateMachine> CoordinatorRuntime<S> {
    /// Runs nothing until the first [`Self::apply`]. `make` gives an empty state machine for a partition.
    #[must_use]
    pub fn new(sys: Sys, make: impl Fn(PartitionId) -> S + Send + Sync + 'static) -> Self {
        Self { sys, make: Arc::new(make), shards: RwLock::default() }
    }

    /// Starts and stops state machines as the metadata says. A new leadership (also of the same broker) loads anew.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn apply(&self, topic: Option<&TopicReplicas>) {
        let led: BTreeMap<PartitionId, &Arc<Partition>> = topic
            .into_iter()
            .flat_map(TopicReplicas::partitions)
            .filter(|p| p.is_leader())
            .map(|p| (p.id(), p))
            .collect();
        let mut shards = self.shards.write();
        shards.retain(|id, shard| led.get(id).is_some_and(|p| p.assignment().leader_epoch == shard.epoch));
        for (id, partition) in led {
            match shards.get(&id) {
                Some(shard) => shard.partition.store(partition.clone()),
                None => drop(shards.insert(id, self.start(id, partition))),
            }
        }
    }

    fn start(&self, id: PartitionId, partition: &Arc<Partition>) -> ShardHandle<S> {
        let (inbox, commands) = mpsc::channel(INBOX);
        let (stop, make) = (CancellationToken::new(), self.make.clone());
        let epoch = partition.assignment().leader_epoch;
        let partition = Arc::new(ArcSwap::new(partition.clone()));
        let make = Box::new(move || make(id));
        tokio::spawn(Shard::new(self.sys.clone(), partition.clone(), commands, stop.clone(), make).run());
        ShardHandle { epoch, inbox, partition, stop }
    }

    /// Hands a command to a partition's state machine and waits for its reply. While the state is being loaded the
    /// command waits. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// [`CoordinatorError`].
    pub fn call(
        &self,
        partition: PartitionId,
        command: S::Command,
    ) -> impl Future<Output = Result<S::Reply, CoordinatorError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let sent = match self.shards.read().get(&partition) {
            None => Err(CoordinatorError::NotCoordinator),
            Some(shard) => shard.inbox.try_send(Message { command, reply }).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CoordinatorError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => CoordinatorError::NotCoordinator,
            }),
        };
        async move {
            sent?;
            answer.await.unwrap_or(Err(CoordinatorError::NotCoordinator))
        }
    }

    /// The partitions that this broker coordinates, in order.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.shards.read().keys().copied().collect()
    }

    /// Stops every state machine; what was handed in and is not answered yet fails.
    pub fn stop(&self) {
        self.shards.write().clear();
    }
}

/// The partition of an internal topic that a name (of a group, a queue) belongs to: Kafka's `abs(name.hashCode()) % n`.
///
/// # Panics
/// If `partitions` is not positive.
#[must_use]
pub fn partition_for_name(name: &str, partitions: i32) -> PartitionId {
    assert!(partitions > 0, "a topic has at least one partition");
    let hash = name.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's Utils.abs: the least number becomes 0.
    PartitionId::new(hash.checked_abs().unwrap_or(0) % partitions)
}

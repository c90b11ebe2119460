//! What may be asked of the queues, and what they answer.

use crate::coordinator::queue::definition::Definition;
use crate::coordinator::queue::lease::LeaseRef;
use crate::coordinator::queue::receives::ReceiveTag;
use crate::coordinator::queue::share_partition::{BlockedBy, Counts, Offered, Outcome as Settled, Settlement, Totals};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A command. Each names its queue.
#[derive(Debug, Clone)]
pub enum QueueCommand {
    /// Makes a queue, or changes it.
    Put {
        /// Its name.
        name: String,
        /// Its identity, random, if it is new.
        id: u64,
        /// What it is to be.
        definition: Definition,
        /// Where it begins in each partition, if it is new.
        starts: Vec<i64>,
    },
    /// Deletes a queue.
    Delete(String),
    /// The names of all queues.
    List,
    /// What a queue is, without counting.
    Find(String),
    /// How a queue is.
    Describe {
        /// The queue.
        queue: String,
        /// Its identity.
        id: u64,
        /// The log start of every partition of its topic; what was not settled below it is lost.
        log_starts: Vec<(i32, i64)>,
    },
    /// Takes records in and leases some.
    Receive {
        /// The queue.
        queue: String,
        /// Its identity: what was found in the log of one topic is not for a queue over another.
        id: u64,
        /// Records at most.
        max: usize,
        /// How long they are leased, ms; the queue's own time if not said.
        lease_ms: Option<i64>,
        /// Makes a resend free.
        tag: Option<ReceiveTag>,
        /// Every partition of the topic with its log start.
        log_starts: Vec<(i32, i64)>,
        /// Records of the log that [`Received::wants`] asked for.
        offers: Vec<Offer>,
    },
    /// Leases that came to nothing.
    Return {
        /// The queue.
        queue: String,
        /// Never sent to a consumer.
        unsent: Vec<LeaseRef>,
        /// Their record is not in the log any more.
        gone: Vec<LeaseRef>,
    },
    /// Settles or extends leases.
    Settle {
        /// The queue.
        queue: String,
        /// In this order, but the results are in the order given.
        settlements: Vec<(LeaseRef, Settlement)>,
    },
    /// Dead letters and parked records, in the order of partition and offset.
    GivenUp {
        /// The queue.
        queue: String,
        /// After this one.
        after: Option<(i32, i64)>,
        /// How many at most.
        limit: usize,
    },
    /// Redrives or discards dead letters and parked records.
    EndGivenUp {
        /// The queue.
        queue: String,
        /// Which.
        filter: GivenUpFilter,
        /// Deliver them again, or settle them for good.
        redrive: bool,
    },
}

/// Records of the log for one partition.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The partition.
    pub partition: i32,
    /// The first offset that was looked at.
    pub from: i64,
    /// After the last.
    pub to: i64,
    /// What is there, in order.
    pub records: Vec<Offered>,
}

/// Which of the records that were given up; all that fit every condition.
#[derive(Debug, Clone, Default)]
pub struct GivenUpFilter {
    /// In this partition.
    pub partition: Option<i32>,
    /// These (partition, offset).
    pub records: Option<BTreeSet<(i32, i64)>>,
    /// Parked ones, or dead ones.
    pub parked: Option<bool>,
    /// With this reason.
    pub reason: Option<String>,
}

/// Why a queue does not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueRefusal {
    /// There is none of this name.
    #[error("there is no queue '{0}'")]
    UnknownQueue(String),
    /// The field can not be changed.
    #[error("the queue exists with another `{0}`, which can not be changed; use another name, or delete it first")]
    Conflict(&'static str),
    /// There are as many as there may be.
    #[error("there are too many queues; delete some first")]
    TooManyQueues,
    /// Its topic is no more.
    #[error("the topic '{1}' of queue '{0}' was deleted; delete the queue too, or make it anew under another name")]
    TopicDeleted(String, String),
    /// These (their places in the request) are no leases of this cluster. Nothing was done.
    #[error("nothing was settled: {}; send the `lease` of each message as it came", strange_leases(.0.len()))]
    InvalidLeases(Vec<usize>),
    /// The Idempotency-Key was used for another call.
    #[error("this Idempotency-Key was used for another request; use a new key for a new request")]
    IdempotencyConflict,
}

fn strange_leases(count: usize) -> String {
    match count {
        1 => "one of the leases was not made by this cluster".to_owned(),
        _ => format!("{count} of the leases were not made by this cluster"),
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub enum QueueReply {
    /// It was not done.
    Refused(QueueRefusal),
    /// The queue was made (true), or changed.
    Put(bool),
    /// Done.
    Done,
    /// Names.
    Queues(Vec<String>),
    /// What the queue is.
    Found(u64, Arc<Definition>),
    /// How the queue is.
    Described(Box<QueueState>),
    /// What was leased.
    Received(Received),
    /// One each, and who may find something to do now.
    Settled(Vec<Settled>, Wake),
    /// What was given up.
    GivenUp(Vec<GivenUpAt>),
    /// How many it were.
    Ended(usize),
}

/// What a settlement means for those that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// Something may be ready that was not before.
    pub ready: bool,
    /// When something may be ready without anybody's doing, monotonic.
    pub next_due: Option<Duration>,
}

/// What a receive gives.
#[derive(Debug, Clone)]
pub struct Received {
    /// The leases.
    pub leases: Vec<Leased>,
    /// Partitions that have little left to lease, with where their log should be looked at next.
    pub wants: Vec<Want>,
    /// Something is left that others may lease.
    pub more: bool,
    /// When something may be ready without anybody's doing, monotonic.
    pub next_due: Option<Duration>,
    /// They are those of an earlier call under the same Idempotency-Key.
    pub replayed: bool,
}

/// One lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// What it is over.
    pub lease: LeaseRef,
    /// Which delivery it is, from 1.
    pub attempt: u16,
    /// Until when, Unix ms.
    pub leased_until_ms: i64,
}

/// A partition that wants records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub partition: i32,
    /// From this offset on.
    pub from: i64,
    /// How many at most.
    pub room: usize,
}

/// A queue's state.
#[derive(Debug, Clone)]
pub struct QueueState {
    /// Its identity.
    pub id: u64,
    /// What it is.
    pub definition: Arc<Definition>,
    /// By partition.
    pub partitions: Vec<PartitionState>,
}

/// The state over one partition.
#[derive(Debug, Clone)]
pub struct PartitionState {
    /// Which.
    pub partition: i32,
    /// Records by what they wait for, of those that were looked at.
    pub counts: Counts,
    /// Settled so far.
    pub totals: Totals,
    /// The first offset that was not looked at yet.
    pub looked_at: i64,
    /// How many from there on are known not to be ready.
    pub settled_ahead: u64,
    /// Below it all is settled or held.
    pub start: i64,
    /// The lowest offset that is ready; `None`: to be looked for from `looked_at`.
    pub oldest_ready: Option<i64>,
    /// Too many are held.
    pub held_full: bool,
    /// Keys behind which most records wait.
    pub blocked_by: Vec<BlockedBy>,
}

/// A record that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpAt {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// It blocks its key.
    pub parked: bool,
    /// Deliveries.
    pub attempts: u16,
    /// When, Unix ms.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
    /// Its record was removed.
    pub gone: bool,
}

//! Queues: a lease per record of a topic, acknowledged one by one.
//!
//! [`SharePartition`] is one queue's state over one partition, live: what is ready, leased, waiting behind its key.
//! [`DurablePartition`] is what of it survives: the sum of its [`Delta`]s, which lie in the state topic. [`LeaseSigner`]
//! makes the tokens by which any process, on any broker, settles a lease.
//!
//! **Invariant**: pure. No clock, no async, no lock, no I/O: time and records are handed in, deltas are handed out. What a
//! settlement changed is in the delta that [`SharePartition::take_delta`] gives next; nobody is answered before it is
//! committed.

mod change;
mod chunked;
mod definition;
mod due_blocks;
mod durable;
mod history;
mod lease;
mod machine;
mod receives;
mod record;
mod settings;
mod share_partition;

pub use change::{By, Cause, Change, Delta, DeltaError, Verdict};
pub use definition::{Definition, QueueStart};
pub use durable::{DurablePartition, GivenUp};
pub use lease::{InvalidLease, LeaseRef, LeaseSigner};
pub use machine::{
    GivenUpAt, GivenUpFilter, Leased, Offer, PartitionState, QueueCommand, QueueMachine, QueueRefusal, QueueReply,
    QueueState, Received, STATE_TOPIC, SnapshotMark, Wake, Want,
};
pub use receives::ReceiveTag;
pub use settings::{Backoff, MAX_DELIVERIES, MAX_WINDOW, OnExhausted, PartitionSettings};
pub use share_partition::{
    Acquired, BlockedBy, Counts, GivenUpRecord, HolderState, Offered, Outcome as SettleOutcome, Settlement,
    SharePartition, Totals,
};

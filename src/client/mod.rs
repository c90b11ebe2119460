//! A thin Kafka client, for brokers among themselves: requests to a leader, a coordinator or the controller, an
//! idempotent producer, and nothing that a program for people would want beside it.
//!
//! **Invariant**: every request has a deadline, and every queue, connection count and buffer a bound. A request whose
//! outcome is unknown says so ([`ClientError::side_effects`]); only what is safe to send twice is sent twice. A producer
//! stores each record once, whatever breaks in between ([`Producer`]).
//!
//! Called by `replication` and `engine`. [`Client`] is cheap to clone and may be used from any task. All I/O goes through
//! `sys::Network`; the decisions are in `versions`, `cluster` and `sequence`, which are pure.

mod cluster;
mod connection;
mod error;
mod frames;
mod offsets;
mod options;
mod pool;
mod producer;
mod requests;
mod sequence;
mod versions;

#[cfg(test)]
mod fake_tests;
#[cfg(test)]
mod tests;

pub use cluster::{Cluster, Leader};
pub use error::{ClientError, Code, SideEffects};
pub use offsets::{Commit, Committed, OffsetAt};
pub use options::{Acks, ClientOptions, ProducerOptions};
pub use pool::Use;
pub use producer::Producer;
pub use requests::{Client, Fetched, Produced};

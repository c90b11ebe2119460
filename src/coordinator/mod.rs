//! Coordinators: state machines whose state is the replay of an internal topic's partition.
//!
//! **Invariant**: nothing outside its log is needed to rebuild a coordinator's state, and no answer tells of anything
//! that is not committed in it.
//!
//! Called by `engine`, which says who leads what ([`CoordinatorRuntime::apply`]) and routes each request to the
//! partition of its group. The state machines are pure; the runtime does what they decide.

mod error;
pub mod group;
pub mod queue;
pub mod runtime;
#[cfg(feature = "sabotage")]
pub mod sabotage;
#[cfg(test)]
pub(crate) mod sim_tests;

pub use error::CoordinatorError;
pub use runtime::{CoordinatorRuntime, Now, Outcome, ReplyToken, StateMachine, partition_for_name};

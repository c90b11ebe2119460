//! What can be rebuilt from a log: the latest record of each key.
//!
//! **Invariant**: a view never holds the only copy of anything. Delete its folder, start again, and every answer is the
//! same; only the time to the first answer differs.
//!
//! Called by `engine`. One task per viewed partition follows its log; the store is called on the I/O pool.

mod follower;
mod latest;
mod lazy_store;
mod row;
mod run;
mod sled_store;
mod store;

pub use latest::{LatestView, Page, Snapshot, ViewBackend, ViewError, ViewSettings};

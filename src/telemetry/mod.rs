//! What the server tells about itself: log lines and metrics.
//!
//! **Invariant**: every metric that exists is a field of [`Metrics`], registered once and known at compile time; its
//! labels have bounded sets of values, never a topic, key or client. Nothing here knows another layer.
//!
//! Callers: every layer. Threading: handles are shared and lock for nanoseconds at most.

mod budget;
mod metrics;
mod tracing;

pub use self::budget::{MemoryBudget, Reserved};
pub use self::metrics::{
    ApiLabels, BudgetLabels, DirectionLabels, DoorLabels, LaneLabels, Metrics, RouteLabels, RouteStatusLabels,
    ShedLabels, StoredThrough, SubscriberLabels, SubscriberState, Transport, intern, metrics,
};
pub use self::tracing::{InitError, LogFormat, init};

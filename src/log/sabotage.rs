//! Known bugs, put back behind switches, so that the simulation can prove that it sees them. All off at the start.

use std::sync::atomic::AtomicBool;

/// Publishes and acknowledges a group before its sync.
pub static ACK_BEFORE_FSYNC: AtomicBool = AtomicBool::new(false);

//! Known bugs, put back behind switches, so that the simulation can prove that it sees them. All off at the start.

use std::sync::atomic::{AtomicBool, Ordering};

/// Replies go out before the records that they tell of are committed.
pub static REPLY_BEFORE_COMMIT: AtomicBool = AtomicBool::new(false);
/// A record does not wait for the one of its key that is out.
pub static KEYS_DO_NOT_WAIT: AtomicBool = AtomicBool::new(false);
/// A lease that ran out is never looked at again.
pub static LEASES_STAY: AtomicBool = AtomicBool::new(false);

pub(super) fn is_on(bug: &AtomicBool) -> bool {
    bug.load(Ordering::Relaxed)
}

//! Going away in order: the server says so once, and whoever runs for long listens.
//!
//! **Invariant**: it never goes back. Streaming handlers select on [`Drain::started`] and end with `goaway`; what
//! outlives its request (a WebSocket) keeps a [`Hold`], and the server waits for it.

use std::sync::Arc;
use tokio::sync::watch;

/// Tells that the server is going away. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: watch::Sender<bool>,
    holds: watch::Sender<usize>,
}

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(Shared { started: watch::Sender::new(false), holds: watch::Sender::new(0) }))
    }
}

/// Keeps the server from exiting, up to its drain timeout, until it is dropped.
#[derive(Debug)]
pub struct Hold(Drain);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.holds.send_modify(|holds| *holds -= 1);
    }
}

impl Drain {
    /// Starts it. Again does nothing.
    pub fn start(&self) {
        self.0.started.send_replace(true);
    }

    /// Whether it has started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.started.borrow()
    }

    /// Comes back when it starts, or at once if it has.
    pub async fn started(&self) {
        // The sender lives in self, so the wait can not fail.
        let _ = self.0.started.subscribe().wait_for(|started| *started).await;
    }

    /// For what goes on after its request was answered.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.0.holds.send_modify(|holds| *holds += 1);
        Hold(self.clone())
    }

    /// Comes back when nobody holds.
    pub async fn released(&self) {
        let _ = self.0.holds.subscribe().wait_for(|holds| *holds == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn holds_are_waited_for() {
        let drain = Drain::default();
        assert!(drain.started().now_or_never().is_none());
        let hold = drain.hold();
        assert!(drain.released().now_or_never().is_none());
        drop(hold);
        assert!(drain.released().now_or_never().is_some());
        drain.start();
        assert!(drain.is_started() && drain.started().now_or_never().is_some());
    }
}

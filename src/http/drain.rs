//! Going away in order: the server says so once, and whoever runs for long listens.
//!
//! **Invariant**: it never goes back. Streaming handlers select on [`Drain::started`] and end with `goaway`.

use std::sync::Arc;
use tokio::sync::watch;

/// Tells that the server is going away. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain(Arc<watch::Sender<bool>>);

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Drain {
    /// Starts it. Again does nothing.
    pub fn start(&self) {
        self.0.send_replace(true);
    }

    /// Whether it has started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        *self.0.borrow()
    }

    /// Comes back when it starts, or at once if it has.
    pub async fn started(&self) {
        // The sender lives in self, so the wait can not fail.
        let _ = self.0.subscribe().wait_for(|started| *started).await;
    }
}

//! A store that is opened when it is first used: most servers never are asked for a view, and an open sled takes twenty
//! MiB and a good part of a start.
//!
//! **Invariant**: it is opened at most once. One that failed to open is tried again by the next call; one that was closed
//! stays closed.

use super::ViewError;
use super::store::{Changes, ViewStore, Visit};
use parking_lot::RwLock;
use std::sync::Arc;

type Open = dyn Fn() -> Result<Arc<dyn ViewStore>, ViewError> + Send + Sync;

/// See the module.
pub(super) struct LazyStore {
    open: Box<Open>,
    /// Whether an earlier run left rows.
    holds_rows: bool,
    state: RwLock<State>,
}

enum State {
    Unopened,
    Open(Arc<dyn ViewStore>),
    Closed,
}

impl LazyStore {
    /// A store that `open` opens.
    pub(super) fn new(
        holds_rows: bool,
        open: impl Fn() -> Result<Arc<dyn ViewStore>, ViewError> + Send + Sync + 'static,
    ) -> Self {
        Self { open: Box::new(open), holds_rows, state: RwLock::new(State::Unopened) }
    }

    fn store(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        if let State::Open(store) = &*self.state.read() {
            return Ok(Arc::clone(store));
        }
        let mut state = self.state.write();
        match &*state {
            State::Open(store) => Ok(Arc::clone(store)),
            State::Closed => Err(ViewError::Closed),
            State::Unopened => {
                let store = (self.open)()?;
                *state = State::Open(Arc::clone(&store));
                Ok(store)
            }
        }
    }
}

impl ViewStore for LazyStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.store()?.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.store()?.scan(prefix, from, visit)
    }

    fn apply_batch(&self, changes: Changes) -> Result<(), ViewError> {
        self.store()?.apply_batch(changes)
    }

    fn checkpoint(&self) -> Result<(), ViewError> {
        match &*self.state.read() {
            State::Open(store) => store.checkpoint(),
            State::Unopened => Ok(()),
            State::Closed => Err(ViewError::Closed),
        }
    }

    fn close(&self) {
        if let State::Open(store) = std::mem::replace(&mut *self.state.write(), State::Closed) {
            store.close();
        }
    }

    fn is_new(&self) -> bool {
        !self.holds_rows && matches!(&*self.state.read(), State::Unopened)
    }
}

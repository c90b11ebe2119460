//! Connections by broker, made when they are needed.
//!
//! **Invariant**: at most `max_connections`; one for each broker and use. A broker that refused is not tried again before
//! a backoff that grows with each refusal.

use super::connection::Connection;
use super::{ClientError, ClientOptions};
use crate::codec::messages::Request;
use crate::sys::Sys;
use parking_lot::Mutex;
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// What a connection is for. A broker answers in order, so that a fetch that waits for records would hold up all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Metadata, offsets, administration: answered at once.
    Control,
    /// Produces, which wait for replicas.
    Produce,
    /// Fetches, which wait for records.
    Fetch,
}

type Key = (String, Use);

pub(super) struct Pool {
    sys: Sys,
    options: Arc<ClientOptions>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_key: BTreeMap<Key, Arc<Slot>>,
    /// Counts uses, to find the one that was used longest ago.
    clock: u64,
}

#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<State>,
    used: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    failures: u32,
    /// Why the last attempt failed, and from when on there may be another.
    failed: Option<(Instant, ClientError)>,
}

impl Pool {
    pub(super) fn new(sys: Sys, options: Arc<ClientOptions>) -> Self {
        Self { sys, options, slots: Mutex::default() }
    }

    /// Sends to the broker at an address.
    pub(super) async fn send<R: Request>(
        &self,
        address: &str,
        purpose: Use,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, ClientError> {
        let deadline = deadline.min(Instant::now() + self.options.request_timeout);
        let connection = self.connection(address, purpose, deadline).await?;
        connection.send(request, deadline).await
    }

    async fn connection(&self, address: &str, purpose: Use, deadline: Instant) -> Result<Arc<Connection>, ClientError> {
        let slot = self.slot((address.to_owned(), purpose))?;
        let late = |_| ClientError::DeadlineBeforeSent;
        let mut state = timeout_at(deadline, slot.state.lock()).await.map_err(late)?;
        if let Some(connection) = state.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        state.connection = None;
        if let Some((moment, error)) = &state.failed {
            if *moment >= deadline {
                return Err(error.clone());
            }
            sleep_until(*moment).await;
        }
        let until = deadline.min(Instant::now() + self.options.connect_timeout);
        match self.connect(address, until).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *state = State { connection: Some(connection.clone()), ..State::default() };
                Ok(connection)
            }
            Err(error) => {
                state.failed = Some((Instant::now() + self.backoff(state.failures), error.clone()));
                state.failures = state.failures.saturating_add(1);
                Err(error)
            }
        }
    }

    async fn connect(&self, address: &str, deadline: Instant) -> Result<Connection, ClientError> {
        let failed = |kind| ClientError::Connect { address: address.to_owned(), kind };
        let socket = timeout_at(deadline, self.sys.network.connect(address.to_owned()));
        let socket = socket.await.map_err(|_| failed(io::ErrorKind::TimedOut))?.map_err(|e| failed(e.kind()))?;
        // Whatever ends the agreement on versions, nothing was asked of the broker yet.
        Connection::open(socket, &self.options, deadline).await.map_err(|error| match error {
            ClientError::Cut | ClientError::NotSent => failed(io::ErrorKind::ConnectionReset),
            ClientError::Deadline | ClientError::DeadlineBeforeSent => failed(io::ErrorKind::TimedOut),
            other => other,
        })
    }

    fn slot(&self, key: Key) -> Result<Arc<Slot>, ClientError> {
        let mut slots = self.slots.lock();
        slots.clock += 1;
        let clock = slots.clock;
        if !slots.by_key.contains_key(&key) && slots.by_key.len() >= self.options.max_connections {
            let free = slots.by_key.iter().filter(|(_, slot)| slot.is_free()).min_by_key(|(_, slot)| slot.used());
            let free = free.map(|(key, _)| key.clone()).ok_or(ClientError::TooManyConnections)?;
            slots.by_key.remove(&free);
        }
        let slot = slots.by_key.entry(key).or_default();
        slot.used.store(clock, std::sync::atomic::Ordering::Relaxed);
        Ok(slot.clone())
    }

    /// How long to wait before the attempt after `failures` others.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let longest =
            self.options.retry_backoff.saturating_mul(1 << failures.min(16)).min(self.options.retry_backoff_max);
        // Between half of it and all of it, so that those who failed together do not come back together.
        let share = (self.sys.rng.next_u64() >> 32) as f64 / f64::from(u32::MAX);
        longest.mul_f64(0.5 + share / 2.0)
    }

    /// Waits out the backoff; an error if the deadline comes first.
    pub(super) async fn pause(&self, failures: u32, deadline: Instant) -> Result<(), ()> {
        let pause = self.backoff(failures);
        if Instant::now() + pause >= deadline {
            return Err(());
        }
        sleep(pause).await;
        Ok(())
    }
}

impl Slot {
    fn used(&self) -> u64 {
        self.used.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Nobody holds it, and nobody waits for an answer on its connection.
    fn is_free(self: &Arc<Self>) -> bool {
        if Arc::strong_count(self) > 1 {
            return false;
        }
        self.state.try_lock().is_ok_and(|state| match &state.connection {
            Some(connection) => Arc::strong_count(connection) == 1 && connection.is_idle(),
            None => true,
        })
    }
}

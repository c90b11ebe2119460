//! What openraft is told about our commands, nodes and runtime.
//!
//! The runtime is tokio with one change: the random numbers (election timeouts) come from a generator of each thread
//! that [`seed`] sets, so that a simulation, which runs on one thread, gives the same elections for the same seed.

use super::{Response, Versioned};
use openraft::{AsyncRuntime, BasicNode, TokioRuntime};
use rand_core::RngCore;
use std::{cell::Cell, future::Future, io::Cursor, time::Duration};

openraft::declare_raft_types!(
    /// The controller's group.
    pub(super) TypeConfig:
        D = Versioned,
        R = Response,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = SeededRuntime,
);

pub(super) type NodeId = u64;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, BasicNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type Raft = openraft::Raft<TypeConfig>;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Sets this thread's generator.
pub(super) fn seed(seed: u64) {
    STATE.set(seed);
}

/// The generator of the thread it is used on: SplitMix64 (Steele, Lea, Flood 2014). Spreads election timeouts; nothing
/// secret comes from it. A thread that was never seeded starts from the address of its state, so that brokers differ.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ThreadGenerator;

impl RngCore for ThreadGenerator {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        STATE.with(|cell| {
            let mut state = cell.get();
            if state == 0 {
                state = std::ptr::from_ref(cell) as u64;
            }
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            cell.set(state);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// tokio, with [`ThreadGenerator`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SeededRuntime;

impl AsyncRuntime for SeededRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadGenerator;
    type OneshotSender<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: Send> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> ThreadGenerator {
        ThreadGenerator
    }

    fn oneshot<T: Send>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |n| {
            seed(n);
            let mut rng = SeededRuntime::thread_rng();
            [rng.next_u64(), rng.next_u64(), u64::from(rng.next_u32())]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}

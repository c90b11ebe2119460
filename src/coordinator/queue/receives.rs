//! What was leased under which Idempotency-Key, so that a receive call whose answer was lost can be sent again. Pure.
//!
//! **Invariant**: bounded in leases; the oldest call goes first. Not persisted: a lease is not either.

use super::lease::LeaseRef;
use std::collections::{BTreeMap, VecDeque};

/// Leases remembered for one queue: about 4 MiB.
const LEASES: usize = 100_000;

/// A receive call's Idempotency-Key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveTag {
    /// Hash of principal and key.
    pub key: [u8; 16],
    /// Hash of what was asked.
    pub request: [u8; 16],
}

/// The calls of one queue.
#[derive(Debug, Default)]
pub(super) struct Receives {
    calls: BTreeMap<[u8; 16], ([u8; 16], Vec<LeaseRef>)>,
    order: VecDeque<[u8; 16]>,
    leases: usize,
}

impl Receives {
    /// What was leased under this key, and for which request.
    pub(super) fn get(&self, key: &[u8; 16]) -> Option<([u8; 16], &[LeaseRef])> {
        self.calls.get(key).map(|(request, leases)| (*request, leases.as_slice()))
    }

    /// Remembers a call.
    pub(super) fn put(&mut self, tag: ReceiveTag, leases: Vec<LeaseRef>) {
        self.leases += leases.len();
        match self.calls.insert(tag.key, (tag.request, leases)) {
            Some((_, before)) => self.leases -= before.len(),
            None => self.order.push_back(tag.key),
        }
        while self.leases > LEASES || self.order.len() > LEASES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, leases)) = self.calls.remove(&oldest) {
                self.leases -= leases.len();
            }
        }
    }
}

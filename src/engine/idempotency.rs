//! Idempotency-Keys over all partitions of a topic: what a resend finds.
//!
//! Each log checks its own table under its append lock. A request's records may lie in several partitions, and a
//! changed body or a changed number of partitions may send them elsewhere than the first time; so the whole topic is
//! asked, and asking and appending are one step for each key.
//!
//! **Invariant**: between the look-up of a key and the append under it no other request with that key is looked up.

use super::{EngineError, IdempotencyTag, ProducedRecord, TaggedContent};
use crate::log::IdempotencyEntry;
use crate::types::PartitionId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

/// Keys share this many locks: held for microseconds, so that few suffice.
const STRIPES: usize = 64;

/// One lock for many keys.
pub(super) struct Gates([Mutex<()>; STRIPES]);

impl Default for Gates {
    fn default() -> Self {
        Self([const { Mutex::new(()) }; STRIPES])
    }
}

impl Gates {
    /// Held while a key is looked up and its records are put into their logs; never across an await.
    pub(super) fn enter(&self, key: &[u8; 16]) -> MutexGuard<'_, ()> {
        self.0[usize::from(key[0]) % STRIPES].lock()
    }
}

/// The records of a request that an earlier one has stored, by their position in the request.
pub(super) type Known = BTreeMap<usize, ProducedRecord>;

/// Compares a request of `count` records with what the topic's logs know of its key.
///
/// # Errors
/// [`EngineError::IdempotencyConflict`] and [`EngineError::IdempotencyInFlight`].
pub(super) fn known_records(
    tag: &IdempotencyTag,
    count: usize,
    entries: &[(PartitionId, IdempotencyEntry)],
) -> Result<Known, EngineError> {
    let mut known = Known::new();
    for (partition, entry) in entries {
        let position = match &tag.content {
            TaggedContent::Request(hash) if entry.request != *hash => return Err(EngineError::IdempotencyConflict),
            TaggedContent::Request(_) => entry.index as usize,
            TaggedContent::Records { first_index, hashes } => {
                let Some(position) = entry.index.checked_sub(*first_index).map(|n| n as usize) else { continue };
                match hashes.get(position) {
                    None => continue,
                    Some(hash) if *hash != entry.request => return Err(EngineError::IdempotencyConflict),
                    Some(_) => position,
                }
            }
        };
        let Some(offset) = entry.offset else { return Err(EngineError::IdempotencyInFlight) };
        if position < count {
            known.insert(position, ProducedRecord { partition: *partition, offset, timestamp_ms: entry.timestamp_ms });
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    fn entry(request: u8, index: u32, offset: Option<i64>) -> (PartitionId, IdempotencyEntry) {
        let offset = offset.map(Offset::new);
        (PartitionId::new(2), IdempotencyEntry { request: [request; 16], index, offset, timestamp_ms: 7 })
    }

    fn at(offset: i64) -> ProducedRecord {
        ProducedRecord { partition: PartitionId::new(2), offset: Offset::new(offset), timestamp_ms: 7 }
    }

    #[test]
    fn a_resend_of_one_request_finds_what_was_stored() {
        let tag = IdempotencyTag { key: [9; 16], content: TaggedContent::Request([1; 16]) };
        assert_eq!(known_records(&tag, 3, &[]), Ok(Known::new()));
        let stored = [entry(1, 0, Some(5)), entry(1, 2, Some(6))];
        assert_eq!(known_records(&tag, 3, &stored), Ok(Known::from([(0, at(5)), (2, at(6))])));
        assert_eq!(known_records(&tag, 3, &[entry(2, 0, Some(5))]), Err(EngineError::IdempotencyConflict));
        assert_eq!(known_records(&tag, 3, &[entry(1, 0, None)]), Err(EngineError::IdempotencyInFlight));
    }

    #[test]
    fn a_resent_stream_goes_on_behind_what_was_stored() {
        let content = TaggedContent::Records { first_index: 10, hashes: vec![[1; 16], [2; 16]] };
        let tag = IdempotencyTag { key: [9; 16], content };
        let others = [entry(7, 9, Some(1)), entry(7, 12, None)];
        assert_eq!(known_records(&tag, 2, &others), Ok(Known::new()), "other lines do not matter");
        assert_eq!(known_records(&tag, 2, &[entry(2, 11, Some(4))]), Ok(Known::from([(1, at(4))])));
        assert_eq!(known_records(&tag, 2, &[entry(1, 11, Some(4))]), Err(EngineError::IdempotencyConflict));
    }
}

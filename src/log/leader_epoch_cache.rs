//! Which leader epoch begins at which offset (KIP-101): what tells two histories of one offset apart.
//!
//! **Invariant**: epochs and start offsets both rise strictly. An epoch without a record is not kept: the next one
//! begins at its start and takes its place.
//!
//! Pure. Called by `partition_log` under its lock, which writes [`LeaderEpochCache::to_bytes`] to the partition's
//! folder before the first record under a new epoch.

use super::LogError;
use super::frame::{frame, unframe};
use crate::types::{LeaderEpoch, Offset};

const MAGIC: [u8; 4] = *b"SLEC";
const VERSION: u16 = 1;
const ENTRY_BYTES: usize = 12;

/// The leader epochs of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochCache {
    entries: Vec<(LeaderEpoch, Offset)>,
}

/// An epoch or its start offset went back; the log and its epochs do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("leader epoch {epoch} at offset {start} comes after epoch {last_epoch} at offset {last_start}")]
pub struct EpochOrderError {
    /// The new epoch.
    pub epoch: LeaderEpoch,
    /// Where it should start.
    pub start: Offset,
    /// The last one known.
    pub last_epoch: LeaderEpoch,
    /// Its start.
    pub last_start: Offset,
}

impl LeaderEpochCache {
    /// Notes that `epoch` begins at `start`; says whether that was news. An epoch that is known keeps its start.
    ///
    /// # Errors
    /// [`EpochOrderError`] if either goes back; nothing was changed.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<bool, EpochOrderError> {
        if let Some(&(last_epoch, last_start)) = self.entries.last() {
            if epoch < last_epoch || start < last_start {
                return Err(EpochOrderError { epoch, start, last_epoch, last_start });
            }
            if epoch == last_epoch {
                return Ok(false);
            }
            if start == last_start {
                self.entries.pop();
            }
        }
        self.entries.push((epoch, start));
        Ok(true)
    }

    /// The largest known epoch at or below the one asked for, and the offset after its last record: the next epoch's
    /// start, or the log end. For an epoch before all that are known: that epoch, and where the known ones begin.
    /// `None` if no epoch is known.
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.entries.partition_point(|(known, _)| *known <= epoch);
        let end = self.entries.get(after).map_or(log_end, |(_, start)| *start);
        match after.checked_sub(1) {
            Some(at) => Some((self.entries[at].0, end)),
            None => (!self.entries.is_empty()).then_some((epoch, end)),
        }
    }

    /// The epoch under which the record at `offset` was written; `None` below the first known start.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map(|at| self.entries[at].0)
    }

    /// The latest epoch and its start.
    #[must_use]
    pub fn latest(&self) -> Option<(LeaderEpoch, Offset)> {
        self.entries.last().copied()
    }

    /// Forgets epochs that begin at or after the log's new end. Says whether there were any.
    pub fn truncate_from_end(&mut self, log_end: Offset) -> bool {
        let kept = self.entries.partition_point(|(_, start)| *start < log_end);
        let changed = kept < self.entries.len();
        self.entries.truncate(kept);
        changed
    }

    /// Forgets epochs that ended at or before the log's new start; the one there now begins at it. Says whether
    /// anything changed.
    pub fn truncate_from_start(&mut self, log_start: Offset) -> bool {
        let after = self.entries.partition_point(|(_, start)| *start <= log_start);
        let Some(at) = after.checked_sub(1) else { return false };
        if at == 0 && self.entries[0].1 == log_start {
            return false;
        }
        self.entries.drain(..at);
        self.entries[0].1 = log_start;
        true
    }

    /// The file's content, with magic, version and CRC.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (epoch, start) in &self.entries {
            payload.extend_from_slice(&epoch.get().to_be_bytes());
            payload.extend_from_slice(&start.get().to_be_bytes());
        }
        frame(MAGIC, VERSION, &payload)
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], or [`LogError::NewerVersion`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        const WHAT: &str = "the leader epochs";
        let corrupt = |why: &str| LogError::Corrupt(format!("{WHAT}: {why}"));
        let payload = unframe(WHAT, MAGIC, VERSION, bytes)?;
        let (chunks, []) = payload.as_chunks::<ENTRY_BYTES>() else { return Err(corrupt("a length does not fit")) };
        let mut entries: Vec<(LeaderEpoch, Offset)> = Vec::with_capacity(chunks.len());
        for [a, b, c, d, start @ ..] in chunks {
            let (epoch, start) = (i32::from_be_bytes([*a, *b, *c, *d]), i64::from_be_bytes(*start));
            if epoch < 0 || start < 0 {
                return Err(corrupt("a number is negative"));
            }
            let entry = (LeaderEpoch::new(epoch), Offset::new(start));
            if entries.last().is_some_and(|last| entry.0 <= last.0 || entry.1 <= last.1) {
                return Err(corrupt("they do not rise"));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cache(entries: &[(i32, i64)]) -> LeaderEpochCache {
        let mut cache = LeaderEpochCache::default();
        for (epoch, start) in entries {
            cache.assign(LeaderEpoch::new(*epoch), Offset::new(*start)).unwrap();
        }
        cache
    }

    fn end_of(cache: &LeaderEpochCache, epoch: i32) -> Option<(i32, i64)> {
        cache.end_offset_for(LeaderEpoch::new(epoch), Offset::new(100)).map(|(epoch, end)| (epoch.get(), end.get()))
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let cache = cache(&[(2, 0), (4, 10), (7, 30)]);
        assert_eq!(end_of(&cache, 1), Some((1, 0)));
        assert_eq!(end_of(&cache, 2), Some((2, 10)));
        assert_eq!(end_of(&cache, 3), Some((2, 10)));
        assert_eq!(end_of(&cache, 4), Some((4, 30)));
        assert_eq!(end_of(&cache, 6), Some((4, 30)));
        assert_eq!(end_of(&cache, 7), Some((7, 100)));
        assert_eq!(end_of(&cache, 9), Some((7, 100)));
        assert_eq!(end_of(&LeaderEpochCache::default(), 9), None);
        for (offset, epoch) in [(0, 2), (9, 2), (10, 4), (29, 4), (30, 7), (1000, 7)] {
            assert_eq!(cache.epoch_at(Offset::new(offset)), Some(LeaderEpoch::new(epoch)), "{offset}");
        }
    }

    #[test]
    fn an_epoch_without_records_gives_way() {
        let mut cache = cache(&[(1, 0), (2, 10)]);
        assert_eq!(cache.assign(LeaderEpoch::new(3), Offset::new(10)), Ok(true));
        assert_eq!(cache, self::cache(&[(1, 0), (3, 10)]));
        assert_eq!(cache.assign(LeaderEpoch::new(3), Offset::new(15)), Ok(false));
        assert_eq!(cache.latest(), Some((LeaderEpoch::new(3), Offset::new(10))));
    }

    #[test]
    fn nothing_goes_back() {
        let mut cache = cache(&[(1, 0), (3, 10)]);
        let before = cache.clone();
        assert!(cache.assign(LeaderEpoch::new(2), Offset::new(20)).is_err());
        assert!(cache.assign(LeaderEpoch::new(4), Offset::new(9)).is_err());
        assert_eq!(cache, before);
    }

    #[test]
    fn truncation_at_both_ends() {
        let mut cache = cache(&[(1, 0), (3, 10), (4, 20)]);
        assert!(!cache.truncate_from_end(Offset::new(21)));
        assert!(cache.truncate_from_end(Offset::new(20)));
        assert_eq!(cache, self::cache(&[(1, 0), (3, 10)]));
        assert!(!cache.truncate_from_start(Offset::ZERO));
        assert!(cache.truncate_from_start(Offset::new(5)));
        assert_eq!(cache, self::cache(&[(1, 5), (3, 10)]));
        assert!(cache.truncate_from_start(Offset::new(10)));
        assert!(cache.truncate_from_start(Offset::new(50)));
        assert_eq!(cache, self::cache(&[(3, 50)]));
        assert!(cache.truncate_from_end(Offset::ZERO));
        assert!(!cache.truncate_from_start(Offset::new(60)));
        assert_eq!(cache, LeaderEpochCache::default());
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = cache(&[(1, 0), (3, 10)]).to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(LeaderEpochCache::from_bytes(&damaged).is_err(), "{at}");
            assert!(LeaderEpochCache::from_bytes(&bytes[..at]).is_err(), "{at}");
        }
        let falling = [[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9]].concat();
        assert!(LeaderEpochCache::from_bytes(&frame(MAGIC, VERSION, &falling)).is_err());
    }

    proptest! {
        /// Against the plain list of every record's epoch.
        #[test]
        fn it_says_what_the_records_say(
            runs in prop::collection::vec((1i32..4, 0i64..6), 1..12),
            cut in any::<prop::sample::Index>(),
            trim in any::<prop::sample::Index>(),
        ) {
            let mut cache = LeaderEpochCache::default();
            let mut records: Vec<i32> = vec![];
            let mut epoch = 0;
            for (rise, count) in runs {
                epoch += rise;
                cache.assign(LeaderEpoch::new(epoch), Offset::new(records.len() as i64)).unwrap();
                records.extend((0..count).map(|_| epoch));
            }
            records.truncate(cut.index(records.len() + 1));
            cache.truncate_from_end(Offset::new(records.len() as i64));
            let start = trim.index(records.len() + 1);
            if start < records.len() {
                cache.truncate_from_start(Offset::new(start as i64));
            }
            for (offset, epoch) in records.iter().enumerate().skip(start) {
                prop_assert_eq!(cache.epoch_at(Offset::new(offset as i64)), Some(LeaderEpoch::new(*epoch)));
                let end = records.iter().rposition(|e| e == epoch).unwrap() as i64 + 1;
                let found = cache.end_offset_for(LeaderEpoch::new(*epoch), Offset::new(records.len() as i64));
                prop_assert_eq!(found, Some((LeaderEpoch::new(*epoch), Offset::new(end))));
            }
            prop_assert_eq!(LeaderEpochCache::from_bytes(&cache.to_bytes()).unwrap(), cache);
        }

        #[test]
        fn noise_never_panics(payload in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = LeaderEpochCache::from_bytes(&payload);
            let _ = LeaderEpochCache::from_bytes(&frame(MAGIC, VERSION, &payload));
        }
    }
}

//! Which of a log's oldest segments go (`retention.ms`, `retention.bytes`, and what lies below the log start).
//!
//! **Invariant**: only closed segments, oldest first, and none with an offset at or above the high watermark: what is
//! not on every in-sync replica is not old, it is unfinished.
//!
//! Pure. Called by `log_manager`'s background work.

use crate::types::{HighWatermark, LogStartOffset, Offset, TopicConfig};

/// What retention and compaction need to know of a segment that takes no more appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedSegment {
    /// The offset that it is named by.
    pub base: Offset,
    /// The offset that the segment after it is named by.
    pub end: Offset,
    /// Bytes of its batches.
    pub bytes: u64,
    /// The greatest timestamp in it; `None` if it has no batch.
    pub max_timestamp_ms: Option<i64>,
}

/// How many of the oldest closed segments go now. `closed` is in order; `active_bytes` counts into the size.
///
/// By age: a segment goes when its newest record is older than `retention.ms`. By size: the oldest go as long as the
/// rest is no less than `retention.bytes`. Both only with `cleanup.policy=delete`; what lies wholly below the log
/// start goes always.
#[must_use]
pub fn expired_segments(
    closed: &[ClosedSegment],
    active_bytes: u64,
    config: &TopicConfig,
    log_start: LogStartOffset,
    high_watermark: HighWatermark,
    now_ms: i64,
) -> usize {
    let delete = config.cleanup_policy.delete;
    let retention_ms = config.retention.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let oldest_ms = retention_ms.filter(|_| delete).map(|age| now_ms.saturating_sub(age));
    let total = active_bytes + closed.iter().map(|segment| segment.bytes).sum::<u64>();
    let mut surplus = config.retention_bytes.filter(|_| delete).map_or(0, |limit| total.saturating_sub(limit));
    let goes = |segment: &&ClosedSegment| {
        // A segment without a batch (compaction emptied it) has nothing to keep.
        let too_old = oldest_ms.is_some_and(|oldest| segment.max_timestamp_ms.is_none_or(|newest| newest < oldest));
        let too_much = surplus > 0 && segment.bytes <= surplus;
        // Whatever its reason, it makes the log smaller.
        surplus = surplus.saturating_sub(segment.bytes);
        let below_start = segment.end <= log_start.offset();
        (too_old || too_much || below_start) && segment.end <= high_watermark.offset()
    };
    closed.iter().take_while(goes).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CleanupPolicy, TopicDefaults};
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn config(hours: Option<u64>, bytes: Option<u64>) -> TopicConfig {
        let mut config = TopicConfig::new(&TopicDefaults::default());
        config.retention = hours.map(Duration::from_hours);
        config.retention_bytes = bytes;
        config
    }

    /// Segments of ten records and 100 bytes, the first so many hours old, each an hour younger than the one before.
    fn segments(count: i64, oldest_hours: i64) -> Vec<ClosedSegment> {
        (0..count)
            .map(|i| ClosedSegment {
                base: Offset::new(i * 10),
                end: Offset::new(i * 10 + 10),
                bytes: 100,
                max_timestamp_ms: Some(NOW - (oldest_hours - i) * HOUR),
            })
            .collect()
    }

    fn expired(closed: &[ClosedSegment], config: &TopicConfig) -> usize {
        expired_segments(closed, 50, config, LogStartOffset::ZERO, HighWatermark::new(1 << 40), NOW)
    }

    #[test]
    fn by_age() {
        let closed = segments(5, 5);
        assert_eq!(expired(&closed, &config(Some(3), None)), 2, "exactly three hours old is not older");
        assert_eq!(expired(&closed, &config(Some(0), None)), 5);
        assert_eq!(expired(&closed, &config(None, None)), 0);
        let mut emptied = closed.clone();
        emptied[0].max_timestamp_ms = None;
        assert_eq!(expired(&emptied, &config(Some(3), None)), 2);
        let mut young = closed;
        young[1].max_timestamp_ms = Some(NOW);
        assert_eq!(expired(&young, &config(Some(3), None)), 1, "one that stays keeps those after it");
    }

    #[test]
    fn by_size() {
        let closed = segments(5, 5);
        for (limit, gone) in [(550, 0), (549, 0), (450, 1), (449, 1), (350, 2), (0, 5)] {
            assert_eq!(expired(&closed, &config(None, Some(limit))), gone, "{limit} of 550 bytes");
        }
        assert_eq!(expired(&closed, &config(Some(2), Some(450))), 3, "what went by age counts");
    }

    #[test]
    fn never_past_the_high_watermark() {
        let closed = segments(5, 5);
        let until = |offset| {
            let watermark = HighWatermark::new(offset);
            expired_segments(&closed, 0, &config(Some(0), Some(0)), LogStartOffset::ZERO, watermark, NOW)
        };
        assert_eq!((until(0), until(9), until(10), until(35), until(50)), (0, 0, 1, 3, 5));
    }

    #[test]
    fn a_compacted_topic_loses_only_what_lies_below_its_start() {
        let closed = segments(5, 5);
        let mut compacted = config(Some(0), Some(0));
        compacted.cleanup_policy = CleanupPolicy { delete: false, compact: true };
        let from = |start| {
            let start = LogStartOffset::new(start);
            expired_segments(&closed, 0, &compacted, start, HighWatermark::new(50), NOW)
        };
        assert_eq!((from(0), from(9), from(10), from(29), from(50)), (0, 0, 1, 2, 5));
    }

    proptest! {
        #[test]
        fn what_stays_is_enough(
            sizes in prop::collection::vec((0u64..200, -3i64..3), 0..12),
            limit in 0u64..1500,
            active in 0u64..100,
        ) {
            let mut closed = segments(sizes.len() as i64, 0);
            for (segment, (bytes, hours)) in closed.iter_mut().zip(&sizes) {
                segment.bytes = *bytes;
                segment.max_timestamp_ms = Some(NOW + hours * HOUR);
            }
            let watermark = HighWatermark::new(1000);
            let gone = expired_segments(&closed, active, &config(None, Some(limit)), LogStartOffset::ZERO, watermark, NOW);
            let total: u64 = active + closed.iter().map(|s| s.bytes).sum::<u64>();
            let left: u64 = active + closed[gone..].iter().map(|s| s.bytes).sum::<u64>();
            prop_assert!(left >= limit.min(total));
            prop_assert!(gone == closed.len() || left <= limit || left - closed[gone].bytes < limit);
            let gone = expired_segments(&closed, active, &config(Some(1), None), LogStartOffset::ZERO, watermark, NOW);
            prop_assert!(closed[..gone].iter().all(|s| s.max_timestamp_ms.unwrap() < NOW - HOUR));
        }
    }
}

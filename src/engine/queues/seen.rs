//! Records that a look at the log has found, kept until they are leased: so that a lease costs no read of the log.
//!
//! **Invariant**: bounded in bytes, for all queues of this broker together; what came first goes first. It is a memory of
//! what the log says and nothing else: whatever is not here is read from the log. Records never change, and a topic's id is
//! never used again, so nothing in it becomes wrong.
//!
//! Called by `delivery`, from any thread; the lock is held for a look-up.

use crate::codec::IndexedBatch;
use crate::types::{Offset, StoredRecord, TopicId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bytes kept: some looks of each of a few busy queues. Much of it is the tail ring's own memory.
const MAX_BYTES: usize = 8 << 20;

/// A batch: topic, partition, the offset after its last.
type Place = (TopicId, i32, i64);

/// What was seen.
#[derive(Default)]
pub(super) struct SeenRecords(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    batches: BTreeMap<Place, Arc<IndexedBatch>>,
    order: VecDeque<Place>,
    bytes: usize,
}

impl SeenRecords {
    /// Keeps batches of a partition.
    pub(super) fn keep(&self, topic: TopicId, partition: i32, batches: Vec<IndexedBatch>) {
        let mut seen = self.0.lock();
        for batch in batches {
            let place = (topic, partition, batch.next_offset().get());
            seen.bytes += batch.memory();
            match seen.batches.insert(place, Arc::new(batch)) {
                Some(before) => seen.bytes -= before.memory(),
                None => seen.order.push_back(place),
            }
        }
        while seen.bytes > MAX_BYTES
            && let Some(oldest) = seen.order.pop_front()
        {
            if let Some(batch) = seen.batches.remove(&oldest) {
                seen.bytes -= batch.memory();
            }
        }
    }

    /// The records at these offsets, in order, up to the first that is not here.
    pub(super) fn take(
        &self,
        topic: TopicId,
        partition: i32,
        offsets: impl Iterator<Item = i64>,
    ) -> impl Iterator<Item = StoredRecord> {
        let mut found: Vec<(Arc<IndexedBatch>, Vec<i64>)> = Vec::new();
        {
            let seen = self.0.lock();
            for offset in offsets {
                if let Some((last, wanted)) = found.last_mut()
                    && offset < last.next_offset().get()
                {
                    wanted.push(offset);
                    continue;
                }
                let from = (topic, partition, offset + 1);
                let Some((place, batch)) = seen.batches.range(from..).next() else { break };
                if (place.0, place.1) != (topic, partition) {
                    break;
                }
                found.push((batch.clone(), vec![offset]));
            }
        }
        found
            .into_iter()
            .flat_map(|(batch, wanted)| wanted.into_iter().map(move |offset| batch.get(Offset::new(offset))))
            .map_while(|record| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{BatchBuilder, Compression, DecompressLimit, RecordBatch};
    use crate::types::{LeaderEpoch, Record};

    const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };

    fn batch(from: i64, count: i64, bytes: usize) -> IndexedBatch {
        let mut builder = BatchBuilder::new(Offset::new(from), LeaderEpoch::new(1));
        for _ in 0..count {
            builder.push(0, &Record { value: Some(vec![7; bytes].into()), ..Record::default() });
        }
        let batch = RecordBatch::split_from(&mut builder.finish(Compression::None)).unwrap();
        IndexedBatch::new(&batch, LIMIT, |_| ()).unwrap()
    }

    #[test]
    fn records_are_found_up_to_the_first_that_is_not_here() {
        let (seen, topic) = (SeenRecords::default(), TopicId::from_random([1; 16]));
        seen.keep(topic, 0, vec![batch(10, 5, 9), batch(15, 5, 9), batch(30, 1, 9)]);
        seen.keep(topic, 1, vec![batch(0, 100, 9)]);
        let of = |partition, offsets: &[i64]| {
            let found = seen.take(topic, partition, offsets.iter().copied());
            found.map(|record| record.offset.get()).collect::<Vec<_>>()
        };
        assert_eq!(of(0, &[11, 14, 15, 19, 30, 31]), [11, 14, 15, 19, 30]);
        assert_eq!(of(0, &[19, 20, 30]), [19], "20 is in no batch");
        assert_eq!(of(0, &[9]), Vec::<i64>::new());
        assert_eq!(of(2, &[0]), Vec::<i64>::new());
        assert_eq!(seen.take(TopicId::from_random([2; 16]), 0, [11].into_iter()).count(), 0);
    }

    #[test]
    fn it_stays_small() {
        let (seen, topic) = (SeenRecords::default(), TopicId::from_random([1; 16]));
        for n in 0..100 {
            seen.keep(topic, 0, vec![batch(n, 1, MAX_BYTES / 10)]);
            assert!(seen.0.lock().bytes <= MAX_BYTES);
        }
        let kept = seen.0.lock().batches.len();
        assert!((5..=10).contains(&kept), "{kept}");
        assert_eq!(seen.0.lock().order.len(), kept);
        seen.keep(topic, 0, vec![batch(99, 1, 5)]);
        assert_eq!(seen.take(topic, 0, [99].into_iter()).next().unwrap().value.unwrap().len(), 5);
    }
}

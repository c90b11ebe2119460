use super::*;
use crate::codec::{BatchProducer, Compression};
use crate::log::idempotency::IDEMPOTENCY_HEADER;
use crate::types::{
    CleanupPolicy, Header, LeaderEpoch, ProducerEpoch, ProducerId, Record, StoredRecord, TopicDefaults,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const NOW: i64 = 1_700_000_000_000;
const DELAY: i64 = 1000;
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };
const ROOMY: usize = 1 << 20;

const RULES: CleaningRules<'static> = CleaningRules {
    now_ms: NOW,
    delete_retention_ms: DELAY,
    log_start: Offset::ZERO,
    idempotent_from: None,
    is_last_of_producer: &|_| false,
    limit: LIMIT,
};

/// A record to write: key, value, and whether it has an Idempotency-Key.
type Write = (Option<u8>, Option<u8>, bool);

fn batch(base: i64, writes: &[Write], compression: Compression) -> RecordBatch {
    let mut builder = BatchBuilder::new(Offset::new(base), LeaderEpoch::new(1));
    for (i, (key, value, marked)) in writes.iter().enumerate() {
        let mark = RecordMark { key: [1; 16], request: [2; 16], index: 0 };
        let record = Record {
            timestamp_ms: None,
            key: key.map(|k| Bytes::from(vec![k])),
            value: value.map(|v| Bytes::from(vec![v])),
            headers: if *marked { vec![mark.to_header()] } else { vec![] },
        };
        builder.push(NOW - 1_000_000 + base + i as i64, &record);
    }
    parse(builder.finish(compression))
}

fn parse(mut bytes: Bytes) -> RecordBatch {
    RecordBatch::split_from(&mut bytes).unwrap()
}

fn map(batches: &[RecordBatch], from: i64, max_bytes: usize) -> OffsetMap {
    let mut map = OffsetMap::new(Offset::new(from), max_bytes);
    for batch in batches {
        if !map.index(batch, LIMIT).unwrap() {
            break;
        }
    }
    map
}

/// One whole pass.
fn clean(batches: &[RecordBatch], map: &OffsetMap, rules: CleaningRules<'_>) -> (Vec<RecordBatch>, CleanerCheckpoint) {
    let mut cleaner = Cleaner::new(map, rules);
    let mut cleaned = vec![];
    for batch in batches {
        match cleaner.clean(batch).unwrap() {
            CleanedBatch::Kept => cleaned.push(batch.clone()),
            CleanedBatch::Rewritten(bytes) => cleaned.push(parse(bytes)),
            CleanedBatch::Dropped => {}
        }
    }
    (cleaned, cleaner.finish())
}

fn clean_all(batches: &[RecordBatch], rules: CleaningRules<'_>) -> Vec<RecordBatch> {
    clean(batches, &map(batches, 0, ROOMY), rules).0
}

fn records(batches: &[RecordBatch]) -> Vec<StoredRecord> {
    batches.iter().flat_map(|batch| batch.records(LIMIT).unwrap()).collect::<Result<_, _>>().unwrap()
}

fn offsets(batches: &[RecordBatch]) -> Vec<i64> {
    records(batches).iter().map(|record| record.offset.get()).collect()
}

fn put(key: u8, value: u8) -> Write {
    (Some(key), Some(value), false)
}

const fn tombstone(key: u8) -> Write {
    (Some(key), None, false)
}

fn at(now_ms: i64) -> CleaningRules<'static> {
    CleaningRules { now_ms, ..RULES }
}

#[test]
fn the_newest_of_each_key_stays_where_it_is() {
    let log = [
        batch(0, &[put(1, 1), put(2, 2), put(1, 3)], Compression::None),
        batch(3, &[put(3, 4), put(3, 5)], Compression::Zstd),
        batch(5, &[put(2, 6)], Compression::None),
        batch(6, &[put(9, 9), (None, Some(1), false)], Compression::None),
    ];
    let cleaned = clean_all(&log, RULES);
    assert_eq!(offsets(&cleaned), [2, 4, 5, 6]);
    let all = records(&log);
    assert!(records(&cleaned).iter().all(|record| all[record.offset.get() as usize] == *record));
    let header = cleaned[0].header();
    assert_eq!((header.base_offset, header.last_offset()), (Offset::ZERO, Offset::new(2)));
    assert_eq!(cleaned[1].header().compression, Compression::Zstd);
    assert_eq!(cleaned[2].bytes(), log[2].bytes(), "what nothing left stays as it is");
    assert!(cleaned.iter().all(|batch| batch.verify_crc().is_ok()));
    assert_eq!(clean_all(&cleaned, RULES).len(), cleaned.len());
}

#[test]
fn a_tombstone_stays_for_its_time_from_the_first_pass_on() {
    let log = [batch(0, &[put(1, 1)], Compression::None), batch(1, &[tombstone(1), put(2, 2)], Compression::Lz4)];
    let first = clean_all(&log, at(NOW));
    assert_eq!(offsets(&first), [1, 2]);
    assert_eq!(first[0].header().delete_horizon_ms, Some(NOW + DELAY));
    assert_eq!(records(&first), records(&log)[1..], "the timestamps are not the horizon's");
    let second = clean_all(&first, at(NOW + DELAY - 1));
    assert_eq!(second[0].bytes(), first[0].bytes(), "the time does not begin anew");
    assert_eq!(offsets(&clean_all(&second, at(NOW + DELAY))), [2]);
}

#[test]
fn what_the_map_did_not_reach_stays() {
    let log = [
        batch(0, &[put(1, 1), put(2, 2), put(1, 3)], Compression::None),
        batch(3, &[put(3, 4), put(1, 5), tombstone(2)], Compression::None),
    ];
    let map = map(&log, 0, 2 * MAP_BYTES_PER_KEY);
    assert_eq!((map.len(), map.end()), (2, Offset::new(3)));
    let (cleaned, checkpoint) = clean(&log, &map, RULES);
    assert_eq!(offsets(&cleaned), [1, 2, 3, 4, 5]);
    assert_eq!(checkpoint, CleanerCheckpoint { clean_to: Offset::new(3), map_from: Offset::new(3) });
    let next = self::map(&cleaned, 3, ROOMY);
    assert_eq!(offsets(&clean(&cleaned, &next, RULES).0), [3, 4, 5]);
}

#[test]
fn what_an_idempotency_key_guards_stays_while_it_is_remembered() {
    let log = [
        batch(0, &[put(1, 1), (Some(1), Some(2), true), (None, Some(3), true)], Compression::None),
        batch(3, &[tombstone(1)], Compression::None),
    ];
    let remembered = CleaningRules { idempotent_from: Some(Offset::new(1)), ..RULES };
    let (cleaned, checkpoint) = clean(&log, &map(&log, 0, ROOMY), remembered);
    assert_eq!(offsets(&cleaned), [1, 2, 3]);
    assert_eq!(checkpoint, CleanerCheckpoint { clean_to: Offset::new(4), map_from: Offset::new(3) });
    assert_eq!(cleaned[1].header().delete_horizon_ms, None, "an older record can still be read");
    let still = CleaningRules { now_ms: NOW + 10 * DELAY, ..remembered };
    assert_eq!(offsets(&clean(&cleaned, &map(&cleaned, 3, ROOMY), still).0), [1, 2, 3]);
    // Forgotten: the superseded ones go, and only now the tombstone's time begins.
    let map = map(&cleaned, checkpoint.map_from.get(), ROOMY);
    let (cleaned, checkpoint) = clean(&cleaned, &map, at(NOW));
    assert_eq!(offsets(&cleaned), [3]);
    assert_eq!(cleaned[0].header().delete_horizon_ms, Some(NOW + DELAY));
    assert_eq!(checkpoint.map_from, Offset::new(4));
    let guarded = CleaningRules { idempotent_from: Some(Offset::new(2)), ..RULES };
    assert_eq!(offsets(&clean_all(&log, guarded)), [2, 3], "below what is remembered the mark means nothing");
}

#[test]
fn a_live_producers_last_batch_leaves_its_header() {
    let producer = BatchProducer { id: ProducerId::new(7), epoch: ProducerEpoch::new(1), base_sequence: 40 };
    let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::new(1));
    builder.set_producer(producer);
    let record = Record { key: Some("k".into()), value: Some("v".into()), ..Record::default() };
    builder.push(NOW, &record);
    builder.push(NOW, &record);
    let first = parse(builder.finish(Compression::Gzip));
    let mut builder = BatchBuilder::new(Offset::new(2), LeaderEpoch::new(1));
    builder.push(NOW, &record);
    let log = [first, parse(builder.finish(Compression::None))];
    assert_eq!(clean_all(&log, RULES).len(), 1);
    let is_last = |header: &BatchHeader| header.base_offset == Offset::ZERO;
    let rules = CleaningRules { is_last_of_producer: &is_last, ..RULES };
    let cleaned = clean_all(&log, rules);
    assert_eq!(offsets(&cleaned), [2]);
    let header = cleaned[0].header();
    assert_eq!((header.record_count, header.producer, header.last_offset_delta), (0, Some(producer), 1));
    assert_eq!(clean_all(&cleaned, rules)[0].bytes(), cleaned[0].bytes());
    assert_eq!(clean_all(&cleaned, RULES).len(), 1);
}

#[test]
fn control_batches_stay_and_what_is_below_the_log_start_goes() {
    let mut control = batch(2, &[put(1, 1)], Compression::None).bytes().to_vec();
    control[22] |= 1 << 5;
    let crc = crc32c::crc32c(&control[21..]);
    control[17..21].copy_from_slice(&crc.to_be_bytes());
    let log = [
        batch(0, &[put(8, 1), put(9, 1)], Compression::None),
        parse(control.into()),
        batch(3, &[put(4, 1), put(5, 1)], Compression::None),
    ];
    let map = map(&log, 0, ROOMY);
    assert_eq!(map.len(), 4, "a marker's key is no key");
    let rules = CleaningRules { log_start: Offset::new(1), ..RULES };
    assert_eq!(offsets(&clean(&log, &map, rules).0), [1, 2, 3, 4]);
    let rules = CleaningRules { log_start: Offset::new(2), ..RULES };
    assert_eq!(offsets(&clean(&log, &map, rules).0), [2, 3, 4]);
}

#[test]
fn a_damaged_batch_stops_the_pass() {
    let good = batch(0, &[put(1, 1)], Compression::None);
    let mut bytes = good.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let bad = parse(bytes.into());
    assert_eq!(OffsetMap::new(Offset::ZERO, ROOMY).index(&bad, LIMIT), Err(BatchError::Crc));
    let map = map(&[good], 0, ROOMY);
    assert_eq!(Cleaner::new(&map, RULES).clean(&bad), Err(BatchError::Crc));
}

fn segments(ends: &[i64], bytes: u64) -> Vec<ClosedSegment> {
    let bases = [0].into_iter().chain(ends.iter().copied());
    let segment = |(base, end): (i64, &i64)| ClosedSegment {
        base: Offset::new(base),
        end: Offset::new(*end),
        bytes,
        max_timestamp_ms: Some(NOW + end),
    };
    bases.zip(ends).map(segment).collect()
}

#[test]
fn a_pass_is_due_by_its_dirty_share() {
    let mut config = TopicConfig::new(&TopicDefaults::default());
    let closed = segments(&[10, 20, 30, 40], 100);
    let plan = |config: &TopicConfig, clean_to, high_watermark| {
        let checkpoint = CleanerCheckpoint { clean_to: Offset::new(clean_to), map_from: Offset::new(clean_to / 2) };
        let watermark = HighWatermark::new(high_watermark);
        plan_cleaning(&closed, checkpoint, config, LogStartOffset::new(5), watermark, NOW + 40)
            .map(|plan| (plan.map_from.get(), plan.end.get(), plan.dirty_ratio))
    };
    assert_eq!(plan(&config, 0, 99), None, "not compacted");
    config.cleanup_policy = CleanupPolicy { delete: true, compact: true };
    assert_eq!(plan(&config, 0, 99), Some((5, 40, 1.0)));
    assert_eq!(plan(&config, 20, 99), Some((10, 40, 0.5)));
    assert_eq!(plan(&config, 30, 99), None);
    assert_eq!(plan(&config, 25, 99), Some((12, 40, 0.5)), "a segment that a map ended in is dirty");
    assert_eq!(plan(&config, 0, 29), Some((5, 20, 1.0)), "not above the high watermark");
    assert_eq!(plan(&config, 0, 9), None);
    config.min_compaction_lag = Duration::from_millis(15);
    assert_eq!(plan(&config, 0, 99), Some((5, 20, 1.0)), "30 is younger than 15 ms at 40");
    config.min_compaction_lag = Duration::ZERO;
    config.min_cleanable_dirty_ratio = 0.0;
    assert_eq!(plan(&config, 30, 99), Some((15, 40, 0.25)));
    assert_eq!(plan(&config, 40, 99), None);
}

#[test]
fn small_neighbours_become_one_segment() {
    let closed = segments(&[10, 20, 30, 40, 50], 40);
    assert_eq!(group_segments(&closed, Offset::new(50), 100), [0..2, 2..4, 4..5]);
    assert_eq!(group_segments(&closed, Offset::new(21), 100), [0..2, 2..3]);
    assert_eq!(group_segments(&closed, Offset::new(50), 1), [0..1, 1..2, 2..3, 3..4, 4..5]);
    assert!(group_segments(&closed, Offset::ZERO, 100).is_empty());
    let wide = segments(&[10, i64::from(i32::MAX), 3 << 32], 1);
    assert_eq!(group_segments(&wide, Offset::new(4 << 32), 100), [0..2, 2..3]);
}

/// What a reader holds by key after these records.
fn apply(state: &mut BTreeMap<Bytes, Bytes>, records: &[StoredRecord]) {
    for record in records {
        match (&record.key, &record.value) {
            (Some(key), Some(value)) => drop(state.insert(key.clone(), value.clone())),
            (Some(key), None) => drop(state.remove(key)),
            (None, _) => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<Write>),
    /// A pass with so many keys in its map, which is cut off after a share of its batches, or not.
    Clean {
        keys: usize,
        cut: Option<prop::sample::Index>,
    },
    Pass(i64),
    /// Idempotency-Keys are remembered from this share of the log on.
    Forget(prop::sample::Index),
    /// A reader reads this share of the log, and stops for a while.
    Read(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let write =
        (prop::option::weighted(0.95, 0u8..6), prop::option::weighted(0.7, any::<u8>()), prop::bool::weighted(0.2));
    prop_oneof![
        4 => prop::collection::vec(write, 1..6).prop_map(Step::Write),
        4 => (1usize..8, prop::option::weighted(0.3, any::<prop::sample::Index>()))
            .prop_map(|(keys, cut)| Step::Clean { keys, cut }),
        2 => (0..DELAY).prop_map(Step::Pass),
        1 => any::<prop::sample::Index>().prop_map(Step::Forget),
        2 => any::<prop::sample::Index>().prop_map(Step::Read),
    ]
}

struct Reader {
    state: BTreeMap<Bytes, Bytes>,
    position: Offset,
    since_ms: i64,
}

fn from(batches: &[RecordBatch], offset: Offset) -> Vec<StoredRecord> {
    records(batches).into_iter().filter(|record| record.offset >= offset).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Against the log that was never cleaned: after any passes, whole or cut off, the log reads the same by key, from
    /// the start and for a reader who goes on within the delete delay; and every record is the one that its offset had.
    #[test]
    fn a_cleaned_log_reads_the_same(steps in prop::collection::vec(step(), 1..60)) {
        let (mut log, mut original): (Vec<RecordBatch>, Vec<StoredRecord>) = (vec![], vec![]);
        let mut checkpoint = CleanerCheckpoint::default();
        let (mut now, mut idempotent_from) = (NOW, Offset::ZERO);
        let mut reader = Reader { state: BTreeMap::new(), position: Offset::ZERO, since_ms: now };
        for step in steps {
            match step {
                Step::Write(writes) => {
                    let compression = if writes.len() % 2 == 0 { Compression::Lz4 } else { Compression::None };
                    let batch = batch(original.len() as i64, &writes, compression);
                    original.extend(records(std::slice::from_ref(&batch)));
                    log.push(batch);
                }
                Step::Clean { keys, cut } => {
                    let map = map(&log, checkpoint.map_from.get(), keys * MAP_BYTES_PER_KEY);
                    let rules = CleaningRules { now_ms: now, idempotent_from: Some(idempotent_from), ..RULES };
                    match cut.map(|cut| cut.index(log.len() + 1)) {
                        // What was replaced by then is replaced, and the checkpoint was not written.
                        Some(cut) => {
                            let tail = log.split_off(cut);
                            log = clean(&log, &map, rules).0;
                            log.extend(tail);
                        }
                        None => (log, checkpoint) = clean(&log, &map, rules),
                    }
                }
                Step::Pass(ms) => now += ms,
                Step::Forget(share) => {
                    let offset = Offset::new(share.index(original.len() + 1) as i64);
                    idempotent_from = idempotent_from.max(offset);
                }
                Step::Read(share) => {
                    let ahead = from(&log, reader.position);
                    let read = &ahead[..share.index(ahead.len() + 1)];
                    if now - reader.since_ms < DELAY {
                        apply(&mut reader.state, read);
                        reader.position = read.last().map_or(reader.position, |last| last.offset.plus(1));
                    } else {
                        reader = Reader { state: BTreeMap::new(), position: Offset::ZERO, since_ms: now };
                    }
                }
            }
            let mut expected = BTreeMap::new();
            apply(&mut expected, &original);
            let mut state = BTreeMap::new();
            let survivors = records(&log);
            apply(&mut state, &survivors);
            prop_assert_eq!(&state, &expected);
            if now - reader.since_ms < DELAY {
                let mut state = reader.state.clone();
                apply(&mut state, &from(&log, reader.position));
                prop_assert_eq!(&state, &expected, "the reader at {}", reader.position);
            }
            prop_assert!(survivors.iter().all(|record| original[record.offset.get() as usize] == *record));
            let marked = |record: &&StoredRecord| record.headers.iter().any(|h: &Header| h.name == IDEMPOTENCY_HEADER);
            let guarded = |records: &[StoredRecord]| {
                records.iter().filter(|r| r.offset >= idempotent_from).filter(marked).count()
            };
            prop_assert_eq!(guarded(&survivors), guarded(&original));
        }
        // Once nothing is remembered, one more pass leaves one record of each key, and after the delay no tombstone.
        for wait in [0, DELAY] {
            now += wait;
            let map = map(&log, checkpoint.map_from.get(), ROOMY);
            (log, checkpoint) = clean(&log, &map, at(now));
        }
        let mut keys: Vec<_> = records(&log).into_iter().map(|record| (record.key, record.value.is_some())).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), count);
        prop_assert!(keys.iter().all(|(key, value)| key.is_some() && *value));
    }
}

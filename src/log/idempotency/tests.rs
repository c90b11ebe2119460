use super::*;
use proptest::prelude::*;

const NOW: i64 = 1_700_000_000_000;
const LIMITS: IdempotencyLimits = IdempotencyLimits { max_entries: 1000, retention_ms: 24 * 60 * 60 * 1000 };
const KEY: [u8; 16] = [7; 16];

fn request(hash: u8, indexes: &[u32]) -> IdempotencyMark {
    IdempotencyMark { key: KEY, records: indexes.iter().map(|i| (*i, [hash; 16])).collect(), per_record: false }
}

/// Lines of an `ingest`, each an index and its own hash.
fn lines(lines: &[(u32, u8)]) -> IdempotencyMark {
    IdempotencyMark { key: KEY, records: lines.iter().map(|(i, h)| (*i, [*h; 16])).collect(), per_record: true }
}

fn store(table: &mut IdempotencyTable, mark: &IdempotencyMark, base: i64, now: i64) {
    table.begin(mark, now).unwrap();
    table.complete(mark, Offset::new(base), (0..).map(|i| base + i), now);
}

fn offsets(table: &IdempotencyTable) -> Vec<(u32, Option<i64>)> {
    table.lookup(&KEY).iter().map(|entry| (entry.index, entry.offset.map(Offset::get))).collect()
}

#[test]
fn the_header_has_a_fixed_form() {
    let mark = RecordMark { key: [1; 16], request: [2; 16], index: 0x0102_0304 };
    let bytes = mark.to_bytes();
    assert_eq!(bytes[..], [&[1; 16][..], &[2; 16], &[1, 2, 3, 4]].concat());
    assert_eq!(RecordMark::parse(&bytes), Some(mark));
    assert_eq!(RecordMark::parse(&bytes[1..]), None);
    let header = mark.to_header();
    assert_eq!(header.name, "sluice-idempotency");
    let forged = RecordMark { index: 9, ..mark }.to_bytes();
    let all =
        [(IDEMPOTENCY_HEADER, Some(&forged[..])), (b"other", None), (IDEMPOTENCY_HEADER, header.value.as_deref())];
    assert_eq!(RecordMark::find(all.into_iter()), Some(mark));
    assert_eq!(RecordMark::find(all[..0].iter().copied()), None);
}

#[test]
fn a_request_goes_from_flight_to_stored() {
    let mut table = IdempotencyTable::new(LIMITS);
    let mark = request(1, &[0, 3]);
    table.begin(&mark, NOW).unwrap();
    assert_eq!(offsets(&table), [(0, None), (3, None)]);
    assert_eq!(table.begin(&mark, NOW), Err(IdempotencyRefusal::InFlight));
    assert_eq!(table.begin(&request(1, &[3]), NOW), Err(IdempotencyRefusal::InFlight), "a part of it alike");
    table.complete(&mark, Offset::new(50), [11, 12], NOW);
    let entry = |index, offset, timestamp_ms| IdempotencyEntry {
        request: [1; 16],
        index,
        offset: Some(Offset::new(offset)),
        timestamp_ms,
    };
    assert_eq!(table.lookup(&KEY), [entry(0, 50, 11), entry(3, 51, 12)]);
    assert_eq!(table.begin(&mark, NOW), Err(IdempotencyRefusal::Stored));
    assert_eq!(table.begin(&request(1, &[7]), NOW), Ok(()), "what was not stored the first time");
    assert!(table.lookup(&[8; 16]).is_empty());
}

#[test]
fn another_request_is_a_conflict() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &request(1, &[0]), 0, NOW);
    assert_eq!(table.begin(&request(2, &[0]), NOW), Err(IdempotencyRefusal::Conflict));
    assert_eq!(table.begin(&request(2, &[5]), NOW), Err(IdempotencyRefusal::Conflict), "another index alike");
    assert_eq!(table.begin(&lines(&[(0, 2)]), NOW), Err(IdempotencyRefusal::Conflict));
    assert_eq!(offsets(&table), [(0, Some(0))], "a refusal changes nothing");
    let other = IdempotencyMark { key: [9; 16], ..request(2, &[0]) };
    assert_eq!(table.begin(&other, NOW), Ok(()));
}

#[test]
fn lines_stand_for_themselves() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &lines(&[(0, 10), (1, 11)]), 0, NOW);
    let flying = lines(&[(2, 12)]);
    table.begin(&flying, NOW).unwrap();
    assert_eq!(table.begin(&lines(&[(1, 11)]), NOW), Err(IdempotencyRefusal::Stored));
    assert_eq!(table.begin(&lines(&[(1, 11), (2, 12)]), NOW), Err(IdempotencyRefusal::InFlight));
    assert_eq!(table.begin(&lines(&[(2, 12), (1, 99)]), NOW), Err(IdempotencyRefusal::Conflict), "before the others");
    assert_eq!(table.begin(&lines(&[(3, 13)]), NOW), Ok(()));
    assert_eq!(table.begin(&request(10, &[0]), NOW), Err(IdempotencyRefusal::Conflict), "no single hash fits them");
}

#[test]
fn an_abort_takes_back_what_flew_and_nothing_else() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &lines(&[(0, 1)]), 0, NOW);
    let flying = lines(&[(1, 1), (2, 2)]);
    table.begin(&flying, NOW).unwrap();
    table.abort(&lines(&[(0, 1), (1, 1), (2, 2)]));
    assert_eq!(offsets(&table), [(0, Some(0))]);
    assert_eq!(table.begin(&flying, NOW), Ok(()));
}

#[test]
fn the_oldest_go_first_and_what_flies_stays() {
    let mut table = IdempotencyTable::new(IdempotencyLimits { max_entries: 2, ..LIMITS });
    table.begin(&lines(&[(9, 9)]), NOW).unwrap();
    for i in 0..4 {
        store(&mut table, &lines(&[(i, 1)]), i64::from(i), NOW + i64::from(i));
    }
    assert_eq!(offsets(&table), [(2, Some(2)), (3, Some(3)), (9, None)]);
    assert_eq!((table.len(), table.memory_bytes()), (3, 3 * ENTRY_BYTES));
    table.expire(NOW + 2 + LIMITS.retention_ms);
    assert_eq!(offsets(&table), [(3, Some(3)), (9, None)]);
    table.expire(NOW * 2);
    assert_eq!(offsets(&table), [(9, None)]);
}

#[test]
fn entries_go_with_their_records() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &lines(&[(0, 0), (1, 0), (2, 0), (3, 0)]), 10, NOW);
    table.truncate_from_start(Offset::new(11));
    table.truncate_from_end(Offset::new(13));
    assert_eq!(offsets(&table), [(1, Some(11)), (2, Some(12))]);
    assert_eq!(table.oldest_offset(), Some(Offset::new(11)));
    table.truncate_from_start(Offset::new(100));
    assert!(table.is_empty() && table.oldest_offset().is_none());
}

#[test]
fn a_replay_keeps_the_age() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &lines(&[(0, 0)]), 10, NOW);
    let record = RecordMark { key: KEY, request: [0; 16], index: 0 };
    table.observe(record, Offset::new(10), 10, NOW + 1000);
    table.expire(NOW + LIMITS.retention_ms);
    assert!(table.is_empty());
    // A record that moved (its first place was cut off, and the leader wrote it again).
    table.observe(record, Offset::new(10), 10, NOW);
    table.observe(record, Offset::new(12), 12, NOW);
    assert_eq!(offsets(&table), [(0, Some(12))]);
    assert_eq!(table.by_offset.len(), 1);
}

#[test]
fn damaged_bytes_are_refused() {
    let mut table = IdempotencyTable::new(LIMITS);
    store(&mut table, &lines(&[(0, 0), (1, 1)]), 10, NOW);
    let bytes = table.to_bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        assert!(IdempotencyTable::from_bytes(&damaged, LIMITS).is_err(), "{at}");
        assert!(IdempotencyTable::from_bytes(&bytes[..at], LIMITS).is_err(), "{at}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin { key: u8, index: u32, hash: u8 },
    Finish { stored: bool },
    TrimTo(i64),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 0u32..4, 0u8..2).prop_map(|(key, index, hash)| Step::Begin { key, index, hash }),
        5 => any::<bool>().prop_map(|stored| Step::Finish { stored }),
        1 => (0i64..3).prop_map(Step::TrimTo),
        1 => (0i64..LIMITS.retention_ms).prop_map(Step::Pass),
    ]
}

proptest! {
    /// No record is stored twice while it is remembered, both collections agree, and the snapshot is whole.
    #[test]
    fn at_most_once(steps in prop::collection::vec(step(), 1..120), max_entries in 1usize..12) {
        let limits = IdempotencyLimits { max_entries, ..LIMITS };
        let mut table = IdempotencyTable::new(limits);
        let (mut end, mut start, mut now) = (0, 0, NOW);
        let mut flying: VecDeque<IdempotencyMark> = VecDeque::new();
        let mut log: BTreeMap<SlotKey, (i64, i64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Begin { key, index, hash } => {
                    let mark = IdempotencyMark { key: [key; 16], records: vec![(index, [hash; 16])], per_record: true };
                    let known = table.lookup(&mark.key).into_iter().find(|entry| entry.index == index);
                    match (table.begin(&mark, now), known) {
                        (Ok(()), None) => flying.push_back(mark),
                        (Ok(()), Some(known)) => {
                            // It expired just then.
                            let (_, at) = log[&(mark.key, index)];
                            prop_assert!(known.offset.is_some() && at <= now - limits.retention_ms);
                            flying.push_back(mark);
                        }
                        (Err(refusal), known) => {
                            let known = known.expect("a refusal has a reason");
                            let expected = match known {
                                IdempotencyEntry { request, .. } if request != [hash; 16] => IdempotencyRefusal::Conflict,
                                IdempotencyEntry { offset: None, .. } => IdempotencyRefusal::InFlight,
                                _ => IdempotencyRefusal::Stored,
                            };
                            prop_assert_eq!(refusal, expected);
                        }
                    }
                }
                Step::Finish { stored } => {
                    let Some(mark) = flying.pop_front() else { continue };
                    if stored {
                        table.complete(&mark, Offset::new(end), [end], now);
                        log.insert((mark.key, mark.records[0].0), (end, now));
                        end += 1;
                    } else {
                        table.abort(&mark);
                    }
                }
                Step::TrimTo(n) => {
                    start = end.min(start + n);
                    table.truncate_from_start(Offset::new(start));
                }
                Step::Pass(ms) => now += ms,
            }
            prop_assert_eq!(table.len(), flying.len() + table.by_offset.len());
            prop_assert!(table.by_offset.len() <= max_entries);
            let rebuilt = IdempotencyTable::from_bytes(&table.to_bytes(), limits).unwrap();
            prop_assert_eq!(&rebuilt.by_offset, &table.by_offset);
            for (offset, key) in &table.by_offset {
                prop_assert!(offset.get() >= start);
                prop_assert_eq!(log[key].0, offset.get());
                prop_assert_eq!(rebuilt.slots[key], table.slots[key]);
            }
        }
    }

    #[test]
    fn noise_never_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = IdempotencyTable::from_bytes(&payload, LIMITS);
        let _ = IdempotencyTable::from_bytes(&frame(MAGIC, VERSION, &payload), LIMITS);
        let _ = RecordMark::parse(&payload);
    }
}

use super::*;
use crate::codec::BatchBuilder;
use crate::types::Record;
use proptest::prelude::*;

const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
const ROOMY: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };
const HORIZON: i64 = 1_700_000_100_000;

fn record(key: &str, value: Option<&str>) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
        ..Record::default()
    }
}

fn parse(mut bytes: Bytes) -> RecordBatch {
    let batch = RecordBatch::split_from(&mut bytes).unwrap();
    assert!(bytes.is_empty());
    batch
}

fn collect(batch: &RecordBatch) -> Vec<StoredRecord> {
    batch.records(ROOMY).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Written out field by field after the protocol's description, with a CRC computed bit by bit elsewhere.
fn golden() -> Vec<u8> {
    let text = concat!(
        "0000000000000005", // base offset 5
        "00000047",         // length
        "00000003",         // leader epoch 3
        "02",
        "af32e7c2",
        "0000",             // attributes
        "00000001",         // last offset delta 1
        "0000018bcfe56800", // base timestamp 1700000000000
        "0000018bcfe56805", // max timestamp 5 ms later
        "00000000000003e8", // producer 1000
        "0002",             // epoch 2
        "00000007",         // base sequence 7
        "00000002",         // two records
        "1c",               // 14 bytes
        "000000",           // attributes, timestamp +0, offset +0
        "046b31",           // key k1
        "047631",           // value v1
        "02",               // one header
        "0268",             // h
        "0278",             // x
        "0c",               // 6 bytes
        "000a02",           // attributes, timestamp +5, offset +1
        "0101",             // no key, no value
        "00",               // no headers
    );
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn golden_bytes_are_read() {
    let batch = parse(golden().into());
    batch.verify_crc().unwrap();
    batch.verify_produced(ROOMY).unwrap();
    let producer = BatchProducer { id: ProducerId::new(1000), epoch: ProducerEpoch::new(2), base_sequence: 7 };
    assert_eq!(
        *batch.header(),
        BatchHeader {
            base_offset: Offset::new(5),
            size: golden().len(),
            leader_epoch: LeaderEpoch::new(3),
            crc: 0xaf32_e7c2,
            compression: Compression::None,
            log_append_time: false,
            transactional: false,
            control: false,
            delete_horizon_ms: None,
            base_timestamp_ms: 1_700_000_000_000,
            max_timestamp_ms: 1_700_000_000_005,
            last_offset_delta: 1,
            producer: Some(producer),
            record_count: 2,
        }
    );
    assert_eq!((batch.header().last_offset(), batch.header().next_offset()), (Offset::new(6), Offset::new(7)));
    let stored = |offset, timestamp_ms| StoredRecord {
        offset: Offset::new(offset),
        leader_epoch: LeaderEpoch::new(3),
        timestamp_ms,
        key: None,
        value: None,
        headers: vec![],
    };
    let first = StoredRecord {
        key: Some("k1".into()),
        value: Some("v1".into()),
        headers: vec![Header { name: "h".into(), value: Some("x".into()) }],
        ..stored(5, 1_700_000_000_000)
    };
    assert_eq!(collect(&batch), [first, stored(6, 1_700_000_000_005)]);
}

#[test]
fn golden_bytes_are_written() {
    let mut builder = BatchBuilder::new(Offset::new(5), LeaderEpoch::new(3));
    builder.set_producer(BatchProducer { id: ProducerId::new(1000), epoch: ProducerEpoch::new(2), base_sequence: 7 });
    let mut first = record("k1", Some("v1"));
    first.headers.push(Header { name: "h".into(), value: Some("x".into()) });
    builder.push(1_700_000_000_000, &first);
    builder.push(1_700_000_000_005, &Record::default());
    assert_eq!(builder.size(), golden().len());
    assert_eq!(builder.finish(Compression::None), golden());
}

#[test]
fn records_share_the_memory_of_their_batch() {
    let batch = parse(golden().into());
    let key = batch.records(ROOMY).unwrap().next().unwrap().unwrap().key.unwrap();
    assert!(batch.bytes().as_ptr_range().contains(&key.as_ptr()));
}

#[test]
fn every_header_field_is_checked() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut batch = golden();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        RecordBatch::split_from(&mut batch.into()).expect_err("refused")
    };
    let corrupt = |at: usize, bytes: &[u8]| assert!(matches!(refused(at, bytes), BatchError::Corrupt(_)), "{at}");
    assert_eq!(refused(16, &[0]), BatchError::OldFormat(0));
    assert_eq!(refused(16, &[1]), BatchError::OldFormat(1));
    assert!(refused(16, &[1]).to_string().contains("0.11"));
    corrupt(16, &[3]);
    corrupt(0, &[0xff; 8]);
    corrupt(0, &i64::MAX.to_be_bytes());
    corrupt(8, &(-1i32).to_be_bytes());
    corrupt(8, &48i32.to_be_bytes());
    assert_eq!(refused(8, &72i32.to_be_bytes()), BatchError::Truncated);
    assert_eq!(refused(8, &i32::MAX.to_be_bytes()), BatchError::Truncated);
    corrupt(21, &[0, 5]);
    corrupt(23, &(-1i32).to_be_bytes());
    corrupt(51, &(-1i16).to_be_bytes());
    corrupt(53, &(-1i32).to_be_bytes());
    corrupt(57, &(-1i32).to_be_bytes());
    corrupt(57, &3i32.to_be_bytes());
}

#[test]
fn a_small_old_message_is_named_as_such() {
    // Offset, size 14, CRC, magic 1, and so on: 26 bytes in all, fewer than our header has.
    let mut old = vec![0; 26];
    old[11] = 14;
    old[16] = 1;
    assert_eq!(RecordBatch::parse_header(&old), Err(BatchError::OldFormat(1)));
    assert_eq!(RecordBatch::parse_header(&old[..16]), Err(BatchError::Truncated));
}

#[test]
fn more_records_than_bytes_are_refused_before_they_are_parsed() {
    let mut batch = golden();
    batch[23..27].copy_from_slice(&1_000_000i32.to_be_bytes());
    batch[57..61].copy_from_slice(&1_000_000i32.to_be_bytes());
    assert!(matches!(RecordBatch::parse_header(&batch), Err(BatchError::Corrupt(_))));
    // The same count under compression shows when it is decompressed.
    let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
    builder.push(0, &record("k", None));
    let mut batch = builder.finish(Compression::Zstd).to_vec();
    batch[23..27].copy_from_slice(&1_000_000i32.to_be_bytes());
    batch[57..61].copy_from_slice(&1_000_000i32.to_be_bytes());
    assert!(matches!(parse(batch.into()).records(ROOMY), Err(BatchError::Corrupt(_))));
}

#[test]
fn only_the_front_is_taken_and_on_error_nothing() {
    let mut two = Bytes::from([golden(), golden()].concat());
    RecordBatch::split_from(&mut two).unwrap();
    assert_eq!(two, golden());
    let mut cut = two.slice(..two.len() - 1);
    assert_eq!(RecordBatch::split_from(&mut cut).unwrap_err(), BatchError::Truncated);
    assert_eq!(cut.len(), two.len() - 1);
}

#[test]
fn a_placed_batch_keeps_its_crc() {
    let batch = parse(golden().into());
    let shared = batch.clone();
    let placed = batch.placed(Offset::new(1 << 40), LeaderEpoch::new(9), None);
    placed.verify_crc().unwrap();
    assert_eq!(*parse(placed.bytes().clone()).header(), *placed.header());
    assert_eq!(placed.header().base_offset, Offset::new(1 << 40));
    assert_eq!(shared.header().base_offset, Offset::new(5));
    assert_eq!(*shared.bytes(), golden(), "who shares the bytes sees no change");
}

#[test]
fn a_producers_open_epoch_is_zero() {
    let mut batch = golden();
    batch[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    assert_eq!(RecordBatch::parse_header(&batch).unwrap().leader_epoch, LeaderEpoch::ZERO);
}

#[test]
fn log_append_time_replaces_each_timestamp() {
    let mut bytes = golden();
    RecordBatch::set_log_append_time(&mut bytes, 77);
    let batch = parse(bytes.into());
    batch.verify_crc().unwrap();
    assert!(batch.header().log_append_time);
    assert!(collect(&batch).iter().all(|record| record.timestamp_ms == 77));

    let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
    builder.set_log_append_time(5);
    builder.push(1, &record("k", None));
    assert_eq!(collect(&parse(builder.finish(Compression::None)))[0].timestamp_ms, 5);
}

#[test]
fn a_client_may_not_send_control_batches_nor_holes() {
    let seal = |mut bytes: Vec<u8>| {
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        parse(bytes.into()).verify_produced(ROOMY)
    };
    let with = |at: usize, byte: u8| {
        let mut bytes = golden();
        bytes[at] = byte;
        bytes
    };
    let golden_records = collect(&parse(golden().into()));
    let expected = ProducedRecords {
        max_timestamp_ms: golden_records.iter().map(|r| r.timestamp_ms).max().unwrap(),
        all_have_keys: golden_records.iter().all(|r| r.key.is_some()),
    };
    assert_eq!(seal(golden()), Ok(expected));
    assert!(seal(with(22, 1 << 3)).is_err() && seal(with(22, 1 << 6)).is_err(), "the server's marks");
    assert!(matches!(seal(with(22, 1 << 5)), Err(BatchError::Corrupt(why)) if why.contains("control")));
    assert!(matches!(seal(with(26, 2)), Err(BatchError::Corrupt(_))));
    let last = golden().len() - 1;
    assert!(matches!(seal(with(last - 3, 0)), Err(BatchError::Corrupt(_))), "the second offset repeats the first");
    assert_eq!(parse(with(last, 1).into()).verify_produced(ROOMY), Err(BatchError::Crc));
    assert!(matches!(seal(with(last, 2)), Err(BatchError::Corrupt(_))), "one header counted and none there");
}

#[test]
fn a_corrupt_record_ends_the_iteration() {
    let mut bytes = golden();
    let second = bytes.len() - 7;
    bytes[second] = 0x0e;
    let items: Vec<_> = parse(bytes.into()).records(ROOMY).unwrap().collect();
    assert!(items.len() == 2 && items[0].is_ok() && items[1].is_err(), "{items:?}");
    let mut bytes = golden();
    bytes[60] = 1;
    let items: Vec<_> = parse(bytes.into()).records(ROOMY).unwrap().collect();
    assert!(items.len() == 2 && items[0].is_ok() && items[1].is_err(), "bytes that follow: {items:?}");
}

#[test]
fn a_rewritten_batch_keeps_its_place() {
    let original = parse(golden().into());
    let mut builder = BatchBuilder::rewriting(BytesMut::new(), original.header());
    builder.set_delete_horizon(HORIZON);
    let mut records = original.records(ROOMY).unwrap();
    records.next_view();
    let kept = records.next_view().unwrap().unwrap();
    builder.push_at(kept.offset, kept.timestamp_ms, kept.key, kept.value, kept.headers);
    let rewritten = parse(builder.finish(Compression::Lz4));
    rewritten.verify_crc().unwrap();
    let header = rewritten.header();
    assert_eq!((header.base_offset, header.last_offset_delta), (Offset::new(5), 1));
    assert_eq!((header.record_count, header.producer), (1, original.header().producer));
    assert_eq!(header.delete_horizon_ms, Some(HORIZON));
    assert_eq!(collect(&rewritten), collect(&original)[1..]);

    let emptied = parse(BatchBuilder::rewriting(BytesMut::new(), original.header()).finish(Compression::Lz4));
    emptied.verify_crc().unwrap();
    assert_eq!(emptied.bytes().len(), HEADER_BYTES);
    assert_eq!(emptied.header().max_timestamp_ms, original.header().max_timestamp_ms);
    assert_eq!(emptied.header().next_offset(), Offset::new(7));
    assert!(collect(&emptied).is_empty());
}

#[test]
fn a_builder_goes_on_with_the_next_batch() {
    let mut builder = BatchBuilder::new(Offset::new(10), LeaderEpoch::ZERO);
    builder.push(1, &record("a", None));
    builder.push(2, &record("b", None));
    assert_eq!((builder.count(), builder.next_offset()), (2, Offset::new(12)));
    let first = builder.finish_and_restart(Compression::None, Offset::new(12), LeaderEpoch::new(4));
    builder.push(3, &record("c", None));
    let second = builder.finish(Compression::Gzip);
    assert_eq!(collect(&parse(first)).len(), 2);
    let third = collect(&parse(second)).remove(0);
    assert_eq!((third.offset, third.timestamp_ms, third.leader_epoch), (Offset::new(12), 3, LeaderEpoch::new(4)));
}

fn any_bytes(most: usize) -> impl Strategy<Value = Option<Bytes>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from))
}

fn any_record() -> impl Strategy<Value = (i64, Record)> {
    let header =
        (any_bytes(20), any_bytes(40)).prop_map(|(name, value)| Header { name: name.unwrap_or_default(), value });
    (any::<i64>(), any_bytes(100), any_bytes(400), prop::collection::vec(header, 0..4)).prop_map(
        |(timestamp_ms, key, value, headers)| (timestamp_ms, Record { timestamp_ms: None, key, value, headers }),
    )
}

proptest! {
    #[test]
    fn round_trip(
        records in prop::collection::vec(any_record(), 1..30),
        base in 0i64..1 << 50,
        epoch in 0i32..,
        which in 0usize..5,
    ) {
        let mut builder = BatchBuilder::new(Offset::new(base), LeaderEpoch::new(epoch));
        for (timestamp, record) in &records {
            let before = builder.size();
            builder.push(*timestamp, record);
            prop_assert!(builder.size() - before <= BatchBuilder::record_bytes(record));
        }
        let batch = parse(builder.finish(ALL[which]));
        prop_assert_eq!(batch.header().compression, ALL[which]);
        prop_assert!(batch.header().is_dense());
        batch.verify_produced(ROOMY).unwrap();
        let stored = collect(&batch);
        prop_assert_eq!(stored.len(), records.len());
        for (i, (stored, (timestamp, record))) in stored.iter().zip(&records).enumerate() {
            prop_assert_eq!(stored.offset, Offset::new(base + i as i64));
            prop_assert_eq!(stored.timestamp_ms, *timestamp);
            prop_assert_eq!(stored.leader_epoch, LeaderEpoch::new(epoch));
            prop_assert_eq!((&stored.key, &stored.value, &stored.headers), (&record.key, &record.value, &record.headers));
        }
        let max = records.iter().map(|(timestamp, _)| *timestamp).max();
        prop_assert_eq!(Some(batch.header().max_timestamp_ms), max);
    }

    #[test]
    fn noise_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), with_magic: bool) {
        if with_magic && bytes.len() > 22 {
            // Past the first checks, as far as chance goes.
            bytes[0] = 0;
            let length = bytes.len() as i32 - 12;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[16] = 2;
            bytes[22] &= 7;
        }
        walk(bytes);
    }

    #[test]
    fn damage_never_panics(
        records in prop::collection::vec(any_record(), 1..8),
        which in 0usize..5,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
        for (timestamp, record) in &records {
            builder.push(*timestamp, record);
        }
        let mut bytes = builder.finish(ALL[which]).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        walk(bytes);
    }

    #[test]
    fn a_flipped_bit_does_not_pass_the_crc(at in CRC_FROM..90, bit in 0u8..8) {
        let mut bytes = golden();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1 << bit;
        if let Ok(batch) = RecordBatch::split_from(&mut bytes.into()) {
            prop_assert_eq!(batch.verify_crc(), Err(BatchError::Crc));
        }
    }
}

/// Everything that can be asked of bytes; the records may not be more than the bytes allow.
fn walk(bytes: Vec<u8>) {
    let limit = DecompressLimit { max_bytes: 4096 };
    let mut bytes = Bytes::from(bytes);
    while let Ok(batch) = RecordBatch::split_from(&mut bytes) {
        let _ = batch.verify_crc();
        let _ = batch.verify_produced(limit);
        if let Ok(records) = batch.records(limit) {
            let most = records.body_bytes();
            let records: Vec<_> = records.collect();
            assert!(records.len() <= most / MIN_RECORD_BYTES + 1);
            let offsets: Vec<_> = records.iter().flatten().map(|record| record.offset).collect();
            assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(offsets.iter().all(|offset| *offset <= batch.header().last_offset()));
            match IndexedBatch::new(&batch, limit, |_| ()) {
                Err(_) => assert!(records.iter().any(Result::is_err)),
                Ok(index) => {
                    let found = offsets.iter().map(|offset| index.get(*offset));
                    assert!(found.eq(records.into_iter().map(Result::ok)), "each is found as the walk gives it");
                    assert_eq!(index.next_offset(), batch.header().next_offset());
                    assert_eq!(index.get(batch.header().next_offset()), None);
                }
            }
        }
    }
}

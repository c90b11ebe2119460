//! Compaction of a whole log: against power cuts, readers and retention.

use super::*;
use crate::codec::DecompressLimit;
use crate::sys::sim::{DiskFault, DiskOperation};
use crate::types::{CleanupPolicy, StoredRecord};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn compacted(segment_bytes: u32) -> LogConfig {
    let mut config = config();
    config.topic.cleanup_policy = CleanupPolicy { delete: false, compact: true };
    config.topic.min_cleanable_dirty_ratio = 0.0;
    config.topic.segment_bytes = segment_bytes;
    config
}

/// A machine that reads from its files, and not from memory, what was compacted.
fn machine(seed: u64, segment_bytes: u32) -> Machine {
    let mut machine = Machine::new(seed, compacted(segment_bytes));
    machine.settings.tail_ring_bytes = 0;
    machine
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// The record of an offset: one of seven keys, now and then a tombstone, now and then under an Idempotency-Key.
fn keyed(i: i64) -> AppendRecords {
    let record = Record {
        key: Some(Bytes::from(format!("k{}", i % 7))),
        value: (i % 10 != 9).then(|| Bytes::from(value(i))),
        ..Record::default()
    };
    let mark = IdempotencyMark { key: [i as u8; 16], records: vec![(0, [1; 16])], per_record: false };
    AppendRecords { records: vec![record], idempotency: (i % 11 == 3).then_some(mark), hold: None }
}

async fn fill(log: &PartitionLog, from: i64, to: i64) {
    for i in from..to {
        assert_eq!(log.append(keyed(i)).unwrap().await.unwrap().base_offset.get(), i);
    }
}

async fn stored(log: &PartitionLog) -> Vec<StoredRecord> {
    let progress = log.progress();
    let (mut next, end) = (progress.log_start.offset(), progress.high_watermark.offset());
    let mut records = Vec::new();
    while next < end {
        let batches = match log.read(next, end, 4096).await {
            Err(LogError::OffsetOutOfRange { log_start, .. }) => {
                next = log_start.offset(); // it moved meanwhile
                continue;
            }
            batches => batches.unwrap(),
        };
        let Some(last) = batches.last() else { break };
        next = last.header().next_offset();
        for batch in &batches {
            records.extend(batch.records(DecompressLimit { max_bytes: 1 << 24 }).unwrap().map(Result::unwrap));
        }
    }
    records
}

type Latest = BTreeMap<Bytes, Bytes>;

fn latest(records: impl Iterator<Item = (Bytes, Option<Bytes>)>) -> Latest {
    let mut latest = Latest::new();
    for (key, value) in records {
        match value {
            Some(value) => drop(latest.insert(key, value)),
            None => drop(latest.remove(&key)),
        }
    }
    latest
}

fn expected(from: i64, to: i64) -> Latest {
    latest((from..to).map(|i| {
        let record = keyed(i).records.remove(0);
        (record.key.unwrap(), record.value)
    }))
}

/// The log reads as if it had never been compacted, by key, and each record is the one that its offset had.
fn check(records: &[StoredRecord], from: i64, to: i64) {
    assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    for record in records {
        let original = keyed(record.offset.get()).records.remove(0);
        assert_eq!((&record.key, &record.value), (&original.key, &original.value), "offset {}", record.offset);
    }
    assert_eq!(latest(records.iter().map(|r| (r.key.clone().unwrap(), r.value.clone()))), expected(from, to));
}

fn log_files(machine: &Machine) -> Vec<String> {
    let names = machine.disk.files().into_iter().filter(|(path, _)| path.starts_with(machine.folder()));
    let names = names.map(|(path, _)| path.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".index") && !name.ends_with(".timeindex") && name.contains(".log")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pass_leaves_the_newest_and_survives_a_restart() {
    let machine = machine(1, 2048);
    let (manager, log) = machine.start().await;
    fill(&log, 0, 200).await;
    let before = (log.size_bytes(), log_files(&machine).len());
    assert!(before.1 > 10);
    manager.compact().await;
    let records = stored(&log).await;
    check(&records, 0, 200);
    let marked = (0..200).filter(|i| i % 11 == 3).count();
    assert!(records.len() < 7 + 20 + marked + 30, "{} records are left", records.len());
    assert!(log.size_bytes() < before.0 / 2);
    let entries = log.idempotency(&[3; 16]);
    assert_eq!(entries[0].offset, Some(Offset::new(3)));
    assert!(records.iter().any(|record| record.offset == Offset::new(3)), "its Idempotency-Key is remembered");
    let size = log.size_bytes();
    manager.compact().await;
    assert_eq!((log.size_bytes(), stored(&log).await), (size, records.clone()), "nothing new came");
    manager.close().await;
    drop((manager, log));

    let (manager, log) = machine.start().await;
    assert_eq!(log.offline_reason(), None);
    assert_eq!(stored(&log).await, records);
    assert_eq!((log.size_bytes(), log.log_end()), (size, Offset::new(200).into()));
    fill(&log, 200, 260).await;
    manager.compact().await;
    check(&stored(&log).await, 0, 260);
    // What the first pass left small became one with its neighbours.
    assert!(log_files(&machine).len() < before.1, "{:?}", log_files(&machine));
}

#[tokio::test(start_paused = true)]
async fn timestamps_are_found_in_what_is_left() {
    let machine = machine(2, 2048);
    let (manager, log) = machine.start().await;
    for i in 0..100 {
        let mut request = keyed(i);
        request.idempotency = None;
        request.records[0].timestamp_ms = Some(1000 + i);
        log.append(request).unwrap().await.unwrap();
    }
    manager.compact().await;
    let records = stored(&log).await;
    check(&records, 0, 100);
    for timestamp in [0, 1000, 1033, 1090, 1099, 1100] {
        let expected = records.iter().find(|record| record.timestamp_ms >= timestamp).map(|record| record.offset);
        assert_eq!(log.offset_for_timestamp(timestamp).await.unwrap().map(|(found, _)| found), expected, "{timestamp}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_batch_is_never_copied() {
    let machine = machine(3, 2048);
    let (manager, log) = machine.start().await;
    fill(&log, 0, 100).await;
    machine.disk.flip_bit(&machine.log_file(0), 200, 3);
    let (files, size) = (log_files(&machine), log.size_bytes());
    manager.compact().await;
    assert_eq!((log_files(&machine), log.size_bytes()), (files, size));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_a_pass_and_nothing_else() {
    let machine = machine(4, 2048);
    let (manager, log) = machine.start().await;
    fill(&log, 0, 100).await;
    let (files, size) = (log_files(&machine), log.size_bytes());
    machine.disk.inject(DiskFault::new(DiskOperation::Write, ".cleaned").errno(28));
    manager.compact().await;
    assert_eq!((log_files(&machine), log.size_bytes()), (files, size));
    manager.compact().await;
    assert!(log.size_bytes() < size);
    check(&stored(&log).await, 0, 100);
    fill(&log, 100, 110).await;
}

#[test]
fn a_power_cut_at_any_change_of_a_pass_loses_nothing() {
    let mut cut = 0;
    loop {
        let machine = machine(cut, 1024);
        paused().block_on(async {
            let (manager, log) = machine.start().await;
            fill(&log, 0, 60).await;
            // A second pass over what the first left joins small segments to one.
            manager.compact().await;
            fill(&log, 60, 80).await;
            machine.disk.power_cut_after(cut);
            let _ = tokio::time::timeout(Duration::from_secs(60), manager.compact()).await;
        });
        let finished = !machine.disk.is_down();
        machine.disk.power_cut();
        paused().block_on(async {
            let (manager, log) = machine.start().await;
            assert_eq!(log.offline_reason(), None, "cut at change {cut}");
            check(&stored(&log).await, 0, 80);
            manager.compact().await;
            check(&stored(&log).await, 0, 80);
            assert!(log_files(&machine).iter().all(|name| name.ends_with(".log")), "{:?}", log_files(&machine));
        });
        if finished {
            break;
        }
        cut += 1;
    }
    assert!(cut > 20, "{cut} changes are fewer than a pass makes");
}

/// Readers, writers and a moving log start meet passes in every order that the seeds give.
fn meets_others(seed: u64, starts: &[i64]) {
    let mut machine = machine(seed, 1024);
    machine.settings.open_files = 3; // so that readers have to open what they hold
    paused().block_on(async {
        let (manager, log) = machine.start().await;
        fill(&log, 0, 150).await;
        let pass = async {
            for _ in 0..2 {
                manager.compact().await;
            }
        };
        let read = async {
            for _ in 0..4 {
                let records = stored(&log).await;
                assert!(records.windows(2).all(|pair| pair[0].offset < pair[1].offset));
                assert_eq!(log.offset_for_timestamp(0).await.unwrap().is_some(), !records.is_empty());
            }
        };
        let move_start = async {
            for start in starts {
                log.truncate_prefix(Offset::new(*start)).await.unwrap();
            }
        };
        tokio::join!(pass, read, move_start, fill(&log, 150, 250));
        assert_eq!(log.offline_reason(), None);
        manager.compact().await;
        let start = log.progress().log_start.offset().get();
        let records: Vec<_> = stored(&log).await.into_iter().filter(|r| r.offset.get() >= start).collect();
        check(&records, start, 250);
        assert!(log_files(&machine).iter().all(|name| name.ends_with(".log")), "{:?}", log_files(&machine));
        manager.close().await;
        let (_manager, log) = machine.start().await;
        assert_eq!(log.offline_reason(), None);
        let again: Vec<_> = stored(&log).await.into_iter().filter(|r| r.offset.get() >= start).collect();
        assert_eq!(again, records);
    });
}

/// Cuts the power at some change within a pass, or the process dies there, again and again.
fn crashes(seed: u64, cuts: &[(u64, bool)]) {
    let machine = machine(seed, 1024);
    let mut end = 0;
    for (cut, power) in cuts {
        let runtime = paused();
        end = runtime.block_on(async {
            let (manager, log) = machine.start().await;
            assert_eq!(log.offline_reason(), None);
            assert_eq!(log.log_end().get(), end);
            check(&stored(&log).await, 0, end);
            fill(&log, end, end + 40).await;
            machine.disk.power_cut_after(*cut);
            let _ = tokio::time::timeout(Duration::from_secs(60), manager.compact()).await;
            if !power && !machine.disk.is_down() {
                machine.disk.process_crash();
            }
            end + 40
        });
        machine.disk.power_cut();
        drop(runtime);
    }
    paused().block_on(async {
        let (manager, log) = machine.start().await;
        assert_eq!((log.offline_reason(), log.log_end().get()), (None, end));
        check(&stored(&log).await, 0, end);
        manager.compact().await;
        check(&stored(&log).await, 0, end);
        assert!(log_files(&machine).iter().all(|name| name.ends_with(".log")), "{:?}", log_files(&machine));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_pass_meets_others(seed in any::<u64>(), starts in prop::collection::vec(0i64..150, 0..4)) {
        meets_others(seed, &starts);
    }

    #[test]
    fn a_crash_in_a_pass_loses_nothing(
        seed in any::<u64>(),
        cuts in prop::collection::vec((0u64..60, any::<bool>()), 1..6),
    ) {
        crashes(seed, &cuts);
    }
}

//! Appends and reads of a log that nothing happens to.

use super::*;
use crate::types::{CompressionType, TimestampType};

#[tokio::test]
async fn what_was_appended_is_read_back_on_the_real_disk() {
    let (sys, dir) = real();
    let manager = open_in(sys.clone(), dir.path().join("topics"), settings(), config()).await;
    let name = TopicName::new("games").unwrap();
    let log = manager.create(TOPIC, &name, PartitionId::ZERO, config()).await.unwrap();
    log.become_leader(LeaderEpoch::new(3)).await.unwrap();
    let mut watch = log.watch();
    for i in 0..50 {
        let outcome = append(&log, &[&value(2 * i), &value(2 * i + 1)]).await.unwrap();
        assert_eq!(outcome.base_offset.get(), 2 * i);
    }
    assert_eq!(read_all(&log).await, numbered(100));
    assert!(watch.has_changed().unwrap());
    let progress = *watch.borrow_and_update();
    assert_eq!(progress.high_watermark.get(), 100);
    assert_eq!((progress.leader_epoch, progress.online), (LeaderEpoch::new(3), true));
    assert_eq!(log.durable_end().get(), 100);
    manager.close().await;
    assert!(matches!(append(&log, &["late"]).await, Err(LogError::Closed)));
    drop((manager, log));

    let manager = open_in(sys, dir.path().join("topics"), settings(), config()).await;
    let log = manager.get(ID).unwrap();
    assert_eq!(log.offline_reason(), None);
    assert_eq!(log.topic_name(), &name);
    assert_eq!(read_all(&log).await, numbered(100));
    assert_eq!(log.epoch_end(LeaderEpoch::new(3)), (LeaderEpoch::new(3), Offset::new(100)));
}

#[tokio::test(start_paused = true)]
async fn appends_that_wait_share_a_batch() {
    let machine = Machine::new(1, config());
    let (_manager, log) = machine.start().await;
    let appends: Vec<_> = (0..20).map(|i| log.append(request(&[&value(i)])).unwrap()).collect();
    for (i, append) in appends.into_iter().enumerate() {
        assert_eq!(append.await.unwrap().base_offset.get(), i as i64);
    }
    let batches = log.read(Offset::ZERO, Offset::new(20), 1 << 20).await.unwrap();
    assert_eq!(batches.len(), 1, "all of them waited for the first turn");
    assert_eq!(read_all(&log).await, numbered(20));
}

#[tokio::test(start_paused = true)]
async fn a_batch_stays_within_its_limit_and_an_append_may_span_several() {
    let mut config = config();
    config.topic.max_message_bytes = 1024;
    let machine = Machine::new(2, config);
    let (_manager, log) = machine.start().await;
    let values: Vec<String> = (0..40).map(value).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    append(&log, &values).await.unwrap();
    let batches = log.read(Offset::ZERO, Offset::new(40), 1 << 20).await.unwrap();
    assert!(batches.len() > 1);
    assert!(batches.iter().all(|batch| batch.header().size <= 1024));
    assert_eq!(read_all(&log).await, numbered(40));
    let large = "x".repeat(1024);
    assert!(matches!(log.append(request(&[&large])), Err(LogError::TooLarge { limit: 1024, .. })));
}

#[tokio::test(start_paused = true)]
async fn segments_roll_and_reads_go_across_them() {
    let mut machine = Machine::new(3, small_segments());
    machine.settings.tail_ring_bytes = 0; // so that every read goes to the files
    machine.settings.open_files = 3;
    let (manager, log) = machine.start().await;
    for i in 0..600 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    assert!(log.core().segments.load().len() > 3);
    assert!(log.core().context.files.len() <= 3);
    for max_bytes in [1, 1000, 1 << 20] {
        assert_eq!(read_from(&log, Offset::ZERO, max_bytes).await.unwrap(), numbered(600));
    }
    for from in [0, 1, 17, 299, 598, 599] {
        let found = read_from(&log, Offset::new(from), 100).await.unwrap();
        assert_eq!(found, numbered(600)[from as usize..], "from {from}");
    }
    assert!(log.read(Offset::new(600), Offset::new(600), 1).await.unwrap().is_empty());
    assert!(matches!(log.read(Offset::new(601), Offset::new(700), 1).await, Err(LogError::OffsetOutOfRange { .. })));
    let below = log.read(Offset::new(10), Offset::new(20), 1 << 20).await.unwrap();
    assert_eq!(below.last().unwrap().header().next_offset().get(), 20, "nothing at or above the end");
    manager.close().await;

    let (_manager, log) = machine.start().await;
    assert_eq!(read_all(&log).await, numbered(600));
    append(&log, &[&value(600)]).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(601));
}

#[tokio::test(start_paused = true)]
async fn timestamps_are_stamped_kept_and_found() {
    let machine = Machine::new(4, small_segments());
    let (_manager, log) = machine.start().await;
    for i in 0..300i64 {
        let mut given = record(value(i));
        given.timestamp_ms = Some(1000 + 10 * i);
        let request = AppendRecords { records: vec![given], idempotency: None, hold: None };
        log.append(request).unwrap().await.unwrap();
    }
    for (timestamp, offset) in [(0, Some(0)), (1000, Some(0)), (1001, Some(1)), (2500, Some(150)), (3990, Some(299))] {
        assert_eq!(
            log.offset_for_timestamp(timestamp).await.unwrap().map(|(found, _)| found.get()),
            offset,
            "{timestamp}"
        );
    }
    assert_eq!(log.offset_for_timestamp(3991).await.unwrap(), None);
    let stamped = append(&log, &["now"]).await.unwrap();
    assert!(stamped.append_time_ms >= START_MS);
    assert_eq!(log.offset_for_timestamp(4000).await.unwrap().map(|(found, _)| found), Some(Offset::new(300)));

    let mut config = small_segments();
    config.topic.timestamp_type = TimestampType::LogAppendTime;
    config.topic.compression = CompressionType::Zstd;
    log.configure(config);
    let mut given = record("old");
    given.timestamp_ms = Some(5);
    let request = AppendRecords { records: vec![given], idempotency: None, hold: None };
    let outcome = log.append(request).unwrap().await.unwrap();
    let batches = log.read(Offset::new(301), Offset::new(302), 1).await.unwrap();
    let header = batches[0].header();
    assert!(header.log_append_time);
    assert_eq!(header.max_timestamp_ms, outcome.append_time_ms);
    assert_eq!(header.compression, crate::codec::Compression::Zstd);
}

#[tokio::test(start_paused = true)]
async fn the_tail_ring_keeps_its_budget_and_counts_what_readers_hold() {
    let mut machine = Machine::new(5, config());
    machine.settings.tail_ring_bytes = 4000;
    let (_manager, log) = machine.start().await;
    append(&log, &[&value(0)]).await.unwrap();
    let held = log.read(Offset::ZERO, Offset::new(1), 1).await.unwrap();
    for i in 1..100 {
        append(&log, &[&value(i)]).await.unwrap();
        assert!(log.core().context.tail.used() <= 4000);
    }
    let newest = log.core().tail.read(Offset::new(99), Offset::new(100), 1);
    assert_eq!(newest.map(|batches| batches.len()), Some(1));
    assert!(log.core().tail.read(Offset::ZERO, Offset::new(100), 1).is_none());
    assert_eq!(read_all(&log).await, numbered(100));
    log.core().tail.clear();
    assert!(log.core().context.tail.used() > 0, "a reader still holds a batch");
    drop(held);
    assert_eq!(log.core().context.tail.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_much_that_waits_is_refused() {
    let mut machine = Machine::new(6, config());
    machine.settings.staged_bytes_per_partition = 1000;
    let (_manager, log) = machine.start().await;
    let mut taken = Vec::new();
    let refused = loop {
        match log.append(request(&[&value(taken.len() as i64)])) {
            Ok(append) => taken.push(append),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::Overloaded));
    let count = taken.len() as i64;
    futures_util::future::try_join_all(taken).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(count));
    append(&log, &[&value(count)]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_makes_a_log_late_until_it_is_written() {
    let mut machine = Machine::new(6, config());
    machine.settings.group_bytes = 1 << 20;
    let (_manager, log) = machine.start().await;
    append(&log, &["the first says how fast it is"]).await.unwrap();
    let stage = |count: i64| (0..count).map(|i| log.append(request(&[&value(i)])).unwrap()).collect::<Vec<_>>();
    // Time goes on, and the log's job does not get to run.
    let wait = |ms| {
        let advance = std::pin::pin!(tokio::time::advance(Duration::from_millis(ms)));
        assert!(futures_util::FutureExt::now_or_never(advance).is_none());
    };
    let late_now = || log.since_late() == Some(Duration::ZERO);
    let mut taken = stage(32);
    wait(60_000);
    assert_eq!(log.since_late(), None, "few appends are never late");
    taken.extend(stage(1));
    assert!(late_now());
    futures_util::future::try_join_all(taken).await.unwrap();
    wait(1);
    assert!(!late_now(), "all is written");
    let many = stage(1000);
    assert!(!late_now(), "they have come just now");
    wait(60_000);
    assert!(late_now());
    futures_util::future::try_join_all(many).await.unwrap();
    wait(1000);
    assert!(log.since_late() >= Some(Duration::from_secs(1)));
    assert_eq!(log.log_end().offset(), Offset::new(1034));
}

#[tokio::test]
async fn eight_writers_get_dense_offsets() {
    let (sys, dir) = real();
    let mut settings = settings();
    settings.group_bytes = 64 << 10;
    let manager = open_in(sys, dir.path().to_owned(), settings, small_segments()).await;
    let name = TopicName::new("games").unwrap();
    let log = manager.create(TOPIC, &name, PartitionId::ZERO, small_segments()).await.unwrap();
    let writers = (0..8).map(|writer| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut offsets = Vec::new();
            for i in 0..100 {
                let outcome = append(&log, &[&format!("{writer}-{i}")]).await.unwrap();
                offsets.push((outcome.base_offset.get(), format!("{writer}-{i}")));
            }
            offsets
        })
    });
    let mut all: Vec<(i64, String)> = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        let offsets = writer.await.unwrap();
        assert!(offsets.is_sorted());
        all.extend(offsets);
    }
    all.sort();
    assert!(all.iter().map(|(offset, _)| *offset).eq(0..800));
    assert_eq!(read_all(&log).await, all);
}

#[tokio::test(start_paused = true)]
async fn replication_moves_the_watermark_and_releases_appends() {
    let machine = Machine::new(7, config());
    let (_manager, log) = machine.start().await;
    log.set_watermark_source(WatermarkSource::Replication);
    let hold = Arc::new(());
    let mut with_hold = request(&["a", "b"]);
    with_hold.hold = Some(hold.clone());
    let mut waiting = log.append(with_hold).unwrap();
    let parked = tokio::time::timeout(Duration::from_secs(10), &mut waiting).await;
    assert!(parked.is_err());
    assert_eq!((log.log_end().get(), log.progress().high_watermark.get()), (2, 0));
    assert_eq!(Arc::strong_count(&hold), 2);
    log.advance_high_watermark(Offset::new(1).into());
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut waiting).await.is_err());
    log.advance_high_watermark(Offset::new(9).into());
    assert_eq!(waiting.await.unwrap().base_offset, Offset::ZERO);
    assert_eq!(log.progress().high_watermark.get(), 2);
    assert_eq!(Arc::strong_count(&hold), 1);
}

fn marked(key: u8, records: &[(u32, u8)]) -> AppendRecords {
    AppendRecords {
        records: records.iter().map(|(index, _)| record(format!("{key}-{index}"))).collect(),
        idempotency: Some(IdempotencyMark {
            key: [key; 16],
            records: records.iter().map(|(index, request)| (*index, [*request; 16])).collect(),
            per_record: false,
        }),
        hold: None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_is_in_flight_then_stored_and_survives_restarts() {
    let machine = Machine::new(8, config());
    let (manager, log) = machine.start().await;
    let first = log.append(marked(1, &[(0, 9), (1, 9)])).unwrap();
    assert!(matches!(log.append(marked(1, &[(0, 9)])), Err(LogError::IdempotencyInFlight)));
    assert!(matches!(log.append(marked(1, &[(2, 8)])), Err(LogError::IdempotencyConflict)));
    assert_eq!(log.idempotency(&[1; 16])[0].offset, None);
    first.await.unwrap();
    let stored = log.idempotency(&[1; 16]);
    assert_eq!(
        stored.iter().map(|e| (e.index, e.offset)).collect::<Vec<_>>(),
        [(0, Some(Offset::new(0))), (1, Some(Offset::new(1)))]
    );
    assert!(matches!(log.append(marked(1, &[(0, 8)])), Err(LogError::IdempotencyConflict)));
    // A clean stop leaves a snapshot; what comes after it is rebuilt from the records.
    manager.close().await;
    let (_manager, log) = machine.start().await;
    assert_eq!(log.idempotency(&[1; 16]), stored);
    log.append(marked(2, &[(0, 7)])).unwrap().await.unwrap();
    machine.disk.process_crash();
    let (_manager, log) = machine.start().await;
    assert_eq!(log.idempotency(&[1; 16]), stored);
    assert_eq!(log.idempotency(&[2; 16])[0].offset, Some(Offset::new(2)));
    assert!(matches!(log.append(marked(2, &[(0, 6)])), Err(LogError::IdempotencyConflict)));
}

#[tokio::test]
async fn a_busy_log_writes_zeros_ahead_and_takes_them_off() {
    let (sys, dir) = real();
    let manager = open_in(sys.clone(), dir.path().to_owned(), settings(), config()).await;
    let name = TopicName::new("games").unwrap();
    let log = manager.create(TOPIC, &name, PartitionId::ZERO, config()).await.unwrap();
    let path = layout::file_path(&dir.path().join(layout::folder_name(ID)), Offset::ZERO, layout::FileKind::Log);
    let len = || sys.disk.open(&path, crate::sys::OpenMode::Read).unwrap().len().unwrap();
    let mut count = 0;
    while len() == log.size_bytes() && count < 20_000 {
        append(&log, &[&value(count)]).await.unwrap();
        count += 1;
    }
    if len() == log.size_bytes() {
        return; // a disk this slow has no busy logs
    }
    for i in count..count + 50 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    // As a crash leaves it, and as a clean stop does.
    let image = sys.disk.read(&path).unwrap();
    manager.close().await;
    assert_eq!(len(), log.size_bytes());
    drop((manager, log));
    sys.disk.open(&path, crate::sys::OpenMode::ReadWrite).unwrap().write_all_at(&image, 0).unwrap();
    assert!(len() >= 8 << 20);
    let manager = open_in(sys.clone(), dir.path().to_owned(), settings(), config()).await;
    let crashed = manager.get(ID).unwrap();
    assert_eq!(crashed.offline_reason(), None);
    assert_eq!(read_all(&crashed).await, numbered(count + 50));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_synced_for_its_producer_is_synced_behind() {
    let machine = Machine::new(21, config_with(FlushPolicy::Os));
    let (_manager, log) = machine.start().await;
    for i in 0..1000 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let durable = log.durable_end().get();
    assert!((800..=1000).contains(&durable), "{durable}");
    // And it is: a power cut takes at most what came after.
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    let count = read_all(&log).await.len() as i64;
    assert!(count >= durable, "{count} of {durable}");
    assert_eq!(read_all(&log).await, numbered(count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_that_wait_for_no_sync_are_done_by_the_async_threads_and_by_others_where_they_roll() {
    let (sys, dir) = real();
    let mut config = config_with(FlushPolicy::Os);
    config.topic.segment_bytes = 2 << 20;
    let manager = open_in(sys, dir.path().join("topics"), settings(), config.clone()).await;
    let log = manager.create(TOPIC, &TopicName::new("games").unwrap(), PartitionId::ZERO, config).await.unwrap();
    let large = "x".repeat(4000);
    let producers = (0..8).map(|_| {
        let (log, large) = (Arc::clone(&log), large.clone());
        tokio::spawn(async move {
            for _ in 0..200 {
                append(&log, &[&large]).await.unwrap();
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        producer.await.unwrap();
    }
    let read = read_from(&log, Offset::ZERO, 1 << 20).await.unwrap();
    assert_eq!(read.len(), 1600);
    assert!(read.iter().enumerate().all(|(i, (offset, value))| *offset == i as i64 && *value == large));
    assert!(log.core().segments.load().len() > 2, "it rolled");
    manager.close().await;
}

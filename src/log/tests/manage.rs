//! Folders: creation, deletion, quarantine, log starts, indexes and the small files.

use super::*;
use crate::sys::OpenMode;

#[tokio::test(start_paused = true)]
async fn a_deleted_partition_is_gone_and_its_watchers_know() {
    let machine = Machine::new(20, config());
    let (manager, log) = machine.start().await;
    append(&log, &["a"]).await.unwrap();
    let held = log.read(Offset::ZERO, Offset::new(1), 1).await.unwrap();
    let mut watch = log.watch();
    manager.delete(ID).await.unwrap();
    assert!(manager.get(ID).is_none());
    watch.borrow_and_update();
    assert!(watch.changed().await.is_err());
    assert!(matches!(append(&log, &["b"]).await, Err(LogError::Closed)));
    assert_eq!(held.len(), 1);
    assert!(machine.disk.files().iter().all(|(path, _)| !path.starts_with(machine.folder())));
    manager.delete(ID).await.unwrap();
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!((log.log_end().get(), log.offline_reason()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn folders_that_nobody_knows_are_set_aside() {
    let machine = Machine::new(21, config());
    let (manager, log) = machine.start().await;
    append(&log, &["a"]).await.unwrap();
    manager.close().await;
    let sys = sim::machine(&machine.disk, 1, START_MS);
    sys.disk.create_dir_all(&machine.dir().join("stranger")).unwrap();
    let disk = Arc::clone(&sys.disk);
    let none = LogManager::open(sys, machine.dir(), settings(), Arc::new(|_| None), Arc::new(|_| {})).await.unwrap();
    assert!(none.get(ID).is_none());
    let aside = machine.dir().join("quarantine");
    assert!(disk.exists(&aside.join("stranger")));
    assert!(disk.exists(&aside.join(layout::folder_name(ID)).join("00000000000000000000.log")));
    assert!(!disk.exists(&machine.folder()));
}

#[tokio::test(start_paused = true)]
async fn the_log_start_moves_up_and_stays() {
    let machine = Machine::new(22, small_segments());
    let (_manager, log) = machine.start().await;
    for i in 0..400 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    let before = log.core().segments.load().len();
    assert_eq!(log.truncate_prefix(Offset::new(250)).await.unwrap().get(), 250);
    assert_eq!(log.truncate_prefix(Offset::new(10)).await.unwrap().get(), 250, "never down");
    assert!(log.core().segments.load().len() < before);
    assert!(matches!(log.read(Offset::new(249), Offset::new(400), 1).await, Err(LogError::OffsetOutOfRange { .. })));
    assert_eq!(read_all(&log).await, numbered(400)[250..]);
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(log.progress().log_start.get(), 250);
    assert_eq!(read_all(&log).await, numbered(400)[250..]);
    assert_eq!(log.truncate_prefix(Offset::new(1000)).await.unwrap().get(), 400, "never past the high watermark");
    append(&log, &[&value(400)]).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(401)[400..]);
}

#[tokio::test(start_paused = true)]
async fn epochs_are_durable_and_bounded_by_the_log() {
    let machine = Machine::new(23, config());
    let (_manager, log) = machine.start().await;
    for epoch in 1..4 {
        log.become_leader(LeaderEpoch::new(epoch)).await.unwrap();
        append(&log, &["a", "b"]).await.unwrap();
    }
    let ends = |log: &PartitionLog| [1, 2, 3].map(|epoch| log.epoch_end(LeaderEpoch::new(epoch)).1.get());
    assert_eq!(ends(&log), [2, 4, 6]);
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(ends(&log), [2, 4, 6]);
    assert_eq!(log.progress().leader_epoch, LeaderEpoch::new(3));
    assert!(log.become_leader(LeaderEpoch::new(2)).await.is_err(), "a newer epoch is known");
    machine.disk.process_crash();
    // Damaged, it is built anew from the batches.
    machine.disk.flip_bit(&machine.folder().join(layout::EPOCH_FILE), 12, 1);
    let (_manager, log) = machine.start().await;
    assert_eq!(ends(&log), [2, 4, 6]);
}

#[tokio::test(start_paused = true)]
async fn damaged_or_missing_indexes_cost_time_and_nothing_else() {
    let mut machine = Machine::new(24, small_segments());
    machine.settings.tail_ring_bytes = 0;
    let (manager, log) = machine.start().await;
    for i in 0..600 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    manager.close().await;
    let indexes: Vec<_> = machine
        .disk
        .files()
        .into_iter()
        .filter(|(path, len)| path.to_string_lossy().ends_with("index") && *len > 0)
        .collect();
    assert!(indexes.len() > 4);
    for (i, (path, len)) in indexes.iter().enumerate() {
        match i % 3 {
            0 => machine.disk.flip_bit(path, len / 2, 2),
            1 => machine.disk.mount().remove_file(path).unwrap(),
            _ => machine.disk.mount().open(path, OpenMode::ReadWrite).unwrap().set_len(len - 1).unwrap(),
        }
    }
    let (_manager, log) = machine.start().await;
    assert_eq!(log.offline_reason(), None);
    assert_eq!(read_from(&log, Offset::ZERO, 300).await.unwrap(), numbered(600));
    for from in (0..600).step_by(23) {
        assert_eq!(read_from(&log, Offset::new(from), 300).await.unwrap()[0], numbered(600)[from as usize], "{from}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_in_a_closed_segment_is_found_by_its_reader() {
    let mut machine = Machine::new(25, small_segments());
    machine.settings.tail_ring_bytes = 0;
    let (_manager, log) = machine.start().await;
    for i in 0..300 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    machine.disk.flip_bit(&machine.log_file(0), 5000, 1);
    let error = read_from(&log, Offset::ZERO, 1000).await.unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(text) if text.contains("00000000000000000000.log")), "{error}");
    assert!(read_from(&log, Offset::new(250), 1000).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn retention_drops_closed_segments_by_size_and_by_age() {
    let mut config = small_segments();
    let machine = Machine::new(26, config.clone());
    let (manager, log) = machine.start().await;
    for i in 0..400 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    manager.retain().await;
    assert_eq!(log.progress().log_start.get(), 0, "nothing is old, and there is no limit");
    config.topic.retention_bytes = Some(20_000);
    log.configure(config.clone());
    manager.retain().await;
    let start = log.progress().log_start.get();
    assert!(start > 0 && log.size_bytes() < 20_000 + (16 << 10));
    assert_eq!(read_all(&log).await, numbered(400)[start as usize..]);
    config.topic.retention = Some(Duration::from_hours(1));
    config.topic.segment_age = Duration::from_hours(1);
    log.configure(config);
    tokio::time::sleep(Duration::from_hours(2)).await;
    manager.retain().await;
    assert_eq!(log.progress().log_start.get(), 400, "the active segment was closed by its age, and went");
    assert_eq!(append(&log, &[&value(400)]).await.unwrap().base_offset.get(), 400);
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(read_all(&log).await, numbered(401)[400..]);
}

#[tokio::test(start_paused = true)]
async fn an_inspection_counts_what_is_there_and_names_what_is_wrong() {
    let machine = Machine::new(27, small_segments());
    let (manager, log) = machine.start().await;
    log.become_leader(LeaderEpoch::new(1)).await.unwrap();
    for i in 0..300 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    let size = log.size_bytes();
    manager.close().await;
    let disk = machine.disk.mount();
    let changes = machine.disk.changes();
    let report = inspect(&*disk, &machine.folder()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.batches, report.records, report.bytes), (300, 300, size));
    assert_eq!((report.log_start.get(), report.log_end.get(), report.unfinished_bytes), (0, 300, 0));
    assert_eq!((report.id, report.topic.unwrap().as_str()), (Some(ID), "games"));
    assert!(report.segments > 1);

    let index = layout::file_path(&machine.folder(), Offset::ZERO, layout::FileKind::Index);
    machine.disk.flip_bit(&index, 7, 0);
    machine.disk.flip_bit(&machine.log_file(0), 5000, 1);
    let report = inspect(&*disk, &machine.folder()).unwrap();
    let bad = &report.problems[0];
    assert_eq!((&bad.file, bad.repaired_at_start), (&machine.log_file(0), false));
    assert!(bad.position <= 5000 && bad.position > 4000, "{bad}");
    assert!(report.problems.iter().any(|problem| problem.file == index && problem.repaired_at_start));
    assert_eq!(machine.disk.changes(), changes, "nothing was changed");
}

#[tokio::test]
async fn a_writer_that_panics_takes_its_log_offline_and_everybody_is_told() {
    let (sys, dir) = real();
    let manager = open_in(sys, dir.path().join("topics"), settings(), config()).await;
    let name = TopicName::new("games").unwrap();
    let log = manager.create(TOPIC, &name, PartitionId::ZERO, config()).await.unwrap();
    append(&log, &["before"]).await.unwrap();
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let panicking = log.core().enqueue_control(false, move |core, _| {
        let _ = gate.recv_timeout(Duration::from_secs(20));
        drop(core.front.lock().staged.pop_front()); // as a group in hand is, whose turn panics
        panic!("on purpose")
    });
    let in_hand = log.append(request(&["in hand"])).unwrap();
    let behind = log.append(request(&["behind"])).unwrap();
    open.send(()).unwrap();
    let panicking: Result<(), _> = panicking.unwrap().await;
    assert!(panicking.is_err());
    for waiting in [in_hand, behind] {
        assert!(matches!(waiting.await, Err(LogError::Offline(reason)) if reason.contains("panicked")));
    }
    assert!(matches!(append(&log, &["after"]).await, Err(LogError::Offline(_))));
    assert!(log.offline_reason().is_some_and(|reason| reason.contains("on purpose")), "{:?}", log.offline_reason());
    let offline = async { log.watch().wait_for(|progress| !progress.online).await.map(drop) };
    tokio::time::timeout(Duration::from_secs(20), offline).await.expect("readers are told").unwrap();
    // Its job goes on, so that what waits for it does not wait for ever.
    manager.delete(ID).await.unwrap();
    manager.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_after_a_crash_goes_over_little_also_where_batches_are_large() {
    const BATCH: usize = 700 << 10;
    const BATCHES: u64 = 60;
    let machine = Machine::new(26, config());
    let (_manager, log) = machine.start().await;
    for _ in 0..BATCHES {
        append(&log, &["x".repeat(BATCH).as_str()]).await.unwrap();
    }
    machine.disk.process_crash();
    let walked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&walked);
    let progress = move |p: OpenProgress| seen.store(p.bytes, std::sync::atomic::Ordering::Relaxed);
    let sys = sim::machine(&machine.disk, 27, START_MS);
    let known = Arc::new(|_| Some(config()));
    let manager = LogManager::open(sys, machine.dir(), settings(), known, Arc::new(progress)).await.unwrap();
    assert_eq!(manager.get(ID).unwrap().log_end().get(), BATCHES as i64);
    let walked = walked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(walked > 0 && walked < BATCHES * BATCH as u64 * 2 / 3, "{walked} bytes");
}

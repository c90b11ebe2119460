//! Power cuts, failing disks, damaged files.

use super::*;
use crate::sys::sim::{DiskFault, DiskOperation};
use proptest::prelude::*;

/// Appends one record after the other until the power goes; gives how many were acknowledged and tried.
async fn append_until_down(machine: &Machine, log: &PartitionLog, from: i64, limit: i64) -> (i64, i64) {
    let mut acknowledged = from;
    for i in from..from + limit {
        let Ok(Ok(append)) =
            tokio::time::timeout(Duration::from_secs(60), async { log.append(request(&[&value(i)])) }).await
        else {
            return (acknowledged, i);
        };
        match tokio::time::timeout(Duration::from_secs(60), append).await {
            Ok(Ok(outcome)) if !machine.disk.is_down() => {
                assert_eq!(outcome.base_offset.get(), i);
                acknowledged = i + 1;
            }
            _ => return (acknowledged, i + 1),
        }
    }
    (acknowledged, from + limit)
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Cuts the power at some change, again and again; each time the log must hold all that was acknowledged, and beyond
/// it only what was tried, in order.
fn power_cuts(seed: u64, config: LogConfig, cuts: &[u64], clean_starts: bool) {
    let machine = Machine::new(seed, config);
    let mut acknowledged = 0;
    let mut tried = 0;
    for (round, cut) in cuts.iter().enumerate() {
        let runtime = paused();
        (acknowledged, tried) = runtime.block_on(async {
            let (manager, log) = machine.start().await;
            assert_eq!(log.offline_reason(), None, "round {round}");
            let all = read_all(&log).await;
            let count = all.len() as i64;
            assert!(count >= acknowledged && count <= tried.max(acknowledged), "{acknowledged} ≤ {count} ≤ {tried}");
            assert_eq!(all, numbered(count), "round {round}");
            machine.disk.power_cut_after(*cut);
            let result = append_until_down(&machine, &log, count, 60).await;
            if clean_starts && !machine.disk.is_down() {
                manager.close().await;
            }
            result
        });
        machine.disk.power_cut();
        drop(runtime);
    }
    paused().block_on(async {
        let (_manager, log) = machine.start().await;
        assert_eq!(log.offline_reason(), None);
        let count = read_all(&log).await.len() as i64;
        assert!(count >= acknowledged && count <= tried.max(acknowledged), "{acknowledged} ≤ {count} ≤ {tried}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_power_cut_loses_what_was_acknowledged(
        seed in any::<u64>(),
        cuts in proptest::collection::vec(0..80u64, 1..5),
        clean in any::<bool>(),
    ) {
        let mut config = small_segments();
        config.topic.segment_bytes = 2048;
        power_cuts(seed, config, &cuts, clean);
    }

    #[test]
    fn a_cut_tail_leaves_a_prefix(at in 0..4096u64, flip in any::<bool>(), bit in 0..8u8) {
        // All is beyond the recovery point (`flush=os`), so whatever is there may end anywhere.
        let mut config = config();
        config.topic.flush = FlushPolicy::Os;
        let machine = Machine::new(at, config);
        paused().block_on(async {
            let (_manager, log) = machine.start().await;
            for i in 0..30 {
                append(&log, &[&value(i)]).await.unwrap();
            }
            machine.disk.process_crash();
            let path = machine.log_file(0);
            let len = machine.len(&path);
            let at = at % len;
            if flip {
                machine.disk.flip_bit(&path, at, bit);
            } else {
                let disk = machine.disk.mount();
                disk.open(&path, crate::sys::OpenMode::ReadWrite).unwrap().set_len(at).unwrap();
            }
            let (_manager, log) = machine.start().await;
            prop_assert_eq!(log.offline_reason(), None);
            let all = read_all(&log).await;
            let count = all.len() as i64;
            prop_assert_eq!(&all, &numbered(count));
            append(&log, &[&value(count)]).await.unwrap();
            prop_assert_eq!(read_all(&log).await, numbered(count + 1));
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_below_the_recovery_point_is_never_cut() {
    let machine = Machine::new(10, config());
    let (_manager, log) = machine.start().await;
    for i in 0..10 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    machine.disk.process_crash();
    let path = machine.log_file(0);
    let len = machine.len(&path);
    machine.disk.flip_bit(&path, len - 20, 3);
    let (_manager, log) = machine.start().await;
    let reason = log.offline_reason().unwrap();
    assert!(reason.contains("00000000000000000000.log at position"), "{reason}");
    assert!(matches!(append(&log, &["x"]).await, Err(LogError::Offline(_))));
    assert!(matches!(log.read(Offset::ZERO, Offset::new(1), 1).await, Err(LogError::Offline(_))));
    assert!(!log.progress().online);
    assert_eq!(machine.len(&path), len, "nothing was cut");
}

#[tokio::test(start_paused = true)]
async fn a_gap_larger_than_a_group_is_corruption_even_without_a_recovery_point() {
    let machine = Machine::new(11, config());
    let (_manager, log) = machine.start().await;
    for i in 0..100 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    let end = log.size_bytes();
    machine.disk.process_crash();
    let path = machine.log_file(0);
    let len = machine.len(&path);
    // The recovery point says nothing any more but that every group was synced.
    let disk = machine.disk.mount();
    let (points, _) = recovery_point::RecoveryPoints::open(&*disk, &machine.dir()).unwrap();
    points.set(ID, recovery_point::RecoveryPoint { durable_end: Offset::ZERO, strict: true }).unwrap();
    drop((points, disk));
    machine.disk.flip_bit(&path, 300, 0);
    let (_manager, log) = machine.start().await;
    assert!(log.offline_reason().unwrap().contains("follows at position"));
    assert_eq!(machine.len(&path), len);
    machine.disk.process_crash();
    machine.disk.flip_bit(&path, 300, 0);
    machine.disk.flip_bit(&path, end - 300, 0);
    let (_manager, log) = machine.start().await;
    assert_eq!(log.offline_reason(), None, "within a group of the end it is an unfinished tail");
    let count = read_all(&log).await.len() as i64;
    assert!((90..100).contains(&count));
    assert_eq!(read_all(&log).await, numbered(count));
}

#[tokio::test(start_paused = true)]
async fn zeros_after_the_end_are_the_end() {
    let machine = Machine::new(12, config());
    let (_manager, log) = machine.start().await;
    append(&log, &[&value(0), &value(1)]).await.unwrap();
    machine.disk.process_crash();
    let path = machine.log_file(0);
    let len = machine.len(&path);
    let disk = machine.disk.mount();
    disk.open(&path, crate::sys::OpenMode::ReadWrite).unwrap().write_all_at(&[0; 10_000], len).unwrap();
    let (_manager, log) = machine.start().await;
    assert_eq!(log.offline_reason(), None);
    assert_eq!(machine.len(&path), len);
    append(&log, &[&value(2)]).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(3));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_the_group_and_nothing_else() {
    let machine = Machine::new(13, config());
    let (_manager, log) = machine.start().await;
    for i in 0..5 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used + 60)); // room for a part of the write
    let len = machine.len(&machine.log_file(0));
    let with_key = AppendRecords {
        idempotency: Some(IdempotencyMark { key: [1; 16], records: vec![(0, [2; 16])], per_record: false }),
        ..request(&["no room"])
    };
    assert!(matches!(log.append(with_key).unwrap().await, Err(LogError::DiskFull)));
    assert!(log.idempotency(&[1; 16]).is_empty());
    assert_eq!(machine.len(&machine.log_file(0)), len);
    assert_eq!(read_all(&log).await, numbered(5));
    assert_eq!(log.offline_reason(), None);
    machine.disk.set_capacity(None);
    append(&log, &[&value(5)]).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(6));
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(read_all(&log).await, numbered(6));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_at_a_roll_keeps_the_old_segment() {
    let machine = Machine::new(14, small_segments());
    let (_manager, log) = machine.start().await;
    let mut count = 0;
    while machine.len(&machine.log_file(0)) < 15_900 {
        append(&log, &[&value(count)]).await.unwrap();
        count += 1;
    }
    let large = "y".repeat(1000);
    let used: u64 = machine.disk.files().iter().map(|(_, len)| len).sum();
    machine.disk.set_capacity(Some(used));
    for _ in 0..3 {
        assert!(matches!(append(&log, &[&large]).await, Err(LogError::DiskFull)));
    }
    machine.disk.set_capacity(None);
    append(&log, &[&value(count)]).await.unwrap();
    append(&log, &[&value(count + 1)]).await.unwrap();
    assert_eq!(read_all(&log).await, numbered(count + 2));
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(read_all(&log).await, numbered(count + 2));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_takes_the_log_offline_until_it_was_recovered() {
    let machine = Machine::new(15, config());
    let (_manager, log) = machine.start().await;
    for i in 0..5 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    machine.disk.inject(DiskFault::new(DiskOperation::Sync, ".log"));
    let first = log.append(request(&[&value(5)])).unwrap();
    let second = log.append(request(&[&value(6)])).unwrap();
    assert!(matches!(first.await, Err(LogError::Offline(_))));
    assert!(matches!(second.await, Err(LogError::Offline(_))));
    assert_eq!(machine.disk.faults_hit(), 1, "a failed sync is not tried again");
    assert!(!log.progress().online);
    assert!(matches!(append(&log, &["x"]).await, Err(LogError::Offline(_))));
    assert!(matches!(log.read(Offset::ZERO, Offset::new(5), 1).await, Err(LogError::Offline(_))));
    assert!(matches!(log.become_leader(LeaderEpoch::new(9)).await, Err(LogError::Offline(_))));

    machine.disk.process_crash();
    let (_manager, log) = machine.start().await;
    let count = read_all(&log).await.len() as i64;
    assert!(count >= 5);
    // What recovery kept was written again: a power cut does not take it any more.
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    assert_eq!(read_all(&log).await, numbered(count));
}

#[tokio::test(start_paused = true)]
async fn interval_and_os_acknowledge_before_the_sync_and_the_change_is_known_to_recovery() {
    let mut config = config();
    config.topic.flush = FlushPolicy::Interval;
    let mut machine = Machine::new(16, config.clone());
    machine.settings.group_bytes = 1 << 20; // so that nothing is synced behind
    let (manager, log) = machine.start().await;
    for i in 0..100 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    assert_eq!(log.durable_end(), Offset::ZERO);
    manager.flush_interval().await;
    assert_eq!(log.durable_end().get(), 100);
    for i in 100..200 {
        append(&log, &[&value(i)]).await.unwrap();
    }
    machine.disk.power_cut();
    // With stricter settings now; what is torn was written under the laxer ones.
    config.topic.flush = FlushPolicy::Commit;
    let machine = Machine { config, ..machine };
    let (_manager, log) = machine.start().await;
    assert_eq!(log.offline_reason(), None);
    let count = read_all(&log).await.len() as i64;
    assert!(count >= 100);
    assert_eq!(read_all(&log).await, numbered(count));
    assert_eq!(log.durable_end().get(), count);

    let mut lax = config_with(FlushPolicy::Os);
    log.configure(lax.clone());
    append(&log, &[&value(count)]).await.unwrap();
    assert_eq!(log.durable_end().get(), count);
    lax.topic.flush = FlushPolicy::Commit;
    log.configure(lax);
    append(&log, &[&value(count + 1)]).await.unwrap();
    assert_eq!(log.durable_end().get(), count + 2);
}

#[tokio::test(start_paused = true)]
async fn a_sync_behind_the_appends_that_fails_takes_the_log_offline() {
    let machine = Machine::new(22, config_with(FlushPolicy::Os));
    let (_manager, log) = machine.start().await;
    append(&log, &[&value(0)]).await.unwrap();
    machine.disk.inject(DiskFault::new(DiskOperation::Sync, ".log"));
    let mut failed = None;
    for i in 1..1000 {
        if let Err(error) = append(&log, &[&value(i)]).await {
            failed = Some(error);
            break;
        }
    }
    assert!(matches!(failed, Some(LogError::Offline(_))), "{failed:?}");
    assert_eq!(machine.disk.faults_hit(), 1, "a failed sync is not tried again");
    assert!(!log.progress().online);
}

#[tokio::test(start_paused = true)]
async fn after_a_sync_that_failed_no_other_is_well() {
    let machine = Machine::new(22, config_with(FlushPolicy::Os));
    let (_manager, log) = machine.start().await;
    append(&log, &[&value(0)]).await.unwrap();
    let file = log.core().log_file(&log.core().writer.lock()).unwrap();
    assert!(log.core().sync_file(&*file).is_ok());
    machine.disk.inject(DiskFault::new(DiskOperation::Sync, ".log"));
    assert!(log.core().sync_file(&*file).is_err());
    machine.disk.clear_faults();
    assert!(log.core().sync_file(&*file).is_err(), "what is dirty no more may be lost all the same");
}

#[tokio::test(start_paused = true)]
async fn a_first_record_whose_sync_failed_leaves_nothing_that_a_later_one_relies_on() {
    for skip in 0..6 {
        let machine = Machine::new(23 + skip, config());
        let (_manager, log) = machine.start().await;
        log.become_leader(LeaderEpoch::new(1)).await.unwrap();
        machine.disk.inject(DiskFault::new(DiskOperation::Sync, "").skip(skip));
        let first = append(&log, &[&value(0)]).await;
        let failed = machine.disk.faults_hit() == 1;
        assert_eq!(first.is_err(), failed, "{first:?}");
        machine.disk.process_crash();
        machine.disk.clear_faults();
        let (_manager, log) = machine.start().await;
        let count = read_all(&log).await.len() as i64;
        append(&log, &[&value(count)]).await.unwrap();
        machine.disk.power_cut();
        let (_manager, log) = machine.start().await;
        assert_eq!(read_all(&log).await, numbered(count + 1), "the sync after {skip} others failed: {failed}");
    }
}

//! What a partition takes in memory, full in each way. The figures stand in ARCHITECTURE.md.

use super::*;
use crate::coordinator::queue::lease::LeaseRef;
use std::time::Duration;

const FULL: i64 = 100_000;

fn now(ms: u64) -> Now {
    Now { monotonic: Duration::from_millis(ms), wall_ms: 1_700_000_000_000 + ms.cast_signed() }
}

/// A window of 100,000 records that were looked at, with as many keys.
fn filled(keys: u64, deliver_at_ms: Option<i64>, settings: PartitionSettings) -> SharePartition {
    let settings = PartitionSettings { order_by_key: true, window: 100_000, max_held: 1_000_000, ..settings };
    let mut share = SharePartition::new(DurablePartition::new(0), settings, 1, now(0));
    share.tick(now(1));
    let mixed = |offset: i64| (offset.cast_unsigned() % keys).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for from in (0..FULL).step_by(1000) {
        let offered = |offset| Offered { offset, key: Some(mixed(offset)), deliver_at_ms };
        let records: Vec<_> = (from..from + 1000).map(offered).collect();
        assert_eq!(share.offer(from, from + 1000, &records, now(1)), from + 1000);
    }
    share
}

fn settle_all(share: &mut SharePartition, leased: &[Acquired], settlement: &Settlement) {
    for Acquired { offset, generation, .. } in leased {
        let lease = LeaseRef { queue: 1, partition: 0, offset: *offset, generation: *generation, epoch: 1 };
        assert_eq!(share.settle_lease(lease, settlement, now(2)), Outcome::Settled);
    }
    share.take_delta();
    share.take_released();
}

fn each(share: &SharePartition) -> f64 {
    share.memory() as f64 / FULL as f64
}

#[test]
fn a_full_window_takes_at_most_four_mib() {
    let settings = PartitionSettings::default();
    let mut share = filled(1 << 40, None, settings);
    assert!(share.memory() <= 4 << 20, "not offered yet: {}", share.memory());
    let leased = share.acquire(100_000, 30_000, now(1));
    assert_eq!(leased.len(), 100_000);
    assert!(share.memory() <= 4 << 20, "leased, each with its key: {}", share.memory());
    settle_all(&mut share, &leased, &Settlement::Nack { delay_ms: None, reason: String::new() });
    assert_eq!(share.counts().ready, 100_000);
    assert!(share.memory() <= 4 << 20, "ready again: {}", share.memory());
    let leased = share.acquire(100_000, 30_000, now(2));
    settle_all(&mut share, &leased, &Settlement::Ack);
    assert!(share.memory() < 400 << 10, "all gone: {}", share.memory());
}

#[test]
fn what_is_held_back_takes_less_than_70_bytes_each() {
    let mut blocked = filled(10, None, PartitionSettings::default());
    assert_eq!(blocked.acquire(100_000, 30_000, now(1)).len(), 10);
    assert_eq!(blocked.counts().blocked, 100_000 - 10);
    assert!(each(&blocked) < 50.0, "blocked: {}", each(&blocked));

    let soon = Some(now(0).wall_ms + 3_600_000);
    let mut delayed = filled(1 << 40, soon, PartitionSettings::default());
    assert!(delayed.acquire(100_000, 30_000, now(1)).is_empty());
    assert_eq!(delayed.counts().delayed, 100_000);
    assert!(each(&delayed) < 70.0, "delayed: {}", each(&delayed));

    let mut dead = filled(1 << 40, None, PartitionSettings::default());
    let leased = dead.acquire(100_000, 30_000, now(1));
    settle_all(&mut dead, &leased, &Settlement::Reject { reason: "no such game".to_owned() });
    assert_eq!(dead.counts().dead, 100_000);
    assert!(each(&dead) < 70.0, "dead: {}", each(&dead));

    let settings = PartitionSettings { on_exhausted: OnExhausted::ParkKey, ..PartitionSettings::default() };
    let mut parked = filled(1 << 40, None, settings);
    let leased = parked.acquire(100_000, 30_000, now(1));
    settle_all(&mut parked, &leased, &Settlement::Reject { reason: "no such game".to_owned() });
    assert_eq!(parked.counts().parked, 100_000);
    assert!(each(&parked) < 75.0, "parked: {}", each(&parked));
}

/// What is behind it is no part of it: a queue that has settled a million records is as large as one that has not.
#[test]
fn what_was_settled_leaves_nothing_behind() {
    let settings = PartitionSettings { order_by_key: true, ..PartitionSettings::default() };
    let mut share = SharePartition::new(DurablePartition::new(0), settings, 1, now(0));
    let mut least = usize::MAX;
    for from in (0..1_000_000i64).step_by(1000) {
        let time = now(from.unsigned_abs() / 100);
        share.tick(time);
        let records: Vec<_> = (from..from + 1000)
            .map(|offset| Offered { offset, key: Some(offset as u64), deliver_at_ms: None })
            .collect();
        share.offer(from, from + 1000, &records, time);
        // A lease far longer than the test's time: what was settled is not remembered until it would have ended.
        let leased = share.acquire(1000, 43_200_000, time);
        settle_all(&mut share, &leased, &Settlement::Ack);
        least = least.min(share.memory());
    }
    assert_eq!(share.totals().acked, 1_000_000);
    assert!(share.memory() <= least.max(64 << 10), "{} after {least}", share.memory());
}

//! Commands in, records and replies out; and what a replay of the records gives.

use super::*;
use crate::coordinator::queue::definition::QueueStart;
use crate::coordinator::queue::lease::LeaseRef;
use crate::coordinator::queue::settings::PartitionSettings;
use crate::coordinator::queue::share_partition::{Offered, Outcome as Settled, Settlement};
use crate::coordinator::queue::{ReceiveTag, Totals};
use crate::types::{LeaderEpoch, TopicId, TopicName};
use std::time::Duration;

fn now(ms: u64) -> Now {
    Now { monotonic: Duration::from_millis(ms), wall_ms: 1_700_000_000_000 + ms.cast_signed() }
}

fn definition() -> Definition {
    Definition {
        topic: TopicName::new("jobs").unwrap(),
        topic_id: TopicId::from_random([7; 16]),
        start: QueueStart::Earliest,
        lease_ms: 30_000,
        settings: PartitionSettings::default(),
    }
}

/// A machine with the log that it writes.
struct Bench {
    machine: QueueMachine,
    log: Vec<StoredRecord>,
    log_start: usize,
    /// After how many records the last answer may go out; `None`: after all.
    told_after: Option<u64>,
    /// Goes from step to step, as the runtime's does.
    out: Outcome<QueueMachine>,
}

impl Bench {
    fn new() -> Self {
        Self::load(Vec::new(), 0)
    }

    /// What a broker makes of the log.
    fn load(log: Vec<StoredRecord>, log_start: usize) -> Self {
        let mut machine = QueueMachine::new();
        log[log_start..].iter().for_each(|record| machine.replay(record.clone()));
        let mut bench = Self { machine, log, log_start, told_after: None, out: Outcome::default() };
        bench.machine.loaded(now(0), &mut bench.out);
        bench.append();
        bench
    }

    fn restart(self) -> Self {
        Self::load(self.log, self.log_start)
    }

    fn append(&mut self) {
        let mut out = self.out.take();
        let base = self.log.len();
        for record in std::mem::take(&mut out.records) {
            let offset = Offset::new(self.log.len() as i64);
            let (key, value, headers) = (record.key, record.value, record.headers);
            let leader_epoch = LeaderEpoch::new(1);
            self.log.push(StoredRecord { offset, leader_epoch, timestamp_ms: 0, key, value, headers });
        }
        for (index, mark) in std::mem::take(&mut out.marks) {
            self.machine.committed(mark, Offset::new((base + index) as i64), now(0), &mut self.out);
        }
        self.log_start = out.prune_before.map_or(self.log_start, |before| before.get() as usize);
        self.log_start = self.out.prune_before.map_or(self.log_start, |before| before.get() as usize);
        if !self.out.records.is_empty() {
            self.append();
        }
    }

    fn ask(&mut self, at: u64, command: QueueCommand) -> QueueReply {
        self.machine.handle(command, ReplyToken::new(1), now(at), &mut self.out);
        let early = self.out.early.pop().map(|(after, _, reply)| (Some(after), reply));
        let (after, reply) = early.unwrap_or_else(|| (None, self.out.replies.pop().unwrap().1));
        self.told_after = after;
        self.append();
        reply
    }

    fn put(&mut self, name: &str, definition: Definition) -> QueueReply {
        self.ask(0, QueueCommand::Put { name: name.to_owned(), id: 77, definition, starts: vec![0, 0] })
    }

    fn receive(&mut self, at: u64, max: usize, offers: Vec<Offer>, tag: Option<ReceiveTag>) -> QueueReply {
        let log_starts = vec![(0, 0), (1, 0)];
        let queue = "q".to_owned();
        self.ask(at, QueueCommand::Receive { queue, id: 77, max, lease_ms: None, tag, log_starts, offers })
    }

    fn received(&mut self, at: u64, max: usize, offers: Vec<Offer>) -> Vec<LeaseRef> {
        match self.receive(at, max, offers, None) {
            QueueReply::Received(received) => received.leases.into_iter().map(|l| l.lease).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, at: u64, leases: &[LeaseRef], settlement: &Settlement) -> Vec<Settled> {
        let settlements = leases.iter().map(|lease| (*lease, settlement.clone())).collect();
        match self.ask(at, QueueCommand::Settle { queue: "q".to_owned(), settlements }) {
            QueueReply::Settled(outcomes, _) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    fn describe(&mut self, name: &str, id: u64, log_starts: Vec<(i32, i64)>) -> QueueState {
        match self.ask(0, QueueCommand::Describe { queue: name.to_owned(), id, log_starts }) {
            QueueReply::Described(state) => *state,
            other => panic!("{other:?}"),
        }
    }

    fn totals(&mut self) -> Totals {
        self.describe("q", 77, Vec::new()).partitions[0].totals
    }
}

fn offer(from: i64, to: i64) -> Vec<Offer> {
    let records = (from..to).map(|offset| Offered { offset, key: None, deliver_at_ms: None }).collect();
    vec![Offer { partition: 0, from, to, records }]
}

#[test]
fn a_queue_is_made_once_and_changed_in_what_may_change() {
    let mut bench = Bench::new();
    assert!(matches!(bench.put("q", definition()), QueueReply::Put(true)));
    assert!(matches!(bench.put("q", definition()), QueueReply::Put(false)));
    let longer = Definition { lease_ms: 60_000, ..definition() };
    assert!(matches!(bench.put("q", longer.clone()), QueueReply::Put(false)));
    for (field, other) in [
        ("topic", Definition { topic_id: TopicId::from_random([8; 16]), ..definition() }),
        ("start", Definition { start: QueueStart::Latest, ..definition() }),
        (
            "order",
            Definition { settings: PartitionSettings { order_by_key: true, ..definition().settings }, ..definition() },
        ),
    ] {
        let refused = bench.put("q", other);
        assert!(matches!(refused, QueueReply::Refused(QueueRefusal::Conflict(f)) if f == field), "{refused:?}");
    }
    let mut again = bench.restart();
    match again.ask(0, QueueCommand::Find("q".to_owned())) {
        QueueReply::Found(77, found) => assert_eq!(*found, longer),
        other => panic!("{other:?}"),
    }
    assert!(matches!(again.ask(0, QueueCommand::Delete("q".to_owned())), QueueReply::Done));
    let mut again = again.restart();
    let gone = again.ask(0, QueueCommand::Find("q".to_owned()));
    assert!(matches!(gone, QueueReply::Refused(QueueRefusal::UnknownQueue(_))), "{gone:?}");
}

#[test]
fn what_was_settled_never_comes_again_and_the_rest_does() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    let leases = bench.received(1, 4, offer(0, 10));
    assert_eq!(leases.iter().map(|l| l.offset).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(bench.settle(2, &leases[1..3], &Settlement::Ack), [Settled::Settled; 2]);
    let mut bench = bench.restart();
    let again = bench.received(3, 100, offer(0, 10));
    assert_eq!(again.iter().map(|l| l.offset).collect::<Vec<_>>(), [0, 3, 4, 5, 6, 7, 8, 9]);
    // The old leases: the same verdict as before is known, anything else is lost.
    assert_eq!(bench.settle(4, &leases[..2], &Settlement::Ack), [Settled::Lost, Settled::AlreadySettled]);
    assert_eq!(bench.settle(4, &leases[1..2], &Settlement::Reject { reason: String::new() }), [Settled::Lost]);
    let foreign = LeaseRef { queue: 78, ..again[0] };
    let elsewhere = LeaseRef { partition: 9, ..again[0] };
    assert_eq!(bench.settle(4, &[foreign, elsewhere, again[0]], &Settlement::Ack)[..2], [Settled::Lost; 2]);
    assert_eq!(bench.totals().acked, 3);
}

/// Its receivers may still hold what they found for the one before.
#[test]
fn another_queue_under_the_name_is_another() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    bench.ask(0, QueueCommand::Delete("q".to_owned()));
    bench.ask(0, QueueCommand::Put { name: "q".to_owned(), id: 78, definition: definition(), starts: vec![5] });
    let refused = bench.receive(1, 10, offer(0, 10), None);
    assert!(matches!(refused, QueueReply::Refused(QueueRefusal::UnknownQueue(_))), "{refused:?}");
    let old = bench.ask(1, QueueCommand::Describe { queue: "q".to_owned(), id: 77, log_starts: vec![(0, 9)] });
    assert!(matches!(old, QueueReply::Refused(QueueRefusal::UnknownQueue(_))), "{old:?}");
    let state = bench.describe("q", 78, Vec::new());
    assert_eq!((state.partitions.len(), state.partitions[0].start, state.partitions[0].totals.lost), (1, 5, 0));
}

#[test]
fn what_retention_took_is_counted_also_if_nobody_receives() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    bench.received(1, 2, offer(0, 10));
    // Two are leased, and may still be settled; six were never looked at.
    let state = bench.describe("q", 77, vec![(0, 8), (1, 6)]);
    assert_eq!([0, 1].map(|p| state.partitions[p].totals.lost), [6, 6]);
    assert_eq!((state.partitions[0].counts.leased, state.partitions[0].counts.ready), (2, 2));
    let mut bench = bench.restart();
    let state = bench.describe("q", 77, Vec::new());
    assert_eq!([0, 1].map(|p| state.partitions[p].totals.lost), [6, 6]);
}

#[test]
fn an_idempotency_key_gives_the_leases_that_are_held() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    let tag = Some(ReceiveTag { key: [1; 16], request: [2; 16] });
    let of = |reply| match reply {
        QueueReply::Received(received) => (received.leases, received.replayed),
        other => panic!("{other:?}"),
    };
    let (first, replayed) = of(bench.receive(1, 3, offer(0, 10), tag));
    assert!(first.len() == 3 && !replayed);
    assert_eq!(of(bench.receive(2, 3, Vec::new(), tag)), (first.clone(), true));
    bench.settle(3, &[first[1].lease], &Settlement::Ack);
    let (rest, _) = of(bench.receive(4, 3, Vec::new(), tag));
    assert_eq!(rest.iter().map(|l| l.lease.offset).collect::<Vec<_>>(), [0, 2]);
    let conflict = bench.receive(5, 3, Vec::new(), tag.map(|t| ReceiveTag { request: [9; 16], ..t }));
    assert!(matches!(conflict, QueueReply::Refused(QueueRefusal::IdempotencyConflict)), "{conflict:?}");
    // None is held any more: it receives anew.
    bench.settle(6, &[rest[0].lease, rest[1].lease], &Settlement::Ack);
    let (new, replayed) = of(bench.receive(7, 3, Vec::new(), tag));
    assert!(!replayed);
    assert_eq!(new.iter().map(|l| l.lease.offset).collect::<Vec<_>>(), [3, 4, 5]);
}

#[test]
fn a_receive_waits_for_what_it_tells_of_and_for_no_more() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    // The epoch, the definition, and the beginning of two partitions.
    let begun = Some(4);
    let leases = bench.received(1, 3, offer(0, 10));
    assert_eq!(bench.told_after, begun);
    bench.settle(2, &leases, &Settlement::Ack);
    assert_eq!(bench.told_after, None, "a settlement waits for its own record");
    bench.received(3, 3, Vec::new());
    assert_eq!(bench.told_after, begun, "what others settled is theirs to wait for");
    let mut bench = bench.restart();
    bench.received(4, 1, offer(3, 10));
    assert_eq!(bench.told_after, Some(1), "the new ownership's epoch");
}

#[test]
fn a_record_is_told_of_once_the_one_before_it_of_its_key_is_settled_for_good() {
    let mut bench = Bench::new();
    let settings = PartitionSettings { order_by_key: true, ..definition().settings };
    bench.put("q", Definition { settings, ..definition() });
    let records = (0..9).map(|offset| Offered { offset, key: Some(offset as u64 % 3), deliver_at_ms: None }).collect();
    let first = bench.received(1, 1, vec![Offer { partition: 0, from: 0, to: 9, records }]);
    let others = bench.received(1, 2, Vec::new());
    assert_eq!((first[0].offset, others[0].offset, others[1].offset, bench.told_after), (0, 1, 2, Some(4)));
    bench.settle(2, &first, &Settlement::Ack);
    let settled = bench.out.decided();
    let next = bench.received(3, 1, Vec::new());
    assert_eq!((next[0].offset, bench.told_after), (3, Some(settled)), "0 may not come back after 3");
    bench.settle(4, &others[..1], &Settlement::Nack { delay_ms: None, reason: String::new() });
    let settled = bench.out.decided();
    let again = bench.received(5, 1, Vec::new());
    assert_eq!((again[0].offset, bench.told_after), (1, Some(settled)));
}

#[test]
fn the_log_is_pruned_and_what_is_left_is_enough() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    // A second queue that nobody touches: it must not hold the log back for ever.
    bench.ask(0, QueueCommand::Put { name: "idle".to_owned(), id: 5, definition: definition(), starts: vec![3] });
    let mut next = 0;
    for round in 0..15_000 {
        let offers = if next % 100 == 0 { offer(next, next + 100) } else { Vec::new() };
        let leases = bench.received(round, 1, offers);
        assert_eq!(leases[0].offset, next);
        next += 1;
        bench.settle(round, &leases, &Settlement::Ack);
        if round == 7_777 {
            bench = bench.restart();
            bench.received(round, 0, offer(next, (next / 100 + 1) * 100));
        }
    }
    assert!(bench.log_start > 5_000, "{} of {}", bench.log_start, bench.log.len());
    let mut bench = bench.restart();
    assert_eq!(bench.totals().acked, 15_000);
    assert_eq!(bench.received(20_000, 1, offer(next, next + 1))[0].offset, next);
    let idle = bench.describe("idle", 5, Vec::new());
    assert_eq!((idle.id, idle.partitions[0].start), (5, 3));
}

#[test]
fn a_snapshot_that_was_cut_by_a_power_failure_does_not_count() {
    let mut bench = Bench::new();
    bench.put("q", definition());
    let leases = bench.received(1, 5, offer(0, 10));
    bench.settle(2, &leases, &Settlement::Ack);
    // Two of three parts were stored.
    let bytes = vec![9; (256 << 10) * 2 + 1];
    record::snapshot(77, 0, &bytes).into_iter().take(2).for_each(|record| bench.out.record(record));
    bench.append();
    let mut bench = bench.restart();
    assert_eq!(bench.totals().acked, 5);
}

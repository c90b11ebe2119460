//! A queue on a broker whose days pass in no time: what compaction and retention do to it, and clocks that jump.

use crate::broker_level::start_server;
use crate::world::{EPOCH_MS, runtime};
use bytes::Bytes;
use sluice::engine::{
    Acks, CreateTopic, Engine, FetchRequest, ProduceRequest, QueueDescription, QueueMessage, QueueSettings, QueueStart,
    QueueToPut, Queues, ReceiveRequest, RecordToProduce, SettleOutcome, Settlement,
};
use sluice::sys::Sys;
use sluice::sys::sim::{SimClock, SimDisk, machine};
use sluice::types::{Header, Offset, PartitionId, Record, TopicId, TopicName};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const HOUR_MS: i64 = 3_600_000;

/// Runs a test on a broker that nothing disturbs.
fn alone<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Engine>, Sys, Arc<SimClock>) -> F) {
    runtime(1).block_on(async {
        let clock = Arc::new(SimClock::new(EPOCH_MS));
        let sys = Sys { clock: clock.clone(), ..machine(&SimDisk::new(1), 1, EPOCH_MS) };
        let server = start_server(sys.clone()).await.expect("nothing disturbs it");
        test(server.engine(), sys, clock).await;
        server.drain().await;
    });
}

/// A topic of one partition, and a queue over it.
struct Bench {
    engine: Arc<dyn Engine>,
    sys: Sys,
    topic: TopicId,
}

impl Bench {
    async fn new(engine: Arc<dyn Engine>, sys: Sys, config: &[(&str, &str)], settings: QueueSettings) -> Self {
        let name = TopicName::new("jobs").expect("a good name");
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = CreateTopic { name: name.clone(), partitions: Some(1), replication_factor: None, config };
        let topic = engine.create_topic(request).await.expect("a topic").info.id;
        let bench = Self { engine, sys, topic };
        let queue = QueueToPut { topic: name, start: QueueStart::Earliest, lease_ms: 30_000, settings };
        bench.queues().put_queue("q", queue).await.expect("a queue");
        bench
    }

    fn queues(&self) -> &dyn Queues {
        self.engine.queues().expect("this engine has queues")
    }

    /// One record, in a batch of its own.
    async fn produce(&self, key: &str, value: &str, deliver_at_ms: Option<i64>) {
        let header =
            |at: i64| Header { name: Bytes::from_static(b"deliver_at_ms"), value: Some(at.to_string().into()) };
        let record = Record {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: deliver_at_ms.map(header).into_iter().collect(),
            ..Record::default()
        };
        let request = ProduceRequest {
            topic: self.topic,
            records: vec![RecordToProduce { record, partition: Some(PartitionId::new(0)) }],
            acks: Acks::All,
            timeout: Duration::from_secs(30),
            idempotency: None,
        };
        self.engine.produce(request).await.expect("it is stored").results.remove(0).expect("it is stored");
    }

    async fn receive(&self, max: usize, wait: Duration, lease_ms: i64) -> Vec<QueueMessage> {
        let lease_ms = Some(lease_ms);
        let request = ReceiveRequest { queue: "q".to_owned(), max, max_bytes: 1 << 20, wait, lease_ms, tag: None };
        self.queues().receive(request).await.expect("the queue answers").messages
    }

    async fn settle(&self, lease: &str, settlement: Settlement) -> SettleOutcome {
        let settled = self.queues().settle("q", vec![(lease.to_owned(), settlement)]).await;
        settled.expect("the queue answers").remove(0)
    }

    async fn describe(&self) -> QueueDescription {
        self.queues().describe_queue("q").await.expect("the queue answers")
    }

    /// Offsets that can be read.
    async fn stored(&self) -> Vec<i64> {
        let (topic, partition) = (self.topic, PartitionId::new(0));
        let watch = self.engine.watch(topic, partition).expect("the partition is here");
        let from = watch.borrow().log_start.offset();
        let mut all = Vec::new();
        let mut at = from;
        loop {
            let request = FetchRequest { topic, partition, from: at, max_bytes: 1 << 20 };
            let read = self.engine.fetch(request).await.expect("the partition is read");
            let Some(last) = read.batches.last() else { return all };
            at = last.header().next_offset();
            for batch in &read.batches {
                let limit = sluice::codec::DecompressLimit { max_bytes: 1 << 20 };
                all.extend(batch.records(limit).expect("a good batch").map(|r| r.expect("a good record").offset.get()));
            }
            if at >= Offset::new(read.high_watermark.get()) {
                return all;
            }
        }
    }
}

fn values(messages: &[QueueMessage]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("the test's values are text");
    messages.iter().map(|message| text(message.record.value.as_ref().expect("every value is one"))).collect()
}

#[test]
fn what_compaction_removed_can_be_settled_and_what_was_seen_before_is_still_delivered() {
    let config = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "16384"),
        ("compression.type", "uncompressed"),
        ("min.cleanable.dirty.ratio", "0"),
    ];
    runtime(1).block_on(async {
        let disk = SimDisk::new(1);
        let sys = machine(&disk, 1, EPOCH_MS);
        let server = start_server(sys.clone()).await.expect("nothing disturbs it");
        let settings = QueueSettings { max_deliveries: 1, ..QueueSettings::default() };
        let bench = Bench::new(server.engine(), sys, &config, settings).await;
        for n in 0..6 {
            bench.produce(&format!("k{n}"), &format!("old-{n}"), None).await;
        }
        // Newer ones of the same keys, so large that each closes a segment.
        for n in 0..6 {
            bench.produce(&format!("k{n}"), &format!("new-{n}-{}", "x".repeat(9_000)), None).await;
        }
        bench.produce("last", &format!("last-{}", "x".repeat(9_000)), None).await;
        let topic = bench.topic;
        server.drain().await;
        drop(bench);
        // What is read from now on comes from the segments, and not from the memory of the newest batches.
        let sys = machine(&disk, 2, EPOCH_MS);
        let server = start_server(sys.clone()).await.expect("nothing disturbs it");
        let bench = Bench { engine: server.engine(), sys, topic };
        // One is settled, one is a dead letter, two are out, two were looked at, are ready, and lie in the queue's memory.
        let first = bench.receive(4, Duration::ZERO, 30 * HOUR_MS).await;
        assert_eq!(values(&first), ["old-0", "old-1", "old-2", "old-3"]);
        assert_eq!(bench.settle(&first[0].lease, Settlement::Ack).await, SettleOutcome::Settled);
        let reject = Settlement::Reject { reason: "no".to_owned() };
        assert_eq!(bench.settle(&first[1].lease, reject).await, SettleOutcome::Settled);
        let mut waited = 0;
        while bench.stored().await.contains(&5) {
            sleep(Duration::from_secs(1)).await;
            waited += 1;
            assert!(waited < 1_000, "nothing is compacted: {:?}", bench.stored().await);
        }
        let mut names = Vec::new();
        loop {
            // One look at the log goes as far as one read of it.
            let some = values(&bench.receive(100, Duration::ZERO, HOUR_MS).await);
            if some.is_empty() {
                break;
            }
            names.extend(some.iter().map(|value| value.split("-x").next().unwrap().to_owned()));
        }
        assert_eq!(names, ["old-4", "old-5", "new-0", "new-1", "new-2", "new-3", "new-4", "new-5", "last"]);
        let state = bench.describe().await;
        assert_eq!((state.totals.lost, state.counts.leased, state.counts.ready), (0, 11, 0), "{state:?}");
        // What is out may be settled though its record is gone.
        assert_eq!(bench.settle(&first[2].lease, Settlement::Ack).await, SettleOutcome::Settled);
        let dead = bench.queues().given_up("q", None, 10).await.expect("the queue answers");
        assert_eq!((dead.len(), dead[0].offset, dead[0].record.is_none()), (1, 1, true));
        server.drain().await;
    });
}

#[test]
fn what_retention_removed_is_lost_also_when_nobody_looks() {
    alone(|engine, sys, _| async move {
        let config = [
            ("retention.ms", "60000"),
            ("segment.bytes", "16384"),
            ("compression.type", "uncompressed"),
            ("segment.ms", "1000"),
        ];
        let bench = Bench::new(engine, sys, &config, QueueSettings::default()).await;
        for n in 0..3 {
            bench.produce("k", &format!("old-{n}-{}", "x".repeat(9_000)), None).await;
        }
        let out = bench.receive(1, Duration::ZERO, HOUR_MS).await;
        sleep(Duration::from_secs(90)).await;
        bench.produce("k", "new", None).await;
        let mut waited = 0;
        while bench.stored().await != [3] {
            sleep(Duration::from_secs(10)).await;
            waited += 1;
            assert!(waited < 100, "retention takes nothing: {:?}", bench.stored().await);
        }
        let state = bench.describe().await;
        assert_eq!((state.totals.lost, state.counts.leased, state.counts.ready), (2, 1, 1), "{state:?}");
        assert_eq!(values(&bench.receive(9, Duration::ZERO, HOUR_MS).await), ["new"]);
        // Back from a worker that failed, there is nothing to deliver again.
        let nack = Settlement::Nack { delay_ms: None, reason: String::new() };
        assert_eq!(bench.settle(&out[0].lease, nack).await, SettleOutcome::Settled);
        assert!(bench.receive(9, Duration::ZERO, HOUR_MS).await.is_empty());
        assert_eq!(bench.describe().await.totals.lost, 3);
    });
}

/// Leases and delays go by the time that passes, only what a record names itself by the clock on the wall.
#[test]
fn a_clock_that_jumps_ends_no_lease_and_no_delay() {
    for jump_ms in [HOUR_MS, -HOUR_MS] {
        alone(move |engine, sys, clock: Arc<SimClock>| async move {
            let bench = Bench::new(engine, sys, &[], QueueSettings::default()).await;
            for n in 0..2 {
                bench.produce("k", &n.to_string(), None).await;
            }
            let out = bench.receive(2, Duration::ZERO, 10_000).await;
            let nack = Settlement::Nack { delay_ms: Some(10_000), reason: String::new() };
            assert_eq!(bench.settle(&out[1].lease, nack).await, SettleOutcome::Settled);
            let due_ms = bench.sys.clock.now_ms() + HOUR_MS / 2;
            bench.produce("k", "timed", Some(due_ms)).await;
            assert!(bench.receive(9, Duration::ZERO, 10_000).await.is_empty());
            clock.set_skew_ms(jump_ms);
            sleep(Duration::from_secs(9)).await;
            // The record that names its time is due once the clock says so, and looked for within seconds.
            let timed = values(&bench.receive(9, Duration::ZERO, 60_000).await);
            let expected: &[&str] = if jump_ms > 0 { &["timed"] } else { &[] };
            assert_eq!(timed, expected, "by {jump_ms} ms: nothing else comes before its time");
            let state = bench.describe().await.counts;
            assert_eq!((state.leased, state.delayed), if jump_ms > 0 { (2, 1) } else { (1, 2) });
            sleep(Duration::from_secs(2)).await;
            let back = bench.receive(9, Duration::ZERO, 60_000).await;
            assert_eq!(values(&back), ["0", "1"], "by {jump_ms} ms: both come when their time is over");
            assert_eq!(bench.settle(&out[0].lease, Settlement::Ack).await, SettleOutcome::Lost);
            for message in &back {
                assert_eq!(bench.settle(&message.lease, Settlement::Ack).await, SettleOutcome::Settled);
            }
            // Right again, also for a receiver that waits for it.
            clock.set_skew_ms(0);
            if jump_ms < 0 {
                let timed = bench.receive(9, Duration::from_millis(HOUR_MS.unsigned_abs()), 60_000).await;
                assert_eq!(values(&timed), ["timed"]);
                assert!(bench.sys.clock.now_ms() >= due_ms, "before its time");
            }
        });
    }
}

#[test]
fn a_delay_outlives_a_restart_and_no_clock_makes_it_longer() {
    for (skew_ms, back_after) in [(0, 4_000), (-HOUR_MS, 10_000), (HOUR_MS, 0)] {
        runtime(1).block_on(async {
            let disk = SimDisk::new(1);
            let sys = machine(&disk, 1, EPOCH_MS);
            let server = start_server(sys.clone()).await.expect("nothing disturbs it");
            let bench = Bench::new(server.engine(), sys, &[], QueueSettings::default()).await;
            bench.produce("k", "0", None).await;
            let out = bench.receive(1, Duration::ZERO, 60_000).await;
            let nack = Settlement::Nack { delay_ms: Some(10_000), reason: String::new() };
            assert_eq!(bench.settle(&out[0].lease, nack).await, SettleOutcome::Settled);
            sleep(Duration::from_secs(6)).await;
            let (topic, now_ms) = (bench.topic, bench.sys.clock.now_ms());
            server.drain().await;
            drop(bench);
            let sys = machine(&disk, 2, now_ms + skew_ms);
            let server = start_server(sys.clone()).await.expect("nothing disturbs it");
            let bench = Bench { engine: server.engine(), sys, topic };
            if back_after > 0 {
                sleep(Duration::from_millis(back_after - 500)).await;
                assert!(bench.receive(1, Duration::ZERO, 60_000).await.is_empty(), "{skew_ms} ms: before its time");
                sleep(Duration::from_millis(1_000)).await;
            }
            let back = bench.receive(1, Duration::ZERO, 60_000).await;
            assert_eq!(values(&back), ["0"], "by {skew_ms} ms");
            server.drain().await;
        });
    }
}

#[test]
fn nobody_goes_without_while_somebody_else_looks_at_the_log() {
    alone(|engine, sys, _| async move {
        let bench = Bench::new(engine, sys, &[], QueueSettings::default()).await;
        for n in 0..10 {
            bench.produce("k", &n.to_string(), None).await;
        }
        // None waits, and all come at once: one of them looks for the first time at what there is.
        let receive = || bench.receive(2, Duration::ZERO, 10_000);
        let (a, b, c, d) = tokio::join!(receive(), receive(), receive(), receive());
        let mut all: Vec<_> =
            [a, b, c, d].iter().map(|got| values(got)).inspect(|got| assert_eq!(got.len(), 2)).collect();
        all.sort();
        assert_eq!(all.concat(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert_eq!(values(&receive().await), ["8", "9"]);
        // Now there is nothing, and that is said at once.
        let before = bench.sys.clock.monotonic();
        assert!(receive().await.is_empty());
        assert!(bench.sys.clock.monotonic() - before < Duration::from_millis(100));
    });
}

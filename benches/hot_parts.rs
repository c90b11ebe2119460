//! The hot parts on their own: how long each takes on this machine. `cargo bench --bench hot_parts`.
//!
//! What is called is the library's own code. Times move with the machine; for what must not become longer see
//! `instructions`.

mod broker;

use broker::{batch, value, world};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluice::codec::{BatchBuilder, Compression, DecompressLimit, RecordBatch};
use sluice::coordinator::Now;
use sluice::coordinator::queue::{
    Acquired, Delta, DurablePartition, LeaseRef, MAX_WINDOW, Offered, PartitionSettings, SettleOutcome, Settlement,
    SharePartition,
};
use sluice::http::record_json::{RecordLimits, parse_batch};
use sluice::log::{AppendRecords, LogConfig, LogManager, LogSettings, PartitionLog};
use sluice::session::json::{RecordWriter, ValueEncoding};
use sluice::sys::{Sys, sim};
use sluice::types::{LeaderEpoch, Offset, PartitionId, Record, TopicConfig, TopicDefaults, TopicId, TopicName};
use std::collections::VecDeque;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const RECORDS: usize = 100;
const SIZE: usize = 1024;
const NOW_MS: i64 = 1_700_000_000_000;
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };

fn records() -> Vec<Record> {
    let value = Bytes::from(value(SIZE));
    let record = |n: usize| Record {
        key: Some(Bytes::from(format!("key-{n}"))),
        value: Some(value.clone()),
        timestamp_ms: Some(NOW_MS),
        ..Record::default()
    };
    (0..RECORDS).map(record).collect()
}

fn encoded(records: &[Record], buffer: BytesMut) -> Bytes {
    let mut builder = BatchBuilder::with_buffer(buffer, Offset::new(0), LeaderEpoch::new(1));
    records.iter().for_each(|record| builder.push(NOW_MS, record));
    builder.finish(Compression::None)
}

/// Kafka's batch: made, and read again.
fn codec(criterion: &mut Criterion) {
    let records = records();
    let bytes = encoded(&records, BytesMut::new());
    let mut group = criterion.benchmark_group("batch of 100 x 1 KiB");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("encode", |b| {
        b.iter_batched(
            || BytesMut::with_capacity(RECORDS * (SIZE + 200)),
            |buffer| encoded(black_box(&records), buffer),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("check and parse", |b| {
        b.iter(|| {
            let batch = RecordBatch::split_from(&mut black_box(bytes.clone())).expect("it is a batch");
            batch.verify_crc().expect("it is whole");
            batch
                .records(LIMIT)
                .expect("it is not compressed")
                .map(|r| r.expect("a record").value.map_or(0, |v| v.len()))
                .sum::<usize>()
        });
    });
    group.finish();
}

/// A batch's JSON: of the request, and of the answer to a reader.
fn json(criterion: &mut Criterion) {
    let body = Bytes::from(batch(RECORDS, SIZE, 0));
    let limits = RecordLimits { value_bytes: 1 << 20, headers: 100 };
    let writer = RecordWriter::new(&TopicName::new("bench").expect("a name"), ValueEncoding::Auto);
    let bytes = encoded(&records(), BytesMut::new());
    let stored = RecordBatch::split_from(&mut bytes.clone()).expect("it is a batch");
    let stored: Vec<_> = stored.records(LIMIT).expect("it is plain").map(|r| r.expect("a record")).collect();
    let mut group = criterion.benchmark_group("JSON of 100 x 1 KiB");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("parse", |b| b.iter(|| parse_batch(black_box(&body), limits, 1000).expect("it is good")));
    group.bench_function("write", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            stored.iter().for_each(|record| writer.write(&mut out, PartitionId::new(0), record));
            out.len()
        });
    });
    group.finish();
}

async fn open_log() -> (Arc<LogManager>, Arc<PartitionLog>) {
    // Time is the machine's here; the disk alone is in memory.
    let sys = Sys { disk: sim::SimDisk::new(1).mount(), ..world() };
    let settings = LogSettings {
        tail_ring_bytes: 64 << 20,
        group_bytes: 4 << 20,
        staged_bytes_per_partition: 32 << 20,
        staged_bytes: 1 << 30,
        flush_interval: Duration::from_millis(100),
        idempotency_keys_per_partition: 1000,
        idempotency_retention: Duration::from_secs(60),
        open_files: 100,
    };
    let manager = LogManager::open(sys, PathBuf::from("/logs"), settings, Arc::new(|_| None), Arc::new(|_| ()));
    let manager = manager.await.expect("it opens");
    let config = LogConfig { topic: TopicConfig::new(&TopicDefaults::default()) };
    let name = TopicName::new("bench").expect("a name");
    let log = manager.create(TopicId::from_bytes([1; 16]), &name, PartitionId::new(0), config).await.expect("a log");
    log.become_leader(LeaderEpoch::new(1)).await.expect("it leads");
    (manager, log)
}

/// One partition: appended to, and read.
fn log(criterion: &mut Criterion) {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (manager, log) = runtime.block_on(open_log());
    let records = records();
    let append = |records: Vec<Record>| log.append(AppendRecords { records, idempotency: None, hold: None });
    let mut group = criterion.benchmark_group("log, 100 x 1 KiB");
    group.throughput(Throughput::Elements(RECORDS as u64));
    // Memory is the disk here, and never freed: so few that it stays small.
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    group.bench_function("append", |b| {
        b.iter_batched(
            || records.clone(),
            |records| runtime.block_on(append(records).expect("it is taken")).expect("it is written"),
            BatchSize::SmallInput,
        );
    });
    let end = log.log_end().offset();
    let from = Offset::new(end.get() - RECORDS as i64);
    group.bench_function("read at the tail", |b| {
        b.iter(|| runtime.block_on(log.read(black_box(from), end, 1 << 20)).expect("it is there").len());
    });
    group.bench_function("read at the start", |b| {
        b.iter(|| runtime.block_on(log.read(black_box(Offset::new(0)), end, 100 << 10)).expect("it is there").len());
    });
    group.finish();
    runtime.block_on(manager.close());
}

/// A queue's state over a partition, whose next record is at `end`.
struct Queue {
    share: SharePartition,
    end: i64,
    now: Now,
}

impl Queue {
    fn new() -> Self {
        let now = Now { monotonic: Duration::from_secs(1), wall_ms: NOW_MS };
        let settings = PartitionSettings { order_by_key: true, window: MAX_WINDOW, ..PartitionSettings::default() };
        Self { share: SharePartition::new(DurablePartition::new(0), settings, 1, now), end: 0, now }
    }

    /// So many records come, each of a key of its own, and are leased.
    fn lease(&mut self, count: usize) -> Vec<Acquired> {
        let to = self.end + count as i64;
        let offered = |offset: i64| {
            let key = offset.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Offered { offset, key: Some(key), deliver_at_ms: None }
        };
        let records: Vec<_> = (self.end..to).map(offered).collect();
        assert_eq!(self.share.offer(self.end, to, &records, self.now), to, "the window has room");
        self.end = to;
        self.share.acquire(count, 3_600_000, self.now)
    }

    fn acknowledge(&mut self, acquired: &[Acquired]) -> Option<Delta> {
        for Acquired { offset, generation, .. } in acquired {
            let lease = LeaseRef { queue: 1, partition: 0, offset: *offset, generation: *generation, epoch: 1 };
            assert_eq!(self.share.settle_lease(lease, &Settlement::Ack, self.now), SettleOutcome::Settled);
        }
        self.share.take_delta()
    }
}

/// A message received and acknowledged, whatever lies behind and in the window: each should take the same.
fn queue(criterion: &mut Criterion) {
    const BEHIND: usize = 10_000_000;
    const OUT: usize = 99_000;
    let mut group = criterion.benchmark_group("queue, one message");
    for (name, behind, out) in [
        ("nothing behind", 0, 0),
        ("10 million settled", BEHIND, 0),
        ("10 million settled, 99,000 leased", BEHIND, OUT),
    ] {
        let mut queue = Queue::new();
        for _ in 0..behind / 1000 {
            let acquired = queue.lease(1000);
            queue.acknowledge(&acquired);
        }
        let mut leased = VecDeque::new();
        for _ in 0..out / 1000 {
            leased.extend(queue.lease(1000));
        }
        group.bench_function(name, |b| {
            b.iter(|| {
                leased.extend(queue.lease(1));
                let oldest = leased.pop_front().expect("one was just leased");
                black_box(queue.acknowledge(&[oldest]))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codec, json, log, queue);
criterion_main!(benches);

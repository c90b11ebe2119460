//! The log alone: a [`LogManager`] and its partitions over the twins.

#[cfg(feature = "sabotage")]
use crate::checker::{Anomaly, Rule};
use crate::checker::{Promise, check};
use crate::workload::{Page, Sent, Subject};
#[cfg(feature = "sabotage")]
use crate::world::first_seed_that_sees;
use crate::world::{Fault, Plan, run, run_seeds};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use sluice::codec::DecompressLimit;
use sluice::log::{AppendRecords, IdempotencyMark, LogConfig, LogError, LogManager, LogSettings, PartitionLog};
use sluice::sys::Sys;
use sluice::types::{
    FlushPolicy, LeaderEpoch, Offset, PartitionId, Record, TopicConfig, TopicDefaults, TopicId, TopicName,
    TopicPartition,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PARTITIONS: i32 = 2;
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };
const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

const DURABLE: Plan = Plan::new(Promise::Durable, 5);
const UNTIL_POWER_CUT: Plan = Plan::new(Promise::UntilPowerCut, 5);

#[test]
fn log_on_commit_loses_nothing_that_was_acknowledged() {
    run_seeds("log_on_commit", DURABLE, &|sys, machine| start(sys, machine, FlushPolicy::Commit).boxed());
}

#[test]
fn log_on_os_tells_readers_what_a_power_cut_took() {
    run_seeds("log_on_os", UNTIL_POWER_CUT, &|sys, machine| start(sys, machine, FlushPolicy::Os).boxed());
}

#[test]
fn log_gives_one_trace_for_one_seed() {
    for seed in 0..5 {
        let once = || run(seed, DURABLE, &|sys, machine| start(sys, machine, FlushPolicy::Commit).boxed());
        let (first, second) = (once(), once());
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!(
            differs,
            None,
            "seed {seed}: {:?} and {:?}",
            differs.map(|n| &first[n]),
            differs.map(|n| &second[n])
        );
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// A topic that only a power cut can lose something of must lose something, or the disk twin and the checker see
/// nothing at all.
#[test]
fn log_on_os_does_lose_acknowledged_writes() {
    let lost = |seed| {
        let plan = Plan { faults: &[Fault::PowerCut], ..Plan::new(Promise::Durable, 3) };
        let history = run(seed, plan, &|sys, machine| start(sys, machine, FlushPolicy::Os).boxed());
        !check(&history, Promise::Durable).is_empty()
    };
    assert!((0..10).any(lost), "ten power cuts without a sync, and nothing is missed");
}

/// With acknowledgements that do not wait for the sync, writes are lost, and the checker says so.
#[cfg(feature = "sabotage")]
#[test]
fn log_that_acknowledges_before_the_sync_is_caught() {
    let bug = &sluice::log::sabotage::ACK_BEFORE_FSYNC;
    let found =
        first_seed_that_sees(bug, 20, DURABLE, &|sys, machine| start(sys, machine, FlushPolicy::Commit).boxed());
    let (seed, anomalies) = found.expect("20 seeds of power cuts show a lost write");
    println!("seen at seed {seed}: {}", anomalies[0]);
    // Where the log sees by itself that something is missing, it says so and does not serve the partition.
    let expected = |anomaly: &Anomaly| [Rule::LostWrite, Rule::Unavailable].contains(&anomaly.rule);
    assert!(anomalies.iter().any(expected), "{anomalies:?}");
}

async fn start(sys: Sys, machine: i32, flush: FlushPolicy) -> Result<Arc<dyn Subject>, String> {
    let mut topic = TopicConfig::new(&TopicDefaults { flush, segment_bytes: 64 << 10, ..TopicDefaults::default() });
    topic.retention = None;
    let config = LogConfig { topic };
    let known = {
        let config = config.clone();
        move |id: TopicPartition| (id.topic == TOPIC && id.partition.get() < PARTITIONS).then(|| config.clone())
    };
    let settings = LogSettings {
        tail_ring_bytes: 64 << 10,
        group_bytes: 128 << 10,
        staged_bytes_per_partition: 1 << 20,
        staged_bytes: 1 << 30,
        flush_interval: Duration::from_millis(100),
        idempotency_keys_per_partition: 10_000,
        idempotency_retention: Duration::from_secs(86_400),
        open_files: 16,
    };
    let text = |error: LogError| error.to_string();
    let progress = Arc::new(|_| {});
    sys.disk.create_dir_all(&PathBuf::from("/data/topics")).map_err(|error| error.to_string())?;
    sys.disk.sync_dir(&PathBuf::from("/data")).map_err(|error| error.to_string())?;
    sys.disk.sync_dir(&PathBuf::from("/")).map_err(|error| error.to_string())?;
    let manager = LogManager::open(sys, PathBuf::from("/data/topics"), settings, Arc::new(known), progress);
    let manager = manager.await.map_err(text)?;
    let mut logs = Vec::new();
    for partition in 0..PARTITIONS {
        let name = TopicName::new("t").expect("a good name");
        let log = manager.create(TOPIC, &name, PartitionId::new(partition), config.clone()).await.map_err(text)?;
        log.become_leader(LeaderEpoch::new(machine)).await.map_err(text)?;
        logs.push(log);
    }
    manager.start_background();
    Ok(Arc::new(Logs { manager, logs }))
}

struct Logs {
    manager: Arc<LogManager>,
    logs: Vec<Arc<PartitionLog>>,
}

impl Subject for Logs {
    fn partitions(&self) -> i32 {
        PARTITIONS
    }

    fn send<'a>(&'a self, partition: i32, key: [u8; 16], values: &'a [String]) -> BoxFuture<'a, Sent> {
        async move {
            let log = &self.logs[partition as usize];
            // A power cut may keep the first batches of an append and lose the rest: then the rest is sent, as the
            // engine does it.
            let mut offsets: Vec<Option<i64>> = vec![None; values.len()];
            for entry in log.idempotency(&key) {
                let Some(offset) = entry.offset else {
                    return Sent::Unknown("an earlier attempt is in flight".to_owned());
                };
                offsets[entry.index as usize] = Some(offset.get());
            }
            let missing: Vec<u32> =
                (0u32..).zip(&offsets).filter(|(_, o)| o.is_none()).map(|(index, _)| index).collect();
            if !missing.is_empty() {
                let record = |index: &u32| {
                    let value = Bytes::from(values[*index as usize].clone());
                    Record { value: Some(value), ..Record::default() }
                };
                let marked = missing.iter().map(|index| (*index, key)).collect();
                let request = AppendRecords {
                    records: missing.iter().map(record).collect(),
                    idempotency: Some(IdempotencyMark { key, records: marked, per_record: false }),
                    hold: None,
                };
                let whole = missing.len() == values.len();
                let refused =
                    |e: LogError| if whole { Sent::Refused(e.to_string()) } else { Sent::Unknown(e.to_string()) };
                let outcome = match log.append(request) {
                    Err(error) => return refused(error),
                    Ok(append) => append.await,
                };
                match outcome {
                    Ok(outcome) => {
                        for (offset, index) in (outcome.base_offset.get()..).zip(missing) {
                            offsets[index as usize] = Some(offset);
                        }
                    }
                    Err(error @ LogError::DiskFull) => return refused(error),
                    Err(error) => return Sent::Unknown(error.to_string()),
                }
            }
            Sent::Acknowledged(offsets.into_iter().flatten().collect())
        }
        .boxed()
    }

    fn read(&self, partition: i32, from: i64) -> BoxFuture<'_, Option<Page>> {
        async move {
            let log = &self.logs[partition as usize];
            let progress = log.progress();
            if !progress.online {
                return None;
            }
            let (log_start, end) = (progress.log_start.get(), progress.high_watermark.get());
            let mut page = Page { log_start, end, records: Vec::new() };
            if from > end {
                return Some(page);
            }
            let batches = log.read(Offset::new(from), Offset::new(end), 32 << 10).await.ok()?;
            for batch in batches {
                for record in batch.records(LIMIT).expect("a stored batch has a good head") {
                    let record = record.expect("a stored batch has good records");
                    let offset = record.offset.get();
                    if offset >= from && offset < end {
                        let value = record.value.expect("every value is one");
                        let value = String::from_utf8(value.to_vec()).expect("every value is text");
                        page.records.push((offset, record.leader_epoch.get(), value));
                    }
                }
            }
            Some(page)
        }
        .boxed()
    }

    fn epoch_end(&self, partition: i32, epoch: i32) -> BoxFuture<'_, Option<(i32, i64)>> {
        let log = &self.logs[partition as usize];
        let (epoch, end) = log.epoch_end(LeaderEpoch::new(epoch));
        std::future::ready(Some((epoch.get(), end.get()))).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let closed = tokio::time::timeout(Duration::from_secs(60), self.manager.close()).await;
            assert!(closed.is_ok(), "the logs do not close");
        }
        .boxed()
    }
}

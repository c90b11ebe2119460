//! The log as a whole, on the simulated disk and on the real one.

mod append;
mod batches;
mod compact;
mod crash;
mod manage;
mod stored;

use super::*;
use crate::sys::sim::{self, SimDisk};
use crate::sys::{OsRng, RealDisk, Sys, SystemClock, TcpNetwork, ThreadPool};
use crate::types::{
    FlushPolicy, LeaderEpoch, Offset, PartitionId, Record, TopicConfig, TopicDefaults, TopicId, TopicName,
    TopicPartition,
};
use bytes::Bytes;
use std::{path::PathBuf, sync::Arc, time::Duration};

const TOPIC: TopicId = TopicId::from_random([1; 16]);
const ID: TopicPartition = TopicPartition { topic: TOPIC, partition: PartitionId::ZERO };
const START_MS: i64 = 1_700_000_000_000;

fn settings() -> LogSettings {
    LogSettings {
        tail_ring_bytes: 1 << 20,
        group_bytes: 4096,
        staged_bytes_per_partition: 1 << 20,
        staged_bytes: 1 << 30,
        flush_interval: Duration::from_millis(100),
        idempotency_keys_per_partition: 1000,
        idempotency_retention: Duration::from_hours(24),
        open_files: 100,
    }
}

fn config() -> LogConfig {
    LogConfig { topic: TopicConfig::new(&TopicDefaults::default()) }
}

fn small_segments() -> LogConfig {
    let mut config = config();
    config.topic.segment_bytes = 16 << 10;
    config
}

fn config_with(flush: FlushPolicy) -> LogConfig {
    let mut config = config();
    config.topic.flush = flush;
    config
}

fn record(value: impl Into<Vec<u8>>) -> Record {
    Record { value: Some(Bytes::from(value.into())), ..Record::default() }
}

fn request(values: &[&str]) -> AppendRecords {
    AppendRecords { records: values.iter().map(|v| record(*v)).collect(), idempotency: None, hold: None }
}

/// The real machine, with its data in a folder of its own.
fn real() -> (Sys, tempfile::TempDir) {
    let sys = Sys {
        clock: Arc::new(SystemClock::default()),
        disk: Arc::new(RealDisk),
        network: Arc::new(TcpNetwork),
        rng: Arc::new(OsRng),
        io: Arc::new(ThreadPool::default()),
    };
    (sys, tempfile::tempdir().unwrap())
}

async fn open_in(sys: Sys, dir: PathBuf, settings: LogSettings, config: LogConfig) -> Arc<LogManager> {
    LogManager::open(sys, dir, settings, Arc::new(move |_| Some(config.clone())), Arc::new(|_| {})).await.unwrap()
}

/// A log on a simulated disk that is started again and again.
struct Machine {
    disk: SimDisk,
    seed: u64,
    settings: LogSettings,
    config: LogConfig,
}

impl Machine {
    fn new(seed: u64, config: LogConfig) -> Self {
        Self { disk: SimDisk::new(seed), seed, settings: settings(), config }
    }

    async fn start(&self) -> (Arc<LogManager>, Arc<PartitionLog>) {
        let sys = sim::machine(&self.disk, self.seed, START_MS);
        sys.disk.create_dir_all(&self.dir()).unwrap();
        sys.disk.sync_dir(&PathBuf::from("/")).unwrap();
        let manager = open_in(sys, self.dir(), self.settings.clone(), self.config.clone()).await;
        let name = TopicName::new("games").unwrap();
        let log = manager.create(TOPIC, &name, PartitionId::ZERO, self.config.clone()).await.unwrap();
        (manager, log)
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from("/data")
    }

    fn folder(&self) -> PathBuf {
        self.dir().join(layout::folder_name(ID))
    }

    fn log_file(&self, base: i64) -> PathBuf {
        layout::file_path(&self.folder(), Offset::new(base), layout::FileKind::Log)
    }

    fn len(&self, path: &std::path::Path) -> u64 {
        self.disk.files().into_iter().find(|(p, _)| p == path).map_or(0, |(_, len)| len)
    }
}

async fn append(log: &PartitionLog, values: &[&str]) -> Result<AppendOutcome, LogError> {
    log.append(request(values))?.await
}

/// Everything from the log start to the high watermark, as (offset, value).
async fn read_all(log: &PartitionLog) -> Vec<(i64, String)> {
    let progress = log.progress();
    read_from(log, progress.log_start.offset(), 64 << 10).await.unwrap()
}

async fn read_from(log: &PartitionLog, from: Offset, max_bytes: usize) -> Result<Vec<(i64, String)>, LogError> {
    let end = log.progress().high_watermark.offset();
    let mut next = from;
    let mut found = Vec::new();
    while next < end {
        let batches = log.read(next, end, max_bytes).await?;
        let Some(last) = batches.last() else { break };
        next = last.header().next_offset();
        for batch in &batches {
            for record in batch.records(crate::codec::DecompressLimit { max_bytes: 1 << 24 }).unwrap() {
                let record = record.unwrap();
                if record.offset >= from {
                    found.push((record.offset.get(), String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
                }
            }
        }
    }
    Ok(found)
}

fn numbered(count: i64) -> Vec<(i64, String)> {
    (0..count).map(|i| (i, value(i))).collect()
}

/// A value that is not all the same bytes, and about 100 of them.
fn value(i: i64) -> String {
    format!("{i:08}-{}", "abcdefghijklmnopqrstuvwxyz".repeat(1 + i as usize % 6))
}

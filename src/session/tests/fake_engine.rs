//! An engine in memory, for tests: real batches, watches and epochs, no disk.

use crate::codec::{BatchBuilder, Compression};
use crate::engine::{
    AlterTopic, Answer, BrokerInfo, ClusterInfo, CreateTopic, Engine, EngineError, EpochEnd, FetchRequest,
    FetchResponse, OffsetSpec, ProduceReceipt, ProduceRequest, ProducedRecord, RecordBatch, SnapshotPage,
    TopicDescription, TopicInfo, Truncation, ViewSnapshot,
};
use crate::types::{
    HighWatermark, LeaderEpoch, LogEndOffset, LogStartOffset, Offset, PartitionId, PartitionProgress, Record,
    StoredRecord, TopicConfig, TopicDefaults, TopicId, TopicName, partition_for_key,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

#[derive(Default)]
struct Partition {
    batches: Vec<RecordBatch>,
    progress: watch::Sender<PartitionProgress>,
    end: i64,
}

struct Topic {
    info: Arc<TopicInfo>,
    partitions: Vec<Partition>,
}

/// See the module.
#[derive(Default)]
pub struct FakeEngine {
    topics: Mutex<BTreeMap<TopicName, Topic>>,
    changes: watch::Sender<u64>,
    ids: Mutex<u8>,
}

impl FakeEngine {
    /// Makes a topic (again).
    pub fn create(&self, name: &str, partitions: i32) -> Arc<TopicInfo> {
        let name = TopicName::new(name).unwrap();
        let mut ids = self.ids.lock();
        *ids += 1;
        let info = Arc::new(TopicInfo {
            name: name.clone(),
            id: TopicId::from_random([*ids; 16]),
            partitions,
            replication_factor: 1,
            config: TopicConfig::new(&TopicDefaults::default()),
            overrides: BTreeMap::new(),
        });
        let partitions = (0..partitions).map(|_| Partition::new()).collect();
        self.topics.lock().insert(name, Topic { info: info.clone(), partitions });
        self.changes.send_modify(|n| *n += 1);
        info
    }

    /// Deletes a topic.
    pub fn delete(&self, name: &str) {
        self.topics.lock().remove(&TopicName::new(name).unwrap());
        self.changes.send_modify(|n| *n += 1);
    }

    /// Adds partitions.
    pub fn grow(&self, name: &str, partitions: i32) {
        let mut topics = self.topics.lock();
        let topic = topics.get_mut(&TopicName::new(name).unwrap()).unwrap();
        topic.info = Arc::new(TopicInfo { partitions, ..(*topic.info).clone() });
        topic.partitions.resize_with(partitions as usize, Partition::new);
        drop(topics);
        self.changes.send_modify(|n| *n += 1);
    }

    fn with<T>(&self, name: &str, partition: i32, f: impl FnOnce(&mut Partition) -> T) -> T {
        let mut topics = self.topics.lock();
        f(&mut topics.get_mut(&TopicName::new(name).unwrap()).unwrap().partitions[partition as usize])
    }

    /// Appends one batch.
    pub fn append(&self, name: &str, partition: i32, records: &[(Option<&str>, Option<&str>)]) -> i64 {
        self.with(name, partition, |p| {
            let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
            let records: Vec<Record> = records
                .iter()
                .map(|(key, value)| Record { key: key.map(bytes), value: value.map(bytes), ..Record::default() })
                .collect();
            p.append(&records)
        })
    }

    /// Removes batches below an offset.
    pub fn retain_from(&self, name: &str, partition: i32, offset: i64) {
        self.with(name, partition, |p| {
            p.batches.retain(|b| b.header().last_offset().get() >= offset);
            p.progress.send_modify(|progress| progress.log_start = LogStartOffset::new(offset));
        });
    }

    /// A new leader whose log ends at `offset`.
    pub fn fail_over(&self, name: &str, partition: i32, offset: i64) {
        self.with(name, partition, |p| {
            p.batches.retain(|b| b.header().last_offset().get() < offset);
            p.end = offset;
            p.progress.send_modify(|progress| {
                progress.high_watermark = HighWatermark::new(offset);
                progress.leader_epoch = progress.leader_epoch.plus(1);
            });
        });
    }

    /// Takes a partition off line, or back.
    pub fn set_online(&self, name: &str, partition: i32, online: bool) {
        self.with(name, partition, |p| p.progress.send_modify(|progress| progress.online = online));
    }

    fn partition<T>(
        &self,
        topic: TopicId,
        partition: PartitionId,
        f: impl FnOnce(&mut Partition) -> T,
    ) -> Result<T, EngineError> {
        let mut topics = self.topics.lock();
        let found = topics.values_mut().find(|t| t.info.id == topic);
        let found = found.ok_or_else(|| EngineError::UnknownTopic("?".into()))?;
        Ok(f(&mut found.partitions[partition.get() as usize]))
    }

    fn rows(&self, topic: TopicId, partition: PartitionId, below: i64) -> Vec<(Bytes, StoredRecord)> {
        let records = self.partition(topic, partition, |p| p.records()).unwrap();
        let mut latest = BTreeMap::new();
        for record in records.into_iter().filter(|r| r.offset.get() < below) {
            if let Some(key) = record.key.clone() {
                latest.insert(key, record);
            }
        }
        latest.into_iter().filter(|(_, r)| r.value.is_some()).collect()
    }
}

impl Partition {
    fn new() -> Self {
        let progress = watch::Sender::new(PartitionProgress { online: true, ..PartitionProgress::default() });
        Self { batches: Vec::new(), progress, end: 0 }
    }

    fn append(&mut self, records: &[Record]) -> i64 {
        let epoch = self.progress.borrow().leader_epoch;
        let base = self.end;
        let mut builder = BatchBuilder::new(Offset::new(base), epoch);
        for (i, record) in records.iter().enumerate() {
            builder.push(record.timestamp_ms.unwrap_or(1000 + base + i as i64), record);
        }
        let mut bytes = builder.finish(Compression::None);
        self.batches.push(RecordBatch::split_from(&mut bytes).unwrap());
        self.end += records.len() as i64;
        let end = self.end;
        self.progress.send_modify(|progress| progress.high_watermark = HighWatermark::new(end));
        base
    }

    fn records(&self) -> Vec<StoredRecord> {
        let limit = crate::engine::DecompressLimit { max_bytes: 1 << 20 };
        self.batches.iter().flat_map(|b| b.records(limit).unwrap().map(Result::unwrap)).collect()
    }
}

fn ready<T: Send + 'static>(result: Result<T, EngineError>) -> Answer<'static, T> {
    Box::pin(async move {
        // A real engine yields now and then.
        tokio::task::yield_now().await;
        result
    })
}

impl Engine for FakeEngine {
    fn create_topic(&self, _: CreateTopic) -> Answer<'_, TopicDescription> {
        ready(Err(EngineError::Unsupported("tests")))
    }
    fn topic(&self, name: &TopicName) -> Option<Arc<TopicInfo>> {
        self.topics.lock().get(name).map(|t| t.info.clone())
    }
    fn topics(&self) -> Vec<Arc<TopicInfo>> {
        self.topics.lock().values().map(|t| t.info.clone()).collect()
    }
    fn watch_topics(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn describe_topic(&self, _: &TopicName) -> Answer<'_, TopicDescription> {
        ready(Err(EngineError::Unsupported("tests")))
    }
    fn alter_topic(&self, _: &TopicName, _: AlterTopic) -> Answer<'_, TopicDescription> {
        ready(Err(EngineError::Unsupported("tests")))
    }
    fn delete_topic(&self, name: &TopicName) -> Answer<'_, ()> {
        self.delete(name.as_str());
        ready(Ok(()))
    }
    fn truncate(&self, _: &TopicName, _: Vec<Truncation>) -> Answer<'_, Vec<(PartitionId, Offset)>> {
        ready(Err(EngineError::Unsupported("tests")))
    }
    fn topic_or_create(&self, name: &TopicName) -> Answer<'_, Arc<TopicInfo>> {
        ready(self.topic(name).ok_or_else(|| EngineError::UnknownTopic(name.to_string())))
    }
    fn produce(&self, request: ProduceRequest) -> Answer<'_, ProduceReceipt> {
        let count = {
            let topics = self.topics.lock();
            topics.values().find(|t| t.info.id == request.topic).map_or(0, |t| t.info.partitions)
        };
        let stored = request.records.iter().map(|record| {
            let keyed = record.record.key.as_ref().map(|key| partition_for_key(key, count));
            let partition = record.partition.or(keyed).unwrap_or(PartitionId::new(0));
            let base = self.partition(request.topic, partition, |p| p.append(std::slice::from_ref(&record.record)))?;
            Ok(ProducedRecord { partition, offset: Offset::new(base), timestamp_ms: 1000 + base })
        });
        let results = stored.collect();
        ready(Ok(ProduceReceipt { results, replayed: false }))
    }
    fn fetch(&self, request: FetchRequest) -> Answer<'_, FetchResponse> {
        let result = self.partition(request.topic, request.partition, |p| {
            let progress = *p.progress.borrow();
            let from = request.from;
            if from < progress.log_start.offset() || from > progress.high_watermark.offset() {
                return Err(EngineError::OffsetOutOfRange {
                    partition: request.partition,
                    requested: from.get(),
                    log_start: progress.log_start,
                    log_end: LogEndOffset::new(p.end),
                });
            }
            let mut bytes = 0;
            let fits = |batch: &&RecordBatch| {
                let first = bytes == 0;
                bytes += batch.header().size;
                first || bytes <= request.max_bytes
            };
            let found = p.batches.iter().filter(|b| b.header().last_offset() >= from).take_while(fits);
            Ok(FetchResponse {
                batches: found.cloned().collect(),
                log_start: progress.log_start,
                high_watermark: progress.high_watermark,
                leader_epoch: progress.leader_epoch,
            })
        });
        ready(result.and_then(|r| r))
    }
    fn watch(&self, topic: TopicId, partition: PartitionId) -> Result<watch::Receiver<PartitionProgress>, EngineError> {
        self.partition(topic, partition, |p| p.progress.subscribe())
    }
    fn offset_for(&self, topic: TopicId, partition: PartitionId, spec: OffsetSpec) -> Answer<'_, Offset> {
        ready(self.partition(topic, partition, |p| {
            let progress = *p.progress.borrow();
            match spec {
                OffsetSpec::Earliest => progress.log_start.offset(),
                OffsetSpec::Latest => progress.high_watermark.offset(),
                OffsetSpec::Timestamp(ms) => p
                    .records()
                    .iter()
                    .find(|r| r.timestamp_ms >= ms)
                    .map_or(progress.high_watermark.offset(), |r| r.offset),
            }
        }))
    }
    fn epoch_end(&self, topic: TopicId, partition: PartitionId, epoch: LeaderEpoch) -> Answer<'_, EpochEnd> {
        ready(self.partition(topic, partition, |p| {
            if epoch >= p.progress.borrow().leader_epoch {
                return EpochEnd { epoch, end: Offset::new(p.end) };
            }
            let upto = p.batches.iter().rfind(|b| b.header().leader_epoch <= epoch);
            let end = upto.map_or(p.progress.borrow().log_start.offset(), |b| b.header().next_offset());
            EpochEnd { epoch, end }
        }))
    }
    fn latest(&self, topic: TopicId, key: &[u8]) -> Answer<'_, Option<(PartitionId, StoredRecord)>> {
        let count = self.topics().iter().find(|t| t.id == topic).map_or(0, |t| t.partitions);
        let rows = (0..count).flat_map(|p| {
            let partition = PartitionId::new(p);
            self.rows(topic, partition, i64::MAX).into_iter().map(move |(key, row)| (key, partition, row))
        });
        let found = rows.filter(|(k, ..)| k == key).max_by_key(|(_, p, r)| (r.timestamp_ms, *p, r.offset));
        ready(Ok(found.map(|(_, p, r)| (p, r))))
    }
    fn snapshot(&self, topic: TopicId, partitions: Vec<PartitionId>) -> Answer<'_, ViewSnapshot> {
        let applied = partitions
            .into_iter()
            .map(|p| self.partition(topic, p, |part| (p, Offset::new(part.end), part.progress.borrow().leader_epoch)));
        ready(applied.collect::<Result<_, _>>().map(|applied| ViewSnapshot { topic, applied }))
    }
    fn snapshot_page<'a>(
        &'a self,
        snapshot: &'a ViewSnapshot,
        after: Option<(PartitionId, Bytes)>,
        max_bytes: usize,
    ) -> Answer<'a, SnapshotPage> {
        let rows = snapshot.applied.iter().flat_map(|(partition, below, _)| {
            let rows = self.rows(snapshot.topic, *partition, i64::MAX);
            rows.into_iter().filter(|(_, r)| r.offset < *below).map(|(key, row)| (*partition, key, row))
        });
        let rows = rows.filter(|(p, k, _)| after.as_ref().is_none_or(|after| (p, k) > (&after.0, &after.1)));
        let (mut records, mut bytes, mut next) = (Vec::new(), 0, None);
        for (partition, key, row) in rows {
            if bytes >= max_bytes {
                next = records.last().map(|(p, r): &(PartitionId, StoredRecord)| (*p, r.key.clone().unwrap()));
                break;
            }
            bytes += key.len() + row.value.as_ref().map_or(0, Bytes::len);
            records.push((partition, row));
        }
        ready(Ok(SnapshotPage { records, next }))
    }
    fn cluster(&self) -> ClusterInfo {
        ClusterInfo {
            cluster_id: crate::types::ClusterId::from_random([1; 16]),
            broker_id: crate::types::BrokerId::new(0),
            controller_id: None,
            metadata_version: 0,
        }
    }
    fn brokers(&self) -> Vec<BrokerInfo> {
        Vec::new()
    }
    fn is_ready(&self) -> bool {
        true
    }
}

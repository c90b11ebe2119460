//! An engine in memory for this door's tests: topics, produce and Idempotency-Keys, and failures on order.

use crate::{
    engine::{
        AlterTopic, Answer, BrokerInfo, ClusterInfo, CreateTopic, Engine, EngineError, EpochEnd, FetchRequest,
        FetchResponse, OffsetSpec, PartitionDescription, ProduceReceipt, ProduceRequest, ProducedRecord,
        RecordToProduce, SnapshotPage, TaggedContent, TopicDescription, TopicInfo, Truncation, ViewSnapshot,
        check_record,
    },
    http::{AppState, Settings},
    sys::sim::{SimDisk, machine},
    types::{
        BrokerId, ClusterId, HighWatermark, LeaderEpoch, LogEndOffset, LogStartOffset, Offset, PartitionId,
        PartitionProgress, StoredRecord, TopicConfig, TopicDefaults, TopicId, TopicName, partition_for_key,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    topics: BTreeMap<TopicName, (Arc<TopicInfo>, Vec<Vec<RecordToProduce>>)>,
    /// By Idempotency-Key and index: the content's hash and where it is.
    known: BTreeMap<([u8; 16], u32), ([u8; 16], ProducedRecord)>,
    /// What the next records meet instead of being stored, one each.
    failures: VecDeque<Option<EngineError>>,
    calls: usize,
    made: u8,
}

/// The engine.
pub struct FakeEngine {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    auto_create: bool,
    /// What `since_late` says of every topic.
    late: Mutex<Option<Duration>>,
}

impl FakeEngine {
    pub fn new(auto_create: bool) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0), auto_create, late: Mutex::default() })
    }

    /// State for the router, with this engine behind it.
    pub fn app(self: &Arc<Self>, settings: Settings) -> AppState {
        let settings = Settings { auto_create_topics: self.auto_create, ..settings };
        AppState::new(self.clone(), machine(&SimDisk::new(1), 1, 1_700_000_000_000), settings)
    }

    /// The next records meet these instead of being stored; `None` stores one.
    pub fn fail_next(&self, failures: impl IntoIterator<Item = Option<EngineError>>) {
        self.state.lock().failures.extend(failures);
    }

    /// All that was stored in a topic, partition by partition.
    pub fn stored(&self, topic: &str) -> Vec<RecordToProduce> {
        let state = self.state.lock();
        state.topics.get(&TopicName::new(topic).unwrap()).map(|t| t.1.concat()).unwrap_or_default()
    }

    /// Forgets the Idempotency-Keys.
    pub fn state_reset(&self) {
        self.state.lock().known.clear();
    }

    /// From now on what waits to be stored was late so long ago, or never.
    pub fn set_late(&self, ago: Option<Duration>) {
        *self.late.lock() = ago;
    }

    /// How often `produce` was called.
    pub fn calls(&self) -> usize {
        self.state.lock().calls
    }
}

impl State {
    fn create(&mut self, request: CreateTopic) -> Result<TopicDescription, EngineError> {
        if request.name.is_internal() {
            return Err(EngineError::InternalTopic(request.name));
        }
        if self.topics.contains_key(&request.name) {
            return Err(EngineError::TopicExists(request.name));
        }
        self.made += 1;
        let partitions = request.partitions.unwrap_or(3);
        if partitions < 1 {
            return Err(EngineError::InvalidPartitions("at least 1".to_owned()));
        }
        let info = TopicInfo {
            id: TopicId::from_bytes([self.made; 16]),
            partitions,
            replication_factor: request.replication_factor.unwrap_or(1),
            config: TopicConfig::with_overrides(&TopicDefaults::default(), &request.config)?,
            overrides: request.config,
            name: request.name.clone(),
        };
        self.topics.insert(request.name.clone(), (Arc::new(info), vec![Vec::new(); partitions as usize]));
        self.describe(&request.name)
    }

    fn describe(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        let (info, logs) = self.topics.get(name).ok_or_else(|| EngineError::UnknownTopic(name.to_string()))?;
        let partitions = logs.iter().enumerate().map(|(n, log)| PartitionDescription {
            partition: PartitionId::new(n as i32),
            leader: Some(BrokerId::new(1)),
            leader_epoch: LeaderEpoch::new(1),
            replicas: vec![BrokerId::new(1)],
            in_sync_replicas: vec![BrokerId::new(1)],
            log_start: LogStartOffset::ZERO,
            high_watermark: HighWatermark::new(log.len() as i64),
            log_end: LogEndOffset::new(log.len() as i64),
            size_bytes: 0,
            offline: None,
        });
        Ok(TopicDescription { info: info.clone(), partitions: partitions.collect() })
    }

    fn produce(&mut self, request: ProduceRequest) -> Result<ProduceReceipt, EngineError> {
        self.calls += 1;
        let (info, logs) = self
            .topics
            .values_mut()
            .find(|(info, _)| info.id == request.topic)
            .ok_or_else(|| EngineError::UnknownTopic("gone".to_owned()))?;
        let tagged = request.idempotency.is_some();
        if request.records.iter().any(|r| check_record(info, r, tagged).is_err()) {
            let refuse = |r: &RecordToProduce| {
                Err(check_record(info, r, tagged).map_or_else(Into::into, |()| EngineError::RejectedWithRequest))
            };
            return Ok(ProduceReceipt { results: request.records.iter().map(refuse).collect(), replayed: false });
        }
        let mut replayed = !request.records.is_empty();
        let mut results = Vec::new();
        for (n, record) in request.records.into_iter().enumerate() {
            let tag = request.idempotency.as_ref().map(|tag| match &tag.content {
                TaggedContent::Request(hash) => ((tag.key, n as u32), *hash),
                TaggedContent::Records { first_index, hashes } => ((tag.key, first_index + n as u32), hashes[n]),
            });
            if let Some((hash, place)) = tag.as_ref().and_then(|(id, _)| self.known.get(id)) {
                if tag.is_some_and(|(_, now)| now != *hash) {
                    return Err(EngineError::IdempotencyConflict);
                }
                results.push(Ok(*place));
                continue;
            }
            replayed = false;
            if let Some(Some(error)) = self.failures.pop_front() {
                results.push(Err(error));
                continue;
            }
            let key = record.record.key.as_deref().unwrap_or_default();
            let partition = record.partition.unwrap_or_else(|| partition_for_key(key, info.partitions));
            let log = &mut logs[partition.get() as usize];
            let offset = Offset::new(log.len() as i64);
            let place = ProducedRecord {
                partition,
                offset,
                timestamp_ms: record.record.timestamp_ms.unwrap_or(1_700_000_000_000),
            };
            log.push(record);
            if let Some((id, hash)) = tag {
                self.known.insert(id, (hash, place));
            }
            results.push(Ok(place));
        }
        Ok(ProduceReceipt { results, replayed })
    }
}

fn now<'a, T: Send + 'a>(result: Result<T, EngineError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

fn never<'a, T: Send + 'a>() -> Answer<'a, T> {
    now(Err(EngineError::Unsupported("reading from the fake engine")))
}

impl Engine for FakeEngine {
    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicDescription> {
        now(self.state.lock().create(request))
    }

    fn topic(&self, name: &TopicName) -> Option<Arc<TopicInfo>> {
        self.state.lock().topics.get(name).map(|t| t.0.clone())
    }

    fn since_late(&self, _: &TopicName) -> Option<Duration> {
        *self.late.lock()
    }

    fn topics(&self) -> Vec<Arc<TopicInfo>> {
        self.state.lock().topics.values().map(|t| t.0.clone()).collect()
    }

    fn watch_topics(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn describe_topic(&self, name: &TopicName) -> Answer<'_, TopicDescription> {
        now(self.state.lock().describe(name))
    }

    fn alter_topic(&self, name: &TopicName, change: AlterTopic) -> Answer<'_, TopicDescription> {
        let mut state = self.state.lock();
        let Some((info, logs)) = state.topics.get_mut(name) else {
            return now(Err(EngineError::UnknownTopic(name.to_string())));
        };
        let mut changed = TopicInfo::clone(info);
        changed.overrides.extend(change.set);
        change.reset.iter().for_each(|key| drop(changed.overrides.remove(key)));
        match TopicConfig::with_overrides(&TopicDefaults::default(), &changed.overrides) {
            Ok(config) => changed.config = config,
            Err(error) => return now(Err(error.into())),
        }
        let wanted = change.partitions.unwrap_or(changed.partitions);
        if wanted < changed.partitions {
            return now(Err(EngineError::InvalidPartitions("never fewer".to_owned())));
        }
        changed.partitions = wanted;
        logs.resize(wanted as usize, Vec::new());
        *info = Arc::new(changed);
        now(state.describe(name))
    }

    fn delete_topic(&self, name: &TopicName) -> Answer<'_, ()> {
        let gone = self.state.lock().topics.remove(name);
        now(gone.map(drop).ok_or_else(|| EngineError::UnknownTopic(name.to_string())))
    }

    fn truncate(&self, name: &TopicName, truncations: Vec<Truncation>) -> Answer<'_, Vec<(PartitionId, Offset)>> {
        let partitions = match self.topic(name) {
            Some(info) => info.partitions,
            None => return now(Err(EngineError::UnknownTopic(name.to_string()))),
        };
        let moved = truncations.into_iter().map(|t| match t.partition.get() < partitions {
            true => Ok((t.partition, t.before)),
            false => Err(EngineError::UnknownPartition { topic: name.clone(), partition: t.partition, partitions }),
        });
        now(moved.collect())
    }

    fn topic_or_create(&self, name: &TopicName) -> Answer<'_, Arc<TopicInfo>> {
        if let Some(info) = self.topic(name) {
            return now(Ok(info));
        }
        if !self.auto_create {
            return now(Err(EngineError::UnknownTopic(name.to_string())));
        }
        let request =
            CreateTopic { name: name.clone(), partitions: None, replication_factor: None, config: BTreeMap::new() };
        now(self.state.lock().create(request).map(|description| description.info))
    }

    fn produce(&self, request: ProduceRequest) -> Answer<'_, ProduceReceipt> {
        Box::pin(async move { self.state.lock().produce(request) })
    }

    fn fetch(&self, _: FetchRequest) -> Answer<'_, FetchResponse> {
        never()
    }

    fn watch(&self, _: TopicId, _: PartitionId) -> Result<watch::Receiver<PartitionProgress>, EngineError> {
        Err(EngineError::Unsupported("reading from the fake engine"))
    }

    fn offset_for(&self, _: TopicId, _: PartitionId, _: OffsetSpec) -> Answer<'_, Offset> {
        never()
    }

    fn epoch_end(&self, _: TopicId, _: PartitionId, _: LeaderEpoch) -> Answer<'_, EpochEnd> {
        never()
    }

    fn latest(&self, _: TopicId, _: &[u8]) -> Answer<'_, Option<(PartitionId, StoredRecord)>> {
        never()
    }

    fn snapshot(&self, _: TopicId, _: Vec<PartitionId>) -> Answer<'_, ViewSnapshot> {
        never()
    }

    fn snapshot_page<'a>(
        &'a self,
        _: &'a ViewSnapshot,
        _: Option<(PartitionId, bytes::Bytes)>,
        _: usize,
    ) -> Answer<'a, SnapshotPage> {
        never()
    }

    fn cluster(&self) -> ClusterInfo {
        let id = BrokerId::new(1);
        ClusterInfo {
            cluster_id: ClusterId::from_bytes([7; 16]),
            broker_id: id,
            controller_id: Some(id),
            metadata_version: 1,
        }
    }

    fn brokers(&self) -> Vec<BrokerInfo> {
        vec![BrokerInfo { id: BrokerId::new(1), http: None, kafka: None, fenced: false }]
    }

    fn is_ready(&self) -> bool {
        true
    }
}

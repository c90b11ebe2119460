//! The engine of a broker: each partition's request goes to its leader. Every leader is this broker, or the partition
//! has none; when brokers replicate, those led elsewhere will be reached from here, with the same receipts.

use super::batches::ProducerIds;
use super::catalog::Catalog;
use super::groups::{GroupCoordinators, Groups};
use super::produce::Producing;
use super::queues::{QueueCoordinators, Queues};
use super::{
    AlterTopic, Answer, BrokerInfo, ClusterInfo, CreateTopic, Engine, EngineError, EpochEnd, FetchRequest,
    FetchResponse, GroupSettings, LeaseSigner, OffsetSpec, ProduceBatch, ProduceReceipt, ProduceRequest, ProducedBatch,
    ProducerSummary, RecordError, SnapshotPage, StoredFetch, TimestampSpec, TopicDescription, TopicInfo, Truncation,
    ViewSnapshot,
};
use crate::log::{LogError, StoredRead};
use crate::metadata::{Metadata, MetadataError, Refusal};
use crate::replication::{Partition, ReplicaManager, ReplicationError, TopicReplicas};
use crate::sys::Sys;
use crate::types::{
    BrokerId, ClusterId, LeaderEpoch, LogEndOffset, Offset, PartitionId, PartitionProgress, ProducerId, StoredRecord,
    TopicDefaults, TopicId, TopicName,
};
use crate::view::{LatestView, Snapshot, ViewError};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// How soon a partition whose log could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a broker's configuration says about topics.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// This broker.
    pub broker: BrokerId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The defaults of topic configuration.
    pub defaults: TopicDefaults,
    /// Partitions of a topic that does not say.
    pub default_partitions: i32,
    /// Replicas of a topic that does not say.
    pub default_replication_factor: i16,
    /// Whether a produce to an unknown topic makes it.
    pub auto_create_topics: bool,
    /// Consumer groups.
    pub groups: GroupSettings,
    /// Partitions of the internal topic of groups, where it is made.
    pub group_partitions: i32,
    /// Signs the leases of queues.
    pub leases: LeaseSigner,
}

/// A broker's engine.
pub struct RoutedEngine {
    pub(super) sys: Sys,
    pub(super) settings: EngineSettings,
    pub(super) metadata: Metadata,
    pub(super) replicas: Arc<ReplicaManager>,
    view: Arc<LatestView>,
    producing: Producing,
    pub(super) groups: GroupCoordinators,
    pub(super) producer_ids: ProducerIds,
    pub(super) queues: QueueCoordinators,
    catalog: ArcSwap<Catalog>,
    /// The metadata version that [`Self::follow`] has acted on.
    applied: watch::Sender<u64>,
    draining: AtomicBool,
}

impl RoutedEngine {
    /// Builds it and acts on the metadata as it is now. [`Self::follow`] must run for it to see changes.
    pub async fn start(
        sys: Sys,
        settings: EngineSettings,
        metadata: Metadata,
        replicas: Arc<ReplicaManager>,
        view: Arc<LatestView>,
    ) -> Arc<Self> {
        let groups = GroupCoordinators::new(sys.clone(), settings.groups.clone(), settings.group_partitions);
        let queues = QueueCoordinators::new(sys.clone(), settings.leases.clone());
        let engine = Arc::new(Self {
            groups,
            queues,
            sys,
            settings,
            metadata,
            replicas,
            view,
            producing: Producing::default(),
            producer_ids: ProducerIds::default(),
            catalog: ArcSwap::default(),
            applied: watch::Sender::new(0),
            draining: AtomicBool::new(false),
        });
        engine.act_on_image().await;
        // A topic may have been deleted while nobody followed it.
        engine.forget_views();
        engine
    }

    /// Acts on every change of the metadata, until the metadata is shut down.
    pub async fn follow(self: Arc<Self>) {
        let mut images = self.metadata.watch();
        images.mark_unchanged();
        // What came between the start and the first look.
        let mut complete = self.act_on_image().await;
        loop {
            let changed = if complete {
                images.changed().await
            } else {
                tokio::time::timeout(RETRY, images.changed()).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return;
            }
            complete = self.act_on_image().await;
        }
    }

    /// From now on [`Engine::is_ready`] says no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Stops the coordinators. The doors are closed by then.
    pub fn stop_coordinators(&self) {
        self.groups.stop();
        self.queues.stop();
    }

    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    async fn act_on_image(&self) -> bool {
        let image = self.metadata.image();
        let next = self.catalog.load().next(&image, &self.settings.defaults);
        let complete = self.replicas.apply(next.assignments()).await;
        self.groups.act_on(&image, &self.replicas);
        self.queues.act_on(&image, &self.replicas);
        // After the replicas: a topic that a door can see can be written.
        let before = self.catalog.swap(Arc::new(next));
        if before.topics().any(|entry| image.topic(entry.info.id).is_none()) {
            self.forget_views();
        }
        self.applied.send_replace(image.version);
        complete
    }

    /// Removes the views of deleted topics, without holding up what follows: it may be many rows.
    fn forget_views(&self) {
        let (view, metadata) = (self.view.clone(), self.metadata.clone());
        tokio::spawn(async move {
            if let Err(error) = view.retain(|id| metadata.image().topic(id.topic).is_some()).await {
                tracing::warn!(%error, "rows of deleted topics are left in the view until the next start");
            }
        });
    }

    /// Waits until this broker has acted on all that the metadata says now.
    pub(super) async fn caught_up(&self) {
        let version = self.metadata.image().version;
        let mut applied = self.applied.subscribe();
        // It ends: the sender is ours, and `follow` acts on each image.
        let _ = applied.wait_for(|applied| *applied >= version).await;
    }

    fn info(&self, id: TopicId) -> Result<Arc<TopicInfo>, EngineError> {
        self.catalog.load().by_id(id).map(|e| e.info.clone()).ok_or_else(|| EngineError::UnknownTopic(id.to_string()))
    }

    fn topic_replicas(&self, id: TopicId) -> Result<Arc<TopicReplicas>, EngineError> {
        self.replicas.topic(id).ok_or_else(|| EngineError::UnknownTopic(id.to_string()))
    }

    pub(super) fn partition(
        &self,
        topic: TopicId,
        id: PartitionId,
    ) -> Result<(Arc<TopicInfo>, Arc<Partition>), EngineError> {
        let info = self.info(topic)?;
        if id.get() >= info.partitions {
            let (topic, partitions) = (info.name.clone(), info.partitions);
            return Err(EngineError::UnknownPartition { topic, partition: id, partitions });
        }
        match self.topic_replicas(topic)?.partition(id) {
            Some(partition) if partition.is_leader() => Ok((info, partition.clone())),
            _ => Err(EngineError::NoLeader(id)),
        }
    }

    fn ensure_view(&self, topic: TopicId, ids: &[PartitionId]) -> Result<(), EngineError> {
        for id in ids {
            self.view.ensure(self.partition(topic, *id)?.1.log());
        }
        Ok(())
    }
}

impl Engine for RoutedEngine {
    fn create_topic(&self, request: CreateTopic) -> Answer<'_, TopicDescription> {
        Box::pin(self.create(request))
    }

    fn check_create_topic(&self, request: CreateTopic) -> Answer<'_, ()> {
        let checked = self.check_name(&request.name).and_then(|()| self.prepare_create(request).map(drop));
        Box::pin(async { checked })
    }

    fn check_alter_topic(&self, name: &TopicName, change: AlterTopic) -> Answer<'_, ()> {
        let checked = self.prepare_alter(name, change).map(drop);
        Box::pin(async { checked })
    }

    fn topic(&self, name: &TopicName) -> Option<Arc<TopicInfo>> {
        self.catalog.load().by_name(name).map(|entry| entry.info.clone())
    }

    fn topics(&self) -> Vec<Arc<TopicInfo>> {
        self.catalog.load().topics().map(|entry| entry.info.clone()).collect()
    }

    fn watch_topics(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn describe_topic(&self, name: &TopicName) -> Answer<'_, TopicDescription> {
        let described = self.describe(name);
        Box::pin(async { described })
    }

    fn alter_topic(&self, name: &TopicName, change: AlterTopic) -> Answer<'_, TopicDescription> {
        Box::pin(self.alter(name.clone(), change))
    }

    fn delete_topic(&self, name: &TopicName) -> Answer<'_, ()> {
        Box::pin(self.delete(name.clone()))
    }

    fn truncate(&self, name: &TopicName, truncations: Vec<Truncation>) -> Answer<'_, Vec<(PartitionId, Offset)>> {
        let topic = self.topic(name).ok_or_else(|| EngineError::UnknownTopic(name.to_string()));
        Box::pin(async move {
            let id = topic?.id;
            // All are checked before the first is done.
            let mut checked = Vec::with_capacity(truncations.len());
            for truncation in truncations {
                let (info, partition) = self.partition(id, truncation.partition)?;
                let progress = partition.log().progress();
                if truncation.before > progress.high_watermark.offset() {
                    return Err(out_of_range(truncation.partition, truncation.before, progress));
                }
                checked.push((info, partition, truncation));
            }
            let mut starts = Vec::with_capacity(checked.len());
            for (info, partition, Truncation { partition: id, before }) in checked {
                let start = partition.log().truncate_prefix(before).await.map_err(|e| log_error(&info, id, e))?;
                starts.push((id, start));
            }
            Ok(starts)
        })
    }

    fn topic_or_create(&self, name: &TopicName) -> Answer<'_, Arc<TopicInfo>> {
        Box::pin(self.find_or_create(name.clone()))
    }

    fn since_late(&self, topic: &TopicName) -> Option<Duration> {
        let id = self.catalog.load().by_name(topic)?.info.id;
        self.replicas.topic(id)?.partitions().filter_map(|partition| partition.log().since_late()).min()
    }

    fn produce(&self, request: ProduceRequest) -> Answer<'_, ProduceReceipt> {
        Box::pin(async move {
            let info = self.info(request.topic)?;
            if info.name.is_internal() {
                return Err(EngineError::InternalTopic(info.name.clone()));
            }
            let replicas = self.topic_replicas(request.topic)?;
            self.producing.produce(&info, &replicas, request).await
        })
    }

    fn fetch(&self, request: FetchRequest) -> Answer<'_, FetchResponse> {
        Box::pin(async move {
            let FetchRequest { topic, partition: id, from, max_bytes } = request;
            let (info, partition) = self.partition(topic, id)?;
            let read = partition.read(from, max_bytes).await.map_err(|e| replication_error(&info, id, e))?;
            Ok(FetchResponse {
                batches: read.batches,
                log_start: read.progress.log_start,
                high_watermark: read.progress.high_watermark,
                leader_epoch: read.progress.leader_epoch,
            })
        })
    }

    fn fetch_stored(&self, request: FetchRequest) -> Answer<'_, StoredFetch> {
        Box::pin(async move {
            let FetchRequest { topic, partition: id, from, max_bytes } = request;
            let (info, partition) = self.partition(topic, id)?;
            let read = partition.read_stored(from, max_bytes).await.map_err(|e| replication_error(&info, id, e))?;
            let (StoredRead { pieces, first_batch, next_offset }, progress) = read;
            let (log_start, high_watermark) = (progress.log_start, progress.high_watermark);
            Ok(StoredFetch { pieces, first_batch, next_offset, log_start, high_watermark })
        })
    }

    fn watch(&self, topic: TopicId, partition: PartitionId) -> Result<watch::Receiver<PartitionProgress>, EngineError> {
        Ok(self.partition(topic, partition)?.1.watch())
    }

    fn offset_for(&self, topic: TopicId, id: PartitionId, spec: OffsetSpec) -> Answer<'_, Offset> {
        Box::pin(async move {
            let (info, partition) = self.partition(topic, id)?;
            let log = partition.log();
            let progress = log.progress();
            let (start, end) = (progress.log_start.offset(), progress.high_watermark.offset());
            Ok(match spec {
                OffsetSpec::Earliest => start,
                OffsetSpec::Latest => end,
                OffsetSpec::Timestamp(ms) => {
                    let found = log.offset_for_timestamp(ms).await.map_err(|e| log_error(&info, id, e))?;
                    found.map_or(end, |(offset, _)| offset.clamp(start, end))
                }
            })
        })
    }

    fn offset_and_timestamp(
        &self,
        topic: TopicId,
        id: PartitionId,
        spec: TimestampSpec,
    ) -> Answer<'_, Option<(Offset, i64)>> {
        Box::pin(async move {
            let (info, partition) = self.partition(topic, id)?;
            let log = partition.log();
            let wanted = match spec {
                TimestampSpec::AtLeast(ms) => ms,
                TimestampSpec::Greatest => match log.max_timestamp_ms() {
                    Some(ms) => ms,
                    None => return Ok(None),
                },
            };
            log.offset_for_timestamp(wanted).await.map_err(|e| log_error(&info, id, e))
        })
    }

    fn topic_by_id(&self, id: TopicId) -> Option<Arc<TopicInfo>> {
        self.info(id).ok()
    }

    fn produce_batch(&self, request: ProduceBatch) -> Answer<'static, ProducedBatch> {
        let started = self.start_batch(request);
        Box::pin(async move { started?.await })
    }

    fn allocate_producer_id(&self) -> Answer<'_, ProducerId> {
        Box::pin(self.next_producer_id())
    }

    fn producers(&self, topic: TopicId, id: PartitionId) -> Answer<'_, Vec<ProducerSummary>> {
        Box::pin(async move {
            let (info, partition) = self.partition(topic, id)?;
            partition.log().producers().await.map_err(|e| log_error(&info, id, e))
        })
    }

    fn epoch_end(&self, topic: TopicId, id: PartitionId, epoch: LeaderEpoch) -> Answer<'_, EpochEnd> {
        let answer = self.partition(topic, id).map(|(_, partition)| partition.log().epoch_end(epoch));
        Box::pin(async { answer.map(|(epoch, end)| EpochEnd { epoch, end }) })
    }

    fn latest(&self, topic: TopicId, key: &[u8]) -> Answer<'_, Option<(PartitionId, StoredRecord)>> {
        let key = Bytes::copy_from_slice(key);
        Box::pin(async move {
            let partitions: Vec<_> = (0..self.info(topic)?.partitions).map(PartitionId::new).collect();
            self.ensure_view(topic, &partitions)?;
            self.view.latest(topic, &partitions, &key).await.map_err(view_error)
        })
    }

    fn snapshot(&self, topic: TopicId, partitions: Vec<PartitionId>) -> Answer<'_, ViewSnapshot> {
        Box::pin(async move {
            self.ensure_view(topic, &partitions)?;
            let snapshot = self.view.snapshot(topic, &partitions).await.map_err(view_error)?;
            Ok(ViewSnapshot { topic: snapshot.topic, applied: snapshot.applied })
        })
    }

    fn snapshot_page<'a>(
        &'a self,
        snapshot: &'a ViewSnapshot,
        after: Option<(PartitionId, Bytes)>,
        max_bytes: usize,
    ) -> Answer<'a, SnapshotPage> {
        Box::pin(async move {
            let fixed = Snapshot { topic: snapshot.topic, applied: snapshot.applied.clone() };
            let page = self.view.page(&fixed, after, max_bytes).await.map_err(view_error)?;
            Ok(SnapshotPage { records: page.records, next: page.next })
        })
    }

    fn groups(&self) -> Result<&dyn Groups, EngineError> {
        Ok(self)
    }

    fn queues(&self) -> Result<&dyn Queues, EngineError> {
        Ok(self)
    }

    fn cluster(&self) -> ClusterInfo {
        ClusterInfo {
            cluster_id: self.settings.cluster,
            broker_id: self.settings.broker,
            controller_id: self.metadata.controller(),
            metadata_version: self.metadata.image().version,
        }
    }

    fn brokers(&self) -> Vec<BrokerInfo> {
        let image = self.metadata.image();
        let broker = |(id, broker): (&BrokerId, &crate::metadata::BrokerImage)| BrokerInfo {
            id: *id,
            http: broker.http.clone(),
            kafka: broker.kafka.clone(),
            fenced: broker.fenced,
        };
        image.brokers.iter().map(broker).collect()
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.metadata.failure().is_none()
    }
}

fn out_of_range(partition: PartitionId, requested: Offset, progress: PartitionProgress) -> EngineError {
    EngineError::OffsetOutOfRange {
        partition,
        requested: requested.get(),
        log_start: progress.log_start,
        // What readers may see is the end for them.
        log_end: LogEndOffset::from(progress.high_watermark.offset()),
    }
}

pub(super) fn replication_error(topic: &TopicInfo, partition: PartitionId, error: ReplicationError) -> EngineError {
    match error {
        ReplicationError::NotHere | ReplicationError::NotLeader => EngineError::NoLeader(partition),
        ReplicationError::NotEnoughReplicas { in_sync, required } => {
            EngineError::NotEnoughReplicas { partition, in_sync, required }
        }
        ReplicationError::OffsetOutOfRange { requested, progress } => out_of_range(partition, requested, progress),
        ReplicationError::Log(error) => log_error(topic, partition, error),
    }
}

pub(super) fn log_error(topic: &TopicInfo, partition: PartitionId, error: LogError) -> EngineError {
    match error {
        LogError::OffsetOutOfRange { requested, log_start, log_end } => {
            EngineError::OffsetOutOfRange { partition, requested: requested.get(), log_start, log_end }
        }
        LogError::TooLarge { bytes, limit } => RecordError::TooLarge { bytes, limit }.into(),
        LogError::OutOfOrderSequence { expected } => EngineError::OutOfOrderSequence { expected },
        LogError::ProducerFenced { current } => EngineError::ProducerFenced(current),
        LogError::IdempotencyConflict => EngineError::IdempotencyConflict,
        LogError::IdempotencyInFlight => EngineError::IdempotencyInFlight,
        LogError::Overloaded => EngineError::Overloaded,
        LogError::DiskFull => EngineError::DiskFull,
        LogError::Offline(reason) | LogError::Corrupt(reason) => EngineError::PartitionOffline { partition, reason },
        // Deleted under the request: the log is closed for good only after the doors are.
        LogError::Closed => EngineError::UnknownTopic(topic.name.to_string()),
        LogError::Io { .. } | LogError::NewerVersion(_) => EngineError::Internal(error.to_string()),
    }
}

pub(super) fn metadata_error(error: MetadataError) -> EngineError {
    match error {
        MetadataError::Refused(refusal) => refusal_error(refusal),
        MetadataError::TimedOut => EngineError::TimedOut,
        MetadataError::DiskFull => EngineError::DiskFull,
        MetadataError::Closed => EngineError::ShuttingDown,
        other => EngineError::Internal(other.to_string()),
    }
}

fn refusal_error(refusal: Refusal) -> EngineError {
    match refusal {
        Refusal::TopicExists(name) => EngineError::TopicExists(name),
        Refusal::UnknownTopic(id) => EngineError::UnknownTopic(id.to_string()),
        Refusal::InvalidPartitions(text) => EngineError::InvalidPartitions(text),
        Refusal::InvalidReplicas(text) => EngineError::InvalidReplicationFactor(text),
        other => EngineError::Internal(other.to_string()),
    }
}

fn view_error(error: ViewError) -> EngineError {
    match error {
        ViewError::Behind { partition, .. } | ViewError::NotViewed(partition) => EngineError::ViewNotReady(partition),
        ViewError::Log { partition, reason } => EngineError::PartitionOffline { partition, reason },
        ViewError::Store(reason) => EngineError::Internal(reason),
        ViewError::Closed => EngineError::ShuttingDown,
    }
}

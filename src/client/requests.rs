//! The client itself: requests to whoever leads a partition, with what is known of the cluster kept up to date.

use super::cluster::{Cluster, Leader};
use super::pool::{Pool, Use};
use super::{Acks, ClientError, ClientOptions, Code, SideEffects};
use crate::codec::RecordBytes;
use crate::codec::messages::{
    Request,
    create_topics::{CreatableTopic, CreateTopicsRequest, CreateTopicsResponse},
    fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData},
    init_producer_id::InitProducerIdRequest,
    metadata::{MetadataRequest, MetadataRequestTopic},
    produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
};
use crate::sys::Sys;
use crate::types::{BrokerId, LogStartOffset, Offset, PartitionId, ProducerEpoch, ProducerId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Topics and groups that are remembered at most; above it the memory starts anew.
const REMEMBERED: usize = 100_000;

/// A client of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    sys: Sys,
    options: Arc<ClientOptions>,
    pool: Pool,
    cluster: Mutex<Arc<Cluster>>,
    /// When each topic was last asked for. Held while asking, so that many who miss one leader ask once.
    asked: tokio::sync::Mutex<BTreeMap<String, Instant>>,
    /// The coordinator's address by group.
    coordinators: Mutex<BTreeMap<String, String>>,
}

/// Where records were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produced {
    /// The first one's offset; `None` where a broker only said that it had them already.
    pub base_offset: Option<Offset>,
    /// The leader's time, where the topic stores that.
    pub log_append_time_ms: Option<i64>,
    /// The first offset that the partition still has.
    pub log_start: Option<LogStartOffset>,
}

/// What a fetch gave.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whole batches; the first may begin below the offset asked for.
    pub records: Bytes,
    /// Records below it are on enough replicas.
    pub high_watermark: i64,
    /// The first offset that the partition still has.
    pub log_start: i64,
}

impl Client {
    /// A client; it connects when it is first used.
    #[must_use]
    pub fn new(sys: Sys, options: ClientOptions) -> Self {
        let options = Arc::new(options);
        let pool = Pool::new(sys.clone(), options.clone());
        let (cluster, asked, coordinators) = Default::default();
        Self { inner: Arc::new(Inner { sys, options, pool, cluster, asked, coordinators }) }
    }

    pub(super) fn sys(&self) -> &Sys {
        &self.inner.sys
    }

    /// What is known of the cluster now.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        self.inner.cluster.lock().clone()
    }

    /// Asks for topics anew, unless somebody did since `since`.
    ///
    /// # Errors
    /// [`ClientError`] of the last broker that was tried.
    pub async fn refresh(
        &self,
        topics: &[&str],
        since: Instant,
        deadline: Instant,
    ) -> Result<Arc<Cluster>, ClientError> {
        let asked = timeout_at(deadline, self.inner.asked.lock());
        let mut asked = asked.await.map_err(|_| ClientError::DeadlineBeforeSent)?;
        if !topics.is_empty() && topics.iter().all(|topic| asked.get(*topic).is_some_and(|moment| *moment >= since)) {
            return Ok(self.cluster());
        }
        let named = |name: &&str| MetadataRequestTopic { topic_id: [0; 16], name: Some((*name).to_owned()) };
        let request = MetadataRequest {
            topics: Some(topics.iter().map(named).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let response = self.send_any(&request, deadline).await?;
        if asked.len() + topics.len() > REMEMBERED {
            asked.clear();
        }
        let now = Instant::now();
        asked.extend(topics.iter().map(|topic| ((*topic).to_owned(), now)));
        let mut cluster = self.inner.cluster.lock();
        Arc::make_mut(&mut cluster).apply(&response);
        Ok(cluster.clone())
    }

    /// Sends to whatever broker answers, each tried once.
    ///
    /// # Errors
    /// [`ClientError`] of the last one.
    pub async fn send_any<R: Request>(&self, request: &R, deadline: Instant) -> Result<R::Response, ClientError> {
        let cluster = self.cluster();
        let mut addresses: Vec<String> = cluster.brokers().map(|(_, address)| address.to_owned()).collect();
        if !addresses.is_empty() {
            let first = (self.inner.sys.rng.next_u64() % addresses.len() as u64) as usize;
            addresses.rotate_left(first);
        }
        // Those from the configuration last: they are where a cluster that moved is found again.
        for address in &self.inner.options.bootstrap {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let mut error = ClientError::Nobody("the cluster: no address is configured".to_owned());
        for (at, address) in addresses.iter().enumerate() {
            // One that hangs leaves time for the others.
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / (addresses.len() - at) as u32;
            match self.inner.pool.send(address, Use::Control, request, now + share).await {
                Ok(response) => return Ok(response),
                Err(e) => error = e,
            }
        }
        Err(error)
    }

    /// Sends to one broker, once.
    ///
    /// # Errors
    /// [`ClientError`]; what the answer's own fields say is the caller's to look at.
    pub async fn send<R: Request>(
        &self,
        broker: BrokerId,
        purpose: Use,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, ClientError> {
        let cluster = self.cluster();
        let address = cluster.address(broker).ok_or_else(|| ClientError::Nobody(format!("broker {broker}")))?;
        self.inner.pool.send(address, purpose, request, deadline).await
    }

    /// Sends to a partition's leader, again and elsewhere while that is safe and the deadline allows.
    pub(super) async fn at_leader<R: Request, T>(
        &self,
        (topic, partition): (&str, PartitionId),
        purpose: Use,
        safe_twice: bool,
        deadline: Instant,
        build: impl Fn(&Cluster, Leader) -> R,
        read: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut failures = 0;
        loop {
            let error = match self.once_at_leader((topic, partition), purpose, deadline, &build).await.and_then(&read) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            self.settle(error, topic, safe_twice, &mut failures, deadline).await?;
        }
    }

    /// After a failure: waits and learns, or gives the failure back if nothing more should be tried.
    pub(super) async fn settle(
        &self,
        error: ClientError,
        topic: &str,
        safe_twice: bool,
        failures: &mut u32,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let late = matches!(error, ClientError::Deadline | ClientError::DeadlineBeforeSent);
        let safe = safe_twice || error.side_effects() == SideEffects::None;
        if !safe || !(late || error.is_retryable()) {
            return Err(error);
        }
        let failed_at = Instant::now();
        if self.inner.pool.pause(*failures, deadline).await.is_err() {
            return Err(error);
        }
        *failures += 1;
        if error.wants_refresh() && !topic.is_empty() {
            // If it fails, the next attempt says what is wrong.
            let _ = self.refresh(&[topic], failed_at, deadline).await;
        }
        Ok(())
    }

    pub(super) async fn once_at_leader<R: Request>(
        &self,
        (topic, partition): (&str, PartitionId),
        purpose: Use,
        deadline: Instant,
        build: impl Fn(&Cluster, Leader) -> R,
    ) -> Result<R::Response, ClientError> {
        let now = Instant::now();
        let oldest = now.checked_sub(self.inner.options.metadata_max_age).unwrap_or(now);
        let mut cluster = self.cluster();
        if cluster.leader(topic, partition).is_none() {
            cluster = self.refresh(&[topic], now, deadline).await?;
        } else if let Ok(fresh) = self.refresh_if_old(topic, oldest, deadline).await {
            cluster = fresh;
        }
        let nobody = || ClientError::Nobody(format!("{topic}-{partition}"));
        let leader = cluster.leader(topic, partition).ok_or_else(nobody)?;
        let address = cluster.address(leader.broker).ok_or_else(nobody)?;
        self.inner.pool.send(address, purpose, &build(&cluster, leader), deadline).await
    }

    async fn refresh_if_old(
        &self,
        topic: &str,
        oldest: Instant,
        deadline: Instant,
    ) -> Result<Arc<Cluster>, ClientError> {
        let fresh = match self.inner.asked.try_lock() {
            Ok(asked) => asked.get(topic).is_some_and(|moment| *moment > oldest),
            // Somebody asks right now; what is known will do until then.
            Err(_) => true,
        };
        if fresh { Ok(self.cluster()) } else { self.refresh(&[topic], oldest, deadline).await }
    }

    /// Appends one whole batch to a partition. It is sent again only after an answer, or a failure, that says that it was
    /// not stored; [`super::Producer`] goes further.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn produce(
        &self,
        topic: &str,
        partition: PartitionId,
        batch: Bytes,
        acks: Acks,
        deadline: Instant,
    ) -> Result<Produced, ClientError> {
        let build = |cluster: &Cluster, _| produce_request(cluster, topic, partition, &batch, acks, deadline);
        self.at_leader((topic, partition), Use::Produce, false, deadline, build, read_produced).await
    }

    /// One attempt of [`Self::produce`].
    pub(super) async fn produce_once(
        &self,
        topic: &str,
        partition: PartitionId,
        batch: &Bytes,
        acks: Acks,
        deadline: Instant,
    ) -> Result<Produced, ClientError> {
        let build = |cluster: &Cluster, _| produce_request(cluster, topic, partition, batch, acks, deadline);
        read_produced(self.once_at_leader((topic, partition), Use::Produce, deadline, build).await?)
    }

    /// Reads a partition from an offset on: waits up to `max_wait` for a byte, and gives one whole batch at least.
    ///
    /// # Errors
    /// [`ClientError`]; `OFFSET_OUT_OF_RANGE` if the partition does not have the offset.
    pub async fn fetch(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
        max_wait: Duration,
        max_bytes: i32,
        deadline: Instant,
    ) -> Result<Fetched, ClientError> {
        let build = |cluster: &Cluster, leader: Leader| FetchRequest {
            max_wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes,
            topics: vec![FetchTopic {
                topic: topic.to_owned(),
                topic_id: topic_id(cluster, topic),
                partitions: vec![FetchPartition {
                    partition: partition.get(),
                    current_leader_epoch: leader.epoch,
                    fetch_offset: offset.get(),
                    partition_max_bytes: max_bytes,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        self.at_leader((topic, partition), Use::Fetch, true, deadline, build, read_fetched).await
    }

    /// Makes topics, at the controller. Each one's outcome is in the answer.
    ///
    /// # Errors
    /// [`ClientError`], if there is no answer.
    pub async fn create_topics(
        &self,
        topics: Vec<CreatableTopic>,
        deadline: Instant,
    ) -> Result<CreateTopicsResponse, ClientError> {
        let timeout_ms = milliseconds_until(deadline);
        let request = CreateTopicsRequest { topics, timeout_ms, validate_only: false };
        let mut failures = 0;
        loop {
            let moved = |response: &CreateTopicsResponse| {
                response.topics.iter().any(|topic| topic.error_code == Code::NOT_CONTROLLER.get())
            };
            let error = match self.once_at_controller(&request, deadline).await {
                Ok(response) if moved(&response) => ClientError::refused(Code::NOT_CONTROLLER),
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            self.settle(error, "", false, &mut failures, deadline).await?;
            let _ = self.refresh(&[], Instant::now(), deadline).await; // the next attempt says what is wrong
        }
    }

    async fn once_at_controller<R: Request>(&self, request: &R, deadline: Instant) -> Result<R::Response, ClientError> {
        let mut cluster = self.cluster();
        if cluster.controller().is_none() {
            cluster = self.refresh(&[], Instant::now(), deadline).await?;
        }
        let controller = cluster.controller().ok_or_else(|| ClientError::Nobody("the controller".to_owned()))?;
        self.send(controller, Use::Control, request, deadline).await
    }

    /// A producer id of one's own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn init_producer_id(&self, deadline: Instant) -> Result<(ProducerId, ProducerEpoch), ClientError> {
        let request =
            InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: i32::MAX, ..Default::default() };
        let mut failures = 0;
        loop {
            let error = match self.send_any(&request, deadline).await {
                Ok(response) => match Code::new(response.error_code) {
                    None if response.producer_id >= 0 && response.producer_epoch >= 0 => {
                        let epoch = ProducerEpoch::new(response.producer_epoch);
                        return Ok((ProducerId::new(response.producer_id), epoch));
                    }
                    None => return Err(ClientError::Incomplete("a producer id")),
                    Some(code) => ClientError::refused(code),
                },
                Err(error) => error,
            };
            self.settle(error, "", true, &mut failures, deadline).await?;
        }
    }

    pub(super) fn coordinator(&self, group: &str) -> Option<String> {
        self.inner.coordinators.lock().get(group).cloned()
    }

    pub(super) fn remember_coordinator(&self, group: &str, address: Option<String>) {
        let mut coordinators = self.inner.coordinators.lock();
        if coordinators.len() >= REMEMBERED {
            coordinators.clear();
        }
        match address {
            Some(address) => drop(coordinators.insert(group.to_owned(), address)),
            None => drop(coordinators.remove(group)),
        }
    }

    pub(super) async fn send_to<R: Request>(
        &self,
        address: &str,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, ClientError> {
        self.inner.pool.send(address, Use::Control, request, deadline).await
    }
}

/// The id of a topic as messages carry it; all zero where it is not known, in versions that do not need it.
pub(super) fn topic_id(cluster: &Cluster, topic: &str) -> [u8; 16] {
    cluster.topic_id(topic).map_or([0; 16], |id| *id.as_bytes())
}

pub(super) fn milliseconds_until(deadline: Instant) -> i32 {
    i32::try_from(deadline.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(i32::MAX)
}

fn produce_request(
    cluster: &Cluster,
    topic: &str,
    partition: PartitionId,
    batch: &Bytes,
    acks: Acks,
    deadline: Instant,
) -> ProduceRequest {
    let records = Some(RecordBytes::new(vec![batch.clone()]));
    ProduceRequest {
        transactional_id: None,
        acks: acks.number(),
        timeout_ms: milliseconds_until(deadline),
        topic_data: vec![TopicProduceData {
            name: topic.to_owned(),
            topic_id: topic_id(cluster, topic),
            partition_data: vec![PartitionProduceData { index: partition.get(), records }],
        }],
    }
}

fn read_produced(mut response: ProduceResponse) -> Result<Produced, ClientError> {
    let answer = response.responses.pop().and_then(|mut topic| topic.partition_responses.pop());
    let answer = answer.ok_or(ClientError::Incomplete("the partition"))?;
    if let Some(code) = Code::new(answer.error_code) {
        return Err(ClientError::Refused { code, message: answer.error_message });
    }
    Ok(Produced {
        base_offset: (answer.base_offset >= 0).then(|| Offset::new(answer.base_offset)),
        log_append_time_ms: (answer.log_append_time_ms >= 0).then_some(answer.log_append_time_ms),
        log_start: (answer.log_start_offset >= 0).then(|| LogStartOffset::new(answer.log_start_offset)),
    })
}

fn read_fetched(mut response: FetchResponse) -> Result<Fetched, ClientError> {
    if let Some(code) = Code::new(response.error_code) {
        return Err(ClientError::refused(code));
    }
    let answer = response.responses.pop().and_then(|mut topic| topic.partitions.pop());
    let PartitionData { error_code, high_watermark, log_start_offset, records, .. } =
        answer.ok_or(ClientError::Incomplete("the partition"))?;
    match Code::new(error_code) {
        Some(code) => Err(ClientError::refused(code)),
        None => Ok(Fetched {
            records: records.map(RecordBytes::into_bytes).unwrap_or_default(),
            high_watermark,
            log_start: log_start_offset,
        }),
    }
}

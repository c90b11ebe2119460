//! Two brokers of one cluster for the client's tests: a log with Kafka's check of sequence numbers, over the network in
//! memory, with faults that a seed picks.

use crate::codec::messages::{
    ApiKey, Message as _, RequestHeader,
    api_versions::{ApiVersion, ApiVersionsResponse},
    encode_response,
    fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData},
    find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse},
    init_producer_id::InitProducerIdResponse,
    list_offsets::{ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse},
    metadata::{MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    offset_commit::{
        OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
    },
    offset_fetch::{
        OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartitions,
        OffsetFetchResponseTopics,
    },
    produce::{PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse},
};
use crate::codec::{DecompressLimit, Frame, RecordBatch, RecordBytes};
use crate::sys::sim::SimRng;
use crate::sys::{Network, Socket};
use crate::types::{LeaderEpoch, Offset};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(super) const TOPIC: &str = "games";
pub(super) const PARTITIONS: i32 = 3;
pub(super) const PORTS: [u16; 2] = [9092, 9093];
const TOPIC_ID: [u8; 16] = [7; 16];
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };

/// What the brokers hold together, and how they misbehave.
pub(super) struct FakeCluster {
    state: Mutex<State>,
    rng: SimRng,
    /// One request in this many meets a fault; 0 for none.
    pub(super) fault_every: u64,
    /// The newest version of ApiVersions that they speak.
    pub(super) api_versions: i16,
    /// Batches above this size are refused.
    pub(super) max_batch: usize,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<i32, Vec<Bytes>>,
    leaders: BTreeMap<i32, (i32, i32)>,
    /// By producer, epoch and partition: the next sequence, and the last batch's sequence with its offset.
    producers: BTreeMap<(i64, i16, i32), (i32, i32, i64)>,
    next_producer: i64,
    committed: BTreeMap<(String, i32), i64>,
    requests: BTreeMap<ApiKey, usize>,
    connections: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    CutBefore,
    CutAfter,
    CutWithinAnswer,
    Silent,
    LeaderMoves,
    StoredButTimedOut,
}

impl FakeCluster {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: Mutex::default(), rng: SimRng::new(seed), fault_every: 0, api_versions: 4, max_batch: 1 << 20 }
    }

    /// Listens on both ports, for as long as the runtime lives.
    pub(super) async fn serve(self: &Arc<Self>, network: &dyn Network) {
        for (at, port) in PORTS.into_iter().enumerate() {
            let listener = network.bind(([127, 0, 0, 1], port).into()).await.unwrap();
            let cluster = self.clone();
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    cluster.state.lock().connections += 1;
                    tokio::spawn(cluster.clone().connection(at as i32 + 1, socket));
                }
            });
        }
    }

    /// Every value that is stored, by partition, in order.
    pub(super) fn stored(&self) -> BTreeMap<i32, Vec<String>> {
        let state = self.state.lock();
        let text = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        let values = |batches: &Vec<Bytes>| {
            let records = batches.iter().flat_map(|batch| {
                RecordBatch::split_from(&mut batch.clone()).unwrap().records(LIMIT).unwrap().map(Result::unwrap)
            });
            records.map(|record| text(record.value)).collect()
        };
        state.logs.iter().map(|(partition, batches)| (*partition, values(batches))).collect()
    }

    pub(super) fn batches(&self) -> usize {
        self.state.lock().logs.values().map(Vec::len).sum()
    }

    pub(super) fn requests(&self, api: ApiKey) -> usize {
        self.state.lock().requests.get(&api).copied().unwrap_or(0)
    }

    pub(super) fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// Forgets what it knew of producers, as a broker does after a while.
    pub(super) fn forget_producers(&self) {
        self.state.lock().producers.clear();
    }

    fn fate(&self) -> Fate {
        if self.fault_every == 0 || !self.rng.one_in(self.fault_every) {
            return Fate::Fine;
        }
        let fates = [
            Fate::CutBefore,
            Fate::CutAfter,
            Fate::CutWithinAnswer,
            Fate::Silent,
            Fate::LeaderMoves,
            Fate::StoredButTimedOut,
        ];
        fates[self.rng.below(fates.len() as u64) as usize]
    }

    async fn connection(self: Arc<Self>, broker: i32, mut socket: Box<dyn Socket>) {
        loop {
            let Ok(length) = socket.read_i32().await else { return };
            let mut frame = vec![0; length as usize];
            if socket.read_exact(&mut frame).await.is_err() {
                return;
            }
            let fate = self.fate();
            match fate {
                Fate::CutBefore => return,
                // Longer than any request waits.
                Fate::Silent => return tokio::time::sleep(Duration::from_secs(120)).await,
                _ => {}
            }
            let answer = self.answer(broker, frame.into(), fate);
            let bytes: Vec<u8> = answer.into_parts().concat();
            match fate {
                Fate::CutAfter => return,
                Fate::CutWithinAnswer => return drop(socket.write_all(&bytes[..bytes.len() / 2]).await),
                _ => {}
            }
            if socket.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, broker: i32, mut frame: Bytes, fate: Fate) -> Frame {
        let mut header = RequestHeader::split_from(&mut frame).unwrap();
        let api = header.api().unwrap();
        let mut state = self.state.lock();
        *state.requests.entry(api).or_default() += 1;
        if fate == Fate::LeaderMoves {
            for partition in 0..PARTITIONS {
                let leader = state.leader(partition);
                state.leaders.insert(partition, (3 - leader.0, leader.1 + 1));
            }
        }
        let (version, id) = (header.version, header.correlation_id);
        match api {
            ApiKey::ApiVersions => {
                let mut response = self.versions();
                if version > self.api_versions {
                    header.version = 0;
                    response.error_code = 35;
                }
                encode_response(header.version, id, &response)
            }
            ApiKey::Metadata => encode_response(version, id, &state.metadata()),
            ApiKey::InitProducerId => {
                state.next_producer += 1;
                let producer_id = state.next_producer;
                encode_response(version, id, &InitProducerIdResponse { producer_id, ..Default::default() })
            }
            ApiKey::Produce => {
                let request = ProduceRequest::decode(frame, version).unwrap();
                encode_response(version, id, &self.produce(&mut state, broker, request, fate))
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(frame, version).unwrap();
                encode_response(version, id, &state.fetch(&request))
            }
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(frame, version).unwrap();
                encode_response(version, id, &state.list_offsets(&request))
            }
            ApiKey::FindCoordinator => {
                let request = FindCoordinatorRequest::decode(frame, version).unwrap();
                let coordinator = Coordinator {
                    key: request.coordinator_keys[0].clone(),
                    host: "127.0.0.1".to_owned(),
                    port: i32::from(PORTS[0]),
                    ..Default::default()
                };
                let response = FindCoordinatorResponse { coordinators: vec![coordinator], ..Default::default() };
                encode_response(version, id, &response)
            }
            ApiKey::OffsetCommit => {
                let request = OffsetCommitRequest::decode(frame, version).unwrap();
                encode_response(version, id, &state.commit(request, broker))
            }
            ApiKey::OffsetFetch => {
                let request = OffsetFetchRequest::decode(frame, version).unwrap();
                encode_response(version, id, &state.committed(&request))
            }
            other => panic!("no test asks for {other}"),
        }
    }

    fn versions(&self) -> ApiVersionsResponse {
        let api_keys = ApiKey::ALL.iter().map(|api| ApiVersion {
            api_key: api.key(),
            min_version: *api.versions().start(),
            max_version: if *api == ApiKey::ApiVersions { self.api_versions } else { *api.versions().end() },
        });
        ApiVersionsResponse { api_keys: api_keys.collect(), ..Default::default() }
    }

    fn produce(&self, state: &mut State, broker: i32, request: ProduceRequest, fate: Fate) -> ProduceResponse {
        assert_eq!(request.acks, -1);
        let topic = request.topic_data.into_iter().next().unwrap();
        let data = topic.partition_data.into_iter().next().unwrap();
        let (mut error_code, base_offset) = self.append(state, broker, data.index, data.records.unwrap().into_bytes());
        if error_code == 0 && fate == Fate::StoredButTimedOut {
            error_code = 7;
        }
        let answer = PartitionProduceResponse { index: data.index, error_code, base_offset, ..Default::default() };
        let responses = vec![TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: vec![answer],
        }];
        ProduceResponse { responses, ..Default::default() }
    }

    fn append(&self, state: &mut State, broker: i32, partition: i32, mut bytes: Bytes) -> (i16, i64) {
        if state.leader(partition).0 != broker {
            return (6, -1);
        }
        if bytes.len() > self.max_batch {
            return (10, -1);
        }
        let batch = RecordBatch::split_from(&mut bytes).unwrap();
        batch.verify_produced(LIMIT).unwrap();
        let producer = batch.header().producer.expect("the producer is idempotent");
        let log = state.logs.entry(partition).or_default();
        let end = log.last().map_or(0, |batch| RecordBatch::parse_header(batch).unwrap().next_offset().get());
        let key = (producer.id.get(), producer.epoch.get(), partition);
        match state.producers.get(&key) {
            Some((_, last, offset)) if *last == producer.base_sequence => return (0, *offset),
            Some((next, ..)) if *next != producer.base_sequence => return (45, -1),
            None if producer.base_sequence != 0 => return (59, -1),
            _ => {}
        }
        let next = producer.base_sequence + batch.header().record_count;
        state.producers.insert(key, (next, producer.base_sequence, end));
        log.push(batch.placed(Offset::new(end), LeaderEpoch::ZERO, None).bytes().clone());
        (0, end)
    }
}

impl State {
    fn leader(&self, partition: i32) -> (i32, i32) {
        self.leaders.get(&partition).copied().unwrap_or((1 + partition % 2, 0))
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = |at: usize| MetadataResponseBroker {
            node_id: at as i32 + 1,
            host: "127.0.0.1".to_owned(),
            port: i32::from(PORTS[at]),
            rack: None,
        };
        let partition = |partition_index| {
            let (leader_id, leader_epoch) = self.leader(partition_index);
            MetadataResponsePartition { partition_index, leader_id, leader_epoch, ..Default::default() }
        };
        let topic = MetadataResponseTopic {
            name: Some(TOPIC.to_owned()),
            topic_id: TOPIC_ID,
            partitions: (0..PARTITIONS).map(partition).collect(),
            ..Default::default()
        };
        MetadataResponse {
            brokers: vec![broker(0), broker(1)],
            controller_id: 1,
            topics: vec![topic],
            ..Default::default()
        }
    }

    fn fetch(&self, request: &FetchRequest) -> FetchResponse {
        let topic = &request.topics[0];
        assert_eq!(topic.topic_id, TOPIC_ID);
        let asked = &topic.partitions[0];
        let log = self.logs.get(&asked.partition).cloned().unwrap_or_default();
        let end = |batch: &Bytes| RecordBatch::parse_header(batch).unwrap().next_offset().get();
        let high_watermark = log.last().map_or(0, end);
        let error_code = if asked.fetch_offset > high_watermark { 1 } else { 0 };
        let batches = log.into_iter().filter(|batch| end(batch) > asked.fetch_offset).collect();
        let data = PartitionData {
            partition_index: asked.partition,
            error_code,
            high_watermark,
            log_start_offset: 0,
            records: Some(RecordBytes::new(batches)),
            ..Default::default()
        };
        let responses =
            vec![FetchableTopicResponse { topic_id: TOPIC_ID, partitions: vec![data], ..Default::default() }];
        FetchResponse { responses, ..Default::default() }
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let asked = &request.topics[0].partitions[0];
        let log = self.logs.get(&asked.partition_index).map_or(&[][..], Vec::as_slice);
        let end = log.last().map_or(0, |batch| RecordBatch::parse_header(batch).unwrap().next_offset().get());
        let offset = match asked.timestamp {
            -2 => 0,
            -1 => end,
            _ => -1,
        };
        let answer = ListOffsetsPartitionResponse { offset, ..Default::default() };
        let topics = vec![ListOffsetsTopicResponse { name: TOPIC.to_owned(), partitions: vec![answer] }];
        ListOffsetsResponse { topics, ..Default::default() }
    }

    fn commit(&mut self, request: OffsetCommitRequest, broker: i32) -> OffsetCommitResponse {
        assert_eq!(broker, 1, "the coordinator");
        let topic = &request.topics[0];
        let partitions = topic.partitions.iter().map(|one| {
            self.committed.insert((request.group_id.clone(), one.partition_index), one.committed_offset);
            OffsetCommitResponsePartition { partition_index: one.partition_index, error_code: 0 }
        });
        let partitions = partitions.collect();
        let topics = vec![OffsetCommitResponseTopic { name: topic.name.clone(), topic_id: topic.topic_id, partitions }];
        OffsetCommitResponse { topics, ..Default::default() }
    }

    fn committed(&self, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        let group = &request.groups[0];
        let topic = &group.topics.as_ref().unwrap()[0];
        let partitions = topic.partition_indexes.iter().map(|partition| OffsetFetchResponsePartitions {
            partition_index: *partition,
            committed_offset: self.committed.get(&(group.group_id.clone(), *partition)).copied().unwrap_or(-1),
            ..Default::default()
        });
        let topics = vec![OffsetFetchResponseTopics {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions: partitions.collect(),
        }];
        let group = OffsetFetchResponseGroup { group_id: group.group_id.clone(), topics, error_code: 0 };
        OffsetFetchResponse { groups: vec![group], ..Default::default() }
    }
}

//! Produce 3-13: one batch for each partition, stored as it came.
//!
//! The batches are in their partitions' append buffers before the next request begins, so a producer's requests keep their
//! order however long each acknowledgement takes. Compressed batches are checked on the threads that read: to take one of
//! 1 MiB apart takes milliseconds, which would hold up every other connection of an async thread. With acks=0 nothing is answered; a failure then ends the connection, which is all that
//! Kafka says too.

use super::super::{
    Door,
    connection::{Answer, Begun, Ending},
    error_code::{ErrorCode, code_and_text},
    listener::DOOR,
};
use super::{millis, partition_id, topic_by_id, topic_by_name};
use crate::codec::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
    TopicProduceResponse,
};
use crate::codec::messages::{Message as _, RequestHeader, encode_response};
use crate::codec::{Compression, RecordBytes, Uuid};
use crate::engine::{
    Acks, BatchError, DECOMPRESSED_BATCH, EngineError, ProduceBatch, ProducedBatch, ProducedRecords, RecordBatch,
    TopicInfo,
};
use crate::sys::{Lane, run_blocking};
use crate::telemetry::StoredThrough;
use bytes::Bytes;
use futures_util::future::join_all;
use std::{sync::Arc, time::Duration};

/// Older versions carry older message formats. They are listed in ApiVersions all the same: see there.
pub(super) const ANSWERED_FROM: i16 = 3;
/// Since this version topics are named by their ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;

/// A compressed batch of this size takes as long to check as a frame takes to arrive, and longer: a thread of its own does that.
const HEAVY_BYTES: usize = 16 << 10;
/// A batch that is so much of its frame may keep it; another one would hold a frame for a part of it.
const OWNS_FRAME: (usize, usize) = (7, 8);

static STORED: StoredThrough = StoredThrough::new(DOOR.door);

type Refusal = (i16, Option<String>);
type Outcome = Result<ProducedBatch, Refusal>;

/// A topic of the request with its batches.
struct Topic {
    name: String,
    id: Uuid,
    found: Result<Arc<TopicInfo>, Refusal>,
    batches: Vec<PartitionBatch>,
}

/// What is to be appended to one partition.
struct PartitionBatch {
    index: i32,
    batch: Result<RecordBatch, Refusal>,
    /// What was found in it, where it was looked at already.
    verified: Option<ProducedRecords>,
}

/// A request that was read.
struct Produce {
    version: i16,
    correlation_id: i32,
    /// As the client asks: 0 is not answered.
    acks: i16,
    timeout: Duration,
    frame_bytes: usize,
    topics: Vec<Topic>,
}

#[allow(clippy::async_yields_async)] // the answer is awaited beside others
pub(super) fn begin(door: &Door, header: &RequestHeader, body: Bytes) -> Result<Begun, Ending> {
    let mut request = Produce::read(door, header, body)?;
    let heavy: Vec<RecordBatch> = request.heavy_batches().map(|(_, batch)| batch.clone()).collect();
    if heavy.is_empty() {
        return Ok(Begun::Now(request.append(door)));
    }
    let door = door.clone();
    Ok(Begun::Soon(Box::pin(async move {
        let verify = |batch: RecordBatch| {
            run_blocking(&*door.0.sys.io, Lane::Read, move || batch.verify_produced(DECOMPRESSED_BATCH))
        };
        let verified = join_all(heavy.into_iter().map(verify)).await;
        for ((verified, batch), found) in request.heavy_places().zip(verified) {
            match found {
                Ok(found) => *verified = Some(found),
                Err(error) => *batch = Err(code_and_text(&error.into())),
            }
        }
        request.append(&door)
    })))
}

impl Produce {
    fn read(door: &Door, header: &RequestHeader, body: Bytes) -> Result<Self, Ending> {
        let (version, frame_bytes) = (header.version, body.len());
        let request = ProduceRequest::decode(body, version)?;
        let refused = if !(-1..=1).contains(&request.acks) {
            Some(ErrorCode::InvalidRequiredAcks)
        } else {
            // Transactions are not offered; nobody has a transactional id.
            request.transactional_id.is_some().then_some(ErrorCode::InvalidRequest)
        };
        let topics = request.topic_data.into_iter().map(|topic| {
            let TopicProduceData { name, topic_id: id, partition_data } = topic;
            let found = match refused {
                Some(code) => Err(code),
                None if version >= TOPIC_IDS_FROM => topic_by_id(door, id),
                None => topic_by_name(door, &name),
            };
            let batches = partition_data.into_iter().map(|PartitionProduceData { index, records }| {
                let batch = only_batch(records).map_err(|error| code_and_text(&error));
                PartitionBatch { index, batch, verified: None }
            });
            Topic { name, id, found: found.map_err(|code| (code.code(), None)), batches: batches.collect() }
        });
        let (acks, timeout) = (request.acks, millis(request.timeout_ms));
        let topics = topics.collect();
        Ok(Self { version, correlation_id: header.correlation_id, acks, timeout, frame_bytes, topics })
    }

    /// The batches that take long to check, and are not refused without that.
    fn heavy_batches(&self) -> impl Iterator<Item = (&PartitionBatch, &RecordBatch)> {
        let known = self.topics.iter().filter_map(|topic| Some((topic.found.as_ref().ok()?, &topic.batches)));
        let batches = known.flat_map(|(info, batches)| batches.iter().map(move |batch| (info, batch)));
        batches.filter_map(|(info, place)| {
            let batch = place.batch.as_ref().ok()?;
            is_heavy(info, batch).then_some((place, batch))
        })
    }

    /// The same, to put down what was found.
    fn heavy_places(
        &mut self,
    ) -> impl Iterator<Item = (&mut Option<ProducedRecords>, &mut Result<RecordBatch, Refusal>)> {
        let known = self.topics.iter_mut().filter_map(|topic| Some((topic.found.as_ref().ok()?, &mut topic.batches)));
        let batches = known.flat_map(|(info, batches)| batches.iter_mut().map(move |batch| (info, batch)));
        batches.filter_map(|(info, place)| {
            let heavy = place.batch.as_ref().is_ok_and(|batch| is_heavy(info, batch));
            heavy.then_some((&mut place.verified, &mut place.batch))
        })
    }

    /// Puts the batches into their partitions' buffers; the answer is what became of them.
    fn append(self, door: &Door) -> Answer {
        let Self { version, correlation_id, acks, timeout, frame_bytes, topics } = self;
        let append = |found: &Result<Arc<TopicInfo>, Refusal>, partition: PartitionBatch| {
            let started = (|| {
                let PartitionBatch { index, batch, verified } = partition;
                let topic = found.as_ref().map_err(Clone::clone)?;
                let partition = partition_id(index).map_err(|code| (code.code(), None))?;
                let batch = batch?;
                let size = batch.header().size;
                STORED.count(batch.header().record_count as u64, size as u64);
                let owns_memory = size * OWNS_FRAME.1 >= frame_bytes * OWNS_FRAME.0;
                let acks = if acks == -1 { Acks::All } else { Acks::Leader };
                Ok(ProduceBatch { topic: topic.id, partition, batch, verified, owns_memory, acks, timeout })
            })();
            let started: Result<_, Refusal> = started.map(|request| door.0.engine.produce_batch(request));
            async move { started?.await.map_err(|error| code_and_text(&error)) }
        };
        let topics: Vec<_> = topics
            .into_iter()
            .map(|Topic { name, id, found, batches }| {
                let batches: Vec<_> = batches.into_iter().map(|b| (b.index, append(&found, b))).collect();
                (name, id, batches)
            })
            .collect();
        Box::pin(async move {
            let responses = join_all(topics.into_iter().map(|(name, topic_id, batches)| async move {
                let answered =
                    batches.into_iter().map(|(index, outcome)| async move { response(index, outcome.await) });
                TopicProduceResponse { name, topic_id, partition_responses: join_all(answered).await }
            }))
            .await;
            if acks != 0 {
                let response = ProduceResponse { responses, ..ProduceResponse::default() };
                return Ok(Some(encode_response(version, correlation_id, &response)));
            }
            let failed = responses.iter().flat_map(|topic| &topic.partition_responses).any(|p| p.error_code != 0);
            if failed { Err(Ending::Unacknowledged) } else { Ok(None) }
        })
    }
}

fn is_heavy(topic: &TopicInfo, batch: &RecordBatch) -> bool {
    let header = batch.header();
    let taken = header.size <= topic.config.max_message_bytes as usize;
    taken && header.compression != Compression::None && header.size >= HEAVY_BYTES
}

/// The one batch that a partition's records must be, as in Kafka.
fn only_batch(records: Option<RecordBytes>) -> Result<RecordBatch, EngineError> {
    let mut bytes = records.unwrap_or_default().into_bytes();
    if bytes.is_empty() {
        return Err(BatchError::Corrupt("a produce request has one batch for each partition, and this has none").into());
    }
    let batch = RecordBatch::split_from(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(batch);
    }
    Err(BatchError::Corrupt("a produce request has one batch for each partition, and this has more").into())
}

fn response(index: i32, outcome: Outcome) -> PartitionProduceResponse {
    match outcome {
        Ok(produced) => PartitionProduceResponse {
            index,
            base_offset: produced.base_offset.get(),
            log_append_time_ms: produced.append_time_ms.unwrap_or(-1),
            log_start_offset: produced.log_start.get(),
            ..PartitionProduceResponse::default()
        },
        Err((error_code, error_message)) => PartitionProduceResponse {
            index,
            error_code,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            error_message,
            ..PartitionProduceResponse::default()
        },
    }
}

//! Produce 3-13: one batch for each partition, stored as it came.
//!
//! The batches are in their partitions' append buffers when this returns, so a producer's requests keep their order however
//! long each acknowledgement takes. With acks=0 nothing is answered; a failure then ends the connection, which is all that
//! Kafka says too.

use super::super::{
    Door,
    connection::{Answer, Ending},
    error_code::{ErrorCode, code_and_text},
    listener::DOOR,
};
use super::{millis, partition_id, topic_by_id, topic_by_name};
use crate::codec::RecordBytes;
use crate::codec::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
    TopicProduceResponse,
};
use crate::codec::messages::{Message as _, RequestHeader, encode_response};
use crate::engine::{Acks, BatchError, EngineError, ProduceBatch, ProducedBatch, RecordBatch, TopicInfo};
use crate::telemetry::metrics;
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use std::{sync::Arc, time::Duration};

/// Since this version topics are named by their ids (KIP-516).
const TOPIC_IDS_FROM: i16 = 13;

type Outcome = Result<ProducedBatch, (i16, Option<String>)>;

pub(super) fn begin(door: &Door, header: &RequestHeader, body: Bytes) -> Result<Answer, Ending> {
    let (version, correlation_id) = (header.version, header.correlation_id);
    let request = ProduceRequest::decode(body, version)?;
    let (acks, timeout) = (request.acks, millis(request.timeout_ms));
    let refused = if !(-1..=1).contains(&acks) {
        Some(ErrorCode::InvalidRequiredAcks)
    } else {
        // Transactions are not offered; nobody has a transactional id.
        request.transactional_id.is_some().then_some(ErrorCode::InvalidRequest)
    };
    let acks = if acks == -1 { Acks::All } else { Acks::Leader };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let TopicProduceData { name, topic_id, partition_data } = topic;
        let found = match refused {
            Some(code) => Err(code),
            None if version >= TOPIC_IDS_FROM => topic_by_id(door, topic_id),
            None => topic_by_name(door, &name),
        };
        let mut partitions = Vec::with_capacity(partition_data.len());
        for data in partition_data {
            let PartitionProduceData { index, records } = data;
            partitions.push((index, append(door, &found, index, records, acks, timeout)));
        }
        topics.push((name, topic_id, partitions));
    }
    let acknowledged = request.acks != 0;
    Ok(Box::pin(async move {
        let responses = join_all(topics.into_iter().map(|(name, topic_id, partitions)| async move {
            let partitions =
                partitions.into_iter().map(|(index, outcome)| async move { response(index, outcome.await) });
            TopicProduceResponse { name, topic_id, partition_responses: join_all(partitions).await }
        }))
        .await;
        if acknowledged {
            let response = ProduceResponse { responses, ..ProduceResponse::default() };
            return Ok(Some(encode_response(version, correlation_id, &response)));
        }
        let failed = responses.iter().flat_map(|topic| &topic.partition_responses).any(|p| p.error_code != 0);
        if failed { Err(Ending::Unacknowledged) } else { Ok(None) }
    }))
}

/// Puts a partition's batch into its buffer; the future is what became of it.
fn append(
    door: &Door,
    topic: &Result<Arc<TopicInfo>, ErrorCode>,
    index: i32,
    records: Option<RecordBytes>,
    acks: Acks,
    timeout: Duration,
) -> BoxFuture<'static, Outcome> {
    let started = (|| {
        let code = |code: ErrorCode| (code.code(), None);
        let topic = topic.as_ref().map_err(|error| code(*error))?;
        let partition = partition_id(index).map_err(code)?;
        let batch = only_batch(records).map_err(|error| code_and_text(&error))?;
        metrics().produced_records.get_or_create(&DOOR).inc_by(batch.header().record_count as u64);
        metrics().produced_bytes.get_or_create(&DOOR).inc_by(batch.header().size as u64);
        Ok(ProduceBatch { topic: topic.id, partition, batch, acks, timeout })
    })();
    match started {
        Err(refused) => Box::pin(async { Err(refused) }),
        Ok(request) => {
            let stored = door.0.engine.produce_batch(request);
            Box::pin(async move { stored.await.map_err(|error| code_and_text(&error)) })
        }
    }
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

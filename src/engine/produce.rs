//! The way of a produce request: check every record, pick its partition, append partition by partition, and wait once.
//!
//! **Invariant**: nothing is stored unless every record passed the checks. Records of one partition are appended in the
//! order of the request.

use super::idempotency::{Gates, Known, known_records};
use super::routed::{log_error, replication_error};
use super::{
    EngineError, IdempotencyTag, ProduceReceipt, ProduceRequest, ProducedRecord, RecordError, RecordToProduce,
    TaggedContent, TopicInfo,
};
use crate::log::{self, AppendOutcome, AppendRecords, IdempotencyMark, LogError};
use crate::replication::TopicReplicas;
use crate::types::{PartitionId, Record, TimestampType, partition_for_key};
use futures_util::future::{BoxFuture, join_all};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::time::{Instant, timeout_at};

/// What all produce requests share.
#[derive(Default)]
pub(super) struct Producing {
    gates: Gates,
    /// The next partition for a request without keys; all topics count on.
    next_partition: AtomicU32,
}

/// The records of one request that go to one partition.
#[derive(Default)]
struct Group {
    /// Their positions in the request.
    positions: Vec<usize>,
    /// The producer's timestamps, which the answer repeats where the log keeps them.
    timestamps: Vec<Option<i64>>,
    records: Vec<Record>,
}

/// An append under way.
struct Pending {
    partition: PartitionId,
    positions: Vec<usize>,
    timestamps: Vec<Option<i64>>,
    outcome: BoxFuture<'static, Result<AppendOutcome, LogError>>,
}

type Results = Vec<Option<Result<ProducedRecord, EngineError>>>;

impl Producing {
    /// Stores a request's records in the replicas of its topic.
    pub(super) async fn produce(
        &self,
        topic: &TopicInfo,
        replicas: &TopicReplicas,
        request: ProduceRequest,
    ) -> Result<ProduceReceipt, EngineError> {
        if let Some(receipt) = refusals(topic, &request.records, request.idempotency.is_some()) {
            return Ok(receipt);
        }
        // A client's number may be too large to add to the clock; a day is for ever here.
        let deadline = Instant::now() + request.timeout.min(std::time::Duration::from_hours(24));
        let log_append_time = topic.config.timestamp_type == TimestampType::LogAppendTime;
        if request.records.len() == 1 && request.idempotency.is_none() {
            // The most frequent request needs none of what sorts records by partition and back.
            let only = request.records.into_iter().next().expect("its length is 1");
            let stored = self.produce_one(topic, replicas, only, deadline, log_append_time).await;
            return Ok(ProduceReceipt { results: vec![stored], replayed: false });
        }
        let mut results: Results = Vec::new();
        results.resize_with(request.records.len(), || None);
        let (pending, replayed) =
            self.start(topic, replicas, request.records, request.idempotency.as_ref(), &mut results)?;
        let waiting = pending.into_iter().map(|p| async move {
            let outcome = timeout_at(deadline, p.outcome).await;
            (p.partition, p.positions, p.timestamps, outcome)
        });
        for (partition, positions, timestamps, outcome) in join_all(waiting).await {
            let outcome = match outcome {
                Ok(Ok(outcome)) => Ok(outcome),
                Ok(Err(error)) => Err(log_error(topic, partition, error)),
                Err(_elapsed) => Err(EngineError::TimedOut),
            };
            for (n, (position, given)) in positions.into_iter().zip(timestamps).enumerate() {
                results[position] = Some(outcome.clone().map(|o| ProducedRecord {
                    partition,
                    offset: o.base_offset.plus(n as i64),
                    timestamp_ms: given.filter(|_| !log_append_time).unwrap_or(o.append_time_ms),
                }));
            }
        }
        let results = results.into_iter().map(|r| r.expect("each record was known, refused or appended")).collect();
        Ok(ProduceReceipt { results, replayed })
    }

    async fn produce_one(
        &self,
        topic: &TopicInfo,
        replicas: &TopicReplicas,
        RecordToProduce { record, partition }: RecordToProduce,
        deadline: Instant,
        log_append_time: bool,
    ) -> Result<ProducedRecord, EngineError> {
        let given = record.timestamp_ms;
        let partition = partition.unwrap_or_else(|| match record.key.as_deref() {
            Some(key) => partition_for_key(key, topic.partitions),
            None => self.partition_without_key(topic, None),
        });
        let replica = replicas.partition(partition).ok_or(EngineError::NoLeader(partition))?;
        let append = AppendRecords { records: vec![record], idempotency: None, hold: None };
        let appended = replica.append_records(append).map_err(|e| replication_error(topic, partition, e))?;
        let outcome = timeout_at(deadline, appended).await.map_err(|_elapsed| EngineError::TimedOut)?;
        let AppendOutcome { base_offset, append_time_ms } = outcome.map_err(|e| log_error(topic, partition, e))?;
        let timestamp_ms = given.filter(|_| !log_append_time).unwrap_or(append_time_ms);
        Ok(ProducedRecord { partition, offset: base_offset, timestamp_ms })
    }

    /// Puts every record into its partition's log, or finds it there. True if all of them were there already.
    fn start(
        &self,
        topic: &TopicInfo,
        replicas: &TopicReplicas,
        records: Vec<RecordToProduce>,
        tag: Option<&IdempotencyTag>,
        results: &mut Results,
    ) -> Result<(Vec<Pending>, bool), EngineError> {
        let count = records.len();
        let _gate = tag.map(|tag| self.gates.enter(&tag.key));
        let known = match tag {
            Some(tag) => known_in(replicas, tag, count)?,
            None => Known::new(),
        };
        let mut groups = BTreeMap::<PartitionId, Group>::new();
        let keyless = self.partition_without_key(topic, tag);
        for (position, to_produce) in records.into_iter().enumerate() {
            if let Some(stored) = known.get(&position) {
                results[position] = Some(Ok(*stored));
                continue;
            }
            let key = to_produce.record.key.as_deref();
            let of_key = || key.map_or(keyless, |key| partition_for_key(key, topic.partitions));
            let group = groups.entry(to_produce.partition.unwrap_or_else(of_key)).or_default();
            group.positions.push(position);
            group.timestamps.push(to_produce.record.timestamp_ms);
            group.records.push(to_produce.record);
        }
        let mut pending = Vec::with_capacity(groups.len());
        for (partition, group) in groups {
            let Group { positions, timestamps, records } = group;
            let append = AppendRecords { records, idempotency: tag.map(|tag| mark(tag, &positions)), hold: None };
            let started = match replicas.partition(partition) {
                Some(replica) => replica.append_records(append).map_err(|e| replication_error(topic, partition, e)),
                None => Err(EngineError::NoLeader(partition)),
            };
            match started {
                Ok(outcome) => pending.push(Pending { partition, positions, timestamps, outcome: Box::pin(outcome) }),
                Err(error) => positions.into_iter().for_each(|p| results[p] = Some(Err(error.clone()))),
            }
        }
        Ok((pending, known.len() == count && count > 0))
    }

    /// One partition for all records of a request that have no key: under an Idempotency-Key always the same.
    fn partition_without_key(&self, topic: &TopicInfo, tag: Option<&IdempotencyTag>) -> PartitionId {
        match tag {
            Some(tag) => partition_for_key(&tag.key, topic.partitions),
            None => {
                let n = self.next_partition.fetch_add(1, Ordering::Relaxed);
                PartitionId::new((n % topic.partitions as u32) as i32)
            }
        }
    }
}

fn known_in(replicas: &TopicReplicas, tag: &IdempotencyTag, count: usize) -> Result<Known, EngineError> {
    let entries: Vec<_> =
        replicas.partitions().flat_map(|p| p.idempotency(&tag.key).into_iter().map(|entry| (p.id(), entry))).collect();
    known_records(tag, count, &entries)
}

fn mark(tag: &IdempotencyTag, positions: &[usize]) -> IdempotencyMark {
    let records = positions.iter().map(|&position| match &tag.content {
        TaggedContent::Request(hash) => (position as u32, *hash),
        TaggedContent::Records { first_index, hashes } => (first_index + position as u32, hashes[position]),
    });
    let per_record = matches!(tag.content, TaggedContent::Records { .. });
    IdempotencyMark { key: tag.key, records: records.collect(), per_record }
}

/// Checks all records. `None` if all are fine, else the receipt of a request of which nothing was stored.
fn refusals(topic: &TopicInfo, records: &[RecordToProduce], tagged: bool) -> Option<ProduceReceipt> {
    let check = |r| check_record(topic, r, tagged);
    if records.iter().all(|r| check(r).is_ok()) {
        return None;
    }
    let refuse = |r| Err(check(r).err().map_or(EngineError::RejectedWithRequest, EngineError::from));
    Some(ProduceReceipt { results: records.iter().map(refuse).collect(), replayed: false })
}

/// Whether a topic takes a record; under an Idempotency-Key (`tagged`) the log adds a header to it.
///
/// # Errors
/// Why not.
pub fn check_record(topic: &TopicInfo, to_produce: &RecordToProduce, tagged: bool) -> Result<(), RecordError> {
    let record = &to_produce.record;
    let (bytes, limit) = (log::batch_bytes(record, tagged), topic.config.max_message_bytes as usize);
    if bytes > limit {
        return Err(RecordError::TooLarge { bytes, limit });
    }
    if topic.config.cleanup_policy.compact && record.key.is_none() {
        return Err(RecordError::KeyRequired);
    }
    if let Some(timestamp) = record.timestamp_ms.filter(|t| *t < 0) {
        return Err(RecordError::Timestamp(timestamp));
    }
    match to_produce.partition {
        Some(p) if p.get() >= topic.partitions => {
            Err(RecordError::UnknownPartition { partition: p.get(), partitions: topic.partitions })
        }
        _ => Ok(()),
    }
}

//! What the three ways to produce share: their parameters, the topic, Idempotency-Keys, and what became of a batch.
//!
//! **Invariant**: 2xx means that every record reached the acknowledgement asked for. A topic is made only after the
//! request was found good.

use crate::{
    engine::{
        Acks, EngineError, IdempotencyTag, ProduceReceipt, ProduceRequest, ProducedRecord, ReceiveTag, RecordError,
        RecordToProduce, TaggedContent, TopicInfo,
    },
    http::{
        AppState, Limits,
        extract::nearest,
        listener::DOOR,
        problem::{Effects, OutcomeStatus, Problem, RecordOutcome},
        record_json::RecordLimits,
        state::App,
    },
    telemetry::StoredThrough,
    types::{Header, TopicName},
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;

/// Answers that came from an earlier request carry it.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of the longest Idempotency-Key.
pub const LONGEST_KEY: usize = 255;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The acknowledgement asked for.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Acks)]
pub enum AcksParameter {
    /// Every in-sync replica has it.
    #[default]
    All,
    /// The leader has it.
    Leader,
}

/// How a request wants its records stored.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The acknowledgement.
    pub acks: Acks,
    /// How long to wait for it.
    pub timeout: Duration,
}

impl Wanted {
    /// Reads `acks` and `timeout_ms`.
    ///
    /// # Errors
    /// 400 for a wait of nothing or more than the limit.
    pub fn new(acks: Option<AcksParameter>, timeout_ms: Option<u64>, limits: &Limits) -> Result<Self, Problem> {
        let acks = match acks.unwrap_or_default() {
            AcksParameter::All => Acks::All,
            AcksParameter::Leader => Acks::Leader,
        };
        let most = limits.max_produce_timeout;
        let timeout = timeout_ms.map_or(limits.produce_timeout, Duration::from_millis);
        if timeout.is_zero() || timeout > most {
            let most = most.as_millis();
            return Err(Problem::invalid_request(format!("timeout_ms is a whole number from 1 to {most}")));
        }
        Ok(Self { acks, timeout })
    }
}

/// Where records go: a topic, which may not be there yet.
pub struct Target {
    name: TopicName,
    found: Option<Arc<TopicInfo>>,
}

impl Target {
    /// Looks for the topic, and makes none yet.
    ///
    /// # Errors
    /// 403 for a topic of the server's own; 404 if there is none and none would be made; 503 if the server is going.
    pub fn find(app: &App, name: TopicName) -> Result<Self, Problem> {
        if name.is_internal() {
            return Err(EngineError::InternalTopic(name).into());
        }
        let found = app.engine.topic(&name);
        if found.is_none() && !app.settings.auto_create_topics {
            let names: Vec<_> = app.engine.topics();
            let names: Vec<_> = names.iter().map(|t| t.name.as_str()).filter(|n| !n.starts_with("__")).collect();
            let hint = nearest(name.as_str(), &names).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            let detail = format!("there is no topic '{name}', and topics are not made by producing here{hint}");
            return Err(Problem::unknown_topic(name.as_str()).with_detail(detail));
        }
        Ok(Self { name, found })
    }

    /// The most bytes of a record's value: the topic's own `max.message.bytes`, or else this door's limit.
    #[must_use]
    pub fn value_limit(&self, limits: &Limits) -> usize {
        let own = self.found.as_ref().filter(|t| t.overrides.contains_key("max.message.bytes"));
        own.map_or(limits.record_bytes, |t| t.config.max_message_bytes as usize).min(limits.batch_bytes)
    }

    /// The bounds of its records.
    #[must_use]
    pub fn record_limits(&self, limits: &Limits) -> RecordLimits {
        RecordLimits { value_bytes: self.value_limit(limits), headers: limits.record_headers }
    }

    /// The topic, made now if it is not there.
    ///
    /// # Errors
    /// The engine's.
    pub async fn topic(&mut self, app: &App) -> Result<Arc<TopicInfo>, EngineError> {
        if let Some(found) = &self.found {
            return Ok(found.clone());
        }
        let made = app.engine.topic_or_create(&self.name).await?;
        self.found = Some(made.clone());
        Ok(made)
    }
}

/// An Idempotency-Key, hashed with its principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey([u8; 16]);

impl IdempotencyKey {
    /// The header's, if there is one.
    ///
    /// # Errors
    /// 400 if it is empty, too long, or given twice.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = given.next() else { return Ok(None) };
        if given.next().is_some() {
            return Err(Problem::invalid_request("the header Idempotency-Key is given more than once"));
        }
        Self::new(key.as_bytes()).map(Some)
    }

    /// A key of anonymous's.
    ///
    /// # Errors
    /// 400 if it is empty or too long, or has other than visible ASCII characters.
    pub fn new(key: &[u8]) -> Result<Self, Problem> {
        if !(1..=LONGEST_KEY).contains(&key.len()) {
            let detail = format!("an Idempotency-Key has 1 to {LONGEST_KEY} bytes; this one has {}", key.len());
            return Err(Problem::invalid_request(detail));
        }
        if !key.iter().all(u8::is_ascii_graphic) {
            let detail = "an Idempotency-Key has visible ASCII characters only: no spaces, no other letters";
            return Err(Problem::invalid_request(detail));
        }
        let mut hash = Sha256::new();
        feed(&mut hash, b""); // the principal: anonymous
        feed(&mut hash, key);
        Ok(Self(half(hash)))
    }

    /// What goes to the engine for one request of these records.
    #[must_use]
    pub fn for_request(self, records: &[RecordToProduce]) -> IdempotencyTag {
        let mut hash = Sha256::new();
        records.iter().for_each(|record| feed_record(&mut hash, record));
        IdempotencyTag { key: self.0, content: TaggedContent::Request(half(hash)) }
    }

    /// What goes to the engine for a receive call.
    #[must_use]
    pub fn for_receive(self, queue: &str, max: usize, max_bytes: u64, lease_ms: Option<i64>) -> ReceiveTag {
        let mut hash = Sha256::new();
        feed(&mut hash, queue.as_bytes());
        for number in [max as u64, max_bytes, lease_ms.map_or(0, i64::unsigned_abs)] {
            hash.update(number.to_le_bytes());
        }
        ReceiveTag { key: self.0, request: half(hash) }
    }

    /// What goes to the engine for some records of a stream; the first has this number.
    #[must_use]
    pub fn for_lines(self, first_index: u32, records: &[RecordToProduce]) -> IdempotencyTag {
        let hashes = records.iter().map(|record| {
            let mut hash = Sha256::new();
            feed_record(&mut hash, record);
            half(hash)
        });
        let content = TaggedContent::Records { first_index, hashes: hashes.collect() };
        IdempotencyTag { key: self.0, content }
    }
}

/// Every part goes in behind its length, so that no two requests feed the same bytes.
fn feed(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_le_bytes());
    hash.update(part);
}

fn feed_option(hash: &mut Sha256, part: Option<&Bytes>) {
    hash.update([u8::from(part.is_some())]);
    feed(hash, part.map_or(&[], |bytes| bytes));
}

/// All that makes a record the same one; not its trace, which differs at each resend.
fn feed_record(hash: &mut Sha256, to_produce: &RecordToProduce) {
    let record = &to_produce.record;
    feed_option(hash, record.key.as_ref());
    feed_option(hash, record.value.as_ref());
    hash.update(to_produce.partition.map_or(-1, |p| p.get()).to_le_bytes());
    hash.update(record.timestamp_ms.unwrap_or(-1).to_le_bytes());
    let headers = || record.headers.iter().filter(|h| h.name != TRACEPARENT.as_str().as_bytes());
    hash.update((headers().count() as u64).to_le_bytes());
    for header in headers() {
        feed(hash, &header.name);
        feed_option(hash, header.value.as_ref());
    }
}

fn half(hash: Sha256) -> [u8; 16] {
    let hash: [u8; 32] = hash.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}

/// The request's `traceparent` as a record header.
#[must_use]
pub fn trace_header(headers: &HeaderMap) -> Option<Header> {
    let value = headers.get(TRACEPARENT).filter(|v| v.len() <= 256)?;
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    Some(Header { name: Bytes::from_static(b"traceparent"), value })
}

/// Adds the request's trace to a record that has none of its own.
pub fn add_trace(trace: Option<&Header>, to_produce: &mut RecordToProduce) {
    if let Some(trace) = trace.filter(|t| to_produce.record.headers.iter().all(|h| h.name != t.name)) {
        to_produce.record.headers.push(trace.clone());
    }
}

/// Stores records and counts them.
///
/// # Errors
/// The engine's, for the request as a whole.
pub async fn store(
    app: &AppState,
    topic: &TopicInfo,
    records: Vec<RecordToProduce>,
    wanted: &Wanted,
    idempotency: Option<IdempotencyTag>,
) -> Result<ProduceReceipt, EngineError> {
    static STORED: StoredThrough = StoredThrough::new(DOOR.door);
    let bytes: usize = records.iter().map(|r| r.record.payload_bytes()).sum();
    let request = ProduceRequest { topic: topic.id, records, acks: wanted.acks, timeout: wanted.timeout, idempotency };
    let receipt = app.engine.produce(request).await?;
    let stored = receipt.results.iter().filter(|r| r.is_ok()).count();
    if stored > 0 && !receipt.replayed {
        STORED.count(stored as u64, bytes as u64);
    }
    Ok(receipt)
}

/// All of a batch's records, or the problem that says what became of each.
///
/// # Errors
/// 422 (413 for size) if records were refused and nothing was stored, the failure itself if all failed alike, else 503
/// `partially-stored`.
pub fn all_stored(results: Vec<Result<ProducedRecord, EngineError>>) -> Result<Vec<ProducedRecord>, Problem> {
    if results.iter().all(Result::is_ok) {
        return Ok(results.into_iter().flatten().collect());
    }
    let stored = results.iter().filter(|r| r.is_ok()).count();
    let outcomes: Vec<_> = results.iter().enumerate().map(|(index, result)| outcome(index, result)).collect();
    if outcomes.iter().any(|o| o.status == OutcomeStatus::Invalid) {
        return Err(refused(outcomes));
    }
    let errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    let kind = std::mem::discriminant(errors[0]);
    let alike = errors.iter().all(|e| std::mem::discriminant(*e) == kind);
    let conflict = errors.iter().find(|e| matches!(e, EngineError::IdempotencyConflict));
    let effects = if stored > 0 {
        Effects::Applied
    } else if errors.iter().any(|e| Effects::from(e.side_effects()) != Effects::None) {
        Effects::Unknown
    } else {
        Effects::None
    };
    let problem = match conflict {
        Some(conflict) => Problem::from(*conflict),
        None if stored == 0 && alike => Problem::from(errors[0]),
        None => {
            let detail = format!(
                "{stored} of {} records were stored; 'results' says which. Resend the others, or all of them under the \
                 same Idempotency-Key",
                results.len()
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "partially-stored", "Not all records were stored", detail)
                .retry_after(Duration::from_millis(500))
        }
    };
    Err(problem.with_side_effects(effects).with_results(outcomes))
}

/// The refusal of a batch of which nothing was stored: 413 if size is all that is wrong, else 422.
#[must_use]
pub fn refused(outcomes: Vec<RecordOutcome>) -> Problem {
    let invalid = || outcomes.iter().filter(|o| o.status == OutcomeStatus::Invalid);
    let count = invalid().count();
    let size_only = invalid().all(|o| o.code.as_deref() == Some("record-too-large"));
    let first = invalid().next().and_then(|o| Some((o.index, o.detail.clone()?)));
    let (index, why) = first.unwrap_or_default();
    let detail =
        format!("nothing was stored: {count} of {} records do not fit; records[{index}]: {why}", outcomes.len());
    let problem = if size_only {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "The record is too large", detail)
    } else {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-records", "Some records do not fit", detail)
    };
    problem.with_results(outcomes)
}

fn outcome(index: usize, result: &Result<ProducedRecord, EngineError>) -> RecordOutcome {
    match result {
        Ok(record) => RecordOutcome::stored(index, *record),
        Err(EngineError::RejectedWithRequest) => RecordOutcome::not_stored(index, OutcomeStatus::NotStored),
        Err(error @ EngineError::InvalidRecord(_)) => Problem::from(error).to_outcome(index, OutcomeStatus::Invalid),
        Err(error) => Problem::from(error).to_outcome(index, OutcomeStatus::Failed),
    }
}

/// A partition that a query names.
///
/// # Errors
/// 404 if it can not exist.
pub fn partition(given: Option<i64>, topic: Option<&TopicInfo>) -> Result<Option<crate::types::PartitionId>, Problem> {
    let Some(given) = given else { return Ok(None) };
    match i32::try_from(given) {
        Ok(n) if n >= 0 => Ok(Some(crate::types::PartitionId::new(n))),
        _ => {
            let (partition, partitions) =
                (given.clamp(-1, i64::from(i32::MAX)) as i32, topic.map_or(0, |t| t.partitions));
            Err(Problem::from(&RecordError::UnknownPartition { partition, partitions }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Offset, PartitionId, Record};

    fn record(key: &'static str, value: &'static str, headers: &[(&'static str, &'static str)]) -> RecordToProduce {
        let headers = headers.iter().map(|(n, v)| Header { name: (*n).into(), value: Some((*v).into()) }).collect();
        let record = Record { key: Some(key.into()), value: Some(value.into()), headers, timestamp_ms: None };
        RecordToProduce { record, partition: None }
    }

    fn hash(records: &[RecordToProduce]) -> TaggedContent {
        IdempotencyKey::new(b"k").unwrap().for_request(records).content
    }

    #[test]
    fn one_key_stands_for_one_content() {
        let first = hash(&[record("ab", "c", &[("x", "1"), ("traceparent", "one")])]);
        assert_eq!(first, hash(&[record("ab", "c", &[("x", "1"), ("traceparent", "two")])]));
        assert_eq!(first, hash(&[record("ab", "c", &[("x", "1")])]));
        let mut elsewhere = record("ab", "c", &[("x", "1")]);
        elsewhere.partition = Some(PartitionId::new(0));
        let mut later = record("ab", "c", &[("x", "1")]);
        later.record.timestamp_ms = Some(0);
        let mut tombstone = record("ab", "c", &[("x", "1")]);
        tombstone.record.value = None;
        for other in [record("a", "bc", &[("x", "1")]), record("ab", "c", &[]), elsewhere, later, tombstone] {
            assert_ne!(first, hash(std::slice::from_ref(&other)), "{other:?}");
        }
        assert_ne!(IdempotencyKey::new(b"k"), IdempotencyKey::new(b"l"));
        assert!(IdempotencyKey::new(b"").is_err() && IdempotencyKey::new(&[b'x'; 256]).is_err());
    }

    fn good(offset: i64) -> Result<ProducedRecord, EngineError> {
        Ok(ProducedRecord { partition: PartitionId::new(0), offset: Offset::new(offset), timestamp_ms: 1 })
    }

    #[test]
    fn a_batch_is_a_success_only_if_all_of_it_is() {
        assert_eq!(all_stored(vec![good(1), good(2)]).unwrap().len(), 2);
        let part = all_stored(vec![good(1), Err(EngineError::TimedOut)]).unwrap_err();
        assert_eq!((part.status().as_u16(), part.code()), (503, "partially-stored"));
        assert_eq!(part.body().side_effects, Effects::Applied);
        let results = part.body().results.as_ref().unwrap();
        assert_eq!((results[0].status, results[0].offset), (OutcomeStatus::Stored, Some(1)));
        assert_eq!((results[1].status, results[1].code.as_deref()), (OutcomeStatus::Failed, Some("timed-out")));
        let full = all_stored(vec![Err(EngineError::DiskFull), Err(EngineError::DiskFull)]).unwrap_err();
        assert_eq!((full.status().as_u16(), full.body().side_effects), (507, Effects::None));
        let mixed = all_stored(vec![Err(EngineError::DiskFull), Err(EngineError::TimedOut)]).unwrap_err();
        assert_eq!((mixed.code(), mixed.body().side_effects), ("partially-stored", Effects::Unknown));
        let large = EngineError::InvalidRecord(RecordError::TooLarge { bytes: 2, limit: 1 });
        let refused = all_stored(vec![Err(EngineError::RejectedWithRequest), Err(large.clone())]).unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (413, "record-too-large"));
        let keyless = EngineError::InvalidRecord(RecordError::KeyRequired);
        let refused = all_stored(vec![Err(keyless), Err(large)]).unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.code()), (422, "invalid-records"));
    }
}

//! An idempotent producer: each record is stored once, in the order of the calls to its partition, or its caller learns
//! that it was not, or that nobody can tell.
//!
//! **Invariant**: a partition has one batch under way. It is sent again, the same bytes under the same numbers, until a
//! broker says that it is stored, or the last deadline among its callers passes; only `sequence` decides what then follows.
//! What waits meanwhile goes out as one batch, so that a slow leader gets larger batches instead of more.
//!
//! A task for each partition that is written to; it ends when nobody writes for a while. A caller that goes away takes
//! nothing with it: what it handed over is stored all the same.

use super::sequence::{Identity, Sequence, Verdict};
use super::{Acks, Client, ClientError, Code, Produced, ProducerOptions};
use crate::codec::{BatchBuilder, BatchProducer};
use crate::types::{LeaderEpoch, Offset, PartitionId, Record};
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Calls that wait in a partition's queue; further ones wait before it.
const QUEUE: usize = 1024;
/// Partitions written to at a time.
const MAX_LANES: usize = 100_000;

/// An idempotent producer. Clones share its partitions.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    options: Arc<ProducerOptions>,
    buffered: Arc<Semaphore>,
    lanes: Lanes,
    closed: CancellationToken,
}

type Lanes = Mutex<BTreeMap<(String, PartitionId), mpsc::Sender<Call>>>;

struct Call {
    records: Vec<Record>,
    bytes: usize,
    deadline: Instant,
    reply: oneshot::Sender<Result<Produced, ClientError>>,
    _buffered: OwnedSemaphorePermit,
}

impl Producer {
    /// Over a client's connections.
    #[must_use]
    pub fn new(client: Client, options: ProducerOptions) -> Self {
        let buffered = Arc::new(Semaphore::new(options.buffered_bytes));
        let inner = Inner {
            client,
            options: Arc::new(options),
            buffered,
            lanes: Mutex::default(),
            closed: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Stores records in a partition, on all in-sync replicas. They get offsets in a row.
    ///
    /// # Errors
    /// [`ClientError`]; where its `side_effects` are unknown, the records may be stored.
    pub async fn produce(
        &self,
        topic: &str,
        partition: PartitionId,
        records: Vec<Record>,
        deadline: Instant,
    ) -> Result<Produced, ClientError> {
        let bytes: usize = records.iter().map(BatchBuilder::record_bytes).sum();
        let limit = self.inner.options.buffered_bytes.min(Semaphore::MAX_PERMITS);
        if records.is_empty() {
            return Err(ClientError::Incomplete("records"));
        }
        let too_large = || ClientError::TooLarge { bytes, limit };
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= limit).ok_or_else(too_large)?;
        let buffered = timeout_at(deadline, self.inner.buffered.clone().acquire_many_owned(permits)).await;
        let buffered = buffered.map_err(|_| ClientError::DeadlineBeforeSent)?.map_err(|_| ClientError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let call = Call { records, bytes, deadline, reply, _buffered: buffered };
        loop {
            let lane = self.lane(topic, partition)?;
            match timeout_at(deadline, lane.reserve()).await {
                Ok(Ok(place)) => {
                    place.send(call);
                    break;
                }
                // It ended for want of calls just now; the next one is a new one.
                Ok(Err(_)) => tokio::task::yield_now().await,
                Err(_) => return Err(ClientError::DeadlineBeforeSent),
            }
        }
        // The lane answers every call, at the latest after its deadline.
        answer.await.unwrap_or(Err(ClientError::Cut))
    }

    fn lane(&self, topic: &str, partition: PartitionId) -> Result<mpsc::Sender<Call>, ClientError> {
        if self.inner.closed.is_cancelled() {
            return Err(ClientError::Closed);
        }
        let mut lanes = self.inner.lanes.lock();
        let key = (topic.to_owned(), partition);
        if let Some(lane) = lanes.get(&key).filter(|lane| !lane.is_closed()) {
            return Ok(lane.clone());
        }
        if lanes.len() >= MAX_LANES {
            lanes.retain(|_, lane| !lane.is_closed());
        }
        let (calls, queue) = mpsc::channel(QUEUE);
        let lane = Lane {
            client: self.inner.client.clone(),
            options: self.inner.options.clone(),
            topic: topic.to_owned(),
            partition,
            sequence: Sequence::default(),
            waiting: VecDeque::new(),
            split: false,
        };
        tokio::spawn(lane.run(queue, self.inner.closed.clone()));
        lanes.insert(key, calls.clone());
        Ok(calls)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// One partition's task.
struct Lane {
    client: Client,
    options: Arc<ProducerOptions>,
    topic: String,
    partition: PartitionId,
    sequence: Sequence,
    /// Taken off the queue, and not in a batch yet.
    waiting: VecDeque<Call>,
    /// The leader found a merged batch too large: one call a batch until what waits is through.
    split: bool,
}

impl Lane {
    async fn run(mut self, mut queue: mpsc::Receiver<Call>, closed: CancellationToken) {
        loop {
            if self.waiting.is_empty() {
                self.split = false;
                let call = tokio::select! {
                    biased;
                    () = closed.cancelled(), if !queue.is_closed() => None,
                    call = timeout(self.options.idle, queue.recv()) => call.ok().flatten(),
                };
                match call {
                    Some(call) => self.waiting.push_back(call),
                    // Somebody may have put a call in since: once closed, what is in there comes out, and then nothing.
                    None if !queue.is_closed() => queue.close(),
                    None => return,
                }
            }
            while self.waiting.len() < QUEUE
                && let Ok(call) = queue.try_recv()
            {
                self.waiting.push_back(call);
            }
            let calls = self.take();
            if !calls.is_empty() {
                self.store(calls).await;
            }
        }
    }

    /// The calls of the next batch.
    fn take(&mut self) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut bytes = 0;
        while let Some(call) = self.waiting.front() {
            if !calls.is_empty() && (self.split || bytes + call.bytes > self.options.batch_bytes) {
                break;
            }
            let call = self.waiting.pop_front().expect("it was just looked at");
            if call.deadline <= Instant::now() {
                let _ = call.reply.send(Err(ClientError::DeadlineBeforeSent)); // who asked may have gone
                continue;
            }
            bytes += call.bytes;
            calls.push(call);
        }
        calls
    }

    /// Brings one batch to its end, and answers its calls.
    async fn store(&mut self, calls: Vec<Call>) {
        let deadline = calls.iter().map(|call| call.deadline).max().expect("a batch has calls");
        let count = calls.iter().map(|call| call.records.len()).sum::<usize>();
        let count = i32::try_from(count).expect("a batch is far below 2 GiB, and a record takes bytes");
        match self.attempt(&calls, count, deadline).await {
            Ok(produced) => {
                let mut at = 0;
                for call in calls {
                    let base_offset = produced.base_offset.map(|base| base.plus(at));
                    at += call.records.len() as i64;
                    let _ = call.reply.send(Ok(Produced { base_offset, ..produced.clone() })); // as above
                }
            }
            Err(ClientError::Refused { code: Code::MESSAGE_TOO_LARGE | Code::RECORD_LIST_TOO_LARGE, .. })
                if calls.len() > 1 =>
            {
                self.split = true;
                calls.into_iter().rev().for_each(|call| self.waiting.push_front(call));
            }
            Err(error) => {
                for call in calls {
                    let _ = call.reply.send(Err(error.clone())); // as above
                }
            }
        }
    }

    async fn attempt(&mut self, calls: &[Call], count: i32, deadline: Instant) -> Result<Produced, ClientError> {
        let mut failures = 0;
        let mut batch: Option<Bytes> = None;
        loop {
            if self.sequence.wants_identity() {
                let (id, epoch) = self.client.init_producer_id(deadline).await?;
                self.sequence.identify(Identity { id, epoch });
                batch = None;
            }
            let producer = self.sequence.producer().expect("it was identified just now, or before");
            let bytes = batch.get_or_insert_with(|| self.encode(calls, producer));
            let sent = self.client.produce_once(&self.topic, self.partition, bytes, Acks::All, deadline).await;
            let (outcome, produced) = match sent {
                Ok(produced) => (Ok(produced.base_offset.unwrap_or_default()), Some(produced)),
                Err(error) => (Err(error), None),
            };
            let error = outcome.as_ref().err().cloned();
            match self.sequence.judge(count, outcome) {
                Verdict::Stored(offset) => {
                    let unknown = Produced { base_offset: offset, log_append_time_ms: None, log_start: None };
                    return Ok(produced.unwrap_or(unknown));
                }
                Verdict::Renumber => batch = None,
                Verdict::Again => {
                    let error = error.expect("only an error is tried again");
                    if let Err(error) = self.client.settle(error, &self.topic, true, &mut failures, deadline).await {
                        return Err(self.failed(error));
                    }
                }
                Verdict::Failed(error) => return Err(error),
            }
        }
    }

    fn failed(&mut self, error: ClientError) -> ClientError {
        match self.sequence.give_up(error) {
            Verdict::Failed(error) => error,
            // Giving up has no other outcome.
            Verdict::Stored(_) | Verdict::Again | Verdict::Renumber => ClientError::Deadline,
        }
    }

    fn encode(&self, calls: &[Call], producer: BatchProducer) -> Bytes {
        let now_ms = self.client.sys().clock.now_ms();
        // The leader writes offsets and its epoch.
        let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
        builder.set_producer(producer);
        for record in calls.iter().flat_map(|call| &call.records) {
            builder.push(record.timestamp_ms.unwrap_or(now_ms), record);
        }
        builder.finish(self.options.compression)
    }
}

//! From the log to a consumer: looks at the log for a queue, leases, reads what was leased.
//!
//! **Invariant**: one receiver at a time looks at a partition's log for a queue, the others wait for what it finds. What
//! was leased and does not fit the answer is given back, and does not count as a delivery.

use super::{QueueHandle, QueueMessage, ReceiveRequest, ReceivedMessages, unexpected};
use crate::codec::{DecompressLimit, RecordBatch, RecordView};
use crate::coordinator::queue::{
    Definition, LeaseRef, Leased, Offer, Offered, QueueCommand, QueueRefusal, QueueReply, Received, Want,
};
use crate::engine::routed::RoutedEngine;
use crate::engine::{Engine, EngineError, FetchRequest, TopicInfo};
use crate::types::{Header, Offset, PartitionId, PartitionProgress, StoredRecord, murmur2};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A batch is decompressed for one look.
pub(super) const DECOMPRESS: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };
/// Bytes of batches that one look at a partition reads.
const LOOK_BYTES: usize = 1 << 20;
/// Bytes of batches that one read of leased records asks for.
const READ_BYTES: usize = 1 << 20;
/// The header by which a record says when it is to be delivered, in Unix ms.
pub(super) const DELIVER_AT: &[u8] = b"deliver_at_ms";

/// How soon a log is looked at again that could not be read.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Takes the mark of a look back, whatever becomes of the one who looks.
struct Looking {
    handle: Arc<QueueHandle>,
    partitions: Vec<i32>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        // Who looked at nothing has nothing to tell. Two receivers that wait would wake each other for ever.
        if self.partitions.is_empty() {
            return;
        }
        let mut looking = self.handle.looking.lock();
        looking.retain(|partition| !self.partitions.contains(partition));
        drop(looking);
        self.handle.wake.notify_waiters();
    }
}

type Watches = BTreeMap<i32, watch::Receiver<PartitionProgress>>;

/// The first offset that can be read, of each partition.
pub(super) fn log_starts(watches: &Watches) -> Vec<(i32, i64)> {
    watches.iter().map(|(partition, watch)| (*partition, watch.borrow().log_start.get())).collect()
}

impl RoutedEngine {
    pub(super) async fn receive_messages(&self, request: ReceiveRequest) -> Result<ReceivedMessages, EngineError> {
        let deadline = Instant::now() + request.wait;
        // What was found in the log, for the queue of this identity.
        let (mut offers, mut found_for) = (Vec::new(), 0);
        let mut looking: Option<Looking> = None;
        loop {
            // Each time: a queue that was changed or made again meanwhile has another one, and that is woken.
            let handle = self.queue_handle(&request.queue).await?;
            let topic = self.topic_of_queue(&request.queue, &handle.definition)?;
            let mut woken = pin!(handle.wake.notified());
            // Before the question, so that what comes between it and the wait is not missed.
            woken.as_mut().enable();
            if handle.is_stale.load(Ordering::Acquire) {
                continue;
            }
            let mut watches = self.watches(&topic)?;
            if found_for != handle.id {
                offers.clear();
            }
            let received = match self.ask_receive(&request, handle.id, &watches, std::mem::take(&mut offers)).await {
                // Deleted, or made again: the next turn finds out.
                Err(EngineError::Queue(QueueRefusal::UnknownQueue(_))) => continue,
                received => received?,
            };
            drop(looking.take());
            if !received.leases.is_empty() {
                let messages = self.read_leased(&request, &topic, received.leases).await?;
                // All may have been gone; then others are looked for.
                if !messages.is_empty() {
                    return Ok(ReceivedMessages { topic, messages, replayed: received.replayed });
                }
                continue;
            }
            let mark = self.mark_looking(&handle, &received.wants, &watches);
            let unread = !mark.partitions.is_empty();
            if unread {
                offers = self.look(&topic, &handle.definition, &received.wants, &mark.partitions).await?;
                found_for = handle.id;
                looking = Some(mark);
                if !offers.is_empty() {
                    continue;
                }
            }
            drop(looking.take());
            if Instant::now() >= deadline {
                return Ok(ReceivedMessages { topic, messages: Vec::new(), replayed: false });
            }
            if unread {
                // There is something, and it can not be read now. Nothing else would hold this loop.
                tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                continue;
            }
            let due = received.next_due.map(|due| due.saturating_sub(self.sys.clock.monotonic()));
            // A tick more: a timer is looked at in whole ticks.
            let until = due.map_or(deadline, |due| deadline.min(Instant::now() + due + Duration::from_millis(1)));
            let mut changes: FuturesUnordered<_> = received
                .wants
                .iter()
                .filter_map(|want| watches.remove(&want.partition))
                .map(|mut watch| async move { watch.changed().await })
                .collect();
            tokio::select! {
                biased;
                () = &mut woken => {}
                Some(_) = changes.next() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// The progress of every partition of a topic, marked as seen.
    pub(super) fn watches(&self, topic: &TopicInfo) -> Result<Watches, EngineError> {
        let watch = |partition| {
            let mut watch = self.watch(topic.id, PartitionId::new(partition))?;
            watch.mark_unchanged();
            Ok((partition, watch))
        };
        (0..topic.partitions).map(watch).collect()
    }

    async fn ask_receive(
        &self,
        request: &ReceiveRequest,
        id: u64,
        watches: &Watches,
        offers: Vec<Offer>,
    ) -> Result<Received, EngineError> {
        let log_starts = log_starts(watches);
        let command = QueueCommand::Receive {
            queue: request.queue.clone(),
            id,
            max: request.max,
            lease_ms: request.lease_ms,
            tag: request.tag,
            log_starts,
            offers,
        };
        match self.ask_queue(&request.queue, command).await? {
            QueueReply::Received(received) => Ok(received),
            other => Err(unexpected(&other)),
        }
    }

    /// Which partitions this receiver looks at now: those that have something new, and that nobody looks at.
    fn mark_looking(&self, handle: &Arc<QueueHandle>, wants: &[Want], watches: &Watches) -> Looking {
        let mut looking = handle.looking.lock();
        let has_more = |want: &&Want| {
            watches.get(&want.partition).is_some_and(|watch| watch.borrow().high_watermark.get() > want.from)
        };
        let mine = wants.iter().filter(has_more).map(|want| want.partition).filter(|p| looking.insert(*p)).collect();
        drop(looking);
        Looking { handle: handle.clone(), partitions: mine }
    }

    async fn look(
        &self,
        topic: &TopicInfo,
        definition: &Definition,
        wants: &[Want],
        partitions: &[i32],
    ) -> Result<Vec<Offer>, EngineError> {
        let mut offers = Vec::new();
        for want in wants.iter().filter(|want| partitions.contains(&want.partition)) {
            let fetched = self.fetch_from(topic, want.partition, want.from, LOOK_BYTES).await;
            let batches = match fetched {
                Ok(batches) => batches,
                // Retention was faster; the next call knows the new log start.
                Err(EngineError::OffsetOutOfRange { .. }) => continue,
                Err(error) if error.is_retryable() => continue,
                Err(error) => return Err(error),
            };
            offers.extend(offer(want, definition.settings.order_by_key, &batches)?);
        }
        Ok(offers)
    }

    pub(super) async fn fetch_from(
        &self,
        topic: &TopicInfo,
        partition: i32,
        from: i64,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, EngineError> {
        let (partition, from) = (PartitionId::new(partition), Offset::new(from));
        Ok(self.fetch(FetchRequest { topic: topic.id, partition, from, max_bytes }).await?.batches)
    }

    /// Reads what was leased, gives back what does not fit, and settles what is not there any more.
    async fn read_leased(
        &self,
        request: &ReceiveRequest,
        topic: &TopicInfo,
        mut leases: Vec<Leased>,
    ) -> Result<Vec<QueueMessage>, EngineError> {
        leases.sort_unstable_by_key(|leased| (leased.lease.partition, leased.lease.offset));
        let mut messages = Vec::with_capacity(leases.len());
        let (mut gone, mut unsent): (Vec<LeaseRef>, Vec<LeaseRef>) = (Vec::new(), Vec::new());
        let (mut bytes, mut failure) = (0, None);
        for same in leases.chunk_by(|a, b| a.lease.partition == b.lease.partition) {
            let mut left = same;
            while let Some(first) = left.first() {
                let full = !messages.is_empty() && bytes >= request.max_bytes;
                if full || failure.is_some() {
                    unsent.extend(left.iter().map(|leased| leased.lease));
                    break;
                }
                let lease = first.lease;
                let want = (request.max_bytes - bytes.min(request.max_bytes)).clamp(1, READ_BYTES);
                let batches = match self.fetch_from(topic, lease.partition, lease.offset, want).await {
                    Ok(batches) if !batches.is_empty() => batches,
                    Ok(_) | Err(EngineError::OffsetOutOfRange { .. }) => {
                        gone.push(lease);
                        left = &left[1..];
                        continue;
                    }
                    Err(error) => {
                        failure = Some(error);
                        continue;
                    }
                };
                let mut pick =
                    Pick { left, messages: &mut messages, gone: &mut gone, bytes: &mut bytes, request, engine: self };
                match pick.all(&batches) {
                    Ok(()) => left = pick.left,
                    Err(error) => failure = Some(error),
                }
            }
        }
        if !gone.is_empty() || !unsent.is_empty() {
            let command = QueueCommand::Return { queue: request.queue.clone(), unsent, gone };
            self.ask_queue(&request.queue, command).await?;
            if let Some(handle) = self.queues.handles.lock().get(&request.queue) {
                handle.wake.notify_waiters();
            }
        }
        match failure {
            Some(error) if messages.is_empty() => Err(error),
            _ => Ok(messages),
        }
    }
}

/// Picks leased records out of batches, both in the order of offsets.
struct Pick<'l, 'a> {
    left: &'l [Leased],
    messages: &'a mut Vec<QueueMessage>,
    gone: &'a mut Vec<LeaseRef>,
    bytes: &'a mut usize,
    request: &'a ReceiveRequest,
    engine: &'a RoutedEngine,
}

impl Pick<'_, '_> {
    fn all(&mut self, batches: &[RecordBatch]) -> Result<(), EngineError> {
        for batch in batches {
            if !batch.header().control {
                self.one(batch)?;
            }
            // What it would hold and does not is gone.
            self.skip_to(batch.header().next_offset().get());
        }
        Ok(())
    }

    fn skip_to(&mut self, offset: i64) {
        while let Some((first, rest)) = self.left.split_first().filter(|(first, _)| first.lease.offset < offset) {
            if self.is_full() {
                return;
            }
            self.gone.push(first.lease);
            self.left = rest;
        }
    }

    fn is_full(&self) -> bool {
        !self.messages.is_empty() && *self.bytes >= self.request.max_bytes
    }

    fn one(&mut self, batch: &RecordBatch) -> Result<(), EngineError> {
        let mut records = batch.records(DECOMPRESS).map_err(damaged)?;
        while let Some(first) = self.left.first().copied().filter(|_| !self.is_full()) {
            let Some(view) = records.next_view() else { return Ok(()) };
            let view = view.map_err(damaged)?;
            self.skip_to(view.offset.get());
            if self.left.first().is_none_or(|leased| leased.lease.offset != view.offset.get()) {
                continue;
            }
            let record = stored(&view, batch);
            *self.bytes += view.key.map_or(0, <[u8]>::len) + view.value.map_or(0, <[u8]>::len);
            let leased = self.left[0];
            debug_assert!(first.lease.offset <= leased.lease.offset);
            self.left = &self.left[1..];
            self.messages.push(QueueMessage {
                lease: self.engine.queues.signer.sign(leased.lease),
                attempt: leased.attempt,
                leased_until_ms: leased.leased_until_ms,
                partition: PartitionId::new(leased.lease.partition),
                record,
            });
        }
        Ok(())
    }
}

/// A copy: a message must not keep a whole batch in memory, and its neighbours need not be counted.
pub(super) fn stored(view: &RecordView<'_>, batch: &RecordBatch) -> StoredRecord {
    let copy = |part: Option<&[u8]>| part.map(Bytes::copy_from_slice);
    StoredRecord {
        offset: view.offset,
        leader_epoch: batch.header().leader_epoch,
        timestamp_ms: view.timestamp_ms,
        key: copy(view.key),
        value: copy(view.value),
        headers: view
            .headers
            .map(|(name, value)| Header { name: Bytes::copy_from_slice(name), value: copy(value) })
            .collect(),
    }
}

pub(super) fn damaged(error: crate::codec::BatchError) -> EngineError {
    EngineError::Internal(format!("reading for a queue: {error}"))
}

/// What of the log a queue has to know.
fn offer(want: &Want, order_by_key: bool, batches: &[RecordBatch]) -> Result<Option<Offer>, EngineError> {
    let Some(last) = batches.last() else { return Ok(None) };
    let mut to = last.header().next_offset().get();
    let mut offered = Vec::new();
    'all: for batch in batches.iter().filter(|batch| !batch.header().control) {
        let mut records = batch.records(DECOMPRESS).map_err(damaged)?;
        while let Some(view) = records.next_view() {
            let view = view.map_err(damaged)?;
            let offset = view.offset.get();
            if offset < want.from {
                continue;
            }
            if offered.len() == want.room {
                to = offset;
                break 'all;
            }
            let key = view.key.filter(|_| order_by_key).map(key_hash);
            offered.push(Offered { offset, key, deliver_at_ms: deliver_at(&view) });
        }
    }
    Ok((to > want.from).then_some(Offer { partition: want.partition, from: want.from, to, records: offered }))
}

/// It lies in the state log, so it never changes. Two keys that share one are delivered as if they were one.
fn key_hash(key: &[u8]) -> u64 {
    u64::from(murmur2(key)) << 32 | u64::from(crc32c::crc32c(key))
}

fn deliver_at(view: &RecordView<'_>) -> Option<i64> {
    let (_, value) = view.headers.filter(|(name, _)| *name == DELIVER_AT).last()?;
    std::str::from_utf8(value?).ok()?.trim().parse().ok()
}

//! From the log to a consumer: looks at the log for a queue, leases, gives what was leased.
//!
//! **Invariant**: one receiver at a time looks at a partition's log for a queue, the others wait for what it finds. Of those
//! that wait one is the scout: it alone wakes when the log grows or a time comes, and whoever finds more than it takes wakes
//! one more. So a message costs two receivers their sleep, however many wait. What was leased and does not fit the answer
//! is given back, and does not count as a delivery.

use super::{QueueHandle, QueueMessage, ReceiveRequest, ReceivedMessages, unexpected};
use crate::codec::{DecompressLimit, IndexedBatch, RecordBatch, RecordView};
use crate::coordinator::queue::{
    LeaseRef, Leased, Offer, Offered, QueueCommand, QueueRefusal, QueueReply, Received, Want,
};
use crate::engine::routed::RoutedEngine;
use crate::engine::{Engine, EngineError, FetchRequest, TopicInfo};
use crate::types::{Header, Offset, PartitionId, PartitionProgress, StoredRecord, murmur2};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{futures::Notified, watch};
use tokio::time::Instant;

/// A batch is decompressed for one look.
pub(super) const DECOMPRESS: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };
/// Bytes of batches that one look at a partition reads.
const LOOK_BYTES: usize = 1 << 20;
/// Bytes of batches that one read of leased records asks for: by the record, and at most.
const READ_BYTES_EACH: usize = 16 << 10;
const READ_BYTES: usize = 1 << 20;
/// How long a partition is left alone that can not be read now.
const LOST_SIGHT: Duration = Duration::from_millis(100);
/// How often one whose time is over waits for what others find.
const OTHERS_LOOKS: u32 = 10;
/// The header by which a record says when it is to be delivered, in Unix ms.
pub(super) const DELIVER_AT: &[u8] = b"deliver_at_ms";

/// Takes the mark of a look back, whatever becomes of the one who looks.
struct Looking<'a> {
    handle: &'a QueueHandle,
    partitions: Vec<i32>,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if self.partitions.is_empty() {
            return;
        }
        self.handle.looking.lock().retain(|partition| !self.partitions.contains(partition));
        self.handle.wake.notify_one();
        // It left these partitions to the one who looked.
        self.handle.scout.notify_one();
    }
}

/// The one of those that wait who watches the log and the time; when it goes another takes its place.
struct Scout<'a>(&'a QueueHandle);

impl<'a> Scout<'a> {
    fn try_be(handle: &'a QueueHandle) -> Option<Self> {
        let mut until = handle.scout_until.lock();
        if until.is_some() {
            return None;
        }
        // Whatever comes before it knows better wakes it.
        *until = Some(Duration::MAX);
        Some(Self(handle))
    }
}

impl Drop for Scout<'_> {
    fn drop(&mut self) {
        *self.0.scout_until.lock() = None;
        self.0.wake.notify_one();
    }
}

/// A topic's partitions, as they are now.
type Progress = BTreeMap<i32, PartitionProgress>;

/// The first offset that can be read, of each partition.
pub(super) fn log_starts(progress: &Progress) -> Vec<(i32, i64)> {
    progress.iter().map(|(partition, now)| (*partition, now.log_start.get())).collect()
}

impl RoutedEngine {
    pub(super) async fn receive_messages(&self, request: ReceiveRequest) -> Result<ReceivedMessages, EngineError> {
        let deadline = Instant::now() + request.wait;
        loop {
            // Anew each time: a queue that was changed or made again has another.
            let handle = self.queue_handle(&request.queue).await?;
            if let Some(received) = self.receive_by(&request, &handle, deadline).await? {
                return Ok(received);
            }
        }
    }

    /// Receives by this handle; `None` if the queue is another by now, or gone.
    async fn receive_by(
        &self,
        request: &ReceiveRequest,
        handle: &Arc<QueueHandle>,
        deadline: Instant,
    ) -> Result<Option<ReceivedMessages>, EngineError> {
        let mut offers = Vec::new();
        let mut looking: Option<Looking<'_>> = None;
        let mut scout: Option<Scout<'_>> = None;
        let mut patience = OTHERS_LOOKS;
        loop {
            let topic = self.topic_of_queue(&request.queue, &handle.definition)?;
            let mut woken = pin!(handle.wake.notified());
            // Before the question, so that what comes between it and the wait is not missed.
            woken.as_mut().enable();
            if handle.is_stale() {
                return Ok(None);
            }
            let progress = self.progress(&topic)?;
            let found = std::mem::take(&mut offers);
            let received = match self.ask_receive(request, handle.id, request.max, &progress, found).await {
                // Deleted, or made again: the next turn finds out.
                Err(EngineError::Queue(QueueRefusal::UnknownQueue(_))) => return Ok(None),
                received => received?,
            };
            drop(looking.take());
            if scout.is_none() {
                handle.time_moved(received.next_due);
            }
            let (mark, others_look) = self.mark_looking(handle, &received.wants, &progress);
            if !received.leases.is_empty() {
                drop(scout.take());
                if received.more {
                    handle.wake.notify_one();
                }
                let ahead = self.look_ahead(request, handle, &topic, &received.wants, mark, &progress);
                let (messages, ahead) = tokio::join!(self.read_leased(request, &topic, received.leases), ahead);
                if let Err(error) = ahead {
                    tracing::debug!(%error, queue = request.queue, "looking ahead failed; the next receiver looks again");
                }
                let messages = messages?;
                // All may have been gone; then others are looked for.
                if !messages.is_empty() {
                    return Ok(Some(ReceivedMessages { topic, messages, replayed: received.replayed }));
                }
                continue;
            }
            if !mark.partitions.is_empty() {
                offers = self.look(&topic, handle, &received.wants, &mark.partitions).await?;
                looking = Some(mark);
                if !offers.is_empty() {
                    continue;
                }
                // They can not be read now: under its mark nobody else tries either.
                tokio::time::sleep_until(deadline.min(Instant::now() + LOST_SIGHT)).await;
                drop(looking.take());
            }
            if Instant::now() >= deadline {
                // What somebody else finds just now may be for this one too: nothing means that there is nothing.
                if others_look && patience > 0 {
                    patience -= 1;
                    let until = Instant::now() + LOST_SIGHT;
                    match &scout {
                        Some(_) => self.watch_out(handle, &topic, &received, woken, until).await?,
                        None => tokio::time::timeout_at(until, woken).await.unwrap_or_default(),
                    }
                    continue;
                }
                // The wake that it took may have been meant for the next scout.
                if scout.is_none() && handle.scout_until.lock().is_none() {
                    handle.wake.notify_one();
                }
                return Ok(Some(ReceivedMessages { topic, messages: Vec::new(), replayed: false }));
            }
            if scout.is_none() {
                scout = Scout::try_be(handle);
                if scout.is_some() {
                    // From here on it is woken by what may have come since the question.
                    continue;
                }
            }
            match &scout {
                Some(_) => self.watch_out(handle, &topic, &received, woken, deadline).await?,
                // At the deadline it asks once more, as after a wake.
                None => tokio::time::timeout_at(deadline, woken).await.unwrap_or_default(),
            }
        }
    }

    /// The scout's wait. What others look at is theirs: they wake it.
    async fn watch_out(
        &self,
        handle: &QueueHandle,
        topic: &TopicInfo,
        received: &Received,
        woken: Pin<&mut Notified<'_>>,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        let mut grown = FuturesUnordered::new();
        let looking: Vec<i32> = handle.looking.lock().iter().copied().collect();
        for want in received.wants.iter().filter(|want| !looking.contains(&want.partition)) {
            let mut watch = self.watch(topic.id, PartitionId::new(want.partition))?;
            let from = want.from;
            grown.push(async move { grows(&mut watch, from).await });
        }
        let (now, due) = (self.sys.clock.monotonic(), received.next_due);
        *handle.scout_until.lock() = Some(due.unwrap_or(Duration::MAX));
        // A tick more: a timer is looked at in whole ticks.
        let due = due.map(|due| Instant::now() + due.saturating_sub(now) + Duration::from_millis(1));
        let until = due.map_or(deadline, |due| deadline.min(due));
        tokio::select! {
            biased;
            () = woken => {}
            () = handle.scout.notified() => {}
            Some(()) = grown.next() => {}
            () = tokio::time::sleep_until(until) => {}
        }
        *handle.scout_until.lock() = Some(Duration::MAX);
        Ok(())
    }

    /// Every partition of a topic.
    pub(super) fn progress(&self, topic: &TopicInfo) -> Result<Progress, EngineError> {
        let of = |partition| {
            let (_, led) = self.partition(topic.id, PartitionId::new(partition))?;
            Ok((partition, led.log().progress()))
        };
        (0..topic.partitions).map(of).collect()
    }

    async fn ask_receive(
        &self,
        request: &ReceiveRequest,
        id: u64,
        max: usize,
        progress: &Progress,
        offers: Vec<Offer>,
    ) -> Result<Received, EngineError> {
        let command = QueueCommand::Receive {
            queue: request.queue.clone(),
            id,
            max,
            lease_ms: request.lease_ms,
            tag: request.tag.filter(|_| max > 0),
            log_starts: log_starts(progress),
            offers,
        };
        match self.ask_queue(&request.queue, command).await? {
            QueueReply::Received(received) => Ok(received),
            other => Err(unexpected(&other)),
        }
    }

    /// Which partitions this receiver looks at now: those that have something new, and that nobody looks at. And whether others
    /// look at some.
    fn mark_looking<'a>(&self, handle: &'a QueueHandle, wants: &[Want], progress: &Progress) -> (Looking<'a>, bool) {
        let has_more = |want: &&Want| progress.get(&want.partition).is_some_and(|p| p.high_watermark.get() > want.from);
        let new: Vec<i32> = wants.iter().filter(has_more).map(|want| want.partition).collect();
        if new.is_empty() {
            return (Looking { handle, partitions: new }, false);
        }
        let mut looking = handle.looking.lock();
        let (mine, others): (Vec<i32>, Vec<i32>) = new.into_iter().partition(|partition| looking.insert(*partition));
        (Looking { handle, partitions: mine }, !others.is_empty())
    }

    /// Looks at the log for those that come next, while there is still something for them.
    async fn look_ahead(
        &self,
        request: &ReceiveRequest,
        handle: &QueueHandle,
        topic: &TopicInfo,
        wants: &[Want],
        mark: Looking<'_>,
        progress: &Progress,
    ) -> Result<(), EngineError> {
        if mark.partitions.is_empty() {
            return Ok(());
        }
        let offers = self.look(topic, handle, wants, &mark.partitions).await?;
        if offers.is_empty() {
            return Ok(());
        }
        let received = self.ask_receive(request, handle.id, 0, progress, offers).await?;
        handle.time_moved(received.next_due);
        // Whose mark goes wakes one that waits.
        drop(mark);
        Ok(())
    }

    async fn look(
        &self,
        topic: &TopicInfo,
        handle: &QueueHandle,
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
            let (offer, seen) = offer(want, handle.definition.settings.order_by_key, &batches)?;
            self.queues.seen.keep(topic.id, want.partition, seen);
            offers.extend(offer);
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
                let offsets = left.iter().map(|leased| leased.lease.offset);
                let mut seen = self.queues.seen.take(topic.id, lease.partition, offsets);
                let mut known = 0;
                while (messages.is_empty() || bytes < request.max_bytes)
                    && let Some((record, leased)) = seen.next().zip(left.get(known))
                {
                    bytes += record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
                    messages.push(self.message(leased, record));
                    known += 1;
                }
                drop(seen);
                left = &left[known..];
                if known > 0 {
                    continue;
                }
                let want = (request.max_bytes - bytes.min(request.max_bytes)).clamp(1, READ_BYTES);
                let want = want.min(left.len() * READ_BYTES_EACH);
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
                handle.wake.notify_one();
            }
        }
        match failure {
            Some(error) if messages.is_empty() => Err(error),
            _ => Ok(messages),
        }
    }

    fn message(&self, leased: &Leased, record: StoredRecord) -> QueueMessage {
        QueueMessage {
            lease: self.queues.signer.sign(leased.lease),
            attempt: leased.attempt,
            leased_until_ms: leased.leased_until_ms,
            partition: PartitionId::new(leased.lease.partition),
            record,
        }
    }
}

/// Waits until a partition has a record at an offset.
async fn grows(watch: &mut watch::Receiver<PartitionProgress>, from: i64) {
    if watch.wait_for(|progress| progress.high_watermark.get() > from).await.is_err() {
        // The log is closed: it is asked again before long what that means.
        tokio::time::sleep(LOST_SIGHT).await;
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
            self.messages.push(self.engine.message(&leased, record));
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

/// What of the log a queue has to know, and the batches in which it lies.
fn offer(
    want: &Want,
    order_by_key: bool,
    batches: &[RecordBatch],
) -> Result<(Option<Offer>, Vec<IndexedBatch>), EngineError> {
    let (mut to, mut offered) = (want.from, Vec::new());
    let mut seen = Vec::with_capacity(batches.len());
    for batch in batches {
        if offered.len() == want.room {
            break;
        }
        to = batch.header().next_offset().get();
        if batch.header().control {
            continue;
        }
        let index = IndexedBatch::new(batch, DECOMPRESS, |view| {
            let offset = view.offset.get();
            if offset < want.from || offset >= to {
                return;
            }
            if offered.len() == want.room {
                to = offset;
                return;
            }
            let key = view.key.filter(|_| order_by_key).map(key_hash);
            offered.push(Offered { offset, key, deliver_at_ms: deliver_at(view) });
        });
        seen.push(index.map_err(damaged)?);
    }
    let offer = Offer { partition: want.partition, from: want.from, to, records: offered };
    Ok(((to > want.from).then_some(offer), seen))
}

/// It lies in the state log, so it never changes. Two keys that share one are delivered as if they were one.
fn key_hash(key: &[u8]) -> u64 {
    u64::from(murmur2(key)) << 32 | u64::from(crc32c::crc32c(key))
}

fn deliver_at(view: &RecordView<'_>) -> Option<i64> {
    let (_, value) = view.headers.filter(|(name, _)| *name == DELIVER_AT).last()?;
    std::str::from_utf8(value?).ok()?.trim().parse().ok()
}

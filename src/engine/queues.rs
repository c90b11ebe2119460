//! Queues behind the port: each request goes to the coordinator of its queue, the records come from the log.

mod delivery;
mod description;
mod seen;

use super::internal::InternalTopic;
use super::routed::RoutedEngine;
use super::{Answer, Engine, EngineError, OffsetSpec, TopicInfo};
use crate::coordinator::queue::{
    Definition, GivenUpFilter, LeaseSigner, QueueCommand, QueueMachine, QueueRefusal, QueueReply, QueueStart,
    ReceiveTag, STATE_TOPIC, SettleOutcome, Settlement,
};
use crate::coordinator::{CoordinatorRuntime, partition_for_name};
use crate::metadata::MetadataImage;
use crate::replication::ReplicaManager;
use crate::sys::Sys;
use crate::types::{PartitionId, StoredRecord, TopicName};
pub use description::{BlockedKey, QueueDescription, QueuePartition};
use parking_lot::Mutex;
use seen::SeenRecords;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Partitions of the state topic: a queue lives in one of them, and each is one task and one group commit.
const STATE_PARTITIONS: i32 = 8;

/// Queues. What a queue refuses is [`EngineError::Queue`].
pub trait Queues: Send + Sync {
    /// Makes a queue (true) or changes it.
    fn put_queue(&self, name: &str, queue: QueueToPut) -> Answer<'_, bool>;
    /// Deletes a queue. Its topic stays as it is.
    fn delete_queue(&self, name: &str) -> Answer<'_, ()>;
    /// Every queue, by name.
    fn list_queues(&self) -> Answer<'_, Vec<QueueDescription>>;
    /// One queue.
    fn describe_queue(&self, name: &str) -> Answer<'_, QueueDescription>;
    /// Leases records; waits for the first as long as the request says.
    fn receive(&self, request: ReceiveRequest) -> Answer<'_, ReceivedMessages>;
    /// Settles or extends leases, by their tokens. Nothing is done if one is no lease of this cluster.
    fn settle(&self, queue: &str, settlements: Vec<(String, Settlement)>) -> Answer<'_, Vec<SettleOutcome>>;
    /// Dead letters and parked records with what is left of them, in the order of partition and offset, after the one
    /// given.
    fn given_up(&self, queue: &str, after: Option<(i32, i64)>, limit: usize) -> Answer<'_, Vec<GivenUpMessage>>;
    /// Delivers those again that fit, or discards them. Gives how many.
    fn end_given_up(&self, queue: &str, filter: GivenUpFilter, redrive: bool) -> Answer<'_, usize>;
}

/// What a queue is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueToPut {
    /// Its topic.
    pub topic: TopicName,
    /// Where it begins.
    pub start: QueueStart,
    /// How long a lease holds where the receiver does not say, ms.
    pub lease_ms: i64,
    /// How it delivers.
    pub settings: crate::coordinator::queue::PartitionSettings,
}

/// A receive call.
#[derive(Debug, Clone)]
pub struct ReceiveRequest {
    /// The queue.
    pub queue: String,
    /// Messages at most.
    pub max: usize,
    /// Bytes of the records at most; at least one comes, even if it is larger.
    pub max_bytes: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// How long they are leased, ms; `None`: as the queue says.
    pub lease_ms: Option<i64>,
    /// Makes a resend free.
    pub tag: Option<ReceiveTag>,
}

/// What was received.
#[derive(Debug)]
pub struct ReceivedMessages {
    /// The topic.
    pub topic: Arc<TopicInfo>,
    /// In the order of partitions and offsets.
    pub messages: Vec<QueueMessage>,
    /// They were leased by an earlier call under the same Idempotency-Key.
    pub replayed: bool,
}

/// A leased record.
#[derive(Debug)]
pub struct QueueMessage {
    /// The token that settles it.
    pub lease: String,
    /// Which delivery it is, from 1.
    pub attempt: u16,
    /// Until when, Unix ms.
    pub leased_until_ms: i64,
    /// Its partition.
    pub partition: PartitionId,
    /// The record.
    pub record: StoredRecord,
}

/// A dead letter or parked record.
#[derive(Debug)]
pub struct GivenUpMessage {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: i64,
    /// It blocks its key.
    pub parked: bool,
    /// Deliveries.
    pub attempts: u16,
    /// When, Unix ms.
    pub at_ms: i64,
    /// Why.
    pub reason: String,
    /// The record; `None` if retention or compaction removed it.
    pub record: Option<StoredRecord>,
}

/// What the engine keeps for queues.
pub(super) struct QueueCoordinators {
    runtime: CoordinatorRuntime<QueueMachine>,
    signer: LeaseSigner,
    topic: InternalTopic,
    handles: Mutex<BTreeMap<String, Arc<QueueHandle>>>,
    seen: SeenRecords,
}

/// A queue as its receivers on this broker share it, until it is changed, deleted or made again.
struct QueueHandle {
    /// Tells it from another one that was made under its name.
    id: u64,
    definition: Arc<Definition>,
    /// Nobody is told of anything here any more.
    is_stale: AtomicBool,
    /// Something may be ready: wakes one of those that wait.
    wake: Notify,
    /// The same for the scout alone: a time came nearer.
    scout: Notify,
    /// Until when the scout sleeps, monotonic; `None`: nobody is it.
    scout_until: Mutex<Option<Duration>>,
    /// Partitions whose log is being looked at for all.
    looking: Mutex<BTreeSet<i32>>,
}

impl QueueHandle {
    fn new(id: u64, definition: Arc<Definition>) -> Self {
        let (is_stale, wake, scout) = (AtomicBool::new(false), Notify::new(), Notify::new());
        let (scout_until, looking) = (Mutex::default(), Mutex::default());
        Self { id, definition, is_stale, wake, scout, scout_until, looking }
    }

    /// Something is due then: whoever sleeps longer must know.
    fn time_moved(&self, next_due: Option<Duration>) {
        if let Some(due) = next_due
            && self.scout_until.lock().is_some_and(|until| due < until)
        {
            self.scout.notify_one();
        }
    }

    /// The queue is another by now, or gone: whoever waits takes the new handle.
    fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }
}

impl QueueCoordinators {
    pub(super) fn new(sys: Sys, signer: LeaseSigner) -> Self {
        let runtime = CoordinatorRuntime::new(sys, |_| QueueMachine::new());
        let topic = InternalTopic { name: STATE_TOPIC, partitions: STATE_PARTITIONS, cleanup_policy: "delete" };
        Self { runtime, signer, topic, handles: Mutex::default(), seen: SeenRecords::default() }
    }

    /// Takes over what the metadata says.
    pub(super) fn act_on(&self, image: &MetadataImage, replicas: &ReplicaManager) {
        let id = TopicName::new(self.topic.name).ok().and_then(|name| Some(image.topic_by_name(&name)?.id));
        self.runtime.apply(id.and_then(|id| replicas.topic(id)).as_deref());
    }

    pub(super) fn stop(&self) {
        self.runtime.stop();
    }

    fn forget(&self, name: &str) {
        if let Some(handle) = self.handles.lock().remove(name) {
            handle.is_stale.store(true, Ordering::Release);
            handle.wake.notify_waiters();
        }
    }
}

fn unexpected(reply: &QueueReply) -> EngineError {
    EngineError::Internal(format!("a queue answered {reply:?}"))
}

impl RoutedEngine {
    /// Asks a queue's coordinator. There is no queue before the state topic is made.
    async fn ask_queue(&self, name: &str, command: QueueCommand) -> Result<QueueReply, EngineError> {
        let Some(info) = self.internal_topic(&self.queues.topic) else {
            return Err(QueueRefusal::UnknownQueue(name.to_owned()).into());
        };
        match self.queues.runtime.call(partition_for_name(name, info.partitions), command).await? {
            QueueReply::Refused(refusal) => {
                if matches!(refusal, QueueRefusal::UnknownQueue(_)) {
                    self.queues.forget(name);
                }
                Err(refusal.into())
            }
            reply => Ok(reply),
        }
    }

    async fn queue_handle(&self, name: &str) -> Result<Arc<QueueHandle>, EngineError> {
        if let Some(handle) = self.queues.handles.lock().get(name) {
            return Ok(handle.clone());
        }
        match self.ask_queue(name, QueueCommand::Find(name.to_owned())).await? {
            QueueReply::Found(id, definition) => {
                let new = || Arc::new(QueueHandle::new(id, definition));
                Ok(self.queues.handles.lock().entry(name.to_owned()).or_insert_with(new).clone())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The topic of a queue, by identity.
    fn topic_of_queue(&self, name: &str, definition: &Definition) -> Result<Arc<TopicInfo>, EngineError> {
        let topic = self.topic(&definition.topic).filter(|info| info.id == definition.topic_id);
        topic.ok_or_else(|| {
            // The queue may have been made again, over another topic: the next call looks.
            self.queues.forget(name);
            QueueRefusal::TopicDeleted(name.to_owned(), definition.topic.to_string()).into()
        })
    }

    async fn put(&self, name: String, queue: QueueToPut) -> Result<bool, EngineError> {
        let QueueToPut { topic, start, lease_ms, settings } = queue;
        if topic.is_internal() {
            return Err(EngineError::InternalTopic(topic));
        }
        let info = self.topic(&topic).ok_or_else(|| EngineError::UnknownTopic(topic.to_string()))?;
        let spec = match start {
            QueueStart::Earliest => OffsetSpec::Earliest,
            QueueStart::Latest => OffsetSpec::Latest,
            QueueStart::Timestamp(ms) => OffsetSpec::Timestamp(ms),
        };
        let mut starts = Vec::new();
        for partition in (0..info.partitions).map(PartitionId::new) {
            starts.push(self.offset_for(info.id, partition, spec).await?.get());
        }
        self.internal_topic_or_create(&self.queues.topic).await?;
        let definition = Definition { topic, topic_id: info.id, start, lease_ms, settings };
        let put = QueueCommand::Put { name: name.clone(), id: self.sys.rng.next_u64(), definition, starts };
        match self.ask_queue(&name, put).await? {
            QueueReply::Put(new) => {
                // Whoever waits looks at it anew.
                self.queues.forget(&name);
                Ok(new)
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn settle_leases(
        &self,
        name: &str,
        settlements: Vec<(String, Settlement)>,
    ) -> Result<Vec<SettleOutcome>, EngineError> {
        let mut parsed = Vec::with_capacity(settlements.len());
        let mut invalid = Vec::new();
        for (index, (token, settlement)) in settlements.into_iter().enumerate() {
            match self.queues.signer.verify(&token) {
                Ok(lease) => parsed.push((lease, settlement)),
                Err(_) => invalid.push(index),
            }
        }
        if !invalid.is_empty() {
            return Err(QueueRefusal::InvalidLeases(invalid).into());
        }
        let command = QueueCommand::Settle { queue: name.to_owned(), settlements: parsed };
        match self.ask_queue(name, command).await? {
            QueueReply::Settled(outcomes, wake) => {
                if let Some(handle) = self.queues.handles.lock().get(name) {
                    handle.time_moved(wake.next_due);
                    if wake.ready {
                        handle.wake.notify_one();
                    }
                }
                Ok(outcomes)
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Queues for RoutedEngine {
    fn put_queue(&self, name: &str, queue: QueueToPut) -> Answer<'_, bool> {
        Box::pin(self.put(name.to_owned(), queue))
    }

    fn delete_queue(&self, name: &str) -> Answer<'_, ()> {
        let name = name.to_owned();
        Box::pin(async move {
            self.ask_queue(&name, QueueCommand::Delete(name.clone())).await?;
            self.queues.forget(&name);
            Ok(())
        })
    }

    fn list_queues(&self) -> Answer<'_, Vec<QueueDescription>> {
        Box::pin(async move {
            let mut names = Vec::new();
            for partition in self.queues.runtime.partitions() {
                match self.queues.runtime.call(partition, QueueCommand::List).await? {
                    QueueReply::Queues(mut some) => names.append(&mut some),
                    other => return Err(unexpected(&other)),
                }
            }
            names.sort_unstable();
            let mut all = Vec::with_capacity(names.len());
            for name in names {
                match self.describe_one(&name).await {
                    Ok(described) => all.push(described),
                    // Deleted meanwhile.
                    Err(EngineError::Queue(QueueRefusal::UnknownQueue(_))) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(all)
        })
    }

    fn describe_queue(&self, name: &str) -> Answer<'_, QueueDescription> {
        let name = name.to_owned();
        Box::pin(async move { self.describe_one(&name).await })
    }

    fn receive(&self, request: ReceiveRequest) -> Answer<'_, ReceivedMessages> {
        Box::pin(self.receive_messages(request))
    }

    fn settle(&self, queue: &str, settlements: Vec<(String, Settlement)>) -> Answer<'_, Vec<SettleOutcome>> {
        let name = queue.to_owned();
        Box::pin(async move { self.settle_leases(&name, settlements).await })
    }

    fn given_up(&self, queue: &str, after: Option<(i32, i64)>, limit: usize) -> Answer<'_, Vec<GivenUpMessage>> {
        let name = queue.to_owned();
        Box::pin(async move { self.list_given_up(name, after, limit).await })
    }

    fn end_given_up(&self, queue: &str, filter: GivenUpFilter, redrive: bool) -> Answer<'_, usize> {
        let name = queue.to_owned();
        Box::pin(async move {
            let command = QueueCommand::EndGivenUp { queue: name.clone(), filter, redrive };
            match self.ask_queue(&name, command).await? {
                QueueReply::Ended(count) => {
                    if let Some(handle) = self.queues.handles.lock().get(&name) {
                        handle.wake.notify_one();
                    }
                    Ok(count)
                }
                other => Err(unexpected(&other)),
            }
        })
    }
}

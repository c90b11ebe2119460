//! The whole broker over the twins, through the engine's port: records and topics at once, on metadata and logs
//! that share a disk.

use crate::checker::Promise;
#[cfg(feature = "sabotage")]
use crate::checker::{Anomaly, Rule};
use crate::queue_level::BrokersQueue;
use crate::queue_workload::Queue;
use crate::workload::{Page, Sent, Subject, Topics, key_of};
#[cfg(feature = "sabotage")]
use crate::world::first_seed_that_sees;
use crate::world::{Plan, run, run_seeds};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use sluice::codec::DecompressLimit;
use sluice::config::ServerConfig;
use sluice::engine::{
    Acks, CreateTopic, Engine, EngineError, FetchRequest, IdempotencyTag, ProduceRequest, RecordToProduce, SideEffects,
    TaggedContent,
};
use sluice::server::Server;
use sluice::sys::Sys;
use sluice::types::{LeaderEpoch, Offset, PartitionId, Record, TopicId, TopicName};
use sluice::view::ViewBackend;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const DURABLE: Plan = Plan::new(Promise::Durable, 4);
const UNTIL_POWER_CUT: Plan = Plan::new(Promise::UntilPowerCut, 4);
const PARTITIONS: i32 = 2;
/// The topic of the load.
pub const LOAD: &str = "load";
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 4 << 20 };

#[test]
fn broker_on_commit_loses_nothing_that_was_acknowledged() {
    run_seeds("broker_on_commit", DURABLE, &|sys, _| start(sys, "commit").boxed());
}

#[test]
fn broker_on_os_tells_readers_what_a_power_cut_took() {
    run_seeds("broker_on_os", UNTIL_POWER_CUT, &|sys, _| start(sys, "os").boxed());
}

#[test]
fn broker_gives_one_trace_for_one_seed() {
    for seed in 0..3 {
        let once = || run(seed, DURABLE, &|sys, _| start(sys, "commit").boxed());
        let (first, second) = (once(), once());
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!(
            differs,
            None,
            "seed {seed}: {:?} and {:?}",
            differs.map(|n| &first[n]),
            differs.map(|n| &second[n])
        );
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// With acknowledgements that do not wait for the sync, writes are lost, and the checker says so.
#[cfg(feature = "sabotage")]
#[test]
fn broker_that_acknowledges_before_the_sync_is_caught() {
    let bug = &sluice::log::sabotage::ACK_BEFORE_FSYNC;
    let found = first_seed_that_sees(bug, 20, DURABLE, &|sys, _| start(sys, "commit").boxed());
    let (seed, anomalies) = found.expect("20 seeds of power cuts show a lost write");
    println!("seen at seed {seed}: {}", anomalies[0]);
    // Where the log sees by itself that something is missing, it says so and does not serve the partition.
    let expected = |anomaly: &Anomaly| [Rule::LostWrite, Rule::Unavailable].contains(&anomaly.rule);
    assert!(anomalies.iter().any(expected), "{anomalies:?}");
}

async fn start(sys: Sys, flush: &'static str) -> Result<Arc<dyn Subject>, String> {
    Ok(Arc::new(start_broker(sys, flush).await?))
}

/// A server without doors.
pub async fn start_server(sys: Sys) -> Result<Server, String> {
    let mut config = ServerConfig::with_memory(64 << 20);
    (config.http, config.kafka, config.peer) = (None, None, None);
    config.data = PathBuf::from("/data");
    Server::start_with_views(config, sys, ViewBackend::Memory).await.map_err(|error| error.to_string())
}

/// A broker with the topic of the load.
pub async fn start_broker(sys: Sys, flush: &'static str) -> Result<Broker, String> {
    let server = start_server(sys).await?;
    let engine = server.engine();
    let name = TopicName::new(LOAD).expect("a good name");
    let topic = match engine.topic(&name) {
        Some(info) => info.id,
        None => {
            let settings = [("flush", flush), ("segment.bytes", "65536"), ("retention.ms", "-1")];
            let config = settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let request = CreateTopic { name, partitions: Some(PARTITIONS), replication_factor: None, config };
            engine.create_topic(request).await.map_err(|error| error.to_string())?.info.id
        }
    };
    Ok(Broker { engine, server: Mutex::new(Some(server)), topic, queue: None })
}

/// A whole broker.
pub struct Broker {
    pub engine: Arc<dyn Engine>,
    server: Mutex<Option<Server>>,
    topic: TopicId,
    /// With it, records have keys, and the topic is all that there is.
    pub queue: Option<Arc<BrokersQueue>>,
}

impl Subject for Broker {
    fn partitions(&self) -> i32 {
        PARTITIONS
    }

    fn send<'a>(&'a self, partition: i32, key: [u8; 16], values: &'a [String]) -> BoxFuture<'a, Sent> {
        async move {
            let key_for = |value: &str| self.queue.as_ref().and_then(|_| key_of(value)).map(Bytes::from);
            let record = |value: &String| RecordToProduce {
                record: Record { key: key_for(value), value: Some(Bytes::from(value.clone())), ..Record::default() },
                partition: Some(PartitionId::new(partition)),
            };
            let request = ProduceRequest {
                topic: self.topic,
                records: values.iter().map(record).collect(),
                acks: Acks::All,
                timeout: Duration::from_secs(30),
                idempotency: Some(IdempotencyTag { key, content: TaggedContent::Request(key) }),
            };
            let failed = |error: EngineError| match error.side_effects() {
                SideEffects::None => Sent::Refused(error.to_string()),
                SideEffects::Unknown | SideEffects::Applied => Sent::Unknown(error.to_string()),
            };
            match self.engine.produce(request).await {
                Err(error) => failed(error),
                Ok(receipt) => {
                    // All records of a send go to one partition, in one append: they share their fate.
                    let results: Result<Vec<i64>, EngineError> = receipt
                        .results
                        .into_iter()
                        .map(|result| result.map(|produced| produced.offset.get()))
                        .collect();
                    results.map_or_else(failed, Sent::Acknowledged)
                }
            }
        }
        .boxed()
    }

    fn read(&self, partition: i32, from: i64) -> BoxFuture<'_, Option<Page>> {
        async move {
            let (topic, partition) = (self.topic, PartitionId::new(partition));
            let request = FetchRequest { topic, partition, from: Offset::new(from), max_bytes: 32 << 10 };
            let response = match self.engine.fetch(request).await {
                Ok(response) => response,
                Err(EngineError::OffsetOutOfRange { log_start, log_end, .. }) => {
                    return Some(Page { log_start: log_start.get(), end: log_end.get(), records: Vec::new() });
                }
                Err(_) => return None,
            };
            let (log_start, end) = (response.log_start.get(), response.high_watermark.get());
            let mut page = Page { log_start, end, records: Vec::new() };
            for batch in response.batches {
                for record in batch.records(LIMIT).expect("a stored batch has a good head") {
                    let record = record.expect("a stored batch has good records");
                    let offset = record.offset.get();
                    if offset >= from && offset < end {
                        let value = record.value.expect("every value is one");
                        let value = String::from_utf8(value.to_vec()).expect("every value is text");
                        page.records.push((offset, record.leader_epoch.get(), value));
                    }
                }
            }
            Some(page)
        }
        .boxed()
    }

    fn epoch_end(&self, partition: i32, epoch: i32) -> BoxFuture<'_, Option<(i32, i64)>> {
        let answer = self.engine.epoch_end(self.topic, PartitionId::new(partition), LeaderEpoch::new(epoch));
        answer.map(|answer| answer.ok().map(|end| (end.epoch.get(), end.end.get()))).boxed()
    }

    fn queue(&self) -> Option<Arc<dyn Queue>> {
        self.queue.clone().map(|queue| queue as Arc<dyn Queue>)
    }

    fn topics(&self) -> Option<&dyn Topics> {
        self.queue.is_none().then_some(self as &dyn Topics)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let server = self.server.lock().take();
            server.expect("it is closed once").drain().await;
        }
        .boxed()
    }
}

impl Topics for Broker {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move {
            let name = TopicName::new(name).expect("a good name");
            let request =
                CreateTopic { name, partitions: Some(1), replication_factor: None, config: BTreeMap::default() };
            let made = self.engine.create_topic(request).await.map_err(|error| error.to_string())?;
            Ok(made.info.id.to_string())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let name = TopicName::new(name).expect("a good name");
            self.engine.delete_topic(&name).await.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn list(&self) -> Vec<(String, String)> {
        let topics = self.engine.topics().into_iter().filter(|topic| topic.name.as_str() != LOAD);
        topics.map(|topic| (topic.name.to_string(), topic.id.to_string())).collect()
    }
}

//! The client that brokers use among themselves, against our own Kafka door, through real sockets.

use crate::harness::Server;
use bytes::Bytes;
use sluice::client::{Client, ClientOptions, Code, OffsetAt, Producer, ProducerOptions};
use sluice::codec::messages::create_topics::CreatableTopic;
use sluice::codec::{Compression, DecompressLimit, RecordBatch};
use sluice::sys::Sys;
use sluice::types::{Offset, PartitionId, Record};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const TOPIC: &str = "games";
const PARTITIONS: i32 = 3;
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: 16 << 20 };

fn soon() -> Instant {
    Instant::now() + crate::harness::PATIENCE
}

fn record(value: &str) -> Record {
    Record { value: Some(Bytes::copy_from_slice(value.as_bytes())), ..Record::default() }
}

async fn client(server: &Server) -> Client {
    let bootstrap = vec![server.ready()["kafka"].as_str().expect("the ready file names the Kafka door").to_owned()];
    let client = Client::new(Sys::real(), ClientOptions { bootstrap, ..ClientOptions::default() });
    let topic = CreatableTopic {
        name: TOPIC.to_owned(),
        num_partitions: PARTITIONS,
        replication_factor: 1,
        ..Default::default()
    };
    let created = client.create_topics(vec![topic], soon()).await.unwrap();
    assert!([0, Code::TOPIC_ALREADY_EXISTS.get()].contains(&created.topics[0].error_code), "{created:?}");
    client
}

/// Every value of a partition, in order.
async fn read(client: &Client, partition: PartitionId) -> Vec<String> {
    let end = client.list_offset(TOPIC, partition, OffsetAt::Latest, soon()).await.unwrap().unwrap();
    let mut values = Vec::new();
    let mut next = Offset::ZERO;
    while next < end {
        let fetched = client.fetch(TOPIC, partition, next, Duration::from_millis(100), 64 << 10, soon()).await.unwrap();
        let mut bytes = fetched.records;
        while let Ok(batch) = RecordBatch::split_from(&mut bytes) {
            for stored in batch.records(LIMIT).unwrap().map(Result::unwrap).filter(|stored| stored.offset >= next) {
                assert_eq!(stored.offset.get(), values.len() as i64, "no offset is left out");
                values.push(String::from_utf8(stored.value.unwrap().to_vec()).unwrap());
            }
            next = batch.header().next_offset();
        }
    }
    values
}

#[tokio::test]
async fn records_go_in_and_come_out_in_every_compression() {
    let server = Server::start_with(&["--kafka", "127.0.0.1:0"]).await;
    let client = client(&server).await;
    let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut written = Vec::new();
    for compression in codecs {
        let producer = Producer::new(client.clone(), ProducerOptions { compression, ..ProducerOptions::default() });
        let values: Vec<String> = (0..40).map(|n| format!("{compression:?} {n} ").repeat(30)).collect();
        let records = values.iter().map(|value| record(value)).collect();
        let produced = producer.produce(TOPIC, PartitionId::new(1), records, soon()).await.unwrap();
        assert_eq!(produced.base_offset, Some(Offset::new(written.len() as i64)));
        written.extend(values);
    }
    assert_eq!(read(&client, PartitionId::new(1)).await, written);
    let unknown = client.list_offset(
        "no-such-topic",
        PartitionId::new(0),
        OffsetAt::Latest,
        Instant::now() + Duration::from_millis(300),
    );
    assert!(unknown.await.unwrap_err().is_retryable(), "it may be made yet");
}

#[tokio::test]
async fn a_broker_that_is_killed_under_load_has_each_record_once_and_in_order() {
    let server = Server::start_with(&["--kafka", "127.0.0.1:0"]).await;
    let kafka = server.ready()["kafka"].as_str().unwrap().to_owned();
    let client = client(&server).await;
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let producer = producer.clone();
            tokio::spawn(async move {
                let partition = PartitionId::new(writer % PARTITIONS);
                for n in 0..150 {
                    let records = vec![record(&format!("{writer}-{n:03}-a")), record(&format!("{writer}-{n:03}-b"))];
                    let produced = producer.produce(TOPIC, partition, records, soon()).await;
                    produced.unwrap_or_else(|error| panic!("{writer}-{n}: {error}"));
                }
            })
        })
        .collect();
    // The kill comes while they write, whatever the machine's speed: only then does it go on.
    while client.list_offset(TOPIC, PartitionId::new(0), OffsetAt::Latest, soon()).await.unwrap()
        < Some(Offset::new(20))
    {}
    let folder = server.kill9();
    let server = Server::start_in(folder, &["--kafka", &kafka]).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let values = read(&client, partition).await;
        for writer in 0..6 {
            let own: Vec<&String> = values.iter().filter(|value| value.starts_with(&format!("{writer}-"))).collect();
            assert!(own.is_sorted(), "{partition}: {own:?}");
        }
        values.into_iter().for_each(|value| *times.entry(value).or_default() += 1);
    }
    assert_eq!(times.len(), 6 * 150 * 2, "every record is there");
    assert!(times.values().all(|n| *n == 1), "and none twice");
    drop(server);
}

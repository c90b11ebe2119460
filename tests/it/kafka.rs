//! The Kafka door, with frames made by hand: what real clients seldom do, and what hostile ones would.

use crate::harness::{PATIENCE, Server};
use bytes::Bytes;
use serde_json::json;
use sluice::codec::messages::{
    ApiKey, Message as _, Request, api_versions::*, create_topics::*, decode_response, encode_request, fetch::*,
    init_producer_id::*, list_offsets::*, metadata::*, produce::*,
};
use sluice::codec::{BatchBuilder, BatchProducer, Compression, DecompressLimit, RecordBatch, RecordBytes};
use sluice::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn start() -> Server {
    Server::start_with(&["--kafka", "127.0.0.1:0"]).await
}

struct Wire(TcpStream);

impl Wire {
    async fn connect(server: &Server) -> Self {
        let address = server.ready()["kafka"].as_str().expect("the ready file names the Kafka door");
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next frame without its length; `None` if the server closes.
    async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.0.read_u32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.0.read_exact(&mut frame).await.ok()?;
            Some(frame.into())
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer or an end in time")
    }

    async fn put<R: Request>(&mut self, version: i16, id: i32, request: &R) {
        for part in encode_request(version, id, Some("it"), request).into_parts() {
            self.send(&part).await;
        }
    }

    async fn take<R: Request>(&mut self, version: i16, id: i32) -> R::Response {
        let frame = self.frame().await.expect("an answer");
        let (answered, response) = decode_response::<R>(frame, version).unwrap();
        assert_eq!(answered, id, "answers come in the order of the requests");
        response
    }

    async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.put(version, 7, request).await;
        self.take::<R>(version, 7).await
    }

    async fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> [u8; 16] {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) });
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.collect(),
            ..Default::default()
        };
        let made = self.ask(7, &CreateTopicsRequest { topics: vec![topic], ..Default::default() }).await;
        assert_eq!(made.topics[0].error_code, 0, "{made:?}");
        made.topics[0].topic_id
    }

    async fn produce(&mut self, topic: &str, batch: Vec<u8>) -> PartitionProduceResponse {
        let mut response = self.ask(9, &produce_request(topic, -1, batch)).await;
        response.responses.remove(0).partition_responses.remove(0)
    }
}

fn produce_request(topic: &str, acks: i16, batch: Vec<u8>) -> ProduceRequest {
    let partition = PartitionProduceData { index: 0, records: Some(RecordBytes::new(vec![batch.into()])) };
    let topic = TopicProduceData { name: topic.to_owned(), partition_data: vec![partition], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() }
}

fn batch_of(values: &[&str], compression: Compression, producer: Option<(i64, i16, i32)>) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
    if let Some((id, epoch, base_sequence)) = producer {
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        builder.set_producer(BatchProducer { id, epoch, base_sequence });
    }
    for (n, value) in values.iter().enumerate() {
        let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
        let record = Record { key: bytes("key"), value: bytes(value), ..Record::default() };
        builder.push(1_700_000_000_000 + n as i64, &record);
    }
    builder.finish(compression).to_vec()
}

fn batch(values: &[&str]) -> Vec<u8> {
    batch_of(values, Compression::None, None)
}

fn fetch_request(topic: [u8; 16], offset: i64, session: (i32, i32)) -> FetchRequest {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic_id: topic, partitions: vec![partition], ..Default::default() };
    FetchRequest {
        max_wait_ms: 20_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_id: session.0,
        session_epoch: session.1,
        topics: vec![topic],
        ..Default::default()
    }
}

fn values(data: &PartitionData) -> Vec<String> {
    let mut bytes = data.records.clone().unwrap_or_default().into_bytes();
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let batch = RecordBatch::split_from(&mut bytes).unwrap();
        batch.verify_crc().unwrap();
        for record in batch.records(DecompressLimit { max_bytes: 1 << 20 }).unwrap() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

#[tokio::test]
async fn a_frame_that_claims_too_much_costs_nothing() {
    let server = start().await;
    // Metadata 9 with 5 bytes of body that count 2^32 - 2 topics: what aborts other servers.
    let mut wire = Wire::connect(&server).await;
    wire.send(&[0, 0, 0, 16, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).await;
    assert_eq!(wire.frame().await, None, "refused");
    // A frame above every limit, and a negative one, are not even read.
    for length in [i32::MAX.to_be_bytes(), (-1i32).to_be_bytes()] {
        let mut wire = Wire::connect(&server).await;
        wire.send(&length).await;
        assert_eq!(wire.frame().await, None);
    }
    // Neither an unknown request, nor one of an unknown version.
    for start in [[0x03, 0xe7, 0, 0], [0, 3, 0, 99], [0, 0, 0, 2]] {
        let mut wire = Wire::connect(&server).await;
        wire.send(&[&[0, 0, 0, 10][..], &start, &[0, 0, 0, 1, 0xff, 0xff]].concat()).await;
        assert_eq!(wire.frame().await, None);
    }
    let mut wire = Wire::connect(&server).await;
    assert_eq!(wire.ask(12, &MetadataRequest { topics: Some(vec![]), ..Default::default() }).await.brokers.len(), 1);
}

#[tokio::test]
async fn what_is_offered_can_be_asked_for() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    // A version that nobody knows is answered in version 0.
    wire.send(&[0, 0, 0, 8, 0, 18, 0, 99, 0, 0, 0, 5]).await;
    let mut frame = wire.frame().await.unwrap();
    assert_eq!(frame.split_to(4)[..], [0, 0, 0, 5]);
    let unknown = ApiVersionsResponse::decode(frame, 0).unwrap();
    assert_eq!(unknown.error_code, 35);
    let request = ApiVersionsRequest { client_software_name: "it".to_owned(), client_software_version: "1".to_owned() };
    let offered = wire.ask(4, &request).await.api_keys;
    assert_eq!(offered, unknown.api_keys);
    let produce = offered.iter().find(|api| api.api_key == 0).unwrap();
    assert_eq!((produce.min_version, produce.max_version), (0, 13), "or librdkafka does not compress");
    // Transactions, telemetry: hidden.
    for hidden in [24, 25, 26, 28, 71, 72] {
        assert!(offered.iter().all(|api| api.api_key != hidden), "{hidden}");
    }
    for api in offered.iter().skip(1) {
        let versions = ApiKey::from_key(api.api_key).expect("we speak what we offer").versions();
        assert_eq!((api.min_version, api.max_version), (*versions.start(), *versions.end()));
    }
}

#[tokio::test]
async fn batches_are_checked_and_kept_and_both_doors_see_them() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("games", 1, &[]).await;
    for (n, compression) in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
            .into_iter()
            .enumerate()
    {
        let produced = wire.produce("games", batch_of(&["\"a\"", "\"b\""], compression, None)).await;
        assert_eq!((produced.error_code, produced.base_offset), (0, 2 * n as i64), "{produced:?}");
    }
    // Refused: a broken CRC, an old format, a control batch, two batches, none.
    let mut broken = batch(&["x"]);
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(wire.produce("games", broken).await.error_code, 2);
    let mut old = batch(&["x"]);
    old[16] = 1;
    assert_eq!(wire.produce("games", old).await.error_code, 43);
    let mut control = batch(&["x"]);
    control[22] |= 1 << 5;
    assert_ne!(wire.produce("games", control).await.error_code, 0);
    assert_eq!(wire.produce("games", [batch(&["x"]), batch(&["y"])].concat()).await.error_code, 87);
    assert_eq!(wire.produce("games", vec![]).await.error_code, 87);
    assert_eq!(wire.produce("no-such-topic", batch(&["x"])).await.error_code, 3);
    // HTTP stores between them, and reads all.
    let stored = server.client().post_json("/v1/topics/games/events?key=http", &json!("c")).await;
    assert_eq!(stored.status, 201, "{stored:?}");
    let page = server.client().get("/v1/topics/games/records").await.json();
    let seen: Vec<_> = page["records"].as_array().unwrap().iter().map(|r| r["value"].clone()).collect();
    let expected: Vec<_> = ["a", "b"].repeat(5).into_iter().chain(["c"]).map(|value| json!(value)).collect();
    assert_eq!(seen, expected, "{page}");
    let fetched = wire.ask(13, &fetch_request(id, 0, (0, -1))).await;
    let read = values(&fetched.responses[0].partitions[0]);
    assert_eq!(read, [["\"a\"", "\"b\""].repeat(5), vec!["\"c\""]].concat());
}

#[tokio::test]
async fn answers_keep_the_order_of_requests_and_the_log_too() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("ordered", 1, &[]).await;
    // A long poll at the end, and behind it what ends it, on the same connection: answered first what was asked first.
    wire.put(13, 1, &fetch_request(id, 0, (0, -1))).await;
    for n in 0..5 {
        wire.put(9, 2 + n, &produce_request("ordered", -1, batch(&[&n.to_string()]))).await;
    }
    let fetched = wire.take::<FetchRequest>(13, 1).await;
    assert_eq!(values(&fetched.responses[0].partitions[0])[0], "0");
    for n in 0..5 {
        let produced = wire.take::<ProduceRequest>(9, 2 + n).await;
        assert_eq!(produced.responses[0].partition_responses[0].base_offset, i64::from(n));
    }
    // acks=0 is not answered; what comes after it is.
    wire.put(9, 20, &produce_request("ordered", 0, batch(&["unacknowledged"]))).await;
    let produced = wire.produce("ordered", batch(&["last"])).await;
    assert_eq!(produced.base_offset, 6);
}

/// A batch of about so many bytes that do not compress.
fn large_batch(bytes: usize, compression: Compression, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let noise = (0..bytes).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + (state >> 60) as u8)
    });
    batch_of(&[&noise.collect::<String>()], compression, None)
}

#[tokio::test]
async fn what_takes_long_to_check_keeps_its_place() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    wire.create("heavy", 1, &[]).await;
    // Compressed and large, plain and large, small: all sent before the first answer is read.
    let codecs = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut expected = Vec::new();
    for (n, compression) in codecs.into_iter().enumerate() {
        for batch in [
            large_batch(300_000, compression, n as u64),
            large_batch(200_000, Compression::None, n as u64),
            batch(&["small"]),
        ] {
            wire.put(9, expected.len() as i32, &produce_request("heavy", -1, batch)).await;
            expected.push(expected.len() as i64);
        }
    }
    for n in &expected {
        let produced = wire.take::<ProduceRequest>(9, *n as i32).await;
        let produced = &produced.responses[0].partition_responses[0];
        assert_eq!((produced.error_code, produced.base_offset), (0, *n), "{produced:?}");
    }
    // One whose records are no records is refused, and those around it are stored.
    let mut wrong = large_batch(300_000, Compression::Lz4, 9);
    wrong[57..61].copy_from_slice(&2i32.to_be_bytes());
    wrong[23..27].copy_from_slice(&1i32.to_be_bytes());
    let crc = crc32c::crc32c(&wrong[21..]);
    wrong[17..21].copy_from_slice(&crc.to_be_bytes());
    wire.put(9, 1, &produce_request("heavy", -1, wrong)).await;
    wire.put(9, 2, &produce_request("heavy", -1, batch(&["after"]))).await;
    let refused = wire.take::<ProduceRequest>(9, 1).await;
    assert_eq!(refused.responses[0].partition_responses[0].error_code, 87, "{refused:?}");
    let stored = wire.take::<ProduceRequest>(9, 2).await;
    assert_eq!(stored.responses[0].partition_responses[0].base_offset, expected.len() as i64);
}

#[tokio::test]
async fn what_lies_on_the_disk_is_sent_as_it_was_stored() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("cold", 2, &[("segment.bytes", "1048588")]).await;
    let batches: Vec<_> = (0..12).map(|n| large_batch(400_000, Compression::None, n)).collect();
    for batch in &batches {
        assert_eq!(wire.produce("cold", batch.clone()).await.error_code, 0);
    }
    // After a restart nothing of it is in the server's memory.
    let server = Server::start_in(server.kill9(), &["--kafka", "127.0.0.1:0"]).await;
    let mut wire = Wire::connect(&server).await;
    let mut request = fetch_request(id, 0, (0, -1));
    (request.max_bytes, request.topics[0].partitions[0].partition_max_bytes) = (50 << 20, 50 << 20);
    let mut read = Vec::new();
    while read.len() < batches.len() {
        request.topics[0].partitions[0].fetch_offset = read.len() as i64;
        // Two of them, answered in one go, and something small behind.
        wire.put(13, 1, &request).await;
        wire.put(13, 2, &request).await;
        wire.put(12, 3, &MetadataRequest { topics: Some(vec![]), ..Default::default() }).await;
        let first = wire.take::<FetchRequest>(13, 1).await;
        assert_eq!(first, wire.take::<FetchRequest>(13, 2).await);
        wire.take::<MetadataRequest>(12, 3).await;
        let some = values(&first.responses[0].partitions[0]);
        assert!(!some.is_empty());
        read.extend(some);
    }
    for (n, (value, batch)) in read.iter().zip(batches).enumerate() {
        let batch = RecordBatch::split_from(&mut batch.into()).unwrap();
        let sent = batch.records(DecompressLimit { max_bytes: 1 << 20 }).unwrap().next().unwrap().unwrap();
        assert!(sent.value.unwrap() == value.as_bytes(), "batch {n}");
    }
}

#[tokio::test]
async fn a_resent_batch_is_stored_once() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    wire.create("once", 1, &[]).await;
    let given = wire.ask(4, &InitProducerIdRequest { producer_id: -1, producer_epoch: -1, ..Default::default() }).await;
    let again = wire.ask(4, &InitProducerIdRequest { producer_id: -1, producer_epoch: -1, ..Default::default() }).await;
    assert_eq!((given.error_code, given.producer_epoch), (0, 0));
    assert_ne!(given.producer_id, again.producer_id);
    let of = |sequence, value: &str| batch_of(&[value], Compression::None, Some((given.producer_id, 0, sequence)));
    assert_eq!(wire.produce("once", of(0, "a")).await.base_offset, 0);
    assert_eq!(wire.produce("once", of(1, "b")).await.base_offset, 1);
    let resent = wire.produce("once", of(0, "a")).await;
    assert_eq!((resent.error_code, resent.base_offset), (0, 0));
    assert_eq!(wire.produce("once", of(5, "f")).await.error_code, 45, "some are missing");
    let transactional = InitProducerIdRequest { transactional_id: Some("t".to_owned()), ..Default::default() };
    assert_ne!(wire.ask(4, &transactional).await.error_code, 0);
    // Still known after a crash.
    let folder = server.kill9();
    let server = Server::start_in(folder, &["--kafka", "127.0.0.1:0"]).await;
    let mut wire = Wire::connect(&server).await;
    assert_eq!(wire.produce("once", of(1, "b")).await.base_offset, 1);
    assert_eq!(wire.produce("once", of(2, "c")).await.base_offset, 2);
}

#[tokio::test]
async fn a_fetch_session_tells_only_what_changed() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("sessions", 1, &[]).await;
    wire.produce("sessions", batch(&["a"])).await;
    let first = wire.ask(13, &fetch_request(id, 0, (0, 0))).await;
    assert!(first.session_id > 0);
    assert_eq!(values(&first.responses[0].partitions[0]), ["a"]);
    // Nothing new: an empty answer, once the wait is over.
    let mut quiet = fetch_request(id, 1, (first.session_id, 1));
    quiet.max_wait_ms = 10;
    assert_eq!(wire.ask(13, &quiet).await.responses, []);
    // The partitions stand in the session.
    wire.produce("sessions", batch(&["b"])).await;
    let mut next = fetch_request(id, 1, (first.session_id, 2));
    next.topics.clear();
    assert_eq!(values(&wire.ask(13, &next).await.responses[0].partitions[0]), ["b"]);
    assert_eq!(wire.ask(13, &next).await.error_code, 71, "each epoch once");
    next.session_id += 1;
    assert_eq!(wire.ask(13, &next).await.error_code, 70);
}

#[tokio::test]
async fn a_fetch_waits_for_as_many_bytes_as_it_asks_for() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("patient", 1, &[]).await;
    let mut request = fetch_request(id, 0, (0, -1));
    request.min_bytes = 2 * batch(&["a"]).len() as i32;
    wire.put(13, 1, &request).await;
    wire.put(9, 2, &produce_request("patient", -1, batch(&["a"]))).await;
    wire.put(9, 3, &produce_request("patient", -1, batch(&["b"]))).await;
    let fetched = wire.take::<FetchRequest>(13, 1).await;
    assert_eq!(values(&fetched.responses[0].partitions[0]), ["a", "b"]);
    // Once its time is over, what there is.
    (request.min_bytes, request.max_wait_ms) = (1 << 20, 50);
    wire.take::<ProduceRequest>(9, 2).await;
    wire.take::<ProduceRequest>(9, 3).await;
    assert_eq!(values(&wire.ask(13, &request).await.responses[0].partitions[0]), ["a", "b"]);
}

#[tokio::test]
async fn one_batch_comes_however_large_it_is() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("large", 1, &[]).await;
    let large = "x".repeat(100_000);
    wire.produce("large", batch(&[&large])).await;
    wire.produce("large", batch(&["small"])).await;
    let mut request = fetch_request(id, 0, (0, -1));
    (request.max_bytes, request.topics[0].partitions[0].partition_max_bytes) = (1, 1);
    assert_eq!(values(&wire.ask(13, &request).await.responses[0].partitions[0]), [large.as_str()]);
    request.topics[0].partitions[0].fetch_offset = 3;
    assert_eq!(wire.ask(13, &request).await.responses[0].partitions[0].error_code, 1, "beyond the end");
    request.topics[0].topic_id = [9; 16];
    assert_eq!(wire.ask(13, &request).await.responses[0].partitions[0].error_code, 100);
    let small = wire.create("small", 1, &[("max.message.bytes", "1024")]).await;
    assert_ne!(small, id);
    assert_eq!(wire.produce("small", batch(&[&large])).await.error_code, 10);
}

#[tokio::test]
async fn offsets_are_found_by_time_and_by_end() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    wire.create("times", 1, &[]).await;
    wire.produce("times", batch(&["a", "b", "c"])).await;
    let mut find = async |timestamp| {
        let partition = ListOffsetsPartition { timestamp, ..Default::default() };
        let topic = ListOffsetsTopic { name: "times".to_owned(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let found = wire.ask(7, &request).await.topics.remove(0).partitions.remove(0);
        (found.error_code, found.offset, found.timestamp)
    };
    let base = 1_700_000_000_000;
    assert_eq!(find(-1).await, (0, 3, -1));
    assert_eq!(find(-2).await, (0, 0, -1));
    assert_eq!(find(-3).await, (0, 2, base + 2));
    assert_eq!(find(base + 1).await, (0, 1, base + 1));
    assert_eq!(find(base + 100).await, (0, -1, -1));
}

#[tokio::test]
async fn the_leaders_clock_is_told() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    wire.create("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let produced = wire.produce("stamped", batch_of(&["1"], Compression::Zstd, None)).await;
    assert!(produced.log_append_time_ms > 1_700_000_000_000, "{produced:?}");
    let page = server.client().get("/v1/topics/stamped/records").await.json();
    assert_eq!(page["records"][0]["timestamp_ms"], produced.log_append_time_ms, "{page}");
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight() {
    let server = start().await;
    let mut wire = Wire::connect(&server).await;
    let id = wire.create("drained", 1, &[]).await;
    wire.put(13, 1, &fetch_request(id, 0, (0, -1))).await;
    // Answered behind the long poll, so the server has begun both.
    wire.put(9, 2, &produce_request("drained", -1, batch(&["a"]))).await;
    wire.take::<FetchRequest>(13, 1).await;
    wire.take::<ProduceRequest>(9, 2).await;
    wire.put(13, 3, &fetch_request(id, 1, (0, -1))).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (status, _folder) = server.terminate().await;
    assert!(status.success());
    let fetched = wire.take::<FetchRequest>(13, 3).await;
    assert_eq!(fetched.responses[0].partitions[0].error_code, 0, "the long poll ends early, and well");
    assert_eq!(wire.frame().await, None);
}

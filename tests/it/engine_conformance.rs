//! One suite that each engine passes, through the port alone.

use sluice::codec::DecompressLimit;
use sluice::config::ServerConfig;
use sluice::engine::{
    Acks, AlterTopic, CreateTopic, Engine, EngineError, FetchRequest, IdempotencyTag, OffsetSpec, ProduceReceipt,
    ProduceRequest, ProducedRecord, RecordError, RecordToProduce, TaggedContent, TopicInfo, Truncation,
};
use sluice::server::Server;
use sluice::sys::Sys;
use sluice::types::{Offset, PartitionId, Record, StoredRecord, TopicName, partition_for_key};
use std::{collections::BTreeMap, future::Future, path::Path, sync::Arc, time::Duration};

const WAIT: Duration = Duration::from_secs(30);
const P0: PartitionId = PartitionId::new(0);

fn config(data: &Path) -> ServerConfig {
    ServerConfig { http: None, kafka: None, peer: None, data: data.to_owned(), ..ServerConfig::with_memory(256 << 20) }
}

/// Runs a test against a broker of its own.
fn with_engine<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Engine>) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start(config(folder.path()), Sys::real()).await.unwrap();
        tokio::time::timeout(WAIT, test(server.engine())).await.expect("the test ends in time");
        server.drain().await;
    });
}

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

async fn topic(engine: &dyn Engine, text: &str, partitions: i32, config: &[(&str, &str)]) -> Arc<TopicInfo> {
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let request = CreateTopic { name: name(text), partitions: Some(partitions), replication_factor: None, config };
    engine.create_topic(request).await.unwrap().info
}

fn record(key: Option<&str>, value: &str) -> RecordToProduce {
    let bytes = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let record = Record { key: key.map(bytes), value: Some(bytes(value)), ..Record::default() };
    RecordToProduce { record, partition: None }
}

fn request(topic: &TopicInfo, records: Vec<RecordToProduce>) -> ProduceRequest {
    ProduceRequest { topic: topic.id, records, acks: Acks::All, timeout: WAIT, idempotency: None }
}

fn tagged(topic: &TopicInfo, records: Vec<RecordToProduce>, content: TaggedContent) -> ProduceRequest {
    ProduceRequest { idempotency: Some(IdempotencyTag { key: [7; 16], content }), ..request(topic, records) }
}

fn stored(receipt: ProduceReceipt) -> Vec<ProducedRecord> {
    receipt.results.into_iter().map(Result::unwrap).collect()
}

async fn read_all(engine: &dyn Engine, topic: &TopicInfo, partition: PartitionId, from: i64) -> Vec<StoredRecord> {
    let (mut records, mut next) = (Vec::new(), Offset::new(from));
    loop {
        let fetch = FetchRequest { topic: topic.id, partition, from: next, max_bytes: 4096 };
        let response = engine.fetch(fetch).await.unwrap();
        if response.batches.is_empty() {
            assert_eq!(response.high_watermark.offset(), next, "an empty answer only at the end");
            return records;
        }
        for batch in response.batches {
            let wanted = batch
                .records(DecompressLimit { max_bytes: 1 << 20 })
                .unwrap()
                .map(Result::unwrap)
                .filter(|r| r.offset >= next);
            records.extend(wanted);
            next = batch.header().next_offset();
        }
    }
}

fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn records_of_a_key_keep_their_order_and_their_partition() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 4, &[]).await;
        for n in 0..50 {
            let records = vec![record(Some("a"), &format!("a{n}")), record(Some("b"), &format!("b{n}"))];
            for (key, record) in ["a", "b"].iter().zip(stored(engine.produce(request(&topic, records)).await.unwrap()))
            {
                assert_eq!(record.partition, partition_for_key(key.as_bytes(), 4));
            }
        }
        for key in ["a", "b"] {
            let all = read_all(&*engine, &topic, partition_for_key(key.as_bytes(), 4), 0).await;
            let of_key: Vec<_> = all.into_iter().filter(|r| r.key.as_deref() == Some(key.as_bytes())).collect();
            assert_eq!(texts(&of_key), (0..50).map(|n| format!("{key}{n}")).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_request_with_one_bad_record_stores_nothing() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 1, &[("max.message.bytes", "2000")]).await;
        let records = vec![record(None, "fine"), record(None, &"x".repeat(2001))];
        let receipt = engine.produce(request(&topic, records)).await.unwrap();
        assert!(matches!(receipt.results[0], Err(EngineError::RejectedWithRequest)), "{receipt:?}");
        let too_large =
            |e: &EngineError| matches!(e, EngineError::InvalidRecord(RecordError::TooLarge { limit: 2000, .. }));
        assert!(receipt.results[1].as_ref().is_err_and(too_large), "{receipt:?}");
        assert_eq!(read_all(&*engine, &topic, P0, 0).await, []);
        let one = vec![record(None, &"x".repeat(1800))];
        assert_eq!(stored(engine.produce(request(&topic, one)).await.unwrap())[0].offset, Offset::ZERO);
    });
}

#[test]
fn a_resend_under_an_idempotency_key_stores_nothing_twice() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 3, &[]).await;
        let records = || ["a", "b", "c", "d"].map(|k| record(Some(k), k)).to_vec();
        let first = engine.produce(tagged(&topic, records(), TaggedContent::Request([1; 16]))).await.unwrap();
        assert!(!first.replayed);
        let first = stored(first);
        // More partitions send the keys elsewhere; the resend must find them where they were.
        engine.alter_topic(&topic.name, AlterTopic { partitions: Some(7), ..AlterTopic::default() }).await.unwrap();
        let again = engine.produce(tagged(&topic, records(), TaggedContent::Request([1; 16]))).await.unwrap();
        assert!(again.replayed);
        assert_eq!(stored(again), first);
        let other = engine.produce(tagged(&topic, vec![record(Some("z"), "z")], TaggedContent::Request([2; 16]))).await;
        assert_eq!(other.unwrap_err(), EngineError::IdempotencyConflict);
        let mut count = 0;
        for partition in 0..7 {
            count += read_all(&*engine, &topic, PartitionId::new(partition), 0).await.len();
        }
        assert_eq!(count, 4);
    });
}

#[test]
fn a_stream_under_an_idempotency_key_goes_on_where_it_was_cut() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 2, &[]).await;
        let part = |lines: std::ops::Range<u8>| {
            let records = lines.clone().map(|n| record(None, &n.to_string())).collect();
            let hashes = lines.clone().map(|n| [n; 16]).collect();
            tagged(&topic, records, TaggedContent::Records { first_index: u32::from(lines.start), hashes })
        };
        let first = stored(engine.produce(part(0..3)).await.unwrap());
        let resent = engine.produce(part(0..5)).await.unwrap();
        assert!(!resent.replayed, "two lines are new");
        assert_eq!(stored(resent)[..3], first);
        let partition = first[0].partition;
        assert_eq!(texts(&read_all(&*engine, &topic, partition, 0).await), ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn ends_times_and_truncation() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 1, &[]).await;
        for n in 0..10 {
            let mut one = record(None, &n.to_string());
            one.record.timestamp_ms = Some(1_000 + n);
            stored(engine.produce(request(&topic, vec![one])).await.unwrap());
        }
        let at = |spec| engine.offset_for(topic.id, P0, spec);
        assert_eq!(at(OffsetSpec::Earliest).await, Ok(Offset::ZERO));
        assert_eq!(at(OffsetSpec::Latest).await, Ok(Offset::new(10)));
        assert_eq!(at(OffsetSpec::Timestamp(1_004)).await, Ok(Offset::new(4)));
        assert_eq!(at(OffsetSpec::Timestamp(9_999)).await, Ok(Offset::new(10)));
        let cut =
            |before| engine.truncate(&topic.name, vec![Truncation { partition: P0, before: Offset::new(before) }]);
        assert_eq!(cut(4).await, Ok(vec![(P0, Offset::new(4))]));
        assert_eq!(at(OffsetSpec::Earliest).await, Ok(Offset::new(4)));
        assert!(matches!(cut(11).await, Err(EngineError::OffsetOutOfRange { .. })));
        assert_eq!(texts(&read_all(&*engine, &topic, P0, 4).await)[0], "4");
        for beyond in [3, 11] {
            let fetch = FetchRequest { topic: topic.id, partition: P0, from: Offset::new(beyond), max_bytes: 100 };
            assert!(matches!(engine.fetch(fetch).await, Err(EngineError::OffsetOutOfRange { .. })), "{beyond}");
        }
    });
}

#[test]
fn a_watch_sees_each_commit_and_the_end() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 1, &[]).await;
        let mut watch = engine.watch(topic.id, P0).unwrap();
        assert_eq!(watch.borrow_and_update().high_watermark.get(), 0);
        stored(engine.produce(request(&topic, vec![record(None, "a")])).await.unwrap());
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow_and_update().high_watermark.get(), 1);
        engine.delete_topic(&topic.name).await.unwrap();
        while watch.changed().await.is_ok() {}
        assert!(engine.topic(&topic.name).is_none());
        assert!(matches!(
            engine.produce(request(&topic, vec![record(None, "b")])).await,
            Err(EngineError::UnknownTopic(_))
        ));
    });
}

#[test]
fn the_latest_value_of_each_key() {
    with_engine(|engine| async move {
        let topic = topic(&*engine, "games", 3, &[]).await;
        for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
            stored(engine.produce(request(&topic, vec![record(Some(key), value)])).await.unwrap());
        }
        let mut tombstone = record(Some("b"), "");
        tombstone.record.value = None;
        stored(engine.produce(request(&topic, vec![tombstone])).await.unwrap());
        let of = |key: &'static [u8]| engine.latest(topic.id, key);
        assert_eq!(of(b"a").await.unwrap().unwrap().1.value.unwrap(), "2");
        assert!(of(b"b").await.unwrap().is_none(), "deleted");
        assert!(of(b"nobody").await.unwrap().is_none());
        let snapshot = engine.snapshot(topic.id, (0..3).map(PartitionId::new).collect()).await.unwrap();
        stored(engine.produce(request(&topic, vec![record(Some("d"), "late")])).await.unwrap());
        let (mut rows, mut after) = (BTreeMap::new(), None);
        loop {
            let page = engine.snapshot_page(&snapshot, after, 1).await.unwrap();
            rows.extend(page.records.into_iter().map(|(_, r)| (r.key.unwrap(), r.value.unwrap())));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let rows: Vec<_> = rows.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        assert_eq!(rows, [(&b"a"[..], &b"2"[..]), (b"c", b"1")]);
    });
}

#[test]
fn topics_are_made_listed_changed_and_refused() {
    with_engine(|engine| async move {
        let made = topic(&*engine, "b-topic", 2, &[("retention.ms", "1000")]).await;
        topic(&*engine, "a-topic", 1, &[]).await;
        let names: Vec<_> = engine.topics().iter().map(|t| t.name.to_string()).collect();
        assert_eq!(names, ["a-topic", "b-topic"]);
        let twice =
            CreateTopic { name: name("a-topic"), partitions: None, replication_factor: None, config: BTreeMap::new() };
        assert!(matches!(engine.create_topic(twice.clone()).await, Err(EngineError::TopicExists(_))));
        let copies = CreateTopic { name: name("c"), replication_factor: Some(2), ..twice.clone() };
        assert!(matches!(engine.create_topic(copies).await, Err(EngineError::InvalidReplicationFactor(_))));
        let internal = CreateTopic { name: name("__mine"), ..twice };
        assert!(matches!(engine.create_topic(internal).await, Err(EngineError::InternalTopic(_))));
        let fewer = AlterTopic { partitions: Some(1), ..AlterTopic::default() };
        assert!(matches!(engine.alter_topic(&made.name, fewer).await, Err(EngineError::InvalidPartitions(_))));
        let reset = AlterTopic { reset: vec!["retention.ms".to_owned()], ..AlterTopic::default() };
        let changed = engine.alter_topic(&made.name, reset).await.unwrap();
        assert!(changed.info.overrides.is_empty());
        let automatic = engine.topic_or_create(&name("by-itself")).await.unwrap();
        assert_eq!(automatic.partitions, 3);
        assert!(matches!(engine.describe_topic(&name("nobody")).await, Err(EngineError::UnknownTopic(_))));
    });
}

#[test]
fn all_of_it_is_there_after_a_restart_under_a_higher_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start(config(folder.path()), Sys::real()).await.unwrap();
        let engine = server.engine();
        let made = topic(&*engine, "games", 1, &[]).await;
        let tag = || TaggedContent::Request([3; 16]);
        let first = stored(engine.produce(tagged(&made, vec![record(Some("a"), "1")], tag())).await.unwrap());
        let before = engine.describe_topic(&made.name).await.unwrap().partitions[0].leader_epoch;
        drop(engine);
        server.drain().await;

        let server = Server::start(config(folder.path()), Sys::real()).await.unwrap();
        let engine = server.engine();
        let found = engine.topic(&made.name).unwrap();
        assert_eq!(found.id, made.id);
        assert!(engine.describe_topic(&made.name).await.unwrap().partitions[0].leader_epoch > before);
        let resent = engine.produce(tagged(&made, vec![record(Some("a"), "1")], tag())).await.unwrap();
        assert!(resent.replayed);
        assert_eq!(stored(resent), first);
        let next = stored(engine.produce(request(&made, vec![record(Some("a"), "2")])).await.unwrap());
        let records = read_all(&*engine, &made, P0, 0).await;
        assert_eq!(texts(&records), ["1", "2"]);
        assert!(records[1].leader_epoch > records[0].leader_epoch);
        assert_eq!(next[0].offset, Offset::new(1));
        assert_eq!(engine.epoch_end(made.id, P0, records[0].leader_epoch).await.unwrap().end, Offset::new(1));
        drop(engine);
        server.drain().await;
    });
}

/// A Kafka client's way through a group: find, join, sync, commit, fetch, leave, delete.
#[test]
fn a_consumer_group_through_the_port() {
    use sluice::engine::{
        CommitOffsets, GroupError, GroupHeartbeat, GroupProtocol, GroupState, JoinGroup, LeaveGroup, LeavingMember,
        OffsetToCommit, SyncGroup,
    };
    with_engine(|engine| async move {
        let made = topic(&*engine, "games", 2, &[]).await;
        let groups = engine.groups().unwrap();
        let refused = |error: GroupError| EngineError::Group(error);
        assert_eq!(groups.fetch_offsets("g").await.unwrap().len(), 0, "before there is any group");
        assert_eq!(groups.describe_group("g").await.unwrap().state, GroupState::Dead);
        assert_eq!(groups.delete_group("g").await.unwrap_err(), refused(GroupError::GroupIdNotFound));
        assert_eq!(groups.group_coordinator("g").await.unwrap(), engine.cluster().broker_id);
        let join = |member_id: &str| JoinGroup {
            group_id: "g".into(),
            member_id: member_id.into(),
            group_instance_id: None,
            client_id: "tests".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(10),
            protocol_type: "consumer".into(),
            protocols: vec![GroupProtocol { name: "range".into(), metadata: bytes::Bytes::from_static(b"mine") }],
            require_known_member_id: true,
            supports_skip_assignment: true,
        };
        let Err(EngineError::Group(GroupError::MemberIdRequired(id))) = groups.join_group(join("")).await else {
            panic!("a new member is given its id first");
        };
        assert!(id.starts_with("tests-"), "{id}");
        let joined = groups.join_group(join(&id)).await.unwrap();
        assert_eq!((joined.generation_id, &joined.leader, joined.members.len()), (1, &id, 1));
        let sync = SyncGroup {
            group_id: "g".into(),
            generation_id: 1,
            member_id: id.clone(),
            group_instance_id: None,
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: BTreeMap::from([(id.clone(), bytes::Bytes::from_static(b"part"))]),
        };
        assert_eq!(&groups.sync_group(sync).await.unwrap().assignment[..], b"part");
        let heartbeat = |generation_id| {
            let (group_id, member_id) = ("g".into(), id.clone());
            GroupHeartbeat { group_id, generation_id, member_id, group_instance_id: None }
        };
        groups.group_heartbeat(heartbeat(1)).await.unwrap();
        assert_eq!(groups.group_heartbeat(heartbeat(7)).await.unwrap_err(), refused(GroupError::IllegalGeneration));
        let commit = |offset| CommitOffsets {
            group_id: "g".into(),
            generation_id: 1,
            member_id: id.clone(),
            group_instance_id: None,
            offsets: vec![OffsetToCommit {
                topic: made.name.clone(),
                partition: P0,
                offset: Offset::new(offset),
                leader_epoch: None,
                metadata: "note".into(),
            }],
        };
        // Kafka's clients may commit what is not there yet, and go back.
        for offset in [40, 3] {
            assert_eq!(groups.commit_offsets(commit(offset)).await.unwrap(), [Ok(())]);
        }
        let offsets = groups.fetch_offsets("g").await.unwrap();
        let kept = &offsets[&(made.name.clone(), P0)];
        assert_eq!((kept.offset.get(), kept.metadata.as_str(), kept.topic_id), (3, "note", Some(made.id)));
        assert_eq!(groups.delete_group("g").await.unwrap_err(), refused(GroupError::NonEmptyGroup));
        let member = LeavingMember { member_id: id.clone(), group_instance_id: None };
        let leave = LeaveGroup { group_id: "g".into(), members: vec![member] };
        assert_eq!(groups.leave_group(leave).await.unwrap(), [Ok(())]);
        assert_eq!(groups.list_groups().await.unwrap().len(), 1);
        // The topic is deleted: its offsets go too.
        engine.delete_topic(&made.name).await.unwrap();
        assert_eq!(groups.fetch_offsets("g").await.unwrap().len(), 0);
        groups.delete_group("g").await.unwrap();
        assert_eq!(groups.list_groups().await.unwrap(), []);
    });
}

//! The client against two brokers on a network in memory, with tokio's clock paused: cut connections, moving leaders,
//! brokers that fall silent, all picked by a seed.

use super::fake_tests::{FakeCluster, PARTITIONS, PORTS, TOPIC};
use super::*;
use crate::codec::messages::{ApiKey, metadata::MetadataRequest};
use crate::sys::Sys;
use crate::sys::sim::{self, SimDisk};
use crate::types::{Offset, PartitionId, Record};
use bytes::Bytes;
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

struct World {
    cluster: Arc<FakeCluster>,
    client: Client,
    sys: Sys,
}

async fn world(seed: u64, adjust: impl FnOnce(&mut FakeCluster)) -> World {
    let sys = sim::machine(&SimDisk::new(seed), seed, 1_700_000_000_000);
    let mut cluster = FakeCluster::new(seed);
    adjust(&mut cluster);
    let cluster = Arc::new(cluster);
    cluster.serve(&*sys.network).await;
    let client = Client::new(sys.clone(), options());
    World { cluster, client, sys }
}

fn options() -> ClientOptions {
    let bootstrap = vec![format!("127.0.0.1:{}", PORTS[0])];
    ClientOptions { bootstrap, request_timeout: Duration::from_secs(2), ..Default::default() }
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn record(value: &str) -> Record {
    Record { value: Some(Bytes::copy_from_slice(value.as_bytes())), ..Record::default() }
}

fn partition(number: i32) -> PartitionId {
    PartitionId::new(number)
}

/// How often each value is stored, and where.
fn places(cluster: &FakeCluster) -> BTreeMap<String, Vec<(i32, i64)>> {
    let mut places: BTreeMap<String, Vec<(i32, i64)>> = BTreeMap::new();
    for (partition, values) in cluster.stored() {
        for (offset, value) in values.into_iter().enumerate() {
            places.entry(value).or_default().push((partition, offset as i64));
        }
    }
    places
}

/// Several callers write to all partitions; gives each value's outcome.
async fn load(producer: &Producer, calls: usize, deadline_ms: u64) -> BTreeMap<String, Result<Produced, ClientError>> {
    let callers = (0..4).map(|caller| {
        let producer = producer.clone();
        tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for call in 0..calls {
                let values: Vec<String> = (0..=call % 3).map(|n| format!("{caller}-{call:03}-{n}")).collect();
                let to = partition((caller + call as i32) % PARTITIONS);
                let deadline = Instant::now() + Duration::from_millis(deadline_ms);
                let records = values.iter().map(|value| record(value)).collect();
                let outcome = producer.produce(TOPIC, to, records, deadline).await;
                for (at, value) in values.into_iter().enumerate() {
                    let own = |produced: Produced| Produced {
                        base_offset: produced.base_offset.map(|base| base.plus(at as i64)),
                        ..produced
                    };
                    outcomes.push((value, outcome.clone().map(own)));
                }
            }
            outcomes
        })
    });
    let mut all = BTreeMap::new();
    for caller in callers.collect::<Vec<_>>() {
        all.extend(caller.await.unwrap());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_each_record_is_stored_once_and_in_order() {
    for seed in 0..40 {
        let world = world(seed, |cluster| cluster.fault_every = 4).await;
        let producer = Producer::new(world.client.clone(), ProducerOptions::default());
        let outcomes = load(&producer, 30, 600_000).await;
        let places = places(&world.cluster);
        for (value, outcome) in &outcomes {
            let produced = outcome.as_ref().unwrap_or_else(|error| panic!("seed {seed}, {value}: {error}"));
            let stored = &places[value];
            assert_eq!(stored.len(), 1, "seed {seed}: {value} is stored at {stored:?}");
            if let Some(offset) = produced.base_offset {
                assert_eq!(offset.get(), stored[0].1, "seed {seed}: {value} is elsewhere than was said");
            }
        }
        assert_eq!(places.len(), outcomes.len(), "seed {seed}");
        for (partition, values) in world.cluster.stored() {
            for caller in 0..4 {
                let own: Vec<&String> = values.iter().filter(|v| v.starts_with(&format!("{caller}-"))).collect();
                assert!(own.is_sorted(), "seed {seed}, partition {partition}: {own:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_time_runs_out_the_error_says_what_is_known() {
    let (mut stored_all_the_same, mut not_stored) = (0, 0);
    for seed in 0..40 {
        let world = world(seed, |cluster| cluster.fault_every = 2).await;
        let producer = Producer::new(world.client.clone(), ProducerOptions::default());
        let outcomes = load(&producer, 25, 50).await;
        // What is still on its way arrives, or does not.
        tokio::time::sleep(Duration::from_secs(300)).await;
        let places = places(&world.cluster);
        for (value, outcome) in &outcomes {
            let times = places.get(value).map_or(0, Vec::len);
            match outcome {
                Ok(_) => assert_eq!(times, 1, "seed {seed}: {value} was acknowledged"),
                Err(error) if error.side_effects() == SideEffects::None => {
                    assert_eq!(times, 0, "seed {seed}: {value} is stored although {error}");
                    not_stored += 1;
                }
                Err(error) => {
                    assert!(times <= 1, "seed {seed}: {value} is stored {times} times, and {error}");
                    stored_all_the_same += times;
                }
            }
        }
    }
    assert!(stored_all_the_same > 0 && not_stored > 0, "the faults reach both kinds");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_forgot_the_producer_costs_nothing() {
    let world = world(1, |_| {}).await;
    let producer = Producer::new(world.client.clone(), ProducerOptions::default());
    for round in 0..3 {
        let stored =
            producer.produce(TOPIC, partition(0), vec![record(&format!("{round}"))], within(60)).await.unwrap();
        assert_eq!(stored.base_offset, Some(Offset::new(round)));
        world.cluster.forget_producers();
    }
    assert_eq!(world.cluster.requests(ApiKey::InitProducerId), 3);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_share_a_batch_and_part_where_it_is_too_large() {
    let world = world(1, |cluster| cluster.max_batch = 3_000).await;
    let producer = Producer::new(world.client.clone(), ProducerOptions::default());
    let call = |n: usize, bytes: usize| {
        let producer = producer.clone();
        let records = vec![record(&format!("{n:0bytes$}"))];
        tokio::spawn(async move { producer.produce(TOPIC, partition(0), records, within(60)).await })
    };
    let small: Vec<_> = (0..50).map(|n| call(n, 10)).collect();
    for (n, call) in small.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap().base_offset, Some(Offset::new(n as i64)));
    }
    assert!(world.cluster.batches() <= 3, "{} batches for 50 calls", world.cluster.batches());
    // Together they are too large, each alone is not, but one is.
    let large: Vec<_> = [1_000, 1_500, 4_000, 1_500].into_iter().enumerate().map(|(n, size)| call(n, size)).collect();
    let mut outcomes = Vec::new();
    for call in large {
        outcomes.push(call.await.unwrap().map(|produced| produced.base_offset.unwrap().get()));
    }
    let too_large = Err(ClientError::refused(Code::MESSAGE_TOO_LARGE));
    assert_eq!(outcomes, [Ok(50), Ok(51), too_large, Ok(52)]);
}

#[tokio::test(start_paused = true)]
async fn records_offsets_and_commits_come_back() {
    let world = world(1, |_| {}).await;
    let client = &world.client;
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    for value in ["a", "b", "c"] {
        producer.produce(TOPIC, partition(2), vec![record(value)], within(60)).await.unwrap();
    }
    let fetched = client.fetch(TOPIC, partition(2), Offset::new(1), Duration::ZERO, 1 << 20, within(60)).await.unwrap();
    assert_eq!((fetched.high_watermark, fetched.log_start), (3, 0));
    let beyond = client.fetch(TOPIC, partition(2), Offset::new(9), Duration::ZERO, 1 << 20, within(60)).await;
    assert_eq!(beyond.err(), Some(ClientError::refused(Code::OFFSET_OUT_OF_RANGE)));
    let offset = |at| client.list_offset(TOPIC, partition(2), at, within(60));
    assert_eq!(offset(OffsetAt::Earliest).await, Ok(Some(Offset::ZERO)));
    assert_eq!(offset(OffsetAt::Latest).await, Ok(Some(Offset::new(3))));
    assert_eq!(offset(OffsetAt::Timestamp(5)).await, Ok(None));

    let commit = Commit { offset: Offset::new(2), leader_epoch: None, metadata: String::new() };
    let commits = Committed::from([(partition(2), commit)]);
    client.commit_offsets("readers", None, TOPIC, &commits, within(60)).await.unwrap();
    let committed =
        client.committed_offsets("readers", TOPIC, &[partition(0), partition(2)], within(60)).await.unwrap();
    let offsets: Vec<_> =
        committed.into_iter().map(|(partition, commit)| (partition.get(), commit.offset.get())).collect();
    assert_eq!(offsets, [(2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn what_may_be_asked_twice_survives_any_fault() {
    for seed in 0..20 {
        let world = world(seed, |cluster| cluster.fault_every = 2).await;
        for partition in (0..PARTITIONS).map(partition) {
            let end = world.client.list_offset(TOPIC, partition, OffsetAt::Latest, within(600)).await;
            assert_eq!(end, Ok(Some(Offset::ZERO)), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_broker_is_asked_again_in_its_own_version() {
    for newest in [0, 2, 3] {
        let world = world(1, |cluster| cluster.api_versions = newest).await;
        world.client.refresh(&[TOPIC], Instant::now(), within(10)).await.unwrap();
        assert_eq!(world.cluster.requests(ApiKey::ApiVersions), 2, "newest {newest}");
        assert_eq!(world.client.cluster().partition_count(TOPIC), Some(PARTITIONS as usize));
    }
}

#[tokio::test(start_paused = true)]
async fn many_who_miss_a_leader_ask_once_over_one_connection() {
    let world = world(1, |_| {}).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let client = world.client.clone();
            tokio::spawn(async move { client.list_offset(TOPIC, partition(0), OffsetAt::Latest, within(10)).await })
        })
        .collect();
    for one in asking {
        one.await.unwrap().unwrap();
    }
    assert_eq!(world.cluster.requests(ApiKey::Metadata), 1);
    assert_eq!(world.cluster.requests(ApiKey::ListOffsets), 50);
    assert_eq!(world.cluster.connections(), 1, "it is the bootstrap broker that leads");
}

#[tokio::test(start_paused = true)]
async fn nobody_there_and_a_silent_one_end_at_the_deadline() {
    let world = world(1, |_| {}).await;
    let with = |bootstrap: &str| {
        Client::new(world.sys.clone(), ClientOptions { bootstrap: vec![bootstrap.to_owned()], ..options() })
    };
    let nobody = with("127.0.0.1:1").list_offset(TOPIC, partition(0), OffsetAt::Latest, within(5)).await;
    let refused = ClientError::Connect { address: "127.0.0.1:1".to_owned(), kind: io::ErrorKind::ConnectionRefused };
    assert_eq!(nobody, Err(refused));

    // It takes the connection, and says nothing.
    let listener = world.sys.network.bind("127.0.0.1:7000".parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            open.push(socket);
        }
    });
    let started = Instant::now();
    let silent = with("127.0.0.1:7000").list_offset(TOPIC, partition(0), OffsetAt::Latest, within(30)).await;
    assert_eq!(silent.map_err(|error| error.side_effects()), Err(SideEffects::None), "it was never asked");
    assert!(started.elapsed() <= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn connections_are_bounded_and_idle_ones_make_room() {
    let world = world(1, |_| {}).await;
    let client = Client::new(world.sys.clone(), ClientOptions { max_connections: 1, ..options() });
    client.refresh(&[TOPIC], Instant::now(), within(10)).await.unwrap();
    for number in [0, 1, 0, 1] {
        client.list_offset(TOPIC, partition(number), OffsetAt::Latest, within(10)).await.unwrap();
    }
    assert_eq!(world.cluster.connections(), 4, "each time the other one gave way");
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_something_else_ends_the_connection() {
    let world = world(1, |_| {}).await;
    let listener = world.sys.network.bind("127.0.0.1:7001".parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let length = socket.read_i32().await.unwrap();
        let mut request = vec![0; length as usize];
        socket.read_exact(&mut request).await.unwrap();
        // The right length, and an answer to request 77.
        tokio::io::AsyncWriteExt::write_all(&mut socket, &[0, 0, 0, 4, 0, 0, 0, 77]).await.unwrap();
        assert_eq!(socket.read_i32().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
    let bootstrap = vec!["127.0.0.1:7001".to_owned()];
    let client = Client::new(world.sys.clone(), ClientOptions { bootstrap, ..options() });
    let error = client.send_any(&MetadataRequest::default(), within(3)).await.unwrap_err();
    let reset = ClientError::Connect { address: "127.0.0.1:7001".to_owned(), kind: io::ErrorKind::ConnectionReset };
    assert_eq!(error, reset);
}

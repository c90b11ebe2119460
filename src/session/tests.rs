//! Subscriptions and pages over the engine in memory.

mod fake_engine;

use super::cursor::Cursor;
use super::json::{RecordWriter, ValueEncoding};
use super::*;
use crate::engine::{EngineError, TopicInfo};
use crate::sys::SystemClock;
use crate::types::{Offset, PartitionId};
use bytes::Bytes;
use fake_engine::FakeEngine;
use proptest::prelude::*;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

struct World {
    engine: Arc<FakeEngine>,
    sessions: Arc<Sessions>,
    topic: Arc<TopicInfo>,
}

fn world(partitions: i32) -> World {
    let engine = Arc::new(FakeEngine::default());
    let topic = engine.create("games", partitions);
    let sessions = Arc::new(Sessions::new(engine.clone(), Arc::new(SystemClock::default()), 64 << 20));
    World { engine, sessions, topic }
}

impl World {
    fn read(&self, start: StartPosition) -> ReadRequest {
        ReadRequest {
            topic: self.topic.clone(),
            start,
            partitions: None,
            key: None,
            until: None,
            refuse_retention_gap: false,
        }
    }

    fn request(&self, start: StartPosition) -> SubscribeRequest {
        SubscribeRequest {
            read: self.read(start),
            format: Format::Sse,
            encoding: ValueEncoding::Auto,
            limit: None,
            slow: SlowPolicy::Park,
            view_latest: false,
        }
    }

    async fn subscribe(&self, start: StartPosition) -> Reader {
        self.open(self.request(start)).await
    }

    async fn open(&self, request: SubscribeRequest) -> Reader {
        let format = request.format;
        Reader { subscription: self.sessions.subscribe(request).await.unwrap(), format, got: Vec::new() }
    }

    fn put(&self, partition: i32, value: i32) {
        self.engine.append("games", partition, &[(Some("k"), Some(&value.to_string()))]);
    }
}

/// An event, taken apart.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Record { partition: i64, offset: i64, value: Value, cursor: Option<String> },
    Gap(Gap, String),
    CaughtUp(String),
    SnapshotEnd(String),
    End(Ended, String),
}

impl Event {
    fn cursor(&self) -> Option<&str> {
        match self {
            Self::Record { cursor, .. } => cursor.as_deref(),
            Self::Gap(_, cursor) | Self::CaughtUp(cursor) | Self::SnapshotEnd(cursor) | Self::End(_, cursor) => {
                Some(cursor)
            }
        }
    }
}

struct Reader {
    subscription: Subscription,
    format: Format,
    got: Vec<Event>,
}

fn take_apart(format: Format, frame: &[u8]) -> Event {
    let (cursor, record) = match format {
        Format::Sse => {
            let text = std::str::from_utf8(frame).unwrap().strip_suffix("\n\n").unwrap();
            let (cursor, data) = match text.split_once('\n') {
                Some((id, data)) => (Some(id.strip_prefix("id: ").unwrap().to_owned()), data),
                None => (None, text),
            };
            (cursor, serde_json::from_str::<Value>(data.strip_prefix("data: ").unwrap()).unwrap())
        }
        Format::WebSocket => {
            let mut message: Value = serde_json::from_slice(text_payload(frame)).unwrap();
            assert_eq!(message["type"], "record");
            (message["cursor"].as_str().map(str::to_owned), message["record"].take())
        }
    };
    Event::Record {
        partition: record["partition"].as_i64().unwrap(),
        offset: record["offset"].as_i64().unwrap(),
        value: record.get("value").cloned().unwrap_or_default(),
        cursor,
    }
}

impl Reader {
    /// What comes until nothing came for a moment.
    async fn drain(&mut self) -> Vec<Event> {
        self.drain_with(Budget::UNLIMITED).await
    }

    async fn drain_with(&mut self, budget: Budget) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(mut some) = self.step(budget).await {
            events.append(&mut some);
        }
        events
    }

    async fn step(&mut self, budget: Budget) -> Option<Vec<Event>> {
        let next = tokio::time::timeout(Duration::from_millis(20), self.subscription.next(budget)).await.ok()?;
        let events = match next.unwrap() {
            SessionEvent::Records(chunks) => {
                let frames: Vec<_> = chunks.iter().flat_map(|c| c.iter().collect::<Vec<_>>()).collect();
                assert!(frames.len() as u64 <= budget.records);
                frames.iter().map(|frame| take_apart(self.format, frame)).collect()
            }
            SessionEvent::Gap(gap, cursor) => vec![Event::Gap(gap, cursor)],
            SessionEvent::CaughtUp(cursor) => vec![Event::CaughtUp(cursor)],
            SessionEvent::SnapshotEnd(cursor) => vec![Event::SnapshotEnd(cursor)],
            SessionEvent::End(why, cursor) => vec![Event::End(why, cursor)],
        };
        self.got.extend(events.clone());
        Some(events)
    }
}

fn values(events: &[Event]) -> Vec<i64> {
    let value = |event: &Event| match event {
        Event::Record { value, .. } => value.as_i64(),
        _ => None,
    };
    events.iter().filter_map(value).collect()
}

fn parse(cursor: &str) -> StartPosition {
    StartPosition::Cursor(Cursor::parse(cursor).unwrap())
}

fn key(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn history_then_live_without_a_seam() {
    let world = world(2);
    (0..10).for_each(|i| world.put(i % 2, i));
    let mut sse = world.subscribe(StartPosition::Earliest).await;
    let mut ws =
        world.open(SubscribeRequest { format: Format::WebSocket, ..world.request(StartPosition::Earliest) }).await;
    for reader in [&mut sse, &mut ws] {
        let events = reader.drain().await;
        let mut got = values(&events);
        got.sort_unstable();
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        assert!(matches!(events.last(), Some(Event::CaughtUp(_))));
        assert!(reader.subscription.is_live());
    }
    assert_eq!(world.sessions.sequencers().running(), 1);
    (10..20).for_each(|i| world.put(i % 2, i));
    let (a, b) = (sse.drain().await, ws.drain().await);
    assert_eq!(a, b, "one order, one cursor for all");
    assert_eq!(a.len(), 10);
    drop((sse, ws));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.sessions.sequencers().running(), 0, "it stops when nobody listens");
    assert_eq!(world.sessions.sequencers().bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn latest_begins_when_it_was_asked_for() {
    let world = world(1);
    world.put(0, 1);
    let mut reader = world.subscribe(StartPosition::Latest).await;
    world.put(0, 2);
    assert_eq!(values(&reader.drain().await), [2]);
    let mut last = world.subscribe(StartPosition::Last(1)).await;
    assert_eq!(values(&last.drain().await), [2]);
    let mut since = world.subscribe(StartPosition::Since(1001)).await;
    assert_eq!(values(&since.drain().await), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_key_filter_wakes_only_for_its_key_and_its_heartbeat_moves() {
    let world = world(2);
    let mut request = world.request(StartPosition::Latest);
    request.read.key = key("a");
    let mut reader = world.open(request.clone()).await;
    assert!(matches!(reader.drain().await[..], [Event::CaughtUp(_)]));
    world.engine.append("games", 0, &[(Some("a"), Some("1")), (Some("b"), Some("2")), (None, Some("3"))]);
    world.engine.append("games", 1, &[(Some("b"), Some("4")), (Some("a"), Some("5"))]);
    let mut got = values(&reader.drain().await);
    got.sort_unstable();
    assert_eq!(got, [1, 5]);
    world.engine.append("games", 1, &[(Some("b"), Some("6")), (Some("b"), Some("7"))]);
    assert!(reader.drain().await.is_empty());
    let cursor = Cursor::parse(&reader.subscription.cursor().unwrap()).unwrap();
    let offsets: Vec<_> = cursor.positions.iter().map(|p| p.offset().unwrap().get()).collect();
    assert_eq!(offsets, [3, 4], "the heartbeat's cursor is behind what was filtered out");
}

#[tokio::test(start_paused = true)]
async fn gaps_are_told() {
    let world = world(1);
    (0..10).for_each(|i| world.put(0, i));
    let mut reader = world.subscribe(StartPosition::Earliest).await;
    let first = reader.drain().await;
    let at = |value: i64| first.iter().find(|e| values(std::slice::from_ref(e)) == [value]).unwrap().cursor().unwrap();
    world.engine.retain_from("games", 0, 6);
    let mut resumed = world.subscribe(parse(at(2))).await;
    let events = resumed.drain().await;
    let gap =
        |from, to, reason| Gap { partition: PartitionId::new(0), from: Offset::new(from), to: Offset::new(to), reason };
    assert!(matches!(&events[0], Event::Gap(g, _) if *g == gap(3, 6, GapReason::Retention)), "{events:?}");
    assert_eq!(values(&events), [6, 7, 8, 9]);

    // A new leader without the last two records: live readers hear of it, and so do those who resume.
    world.engine.fail_over("games", 0, 8);
    world.put(0, 100);
    for events in [reader.drain().await, world.subscribe(parse(at(9))).await.drain().await] {
        assert!(matches!(&events[0], Event::Gap(g, _) if *g == gap(8, 10, GapReason::Truncated)), "{events:?}");
        assert_eq!(values(&events), [100]);
    }
    let fine = world.subscribe(parse(at(7))).await.drain().await;
    assert_eq!(values(&fine), [100]);
    assert!(!fine.iter().any(|e| matches!(e, Event::Gap(..))), "what it read still stands: {fine:?}");
}

#[tokio::test(start_paused = true)]
async fn a_topic_deleted_or_made_again() {
    let mut world = world(1);
    world.put(0, 1);
    let mut reader = world.subscribe(StartPosition::Earliest).await;
    let mut other = world.subscribe(StartPosition::Earliest).await;
    let cursor = reader.drain().await.last().unwrap().cursor().unwrap().to_owned();
    other.drain().await;
    world.topic = world.engine.create("games", 1);
    world.put(0, 2);
    let events = reader.drain().await;
    assert!(
        matches!(&events[..], [Event::Gap(g, _), Event::Record { .. }, Event::CaughtUp(_)] if g.reason == GapReason::TopicRecreated),
        "{events:?}"
    );
    let resumed = world.subscribe(parse(&cursor)).await.drain().await;
    assert!(matches!(&resumed[0], Event::Gap(g, _) if g.reason == GapReason::TopicRecreated));
    assert_eq!(values(&resumed), [2]);
    world.engine.delete("games");
    let events = reader.drain().await;
    assert!(matches!(events.last(), Some(Event::End(Ended::TopicDeleted, _))), "{events:?}");
    world.engine.create("other", 1);
    let request = ReadRequest { topic: world.engine.create("other", 1), ..world.read(parse(&cursor)) };
    assert!(request.plan(&*world.engine).is_err(), "another topic's cursor");
}

#[tokio::test(start_paused = true)]
async fn added_partitions_begin_with_their_first_record() {
    let world = world(1);
    let mut reader = world.subscribe(StartPosition::Latest).await;
    let cursor = reader.drain().await.last().unwrap().cursor().unwrap().to_owned();
    world.engine.grow("games", 3);
    world.put(2, 7);
    assert_eq!(values(&reader.drain().await), [7]);
    world.put(0, 8);
    assert_eq!(values(&reader.drain().await), [8]);
    assert!(reader.subscription.is_live());
    let resumed = world.subscribe(parse(&cursor)).await.drain().await;
    assert_eq!(values(&resumed).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_partition_does_not_stop_the_others() {
    let world = world(2);
    world.engine.set_online("games", 1, false);
    let mut reader = world.subscribe(StartPosition::Latest).await;
    world.put(0, 1);
    assert_eq!(values(&reader.drain().await), [1]);
    let cursor = reader.got.iter().rev().find_map(|e| e.cursor()).unwrap().to_owned();
    world.engine.set_online("games", 1, true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    reader.drain().await;
    world.put(1, 2);
    assert_eq!(values(&reader.drain().await), [2]);
    assert!(Cursor::parse(&cursor).is_ok());
}

#[tokio::test(start_paused = true)]
async fn bounded_streams_end() {
    let world = world(2);
    (0..10).for_each(|i| world.put(i % 2, i));
    let mut request = world.request(StartPosition::Earliest);
    request.limit = Some(3);
    let events = world.open(request).await.drain().await;
    assert_eq!(values(&events).len(), 3);
    let Some(Event::End(Ended::Complete, cursor)) = events.last() else { panic!("{events:?}") };
    assert!(Cursor::parse(cursor).unwrap().ended);
    let mut request = world.request(StartPosition::Offset(Offset::new(1)));
    request.read.partitions = Some(vec![PartitionId::new(1)]);
    request.read.until = Some(Until::Offset(Offset::new(3)));
    let events = world.open(request.clone()).await.drain().await;
    assert_eq!(values(&events), [3, 5]);
    assert!(matches!(events.last(), Some(Event::End(Ended::Complete, _))));
    request.read.until = Some(Until::Time(1003));
    assert_eq!(values(&world.open(request).await.drain().await), [3, 5]);
}

#[tokio::test(start_paused = true)]
async fn the_latest_view_then_live() {
    let world = world(2);
    for (key, value) in [("a", Some("1")), ("b", Some("2")), ("a", Some("3")), ("c", None)] {
        world.engine.append("games", 0, &[(Some(key), value)]);
    }
    let request = SubscribeRequest { view_latest: true, ..world.request(StartPosition::Latest) };
    let mut reader = world.open(request.clone()).await;
    world.engine.append("games", 1, &[(Some("z"), Some("9"))]);
    let events = reader.drain().await;
    assert_eq!(values(&events), [3, 2, 9]);
    let end = events.iter().position(|e| matches!(e, Event::SnapshotEnd(_))).unwrap();
    assert!(events[..end].iter().all(|e| e.cursor().is_none()) && end == 2, "{events:?}");
    let mut resumed = request;
    resumed.read.start = parse(events[end].cursor().unwrap());
    assert_eq!(values(&world.open(resumed.clone()).await.drain().await), [9], "a cursor overrides the snapshot");
    let mut filtered = SubscribeRequest { view_latest: true, ..world.request(StartPosition::Latest) };
    filtered.read.key = key("b");
    assert_eq!(values(&world.open(filtered).await.drain().await), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_reads_the_log_or_is_told() {
    let world = world(1);
    let big = format!("\"{}\"", "x".repeat(60_000));
    let of = |slow| SubscribeRequest { slow, ..world.request(StartPosition::Latest) };
    let mut park = world.open(of(SlowPolicy::Park)).await;
    let mut conflate = world.open(of(SlowPolicy::Conflate)).await;
    let mut close = world.open(of(SlowPolicy::Close)).await;
    for reader in [&mut park, &mut conflate, &mut close] {
        reader.drain().await;
    }
    for i in 0..200 {
        world.engine.append("games", 0, &[(Some(["a", "b"][i % 2]), Some(&big))]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(world.sessions.sequencers().bytes() <= 5 << 20);
    let got = park.drain().await;
    let offsets = |events: &[Event]| -> Vec<i64> {
        events.iter().filter_map(|e| if let Event::Record { offset, .. } = e { Some(*offset) } else { None }).collect()
    };
    assert_eq!(offsets(&got), (0..200).collect::<Vec<_>>());
    let got = conflate.drain().await;
    assert!(offsets(&got).ends_with(&[198, 199]) && offsets(&got).len() < 20, "{:?}", offsets(&got));
    assert!(got.iter().any(|e| matches!(e, Event::Gap(g, _) if g.reason == GapReason::Conflated)));
    let got = close.drain().await;
    assert!(matches!(got[..], [Event::End(Ended::TooSlow, _)]), "{}", got.len());
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_kept_and_costs_nothing() {
    let world = world(1);
    let mut reader =
        world.open(SubscribeRequest { format: Format::WebSocket, ..world.request(StartPosition::Latest) }).await;
    reader.drain().await;
    let many: Vec<_> = (0..50).map(|i| i.to_string()).collect();
    let records: Vec<_> = many.iter().map(|v| (Some("k"), Some(v.as_str()))).collect();
    world.engine.append("games", 0, &records);
    let events = reader.drain_with(Budget { records: 7, bytes: u64::MAX }).await;
    assert_eq!(values(&events), (0..50).collect::<Vec<_>>());
    world.engine.append("games", 0, &records);
    let events = reader.drain_with(Budget { records: 100, bytes: 1 }).await;
    assert_eq!(values(&events), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn pages() {
    let world = world(2);
    (0..10).for_each(|i| world.put(i % 2, i));
    let writer = RecordWriter::new(&world.topic.name, ValueEncoding::Auto);
    let request = PageRequest { limit: 3, max_bytes: 1 << 20, wait: Duration::ZERO };
    let read = async |read: ReadRequest, request: PageRequest| {
        let (plan, gaps) = read.plan(&*world.engine)?;
        Page::read(&mut world.sessions.reader(plan), &writer, request, gaps).await
    };
    let mut got = Vec::new();
    let mut start = StartPosition::Earliest;
    loop {
        let page = read(world.read(start), request).await.unwrap();
        let array: Vec<Value> =
            serde_json::from_slice(&[b"[", &page.records.clone().into_list().concat()[..], b"]"].concat()).unwrap();
        assert!(array.len() == page.count && page.count <= 3);
        got.extend(array.iter().map(|r| r["value"].as_i64().unwrap()));
        start = parse(&page.cursor.encode().unwrap());
        if page.caught_up {
            break;
        }
    }
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<_>>());
    // A long poll answers with what comes, and with an empty page in the end.
    let waiting = PageRequest { wait: Duration::from_secs(5), ..request };
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.put(0, 77);
    };
    let (page, ()) = tokio::join!(read(world.read(start.clone()), waiting), late);
    let records = page.unwrap().records.into_list().concat();
    assert!(String::from_utf8(records).unwrap().contains("\"value\":77"));
    let empty = read(world.read(StartPosition::Latest), waiting).await.unwrap();
    assert!(empty.count == 0 && empty.caught_up);
    // By bytes: at least one.
    let small = read(world.read(StartPosition::Earliest), PageRequest { max_bytes: 1, ..request }).await.unwrap();
    assert!(small.count == 1 && !small.caught_up);
    // Retention and the end.
    world.engine.retain_from("games", 0, 3);
    let mut strict = ReadRequest { refuse_retention_gap: true, ..world.read(StartPosition::Offset(Offset::new(1))) };
    assert!(matches!(read(strict.clone(), request).await, Err(SessionError::Invalid(_))), "no partition");
    strict.partitions = Some(vec![PartitionId::new(0)]);
    let error = read(strict.clone(), request).await.unwrap_err();
    assert!(matches!(error, SessionError::Engine(EngineError::OffsetOutOfRange { .. })), "{error}");
    strict.refuse_retention_gap = false;
    assert_eq!(read(strict.clone(), request).await.unwrap().gaps.len(), 1);
    strict.start = StartPosition::Offset(Offset::new(99));
    assert!(matches!(read(strict, request).await, Err(SessionError::Engine(EngineError::OffsetOutOfRange { .. }))));
    // A partition that is away.
    world.engine.set_online("games", 1, false);
    let page = read(world.read(StartPosition::Earliest), request).await.unwrap();
    assert_eq!(page.unavailable, [PartitionId::new(1)]);
}

#[tokio::test(start_paused = true)]
async fn readers_are_counted_where_they_stand() {
    let world = world(2);
    (0..10).for_each(|i| world.put(i % 2, i));
    let census = world.sessions.census();
    let counted = || {
        let (counts, lag) = census.count(&*world.engine);
        (counts.into_iter().collect::<Vec<_>>(), lag)
    };
    assert_eq!(counted(), (vec![], 0));
    let (sse, live, catching_up, parked) = (Format::Sse.index(), 0, 1, 2);
    let mut reader = world.subscribe(StartPosition::Earliest).await;
    assert_eq!(counted(), (vec![((sse, catching_up), 1)], 0));
    reader.drain().await;
    // One that waits is live, however long it waits.
    let waiting = reader.subscription.next(Budget::UNLIMITED);
    assert!(tokio::time::timeout(Duration::from_secs(9), waiting).await.is_err());
    assert_eq!(counted(), (vec![((sse, live), 1)], 0));
    // One that was given something, and does not come again, is parked, and what is stored meanwhile is its lag.
    world.put(0, 10);
    reader.subscription.next(Budget::UNLIMITED).await.unwrap();
    assert_eq!(counted(), (vec![((sse, live), 1)], 0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    (0..7).for_each(|i| world.put(i % 2, i));
    assert_eq!(counted(), (vec![((sse, parked), 1)], 7));
    reader.drain().await;
    assert_eq!(counted(), (vec![((sse, live), 1)], 0));
    drop(reader);
    assert_eq!(counted(), (vec![], 0));
}

/// Appends, readers that come and go, slow ones, budgets, formats: each reader gets all from where it began, in order,
/// and whoever resumes at any cursor gets exactly the rest.
#[derive(Debug, Clone)]
enum Action {
    Append { partition: i32, count: usize, size: usize },
    Step { reader: usize, records: u64 },
    Drain { reader: usize },
    Resume { reader: usize, at: prop::sample::Index },
    Pause,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..3i32, 1..6usize, prop_oneof![Just(1usize), Just(2_000), Just(70_000)])
            .prop_map(|(partition, count, size)| Action::Append { partition, count, size }),
        4 => (0..4usize, prop_oneof![1..4u64, Just(u64::MAX)]).prop_map(|(reader, records)| Action::Step { reader, records }),
        2 => (0..4usize).prop_map(|reader| Action::Drain { reader }),
        1 => (0..4usize, any::<prop::sample::Index>()).prop_map(|(reader, at)| Action::Resume { reader, at }),
        1 => Just(Action::Pause),
    ]
}

/// What a reader has got by partition, as offsets.
fn by_partition(events: &[Event]) -> BTreeMap<i64, Vec<i64>> {
    let mut got = BTreeMap::<i64, Vec<i64>>::new();
    for event in events {
        match event {
            Event::Record { partition, offset, .. } => got.entry(*partition).or_default().push(*offset),
            Event::Gap(gap, _) => panic!("no gap is due: {gap:?}"),
            _ => {}
        }
    }
    got
}

async fn interleave(actions: Vec<Action>) {
    let world = world(3);
    let mut ends = [0i64; 3];
    let formats = [Format::Sse, Format::WebSocket, Format::Sse, Format::WebSocket];
    let mut readers = Vec::new();
    for (i, format) in formats.into_iter().enumerate() {
        let start = if i < 2 { StartPosition::Earliest } else { StartPosition::Latest };
        readers.push(world.open(SubscribeRequest { format, ..world.request(start) }).await);
    }
    for action in actions {
        match action {
            Action::Append { partition, count, size } => {
                let value = format!("\"{}\"", "v".repeat(size));
                world.engine.append("games", partition, &vec![(Some("k"), Some(value.as_str())); count]);
                ends[partition as usize] += count as i64;
            }
            Action::Step { reader, records } => {
                readers[reader].step(Budget { records, bytes: u64::MAX }).await;
            }
            Action::Drain { reader } => {
                readers[reader].drain().await;
            }
            Action::Resume { reader, at } => {
                // Goes away, and comes back with any cursor that it has seen.
                let format = readers[reader].format;
                let with_cursor: Vec<usize> =
                    (0..readers[reader].got.len()).filter(|i| readers[reader].got[*i].cursor().is_some()).collect();
                if with_cursor.is_empty() {
                    continue;
                }
                let upto = with_cursor[at.index(with_cursor.len())];
                let cursor = readers[reader].got[upto].cursor().unwrap().to_owned();
                let mut got = std::mem::take(&mut readers[reader].got);
                got.truncate(upto + 1);
                let mut back = world.open(SubscribeRequest { format, ..world.request(parse(&cursor)) }).await;
                back.got = got;
                readers[reader] = back;
            }
            Action::Pause => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    for reader in &mut readers {
        reader.drain().await;
        assert!(reader.subscription.is_live(), "it reaches the shared stream");
        let got = by_partition(&reader.got);
        for (partition, end) in ends.iter().enumerate() {
            let all: Vec<i64> = (0..*end).collect();
            assert_eq!(got.get(&(partition as i64)).cloned().unwrap_or_default(), all, "partition {partition}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_reader_gets_everything_once(actions in proptest::collection::vec(action(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(interleave(actions));
    }
}

//! Consumer groups over HTTP: what members see, what is refused, and twenty of them that come, go and die under load.

use crate::harness::{Client, PATIENCE, Reply, Server};
use hyper::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const MEMBERS: usize = 20;
const SESSION: Duration = Duration::from_secs(2);
const WRITERS: usize = 4;
const PARTITIONS: i64 = 12;
const RECORDS: usize = 400;

async fn topic(client: &Client, name: &str, partitions: i64) {
    let reply = client.post_json("/v1/topics", &json!({"name": name, "partitions": partitions})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

async fn produce(client: &Client, topic: &str, partition: i64, value: &str) {
    let path = format!("/v1/topics/{topic}/events?partition={partition}");
    let reply = client.request(Method::POST, &path, &[], value.to_owned()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

/// A member of a group, as a client holds it.
#[derive(Clone)]
struct Member {
    client: Client,
    path: String,
    join: Value,
}

impl Member {
    fn new(client: Client, group: &str, name: &str, topics: &[&str], session_ms: u64) -> Self {
        let join = json!({"topics": topics, "session_timeout_ms": session_ms});
        Self { client, path: format!("/v1/groups/{group}/members/{name}"), join }
    }

    async fn put(&self) -> Value {
        let reply = self.client.send_json(Method::PUT, &self.path, &[], &self.join).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// Calls until the group is stable; gives the answer.
    async fn stable(&self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let place = self.put().await;
            if place["state"] == "stable" {
                return place;
            }
            assert!(Instant::now() < deadline, "no rebalance ends: {place}");
            sleep(Duration::from_millis(place["heartbeat_interval_ms"].as_u64().unwrap())).await;
        }
    }

    async fn read(&self, epoch: &Value, rest: &str) -> Reply {
        self.client.get(&format!("{}/records?epoch={epoch}{rest}", self.path)).await
    }

    async fn commit(&self, body: Value) -> Reply {
        self.client.post_json(&format!("{}/commit", self.path), &body).await
    }
}

fn partitions(place: &Value) -> Vec<i64> {
    let topics = place["assignment"].as_array().unwrap();
    topics.iter().flat_map(|t| t["partitions"].as_array().unwrap()).map(|p| p.as_i64().unwrap()).collect()
}

fn values(page: &Value) -> Vec<String> {
    let records = page["records"].as_array().unwrap();
    records.iter().map(|r| r["text"].as_str().or(r["value"].as_str()).unwrap().to_owned()).collect()
}

fn problem(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_remembers_how_far_it_was_read() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "games", 2).await;
    for n in 0..10 {
        produce(&client, "games", n % 2, &format!("g{n}")).await;
    }
    let a = Member::new(client.clone(), "workers", "a", &["games"], 10_000);
    let place = a.stable().await;
    assert_eq!(partitions(&place), [0, 1]);
    let epoch = &place["epoch"];
    let page = a.read(epoch, "&limit=4").await.json();
    assert_eq!(values(&page).len(), 4);
    let commit = json!({"epoch": epoch, "cursor": page["next_cursor"]});
    assert_eq!(a.commit(commit).await.status, 204);
    let next = a.read(epoch, &format!("&cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    let again = a.read(epoch, "").await.json();
    assert_eq!(values(&next), values(&again), "without a cursor it begins at what was committed");
    let all: BTreeSet<String> = values(&page).into_iter().chain(values(&next)).collect();
    assert_eq!((all.len(), &next["caught_up"]), (10, &json!(true)));
    let group = client.get("/v1/groups/workers").await.json();
    assert_eq!((&group["state"], &group["lag"]), (&json!("stable"), &json!(6)), "{group}");
    assert!(group["lag_ms"].as_u64().is_some() && group["offsets"][0]["member"] == "a", "{group}");
    // The coordinator dies; the members' next calls are as if nothing had been.
    let server = Server::start_in(server.kill9(), &[]).await;
    let a = Member::new(server.client(), "workers", "a", &["games"], 10_000);
    let read = a.read(epoch, "").await;
    assert_eq!((read.status, values(&read.json())), (200, values(&next)), "the same epoch and offsets");
    let client = server.client();
    assert_eq!(problem(&client.delete("/v1/groups/workers").await), (409, "group-not-empty".into()));
    assert_eq!(client.delete("/v1/groups/workers/members/a").await.status, 204);
    assert_eq!(problem(&client.delete("/v1/groups/workers/members/a").await), (404, "unknown-member".into()));
    let listed = client.get("/v1/groups").await.json();
    assert_eq!(
        listed["groups"][0],
        json!({"group": "workers", "state": "empty", "members": 0, "protocol_type": "consumer"})
    );
    assert_eq!(client.delete("/v1/groups/workers").await.status, 204);
    assert_eq!(problem(&client.get("/v1/groups/workers").await), (404, "unknown-group".into()));
    assert_eq!(client.get("/v1/groups").await.json()["groups"], json!([]));
    // The internal topic stays out of sight.
    assert_eq!(client.get("/v1/topics").await.json()["topics"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_epoch_is_told_the_new_assignment() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "games", 4).await;
    produce(&client, "games", 3, "x").await;
    let (a, b) = (
        Member::new(client.clone(), "g", "a", &["games"], 10_000),
        Member::new(client.clone(), "g", "b", &["games"], 10_000),
    );
    let old = a.stable().await;
    let page = a.read(&old["epoch"], "").await.json();
    // A reader that waits is woken by the rebalance.
    let (waiting, told) = (a.clone(), old["epoch"].clone());
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    let waits = tokio::spawn(async move { waiting.read(&told, &format!("&cursor={cursor}&wait_ms=60000")).await });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(b.put().await["state"], "rebalancing");
    let woken = waits.await.unwrap();
    assert_eq!(problem(&woken), (409, "rebalance".into()));
    assert_eq!(woken.json()["state"], "rebalancing");
    // What it read it may still commit, until it has joined again.
    let commit = json!({"epoch": old["epoch"], "cursor": page["next_cursor"]});
    assert_eq!(a.commit(commit.clone()).await.status, 204);
    let (mine, theirs) = (a.stable().await, b.stable().await);
    assert_eq!(mine["epoch"], theirs["epoch"]);
    let shared: BTreeSet<i64> = partitions(&mine).into_iter().chain(partitions(&theirs)).collect();
    assert_eq!((shared.len(), partitions(&mine).len()), (4, 2));
    for reply in [a.commit(commit).await, a.read(&old["epoch"], "").await] {
        assert_eq!(problem(&reply), (409, "rebalance".into()));
        let told = reply.json();
        assert_eq!((&told["epoch"], &told["assignment"]), (&mine["epoch"], &mine["assignment"]));
    }
    let foreign = partitions(&theirs)[0];
    let offset = |partition: i64, offset: i64| json!([{"topic": "games", "partition": partition, "offset": offset}]);
    let stray = a.commit(json!({"epoch": mine["epoch"], "offsets": offset(foreign, 0)})).await;
    assert_eq!(problem(&stray), (422, "not-assigned".into()));
    let own = partitions(&mine)[0];
    let beyond = a.commit(json!({"epoch": mine["epoch"], "offsets": offset(own, 99)})).await;
    assert_eq!(problem(&beyond), (416, "offset-out-of-range".into()));
    assert_eq!(a.commit(json!({"epoch": mine["epoch"], "offsets": offset(own, 0)})).await.status, 204, "backwards");
    let set = client.send_json(Method::PUT, "/v1/groups/g/offsets", &[], &json!({"from": "earliest"})).await;
    assert_eq!(problem(&set), (409, "group-not-empty".into()));
    // The topic goes, and another one of its name comes.
    assert_eq!(client.delete("/v1/topics/games").await.status, 204);
    let deadline = Instant::now() + PATIENCE;
    while !partitions(&a.stable().await).is_empty() {
        b.put().await;
        assert!(Instant::now() < deadline, "the deleted topic stays assigned");
    }
    let group = client.get("/v1/groups/g").await.json();
    assert_eq!(group["offsets"], json!([]), "{group}");
    topic(&client, "games", 1).await;
    while partitions(&a.put().await).len() + partitions(&b.put().await).len() != 1 {
        sleep(Duration::from_millis(50)).await;
        assert!(Instant::now() < deadline + PATIENCE, "the new topic is not assigned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_set_and_bad_requests_refused() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "games", 2).await;
    for n in 0..6 {
        produce(&client, "games", n % 2, "x").await;
    }
    let set = async |body: Value| client.send_json(Method::PUT, "/v1/groups/g/offsets", &[], &body).await;
    let named = set(json!({"from": "latest", "topics": ["games"]})).await;
    let at = |a: i64, b: i64| json!({"offsets": [{"topic": "games", "partition": 0, "offset": a}, {"topic": "games", "partition": 1, "offset": b}]});
    assert_eq!((named.status, named.json()), (200, at(3, 3)));
    assert_eq!(set(json!({"from": "earliest"})).await.json(), at(0, 0));
    assert_eq!(set(json!({"since": "-1h"})).await.json(), at(0, 0));
    assert_eq!(set(at(1, 2)).await.json(), at(1, 2));
    let group = client.get("/v1/groups/g").await.json();
    assert_eq!((&group["state"], &group["lag"]), (&json!("empty"), &json!(3)), "{group}");
    let a = Member::new(client.clone(), "g", "a", &["games"], 10_000);
    let place = a.stable().await;
    assert_eq!(values(&a.read(&place["epoch"], "").await.json()).len(), 3, "members go on from there");
    for (body, expected) in [
        (json!({}), (400, "invalid-request")),
        (json!({"from": "earliest", "since": "-1h"}), (400, "invalid-request")),
        (json!({"from": "middle"}), (400, "invalid-request")),
        (json!({"offsets": []}), (400, "invalid-request")),
    ] {
        let other = client.send_json(Method::PUT, "/v1/groups/h/offsets", &[], &body).await;
        assert_eq!(problem(&other), (expected.0, expected.1.into()), "{body}");
    }
    for (path, body, expected) in [
        ("/v1/groups/g/members/a", json!({"topics": []}), (400, "invalid-request")),
        ("/v1/groups/g/members/a", json!({"topics": ["a/b"]}), (400, "invalid-name")),
        ("/v1/groups/g/members/..", json!({"topics": ["games"]}), (400, "invalid-name")),
        (
            "/v1/groups/g/members/a",
            json!({"topics": ["games"], "session_timeout_ms": 1}),
            (422, "invalid-session-timeout"),
        ),
        ("/v1/groups/g/members/a", json!({"topics": ["games"], "session_timeout_ms": null}), (400, "invalid-request")),
    ] {
        let reply = client.send_json(Method::PUT, path, &[], &body).await;
        let got = problem(&reply);
        assert!(
            got == (expected.0, expected.1.to_owned()) || (path.ends_with("..") && got.0 >= 400),
            "{path} {body} {reply:?}"
        );
    }
    for (path, expected) in [
        ("/v1/groups/g/members/ghost/records?epoch=1", (404, "unknown-member")),
        ("/v1/groups/nobody/members/a/records?epoch=1", (404, "unknown-member")),
        ("/v1/groups/g/members/a/records", (400, "invalid-request")),
        ("/v1/groups/g/members/a/records?epoch=1&cursor=x", (400, "invalid-cursor")),
        ("/v1/groups/nobody", (404, "unknown-group")),
    ] {
        let reply = client.get(path).await;
        assert_eq!(problem(&reply), (expected.0, expected.1.into()), "{path} {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_what_is_left_and_how_old_it_is() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "games", 2).await;
    let now_ms = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let start = now_ms();
    // Ten records in the first partition, a minute apart, the last written just now; two in the other.
    let old = |minutes: i64| start - minutes * 60_000;
    let mut records: Vec<_> =
        (0..10).map(|n| json!({"value": n, "partition": 0, "timestamp_ms": old(9 - n)})).collect();
    records.extend([1, 0].map(|n| json!({"value": n, "partition": 1, "timestamp_ms": old(n)})));
    let reply = client.post_json("/v1/topics/games/records", &json!({"records": records})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let at = |a: i64, b: i64| {
        let offset = |partition: i64, offset: i64| json!({"topic": "games", "partition": partition, "offset": offset});
        json!({"offsets": [offset(0, a), offset(1, b)]})
    };
    for (a, b, oldest) in [(0, 0, Some(old(9))), (4, 1, Some(old(5))), (10, 0, Some(old(1))), (10, 2, None)] {
        let set = client.send_json(Method::PUT, "/v1/groups/g/offsets", &[], &at(a, b)).await;
        assert_eq!(set.status, 200, "{set:?}");
        let before = now_ms();
        let group = client.get("/v1/groups/g").await.json();
        let after = now_ms();
        assert_eq!(group["lag"], 12 - a - b, "{group}");
        let each: Vec<_> = group["offsets"].as_array().unwrap().iter().map(|o| o["lag"].as_i64().unwrap()).collect();
        assert_eq!(each, [10 - a, 2 - b], "{group}");
        let lag_ms = group["lag_ms"].as_i64().unwrap();
        match oldest {
            Some(oldest) => assert!((before - oldest..=after - oldest).contains(&lag_ms), "{lag_ms} of {group}"),
            None => assert_eq!(lag_ms, 0, "{group}"),
        }
    }
    // What retention took is nothing that anybody could still read.
    assert_eq!(client.send_json(Method::PUT, "/v1/groups/g/offsets", &[], &at(0, 2)).await.status, 200);
    let truncate = json!({"partitions": [{"partition": 0, "before_offset": 7}]});
    assert_eq!(client.post_json("/v1/topics/games/truncate", &truncate).await.status, 200);
    let group = client.get("/v1/groups/g").await.json();
    assert_eq!((&group["lag"], &group["offsets"][0]["committed_offset"]), (&json!(3), &json!(0)), "{group}");
    assert!((old(3) - old(2)..=now_ms() - old(2)).contains(&group["lag_ms"].as_i64().unwrap()), "{group}");
}

/// What all members saw together.
#[derive(Default)]
struct Seen {
    values: BTreeSet<String>,
    /// What was committed last, by partition.
    committed: BTreeMap<i64, i64>,
    /// The highest epoch that each member was told.
    epochs: BTreeMap<usize, i64>,
    wrong: Vec<String>,
}

impl Seen {
    /// A member was told an epoch: they only rise.
    fn told(&mut self, epoch: i64, member: usize) {
        let before = self.epochs.insert(member, epoch).unwrap_or(epoch);
        if before > epoch {
            self.wrong.push(format!("m{member} was told epoch {epoch} after {before}"));
        }
    }

    /// The group is rebalancing, away from an epoch, and has been for so long. When the sessions of the silent are over
    /// and the time in which the others join again is too, there is another epoch, or something is stuck.
    fn rebalancing(&mut self, epoch: i64, since: Instant) {
        if since.elapsed() > SESSION * 2 + PATIENCE {
            self.wrong.push(format!("the rebalance away from epoch {epoch} does not end"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_members_come_go_and_die_while_four_write() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "load", PARTITIONS).await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (done, calm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let deaths = Arc::new(AtomicUsize::new(0));
    let members: Vec<_> = (0..MEMBERS)
        .map(|n| {
            let (seen, done, calm, deaths) = (seen.clone(), done.clone(), calm.clone(), deaths.clone());
            let client = server.client();
            tokio::spawn(async move { live(n, client, &seen, &done, &calm, &deaths).await })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write(server.client(), w))).collect();
    for writer in writers {
        writer.await.expect("a writer does not panic");
    }
    // From here on nobody leaves or dies any more: the group becomes stable, and all is read.
    calm.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        let group = client.get("/v1/groups/crowd").await.json();
        let read = seen.lock().values.len();
        if group["state"] == "stable" && group["lag"] == 0 && read == WRITERS * RECORDS {
            break;
        }
        assert!(Instant::now() < deadline, "{read} records were read of {}; {group}", WRITERS * RECORDS);
        sleep(Duration::from_millis(100)).await;
    }
    done.store(true, Ordering::Relaxed);
    for member in members {
        member.await.expect("a member does not panic");
    }
    let seen = seen.lock();
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    assert!(deaths.load(Ordering::Relaxed) > 0, "somebody died");
}

async fn write(client: Client, writer: usize) {
    for n in 0..RECORDS {
        let path = format!("/v1/topics/load/events?key=k{}", n % 50);
        let reply = client.request(Method::POST, &path, &[], format!("v{writer}-{n}")).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A member's life: joins, reads and commits; now and then leaves, or falls silent for longer than its session.
async fn live(
    n: usize,
    client: Client,
    seen: &Mutex<Seen>,
    done: &AtomicBool,
    calm: &AtomicBool,
    deaths: &AtomicUsize,
) {
    let member = Member::new(client, "crowd", &format!("m{n}"), &["load"], SESSION.as_millis() as u64);
    let mut pages = 0usize;
    let mut rebalancing: Option<(i64, Instant)> = None;
    while !done.load(Ordering::Relaxed) {
        let place = member.put().await;
        let epoch = place["epoch"].as_i64().unwrap();
        seen.lock().told(epoch, n);
        if place["state"] != "stable" {
            let (from, since) = *rebalancing.get_or_insert((epoch, Instant::now()));
            if from == epoch {
                seen.lock().rebalancing(epoch, since);
            } else {
                rebalancing = Some((epoch, Instant::now()));
            }
            sleep(Duration::from_millis(place["heartbeat_interval_ms"].as_u64().unwrap())).await;
            continue;
        }
        rebalancing = None;
        let epoch = place["epoch"].clone();
        let mut at: BTreeMap<i64, i64> = BTreeMap::new();
        let mut cursor = String::new();
        while !done.load(Ordering::Relaxed) {
            let reply = member.read(&epoch, &format!("&wait_ms=300&limit=20{cursor}")).await;
            if matches!(reply.status, 409 | 404) {
                break;
            }
            assert_eq!(reply.status, 200, "{reply:?}");
            let page = reply.json();
            for record in page["records"].as_array().unwrap() {
                let (p, o) = (record["partition"].as_i64().unwrap(), record["offset"].as_i64().unwrap());
                let mut seen = seen.lock();
                // Within an assignment each record follows the one before; the first is where the group was, or before.
                if let Some(last) = at.insert(p, o)
                    && o != last + 1
                {
                    seen.wrong.push(format!("m{n} read {p}@{o} after {last} in epoch {epoch}"));
                }
            }
            if !values(&page).is_empty() {
                let reply = member.commit(json!({"epoch": epoch, "cursor": page["next_cursor"]})).await;
                if reply.status != 204 {
                    assert!(matches!(reply.status, 409 | 404), "{reply:?}");
                    break; // who reads these partitions now gets the records again
                }
                let mut seen = seen.lock();
                seen.values.extend(values(&page));
                for (p, o) in &at {
                    let before = seen.committed.insert(*p, *o).unwrap_or(-1);
                    if before > *o && page["records"].as_array().unwrap().iter().any(|r| r["partition"] == *p) {
                        seen.wrong.push(format!("m{n} committed {p}@{o} after {before} in epoch {epoch}"));
                    }
                    if before > *o {
                        seen.committed.insert(*p, before);
                    }
                }
            }
            cursor = format!("&cursor={}", page["next_cursor"].as_str().unwrap());
            pages += 1;
            if !calm.load(Ordering::Relaxed) && pages % 17 == n % 17 {
                match n % 4 {
                    0 => {
                        deaths.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(2500)).await;
                    }
                    1 => {
                        member.client.delete(&member.path).await;
                        sleep(Duration::from_millis(200)).await;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Runs the program against a server, to its end.
async fn sluice(server: &Server, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.args(arguments).env("SLUICE_URL", format!("http://{}", server.http())).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_on_the_command_line() {
    let server = Server::start().await;
    let client = server.client();
    topic(&client, "games", 2).await;
    for n in 0..7 {
        produce(&client, "games", n % 2, &format!("g{n}")).await;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (status, first, error) = sluice(&server, &["consume", "games", "--group", "w", "-n", "3"]).await;
    assert_eq!((status, lines(&first).len()), (Some(0), 3), "{error}");
    let (status, rest, error) = sluice(&server, &["consume", "games", "--group", "w"]).await;
    assert_eq!((status, lines(&rest).len()), (Some(0), 4), "{error}");
    assert_eq!(lines(&(first + &rest)).len(), 7, "what was committed does not come again");
    let (status, listed, _) = sluice(&server, &["group", "list"]).await;
    assert_eq!(status, Some(0));
    assert!(listed.contains("w") && listed.contains("empty") && listed.contains("MEMBERS"), "{listed}");
    let (_, described, _) = sluice(&server, &["group", "describe", "w", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&described).expect("a JSON line")["lag"], 0, "{described}");
    let (status, shown, _) = sluice(&server, &["group", "describe", "w"]).await;
    assert!(status == Some(0) && shown.contains("COMMITTED") && shown.contains("games"), "{shown}");
    let (status, set, error) = sluice(&server, &["group", "reset", "w", "--to", "earliest"]).await;
    assert!(status == Some(0) && set.contains("games"), "{set} {error}");
    let (status, _, error) = sluice(&server, &["group", "reset", "w", "--offset", "games:1=2"]).await;
    assert_eq!(status, Some(0), "{error}");
    let (_, again, _) = sluice(&server, &["consume", "games", "--group", "w"]).await;
    assert_eq!(lines(&again).len(), 5);
    let (status, _, _) = sluice(&server, &["group", "delete", "w"]).await;
    assert_eq!(status, Some(0));
    let (status, _, error) = sluice(&server, &["group", "delete", "w"]).await;
    assert!(status == Some(1) && error.contains("no such group"), "{error}");
    let (status, ..) = sluice(&server, &["group", "reset", "w"]).await;
    assert_eq!(status, Some(2));
}

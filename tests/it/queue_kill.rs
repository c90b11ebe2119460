//! Workers, each a process of its own, share one queue. They are killed at random, and so is the broker, again and again;
//! every message is settled once all the same, each key in its order, and what nobody can do ends as a dead letter.
//!
//! A worker is this very program, told by its environment to run [`a_worker`] alone. It writes down what it got, what it
//! is about to say and what it was told, each as one line appended to a file, which outlives it. Whoever takes its place
//! says again what was not answered. `SLUICE_QUEUE_MESSAGES=100000` works through more, `SLUICE_QUEUE_KILLS=20` kills the
//! broker more often.

use crate::harness::{Client, PATIENCE, Server};
use crate::queues::{describe, produce, queue, topic, value};
use hyper::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::time::Instant;

const WORKERS: usize = 8;
const KEYS: i64 = 48;
/// Every value that this divides can not be worked on.
const POISON: i64 = 97;
const MAX_DELIVERIES: u64 = 8;
/// Tells the program that it is a worker: `{"ready","ledger","stop","seed"}`.
const WORKER: &str = "SLUICE_TEST_QUEUE_WORKER";

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as u64
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

// ---- a worker -------------------------------------------------------------------------------------------------------

struct Worker {
    ready: PathBuf,
    ledger: File,
    stop: PathBuf,
    dice: u64,
    client: Client,
}

/// Not a test: what [`workers_and_brokers_die_and_every_message_is_settled_once`] starts, many times.
#[test]
#[ignore = "a process of the test below"]
fn a_worker() {
    let Ok(orders) = std::env::var(WORKER) else { return };
    let orders: Value = serde_json::from_str(&orders).expect("orders are JSON");
    let path = |name: &str| PathBuf::from(orders[name].as_str().expect("orders name their files"));
    let unanswered = lines(&path("ledger")).last().filter(|line| line.get("say").is_some()).cloned();
    let ledger = File::options().append(true).create(true).open(path("ledger")).expect("the ledger's folder is there");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (dice, client) = (orders["seed"].as_u64().unwrap_or(1), Client::new("http://127.0.0.1:1"));
        Worker { ready: path("ready"), ledger, stop: path("stop"), dice, client }.run(unanswered).await;
    });
}

/// A file's lines; the last may have been cut by a kill.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Worker {
    async fn run(mut self, unanswered: Option<Value>) {
        self.find_server();
        if let Some(said) = unanswered {
            self.settle(&said["say"].clone()).await;
        }
        while !self.stop.exists() {
            self.work().await;
        }
    }

    /// The broker that serves now has its address there.
    fn find_server(&mut self) {
        let ready = std::fs::read(&self.ready).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        if let Some(http) = ready.as_ref().and_then(|ready| ready["http"].as_str()) {
            self.client = Client::new(&format!("http://{http}"));
        }
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn note(&mut self, line: &Value) {
        self.ledger.write_all(format!("{line}\n").as_bytes()).expect("the ledger can be written");
    }

    /// Status and body; `None` if the call failed, and nobody knows what became of it.
    async fn call(&mut self, call: &str, body: &Value) -> Option<(u16, Value)> {
        let headers = [("content-type", "application/json")];
        let path = format!("/v1/queues/work/{call}");
        let reply = self.client.try_request(Method::POST, &path, &headers, body.to_string()).await;
        if reply.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.find_server();
        }
        reply.map(|reply| (reply.status, reply.json()))
    }

    async fn work(&mut self) {
        let wanted = json!({"max": 1 + self.roll(20), "wait_ms": 200, "lease_ms": 2000});
        let began = now_us();
        let Some((200, body)) = self.call("receive", &wanted).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            return;
        };
        let messages = body["messages"].as_array().expect("a list of messages").clone();
        if messages.is_empty() {
            return;
        }
        let got: Vec<_> = messages.iter().map(|m| json!([value(m), m["attempt"]])).collect();
        self.note(&json!({"got": got, "began": began, "at": now_us()}));
        tokio::time::sleep(Duration::from_millis(self.roll(4))).await;
        let said: Vec<_> = messages.iter().map(|m| json!([value(m), m["lease"]])).collect();
        self.settle(&Value::Array(said)).await;
    }

    /// Acknowledges what can be done and gives back the rest, until it is answered.
    async fn settle(&mut self, said: &Value) {
        let all = said.as_array().expect("pairs of value and lease");
        let (bad, good): (Vec<_>, Vec<_>) = all.iter().partition(|pair| pair[0].as_i64().unwrap_or(1) % POISON == 0);
        let nacks: Vec<_> = bad.iter().map(|pair| json!({"lease": pair[1], "reason": "poison"})).collect();
        let body = json!({"ack": good.iter().map(|pair| &pair[1]).collect::<Vec<_>>(), "nack": nacks});
        self.note(&json!({"say": said, "at": now_us()}));
        loop {
            match self.call("settle", &body).await {
                Some((200 | 409, answer)) => {
                    let results = answer["results"].as_array().expect("a settlement's answer has results");
                    let told = good.iter().chain(&bad).zip(results);
                    let told: Vec<_> = told.map(|(pair, result)| json!([pair[0], pair[1], result["status"]])).collect();
                    self.note(&json!({"told": told, "at": now_us()}));
                    return;
                }
                Some((500.., _)) | None => tokio::time::sleep(Duration::from_millis(20)).await,
                Some(other) => panic!("a settlement was refused: {other:?}"),
            }
        }
    }
}

// ---- those who kill -------------------------------------------------------------------------------------------------

/// The workers' processes; they end with it.
struct Crew {
    workers: Vec<Child>,
    ready: PathBuf,
    folder: TempDir,
    dice: u64,
    kills: u64,
}

impl Crew {
    fn new(ready: PathBuf) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut crew = Self { workers: Vec::new(), ready, folder, dice: 1, kills: 0 };
        crew.workers = (0..WORKERS).map(|n| crew.start(n)).collect();
        crew
    }

    fn ledger(&self, worker: usize) -> PathBuf {
        self.folder.path().join(format!("ledger-{worker}"))
    }

    fn stop(&self) -> PathBuf {
        self.folder.path().join("stop")
    }

    fn start(&self, worker: usize) -> Child {
        let orders = json!({"ready": self.ready, "ledger": self.ledger(worker), "stop": self.stop(), "seed": self.dice + worker as u64});
        let stderr = File::options().append(true).create(true).open(self.folder.path().join("stderr"));
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "queue_kill::a_worker", "--ignored", "--nocapture", "--test-threads=1"])
            .env(WORKER, orders.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.expect("a file for stderr"))
            .spawn()
            .expect("this program starts")
    }

    /// Kills one, whichever; another takes its place.
    fn kill_one(&mut self) {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let victim = (self.dice >> 33) as usize % WORKERS;
        assert_eq!(
            self.workers[victim].try_wait().expect("it is our child"),
            None,
            "a worker gave up: {}",
            self.stderr()
        );
        self.workers[victim].kill().expect("it is our child");
        self.workers[victim].wait().expect("it is our child");
        self.workers[victim] = self.start(victim);
        self.kills += 1;
    }

    /// Lets them finish what they say.
    async fn end(&mut self) {
        File::create(self.stop()).expect("the folder is there");
        let deadline = Instant::now() + PATIENCE;
        for worker in 0..WORKERS {
            while self.workers[worker].try_wait().expect("it is our child").is_none() {
                assert!(Instant::now() < deadline, "a worker does not end: {}", self.stderr());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill(); // it may have ended by itself
            let _ = worker.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_brokers_die_and_every_message_is_settled_once() {
    let count = setting("SLUICE_QUEUE_MESSAGES", 5_000).cast_signed();
    let broker_kills = setting("SLUICE_QUEUE_KILLS", 3).cast_signed();
    let mut server = Server::start().await;
    let client = server.client();
    topic(&client, "load", 3).await;
    for chunk in (0..count).collect::<Vec<_>>().chunks(1000) {
        let records = chunk.iter().map(|n| json!({"key": format!("k{}", n % KEYS), "value": n})).collect();
        produce(&client, "load", records).await;
    }
    queue(&client, "work", &json!({"topic": "load", "order": "key", "max_deliveries": MAX_DELIVERIES})).await;
    let mut crew = Crew::new(server.folder().join("ready.json"));
    let started = Instant::now();
    let limit = Duration::from_secs(90 + count.unsigned_abs() / 50);
    let mut killed = 0;
    let state = loop {
        tokio::time::sleep(Duration::from_millis(120)).await;
        let state = describe(&server.client(), "work").await;
        let left: i64 = ["ready", "leased", "delayed", "blocked"].iter().map(|f| state[f].as_i64().unwrap()).sum();
        if left == 0 {
            break state;
        }
        assert!(started.elapsed() < limit, "the queue is not worked through: {state} {}", crew.stderr());
        crew.kill_one();
        // The broker's deaths are spread over the work.
        if killed < broker_kills && count - left >= count * (killed + 1) / (broker_kills + 1) {
            killed += 1;
            server = Server::start_in(server.kill9(), &[]).await;
        }
    };
    let took = started.elapsed();
    crew.end().await;
    assert!(crew.kills > 0 && killed == broker_kills, "{} workers and {killed} brokers were killed", crew.kills);
    let seen = Seen::of((0..WORKERS).flat_map(|worker| lines(&crew.ledger(worker))));
    println!(
        "{count} messages in {took:.0?}: {} deliveries, {} workers and {killed} brokers killed, {} settlements known \
         when they were said again, {} acknowledgements whose answer nobody got",
        seen.deliveries.len(),
        crew.kills,
        seen.known_again,
        seen.check(count)
    );
    let poison: BTreeSet<i64> = (0..count).filter(|n| n % POISON == 0).collect();
    let all = ["acked", "dead", "parked", "lost", "skipped", "discarded"].map(|field| state[field].as_i64().unwrap());
    assert_eq!(all, [count - poison.len() as i64, poison.len() as i64, 0, 0, 0, 0], "{state}");
    assert_eq!(dead_letters(&server.client()).await, poison);
}

async fn dead_letters(client: &Client) -> BTreeSet<i64> {
    let (mut dead, mut token) = (BTreeSet::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/queues/work/dead?page_size=1000{token}")).await.json();
        dead.extend(page["messages"].as_array().unwrap().iter().map(value));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return dead,
        }
    }
}

/// What all workers wrote down. Times are microseconds of one machine's clock.
#[derive(Default)]
struct Seen {
    /// Value, attempt, when it was asked for, when it came.
    deliveries: Vec<(i64, u64, u64, u64)>,
    /// By value: the leases whose acknowledgement was answered, and when first.
    acked: BTreeMap<i64, BTreeMap<String, u64>>,
    /// How often the answer was `settled`, which is said once of a lease.
    settled: BTreeMap<i64, usize>,
    /// When something was said of a value first.
    said: BTreeMap<i64, u64>,
    known_again: usize,
}

impl Seen {
    fn of(lines: impl Iterator<Item = Value>) -> Self {
        let mut seen = Self::default();
        for line in lines {
            let at = line["at"].as_u64().expect("a line has its time");
            let list = |name: &str| line[name].as_array().cloned().unwrap_or_default();
            for got in list("got") {
                let began = line["began"].as_u64().expect("a delivery was asked for");
                seen.deliveries.push((got[0].as_i64().unwrap(), got[1].as_u64().unwrap(), began, at));
            }
            for said in list("say") {
                let first = seen.said.entry(said[0].as_i64().unwrap()).or_insert(at);
                *first = at.min(*first);
            }
            for told in list("told") {
                let (value, lease) = (told[0].as_i64().unwrap(), told[1].as_str().unwrap().to_owned());
                let status = told[2].as_str().unwrap();
                seen.known_again += usize::from(status == "already-settled");
                if value % POISON != 0 && status != "lost" {
                    let first = seen.acked.entry(value).or_default().entry(lease).or_insert(at);
                    *first = at.min(*first);
                    *seen.settled.entry(value).or_default() += usize::from(status == "settled");
                }
            }
        }
        seen
    }

    /// Gives how many acknowledgements were said and never answered, by anybody.
    fn check(&self, count: i64) -> usize {
        let twice: Vec<_> = self.acked.iter().filter(|(_, leases)| leases.len() > 1).collect();
        assert!(twice.is_empty(), "acknowledged under two leases: {twice:?}");
        let twice: Vec<_> = self.settled.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "settled twice: {twice:?}");
        let again: Vec<_> = self
            .deliveries
            .iter()
            .filter(|(value, _, began, _)| self.acked.get(value).is_some_and(|l| l.values().any(|told| told < began)))
            .collect();
        assert!(again.is_empty(), "asked for after the answer to their acknowledgement, and came: {again:?}");
        // All but the poison was acknowledged; where nobody was told so, somebody said it at least.
        let unanswered: Vec<i64> = (0..count).filter(|n| n % POISON != 0 && !self.acked.contains_key(n)).collect();
        let never: Vec<_> = unanswered.iter().filter(|n| !self.said.contains_key(n)).collect();
        assert!(never.is_empty(), "never settled: {never:?}");
        self.check_order();
        unanswered.len()
    }

    /// A message first comes when all is said of the one before it of its key.
    fn check_order(&self) {
        let mut first: BTreeMap<i64, u64> = BTreeMap::new();
        for (value, _, _, at) in &self.deliveries {
            let first = first.entry(*value).or_insert(*at);
            *first = (*at).min(*first);
        }
        let mut broken = Vec::new();
        for (value, at) in &first {
            // Of poison nobody need have spoken last: its lease may have run out.
            let before = (0..).map(|n| value - KEYS * (n + 1)).find(|before| before % POISON != 0).filter(|n| *n >= 0);
            if let Some(before) = before
                && self.said.get(&before).is_none_or(|said| said > at)
            {
                broken.push((before, *value));
            }
        }
        assert!(broken.is_empty(), "came before the one before it of its key was settled: {broken:?}");
    }
}

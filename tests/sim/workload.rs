//! Writers and readers that go on over restarts, whatever serves them.
//!
//! A writer sends one request after the other. One that it got no answer to it sends again under the same
//! Idempotency-Key, until it is acknowledged. A reader holds a cursor of offset and leader epoch, and asks after each
//! restart whether what it saw still stands.

use crate::checker::Event;
use crate::queue_workload::{self, Queue, Worker};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sluice::sys::sim::SimRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is under test, as writers and readers see it.
pub trait Subject: Send + Sync {
    /// Partitions, numbered from 0.
    fn partitions(&self) -> i32;
    /// Stores values under an Idempotency-Key, in order.
    fn send<'a>(&'a self, partition: i32, key: [u8; 16], values: &'a [String]) -> BoxFuture<'a, Sent>;
    /// What can be read from an offset on; `None` if nothing can be said now.
    fn read(&self, partition: i32, from: i64) -> BoxFuture<'_, Option<Page>>;
    /// The largest epoch at or below this one that the partition knows, and the offset after its last record.
    fn epoch_end(&self, partition: i32, epoch: i32) -> BoxFuture<'_, Option<(i32, i64)>>;
    /// A queue over all partitions, if it has one.
    fn queue(&self) -> Option<Arc<dyn Queue>> {
        None
    }
    /// Its topics, if it has any.
    fn topics(&self) -> Option<&dyn Topics> {
        None
    }
    /// Stops in good order.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Topics that come and go.
pub trait Topics: Send + Sync {
    /// Makes one, and gives its id.
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>>;
    /// Deletes one.
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// All there are, by name and id.
    fn list(&self) -> Vec<(String, String)>;
}

/// What became of a send.
#[derive(Debug, Clone)]
pub enum Sent {
    /// It is stored, with the offset of each value.
    Acknowledged(Vec<i64>),
    /// Nothing was stored.
    Refused(String),
    /// It may be stored or not.
    Unknown(String),
}

/// What a read gives.
#[derive(Debug, Clone)]
pub struct Page {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The first that can not be read yet.
    pub end: i64,
    /// Offset, epoch and value, from the offset asked for on.
    pub records: Vec<(i64, i32, String)>,
}

/// The history of a run, with the simulated time of each event.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<(u64, Event)>>,
    now_ms: Mutex<u64>,
}

impl History {
    /// Adds an event.
    pub fn add(&self, event: Event) {
        let now = *self.now_ms.lock();
        self.events.lock().push((now, event));
    }

    /// Moves its clock.
    pub fn set_time(&self, now_ms: u64) {
        *self.now_ms.lock() = now_ms;
    }

    /// Why the newest send that is not known to be stored is not.
    pub fn last_unknown(&self) -> Option<String> {
        let why = |(_, event): &(u64, Event)| match event {
            Event::Unknown { why, .. } => Some(why.clone()),
            _ => None,
        };
        self.events.lock().iter().rev().find_map(why)
    }

    /// All of it.
    pub fn events(&self) -> Vec<(u64, Event)> {
        self.events.lock().clone()
    }
}

/// Who is at work in a run.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub writers: u32,
    pub readers: u32,
    pub workers: u32,
    /// The most that a writer waits between two sends, in milliseconds.
    pub pause_ms: u64,
}

impl Load {
    /// Of writers and readers.
    pub const LOG: Self = Self { writers: 4, readers: 2, workers: 0, pause_ms: 8 };
    /// Of a queue: its workers can do far more than the writers write, so that whatever waits long is stuck.
    pub const QUEUE: Self = Self { writers: 2, readers: 0, workers: 4, pause_ms: 60 };
}

/// All writers, readers and workers of a run.
pub struct Workload {
    history: Arc<History>,
    writers: Vec<Arc<Mutex<Writer>>>,
    readers: Vec<Arc<Mutex<Reader>>>,
    workers: Vec<Arc<Mutex<Worker>>>,
    redrive: Arc<SimRng>,
    admin: Arc<Mutex<Admin>>,
    stopping: Arc<AtomicBool>,
}

struct Writer {
    number: u32,
    pause_ms: u64,
    rng: SimRng,
    next: u64,
    pending: Option<Request>,
}

#[derive(Clone)]
struct Request {
    send: u64,
    partition: i32,
    key: [u8; 16],
    /// As the history names them; what is stored is [`filled`].
    values: Vec<String>,
    stored: Vec<String>,
}

struct Reader {
    number: u32,
    rng: SimRng,
    /// By partition: the next offset, and the epoch of what was seen last.
    cursors: BTreeMap<i32, (i64, i32)>,
    /// Those that were checked since the last restart.
    checked: BTreeMap<i32, bool>,
}

/// Makes and deletes topics, one change at a time.
struct Admin {
    rng: SimRng,
    next: u64,
    alive: Vec<String>,
    busy: bool,
}

impl Workload {
    /// Everybody, with choices that follow from `rng`.
    pub fn new(rng: &SimRng, load: Load) -> Self {
        let Load { writers, readers, workers, pause_ms } = load;
        let writer = |number| Writer { number, pause_ms, rng: rng.fork(), next: 0, pending: None };
        let writers = (0..writers).map(|n| Arc::new(Mutex::new(writer(n)))).collect();
        let reader = |number| Reader { number, rng: rng.fork(), cursors: BTreeMap::new(), checked: BTreeMap::new() };
        let readers = (0..readers).map(|n| Arc::new(Mutex::new(reader(n)))).collect();
        let admin = Admin { rng: rng.fork(), next: 0, alive: Vec::new(), busy: false };
        let workers = (0..workers).map(|n| Arc::new(Mutex::new(Worker::new(n.into(), rng.fork())))).collect();
        let (redrive, admin) = (Arc::new(rng.fork()), Arc::new(Mutex::new(admin)));
        Self { history: Arc::default(), writers, readers, workers, redrive, admin, stopping: Arc::default() }
    }

    /// What has happened.
    pub const fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Starts all of them on a subject, as tasks of this runtime; with it they go.
    pub fn start(&self, subject: &Arc<dyn Subject>) {
        self.stopping.store(false, Ordering::Relaxed);
        self.admin.lock().busy = false;
        tokio::spawn(administer(self.admin.clone(), subject.clone(), self.history.clone(), self.stopping.clone()));
        if subject.partitions() == 0 {
            return;
        }
        for writer in &self.writers {
            tokio::spawn(write(writer.clone(), subject.clone(), self.history.clone(), self.stopping.clone()));
        }
        for reader in &self.readers {
            reader.lock().checked.clear();
            tokio::spawn(read(reader.clone(), subject.clone(), self.history.clone()));
        }
        let Some(queue) = subject.queue() else { return };
        let (by_key, max_deliveries) = queue.settings();
        self.history.add(Event::QueueMade { by_key, max_deliveries });
        for worker in &self.workers {
            tokio::spawn(queue_workload::work(worker.clone(), queue.clone(), self.history.clone()));
        }
        tokio::spawn(queue_workload::redrive(self.redrive.clone(), queue, self.stopping.clone()));
    }

    /// Lets the writers finish what is pending; `false` if they did not in time.
    pub async fn finish(&self, patience: Duration) -> bool {
        self.stopping.store(true, Ordering::Relaxed);
        let finished = async {
            while self.admin.lock().busy || self.writers.iter().any(|writer| writer.lock().pending.is_some()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, finished).await.is_ok()
    }

    /// Whether each reader has read all partitions up to `ends`.
    pub async fn caught_up(&self, ends: &BTreeMap<i32, i64>, patience: Duration) -> bool {
        let at_end = |reader: &Reader| ends.iter().all(|(p, end)| reader.cursors.get(p).is_some_and(|c| c.0 == *end));
        let caught_up = async {
            while !self.readers.iter().all(|reader| at_end(&reader.lock())) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, caught_up).await.is_ok()
    }

    /// Lets the workers finish what is in the queue, if there is one.
    pub async fn queue_at_rest(&self, subject: &dyn Subject) {
        if let Some(queue) = subject.queue() {
            queue_workload::at_rest(&*queue, &self.history).await;
        }
    }

    /// Puts the list of topics into the history.
    pub fn list_topics(&self, subject: &dyn Subject) {
        if let Some(topics) = subject.topics() {
            self.history.add(Event::TopicsListed { topics: topics.list() });
        }
    }

    /// Reads a whole partition into the history, and gives its end; `None` if it can not be read.
    pub async fn scan(&self, subject: &dyn Subject, partition: i32) -> Option<i64> {
        let mut records = Vec::new();
        let mut position = None;
        let mut log_start = 0;
        loop {
            let page = subject.read(partition, position.unwrap_or(0)).await?;
            if position.is_none() {
                log_start = page.log_start;
            }
            position = Some(page.records.last().map_or(page.end, |last| last.0 + 1));
            records.extend(page.records.iter().map(|(offset, _, value)| (*offset, name_of(value))));
            if position >= Some(page.end) {
                self.history.add(Event::Scanned { partition, log_start, records });
                return position;
            }
        }
    }
}

impl Writer {
    fn request(&mut self, partitions: i32) -> Request {
        if let Some(request) = &self.pending {
            return request.clone();
        }
        let send = u64::from(self.number) << 32 | self.next;
        self.next += 1;
        let count = if self.rng.one_in(4) { 1 + self.rng.below(6) } else { 1 };
        let values: Vec<String> = (0..count).map(|i| format!("w{}-{}-{i}", self.number, self.next)).collect();
        let stored = values.iter().map(|value| filled(value, &self.rng)).collect();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&send.to_be_bytes());
        let partition = self.rng.below(partitions as u64) as i32;
        let request = Request { send, partition, key, values, stored };
        self.pending = Some(request.clone());
        request
    }
}

async fn write(
    writer: Arc<Mutex<Writer>>,
    subject: Arc<dyn Subject>,
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
) {
    let number = writer.lock().number;
    loop {
        if stopping.load(Ordering::Relaxed) && writer.lock().pending.is_none() {
            return;
        }
        let request = writer.lock().request(subject.partitions());
        let (send, partition, values) = (request.send, request.partition, request.values.clone());
        history.add(Event::Began { send, writer: number, partition, values });
        let pause = match subject.send(partition, request.key, &request.stored).await {
            Sent::Acknowledged(offsets) => {
                history.add(Event::Acknowledged { send, offsets });
                let mut writer = writer.lock();
                writer.pending = None;
                writer.rng.below(writer.pause_ms)
            }
            Sent::Refused(why) => {
                history.add(Event::Refused { send, why });
                50
            }
            Sent::Unknown(why) => {
                history.add(Event::Unknown { send, why });
                50
            }
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn administer(
    admin: Arc<Mutex<Admin>>,
    subject: Arc<dyn Subject>,
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
) {
    let Some(topics) = subject.topics() else { return };
    while !stopping.load(Ordering::Relaxed) {
        let (delete, name) = {
            let mut admin = admin.lock();
            admin.busy = true;
            if admin.alive.len() > 4 || (!admin.alive.is_empty() && admin.rng.one_in(4)) {
                let victim = admin.rng.below(admin.alive.len() as u64) as usize;
                (true, admin.alive.swap_remove(victim))
            } else {
                admin.next += 1;
                (false, format!("t{}", admin.next))
            }
        };
        if delete {
            history.add(Event::TopicDeleteBegan { name: name.clone() });
            if topics.delete(&name).await.is_ok() {
                history.add(Event::TopicDeleted { name });
            }
        } else {
            history.add(Event::TopicBegan { name: name.clone() });
            if let Ok(id) = topics.create(&name).await {
                history.add(Event::TopicCreated { name: name.clone(), id });
                admin.lock().alive.push(name);
            }
        }
        let pause = {
            let mut admin = admin.lock();
            admin.busy = false;
            admin.rng.below(100)
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn read(reader: Arc<Mutex<Reader>>, subject: Arc<dyn Subject>, history: Arc<History>) {
    loop {
        for partition in 0..subject.partitions() {
            let (number, cursor, checked) = {
                let state = reader.lock();
                let cursor = state.cursors.get(&partition).copied();
                (state.number, cursor, state.checked.contains_key(&partition))
            };
            let Some((position, epoch)) = cursor else {
                reader.lock().cursors.insert(partition, (0, 0));
                continue;
            };
            if !checked && position > 0 {
                let Some((_, end)) = subject.epoch_end(partition, epoch).await else { continue };
                if end < position {
                    history.add(Event::Gap { reader: number, partition, to: end });
                    reader.lock().cursors.insert(partition, (end, epoch));
                }
                reader.lock().checked.insert(partition, true);
                continue;
            }
            reader.lock().checked.insert(partition, true);
            let Some(page) = subject.read(partition, position).await else { continue };
            if page.end < position {
                let end = page.end;
                history.add(Event::BeyondEnd { reader: number, partition, position, end });
                continue;
            }
            let Some(last) = page.records.last() else { continue };
            reader.lock().cursors.insert(partition, (last.0 + 1, last.1));
            let records = page.records.iter().map(|(offset, _, value)| (*offset, name_of(value))).collect();
            history.add(Event::Read { reader: number, partition, from: position, records });
        }
        let pause = 1 + reader.lock().rng.below(30);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// A value's bytes: its name, and a filling that follows from it, mostly short, sometimes of many sectors.
fn filled(name: &str, rng: &SimRng) -> String {
    let length = match rng.below(20) {
        0 => 20_000 + rng.below(30_000),
        1..6 => rng.below(4_000),
        _ => rng.below(200),
    };
    format!("{name}:{length}:{}", filling(name, length as usize))
}

fn filling(name: &str, length: usize) -> String {
    let mut text = name.repeat(length / name.len() + 1);
    text.truncate(length); // names are ASCII
    text
}

/// The key of a value, by its name: one of a few, or none.
pub fn key_of(stored: &str) -> Option<String> {
    let name = stored.split(':').next()?;
    let number = name.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    (number % 7 > 0).then(|| format!("k{}", number % 5))
}

/// The name of a value that was read.
///
/// # Panics
/// If a byte of it is not as it was written.
pub fn name_of(stored: &str) -> String {
    let mut parts = stored.splitn(3, ':');
    let (name, length, rest) = (parts.next(), parts.next(), parts.next());
    let (Some(name), Some(length), Some(rest)) = (name, length.and_then(|l| l.parse().ok()), rest) else {
        panic!("a value is damaged: {stored:?}");
    };
    assert!(rest == filling(name, length), "the value of {name} is damaged: {stored:?}");
    name.to_owned()
}

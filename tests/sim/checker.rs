//! What happened, and whether it may have.
//!
//! A history lists what writers sent, what they were told, what readers saw and what lay in the log after each restart.
//! [`check`] goes through it once and gives every anomaly. It knows nothing of the server: the same rules hold for a log
//! alone, for a broker, and for real processes.
//!
//! Values are unique over the whole run. A send is one request under one Idempotency-Key; it may be attempted more than
//! once, by one writer, one attempt at a time.

mod queue;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

use queue::QueueChecker;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An attempt of a send began. What ends it is the next event of the same send; nothing: nobody knows.
    Began { send: u64, writer: u32, partition: i32, values: Vec<String> },
    /// It was acknowledged, with the offset of each value.
    Acknowledged { send: u64, offsets: Vec<i64> },
    /// This attempt stored nothing, for sure.
    Refused { send: u64, why: String },
    /// Nobody knows what became of this attempt.
    Unknown { send: u64, why: String },
    /// A reader read on from `from`.
    Read { reader: u32, partition: i32, from: i64, records: Vec<(i64, String)> },
    /// A reader was told that what it saw at `to` and above is void; it reads on from there.
    Gap { reader: u32, partition: i32, to: i64 },
    /// A reader stands above the end, and was told of no gap.
    BeyondEnd { reader: u32, partition: i32, position: i64, end: i64 },
    /// The machine started again, after its power had gone or not.
    Restarted { power_cut: bool },
    /// The disk became full, or has room again.
    DiskFull { full: bool },
    /// All that a partition holds, while no send is under way.
    Scanned { partition: i32, log_start: i64, records: Vec<(i64, String)> },
    /// After a start that nothing disturbed, a partition can not be read.
    Unreadable { partition: i32 },
    /// A start that nothing disturbed failed.
    DoesNotStart { why: String },
    /// A topic was asked for.
    TopicBegan { name: String },
    /// It was acknowledged under this id.
    TopicCreated { name: String, id: String },
    /// Its end was asked for.
    TopicDeleteBegan { name: String },
    /// Its end was acknowledged.
    TopicDeleted { name: String },
    /// All topics, by name and id, while no change is under way.
    TopicsListed { topics: Vec<(String, String)> },
    /// There is a queue over all partitions.
    QueueMade { by_key: bool, max_deliveries: u16 },
    /// A worker asked the queue for messages. What ends it is the next event of the same call; nothing: nobody knows.
    ReceiveBegan { call: u64, lease_ms: u64 },
    /// It got these, perhaps none.
    Received { call: u64, messages: Vec<Delivery> },
    /// A worker said what is to become of leases.
    SettleBegan { call: u64, verdicts: Vec<(u64, Verdict)> },
    /// It was told what became of each.
    SettleEnded { call: u64, told: Vec<Told> },
    /// A call of either kind failed, and nobody knows what became of it.
    QueueFailed { call: u64, why: String },
    /// Nothing is ready, leased, delayed or blocked any more, and nothing is under way.
    QueueAtRest { dead: Vec<(i32, i64)>, acked: u64 },
    /// Minutes after the last thing that was sent something is still left to do.
    QueueNotAtRest,
}

/// A message as a worker got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The history's own number of the lease.
    pub lease: u64,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub value: String,
    pub attempt: u16,
}

/// What is to become of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ack,
    Nack { delay_ms: u64 },
    Reject,
    Extend { lease_ms: u64 },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Settled,
    AlreadySettled,
    Extended,
    Lost,
}

/// What the topic promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// `flush=commit`: what was acknowledged, or seen by a reader, survives.
    Durable,
    /// `flush=os`: it survives as long as the power stays; a reader whose records went is told.
    UntilPowerCut,
}

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An offset held two values.
    InconsistentOffset,
    /// A value lay at two offsets.
    Duplicate,
    /// An acknowledged value, or one that a reader saw, is gone.
    LostWrite,
    /// A value was seen whose send stored nothing, for sure.
    AbortedRead,
    /// A value, or a topic, that nobody sent; or in another partition.
    Phantom,
    /// What a restart had not found came back at a later one, and nobody had sent it again.
    CameBack,
    /// It does not come back from a power cut or a crash by itself, in whole or in part.
    Unavailable,
    /// Offsets of a partition are not dense.
    Hole,
    /// A reader's next read does not follow its last.
    SkipOrBack,
    /// A writer's acknowledged offsets went back.
    NonMonotonicSend,
    /// A send got an offset below one that was acknowledged before it began.
    RealTime,
    /// What a reader saw is gone, and it was not told.
    SilentGap,
    /// A reader was told of a gap that can not be.
    UnexpectedGap,
    /// An acknowledged topic is gone, or has another id.
    LostTopic,
    /// A topic whose end was acknowledged is there.
    TopicCameBack,
    /// A message came again after its acknowledgement was answered.
    AcknowledgedAgain,
    /// A message was settled twice, or under a lease that could not be held.
    FalseVerdict,
    /// A lease that was surely held was refused, or a verdict that was answered is not known any more.
    LeaseLost,
    /// A message that is not settled is not back within its lease and five seconds.
    NotBack,
    /// Two workers had a message at once; with order by key, two of a key.
    LeasedTwice,
    /// A message came though one before it of its key was not over.
    KeyOrder,
    /// A message is neither settled nor a dead letter.
    LostMessage,
    /// A dead letter that nobody rejected and that was not delivered as often as it may be.
    WronglyDead,
}

/// A broken rule, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Which.
    pub rule: Rule,
    /// The place, for people.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Goes through a history; each event has its time in milliseconds.
pub fn check<'a>(history: impl IntoIterator<Item = &'a (u64, Event)>, promise: Promise) -> Vec<Anomaly> {
    let mut checker = Checker::new(promise);
    let mut queue = QueueChecker::default();
    for (index, (at_ms, event)) in history.into_iter().enumerate() {
        checker.take(index, event);
        queue.take(index, *at_ms, event);
    }
    checker.end();
    checker.anomalies.append(&mut queue.end());
    checker.anomalies
}

struct Send {
    writer: u32,
    partition: i32,
    values: Vec<String>,
    /// When its last attempt began.
    last_began: usize,
    attempts: usize,
    refused: usize,
    /// The highest offset acknowledged in its partition before it first began.
    floor: i64,
}

#[derive(Default)]
struct Partition {
    values: BTreeMap<i64, String>,
    highest_acknowledged: Option<i64>,
    /// When it was last scanned, and what was there.
    last_scan: Option<(usize, BTreeSet<String>)>,
}

struct Checker {
    promise: Promise,
    anomalies: Vec<Anomaly>,
    sends: BTreeMap<u64, Send>,
    send_of: BTreeMap<String, u64>,
    partitions: BTreeMap<i32, Partition>,
    places: BTreeMap<String, (i32, i64)>,
    acknowledged: BTreeMap<String, (i32, i64)>,
    seen: BTreeSet<String>,
    writers: BTreeMap<(u32, i32), i64>,
    /// Where each reader stands, and what it holds to be true.
    readers: BTreeMap<(u32, i32), (i64, BTreeMap<i64, String>)>,
    topics: BTreeMap<String, Topic>,
}

#[derive(Default)]
struct Topic {
    id: Option<String>,
    /// A deletion that began may have been done.
    may_be_gone: bool,
    deleted: bool,
}

impl Checker {
    fn new(promise: Promise) -> Self {
        Self {
            promise,
            anomalies: Vec::new(),
            sends: BTreeMap::new(),
            send_of: BTreeMap::new(),
            partitions: BTreeMap::new(),
            places: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            seen: BTreeSet::new(),
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    fn broken(&mut self, rule: Rule, what: String) {
        self.anomalies.push(Anomaly { rule, what });
    }

    fn take(&mut self, index: usize, event: &Event) {
        match event {
            Event::Began { send, writer, partition, values } => self.began(index, *send, *writer, *partition, values),
            Event::Acknowledged { send, offsets } => self.acknowledged(*send, offsets),
            Event::Refused { send, .. } => {
                if let Some(send) = self.sends.get_mut(send) {
                    send.refused += 1;
                }
            }
            Event::Unknown { .. } => {}
            Event::Read { reader, partition, from, records } => self.read(*reader, *partition, *from, records),
            Event::Gap { reader, partition, to } => self.gap(*reader, *partition, *to),
            Event::BeyondEnd { reader, partition, position, end } => {
                let what = format!("reader {reader} stands at {partition}:{position}, above the end {end}");
                self.broken(Rule::SilentGap, what);
            }
            Event::Restarted { power_cut } => {
                if *power_cut && self.promise == Promise::UntilPowerCut {
                    self.forget_what_may_be_gone();
                }
            }
            Event::Scanned { partition, log_start, records } => self.scanned(index, *partition, *log_start, records),
            Event::Unreadable { partition } => {
                self.broken(Rule::Unavailable, format!("partition {partition} can not be read after a start"));
            }
            Event::DoesNotStart { why } => self.broken(Rule::Unavailable, format!("it does not start: {why}")),
            Event::TopicBegan { name } => {
                self.topics.insert(name.clone(), Topic::default());
            }
            Event::TopicCreated { name, id } => {
                self.topics.entry(name.clone()).or_default().id = Some(id.clone());
            }
            Event::TopicDeleteBegan { name } => self.topics.entry(name.clone()).or_default().may_be_gone = true,
            Event::TopicDeleted { name } => self.topics.entry(name.clone()).or_default().deleted = true,
            Event::TopicsListed { topics } => self.listed(topics),
            Event::Received { messages, .. } => {
                messages.iter().for_each(|message| self.place(message.partition, message.offset, &message.value));
            }
            // The rest is the queue's checker's.
            Event::DiskFull { .. } | Event::QueueMade { .. } | Event::QueueFailed { .. } => {}
            Event::QueueAtRest { .. } | Event::QueueNotAtRest => {}
            Event::ReceiveBegan { .. } | Event::SettleBegan { .. } | Event::SettleEnded { .. } => {}
        }
    }

    fn began(&mut self, index: usize, id: u64, writer: u32, partition: i32, values: &[String]) {
        let floor = self.partitions.entry(partition).or_default().highest_acknowledged.unwrap_or(-1);
        let send = self.sends.entry(id).or_insert_with(|| Send {
            writer,
            partition,
            values: values.to_vec(),
            last_began: index,
            attempts: 0,
            refused: 0,
            floor,
        });
        send.attempts += 1;
        send.last_began = index;
        for value in values {
            self.send_of.insert(value.clone(), id);
        }
    }

    fn acknowledged(&mut self, id: u64, offsets: &[i64]) {
        let Some(send) = self.sends.get(&id) else { return };
        let (writer, partition, floor, values) = (send.writer, send.partition, send.floor, send.values.clone());
        assert_eq!(values.len(), offsets.len(), "an acknowledgement names each value's offset");
        for (value, offset) in values.iter().zip(offsets) {
            self.place(partition, *offset, value);
            self.acknowledged.insert(value.clone(), (partition, *offset));
            if *offset <= floor {
                let what = format!("{value} got {partition}:{offset}; {floor} was acknowledged before it was sent");
                self.broken(Rule::RealTime, what);
            }
        }
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return };
        if let Some(before) = self.writers.insert((writer, partition), *last)
            && *first <= before
        {
            let what = format!("writer {writer} got {partition}:{first} after {before}");
            self.broken(Rule::NonMonotonicSend, what);
        }
        let highest = &mut self.partitions.entry(partition).or_default().highest_acknowledged;
        *highest = (*highest).max(Some(*last));
    }

    /// A value was seen at an offset, by whoever.
    fn place(&mut self, partition: i32, offset: i64, value: &str) {
        let there = self.partitions.entry(partition).or_default().values.entry(offset).or_insert(value.to_owned());
        if there != value {
            let what = format!("{partition}:{offset} is {there} and {value}");
            self.broken(Rule::InconsistentOffset, what);
        }
        let place = *self.places.entry(value.to_owned()).or_insert((partition, offset));
        if place != (partition, offset) {
            let what = format!("{value} is at {}:{} and at {partition}:{offset}", place.0, place.1);
            self.broken(Rule::Duplicate, what);
        }
        let send = self.send_of.get(value).and_then(|id| self.sends.get(id));
        if send.is_none_or(|send| send.partition != partition) {
            self.broken(Rule::Phantom, format!("nobody sent {value} to {partition}"));
        }
    }

    fn read(&mut self, reader: u32, partition: i32, from: i64, records: &[(i64, String)]) {
        let (position, _) = self.readers.entry((reader, partition)).or_insert((from, BTreeMap::new()));
        let mut expected = *position;
        if from != expected {
            let what = format!("reader {reader} reads {partition} from {from}, and stood at {expected}");
            self.broken(Rule::SkipOrBack, what);
            expected = from;
        }
        for (offset, value) in records {
            if *offset != expected {
                let what = format!("reader {reader} got {partition}:{offset}, and {expected} was next");
                self.broken(Rule::SkipOrBack, what);
            }
            expected = offset + 1;
            self.place(partition, *offset, value);
            self.seen.insert(value.clone());
        }
        let (position, view) = self.readers.get_mut(&(reader, partition)).expect("it was put there above");
        *position = expected;
        view.extend(records.iter().cloned());
    }

    fn gap(&mut self, reader: u32, partition: i32, to: i64) {
        if self.promise == Promise::Durable {
            self.broken(Rule::UnexpectedGap, format!("reader {reader} was sent back to {partition}:{to}"));
        }
        if let Some((position, view)) = self.readers.get_mut(&(reader, partition)) {
            *position = to;
            view.retain(|offset, _| *offset < to);
        }
    }

    /// Without a promise over a power cut, what is known is what is found after it.
    fn forget_what_may_be_gone(&mut self) {
        self.places.clear();
        self.acknowledged.clear();
        self.seen.clear();
        self.writers.clear();
        for partition in self.partitions.values_mut() {
            partition.values.clear();
            partition.highest_acknowledged = None;
        }
        for send in self.sends.values_mut() {
            send.floor = -1;
        }
    }

    fn scanned(&mut self, index: usize, partition: i32, log_start: i64, records: &[(i64, String)]) {
        for ((offset, value), expected) in records.iter().zip(log_start..) {
            if *offset != expected {
                self.broken(Rule::Hole, format!("{partition}:{offset} where {expected} was next"));
                break;
            }
            self.place(partition, *offset, value);
        }
        let found: BTreeSet<String> = records.iter().map(|(_, value)| value.clone()).collect();
        let is_lost = |value: &String, offset: i64| offset >= log_start && !found.contains(value);
        let acknowledged = self.acknowledged.iter().map(|(value, place)| (value, *place, "was acknowledged at"));
        let seen = self.seen.iter().filter_map(|value| Some((value, *self.places.get(value)?, "was read at")));
        let lost: Vec<String> = acknowledged
            .chain(seen)
            .filter(|(value, place, _)| place.0 == partition && is_lost(value, place.1))
            .map(|(value, place, how)| format!("{value} {how} {partition}:{} and is gone", place.1))
            .collect();
        lost.into_iter().for_each(|what| self.broken(Rule::LostWrite, what));

        let before = self.partitions.entry(partition).or_default().last_scan.replace((index, found.clone()));
        if let Some((when, before)) = before {
            let sent_since = |value: &String| {
                let send = self.send_of.get(value).and_then(|id| self.sends.get(id));
                send.is_none_or(|send| send.last_began > when) // what nobody sent is a phantom already
            };
            let back: Vec<String> = found.iter().filter(|v| !before.contains(*v) && !sent_since(v)).cloned().collect();
            for value in back {
                self.broken(Rule::CameBack, format!("{value} was not in {partition}, and is, though nobody sent it"));
            }
        }
    }

    fn listed(&mut self, topics: &[(String, String)]) {
        let mut broken = Vec::new();
        for (name, id) in topics {
            match self.topics.get(name) {
                None => broken.push((Rule::Phantom, format!("nobody asked for topic {name}"))),
                Some(topic) if topic.deleted => {
                    broken.push((Rule::TopicCameBack, format!("topic {name} was deleted")));
                }
                Some(Topic { id: Some(known), .. }) if known != id => {
                    broken.push((Rule::LostTopic, format!("topic {name} is {id} and was {known}")));
                }
                Some(_) => {}
            }
        }
        let listed: BTreeMap<&String, &String> = topics.iter().map(|(name, id)| (name, id)).collect();
        for (name, topic) in &mut self.topics {
            match listed.get(name) {
                Some(id) => topic.id = Some((*id).clone()),
                None if topic.id.is_some() && !topic.may_be_gone => {
                    broken.push((Rule::LostTopic, format!("topic {name} is gone")));
                }
                // A deletion that was seen done stays done; a creation that was seen undone too.
                None => topic.deleted = true,
            }
        }
        broken.into_iter().for_each(|(rule, what)| self.broken(rule, what));
    }

    fn end(&mut self) {
        let refused = |send: &Send| send.attempts == send.refused;
        let aborted: Vec<String> = self
            .places
            .iter()
            .filter(|(value, _)| self.send_of.get(*value).is_some_and(|id| refused(&self.sends[id])))
            .map(|(value, (partition, offset))| format!("{value} is at {partition}:{offset} and was refused"))
            .collect();
        aborted.into_iter().for_each(|what| self.broken(Rule::AbortedRead, what));
        let mut silent = Vec::new();
        for ((reader, partition), (_, view)) in &self.readers {
            let values = self.partitions.get(partition).map(|p| &p.values);
            for (offset, value) in view {
                let now = values.and_then(|values| values.get(offset));
                if now != Some(value) {
                    silent.push(format!("reader {reader} saw {value} at {partition}:{offset}; there is {now:?} now"));
                }
            }
        }
        silent.into_iter().for_each(|what| self.broken(Rule::SilentGap, what));
    }
}

//! The classic protocol, step by step: commands in, outcomes compared. The clock is a number that the test moves.

mod classic;
mod http;
mod model;
mod offsets;

use super::consumer_protocol::Subscription;
use super::*;
use crate::types::{LeaderEpoch, Offset, Record};
use bytes::Bytes;

/// A machine with its clock, its log and its timers.
struct Bench {
    machine: GroupMachine,
    settings: Arc<GroupSettings>,
    topics: Arc<TopicTable>,
    now: Now,
    next_token: u64,
    log: Vec<Record>,
    timers: BTreeMap<GroupTimer, Duration>,
    /// Answers that nobody has looked at.
    replies: BTreeMap<ReplyToken, GroupReply>,
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn table(version: u64, topics: &[(&str, u8, i32)]) -> Arc<TopicTable> {
    let topics = topics.iter().map(|(name, id, n)| (topic(name), (TopicId::from_random([*id; 16]), *n))).collect();
    Arc::new(TopicTable::new(version, topics))
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

impl Bench {
    /// Without an initial delay, over a topic `t` of 4 partitions.
    fn new() -> Self {
        Self::with(GroupSettings { initial_rebalance_delay: Duration::ZERO, ..GroupSettings::default() })
    }

    fn with(settings: GroupSettings) -> Self {
        let (settings, topics) = (Arc::new(settings), table(1, &[("t", 1, 4), ("u", 2, 2)]));
        let mut bench = Self {
            machine: GroupMachine::new(settings.clone(), topics.clone()),
            settings,
            topics,
            now: Now { monotonic: seconds(1000), wall_ms: 1_000_000 },
            next_token: 0,
            log: Vec::new(),
            timers: BTreeMap::new(),
            replies: BTreeMap::new(),
        };
        bench.load();
        bench
    }

    fn load(&mut self) {
        let mut out = Outcome::default();
        self.machine.loaded(self.now, &mut out);
        self.take(out);
    }

    /// The process is killed and started again: what is left is the log.
    fn restart(&mut self) {
        self.machine = GroupMachine::new(self.settings.clone(), self.topics.clone());
        (self.timers, self.replies) = Default::default();
        for (offset, record) in self.log.iter().enumerate() {
            self.machine.replay(StoredRecord {
                offset: Offset::new(offset as i64),
                leader_epoch: LeaderEpoch::ZERO,
                timestamp_ms: record.timestamp_ms.unwrap(),
                key: record.key.clone(),
                value: record.value.clone(),
                headers: Vec::new(),
            });
        }
        self.load();
    }

    fn take(&mut self, out: Outcome<GroupMachine>) {
        self.log.extend(out.records);
        for (token, reply) in out.replies {
            assert!(self.replies.insert(token, reply).is_none(), "answered twice");
        }
        for (timer, at) in out.timers {
            match at {
                Some(at) => drop(self.timers.insert(timer, at)),
                None => drop(self.timers.remove(&timer)),
            }
        }
    }

    fn send(&mut self, command: GroupCommand) -> ReplyToken {
        let token = ReplyToken::new(self.next_token);
        self.next_token += 1;
        let mut out = Outcome::default();
        self.machine.handle(command, token, self.now, &mut out);
        self.take(out);
        token
    }

    /// The answer, if there is one yet.
    fn reply(&mut self, token: ReplyToken) -> Option<GroupReply> {
        self.replies.remove(&token)
    }

    fn ask(&mut self, command: GroupCommand) -> GroupReply {
        let token = self.send(command);
        self.reply(token).expect("answered at once")
    }

    /// Time passes; timers fire in their order.
    fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while let Some((timer, at)) = self.timers.iter().map(|(t, at)| (t.clone(), *at)).min_by_key(|(_, at)| *at) {
            if at > end {
                break;
            }
            self.move_to(at.max(self.now.monotonic));
            self.timers.remove(&timer);
            let mut out = Outcome::default();
            self.machine.timer(timer, self.now, &mut out);
            self.take(out);
        }
        self.move_to(end);
    }

    fn move_to(&mut self, monotonic: Duration) {
        self.now.wall_ms += (monotonic - self.now.monotonic).as_millis() as i64;
        self.now.monotonic = monotonic;
    }

    fn describe(&mut self) -> GroupDescription {
        match self.ask(GroupCommand::Describe("g".into())) {
            GroupReply::Described(group) => group,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> (GroupState, i32, usize) {
        let group = self.describe();
        (group.state, group.generation_id, group.members.len())
    }
}

fn refused(error: GroupError) -> Option<GroupReply> {
    Some(GroupReply::Refused(error))
}

//! The runtime over a simulated disk, with a state machine that adds numbers.

use super::*;
use crate::coordinator::sim_tests::{Machine, START_MS};
use crate::sys::sim::{DiskFault, DiskOperation};
use bytes::Bytes;
use futures_util::future::join_all;

const P0: PartitionId = PartitionId::ZERO;

/// Adds numbers; the sum is its state.
#[derive(Default)]
struct Sum {
    sum: i64,
    waiting: Vec<ReplyToken>,
    marked: Vec<i64>,
}

enum Ask {
    /// Replies with the sum.
    Add(i64),
    /// Replies with the sum, and makes no record.
    Read,
    /// Replies with the sum, once what made it is committed, or at once with nothing.
    Peek { at_once: bool },
    /// Replies when the timer fires.
    Wait(Duration),
    /// Replies with the offsets of its marked records.
    Marked,
    /// Lets go of all below an offset.
    Prune(i64),
}

impl StateMachine for Sum {
    type Command = Ask;
    type Reply = Vec<i64>;
    type Timer = &'static str;
    type Mark = ();

    fn replay(&mut self, record: StoredRecord) {
        let value: [u8; 8] = record.value.unwrap()[..].try_into().unwrap();
        self.sum += i64::from_be_bytes(value);
    }

    fn loaded(&mut self, _: Now, _: &mut Outcome<Self>) {}

    fn handle(&mut self, command: Ask, reply: ReplyToken, now: Now, out: &mut Outcome<Self>) {
        match command {
            Ask::Add(n) => {
                self.sum += n;
                out.mark(());
                let value = Some(Bytes::copy_from_slice(&n.to_be_bytes()));
                out.record(Record { value, ..Record::default() });
                out.reply(reply, vec![self.sum]);
            }
            Ask::Read => out.reply(reply, vec![self.sum]),
            Ask::Peek { at_once: true } => out.reply_after(0, reply, vec![]),
            Ask::Peek { at_once: false } => out.reply_after(out.decided(), reply, vec![self.sum]),
            Ask::Wait(time) => {
                self.waiting.push(reply);
                out.set_timer("wait", now.monotonic + time);
            }
            Ask::Marked => out.reply(reply, self.marked.clone()),
            Ask::Prune(before) => {
                out.prune(Offset::new(before));
                out.reply(reply, vec![]);
            }
        }
    }

    fn timer(&mut self, timer: &'static str, now: Now, out: &mut Outcome<Self>) {
        assert_eq!(timer, "wait");
        for token in self.waiting.drain(..) {
            out.reply(token, vec![now.wall_ms]);
        }
    }

    fn committed(&mut self, (): (), offset: Offset, _: Now, _: &mut Outcome<Self>) {
        self.marked.push(offset.get());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_there_after_a_power_cut() {
    let mut machine = Machine::new(1);
    let mut answered = 0;
    for _ in 0..3 {
        let started = machine.start().await;
        let runtime = started.runtime(Sum::default);
        assert_eq!(runtime.call(P0, Ask::Read).await.unwrap(), [answered]);
        let adds = join_all((0..100).map(|_| runtime.call(P0, Ask::Add(1)))).await;
        let sums: Vec<i64> = adds.into_iter().map(|sum| sum.unwrap()[0]).collect();
        assert_eq!(sums, (answered + 1..=answered + 100).collect::<Vec<_>>());
        let marked = runtime.call(P0, Ask::Marked).await.unwrap();
        assert_eq!(marked, (answered..answered + 100).collect::<Vec<_>>(), "each record's offset");
        answered += 100;
        machine.disk.power_cut();
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_what_it_saw() {
    let mut machine = Machine::new(2);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    assert_eq!(runtime.call(P0, Ask::Read).await.unwrap(), [0]);
    machine.disk.inject(DiskFault::new(DiskOperation::Write, ".log"));
    let (add, read) = tokio::join!(runtime.call(P0, Ask::Add(5)), runtime.call(P0, Ask::Read));
    assert!(matches!(add, Err(CoordinatorError::NotStored(_))), "{add:?}");
    assert!(read.is_err(), "it saw a sum that is not there: {read:?}");
    let refused = runtime.call(P0, Ask::Read).await;
    assert!(matches!(refused, Err(CoordinatorError::NotLoaded(_))), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_waits_for_no_more_than_it_tells_of() {
    let mut machine = Machine::new(6);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    let (add, seen) = tokio::join!(runtime.call(P0, Ask::Add(1)), runtime.call(P0, Ask::Peek { at_once: false }));
    assert_eq!((add.unwrap(), seen.unwrap()), (vec![1], vec![1]));
    machine.disk.inject(DiskFault::new(DiskOperation::Write, ".log"));
    let (add, at_once, seen) = tokio::join!(
        runtime.call(P0, Ask::Add(5)),
        runtime.call(P0, Ask::Peek { at_once: true }),
        runtime.call(P0, Ask::Peek { at_once: false }),
    );
    assert!(add.is_err() && seen.is_err(), "it saw a sum that is not there: {seen:?}");
    assert_eq!(at_once.unwrap(), Vec::<i64>::new());
}

#[tokio::test(start_paused = true)]
async fn what_was_not_stored_is_forgotten() {
    let mut machine = Machine::new(3);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    assert_eq!(runtime.call(P0, Ask::Add(1)).await.unwrap(), [1]);
    machine.disk.set_capacity(Some(0));
    let parked = runtime.call(P0, Ask::Wait(Duration::from_secs(3600)));
    assert!(runtime.call(P0, Ask::Add(10)).await.is_err());
    assert!(parked.await.is_err(), "who waits is told");
    machine.disk.set_capacity(None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(runtime.call(P0, Ask::Add(100)).await.unwrap(), [101]);
}

#[tokio::test(start_paused = true)]
async fn timers_fire_by_the_monotonic_clock() {
    let mut machine = Machine::new(4);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    let fired = runtime.call(P0, Ask::Wait(Duration::from_secs(5))).await.unwrap();
    assert_eq!((fired[0] - START_MS) / 1000, 5);
}

#[tokio::test(start_paused = true)]
async fn who_resigned_answers_nobody() {
    let mut machine = Machine::new(5);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    assert_eq!(runtime.call(P0, Ask::Add(1)).await.unwrap(), [1]);
    let parked = runtime.call(P0, Ask::Wait(Duration::from_secs(3600)));
    tokio::task::yield_now().await;
    started.resign().await;
    runtime.apply(Some(&started.topic()));
    assert!(matches!(parked.await, Err(CoordinatorError::NotCoordinator)));
    let late = runtime.call(P0, Ask::Read).await;
    assert!(matches!(late, Err(CoordinatorError::NotCoordinator)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn the_log_below_a_snapshot_is_let_go() {
    let mut machine = Machine::new(6);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    for _ in 0..10 {
        runtime.call(P0, Ask::Add(1)).await.unwrap();
    }
    runtime.call(P0, Ask::Prune(4)).await.unwrap();
    let topic = started.topic();
    let mut progress = topic.partition(P0).unwrap().watch();
    let pruned = progress.wait_for(|p| p.log_start.offset() == Offset::new(4));
    tokio::time::timeout(Duration::from_secs(10), pruned).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_inbox_is_bounded() {
    let mut machine = Machine::new(7);
    let started = machine.start().await;
    let runtime = started.runtime(Sum::default);
    // Nothing runs in between: the futures are polled only after all were handed in.
    let calls: Vec<_> = (0..INBOX + 10).map(|_| runtime.call(P0, Ask::Add(1))).collect();
    let answers = join_all(calls).await;
    let refused = answers.iter().filter(|a| matches!(a, Err(CoordinatorError::Overloaded))).count();
    assert_eq!(refused, 10);
    assert_eq!(runtime.call(P0, Ask::Read).await.unwrap(), [INBOX as i64]);
}

#[test]
fn names_go_where_kafka_puts_them() {
    // Java's String.hashCode: "abc" is 96354, "polygenelubricants" the least number.
    assert_eq!(partition_for_name("abc", 50).get(), 96_354 % 50);
    assert_eq!(partition_for_name("polygenelubricants", 50).get(), 0);
    assert_eq!(partition_for_name("", 50).get(), 0);
}

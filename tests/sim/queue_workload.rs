//! Workers of a queue that go on over restarts: they acknowledge, give back, give up, take their time and forget.
//!
//! A worker does one thing at a time. A verdict that it got no answer to it says again, under the same lease, until it is
//! told something. What it holds and never speaks of again it has forgotten: nobody but the queue can bring that back.

use crate::checker::{Delivery, Event, Told, Verdict};
use crate::workload::History;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sluice::sys::sim::SimRng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Simulated time in which everything in a queue is worked through, once nothing more comes.
const REST_PATIENCE: Duration = Duration::from_secs(120);

/// A queue as its workers see it.
pub trait Queue: Send + Sync {
    /// Whether messages of a key go one after the other, and how often each is delivered.
    fn settings(&self) -> (bool, u16);
    /// Leases messages.
    fn receive(&self, max: usize, wait: Duration, lease_ms: u64) -> BoxFuture<'_, Result<Vec<Message>, String>>;
    /// Says what is to become of leases, by their tokens.
    fn settle(&self, verdicts: Vec<(String, Verdict)>) -> BoxFuture<'_, Result<Vec<Told>, String>>;
    /// Delivers every dead letter again.
    fn redrive(&self) -> BoxFuture<'_, Result<(), String>>;
    /// How many messages somebody has to do with, and how many were acknowledged.
    fn left(&self) -> BoxFuture<'_, Result<(u64, u64), String>>;
    /// Where the dead letters are.
    fn dead(&self) -> BoxFuture<'_, Result<Vec<(i32, i64)>, String>>;
}

/// A message with its lease.
pub struct Message {
    pub token: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    /// The name of its value.
    pub value: String,
    pub attempt: u16,
}

/// A worker's mind, which outlives machines.
pub struct Worker {
    rng: SimRng,
    number: u64,
    /// For calls and leases.
    next: u64,
    /// What it said and was not answered.
    unanswered: Vec<Said>,
}

/// A verdict on its way: the history's number of the lease, the token, the verdict.
type Said = (u64, String, Verdict);

impl Worker {
    pub const fn new(number: u64, rng: SimRng) -> Self {
        Self { rng, number, next: 0, unanswered: Vec::new() }
    }

    /// A number that no other worker takes.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.number << 32 | self.next
    }

    /// What it thinks of a message; `None`: it forgets it.
    fn verdict(&self, message: &Message) -> Option<Verdict> {
        if message.value.ends_with("3-0") {
            return Some(Verdict::Nack { delay_ms: self.rng.below(2) * self.rng.below(100) }); // nobody can do that one
        }
        match self.rng.below(40) {
            0..2 => None,
            2..4 => Some(Verdict::Nack { delay_ms: 0 }),
            4..6 => Some(Verdict::Nack { delay_ms: 1 + self.rng.below(900) }),
            6 => Some(Verdict::Reject),
            7..9 => Some(Verdict::Extend { lease_ms: 200 + self.rng.below(800) }),
            _ => Some(Verdict::Ack),
        }
    }
}

/// Works until its runtime is dropped.
pub async fn work(worker: Arc<Mutex<Worker>>, queue: Arc<dyn Queue>, history: Arc<History>) {
    loop {
        // What was said before comes first.
        let unanswered = worker.lock().unanswered.clone();
        if !unanswered.is_empty() {
            say(&worker, &*queue, &history, unanswered).await;
        }
        let (call, max, wait_ms, lease_ms) = {
            let mut worker = worker.lock();
            let rng = &worker.rng;
            let wanted = (1 + rng.below(6) as usize, rng.below(3) * 150, 200 + rng.below(800));
            (worker.number(), wanted.0, wanted.1, wanted.2)
        };
        history.add(Event::ReceiveBegan { call, lease_ms });
        let messages = match queue.receive(max, Duration::from_millis(wait_ms), lease_ms).await {
            Ok(messages) => messages,
            Err(why) => {
                history.add(Event::QueueFailed { call, why });
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (deliveries, verdicts, pause) = {
            let mut worker = worker.lock();
            let (mut deliveries, mut verdicts) = (Vec::new(), Vec::new());
            for message in messages {
                let lease = worker.number();
                verdicts.extend(worker.verdict(&message).map(|verdict| (lease, message.token.clone(), verdict)));
                let Message { partition, offset, key, value, attempt, .. } = message;
                deliveries.push(Delivery { lease, partition, offset, key, value, attempt });
            }
            // Now and then it takes too long.
            let pause = if worker.rng.one_in(25) { lease_ms + worker.rng.below(200) } else { worker.rng.below(25) };
            (deliveries, verdicts, pause)
        };
        history.add(Event::Received { call, messages: deliveries });
        tokio::time::sleep(Duration::from_millis(1 + pause)).await;
        if verdicts.is_empty() {
            continue;
        }
        let again = verdicts.clone();
        say(&worker, &*queue, &history, verdicts).await;
        let (twice, later) = {
            let worker = worker.lock();
            (worker.rng.one_in(8), worker.rng.below(300))
        };
        let extended: Vec<Said> =
            again.iter().filter(|(_, _, v)| matches!(v, Verdict::Extend { .. })).cloned().collect();
        if !extended.is_empty() {
            tokio::time::sleep(Duration::from_millis(later)).await;
            let acks = extended.into_iter().map(|(lease, token, _)| (lease, token, Verdict::Ack)).collect();
            say(&worker, &*queue, &history, acks).await;
        } else if twice {
            say(&worker, &*queue, &history, again).await;
        }
    }
}

/// Says verdicts, and remembers those that end a lease until they are answered.
async fn say(worker: &Mutex<Worker>, queue: &dyn Queue, history: &History, verdicts: Vec<Said>) {
    let call = {
        let mut worker = worker.lock();
        let lasting = verdicts.iter().filter(|(_, _, verdict)| !matches!(verdict, Verdict::Extend { .. }));
        worker.unanswered = lasting.cloned().collect();
        worker.number()
    };
    history.add(Event::SettleBegan { call, verdicts: verdicts.iter().map(|(lease, _, v)| (*lease, *v)).collect() });
    match queue.settle(verdicts.into_iter().map(|(_, token, verdict)| (token, verdict)).collect()).await {
        Ok(told) => {
            worker.lock().unanswered.clear();
            history.add(Event::SettleEnded { call, told });
        }
        Err(why) => {
            history.add(Event::QueueFailed { call, why });
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Somebody who now and then has the dead letters delivered again.
pub async fn redrive(rng: Arc<SimRng>, queue: Arc<dyn Queue>, stopping: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(Duration::from_millis(300 + rng.below(3_000))).await;
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let _ = queue.redrive().await; // what comes of it is seen by those who receive
    }
}

/// Waits until nothing is left to do, and puts what is left into the history, or that it does not come to that.
pub async fn at_rest(queue: &dyn Queue, history: &History) {
    let rest = async {
        loop {
            if let Ok((0, acked)) = queue.left().await
                && let Ok(dead) = queue.dead().await
            {
                return history.add(Event::QueueAtRest { dead, acked });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(REST_PATIENCE, rest).await.is_err() {
        history.add(Event::QueueNotAtRest);
    }
}

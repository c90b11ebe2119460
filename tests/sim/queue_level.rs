//! A queue on the whole broker over the twins: workers that acknowledge, give back, give up and forget, while the broker
//! crashes and its clock jumps.

use crate::broker_level::{LOAD, start_broker};
use crate::checker::{Promise, Told, Verdict};
use crate::queue_workload::{Message, Queue};
use crate::workload::{Load, Subject, name_of};
use crate::world::{Plan, run, run_seeds};
#[cfg(feature = "sabotage")]
use crate::{checker::Rule, world::first_seed_that_sees};
use futures_util::future::{BoxFuture, FutureExt as _};
use sluice::engine::{
    Backoff, Engine, EngineError, GivenUpFilter, QueueRefusal, QueueSettings, QueueStart, QueueToPut, ReceiveRequest,
    SettleOutcome, Settlement,
};
use sluice::sys::Sys;
use sluice::types::TopicName;
use std::sync::Arc;
use std::time::Duration;

const PLAN: Plan = Plan { load: Load::QUEUE, stretch: 3, clock_steps: true, ..Plan::new(Promise::Durable, 4) };
const NAME: &str = "work";
const MAX_DELIVERIES: u16 = 4;

#[test]
fn queue_without_order_loses_nothing_and_gives_nothing_twice() {
    run_seeds("queue_without_order", PLAN, &|sys, _| start(sys, false).boxed());
}

#[test]
fn queue_by_key_keeps_the_order_of_each_key() {
    run_seeds("queue_by_key", PLAN, &|sys, _| start(sys, true).boxed());
}

#[test]
fn queue_gives_one_trace_for_one_seed() {
    for seed in 0..2 {
        let once = || run(seed, PLAN, &|sys, _| start(sys, true).boxed());
        let (first, second) = (once(), once());
        let differs = first.iter().zip(&second).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// Each bug is seen, and by the rule that is there for it.
#[cfg(feature = "sabotage")]
#[test]
fn queue_bugs_that_are_put_back_are_caught() {
    use sluice::coordinator::sabotage;
    for (bug, rule) in [
        (&sabotage::REPLY_BEFORE_COMMIT, Rule::AcknowledgedAgain),
        (&sabotage::KEYS_DO_NOT_WAIT, Rule::KeyOrder),
        (&sabotage::LEASES_STAY, Rule::NotBack),
    ] {
        let found = first_seed_that_sees(bug, 20, PLAN, &|sys, _| start(sys, true).boxed());
        let (seed, anomalies) = found.unwrap_or_else(|| panic!("20 seeds show nothing of {rule:?}"));
        println!("{rule:?} seen at seed {seed}: {}", anomalies[0]);
        assert!(anomalies.iter().any(|anomaly| anomaly.rule == rule), "{rule:?}: {anomalies:?}");
    }
}

async fn start(sys: Sys, by_key: bool) -> Result<Arc<dyn Subject>, String> {
    let rng = sys.rng.clone();
    let mut broker = start_broker(sys, "commit").await?;
    let engine = broker.engine.clone();
    let queues = engine.queues().map_err(|error| error.to_string())?;
    match queues.describe_queue(NAME).await {
        Ok(_) => {}
        Err(EngineError::Queue(QueueRefusal::UnknownQueue(_))) => {
            let settings = QueueSettings {
                max_deliveries: MAX_DELIVERIES,
                order_by_key: by_key,
                backoff: [None, Some(Backoff { min_ms: 20, max_ms: 500, factor: 3.0 })][rng.next_u64() as usize % 2],
                // Narrow ones make records leave the window, as many that wait do in a wide one.
                window: [8, 60, 10_000][rng.next_u64() as usize % 3],
                ..QueueSettings::default()
            };
            let topic = TopicName::new(LOAD).expect("a good name");
            let queue = QueueToPut { topic, start: QueueStart::Earliest, lease_ms: 500, settings };
            queues.put_queue(NAME, queue).await.map_err(|error| error.to_string())?;
        }
        Err(error) => return Err(error.to_string()),
    }
    broker.queue = Some(Arc::new(BrokersQueue { engine, by_key }));
    Ok(Arc::new(broker))
}

/// A queue of a broker.
pub struct BrokersQueue {
    engine: Arc<dyn Engine>,
    by_key: bool,
}

impl Queue for BrokersQueue {
    fn settings(&self) -> (bool, u16) {
        (self.by_key, MAX_DELIVERIES)
    }

    fn receive(&self, max: usize, wait: Duration, lease_ms: u64) -> BoxFuture<'_, Result<Vec<Message>, String>> {
        let request = ReceiveRequest {
            queue: NAME.to_owned(),
            max,
            max_bytes: 64 << 10,
            wait,
            lease_ms: Some(lease_ms.cast_signed()),
            tag: None,
        };
        async move {
            let received = self.engine.queues().map_err(text)?.receive(request).await.map_err(text)?;
            let message = |message: sluice::engine::QueueMessage| {
                let utf8 = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).expect("all that was sent is text");
                Message {
                    token: message.lease,
                    partition: message.partition.get(),
                    offset: message.record.offset.get(),
                    key: message.record.key.map(utf8),
                    value: name_of(&utf8(message.record.value.expect("every value is one"))),
                    attempt: message.attempt,
                }
            };
            Ok(received.messages.into_iter().map(message).collect())
        }
        .boxed()
    }

    fn settle(&self, verdicts: Vec<(String, Verdict)>) -> BoxFuture<'_, Result<Vec<Told>, String>> {
        let settlement = |(token, verdict): (String, Verdict)| {
            let settlement = match verdict {
                Verdict::Ack => Settlement::Ack,
                Verdict::Nack { delay_ms } => {
                    Settlement::Nack { delay_ms: Some(delay_ms.cast_signed()), reason: String::new() }
                }
                Verdict::Reject => Settlement::Reject { reason: "no".to_owned() },
                Verdict::Extend { lease_ms } => Settlement::Extend { lease_ms: lease_ms.cast_signed() },
            };
            (token, settlement)
        };
        let settlements = verdicts.into_iter().map(settlement).collect();
        async move {
            let outcomes = self.engine.queues().map_err(text)?.settle(NAME, settlements).await.map_err(text)?;
            let told = |outcome| match outcome {
                SettleOutcome::Settled => Told::Settled,
                SettleOutcome::AlreadySettled => Told::AlreadySettled,
                SettleOutcome::Extended(_) => Told::Extended,
                SettleOutcome::Lost => Told::Lost,
            };
            Ok(outcomes.into_iter().map(told).collect())
        }
        .boxed()
    }

    fn redrive(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let queues = self.engine.queues().map_err(text)?;
            queues.end_given_up(NAME, GivenUpFilter::default(), true).await.map(drop).map_err(text)
        }
        .boxed()
    }

    fn left(&self) -> BoxFuture<'_, Result<(u64, u64), String>> {
        async move {
            let queue = self.engine.queues().map_err(text)?.describe_queue(NAME).await.map_err(text)?;
            let counts = queue.counts;
            Ok((counts.ready + counts.leased + counts.delayed + counts.blocked, queue.totals.acked))
        }
        .boxed()
    }

    fn dead(&self) -> BoxFuture<'_, Result<Vec<(i32, i64)>, String>> {
        async move {
            let dead = self.engine.queues().map_err(text)?.given_up(NAME, None, 100_000).await.map_err(text)?;
            Ok(dead.into_iter().map(|message| (message.partition.get(), message.offset)).collect())
        }
        .boxed()
    }
}

fn text(error: EngineError) -> String {
    error.to_string()
}

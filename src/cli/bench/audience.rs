//! Live subscribers, and a publisher: how many deliveries a second, and how long until the last has a message.

use super::{
    Bench, CliError, Round, histogram, http1::Connection, process::Process, produce, subscriber::Subscriber,
    subscriber::Transport,
};
use crate::sys::Sys;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// Single messages whose way to all is timed, in each round.
const SINGLES: u32 = 20;
/// Subscribers that connect at once.
const CONNECTING: usize = 64;
/// A delivery that takes longer is lost.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// Until what connecting left behind has settled, before the memory is looked at.
const SETTLING: Duration = Duration::from_millis(1500);
/// Requests whose messages may be under way. A publisher that runs far ahead would measure catching up, not the
/// live tail.
const AHEAD: u64 = 4;

/// Deliveries so far, and whom to tell when a number of them is reached.
struct Deliveries {
    count: AtomicU64,
    wanted: AtomicU64,
    reached: watch::Sender<u64>,
}

impl Deliveries {
    fn new() -> Self {
        Self { count: AtomicU64::new(0), wanted: AtomicU64::new(u64::MAX), reached: watch::Sender::new(0) }
    }

    fn add(&self, n: u64) {
        let count = self.count.fetch_add(n, Ordering::AcqRel) + n;
        if n > 0 && count >= self.wanted.load(Ordering::Acquire) {
            self.reached.send_replace(count);
        }
    }

    /// Waits until there were so many in all.
    async fn wait(&self, wanted: u64) -> Result<(), CliError> {
        let mut reached = self.reached.subscribe();
        self.wanted.store(wanted, Ordering::Release);
        if self.count.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let all = tokio::time::timeout(DELIVERY_TIMEOUT, reached.wait_for(|count| *count >= wanted)).await;
        all.map(drop).map_err(|_| {
            let count = self.count.load(Ordering::Acquire);
            CliError::failed(format!("only {count} of {wanted} deliveries came"))
        })
    }
}

/// Who listens to what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The topic.
    pub topic: String,
    /// Subscribers.
    pub size: u32,
    /// How they listen.
    pub transport: Transport,
    /// Whether each listens to a key of its own, or all to everything.
    pub keyed: bool,
    /// Records of a request while the rate is measured.
    pub batch: u32,
    /// Bytes of a value.
    pub value: usize,
}

impl Plan {
    fn path(&self, subscriber: u32) -> String {
        let key = if self.keyed { format!("&key=key-{subscriber}") } else { String::new() };
        format!("/v1/topics/{}/stream?from=latest{key}", self.topic)
    }

    /// Deliveries of a record.
    fn deliveries(&self) -> u64 {
        if self.keyed { 1 } else { u64::from(self.size) }
    }

    /// Requests of so many records; with keys that somebody listens to.
    fn requests(&self, host: &str, records: u32) -> Vec<Vec<u8>> {
        let value = String::from_utf8(produce::value(self.value)).expect("the value is ASCII");
        let keys = if self.keyed { self.size } else { records };
        // Steps that no power of two divides reach every key.
        let key = |first: u32, n: u32| format!("key-{}", (first + n).wrapping_mul(7919) % keys.max(1));
        let variants = if self.keyed { keys.div_ceil(records).min(64) } else { 1 };
        (0..variants).map(|v| produce::batch(host, &self.topic, records, &value, |n| key(v * records, n))).collect()
    }
}

/// Connected subscribers, and a publisher.
pub struct Audience {
    deliveries: Arc<Deliveries>,
    subscribers: JoinSet<io::Result<()>>,
    sys: Sys,
    /// Made anew for each round: a server closes one that is silent for long, as while others connect.
    publisher: Option<Connection>,
    one: Vec<Vec<u8>>,
    many: Vec<Vec<u8>>,
    sent: usize,
    plan: Plan,
    /// Memory that each subscriber costs the server while nothing happens, in bytes.
    pub idle_bytes: Option<u64>,
}

impl Audience {
    /// Connects them all.
    pub async fn gather(bench: &Bench, target: &Process, plan: Plan) -> Result<Self, CliError> {
        let failed = |e: io::Error| CliError::failed(format!("subscribing: {e}"));
        let deliveries = Arc::new(Deliveries::new());
        let before = target.resident_bytes();
        let mut subscribers = JoinSet::new();
        let turns = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
        let (connected, mut all_connected) = watch::channel(0);
        for number in 0..plan.size {
            let (sys, address, path) = (bench.sys.clone(), target.address.clone(), plan.path(number));
            let (deliveries, turns, connected) = (deliveries.clone(), turns.clone(), connected.clone());
            let transport = plan.transport;
            subscribers.spawn(async move {
                let turn = turns.acquire().await.map_err(io::Error::other)?;
                let mut subscriber = Subscriber::open(&sys, &address, &path, transport).await?;
                drop(turn);
                connected.send_modify(|n| *n += 1);
                drop(connected);
                while let Some(n) = subscriber.next(|_| ()).await? {
                    deliveries.add(n);
                }
                Ok(())
            });
        }
        tokio::select! {
            biased;
            Some(ended) = subscribers.join_next() => {
                return Err(failed(match ended {
                    Ok(Err(e)) => e,
                    _ => io::Error::other("a subscriber ended"),
                }));
            }
            all = tokio::time::timeout(DELIVERY_TIMEOUT, all_connected.wait_for(|n| *n == plan.size)) => {
                all.map(drop).map_err(|_| CliError::failed("not every subscriber could connect"))?;
            }
        }
        tokio::time::sleep(SETTLING).await;
        let after = target.resident_bytes();
        let idle_bytes = after.zip(before).map(|(after, before)| after.saturating_sub(before) / u64::from(plan.size));
        let (one, many) = (plan.requests(&target.address, 1), plan.requests(&target.address, plan.batch));
        let sys = bench.sys.clone();
        Ok(Self { deliveries, subscribers, sys, publisher: None, one, many, sent: 0, plan, idle_bytes })
    }

    /// Subscribers.
    pub const fn size(&self) -> u32 {
        self.plan.size
    }

    /// Deliveries so far.
    pub fn count(&self) -> u64 {
        self.deliveries.count.load(Ordering::Acquire)
    }

    /// Waits until there were so many in all.
    pub async fn wait(&self, wanted: u64) -> Result<(), CliError> {
        self.deliveries.wait(wanted).await
    }

    /// Publishes singly, and times the way to the last; then as fast as it goes for a while, and counts.
    pub async fn round(&mut self, target: &Process, duration: Duration) -> Result<Round, CliError> {
        let publisher = Connection::open(&self.sys, &target.address).await;
        self.publisher = Some(publisher.map_err(|e| CliError::failed(format!("publishing: {e}")))?);
        let each = self.plan.deliveries();
        let mut latency = histogram();
        for _ in 0..SINGLES {
            let started = Instant::now();
            let wanted = self.count() + each;
            self.publish(false).await?;
            self.deliveries.wait(wanted).await?;
            latency.saturating_record(started.elapsed().as_micros() as u64);
        }
        let before = self.count();
        let costs = target.costs();
        let started = Instant::now();
        let mut requests = 0;
        let per_request = u64::from(self.plan.batch) * each;
        while started.elapsed() < duration {
            self.publish(true).await?;
            requests += 1;
            self.deliveries.wait(before + u64::saturating_sub(requests, AHEAD) * per_request).await?;
        }
        self.deliveries.wait(before + requests * per_request).await?;
        let seconds = started.elapsed().as_secs_f64();
        if self.subscribers.len() != self.plan.size as usize {
            return Err(CliError::failed("a subscriber was cut off"));
        }
        Ok(Round { records: requests * per_request, seconds, latency, costs: target.costs().since(&costs) })
    }

    async fn publish(&mut self, many: bool) -> Result<(), CliError> {
        let requests = if many { &self.many } else { &self.one };
        self.sent += 1;
        let mut body = Vec::new();
        let publisher = self.publisher.as_mut().expect("a round opens it");
        match publisher.exchange(&requests[self.sent % requests.len()], &mut body).await {
            Ok(200..300) => Ok(()),
            Ok(status) => {
                Err(CliError::failed(format!("publishing: status {status}: {}", String::from_utf8_lossy(&body))))
            }
            Err(e) => Err(CliError::failed(format!("publishing: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(keyed: bool, size: u32) -> Plan {
        Plan { topic: "t".to_owned(), size, transport: Transport::Sse, keyed, batch: 20, value: 64 }
    }

    #[test]
    fn every_key_that_is_published_has_its_one_listener() {
        let keyed = plan(true, 30);
        for request in keyed.requests("h", 20) {
            let text = String::from_utf8(request).unwrap();
            let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
            for record in body["records"].as_array().unwrap() {
                let key: u32 = record["key"].as_str().unwrap().strip_prefix("key-").unwrap().parse().unwrap();
                assert!(key < 30);
            }
        }
        assert_eq!((keyed.deliveries(), plan(false, 30).deliveries()), (1, 30));
        assert!(keyed.path(7).ends_with("&key=key-7") && !plan(false, 30).path(7).contains("key"));
    }

    #[tokio::test]
    async fn deliveries_are_waited_for() {
        let deliveries = Arc::new(Deliveries::new());
        let waiting = deliveries.clone();
        let waiter = tokio::spawn(async move { waiting.wait(3).await });
        for _ in 0..3 {
            tokio::task::yield_now().await;
            deliveries.add(1);
        }
        waiter.await.unwrap().unwrap();
        deliveries.wait(2).await.unwrap();
    }
}

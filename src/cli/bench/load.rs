//! The load generator for requests: closed loop (the next request follows the answer to the last) or open (requests
//! are due at fixed times, whatever the server does).
//!
//! **Invariant**: in an open loop an answer's latency counts from the moment its request was *due*, and a request that
//! could not be sent until the end counts with the time it has waited: nothing slow is left out (no coordinated
//! omission).

use super::{Round, histogram, http1::Connection, pacer::Pacer, process::Process};
use crate::{cli::CliError, sys::Sys};
use hdrhistogram::Histogram;
use std::{collections::BTreeMap, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// How long requests that are late may still be sent after the end of an open loop.
const GRACE: Duration = Duration::from_secs(2);
/// What stands for a status where there was none.
const STATUS_OF_A_BROKEN_CONNECTION: u16 = 0;
/// A wait before another connection is tried.
const RECONNECT_AFTER: Duration = Duration::from_millis(20);

/// Requests, and how they are sent.
pub struct Load {
    /// Connections, each with one request in flight.
    pub connections: u32,
    /// Records that an accepted request stands for.
    pub per_request: u64,
    /// Requests a second; `None` for a closed loop.
    pub rate: Option<f64>,
    /// Whether refusals are counted, instead of ending the measurement.
    pub tolerant: bool,
}

/// The requests of each connection, which it sends in turns.
pub type Requests<'a> = dyn Fn(u32) -> Vec<Vec<u8>> + Send + Sync + 'a;

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Answers by status; 0 for a connection that broke.
    pub statuses: BTreeMap<u16, u64>,
    /// Microseconds until accepted requests were answered.
    pub accepted: Histogram<u64>,
    /// The same from when they were sent: what the server took, without what they waited for their turn on a connection.
    pub served: Histogram<u64>,
    /// Due, and never sent.
    pub unsent: u64,
    /// When the first was due.
    pub start: Instant,
    /// From the first to the last.
    pub seconds: f64,
}

impl Outcome {
    fn new() -> Self {
        let (accepted, served) = (histogram(), histogram());
        Self { statuses: BTreeMap::new(), accepted, served, unsent: 0, start: Instant::now(), seconds: 0.0 }
    }

    fn merge(&mut self, other: &Self) {
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        self.accepted.add(&other.accepted).expect("all histograms have one shape");
        self.served.add(&other.served).expect("all histograms have one shape");
        self.unsent += other.unsent;
    }

    /// Accepted requests.
    pub fn accepted_requests(&self) -> u64 {
        self.statuses.range(200..300).map(|(_, n)| n).sum()
    }

    /// All requests that were due.
    pub fn due(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.unsent
    }
}

/// When the `n`th request is due, if they come in even steps.
pub fn due(start: Instant, rate: f64, n: u64) -> Instant {
    start + Duration::from_secs_f64(n as f64 / rate)
}

/// One round as a figure takes it.
pub async fn round(
    sys: &Sys,
    target: &Process,
    load: &Load,
    requests: &Requests<'_>,
    duration: Duration,
) -> Result<Round, CliError> {
    let before = target.costs();
    let outcome = run(sys, &target.address, load, requests, duration).await?;
    let records = outcome.accepted_requests() * load.per_request;
    Ok(Round { records, seconds: outcome.seconds, latency: outcome.accepted, costs: target.costs().since(&before) })
}

/// Sends for a while, and counts what comes back.
///
/// # Errors
/// No connection; unless the load is tolerant, any refusal.
pub async fn run(
    sys: &Sys,
    address: &str,
    load: &Load,
    requests: &Requests<'_>,
    duration: Duration,
) -> Result<Outcome, CliError> {
    let failed = |e: std::io::Error| CliError::failed(format!("{address}: {e}"));
    let mut ready = Vec::with_capacity(load.connections as usize);
    for number in 0..load.connections {
        ready.push((number, Connection::open(sys, address).await.map_err(failed)?, requests(number)));
    }
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for (number, connection, requests) in ready {
        let worker = Worker {
            connection,
            number,
            sys: sys.clone(),
            address: address.to_owned(),
            tolerant: load.tolerant,
            outcome: Outcome::new(),
        };
        let (connections, rate) = (load.connections, load.rate);
        workers.spawn(async move {
            match rate {
                Some(rate) => worker.open_loop(&requests, start, duration, rate, connections).await,
                None => worker.closed_loop(&requests, start, duration).await,
            }
        });
    }
    let mut all = Outcome { start, ..Outcome::new() };
    while let Some(worker) = workers.join_next().await {
        let one = worker.map_err(|e| e.to_string()).flatten().map_err(CliError::failed)?;
        all.merge(&one);
    }
    all.seconds = start.elapsed().as_secs_f64();
    Ok(all)
}

struct Worker {
    connection: Connection,
    number: u32,
    sys: Sys,
    address: String,
    tolerant: bool,
    outcome: Outcome,
}

impl Worker {
    async fn closed_loop(
        mut self,
        requests: &[Vec<u8>],
        start: Instant,
        duration: Duration,
    ) -> Result<Outcome, String> {
        let mut body = Vec::new();
        for request in requests.iter().cycle() {
            let sent = Instant::now();
            if sent - start >= duration {
                break;
            }
            self.send(request, sent, &mut body).await?;
        }
        Ok(self.outcome)
    }

    async fn open_loop(
        mut self,
        requests: &[Vec<u8>],
        start: Instant,
        duration: Duration,
        rate: f64,
        connections: u32,
    ) -> Result<Outcome, String> {
        let pacer = Pacer::new().map_err(|e| e.to_string())?;
        let end = start + duration;
        let give_up = end + GRACE;
        let mut body = Vec::new();
        for (k, request) in (0_u64..).zip(requests.iter().cycle()) {
            let due_at = due(start, rate, k * u64::from(connections) + u64::from(self.number));
            if due_at >= end {
                break;
            }
            if Instant::now() >= give_up {
                self.outcome.unsent += 1;
                self.outcome.accepted.saturating_record(due_at.elapsed().as_micros() as u64);
                continue;
            }
            pacer.until(due_at).await.map_err(|e| e.to_string())?;
            self.send(request, due_at, &mut body).await?;
        }
        Ok(self.outcome)
    }

    async fn send(&mut self, request: &[u8], since: Instant, body: &mut Vec<u8>) -> Result<(), String> {
        if self.connection.is_closing()
            && let Ok(new) = Connection::open(&self.sys, &self.address).await
        {
            self.connection = new;
        }
        let sent = Instant::now();
        let status = match self.connection.exchange(request, body).await {
            Ok(status) => status,
            Err(e) if !self.tolerant => return Err(e.to_string()),
            Err(_) => {
                tokio::time::sleep(RECONNECT_AFTER).await;
                if let Ok(new) = Connection::open(&self.sys, &self.address).await {
                    self.connection = new;
                }
                STATUS_OF_A_BROKEN_CONNECTION
            }
        };
        *self.outcome.statuses.entry(status).or_default() += 1;
        match status {
            200..300 => {
                self.outcome.accepted.saturating_record(since.elapsed().as_micros() as u64);
                self.outcome.served.saturating_record(sent.elapsed().as_micros() as u64);
            }
            _ if !self.tolerant => return Err(format!("status {status}: {}", String::from_utf8_lossy(body))),
            _ => (),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_loop_is_due_in_even_steps() {
        let start = Instant::now();
        let times: Vec<u128> = (0..4).map(|n| (due(start, 1000.0, n) - start).as_micros()).collect();
        assert_eq!(times, [0, 1000, 2000, 3000]);
    }

    #[test]
    fn outcomes_add_up() {
        let mut all = Outcome::new();
        for micros in [100, 300] {
            let mut one = Outcome::new();
            one.accepted.record(micros).unwrap();
            one.statuses = BTreeMap::from([(201, 1), (429, 2), (0, 1)]);
            one.unsent = 1;
            all.merge(&one);
        }
        assert_eq!((all.accepted_requests(), all.due(), all.unsent), (2, 10, 2));
        assert_eq!((all.accepted.len(), all.accepted.max()), (2, 300));
        assert_eq!(all.statuses[&429], 4);
    }
}

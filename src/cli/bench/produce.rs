//! Producing: single events, batches, and streams of lines.

use super::{
    Bench, CliError, Round,
    figure::{Figure, Measure},
    http1::request,
    load::{self, Load},
    process::Process,
    subscriber::NUMBER_FIELD,
};
use std::{fmt::Write as _, time::Duration};

/// Different keys, so that they spread over the partitions.
const KEYS: u32 = 10_000;
/// Bytes that the prepared requests of all connections may take, about.
const PREPARED_BYTES: usize = 256 << 20;
/// Partitions of a topic where nothing else is said: the server's own default.
pub const PARTITIONS: u32 = 3;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One event.
    Single,
    /// Many records.
    Batch,
    /// A stream of lines.
    Ingest,
}

/// A way of producing.
#[derive(Debug, Clone)]
pub struct Producing {
    /// What a request is.
    pub kind: Kind,
    /// Connections.
    pub connections: u32,
    /// Records in a request.
    pub batch: u32,
    /// Bytes of a value.
    pub size: usize,
    /// The topic's flush.
    pub flush: String,
    /// Its partitions.
    pub partitions: u32,
    /// Requests a second; closed loop if none.
    pub rate: Option<f64>,
}

impl Producing {
    /// As the command line says, with this workload's defaults.
    pub fn new(bench: &Bench, kind: Kind, connections: u32) -> Self {
        let args = &bench.args;
        let batch = match kind {
            Kind::Single => 1,
            Kind::Batch => args.batch.unwrap_or(100),
            Kind::Ingest => args.batch.unwrap_or(5000),
        };
        Self {
            kind,
            connections: args.connections.unwrap_or(connections),
            batch,
            size: args.size,
            flush: args.flush.clone(),
            partitions: args.partitions.unwrap_or(PARTITIONS),
            rate: args.rate,
        }
    }

    /// The load that it is.
    pub fn load(&self) -> Load {
        Load { connections: self.connections, per_request: u64::from(self.batch), rate: self.rate, tolerant: false }
    }

    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Single => "produce-single".to_owned(),
            Kind::Batch => format!("produce-batch/{}", self.batch),
            Kind::Ingest => format!("ingest/{}", self.batch),
        };
        let rate = self.rate.map(|rate| format!("/rate={rate}")).unwrap_or_default();
        format!("{kind}/{}/c={}{rate}", self.flush, self.connections)
    }

    /// A figure for it: what a lone connection or a fixed rate is measured for is its latency.
    pub fn figure(&self) -> Figure {
        let figure = match (self.connections, self.rate) {
            (_, Some(_)) => Figure::new(self.name(), "ms (p99)", Measure::LatencyMs(0.99)),
            (1, None) => Figure::new(self.name(), "ms (p50)", Measure::LatencyMs(0.5)),
            _ => Figure::new(self.name(), "records/s", Measure::Rate),
        };
        figure.with_latency_of(if self.rate.is_some() { "answer, from when it was due" } else { "answer" })
    }

    /// The requests of a connection.
    pub fn requests(&self, host: &str, topic: &str, connection: u32) -> Vec<Vec<u8>> {
        let each = (self.size + 100) * self.batch as usize;
        let variants = (PREPARED_BYTES / each / self.connections as usize).clamp(2, 64) as u32;
        let value = String::from_utf8(value(self.size)).expect("the value is ASCII");
        (0..variants)
            .map(|variant| {
                let first = (connection * 64 + variant).wrapping_mul(7919);
                let key = |n: u32| format!("key-{}", first.wrapping_add(n) % KEYS);
                match self.kind {
                    Kind::Single => {
                        let path = format!("/v1/topics/{topic}/events?key={}", key(0));
                        request(host, "POST", &path, "content-type: application/json\r\n", value.as_bytes())
                    }
                    Kind::Batch => batch(host, topic, self.batch, &value, key),
                    Kind::Ingest => {
                        let mut body = String::with_capacity(each);
                        for n in 0..self.batch {
                            writeln!(body, "{{\"key\":\"{}\",\"value\":{value}}}", key(n)).expect("strings take it");
                        }
                        let path = format!("/v1/topics/{topic}/ingest");
                        request(host, "POST", &path, "content-type: application/x-ndjson\r\n", body.as_bytes())
                    }
                }
            })
            .collect()
    }

    /// One round against a server or the bare handler.
    pub async fn round(
        &self,
        bench: &Bench,
        target: &Process,
        topic: &str,
        duration: Duration,
    ) -> Result<Round, CliError> {
        let requests = |connection| self.requests(&target.address, topic, connection);
        load::round(&bench.sys, target, &self.load(), &requests, duration).await
    }

    /// All rounds, on a topic of its own.
    pub async fn measure(&self, bench: &Bench, server: &Process, bare: &Process) -> Result<Figure, CliError> {
        let topic = bench.topic(server, self.partitions, &self.flush).await?;
        let mut figures = [self.figure()];
        bench
            .alternate(
                &mut figures,
                async |duration| self.round(bench, bare, &topic.name, duration).await,
                async |duration| self.round(bench, server, &topic.name, duration).await,
            )
            .await?;
        let [mut figure] = figures;
        figure.more.extend(server.resident_bytes().map(|bytes| ("memory_bytes".to_owned(), bytes as f64)));
        bench.delete(server, topic).await?;
        Ok(figure)
    }
}

/// Single events: a lone connection, and many.
pub async fn singles(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let many = if bench.args.flush == "commit" { 512 } else { 64 };
    let connections = bench.args.connections.map_or_else(|| vec![1, many], |c| vec![c]);
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    let mut figures = Vec::new();
    for connections in connections {
        let producing = Producing { connections, ..Producing::new(bench, Kind::Single, connections) };
        figures.push(producing.measure(bench, &server, &bare).await?);
    }
    Ok(figures)
}

/// Batches.
pub async fn batches(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let connections = if bench.args.flush == "commit" { 32 } else { 8 };
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    Ok(vec![Producing::new(bench, Kind::Batch, connections).measure(bench, &server, &bare).await?])
}

/// Streams of lines.
pub async fn ingest(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    Ok(vec![Producing::new(bench, Kind::Ingest, 4).measure(bench, &server, &bare).await?])
}

/// A request of many records.
pub fn batch(host: &str, topic: &str, records: u32, value: &str, key: impl Fn(u32) -> String) -> Vec<u8> {
    let mut body = String::with_capacity(records as usize * (value.len() + 40));
    body.push_str("{\"records\":[");
    for n in 0..records {
        let comma = if n > 0 { "," } else { "" };
        write!(body, "{comma}{{\"key\":\"{}\",\"value\":{value}}}", key(n)).expect("strings take it");
    }
    body.push_str("]}");
    request(host, "POST", &format!("/v1/topics/{topic}/records"), "content-type: application/json\r\n", body.as_bytes())
}

/// JSON of this many bytes, or a few more.
pub fn value(size: usize) -> Vec<u8> {
    padded(r#"{"type":"goal","minute":57,"score":[2,1],"note":""#, size)
}

/// The same, with a number in it.
pub fn numbered(n: u64, size: usize) -> Vec<u8> {
    padded(&format!(r#"{{{NUMBER_FIELD}{n},"type":"goal","note":""#), size)
}

fn padded(start: &str, size: usize) -> Vec<u8> {
    let mut text = start.to_owned();
    text.extend((start.len() + 2..size).map(|i| char::from(b'a' + (i * 7 % 26) as u8)));
    text.push_str("\"}");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producing(kind: Kind, connections: u32, rate: Option<f64>) -> Producing {
        Producing { kind, connections, batch: 3, size: 80, flush: "os".to_owned(), partitions: 1, rate }
    }

    #[test]
    fn values_are_json_of_the_size_asked_for() {
        for size in [0, 100, 1024] {
            for value in [value(size), numbered(12, size)] {
                assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
                assert!(value.len() >= size && value.len() <= size.max(60), "{} for {size}", value.len());
            }
        }
    }

    #[test]
    fn requests_hold_the_records_that_they_count_for() {
        let body = |kind| {
            let requests = producing(kind, 2, None).requests("localhost", "t", 1);
            assert!(requests.len() > 1 && requests[0] != requests[1], "keys differ");
            String::from_utf8(requests[0].clone()).unwrap().split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        let parsed: serde_json::Value = serde_json::from_str(&body(Kind::Batch)).unwrap();
        assert_eq!(parsed["records"].as_array().unwrap().len(), 3);
        let lines = body(Kind::Ingest);
        assert_eq!(lines.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()).count(), 3);
        assert!(serde_json::from_str::<serde_json::Value>(&body(Kind::Single)).is_ok());
    }

    #[test]
    fn a_lone_connection_and_a_fixed_rate_are_measured_by_their_latency() {
        let unit = |connections, rate| producing(Kind::Single, connections, rate).figure().unit;
        assert_eq!([unit(1, None), unit(64, None), unit(64, Some(1e4))], ["ms (p50)", "records/s", "ms (p99)"]);
        assert_eq!(producing(Kind::Batch, 8, Some(100.0)).figure().name, "produce-batch/3/os/c=8/rate=100");
    }
}

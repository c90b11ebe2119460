//! Producing, as a closed loop: each connection sends its next request when it has the answer to the last.

use super::{
    Bench, Round,
    http1::{Connection, request},
    process::Process,
};
use crate::cli::CliError;
use std::{fmt::Write as _, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// Different requests of a connection, so that keys spread over the partitions.
const VARIANTS: u32 = 64;

/// One round against a server or the bare handler; each answer counts for `per_request` records.
pub async fn round(bench: &Bench, target: &Process, topic: &str, duration: Duration) -> Result<Round, CliError> {
    let args = &bench.args;
    let per_request = if bench.is_batch() { u64::from(args.batch) } else { 1 };
    let cpu = target.cpu_seconds();
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..args.concurrency {
        let requests = requests(bench, &target.address, topic, worker);
        let (sys, address) = (bench.sys.clone(), target.address.clone());
        workers.spawn(async move {
            let mut connection = Connection::open(&sys, &address).await.map_err(|e| e.to_string())?;
            let mut latency = super::histogram();
            let mut body = Vec::new();
            for request in requests.iter().cycle() {
                let sent = Instant::now();
                if sent - started >= duration {
                    break;
                }
                let status = connection.exchange(request, &mut body).await.map_err(|e| e.to_string())?;
                if !(200..300).contains(&status) {
                    return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)));
                }
                latency.saturating_record(sent.elapsed().as_micros() as u64);
            }
            Ok::<_, String>(latency)
        });
    }
    let mut latency = super::histogram();
    while let Some(worker) = workers.join_next().await {
        let of_one =
            worker.map_err(|e| e.to_string()).flatten().map_err(|e| CliError::failed(format!("produce: {e}")))?;
        latency.add(&of_one).expect("all histograms have one shape");
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = target.cpu_seconds().zip(cpu).map(|(after, before)| after - before);
    Ok(Round { records: latency.len() * per_request, seconds, latency, cpu_seconds })
}

fn requests(bench: &Bench, host: &str, topic: &str, worker: u32) -> Vec<Vec<u8>> {
    let variants = if bench.is_batch() { VARIANTS / 8 } else { VARIANTS };
    (0..variants)
        .map(|variant| {
            let key =
                |n: u32| format!("key-{}", (worker * VARIANTS + variant).wrapping_mul(7919).wrapping_add(n) % 10_000);
            if !bench.is_batch() {
                let path = format!("/v1/topics/{topic}/events?key={}", key(0));
                return request(host, "POST", &path, "content-type: application/json\r\n", &value(bench.args.size));
            }
            batch(host, topic, bench.args.batch, bench.args.size, key)
        })
        .collect()
}

/// A request of many records.
pub fn batch(host: &str, topic: &str, records: u32, size: usize, key: impl Fn(u32) -> String) -> Vec<u8> {
    let value = String::from_utf8(value(size)).expect("the value is ASCII");
    let mut body = String::from("{\"records\":[");
    for n in 0..records {
        let comma = if n > 0 { "," } else { "" };
        write!(body, "{comma}{{\"key\":\"{}\",\"value\":{value}}}", key(n)).expect("writing to a string does not fail");
    }
    body.push_str("]}");
    request(host, "POST", &format!("/v1/topics/{topic}/records"), "content-type: application/json\r\n", body.as_bytes())
}

/// JSON of this many bytes, or a few more.
fn value(size: usize) -> Vec<u8> {
    const FRAME: &str = r#"{"type":"goal","minute":57,"score":[2,1],"note":""}"#;
    let mut text = FRAME[..FRAME.len() - 2].to_owned();
    text.extend((FRAME.len()..size).map(|i| char::from(b'a' + (i * 7 % 26) as u8)));
    text.push_str("\"}");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_of_the_size_asked_for() {
        for size in [0, 100, 1024] {
            let value = value(size);
            assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
            assert!(value.len() >= size && value.len() <= size.max(60), "{} for {size}", value.len());
        }
        let request = String::from_utf8(batch("localhost", "t", 3, 80, |n| format!("k{n}"))).unwrap();
        let body = request.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["records"].as_array().unwrap().len(), 3);
    }
}

//! How many instructions the hot paths take, which valgrind's callgrind counts: the same number each time, on a quiet
//! machine or a busy one. So a path that became longer is seen where a clock would show nothing but noise.
//!
//! ```sh
//! cargo bench --bench instructions              # counts, and fails where a path takes over 5 % more than is written down
//! cargo bench --bench instructions -- --write   # writes the counts down, in benches/instructions.json
//! ```
//! It runs itself under valgrind, once for each path; only what lies within [`counted_section`] counts: the whole
//! server between a request's bytes and its answer's, all on one thread (see `broker`), with randomness and clock held
//! still (`fixed_world.c`). The kernel's part is not in it; that of the disk in memory is.

mod broker;

use broker::{Broker, Work, batch, request, runtime, value};
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tokio::runtime::Runtime;

/// A rise above this part fails.
const TOLERANCE: f64 = 0.05;
const SIZE: usize = 1024;
const SUBSCRIBERS: usize = 16;

/// A hot path.
struct Scenario {
    name: &'static str,
    /// What the count is divided by for people.
    unit: &'static str,
    units: u64,
    prepare: fn(&Runtime) -> [Work; 2],
}

/// Each prepares the same work twice: the first goes ahead uncounted, so that what is done once is done.
const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "produce-single", unit: "record", units: 50, prepare: |runtime| produce_single(runtime, 1) },
    Scenario { name: "produce-single-32", unit: "record", units: 160, prepare: |runtime| produce_single(runtime, 32) },
    Scenario { name: "produce-batch-100", unit: "record", units: 500, prepare: produce_batch },
    Scenario { name: "live-sse-16", unit: "delivery", units: 1600, prepare: |runtime| live(runtime, false, None) },
    Scenario { name: "live-websocket-16", unit: "delivery", units: 1600, prepare: |runtime| live(runtime, true, None) },
    // A record must cost what its own readers cost: these two differ by what looking a key up costs, and no more.
    Scenario { name: "live-keyed-16", unit: "record", units: 100, prepare: |runtime| live(runtime, false, Some(16)) },
    Scenario { name: "live-keyed-256", unit: "record", units: 100, prepare: |runtime| live(runtime, false, Some(256)) },
    Scenario { name: "replay-sse", unit: "record", units: 500, prepare: |runtime| replay(runtime, false) },
    Scenario { name: "replay-pages", unit: "record", units: 500, prepare: |runtime| replay(runtime, true) },
];

fn produce_single(runtime: &Runtime, connections: usize) -> [Work; 2] {
    // The log writes zeros ahead once it was busy for a while; that belongs to what is done once.
    let (ahead, each) = if connections == 1 { (200, 50) } else { (5, 5) };
    let work = |clients: Vec<broker::Client>, each: usize| -> Work {
        Box::pin(async move {
            let one = |(number, mut client): (usize, broker::Client)| async move {
                let path = format!("/v1/topics/bench/events?key=key-{number}");
                let event = request("POST", &path, value(SIZE).as_bytes());
                for _ in 0..each {
                    assert_eq!(client.exchange(&event).await, 201);
                }
            };
            futures_util::future::join_all(clients.into_iter().enumerate().map(one)).await;
        })
    };
    runtime.block_on(async {
        let broker = Box::leak(Box::new(Broker::start(3).await));
        let mut both = Vec::new();
        for each in [ahead, each] {
            let mut clients = Vec::new();
            for _ in 0..connections {
                clients.push(broker.connect().await);
            }
            both.push(work(clients, each));
        }
        both.try_into().ok().expect("there are two")
    })
}

fn produce_batch(runtime: &Runtime) -> [Work; 2] {
    runtime.block_on(async {
        let broker = Box::leak(Box::new(Broker::start(3).await));
        let request = request("POST", "/v1/topics/bench/records", &batch(100, SIZE, 0));
        let work = |mut client: broker::Client, request: Vec<u8>| -> Work {
            Box::pin(async move {
                for _ in 0..5 {
                    assert_eq!(client.exchange(&request).await, 200);
                }
            })
        };
        [work(broker.connect().await, request.clone()), work(broker.connect().await, request)]
    })
}

/// A producer's ten batches of ten, and each record's way to its subscribers: to all of them, or to the one that
/// listens to its key.
fn live(runtime: &Runtime, websocket: bool, keyed: Option<usize>) -> [Work; 2] {
    const BATCHES: usize = 10;
    const RECORDS: usize = 10;
    let record: &'static [u8] = if websocket { br#"{"type":"record""# } else { br#"data: {"topic""# };
    runtime.block_on(async {
        let broker: &'static Broker = Box::leak(Box::new(Broker::start(3).await));
        let work = || -> Work {
            Box::pin(async move {
                for first in 0..BATCHES {
                    let request = request("POST", "/v1/topics/bench/records", &batch(RECORDS, SIZE, first % 5 * 2));
                    let status = broker.connect().await.exchange(&request).await;
                    assert_eq!(status, 200);
                }
            })
        };
        let mut both = Vec::new();
        let mut clients = Vec::new();
        for number in 0..keyed.unwrap_or(SUBSCRIBERS) {
            let key = if keyed.is_some() { format!("&key=key-{number}") } else { String::new() };
            clients.push(broker.subscribe(&format!("from=latest{key}"), websocket).await);
        }
        let clients = std::sync::Arc::new(tokio::sync::Mutex::new(clients));
        for _ in 0..2 {
            let (producing, clients) = (work(), clients.clone());
            both.push(Box::pin(async move {
                let mut clients = clients.lock().await;
                // Key n is in the batches that begin at 0, 2, 4, 6 or 8, of which there are two each.
                let expected = |number: usize| match keyed {
                    Some(_) => 2 * (0..5).filter(|first| (first * 2..first * 2 + RECORDS).contains(&number)).count(),
                    None => BATCHES * RECORDS,
                };
                let reading = clients.iter_mut().enumerate().map(|(number, client)| async move {
                    match expected(number) {
                        0 => (),
                        some => client.until(record, some).await,
                    }
                });
                tokio::join!(producing, futures_util::future::join_all(reading));
            }) as Work);
        }
        both.try_into().ok().expect("there are two")
    })
}

fn replay(runtime: &Runtime, pages: bool) -> [Work; 2] {
    runtime.block_on(async {
        let broker: &'static Broker = Box::leak(Box::new(Broker::start(3).await));
        let mut producer = broker.connect().await;
        for first in 0..5 {
            let request = request("POST", "/v1/topics/bench/records", &batch(100, SIZE, first * 100));
            assert_eq!(producer.exchange(&request).await, 200);
        }
        let work = || -> Work {
            Box::pin(async move {
                match pages {
                    false => {
                        let mut client = broker.subscribe("from=earliest", false).await;
                        client.until(br#"data: {"topic""#, 500).await;
                    }
                    true => {
                        let mut client = broker.connect().await;
                        for partition in 0..3 {
                            let path = format!("/v1/topics/bench/records?partition={partition}&limit=500");
                            assert_eq!(client.exchange(&request("GET", &path, b"")).await, 200);
                        }
                    }
                }
            })
        };
        [work(), work()]
    })
}

/// Only here callgrind counts; it knows the section by this name.
#[inline(never)]
fn counted_section(runtime: &Runtime, work: Work) {
    runtime.block_on(work);
    black_box(());
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = arguments.iter().find_map(|a| a.strip_prefix("--scenario=")) {
        let scenario = SCENARIOS.iter().find(|s| s.name == name).expect("a scenario by that name");
        let runtime = runtime();
        let [first, second] = (scenario.prepare)(&runtime);
        runtime.block_on(first);
        counted_section(&runtime, second);
        return ExitCode::SUCCESS;
    }
    if let Err(e) = build_fixed_world() {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    let write = arguments.iter().any(|a| a == "--write");
    let wanted =
        |s: &&Scenario| arguments.iter().all(|a| a.starts_with("--")) || arguments.iter().any(|a| s.name.contains(a));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".to_owned());
    let mut written: Map<String, Value> = serde_json::from_str(&text).expect("benches/instructions.json is JSON");
    let mut failed = false;
    for scenario in SCENARIOS.iter().filter(wanted) {
        let count = match count(scenario.name) {
            Ok(count) => count,
            Err(e) => {
                eprintln!("{}: {e}", scenario.name);
                return ExitCode::FAILURE;
            }
        };
        let before = written.get(scenario.name).and_then(|n| n["instructions"].as_u64());
        let change = before.map(|before| count as f64 / before as f64 - 1.0);
        let verdict = match change {
            None => "not written down yet".to_owned(),
            Some(change) if change > TOLERANCE => "MORE".to_owned(),
            Some(change) if change < -TOLERANCE => "less: write it down".to_owned(),
            Some(_) => String::new(),
        };
        failed |= !write && change.is_none_or(|change| change > TOLERANCE);
        let each = count / scenario.units;
        let change = change.map_or_else(String::new, |change| format!("{:+.2} %", change * 100.0));
        println!("{:<20} {count:>12}  {each:>8} a {:<10} {change:>9}  {verdict}", scenario.name, scenario.unit);
        let line = json!({"instructions": count, "units": scenario.units, "unit": scenario.unit});
        written.insert(scenario.name.to_owned(), line);
    }
    if write {
        written.insert("compiler".to_owned(), compiler().into());
        let mut text = serde_json::to_string_pretty(&written).expect("JSON is text");
        text.push('\n');
        std::fs::write(&file, text).expect("benches/instructions.json can be written");
    } else if failed {
        let before = written.get("compiler").and_then(Value::as_str).unwrap_or("none");
        eprintln!(
            "A path takes over {} % more instructions than benches/instructions.json says (compiler then: {before}, now: \
             {}). Make it shorter, or say in the commit why it is longer, and write it down:\n  \
             cargo bench --bench instructions -- --write",
            TOLERANCE * 100.0,
            compiler()
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn compiler() -> String {
    let version = Command::new("rustc").arg("--version").output().map(|o| o.stdout).unwrap_or_default();
    String::from_utf8_lossy(&version).trim().to_owned()
}

/// Where the library of `fixed_world.c` is built.
fn fixed_world() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixed_world.so")
}

/// Builds it with the compiler that links Rust programs.
fn build_fixed_world() -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/fixed_world.c");
    let mut command = Command::new("cc");
    let status = command.args(["-shared", "-fPIC", "-O2", "-o"]).arg(fixed_world()).arg(source).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cc cannot build benches/fixed_world.c: {status}")),
        Err(e) => Err(format!("cc cannot be started: {e}")),
    }
}

/// Runs a scenario under callgrind.
fn count(scenario: &str) -> Result<u64, String> {
    let program: PathBuf = std::env::current_exe().map_err(|e| e.to_string())?;
    let kept = std::env::var("SLUICE_CALLGRIND_OUT").unwrap_or_else(|_| "/dev/null".to_owned());
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_section*"])
        .arg(format!("--callgrind-out-file={kept}"))
        .arg(program)
        .arg(format!("--scenario={scenario}"))
        .env_clear()
        .env("LD_PRELOAD", fixed_world())
        .output()
        .map_err(|e| format!("valgrind cannot be started ({e}); install it: apt-get install valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("it failed under valgrind:\n{text}"));
    }
    let found = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    found.filter(|n| *n > 0).ok_or_else(|| format!("callgrind counted nothing:\n{text}"))
}

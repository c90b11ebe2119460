//! Each workload of the bench, as small as it gets: it ends well, says what it should, and leaves nothing behind. What
//! the figures are is no test's business.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the bench on a folder of its own.
fn bench(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("bench").args(arguments).args(["--dir", &folder.to_string_lossy()]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command.output().expect("the program was built")
}

/// The figures of a short run.
fn figures(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let short = ["--seconds", "0.05", "--warm-up", "0.01", "--rounds", "2", "--size", "100", "-o", "json"];
    let output = bench(folder.path(), &[arguments, &short].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is ours").count(), 0, "{arguments:?} cleans up");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// Runs a workload, and checks which figures it gives, and that each has a value for every round.
fn check(arguments: &[&str], expected: &[&str]) {
    let figures = figures(arguments);
    let names: BTreeSet<&str> = figures.iter().filter_map(|line| line["figure"].as_str()).collect();
    assert_eq!(names, expected.iter().copied().collect(), "{arguments:?}");
    for line in &figures {
        assert!(!line["rounds"].as_array().expect("rounds").is_empty(), "{line}");
        assert!(line["value"].is_number() && line["machine"]["disk_sync_us"]["p50"].is_number(), "{line}");
        if line["unit"] == "records/s" {
            assert!(line["value"].as_f64() > Some(0.0) && line["limit"]["value"].as_f64() > Some(0.0), "{line}");
        }
    }
}

#[test]
fn produce_single() {
    check(&["produce-single", "-c", "2"], &["produce-single/commit/c=2"]);
    check(&["produce-single", "-c", "2", "--rate", "200", "--flush", "os"], &["produce-single/os/c=2/rate=200"]);
}

#[test]
fn produce_batch_and_ingest() {
    check(&["produce-batch", "-c", "2", "--batch", "10"], &["produce-batch/10/commit/c=2"]);
    check(&["ingest", "-c", "2", "--batch", "10"], &["ingest/10/commit/c=2"]);
}

#[test]
fn queue() {
    let of = |order: &str| format!("queue/10/order={order}/w=2");
    check(&["queue", "-c", "2", "--batch", "10"], &[&of("none"), &of("key"), "queue-latency/commit/w=2"]);
}

#[test]
fn group() {
    let of = |figure: &str| format!("group/{figure}/members=3");
    check(&["group", "-c", "3"], &[&of("rebalance-at-once"), &of("rebalance"), &of("commit")]);
}

#[test]
fn replay() {
    check(&["replay", "--records", "1000"], &["replay/sse", "replay/websocket", "replay/pages"]);
}

#[test]
fn tail_latency() {
    let expected = ["tail-latency/sse/commit/rate=500", "tail-latency/websocket/commit/rate=500"];
    check(&["tail-latency", "--rate", "500", "-c", "4"], &expected);
}

#[test]
fn fanout() {
    let of =
        |transport: &str| ["fanout", "fanout-all", "fanout-idle"].map(|figure| format!("{figure}/{transport}/n=5/p=2"));
    let expected: Vec<String> = ["sse", "websocket"].iter().flat_map(|transport| of(transport)).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&["fanout", "--subscribers", "5", "--partitions", "2"], &expected);
}

#[test]
fn fanout_keyed() {
    let expected = ["fanout-keyed/sse/n=20", "fanout-keyed/websocket/n=20"];
    check(&["fanout-keyed", "--subscribers", "20"], &expected);
}

#[test]
fn mixed_and_soak() {
    let few = ["--rate", "100", "-c", "2", "--subscribers", "3", "--records", "500"];
    let expected = ["mixed/produce/rate=100", "mixed/live/n=3", "mixed/replay"];
    check(&[&["mixed"][..], &few].concat(), &expected);
    check(&[&["soak"][..], &few].concat(), &["soak/produce", "soak/memory", "soak/descriptors"]);
}

#[test]
fn restart() {
    let expected = ["start/empty", "memory/idle", "restart/0.002GiB", "memory/loaded-0.002GiB"];
    check(&["restart", "--gib", "0.002"], &expected);
}

#[test]
fn overload() {
    let figures = figures(&["overload", "-c", "20", "--batch", "5"]);
    let share: f64 = figures
        .iter()
        .filter(|line| line["figure"].as_str().is_some_and(|name| name.starts_with("overload/share-")))
        .map(|line| line["rounds"].as_array().expect("rounds").iter().filter_map(Value::as_f64).sum::<f64>())
        .sum();
    assert!((share - 200.0).abs() < 0.001, "the shares of two rounds make 200 %: {share}");
}

#[test]
fn growth_draws_each_curve() {
    let drawings = tempfile::tempdir().expect("a temporary folder");
    let out = drawings.path().to_string_lossy().into_owned();
    let figures = figures(&["growth", "--extent", "0.0001", "--out", &out, "--transport", "sse"]);
    let curves: BTreeSet<&str> = figures.iter().filter_map(|line| line["figure"].as_str()?.split('/').nth(1)).collect();
    assert!(curves.len() >= 15, "{curves:?}");
    for curve in curves {
        let text = std::fs::read_to_string(drawings.path().join(format!("{curve}.svg"))).expect("it was drawn");
        // Ten idle subscribers may fit into memory that the server has already: a growth of nothing has no place on the
        // logarithmic axis.
        let may_be_empty = curve.contains("memory");
        assert!((may_be_empty || text.contains("<circle")) && text.ends_with("</svg>\n"), "{curve}");
    }
}

#[test]
fn the_table_has_targets_and_two_runs_are_compared() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = folder.path().join("old.json");
    let figures = figures(&["--rows", "1,3"]);
    assert_eq!(figures.len(), 2);
    assert!(figures.iter().all(|line| line["target"]["met"].is_boolean()), "{figures:?}");
    let lines: String = figures.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&old, lines).expect("the folder is ours");
    let path = old.to_string_lossy();
    let compared = bench(folder.path(), &["--compare", &path, "--figures", &path, "-o", "json"]);
    assert_eq!(compared.status.code(), Some(0), "{compared:?}");
    let text = String::from_utf8(compared.stdout).expect("JSON is text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line["verdict"] == "same"), "{text}");
    std::fs::write(&old, "{}\n").expect("the folder is ours");
    assert_eq!(bench(folder.path(), &["--compare", &path, "--figures", &path]).status.code(), Some(1));
}

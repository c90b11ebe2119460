//! Prints figures, for people and for programs, and what moved since an earlier run.

use super::{
    Bench, BenchArgs,
    compare::{self, Verdict},
    figure::{Figure, median},
};
use crate::{
    cli::{CliError, output},
    sys::Sys,
};
use serde_json::{Value, json};
use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

/// A round is over: says so to whoever waits at a terminal.
pub fn progress(round: u32, figure: &Figure) {
    if io::stderr().is_terminal()
        && let Some(last) = figure.values.last()
    {
        let limit = figure.limits.last().map(|limit| format!(", limit {limit:.2}")).unwrap_or_default();
        eprintln!("{} round {round}: {last:.2} {}{limit}", figure.name, figure.unit);
    }
}

/// Says what is measured now, to whoever waits at a terminal.
pub fn doing(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

/// Prints them all.
pub fn print(bench: &Bench, figures: &[Figure]) -> Result<(), CliError> {
    let args = &bench.args;
    let sync = |quantile| bench.disk.sync_micros.value_at_quantile(quantile);
    if args.output.is_json() {
        let machine = json!({
            "disk_write_bytes_per_second": bench.disk.sequential_bytes_per_second,
            "disk_sync_us": {"p50": sync(0.5), "p99": sync(0.99)},
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        });
        for figure in figures {
            let mut line = figure.to_json();
            line["machine"] = machine.clone();
            line["version"] = env!("CARGO_PKG_VERSION").into();
            output::json_line(&line)?;
        }
        return Ok(());
    }
    let rows: Vec<_> = figures.iter().map(Figure::row).collect();
    output::table(&Figure::HEADS, &rows)?;
    for figure in figures {
        for note in figure.notes() {
            eprintln!("{note}");
        }
    }
    let mut times: Vec<&str> = figures.iter().map(Figure::latency_of).filter(|what| !what.is_empty()).collect();
    times.dedup();
    if !times.is_empty() {
        eprintln!("times are of: {}", times.join("; "));
    }
    eprintln!(
        "medians of {} rounds of {} s, values of {} bytes; RATIO is the share of the limit, which is a bare handler's on \
         the same HTTP stack under the same load where nothing else is said; CPU US is processor time for a record, the \
         server's and the load generator's",
        args.rounds,
        args.round_seconds(),
        args.size
    );
    eprintln!(
        "disk: writes {}/s, fdatasync after 1 KiB p50 {} µs, p99 {} µs",
        output::bytes(bench.disk.sequential_bytes_per_second as u64),
        sync(0.5),
        sync(0.99),
    );
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures say nothing");
    }
    Ok(())
}

/// The figures of an earlier run.
///
/// # Errors
/// No file, or no figures in it.
pub fn read(sys: &Sys, path: &Path) -> Result<Vec<Value>, CliError> {
    let failed = |e: &dyn std::fmt::Display| CliError::failed(format!("{}: {e}", path.display()));
    let bytes = sys.disk.read(path).map_err(|e| failed(&e))?;
    compare::parse(&String::from_utf8_lossy(&bytes)).map_err(|e| failed(&e))
}

/// Says what moved since then.
pub fn print_comparison(args: &BenchArgs, old: &[Value], new: &[Value]) -> Result<(), CliError> {
    let found = compare::compare(old, new);
    if args.output.is_json() {
        for one in &found {
            output::json_line(&json!({
                "compared": one.name, "unit": one.unit, "old": one.old, "new": one.new, "change": one.change(),
                "noise": one.noise, "verdict": one.verdict.name(),
            }))?;
        }
        return Ok(());
    }
    let percent = |part: f64| format!("{:+.1} %", part * 100.0);
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            let value = |v: f64| if one.unit == "of limit" { format!("{v:.3}") } else { format!("{v:.1}") };
            vec![
                one.name.clone(),
                one.unit.clone(),
                value(one.old),
                value(one.new),
                percent(one.change()),
                format!("± {:.1} %", one.noise * 100.0),
                one.verdict.name().to_owned(),
            ]
        })
        .collect();
    output::table(&["FIGURE", "UNIT", "OLD", "NEW", "CHANGE", "NOISE", "VERDICT"], &rows)?;
    let moved = found.iter().filter(|c| matches!(c.verdict, Verdict::Better | Verdict::Worse));
    let changes: Vec<f64> = moved.map(|c| c.change().abs()).collect();
    eprintln!(
        "{} of {} moved beyond the noise, by {} in the middle",
        changes.len(),
        found.len(),
        percent(median(&changes))
    );
    Ok(())
}

//! The table of what the product wants to reach, in one run: medians beside targets.
//!
//! The targets are absolute numbers from a machine with two cores; where the share of the limit says more, either is
//! enough. Rows that need another door are not here.

use super::{
    Bench, CliError, fanout,
    figure::Figure,
    process::Process,
    produce::{Kind, PARTITIONS, Producing},
    replay, report, restart,
    subscriber::Transport,
};

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;

/// The rows that were asked for.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let asked = |row: u8| bench.args.rows.is_empty() || bench.args.rows.contains(&row);
    let mut figures = Vec::new();
    if (1..=5).any(asked) {
        let (server, bare) = (bench.server().await?, bench.bare().await?);
        for row in (1..=5).filter(|row| asked(*row)) {
            report::doing(&format!("row {row}"));
            figures.push(produce_row(bench, row, &server, &bare).await?);
        }
    }
    if asked(7) {
        report::doing("row 7");
        let (server, bare) = (bench.server().await?, bench.bare().await?);
        let measured = replay::measure(bench, &server, &bare).await?;
        figures.extend(measured.into_iter().map(|figure| figure.with_target(1_000_000.0, None)));
    }
    if asked(8) {
        for partitions in [1, 12] {
            for transport in bench.args.transports() {
                report::doing(&format!("row 8, {} on {partitions} partitions", transport.name()));
                let measured = fanout::measure(bench, transport, 1000, partitions).await?;
                figures.extend(measured.into_iter().map(|figure| fanout_target(figure, transport, 2_000_000.0, true)));
            }
        }
    }
    if asked(9) {
        for transport in bench.args.transports() {
            report::doing(&format!("row 9, {}", transport.name()));
            let measured = fanout::measure(bench, transport, 5000, 1).await?;
            figures.extend(measured.into_iter().map(|figure| fanout_target(figure, transport, 1_500_000.0, false)));
        }
    }
    if asked(10) && bench.args.url.is_none() {
        report::doing("row 10");
        let sizes = if bench.args.gib.is_empty() { vec![1.0, 10.0] } else { bench.args.gib.clone() };
        let mut measured = restart::empty(bench).await?;
        measured.extend(restart::with_data(bench, &sizes).await?);
        figures.extend(measured.into_iter().map(start_target));
    }
    Ok(figures)
}

async fn produce_row(bench: &Bench, row: u8, server: &Process, bare: &Process) -> Result<Figure, CliError> {
    let (kind, flush, connections, target, ratio) = match row {
        1 => (Kind::Single, "commit", 1, 0.25, None),
        2 => (Kind::Single, "commit", 512, 75_000.0, Some(0.8)),
        3 => (Kind::Single, "os", 64, 90_000.0, Some(0.8)),
        4 => (Kind::Batch, "commit", 32, 700_000.0, None),
        _ => (Kind::Batch, "os", 8, 1_200_000.0, None),
    };
    let producing = Producing {
        kind,
        connections,
        batch: if kind == Kind::Single { 1 } else { 100 },
        size: bench.args.size,
        flush: flush.to_owned(),
        partitions: bench.args.partitions.unwrap_or(PARTITIONS),
        rate: None,
    };
    Ok(producing.measure(bench, server, bare).await?.with_target(target, ratio))
}

fn fanout_target(figure: Figure, transport: Transport, rate: f64, times: bool) -> Figure {
    let idle = if transport == Transport::Sse { 16.0 * KIB } else { 8.0 * KIB };
    match figure.name.split('/').next() {
        Some("fanout") => figure.with_target(rate, None),
        Some("fanout-all") if times => figure.with_target(10.0, None),
        Some("fanout-idle") => figure.with_target(idle, None),
        _ => figure,
    }
}

fn start_target(figure: Figure) -> Figure {
    let target = match figure.name.as_str() {
        "start/empty" => 50.0,
        "restart/1GiB" => 100.0,
        "restart/10GiB" => 500.0,
        "memory/idle" => 20.0 * MIB,
        "memory/loaded-1GiB" | "memory/loaded-10GiB" => 100.0 * MIB,
        _ => return figure,
    };
    figure.with_target(target, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figure::Better;

    #[test]
    fn targets_go_to_their_figures() {
        let of = |name: &str| Figure::of(name, "ms", Better::Lower, 60.0);
        assert_eq!(start_target(of("start/empty")).is_met(), Some(false));
        assert_eq!(start_target(of("restart/1GiB")).is_met(), Some(true));
        assert_eq!(start_target(of("restart/3GiB")).is_met(), None);
        let idle = fanout_target(of("fanout-idle/sse/n=5000/p=1"), Transport::Sse, 1.0, false);
        assert_eq!(idle.target.unwrap().value, 16384.0);
        assert_eq!(fanout_target(of("fanout-all/sse/n=5000/p=1"), Transport::Sse, 1.0, false).target, None);
    }
}

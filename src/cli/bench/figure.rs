//! A figure: one measured thing over some rounds, beside its limit on this machine and its target.
//!
//! *Pure*: what is printed follows from what was measured.

use super::{Round, histogram, process::Costs};
use crate::cli::output;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// What a round's value is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// Records (or deliveries) a second.
    Rate,
    /// This quantile of the latency, in milliseconds.
    LatencyMs(f64),
    /// Microseconds of the server's processor time for a record.
    CpuMicros,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times, sizes.
    Lower,
}

impl Better {
    /// In JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

/// What the product wants to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// In the figure's unit, on a machine like the one that the targets are from.
    pub value: f64,
    /// The share of the limit, where that says more.
    pub ratio: Option<f64>,
}

/// One measured thing.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Says which; the same in every run with the same settings.
    pub name: String,
    /// Of the values.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    measure: Option<Measure>,
    /// A round each.
    pub values: Vec<f64>,
    /// What `limits` are of; empty if there are none.
    pub limit_of: &'static str,
    /// The machine's own, a round each.
    pub limits: Vec<f64>,
    /// What the latency is of; empty if there is none.
    latency_of: &'static str,
    latency: Histogram<u64>,
    limit_latency: Histogram<u64>,
    costs: Vec<(Costs, u64)>,
    /// More numbers, by names with units.
    pub more: Vec<(String, f64)>,
    /// What the product wants to reach.
    pub target: Option<Target>,
}

/// The middle of the values; 0 if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Milliseconds of a histogram of microseconds.
pub fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1000.0
}

impl Measure {
    fn of(self, round: &Round) -> Option<f64> {
        Some(match self {
            Self::Rate => round.records as f64 / round.seconds,
            Self::LatencyMs(quantile) => millis(&round.latency, quantile),
            Self::CpuMicros => round.costs.server? * 1e6 / round.records.max(1) as f64,
        })
    }
}

impl Figure {
    /// Of rounds.
    pub fn new(name: impl Into<String>, unit: &'static str, measure: Measure) -> Self {
        let better = if measure == Measure::Rate { Better::Higher } else { Better::Lower };
        Self { measure: Some(measure), ..Self::plain(name, unit, better) }
    }

    /// Of plain values.
    pub fn plain(name: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self {
            name: name.into(),
            unit,
            better,
            measure: None,
            values: Vec::new(),
            limit_of: "",
            limits: Vec::new(),
            latency_of: "",
            latency: histogram(),
            limit_latency: histogram(),
            costs: Vec::new(),
            more: Vec::new(),
            target: None,
        }
    }

    /// Of one plain value.
    pub fn of(name: impl Into<String>, unit: &'static str, better: Better, value: f64) -> Self {
        Self { values: vec![value], ..Self::plain(name, unit, better) }
    }

    /// Says what the rounds' latency is of.
    #[must_use]
    pub const fn with_latency_of(mut self, what: &'static str) -> Self {
        self.latency_of = what;
        self
    }

    /// Adds a target.
    #[must_use]
    pub const fn with_target(mut self, value: f64, ratio: Option<f64>) -> Self {
        self.target = Some(Target { value, ratio });
        self
    }

    /// One more round of what is measured.
    pub fn push(&mut self, round: &Round) {
        self.values.extend(self.measure.and_then(|measure| measure.of(round)));
        self.latency.add(&round.latency).expect("all histograms have one shape");
        self.costs.push((round.costs, round.records));
    }

    /// One more round of the bare handler.
    pub fn push_limit(&mut self, round: &Round) {
        self.limit_of = "bare handler";
        self.limits.extend(self.measure.and_then(|measure| measure.of(round)));
        self.limit_latency.add(&round.latency).expect("all histograms have one shape");
    }

    /// The middle of the rounds.
    pub fn value(&self) -> f64 {
        median(&self.values)
    }

    /// The value as a share of the limit; of rounds side by side, as the machine's pace changes in between.
    pub fn ratios(&self) -> Vec<f64> {
        self.values.iter().zip(&self.limits).filter(|(_, limit)| **limit > 0.0).map(|(v, limit)| v / limit).collect()
    }

    /// Microseconds of processor time for a record: of the server, and of the load generator.
    fn cpu_micros(&self) -> (Option<f64>, Option<f64>) {
        let each = |of: fn(&Costs) -> Option<f64>| {
            let values: Option<Vec<f64>> =
                self.costs.iter().map(|(cost, n)| Some(of(cost)? * 1e6 / (*n).max(1) as f64)).collect();
            values.filter(|v| !v.is_empty()).map(|v| median(&v))
        };
        (each(|c| c.server), each(|c| Some(c.client)))
    }

    /// Whether the target is reached; `None` without one.
    pub fn is_met(&self) -> Option<bool> {
        let target = self.target?;
        let reached = |value: f64, wanted: f64| match self.better {
            Better::Higher => value >= wanted,
            Better::Lower => value <= wanted,
        };
        let by_ratio =
            target.ratio.is_some_and(|ratio| !self.limits.is_empty() && reached(median(&self.ratios()), ratio));
        Some(reached(self.value(), target.value) || by_ratio)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let mut line = json!({
            "figure": self.name, "unit": self.unit, "better": self.better.name(), "value": self.value(),
            "rounds": self.values,
        });
        if !self.limits.is_empty() {
            line["limit"] = json!({"of": self.limit_of, "value": median(&self.limits), "rounds": self.limits});
            line["ratio"] = median(&self.ratios()).into();
        }
        if !self.latency_of.is_empty() {
            let of = |all: &Histogram<u64>| {
                json!({"of": self.latency_of, "p50": millis(all, 0.5), "p90": millis(all, 0.9),
                    "p99": millis(all, 0.99), "p99_9": millis(all, 0.999), "max": all.max() as f64 / 1000.0})
            };
            line["latency_ms"] = of(&self.latency);
            if !self.limit_latency.is_empty() {
                line["limit_latency_ms"] = of(&self.limit_latency);
            }
        }
        if !self.costs.is_empty() {
            let (server, client) = self.cpu_micros();
            let mut cpu = Map::new();
            if let Some(micros) = server {
                cpu.insert("server_us_per_record".to_owned(), micros.into());
                cpu.insert("server_s".to_owned(), self.costs.iter().filter_map(|(c, _)| c.server).sum::<f64>().into());
            }
            cpu.extend(client.map(|micros| ("client_us_per_record".to_owned(), micros.into())));
            cpu.insert("client_s".to_owned(), self.costs.iter().map(|(c, _)| c.client).sum::<f64>().into());
            line["cpu"] = cpu.into();
        }
        if !self.more.is_empty() {
            line["more"] =
                self.more.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>().into();
        }
        if let Some(target) = self.target {
            line["target"] = json!({"value": target.value, "met": self.is_met()});
            if let Some(ratio) = target.ratio {
                line["target"]["ratio"] = ratio.into();
            }
        }
        line
    }

    /// The heads of [`Figure::row`].
    pub const HEADS: [&str; 10] =
        ["FIGURE", "VALUE", "TARGET", "LIMIT", "RATIO", "P50 MS", "P99 MS", "P99.9 MS", "CPU US", "CLIENT CPU US"];

    /// For people.
    pub fn row(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let time = |quantile| match self.latency_of {
            "" => dash(),
            _ => format!("{:.2}", millis(&self.latency, quantile)),
        };
        let sign = match self.better {
            Better::Higher => "≥",
            Better::Lower => "≤",
        };
        let verdict = if self.is_met() == Some(true) { "met" } else { "missed" };
        let target = self.target.map_or_else(dash, |t| {
            let ratio = t.ratio.map(|r| format!(" or {r} of limit")).unwrap_or_default();
            format!("{sign} {}{ratio}: {verdict}", quantity(t.value, self.unit))
        });
        let (server, client) = self.cpu_micros();
        let micros = |value: Option<f64>| value.map_or_else(dash, |v| format!("{v:.2}"));
        let (limit, ratio) = match self.limits.is_empty() {
            true => (dash(), dash()),
            false => (quantity(median(&self.limits), self.unit), format!("{:.2}", median(&self.ratios()))),
        };
        vec![
            self.name.clone(),
            quantity(self.value(), self.unit),
            target,
            limit,
            ratio,
            time(0.5),
            time(0.99),
            time(0.999),
            micros(server),
            micros(client),
        ]
    }

    /// What stands beside the row: numbers of its own, and what its times are of.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.more.is_empty() {
            let each: Vec<String> = self
                .more
                .iter()
                .map(|(name, value)| match name.strip_suffix("_bytes") {
                    Some(what) => format!("{what} {}", output::bytes(*value as u64)),
                    None => format!("{name} {}", number(*value)),
                })
                .collect();
            notes.push(format!("{}: {}", self.name, each.join(", ")));
        }
        notes
    }

    /// What its latency is of.
    pub const fn latency_of(&self) -> &'static str {
        self.latency_of
    }
}

/// A value with its unit, as a person reads it.
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "bytes" => output::bytes(value as u64),
        _ => format!("{} {unit}", number(value)),
    }
}

/// Three digits that count, and all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(records: u64, micros: u64) -> Round {
        let mut latency = histogram();
        latency.record(micros).unwrap();
        let costs = Costs { server: Some(0.001), client: 0.002 };
        Round { records, seconds: 2.0, latency, costs }
    }

    #[test]
    fn figures_are_medians_beside_their_limit() {
        let mut figure = Figure::new("x", "records/s", Measure::Rate).with_latency_of("answer");
        for (records, micros) in [(100, 1000), (1000, 3000), (200, 2000)] {
            figure.push(&round(records, micros));
            figure.push_limit(&round(400, 500));
        }
        let line = figure.to_json();
        assert_eq!((line["value"].as_f64(), line["limit"]["value"].as_f64()), (Some(100.0), Some(200.0)));
        assert_eq!(line["ratio"].as_f64(), Some(0.5));
        assert_eq!(line["cpu"]["server_us_per_record"].as_f64(), Some(5.0));
        assert_eq!(line["cpu"]["client_us_per_record"].as_f64(), Some(10.0));
        let p50 = line["latency_ms"]["p50"].as_f64().unwrap();
        assert!((p50 - 2.0).abs() < 0.01, "{p50}");
        assert_eq!(figure.row().len(), Figure::HEADS.len());
        assert_eq!(median(&[1.0, 4.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_latency_is_better_when_it_is_lower() {
        let mut figure = Figure::new("x", "ms", Measure::LatencyMs(0.5)).with_target(2.0, None);
        figure.push(&round(1, 1900));
        assert_eq!(figure.is_met(), Some(true));
        figure.push(&round(1, 2900));
        figure.push(&round(1, 2900));
        assert_eq!(figure.is_met(), Some(false));
        assert!(figure.row()[2].contains("missed"), "{:?}", figure.row());
    }

    #[test]
    fn a_share_of_the_limit_is_enough() {
        let mut figure = Figure::new("x", "records/s", Measure::Rate).with_target(1000.0, Some(0.8));
        figure.push(&round(170, 1));
        assert_eq!(figure.is_met(), Some(false));
        figure.push_limit(&round(200, 1));
        assert_eq!(figure.is_met(), Some(true));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.0, 0.1234, 1.234, 12.34, 123_456.7].map(number), ["0", "0.123", "1.23", "12.3", "123457"]);
        assert_eq!(quantity(2048.0, "bytes"), "2.0 KiB");
        assert_eq!(quantity(12.0, "ms"), "12.0 ms");
    }
}

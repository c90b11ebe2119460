//! Two runs side by side: what moved beyond the noise.
//!
//! *Pure*. A figure moved if the middles of the two runs are further apart than their rounds are spread, and by at
//! least a few percent. Where both have a limit, shares of the limit are compared, so that a slower hour of the machine is
//! no change of the program.

use super::figure::median;
use serde_json::Value;

/// What is less is never a change.
const LEAST_CHANGE: f64 = 0.03;
/// How many spreads of both runs together the middles must be apart. The spread is the median absolute deviation; for
/// normal noise three of them are two standard deviations.
const SPREADS: f64 = 3.0;

/// What became of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the noise.
    Same,
    /// Beyond it, for the better.
    Better,
    /// Beyond it, for the worse.
    Worse,
    /// Only in the earlier run.
    Gone,
    /// Only in the later run.
    New,
}

impl Verdict {
    /// For people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Gone => "gone",
            Self::New => "new",
        }
    }
}

/// A figure in both runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The figure.
    pub name: String,
    /// What the numbers are in: its unit, or "of limit".
    pub unit: String,
    /// The earlier middle.
    pub old: f64,
    /// The later middle.
    pub new: f64,
    /// The change that would still be noise, as a part of the earlier middle.
    pub noise: f64,
    /// What became of it.
    pub verdict: Verdict,
}

impl Comparison {
    /// The change as a part of the earlier middle.
    pub fn change(&self) -> f64 {
        if self.old == 0.0 { 0.0 } else { self.new / self.old - 1.0 }
    }
}

/// The figures of a run, from its JSON lines.
///
/// # Errors
/// A line that is no figure.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let line = |(number, line): (usize, &str)| {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("line {}: {e}", number + 1))?;
        match value["figure"].is_string() && value["rounds"].is_array() {
            true => Ok(value),
            false => Err(format!("line {} is no figure; write it with 'sluice bench -o json'", number + 1)),
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

fn rounds(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// How far a value typically lies from the middle.
fn spread(values: &[f64]) -> f64 {
    let middle = median(values);
    median(&values.iter().map(|v| (v - middle).abs()).collect::<Vec<_>>())
}

/// Compares by name, in the order of the later run; what is gone comes last.
pub fn compare(old: &[Value], new: &[Value]) -> Vec<Comparison> {
    let find = |all: &[Value], name: &Value| all.iter().find(|f| f["figure"] == *name).cloned();
    let alone = |figure: &Value, verdict| {
        let value = figure["value"].as_f64().unwrap_or_default();
        let (old, new) = if verdict == Verdict::Gone { (value, 0.0) } else { (0.0, value) };
        let text = |name: &str| figure[name].as_str().unwrap_or_default().to_owned();
        Comparison { name: text("figure"), unit: text("unit"), old, new, noise: 0.0, verdict }
    };
    let mut all: Vec<Comparison> = new
        .iter()
        .map(|later| match find(old, &later["figure"]) {
            Some(earlier) => both(&earlier, later),
            None => alone(later, Verdict::New),
        })
        .collect();
    all.extend(old.iter().filter(|f| find(new, &f["figure"]).is_none()).map(|f| alone(f, Verdict::Gone)));
    all
}

fn both(old: &Value, new: &Value) -> Comparison {
    let shares = |figure: &Value| -> Vec<f64> {
        let limits = rounds(&figure["limit"]["rounds"]);
        rounds(&figure["rounds"]).iter().zip(&limits).filter(|(_, l)| **l > 0.0).map(|(v, l)| v / l).collect()
    };
    let unit = new["unit"].as_str().unwrap_or_default();
    let (earlier, later, unit) = match (shares(old), shares(new)) {
        (a, b) if !a.is_empty() && !b.is_empty() => (a, b, "of limit"),
        _ => (rounds(&old["rounds"]), rounds(&new["rounds"]), unit),
    };
    let (a, b) = (median(&earlier), median(&later));
    let noise = if a == 0.0 { 0.0 } else { (SPREADS * (spread(&earlier) + spread(&later)) / a).max(LEAST_CHANGE) };
    let change = if a == 0.0 { 0.0 } else { b / a - 1.0 };
    let verdict = match (change.abs() > noise, (change > 0.0) == (new["better"] == "higher")) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    };
    let name = new["figure"].as_str().unwrap_or_default().to_owned();
    Comparison { name, unit: unit.to_owned(), old: a, new: b, noise, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figure(name: &str, better: &str, rounds: &[f64]) -> Value {
        json!({"figure": name, "unit": "records/s", "better": better, "value": median(rounds), "rounds": rounds})
    }

    fn verdict(better: &str, old: &[f64], new: &[f64]) -> Verdict {
        compare(&[figure("x", better, old)], &[figure("x", better, new)])[0].verdict
    }

    #[test]
    fn a_change_within_the_noise_is_none() {
        assert_eq!(verdict("higher", &[90.0, 100.0, 110.0], &[80.0, 95.0, 115.0]), Verdict::Same);
        assert_eq!(verdict("higher", &[100.0; 5], &[102.0; 5]), Verdict::Same, "less than the least change");
    }

    #[test]
    fn beyond_the_noise_the_direction_says_what_it_is() {
        let (low, high) = ([99.0, 100.0, 101.0], [119.0, 120.0, 121.0]);
        assert_eq!(verdict("higher", &low, &high), Verdict::Better);
        assert_eq!(verdict("higher", &high, &low), Verdict::Worse);
        assert_eq!(verdict("lower", &low, &high), Verdict::Worse);
        assert_eq!(verdict("lower", &high, &low), Verdict::Better);
    }

    #[test]
    fn a_slower_machine_is_no_change_of_the_program() {
        let with = |rounds: &[f64], limits: &[f64]| {
            let mut figure = figure("x", "higher", rounds);
            figure["limit"] = json!({"of": "bare handler", "rounds": limits});
            figure
        };
        let (old, new) = (with(&[80.0, 82.0], &[100.0, 101.0]), with(&[40.0, 41.0], &[50.0, 51.0]));
        let found = &compare(&[old], &[new])[0];
        assert_eq!((found.verdict, found.unit.as_str()), (Verdict::Same, "of limit"));
    }

    #[test]
    fn figures_of_one_run_only_are_named() {
        let found = compare(&[figure("a", "higher", &[1.0])], &[figure("b", "higher", &[2.0])]);
        let found: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.verdict, c.old, c.new)).collect();
        assert_eq!(found, [("b", Verdict::New, 0.0, 2.0), ("a", Verdict::Gone, 1.0, 0.0)]);
    }

    #[test]
    fn what_is_no_figure_is_refused_with_its_line() {
        let good = figure("x", "higher", &[1.0]).to_string();
        assert_eq!(parse(&format!("{good}\n\n{good}\n")).unwrap().len(), 2);
        assert!(parse(&format!("{good}\n{{}}")).unwrap_err().contains("line 2"));
        assert!(parse("no json").is_err());
    }
}

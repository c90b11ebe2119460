//! How it grows: curves over partitions, subscribers, data, record size and keys, drawn as SVG files.
//!
//! Each point is measured once, for a short time: its neighbours say how much of it is noise.

mod data;
mod partitions;
mod subscribers;

use super::{
    Bench, CliError,
    args::Curve,
    figure::{Better, Figure},
    report,
    svg::{Chart, Series},
};

/// One measured thing over a size.
struct Plot {
    /// The name of its file and figures.
    name: &'static str,
    title: &'static str,
    /// What grows.
    x: &'static str,
    unit: &'static str,
    better: Better,
    series: Vec<Series>,
    note: Option<String>,
}

impl Plot {
    fn new(name: &'static str, title: &'static str, x: &'static str, unit: &'static str) -> Self {
        let better = if unit.ends_with("/s") { Better::Higher } else { Better::Lower };
        Self { name, title, x, unit, better, series: Vec::new(), note: None }
    }

    /// One more point of a line.
    fn push(&mut self, series: &str, x: f64, y: impl Into<Option<f64>>) {
        let Some(y) = y.into() else { return };
        match self.series.iter_mut().find(|s| s.name == series) {
            Some(found) => found.points.push((x, y)),
            None => self.series.push(Series { name: series.to_owned(), points: vec![(x, y)] }),
        }
    }

    fn chart(&self) -> Chart {
        Chart {
            title: self.title.to_owned(),
            x: self.x.to_owned(),
            unit: self.unit,
            series: self.series.clone(),
            note: self.note.clone(),
        }
    }

    fn figures(&self) -> impl Iterator<Item = Figure> {
        self.series.iter().flat_map(move |series| {
            series.points.iter().map(move |(x, y)| {
                let name = format!("growth/{}/{}/{x}", self.name, series.name);
                Figure::of(name, self.unit, self.better, *y)
            })
        })
    }
}

/// Decades from `first` to `last`, and `last` itself.
fn points(first: f64, last: f64) -> Vec<f64> {
    let mut all = Vec::new();
    let mut point = first;
    while point < last * 0.999 {
        all.push(point);
        point *= 10.0;
    }
    all.push(last.max(first));
    all
}

/// The curves that were asked for: figures, and a drawing of each.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let args = &bench.args;
    let asked = |curve: Curve| args.curves.is_empty() || args.curves.contains(&curve);
    let all = [
        Curve::Partitions,
        Curve::Subscribers,
        Curve::KeyedSubscribers,
        Curve::TopicSize,
        Curve::RecordSize,
        Curve::Keys,
    ];
    let failed = |e: std::io::Error| CliError::failed(format!("{}: {e}", args.out.display()));
    bench.sys.disk.create_dir_all(&args.out).map_err(failed)?;
    let mut figures = Vec::new();
    for curve in all.into_iter().filter(|curve| asked(*curve)) {
        let plots = match curve {
            Curve::Partitions => partitions::plots(bench).await,
            Curve::Subscribers => subscribers::plots(bench).await,
            Curve::KeyedSubscribers => subscribers::keyed_plots(bench).await,
            Curve::TopicSize => data::topic_size(bench).await,
            Curve::RecordSize => data::record_size(bench).await,
            Curve::Keys => data::keys(bench).await,
        }?;
        for plot in plots {
            let path = args.out.join(format!("{}.svg", plot.name));
            bench.sys.disk.write_atomic(&path, plot.chart().draw().as_bytes()).map_err(failed)?;
            report::doing(&format!("drew {}", path.display()));
            figures.extend(plot.figures());
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_decades_up_to_the_last() {
        assert_eq!(points(1.0, 1000.0), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(points(10.0, 2000.0), [10.0, 100.0, 1000.0, 2000.0]);
        assert_eq!(points(10.0, 10.0), [10.0]);
        assert_eq!(points(10.0, 3.0), [10.0]);
    }

    #[test]
    fn a_plot_keeps_its_lines_apart() {
        let mut plot = Plot::new("x", "X", "keys", "records/s");
        plot.push("a", 1.0, 5.0);
        plot.push("b", 1.0, 6.0);
        plot.push("a", 10.0, 7.0);
        plot.push("a", 100.0, None);
        let names: Vec<String> = plot.figures().map(|f| f.name).collect();
        assert_eq!(names, ["growth/x/a/1", "growth/x/a/10", "growth/x/b/1"]);
        assert_eq!(plot.better, Better::Higher);
    }
}

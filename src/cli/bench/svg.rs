//! Curves as drawings: a small SVG writer with logarithmic axes.
//!
//! *Pure*: a chart in, text out. No scripts, no fonts of its own; it reads on light and dark pages.

use super::figure::quantity;
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 64.0;
/// Told apart also by who sees no red and green, and on light and dark pages.
const COLOURS: [&str; 6] = ["#3b7dd8", "#d9822b", "#2aa198", "#9b59b6", "#c0392b", "#7f8c8d"];

/// A line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its points, by rising x; all above zero, or they are left out.
    pub points: Vec<(f64, f64)>,
}

/// A drawing.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis.
    pub x: String,
    /// The unit of the vertical axis.
    pub unit: &'static str,
    /// Its lines.
    pub series: Vec<Series>,
    /// Below it all, where something has to be said.
    pub note: Option<String>,
}

/// Where values lie on an axis, by their logarithm.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Whole decades around all values; at least one.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for value in values {
            low = low.min(value.log10());
            high = high.max(value.log10());
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        (low, high) = (low.floor(), high.ceil());
        if low == high {
            high += 1.0;
        }
        Self { low, high, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low as i32..=self.high as i32).map(|n| 10_f64.powi(n))
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A power of ten as a person writes it.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{}G", v / 1e9),
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

impl Chart {
    /// The whole file.
    pub fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|s| s.points.iter()).filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let across = Axis::around(points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let up = Axis::around(points().map(|p| p.1), HEIGHT - BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\" fill=\"#888\" role=\"img\">\n<title>{}</title>\n",
            escaped(&self.title)
        );
        self.put(&mut out, LEFT, 20.0, "start", &format!("<tspan font-size=\"14\">{}</tspan>", escaped(&self.title)));
        for decade in across.decades() {
            let x = across.at(decade);
            line(&mut out, (x, TOP), (x, HEIGHT - BOTTOM), "stroke=\"#888\" stroke-opacity=\"0.25\"");
            self.put(&mut out, x, HEIGHT - BOTTOM + 16.0, "middle", &short(decade));
        }
        for decade in up.decades() {
            let y = up.at(decade);
            line(&mut out, (LEFT, y), (WIDTH - RIGHT, y), "stroke=\"#888\" stroke-opacity=\"0.25\"");
            let label = if self.unit == "bytes" { quantity(decade, "bytes") } else { short(decade) };
            self.put(&mut out, LEFT - 6.0, y + 4.0, "end", &label);
        }
        self.put(&mut out, WIDTH - RIGHT, HEIGHT - BOTTOM + 32.0, "end", &escaped(&self.x));
        self.put(&mut out, LEFT - 6.0, TOP - 12.0, "end", &escaped(self.unit));
        let mut legend = LEFT;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> = series.points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
            let path: Vec<String> =
                points.iter().map(|(x, y)| format!("{:.1},{:.1}", across.at(*x), up.at(*y))).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            for (x, y) in &points {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {} at {}</title></circle>",
                    across.at(*x),
                    up.at(*y),
                    escaped(&series.name),
                    escaped(&quantity(*y, self.unit)),
                    x
                );
            }
            let name = format!("<tspan fill=\"{colour}\">● {}</tspan>", escaped(&series.name));
            self.put(&mut out, legend, TOP - 12.0, "start", &name);
            legend += 24.0 + 7.0 * series.name.chars().count() as f64;
        }
        if let Some(note) = &self.note {
            self.put(&mut out, LEFT, HEIGHT - 12.0, "start", &escaped(note));
        }
        out.push_str("</svg>\n");
        out
    }

    fn put(&self, out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {style}/>",
        from.0, from.1, to.0, to.1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        Chart {
            title: "a < b & c".to_owned(),
            x: "keys".to_owned(),
            unit: "ms",
            series,
            note: Some("\"n\"".to_owned()),
        }
    }

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "one".to_owned(), points: points.to_vec() }
    }

    #[test]
    fn values_lie_between_whole_decades() {
        let axis = Axis::around([2.0, 30.0].into_iter(), 0.0, 200.0);
        assert_eq!(axis.decades().collect::<Vec<_>>(), [1.0, 10.0, 100.0]);
        assert_eq!([axis.at(1.0), axis.at(10.0), axis.at(100.0)], [0.0, 100.0, 200.0]);
        assert_eq!(Axis::around([10.0].into_iter(), 0.0, 1.0).decades().count(), 2, "one value has a decade around it");
        assert_eq!(Axis::around(std::iter::empty(), 0.0, 1.0).decades().count(), 2);
    }

    #[test]
    fn each_point_is_drawn_and_text_is_escaped() {
        let text = chart(vec![series(&[(1.0, 5.0), (10.0, 50.0), (100.0, 0.0)]), series(&[(1.0, 7.0)])]).draw();
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<circle").count(), 3, "what has no logarithm is left out");
        assert_eq!(text.matches("<polyline").count(), 2);
        assert!(text.contains("a &lt; b &amp; c") && text.contains("&quot;n&quot;") && !text.contains("NaN"));
    }

    #[test]
    fn nothing_measured_is_an_empty_chart() {
        let text = chart(Vec::new()).draw();
        assert!(text.ends_with("</svg>\n") && !text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn decades_are_written_short() {
        assert_eq!([0.01, 1.0, 1e3, 1e4, 1e7, 1e9].map(short), ["0.01", "1", "1k", "10k", "10M", "1G"]);
    }
}

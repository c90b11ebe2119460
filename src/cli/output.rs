//! What commands print: tables and sentences for people, JSON lines for programs.

use super::CliError;
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The flag that every command with data has.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct OutputArgs {
    /// How data is printed
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Format,
}

impl OutputArgs {
    /// Whether it is for programs.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.output == Format::Json
    }
}

/// Whether somebody reads stdout as it comes.
#[must_use]
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes a JSON line.
///
/// # Errors
/// What stdout says.
pub fn json_line(value: &Value) -> Result<(), CliError> {
    Ok(writeln!(io::stdout().lock(), "{value}")?)
}

/// Writes rows under a head, in columns as wide as their widest cell; numbers to the right.
///
/// # Errors
/// What stdout says.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    Ok(io::stdout().lock().write_all(format_table(head, rows).as_bytes())?)
}

fn format_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|i| rows.iter().map(|row| row[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0))
        .collect();
    let is_number: Vec<bool> = (0..head.len())
        .map(|i| !rows.is_empty() && rows.iter().all(|row| row[i].bytes().all(|b| b.is_ascii_digit() || b == b'.')))
        .collect();
    let line = |cells: Vec<&str>| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(i, cell)| match is_number[i] {
                true => format!("{cell:>width$}", width = widths[i]),
                false => format!("{cell:<width$}", width = widths[i]),
            })
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut out = line(head.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

/// Milliseconds for people; nothing as a dash.
#[must_use]
pub fn span(ms: &Value) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)];
    let Some(ms) = ms.as_u64() else { return cell(ms) };
    match UNITS.iter().find(|(_, size)| ms >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", ms as f64 / *size as f64),
        None => format!("{ms} ms"),
    }
}

/// The text of a JSON value in a table: strings bare but for control characters, which would move the terminal's cursor;
/// lists joined by commas, nothing as a dash.
#[must_use]
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.chars().any(char::is_control) => {
            let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            text.chars().map(plain).collect()
        }
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A number of bytes for people.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A number of things: "1 record", "2 records".
#[must_use]
pub fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["games".to_owned(), "12".to_owned()], vec!["a".to_owned(), "3".to_owned()]];
        assert_eq!(format_table(&["NAME", "N"], &rows), "NAME    N\ngames  12\na       3\n");
        assert_eq!(format_table(&["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn spans_are_for_people_and_control_characters_for_nobody() {
        let of = |ms: u64| span(&ms.into());
        assert_eq!([of(0), of(999), of(61_500), of(172_800_000)], ["0 ms", "999 ms", "1.0 min", "2.0 d"]);
        assert_eq!(span(&Value::Null), "-");
        assert_eq!(cell(&"a\u{1b}[2Jé\n".into()), "a\\u{1b}[2Jé\\n");
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 40)], ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
    }
}

//! Log lines: `tracing` to standard error, as text for people or as JSON lines.

use std::str::FromStr;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = InitError;

    fn from_str(text: &str) -> Result<Self, InitError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(InitError::Format(text.to_owned())),
        }
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// No such format.
    #[error("'{0}' is no log format; use text or json")]
    Format(String),
    /// No such level or filter.
    #[error(
        "'{0}' is no log level; use error, warn, info, debug, trace, or target=level pairs with commas between them"
    )]
    Level(String),
    /// Logging runs already in this process.
    #[error("logging was started before")]
    Twice,
}

/// The Raft library tells each of its steps at `info`, some twenty lines a start that say nothing to who runs a server.
/// Naming its target in the filter brings them back: of two directives for a target the later one counts.
fn with_quiet_raft(level: &str) -> String {
    match level {
        "off" | "error" => level.to_owned(),
        _ => format!("openraft=warn,{level}"),
    }
}

/// Starts logging for the whole process. `level` is a level or a filter in `tracing`'s syntax
/// (`info,sluice::http=debug`). Lines go to standard error, which leaves standard output to data.
///
/// # Errors
/// [`InitError`] if the level can not be read, or logging runs already.
pub fn init(format: LogFormat, level: &str) -> Result<(), InitError> {
    let filter = EnvFilter::try_new(with_quiet_raft(level)).map_err(|_| InitError::Level(level.to_owned()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(fmt::layer().with_ansi(colours).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_span_list(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    started.map_err(|_| InitError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_levels_are_checked() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text or json"));
        assert!(matches!(init(LogFormat::Text, "sluice=loud"), Err(InitError::Level(_))));
    }
}

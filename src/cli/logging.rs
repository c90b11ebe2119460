//! Log lines, on stderr.

use crate::config::{LogFormat, ServerConfig};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// The format in effect: as configured, else text on a terminal and JSON elsewhere.
pub fn format(config: &ServerConfig) -> LogFormat {
    config.log_format.unwrap_or(if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json })
}

/// Starts the logging of this process. Only the first call counts.
pub fn start(config: &ServerConfig) {
    let filter = EnvFilter::new(&config.log_level); // the configuration has checked it
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format(config) {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

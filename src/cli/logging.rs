//! Log lines, on stderr.

use crate::config::{LogFormat, ServerConfig};
use crate::telemetry;
use std::io::IsTerminal as _;

/// The format in effect: as configured, else text on a terminal and JSON elsewhere.
pub fn format(config: &ServerConfig) -> LogFormat {
    config.log_format.unwrap_or(if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json })
}

/// Starts the logging of this process. Only the first call counts.
pub fn start(config: &ServerConfig) {
    let format = match format(config) {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    let _ = telemetry::init(format, &config.log_level); // the configuration has checked the level
}

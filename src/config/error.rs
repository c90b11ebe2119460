//! What is wrong with a configuration, said so that the reader knows what to write instead.

use super::settings::SETTINGS;
use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No setting has this name. `place` is where it was found, `nearest` how the nearest known one is written there.
    #[error("{place}: there is no setting '{name}'; did you mean '{nearest}'?")]
    Unknown {
        /// File and line, or `environment`.
        place: String,
        /// As it was written.
        name: String,
        /// The nearest known one, as it is written in that place.
        nearest: String,
    },
    /// The setting exists; the value does not fit it.
    #[error("{place}: '{value}' is no value for '{name}': write {expected}")]
    Invalid {
        /// File and line, `environment`, or `flag`.
        place: String,
        /// As the setting is written in that place.
        name: String,
        /// As it was written; secrets are not repeated.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Conflict(String),
    /// The file is no TOML.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// Line, column and cause.
        message: String,
    },
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {kind}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
}

/// Everything that is wrong, so that it can be put right in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// The candidate with the fewest edits from `name`, under the spelling that `write` gives the settings.
pub(super) fn nearest(name: &str, write: impl Fn(&'static super::Setting) -> String) -> String {
    SETTINGS
        .iter()
        .map(write)
        .min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate))
        .expect("the table of settings is not empty")
}

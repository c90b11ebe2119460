//! How a command fails: what it prints, and its exit status.

use std::io;

/// Why a command ended without doing what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    status: u8,
    text: Option<String>,
}

impl CliError {
    /// It was understood and did not work: status 1.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { status: 1, text: Some(text.into()) }
    }

    /// Wrong usage or configuration: status 2.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { status: 2, text: Some(text.into()) }
    }

    /// The data folder cannot be used: status 3.
    pub fn data_folder(text: impl Into<String>) -> Self {
        Self { status: 3, text: Some(text.into()) }
    }

    /// The exit status.
    #[must_use]
    pub const fn status(&self) -> u8 {
        self.status
    }

    /// What to print.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

/// Of writing to stdout. A reader that has enough (`| head`) is no failure.
impl From<io::Error> for CliError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self { status: 0, text: None },
            _ => Self::failed(format!("cannot write the output: {e}")),
        }
    }
}

//! The composition root: builds every part from a [`ServerConfig`], starts it, and drains it.

use crate::config::ServerConfig;
use crate::sys::Sys;
use std::net::SocketAddr;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder is in use, written by a newer version, of another broker, or cannot be read or written.
    #[error("{0}")]
    DataFolder(String),
    /// The configuration does not fit this machine.
    #[error("{0}")]
    Config(String),
}

impl StartError {
    /// Whether the data folder is the reason.
    #[must_use]
    pub const fn is_data_folder(&self) -> bool {
        matches!(self, Self::DataFolder(_))
    }

    /// Whether the configuration is the reason.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::Config(_))
    }
}

/// A server that serves.
pub struct Server {}

impl Server {
    /// Opens the data folder, recovers the logs, opens the doors.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(_config: ServerConfig, _sys: Sys) -> Result<Self, StartError> {
        todo!()
    }

    /// Where HTTP listens, with the real port.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Where the Kafka protocol listens.
    #[must_use]
    pub fn kafka_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Where other brokers connect.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Takes no new requests, finishes those in flight, closes the logs; at most 30 s.
    pub async fn drain(self) {
        todo!()
    }
}

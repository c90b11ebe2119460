//! This broker's member of the controller's Raft group.

use super::{Command, MetadataError, MetadataImage, Response};
use crate::sys::Sys;
use crate::types::BrokerId;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;

/// What a broker's member of the group needs to know.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// This broker.
    pub broker: BrokerId,
    /// Where other members reach it (`host:port`); any text while it is alone.
    pub address: String,
    /// How long [`Metadata::submit`] waits.
    pub submit_timeout: Duration,
}

/// The cluster's metadata on this broker. Cheap to clone.
#[derive(Clone)]
pub struct Metadata {}

impl Metadata {
    /// Opens the store in `dir` (made if it is not there), joins the group, and waits until what was committed is
    /// applied. A store that is empty becomes a cluster of this broker alone.
    ///
    /// # Errors
    /// Damage, a newer version, or what the disk says.
    pub async fn open(_sys: Sys, _dir: PathBuf, _settings: NodeSettings) -> Result<Self, MetadataError> {
        todo!()
    }

    /// The newest image.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        todo!()
    }

    /// The newest image and each one after it (a slow reader misses those in between).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<MetadataImage>> {
        todo!()
    }

    /// Asks the controller for a change. When it answers, the change is durable and [`Self::image`] has it.
    ///
    /// # Errors
    /// [`MetadataError::Refused`] if the controller said no; [`MetadataError::TimedOut`] if it is not known.
    pub async fn submit(&self, _command: Command) -> Result<Response, MetadataError> {
        todo!()
    }

    /// The broker that leads the metadata; `None` while there is none.
    #[must_use]
    pub fn controller(&self) -> Option<BrokerId> {
        todo!()
    }

    /// Why nothing can be changed any more, if the store failed. The broker must stop saying that it is ready.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        todo!()
    }

    /// Resolves when the store fails, with the reason; never, if it does not.
    pub async fn failed(&self) -> String {
        todo!()
    }

    /// Stops the member and writes what remains. Nothing can be changed after it.
    pub async fn shutdown(&self) {
        todo!()
    }
}

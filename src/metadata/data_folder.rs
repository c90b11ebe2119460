//! The data folder: whose it is, and whether this program may use it.

use crate::sys::{DirLock, Sys};
use crate::types::{BrokerId, ClusterId};
use std::path::{Path, PathBuf};

/// Why a data folder can not be used. Each text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataFolderError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop that one, or choose another folder with --data")]
    InUse(String),
    /// It can not be made or written.
    #[error("{path} is not writable ({kind}): give this user the right to write it, or choose another with --data")]
    NotWritable {
        /// The folder.
        path: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// Files of somebody else lie in it.
    #[error("{path} is not empty and not a sluice data folder (it has '{found}'): choose an empty folder with --data")]
    NotOurs {
        /// The folder.
        path: String,
        /// One of the files.
        found: String,
    },
    /// Another broker's.
    #[error("{path} belongs to node {found}, not {configured}: set node-id to {found}, or choose another with --data")]
    OtherNode {
        /// The folder.
        path: String,
        /// Whose it is.
        found: BrokerId,
        /// Who asks.
        configured: BrokerId,
    },
    /// A newer version wrote it.
    #[error("{path} has data version {found}, and this program knows {known}: start a newer sluice with it")]
    NewerVersion {
        /// The folder.
        path: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The identity file is damaged.
    #[error("{path} is damaged ({what}): put it back from a backup; without it the data belongs to no cluster")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The disk failed.
    #[error("{path} can not be read ({kind}): check the disk")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
}

/// A data folder that this process has for itself, until it is dropped.
pub struct DataFolder {
    path: PathBuf,
    identity: Identity,
    created: bool,
    _lock: DirLock,
}

/// What is written when a folder is formatted.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The broker in it.
    pub node_id: BrokerId,
    /// This disk: a disk that was wiped comes back with another one.
    pub storage_id: [u8; 16],
    /// The cluster's secret, for tokens and cursors that any of its brokers can check. Never shown.
    pub secret: [u8; 32],
}

impl DataFolder {
    /// Locks a folder and reads its identity; formats one that is empty or not there. Blocks.
    ///
    /// # Errors
    /// [`DataFolderError`]; nothing of a folder that is refused is changed.
    pub fn open(_sys: &Sys, _path: &Path, _node: BrokerId) -> Result<Self, DataFolderError> {
        todo!()
    }

    /// Its identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it was formatted just now.
    #[must_use]
    pub const fn created(&self) -> bool {
        self.created
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the metadata lies.
    #[must_use]
    pub fn metadata(&self) -> PathBuf {
        self.path.join("metadata")
    }

    /// Where the partitions lie.
    #[must_use]
    pub fn topics(&self) -> PathBuf {
        self.path.join("topics")
    }

    /// Where the views lie; it may be deleted while the broker is stopped.
    #[must_use]
    pub fn view(&self) -> PathBuf {
        self.path.join("view")
    }
}

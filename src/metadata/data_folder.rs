//! The data folder: whose it is, and whether this program may use it.
//!
//! **Invariant**: a folder that is refused is left as it was, and a folder gets its identity once, whole: the `meta`
//! file is written last, so that a crash while formatting leaves a folder that is formatted at the next start.
//!
//! ```text
//! meta       for this user's eyes only: magic, data version, CRC; cluster id, node id, storage id, the cluster's secret; CRC
//! metadata/  the controller's log and snapshot
//! topics/    the partitions
//! view/      what can be rebuilt; may be deleted while the broker is stopped
//! ```
//!
//! Called by `server` at the start, before anything else is opened.

use crate::sys::{DirLock, Disk, Sys};
use crate::types::{BrokerId, ClusterId};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// How the files in the folder are laid out. A program that knows a lower version leaves the folder alone.
const DATA_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"SLUIMETA";
/// Magic, data version, CRC of both: every version begins so.
const HEADER_BYTES: usize = 16;
/// Cluster id, node id, storage id, secret, CRC of all before it.
const FILE_BYTES: usize = HEADER_BYTES + 16 + 4 + 16 + 32 + 4;
const META: &str = "meta";
const META_TEMPORARY: &str = "meta.tmp";
/// What a start that was cut off while formatting leaves behind, and the lock.
const OWN_ENTRIES: [&str; 4] = [".lock", META_TEMPORARY, "metadata", "topics"];

/// Why a data folder can not be used. Each text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataFolderError {
    /// Another process has it.
    #[error("{0}: stop that one, or choose another folder with --data")]
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

/// Without the secret.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster_id", &self.cluster_id)
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}

impl DataFolder {
    /// Locks a folder and reads its identity; formats one that is empty or not there. Blocks.
    ///
    /// # Errors
    /// [`DataFolderError`]; nothing of a folder that is refused is changed.
    pub fn open(sys: &Sys, path: &Path, node: BrokerId) -> Result<Self, DataFolderError> {
        let disk = &*sys.disk;
        let formatted = disk.exists(&path.join(META));
        if !formatted {
            check_unformatted(disk, path)?;
            disk.create_dir_all(path).map_err(|e| write_error(path, &e))?;
        }
        let lock = disk.lock_dir(path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => DataFolderError::InUse(e.to_string()),
            _ => write_error(path, &e),
        })?;
        // Another process may have formatted it between the look and the lock.
        let created = !disk.exists(&path.join(META));
        let identity = if created { format(sys, path, node)? } else { read_identity(disk, path, node)? };
        Ok(Self { path: path.to_owned(), identity, created, _lock: lock })
    }

    /// Locks a folder that has data, whosever it is, to look at it; nothing in it is changed. Blocks.
    ///
    /// # Errors
    /// [`DataFolderError`]; a folder without identity is [`DataFolderError::Corrupt`] or [`DataFolderError::Io`].
    pub fn inspect(sys: &Sys, path: &Path) -> Result<Self, DataFolderError> {
        let disk = &*sys.disk;
        let meta = path.join(META);
        if !disk.exists(&meta) {
            let (path, what) = (meta.display().to_string(), "it is missing".to_owned());
            return Err(DataFolderError::Corrupt { path, what });
        }
        let lock = disk.lock_dir(path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => DataFolderError::InUse(e.to_string()),
            _ => write_error(path, &e),
        })?;
        let bytes = disk.read(&meta).map_err(|e| read_error(&meta, &e))?;
        Ok(Self { path: path.to_owned(), identity: decode(&bytes, path)?, created: false, _lock: lock })
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

/// Refuses a folder without identity that holds anything but what a start that was cut off leaves.
fn check_unformatted(disk: &dyn Disk, path: &Path) -> Result<(), DataFolderError> {
    if !disk.exists(path) {
        return Ok(());
    }
    let entries = disk.read_dir(path).map_err(|e| read_error(path, &e))?;
    for entry in &entries {
        if !OWN_ENTRIES.contains(&entry.name.as_str()) {
            let (path, found) = (path.display().to_string(), entry.name.clone());
            return Err(DataFolderError::NotOurs { path, found });
        }
    }
    for folder in ["metadata", "topics"].map(|name| path.join(name)) {
        let lost = disk.exists(&folder) && !disk.read_dir(&folder).map_err(|e| read_error(&folder, &e))?.is_empty();
        if lost {
            let path = path.join(META).display().to_string();
            return Err(DataFolderError::Corrupt { path, what: "it is missing, and the folder has data".to_owned() });
        }
    }
    Ok(())
}

fn format(sys: &Sys, path: &Path, node: BrokerId) -> Result<Identity, DataFolderError> {
    let disk = &*sys.disk;
    let (mut cluster, mut storage_id, mut secret) = ([0; 16], [0; 16], [0; 32]);
    sys.rng.fill(&mut cluster);
    sys.rng.fill(&mut storage_id);
    sys.rng.fill(&mut secret);
    let identity = Identity { cluster_id: ClusterId::from_random(cluster), node_id: node, storage_id, secret };
    let write = || -> io::Result<()> {
        disk.create_dir_all(&path.join("metadata"))?;
        disk.create_dir_all(&path.join("topics"))?;
        disk.sync_dir(path)?;
        disk.write_private(&path.join(META), &encode(&identity))?;
        sync_parents(disk, path)
    };
    write().map_err(|e| write_error(path, &e))?;
    Ok(identity)
}

/// Makes the folder's own name durable, and those of all above it: any of them may have been made just now, or by a start
/// that a power cut ended before it came here. What may not be opened was not made by us.
fn sync_parents(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    for parent in path.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read_identity(disk: &dyn Disk, path: &Path, node: BrokerId) -> Result<Identity, DataFolderError> {
    let meta = path.join(META);
    let bytes = disk.read(&meta).map_err(|e| read_error(&meta, &e))?;
    let identity = decode(&bytes, path)?;
    if identity.node_id != node {
        let path = path.display().to_string();
        return Err(DataFolderError::OtherNode { path, found: identity.node_id, configured: node });
    }
    let wal = path.join("metadata").join("raft.wal");
    let topics = path.join("topics");
    let has_topics = disk.exists(&topics) && !disk.read_dir(&topics).map_err(|e| read_error(&topics, &e))?.is_empty();
    if has_topics && !disk.exists(&wal) {
        // Starting anew would give topics that nobody knows.
        let what = "it is missing, and there are topics".to_owned();
        return Err(DataFolderError::Corrupt { path: wal.display().to_string(), what });
    }
    // Says at once, and not at the first write, that the folder may only be read.
    disk.write_atomic(&path.join("probe"), b"").map_err(|e| write_error(path, &e))?;
    disk.remove_file(&path.join("probe")).map_err(|e| write_error(path, &e))?;
    // It holds the cluster's secret; earlier versions and copies may have left it readable for others.
    disk.make_private(&meta).map_err(|e| write_error(path, &e))?;
    Ok(identity)
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&DATA_VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(identity.cluster_id.as_bytes());
    bytes.extend_from_slice(&identity.node_id.get().to_le_bytes());
    bytes.extend_from_slice(&identity.storage_id);
    bytes.extend_from_slice(&identity.secret);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], path: &Path) -> Result<Identity, DataFolderError> {
    let damaged = |what: &str| {
        let path = path.join(META).display().to_string();
        DataFolderError::Corrupt { path, what: what.to_owned() }
    };
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("too short"))?;
    if header[..8] != MAGIC {
        return Err(damaged("not the identity of a data folder"));
    }
    if crc32c::crc32c(&header[..12]).to_le_bytes() != header[12..] {
        return Err(damaged("its CRC does not match"));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version > DATA_VERSION {
        let path = path.display().to_string();
        return Err(DataFolderError::NewerVersion { path, found: version, known: DATA_VERSION });
    }
    let (cluster, body) = body.split_first_chunk().ok_or_else(|| damaged("too short"))?;
    let (node, body) = body.split_first_chunk().ok_or_else(|| damaged("too short"))?;
    let (storage_id, body) = body.split_first_chunk().ok_or_else(|| damaged("too short"))?;
    let (secret, crc) = body.split_first_chunk().ok_or_else(|| damaged("too short"))?;
    if crc != crc32c::crc32c(&bytes[..bytes.len() - crc.len()]).to_le_bytes() {
        return Err(damaged("its CRC does not match"));
    }
    let node = i32::from_le_bytes(*node);
    if node < 0 {
        return Err(damaged("a negative node id"));
    }
    Ok(Identity {
        cluster_id: ClusterId::from_bytes(*cluster),
        node_id: BrokerId::new(node),
        storage_id: *storage_id,
        secret: *secret,
    })
}

fn write_error(path: &Path, error: &io::Error) -> DataFolderError {
    DataFolderError::NotWritable { path: path.display().to_string(), kind: error.kind() }
}

fn read_error(path: &Path, error: &io::Error) -> DataFolderError {
    DataFolderError::Io { path: path.display().to_string(), kind: error.kind() }
}

#[cfg(test)]
mod tests;

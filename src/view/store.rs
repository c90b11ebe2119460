//! Where views keep their rows: an ordered map of bytes.
//!
//! **Invariant**: a batch is in the store as a whole or not at all, also after a crash; what a checkpoint covered is
//! there at the next opening, and of the rest the last batches may be missing, never one in the middle. Nothing is the
//! only copy: a store that is damaged is thrown away.
//!
//! Every call may block.

use super::ViewError;
use crate::sys::Disk;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    path::PathBuf,
    sync::Arc,
};

/// Changes that are made together: rows to put, and rows to remove (`None`). The last change of a key counts.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a scan does with a row: key and value in, and whether to go on.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered map of bytes.
pub(super) trait ViewStore: Send + Sync + 'static {
    /// One row.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError>;
    /// The rows whose keys begin with `prefix`, in order, from `from` on.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError>;
    /// Makes these changes together.
    fn apply_batch(&self, changes: Changes) -> Result<(), ViewError>;
    /// Makes everything durable.
    fn checkpoint(&self) -> Result<(), ViewError>;
    /// Whether nothing was ever in it.
    fn is_new(&self) -> bool {
        false
    }
    /// Lets go of the files. Every later call answers [`ViewError::Closed`].
    fn close(&self);
}

/// sled's twin in the simulation: a map in memory, and a file that each checkpoint writes anew.
pub(super) struct MemoryStore {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    rows: RwLock<Option<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// Two checkpoints at once would write one temporary file.
    checkpoint: Mutex<()>,
}

impl MemoryStore {
    /// Reads the file, if there is a whole one.
    pub(super) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Self {
        let rows = disk.read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { disk, path, rows: RwLock::new(Some(rows)), checkpoint: Mutex::new(()) }
    }
}

impl ViewStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.rows.read().as_ref().ok_or(ViewError::Closed)?.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let rows = self.rows.read();
        let rows = rows.as_ref().ok_or(ViewError::Closed)?;
        for (key, value) in rows.range::<[u8], _>((Bound::Included(prefix.max(from)), Bound::Unbounded)) {
            if !key.starts_with(prefix) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply_batch(&self, changes: Changes) -> Result<(), ViewError> {
        let mut rows = self.rows.write();
        let rows = rows.as_mut().ok_or(ViewError::Closed)?;
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ViewError> {
        let _one = self.checkpoint.lock();
        let bytes = encode(self.rows.read().as_ref().ok_or(ViewError::Closed)?);
        self.disk.write_atomic(&self.path, &bytes).map_err(|e| ViewError::Store(e.to_string()))
    }

    fn close(&self) {
        *self.rows.write() = None;
    }
}

fn encode(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for part in rows.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let (crc, mut rest) = bytes.split_first_chunk()?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut part = || {
        let (len, behind) = rest.split_first_chunk()?;
        let (part, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        rest = behind;
        Some(part.to_vec())
    };
    let mut rows = BTreeMap::new();
    while let Some(key) = part() {
        rows.insert(key, part()?);
    }
    Some(rows)
}

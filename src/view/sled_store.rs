//! The rows in sled.
//!
//! sled does its own file I/O, past `sys`: the one exception, and this file is all of it. On Linux its `flush` is
//! `sync_file_range`, which no power cut respects, so a checkpoint syncs a second descriptor of its file. It may panic
//! on damaged files, so it is opened under `catch_unwind`; a folder that does not open is moved aside, and a new one
//! begun.

use super::{
    ViewError,
    store::{Changes, ViewStore, Visit},
};
use crate::sys::{OpenMode, Sys};
use parking_lot::RwLock;
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Written beside sled's files once it failed at work: the next opening does not trust them.
const DISTRUST: &str = "rebuild";

/// A sled database.
pub(super) struct SledStore {
    sys: Sys,
    dir: PathBuf,
    db: RwLock<Option<sled::Db>>,
}

impl SledStore {
    /// Opens the folder, or moves it aside and begins anew.
    pub(super) fn open(sys: &Sys, dir: &Path, cache_bytes: u64) -> Result<Self, ViewError> {
        let disk = &*sys.disk;
        let opened = match disk.exists(&dir.join(DISTRUST)) {
            true => Err("it failed when it was last used".to_owned()),
            false => open_sled(dir, cache_bytes),
        };
        let db = opened.or_else(|reason| {
            tracing::warn!(dir = %dir.display(), reason, "the view can not be opened: it is moved aside and built anew");
            move_aside(sys, dir).map_err(|e| ViewError::Store(format!("moving {} aside: {e}", dir.display())))?;
            open_sled(dir, cache_bytes).map_err(ViewError::Store)
        })?;
        Ok(Self { sys: sys.clone(), dir: dir.to_owned(), db: RwLock::new(Some(db)) })
    }

    fn with<T>(&self, call: impl FnOnce(&sled::Db) -> Result<T, sled::Error>) -> Result<T, ViewError> {
        let db = self.db.read();
        let db = db.as_ref().ok_or(ViewError::Closed)?;
        let result = catch_unwind(AssertUnwindSafe(|| call(db))).map_err(|_| "sled panicked".to_owned());
        result.and_then(|r| r.map_err(|e| e.to_string())).map_err(|reason| {
            let _ = self.sys.disk.write_atomic(&self.dir.join(DISTRUST), reason.as_bytes());
            ViewError::Store(reason)
        })
    }
}

fn open_sled(dir: &Path, cache_bytes: u64) -> Result<sled::Db, String> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None) // the checkpoint does it
        .print_profile_on_drop(false);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(opened) => opened.map_err(|e| e.to_string()),
        Err(_) => Err("sled panicked while opening it".to_owned()),
    }
}

/// Keeps the last folder that did not open, for whoever wants to look.
fn move_aside(sys: &Sys, dir: &Path) -> std::io::Result<()> {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    let aside = dir.with_file_name(name);
    if sys.disk.exists(&aside) {
        sys.disk.remove_dir_all(&aside)?;
    }
    sys.disk.rename(dir, &aside)
}

impl ViewStore for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.with(|db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.with(|db| {
            for row in db.range(prefix.max(from)..) {
                let (key, value) = row?;
                if !key.starts_with(prefix) || visit(&key, &value) == ControlFlow::Break(()) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply_batch(&self, changes: Changes) -> Result<(), ViewError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.with(|db| db.apply_batch(batch))
    }

    fn checkpoint(&self) -> Result<(), ViewError> {
        self.with(|db| db.flush())?;
        let file = self.dir.join("db");
        let synced = self.sys.disk.open(&file, OpenMode::ReadWrite).and_then(|file| file.sync_data());
        synced.map_err(|e| ViewError::Store(format!("syncing {}: {e}", file.display())))
    }

    fn close(&self) {
        let db = self.db.write().take();
        // Its destructor writes, and may panic as everything else in it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

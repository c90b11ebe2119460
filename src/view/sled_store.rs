//! The rows in sled, as [runs](super::run).
//!
//! **Invariant**: what it takes in memory is about three times sled's cache and some ten bytes a key, however many keys.
//! sled alone keeps no bound: see [`SledStore::apply_batch`] and [`note_access`].
//!
//! sled does its own file I/O, past `sys`: the one exception, and this file is all of it. On Linux its `flush` is
//! `sync_file_range`, which no power cut respects, so a checkpoint syncs a second descriptor of its file. It may panic
//! on damaged files, so it is opened under `catch_unwind`; a folder that does not open is moved aside, and a new one
//! begun.

use super::{
    ViewError,
    run::{Damaged, Run},
    store::{Changes, ViewStore, Visit},
};
use crate::sys::{OpenMode, Sys};
use parking_lot::{Mutex, RwLock};
use sled::IVec;
use std::{
    borrow::Cow,
    ops::{Bound, ControlFlow},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Written beside sled's files once it failed at work: the next opening does not trust them.
const DISTRUST: &str = "rebuild";
/// See [`escape`].
const HIGHEST: [u8; 3] = [u8::MAX; 3];
/// sled's tree that holds the runs. Another layout of runs takes another name.
const RUNS: &str = "runs";
/// What stands in the folder's first tree is not in runs.
const OLD_LAYOUT: &str = "its rows are laid out as an earlier version did";
/// sled counts bytes on the disk, which take up to twice that in memory, and what it has yet to count comes on top.
const CACHE_SHARE: u64 = 3;
/// See [`note_access`].
const ACCESS_BYTES: usize = 512;
/// Each frees up to 512 pieces, and a batch leaves a few thousand.
const COLLECTIONS: usize = 1000;

/// A sled database.
pub(super) struct SledStore {
    sys: Sys,
    dir: PathBuf,
    db: RwLock<Option<Open>>,
    /// A change reads the runs that it writes, so there is one at a time.
    changing: Mutex<()>,
}

struct Open {
    db: sled::Db,
    runs: sled::Tree,
}

/// Why sled did not do it.
struct Failed(String);

impl From<sled::Error> for Failed {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Damaged> for Failed {
    fn from(_: Damaged) -> Self {
        Self("a run is damaged".to_owned())
    }
}

impl SledStore {
    /// Opens the folder, or moves it aside and begins anew. `memory` is what it should take, about.
    pub(super) fn open(sys: &Sys, dir: &Path, memory: u64) -> Result<Self, ViewError> {
        let disk = &*sys.disk;
        let opened = match disk.exists(&dir.join(DISTRUST)) {
            true => Err("it failed when it was last used".to_owned()),
            false => open_sled(dir, memory),
        };
        let open = opened.or_else(|reason| {
            if reason == OLD_LAYOUT {
                tracing::info!(dir = %dir.display(), reason, "the view is built anew");
                disk.remove_dir_all(dir).map_err(|e| ViewError::Store(format!("removing {}: {e}", dir.display())))?;
                return open_sled(dir, memory).map_err(ViewError::Store);
            }
            tracing::warn!(dir = %dir.display(), reason, "the view can not be opened: it is moved aside and built anew");
            move_aside(sys, dir).map_err(|e| ViewError::Store(format!("moving {} aside: {e}", dir.display())))?;
            open_sled(dir, memory).map_err(ViewError::Store)
        })?;
        let (sys, dir) = (sys.clone(), dir.to_owned());
        Ok(Self { sys, dir, db: RwLock::new(Some(open)), changing: Mutex::default() })
    }

    fn with<T>(&self, call: impl FnOnce(&Open) -> Result<T, Failed>) -> Result<T, ViewError> {
        let open = self.db.read();
        let open = open.as_ref().ok_or(ViewError::Closed)?;
        let result = catch_unwind(AssertUnwindSafe(|| call(open)));
        result.unwrap_or_else(|_| Err(Failed("sled panicked".to_owned()))).map_err(|Failed(reason)| {
            let _ = self.sys.disk.write_atomic(&self.dir.join(DISTRUST), reason.as_bytes());
            ViewError::Store(reason)
        })
    }
}

fn open_sled(dir: &Path, memory: u64) -> Result<Open, String> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(memory / CACHE_SHARE)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None) // the checkpoint does it
        .print_profile_on_drop(false);
    let open = || {
        let db = config.open()?;
        if !db.is_empty() {
            return Err(Failed(OLD_LAYOUT.to_owned()));
        }
        let runs = db.open_tree(RUNS)?;
        Ok(Open { db, runs })
    };
    let opened = catch_unwind(AssertUnwindSafe(open));
    opened.unwrap_or_else(|_| Err(Failed("sled panicked while opening it".to_owned()))).map_err(|Failed(reason)| reason)
}

/// A key as sled has it: with a zero behind every third 255 in a row, which leaves the order as it is, and a prefix a prefix.
/// sled steps back from a page's lowest key `k` to where `k`, less one, and four times 255 would be; a page between these two
/// is passed over, again and again, until it panics.
fn escape(key: &[u8]) -> Cow<'_, [u8]> {
    if !key.windows(HIGHEST.len()).any(|three| three == HIGHEST) {
        return Cow::Borrowed(key);
    }
    let (mut escaped, mut row) = (Vec::with_capacity(key.len() + key.len() / 3), 0);
    for byte in key {
        escaped.push(*byte);
        row = if *byte == u8::MAX { row + 1 } else { 0 };
        if row == HIGHEST.len() {
            escaped.push(0);
            row = 0;
        }
    }
    Cow::Owned(escaped)
}

/// The key again.
fn unescape(key: &[u8]) -> Cow<'_, [u8]> {
    if !key.windows(HIGHEST.len()).any(|three| three == HIGHEST) {
        return Cow::Borrowed(key);
    }
    let (mut plain, mut row) = (Vec::with_capacity(key.len()), 0);
    for byte in key {
        if row == HIGHEST.len() {
            row = 0; // the zero that was put there
            continue;
        }
        plain.push(*byte);
        row = if *byte == u8::MAX { row + 1 } else { 0 };
    }
    Cow::Owned(plain)
}

/// The run in which a key's row must be, if there is one: its key and bytes.
fn run_at(runs: &sled::Tree, key: &[u8]) -> Result<Option<(IVec, IVec)>, Failed> {
    let found = runs.range::<&[u8], _>(..=key).next_back().transpose()?;
    if let Some((start, bytes)) = &found {
        note_access(runs, start, bytes.len())?;
    }
    Ok(found)
}

/// Tells sled's cache how much this run is. It looks at its size only after 64 accesses in one of its 256 parts, and all
/// pages that came meanwhile stay, however large: 640 MiB more were seen with values of 16 KiB. So a large run is
/// accessed as often as so many small ones.
fn note_access(runs: &sled::Tree, start: &[u8], bytes: usize) -> Result<(), Failed> {
    for _ in 0..=bytes / ACCESS_BYTES {
        runs.contains_key(start)?;
    }
    Ok(())
}

/// Puts the changes of some rows into the batch, run by run, and notes how large the new ones are.
fn change_runs(runs: &sled::Tree, changes: Changes, batch: &mut sled::Batch) -> Result<Vec<(Vec<u8>, usize)>, Failed> {
    let (mut changes, mut written) = (changes.into_iter().peekable(), Vec::new());
    while let Some((first, _)) = changes.peek() {
        let (start, bytes) = run_at(runs, first)?.unwrap_or_else(|| (IVec::from(first.as_slice()), IVec::default()));
        let above = runs.range::<&[u8], _>((Bound::Excluded(&start[..]), Bound::Unbounded)).next().transpose()?;
        let belongs = |key: &[u8]| above.as_ref().is_none_or(|(above, _)| key < &above[..]);
        let here = std::iter::from_fn(|| changes.next_if(|(key, _)| belongs(key)));
        let changed = Run { key: &start, bytes: &bytes }.changed(here)?;
        if changed.is_empty() {
            batch.remove(&start);
        }
        for (start, bytes) in changed {
            written.push((start.clone(), bytes.len()));
            batch.insert(start, bytes);
        }
    }
    Ok(written)
}

/// Frees what sled gave up: crossbeam's collector does so once nobody looks at it any more, but by itself only a little
/// at each 128th call of sled, however much a call leaves.
fn collect_garbage() {
    let collected = Arc::new(AtomicBool::new(false));
    let last = Arc::clone(&collected);
    // What is given up is freed in order, so this comes last.
    crossbeam_epoch::pin().defer(move || last.store(true, Ordering::Relaxed));
    for _ in 0..COLLECTIONS {
        if collected.load(Ordering::Relaxed) {
            return;
        }
        crossbeam_epoch::pin().flush();
    }
    // Somebody is still looking; the next batch comes back to it.
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
        let key = escape(key);
        self.with(|Open { runs, .. }| {
            let Some((start, bytes)) = run_at(runs, &key)? else { return Ok(None) };
            Ok(Run { key: &start, bytes: &bytes }.get(&key)?.map(<[u8]>::to_vec))
        })
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let (prefix, from) = (&*escape(prefix), &*escape(prefix.max(from)));
        self.with(|Open { runs, .. }| {
            let first = run_at(runs, from)?.map_or_else(|| IVec::from(from), |(start, _)| start);
            let (mut key, mut before) = (Vec::new(), Vec::new());
            let mut flow = ControlFlow::Continue(());
            for run in runs.range(first..) {
                let (start, bytes) = run?;
                note_access(runs, &start, bytes.len())?;
                Run { key: &start, bytes: &bytes }.for_each(&mut key, |key, value| {
                    // A run that was divided meanwhile has rows that were already seen.
                    if key < from || key <= &before[..] {
                        return ControlFlow::Continue(());
                    }
                    flow = if key.starts_with(prefix) { visit(&unescape(key), value) } else { ControlFlow::Break(()) };
                    flow
                })?;
                if flow.is_break() {
                    break;
                }
                if key > before {
                    std::mem::swap(&mut key, &mut before);
                }
            }
            Ok(())
        })
    }

    /// A batch is one call of sled, and what it gives up (a page for each change) waits for the end of that call: so
    /// batches should be small. The garbage of large ones was never caught up with; it took 1.2 KiB a key.
    fn apply_batch(&self, changes: Changes) -> Result<(), ViewError> {
        let _one = self.changing.lock();
        let escaped = |(key, value): (Vec<u8>, _)| match escape(&key) {
            Cow::Owned(escaped) => (escaped, value),
            Cow::Borrowed(_) => (key, value),
        };
        let changes: Changes = changes.into_iter().map(escaped).collect();
        let applied = self.with(|Open { runs, .. }| {
            let mut batch = sled::Batch::default();
            let written = change_runs(runs, changes, &mut batch)?;
            runs.apply_batch(batch)?;
            written.iter().try_for_each(|(start, bytes)| note_access(runs, start, *bytes))
        });
        collect_garbage();
        applied
    }

    fn checkpoint(&self) -> Result<(), ViewError> {
        self.with(|Open { db, .. }| Ok(db.flush().map(drop)?))?;
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

#[cfg(test)]
mod tests;

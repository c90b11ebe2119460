//! Descriptors of all partitions, at most so many open at once.
//!
//! **Invariant**: a file with unsynced writes is synced before its descriptor is closed, and a sync that failed is
//! remembered in its [`FileSlot`], for the log that owns it to go offline. A file in use is never closed.
//!
//! Called by segments, from any thread; only with [`Access::Blocking`] does it open, close or sync.

use crate::sys::{Disk, File, OpenMode};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How many files an eviction looks at: with more than that in use, the limit is exceeded for a moment.
const EVICTION_ATTEMPTS: usize = 16;

/// Whether a call may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Only what is in memory, and descriptors that are open; else `WouldBlock`. For async threads.
    Resident,
    /// Anything. For the pool's threads.
    Blocking,
}

/// One file that may be open.
#[derive(Debug)]
pub(super) struct FileSlot {
    id: u64,
    path: PathBuf,
    dirty: AtomicBool,
    failed: AtomicBool,
    retired: AtomicBool,
}

impl FileSlot {
    /// Names a file.
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let no = || AtomicBool::new(false);
        Arc::new(Self { id, path, dirty: no(), failed: no(), retired: no() })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unique while the process runs, also among files of one path.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Something was written that must be synced before the descriptor may go.
    pub(super) fn mark_dirty(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// It was synced.
    pub(super) fn mark_clean(&self) {
        self.dirty.store(false, Ordering::Release);
    }

    /// From now on its path belongs to another file, or to none: it is not opened again.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    /// A sync on the way to closing it failed: nothing may be assumed of what was written since the last good one.
    pub(super) fn sync_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

struct Entry {
    slot: Arc<FileSlot>,
    file: Arc<dyn File>,
    tick: u64,
}

#[derive(Default)]
struct Lru {
    by_id: BTreeMap<u64, Entry>,
    by_tick: BTreeMap<u64, u64>,
    next_tick: u64,
}

impl Lru {
    fn touch(&mut self, id: u64) -> Option<Arc<dyn File>> {
        let tick = self.next_tick;
        let entry = self.by_id.get_mut(&id)?;
        self.by_tick.remove(&entry.tick);
        self.by_tick.insert(tick, id);
        entry.tick = tick;
        self.next_tick += 1;
        Some(Arc::clone(&entry.file))
    }

    fn insert(&mut self, slot: &Arc<FileSlot>, file: Arc<dyn File>) -> Arc<dyn File> {
        if let Some(other) = self.touch(slot.id) {
            return other; // another thread opened it meanwhile
        }
        let tick = self.next_tick;
        self.next_tick += 1;
        self.by_tick.insert(tick, slot.id);
        self.by_id.insert(slot.id, Entry { slot: Arc::clone(slot), file: Arc::clone(&file), tick });
        file
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        self.by_tick.remove(&entry.tick);
        Some(entry)
    }

    /// Takes out the longest unused files that nobody holds.
    fn evict(&mut self, limit: usize) -> Vec<Entry> {
        let excess = self.by_id.len().saturating_sub(limit);
        let idle = |id: &u64| self.by_id.get(id).is_some_and(|entry| Arc::strong_count(&entry.file) == 1);
        let ids: Vec<u64> =
            self.by_tick.values().copied().take(EVICTION_ATTEMPTS + excess).filter(idle).take(excess).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }
}

/// The open files of a broker.
pub(super) struct OpenFiles {
    disk: Arc<dyn Disk>,
    limit: usize,
    lru: Mutex<Lru>,
}

impl OpenFiles {
    /// None open yet.
    pub(super) fn new(disk: Arc<dyn Disk>, limit: usize) -> Self {
        Self { disk, limit: limit.max(1), lru: Mutex::new(Lru::default()) }
    }

    /// The disk below.
    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The file, opened for reading and writing if it is not open.
    ///
    /// # Errors
    /// `WouldBlock` with [`Access::Resident`] if it is not open; `NotFound` if it has been replaced; else what the disk
    /// says.
    pub(super) fn get(&self, slot: &Arc<FileSlot>, access: Access) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.lru.lock().touch(slot.id) {
            return Ok(file);
        }
        if access == Access::Resident {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let file = self.disk.open(&slot.path, OpenMode::ReadWrite)?;
        // After the opening: who replaces the file retires the slot first, so what was opened before is the old one.
        if slot.retired.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.keep(slot, file))
    }

    /// Makes the file, empty, whatever was there.
    pub(super) fn create(&self, slot: &Arc<FileSlot>) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(&slot.path, OpenMode::Create)?;
        if !file.is_empty()? {
            file.set_len(0)?;
        }
        Ok(self.keep(slot, file))
    }

    /// Forgets a file that is being removed.
    pub(super) fn close(&self, slot: &FileSlot) {
        let removed = self.lru.lock().remove(slot.id);
        drop(removed); // closed outside the lock
    }

    fn keep(&self, slot: &Arc<FileSlot>, file: Arc<dyn File>) -> Arc<dyn File> {
        let (file, evicted) = {
            let mut lru = self.lru.lock();
            let file = lru.insert(slot, file);
            (file, lru.evict(self.limit))
        };
        for entry in evicted {
            if entry.slot.dirty.swap(false, Ordering::AcqRel)
                && let Err(error) = entry.file.sync_data()
            {
                tracing::error!(path = %entry.slot.path.display(), %error, "sync before close failed");
                entry.slot.failed.store(true, Ordering::Release);
            }
        }
        file
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lru.lock().by_id.len()
    }
}

/// Reads up to `buf.len()` bytes, as `access` allows; fewer only at the end of the file.
pub(super) fn read_up_to(file: &dyn File, access: Access, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        let n = match access {
            Access::Resident => file.try_read_at(&mut buf[done..], at)?,
            Access::Blocking => file.read_at(&mut buf[done..], at)?,
        };
        if n == 0 {
            break;
        }
        done += n;
    }
    Ok(done)
}

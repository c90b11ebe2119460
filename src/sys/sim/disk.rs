//! The disk's twin: files and folders in memory that outlive their machine, and lose what was not synced.
//!
//! **The faults it models.** A power cut leaves what was synced, and of the rest any subset of sectors, lengths and
//! names. A killed process leaves all it wrote. A sync that fails loses what it was asked to sync, at the next power
//! cut, while readers see it until then and later syncs succeed. A full disk takes a part of the write. Calls fail, and
//! bits flip, where a test asks for it. It does not model: sectors torn inside, bytes that come back wrong without
//! having been damaged, a disk that lies about a sync.
//!
//! **Invariant**: a machine that lost its power, or whose process was killed, can do nothing any more: each call of
//! what it mounted fails.

use super::SimRng;
use super::folder_state::{Inode, Tree};
use crate::sys::{DirEntry, DirLock, Disk, File, OpenMode};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// The free space of a disk without a set capacity.
const UNBOUNDED: u64 = 1 << 40;
/// Linux's number for an error of the device.
const EIO: i32 = 5;
/// Linux's number for a full device.
const ENOSPC: i32 = 28;

/// A call that a test can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOperation {
    /// Opening or creating a file.
    Open,
    /// Reading.
    Read,
    /// Writing; nothing of the write is done.
    Write,
    /// `sync_data` and `sync_all`.
    Sync,
    /// Changing a length.
    SetLen,
    /// Renaming; the path is the source's.
    Rename,
    /// Removing a file or a folder.
    Remove,
    /// Syncing a folder; the changes stay undecided, and a later sync makes them durable.
    SyncDir,
}

/// A fault to come.
#[derive(Debug, Clone)]
pub struct DiskFault {
    operation: DiskOperation,
    path_part: String,
    skip: u64,
    times: u64,
    errno: i32,
}

impl DiskFault {
    /// The next such call on a path that contains `path_part` fails with EIO.
    #[must_use]
    pub fn new(operation: DiskOperation, path_part: &str) -> Self {
        Self { operation, path_part: path_part.to_owned(), skip: 0, times: 1, errno: EIO }
    }

    /// After this many calls that succeed.
    #[must_use]
    pub const fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// This many calls fail, and not one.
    #[must_use]
    pub const fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }

    /// With this error number of Linux.
    #[must_use]
    pub const fn errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }
}

/// The hardware. Clones are the same disk; a machine uses it through [`SimDisk::mount`].
#[derive(Clone)]
pub struct SimDisk {
    hardware: Arc<Mutex<Hardware>>,
}

struct Hardware {
    tree: Tree,
    rng: SimRng,
    /// Which machine's calls are answered.
    machine: u64,
    is_down: bool,
    locks: BTreeSet<PathBuf>,
    faults: Vec<DiskFault>,
    faults_hit: u64,
    capacity: Option<u64>,
    /// Changes until the power goes.
    countdown: Option<u64>,
    changes: u64,
}

impl SimDisk {
    /// An empty disk; what it loses follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let hardware = Hardware {
            tree: Tree::default(),
            rng: SimRng::new(seed),
            machine: 0,
            is_down: true,
            locks: BTreeSet::new(),
            faults: Vec::new(),
            faults_hit: 0,
            capacity: None,
            countdown: None,
            changes: 0,
        };
        Self { hardware: Arc::new(Mutex::new(hardware)) }
    }

    /// Starts a machine on it. The one before, if there still is one, is killed.
    #[must_use]
    pub fn mount(&self) -> Arc<dyn Disk> {
        let mut hardware = self.hardware.lock();
        hardware.stop_machine();
        hardware.is_down = false;
        Arc::new(Mounted { machine: hardware.machine, hardware: self.hardware.clone() })
    }

    /// Takes the power away, now. Drop the machine's runtime afterwards.
    pub fn power_cut(&self) {
        self.hardware.lock().cut_power();
    }

    /// Takes the power away just before the machine's `n`-th change from now (a write, a sync, a new name), which may
    /// be in the middle of a step. See [`Self::is_down`].
    pub fn power_cut_after(&self, n: u64) {
        self.hardware.lock().countdown = Some(n);
    }

    /// Kills the process: all that it wrote stays, its handles and locks go.
    pub fn process_crash(&self) {
        self.hardware.lock().stop_machine();
    }

    /// Whether no machine is running on it.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.hardware.lock().is_down
    }

    /// Makes calls fail.
    pub fn inject(&self, fault: DiskFault) {
        self.hardware.lock().faults.push(fault);
    }

    /// Takes back the faults that have not come yet.
    pub fn clear_faults(&self) {
        self.hardware.lock().faults.clear();
    }

    /// How many calls an injected fault has failed.
    #[must_use]
    pub fn faults_hit(&self) -> u64 {
        self.hardware.lock().faults_hit
    }

    /// Bytes that all files together may have; `None` for no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.hardware.lock().capacity = bytes;
    }

    /// How many changes machines have made to it: writes, syncs, names.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.hardware.lock().changes
    }

    /// All files, with their lengths, by path.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut hardware = self.hardware.lock();
        let named = hardware.tree.named_files();
        let with_len = |(path, inode)| (PathBuf::from(path), hardware.tree.file(inode).map_or(0, |file| file.len()));
        named.into_iter().map(with_len).collect()
    }

    /// Flips a bit of a file, on the medium and in what readers see. Past its end nothing happens.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut hardware = self.hardware.lock();
        let inode = hardware.tree.find(path).expect("the test names a file that is there");
        hardware.tree.file(inode).expect("the test names a file").flip_bit(offset, bit);
    }
}

impl Hardware {
    fn stop_machine(&mut self) {
        self.machine += 1;
        self.is_down = true;
        self.countdown = None;
        self.locks.clear();
    }

    fn cut_power(&mut self) {
        self.stop_machine();
        self.tree.cut_power(&self.rng);
    }

    fn fault(&mut self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        let text = path.to_string_lossy();
        for fault in &mut self.faults {
            if fault.operation != operation || !text.contains(&fault.path_part) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                self.faults_hit += 1;
                return Err(io::Error::from_raw_os_error(fault.errno));
            }
        }
        Ok(())
    }

    /// Counts a change, before which the power may go.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.countdown {
            Some(0 | 1) => {
                self.cut_power();
                return Err(gone());
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    /// Makes room for a file of `len` bytes to become one of `end`, and gives how far it may really go.
    fn room(&self, len: u64, end: u64) -> u64 {
        let Some(capacity) = self.capacity else { return end };
        if end <= len { end } else { end.min(len + capacity.saturating_sub(self.tree.used_bytes())) }
    }
}

fn gone() -> io::Error {
    io::Error::other("this machine is gone")
}

/// The disk as one machine sees it.
struct Mounted {
    hardware: Arc<Mutex<Hardware>>,
    machine: u64,
}

fn running(hardware: &Mutex<Hardware>, machine: u64) -> io::Result<MutexGuard<'_, Hardware>> {
    let hardware = hardware.lock();
    if hardware.machine == machine { Ok(hardware) } else { Err(gone()) }
}

impl Mounted {
    fn running(&self) -> io::Result<MutexGuard<'_, Hardware>> {
        running(&self.hardware, self.machine)
    }
}

impl Disk for Mounted {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::Open, path)?;
        let inode = match (hardware.tree.find(path), mode) {
            (Some(_), OpenMode::CreateNew | OpenMode::CreatePrivate) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), _) => inode,
            (None, OpenMode::Create | OpenMode::CreateNew | OpenMode::CreatePrivate) => {
                hardware.change()?;
                hardware.tree.create_file(path)?
            }
        };
        hardware.tree.file(inode)?;
        Ok(Arc::new(SimFile {
            hardware: self.hardware.clone(),
            machine: self.machine,
            inode,
            path: path.to_owned(),
            writable: mode != OpenMode::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut hardware = self.running()?;
        hardware.change()?;
        hardware.tree.create_folders(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let entries = self.running()?.tree.entries(path)?;
        Ok(entries.into_iter().map(|(name, is_dir)| DirEntry { name, is_dir }).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.running().is_ok_and(|hardware| hardware.tree.find(path).is_some())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::Rename, from)?;
        hardware.change()?;
        hardware.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::Remove, path)?;
        hardware.change()?;
        hardware.tree.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::Remove, path)?;
        hardware.change()?;
        hardware.tree.remove_folder(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::SyncDir, path)?;
        hardware.change()?;
        hardware.tree.sync_folder(path)
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let hardware = self.running()?;
        Ok(hardware.capacity.map_or(UNBOUNDED, |capacity| capacity.saturating_sub(hardware.tree.used_bytes())))
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let mut hardware = self.running()?;
        if !hardware.locks.insert(path.to_owned()) {
            let text = format!("{} is in use", path.display());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        Ok(Box::new(Lock { hardware: self.hardware.clone(), machine: self.machine, path: path.to_owned() }))
    }
}

struct Lock {
    hardware: Arc<Mutex<Hardware>>,
    machine: u64,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Ok(mut hardware) = running(&self.hardware, self.machine) {
            hardware.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    hardware: Arc<Mutex<Hardware>>,
    machine: u64,
    inode: Inode,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn running(&self) -> io::Result<MutexGuard<'_, Hardware>> {
        running(&self.hardware, self.machine)
    }

    fn writing(&self, operation: DiskOperation) -> io::Result<MutexGuard<'_, Hardware>> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut hardware = self.running()?;
        hardware.fault(operation, &self.path)?;
        hardware.change()?;
        Ok(hardware)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut hardware = self.running()?;
        hardware.fault(DiskOperation::Read, &self.path)?;
        Ok(hardware.tree.file(self.inode)?.read(buf, offset))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        // So that both ways of reading are gone, whatever is in memory.
        if self.running()?.rng.one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut hardware = self.writing(DiskOperation::Write)?;
        let len = hardware.tree.file(self.inode)?.len();
        let end = offset + buf.len() as u64;
        let room = hardware.room(len, end);
        let fits = room.saturating_sub(offset).min(buf.len() as u64) as usize;
        hardware.tree.file(self.inode)?.write(&buf[..fits], offset);
        if fits < buf.len() { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut hardware = self.running()?;
        let fault = hardware.fault(DiskOperation::Sync, &self.path);
        hardware.change()?;
        let Hardware { tree, rng, .. } = &mut *hardware;
        let file = tree.file(self.inode)?;
        match fault {
            Ok(()) => file.sync(),
            Err(_) => file.fail_sync(rng),
        }
        fault
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut hardware = self.writing(DiskOperation::SetLen)?;
        hardware.tree.file(self.inode)?.set_len(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.running()?.tree.file(self.inode)?.len())
    }
}

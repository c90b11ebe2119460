//! The machine's file system: `std::fs`, and `rustix` where that has no call.
//!
//! **Invariant**: a sync that returns `Ok` reached the device (`fdatasync`, `fsync`); an error of it is passed on and
//! never retried here. A short write is either completed or an error.

use super::disk::{DirEntry, DirLock, Disk, File, OpenMode};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs;
use std::io::{self, IoSliceMut, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// The file in a data folder whose lock says that a process uses the folder; it carries that process's id.
const LOCK_FILE: &str = ".lock";

/// Readable and writable by this user only.
const PRIVATE: u32 = 0o600;

/// The machine's file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::CreatePrivate => options.write(true).create_new(true).mode(PRIVATE),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // Every name that we write is UTF-8; what is not ours still has to show, so that it can be set aside.
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        // `bavail`, not `bfree`: what root keeps for itself is not ours.
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let file_path = path.join(LOCK_FILE);
        // Not truncated on opening: until the lock is ours, the process id in it is another's.
        let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file_path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(&file_path).unwrap_or_default();
                let holder = holder.trim();
                let by = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                let text = format!("{} is in use by another process{by}", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        // The file stays when the lock is dropped: removing it would let two processes lock two files of one name.
        Ok(Box::new(file))
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n),
            // Some file systems (and old kernels) can not say; then a thread that may block has to ask.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn what_is_written_is_read_back_at_its_place() {
        let dir = folder();
        let path = dir.path().join("f");
        let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello ", 0).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.len().unwrap(), 11);
        assert_eq!(RealDisk.read(&path).unwrap(), b"hello world");

        let mut buf = [0; 32];
        assert_eq!(file.read_at(&mut buf, 6).unwrap(), 5);
        assert_eq!(&buf[..5], b"world");
        assert_eq!(file.read_at(&mut buf, 11).unwrap(), 0, "0 at the end");
        let error = file.read_exact_at(&mut buf, 6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

        file.set_len(8).unwrap();
        file.set_len(10).unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"hello wo\0\0");
    }

    #[test]
    fn a_read_that_may_not_block_gives_the_bytes_or_says_so() {
        let dir = folder();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        file.write_all_at(b"in the page cache", 0).unwrap();
        let mut buf = [0; 32];
        match file.try_read_at(&mut buf, 7) {
            Ok(n) => assert_eq!(&buf[..n], b"page cache"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    #[test]
    fn each_mode_opens_what_it_says() {
        let dir = folder();
        let path = dir.path().join("f");
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            assert_eq!(RealDisk.open(&path, mode).err().map(|e| e.kind()), Some(io::ErrorKind::NotFound), "{mode:?}");
        }
        RealDisk.open(&path, OpenMode::Create).unwrap().write_all_at(b"kept", 0).unwrap();
        RealDisk.open(&path, OpenMode::Create).unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"kept", "opening does not truncate");
        let again = RealDisk.open(&path, OpenMode::CreateNew).err().map(|e| e.kind());
        assert_eq!(again, Some(io::ErrorKind::AlreadyExists));
        assert!(RealDisk.open(&path, OpenMode::Read).unwrap().write_all_at(b"x", 0).is_err());
        RealDisk.open(&path, OpenMode::ReadWrite).unwrap().write_all_at(b"K", 0).unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"Kept");
    }

    #[test]
    fn folders_are_listed_in_order_and_move_whole() {
        let dir = folder();
        let deep = dir.path().join("a/b");
        RealDisk.create_dir_all(&deep).unwrap();
        RealDisk.open(&dir.path().join("a/z"), OpenMode::Create).unwrap();
        RealDisk.open(&dir.path().join("a/a"), OpenMode::Create).unwrap();
        let entries = RealDisk.read_dir(&dir.path().join("a")).unwrap();
        let expected = [("a", false), ("b", true), ("z", false)];
        assert_eq!(entries.iter().map(|e| (e.name.as_str(), e.is_dir)).collect::<Vec<_>>(), expected);

        RealDisk.rename(&dir.path().join("a"), &dir.path().join("c")).unwrap();
        RealDisk.sync_dir(dir.path()).unwrap();
        assert!(RealDisk.exists(&dir.path().join("c/b")) && !RealDisk.exists(&dir.path().join("a")));
        RealDisk.remove_file(&dir.path().join("c/z")).unwrap();
        RealDisk.remove_dir_all(&dir.path().join("c")).unwrap();
        assert_eq!(RealDisk.read_dir(dir.path()).unwrap(), []);
        assert!(RealDisk.free_space(dir.path()).unwrap() > 0);
    }

    #[test]
    fn an_atomic_write_replaces_the_file_and_what_an_earlier_try_left() {
        let dir = folder();
        let path = dir.path().join("meta");
        fs::write(dir.path().join("meta.tmp"), b"half of an old o").unwrap();
        RealDisk.write_atomic(&path, b"one").unwrap();
        RealDisk.write_atomic(&path, b"2").unwrap();
        assert_eq!(RealDisk.read(&path).unwrap(), b"2");
        assert_eq!(RealDisk.read_dir(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_folder_is_locked_once_and_the_refusal_names_the_holder() {
        let dir = folder();
        let lock = RealDisk.lock_dir(dir.path()).unwrap();
        let error = RealDisk.lock_dir(dir.path()).err().expect("it is locked");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert!(RealDisk.lock_dir(dir.path()).is_ok());
    }
}

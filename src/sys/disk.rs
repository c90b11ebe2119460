//! Files and folders, as the log and the metadata store need them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How [`Disk::open`] treats a file that is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist; only read.
    Read,
    /// It must exist; read and write.
    ReadWrite,
    /// Made if it does not exist; read and write.
    Create,
    /// It must not exist; read and write.
    CreateNew,
    /// The same, and nobody but this user may read it, from the first moment on.
    CreatePrivate,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The last part of its path.
    pub name: String,
    /// A folder, and not a file.
    pub is_dir: bool,
}

/// Held while this process uses a data folder; dropping it lets the folder go.
pub type DirLock = Box<dyn Send + Sync>;

/// A file system. All calls may block; on an async thread only [`File::try_read_at`] may be called.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Makes a folder and all above it. Durable only after [`Self::sync_dir`] of each parent.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The folder's entries, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether something is there.
    fn exists(&self, path: &Path) -> bool;
    /// Moves a file or folder over what is there. Durable only after [`Self::sync_dir`] of the parent.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in this folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Takes the folder for this process alone.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it.
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock>;

    /// Writes a small file so that a crash leaves the old or the new one whole: temporary file, sync, rename, sync of
    /// the folder.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        replace_file(self, path, bytes, OpenMode::CreateNew)
    }

    /// The same for a secret: nobody but this user may read it.
    fn write_private(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        replace_file(self, path, bytes, OpenMode::CreatePrivate)
    }

    /// Takes the right to read a file from everybody but this user, if others have it. Where there are no users, nothing.
    fn make_private(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    /// A whole file; for small ones.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

fn replace_file<D: Disk + ?Sized>(disk: &D, path: &Path, bytes: &[u8], mode: OpenMode) -> io::Result<()> {
    let temporary = temporary_path(path);
    if disk.exists(&temporary) {
        disk.remove_file(&temporary)?;
    }
    let file = disk.open(&temporary, mode)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// An open file, addressed by position, so that many threads may use it at once.
pub trait File: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads only what is in memory already (`preadv2` with `RWF_NOWAIT`), so that it may be called on an async thread.
    ///
    /// # Errors
    /// `WouldBlock` if the disk would have to be asked: call [`Self::read_at`] on a thread that may block.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, with the length but without other attributes (`fdatasync`).
    ///
    /// After an error nothing may be assumed of any write since the last success, and it must not simply be
    /// called again: the kernel marks the pages clean.
    fn sync_data(&self) -> io::Result<()>;

    /// The same with all attributes (`fsync`).
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros, sparse).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends first.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
            }
        }
        Ok(())
    }
}

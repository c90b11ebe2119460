//! The folders of the simulated disk: what readers see, and which creations, renames and removals a power cut undoes.
//!
//! **Invariant**: a change survives once its folder was synced. Before that it may go, alone or with others; but not
//! without those that came after it at the same name, and a rename goes or stays as a whole, also between two
//! folders.

use super::SimRng;
use super::file_state::FileState;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

/// The number of a file or folder, for as long as it has a name or a handle.
pub(super) type Inode = u64;
const ROOT: Inode = 0;

/// One name in one folder.
type Name = (Inode, String);

/// A change of names that happens as a whole.
#[derive(Debug)]
struct Change(Vec<(Name, Option<Inode>)>);

impl Change {
    fn names(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|(name, _)| name)
    }
}

#[derive(Debug, Default)]
struct Folder {
    cached: BTreeMap<String, Inode>,
    durable: BTreeMap<String, Inode>,
}

/// All files and folders.
#[derive(Debug)]
pub(super) struct Tree {
    files: BTreeMap<Inode, FileState>,
    folders: BTreeMap<Inode, Folder>,
    next: Inode,
    /// Changes that are not durable, in order.
    pending: Vec<Change>,
}

impl Default for Tree {
    fn default() -> Self {
        let folders = [(ROOT, Folder::default())].into();
        Self { files: BTreeMap::new(), folders, next: ROOT + 1, pending: Vec::new() }
    }
}

impl Tree {
    pub(super) fn find(&self, path: &Path) -> Option<Inode> {
        let mut at = ROOT;
        for name in names_of(path) {
            at = *self.folders.get(&at)?.cached.get(&name)?;
        }
        Some(at)
    }

    pub(super) fn is_folder(&self, inode: Inode) -> bool {
        self.folders.contains_key(&inode)
    }

    pub(super) fn file(&mut self, inode: Inode) -> io::Result<&mut FileState> {
        self.files.get_mut(&inode).ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    pub(super) fn entries(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let folder = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        let folder = self.folders.get(&folder).ok_or(io::ErrorKind::NotADirectory)?;
        Ok(folder.cached.iter().map(|(name, inode)| (name.clone(), self.is_folder(*inode))).collect())
    }

    fn parent(&self, path: &Path) -> io::Result<Name> {
        let mut names = names_of(path);
        let name = names.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = ROOT;
        for name in names {
            let folder = self.folders.get(&at).ok_or(io::ErrorKind::NotADirectory)?;
            at = *folder.cached.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        if !self.is_folder(at) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((at, name))
    }

    fn change(&mut self, names: Vec<(Name, Option<Inode>)>) {
        for ((folder, name), inode) in &names {
            let folder = self.folders.get_mut(folder).expect("a change is made in a folder that was found");
            set(&mut folder.cached, name, *inode);
        }
        self.pending.push(Change(names));
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        let name = self.parent(path)?;
        let inode = self.new_inode();
        self.files.insert(inode, FileState::default());
        self.change(vec![(name, Some(inode))]);
        Ok(inode)
    }

    pub(super) fn create_folders(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names_of(path) {
            let folder = self.folders.get(&at).ok_or(io::ErrorKind::NotADirectory)?;
            at = match folder.cached.get(&name) {
                Some(inode) => *inode,
                None => {
                    let inode = self.new_inode();
                    self.folders.insert(inode, Folder::default());
                    self.change(vec![((at, name), Some(inode))]);
                    inode
                }
            };
        }
        if self.is_folder(at) { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    fn new_inode(&mut self) -> Inode {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        let (source, target) = (self.parent(from)?, self.parent(to)?);
        if source == target {
            return Ok(());
        }
        if let Some(there) = self.find(to) {
            match (self.folders.get(&inode), self.folders.get(&there)) {
                (None, None) => {}
                (Some(_), Some(there)) if there.cached.is_empty() => {}
                (Some(_), Some(_)) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (Some(_), None) => return Err(io::ErrorKind::NotADirectory.into()),
                (None, Some(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            }
        }
        self.change(vec![(source, None), (target, Some(inode))]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        if self.is_folder(inode) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let name = self.parent(path)?;
        self.change(vec![(name, None)]);
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        for (name, is_folder) in self.entries(path)? {
            let path = path.join(name);
            if is_folder { self.remove_folder(&path)? } else { self.remove_file(&path)? }
        }
        let name = self.parent(path)?;
        self.change(vec![(name, None)]);
        Ok(())
    }

    /// Makes the changes in this folder durable, and those that they build on.
    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.find(path).ok_or(io::ErrorKind::NotFound)?;
        if !self.is_folder(folder) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let mut needed: BTreeSet<Name> = BTreeSet::new();
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if change.names().any(|name| name.0 == folder || needed.contains(name)) {
                needed.extend(change.names().cloned());
                taken.push(change);
            } else {
                left.push(change);
            }
        }
        left.reverse();
        self.pending = left;
        for change in taken.into_iter().rev() {
            self.make_durable(change);
        }
        Ok(())
    }

    fn make_durable(&mut self, change: Change) {
        for ((folder, name), inode) in change.0 {
            // A folder that is gone for good takes its entries with it.
            if let Some(folder) = self.folders.get_mut(&folder) {
                set(&mut folder.durable, &name, inode);
            }
        }
    }

    /// Turns into what the medium holds after the power went.
    pub(super) fn cut_power(&mut self, rng: &SimRng) {
        let odds = rng.below(5);
        let mut undone: BTreeSet<Name> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            if change.names().all(|name| !undone.contains(name)) && rng.below(4) < odds {
                self.make_durable(change);
            } else {
                undone.extend(change.names().cloned());
            }
        }
        for folder in self.folders.values_mut() {
            folder.cached = folder.durable.clone();
        }
        for file in self.files.values_mut() {
            file.cut_power(rng);
        }
        self.forget_unnamed();
    }

    /// Forgets what has no name any more, once no process can hold it open.
    pub(super) fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut walk = vec![ROOT];
        while let Some(inode) = walk.pop() {
            let Some(folder) = self.folders.get(&inode) else { continue };
            // What only a durable name holds comes back if the removal is undone.
            for inode in folder.cached.values().chain(folder.durable.values()) {
                if named.insert(*inode) {
                    walk.push(*inode);
                }
            }
        }
        let pending: BTreeSet<Inode> = self.pending.iter().flat_map(|c| c.0.iter().filter_map(|(_, i)| *i)).collect();
        let keep = |inode: &Inode| named.contains(inode) || pending.contains(inode);
        self.files.retain(|inode, _| keep(inode));
        self.folders.retain(|inode, _| keep(inode));
    }

    /// Each file with a name, by path, in order.
    pub(super) fn named_files(&self) -> Vec<(String, Inode)> {
        let mut found = Vec::new();
        let mut walk = vec![(String::new(), ROOT)];
        while let Some((path, inode)) = walk.pop() {
            match self.folders.get(&inode) {
                Some(folder) => walk.extend(folder.cached.iter().map(|(name, i)| (format!("{path}/{name}"), *i))),
                None => found.push((path, inode)),
            }
        }
        found.sort();
        found
    }

    /// Bytes of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        self.named_files().iter().map(|(_, inode)| self.files.get(inode).map_or(0, FileState::len)).sum()
    }
}

fn set(names: &mut BTreeMap<String, Inode>, name: &str, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

fn names_of(path: &Path) -> Vec<String> {
    let normal = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    normal.collect()
}

//! One file of the simulated disk: what readers see, and what of it a power cut would leave.
//!
//! **Invariant**: what was there at the last sync that succeeded survives, unless it was written over since; anything
//! written since survives in any subset of 512-byte sectors, each in any of the versions that it went through. The
//! length survives as it was at the sync, as it is, or anywhere between where it grew.

use super::SimRng;
use std::collections::BTreeMap;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: u64 = 512;
/// Versions of a sector that are remembered between its durable and its newest one.
const OLDER_VERSIONS: usize = 3;

/// A file's bytes, in the cache and on the medium.
#[derive(Debug, Default)]
pub(super) struct FileState {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync, each with its versions between the durable one and the newest.
    dirty: BTreeMap<u64, Vec<Vec<u8>>>,
    /// The length as it was at each cut since the last sync: a cut that was not synced may be undone.
    lengths: Vec<u64>,
}

impl FileState {
    pub(super) fn len(&self) -> u64 {
        self.cached.len() as u64
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let start = offset.min(self.len()) as usize;
        let n = buf.len().min(self.cached.len() - start);
        buf[..n].copy_from_slice(&self.cached[start..start + n]);
        n
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        if offset > self.len() {
            self.set_len(offset); // a hole, which reads as zeros
        }
        self.mark_dirty(offset, end);
        if end > self.len() {
            self.cached.resize(end as usize, 0);
        }
        self.cached[offset as usize..end as usize].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        let old = self.len();
        if len < old {
            self.mark_dirty(len, old);
            self.lengths.push(old);
            self.lengths.push(len);
        }
        self.cached.resize(len as usize, 0);
    }

    fn mark_dirty(&mut self, from: u64, to: u64) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let newest = sector_of(&self.cached, sector).to_vec();
            match self.dirty.entry(sector) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    // The version before the first write is the durable one, unless a failed sync left it aside.
                    let same = newest == sector_of(&self.durable, sector);
                    entry.insert(if same { Vec::new() } else { vec![newest] });
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let versions = entry.get_mut();
                    if versions.len() == OLDER_VERSIONS {
                        versions.remove(0);
                    }
                    versions.push(newest);
                }
            }
        }
    }

    /// All that is dirty reaches the medium.
    pub(super) fn sync(&mut self) {
        let sectors: Vec<u64> = std::mem::take(&mut self.dirty).into_keys().collect();
        self.durable.resize(self.cached.len(), 0);
        for sector in sectors {
            let newest = sector_of(&self.cached, sector).to_vec();
            put_sector(&mut self.durable, sector, &newest);
        }
        self.lengths.clear();
    }

    /// The sync failed: none, or some, of what was dirty reached the medium, and all of it counts as clean from now
    /// on. Readers still see it.
    pub(super) fn fail_sync(&mut self, rng: &SimRng) {
        let some_arrive = rng.one_in(3);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            if some_arrive && rng.one_in(2) {
                let newest = sector_of(&self.cached, sector).to_vec();
                put_sector(&mut self.durable, sector, &newest);
            }
        }
        // The length lies with the inode, which stays dirty: the next sync makes it durable, with holes for zeros.
        self.lengths.push(self.len());
    }

    /// Turns into what the medium holds after the power went.
    pub(super) fn cut_power(&mut self, rng: &SimRng) {
        let (durable_len, cached_len) = (self.durable.len() as u64, self.len());
        // One cut loses all, another nothing, most something: subsets of a long list are never all or nothing.
        let odds = rng.below(5);
        let survives = || rng.below(4) < odds;
        let mut len = durable_len;
        if survives() {
            len = match rng.below(3) {
                0 if cached_len > durable_len => {
                    // Write-back had come so far: to the end of some sector.
                    let sectors = cached_len / SECTOR - durable_len / SECTOR + 1;
                    ((durable_len / SECTOR + rng.below(sectors)) * SECTOR).max(durable_len)
                }
                1 if !self.lengths.is_empty() => self.lengths[rng.below(self.lengths.len() as u64) as usize],
                _ => cached_len,
            };
        }
        let most = len.max(durable_len).max(cached_len) as usize;
        self.durable.resize(most, 0);
        let dirty = std::mem::take(&mut self.dirty);
        for (sector, older) in dirty {
            if survives() {
                let pick = rng.below(1 + older.len() as u64) as usize;
                let version = older.into_iter().nth(pick).unwrap_or_else(|| sector_of(&self.cached, sector).to_vec());
                put_sector(&mut self.durable, sector, &version);
            }
        }
        self.durable.resize(len as usize, 0);
        self.cached = self.durable.clone();
        self.lengths.clear();
    }

    /// Damages the medium and the cache alike.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        for bytes in [&mut self.cached, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

/// A sector's bytes; shorter at the end of the file, empty past it.
fn sector_of(bytes: &[u8], sector: u64) -> &[u8] {
    let start = ((sector * SECTOR) as usize).min(bytes.len());
    let end = (((sector + 1) * SECTOR) as usize).min(bytes.len());
    &bytes[start..end]
}

/// Puts a sector's version in, with zeros behind it, as far as the file goes.
fn put_sector(bytes: &mut [u8], sector: u64, version: &[u8]) {
    let start = ((sector * SECTOR) as usize).min(bytes.len());
    let end = (((sector + 1) * SECTOR) as usize).min(bytes.len());
    let target = &mut bytes[start..end];
    let n = version.len().min(target.len());
    target[..n].copy_from_slice(&version[..n]);
    target[n..].fill(0);
}

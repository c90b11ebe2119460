//! A sorted list in chunks: nearly as small as an array, and cheap to insert into. Pure.
//!
//! **Invariant**: no chunk is empty or larger than [`CHUNK`], and neighbours that fill half a chunk together are joined.
//! What is added at the end fills chunk after chunk, so that ascending entries take little more than their own bytes; others
//! take about one and a half times that, where a `BTreeMap` takes up to two and a half times.
//!
//! Called by `share_partition`, which says how entries compare: an entry may be no more than an offset whose key lies
//! elsewhere.

use std::cmp::Ordering;

/// Entries of a chunk at most: as many as are moved for one that is inserted.
const CHUNK: usize = 256;

/// The list.
#[derive(Debug, Clone)]
pub(super) struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

/// A chunk, and an entry in it.
pub(super) type Place = (usize, usize);

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Chunked<T> {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Where an entry is, or where it belongs. `order` says how an entry stands to the one that is looked for.
    pub(super) fn find(&self, mut order: impl FnMut(&T) -> Ordering) -> Result<Place, Place> {
        let after = self.chunks.partition_point(|chunk| order(&chunk[0]) != Ordering::Greater);
        let chunk = after.saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        match entries.binary_search_by(order) {
            Ok(at) => Ok((chunk, at)),
            Err(at) => Err((chunk, at)),
        }
    }

    /// The entry at a place that was found.
    pub(super) fn get(&self, (chunk, at): Place) -> Option<&T> {
        self.chunks.get(chunk)?.get(at)
    }

    pub(super) fn get_mut(&mut self, (chunk, at): Place) -> Option<&mut T> {
        self.chunks.get_mut(chunk)?.get_mut(at)
    }

    /// Puts an entry where [`Self::find`] said that it belongs.
    pub(super) fn insert(&mut self, (mut chunk, mut at): Place, entry: T) {
        self.len += 1;
        let is_last = chunk + 1 == self.chunks.len();
        let Some(entries) = self.chunks.get_mut(chunk) else {
            self.chunks.push(vec![entry]);
            return;
        };
        if entries.len() >= CHUNK {
            if at == CHUNK && is_last {
                self.chunks.push(vec![entry]);
                return;
            }
            let right = entries.split_off(CHUNK / 2);
            self.chunks.insert(chunk + 1, right);
            if at > CHUNK / 2 {
                (chunk, at) = (chunk + 1, at - CHUNK / 2);
            }
        }
        self.chunks[chunk].insert(at, entry);
    }

    /// Takes out the entry at a place that was found.
    pub(super) fn remove(&mut self, (chunk, at): Place) -> T {
        let entry = self.chunks[chunk].remove(at);
        self.len -= 1;
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
            return entry;
        }
        for left in chunk.saturating_sub(1)..=chunk {
            if let [first, second] = &self.chunks[left..(left + 2).min(self.chunks.len())]
                && first.len() + second.len() <= CHUNK / 2
            {
                let second = self.chunks.remove(left + 1);
                self.chunks[left].extend(second);
                break;
            }
        }
        entry
    }

    /// Every entry from a place on.
    pub(super) fn iter_from(&self, (chunk, at): Place) -> impl Iterator<Item = &T> {
        let chunks = self.chunks.get(chunk..).unwrap_or_default();
        chunks.iter().enumerate().flat_map(move |(n, entries)| &entries[if n == 0 { at } else { 0 }..])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.iter_from((0, 0))
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        let entries: usize = self.chunks.iter().map(Vec::capacity).sum();
        entries * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

/// Values by offset.
#[derive(Debug, Clone)]
pub(super) struct ByOffset<V>(Chunked<(i64, V)>);

impl<V> Default for ByOffset<V> {
    fn default() -> Self {
        Self(Chunked::default())
    }
}

/// However they are cut into chunks.
impl<V: PartialEq> PartialEq for ByOffset<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<V: Eq> Eq for ByOffset<V> {}

impl<V> ByOffset<V> {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, offset: i64) -> Result<Place, Place> {
        self.0.find(|(other, _)| other.cmp(&offset))
    }

    pub(super) fn get(&self, offset: i64) -> Option<&V> {
        self.0.get(self.find(offset).ok()?).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, offset: i64) -> Option<&mut V> {
        let place = self.find(offset).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    /// In place of the one before, if there is one.
    pub(super) fn insert(&mut self, offset: i64, value: V) {
        match self.find(offset) {
            Ok(place) => {
                if let Some(entry) = self.0.get_mut(place) {
                    entry.1 = value;
                }
            }
            Err(place) => self.0.insert(place, (offset, value)),
        }
    }

    pub(super) fn remove(&mut self, offset: i64) -> Option<V> {
        if self.len() == 0 {
            return None;
        }
        let place = self.find(offset).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Those at an offset and above.
    pub(super) fn from(&self, offset: i64) -> impl Iterator<Item = (i64, &V)> {
        let (Ok(place) | Err(place)) = self.find(offset);
        self.0.iter_from(place).map(|(offset, value)| (*offset, value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &V)> {
        self.0.iter().map(|(offset, value)| (*offset, value))
    }

    pub(super) fn memory(&self) -> usize {
        self.0.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_as_good_as_a_map(steps in proptest::collection::vec((0..8u8, 0..2_000i64), 1..3_000)) {
            let (mut list, mut plain) = (ByOffset::default(), BTreeMap::new());
            for (n, (kind, offset)) in (0..).zip(steps) {
                match kind {
                    0..5 => {
                        list.insert(offset, n);
                        plain.insert(offset, n);
                    }
                    // Many at once, so that chunks are joined.
                    7 => for offset in offset..offset + 300 {
                        prop_assert_eq!(list.remove(offset), plain.remove(&offset));
                    },
                    _ => prop_assert_eq!(list.remove(offset), plain.remove(&offset)),
                }
                prop_assert_eq!(list.get(offset), plain.get(&offset));
                prop_assert_eq!(list.len(), plain.len());
                prop_assert_eq!(list.from(offset).next(), plain.range(offset..).next().map(|(o, v)| (*o, v)));
            }
            prop_assert!(list.iter().eq(plain.iter().map(|(o, v)| (*o, v))));
            let chunks = &list.0.chunks;
            prop_assert!(chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
            prop_assert!(chunks.windows(2).all(|pair| pair[0].len() + pair[1].len() > CHUNK / 2));
        }
    }

    #[test]
    fn ascending_entries_take_little_more_than_their_bytes() {
        let mut list = ByOffset::default();
        (0..100_000).for_each(|offset| list.insert(offset, [0u64; 3]));
        assert!(list.memory() < 33 * 100_000, "{}", list.memory());
    }
}

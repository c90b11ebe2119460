//! How far each partition of a disk is durable: one file of fixed slots, written in place and not synced.
//!
//! **Invariant**: what the file says of a partition was true at some time since its log was last cut: a stale value
//! makes recovery walk further, and never cuts what was durable. So it is raised without a sync, after the log was
//! synced; and lowered with one, before the log is cut.
//!
//! Called by each partition's writer (its own slot) and by `log_manager` (opening, creating, deleting).

use super::{LogError, layout};
use crate::sys::{Disk, File, OpenMode};
use crate::types::{Offset, PartitionId, TopicId, TopicPartition};
use parking_lot::Mutex;
use std::{collections::BTreeMap, io, path::Path, sync::Arc};

const MAGIC: [u8; 8] = *b"SLRP\0\x01\0\0";
/// A slot never straddles a sector, so it is written whole or not at all.
const SLOT_BYTES: u64 = 64;
const CONTENT_BYTES: usize = 36;

/// What is known of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RecoveryPoint {
    /// All below it is on the disk.
    pub(super) durable_end: Offset,
    /// Everything after it was written with a sync after each group, so at most one group is unsynced.
    pub(super) strict: bool,
}

/// The file.
pub(super) struct RecoveryPoints {
    file: Arc<dyn File>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<TopicPartition, u64>,
    free: Vec<u64>,
    end: u64,
}

impl RecoveryPoints {
    /// Reads the file, or makes it. Slots that do not check are as if they were not there.
    ///
    /// # Errors
    /// What the disk says, or that a newer version wrote it.
    pub(super) fn open(
        disk: &dyn Disk,
        folder: &Path,
    ) -> Result<(Self, BTreeMap<TopicPartition, RecoveryPoint>), LogError> {
        let path = folder.join(layout::RECOVERY_FILE);
        let failed = |error: io::Error| LogError::io(format!("opening {}", path.display()), &error);
        let mut points = BTreeMap::new();
        let mut table = Table { end: 1, ..Table::default() };
        let bytes = if disk.exists(&path) { disk.read(&path).map_err(failed)? } else { Vec::new() };
        if let Some(head) = bytes.first_chunk::<8>() {
            if head[..4] == MAGIC[..4] && head[4..6] > MAGIC[4..6] {
                return Err(LogError::NewerVersion(path.display().to_string()));
            }
            if *head != MAGIC {
                tracing::error!(path = %path.display(), "its magic number is another one: every log is walked anew");
            } else {
                for (i, slot) in bytes.chunks_exact(SLOT_BYTES as usize).enumerate().skip(1) {
                    match decode(slot) {
                        Some((id, point)) if !points.contains_key(&id) => {
                            points.insert(id, point);
                            table.slots.insert(id, i as u64);
                        }
                        _ => table.free.push(i as u64),
                    }
                    table.end = i as u64 + 1;
                }
            }
        }
        let file = disk.open(&path, OpenMode::Create).map_err(failed)?;
        if points.is_empty() {
            file.set_len(0).map_err(failed)?;
            let mut head = [0; SLOT_BYTES as usize];
            head[..8].copy_from_slice(&MAGIC);
            file.write_all_at(&head, 0).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            disk.sync_dir(folder).map_err(failed)?;
            table = Table { end: 1, ..Table::default() };
        }
        Ok((Self { file, table: Mutex::new(table) }, points))
    }

    /// What the file in this folder says of a partition, without opening it for good.
    pub(super) fn peek(disk: &dyn Disk, folder: &Path, id: TopicPartition) -> Option<Offset> {
        let bytes = disk.read(&folder.join(layout::RECOVERY_FILE)).ok().filter(|bytes| bytes.starts_with(&MAGIC))?;
        let mut slots = bytes.chunks_exact(SLOT_BYTES as usize).skip(1).filter_map(decode);
        slots.find(|(found, _)| *found == id).map(|(_, point)| point.durable_end)
    }

    /// Writes a partition's slot. Not synced.
    pub(super) fn set(&self, id: TopicPartition, point: RecoveryPoint) -> io::Result<()> {
        let slot = {
            let mut table = self.table.lock();
            match table.slots.get(&id) {
                Some(slot) => *slot,
                None => {
                    let slot = table.free.pop().unwrap_or(table.end);
                    table.end = table.end.max(slot + 1);
                    table.slots.insert(id, slot);
                    slot
                }
            }
        };
        self.file.write_all_at(&encode(id, point), slot * SLOT_BYTES)
    }

    /// Forgets a partition. Not synced.
    pub(super) fn clear(&self, id: TopicPartition) -> io::Result<()> {
        let slot = self.table.lock().slots.remove(&id);
        if let Some(slot) = slot {
            self.file.write_all_at(&[0; SLOT_BYTES as usize], slot * SLOT_BYTES)?;
            self.table.lock().free.push(slot);
        }
        Ok(())
    }

    /// Makes what was set durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(id: TopicPartition, point: RecoveryPoint) -> [u8; SLOT_BYTES as usize] {
    let mut slot = [0; SLOT_BYTES as usize];
    slot[..16].copy_from_slice(id.topic.as_bytes());
    slot[16..20].copy_from_slice(&id.partition.get().to_be_bytes());
    slot[20..28].copy_from_slice(&point.durable_end.get().to_be_bytes());
    slot[28] = u8::from(point.strict);
    let crc = crc32c::crc32c(&slot[..CONTENT_BYTES - 4]);
    slot[CONTENT_BYTES - 4..CONTENT_BYTES].copy_from_slice(&crc.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(TopicPartition, RecoveryPoint)> {
    let (content, crc) = slot[..CONTENT_BYTES].split_last_chunk::<4>()?;
    let (topic, rest) = content.split_first_chunk::<16>()?;
    let (partition, rest) = rest.split_first_chunk::<4>()?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (partition, end) = (i32::from_be_bytes(*partition), i64::from_be_bytes(*end));
    if crc32c::crc32c(content) != u32::from_be_bytes(*crc) || partition < 0 || end < 0 {
        return None;
    }
    let id = TopicPartition { topic: TopicId::from_bytes(*topic), partition: PartitionId::new(partition) };
    Some((id, RecoveryPoint { durable_end: Offset::new(end), strict: rest[0] == 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_whole_or_nothing() {
        let id = TopicPartition { topic: TopicId::from_random([3; 16]), partition: PartitionId::new(2) };
        let point = RecoveryPoint { durable_end: Offset::new(77), strict: true };
        let slot = encode(id, point);
        assert_eq!(decode(&slot), Some((id, point)));
        assert_eq!(decode(&[0; SLOT_BYTES as usize]), None);
        for at in 0..CONTENT_BYTES {
            let mut bad = slot;
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "flipped at {at}");
        }
    }
}

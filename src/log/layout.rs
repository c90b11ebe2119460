//! Names of folders and files, and the contents of the small ones.
//!
//! **Invariant**: a folder's name comes from a topic's id and a partition's number only, so no topic name can lead out
//! of the data folder. Pure; called by everything in `log` that names a
//! file.

use super::LogError;
use super::frame::{frame, unframe};
use crate::types::{Offset, PartitionId, TopicId, TopicName, TopicPartition};
use std::path::{Path, PathBuf};

/// The characters of a topic id in a folder's name.
const TOPIC_ID_CHARS: usize = 22;

/// A folder on its way out.
pub(super) const DELETED_SUFFIX: &str = ".deleted";
/// The file in a partition's folder that names its topic.
pub(super) const META_FILE: &str = "partition.meta";
/// The file with the leader epochs and their start offsets.
pub(super) const EPOCH_FILE: &str = "leader-epoch-checkpoint";
/// The file with the log start, where it is not the first segment's base.
pub(super) const LOG_START_FILE: &str = "log-start-offset-checkpoint";
/// The file with the durable ends of all partitions of a disk.
pub(super) const RECOVERY_FILE: &str = "recovery-point-offset-checkpoint";
/// Where folders go that nobody knows.
pub(super) const QUARANTINE: &str = "quarantine";
/// What a segment's rewritten files are called until they are whole and synced.
pub(super) const CLEANED_SUFFIX: &str = ".cleaned";
/// What they are called from then on, until they have taken the old ones' names.
pub(super) const SWAP_SUFFIX: &str = ".swap";

/// The kinds of files that are named by an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    /// Record batches.
    Log,
    /// Offset to position.
    Index,
    /// Timestamp to offset.
    TimeIndex,
    /// Producers and Idempotency-Keys as of the offset.
    Snapshot,
}

impl FileKind {
    const ALL: [Self; 4] = [Self::Log, Self::Index, Self::TimeIndex, Self::Snapshot];

    /// The name's end.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::Index => ".index",
            Self::TimeIndex => ".timeindex",
            Self::Snapshot => ".snapshot",
        }
    }
}

/// The path of a file that is named by an offset.
pub(super) fn file_path(folder: &Path, base: Offset, kind: FileKind) -> PathBuf {
    folder.join(format!("{:020}{}", base.get(), kind.suffix()))
}

/// The reverse of [`file_path`]'s last part; `None` for any other file.
pub(super) fn parse_file_name(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, suffix) = name.split_at_checked(20)?;
    let kind = FileKind::ALL.into_iter().find(|kind| kind.suffix() == suffix)?;
    let base: i64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some((Offset::new(base), kind))
}

/// The folder of a partition.
pub(super) fn folder_name(id: TopicPartition) -> String {
    format!("{}-{}", id.topic, id.partition)
}

/// The reverse of [`folder_name`].
pub(super) fn parse_folder_name(name: &str) -> Option<TopicPartition> {
    let (topic, rest) = name.split_at_checked(TOPIC_ID_CHARS)?;
    let partition: i32 = rest.strip_prefix('-')?.parse().ok().filter(|n| *n >= 0)?;
    Some(TopicPartition { topic: topic.parse().ok()?, partition: PartitionId::new(partition) })
}

/// A path with another end after its whole name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

const META_MAGIC: [u8; 4] = *b"SLPM";
const META_VERSION: u16 = 1;

/// The content of [`META_FILE`].
pub(super) fn encode_meta(id: TopicPartition, name: &TopicName) -> Vec<u8> {
    let mut payload = id.topic.as_bytes().to_vec();
    payload.extend_from_slice(&id.partition.get().to_be_bytes());
    payload.extend_from_slice(name.as_str().as_bytes());
    frame(META_MAGIC, META_VERSION, &payload)
}

/// Reads [`META_FILE`].
pub(super) fn decode_meta(what: &str, bytes: &[u8]) -> Result<(TopicPartition, TopicName), LogError> {
    let payload = unframe(what, META_MAGIC, META_VERSION, bytes)?;
    let corrupt = || LogError::Corrupt(format!("{what}: its content does not fit"));
    let (topic, rest) = payload.split_first_chunk::<16>().ok_or_else(corrupt)?;
    let (partition, name) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let partition = i32::from_be_bytes(*partition);
    let name = std::str::from_utf8(name).ok().and_then(|name| TopicName::new(name).ok()).ok_or_else(corrupt)?;
    if partition < 0 {
        return Err(corrupt());
    }
    Ok((TopicPartition { topic: TopicId::from_bytes(*topic), partition: PartitionId::new(partition) }, name))
}

const LOG_START_MAGIC: [u8; 4] = *b"SLLS";
const LOG_START_VERSION: u16 = 1;

/// The content of [`LOG_START_FILE`].
pub(super) fn encode_log_start(offset: Offset) -> Vec<u8> {
    frame(LOG_START_MAGIC, LOG_START_VERSION, &offset.get().to_be_bytes())
}

/// Reads [`LOG_START_FILE`].
pub(super) fn decode_log_start(what: &str, bytes: &[u8]) -> Result<Offset, LogError> {
    let payload = unframe(what, LOG_START_MAGIC, LOG_START_VERSION, bytes)?;
    let offset = <[u8; 8]>::try_from(payload).map_or(-1, i64::from_be_bytes);
    if offset < 0 {
        return Err(LogError::Corrupt(format!("{what}: its content does not fit")));
    }
    Ok(Offset::new(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> TopicPartition {
        TopicPartition { topic: TopicId::from_random([7; 16]), partition: PartitionId::new(12) }
    }

    #[test]
    fn names_go_there_and_back() {
        assert_eq!(parse_folder_name(&folder_name(id())), Some(id()));
        for bad in ["quarantine", "", "x-1", &format!("{}--1", id().topic), &format!("{}_1", id().topic)] {
            assert_eq!(parse_folder_name(bad), None, "{bad}");
        }
        let path = file_path(Path::new("/d"), Offset::new(42), FileKind::TimeIndex);
        assert_eq!(path, Path::new("/d/00000000000000000042.timeindex"));
        assert_eq!(parse_file_name("00000000000000000042.timeindex"), Some((Offset::new(42), FileKind::TimeIndex)));
        for bad in ["42.log", "00000000000000000042.log.swap", "-0000000000000000042.log", "99999999999999999999.log"] {
            assert_eq!(parse_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_framed_file_is_whole_or_refused() {
        let name = TopicName::new("games").unwrap();
        let bytes = encode_meta(id(), &name);
        assert_eq!(decode_meta("m", &bytes).unwrap(), (id(), name));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(decode_meta("m", &bad).is_err(), "flipped at {at}");
            assert!(decode_meta("m", &bytes[..at]).is_err(), "cut at {at}");
        }
        let newer = frame(META_MAGIC, META_VERSION + 1, b"");
        assert!(matches!(decode_meta("m", &newer), Err(LogError::NewerVersion(_))));
    }
}

//! The cursor: a reader's place in a topic, as text that a client keeps.
//!
//! **Invariant**: a cursor means the same on every node and transport, and holds all that resuming takes: nothing is
//! kept on the server for it. Text that was cut, changed, or made for another topic is refused, never misread.
//!
//! Form: base64url without padding over a version, flags, the CRC-32C of the topic's name, the first 8 bytes of its id,
//! per partition the next offset and the leader epoch (varints), and a CRC-32C over all of it.

use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName};
use bytes::Bytes;

/// Longest text of a cursor, in characters.
pub const MAX_CURSOR: usize = 4096;

const VERSION: u8 = 1;
/// Every partition, those added later too.
const ALL: u8 = 1;
/// The bounded range that it belongs to was read to its end.
const ENDED: u8 = 2;
/// Within a snapshot, after the row that follows the positions.
const SNAPSHOT: u8 = 4;
/// Version, flags, name, id.
const HEAD_BYTES: usize = 14;
const CRC_BYTES: usize = 4;
/// Mixed into the checksum, so that other base64 with a CRC-32C behind it is no cursor.
const CRC_SEED: u32 = 0x51ce_c0de;

/// Where a reader is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the next record to read; the epoch is that of the record before it, or of the leader that named the offset.
    At(Offset, LeaderEpoch),
    /// Nowhere yet: the partition could not be asked.
    Pending(PendingPlace),
}

/// A place by meaning, to be resolved once the partition can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingPlace {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record of this time (Unix ms) or later.
    Since(i64),
    /// This many offsets before the high watermark.
    Last(u64),
}

/// A partition and the reader's place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which partition.
    pub partition: PartitionId,
    /// Where in it.
    pub place: Place,
}

impl Position {
    /// At an offset.
    #[must_use]
    pub const fn at(partition: PartitionId, offset: Offset, epoch: LeaderEpoch) -> Self {
        Self { partition, place: Place::At(offset, epoch) }
    }

    /// The offset, if it is known.
    #[must_use]
    pub const fn offset(&self) -> Option<Offset> {
        match self.place {
            Place::At(offset, _) => Some(offset),
            Place::Pending(_) => None,
        }
    }
}

/// A cursor's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    name_hash: u32,
    id: [u8; 8],
    /// Covers every partition, those added later too: then the positions are those of partitions 0, 1, 2, …
    pub all: bool,
    /// The bounded range was read to its end.
    pub ended: bool,
    /// Sorted by partition.
    pub positions: Vec<Position>,
    /// Within a snapshot whose applied offsets are the positions: goes on after this row.
    pub snapshot_after: Option<(PartitionId, Bytes)>,
}

/// What a cursor says about the topic it is used on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorTopic {
    /// It was made for this topic.
    Same,
    /// It was made for an earlier topic of this name.
    Recreated,
    /// It was made for a topic of another name.
    Other,
}

/// Why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// More than [`MAX_CURSOR`] characters.
    #[error("the cursor is longer than {MAX_CURSOR} characters; send one back exactly as the server gave it")]
    TooLong,
    /// Not base64url, cut off, or changed.
    #[error(
        "the cursor is damaged; send one back exactly as the server gave it, or start with from=earliest or latest"
    )]
    Damaged,
    /// Of a form that this server does not know.
    #[error("the cursor has version {0}, which this server does not know")]
    Version(u8),
    /// It belongs to another topic.
    #[error("the cursor belongs to another topic")]
    OtherTopic,
    /// It covers other partitions than asked for.
    #[error("the cursor does not cover partition {0}; leave out `partitions`, or start anew")]
    NotCovered(PartitionId),
    /// A group's cursor names a partition that is not the member's.
    #[error("the cursor covers partition {0}, which is not assigned to this member; commit a page's own next_cursor")]
    NotAssigned(PartitionId),
    /// It would be longer than [`MAX_CURSOR`].
    #[error(
        "a cursor over these {0} partitions would be longer than {MAX_CURSOR} characters; name fewer with `partitions=`"
    )]
    TooManyPartitions(usize),
    /// The row at which the page ends has a key that fits into no cursor.
    #[error("a key of {0} bytes does not fit into a cursor; read this snapshot as a stream")]
    KeyTooLong(usize),
}

fn name_hash(name: &TopicName) -> u32 {
    crc32c::crc32c(name.as_str().as_bytes())
}

fn short_id(id: TopicId) -> [u8; 8] {
    id.as_bytes()[..8].try_into().expect("8 of 16 bytes")
}

impl Cursor {
    /// A cursor into a topic. `positions` are sorted by partition, and with `all` dense from partition 0.
    #[must_use]
    pub fn new(name: &TopicName, id: TopicId, all: bool, positions: Vec<Position>) -> Self {
        debug_assert!(positions.is_sorted_by_key(|p| p.partition));
        Self { name_hash: name_hash(name), id: short_id(id), all, ended: false, positions, snapshot_after: None }
    }

    /// Whether it belongs to this topic.
    #[must_use]
    pub fn topic(&self, name: &TopicName, id: TopicId) -> CursorTopic {
        if self.name_hash != name_hash(name) {
            CursorTopic::Other
        } else if self.id == short_id(id) {
            CursorTopic::Same
        } else {
            CursorTopic::Recreated
        }
    }

    /// Reads a cursor's text.
    ///
    /// # Errors
    /// [`CursorError`]: too long, damaged, or of another version.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        if text.len() > MAX_CURSOR {
            return Err(CursorError::TooLong);
        }
        let raw = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(text).map_err(|_| CursorError::Damaged)?;
        let (body, crc) = raw.split_last_chunk::<CRC_BYTES>().ok_or(CursorError::Damaged)?;
        if crc32c::crc32c_append(CRC_SEED, body).to_le_bytes() != *crc {
            return Err(CursorError::Damaged);
        }
        match body.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(CursorError::Version(other)),
            None => return Err(CursorError::Damaged),
        }
        Self::parse_body(body).ok_or(CursorError::Damaged)
    }

    fn parse_body(body: &[u8]) -> Option<Self> {
        let flags = *body.get(1)?;
        let name_hash = u32::from_le_bytes(body.get(2..6)?.try_into().ok()?);
        let id = body.get(6..HEAD_BYTES)?.try_into().ok()?;
        let mut rest = &body[HEAD_BYTES..];
        let all = flags & ALL != 0;
        let count = read_varint(&mut rest)?;
        let mut positions = Vec::new();
        let mut partition = 0;
        for i in 0..count {
            if i > 0 {
                partition += 1;
            }
            if !all {
                partition = i32::try_from(read_varint(&mut rest)?).ok()?.checked_add(partition)?;
            }
            let place = read_place(&mut rest)?; // ends the loop where the bytes end, whatever the count says
            positions.push(Position { partition: PartitionId::new(partition), place });
        }
        let mut snapshot_after = None;
        if flags & SNAPSHOT != 0 {
            let partition = PartitionId::new(i32::try_from(read_varint(&mut rest)?).ok()?);
            let length = usize::try_from(read_varint(&mut rest)?).ok()?;
            snapshot_after = Some((partition, Bytes::copy_from_slice(rest.split_off(..length)?)));
        }
        rest.is_empty().then_some(Self { name_hash, id, all, ended: flags & ENDED != 0, positions, snapshot_after })
    }

    /// The text.
    ///
    /// # Errors
    /// [`CursorError::TooManyPartitions`] or [`CursorError::KeyTooLong`] if it would pass [`MAX_CURSOR`].
    pub fn encode(&self) -> Result<String, CursorError> {
        let mut encoder = CursorEncoder::new(self);
        if let Some((partition, key)) = &self.snapshot_after {
            write_varint(&mut encoder.raw, u64::from(partition.get().cast_unsigned()));
            write_varint(&mut encoder.raw, key.len() as u64);
            encoder.raw.extend_from_slice(key);
        }
        let mut text = Vec::new();
        encoder.append_to(&mut text);
        match (text.len() > MAX_CURSOR, &self.snapshot_after) {
            (false, _) => Ok(String::from_utf8(text).expect("base64 is ASCII")),
            (true, Some((_, key))) if key.len() > MAX_CURSOR / 4 => Err(CursorError::KeyTooLong(key.len())),
            (true, _) => Err(CursorError::TooManyPartitions(self.positions.len())),
        }
    }

    /// Whether cursors over these positions stay within [`MAX_CURSOR`] while the reader goes on.
    ///
    /// # Errors
    /// [`CursorError::TooManyPartitions`].
    pub fn check_room(&self) -> Result<(), CursorError> {
        // Each offset may grow by a byte (128 times its value) before a live reader's cursor is too long.
        let raw = CursorEncoder::new(self).raw.len() + self.positions.len() + CRC_BYTES;
        if raw.div_ceil(3) * 4 > MAX_CURSOR {
            return Err(CursorError::TooManyPartitions(self.positions.len()));
        }
        Ok(())
    }
}

/// Makes the cursors of consecutive records: each differs from the last in one partition only, so that a record costs
/// one small edit, one checksum and one base64.
#[derive(Debug, Clone)]
pub struct CursorEncoder {
    raw: Vec<u8>,
    /// Where each position's place begins in `raw`, and at last where they end.
    places: Vec<u32>,
}

impl CursorEncoder {
    /// Starts at this cursor (without its snapshot row).
    #[must_use]
    pub fn new(cursor: &Cursor) -> Self {
        let mut raw = Vec::with_capacity(HEAD_BYTES + CRC_BYTES + 1 + cursor.positions.len() * 8);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let flags = flag(cursor.all, ALL) | flag(cursor.ended, ENDED) | flag(cursor.snapshot_after.is_some(), SNAPSHOT);
        raw.extend_from_slice(&[VERSION, flags]);
        raw.extend_from_slice(&cursor.name_hash.to_le_bytes());
        raw.extend_from_slice(&cursor.id);
        write_varint(&mut raw, cursor.positions.len() as u64);
        let mut places = Vec::with_capacity(cursor.positions.len() + 1);
        let mut next = 0;
        for position in &cursor.positions {
            if !cursor.all {
                write_varint(&mut raw, u64::from((position.partition.get() - next).cast_unsigned()));
                next = position.partition.get() + 1;
            }
            places.push(raw.len() as u32);
            write_place(&mut raw, position.place);
        }
        places.push(raw.len() as u32);
        Self { raw, places }
    }

    /// Moves the position with this index (not: partition).
    pub fn set(&mut self, index: usize, place: Place) {
        let mut new = Varints::default();
        write_place(&mut new, place);
        let new = new.as_slice();
        let start = self.places[index] as usize;
        // The next place may have its partition's number before it, which ends this one's bytes later: so measure.
        let old = place_len(&self.raw[start..]);
        if new.len() == old {
            self.raw[start..start + old].copy_from_slice(new);
        } else {
            let grown = new.len() as i64 - old as i64;
            self.raw.splice(start..start + old, new.iter().copied());
            for later in &mut self.places[index + 1..] {
                *later = (i64::from(*later) + grown) as u32;
            }
        }
    }

    /// Appends the cursor's text.
    pub fn append_to(&mut self, out: &mut Vec<u8>) {
        let crc = crc32c::crc32c_append(CRC_SEED, &self.raw);
        self.raw.extend_from_slice(&crc.to_le_bytes());
        base64_simd::URL_SAFE_NO_PAD.encode_append(&self.raw, out);
        self.raw.truncate(self.raw.len() - CRC_BYTES);
    }
}

/// Room for a place's two varints: one is written for every record.
#[derive(Default)]
struct Varints {
    bytes: [u8; 2 * 10],
    len: usize,
}

impl Varints {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Extend<u8> for Varints {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        for byte in bytes {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }
}

fn write_varint(out: &mut impl Extend<u8>, mut value: u64) {
    while value >= 0x80 {
        out.extend([value as u8 | 0x80]);
        value >>= 7;
    }
    out.extend([value as u8]);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// An even number is an offset, doubled, and the epoch follows; an odd one says what is pending, and its value follows.
fn write_place(out: &mut impl Extend<u8>, place: Place) {
    let (code, value) = match place {
        Place::At(offset, epoch) => (offset.get().cast_unsigned() << 1, u64::from(epoch.get().cast_unsigned())),
        Place::Pending(PendingPlace::Earliest) => (1, 0),
        Place::Pending(PendingPlace::Latest) => (3, 0),
        Place::Pending(PendingPlace::Since(ms)) => (5, ms.max(0).cast_unsigned()),
        Place::Pending(PendingPlace::Last(n)) => (7, n),
    };
    write_varint(out, code);
    write_varint(out, value);
}

fn read_place(bytes: &mut &[u8]) -> Option<Place> {
    let (code, value) = (read_varint(bytes)?, read_varint(bytes)?);
    Some(if code & 1 == 0 {
        let epoch = LeaderEpoch::new(i32::try_from(value).ok()?);
        Place::At(Offset::new((code >> 1).cast_signed()), epoch)
    } else {
        Place::Pending(match code {
            1 => PendingPlace::Earliest,
            3 => PendingPlace::Latest,
            5 => PendingPlace::Since(i64::try_from(value).ok()?),
            7 => PendingPlace::Last(value),
            _ => return None,
        })
    })
}

fn place_len(bytes: &[u8]) -> usize {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte < 0x80).map(|(i, _)| i + 1);
    ends.take(2).last().expect("a place is two varints")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> TopicName {
        TopicName::new("games").unwrap()
    }

    fn place() -> impl Strategy<Value = Place> {
        prop_oneof![
            8 => (0..=i64::MAX, 0..=i32::MAX).prop_map(|(o, e)| Place::At(Offset::new(o), LeaderEpoch::new(e))),
            8 => (0..100_000i64, 0..9i32).prop_map(|(o, e)| Place::At(Offset::new(o), LeaderEpoch::new(e))),
            1 => Just(Place::Pending(PendingPlace::Earliest)),
            1 => Just(Place::Pending(PendingPlace::Latest)),
            1 => (0..=i64::MAX).prop_map(|ms| Place::Pending(PendingPlace::Since(ms))),
            1 => any::<u64>().prop_map(|n| Place::Pending(PendingPlace::Last(n))),
        ]
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        let positions = proptest::collection::btree_map(0..=i32::MAX, place(), 0..12);
        let snapshot = proptest::option::of((0..99i32, proptest::collection::vec(any::<u8>(), 0..40)));
        (any::<bool>(), any::<bool>(), positions, snapshot).prop_map(|(all, ended, places, snapshot)| {
            let positions = places
                .into_iter()
                .enumerate()
                .map(|(i, (p, place))| Position { partition: PartitionId::new(if all { i as i32 } else { p }), place });
            Cursor {
                ended,
                snapshot_after: snapshot.map(|(p, key)| (PartitionId::new(p), key.into())),
                ..Cursor::new(&name(), TopicId::from_random([7; 16]), all, positions.collect())
            }
        })
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_text(cursor in cursor()) {
            let text = cursor.encode().unwrap();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(Cursor::parse(&text), Ok(cursor));
        }

        #[test]
        fn a_changed_cursor_is_refused(cursor in cursor(), at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let text = cursor.encode().unwrap();
            let at = at.index(text.len());
            prop_assert!(Cursor::parse(&text[..at]).is_err(), "cut at {at}");
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            if changed != text {
                prop_assert!(Cursor::parse(&changed).is_err(), "changed at {at}");
            }
        }

        #[test]
        fn any_text_is_refused_or_read(text in "[ -~]{0,80}", raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Cursor::parse(&text);
            // With a right checksum the body is looked at as well.
            let mut sealed = raw;
            if let Some(first) = sealed.first_mut() { *first = VERSION; }
            let crc = crc32c::crc32c_append(CRC_SEED, &sealed);
            sealed.extend_from_slice(&crc.to_le_bytes());
            let _ = Cursor::parse(&base64_simd::URL_SAFE_NO_PAD.encode_to_string(&sealed));
        }

        /// Edits give the same text as encoding anew.
        #[test]
        fn the_encoder_edits_in_place(cursor in cursor(), edits in proptest::collection::vec((any::<prop::sample::Index>(), place()), 1..30)) {
            let mut cursor = Cursor { snapshot_after: None, ..cursor };
            prop_assume!(!cursor.positions.is_empty());
            let mut encoder = CursorEncoder::new(&cursor);
            for (index, place) in edits {
                let index = index.index(cursor.positions.len());
                encoder.set(index, place);
                cursor.positions[index].place = place;
                let mut text = Vec::new();
                encoder.append_to(&mut text);
                prop_assert_eq!(String::from_utf8(text).unwrap(), cursor.encode().unwrap());
            }
        }
    }

    #[test]
    fn a_cursor_knows_its_topic() {
        let id = TopicId::from_random([7; 16]);
        let cursor = Cursor::new(&name(), id, true, vec![]);
        assert_eq!(cursor.topic(&name(), id), CursorTopic::Same);
        assert_eq!(cursor.topic(&name(), TopicId::from_random([8; 16])), CursorTopic::Recreated);
        assert_eq!(cursor.topic(&TopicName::new("other").unwrap(), id), CursorTopic::Other);
    }

    #[test]
    fn a_cursor_has_a_limit() {
        let of = |n: i32| {
            let at = |p| Position::at(PartitionId::new(p), Offset::new(9_000_000), LeaderEpoch::new(3));
            Cursor::new(&name(), TopicId::from_random([7; 16]), true, (0..n).map(at).collect())
        };
        assert!(of(300).check_room().is_ok() && of(300).encode().unwrap().len() <= MAX_CURSOR);
        assert_eq!(of(1000).check_room(), Err(CursorError::TooManyPartitions(1000)));
        assert_eq!(of(1000).encode(), Err(CursorError::TooManyPartitions(1000)));
        assert_eq!(Cursor::parse(&"A".repeat(5000)), Err(CursorError::TooLong));
    }
}

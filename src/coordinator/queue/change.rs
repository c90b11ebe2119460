//! What happened to a queue's partition, as it lies in the state log. Pure.
//!
//! **Invariant**: changes are absolute (they name the new state, not a difference) and, where many neighbours share one,
//! ranges: the acknowledgement of a hundred records that were received together takes about ten bytes.

use super::durable::MAX_REASON;
use std::sync::Arc;

/// What a consumer said of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Done.
    Ack = 1,
    /// Not done; deliver it again.
    Nack = 2,
    /// It can not be done.
    Reject = 3,
}

/// The lease under which a change was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    /// The receive call, within the delta's epoch.
    pub generation: u32,
    /// What was said.
    pub verdict: Verdict,
}

/// Why records are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Acknowledged.
    Acked = 0,
    /// Given up, where `on_exhausted` says `skip`.
    Skipped = 1,
    /// Discarded by hand.
    Discarded = 2,
    /// Retention or compaction removed them first.
    Lost = 3,
}

/// Until when a record that waits is not to be delivered, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotBefore {
    /// Unix ms; 0: at once.
    pub wall_ms: i64,
    /// For a delay its length in ms, beyond which no later owner makes it wait, whatever its clock says; 0 for a time of day
    /// that the record itself names.
    pub delay_ms: u32,
}

impl NotBefore {
    /// It waits for nothing.
    pub const AT_ONCE: Self = Self { wall_ms: 0, delay_ms: 0 };
}

/// One change; ranges are `from..to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing more is to be done.
    Settled {
        /// First.
        from: i64,
        /// After the last.
        to: i64,
        /// Why.
        cause: Cause,
        /// Under which lease, if under one.
        by: Option<By>,
    },
    /// To be delivered (again).
    Waiting {
        /// First.
        from: i64,
        /// After the last.
        to: i64,
        /// Deliveries so far.
        deliveries: u16,
        /// Not before this.
        not_before: NotBefore,
        /// Under which lease, if under one.
        by: Option<By>,
    },
    /// A dead letter, or parked.
    GivenUp {
        /// Which.
        offset: i64,
        /// Parked: its key is blocked.
        parked: bool,
        /// Deliveries so far.
        deliveries: u16,
        /// When, Unix ms.
        at_ms: i64,
        /// Why, for people.
        reason: Arc<str>,
        /// Hash of its key.
        key: Option<u64>,
        /// Under which lease, if under one.
        by: Option<By>,
    },
    /// It left the window; its state stays.
    Held {
        /// Which.
        offset: i64,
        /// Hash of its key.
        key: Option<u64>,
    },
}

/// What one call changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The ownership under which the generations in it count.
    pub epoch: i32,
    /// All below it that is not held is settled, once the changes are done.
    pub start: i64,
    /// In order.
    pub changes: Vec<Change>,
}

/// The bytes are no delta or snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// They end too early, or say what can not be.
    #[error("a record of a queue's state is damaged")]
    Damaged,
    /// A later version wrote them.
    #[error("a record of a queue's state has version {0}, which this server does not know; use the newer server")]
    Version(u8),
}

/// Version 2 says how long a delay is; in version 1 each is a time of day.
pub(super) const VERSION: u8 = 2;

impl Delta {
    /// The bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put(out, i64::from(self.epoch));
        put(out, self.start);
        put_changes(out, self.start, &self.changes);
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn decode(mut bytes: &[u8]) -> Result<Self, DeltaError> {
        let bytes = &mut bytes;
        check_version(bytes)?;
        let epoch = number(bytes)?;
        let start = take(bytes)?;
        let changes = take_changes(bytes, start)?;
        if !bytes.is_empty() {
            return Err(DeltaError::Damaged);
        }
        Ok(Self { epoch, start, changes })
    }
}

pub(super) fn check_version(bytes: &mut &[u8]) -> Result<(), DeltaError> {
    match bytes.split_off_first() {
        Some(1..=VERSION) => Ok(()),
        Some(&other) => Err(DeltaError::Version(other)),
        None => Err(DeltaError::Damaged),
    }
}

/// Offsets are written as the distance from the last one, which is small.
pub(super) fn put_changes(out: &mut Vec<u8>, mut at: i64, changes: &[Change]) {
    put(out, changes.len() as i64);
    for change in changes {
        match change {
            Change::Settled { from, to, cause, by } => {
                out.push(*cause as u8);
                put_range(out, &mut at, *from, *to);
                put_by(out, *by);
            }
            Change::Waiting { from, to, deliveries, not_before: NotBefore { wall_ms, delay_ms }, by } => {
                out.push(if *delay_ms == 0 { 4 } else { 8 });
                put_range(out, &mut at, *from, *to);
                put(out, i64::from(*deliveries));
                put(out, *wall_ms);
                if *delay_ms > 0 {
                    put(out, i64::from(*delay_ms));
                }
                put_by(out, *by);
            }
            Change::GivenUp { offset, parked, deliveries, at_ms, reason, key, by } => {
                out.push(if *parked { 6 } else { 5 });
                put_range(out, &mut at, *offset, offset + 1);
                put(out, i64::from(*deliveries));
                put(out, *at_ms);
                put(out, reason.len() as i64);
                out.extend_from_slice(reason.as_bytes());
                put_key(out, *key);
                put_by(out, *by);
            }
            Change::Held { offset, key } => {
                out.push(7);
                put_range(out, &mut at, *offset, offset + 1);
                put_key(out, *key);
            }
        }
    }
}

pub(super) fn take_changes(bytes: &mut &[u8], mut at: i64) -> Result<Vec<Change>, DeltaError> {
    let count = take(bytes)?;
    let mut changes = Vec::new();
    for _ in 0..count {
        // It ends where the bytes end, whatever the count says.
        let kind = byte(bytes)?;
        let (from, to) = take_range(bytes, &mut at)?;
        changes.push(match kind {
            0..=3 => Change::Settled { from, to, cause: cause(kind)?, by: take_by(bytes)? },
            4 | 8 => Change::Waiting {
                from,
                to,
                deliveries: number(bytes)?,
                not_before: NotBefore { wall_ms: take(bytes)?, delay_ms: if kind == 8 { number(bytes)? } else { 0 } },
                by: take_by(bytes)?,
            },
            5 | 6 => Change::GivenUp {
                offset: from,
                parked: kind == 6,
                deliveries: number(bytes)?,
                at_ms: take(bytes)?,
                reason: take_reason(bytes)?,
                key: take_key(bytes)?,
                by: take_by(bytes)?,
            },
            7 => Change::Held { offset: from, key: take_key(bytes)? },
            _ => return Err(DeltaError::Damaged),
        });
    }
    Ok(changes)
}

fn cause(code: u8) -> Result<Cause, DeltaError> {
    [Cause::Acked, Cause::Skipped, Cause::Discarded, Cause::Lost].get(code as usize).copied().ok_or(DeltaError::Damaged)
}

pub(super) fn verdict(code: u8) -> Result<Verdict, DeltaError> {
    match code {
        1 => Ok(Verdict::Ack),
        2 => Ok(Verdict::Nack),
        3 => Ok(Verdict::Reject),
        _ => Err(DeltaError::Damaged),
    }
}

pub(super) fn put_range(out: &mut Vec<u8>, at: &mut i64, from: i64, to: i64) {
    put(out, from - *at);
    put(out, to - from);
    *at = to;
}

pub(super) fn take_range(bytes: &mut &[u8], at: &mut i64) -> Result<(i64, i64), DeltaError> {
    let from = at.checked_add(take(bytes)?).filter(|from| *from >= 0).ok_or(DeltaError::Damaged)?;
    let length = take(bytes)?;
    let to = from.checked_add(length).filter(|_| length > 0).ok_or(DeltaError::Damaged)?;
    *at = to;
    Ok((from, to))
}

fn put_by(out: &mut Vec<u8>, by: Option<By>) {
    match by {
        None => out.push(0),
        Some(by) => {
            out.push(by.verdict as u8);
            put(out, i64::from(by.generation));
        }
    }
}

fn take_by(bytes: &mut &[u8]) -> Result<Option<By>, DeltaError> {
    match byte(bytes)? {
        0 => Ok(None),
        code => Ok(Some(By { verdict: verdict(code)?, generation: number(bytes)? })),
    }
}

fn put_key(out: &mut Vec<u8>, key: Option<u64>) {
    out.push(u8::from(key.is_some()));
    if let Some(key) = key {
        out.extend_from_slice(&key.to_le_bytes());
    }
}

fn take_key(bytes: &mut &[u8]) -> Result<Option<u64>, DeltaError> {
    match byte(bytes)? {
        0 => Ok(None),
        1 => {
            let key = bytes.split_off(..8).ok_or(DeltaError::Damaged)?;
            Ok(Some(u64::from_le_bytes(key.try_into().expect("8 bytes were taken"))))
        }
        _ => Err(DeltaError::Damaged),
    }
}

fn take_reason(bytes: &mut &[u8]) -> Result<Arc<str>, DeltaError> {
    let length = usize::try_from(take(bytes)?).ok().filter(|n| *n <= MAX_REASON).ok_or(DeltaError::Damaged)?;
    let text = bytes.split_off(..length).ok_or(DeltaError::Damaged)?;
    std::str::from_utf8(text).map(Into::into).map_err(|_| DeltaError::Damaged)
}

fn byte(bytes: &mut &[u8]) -> Result<u8, DeltaError> {
    bytes.split_off_first().copied().ok_or(DeltaError::Damaged)
}

/// A number of a smaller type.
pub(super) fn number<T: TryFrom<i64>>(bytes: &mut &[u8]) -> Result<T, DeltaError> {
    T::try_from(take(bytes)?).map_err(|_| DeltaError::Damaged)
}

/// Zigzag, then seven bits a byte, the lowest first.
pub(super) fn put(out: &mut Vec<u8>, n: i64) {
    let mut left = ((n << 1) ^ (n >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

pub(super) fn take(bytes: &mut &[u8]) -> Result<i64, DeltaError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let next = byte(bytes)?;
        if shift == 63 && next > 1 {
            return Err(DeltaError::Damaged);
        }
        value |= u64::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
        }
    }
    Err(DeltaError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by() -> impl Strategy<Value = Option<By>> {
        let verdicts = prop_oneof![Just(Verdict::Ack), Just(Verdict::Nack), Just(Verdict::Reject)];
        proptest::option::of((any::<u32>(), verdicts).prop_map(|(generation, verdict)| By { generation, verdict }))
    }

    fn change() -> impl Strategy<Value = Change> {
        let at = || 0..1i64 << 50;
        let causes = prop_oneof![Just(Cause::Acked), Just(Cause::Skipped), Just(Cause::Discarded), Just(Cause::Lost)];
        prop_oneof![
            (at(), 1..9999i64, causes, by()).prop_map(|(from, n, cause, by)| Change::Settled {
                from,
                to: from + n,
                cause,
                by
            }),
            (at(), 1..9999i64, any::<u16>(), (any::<i64>(), any::<u32>()), by()).prop_map(
                |(from, n, deliveries, (wall_ms, delay_ms), by)| {
                    Change::Waiting { from, to: from + n, deliveries, not_before: NotBefore { wall_ms, delay_ms }, by }
                }
            ),
            (at(), any::<bool>(), any::<u16>(), any::<i64>(), "\\PC{0,20}", any::<Option<u64>>(), by()).prop_map(
                |(offset, parked, deliveries, at_ms, reason, key, by)| Change::GivenUp {
                    offset,
                    parked,
                    deliveries,
                    at_ms,
                    reason: reason.into(),
                    key,
                    by
                }
            ),
            (at(), any::<Option<u64>>()).prop_map(|(offset, key)| Change::Held { offset, key }),
        ]
    }

    proptest! {
        #[test]
        fn a_delta_survives_its_bytes(epoch in 0..i32::MAX, start in 0..1i64 << 50, changes in proptest::collection::vec(change(), 0..20)) {
            let delta = Delta { epoch, start, changes };
            let mut bytes = Vec::new();
            delta.encode(&mut bytes);
            prop_assert_eq!(Delta::decode(&bytes), Ok(delta));
            for cut in 0..bytes.len() {
                prop_assert!(Delta::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Delta::decode(&bytes);
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            let _ = Delta::decode(&bytes);
        }
    }

    #[test]
    fn version_1_knew_no_length_of_a_delay() {
        let not_before = NotBefore { wall_ms: 1_700_000_000_000, delay_ms: 0 };
        let mut bytes = vec![1];
        for n in [7, 100, 1] {
            put(&mut bytes, n); // epoch, start, changes
        }
        bytes.push(4);
        for n in [5, 1, 2, not_before.wall_ms] {
            put(&mut bytes, n); // from, how many, deliveries
        }
        bytes.push(0);
        let changes = vec![Change::Waiting { from: 105, to: 106, deliveries: 2, not_before, by: None }];
        assert_eq!(Delta::decode(&bytes), Ok(Delta { epoch: 7, start: 100, changes }));
        bytes[0] = VERSION + 1;
        assert_eq!(Delta::decode(&bytes), Err(DeltaError::Version(VERSION + 1)));
    }

    #[test]
    fn a_hundred_acknowledgements_are_a_few_bytes() {
        let by = Some(By { generation: 70_000, verdict: Verdict::Ack });
        let changes = vec![Change::Settled { from: 5_000_000, to: 5_000_100, cause: Cause::Acked, by }];
        let mut bytes = Vec::new();
        Delta { epoch: 9, start: 5_000_100, changes }.encode(&mut bytes);
        assert!(bytes.len() <= 16, "{}", bytes.len());
    }
}

//! The `.snapshot` file: producers and Idempotency-Keys as of the offset in its name.
//!
//! **Invariant**: taken whole or not at all; without it both are rebuilt from the records. Pure.

use super::LogError;
use super::frame::{frame, unframe};
use super::idempotency::{IdempotencyLimits, IdempotencyTable};
use super::producer_state::ProducerStateTable;

const MAGIC: [u8; 4] = *b"SLSN";
const VERSION: u16 = 1;

/// Idempotent producers that one log remembers.
pub(super) const MAX_PRODUCERS: usize = 10_000;

/// The file's content.
pub(super) fn encode(producers: &ProducerStateTable, keys: &IdempotencyTable) -> Vec<u8> {
    let (producers, keys) = (producers.to_bytes(), keys.to_bytes());
    let mut payload = (producers.len() as u32).to_be_bytes().to_vec();
    payload.extend_from_slice(&producers);
    payload.extend_from_slice(&keys);
    frame(MAGIC, VERSION, &payload)
}

/// The reverse.
pub(super) fn decode(
    what: &str,
    bytes: &[u8],
    limits: IdempotencyLimits,
) -> Result<(ProducerStateTable, IdempotencyTable), LogError> {
    let payload = unframe(what, MAGIC, VERSION, bytes)?;
    let corrupt = || LogError::Corrupt(format!("{what}: its content does not fit"));
    let (length, rest) = payload.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let (producers, keys) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(corrupt)?;
    Ok((ProducerStateTable::from_bytes(producers, MAX_PRODUCERS)?, IdempotencyTable::from_bytes(keys, limits)?))
}

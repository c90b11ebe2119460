//! The frame that every file of Sluice's own kind carries: magic, version, length, CRC-32C.
//!
//! **Invariant**: a framed file is taken whole or not at all. Pure.

use super::LogError;

/// Puts magic, version, length and CRC-32C around a file's content.
pub(super) fn frame(magic: [u8; 4], version: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 14);
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// Takes the frame off again.
///
/// # Errors
/// [`LogError::NewerVersion`], or [`LogError::Corrupt`] naming `what`.
pub(super) fn unframe<'a>(what: &str, magic: [u8; 4], version: u16, bytes: &'a [u8]) -> Result<&'a [u8], LogError> {
    let corrupt = |why: &str| LogError::Corrupt(format!("{what}: {why}"));
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("too short"))?;
    let (head, rest) = body.split_first_chunk::<6>().ok_or_else(|| corrupt("too short"))?;
    if head[..4] != magic {
        return Err(corrupt("its magic number is another one"));
    }
    if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
        return Err(corrupt("its CRC does not match"));
    }
    if u16::from_be_bytes([head[4], head[5]]) > version {
        return Err(LogError::NewerVersion(what.to_owned()));
    }
    let (length, payload) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("too short"))?;
    if payload.len() != u32::from_be_bytes(*length) as usize {
        return Err(corrupt("its length does not fit"));
    }
    Ok(payload)
}

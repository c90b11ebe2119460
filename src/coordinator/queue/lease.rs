//! The token of a lease: what it names, signed, so that any broker can check it without asking. Pure.
//!
//! A token is base64url of: version, queue id (8 bytes), partition, offset, generation, epoch (varints), and the first 16
//! bytes of HMAC-SHA256 (RFC 2104) over all before them, under the cluster's secret.
//!
//! **Invariant**: what [`LeaseSigner::verify`] gives was signed by [`LeaseSigner::sign`] of a broker of this cluster. The
//! comparison takes the same time whatever differs.

use super::change;
use base64_simd::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
const BLOCK: usize = 64;
/// The longest that a token can be: what is longer is not looked at.
const MAX_TOKEN: usize = 96;
/// Of the data folder's secret this is used, and nothing else signs with it.
const PURPOSE: &[u8] = b"sluice queue lease v1";

/// What a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseRef {
    /// The queue; one made again under the same name has another.
    pub queue: u64,
    /// The partition of its topic.
    pub partition: i32,
    /// The record.
    pub offset: i64,
    /// The receive call, within the epoch.
    pub generation: u32,
    /// The ownership of the queue's state.
    pub epoch: i32,
}

/// No token of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no lease of this cluster; send the `lease` of a received message as it came")]
pub struct InvalidLease;

/// Makes and checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct LeaseSigner {
    /// SHA-256 after the block of the inner and the outer key: half of each HMAC's work, done once.
    inner: Sha256,
    outer: Sha256,
}

/// Without the key.
impl std::fmt::Debug for LeaseSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaseSigner")
    }
}

impl LeaseSigner {
    /// With a key made of the cluster's secret.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self::with_key(&hmac(&Self::with_key(secret), PURPOSE))
    }

    fn with_key(key: &[u8; 32]) -> Self {
        let keyed = |pad: u8| {
            let mut block = [pad; BLOCK];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            Sha256::new_with_prefix(block)
        };
        Self { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    /// The token.
    #[must_use]
    pub fn sign(&self, lease: LeaseRef) -> String {
        let mut raw = Vec::with_capacity(48);
        raw.push(VERSION);
        raw.extend_from_slice(&lease.queue.to_le_bytes());
        change::put(&mut raw, i64::from(lease.partition));
        change::put(&mut raw, lease.offset);
        change::put(&mut raw, i64::from(lease.generation));
        change::put(&mut raw, i64::from(lease.epoch));
        let mac = hmac(self, &raw);
        raw.extend_from_slice(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode_to_string(&raw)
    }

    /// What a token names.
    ///
    /// # Errors
    /// [`InvalidLease`], whatever is wrong with it.
    pub fn verify(&self, token: &str) -> Result<LeaseRef, InvalidLease> {
        if token.len() > MAX_TOKEN {
            return Err(InvalidLease);
        }
        let raw = URL_SAFE_NO_PAD.decode_to_vec(token).map_err(|_| InvalidLease)?;
        let (body, mac) = raw.split_last_chunk::<MAC_BYTES>().ok_or(InvalidLease)?;
        let difference = hmac(self, body).iter().zip(mac).fold(0, |all, (a, b)| all | (a ^ b));
        if difference != 0 {
            return Err(InvalidLease);
        }
        parse(body).ok_or(InvalidLease)
    }
}

fn parse(body: &[u8]) -> Option<LeaseRef> {
    let (&version, mut rest) = body.split_first()?;
    let queue = rest.split_off(..8)?.try_into().ok().map(u64::from_le_bytes)?;
    let rest = &mut rest;
    let lease = LeaseRef {
        queue,
        partition: change::number(rest).ok()?,
        offset: change::take(rest).ok()?,
        generation: change::number(rest).ok()?,
        epoch: change::number(rest).ok()?,
    };
    (version == VERSION && rest.is_empty()).then_some(lease)
}

fn hmac(signer: &LeaseSigner, message: &[u8]) -> [u8; 32] {
    let inner = signer.inner.clone().chain_update(message).finalize();
    signer.outer.clone().chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Case 2 of RFC 4231, whose key is shorter than ours: zeros up to the block are the same key.
    #[test]
    fn it_is_hmac_sha256() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let mac = hmac(&LeaseSigner::with_key(&key), b"what do ya want for nothing?");
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    proptest! {
        #[test]
        fn a_token_is_what_was_signed(queue: u64, partition in 0..i32::MAX, offset in 0..i64::MAX, generation: u32, epoch in 0..i32::MAX,
            at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]", text in "[ -~]{0,100}") {
            let (ours, theirs) = (LeaseSigner::new(&[7; 32]), LeaseSigner::new(&[8; 32]));
            let lease = LeaseRef { queue, partition, offset, generation, epoch };
            let token = ours.sign(lease);
            prop_assert!(token.len() <= MAX_TOKEN);
            prop_assert_eq!(ours.verify(&token), Ok(lease));
            prop_assert_eq!(theirs.verify(&token), Err(InvalidLease));
            prop_assert_eq!(ours.verify(&text), Err(InvalidLease));
            let at = at.index(token.len());
            prop_assert_eq!(ours.verify(&token[..at]), Err(InvalidLease));
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            prop_assert_eq!(ours.verify(&changed).is_ok(), changed == token);
        }
    }
}

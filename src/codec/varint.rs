//! Kafka's varints: zigzag, then seven bits a byte, the lowest first (as Protocol Buffers' `sint32` and `sint64`).

use super::BatchError;
use bytes::{BufMut, BytesMut};

/// Bytes of the longest `i32` and `i64`.
pub(super) const MAX_I32: usize = 5;
pub(super) const MAX_I64: usize = 10;

const OVERLONG: BatchError = BatchError::Corrupt("a varint is too long");
const CUT: BatchError = BatchError::Corrupt("a varint is cut off");

const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// Bytes that `n` takes.
pub(super) const fn size(n: i64) -> usize {
    let bits = 64 - (zigzag(n) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `n`. An `i32` and the `i64` of the same number have the same bytes.
pub(super) fn put(buffer: &mut BytesMut, n: i64) {
    let mut left = zigzag(n);
    let mut bytes = [0; MAX_I64];
    let mut len = 0;
    while left >= 0x80 {
        bytes[len] = left as u8 | 0x80;
        left >>= 7;
        len += 1;
    }
    bytes[len] = left as u8;
    buffer.put_slice(&bytes[..=len]);
}

/// A reader over a slice: each call takes what it reads off the front.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn byte(&mut self) -> Result<u8, BatchError> {
        let byte = *self.bytes.get(self.at).ok_or(BatchError::Corrupt("a record is cut off"))?;
        self.at += 1;
        Ok(byte)
    }

    /// Takes `len` bytes; `len` comes from the input.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(BatchError::Corrupt("a length points past the end"))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    /// A length and that many bytes; −1 is null.
    pub(super) fn nullable(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match self.i32()? {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| BatchError::Corrupt("a length is negative"))?;
                self.take(len).map(Some)
            }
        }
    }

    pub(super) fn i32(&mut self) -> Result<i32, BatchError> {
        let raw = self.unsigned(MAX_I32)?;
        let raw = u32::try_from(raw).map_err(|_| OVERLONG)?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    pub(super) fn i64(&mut self) -> Result<i64, BatchError> {
        let raw = self.unsigned(MAX_I64)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn unsigned(&mut self, max_bytes: usize) -> Result<u64, BatchError> {
        let mut value = 0u64;
        for (i, byte) in self.bytes[self.at..].iter().take(max_bytes).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if i == 9 && bits > 1 {
                return Err(OVERLONG);
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(if self.remaining() < max_bytes { CUT } else { OVERLONG })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_bytes() {
        for (n, expected) in [
            (0, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[0x80, 1]),
            (300, &[0xd8, 4]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut buffer = BytesMut::new();
            put(&mut buffer, n);
            assert_eq!(&buffer[..], expected, "{n}");
            assert_eq!(size(n), expected.len(), "{n}");
        }
    }

    #[test]
    fn bad_ones_are_refused() {
        assert_eq!(Cursor::new(&[0x80], 0).i32(), Err(CUT));
        assert_eq!(Cursor::new(&[], 0).i64(), Err(CUT));
        assert_eq!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0], 0).i32(), Err(OVERLONG));
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x1f], 0).i32(), Err(OVERLONG));
        assert_eq!(Cursor::new(&[0xff; 11], 0).i64(), Err(OVERLONG));
        assert!(Cursor::new(&[0xfe, 0xff, 0xff, 0xff, 0x0f], 0).nullable().is_err());
        assert!(Cursor::new(&[3], 0).nullable().is_err(), "a length of -2");
    }

    proptest! {
        #[test]
        fn round_trip(n: i64) {
            let mut buffer = BytesMut::new();
            put(&mut buffer, n);
            prop_assert_eq!(buffer.len(), size(n));
            let mut cursor = Cursor::new(&buffer, 0);
            prop_assert_eq!(cursor.i64(), Ok(n));
            prop_assert_eq!(cursor.remaining(), 0);
            if let Ok(small) = i32::try_from(n >> 32) {
                let mut buffer = BytesMut::new();
                put(&mut buffer, i64::from(small));
                prop_assert_eq!(Cursor::new(&buffer, 0).i32(), Ok(small));
            }
        }
    }
}

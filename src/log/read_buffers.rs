//! Buffers for reading segments, used again: memory that was just read into is mapped, in the processor's cache, and need
//! not be cleared. Clearing took as long as reading from the page cache.
//!
//! **Invariant**: at most [`KEPT`] unused ones are kept. A buffer comes back when the last reader lets go of what was read
//! into it. What is in a buffer beyond what was read is an earlier read's, and is never given out: who takes a buffer reads
//! over all of it or drops it.
//!
//! Called by `reader`, from any thread.

use parking_lot::Mutex;
use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Bytes of a buffer that is kept: those that a live reader asks for at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Below this a buffer of its own costs less than most of a kept one standing empty.
const LEAST_BYTES: usize = BUFFER_BYTES / 2;
/// Unused buffers that are kept.
const KEPT: usize = 16;

/// The unused ones.
#[derive(Debug, Default)]
pub(super) struct ReadBuffers(Mutex<Vec<Vec<u8>>>);

/// So many bytes to read into.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    memory: Vec<u8>,
    length: usize,
    home: Option<Arc<ReadBuffers>>,
}

impl ReadBuffers {
    /// A buffer of so many bytes, whatever they are.
    pub fn take(self: &Arc<Self>, length: usize) -> ReadBuffer {
        if !(LEAST_BYTES..=BUFFER_BYTES).contains(&length) {
            return ReadBuffer { memory: vec![0; length], length, home: None };
        }
        let unused = self.0.lock().pop();
        let memory = unused.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        ReadBuffer { memory, length, home: Some(Arc::clone(self)) }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let mut unused = home.0.lock();
        if unused.len() < KEPT {
            unused.push(std::mem::take(&mut self.memory));
        }
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn buffers_come_back_when_nobody_holds_them_and_no_more_than_are_kept() {
        let buffers = Arc::new(ReadBuffers::default());
        let unused = || buffers.0.lock().len();
        let mut buffer = buffers.take(BUFFER_BYTES - 1);
        assert_eq!(buffer.len(), BUFFER_BYTES - 1);
        buffer[0] = 7;
        let whole = Bytes::from_owner(buffer);
        let part = whole.slice(..1);
        drop(whole);
        assert_eq!((unused(), part[0]), (0, 7));
        drop(part);
        assert_eq!(unused(), 1);
        let many: Vec<_> = (0..2 * KEPT).map(|_| buffers.take(BUFFER_BYTES)).collect();
        assert_eq!(unused(), 0);
        drop(many);
        assert_eq!(unused(), KEPT);
        drop((buffers.take(16), buffers.take(BUFFER_BYTES + 1)));
        assert_eq!(unused(), KEPT);
    }
}

//! Bytes on their way to a socket: pieces that others may share, many in one vectored write.
//!
//! **Invariant**: pieces go out whole and in their order. Bounded by who adds them. Called by `long_answer` and `websocket`.

use bytes::{Buf as _, Bytes};
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// Slices of one vectored write.
const SLICES: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Outgoing {
    /// Adds a piece behind the others.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Adds a piece ahead of the last `behind` ones.
    pub fn insert(&mut self, behind: usize, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.insert(self.pieces.len().saturating_sub(behind), piece);
    }

    /// Pieces that are not out.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes that are not out.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until everything is out.
    pub fn poll_write<T: AsyncWrite + Unpin>(&mut self, io: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pieces.is_empty() {
            let slices: [IoSlice<'_>; SLICES] =
                std::array::from_fn(|i| IoSlice::new(self.pieces.get(i).map_or(&[], |piece| &piece[..])));
            let used = self.pieces.len().min(SLICES);
            let mut written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes -= written;
            while let Some(first) = self.pieces.front_mut() {
                if written < first.len() {
                    first.advance(written);
                    break;
                }
                written -= first.len();
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

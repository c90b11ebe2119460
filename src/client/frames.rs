//! Frames off a socket.

use bytes::{Buf as _, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The first bytes of a frame, which say how many follow.
const LENGTH_BYTES: usize = 4;
/// What is reserved at least for the next read.
const READ_BYTES: usize = 16 * 1024;

/// Reads frames. Memory grows with the bytes that came, not with the length that a frame claims.
pub(super) struct Frames<R> {
    socket: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Of frames up to `limit` bytes.
    pub(super) fn new(socket: R, limit: usize) -> Self {
        Self { socket, buffer: BytesMut::new(), limit }
    }

    /// The next frame without its length; `None` at the end of the stream, also within a frame. Nothing is lost if the
    /// future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut missing = LENGTH_BYTES.saturating_sub(self.buffer.len());
            if let Some(length) = self.buffer.first_chunk() {
                let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| io::ErrorKind::InvalidData)?;
                if length > self.limit {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                missing = (LENGTH_BYTES + length).saturating_sub(self.buffer.len());
                if missing == 0 {
                    self.buffer.advance(LENGTH_BYTES);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            // At most double what came; and what belongs to one frame is moved a bounded number of times.
            self.buffer.reserve(missing.min(self.buffer.len()).max(READ_BYTES));
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_however_the_bytes_come_in() {
        let bytes = [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0], &[0, 0, 0, 3], b"cde"].concat();
        for step in 1..bytes.len() {
            let parts = bytes.chunks(step).fold(tokio_test_io(), |parts, chunk| parts.chain_read(chunk));
            let mut frames = Frames::new(parts, 3);
            assert_eq!(frames.next().await.unwrap().unwrap(), "ab");
            assert_eq!(frames.next().await.unwrap().unwrap(), "");
            assert_eq!(frames.next().await.unwrap().unwrap(), "cde");
            assert_eq!(frames.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn too_long_or_negative_is_an_error_before_memory_is_taken() {
        for length in [4i32, i32::MAX, -1] {
            let bytes = length.to_be_bytes();
            let error = Frames::new(&bytes[..], 3).next().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_frame_is_at_its_end() {
        assert_eq!(Frames::new(&[0, 0, 0, 2, b'a'][..], 3).next().await.unwrap(), None);
    }

    /// A reader that gives each chunk in a read of its own.
    struct Chunks(std::collections::VecDeque<Vec<u8>>);

    fn tokio_test_io() -> Chunks {
        Chunks(std::collections::VecDeque::new())
    }

    impl Chunks {
        fn chain_read(mut self, chunk: &[u8]) -> Self {
            self.0.push_back(chunk.to_vec());
            self
        }
    }

    impl AsyncRead for Chunks {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            if let Some(chunk) = self.0.pop_front() {
                into.put_slice(&chunk);
            }
            std::task::Poll::Ready(Ok(()))
        }
    }
}

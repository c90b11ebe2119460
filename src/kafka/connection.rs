//! One connection: frames in, answers out in the order of their requests.
//!
//! **Invariant**: at most [`MAX_IN_FLIGHT`] requests are under way, and a frame's memory is taken from the door's budget
//! before a byte of it is read. A request is begun (and what it appends is in order) before the next one is read; its
//! answer waits side by side with the others'. One that has much to do before it is in order holds up those behind it, and
//! nobody else. While answers wait for a slow client, nothing is read.

use super::{Door, MEMORY_UNIT, api};
use crate::{
    codec::{Frame, Piece, WireError},
    sys::Socket,
    telemetry::{Reserved, metrics},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

/// Requests under way on one connection. Kafka's own broker takes one at a time; clients keep 5 in flight.
const MAX_IN_FLIGHT: usize = 8;
/// How long a frame that has begun may take to arrive.
const FRAME_TIMEOUT: Duration = Duration::from_mins(2);
/// How much is read at once beyond what a frame still needs.
const READ_AHEAD: usize = 8 << 10;
/// Parts of frames that one write takes: what systems take at most is 1024.
const MAX_PARTS: usize = 256;
/// What lies on the disk is read and sent in pieces of this size: they fit the processor's cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;

/// Why a connection ends before its client closes it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    /// The network.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A frame that is no request of ours.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// More than we read.
    #[error("a frame of {0} bytes is larger than socket.request.max.bytes")]
    FrameTooLarge(i64),
    /// The client is silent, or does not take its answers.
    #[error("nothing happened for too long")]
    Idle,
    /// What failed with acks=0 can only be told like this.
    #[error("a produce request without acknowledgement failed")]
    Unacknowledged,
}

/// An answer under way; `None` where the client wants none.
pub(super) type Answer = BoxFuture<'static, Result<Option<Frame>, Ending>>;

/// A request that was begun.
pub(super) enum Begun {
    /// What it appends is in order.
    Now(Answer),
    /// It will be once this is done; until then no other request may begin.
    Soon(BoxFuture<'static, Answer>),
}

impl Begun {
    /// Puts something around the answer.
    #[allow(clippy::async_yields_async)] // the answer is awaited beside others
    pub(super) fn map(self, around: impl FnOnce(Answer) -> Answer + Send + 'static) -> Self {
        match self {
            Self::Now(answer) => Self::Now(around(answer)),
            Self::Soon(preparing) => Self::Soon(Box::pin(async move { around(preparing.await) })),
        }
    }
}

/// Serves a connection until it ends.
pub(super) async fn run(socket: Box<dyn Socket>, peer: SocketAddr, door: Door) {
    let mut connection =
        Connection { socket, peer, door, input: Input::default(), preparing: None, in_flight: FuturesOrdered::new() };
    match connection.serve().await {
        Ok(()) => {}
        Err(Ending::Io(error)) => tracing::debug!(%error, "a Kafka connection ended early"),
        Err(Ending::Idle) => tracing::debug!("an idle Kafka connection is closed"),
        Err(ending) => tracing::warn!(reason = %ending, "a Kafka connection is closed"),
    }
}

struct Connection {
    socket: Box<dyn Socket>,
    peer: SocketAddr,
    door: Door,
    input: Input,
    /// The request that is about to be in flight.
    preparing: Option<BoxFuture<'static, Answer>>,
    in_flight: FuturesOrdered<Answer>,
}

enum Event {
    Request(Bytes, FrameMemory),
    Answered(Result<Option<Frame>, Ending>),
    Prepared(Answer),
    Ended,
    Drain,
}

impl Connection {
    async fn serve(&mut self) -> Result<(), Ending> {
        let mut open = true;
        loop {
            match self.next(open).await? {
                Event::Request(frame, memory) => self.begin(frame, memory)?,
                Event::Answered(answer) => self.send(answer?).await?,
                Event::Prepared(answer) => {
                    self.preparing = None;
                    self.in_flight.push_back(answer);
                }
                // What is under way is still answered: the client may only have closed its own end.
                Event::Ended | Event::Drain => open = false,
            }
            if !open && self.preparing.is_none() && self.in_flight.is_empty() {
                return Ok(());
            }
        }
    }

    async fn next(&mut self, open: bool) -> Result<Event, Ending> {
        let Self { socket, door, input, preparing, in_flight, .. } = self;
        let reads = open && preparing.is_none() && in_flight.len() < MAX_IN_FLIGHT;
        let patience = match (in_flight.is_empty() && preparing.is_none(), input.has_begun()) {
            (_, true) if reads => FRAME_TIMEOUT,
            (true, false) => door.settings().idle_timeout,
            // Answers have deadlines of their own.
            (false, _) => Duration::MAX,
            (true, true) => FRAME_TIMEOUT,
        };
        let next = async {
            tokio::select! {
                biased;
                Some(answer) = in_flight.next() => Ok(Event::Answered(answer)),
                Some(answer) = async { Some(preparing.as_mut()?.await) } => Ok(Event::Prepared(answer)),
                () = door.drained(), if open => Ok(Event::Drain),
                frame = input.next(socket, door), if reads => match frame? {
                    Some((frame, memory)) => Ok(Event::Request(frame, memory)),
                    None => Ok(Event::Ended),
                },
                else => Ok(Event::Ended),
            }
        };
        timeout(patience, next).await.unwrap_or(Err(Ending::Idle))
    }

    fn begin(&mut self, frame: Bytes, memory: FrameMemory) -> Result<(), Ending> {
        metrics().kafka_bytes_in.inc_by(frame.len() as u64);
        let begun = api::begin(&self.door, self.peer, frame)?.map(|answer| {
            Box::pin(async move {
                let answer = answer.await;
                drop(memory);
                answer
            })
        });
        match begun {
            Begun::Now(answer) => self.in_flight.push_back(answer),
            Begun::Soon(preparing) => self.preparing = Some(preparing),
        }
        Ok(())
    }

    /// Sends an answer, and with it those after it that are ready as well.
    async fn send(&mut self, first: Option<Frame>) -> Result<(), Ending> {
        let mut out = Outgoing::default();
        let mut frame = first;
        let mut failed = None;
        loop {
            out.pieces.extend(frame.map(Frame::into_pieces).into_iter().flatten());
            if out.pieces.len() >= MAX_PARTS {
                break;
            }
            match self.in_flight.next().now_or_never() {
                Some(Some(Ok(next))) => frame = next,
                Some(Some(Err(ending))) => {
                    failed = Some(ending);
                    break;
                }
                Some(None) | None => break,
            }
        }
        let patience = self.door.settings().idle_timeout;
        while !out.is_empty() {
            // The frame's length is out: there is no other way to say that it failed.
            out.prepare().await.inspect_err(|error| tracing::error!(%error, "reading what is being sent failed"))?;
            let written =
                timeout(patience, self.socket.write_vectored(&out.slices())).await.map_err(|_| Ending::Idle)??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            metrics().kafka_bytes_out.inc_by(written as u64);
            out.advance(written);
        }
        self.socket.flush().await?;
        failed.map_or(Ok(()), Err)
    }
}

/// What is being sent. Of what lies on the disk, one chunk at a time is in memory: `chunk` stands behind the first `before`
/// pieces, and is what comes before `at` of the stored piece after it, if that is not read to its end.
#[derive(Default)]
struct Outgoing {
    pieces: VecDeque<Piece>,
    before: usize,
    chunk: Vec<u8>,
    /// How much of the chunk was sent.
    sent: usize,
    at: usize,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.sent == self.chunk.len()
    }

    /// Reads the next chunk, where it is its turn.
    async fn prepare(&mut self) -> io::Result<()> {
        if self.sent < self.chunk.len() {
            return Ok(());
        }
        self.before = self.pieces.iter().take(MAX_PARTS).take_while(|piece| matches!(piece, Piece::Memory(_))).count();
        self.chunk.truncate(0);
        self.sent = 0;
        let Some(Piece::Stored(stored)) = self.pieces.get(self.before).filter(|_| self.before < MAX_PARTS) else {
            return Ok(());
        };
        let stored = Arc::clone(stored);
        let size = CHUNK_BYTES.min(stored.len() - self.at);
        self.chunk.resize(size, 0);
        stored.read(self.at, &mut self.chunk).await?;
        self.at += size;
        if self.at == stored.len() {
            self.pieces.remove(self.before);
            self.at = 0;
        }
        Ok(())
    }

    fn slices(&self) -> Vec<io::IoSlice<'_>> {
        fn memory(piece: &Piece) -> Option<io::IoSlice<'_>> {
            match piece {
                Piece::Memory(bytes) => Some(io::IoSlice::new(bytes)),
                Piece::Stored(_) => None,
            }
        }
        let before = self.pieces.iter().take(self.before).filter_map(memory);
        let chunk = self.chunk.get(self.sent..).filter(|chunk| !chunk.is_empty()).map(io::IoSlice::new);
        // What follows the chunk, if its piece ends with it.
        let room = if self.at == 0 { MAX_PARTS - self.before } else { 0 };
        let after = self.pieces.iter().skip(self.before).take(room).map_while(memory);
        before.chain(chunk).chain(after).collect()
    }

    /// Takes what was written off the front.
    fn advance(&mut self, mut written: usize) {
        while written > 0 {
            if self.before == 0 && self.sent < self.chunk.len() {
                let taken = written.min(self.chunk.len() - self.sent);
                self.sent += taken;
                written -= taken;
                continue;
            }
            let Some(Piece::Memory(part)) = self.pieces.front_mut() else { return };
            if written < part.len() {
                return part.advance(written);
            }
            written -= part.len();
            self.pieces.pop_front();
            self.before = self.before.saturating_sub(1);
        }
    }
}

/// What came and is no whole frame yet.
#[derive(Default)]
struct Input {
    buffer: BytesMut,
    /// The budget for the frame in hand.
    memory: Option<FrameMemory>,
    /// The buffer was made for one frame.
    is_exact: bool,
}

impl Input {
    fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame without its length, with the budget that it takes; `None` at the end. May be dropped at any
    /// time, and goes on where it was.
    ///
    /// A large frame lies in memory of its own, of its size, so that what it brings can be kept without a copy.
    async fn next(
        &mut self,
        socket: &mut Box<dyn Socket>,
        door: &Door,
    ) -> Result<Option<(Bytes, FrameMemory)>, Ending> {
        loop {
            if let Some(length) = self.buffer.first_chunk().map(|length| i32::from_be_bytes(*length)) {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= door.max_frame_bytes())
                    .ok_or(Ending::FrameTooLarge(length.into()))?;
                let memory = match self.memory.take() {
                    Some(memory) => memory,
                    None => reserve(door, length).await?,
                };
                let whole = LENGTH_BYTES + length;
                if self.buffer.len() >= whole {
                    let frame = match std::mem::take(&mut self.is_exact) {
                        // Nobody else has a hand on it: what comes next gets another.
                        true => std::mem::take(&mut self.buffer),
                        false => self.buffer.split_to(whole),
                    };
                    let mut frame = frame.freeze();
                    frame.advance(LENGTH_BYTES);
                    return Ok(Some((frame, memory)));
                }
                self.memory = Some(memory);
                if whole > READ_AHEAD {
                    if !self.is_exact {
                        let mut exact = BytesMut::with_capacity(whole);
                        exact.extend_from_slice(&self.buffer);
                        self.buffer = exact;
                        self.is_exact = true;
                    }
                    let missing = (whole - self.buffer.len()) as u64;
                    if (&mut *socket).take(missing).read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                    continue;
                }
            }
            self.buffer.reserve(READ_AHEAD.saturating_sub(self.buffer.len()));
            if socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The memory of one frame, of the budget of all.
struct FrameMemory {
    _permit: OwnedSemaphorePermit,
    _reserved: Reserved,
}

async fn reserve(door: &Door, bytes: usize) -> Result<FrameMemory, Ending> {
    let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX);
    // Never closed; and never more than there is, since a frame is bounded by it.
    let permit = door.0.memory.clone().acquire_many_owned(units).await.map_err(io::Error::other)?;
    Ok(FrameMemory { _permit: permit, _reserved: door.0.budget.reserve(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::StoredBytes;

    struct OnDisk(Vec<u8>);

    impl StoredBytes for OnDisk {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn read<'a>(&'a self, at: usize, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<()>> {
            buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
            Box::pin(async { Ok(()) })
        }
    }

    /// However little each write takes, the bytes leave in their order, and no more than a chunk of what is stored is read.
    #[tokio::test]
    async fn pieces_leave_in_order_whatever_a_write_takes() {
        let bytes = |n: usize, len: usize| (0..len).map(|i| (n * 31 + i % 251) as u8).collect::<Vec<_>>();
        let sizes = [(false, 10), (true, CHUNK_BYTES * 2 + 7), (false, 3), (true, 5), (true, CHUNK_BYTES), (false, 1)];
        for step in [1_000, 70_001, CHUNK_BYTES, usize::MAX] {
            let mut out = Outgoing::default();
            let mut expected = Vec::new();
            for (n, (stored, len)) in sizes.into_iter().enumerate() {
                let part = bytes(n, len);
                expected.extend_from_slice(&part);
                out.pieces.push_back(if stored {
                    Piece::Stored(Arc::new(OnDisk(part)))
                } else {
                    Piece::Memory(part.into())
                });
            }
            // More pieces than one write takes.
            for n in 0..MAX_PARTS + 3 {
                let part = bytes(n, 2);
                expected.extend_from_slice(&part);
                out.pieces.push_back(Piece::Memory(part.into()));
            }
            let mut sent = Vec::new();
            while !out.is_empty() {
                out.prepare().await.unwrap();
                let slices = out.slices();
                assert!(!slices.is_empty() && slices.len() <= MAX_PARTS + 1 && out.chunk.len() <= CHUNK_BYTES);
                let mut offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                offered.truncate(step);
                out.advance(offered.len());
                sent.extend(offered);
            }
            assert!(sent == expected, "in steps of {step}");
        }
    }
}

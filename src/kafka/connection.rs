//! One connection: frames in, answers out in the order of their requests.
//!
//! **Invariant**: at most [`MAX_IN_FLIGHT`] requests are under way, and a frame's memory is taken from the door's budget
//! before a byte of it is read. A request is begun (and what it appends is in order) before the next one is read; its
//! answer waits side by side with the others'. While answers wait for a slow client, nothing is read.

use super::{Door, MEMORY_UNIT, api};
use crate::{
    codec::{Frame, WireError},
    sys::Socket,
    telemetry::{Reserved, metrics},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};
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

/// Serves a connection until it ends.
pub(super) async fn run(socket: Box<dyn Socket>, peer: SocketAddr, door: Door) {
    let mut connection = Connection { socket, peer, door, input: Input::default(), in_flight: FuturesOrdered::new() };
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
    in_flight: FuturesOrdered<Answer>,
}

enum Event {
    Request(Bytes, FrameMemory),
    Answered(Result<Option<Frame>, Ending>),
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
                Event::Ended if self.in_flight.is_empty() => return Ok(()),
                // What is under way is still answered: the client may only have closed its own end.
                Event::Ended | Event::Drain => open = false,
            }
            if !open && self.in_flight.is_empty() {
                return Ok(());
            }
        }
    }

    async fn next(&mut self, open: bool) -> Result<Event, Ending> {
        let Self { socket, door, input, in_flight, .. } = self;
        let reads = open && in_flight.len() < MAX_IN_FLIGHT;
        let patience = match (in_flight.is_empty(), input.has_begun()) {
            (_, true) => FRAME_TIMEOUT,
            (true, false) => door.settings().idle_timeout,
            // Answers have deadlines of their own.
            (false, false) => Duration::MAX,
        };
        let next = async {
            tokio::select! {
                biased;
                Some(answer) = in_flight.next() => Ok(Event::Answered(answer)),
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
        let answer = api::begin(&self.door, self.peer, frame)?;
        self.in_flight.push_back(Box::pin(async move {
            let answer = answer.await;
            drop(memory);
            answer
        }));
        Ok(())
    }

    /// Sends an answer, and with it those after it that are ready as well.
    async fn send(&mut self, first: Option<Frame>) -> Result<(), Ending> {
        let mut parts = VecDeque::new();
        let mut frame = first;
        let mut failed = None;
        loop {
            parts.extend(frame.map(Frame::into_parts).into_iter().flatten());
            if parts.len() >= MAX_PARTS {
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
        while !parts.is_empty() {
            let slices: Vec<_> = parts.iter().take(MAX_PARTS).map(|part| io::IoSlice::new(part)).collect();
            let patience = self.door.settings().idle_timeout;
            let written = timeout(patience, self.socket.write_vectored(&slices)).await.map_err(|_| Ending::Idle)??;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            metrics().kafka_bytes_out.inc_by(written as u64);
            advance(&mut parts, written);
        }
        self.socket.flush().await?;
        failed.map_or(Ok(()), Err)
    }
}

/// Takes what was written off the front.
fn advance(parts: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(part) = parts.front_mut() {
        if written < part.len() {
            part.advance(written);
            return;
        }
        written -= part.len();
        parts.pop_front();
    }
}

/// What came and is no whole frame yet.
#[derive(Default)]
struct Input {
    buffer: BytesMut,
    /// The budget for the frame in hand.
    memory: Option<FrameMemory>,
}

impl Input {
    fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame without its length, with the budget that it takes; `None` at the end. May be dropped at any
    /// time, and goes on where it was.
    async fn next(
        &mut self,
        socket: &mut Box<dyn Socket>,
        door: &Door,
    ) -> Result<Option<(Bytes, FrameMemory)>, Ending> {
        loop {
            let mut missing = LENGTH_BYTES;
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
                    let mut frame = self.buffer.split_to(whole).freeze();
                    frame.advance(LENGTH_BYTES);
                    return Ok(Some((frame, memory)));
                }
                self.memory = Some(memory);
                missing = whole;
            }
            self.buffer.reserve((missing - self.buffer.len()).max(READ_AHEAD));
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

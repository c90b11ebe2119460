//! One connection: requests go out one after another without waiting for answers, which come back in the same order.
//!
//! **Invariant**: each request that was written has an entry in `pending` until its answer came or the connection ended,
//! and there are at most `max_in_flight` of both together. An answer with another correlation id than the oldest entry's
//! ends the connection: after it nothing on it could be trusted. So does an oldest entry whose deadline passed; the
//! requests behind it are told that their outcome is not known.
//!
//! Two tasks, one for each direction; they end together.

use super::frames::Frames;
use super::versions::Versions;
use super::{ClientError, ClientOptions, Code};
use crate::codec::Frame;
use crate::codec::messages::{
    ApiKey, Request,
    api_versions::{ApiVersionsRequest, ApiVersionsResponse},
    correlation_id, decode_response, encode_request,
};
use crate::sys::Socket;
use bytes::{BufMut as _, Bytes, BytesMut};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// What is gathered into one write.
const WRITE_BYTES: usize = 64 * 1024;
/// Parts of a frame from this size on are written from where they lie.
const COPIED_BELOW: usize = 8 * 1024;
/// Version 0 of every request is older than what we read, except of this one, which every broker answers.
const OLDEST: i16 = 0;

/// A connection to a broker that told its versions. Ends when dropped.
pub(super) struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    versions: Versions,
    client_id: String,
}

struct Shared {
    closed: CancellationToken,
    in_flight: Arc<Semaphore>,
    next_correlation_id: AtomicI32,
    pending: Mutex<Pending>,
    /// Something was put into an empty `pending`.
    pushed: Notify,
}

#[derive(Default)]
struct Pending {
    entries: VecDeque<Entry>,
    ended: bool,
}

type Reply = oneshot::Sender<Result<Bytes, ClientError>>;

struct Entry {
    correlation_id: i32,
    deadline: Instant,
    reply: Reply,
    _permit: OwnedSemaphorePermit,
}

struct Outgoing {
    frame: Frame,
    entry: Entry,
}

impl Connection {
    /// Over a connected socket: starts the two tasks and asks for the broker's versions.
    pub(super) async fn open(
        socket: Box<dyn Socket>,
        options: &ClientOptions,
        deadline: Instant,
    ) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            closed: CancellationToken::new(),
            in_flight: Arc::new(Semaphore::new(options.max_in_flight)),
            next_correlation_id: AtomicI32::new(0),
            pending: Mutex::default(),
            pushed: Notify::new(),
        });
        let (outgoing, incoming) = mpsc::channel(options.max_in_flight);
        let (read, write) = tokio::io::split(socket);
        tokio::spawn(write_all(shared.clone(), incoming, write));
        tokio::spawn(read_all(shared.clone(), Frames::new(read, options.max_response_bytes)));
        let mut connection =
            Self { shared, outgoing, versions: Versions::default(), client_id: options.client_id.clone() };
        connection.versions = connection.agree(deadline).await?;
        Ok(connection)
    }

    /// Asks in our newest version, and again in the broker's newest if that is older (KIP-511).
    async fn agree(&self, deadline: Instant) -> Result<Versions, ClientError> {
        let ours = *ApiKey::ApiVersions.versions().end();
        let request = ApiVersionsRequest {
            client_software_name: "sluice".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let bytes = self.exchange(&request, ours, deadline).await?;
        // Who does not know the version answers in the oldest.
        let read =
            |version| decode_response::<ApiVersionsRequest>(bytes.clone(), version).map(|(_, response)| response);
        let mut response = match read(ours) {
            Ok(response) if response.error_code != Code::UNSUPPORTED_VERSION.get() => response,
            _ => read(OLDEST).map_err(ClientError::Malformed)?,
        };
        if response.error_code == Code::UNSUPPORTED_VERSION.get() {
            let version = Versions::new(&response).pick(ApiKey::ApiVersions).unwrap_or(OLDEST);
            let bytes = self.exchange(&request, version, deadline).await?;
            response = decode_response::<ApiVersionsRequest>(bytes, version).map_err(ClientError::Malformed)?.1;
        }
        let ApiVersionsResponse { error_code, .. } = response;
        match Code::new(error_code) {
            None => Ok(Versions::new(&response)),
            Some(code) => Err(ClientError::refused(code)),
        }
    }

    /// Sends a request in the newest version that both sides speak, and waits for its answer.
    pub(super) async fn send<R: Request>(&self, request: &R, deadline: Instant) -> Result<R::Response, ClientError> {
        let version = self.versions.pick(R::API).ok_or(ClientError::Unsupported(R::API))?;
        let bytes = self.exchange(request, version, deadline).await?;
        // The reader has held the correlation id against ours.
        decode_response::<R>(bytes, version).map(|(_, response)| response).map_err(ClientError::Malformed)
    }

    async fn exchange<R: Request>(&self, request: &R, version: i16, deadline: Instant) -> Result<Bytes, ClientError> {
        let permit = timeout_at(deadline, self.shared.in_flight.clone().acquire_owned());
        let permit = permit.await.map_err(|_| ClientError::DeadlineBeforeSent)?.map_err(|_| ClientError::NotSent)?;
        let correlation_id = self.shared.next_correlation_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode_request(version, correlation_id, Some(&self.client_id), request);
        let (reply, answer) = oneshot::channel();
        let entry = Entry { correlation_id, deadline, reply, _permit: permit };
        // There is room: the channel is as large as there are permits.
        self.outgoing.try_send(Outgoing { frame, entry }).map_err(|_| ClientError::NotSent)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ClientError::Cut),
            Err(_) => Err(ClientError::Deadline),
        }
    }

    /// Whether it can still be used.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.closed.is_cancelled()
    }

    /// Whether nobody waits for anything on it.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.in_flight.available_permits() == self.outgoing.max_capacity()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Shared {
    /// Puts it among those that wait for an answer; what was not written yet is told so.
    fn push(&self, entry: Entry) -> bool {
        let mut pending = self.pending.lock();
        if pending.ended {
            let _ = entry.reply.send(Err(ClientError::NotSent)); // nobody may wait for it any more
            return false;
        }
        if pending.entries.is_empty() {
            self.pushed.notify_one();
        }
        pending.entries.push_back(entry);
        true
    }

    /// Whose turn it is, if the answer is to that.
    fn pop(&self, answer: i32) -> Option<Entry> {
        let mut pending = self.pending.lock();
        let is_it = pending.entries.front().is_some_and(|entry| entry.correlation_id == answer);
        if is_it { pending.entries.pop_front() } else { None }
    }

    fn oldest_deadline(&self) -> Option<Instant> {
        self.pending.lock().entries.front().map(|entry| entry.deadline)
    }

    /// The end: all that wait learn that no answer comes.
    fn end(&self) {
        self.closed.cancel();
        let entries = {
            let mut pending = self.pending.lock();
            pending.ended = true;
            std::mem::take(&mut pending.entries)
        };
        drop(entries); // dropping a reply says `Cut`
    }
}

async fn write_all(
    shared: Arc<Shared>,
    mut incoming: mpsc::Receiver<Outgoing>,
    mut socket: WriteHalf<Box<dyn Socket>>,
) {
    let mut gathered = BytesMut::new();
    loop {
        let next = tokio::select! {
            biased;
            () = shared.closed.cancelled() => break,
            next = incoming.recv() => next,
        };
        let Some(next) = next else { break };
        let written = tokio::select! {
            biased;
            () = shared.closed.cancelled() => break,
            written = write_some(&shared, next, &mut incoming, &mut gathered, &mut socket) => written,
        };
        if written.is_err() {
            break;
        }
    }
    shared.end();
    incoming.close();
    while let Some(unsent) = incoming.recv().await {
        let _ = unsent.entry.reply.send(Err(ClientError::NotSent)); // nobody may wait for it any more
    }
    let _ = socket.shutdown().await; // the peer may be gone already
}

/// Writes a request and those that wait behind it.
async fn write_some(
    shared: &Shared,
    first: Outgoing,
    incoming: &mut mpsc::Receiver<Outgoing>,
    gathered: &mut BytesMut,
    socket: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    gathered.clear();
    let mut next = Some(first);
    while let Some(Outgoing { frame, entry }) = next {
        if !shared.push(entry) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        for part in frame.into_parts() {
            if part.len() < COPIED_BELOW {
                gathered.put_slice(&part);
            } else {
                socket.write_all_buf(gathered).await?;
                socket.write_all(&part).await?;
            }
        }
        next = if gathered.len() < WRITE_BYTES { incoming.try_recv().ok() } else { None };
    }
    socket.write_all_buf(gathered).await?;
    socket.flush().await
}

async fn read_all(shared: Arc<Shared>, mut frames: Frames<ReadHalf<Box<dyn Socket>>>) {
    loop {
        let oldest = shared.oldest_deadline();
        let overdue = async {
            match oldest {
                Some(deadline) => sleep_until(deadline).await,
                None => shared.pushed.notified().await,
            }
        };
        let frame = tokio::select! {
            biased;
            () = shared.closed.cancelled() => break,
            frame = frames.next() => frame,
            () = overdue => if oldest.is_some() { break } else { continue },
        };
        let Ok(Some(bytes)) = frame else { break };
        let Some(entry) = correlation_id(&bytes).ok().and_then(|id| shared.pop(id)) else { break };
        let _ = entry.reply.send(Ok(bytes)); // who asked may have gone
    }
    shared.end();
}

//! A live reader: history and tail in one loop, whatever the transport.
//!
//! **Invariant**: the events of a subscription, put after one another, hold each record from its start exactly once and
//! in each partition's order, or name it in a gap. A subscription that is not asked for its next event holds places, and
//! at most one fetch; never a queue.
//!
//! It begins by reading the log on its own; where it meets the sequencer's position it joins the shared stream, and
//! leaves it again when it was too slow. Bounded readers (`until`, `limit`) never join.
//!
//! Threading: one owner. [`Subscription::next`] may be dropped at any await without losing anything.

use super::census::Enrolled;
use super::conflater::Conflater;
use super::cursor::{Cursor, CursorEncoder, PendingPlace, Place, Position};
use super::event::{Budget, Ended, SessionEvent, SlowPolicy, SubscribeRequest, cut, fitting, frame_cursor};
use super::frame::{CHUNK_BYTES, Format, FrameBuffer, Frames};
use super::json::{RecordWriter, ValueEncoding};
use super::log_reader::{Fill, LogReader};
use super::read_plan::ReadPlan;
use super::ring::{SharedPositions, Taken};
use super::sequencer::{Attachment, Join, StreamKey, Take, Ticket};
use super::sessions::{Counted, SPARE_BYTES, Sessions};
use super::start::{StartPosition, recreated};
use super::{SessionError, snapshot::SnapshotWalk};
use crate::engine::TopicInfo;
use crate::telemetry::metrics;
use crate::types::{Offset, PartitionId};
use bytes::Bytes;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How far a reader with `slow=conflate` may be behind before records are left out for it, in bytes of frames.
const CONFLATE_BEHIND: usize = 256 << 10;
/// A reader that takes longer than this between two events gives back what was fetched ahead for it.
const SLOW: Duration = Duration::from_millis(100);
/// Bytes that a filtered reader looks through before it lets others run.
const SCAN_BYTES: usize = 1 << 20;

struct Reading {
    reader: LogReader,
    cursors: CursorEncoder,
    version: u64,
    conflater: Option<Conflater>,
    /// The sequencer's position that it reads up to.
    target: Option<SharedPositions>,
}

enum Mode {
    Snapshot(Box<SnapshotWalk>),
    Reading(Box<Reading>),
    Joined { ticket: Ticket, at: SharedPositions },
    Over,
}

/// See the module.
pub struct Subscription {
    sessions: Arc<Sessions>,
    plan: ReadPlan,
    format: Format,
    encoding: ValueEncoding,
    writer: RecordWriter,
    remaining: Option<u64>,
    slow: SlowPolicy,
    mode: Mode,
    attachment: Option<Attachment>,
    /// `caught-up` was told since it was behind the last time.
    told_caught_up: bool,
    queue: VecDeque<SessionEvent>,
    last_call: Instant,
    json: Vec<u8>,
    standing: Enrolled,
}

impl Sessions {
    /// Opens a subscription. When this answers, `latest` is fixed: what is stored afterwards comes.
    ///
    /// # Errors
    /// What is wrong with the request, or with the topic.
    pub async fn subscribe(self: &Arc<Self>, request: SubscribeRequest) -> Result<Subscription, SessionError> {
        let (plan, gaps) = request.read.plan(&*self.engine)?;
        let resumed: Option<Option<_>> = match &request.read.start {
            StartPosition::Cursor(cursor) => Some(cursor.snapshot_after.clone()),
            _ => None,
        };
        let mode = if let Some(Some(after)) = &resumed
            && gaps.is_empty()
        {
            Mode::Snapshot(Box::new(SnapshotWalk::resume(&plan, Some(after.clone()))))
        } else if request.view_latest && resumed.is_none() {
            Mode::Snapshot(Box::new(SnapshotWalk::begin(&*self.engine, &plan).await?))
        } else {
            let mut reader = self.reader(plan.clone());
            reader.resolve().await?;
            Mode::Reading(Box::new(Reading::new(reader)))
        };
        let mut subscription = Subscription {
            sessions: self.clone(),
            writer: RecordWriter::new(&plan.topic.name, request.encoding),
            format: request.format,
            encoding: request.encoding,
            remaining: request.limit,
            slow: request.slow,
            mode,
            attachment: None,
            told_caught_up: false,
            queue: VecDeque::new(),
            last_call: Instant::now(),
            json: Vec::new(),
            standing: self.enrol(&plan, request.format),
            plan,
        };
        let cursor = subscription.position_text();
        subscription.queue.extend(gaps.into_iter().map(|gap| SessionEvent::Gap(gap, cursor.clone())));
        Ok(subscription)
    }
}

impl Reading {
    fn new(reader: LogReader) -> Self {
        let cursors = CursorEncoder::new(&reader.cursor());
        Self { version: reader.version(), reader, cursors, conflater: None, target: None }
    }

    fn follow(&mut self) {
        if self.version != self.reader.version() {
            self.version = self.reader.version();
            self.cursors = CursorEncoder::new(&self.reader.cursor());
        }
    }

    /// Where the reader is for its client: before whatever is held back.
    fn positions(&self) -> Vec<Position> {
        self.conflater.as_ref().map_or_else(|| self.reader.positions(), |held| held.from.clone())
    }
}

impl Subscription {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<TopicInfo> {
        &self.plan.topic
    }

    /// Whether it reads from the shared stream.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Joined { .. })
    }

    /// The cursor behind all that was given; `None` within a snapshot, and while something waits to be given.
    #[must_use]
    pub fn cursor(&mut self) -> Option<String> {
        if !self.queue.is_empty() || matches!(self.mode, Mode::Snapshot(_)) {
            return None;
        }
        if let Mode::Joined { ticket, at } = &mut self.mode
            && let Some(now) = ticket.position()
        {
            *at = now;
        }
        Some(self.position_text())
    }

    fn cursor_of(&self, positions: Vec<Position>) -> Cursor {
        Cursor::new(&self.plan.topic.name, self.plan.topic.id, self.plan.all, positions)
    }

    fn position_text(&self) -> String {
        let positions = match &self.mode {
            Mode::Snapshot(walk) => walk.positions(),
            Mode::Reading(reading) => reading.positions(),
            Mode::Joined { at, .. } => at.to_vec(),
            Mode::Over => self.plan.positions.clone(),
        };
        text(&self.cursor_of(positions))
    }

    /// Lets go of what was fetched ahead, for a reader that takes nothing now.
    pub fn park(&mut self) {
        if let Mode::Reading(reading) = &mut self.mode {
            reading.reader.shed();
        }
    }

    /// The next event, of records at most the budget (which is not 0). Never comes back after an end.
    ///
    /// # Errors
    /// What will not pass by itself.
    pub async fn next(&mut self, budget: Budget) -> Result<SessionEvent, SessionError> {
        if self.last_call.elapsed() > SLOW {
            self.park();
        }
        self.standing.waits();
        let event = loop {
            if let Some(event) = self.queue.pop_front() {
                break event;
            }
            let step = match &mut self.mode {
                Mode::Snapshot(_) => self.snapshot_step().await?,
                Mode::Reading(_) => self.reading_step(budget).await?,
                Mode::Joined { .. } => self.joined_step(budget).await,
                Mode::Over => std::future::pending().await,
            };
            if let Some(event) = step {
                break event;
            }
        };
        self.last_call = Instant::now();
        self.standing.was_given(self.last_call, self.is_live(), self.read_to());
        Ok(event)
    }

    /// The offsets that it reads next, added up.
    fn read_to(&self) -> i64 {
        let sum = |positions: &[Position]| positions.iter().filter_map(Position::offset).map(Offset::get).sum();
        match &self.mode {
            Mode::Reading(reading) => reading.reader.read_to(),
            Mode::Joined { at, .. } => sum(at),
            Mode::Snapshot(walk) => sum(&walk.positions()),
            Mode::Over => 0,
        }
    }

    fn end(&mut self, why: Ended) -> SessionEvent {
        let positions = match &self.mode {
            Mode::Reading(reading) => reading.positions(),
            Mode::Joined { at, .. } => at.to_vec(),
            Mode::Snapshot(walk) => walk.positions(),
            Mode::Over => Vec::new(),
        };
        let mut cursor = self.cursor_of(positions);
        cursor.ended = why == Ended::Complete;
        self.mode = Mode::Over;
        self.attachment = None;
        SessionEvent::End(why, text(&cursor))
    }

    // ---- the snapshot of a view ---------------------------------------------------------------------------------

    async fn snapshot_step(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        let Mode::Snapshot(walk) = &mut self.mode else { return Ok(None) };
        let Some(records) = walk.next_page(&*self.sessions.engine, CHUNK_BYTES, usize::MAX).await? else {
            self.plan.positions = walk.positions();
            let reader = self.sessions.reader(self.plan.clone());
            self.mode = Mode::Reading(Box::new(Reading::new(reader)));
            return Ok(Some(SessionEvent::SnapshotEnd(self.position_text())));
        };
        let mut buffer = FrameBuffer::default();
        for (partition, record) in &records {
            self.json.clear();
            self.writer.write(&mut self.json, *partition, record);
            buffer.push(self.format, None, &self.json);
        }
        Ok((!buffer.is_empty()).then(|| SessionEvent::Records(vec![buffer.take()])))
    }

    // ---- reading alone ------------------------------------------------------------------------------------------

    const fn may_join(&self) -> bool {
        self.plan.until.is_none() && self.remaining.is_none()
    }

    async fn reading_step(&mut self, budget: Budget) -> Result<Option<SessionEvent>, SessionError> {
        if self.remaining == Some(0) {
            return Ok(Some(self.end(Ended::Complete)));
        }
        let may_join = self.may_join();
        let Mode::Reading(reading) = &mut self.mode else { return Ok(None) };
        let fill = reading.reader.fill().await?;
        reading.follow();
        match fill {
            Fill::Records if reading.conflater.is_some() => self.conflate(),
            Fill::Records => {
                let frames = self.encode(budget)?;
                if frames.count() == 0 {
                    tokio::task::yield_now().await; // all filtered out: others first
                    return Ok(None);
                }
                Ok(Some(SessionEvent::Records(vec![frames])))
            }
            Fill::Gap(gap) => {
                self.told_caught_up = false;
                Ok(Some(SessionEvent::Gap(gap, self.position_text())))
            }
            Fill::Done => Ok(Some(self.end(Ended::Complete))),
            Fill::TopicGone => Ok(self.topic_gone()),
            Fill::Idle if reading.conflater.is_some() => {
                self.finish_conflation(false);
                Ok(None)
            }
            Fill::Idle if may_join => Ok(self.try_join().await),
            Fill::Idle => {
                if !self.told_caught_up {
                    self.told_caught_up = true;
                    return Ok(Some(SessionEvent::CaughtUp(self.position_text())));
                }
                reading.reader.wait().await;
                Ok(None)
            }
        }
    }

    /// Frames of what was fetched.
    fn encode(&mut self, budget: Budget) -> Result<Frames, SessionError> {
        let Mode::Reading(reading) = &mut self.mode else { return Ok(FrameBuffer::default().take()) };
        let Reading { reader, cursors, .. } = &mut **reading;
        let most = self.remaining.unwrap_or(u64::MAX).min(budget.records);
        let bytes = self.sessions.chunk_bytes().min(usize::try_from(budget.bytes).unwrap_or(usize::MAX));
        // JSON, cursor and frame make a record about a quarter larger than it is stored.
        let room = (reader.held_bytes() / 4 * 5).min(bytes) + SPARE_BYTES;
        let mut buffer = FrameBuffer::with_capacity(room);
        let mut cursor = Vec::new();
        let start = reader.scanned();
        while (buffer.count() as u64) < most && buffer.len() < bytes && reader.scanned() - start < SCAN_BYTES {
            let pushed = reader.pop_with(|popped| {
                cursors.set(popped.index, popped.place);
                cursor.clear();
                cursors.append_to(&mut cursor);
                let write = |out: &mut Vec<u8>| self.writer.write_view(out, popped.partition, &popped.record);
                buffer.push_with(self.format, Some(&cursor), write);
            })?;
            if pushed.is_none() {
                break;
            }
        }
        if let Some(remaining) = &mut self.remaining {
            *remaining -= buffer.count() as u64;
        }
        // Places may have moved over filtered records; the next cursor has them all.
        *cursors = CursorEncoder::new(&reader.cursor());
        let Frames { bytes, ends } = buffer.take();
        let reserved = self.sessions.alone.reserve(bytes.len());
        Ok(Frames { bytes: Bytes::from_owner(Counted { bytes, _reserved: reserved }), ends })
    }

    /// At the end of the log: the shared stream, if it stands at the same place.
    async fn try_join(&mut self) -> Option<SessionEvent> {
        let Mode::Reading(reading) = &mut self.mode else { return None };
        let plan = &self.plan;
        let attachment = self.attachment.get_or_insert_with(|| {
            let partitions = (!plan.all).then(|| reading.reader.positions().iter().map(|p| p.partition).collect());
            let key = StreamKey { topic: plan.topic.id, encoding: self.encoding, partitions };
            self.sessions.sequencers.attach(&key, &plan.topic)
        });
        let positions = reading.reader.positions();
        match attachment.join(&positions, self.format, plan.key.as_ref()) {
            Join::Joined(ticket) => {
                self.mode = Mode::Joined { ticket, at: positions.into() };
                self.standing.is_live(true);
                if !std::mem::replace(&mut self.told_caught_up, true) {
                    return Some(SessionEvent::CaughtUp(self.position_text()));
                }
            }
            Join::Elsewhere(target) if reading.target.as_ref() != Some(&target) => {
                reading.reader.stop_at(Some(&target));
                reading.target = Some(target);
            }
            Join::Elsewhere(_) | Join::NotYet => {
                tokio::select! {
                    biased;
                    () = attachment.changed() => {}
                    () = reading.reader.wait() => {}
                }
            }
            Join::Ended => {
                self.attachment = None;
                reading.reader.stop_at(None);
                reading.target = None;
                reading.reader.wait().await;
            }
        }
        None
    }

    // ---- in the shared stream -----------------------------------------------------------------------------------

    async fn joined_step(&mut self, budget: Budget) -> Option<SessionEvent> {
        let Mode::Joined { ticket, at } = &mut self.mode else { return None };
        let behind = if self.slow == SlowPolicy::Conflate { CONFLATE_BEHIND } else { usize::MAX };
        match ticket.take(CHUNK_BYTES * 2, behind) {
            Take::Nothing => {
                ticket.changed().await;
                None
            }
            Take::Items(items) => self.deliver(items, budget),
            Take::Lagged if self.slow == SlowPolicy::Close => Some(self.end(Ended::TooSlow)),
            Take::Lagged | Take::Ended => {
                let from = at.to_vec();
                self.read_alone(from);
                None
            }
        }
    }

    fn deliver(&mut self, items: Vec<Taken>, budget: Budget) -> Option<SessionEvent> {
        let Mode::Joined { at, .. } = &mut self.mode else { return None };
        let (mut taken, mut left) = (Vec::new(), budget);
        for item in items {
            match item {
                Taken::Records(frames, after) => {
                    let fits = fitting(&frames, left);
                    if fits < frames.count() {
                        // Out of budget within a chunk: go on alone, behind the last record given.
                        let last = if fits > 0 { frames.iter().nth(fits - 1) } else { None };
                        let from = last.as_deref().and_then(|frame| frame_cursor(self.format, frame));
                        let from = from.map_or_else(|| at.to_vec(), |cursor| cursor.positions);
                        if fits > 0 {
                            taken.push(cut(&frames, fits));
                        }
                        self.read_alone_quietly(from);
                        break;
                    }
                    left.records -= frames.count() as u64;
                    left.bytes = left.bytes.saturating_sub(frames.bytes.len() as u64);
                    *at = after;
                    if frames.count() > 0 {
                        taken.push(frames);
                    }
                }
                Taken::Gap(gap, after) => {
                    *at = after.clone();
                    let cursor = Cursor::new(&self.plan.topic.name, self.plan.topic.id, self.plan.all, after.to_vec());
                    self.queue.push_back(SessionEvent::Gap(gap, text(&cursor)));
                }
                Taken::TopicGone => {
                    // What was taken before comes first; the reader finds the topic gone by itself.
                    let from = at.to_vec();
                    self.read_alone_quietly(from);
                    break;
                }
            }
            if !self.queue.is_empty() {
                // A gap: what follows it must not overtake it.
                let Mode::Joined { at, .. } = &self.mode else { break };
                let from = at.to_vec();
                self.read_alone_quietly(from);
                break;
            }
        }
        if taken.is_empty() {
            return None;
        }
        Some(SessionEvent::Records(taken))
    }

    /// Leaves the shared stream because it was too slow.
    fn read_alone(&mut self, from: Vec<Position>) {
        self.read_alone_quietly(from);
        self.told_caught_up = false;
        if self.slow == SlowPolicy::Conflate
            && let Mode::Reading(reading) = &mut self.mode
        {
            reading.conflater = Some(Conflater::new(reading.reader.positions()));
        }
    }

    fn read_alone_quietly(&mut self, from: Vec<Position>) {
        let reader = self.sessions.reader(ReadPlan { positions: from, ..self.plan.clone() });
        self.mode = Mode::Reading(Box::new(Reading::new(reader)));
        self.standing.is_live(false);
    }

    // ---- leaving out --------------------------------------------------------------------------------------------

    fn conflate(&mut self) -> Result<Option<SessionEvent>, SessionError> {
        let Mode::Reading(reading) = &mut self.mode else { return Ok(None) };
        let Reading { reader, conflater: Some(conflater), .. } = &mut **reading else { return Ok(None) };
        while !conflater.is_full() {
            let Some((partition, record)) = reader.pop()? else { return Ok(None) };
            conflater.add(partition, &record);
        }
        self.finish_conflation(true);
        Ok(None)
    }

    fn finish_conflation(&mut self, goes_on: bool) {
        let Mode::Reading(reading) = &mut self.mode else { return };
        let Some(conflater) = reading.conflater.take() else { return };
        let to = reading.reader.positions();
        reading.conflater = goes_on.then(|| Conflater::new(to.clone()));
        reading.cursors = CursorEncoder::new(&reading.reader.cursor());
        if conflater.is_empty() {
            return;
        }
        let before = text(&self.cursor_of(conflater.from.clone()));
        let after = text(&self.cursor_of(to.clone()));
        let conflated = conflater.finish(&to);
        metrics().conflated_records.inc_by(conflated.left_out);
        self.queue.extend(conflated.gaps.into_iter().map(|gap| SessionEvent::Gap(gap, before.clone())));
        let mut buffer = FrameBuffer::default();
        let count = conflated.records.len();
        for (i, (partition, record)) in conflated.records.iter().enumerate() {
            self.json.clear();
            self.writer.write(&mut self.json, *partition, record);
            let cursor = if i + 1 == count { &after } else { &before };
            buffer.push(self.format, Some(cursor.as_bytes()), &self.json);
        }
        self.queue.push_back(SessionEvent::Records(vec![buffer.take()]));
    }

    // ---- a topic that went --------------------------------------------------------------------------------------

    fn topic_gone(&mut self) -> Option<SessionEvent> {
        let Some(new) = self.sessions.engine.topic(&self.plan.topic.name) else {
            return Some(self.end(Ended::TopicDeleted));
        };
        let old = match &self.mode {
            Mode::Reading(reading) => reading.positions(),
            _ => return None,
        };
        let there = |partition: &PartitionId| partition.get() < new.partitions;
        let partitions: Vec<PartitionId> = if self.plan.all {
            (0..new.partitions).map(PartitionId::new).collect()
        } else {
            old.iter().map(|p| p.partition).filter(there).collect()
        };
        if partitions.is_empty() {
            return Some(self.end(Ended::TopicDeleted));
        }
        let place = Place::Pending(PendingPlace::Earliest);
        self.plan.topic = new;
        self.plan.positions = partitions.into_iter().map(|partition| Position { partition, place }).collect();
        self.attachment = None;
        self.standing = self.sessions.enrol(&self.plan, self.format);
        self.read_alone_quietly(self.plan.positions.clone());
        self.told_caught_up = false;
        let cursor = self.position_text();
        let gaps = old.iter().filter_map(recreated);
        self.queue.extend(gaps.map(|gap| SessionEvent::Gap(gap, cursor.clone())));
        None
    }
}

/// A cursor's text. Its room was checked when the subscription began, and when partitions were added.
fn text(cursor: &Cursor) -> String {
    let mut text = Vec::new();
    CursorEncoder::new(cursor).append_to(&mut text);
    String::from_utf8(text).unwrap_or_default()
}

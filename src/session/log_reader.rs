//! Reading several partitions of a topic from given places, record by record, with every gap told.
//!
//! **Invariant**: a partition's place moves over a record only when that record was handed out, filtered out, or named
//! in a gap. What was fetched and not handed out yet can be dropped at any moment ([`LogReader::shed`]) and is read again.
//! All waits can be cancelled without losing anything.
//!
//! Used by pages, by subscriptions that catch up, and by the sequencer. Threading: one owner.

use super::SessionError;
use super::cursor::{Cursor, PendingPlace, Place, Position};
use super::lane::{Fetched, Lane, Popped, RETRY, Wanted};
use super::read_plan::{Gap, GapReason, ReadPlan, Until};
use crate::engine::{Engine, EngineError, FetchRequest, OffsetSpec, TopicInfo};
use crate::sys::Clock;
use crate::types::{LeaderEpoch, LogStartOffset, Offset, PartitionId, PartitionProgress, StoredRecord};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// About how many bytes are fetched at once, of one partition or of several.
pub const FETCH_BYTES: usize = 256 << 10;
/// With less room than this no further partition is asked.
const LEAST_FETCH: usize = 16 << 10;

/// What [`LogReader::fill`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Fill {
    /// Records: take them with [`LogReader::pop`].
    Records,
    /// A gap; the reader's place is behind it already.
    Gap(Gap),
    /// Nothing more for now; see [`LogReader::wait`].
    Idle,
    /// Every partition was read up to the bound.
    Done,
    /// The topic was deleted.
    TopicGone,
}

type Wait = BoxFuture<'static, (PartitionId, Option<watch::Receiver<PartitionProgress>>)>;

enum Ask {
    /// So many bytes of them.
    Records(usize),
    Gap(Gap),
    Nothing,
    TopicGone,
}

/// See the module.
pub struct LogReader {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    topic: Arc<TopicInfo>,
    all: bool,
    key: Option<Bytes>,
    until: Option<Until>,
    refuse_retention_gap: bool,
    lanes: Vec<Lane>,
    turn: usize,
    fetched: VecDeque<Fetched>,
    waits: FuturesUnordered<Wait>,
    topics: watch::Receiver<u64>,
    topics_seen: bool,
    scanned: usize,
    version: u64,
}

impl LogReader {
    /// Starts at the plan's places.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, plan: ReadPlan) -> Self {
        let topics = engine.watch_topics();
        Self {
            engine,
            clock,
            topic: plan.topic,
            all: plan.all,
            key: plan.key,
            until: plan.until,
            refuse_retention_gap: plan.refuse_retention_gap,
            lanes: plan.positions.into_iter().map(Lane::new).collect(),
            turn: 0,
            fetched: VecDeque::new(),
            waits: FuturesUnordered::new(),
            topics,
            topics_seen: false,
            scanned: 0,
            version: 0,
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<TopicInfo> {
        &self.topic
    }

    /// Where it is.
    #[must_use]
    pub fn positions(&self) -> Vec<Position> {
        self.lanes.iter().map(|lane| Position { partition: lane.partition, place: lane.place }).collect()
    }

    /// Where it is, for a client.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(&self.topic.name, self.topic.id, self.all, self.positions())
    }

    /// The offsets that it reads next, added up, as far as they are known.
    #[must_use]
    pub fn read_to(&self) -> i64 {
        let offset = |lane: &Lane| Position { partition: lane.partition, place: lane.place }.offset();
        self.lanes.iter().filter_map(offset).map(Offset::get).sum()
    }

    /// The index among the positions of a partition.
    #[must_use]
    pub fn index_of(&self, partition: PartitionId) -> usize {
        self.lanes.partition_point(|lane| lane.partition < partition)
    }

    /// The place of the position with this index.
    #[must_use]
    pub fn place(&self, index: usize) -> Place {
        self.lanes[index].place
    }

    /// Changes whenever a place changed otherwise than by [`Self::pop`]: then every cursor is made anew from
    /// [`Self::cursor`].
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Partitions that could not be asked the last time.
    #[must_use]
    pub fn unavailable(&self) -> Vec<PartitionId> {
        self.lanes.iter().filter(|lane| lane.unavailable).map(|lane| lane.partition).collect()
    }

    /// Bytes of keys and values looked at so far, filtered ones too.
    #[must_use]
    pub const fn scanned(&self) -> usize {
        self.scanned
    }

    /// Reads only up to these places (none: without such a bound), as far as they are known.
    pub fn stop_at(&mut self, positions: Option<&[Position]>) {
        for lane in &mut self.lanes {
            lane.stop = positions.and_then(|positions| {
                let found = positions.binary_search_by_key(&lane.partition, |p| p.partition).ok()?;
                positions[found].offset()
            });
        }
    }

    /// Whether something was fetched that [`Self::pop`] has not looked at yet.
    #[must_use]
    pub fn holds_records(&self) -> bool {
        !self.fetched.is_empty()
    }

    /// Lets go of what was fetched; it is read again.
    pub fn shed(&mut self) {
        self.fetched.clear();
    }

    /// Resolves every place that is known only by its meaning, as far as the partitions can be asked, so that what is
    /// stored from now on is behind a `latest`.
    ///
    /// # Errors
    /// What will not pass by itself.
    pub async fn resolve(&mut self) -> Result<(), SessionError> {
        for index in 0..self.lanes.len() {
            self.prepare(index).await?;
        }
        Ok(())
    }

    /// Looks for something to hand out: records of the next partitions that have some, or a gap.
    ///
    /// # Errors
    /// What will not pass by itself. A partition that can not be asked now is left out and tried again.
    pub async fn fill(&mut self) -> Result<Fill, SessionError> {
        if self.holds_records() {
            return Ok(Fill::Records);
        }
        if self.topic_is_gone()? {
            return Ok(Fill::TopicGone);
        }
        let mut room = FETCH_BYTES;
        for _ in 0..self.lanes.len() {
            let index = self.turn % self.lanes.len();
            let asked = self.ask(index, room).await;
            if self.holds_records() && matches!(asked, Ok(Ask::TopicGone) | Err(_)) {
                break; // What was fetched of the others comes first; this is asked again, and says the same.
            }
            self.turn = index + 1;
            match asked? {
                Ask::Nothing => {}
                Ask::Records(bytes) => room = room.saturating_sub(bytes),
                Ask::Gap(gap) => return Ok(Fill::Gap(gap)),
                Ask::TopicGone => return Ok(Fill::TopicGone),
            }
            if room < LEAST_FETCH {
                break;
            }
        }
        if self.holds_records() {
            return Ok(Fill::Records);
        }
        let done = !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.done);
        Ok(if done { Fill::Done } else { Fill::Idle })
    }

    /// Looks whether the topic is still there, and takes in partitions that were added.
    fn topic_is_gone(&mut self) -> Result<bool, SessionError> {
        if self.topics_seen && !self.topics.has_changed().unwrap_or(false) {
            return Ok(false);
        }
        self.topics_seen = true;
        self.topics.mark_unchanged();
        match self.engine.topic(&self.topic.name) {
            Some(now) if now.id == self.topic.id => {
                self.topic = now;
                if self.all && self.lanes.len() < self.topic.partitions as usize {
                    for partition in self.lanes.len() as i32..self.topic.partitions {
                        let place = Place::Pending(PendingPlace::Earliest);
                        self.version += 1;
                        self.lanes.push(Lane::new(Position { partition: PartitionId::new(partition), place }));
                    }
                    self.cursor().check_room()?;
                }
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Makes sure that the partition's progress is followed and its place known. `None` if it can not be asked now.
    async fn prepare(&mut self, index: usize) -> Result<Option<PartitionProgress>, SessionError> {
        let topic = self.topic.id;
        let lane = &mut self.lanes[index];
        if lane.retry_at.is_some_and(|at| at > Instant::now()) {
            // Its watch may tell earlier that it is back.
            let back = lane.progress.as_ref().is_some_and(|p| p.borrow().online && p.has_changed().is_ok());
            if !(back && lane.unavailable) {
                return Ok(None);
            }
        }
        lane.retry_at = None;
        if lane.progress.as_ref().is_none_or(|progress| progress.has_changed().is_err()) {
            lane.progress = None;
            match self.engine.watch(topic, lane.partition) {
                Ok(progress) => lane.progress = Some(progress),
                Err(error) => return passing(lane, error),
            }
        }
        let Some(watching) = &lane.progress else { return Ok(None) };
        let progress = *watching.borrow();
        if !progress.online {
            lane.block();
            return Ok(None);
        }
        if let Place::Pending(pending) = lane.place {
            let (partition, hw, start) =
                (lane.partition, progress.high_watermark.offset(), progress.log_start.offset());
            let offset = match pending {
                PendingPlace::Earliest => start,
                PendingPlace::Latest => hw,
                PendingPlace::Last(n) => {
                    let back = i64::try_from(n).unwrap_or(i64::MAX);
                    Offset::new(hw.get().saturating_sub(back).max(start.get()))
                }
                PendingPlace::Since(ms) => {
                    match self.engine.offset_for(topic, partition, OffsetSpec::Timestamp(ms)).await {
                        Ok(offset) => offset,
                        Err(error) => return passing(&mut self.lanes[index], error),
                    }
                }
            };
            self.lanes[index].place = Place::At(offset, progress.leader_epoch);
            self.version += 1;
        }
        self.lanes[index].unavailable = false;
        Ok(Some(progress))
    }

    async fn ask(&mut self, index: usize, max_bytes: usize) -> Result<Ask, SessionError> {
        if self.lanes[index].done {
            return Ok(Ask::Nothing);
        }
        let Some(progress) = self.prepare(index).await? else {
            let gone = self.engine.topic(&self.topic.name).is_none_or(|now| now.id != self.topic.id);
            return Ok(if gone { Ask::TopicGone } else { Ask::Nothing });
        };
        let topic = self.topic.id;
        let lane = &mut self.lanes[index];
        let Place::At(at, epoch) = lane.place else { return Ok(Ask::Nothing) };
        if matches!(self.until, Some(Until::Offset(end)) if at >= end) {
            lane.done = true;
            return Ok(Ask::Nothing);
        }
        if lane.stop.is_some_and(|stop| at >= stop) {
            return Ok(Ask::Nothing);
        }
        if let Some(gap) = self.check_epoch(index, epoch, progress.leader_epoch).await? {
            return Ok(Ask::Gap(gap));
        }
        let lane = &mut self.lanes[index];
        if at < progress.log_start.offset() {
            return self.retention_gap(index, at, progress.log_start, progress);
        }
        if at >= progress.high_watermark.offset() {
            if matches!(self.until, Some(Until::Time(end)) if self.clock.now_ms() >= end) {
                lane.done = true;
            }
            return Ok(Ask::Nothing);
        }
        let request = FetchRequest { topic, partition: lane.partition, from: at, max_bytes };
        match self.engine.fetch(request).await {
            Ok(response) => {
                // A new leader answered: what this reader saw before may be gone.
                if let Some(gap) = self.check_epoch(index, epoch, response.leader_epoch).await? {
                    return Ok(Ask::Gap(gap));
                }
                if response.batches.is_empty() {
                    // Its end moved back with its leader; it will come forward again.
                    self.lanes[index].retry_at = Some(Instant::now() + RETRY);
                    return Ok(Ask::Nothing);
                }
                let bytes = response.batches.iter().map(|batch| batch.header().size).sum();
                self.fetched.push_back(Fetched::new(index, response.batches));
                Ok(Ask::Records(bytes))
            }
            Err(EngineError::OffsetOutOfRange { log_start, .. }) if at < log_start.offset() => {
                self.retention_gap(index, at, log_start, progress)
            }
            Err(EngineError::OffsetOutOfRange { .. }) => {
                self.lanes[index].retry_at = Some(Instant::now() + RETRY);
                Ok(Ask::Nothing)
            }
            Err(EngineError::UnknownTopic(_)) => Ok(Ask::TopicGone),
            Err(error) => passing(&mut self.lanes[index], error).map(|_| Ask::Nothing),
        }
    }

    /// Under a leadership that the place was not checked against: whether what was read before it still stands.
    async fn check_epoch(
        &mut self,
        index: usize,
        epoch: LeaderEpoch,
        leader: LeaderEpoch,
    ) -> Result<Option<Gap>, SessionError> {
        let topic = self.topic.id;
        let lane = &mut self.lanes[index];
        let Place::At(at, _) = lane.place else { return Ok(None) };
        if lane.checked_epoch.is_some_and(|checked| checked >= leader) {
            return Ok(None);
        }
        if epoch == leader {
            lane.checked_epoch = Some(leader);
            return Ok(None);
        }
        let partition = lane.partition;
        let end = match self.engine.epoch_end(topic, partition, epoch).await {
            Ok(end) => end,
            Err(error) => return passing(&mut self.lanes[index], error).map(|_| None),
        };
        let lane = &mut self.lanes[index];
        lane.checked_epoch = Some(leader);
        if end.end >= at {
            return Ok(None);
        }
        lane.place = Place::At(end.end, end.epoch);
        self.version += 1;
        Ok(Some(Gap { partition, from: end.end, to: at, reason: GapReason::Truncated }))
    }

    fn retention_gap(
        &mut self,
        index: usize,
        at: Offset,
        log_start: LogStartOffset,
        progress: PartitionProgress,
    ) -> Result<Ask, SessionError> {
        let lane = &mut self.lanes[index];
        if self.refuse_retention_gap {
            return Err(SessionError::Engine(EngineError::OffsetOutOfRange {
                partition: lane.partition,
                requested: at.get(),
                log_start,
                log_end: progress.high_watermark.offset().into(),
            }));
        }
        let to = match self.until {
            Some(Until::Offset(end)) => end.min(log_start.offset()),
            _ => log_start.offset(),
        };
        lane.place = Place::At(to, progress.leader_epoch);
        self.version += 1;
        Ok(Ask::Gap(Gap { partition: lane.partition, from: at, to, reason: GapReason::Retention }))
    }

    /// Gives the next record of what was fetched to `take`, where it lies; `None` when it is used up: [`Self::fill`]
    /// again. The place moves with it.
    ///
    /// # Errors
    /// A batch that can not be read.
    pub fn pop_with<T>(&mut self, take: impl FnOnce(Popped<'_>) -> T) -> Result<Option<T>, SessionError> {
        let wanted = Wanted { until: self.until, key: self.key.as_deref() };
        // `take` is wanted once, and the loop goes on only without it.
        let mut take = Some(take);
        while let Some(fetched) = self.fetched.front_mut() {
            let lane = &mut self.lanes[fetched.lane];
            let popped =
                fetched.pop_with(lane, &wanted, &mut self.scanned, |record| take.take().map(|take| take(record)));
            if let Some(popped) = popped? {
                return Ok(popped);
            }
            self.fetched.pop_front();
        }
        Ok(None)
    }

    /// The same, with a record of its own.
    ///
    /// # Errors
    /// As [`Self::pop_with`].
    pub fn pop(&mut self) -> Result<Option<(PartitionId, StoredRecord)>, SessionError> {
        self.pop_with(|popped| (popped.partition, popped.to_stored()))
    }

    /// Bytes, as stored, of what [`Self::pop_with`] has not come to yet, about.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.fetched.iter().map(Fetched::unopened_bytes).sum()
    }

    /// Puts back the record that [`Self::pop`] gave last. What was fetched is let go.
    pub fn unread(&mut self, partition: PartitionId, offset: Offset) {
        let index = self.index_of(partition);
        if let Place::At(_, epoch) = self.lanes[index].place {
            self.lanes[index].place = Place::At(offset, epoch);
        }
        self.fetched.clear();
    }

    /// Whether every partition that can be asked was read to its end or its bound.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let end = lane.progress.as_ref().map(|p| p.borrow().high_watermark.offset());
            let at = Position { partition: lane.partition, place: lane.place }.offset();
            let bound = matches!((self.until, at), (Some(Until::Offset(until)), Some(at)) if at >= until);
            lane.done || lane.unavailable || bound || matches!((end, at), (Some(end), Some(at)) if at >= end)
        })
    }

    /// Comes back when [`Self::fill`] may find something new. May come back for nothing.
    pub async fn wait(&mut self) {
        let mut wake_at: Option<Instant> = None;
        for lane in &mut self.lanes {
            if lane.done {
                continue;
            }
            wake_at = [wake_at, lane.retry_at].into_iter().flatten().min();
            if lane.progress.is_none() {
                let soon = lane.retry_at.unwrap_or_else(|| Instant::now() + RETRY);
                wake_at = Some(wake_at.map_or(soon, |at| at.min(soon)));
            } else if !lane.armed
                && let Some(progress) = lane.progress.clone()
            {
                lane.armed = true;
                self.waits.push(changed(lane.partition, progress));
            }
        }
        if let Some(Until::Time(end)) = self.until {
            let left = u64::try_from(end - self.clock.now_ms()).unwrap_or(0);
            // The wall clock may jump, so it is looked at once a minute at least.
            let at = Instant::now() + Duration::from_millis(left.clamp(1, 60_000));
            wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
        }
        let timer = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((partition, progress)) = self.waits.next() => {
                let index = self.lanes.partition_point(|lane| lane.partition < partition);
                match progress {
                    Some(progress) => self.waits.push(changed(partition, progress)),
                    None => {
                        self.lanes[index].armed = false;
                        self.lanes[index].progress = None;
                    }
                }
            }
            _ = self.topics.changed() => self.topics_seen = false,
            () = timer => {}
        }
    }
}

/// What may pass leaves the partition out for a while; anything else is an error.
fn passing(lane: &mut Lane, error: EngineError) -> Result<Option<PartitionProgress>, SessionError> {
    match error {
        EngineError::UnknownTopic(_) => {
            lane.block();
            Ok(None)
        }
        error if error.is_retryable() => {
            lane.block();
            Ok(None)
        }
        error => Err(error.into()),
    }
}

fn changed(partition: PartitionId, mut progress: watch::Receiver<PartitionProgress>) -> Wait {
    Box::pin(async move {
        let open = progress.changed().await.is_ok();
        (partition, open.then_some(progress))
    })
}

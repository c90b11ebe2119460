//! Reading as a member of a consumer group: a page over every partition of the assignment, and the cursor over them.
//!
//! **Invariant**: a member reads and commits only partitions that are assigned to it under the epoch it names. A cursor
//! names topics by identity, so that a place in a topic that was deleted means nothing in another of its name.
//!
//! The group's cursor is the topics' cursors with dots between them. Called by `http`.

use super::cursor::{Cursor, CursorError, CursorTopic, Place, Position};
use super::json::{RecordWriter, ValueEncoding};
use super::log_reader::LogReader;
use super::page::{Page, PageRequest};
use super::pieces::Pieces;
use super::read_plan::{Gap, ReadPlan};
use super::{SessionError, Sessions};
use crate::engine::{Assignment, Engine, EngineError, GroupError, GroupOffsets, Membership, OffsetToCommit, TopicInfo};
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicName};
use futures_util::future::{FutureExt as _, select_all};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Longest text of a group's cursor, in characters: it has to fit into a URL.
pub const MAX_GROUP_CURSOR: usize = 16 << 10;
/// How often a reader that waits looks whether it is still a member under its epoch.
const TOUCH: Duration = Duration::from_millis(500);
/// Positions that were named as whole offsets have no epoch of their own; 0 is before every leadership.
const NO_EPOCH: LeaderEpoch = LeaderEpoch::ZERO;

/// A group's cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupCursor(Vec<Cursor>);

impl GroupCursor {
    /// Reads a cursor's text.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        if text.len() > MAX_GROUP_CURSOR {
            return Err(CursorError::TooLong);
        }
        if text == EMPTY {
            return Ok(Self::default());
        }
        text.split('.').map(Cursor::parse).collect::<Result<_, _>>().map(Self)
    }

    /// The text.
    ///
    /// # Errors
    /// [`CursorError::TooManyPartitions`].
    pub fn encode(&self) -> Result<String, CursorError> {
        if self.0.is_empty() {
            return Ok(EMPTY.to_owned());
        }
        let parts = self.0.iter().map(Cursor::encode).collect::<Result<Vec<_>, _>>()?;
        let text = parts.join(".");
        let partitions = || self.0.iter().map(|cursor| cursor.positions.len()).sum();
        if text.len() > MAX_GROUP_CURSOR { Err(CursorError::TooManyPartitions(partitions())) } else { Ok(text) }
    }

    fn of(&self, topic: &TopicInfo) -> Option<&Cursor> {
        self.0.iter().find(|cursor| cursor.topic(&topic.name, topic.id) == CursorTopic::Same)
    }

    /// What a commit of this cursor commits.
    ///
    /// # Errors
    /// [`CursorError::OtherTopic`] for a place in a topic that is not assigned to the member, or in an earlier one of
    /// its name; [`CursorError::NotCovered`] for a partition that is not.
    pub fn to_commit(&self, engine: &dyn Engine, assignment: &Assignment) -> Result<Vec<OffsetToCommit>, CursorError> {
        let mut offsets = Vec::new();
        for cursor in &self.0 {
            let topics = assignment.iter().filter_map(|(name, parts)| Some((engine.topic(name)?, parts)));
            let mut own = topics.filter(|(info, _)| cursor.topic(&info.name, info.id) == CursorTopic::Same);
            let (topic, assigned) = own.next().ok_or(CursorError::OtherTopic)?;
            for position in &cursor.positions {
                if !assigned.contains(&position.partition) {
                    return Err(CursorError::NotAssigned(position.partition));
                }
                // A place that is pending was never read from, so there is nothing to commit.
                let Place::At(offset, epoch) = position.place else { continue };
                offsets.push(OffsetToCommit {
                    topic: topic.name.clone(),
                    partition: position.partition,
                    offset,
                    leader_epoch: Some(epoch),
                    metadata: String::new(),
                });
            }
        }
        Ok(offsets)
    }
}

/// The cursor of who has no partitions.
const EMPTY: &str = "-";

/// A gap with its topic.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupGap {
    /// Where.
    pub topic: TopicName,
    /// The gap.
    pub gap: Gap,
}

/// A member's page.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPage {
    /// The records as JSON, with commas between them.
    pub records: Pieces,
    /// How many.
    pub count: usize,
    /// Behind all that was looked at.
    pub cursor: GroupCursor,
    /// Nothing more was there.
    pub caught_up: bool,
    /// What the reader does not get.
    pub gaps: Vec<GroupGap>,
    /// Partitions that could not be read now.
    pub unavailable: Vec<(TopicName, PartitionId)>,
}

/// A member that reads.
pub struct GroupReader {
    engine: Arc<dyn Engine>,
    sessions: Arc<Sessions>,
    group: String,
    member: String,
    epoch: i32,
}

impl GroupReader {
    /// For a member that was told this epoch.
    #[must_use]
    pub const fn new(
        engine: Arc<dyn Engine>,
        sessions: Arc<Sessions>,
        group: String,
        member: String,
        epoch: i32,
    ) -> Self {
        Self { engine, sessions, group, member, epoch }
    }

    /// Where the member stands; renews its session.
    ///
    /// # Errors
    /// [`GroupError::IllegalGeneration`] where its epoch is not the group's any more, [`GroupError::RebalanceInProgress`]
    /// while it is about to change, and what the engine says.
    async fn touch(&self) -> Result<Membership, EngineError> {
        let place = self.engine.groups()?.touch_http_member(&self.group, &self.member).await?;
        match (place.epoch == self.epoch, place.stable) {
            (false, _) => Err(GroupError::IllegalGeneration.into()),
            (true, false) => Err(GroupError::RebalanceInProgress.into()),
            (true, true) => Ok(place),
        }
    }

    /// Reads a page, from the cursor where it has a place and from the committed offsets elsewhere (the log start
    /// where nothing was committed).
    ///
    /// # Errors
    /// What `touch` says, also while it waits; what will not pass by itself.
    pub async fn read(
        &self,
        cursor: &GroupCursor,
        encoding: ValueEncoding,
        request: PageRequest,
    ) -> Result<GroupPage, SessionError> {
        let place = self.touch().await?;
        let deadline = Instant::now() + request.wait;
        let mut readers = self.readers(&place, cursor);
        let mut page = GroupPage {
            records: Pieces::default(),
            count: 0,
            cursor: GroupCursor::default(),
            caught_up: true,
            gaps: Vec::new(),
            unavailable: Vec::new(),
        };
        loop {
            self.fill(&mut readers, &mut page, encoding, request).await?;
            if page.count > 0 || !page.gaps.is_empty() || Instant::now() >= deadline {
                break;
            }
            let until = deadline.min(Instant::now() + TOUCH);
            let waits: Vec<_> = readers.iter_mut().map(|reader| reader.wait().boxed()).collect();
            // Without partitions it waits for an assignment.
            let _ = match waits.is_empty() {
                true => tokio::time::timeout_at(until, std::future::pending::<()>()).await,
                false => tokio::time::timeout_at(until, select_all(waits).map(|_| ())).await,
            };
            self.touch().await?;
        }
        for reader in &readers {
            let name = &reader.topic().name;
            page.cursor.0.push(reader.cursor());
            page.unavailable.extend(reader.unavailable().into_iter().map(|p| (name.clone(), p)));
        }
        Ok(page)
    }

    /// Takes what is there, topic by topic; where the page begins depends on the place, so that a busy topic does not
    /// starve the others.
    async fn fill(
        &self,
        readers: &mut [LogReader],
        page: &mut GroupPage,
        encoding: ValueEncoding,
        request: PageRequest,
    ) -> Result<(), SessionError> {
        page.caught_up = true;
        let (count, share) = (readers.len().max(1), request.limit.div_ceil(readers.len().max(1)));
        for (n, reader) in readers.iter_mut().enumerate() {
            let last = n + 1 == count;
            let limit = if last { request.limit - page.count } else { share.min(request.limit - page.count) };
            let max_bytes = request.max_bytes.saturating_sub(page.records.len()) / (count - n);
            if limit == 0 || (max_bytes == 0 && page.count > 0) {
                page.caught_up = false;
                continue;
            }
            let writer = RecordWriter::new(&reader.topic().name, encoding);
            let part = PageRequest { limit, max_bytes: max_bytes.max(1), wait: Duration::ZERO };
            let read = match Page::read(reader, &writer, part, Vec::new()).await {
                // Deleted meanwhile: the group rebalances over what is left.
                Err(SessionError::Engine(EngineError::UnknownTopic(_))) => continue,
                read => read?,
            };
            if page.count > 0 && read.count > 0 {
                page.records.open(1).push(b',');
            }
            page.records.append(read.records);
            page.count += read.count;
            page.caught_up &= read.caught_up;
            let topic = &reader.topic().name;
            page.gaps.extend(read.gaps.into_iter().map(|gap| GroupGap { topic: topic.clone(), gap }));
        }
        Ok(())
    }

    fn readers(&self, place: &Membership, cursor: &GroupCursor) -> Vec<LogReader> {
        let mut readers = Vec::new();
        for (name, partitions) in &place.assignment {
            // Deleted: the group is about to rebalance.
            let Some(topic) = self.engine.topic(name) else { continue };
            let known = cursor.of(&topic);
            let partitions = partitions.iter().filter(|p| p.get() < topic.partitions);
            let positions = partitions.map(|p| self.start(&topic, *p, known, &place.offsets)).collect();
            let plan = ReadPlan { topic, all: false, positions, key: None, until: None, refuse_retention_gap: false };
            readers.push(self.sessions.reader(plan));
        }
        readers
    }

    fn start(
        &self,
        topic: &TopicInfo,
        partition: PartitionId,
        cursor: Option<&Cursor>,
        committed: &GroupOffsets,
    ) -> Position {
        let known = cursor.and_then(|c| c.positions.iter().find(|position| position.partition == partition));
        if let Some(position) = known {
            return *position;
        }
        let Some(committed) = committed.get(&(topic.name.clone(), partition)) else {
            return Position { partition, place: Place::Pending(super::cursor::PendingPlace::Earliest) };
        };
        let progress = self.engine.watch(topic.id, partition).map(|watch| *watch.borrow());
        let (end, epoch) = progress.map_or((committed.offset, NO_EPOCH), |p| {
            (p.high_watermark.offset(), committed.leader_epoch.unwrap_or(p.leader_epoch))
        });
        // Beyond the end of its own leadership nothing can have been read: somebody committed what is not there yet.
        let offset: Offset =
            if committed.leader_epoch.is_some() { committed.offset } else { committed.offset.min(end) };
        Position::at(partition, offset, epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;

    #[test]
    fn a_groups_cursor_survives_its_text() {
        let name = TopicName::new("games").unwrap();
        let position = |p, o| Position::at(PartitionId::new(p), Offset::new(o), LeaderEpoch::new(1));
        let one = Cursor::new(&name, TopicId::from_random([1; 16]), false, vec![position(0, 5), position(3, 9)]);
        let two = Cursor::new(&name, TopicId::from_random([2; 16]), false, vec![position(1, 7)]);
        for cursor in [GroupCursor::default(), GroupCursor(vec![one.clone()]), GroupCursor(vec![one, two])] {
            assert_eq!(GroupCursor::parse(&cursor.encode().unwrap()), Ok(cursor));
        }
        for bad in ["", ".", "x", "-.-", &"a".repeat(MAX_GROUP_CURSOR + 1)] {
            assert!(GroupCursor::parse(bad).is_err(), "{bad}");
        }
    }
}

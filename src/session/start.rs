//! Where a reader starts, and over which partitions: what a client asked for, as places.

use super::SessionError;
use super::cursor::{Cursor, CursorError, CursorTopic, PendingPlace, Place, Position};
use super::read_plan::{Gap, GapReason, ReadPlan, Until};
use crate::engine::{Engine, EngineError, TopicInfo};
use crate::types::{Offset, PartitionId};
use bytes::Bytes;
use std::sync::Arc;

/// Where to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartPosition {
    /// Where a reader left off.
    Cursor(Cursor),
    /// At each log start.
    Earliest,
    /// At each end.
    Latest,
    /// At an offset of the one partition asked for.
    Offset(Offset),
    /// At the first record of this time (Unix ms) or later.
    Since(i64),
    /// So many records before each end.
    Last(u64),
}

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The topic.
    pub topic: Arc<TopicInfo>,
    /// Where to start.
    pub start: StartPosition,
    /// Which partitions; `None` for all, or for those of the cursor.
    pub partitions: Option<Vec<PartitionId>>,
    /// Only records with this key.
    pub key: Option<Bytes>,
    /// Where to end.
    pub until: Option<Until>,
    /// A place that retention has passed is an error, and not a gap.
    pub refuse_retention_gap: bool,
}

impl ReadRequest {
    /// The places to read from, and what to tell before the first record.
    ///
    /// # Errors
    /// What makes no sense, or can not be found.
    pub fn plan(&self, engine: &dyn Engine) -> Result<(ReadPlan, Vec<Gap>), SessionError> {
        let wanted = self.partitions.as_ref().map(|list| self.check_partitions(list)).transpose()?;
        let (mut all, mut gaps) = (wanted.is_none(), Vec::new());
        let everything = || (0..self.topic.partitions).map(PartitionId::new).collect::<Vec<_>>();
        let spread = |place| {
            let partitions = wanted.clone().unwrap_or_else(everything);
            partitions.into_iter().map(|partition| Position { partition, place }).collect::<Vec<_>>()
        };
        let positions = match &self.start {
            StartPosition::Earliest => spread(Place::Pending(PendingPlace::Earliest)),
            StartPosition::Latest => spread(Place::Pending(PendingPlace::Latest)),
            StartPosition::Since(ms) => spread(Place::Pending(PendingPlace::Since(*ms))),
            StartPosition::Last(n) => spread(Place::Pending(PendingPlace::Last(*n))),
            StartPosition::Offset(offset) => vec![self.at_offset(engine, wanted.as_deref(), *offset)?],
            StartPosition::Cursor(cursor) => match cursor.topic(&self.topic.name, self.topic.id) {
                CursorTopic::Other => return Err(CursorError::OtherTopic.into()),
                CursorTopic::Same => {
                    all = all && cursor.all;
                    self.at_cursor(cursor, wanted.as_deref())?
                }
                CursorTopic::Recreated => {
                    all = all && cursor.all;
                    let there = |p: PartitionId| p.get() < self.topic.partitions;
                    let old =
                        cursor.positions.iter().filter(|p| wanted.as_ref().is_none_or(|w| w.contains(&p.partition)));
                    gaps = old.filter_map(recreated).collect();
                    let covered = || cursor.positions.iter().map(|p| p.partition).filter(|p| there(*p)).collect();
                    let partitions =
                        wanted.clone().unwrap_or_else(|| if cursor.all { everything() } else { covered() });
                    let place = Place::Pending(PendingPlace::Earliest);
                    partitions.into_iter().map(|partition| Position { partition, place }).collect()
                }
            },
        };
        if !matches!(self.start, StartPosition::Cursor(_)) || all {
            Cursor::new(&self.topic.name, self.topic.id, all, positions.clone()).check_room()?;
        }
        let plan = ReadPlan {
            topic: self.topic.clone(),
            all,
            positions,
            key: self.key.clone(),
            until: self.until,
            refuse_retention_gap: self.refuse_retention_gap,
        };
        Ok((plan, gaps))
    }

    fn check_partitions(&self, list: &[PartitionId]) -> Result<Vec<PartitionId>, SessionError> {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        match list.last() {
            None => Err(SessionError::Invalid("name at least one partition, or leave `partitions` out".into())),
            Some(last) if last.get() >= self.topic.partitions => Err(self.unknown(*last)),
            Some(_) => Ok(list),
        }
    }

    fn unknown(&self, partition: PartitionId) -> SessionError {
        let (topic, partitions) = (self.topic.name.clone(), self.topic.partitions);
        EngineError::UnknownPartition { topic, partition, partitions }.into()
    }

    fn at_offset(
        &self,
        engine: &dyn Engine,
        wanted: Option<&[PartitionId]>,
        offset: Offset,
    ) -> Result<Position, SessionError> {
        let Some(&[partition]) = wanted else {
            let text = "`offset` needs exactly one `partition`, for an offset counts within its partition";
            return Err(SessionError::Invalid(text.into()));
        };
        let progress = *engine.watch(self.topic.id, partition)?.borrow();
        if !progress.online {
            return Err(EngineError::NoLeader(partition).into());
        }
        if offset > progress.high_watermark.offset() {
            let (log_start, log_end) = (progress.log_start, progress.high_watermark.offset().into());
            let requested = offset.get();
            return Err(EngineError::OffsetOutOfRange { partition, requested, log_start, log_end }.into());
        }
        Ok(Position::at(partition, offset, progress.leader_epoch))
    }

    fn at_cursor(&self, cursor: &Cursor, wanted: Option<&[PartitionId]>) -> Result<Vec<Position>, SessionError> {
        if let Some(beyond) = cursor.positions.iter().find(|p| p.partition.get() >= self.topic.partitions) {
            return Err(self.unknown(beyond.partition));
        }
        let mut positions = cursor.positions.clone();
        if cursor.all {
            // Partitions that were added since begin with their first record.
            for partition in positions.len() as i32..self.topic.partitions {
                let place = Place::Pending(PendingPlace::Earliest);
                positions.push(Position { partition: PartitionId::new(partition), place });
            }
        }
        let Some(wanted) = wanted else { return Ok(positions) };
        let find = |partition: &PartitionId| {
            let found = positions.binary_search_by_key(partition, |p| p.partition);
            found.map(|i| positions[i]).map_err(|_| SessionError::Cursor(CursorError::NotCovered(*partition)))
        };
        wanted.iter().map(find).collect()
    }
}

/// What a reader of the earlier topic must know: its place there means nothing now, and it goes on at the start.
pub(super) fn recreated(old: &Position) -> Option<Gap> {
    let from = old.offset()?;
    Some(Gap { partition: old.partition, from, to: Offset::ZERO, reason: GapReason::TopicRecreated })
}

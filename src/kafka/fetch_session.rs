//! Incremental fetch sessions (KIP-227): a client names its partitions once, and after that only what changed, and gets
//! only what changed.
//!
//! **Invariant**: as many sessions as there are places, the one that was used least recently goes first. Each request of a
//! session carries the next epoch; another one is refused, and the client begins anew.
//!
//! Called by `api::fetch`, from any thread; the locks are held for moments.

use super::error_code::ErrorCode;
use crate::codec::Uuid;
use crate::codec::messages::fetch::{
    FetchPartition, FetchRequest, FetchTopic, FetchableTopicResponse, ForgottenTopic, PartitionData,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The epoch of a request that begins a session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request outside of any, which ends the one it names.
const FINAL_EPOCH: i32 = -1;
/// Since this version topics are named by their ids.
pub(super) const TOPIC_IDS_FROM: i16 = 13;

/// A topic as a request names it: by name, or by id. The other one is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TopicKey {
    pub(super) name: String,
    pub(super) id: Uuid,
}

/// What a client wants of one partition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) topic: TopicKey,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) max_bytes: i32,
    pub(super) leader_epoch: i32,
}

/// What was told last of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
    error: i16,
}

/// A partition of a session: what the client wants of it, and what it was told.
type Partition = (Wanted, Option<Told>);

struct Session {
    epoch: i32,
    by_id: bool,
    partitions: BTreeMap<(TopicKey, i32), Partition>,
    /// Whose turn it is to be first, so that no partition starves behind those that are full.
    turn: usize,
    used: u64,
}

#[derive(Default)]
struct Table {
    sessions: BTreeMap<i32, Session>,
    by_use: BTreeMap<u64, i32>,
    next_id: i32,
    next_use: u64,
}

/// All sessions of a door.
pub(super) struct FetchSessions {
    table: Mutex<Table>,
    places: usize,
}

/// A request's place in a session.
pub(super) struct InSession {
    /// 0 outside of any.
    pub(super) id: i32,
    /// The partitions to read, in order.
    pub(super) wanted: Vec<Wanted>,
    /// Only what changed is answered.
    incremental: bool,
}

impl FetchSessions {
    pub(super) fn new(places: usize) -> Self {
        Self { table: Mutex::default(), places }
    }

    /// The partitions that a request is about.
    pub(super) fn begin(&self, version: i16, request: FetchRequest) -> Result<InSession, ErrorCode> {
        let by_id = version >= TOPIC_IDS_FROM;
        let FetchRequest { session_id, session_epoch, topics, forgotten_topics_data, .. } = request;
        let mut table = self.table.lock();
        if session_epoch == FINAL_EPOCH || session_epoch == INITIAL_EPOCH {
            table.remove(session_id);
            let wanted = list(topics);
            let begins = session_epoch == INITIAL_EPOCH && version >= 7 && !wanted.is_empty();
            let id = if begins { table.insert(self.places, by_id, &wanted) } else { 0 };
            return Ok(InSession { id, wanted, incremental: false });
        }
        let number = table.take_number();
        let session = table.sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        // After the greatest comes 1: 0 begins a session.
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        session.update(list(topics), forgotten_topics_data);
        let mut wanted: Vec<_> = session.partitions.values().map(|(wanted, _)| wanted.clone()).collect();
        if !wanted.is_empty() {
            session.turn = (session.turn + 1) % wanted.len();
            wanted.rotate_left(session.turn);
        }
        let before = std::mem::replace(&mut session.used, number);
        table.by_use.remove(&before);
        table.by_use.insert(number, session_id);
        Ok(InSession { id: session_id, wanted, incremental: true })
    }

    /// What is left to say of what was read, and notes that it is said.
    pub(super) fn finish(
        &self,
        place: &InSession,
        read: Vec<(TopicKey, PartitionData)>,
    ) -> Vec<FetchableTopicResponse> {
        let mut table = self.table.lock();
        let mut session = table.sessions.get_mut(&place.id).filter(|_| place.id != 0);
        let mut topics: Vec<FetchableTopicResponse> = Vec::new();
        for (topic, data) in read {
            let told =
                Told { high_watermark: data.high_watermark, log_start: data.log_start_offset, error: data.error_code };
            let key = (topic, data.partition_index);
            let noted = session.as_deref_mut().and_then(|session| session.partitions.get_mut(&key));
            let before = noted.and_then(|(_, noted)| noted.replace(told));
            let has_records = data.records.as_ref().is_some_and(|records| !records.is_empty());
            if place.incremental && !has_records && data.error_code == 0 && before == Some(told) {
                continue;
            }
            let (TopicKey { name, id }, _) = key;
            match topics.last_mut().filter(|last| last.topic == name && last.topic_id == id) {
                Some(last) => last.partitions.push(data),
                None => topics.push(FetchableTopicResponse { topic: name, topic_id: id, partitions: vec![data] }),
            }
        }
        topics
    }
}

impl Table {
    fn take_number(&mut self) -> u64 {
        self.next_use += 1;
        self.next_use
    }

    fn insert(&mut self, places: usize, by_id: bool, wanted: &[Wanted]) -> i32 {
        while self.sessions.len() >= places {
            let Some((_, oldest)) = self.by_use.pop_first() else { return 0 };
            self.sessions.remove(&oldest);
        }
        // Ids are positive; one that is in use after 2^31 others is passed over.
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if !self.sessions.contains_key(&self.next_id) {
                break;
            }
        }
        let (id, used) = (self.next_id, self.take_number());
        let mut session = Session { epoch: INITIAL_EPOCH + 1, by_id, partitions: BTreeMap::new(), turn: 0, used };
        session.update(wanted.to_vec(), Vec::new());
        self.sessions.insert(id, session);
        self.by_use.insert(used, id);
        id
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&session.used);
        }
    }
}

impl Session {
    fn update(&mut self, wanted: Vec<Wanted>, forgotten: Vec<ForgottenTopic>) {
        for topic in forgotten {
            let key = TopicKey { name: topic.topic, id: topic.topic_id };
            for partition in topic.partitions {
                self.partitions.remove(&(key.clone(), partition));
            }
        }
        for wanted in wanted {
            let key = (wanted.topic.clone(), wanted.partition);
            let told = self.partitions.get(&key).and_then(|(_, told)| *told);
            self.partitions.insert(key, (wanted, told));
        }
    }
}

/// The partitions of a request, one after another.
fn list(topics: Vec<FetchTopic>) -> Vec<Wanted> {
    let mut all = Vec::with_capacity(topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in topics {
        let key = TopicKey { name: topic.topic, id: topic.topic_id };
        all.extend(topic.partitions.into_iter().map(|partition| {
            let FetchPartition { partition, current_leader_epoch, fetch_offset, partition_max_bytes, .. } = partition;
            Wanted {
                topic: key.clone(),
                partition,
                offset: fetch_offset,
                max_bytes: partition_max_bytes,
                leader_epoch: current_leader_epoch,
            }
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: (i32, i32), partitions: &[(i32, i64)]) -> FetchRequest {
        let partition = |(partition, fetch_offset): &(i32, i64)| FetchPartition {
            partition: *partition,
            fetch_offset: *fetch_offset,
            ..FetchPartition::default()
        };
        let topic = FetchTopic {
            topic_id: [1; 16],
            partitions: partitions.iter().map(partition).collect(),
            ..FetchTopic::default()
        };
        let topics = if partitions.is_empty() { vec![] } else { vec![topic] };
        FetchRequest { session_id: session.0, session_epoch: session.1, topics, ..FetchRequest::default() }
    }

    fn read(place: &InSession, high_watermark: i64) -> Vec<(TopicKey, PartitionData)> {
        let data = |wanted: &Wanted| PartitionData {
            partition_index: wanted.partition,
            high_watermark,
            ..PartitionData::default()
        };
        place.wanted.iter().map(|wanted| (wanted.topic.clone(), data(wanted))).collect()
    }

    fn told(sessions: &FetchSessions, place: &InSession, high_watermark: i64) -> usize {
        sessions.finish(place, read(place, high_watermark)).iter().map(|topic| topic.partitions.len()).sum()
    }

    #[test]
    fn a_session_keeps_partitions_and_tells_changes() {
        let sessions = FetchSessions::new(10);
        let first = sessions.begin(13, request((0, 0), &[(0, 0), (1, 0)])).unwrap();
        assert_eq!((first.wanted.len(), told(&sessions, &first, 0)), (2, 2), "a full fetch tells everything");
        let second = sessions.begin(13, request((first.id, 1), &[(1, 5)])).unwrap();
        assert_eq!((second.wanted.len(), told(&sessions, &second, 0)), (2, 0), "nothing changed");
        assert!(second.wanted.iter().any(|wanted| (wanted.partition, wanted.offset) == (1, 5)));
        let mut forget = request((first.id, 2), &[]);
        forget.forgotten_topics_data =
            vec![ForgottenTopic { topic_id: [1; 16], partitions: vec![0], ..ForgottenTopic::default() }];
        let third = sessions.begin(13, forget).unwrap();
        assert_eq!((third.wanted.len(), told(&sessions, &third, 9)), (1, 1), "the watermark moved");
        assert_eq!(sessions.begin(13, request((first.id, 2), &[])).err(), Some(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(sessions.begin(12, request((first.id, 3), &[])).err(), Some(ErrorCode::FetchSessionTopicIdError));
        let left = sessions.begin(13, request((first.id, -1), &[(0, 0)])).unwrap();
        assert_eq!((left.id, told(&sessions, &left, 9)), (0, 1));
        assert_eq!(sessions.begin(13, request((first.id, 3), &[])).err(), Some(ErrorCode::FetchSessionIdNotFound));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let sessions = FetchSessions::new(2);
        let begin = || sessions.begin(13, request((0, 0), &[(0, 0)])).unwrap().id;
        let (a, b) = (begin(), begin());
        sessions.begin(13, request((a, 1), &[])).unwrap();
        let c = begin();
        assert_eq!(sessions.begin(13, request((b, 1), &[])).err(), Some(ErrorCode::FetchSessionIdNotFound));
        assert!(sessions.begin(13, request((a, 2), &[])).is_ok() && sessions.begin(13, request((c, 1), &[])).is_ok());
        let table = sessions.table.lock();
        assert_eq!((table.sessions.len(), table.by_use.len()), (2, 2));
    }

    #[test]
    fn each_partition_is_first_in_its_turn() {
        let sessions = FetchSessions::new(2);
        let first = sessions.begin(13, request((0, 0), &[(0, 0), (1, 0), (2, 0)])).unwrap();
        let turn = |epoch| sessions.begin(13, request((first.id, epoch), &[])).unwrap().wanted[0].partition;
        assert_eq!((1..=4).map(turn).collect::<Vec<_>>(), [1, 2, 0, 1]);
    }
}

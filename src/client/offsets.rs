//! Offsets: a partition's ends, and what a group committed, at its coordinator.

use super::cluster::{Cluster, Leader};
use super::requests::{milliseconds_until, topic_id};
use super::{Client, ClientError, Code, Use};
use crate::codec::messages::{
    Request,
    find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse},
    list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic},
    offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch::{
        OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
        OffsetFetchResponse,
    },
};
use crate::types::{Offset, PartitionId};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// A group, in FindCoordinator.
const GROUP: i8 = 0;

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first that it still has.
    Earliest,
    /// The one that readers get next.
    Latest,
    /// The first whose timestamp, in milliseconds, is this or later.
    Timestamp(i64),
}

/// What a group commits for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The next record to be read.
    pub offset: Offset,
    /// The epoch of the last record read, where it is known.
    pub leader_epoch: Option<i32>,
    /// Whatever the group wants to keep with it.
    pub metadata: String,
}

/// What a group has committed, by partition; those without a commit are not in it.
pub type Committed = BTreeMap<PartitionId, Commit>;

impl Client {
    /// An offset of a partition; `None` if no record is as late as the timestamp.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: PartitionId,
        at: OffsetAt,
        deadline: Instant,
    ) -> Result<Option<Offset>, ClientError> {
        let timestamp = match at {
            OffsetAt::Earliest => -2,
            OffsetAt::Latest => -1,
            OffsetAt::Timestamp(timestamp_ms) => timestamp_ms.max(0),
        };
        let build = |_: &Cluster, leader: Leader| ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: topic.to_owned(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: partition.get(),
                    current_leader_epoch: leader.epoch,
                    timestamp,
                }],
            }],
            timeout_ms: milliseconds_until(deadline),
            ..Default::default()
        };
        let read = |mut response: ListOffsetsResponse| {
            let answer = response.topics.pop().and_then(|mut topic| topic.partitions.pop());
            let answer = answer.ok_or(ClientError::Incomplete("the partition"))?;
            match Code::new(answer.error_code) {
                Some(code) => Err(ClientError::refused(code)),
                None => Ok((answer.offset >= 0).then(|| Offset::new(answer.offset))),
            }
        };
        self.at_leader((topic, partition), Use::Control, true, deadline, build, read).await
    }

    /// The address of a group's coordinator, asked for anew.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn find_coordinator(&self, group: &str, deadline: Instant) -> Result<String, ClientError> {
        let request =
            FindCoordinatorRequest { key: group.to_owned(), key_type: GROUP, coordinator_keys: vec![group.to_owned()] };
        let mut failures = 0;
        loop {
            let error = match self.send_any(&request, deadline).await.and_then(read_coordinator) {
                Ok(address) => {
                    self.remember_coordinator(group, Some(address.clone()));
                    return Ok(address);
                }
                Err(error) => error,
            };
            self.settle(error, "", true, &mut failures, deadline).await?;
        }
    }

    /// Commits offsets of one topic for a group that has no members, or for a member (`generation`, `member`).
    ///
    /// # Errors
    /// [`ClientError`]: the first partition's that was refused.
    pub async fn commit_offsets(
        &self,
        group: &str,
        member: Option<(i32, &str)>,
        topic: &str,
        commits: &Committed,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let id = self.known_topic_id(topic, deadline).await?;
        let (generation_id_or_member_epoch, member_id) = member.unwrap_or((-1, ""));
        let partitions = commits.iter().map(|(partition, commit)| OffsetCommitRequestPartition {
            partition_index: partition.get(),
            committed_offset: commit.offset.get(),
            committed_leader_epoch: commit.leader_epoch.unwrap_or(-1),
            committed_metadata: Some(commit.metadata.clone()),
        });
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch,
            member_id: member_id.to_owned(),
            topics: vec![OffsetCommitRequestTopic {
                name: topic.to_owned(),
                topic_id: id,
                partitions: partitions.collect(),
            }],
            ..Default::default()
        };
        self.at_coordinator(group, &request, deadline, |response| {
            let codes = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code);
            codes.filter_map(Code::new).next().map_or(Ok(()), |code| Err(ClientError::refused(code)))
        })
        .await
    }

    /// What a group has committed for partitions of one topic.
    ///
    /// # Errors
    /// [`ClientError`]: the group's, or the first partition's that was refused.
    pub async fn committed_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[PartitionId],
        deadline: Instant,
    ) -> Result<Committed, ClientError> {
        let id = self.known_topic_id(topic, deadline).await?;
        let partition_indexes: Vec<i32> = partitions.iter().map(|partition| partition.get()).collect();
        let request = OffsetFetchRequest {
            group_id: group.to_owned(),
            topics: Some(vec![OffsetFetchRequestTopic {
                name: topic.to_owned(),
                partition_indexes: partition_indexes.clone(),
            }]),
            groups: vec![OffsetFetchRequestGroup {
                group_id: group.to_owned(),
                topics: Some(vec![OffsetFetchRequestTopics {
                    name: topic.to_owned(),
                    topic_id: id,
                    partition_indexes,
                }]),
                ..Default::default()
            }],
            require_stable: false,
        };
        self.at_coordinator(group, &request, deadline, read_committed).await
    }

    async fn known_topic_id(&self, topic: &str, deadline: Instant) -> Result<[u8; 16], ClientError> {
        let cluster = self.cluster();
        if cluster.partition_count(topic).is_some() {
            return Ok(topic_id(&cluster, topic));
        }
        Ok(topic_id(&*self.refresh(&[topic], Instant::now(), deadline).await?, topic))
    }

    /// Sends to a group's coordinator, wherever it is now. Only for what may be carried out twice.
    async fn at_coordinator<R: Request, T>(
        &self,
        group: &str,
        request: &R,
        deadline: Instant,
        read: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut failures = 0;
        loop {
            let address = match self.coordinator(group) {
                Some(address) => address,
                None => self.find_coordinator(group, deadline).await?,
            };
            let error = match self.send_to(&address, request, deadline).await.and_then(&read) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.wants_refresh() {
                self.remember_coordinator(group, None);
            }
            self.settle(error, "", true, &mut failures, deadline).await?;
        }
    }
}

fn read_coordinator(mut response: FindCoordinatorResponse) -> Result<String, ClientError> {
    let (code, host, port) = match response.coordinators.pop() {
        Some(one) => (one.error_code, one.host, one.port),
        None => (response.error_code, response.host, response.port),
    };
    match Code::new(code) {
        Some(code) => Err(ClientError::refused(code)),
        None if host.is_empty() => Err(ClientError::Incomplete("the coordinator")),
        None if host.contains(':') => Ok(format!("[{host}]:{port}")),
        None => Ok(format!("{host}:{port}")),
    }
}

fn read_committed(mut response: OffsetFetchResponse) -> Result<Committed, ClientError> {
    // Number, offset, epoch, metadata, code: from either form of the answer.
    type Row = (i32, i64, i32, Option<String>, i16);
    let (code, rows): (i16, Vec<Row>) = match response.groups.pop() {
        Some(group) => {
            let rows = group.topics.into_iter().flat_map(|topic| topic.partitions);
            let rows = rows
                .map(|p| (p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata, p.error_code));
            (group.error_code, rows.collect())
        }
        None => {
            let rows = response.topics.into_iter().flat_map(|topic| topic.partitions);
            let rows = rows
                .map(|p| (p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata, p.error_code));
            (response.error_code, rows.collect())
        }
    };
    if let Some(code) = Code::new(code) {
        return Err(ClientError::refused(code));
    }
    let mut committed = Committed::new();
    for (partition, offset, epoch, metadata, code) in rows {
        if let Some(code) = Code::new(code) {
            return Err(ClientError::refused(code));
        }
        if partition >= 0 && offset >= 0 {
            let leader_epoch = (epoch >= 0).then_some(epoch);
            let commit = Commit { offset: Offset::new(offset), leader_epoch, metadata: metadata.unwrap_or_default() };
            committed.insert(PartitionId::new(partition), commit);
        }
    }
    Ok(committed)
}

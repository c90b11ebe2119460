//! OffsetCommit 2-10: how far a group has read. From 10 on topics are named by their ids.

use super::super::{Door, error_code::ErrorCode};
use super::{partition_id, topic_by_id, topic_by_name};
use crate::codec::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::engine::{CommitOffsets, OffsetToCommit, TopicInfo};
use crate::types::{LeaderEpoch, Offset};
use std::sync::Arc;

/// Since this version topics are named by their ids.
const TOPIC_IDS_FROM: i16 = 10;

pub(super) async fn answer(door: Door, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut offsets = Vec::new();
    let mut topics: Vec<OffsetCommitResponseTopic> = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let OffsetCommitRequestTopic { name, topic_id, partitions } = topic;
        let info = if version >= TOPIC_IDS_FROM { topic_by_id(&door, topic_id) } else { topic_by_name(&door, &name) };
        let partitions = partitions.into_iter().map(|partition| {
            let partition_index = partition.partition_index;
            let error_code = match read(&info, partition) {
                Ok(offset) => {
                    offsets.push(offset);
                    ErrorCode::None
                }
                Err(code) => code,
            };
            OffsetCommitResponsePartition { partition_index, error_code: error_code.code() }
        });
        topics.push(OffsetCommitResponseTopic { name, topic_id, partitions: partitions.collect() });
    }
    let count = offsets.len();
    let commit = CommitOffsets {
        group_id: request.group_id,
        generation_id: request.generation_id_or_member_epoch,
        member_id: request.member_id,
        group_instance_id: request.group_instance_id,
        offsets,
    };
    let committed = match door.engine().groups() {
        Ok(groups) => groups.commit_offsets(commit).await,
        Err(error) => Err(error),
    };
    let codes: Vec<_> = match committed {
        Ok(results) => results.iter().map(|r| r.as_ref().err().map_or(ErrorCode::None, ErrorCode::from)).collect(),
        Err(error) => vec![ErrorCode::from(&error); count],
    };
    // Those that were asked are those without a code yet, in their order.
    let asked = topics.iter_mut().flat_map(|topic| &mut topic.partitions).filter(|partition| partition.error_code == 0);
    asked.zip(codes).for_each(|(partition, code)| partition.error_code = code.code());
    OffsetCommitResponse { topics, ..OffsetCommitResponse::default() }
}

fn read(
    info: &Result<Arc<TopicInfo>, ErrorCode>,
    partition: OffsetCommitRequestPartition,
) -> Result<OffsetToCommit, ErrorCode> {
    let info = info.as_ref().map_err(|code| *code)?;
    if partition.committed_offset < 0 {
        return Err(ErrorCode::InvalidRequest);
    }
    Ok(OffsetToCommit {
        topic: info.name.clone(),
        partition: partition_id(partition.partition_index)?,
        offset: Offset::new(partition.committed_offset),
        leader_epoch: (partition.committed_leader_epoch >= 0)
            .then(|| LeaderEpoch::new(partition.committed_leader_epoch)),
        metadata: partition.committed_metadata.unwrap_or_default(),
    })
}

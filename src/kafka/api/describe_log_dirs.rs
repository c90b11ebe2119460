//! DescribeLogDirs 1-4: the sizes of the partitions on this broker's disk.

use super::super::Door;
use crate::codec::messages::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
    DescribeLogDirsTopic,
};

/// What the one folder is called: where it lies on this machine is nobody's business.
const LOG_DIR: &str = "data";

pub(super) async fn answer(door: Door, _version: i16, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let me = door.engine().cluster().broker_id;
    let mut topics = Vec::new();
    for info in door.engine().topics() {
        let asked = request.topics.as_ref().map(|topics| topics.iter().find(|t| t.topic == info.name.as_str()));
        let partitions = match asked {
            None => None,
            Some(None) => continue,
            Some(Some(topic)) => Some(&topic.partitions),
        };
        let Ok(described) = door.engine().describe_topic(&info.name).await else { continue };
        let held = described.partitions.iter().filter(|p| p.replicas.contains(&me));
        let wanted = held.filter(|p| partitions.is_none_or(|wanted| wanted.contains(&p.partition.get())));
        let partitions = wanted.map(|partition| DescribeLogDirsPartition {
            partition_index: partition.partition.get(),
            partition_size: i64::try_from(partition.size_bytes).unwrap_or(i64::MAX),
            offset_lag: partition.log_end.get() - partition.high_watermark.get(),
            ..DescribeLogDirsPartition::default()
        });
        topics.push(DescribeLogDirsTopic { name: info.name.to_string(), partitions: partitions.collect() });
    }
    let result = DescribeLogDirsResult { log_dir: LOG_DIR.to_owned(), topics, ..DescribeLogDirsResult::default() };
    DescribeLogDirsResponse { results: vec![result], ..DescribeLogDirsResponse::default() }
}

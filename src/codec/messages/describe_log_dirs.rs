//! DescribeLogDirs, key 35, versions 1 to 4, flexible from 2.

use super::messages;

messages! {
    DescribeLogDirs (DescribeLogDirsRequest => DescribeLogDirsResponse)
    DescribeLogDirsRequest {
        topics: Option<Vec<DescribableLogDirTopic>> [0..],
    }
    DescribableLogDirTopic {
        topic: String [0..],
        partitions: Vec<i32> [0..],
    }
    DescribeLogDirsResponse {
        throttle_time_ms: i32 [0..],
        error_code: i16 [3..],
        results: Vec<DescribeLogDirsResult> [0..],
    }
    DescribeLogDirsResult {
        error_code: i16 [0..],
        log_dir: String [0..],
        topics: Vec<DescribeLogDirsTopic> [0..],
        total_bytes: i64 [4..] = -1,
        usable_bytes: i64 [4..] = -1,
    }
    DescribeLogDirsTopic {
        name: String [0..],
        partitions: Vec<DescribeLogDirsPartition> [0..],
    }
    DescribeLogDirsPartition {
        partition_index: i32 [0..],
        partition_size: i64 [0..],
        offset_lag: i64 [0..],
        is_future_key: bool [0..],
    }
}

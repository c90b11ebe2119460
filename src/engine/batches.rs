//! Producers' own batches, and the numbers of idempotent producers.
//!
//! **Invariant**: a batch is in the append buffer of its partition when the call returns, before anything is awaited, so
//! that a connection's requests keep their order while they wait side by side. A producer id is given once, for ever: the
//! controller hands out blocks, and what is left of one is lost at a restart.

use super::routed::{RoutedEngine, log_error, metadata_error, replication_error};
use super::{EngineError, ProduceBatch, ProducedBatch, RecordError};
use crate::codec::DecompressLimit;
use crate::metadata::{Command, Response};
use crate::types::{ProducerId, TimestampType};
use std::ops::Range;
use tokio::time::{Duration, timeout};

/// The most that a batch may decompress to: what readers take apart.
pub const DECOMPRESSED_BATCH: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };
/// Producer ids of one block, as in Kafka.
const BLOCK: u32 = 1000;
/// The longest wait for an acknowledgement.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// What is left of this broker's block.
#[derive(Default)]
pub(super) struct ProducerIds(tokio::sync::Mutex<Range<i64>>);

impl RoutedEngine {
    /// Checks a batch and puts it into its partition's buffer; the future is its acknowledgement.
    pub(super) fn start_batch(
        &self,
        request: ProduceBatch,
    ) -> Result<impl Future<Output = Result<ProducedBatch, EngineError>> + Send + use<>, EngineError> {
        let ProduceBatch { topic, partition: id, batch, verified, owns_memory, acks: _, timeout: wait } = request;
        let (info, partition) = self.partition(topic, id)?;
        if info.name.is_internal() {
            return Err(EngineError::InternalTopic(info.name.clone()));
        }
        let (bytes, limit) = (batch.header().size, info.config.max_message_bytes as usize);
        if bytes > limit {
            return Err(RecordError::TooLarge { bytes, limit }.into());
        }
        if batch.header().transactional {
            return Err(EngineError::Unsupported("transactions"));
        }
        let found = match verified {
            Some(found) => found,
            None => batch.verify_produced(DECOMPRESSED_BATCH)?,
        };
        if info.config.cleanup_policy.compact && !found.all_have_keys {
            return Err(RecordError::KeyRequired.into());
        }
        let is_right = batch.header().max_timestamp_ms == found.max_timestamp_ms;
        let batch = if owns_memory && is_right { batch } else { batch.detached(found.max_timestamp_ms) };
        let appended = partition.append_batch(batch).map_err(|e| replication_error(&info, id, e))?;
        Ok(async move {
            let outcome = timeout(wait.min(MAX_WAIT), appended).await.map_err(|_| EngineError::TimedOut)?;
            let outcome = outcome.map_err(|e| log_error(&info, id, e))?;
            let log_append_time = info.config.timestamp_type == TimestampType::LogAppendTime;
            Ok(ProducedBatch {
                base_offset: outcome.base_offset,
                append_time_ms: log_append_time.then_some(outcome.append_time_ms),
                log_start: partition.log().progress().log_start,
            })
        })
    }

    pub(super) async fn next_producer_id(&self) -> Result<ProducerId, EngineError> {
        let mut left = self.producer_ids.0.lock().await;
        if left.is_empty() {
            let broker = self.settings.broker;
            let broker_epoch = self.metadata.image().broker(broker).map_or(0, |registered| registered.epoch);
            let command = Command::AllocateProducerIds { broker, broker_epoch, count: BLOCK };
            match self.metadata.submit(command).await.map_err(metadata_error)? {
                Response::ProducerIds { first, count } => *left = first.get()..first.get() + i64::from(count),
                other => return Err(EngineError::Internal(format!("the controller answered {other:?}"))),
            }
        }
        left.next().map(ProducerId::new).ok_or(EngineError::Overloaded)
    }
}

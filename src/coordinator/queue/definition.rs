//! A queue's definition: what it was asked to be.

use super::settings::{Backoff, OnExhausted, PartitionSettings};
use crate::types::{TopicId, TopicName};
use serde::{Deserialize, Serialize};

/// Where a queue begins in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueStart {
    /// With the first record that is there when it is made.
    Earliest,
    /// With the next record that comes.
    Latest,
    /// With the first record of this time (Unix ms) or a later one.
    Timestamp(i64),
}

/// What a queue is.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The topic's name, for people.
    pub topic: TopicName,
    /// The topic: one made again under its name is another.
    pub topic_id: TopicId,
    /// Where it begins.
    pub start: QueueStart,
    /// How long a lease holds where the receiver does not say, ms.
    pub lease_ms: i64,
    /// How it delivers.
    pub settings: PartitionSettings,
}

impl Definition {
    /// What of another definition may not be: these fields are for good.
    #[must_use]
    pub fn conflict(&self, other: &Self) -> Option<&'static str> {
        if self.topic_id != other.topic_id {
            Some("topic")
        } else if self.start != other.start {
            Some("start")
        } else if self.settings.order_by_key != other.settings.order_by_key {
            Some("order")
        } else {
            None
        }
    }

    /// The text that lies in the state log.
    pub(super) fn encode(&self, name: &str) -> Vec<u8> {
        let stored = Stored {
            name: name.to_owned(),
            topic: self.topic.to_string(),
            topic_id: self.topic_id.to_string(),
            start: match self.start {
                QueueStart::Earliest => StoredStart::Earliest,
                QueueStart::Latest => StoredStart::Latest,
                QueueStart::Timestamp(ms) => StoredStart::Timestamp(ms),
            },
            lease_ms: self.lease_ms,
            max_deliveries: self.settings.max_deliveries,
            order_by_key: self.settings.order_by_key,
            backoff: self.settings.backoff.map(|b| StoredBackoff { min: b.min_ms, max: b.max_ms, factor: b.factor }),
            on_exhausted: match self.settings.on_exhausted {
                OnExhausted::Dead => StoredExhausted::Dead,
                OnExhausted::ParkKey => StoredExhausted::ParkKey,
                OnExhausted::Skip => StoredExhausted::Skip,
            },
            max_held: self.settings.max_held,
            window: self.settings.window,
        };
        serde_json::to_vec(&stored).expect("plain fields have a JSON form")
    }

    /// Reads it back, with the queue's name.
    pub(super) fn decode(bytes: &[u8]) -> Option<(String, Self)> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let definition = Self {
            topic: TopicName::new(&stored.topic).ok()?,
            topic_id: stored.topic_id.parse().ok()?,
            start: match stored.start {
                StoredStart::Earliest => QueueStart::Earliest,
                StoredStart::Latest => QueueStart::Latest,
                StoredStart::Timestamp(ms) => QueueStart::Timestamp(ms),
            },
            lease_ms: stored.lease_ms,
            settings: PartitionSettings {
                max_deliveries: stored.max_deliveries,
                order_by_key: stored.order_by_key,
                backoff: stored.backoff.map(|b| Backoff { min_ms: b.min, max_ms: b.max, factor: b.factor }),
                on_exhausted: match stored.on_exhausted {
                    StoredExhausted::Dead => OnExhausted::Dead,
                    StoredExhausted::ParkKey => OnExhausted::ParkKey,
                    StoredExhausted::Skip => OnExhausted::Skip,
                },
                max_held: stored.max_held,
                window: stored.window,
            },
        };
        Some((stored.name, definition))
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    topic: String,
    topic_id: String,
    start: StoredStart,
    lease_ms: i64,
    max_deliveries: u16,
    order_by_key: bool,
    backoff: Option<StoredBackoff>,
    on_exhausted: StoredExhausted,
    max_held: u32,
    window: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredStart {
    Earliest,
    Latest,
    Timestamp(i64),
}

#[derive(Serialize, Deserialize)]
struct StoredBackoff {
    min: i64,
    max: i64,
    factor: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredExhausted {
    Dead,
    ParkKey,
    Skip,
}

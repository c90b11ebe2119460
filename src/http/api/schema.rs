//! Schemas that say more than a type can: the configuration of a topic, and the rule of a record's fields.

use crate::types::ConfigKey;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type},
    },
};

/// A topic's configuration: Kafka's keys, and each value as its text.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct ConfigMap(pub BTreeMap<String, String>);

/// What a key takes, as JSON Schema.
enum Form {
    OneOf(&'static [&'static str]),
    Pattern(&'static str),
}

const fn form(key: ConfigKey) -> (Form, &'static str) {
    const MILLIS: Form = Form::Pattern("^[0-9]{1,18}$");
    const UNLIMITED: Form = Form::Pattern("^(-1|[0-9]{1,18})$");
    match key {
        ConfigKey::CleanupPolicy => (
            Form::OneOf(&["delete", "compact", "compact,delete", "delete,compact"]),
            "What happens to old records: whole segments go, or only the newest record of each key stays",
        ),
        ConfigKey::CompressionType => (
            Form::OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
            "How batches are stored; `producer` keeps what the producer sent",
        ),
        ConfigKey::DeleteRetentionMs => (MILLIS, "How long compaction keeps a tombstone"),
        ConfigKey::Flush => (
            Form::OneOf(&["commit", "interval", "os"]),
            "When an acknowledged record is on disk: before it is acknowledged, shortly after, or when the system likes",
        ),
        ConfigKey::MaxMessageBytes => (
            Form::Pattern(
                "^(102[4-9]|10[3-9][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}|[1-9][0-9]{4,8}|10[0-6][0-9]{7}|107[0-2][0-9]{6}\
                 |1073[0-6][0-9]{5}|10737[0-3][0-9]{4}|1073740[0-9]{3}|1073741[0-7][0-9]{2}|10737418[01][0-9]\
                 |107374182[0-4])$",
            ),
            "The largest record, in bytes, from 1024 to 1073741824",
        ),
        ConfigKey::MessageTimestampType => (
            Form::OneOf(&["CreateTime", "LogAppendTime"]),
            "Whose clock stamps records: the producer's or the leader's",
        ),
        ConfigKey::MinCleanableDirtyRatio => (
            Form::Pattern("^(0|1|0\\.[0-9]{1,9}|1\\.0)$"),
            "The share of records not yet compacted that starts compaction",
        ),
        ConfigKey::MinCompactionLagMs => (MILLIS, "How long a record is safe from compaction"),
        ConfigKey::MinInsyncReplicas => {
            (Form::Pattern("^[1-9][0-9]{0,3}$"), "How many replicas must be in sync for `acks=all`")
        }
        ConfigKey::RetentionBytes => (UNLIMITED, "The most bytes of each partition; -1 for no limit"),
        ConfigKey::RetentionMs => (UNLIMITED, "How long records are kept; -1 for ever"),
        ConfigKey::SegmentBytes => (
            Form::Pattern(
                "^(1638[4-9]|1639[0-9]|16[4-9][0-9]{2}|1[7-9][0-9]{3}|[2-9][0-9]{4}|[1-9][0-9]{5,8}|10[0-6][0-9]{7}\
                 |107[0-2][0-9]{6}|1073[0-6][0-9]{5}|10737[0-3][0-9]{4}|1073740[0-9]{3}|1073741[0-7][0-9]{2}\
                 |10737418[01][0-9]|107374182[0-4])$",
            ),
            "The size of a segment, in bytes, from 16384 to 1073741824",
        ),
        ConfigKey::SegmentMs => (Form::Pattern("^[1-9][0-9]{0,17}$"), "The age at which a segment is closed"),
    }
}

impl PartialSchema for ConfigMap {
    fn schema() -> RefOr<Schema> {
        let mut object = ObjectBuilder::new()
            .description(Some("A topic's configuration: Kafka's keys, and each value as its text."))
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
        for key in ConfigKey::ALL {
            let (form, description) = form(key);
            let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
            let text = match form {
                Form::OneOf(values) => text.enum_values(Some(values.iter().copied())),
                Form::Pattern(pattern) => text.pattern(Some(pattern)),
            };
            object = object.property(key.as_str(), text);
        }
        object.examples([serde_json::json!({ "retention.ms": "86400000" })]).into()
    }
}

impl ToSchema for ConfigMap {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("TopicConfig")
    }
}

/// Bytes as they are.
#[derive(Debug)]
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Binary {}

/// Records to store.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `record_json` reads it
pub struct RecordBatch {
    /// The records, in order.
    #[schema(min_items = 1, max_items = 100000)]
    records: Vec<NewRecord>,
}

/// A record to store. It has exactly one of `value`, `text`, `base64` and `tombstone`, and at most one of `key` and
/// `key_base64`.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `record_json` reads it
pub struct NewRecord {
    /// The key, as text: records of one key are in one partition, in order.
    #[schema(nullable = false, example = "match-1")]
    key: Option<String>,
    /// The key, as bytes in base64.
    #[schema(nullable = false, pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?$")]
    key_base64: Option<String>,
    /// The value, as any JSON but `null`; its text is stored as it is sent.
    #[schema(schema_with = any_json, required = false)]
    value: serde_json::Value,
    /// The value, as text.
    #[schema(nullable = false)]
    text: Option<String>,
    /// The value, as bytes in base64.
    #[schema(nullable = false, pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?$")]
    base64: Option<String>,
    /// No value, which deletes the key.
    #[schema(schema_with = only_true, required = false)]
    tombstone: bool,
    /// Headers, in order; names may repeat.
    #[schema(required = false, max_items = 100)]
    headers: Vec<RecordHeader>,
    /// The partition, where it should not be the key's.
    #[schema(nullable = false, minimum = 0)]
    partition: Option<i32>,
    /// The timestamp, Unix time in milliseconds; without it the server's.
    #[schema(nullable = false, minimum = 0)]
    timestamp_ms: Option<i64>,
    /// Queues deliver it at this time (Unix time in milliseconds) or later; stored as a header of this name.
    #[schema(nullable = false, minimum = 0)]
    deliver_at_ms: Option<i64>,
}

/// A record header: a name, and a value as text or bytes, or none.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `record_json` reads it
pub struct RecordHeader {
    /// Its name. Names that begin with `sluice-` are the server's own.
    #[schema(example = "source")]
    name: String,
    /// Its value, as text.
    #[schema(nullable = false, example = "scoreboard")]
    value: Option<String>,
    /// Its value, as bytes in base64.
    #[schema(nullable = false, pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==)?|[A-Za-z0-9+/]{3}=?)?$")]
    value_base64: Option<String>,
}

/// Any JSON value but `null`. The description is the field's.
pub fn any_json() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some("The value, as any JSON but `null`; its text is kept as it was sent."))
        .examples([serde_json::json!({ "home": 1, "away": 0 })])
        .into()
}

/// `true`, and nothing else.
pub fn only_true() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([true]))
        .description(Some("No value, which deletes the key."))
        .into()
}

/// Names of configuration keys.
pub fn config_names() -> RefOr<Schema> {
    // A pattern and no `enum`: for a list of an inlined choice openapi-generator writes Java that does not compile.
    let names = ConfigKey::ALL.map(|key| key.as_str().replace('.', "\\."));
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^({})$", names.join("|"))));
    ArrayBuilder::new()
        .description(Some("Names of configuration to put back to the default."))
        .items(name)
        .unique_items(true)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{TopicConfig, TopicDefaults};

    #[test]
    fn every_documented_choice_is_taken() {
        for key in ConfigKey::ALL {
            let mut config = TopicConfig::new(&TopicDefaults::default());
            if let (Form::OneOf(values), _) = form(key) {
                for value in values {
                    config.set(key, value).unwrap();
                }
            }
        }
    }
}

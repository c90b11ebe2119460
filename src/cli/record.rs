//! Records as JSON, between lines of text and the HTTP door.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use std::collections::BTreeMap;

/// The part of a `LogRecord` that is printed. What it holds is passed on as it came.
#[derive(Debug, Deserialize)]
pub struct LogRecord<'a> {
    /// Its topic.
    pub topic: Option<String>,
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    text: Option<String>,
    base64: Option<String>,
}

impl LogRecord<'_> {
    /// The key's bytes, if it has one.
    #[must_use]
    pub fn key(&self) -> Option<Vec<u8>> {
        decode_either(self.key.as_deref(), self.key_base64.as_deref())
    }

    /// The value's bytes; `None` for a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<Vec<u8>> {
        match self.value {
            Some(json) => Some(json.get().as_bytes().to_vec()),
            None => decode_either(self.text.as_deref(), self.base64.as_deref()),
        }
    }
}

fn decode_either(text: Option<&str>, base64: Option<&str>) -> Option<Vec<u8>> {
    match text {
        Some(text) => Some(text.as_bytes().to_vec()),
        None => base64.and_then(|text| STANDARD.decode(text).ok()),
    }
}

/// A record to send: its JSON, and its key for whoever has to keep the order of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutRecord {
    /// The key's bytes.
    pub key: Option<Vec<u8>>,
    /// The JSON object.
    pub json: String,
}

/// A record of a key and a value that are plain bytes.
#[must_use]
pub fn from_bytes(key: Option<&[u8]>, value: &[u8], partition: Option<u32>) -> OutRecord {
    let mut object = Map::new();
    if let Some(key) = key {
        put_bytes(&mut object, ("key", "key_base64"), key);
    }
    put_bytes(&mut object, ("text", "base64"), value);
    if let Some(partition) = partition {
        object.insert("partition".to_owned(), partition.into());
    }
    OutRecord { key: key.map(<[u8]>::to_vec), json: Value::Object(object).to_string() }
}

fn put_bytes(object: &mut Map<String, Value>, (text, base64): (&str, &str), bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(plain) => object.insert(text.to_owned(), plain.into()),
        Err(_) => object.insert(base64.to_owned(), STANDARD.encode(bytes).into()),
    };
}

/// A record that is JSON already, as it is written or as it was read: then what only a stored record has is left out,
/// its partition too, because the topic it goes to may have another number of them. Values keep their bytes.
///
/// # Errors
/// What is wrong with the line.
pub fn from_json(line: &[u8], partition: Option<u32>) -> Result<OutRecord, String> {
    let mut object: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(line).map_err(|e| format!("it is no JSON object: {e}"))?;
    let text = |field: Option<&Box<RawValue>>| field.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let key = decode_either(text(object.get("key")).as_deref(), text(object.get("key_base64")).as_deref());
    object.remove("topic");
    if object.remove("offset").is_some() {
        object.remove("partition");
    }
    if let Some(partition) = partition {
        let raw = RawValue::from_string(partition.to_string()).map_err(|e| e.to_string())?;
        object.insert("partition".to_owned(), raw);
    }
    Ok(OutRecord { key, json: serde_json::to_string(&object).map_err(|e| e.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_through_json() {
        for bytes in [&b"{\"a\": 1.50}"[..], b"plain", b"", &[0xff, 0, 0x80]] {
            let record = from_bytes(Some(bytes), bytes, Some(2));
            let stored = record.json.replacen('{', "{\"offset\":0,", 1);
            let read: LogRecord<'_> = serde_json::from_str(&stored).unwrap();
            assert_eq!((read.key().as_deref(), read.value().as_deref()), (Some(bytes), Some(bytes)));
            assert_eq!(read.partition, 2);
        }
    }

    #[test]
    fn a_stored_record_can_be_sent_on() {
        let line = br#"{"topic":"a","partition":7,"offset":9,"timestamp_ms":5,"key":"k","value":{"n":1.50}}"#;
        let record = from_json(line, None).unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(record.json, r#"{"key":"k","timestamp_ms":5,"value":{"n":1.50}}"#);
        assert_eq!(from_json(br#"{"partition":7,"text":"x"}"#, None).unwrap().json, r#"{"partition":7,"text":"x"}"#);
        assert!(from_json(b"[1]", None).is_err());
        let tombstone: LogRecord<'_> =
            serde_json::from_str(r#"{"partition":0,"offset":1,"key":"k","tombstone":true}"#).unwrap();
        assert_eq!(tombstone.value(), None);
    }
}

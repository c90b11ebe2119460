//! A stored record as JSON (`LogRecord`), written by hand into a buffer: one pass, no tree, no second copy.
//!
//! **Invariant**: the same record gives the same bytes on every transport, and they hold no line break, so that they
//! fit into one `data:` line of an event stream. A value that is JSON keeps its tokens; only line breaks between them
//! become spaces.

use crate::engine::RecordView;
use crate::types::{Offset, PartitionId, StoredRecord, TopicName, json::is_portable};
use std::sync::Arc;

/// Headers of the server's own begin so, and are not shown.
pub const HIDDEN_HEADERS: &[u8] = b"sluice-";

/// What names and numbers of a record take, about.
const FIXED_BYTES: usize = 128;

/// How values are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ValueEncoding {
    /// As JSON, text or base64, whichever fits first.
    #[default]
    Auto,
    /// Always as base64.
    Base64,
}

/// Writes the records of one topic. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordWriter {
    /// `{"topic":"…","partition":`
    opening: Arc<[u8]>,
    encoding: ValueEncoding,
}

impl RecordWriter {
    /// For this topic.
    #[must_use]
    pub fn new(topic: &TopicName, encoding: ValueEncoding) -> Self {
        // A topic's name needs no escapes: its characters are those of `validate_name`.
        Self { opening: format!("{{\"topic\":\"{topic}\",\"partition\":").into_bytes().into(), encoding }
    }

    /// Appends one record.
    pub fn write(&self, out: &mut Vec<u8>, partition: PartitionId, record: &StoredRecord) {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.open(out, partition, record.offset, record.timestamp_ms, value);
        self.write_payload(out, key, value, record.headers.iter().map(|h| (&h.name[..], h.value.as_deref())));
    }

    /// Appends one record from where it lies.
    pub fn write_view(&self, out: &mut Vec<u8>, partition: PartitionId, record: &RecordView<'_>) {
        self.open(out, partition, record.offset, record.timestamp_ms, record.value);
        self.write_payload(out, record.key, record.value, record.headers);
    }

    /// About how many bytes [`Self::write_view`] appends.
    #[must_use]
    pub fn about(&self, record: &RecordView<'_>) -> usize {
        self.opening.len() + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + FIXED_BYTES
    }

    fn open(&self, out: &mut Vec<u8>, partition: PartitionId, offset: Offset, timestamp_ms: i64, value: Option<&[u8]>) {
        out.reserve(self.opening.len() + value.map_or(0, <[u8]>::len) + FIXED_BYTES);
        out.extend_from_slice(&self.opening);
        write_number(out, i64::from(partition.get()));
        out.extend_from_slice(b",\"offset\":");
        write_number(out, offset.get());
        out.extend_from_slice(b",\"timestamp_ms\":");
        write_number(out, timestamp_ms);
    }

    fn write_payload<'a>(
        &self,
        out: &mut Vec<u8>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) {
        if let Some(key) = key {
            write_text_or_base64(out, b",\"key\":", b",\"key_base64\":", key);
        }
        self.write_value(out, value);
        write_headers(out, headers);
        out.push(b'}');
    }

    fn write_value(&self, out: &mut Vec<u8>, value: Option<&[u8]>) {
        let Some(value) = value else {
            out.extend_from_slice(b",\"tombstone\":true");
            return;
        };
        if self.encoding == ValueEncoding::Base64 {
            out.extend_from_slice(b",\"base64\":");
            write_base64(out, value);
        } else if is_portable(value) {
            out.extend_from_slice(b",\"value\":");
            let start = out.len();
            out.extend_from_slice(value);
            // Within strings JSON allows no bare line break, so each one lies between tokens.
            let written = &mut out[start..];
            let mut at = 0;
            while let Some(found) = memchr::memchr2(b'\n', b'\r', &written[at..]) {
                at += found;
                written[at] = b' ';
            }
        } else {
            write_text_or_base64(out, b",\"text\":", b",\"base64\":", value);
        }
    }
}

fn write_headers<'a>(out: &mut Vec<u8>, headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) {
    let mut any = false;
    for (name, value) in headers.filter(|(name, _)| !name.starts_with(HIDDEN_HEADERS)) {
        out.extend_from_slice(if any { b",{\"name\":" } else { b",\"headers\":[{\"name\":" });
        any = true;
        write_string(out, &String::from_utf8_lossy(name));
        if let Some(value) = value {
            write_text_or_base64(out, b",\"value\":", b",\"value_base64\":", value);
        }
        out.push(b'}');
    }
    if any {
        out.push(b']');
    }
}

fn write_text_or_base64(out: &mut Vec<u8>, as_text: &[u8], as_base64: &[u8], bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        out.extend_from_slice(as_text);
        write_string(out, text);
    } else {
        out.extend_from_slice(as_base64);
        write_base64(out, bytes);
    }
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    base64_simd::STANDARD.encode_append(bytes, out);
    out.push(b'"');
}

/// Appends a number.
pub fn write_number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a JSON string. Control characters are escaped, so the result holds no line break.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut plain = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            continue;
        }
        out.extend_from_slice(&bytes[plain..i]);
        plain = i + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(other >> 4)]);
                out.push(HEX[usize::from(other & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Header, LeaderEpoch, Offset};
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn record(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> StoredRecord {
        StoredRecord {
            offset: Offset::new(7),
            leader_epoch: LeaderEpoch::new(1),
            timestamp_ms: 1_700_000_000_000,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: headers
                .iter()
                .map(|(name, value)| Header {
                    name: Bytes::copy_from_slice(name.as_bytes()),
                    value: value.map(Bytes::copy_from_slice),
                })
                .collect(),
        }
    }

    fn write(record: &StoredRecord, encoding: ValueEncoding) -> String {
        let mut out = Vec::new();
        RecordWriter::new(&TopicName::new("games").unwrap(), encoding).write(&mut out, PartitionId::new(2), record);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_kind_of_value_has_its_field() {
        let of = |value: Option<&[u8]>| write(&record(None, value, &[]), ValueEncoding::Auto);
        let head = r#"{"topic":"games","partition":2,"offset":7,"timestamp_ms":1700000000000,"#;
        assert_eq!(of(Some(br#"{"a":1.10}"#)), format!(r#"{head}"value":{{"a":1.10}}}}"#));
        assert_eq!(of(Some(b"{\r\n \"a\\n\":1\n}")), format!(r#"{head}"value":{{   "a\n":1 }}}}"#));
        assert_eq!(of(Some(b"null")), format!(r#"{head}"text":"null"}}"#));
        assert_eq!(of(Some(b"")), format!(r#"{head}"text":""}}"#));
        assert_eq!(of(Some(b"a\"\n\x01")), format!("{head}\"text\":\"a\\\"\\n\\u0001\"}}"));
        assert_eq!(of(Some(b"\xff\xfe")), format!(r#"{head}"base64":"//4="}}"#));
        assert_eq!(of(None), format!(r#"{head}"tombstone":true}}"#));
        assert_eq!(write(&record(None, Some(b"1"), &[]), ValueEncoding::Base64), format!(r#"{head}"base64":"MQ=="}}"#));
    }

    #[test]
    fn keys_and_headers() {
        let shown = record(
            Some(b"\xff"),
            Some(b"1"),
            &[("a", Some(b"x")), ("sluice-idempotency", Some(b"?")), ("b", None), ("c", Some(b"\xff"))],
        );
        let value: Value = serde_json::from_str(&write(&shown, ValueEncoding::Auto)).unwrap();
        assert_eq!(value["key_base64"], "/w==");
        assert_eq!(
            value["headers"],
            json!([{"name": "a", "value": "x"}, {"name": "b"}, {"name": "c", "value_base64": "/w=="}])
        );
        let hidden = write(&record(Some(b"k"), None, &[("sluice-x", None)]), ValueEncoding::Auto);
        assert!(!hidden.contains("headers") && hidden.contains(r#""key":"k""#), "{hidden}");
    }

    proptest! {
        /// Whatever is stored, the record is one line of JSON that gives the bytes back.
        #[test]
        fn any_bytes_come_back(key in any::<Option<Vec<u8>>>(), value in any::<Option<Vec<u8>>>(), text in any::<String>(), use_text in any::<bool>()) {
            let stored = if use_text { Some(text.into_bytes()) } else { value };
            let line = write(&record(key.as_deref(), stored.as_deref(), &[]), ValueEncoding::Auto);
            prop_assert!(!line.contains(['\n', '\r']));
            let back: Value = serde_json::from_str(&line).unwrap();
            let fields = ["value", "text", "base64", "tombstone"].iter().filter(|f| back.get(f).is_some()).count();
            prop_assert_eq!(fields, 1);
            match stored {
                None => prop_assert_eq!(&back["tombstone"], &json!(true)),
                Some(bytes) => {
                    let given = if let Some(text) = back.get("text") {
                        text.as_str().unwrap().as_bytes().to_vec()
                    } else if let Some(base64) = back.get("base64") {
                        base64_simd::STANDARD.decode_to_vec(base64.as_str().unwrap()).unwrap()
                    } else {
                        prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), back["value"].clone());
                        bytes.clone()
                    };
                    prop_assert_eq!(given, bytes);
                }
            }
        }
    }
}

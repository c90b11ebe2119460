//! Frames of the multiplexing socket: what a client's says, and the text of the server's.
//!
//! **Invariant**: what a frame stores is kept as it was sent; its members are read once, and one that is given twice, or
//! that its kind does not have, is refused.

use crate::{
    engine::ProducedRecord,
    http::{
        extract::{broken_json, parse_json},
        problem::Problem,
    },
    session::{Budget, Frames, Subscription, WS_OPENING, json::write_string, text_header, text_payload},
    types::{TopicName, json::Scanner},
};
use bytes::Bytes;
use serde::Deserialize;

/// Characters of an `id`.
const MAX_ID: usize = 128;

/// Credit in a frame.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credit {
    #[serde(default)]
    pub(super) records: u64,
    /// Without it bytes are not counted.
    bytes: Option<u64>,
}

impl From<Credit> for Budget {
    fn from(credit: Credit) -> Self {
        Self { records: credit.records, bytes: credit.bytes.unwrap_or(u64::MAX) }
    }
}

pub(super) fn produced_text(id: &str, record: ProducedRecord) -> String {
    let mut out = b"{\"type\":\"produced\",\"id\":".to_vec();
    write_string(&mut out, id);
    let (partition, offset, timestamp_ms) = (record.partition, record.offset, record.timestamp_ms);
    let rest = format!(r#","partition":{partition},"offset":{offset},"timestamp_ms":{timestamp_ms}}}"#);
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).unwrap_or_default()
}

pub(super) fn subscribed_text(id: &str, subscription: &mut Subscription) -> String {
    let mut out = b"{\"type\":\"subscribed\",\"id\":".to_vec();
    write_string(&mut out, id);
    out.extend_from_slice(b",\"topic\":");
    write_string(&mut out, subscription.topic().name.as_str());
    if let Some(cursor) = subscription.cursor() {
        out.extend_from_slice(b",\"cursor\":");
        write_string(&mut out, &cursor);
    }
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

/// The shared frames with the subscription's id in each, as one piece; and how many they are.
pub(super) fn named_frames(id: &str, chunks: &[Frames]) -> (Bytes, usize) {
    let mut name = b",\"id\":".to_vec();
    write_string(&mut name, id);
    let count = chunks.iter().map(Frames::count).sum();
    let bytes: usize = chunks.iter().map(|c| c.bytes.len()).sum();
    let mut out = Vec::with_capacity(bytes + count * (name.len() + 8));
    for frame in chunks.iter().flat_map(Frames::iter) {
        let payload = text_payload(&frame);
        text_header(&mut out, payload.len() + name.len());
        out.extend_from_slice(WS_OPENING);
        out.extend_from_slice(&name);
        out.extend_from_slice(&payload[WS_OPENING.len()..]);
    }
    (out.into(), count)
}

/// A client's frame: the members that all kinds share, and the text of the others as it was sent.
pub(super) struct Envelope {
    pub(super) kind: String,
    pub(super) id: Option<String>,
    topic: Option<String>,
    pub(super) idempotency_key: Option<String>,
    credit: Option<String>,
    /// `"name":value` of each other member.
    others: Vec<String>,
}

impl Envelope {
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        let broken = |error| broken_json(error, text);
        let mut scanner = Scanner::new(text);
        let mut envelope = Self {
            kind: String::new(),
            id: None,
            topic: None,
            idempotency_key: None,
            credit: None,
            others: Vec::new(),
        };
        let mut kind = None;
        scanner.expect(b'{', "a frame is an object with a 'type'").map_err(broken)?;
        if !scanner.take(b'}') {
            loop {
                let name = scanner.name().map_err(broken)?;
                let (_, value) = scanner.value().map_err(broken)?;
                let text = |value: &str| {
                    let parsed = serde_json::from_str::<String>(value);
                    parsed.map(Some).map_err(|_| Problem::invalid_request(format!("'{name}' is a text")))
                };
                let member = match name {
                    "type" => &mut kind,
                    "id" => &mut envelope.id,
                    "topic" => &mut envelope.topic,
                    "idempotency_key" => &mut envelope.idempotency_key,
                    "credit" => &mut envelope.credit,
                    _ => {
                        envelope.others.push(format!("\"{name}\":{value}"));
                        if !scanner.take(b',') {
                            break;
                        }
                        continue;
                    }
                };
                if member.is_some() {
                    return Err(Problem::invalid_request(format!("the field '{name}' is given twice")));
                }
                *member = if name == "credit" { Some(value.to_owned()) } else { text(value)? };
                if !scanner.take(b',') {
                    break;
                }
            }
            scanner.expect(b'}', "a comma or } was expected here").map_err(broken)?;
        }
        scanner.end().map_err(broken)?;
        envelope.kind = kind.ok_or_else(|| Problem::invalid_request("the frame has no 'type'"))?;
        if envelope.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID) {
            return Err(Problem::invalid_request(format!("an id has 1 to {MAX_ID} bytes")));
        }
        Ok(envelope)
    }

    pub(super) fn need_id(&self) -> Result<String, Problem> {
        let missing = || Problem::invalid_request(format!("a {} frame needs an 'id'", self.kind));
        self.id.clone().ok_or_else(missing)
    }

    pub(super) fn topic(&self) -> Result<TopicName, Problem> {
        let missing = || Problem::invalid_request(format!("a {} frame needs a 'topic'", self.kind));
        Ok(TopicName::new(self.topic.as_deref().ok_or_else(missing)?)?)
    }

    pub(super) fn credit(&self) -> Result<Credit, Problem> {
        self.credit.as_ref().map_or(Ok(Credit::default()), |text| parse_json(text.as_bytes()))
    }

    /// The other members as an object of their own.
    pub(super) fn rest(&self) -> String {
        format!("{{{}}}", self.others.join(","))
    }

    pub(super) fn nothing_else(&self) -> Result<(), Problem> {
        match self.others.first() {
            None => Ok(()),
            Some(other) => Err(Problem::invalid_request(format!("a {} frame has no member {other}", self.kind))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http::websocket::Close, session::Format};

    #[test]
    fn frames_are_read_strictly() {
        let envelope =
            Envelope::read(r#"{"type":"produce","id":"1","topic":"t","value":{"a": 1.10},"key":"k"}"#).unwrap();
        assert_eq!((envelope.kind.as_str(), envelope.id.as_deref()), ("produce", Some("1")));
        assert_eq!(envelope.rest(), r#"{"value":{"a": 1.10},"key":"k"}"#);
        for bad in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"a","type":"b"}"#,
            r#"{"type":"a"} x"#,
            r#"{"type":"a","id":""}"#,
            r#"{"type":"a","id":null}"#,
        ] {
            assert!(Envelope::read(bad).is_err(), "{bad}");
        }
        let envelope = Envelope::read(r#"{"type":"credit","id":"1","credit":{"records":5}}"#).unwrap();
        assert_eq!(Budget::from(envelope.credit().unwrap()), Budget { records: 5, bytes: u64::MAX });
        assert!(Envelope::read(r#"{"type":"credit","credit":{"record":5}}"#).unwrap().credit().is_err());
    }

    /// Every type that the code reads or writes is described, and nothing else.
    #[test]
    fn the_protocols_document_names_every_frame() {
        let document = include_str!("../../../openapi/asyncapi.yaml");
        let described: Vec<_> = document.lines().filter_map(|l| l.trim().strip_prefix("type: {const: ")).collect();
        let mut described: Vec<_> = described.iter().map(|t| t.trim_end_matches('}')).collect();
        described.sort_unstable();
        let all = [
            "auth",
            "caught-up",
            "credit",
            "end",
            "error",
            "gap",
            "goaway",
            "message",
            "produce",
            "produced",
            "receive",
            "record",
            "settle",
            "settled",
            "snapshot-end",
            "subscribe",
            "subscribed",
            "unsubscribe",
        ];
        assert_eq!(described, all);
        let closes = [Close::GoingAway, Close::TooSlow, Close::Retry, Close::Complete, Close::TopicDeleted];
        for close in closes.into_iter().chain([Close::Refused, Close::TooLarge, Close::Protocol]) {
            assert!(document.contains(&(close as u16).to_string()), "{close:?}");
        }
    }

    #[test]
    fn shared_frames_get_a_name() {
        let mut buffer = crate::session::FrameBuffer::default();
        buffer.push(Format::WebSocket, Some(b"c"), b"{\"offset\":1}");
        buffer.push(Format::WebSocket, None, &b"1".repeat(200));
        let (bytes, count) = named_frames("s\"1", &[buffer.take()]);
        assert_eq!(count, 2);
        let first = usize::from(bytes[1]) + 2;
        let text = std::str::from_utf8(text_payload(&bytes[..first])).unwrap();
        assert_eq!(text, r#"{"type":"record","id":"s\"1","cursor":"c","record":{"offset":1}}"#);
        let second: serde_json::Value = serde_json::from_slice(text_payload(&bytes[first..])).unwrap_or_default();
        assert_eq!(second["id"], "s\"1");
    }
}

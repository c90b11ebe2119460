//! Records as JSON, on the way in: the `records` batch, a line of `ingest`, a `produce` frame of the WebSocket.
//!
//! **Invariant**: the bytes of a `value` are those of the request, not parsed and not written anew; keys, values and
//! headers are slices of the body wherever its escapes allow it.

use super::{
    extract::{broken_json, nearest},
    problem::Problem,
};
use crate::{
    engine::RecordToProduce,
    types::{
        Header, PartitionId, Record,
        json::{JsonError, Kind, Scanner, unescape},
    },
};
use axum::http::StatusCode;
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use std::borrow::Cow;

/// Standard base64, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The fields of a record on the way in.
pub const FIELDS: [&str; 10] = [
    "key",
    "key_base64",
    "value",
    "text",
    "base64",
    "tombstone",
    "headers",
    "partition",
    "timestamp_ms",
    "deliver_at_ms",
];
const HEADER_FIELDS: [&str; 3] = ["name", "value", "value_base64"];

/// Bounds of one record.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    /// Bytes of the value.
    pub value_bytes: usize,
    /// Headers.
    pub headers: usize,
}

/// Why a record's JSON is refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The document can not be understood: 400, and there is no telling what else it says.
    Malformed(Problem),
    /// The document is understood, and this record in it can not be stored.
    Invalid(Problem),
}

/// Reads a batch, `{"records":[…]}`. Each record is good or has its own problem.
///
/// # Errors
/// 400 if the document can not be understood, or holds no record or more than `most`.
pub fn parse_batch(
    body: &Bytes,
    limits: RecordLimits,
    most: usize,
) -> Result<Vec<Result<RecordToProduce, Problem>>, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| super::extract::invalid_json("the body is no UTF-8"))?;
    let broken = |e| broken_json(e, text);
    let mut scanner = Scanner::new(text);
    let mut records = None;
    scanner.expect(b'{', "an object with the field 'records' was expected here").map_err(broken)?;
    if !scanner.take(b'}') {
        loop {
            let name = unescape(scanner.name().map_err(broken)?);
            if name != "records" {
                return Err(unknown_field(&name, &["records"], "the body"));
            }
            if records.is_some() {
                return Err(Problem::invalid_request("the field 'records' is given twice"));
            }
            records = Some(parse_records(&mut scanner, body, text, limits, most)?);
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b'}', "a comma or } was expected here").map_err(broken)?;
    }
    scanner.end().map_err(broken)?;
    records.ok_or_else(|| Problem::invalid_request("the field 'records' is missing: send {\"records\":[…]}"))
}

fn parse_records<'a>(
    scanner: &mut Scanner<'a>,
    body: &Bytes,
    text: &'a str,
    limits: RecordLimits,
    most: usize,
) -> Result<Vec<Result<RecordToProduce, Problem>>, Problem> {
    let broken = |e| broken_json(e, text);
    scanner.expect(b'[', "an array of records was expected here").map_err(broken)?;
    let mut records = Vec::new();
    if scanner.take(b']') {
        return Err(Problem::invalid_request("'records' is empty: send at least one record"));
    }
    loop {
        if records.len() == most {
            return Err(Problem::too_large(format!("'records' holds more than {most} records")));
        }
        let record = RecordReader { scanner, body, text, limits, index: Some(records.len()) }.read();
        records.push(match record {
            Ok(record) => Ok(record),
            Err(Refusal::Invalid(problem)) => Err(problem),
            Err(Refusal::Malformed(problem)) => return Err(problem),
        });
        if !scanner.take(b',') {
            break;
        }
    }
    scanner.expect(b']', "a comma or ] was expected here").map_err(broken)?;
    Ok(records)
}

/// Reads one record that is a JSON text of its own.
///
/// # Errors
/// Whatever is wrong with it.
pub fn parse_record(text: &Bytes, limits: RecordLimits) -> Result<RecordToProduce, Refusal> {
    let malformed = |e, t| Refusal::Malformed(broken_json(e, t));
    let body = text;
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Refusal::Malformed(super::extract::invalid_json("the record is no UTF-8")));
    };
    let mut scanner = Scanner::new(text);
    let record = RecordReader { scanner: &mut scanner, body, text, limits, index: None }.read()?;
    scanner.end().map_err(|e| malformed(e, text))?;
    Ok(record)
}

/// Reads one record of a document.
struct RecordReader<'r, 'a> {
    scanner: &'r mut Scanner<'a>,
    body: &'r Bytes,
    text: &'a str,
    limits: RecordLimits,
    index: Option<usize>,
}

/// Which fields came.
#[derive(Default)]
struct Seen {
    fields: u16,
    values: u8,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
    partition: Option<PartitionId>,
    timestamp_ms: Option<i64>,
    deliver_at_ms: Option<i64>,
    invalid: Option<Problem>,
}

impl Seen {
    /// Keeps the first thing that is wrong; the rest of the record is still read.
    fn refuse(&mut self, problem: Problem) {
        self.invalid.get_or_insert(problem);
    }
}

impl<'a> RecordReader<'_, 'a> {
    fn read(mut self) -> Result<RecordToProduce, Refusal> {
        let mut seen = Seen::default();
        self.open("a record is an object, such as {\"value\":…}")?;
        if !self.scanner.take(b'}') {
            loop {
                let name = self.name()?;
                self.field(&name, &mut seen)?;
                if !self.scanner.take(b',') {
                    break;
                }
            }
            self.scanner.expect(b'}', "a comma or } was expected here").map_err(|e| self.broken(e))?;
        }
        if seen.values != 1 {
            let what = if seen.values == 0 { "none" } else { "more than one" };
            seen.refuse(self.invalid(format!(
                "a record has exactly one of value, text, base64 and \"tombstone\":true; this has {what}"
            )));
        }
        if seen.fields & 0b11 == 0b11 {
            seen.refuse(self.invalid("a record has key or key_base64, not both"));
        }
        if let Some(bytes) = seen.value.as_ref().map(Bytes::len).filter(|n| *n > self.limits.value_bytes) {
            seen.refuse(value_too_large(bytes, self.limits.value_bytes));
        }
        if let Some(at) = seen.deliver_at_ms {
            // Queues read it there.
            let value = Some(Bytes::from(at.to_string()));
            seen.headers.push(Header { name: Bytes::from_static(b"deliver_at_ms"), value });
        }
        match seen.invalid {
            Some(problem) => Err(Refusal::Invalid(problem)),
            None => Ok(RecordToProduce {
                record: Record {
                    timestamp_ms: seen.timestamp_ms,
                    key: seen.key,
                    value: seen.value,
                    headers: seen.headers,
                },
                partition: seen.partition,
            }),
        }
    }

    fn field(&mut self, name: &str, seen: &mut Seen) -> Result<(), Refusal> {
        let Some(number) = FIELDS.iter().position(|field| *field == name) else {
            return Err(Refusal::Malformed(unknown_field(name, &FIELDS, &self.place())));
        };
        self.once(&mut seen.fields, number, name)?;
        self.not_null(name)?;
        seen.values += u8::from(matches!(name, "value" | "text" | "base64" | "tombstone"));
        match name {
            "key" => seen.key = Some(self.string(name)?),
            "key_base64" => seen.key = self.base64(name, seen)?,
            "text" => seen.value = Some(self.string(name)?),
            "base64" => seen.value = self.base64(name, seen)?,
            "value" => {
                let (_, value) = self.scanner.value().map_err(|e| self.broken(e))?;
                seen.value = Some(self.slice(value));
            }
            "tombstone" => match self.scanner.value().map_err(|e| self.broken(e))? {
                (Kind::True, _) => {}
                (Kind::False, _) => seen.refuse(self.invalid("tombstone is true or left out")),
                _ => return Err(Refusal::Malformed(Problem::invalid_request("tombstone is true or left out"))),
            },
            "headers" => self.headers(seen)?,
            "partition" => match self.integer(name)? {
                Some(n) if (0..=i64::from(i32::MAX)).contains(&n) => seen.partition = Some(PartitionId::new(n as i32)),
                _ => {
                    let detail = "partition is a whole number from 0, below the topic's number of partitions";
                    seen.refuse(Problem::new(
                        StatusCode::NOT_FOUND,
                        "unknown-partition",
                        "There is no such partition",
                        detail,
                    ));
                }
            },
            "deliver_at_ms" => match self.integer(name)? {
                Some(n) if n >= 0 => seen.deliver_at_ms = Some(n),
                _ => seen.refuse(self.invalid("deliver_at_ms is Unix time in milliseconds: a whole number, 0 or more")),
            },
            _ => match self.integer(name)? {
                Some(n) if n >= 0 => seen.timestamp_ms = Some(n),
                _ => seen.refuse(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "invalid-timestamp",
                    "The timestamp does not fit",
                    "timestamp_ms is Unix time in milliseconds: a whole number, 0 or more",
                )),
            },
        }
        Ok(())
    }

    fn headers(&mut self, seen: &mut Seen) -> Result<(), Refusal> {
        self.scanner.peek();
        let expected = "'headers' is an array of {\"name\":…,\"value\":…}";
        self.scanner.expect(b'[', expected).map_err(|e| self.wrong_type(e))?;
        if self.scanner.take(b']') {
            return Ok(());
        }
        loop {
            let header = self.header(seen)?;
            if seen.headers.len() < self.limits.headers {
                seen.headers.push(header);
            } else {
                let detail = format!("a record has at most {} headers", self.limits.headers);
                seen.refuse(self.invalid(detail));
            }
            if !self.scanner.take(b',') {
                return self.scanner.expect(b']', "a comma or ] was expected here").map_err(|e| self.broken(e));
            }
        }
    }

    fn header(&mut self, seen: &mut Seen) -> Result<Header, Refusal> {
        self.open("a header is an object, such as {\"name\":\"a\",\"value\":\"b\"}")?;
        let mut fields = 0;
        let (mut name, mut value) = (None, None);
        if !self.scanner.take(b'}') {
            loop {
                let field = self.name()?;
                let Some(number) = HEADER_FIELDS.iter().position(|known| *known == field) else {
                    let place = format!("a header of {}", self.place());
                    return Err(Refusal::Malformed(unknown_field(&field, &HEADER_FIELDS, &place)));
                };
                self.once(&mut fields, number, &field)?;
                self.not_null(&field)?;
                match number {
                    0 => name = Some(self.string(&field)?),
                    1 => value = Some(self.string(&field)?),
                    _ => value = self.base64(&field, seen)?,
                }
                if !self.scanner.take(b',') {
                    break;
                }
            }
            self.scanner.expect(b'}', "a comma or } was expected here").map_err(|e| self.broken(e))?;
        }
        if fields & 0b110 == 0b110 {
            seen.refuse(self.invalid("a header has value or value_base64, not both"));
        }
        let Some(name) = name else {
            return Err(Refusal::Malformed(Problem::invalid_request(format!(
                "a header of {} has no name",
                self.place()
            ))));
        };
        if let Some(problem) = reserved(&name) {
            seen.refuse(problem);
        }
        Ok(Header { name, value })
    }

    fn open(&mut self, expected: &'static str) -> Result<(), Refusal> {
        self.not_null("a record")?;
        self.scanner.expect(b'{', expected).map_err(|e| self.wrong_type(e))
    }

    fn name(&mut self) -> Result<Cow<'a, str>, Refusal> {
        self.scanner.name().map(unescape).map_err(|e| self.broken(e))
    }

    fn once(&self, fields: &mut u16, number: usize, name: &str) -> Result<(), Refusal> {
        if *fields & 1 << number != 0 {
            let detail = format!("the field '{name}' is given twice in {}", self.place());
            return Err(Refusal::Malformed(Problem::invalid_request(detail)));
        }
        *fields |= 1 << number;
        Ok(())
    }

    /// `null` is never allowed; `name` decides what to write instead.
    fn not_null(&mut self, name: &str) -> Result<(), Refusal> {
        if self.scanner.peek() != Some(b'n') || !matches!(self.scanner.clone().value(), Ok((Kind::Null, _))) {
            return Ok(());
        }
        let instead = match name {
            "value" | "text" | "base64" => {
                "write \"tombstone\":true to delete the key, or \"text\":\"null\" for the text"
            }
            "a record" => "leave it out instead",
            _ => "leave the field out instead",
        };
        let detail = format!("null is not allowed, and {name} is null in {}: {instead}", self.place());
        Err(Refusal::Malformed(Problem::invalid_request(detail)))
    }

    fn string(&mut self, name: &str) -> Result<Bytes, Refusal> {
        if self.scanner.peek() != Some(b'"') {
            return Err(self.wrong_kind(name, "a string"));
        }
        let raw = self.scanner.string().map_err(|e| self.broken(e))?;
        Ok(match unescape(raw) {
            Cow::Borrowed(plain) => self.slice(plain),
            Cow::Owned(plain) => plain.into(),
        })
    }

    fn base64(&mut self, name: &str, seen: &mut Seen) -> Result<Option<Bytes>, Refusal> {
        let text = self.string(name)?;
        match BASE64.decode(&text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => {
                seen.refuse(self.invalid(format!("{name} is no base64 (RFC 4648, section 4): {error}")));
                Ok(None)
            }
        }
    }

    /// `None` for a number that is no whole one, or too large.
    fn integer(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        if !matches!(self.scanner.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(self.wrong_kind(name, "a number"));
        }
        let (_, text) = self.scanner.value().map_err(|e| self.broken(e))?;
        Ok(integer_of(text))
    }

    fn wrong_kind(&mut self, name: &str, expected: &str) -> Refusal {
        match self.scanner.value() {
            Ok(_) => {
                let detail = format!("'{name}' in {} is {expected}", self.place());
                Refusal::Malformed(Problem::invalid_request(detail))
            }
            Err(error) => self.broken(error),
        }
    }

    fn wrong_type(&mut self, expected: JsonError) -> Refusal {
        match self.scanner.value() {
            Ok(_) => Refusal::Malformed(Problem::invalid_request(format!("{expected}; see {}", self.place()))),
            Err(error) => self.broken(error),
        }
    }

    fn slice(&self, part: &str) -> Bytes {
        self.body.slice_ref(part.as_bytes())
    }

    fn broken(&self, error: JsonError) -> Refusal {
        Refusal::Malformed(broken_json(error, self.text))
    }

    fn invalid(&self, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-record", "The record does not fit", detail)
    }

    fn place(&self) -> String {
        self.index.map_or_else(|| "the record".to_owned(), |n| format!("records[{n}]"))
    }
}

/// JSON has one kind of number: `1`, `1.0` and `1e0` are the same whole number.
fn integer_of(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
    })
}

fn unknown_field(name: &str, known: &[&str], place: &str) -> Problem {
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("the fields are {}", known.join(", ")),
    };
    Problem::invalid_request(format!("unknown field '{name}' in {place}; {hint}"))
}

/// The refusal of a value over the limit.
#[must_use]
pub fn value_too_large(bytes: usize, limit: usize) -> Problem {
    let detail = format!("the value has {bytes} bytes; at most {limit} are taken");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "The record is too large", detail)
}

/// Record headers that begin with `sluice-` are the server's own: a client's would pass for an Idempotency-Key's mark.
#[must_use]
pub fn reserved(name: &[u8]) -> Option<Problem> {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"sluice-")).then(|| {
        let detail = "record headers that begin with 'sluice-' are the server's own; use another name";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "reserved-header", "The header's name is reserved", detail)
    })
}

#[cfg(test)]
mod tests;

//! What handlers take from a request, strictly: names by Kafka's rule, parameters that are known and given once, JSON
//! without `null`, repeated members or guesses.
//!
//! **Invariant**: whatever is refused is refused as a [`Problem`] that says what to write instead.

use super::{AppState, body, problem::Problem, query};
use crate::types::{
    PartitionId, TopicName,
    json::{JsonError, Kind, MAX_DEPTH, Scanner, unescape},
    validate_name,
};
use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::{self, DeserializeOwned, Deserializer};
use std::{fmt, ops::RangeInclusive};

/// The `{topic}` of the path.
#[derive(Debug, Clone)]
pub struct TopicPath(pub TopicName);

impl FromRequestParts<AppState> for TopicPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let path = PathPart::of(parts, state, "topic").await?;
        TopicName::new(&path.0).map(Self).map_err(|e| Problem::invalid_name(format!("topic: {e}")))
    }
}

/// The `{queue}` of the path.
#[derive(Debug, Clone)]
pub struct QueuePath(pub String);

impl FromRequestParts<AppState> for QueuePath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let PathPart(name) = PathPart::of(parts, state, "queue").await?;
        validate_name(&name).map_err(|e| Problem::invalid_name(format!("queue: {e}")))?;
        Ok(Self(name))
    }
}

/// The `{topic}`, `{partition}` and `{offset}` of a record's permalink.
#[derive(Debug, Clone)]
pub struct RecordPath {
    /// The topic.
    pub topic: TopicName,
    /// Its partition.
    pub partition: PartitionId,
    /// The offset, 0 or more.
    pub offset: i64,
}

impl FromRequestParts<AppState> for RecordPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let TopicPath(topic) = TopicPath::from_request_parts(parts, state).await?;
        let number = |name: &str, text: &str, most: i64| {
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            text.parse::<i64>().ok().filter(|n| digits && *n <= most).ok_or_else(|| {
                Problem::invalid_request(format!("{name}: '{text}' is no whole number from 0 to {most}"))
            })
        };
        let partition = PathPart::of(parts, state, "partition").await?;
        let partition = number("partition", &partition.0, i64::from(i32::MAX))?;
        let offset = PathPart::of(parts, state, "offset").await?;
        let offset = number("offset", &offset.0, i64::MAX)?;
        Ok(Self { topic, partition: PartitionId::new(partition as i32), offset })
    }
}

/// The `{group}` of the path.
#[derive(Debug, Clone)]
pub struct GroupPath(pub String);

impl FromRequestParts<AppState> for GroupPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        named(parts, state, "group").await.map(Self)
    }
}

/// The `{group}` and the `{member}` of the path.
#[derive(Debug, Clone)]
pub struct GroupMemberPath {
    /// The group.
    pub group: String,
    /// The member's own name.
    pub member: String,
}

impl FromRequestParts<AppState> for GroupMemberPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        Ok(Self { group: named(parts, state, "group").await?, member: named(parts, state, "member").await? })
    }
}

/// A part of the path that keeps Kafka's rule for names.
async fn named(parts: &mut Parts, state: &AppState, part: &str) -> Result<String, Problem> {
    let PathPart(name) = PathPart::of(parts, state, part).await?;
    validate_name(&name).map_err(|e| Problem::invalid_name(format!("{part}: {e}")))?;
    Ok(name)
}

/// One part of the path, percent-decoded.
struct PathPart(String);

impl PathPart {
    async fn of(parts: &mut Parts, state: &AppState, name: &str) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid_request("the path is no UTF-8 after percent-decoding"))?;
        let value = params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
        value.map(Self).ok_or_else(|| Problem::internal("a route lacks a part that its handler takes"))
    }
}

/// The query's parameters: unknown and repeated ones are refused, as is what is no UTF-8. `T` must carry
/// `#[serde(deny_unknown_fields)]`.
#[derive(Debug, Clone)]
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query::parse(parts.uri.query().unwrap_or("")).map(Self)
    }
}

/// A JSON body of at most `Limits::request_bytes`, and nothing in the query. `T` must carry
/// `#[serde(deny_unknown_fields)]`.
#[derive(Debug, Clone)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (parts, incoming) = request.into_parts();
        Self::read(&parts, incoming, state).await
    }
}

impl<T: DeserializeOwned> JsonBody<T> {
    /// The same of a request whose head and body are apart.
    ///
    /// # Errors
    /// [`Problem`]: a parameter, no JSON, or none that can be taken.
    pub async fn read(parts: &Parts, incoming: Body, state: &AppState) -> Result<Self, Problem> {
        if let Some(name) = parts.uri.query().and_then(|query| query.split(['=', '&']).next()).filter(|n| !n.is_empty())
        {
            let detail = format!("unknown parameter '{name}'; what can be said here is said in the JSON body");
            return Err(Problem::invalid_request(detail));
        }
        require_json(&parts.headers)?;
        let bytes = body::read(&parts.headers, incoming, state.limits(), state.limits().request_bytes).await?;
        parse_json(&bytes).map(Self)
    }
}

/// The body must be called JSON, or not be called anything.
///
/// # Errors
/// 415.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = given.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = format!("this takes JSON: send the header 'content-type: application/json' instead of '{text}'");
    Err(Problem::unsupported_media_type(detail))
}

/// Reads a JSON document strictly.
///
/// # Errors
/// 400 with the place and what to write instead.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid_json("the body is no UTF-8"))?;
    if text.trim_ascii().is_empty() {
        return Err(invalid_json("there is no body; send a JSON object, {} if there is nothing to say"));
    }
    check_document(text)?;
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let (what, place) = message.rsplit_once(" at line ").unwrap_or((&message, ""));
        let what = match unknown_field(what) {
            Some(known) => known.refusal("field"),
            None => field_of::<T>(text).map_or_else(|| what.to_owned(), |field| format!("{field}: {what}")),
        };
        let place = if place.is_empty() { String::new() } else { format!(" (line {place})") };
        Problem::invalid_request(format!("{what}{place}"))
    })
}

/// Where in a document lies what is no `T`, as in `nack[0].delay_ms`. Only for a refusal: it reads the document again.
fn field_of<T: DeserializeOwned>(text: &str) -> Option<String> {
    let refused = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)).err()?;
    let path = refused.path().to_string();
    (path != ".").then_some(path)
}

/// A number of a request that may be left out.
///
/// # Errors
/// 400 with what is allowed.
pub fn within(name: &str, given: Option<i64>, default: i64, allowed: RangeInclusive<i64>) -> Result<i64, Problem> {
    let n = given.unwrap_or(default);
    if allowed.contains(&n) {
        return Ok(n);
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(Problem::invalid_request(format!("{name} is a whole number from {least} to {most}, not {n}")))
}

/// 400 `invalid-json`.
#[must_use]
pub fn invalid_json(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(axum::http::StatusCode::BAD_REQUEST, "invalid-json", "The body is no JSON that can be taken", detail)
}

/// 400 `invalid-json` with the place.
#[must_use]
pub fn broken_json(error: JsonError, text: &str) -> Problem {
    let (line, column) = error.line_and_column(text);
    invalid_json(format!("{error} (line {line}, column {column})"))
}

/// Refuses `null` and repeated members at any depth.
fn check_document(text: &str) -> Result<(), Problem> {
    let mut scanner = Scanner::new(text);
    check_value(&mut scanner, text, "the body", 0)?;
    scanner.end().map_err(|e| broken_json(e, text))
}

fn check_value(scanner: &mut Scanner<'_>, text: &str, name: &str, depth: usize) -> Result<(), Problem> {
    let broken = |e| broken_json(e, text);
    if depth > MAX_DEPTH {
        return Err(broken(scanner.error("the JSON is nested more than 128 deep")));
    }
    match scanner.peek() {
        Some(b'{') => {
            scanner.take(b'{');
            let mut seen: Vec<&str> = Vec::new();
            if scanner.take(b'}') {
                return Ok(());
            }
            loop {
                let member = scanner.name().map_err(broken)?;
                let plain = unescape(member);
                if seen.iter().any(|s| unescape(s) == plain) {
                    return Err(Problem::invalid_request(format!("the field '{plain}' is given twice in {name}")));
                }
                if seen.len() == MAX_MEMBERS {
                    return Err(Problem::invalid_request(format!("{name} has more than {MAX_MEMBERS} fields")));
                }
                seen.push(member);
                check_value(scanner, text, &format!("'{plain}'"), depth + 1)?;
                if !scanner.take(b',') {
                    return scanner.expect(b'}', "a comma or } was expected here").map_err(broken);
                }
            }
        }
        Some(b'[') => {
            scanner.take(b'[');
            if scanner.take(b']') {
                return Ok(());
            }
            loop {
                check_value(scanner, text, name, depth + 1)?;
                if !scanner.take(b',') {
                    return scanner.expect(b']', "a comma or ] was expected here").map_err(broken);
                }
            }
        }
        _ => match scanner.value().map_err(broken)? {
            (Kind::Null, _) => Err(Problem::invalid_request(format!(
                "null is not allowed, and {name} is null: leave the field out instead"
            ))),
            _ => Ok(()),
        },
    }
}

/// Most members of one object in a request that is not about records.
const MAX_MEMBERS: usize = 256;

/// What serde says of a field that it does not know.
pub(super) struct UnknownField<'a> {
    given: &'a str,
    known: Vec<&'a str>,
}

/// Reads serde's "unknown field `a`, expected one of `b`, `c`", which is the one form in which it gives the names.
pub(super) fn unknown_field(message: &str) -> Option<UnknownField<'_>> {
    let mut ticks = message.split_once("unknown field ")?.1.split('`').skip(1).step_by(2);
    Some(UnknownField { given: ticks.next()?, known: ticks.collect() })
}

impl UnknownField<'_> {
    pub(super) fn refusal(&self, what: &str) -> String {
        let Self { given, known } = self;
        match nearest(given, known) {
            Some(near) => format!("unknown {what} '{given}'; did you mean '{near}'?"),
            None if known.is_empty() => format!("unknown {what} '{given}'; this takes none"),
            None => format!("unknown {what} '{given}'; this takes {}", known.join(", ")),
        }
    }
}

/// The known name that is at most about a third of its letters away.
#[must_use]
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    if given.len() > 64 {
        return None;
    }
    let ranked = known.iter().map(|name| (edits(given.as_bytes(), name.as_bytes()), *name)).min()?;
    (ranked.0 <= ranked.1.len().div_ceil(3)).then_some(ranked.1)
}

/// Levenshtein's distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A whole number in a JSON body. JSON has one kind of number, and JSON Schema calls `3.0` an integer too.
///
/// # Errors
/// Not whole, or out of the type's range.
pub fn whole<'de, T: TryFrom<i64>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Whole;
    impl de::Visitor<'_> for Whole {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }

        fn visit_i64<E: de::Error>(self, n: i64) -> Result<i64, E> {
            Ok(n)
        }

        fn visit_u64<E: de::Error>(self, n: u64) -> Result<i64, E> {
            i64::try_from(n).map_err(|_| E::custom(format!("{n} is out of range")))
        }

        fn visit_f64<E: de::Error>(self, n: f64) -> Result<i64, E> {
            // Above it a float does not tell whole numbers apart.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if n.fract() == 0.0 && n.abs() <= EXACT {
                Ok(n as i64)
            } else {
                Err(E::invalid_type(de::Unexpected::Float(n), &self))
            }
        }
    }
    let n = from.deserialize_any(Whole)?;
    T::try_from(n).map_err(|_| de::Error::custom(format!("{n} is out of range")))
}

/// The same for a field that may be left out.
///
/// # Errors
/// See [`whole`].
pub fn whole_if_given<'de, T: TryFrom<i64>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    whole(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Sample {
        partitions: Option<i32>,
        name: Option<String>,
        inner: Option<Vec<Sample>>,
    }

    fn detail(bytes: &str) -> String {
        let problem = parse_json::<Sample>(bytes.as_bytes()).unwrap_err();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        problem.body().detail.clone().into_owned()
    }

    #[test]
    fn bodies_are_read_strictly() {
        assert!(parse_json::<Sample>(br#"{"partitions":3,"inner":[{"name":"a"},{"name":"b"}]}"#).is_ok());
        assert!(detail(r#"{"partitons":3}"#).contains("did you mean 'partitions'"));
        assert!(detail(r#"{"zzz":3}"#).contains("this takes partitions, name, inner"));
        assert!(detail(r#"{"partitions":null}"#).contains("'partitions' is null: leave the field out"));
        assert!(detail(r#"{"inner":[{"name":null}]}"#).contains("'name' is null"));
        assert!(detail(r#"{"name":"a","n\u0061me":"b"}"#).contains("'name' is given twice"));
        assert!(detail("{\n \"name\": }").contains("line 2, column 10"));
        assert!(detail(&"[".repeat(100_000)).contains("128 deep"));
        assert!(detail("null").contains("the body is null"));
        assert!(detail(" \n").contains("there is no body; send a JSON object"));
        assert!(detail(r#"{"partitions":"3"}"#).contains("partitions: invalid type"));
        assert!(detail(r#"{"inner":[{},{"partitions":"3"}]}"#).contains("inner[1].partitions: invalid type"));
    }

    async fn query(query: &str) -> Result<Sample, Problem> {
        let request = axum::http::Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
        Parameters::from_request_parts(&mut request.into_parts().0, &()).await.map(|Parameters(p)| p)
    }

    #[tokio::test]
    async fn queries_are_read_strictly() {
        assert_eq!(query("partitions=3&name=a%20b+c").await.unwrap().name.unwrap(), "a b c");
        for (bad, says) in [
            ("partition=3", "did you mean 'partitions'"),
            ("name=a&name=b", "'name' is given more than once"),
            ("name=a&n%61me=b", "'name' is given more than once"),
            ("name=%FF", "no UTF-8"),
            ("name=%2", "no UTF-8"),
            ("partitions=x", "partitions"),
            ("partitions=", "partitions"),
        ] {
            let problem = query(bad).await.unwrap_err();
            assert!(problem.body().detail.contains(says), "{bad}: {}", problem.body().detail);
        }
    }

    #[test]
    fn whole_numbers_in_each_of_their_forms() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Body {
            #[serde(default, deserialize_with = "whole_if_given")]
            n: Option<i16>,
        }
        let parse = |text: &str| serde_json::from_str::<Body>(text).map(|body| body.n).map_err(|e| e.to_string());
        assert_eq!(parse(r#"{"n":3}"#), Ok(Some(3)));
        assert_eq!(parse(r#"{"n":3.0}"#), Ok(Some(3)));
        assert_eq!(parse(r#"{"n":-3e2}"#), Ok(Some(-300)));
        assert_eq!(parse("{}"), Ok(None));
        for bad in [r#"{"n":3.5}"#, r#"{"n":32768}"#, r#"{"n":1e300}"#, r#"{"n":"3"}"#, r#"{"n":18446744073709551615}"#]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

//! One event whose body is the value, byte for byte.

use super::produce::{self, AcksParameter, IdempotencyKey, Target, Wanted};
use crate::{
    engine::RecordToProduce,
    http::{
        AppState, body,
        extract::{Parameters, TopicPath},
        problem::Problem,
        record_json::{reserved, value_too_large},
    },
    session::json::write_number,
    types::{Header, Record, TopicName},
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

const RECORD_KEY: HeaderName = HeaderName::from_static("record-key");
const RECORD_HEADER: &str = "record-header-";
const CLOUD_EVENTS: &str = "ce-";
/// Bytes of a receipt, or a record's path, beside the topic's name: words, and numbers of the usual lengths.
const RECEIPT_BYTES: usize = 100;
/// Room for the headers of an answer, with those that the door adds.
const ANSWER_HEADERS: usize = 8;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(publish_event))
}

/// Parameters of one event.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventParameters {
    /// The record's key; for bytes that are no text use the header `Record-Key`.
    #[param(nullable = false, example = "match-1")]
    key: Option<String>,
    /// The partition, where it should not be the key's.
    #[param(nullable = false, minimum = 0, maximum = 2147483647)]
    partition: Option<i64>,
    /// The record's timestamp, Unix time in milliseconds; without it the server's.
    #[param(nullable = false, minimum = 0)]
    timestamp_ms: Option<i64>,
    /// Deletes the key: a record without a value. The body must be empty.
    #[serde(default)]
    #[param(required = false, default = false)]
    tombstone: bool,
    /// The acknowledgement to wait for.
    #[param(inline, nullable = false, default = "all")]
    acks: Option<AcksParameter>,
    /// How long to wait for it, in milliseconds.
    #[param(nullable = false, minimum = 1, maximum = 120000, default = 30000)]
    timeout_ms: Option<u64>,
}

/// Where an event was stored.
#[derive(Debug, ToSchema)]
pub struct EventReceipt {
    /// The topic.
    #[schema(value_type = String, example = "games")]
    topic: TopicName,
    /// The partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// The record's place in the partition.
    #[schema(minimum = 0)]
    offset: i64,
    /// Its timestamp, Unix time in milliseconds.
    #[schema(minimum = 0)]
    timestamp_ms: i64,
}

impl EventReceipt {
    /// Names are letters, digits, `.`, `_` and `-`: they need no escapes, here or in a path.
    fn to_json(&self) -> Vec<u8> {
        let Self { topic, partition, offset, timestamp_ms } = self;
        let mut json = Vec::with_capacity(topic.as_str().len() + RECEIPT_BYTES);
        json.extend_from_slice(br#"{"topic":""#);
        json.extend_from_slice(topic.as_str().as_bytes());
        json.extend_from_slice(br#"","partition":"#);
        write_number(&mut json, i64::from(*partition));
        json.extend_from_slice(br#","offset":"#);
        write_number(&mut json, *offset);
        json.extend_from_slice(br#","timestamp_ms":"#);
        write_number(&mut json, *timestamp_ms);
        json.push(b'}');
        json
    }

    /// The record's own path.
    fn location(&self) -> Vec<u8> {
        let Self { topic, partition, offset, .. } = self;
        let mut path = Vec::with_capacity(topic.as_str().len() + RECEIPT_BYTES);
        path.extend_from_slice(b"/v1/topics/");
        path.extend_from_slice(topic.as_str().as_bytes());
        path.extend_from_slice(b"/partitions/");
        write_number(&mut path, i64::from(*partition));
        path.extend_from_slice(b"/records/");
        write_number(&mut path, *offset);
        path
    }
}

/// Publish one event
///
/// The body is the value, byte for byte, of any content type, which is kept as the record header `content-type`. Headers
/// `Record-Header-NAME` become record headers, the name in lower case; so do `ce-*` (CloudEvents), as `ce_*`, and
/// `traceparent`. An empty body is a value of zero bytes; `tombstone=true` stores no value, which deletes the key.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/events", tag = "produce", operation_id = "publish_event",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        EventParameters,
        ("Idempotency-Key" = inline(Option<String>), Header, description = "Makes a resend free: it answers what the first one did", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", nullable = false),
        ("Record-Key" = inline(Option<String>), Header, description = "The record's key as bytes, instead of `key`", max_length = 8192, pattern = "^[!-~]*$", nullable = false),
    ),
    request_body(content = inline(super::schema::Binary), content_type = "application/octet-stream", description = "The value, byte for byte; any content type is taken"),
    responses((status = 201, description = "The event reached the acknowledgement asked for", body = EventReceipt,
        headers(
            ("location" = String, description = "The record's own path"),
            ("idempotency-replayed" = String, description = "`true` if an earlier request under this Idempotency-Key stored it"),
        ))),
)]
pub async fn publish_event(
    State(app): State<AppState>,
    TopicPath(name): TopicPath,
    Parameters(parameters): Parameters<EventParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let limits = app.limits();
    let wanted = Wanted::new(parameters.acks, parameters.timeout_ms, limits)?;
    let key = IdempotencyKey::of(&headers)?;
    let mut target = Target::find(&app, name)?;
    let record_key = record_key(parameters.key, &headers)?;
    let record_headers = record_headers(&headers, limits.record_headers)?;
    let partition = produce::partition(parameters.partition, None)?;
    let limit = target.value_limit(limits);
    let value = body::read(&headers, body, limits, limit).await.map_err(|problem| match problem.code() {
        "request-too-large" => problem.with_detail(format!("the event is larger than {limit} bytes, the most of one")),
        _ => problem,
    })?;
    if value.len() > limit {
        return Err(value_too_large(value.len(), limit));
    }
    if parameters.tombstone && !value.is_empty() {
        return Err(Problem::invalid_request("tombstone=true stores no value: leave the body empty, or tombstone out"));
    }
    let value = (!parameters.tombstone).then_some(value);
    let record = Record { timestamp_ms: parameters.timestamp_ms, key: record_key, value, headers: record_headers };
    let records = vec![RecordToProduce { record, partition }];
    let tag = key.map(|key| key.for_request(&records));
    let topic = target.topic(&app).await?;
    let mut receipt = produce::store(&app, &topic, records, &wanted, tag).await?;
    let stored = match receipt.results.pop() {
        Some(result) => result?,
        None => return Err(Problem::internal("a produce of one record has no result")),
    };
    let receipt_body = EventReceipt {
        topic: topic.name.clone(),
        partition: stored.partition.get(),
        offset: stored.offset.get(),
        timestamp_ms: stored.timestamp_ms,
    };
    let mut response = Response::new(Body::from(receipt_body.to_json()));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.reserve(ANSWER_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::from_maybe_shared(Bytes::from(receipt_body.location())) {
        headers.insert(header::LOCATION, location);
    }
    if receipt.replayed {
        response.headers_mut().insert(produce::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn record_key(parameter: Option<String>, headers: &HeaderMap) -> Result<Option<Bytes>, Problem> {
    let mut given = headers.get_all(RECORD_KEY).iter();
    match (parameter, given.next(), given.next()) {
        (_, _, Some(_)) => Err(Problem::invalid_request("the header Record-Key is given more than once")),
        (Some(_), Some(_), _) => Err(Problem::invalid_request("give the key once: as ?key= or as header Record-Key")),
        (Some(key), None, _) => Ok(Some(key.into())),
        (None, Some(key), _) => Ok(Some(Bytes::copy_from_slice(key.as_bytes()))),
        (None, None, _) => Ok(None),
    }
}

/// The request's headers that become the record's.
fn record_headers(headers: &HeaderMap, most: usize) -> Result<Vec<Header>, Problem> {
    let mut kept = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let name = if let Some(own) = name.strip_prefix(RECORD_HEADER).filter(|own| !own.is_empty()) {
            if let Some(problem) = reserved(own.as_bytes()) {
                return Err(problem);
            }
            Bytes::copy_from_slice(own.as_bytes())
        } else if let Some(attribute) = name.strip_prefix(CLOUD_EVENTS) {
            Bytes::from(format!("ce_{attribute}"))
        } else if name == "content-type" {
            Bytes::from_static(b"content-type")
        } else {
            continue;
        };
        kept.push(Header { name, value: Some(Bytes::copy_from_slice(value.as_bytes())) });
    }
    kept.extend(produce::trace_header(headers));
    if kept.len() > most {
        return Err(Problem::invalid_request(format!("a record has at most {most} headers; this has {}", kept.len())));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_become_the_records_own() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("record-header-source", "a"),
            ("record-header-source", "b"),
            ("ce-id", "1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("user-agent", "curl"),
            ("record-header-", "no name"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let kept = record_headers(&headers, 100).unwrap();
        let mut names: Vec<_> = kept.iter().map(|h| std::str::from_utf8(&h.name).unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["ce_id", "content-type", "source", "source", "traceparent"]);
        assert!(record_headers(&headers, 4).is_err());
        headers.append("record-header-sluice-idempotency", HeaderValue::from_static("x"));
        assert_eq!(record_headers(&headers, 100).unwrap_err().code(), "reserved-header");
    }

    #[test]
    fn a_receipt_is_json() {
        let receipt =
            EventReceipt { topic: TopicName::new("a-b_c.9").unwrap(), partition: 2, offset: i64::MAX, timestamp_ms: 0 };
        let read: serde_json::Value = serde_json::from_slice(&receipt.to_json()).unwrap();
        let meant = serde_json::json!({"topic": "a-b_c.9", "partition": 2, "offset": 9_223_372_036_854_775_807_i64, "timestamp_ms": 0});
        assert_eq!(read, meant);
        let path = format!("/v1/topics/a-b_c.9/partitions/2/records/{}", i64::MAX);
        assert_eq!(receipt.location(), path.as_bytes());
    }

    #[test]
    fn a_key_is_given_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(record_key(Some(String::new()), &headers).unwrap(), Some(Bytes::new()));
        headers.append(RECORD_KEY, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(record_key(None, &headers).unwrap(), Some(Bytes::from_static(b"\xff")));
        assert!(record_key(Some("a".to_owned()), &headers).is_err());
    }
}

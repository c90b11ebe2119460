//! A batch of records as one JSON document.

use super::produce::{self, AcksParameter, IdempotencyKey, Target, Wanted};
use crate::{
    engine::ProducedRecord,
    http::{
        AppState, body,
        extract::{Parameters, TopicPath, require_json},
        problem::{OutcomeStatus, Problem, RecordOutcome},
        record_json::parse_batch,
    },
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde::Deserialize;
use std::fmt::Write as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(produce_records))
}

/// Parameters of a batch.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BatchParameters {
    /// The acknowledgement to wait for.
    #[param(inline, nullable = false, default = "all")]
    acks: Option<AcksParameter>,
    /// How long to wait for it, in milliseconds.
    #[param(nullable = false, minimum = 1, maximum = 120000, default = 30000)]
    timeout_ms: Option<u64>,
}

/// Where each record of a batch was stored.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it describes what `receipt_json` writes")]
pub struct BatchReceipt {
    /// One each, in the order of the request.
    results: Vec<StoredRecordPlace>,
}

/// A [`BatchReceipt`] as JSON; serde would take three times as long over the same few numbers.
fn receipt_json(stored: &[ProducedRecord]) -> String {
    let mut json = String::with_capacity(16 + stored.len() * 64);
    json.push_str("{\"results\":[");
    for (n, ProducedRecord { partition, offset, timestamp_ms }) in stored.iter().enumerate() {
        let (comma, partition, offset) = (if n > 0 { "," } else { "" }, partition.get(), offset.get());
        write!(json, "{comma}{{\"partition\":{partition},\"offset\":{offset},\"timestamp_ms\":{timestamp_ms}}}")
            .expect("writing to a string does not fail");
    }
    json.push_str("]}");
    json
}

/// Where a record was stored.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "see BatchReceipt")]
pub struct StoredRecordPlace {
    /// The partition.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// The record's place in it.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// Its timestamp, Unix time in milliseconds.
    #[schema(minimum = 0)]
    pub timestamp_ms: i64,
}

/// Produce a batch of records
///
/// All records are checked first: if any does not fit, the answer is 422 with `results`, and nothing is stored. 200 means
/// that every record reached the acknowledgement asked for. What fails after the check is 503 `partially-stored`, and
/// `results` says for each record whether it was stored: resend the others, or all of them under the same
/// Idempotency-Key.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/records", tag = "produce", operation_id = "produce_records",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        BatchParameters,
        ("Idempotency-Key" = inline(Option<String>), Header, description = "Makes a resend free: it answers what the first one did", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", nullable = false),
    ),
    request_body(content = super::schema::RecordBatch, description = "The records, in order"),
    responses((status = 200, description = "Every record reached the acknowledgement asked for", body = BatchReceipt,
        headers(("idempotency-replayed" = String, description = "`true` if an earlier request under this Idempotency-Key stored them")))),
)]
pub async fn produce_records(
    State(app): State<AppState>,
    TopicPath(name): TopicPath,
    Parameters(parameters): Parameters<BatchParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let limits = app.limits();
    require_json(&headers)?;
    let wanted = Wanted::new(parameters.acks, parameters.timeout_ms, limits)?;
    let key = IdempotencyKey::of(&headers)?;
    let mut target = Target::find(&app, name)?;
    let body = body::read(&headers, body, limits, limits.batch_bytes).await?;
    let parsed = parse_batch(&body, target.record_limits(limits), limits.batch_records)?;
    if parsed.iter().any(Result::is_err) {
        let outcomes = parsed.iter().enumerate().map(|(index, record)| match record {
            Ok(_) => RecordOutcome::not_stored(index, OutcomeStatus::NotStored),
            Err(problem) => problem.to_outcome(index, OutcomeStatus::Invalid),
        });
        return Err(produce::refused(outcomes.collect()));
    }
    let trace = produce::trace_header(&headers);
    let mut records: Vec<_> = parsed.into_iter().flatten().collect();
    records.iter_mut().for_each(|record| produce::add_trace(trace.as_ref(), record));
    let tag = key.map(|key| key.for_request(&records));
    let topic = target.topic(&app).await?;
    let receipt = produce::store(&app, &topic, records, &wanted, tag).await?;
    let stored = produce::all_stored(receipt.results)?;
    let mut response = Response::new(Body::from(receipt_json(&stored)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if receipt.replayed {
        response.headers_mut().insert(produce::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Offset, PartitionId};
    use serde_json::{Value, json};

    #[test]
    fn a_receipt_is_json() {
        let place = |partition, offset| ProducedRecord {
            partition: PartitionId::new(partition),
            offset: Offset::new(offset),
            timestamp_ms: 7,
        };
        let read = |stored: &[_]| serde_json::from_str::<Value>(&receipt_json(stored)).unwrap();
        assert_eq!(read(&[]), json!({"results": []}));
        let two = json!({"results": [
            {"partition": 0, "offset": 1, "timestamp_ms": 7},
            {"partition": 2, "offset": 9_000_000_000_i64, "timestamp_ms": 7},
        ]});
        assert_eq!(read(&[place(0, 1), place(2, 9_000_000_000)]), two);
    }
}

//! A key's latest record.

use super::read_parameters::{Encoding, find_topic, key};
use super::records::{LogRecord, with_etag};
use crate::{
    http::{
        AppState,
        extract::{Parameters, TopicPath},
        problem::Problem,
    },
    session::json::{RecordWriter, ValueEncoding},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(get_latest_record))
}

/// Which key.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LatestParameters {
    /// The key, as text.
    #[param(nullable = false, example = "match-1")]
    key: Option<String>,
    /// The key, as bytes in base64.
    #[param(nullable = false, pattern = "^[A-Za-z0-9+/_-]*={0,2}$")]
    key_base64: Option<String>,
    /// How the value is given.
    #[param(inline, nullable = false, default = "auto")]
    encoding: Option<Encoding>,
}

/// Get a key's latest record
///
/// Where a key lies in several partitions, the one with the greatest timestamp, partition and offset. 404 if there is none,
/// or it is a tombstone.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/latest", tag = "read", operation_id = "get_latest_record",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        LatestParameters,
    ),
    responses(
        (status = 200, description = "The record", body = LogRecord, headers(("etag" = String, description = "Names this content"))),
        (status = 304, description = "The record is the one that `If-None-Match` names"),
    ),
)]
pub async fn get_latest_record(
    State(app): State<AppState>,
    TopicPath(name): TopicPath,
    Parameters(parameters): Parameters<LatestParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let topic = find_topic(&app, &name, None)?;
    let key = key(parameters.key.as_deref(), parameters.key_base64.as_deref())?;
    let key = key.ok_or_else(|| Problem::invalid_request("name the key: ?key=, or ?key_base64= for bytes"))?;
    let Some((partition, record)) = app.engine.latest(topic.id, &key).await? else {
        return Err(Problem::not_found(format!("topic '{name}' has no latest record of this key")));
    };
    let encoding = match parameters.encoding.unwrap_or_default() {
        Encoding::Auto => ValueEncoding::Auto,
        Encoding::Base64 => ValueEncoding::Base64,
    };
    let mut body = Vec::new();
    RecordWriter::new(&topic.name, encoding).write(&mut body, partition, &record);
    let json = HeaderValue::from_static("application/json");
    Ok(with_etag(&headers, json, body, HeaderValue::from_static("no-cache")))
}

//! What operators and clients ask of the server itself: health, metrics, the cluster, what it can do.

use super::produce::LONGEST_KEY;
use crate::{
    http::{AppState, problem::Problem},
    telemetry::metrics,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(get_livez))
        .routes(routes!(get_readyz))
        .routes(routes!(get_metrics))
        .routes(routes!(get_cluster))
        .routes(routes!(list_brokers))
        .routes(routes!(get_capabilities))
}

/// A healthy answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// The cluster, as this broker sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Cluster {
    /// Its identity.
    cluster_id: String,
    /// The broker that answers.
    #[schema(minimum = 0)]
    broker_id: i32,
    /// The broker that leads the cluster's metadata; left out while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    controller_id: Option<i32>,
    /// The last change of the metadata that this broker knows.
    #[schema(minimum = 0)]
    metadata_version: u64,
    /// The server's version.
    version: &'static str,
}

/// The brokers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Brokers {
    /// Sorted by id.
    brokers: Vec<Broker>,
}

/// A broker.
#[derive(Debug, Serialize, ToSchema)]
pub struct Broker {
    /// Its id.
    #[schema(minimum = 0)]
    broker_id: i32,
    /// Where it serves HTTP, `host:port`; left out where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    http: Option<String>,
    /// Whether it may lead no partitions now.
    fenced: bool,
}

/// What this server can do, and its bounds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Capabilities {
    /// The version of this contract.
    api_version: &'static str,
    /// The server's version.
    version: &'static str,
    /// What it can do.
    features: Vec<&'static str>,
    /// Its bounds.
    limits: CapabilityLimits,
    /// How long it remembers Idempotency-Keys.
    idempotency: IdempotencyBounds,
}

/// The bounds of requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct CapabilityLimits {
    /// Bytes of a record's value, where the topic sets no `max.message.bytes`.
    record_bytes: usize,
    /// Bytes of a batch, after decompression.
    batch_bytes: usize,
    /// Records of a batch.
    batch_records: usize,
    /// Bytes of the body of any other request.
    request_bytes: usize,
    /// Headers of a record.
    record_headers: usize,
    /// Nesting of JSON.
    json_depth: usize,
    /// Headers of a request.
    headers: usize,
    /// Bytes of the headers of a request.
    header_bytes: usize,
    /// Decompressed bytes of a body for each byte sent.
    decompression_ratio: usize,
    /// Connections at once.
    connections: usize,
    /// Longest wait for an acknowledgement, in milliseconds.
    produce_timeout_ms: u64,
    /// Time for the first bytes of a connection, in milliseconds.
    header_timeout_ms: u64,
    /// How long a connection may stand idle, and the headers of a request may take, in milliseconds.
    idle_timeout_ms: u64,
    /// Longest silence within a request's body, in milliseconds.
    body_silence_ms: u64,
}

/// How long an Idempotency-Key is remembered: until the first of these, or until the record itself is removed.
#[derive(Debug, Serialize, ToSchema)]
pub struct IdempotencyBounds {
    /// Bytes of a key.
    key_bytes: usize,
    /// The longest time, in milliseconds.
    retention_ms: u64,
    /// Records that are remembered in each partition.
    records_per_partition: usize,
}

fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Is the process alive?
///
/// 200 as long as it answers at all.
#[utoipa::path(
    get, path = "/livez", tag = "operations", operation_id = "get_livez",
    responses((status = 200, description = "It is alive", body = Health)),
)]
pub async fn get_livez() -> Json<Health> {
    health()
}

/// Does it take requests?
///
/// 503 while it starts and while it goes away.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "get_readyz",
    responses((status = 200, description = "It takes requests", body = Health)),
)]
pub async fn get_readyz(State(app): State<AppState>) -> Result<Json<Health>, Problem> {
    if app.engine.is_ready() && !app.drain.is_started() {
        return Ok(health());
    }
    let detail = if app.drain.is_started() { "the server is going away" } else { "the server is starting" };
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Err(Problem::new(status, "not-ready", "The server takes no requests now", detail)
        .retry_after(Duration::from_secs(1)))
}

/// Metrics
///
/// As OpenMetrics text, which Prometheus reads.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "get_metrics",
    responses((status = 200, description = "The metrics", body = String, content_type = "application/openmetrics-text")),
)]
pub async fn get_metrics(State(app): State<AppState>) -> Response {
    app.sessions.census().publish(&*app.engine);
    ([(header::CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS))], metrics().render()).into_response()
}

/// The cluster
///
/// As the broker that answers sees it.
#[utoipa::path(
    get, path = "/v1/cluster", tag = "operations", operation_id = "get_cluster",
    responses((status = 200, description = "The cluster", body = Cluster)),
)]
pub async fn get_cluster(State(app): State<AppState>) -> Json<Cluster> {
    let cluster = app.engine.cluster();
    Json(Cluster {
        cluster_id: cluster.cluster_id.to_string(),
        broker_id: cluster.broker_id.get(),
        controller_id: cluster.controller_id.map(crate::types::BrokerId::get),
        metadata_version: cluster.metadata_version,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// The brokers
///
/// Those that have ever registered, and whether each may lead partitions.
#[utoipa::path(
    get, path = "/v1/brokers", tag = "operations", operation_id = "list_brokers",
    responses((status = 200, description = "The brokers", body = Brokers)),
)]
pub async fn list_brokers(State(app): State<AppState>) -> Json<Brokers> {
    let brokers = app.engine.brokers().into_iter().map(|broker| Broker {
        broker_id: broker.id.get(),
        http: broker.http,
        fenced: broker.fenced,
    });
    Json(Brokers { brokers: brokers.collect() })
}

/// What this server can do
///
/// Its features, its bounds, and how long it remembers Idempotency-Keys.
#[utoipa::path(
    get, path = "/v1/capabilities", tag = "operations", operation_id = "get_capabilities",
    responses((status = 200, description = "The capabilities", body = Capabilities)),
)]
pub async fn get_capabilities(State(app): State<AppState>) -> Json<Capabilities> {
    let limits = app.limits();
    let ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let mut features = vec!["topics", "produce", "idempotency-keys", "ingest", "records", "latest", "sse", "websocket"];
    if app.settings.auto_create_topics {
        features.push("auto-create-topics");
    }
    Json(Capabilities {
        api_version: "v1",
        version: env!("CARGO_PKG_VERSION"),
        features,
        limits: CapabilityLimits {
            record_bytes: limits.record_bytes,
            batch_bytes: limits.batch_bytes,
            batch_records: limits.batch_records,
            request_bytes: limits.request_bytes,
            record_headers: limits.record_headers,
            json_depth: limits.json_depth,
            headers: limits.headers,
            header_bytes: limits.header_bytes,
            decompression_ratio: limits.decompression_ratio,
            connections: limits.connections,
            produce_timeout_ms: ms(limits.max_produce_timeout),
            header_timeout_ms: ms(limits.header_timeout),
            idle_timeout_ms: ms(limits.idle_timeout),
            body_silence_ms: ms(limits.body_silence),
        },
        idempotency: IdempotencyBounds {
            key_bytes: LONGEST_KEY,
            retention_ms: ms(app.settings.idempotency_retention),
            records_per_partition: app.settings.idempotency_keys_per_partition,
        },
    })
}

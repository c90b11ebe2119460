//! The metrics, as typed handles, and their OpenMetrics text.

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    collections::BTreeSet,
    sync::{LazyLock, OnceLock, atomic::AtomicU64},
};

/// Seconds, from the 50 µs of a lone request to a long poll's minute.
const SECONDS: [f64; 16] =
    [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

/// A request's route and method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// GET, POST and so on.
    pub method: &'static str,
    /// The route's pattern, never the path itself; see [`intern`].
    pub route: &'static str,
}

/// A request's route, method and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteStatusLabels {
    /// GET, POST and so on.
    pub method: &'static str,
    /// The route's pattern, never the path itself; see [`intern`].
    pub route: &'static str,
    /// The status code.
    pub status: u16,
}

/// Which door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DoorLabels {
    /// `http`, `kafka` or `peer`.
    pub door: &'static str,
}

/// Counts what is stored through a door. Its counters are looked up once, and not for each request.
pub struct StoredThrough {
    door: &'static str,
    counters: OnceLock<(Counter, Counter)>,
}

impl StoredThrough {
    /// For a door as [`DoorLabels`] names it.
    #[must_use]
    pub const fn new(door: &'static str) -> Self {
        Self { door, counters: OnceLock::new() }
    }

    /// Counts records, and their bytes.
    pub fn count(&self, records: u64, bytes: u64) {
        let (all_records, all_bytes) = self.counters.get_or_init(|| {
            let labels = DoorLabels { door: self.door };
            let Metrics { produced_records, produced_bytes, .. } = metrics();
            (produced_records.get_or_create(&labels).clone(), produced_bytes.get_or_create(&labels).clone())
        });
        all_records.inc_by(records);
        all_bytes.inc_by(bytes);
    }
}

/// A Kafka request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabels {
    /// Its name in the protocol.
    pub api: &'static str,
}

/// Why a request was turned away before its body was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShedLabels {
    /// `memory`: those under way take all of it; `delay`: what waits to be stored waits too long.
    pub reason: &'static str,
}

/// Which I/O lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabels {
    /// `append`, `read` or `background`.
    pub lane: &'static str,
}

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    /// `in` or `out`.
    pub direction: &'static str,
}

/// How a reader is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(missing_docs)] // the names say it
pub enum Transport {
    Sse,
    WebSocket,
    Page,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum SubscriberState {
    /// At the tail.
    Live,
    /// Reading the log up to the tail.
    CatchingUp,
    /// Not taking what it could have.
    Parked,
}

/// A reader's transport and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SubscriberLabels {
    /// How it is connected.
    pub transport: Transport,
    /// Where it stands.
    pub state: SubscriberState,
}

/// Which budget of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetLabels {
    /// `tail`, `append`, `sequencer`, `stream`, `request`, `kafka` or `view`.
    pub budget: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,

    /// Requests answered.
    pub http_requests: Family<RouteStatusLabels, Counter>,
    /// From the request's headers to the answer's.
    pub http_request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// Requests turned away before their body was read.
    pub http_requests_shed: Family<ShedLabels, Counter>,
    /// Connections open now.
    pub connections: Family<DoorLabels, Gauge>,
    /// Connections taken since the start.
    pub connections_accepted: Family<DoorLabels, Counter>,
    /// Connections turned away: too many, or no descriptor left.
    pub connections_refused: Family<DoorLabels, Counter>,

    /// Kafka requests taken.
    pub kafka_requests: Family<ApiLabels, Counter>,
    /// From a Kafka request's last byte to its answer, long polls included.
    pub kafka_request_seconds: Family<ApiLabels, Histogram, fn() -> Histogram>,
    /// Bytes of Kafka requests.
    pub kafka_bytes_in: Counter,
    /// Bytes of Kafka responses.
    pub kafka_bytes_out: Counter,

    /// Records stored.
    pub produced_records: Family<DoorLabels, Counter>,
    /// Their keys, values and headers.
    pub produced_bytes: Family<DoorLabels, Counter>,
    /// Records given to readers.
    pub fetched_records: Family<DoorLabels, Counter>,
    /// Bytes given to readers.
    pub fetched_bytes: Family<DoorLabels, Counter>,

    /// From the append to its acknowledgement.
    pub append_seconds: Histogram,
    /// Syncs of log segments.
    pub fsyncs: Counter,
    /// How long each took.
    pub fsync_seconds: Histogram,
    /// Records per group commit.
    pub group_commit_records: Histogram,
    /// Segments on disk.
    pub segments: Gauge,
    /// Bytes of segments on disk.
    pub log_bytes: Gauge,
    /// Partitions led here.
    pub partitions: Gauge,
    /// Partitions that take no requests.
    pub partitions_offline: Gauge,
    /// Jobs waiting for a thread that may block.
    pub io_queue: Family<LaneLabels, Gauge>,

    /// Readers by transport and state.
    pub subscribers: Family<SubscriberLabels, Gauge>,
    /// Records between the slowest parked reader and the tail.
    pub parked_lag_records: Gauge,
    /// SSE events written.
    pub sse_events: Counter,
    /// WebSocket frames.
    pub websocket_frames: Family<DirectionLabels, Counter>,
    /// Bytes written to live readers.
    pub stream_bytes: Counter,
    /// Records left out for readers that asked for `slow=conflate`.
    pub conflated_records: Counter,

    /// Bytes in use by budget.
    pub memory_bytes: Family<BudgetLabels, Gauge>,
    /// The budgets.
    pub memory_budget_bytes: Family<BudgetLabels, Gauge>,
    /// Unix time at which the process began to serve.
    pub start_time_seconds: Gauge<f64, AtomicU64>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// The process's metrics.
#[must_use]
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// A label value that lives as long as the process. For values of a set that is bounded by the program, such as routes:
/// each distinct text is kept for ever.
#[must_use]
pub fn intern(text: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock();
    if let Some(found) = known.get(text) {
        return found;
    }
    let kept: &'static str = Box::leak(text.into());
    known.insert(kept);
    kept
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            http_requests: Family::default(),
            http_request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            http_requests_shed: Family::default(),
            connections: Family::default(),
            connections_accepted: Family::default(),
            connections_refused: Family::default(),
            kafka_requests: Family::default(),
            kafka_request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            kafka_bytes_in: Counter::default(),
            kafka_bytes_out: Counter::default(),
            produced_records: Family::default(),
            produced_bytes: Family::default(),
            fetched_records: Family::default(),
            fetched_bytes: Family::default(),
            append_seconds: seconds(),
            fsyncs: Counter::default(),
            fsync_seconds: seconds(),
            group_commit_records: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 5e3]),
            segments: Gauge::default(),
            log_bytes: Gauge::default(),
            partitions: Gauge::default(),
            partitions_offline: Gauge::default(),
            io_queue: Family::default(),
            subscribers: Family::default(),
            parked_lag_records: Gauge::default(),
            sse_events: Counter::default(),
            websocket_frames: Family::default(),
            stream_bytes: Counter::default(),
            conflated_records: Counter::default(),
            memory_bytes: Family::default(),
            memory_budget_bytes: Family::default(),
            start_time_seconds: Gauge::default(),
        };
        metrics.registry = metrics.register();
        metrics
    }

    /// Names and help texts. A counter's `_total` and the unit's suffix are the encoder's.
    fn register(&self) -> Registry {
        let mut all = Registry::with_prefix("sluice");
        let r = &mut all;
        r.register("http_requests", "Requests answered", self.http_requests.clone());
        let latency = "Time from a request's headers to the answer's";
        r.register_with_unit("http_request_duration", latency, Unit::Seconds, self.http_request_seconds.clone());
        let shed = "Requests turned away before their body was read";
        r.register("http_requests_shed", shed, self.http_requests_shed.clone());
        r.register("connections", "Connections open now", self.connections.clone());
        r.register("connections_accepted", "Connections taken", self.connections_accepted.clone());
        r.register("connections_refused", "Connections turned away", self.connections_refused.clone());
        r.register("kafka_requests", "Kafka requests taken", self.kafka_requests.clone());
        let latency = "Time from a Kafka request's last byte to its answer, long polls included";
        r.register_with_unit("kafka_request_duration", latency, Unit::Seconds, self.kafka_request_seconds.clone());
        r.register_with_unit("kafka_in", "Bytes of Kafka requests", Unit::Bytes, self.kafka_bytes_in.clone());
        r.register_with_unit("kafka_out", "Bytes of Kafka responses", Unit::Bytes, self.kafka_bytes_out.clone());
        r.register("produced_records", "Records stored", self.produced_records.clone());
        r.register_with_unit(
            "produced",
            "Keys, values and headers of records stored",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        r.register("fetched_records", "Records given to readers", self.fetched_records.clone());
        r.register_with_unit("fetched", "Bytes given to readers", Unit::Bytes, self.fetched_bytes.clone());
        let append = "Time from an append to its acknowledgement";
        r.register_with_unit("append_duration", append, Unit::Seconds, self.append_seconds.clone());
        r.register("fsyncs", "Syncs of log segments", self.fsyncs.clone());
        r.register_with_unit("fsync_duration", "Time of a sync", Unit::Seconds, self.fsync_seconds.clone());
        r.register("group_commit_records", "Records per group commit", self.group_commit_records.clone());
        r.register("segments", "Log segments on disk", self.segments.clone());
        r.register_with_unit("log", "Log segments on disk", Unit::Bytes, self.log_bytes.clone());
        r.register("partitions", "Partitions led here", self.partitions.clone());
        r.register("partitions_offline", "Partitions that take no requests", self.partitions_offline.clone());
        r.register("io_queue", "Jobs waiting for a thread that may block", self.io_queue.clone());
        r.register("subscribers", "Readers by transport and state", self.subscribers.clone());
        let lag = "Records between the slowest parked reader and the tail";
        r.register("parked_lag_records", lag, self.parked_lag_records.clone());
        r.register("sse_events", "Server-sent events written", self.sse_events.clone());
        r.register("websocket_frames", "WebSocket frames", self.websocket_frames.clone());
        r.register_with_unit("stream", "Written to live readers", Unit::Bytes, self.stream_bytes.clone());
        let conflated = "Records left out for readers that asked for conflation";
        r.register("conflated_records", conflated, self.conflated_records.clone());
        r.register_with_unit("memory", "Memory in use by budget", Unit::Bytes, self.memory_bytes.clone());
        r.register_with_unit("memory_budget", "Memory budgets", Unit::Bytes, self.memory_budget_bytes.clone());
        let start = "Unix time at which the process began to serve";
        r.register_with_unit("start_time", start, Unit::Seconds, self.start_time_seconds.clone());
        all
    }

    /// All of them as OpenMetrics text (`application/openmetrics-text; version=1.0.0`).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // Writing to a String can not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_render_with_prefix_units_and_an_end() {
        metrics().fsyncs.inc();
        metrics().fsync_seconds.observe(0.0001);
        let labels = RouteStatusLabels { method: "GET", route: intern("/of-this-test"), status: 200 };
        metrics().http_requests.get_or_create(&labels).inc();
        let text = metrics().render();
        assert!(text.contains("sluice_fsyncs_total "), "{text}");
        assert!(text.contains("sluice_fsync_duration_seconds_bucket{le=\"0.0001\"}"), "{text}");
        assert!(
            text.contains("sluice_http_requests_total{method=\"GET\",route=\"/of-this-test\",status=\"200\"} 1"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert!(line.starts_with("sluice_"), "{line}");
        }
    }

    #[test]
    fn one_text_is_kept_once() {
        assert!(std::ptr::eq(intern("a route"), intern("a route")));
    }
}

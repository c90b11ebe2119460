//! The composition root: builds every part from a [`ServerConfig`], starts it, and drains it.
//!
//! **Invariant**: parts start from the bottom up and stop from the top down: the doors close before the logs do, so that
//! what was taken is written.

use crate::config::ServerConfig;
use crate::engine::{Engine, EngineSettings, GroupSettings, LeaseSigner, RoutedEngine};
use crate::http::{self, AppState};
use crate::kafka;
use crate::log::{LogConfig, LogError, LogManager, LogSettings};
use crate::metadata::{
    BrokerRegistration, Command, DataFolder, DataFolderError, FEATURE_LEVEL, Metadata, MetadataError, NodeSettings,
};
use crate::replication::ReplicaManager;
use crate::sys::{Lane, Listener, Sys, run_blocking};
use crate::types::{TopicConfig, TopicDefaults, TopicPartition};
use crate::view::{LatestView, ViewBackend, ViewSettings};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// What a group commit writes at most: large enough that the sync is a small part of it, small enough that partitions
/// take turns within milliseconds.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes that may wait in one partition: a few groups; more would only make latency.
const STAGED_BYTES: usize = 32 << 20;
/// Each budget is a part of the memory, and no more than is of use. Together with the program itself they are less than
/// all of it: the allocator needs room to work in.
const PART: u64 = 8;
/// The tail rings hold the last moments, for live readers. More of it would hold what the page cache holds as well.
const TAIL_RING_BYTES: usize = 24 << 20;
/// Appends that wait in all partitions together, and requests under way: what is more only makes latency.
const ALL_STAGED_BYTES: usize = 64 << 20;
const REQUEST_BYTES: usize = 64 << 20;
/// Kafka's frames: the largest one must fit.
const KAFKA_BYTES: usize = 128 << 20;
/// Frames of shared streams, and as many for readers of the log.
const RING_BYTES: usize = 64 << 20;
/// Rows that views cache.
const VIEW_BYTES: usize = 256 << 20;
/// Open files of all logs together: below the usual limit of 1024 descriptors, with room for connections.
const OPEN_FILES: usize = 512;
/// How long a change of the metadata may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a recovery that takes long says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How many brokers there are: one, until brokers replicate.
const BROKERS: usize = 1;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    DataFolder(#[from] DataFolderError),
    /// The metadata in it cannot be used.
    #[error("the metadata in {folder} cannot be used: {source}")]
    Metadata {
        /// Where it lies.
        folder: String,
        /// Why.
        source: MetadataError,
    },
    /// The logs in it cannot be used.
    #[error("the logs in {folder} cannot be used: {source}")]
    Logs {
        /// Where they lie.
        folder: String,
        /// Why.
        source: LogError,
    },
    /// The view's folder cannot be used, not even emptied.
    #[error("the views in {folder} cannot be used: {reason}; the folder may be removed, it is built again")]
    View {
        /// Where they lie.
        folder: String,
        /// Why.
        reason: String,
    },
    /// Somebody else listens there, or the address is not this machine's.
    #[error("cannot listen on {address} for {door}: {source}; choose another with --{door}, or port 0 for a free one")]
    Listen {
        /// The setting's name.
        door: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// Whether the data folder is the reason.
    #[must_use]
    pub const fn is_data_folder(&self) -> bool {
        match self {
            Self::DataFolder(_) | Self::Metadata { .. } | Self::Logs { .. } | Self::View { .. } => true,
            Self::Listen { .. } => false,
        }
    }
}

/// A server that serves.
pub struct Server {
    http_address: Option<SocketAddr>,
    kafka_address: Option<SocketAddr>,
    app: AppState,
    kafka: kafka::Door,
    engine: Arc<RoutedEngine>,
    metadata: Metadata,
    logs: Arc<LogManager>,
    view: Arc<LatestView>,
    doors: Vec<JoinHandle<()>>,
    following: JoinHandle<()>,
    /// Last: another process may use the folder once this is dropped.
    _folder: DataFolder,
}

impl Server {
    /// Opens the data folder, recovers the logs, opens the doors.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ServerConfig, sys: Sys) -> Result<Self, StartError> {
        Self::start_with_views(config, sys, ViewBackend::Sled).await
    }

    /// The same with another place for the views' rows: sled does its own I/O, which no simulation sees.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_with_views(config: ServerConfig, sys: Sys, backend: ViewBackend) -> Result<Self, StartError> {
        let folder = open_folder(&config, &sys).await?;
        // Before the recovery, so that a port in use is known at once.
        let listener = match config.http {
            Some(address) => Some(listen(&sys, "http", address).await?),
            None => None,
        };
        let kafka_listener = match config.kafka {
            Some(address) => Some(listen(&sys, "kafka", address).await?),
            None => None,
        };
        let http_address = listener.as_ref().and_then(|l| l.local_addr().ok());
        let kafka_address = kafka_listener.as_ref().and_then(|l| l.local_addr().ok());
        let advertised_kafka = kafka_address.map(|address| kafka_endpoint(&config, address));
        let advertised = config.advertised_http.clone().or_else(|| http_address.map(|a| a.to_string()));
        let doors = Advertised {
            http: advertised.clone(),
            kafka: advertised_kafka.as_ref().map(|(host, port)| format!("{host}:{port}")),
        };
        let metadata = open_metadata(&config, &sys, &folder, doors).await?;
        let defaults = config.topic_defaults(BROKERS);
        let logs = open_logs(&config, &sys, &folder, &metadata, defaults).await?;
        let view = open_views(&config, &sys, &folder, backend).await?;
        let settings = EngineSettings {
            broker: config.node_id,
            cluster: folder.identity().cluster_id,
            defaults,
            default_partitions: config.default_partitions,
            default_replication_factor: config.replication_factor(BROKERS),
            auto_create_topics: config.auto_create_topics,
            groups: group_settings(&config),
            group_partitions: config.groups.partitions,
            leases: LeaseSigner::new(&folder.identity().secret),
        };
        let replicas = Arc::new(ReplicaManager::new(config.node_id, logs.clone()));
        let engine = RoutedEngine::start(sys.clone(), settings, metadata.clone(), replicas, view.clone()).await;
        let following = tokio::spawn(engine.clone().follow());
        logs.start_background();
        let kafka = kafka::Door::new(engine.clone(), sys.clone(), kafka_settings(&config, advertised_kafka));
        let app = AppState::new(engine.clone(), sys, http_settings(&config, http_address, advertised));
        let mut doors = Vec::new();
        doors.extend(listener.map(|l| tokio::spawn(http::listener::serve(l, app.clone()))));
        doors.extend(kafka_listener.map(|l| tokio::spawn(kafka::serve(l, kafka.clone()))));
        Ok(Self {
            http_address,
            kafka_address,
            app,
            kafka,
            engine,
            metadata,
            logs,
            view,
            doors,
            following,
            _folder: folder,
        })
    }

    /// Where HTTP listens, with the real port.
    #[must_use]
    pub const fn http_addr(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Where Kafka clients connect, with the real port.
    #[must_use]
    pub const fn kafka_addr(&self) -> Option<SocketAddr> {
        self.kafka_address
    }

    /// The broker behind the doors.
    #[must_use]
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    /// Resolves when the server can not go on: nothing can be changed any more until it is started anew, and the reason.
    /// Otherwise never.
    pub async fn failed(&self) -> String {
        self.metadata.failed().await
    }

    /// Says that it is not ready, takes no new requests, tells streams to go, finishes what is in flight (at most 30 s),
    /// and closes the logs.
    pub async fn drain(self) {
        self.engine.drain();
        self.app.drain.start();
        self.kafka.drain();
        for door in self.doors {
            // The door bounds its own wait; one that panicked has nothing more to finish.
            let _ = door.await;
        }
        self.engine.stop_coordinators();
        self.view.close().await;
        self.logs.close().await;
        self.metadata.shutdown().await;
        self.following.abort();
    }
}

async fn open_folder(config: &ServerConfig, sys: &Sys) -> Result<DataFolder, StartError> {
    let (path, node, world) = (config.data.clone(), config.node_id, sys.clone());
    let opened = run_blocking(&*sys.io, Lane::Background, move || DataFolder::open(&world, &path, node)).await?;
    if opened.created() {
        tracing::info!(data = %config.data.display(), cluster = %opened.identity().cluster_id, "made a new data folder");
    }
    Ok(opened)
}

async fn listen(sys: &Sys, door: &'static str, address: SocketAddr) -> Result<Box<dyn Listener>, StartError> {
    sys.network.bind(address).await.map_err(|source| StartError::Listen { door, address, source })
}

/// Where clients are told to find this broker's doors.
struct Advertised {
    http: Option<String>,
    kafka: Option<String>,
}

/// The host and port that Kafka clients are told. A listener on every address is no address to connect to: then clients
/// are told `localhost`, as Apache Kafka's own image does, and elsewhere `advertised-kafka` has to say more.
fn kafka_endpoint(config: &ServerConfig, address: SocketAddr) -> (String, u16) {
    let set = config.advertised_kafka.as_deref().and_then(|text| text.rsplit_once(':'));
    if let Some((host, Ok(port))) = set.map(|(host, port)| (host, port.parse())) {
        return (host.trim_matches(['[', ']']).to_owned(), port);
    }
    let host = if address.ip().is_unspecified() { "localhost".to_owned() } else { address.ip().to_string() };
    (host, address.port())
}

/// Joins the metadata group and registers, which raises the leader epoch of each partition that this broker leads.
async fn open_metadata(
    config: &ServerConfig,
    sys: &Sys,
    folder: &DataFolder,
    advertised: Advertised,
) -> Result<Metadata, StartError> {
    let failed = |source| StartError::Metadata { folder: folder.metadata().display().to_string(), source };
    let settings = NodeSettings {
        broker: config.node_id,
        address: config.advertised_peer.clone().unwrap_or_default(),
        submit_timeout: METADATA_TIMEOUT,
    };
    let metadata = Metadata::open(sys.clone(), folder.metadata(), settings).await.map_err(failed)?;
    let registration = BrokerRegistration {
        broker: config.node_id,
        incarnation: sys.rng.next_u64(),
        storage_id: folder.identity().storage_id,
        http: advertised.http,
        kafka: advertised.kafka,
        peer: config.advertised_peer.clone(),
        feature_level: FEATURE_LEVEL,
        now_ms: sys.clock.now_ms(),
    };
    metadata.submit(Command::RegisterBroker(registration)).await.map_err(failed)?;
    Ok(metadata)
}

async fn open_logs(
    config: &ServerConfig,
    sys: &Sys,
    folder: &DataFolder,
    metadata: &Metadata,
    defaults: TopicDefaults,
) -> Result<Arc<LogManager>, StartError> {
    let settings = LogSettings {
        tail_ring_bytes: share(config.memory, PART).min(TAIL_RING_BYTES),
        group_bytes: GROUP_BYTES,
        staged_bytes_per_partition: STAGED_BYTES,
        staged_bytes: share(config.memory, PART).min(ALL_STAGED_BYTES),
        flush_interval: config.log.flush_interval,
        idempotency_keys_per_partition: config.log.idempotency_keys,
        idempotency_retention: config.log.idempotency_retention,
        open_files: OPEN_FILES,
    };
    let image = metadata.image();
    let known = move |id: TopicPartition| {
        let topic = image.topic(id.topic).filter(|_| image.partition(id).is_some())?;
        let config = TopicConfig::with_overrides(&defaults, &topic.overrides);
        Some(LogConfig { topic: config.unwrap_or_else(|_| TopicConfig::new(&defaults)) })
    };
    let told = parking_lot::Mutex::new(tokio::time::Instant::now());
    let progress = move |p: crate::log::OpenProgress| {
        let mut told = told.lock();
        if told.elapsed() >= PROGRESS_INTERVAL {
            *told = tokio::time::Instant::now();
            tracing::info!(done = p.done, total = p.total, bytes = p.bytes, "recovering the partitions");
        }
    };
    LogManager::open(sys.clone(), folder.topics(), settings, Arc::new(known), Arc::new(progress))
        .await
        .map_err(|source| StartError::Logs { folder: folder.topics().display().to_string(), source })
}

async fn open_views(
    config: &ServerConfig,
    sys: &Sys,
    folder: &DataFolder,
    backend: ViewBackend,
) -> Result<Arc<LatestView>, StartError> {
    let settings = ViewSettings {
        backend,
        cache_bytes: share(config.memory, PART).min(VIEW_BYTES) as u64,
        ..ViewSettings::default()
    };
    let failed = |e: crate::view::ViewError| StartError::View {
        folder: folder.view().display().to_string(),
        reason: e.to_string(),
    };
    LatestView::open(sys.clone(), folder.view(), settings).await.map_err(failed)
}

fn group_settings(config: &ServerConfig) -> GroupSettings {
    GroupSettings {
        min_session_timeout: config.groups.min_session_timeout,
        max_session_timeout: config.groups.max_session_timeout,
        initial_rebalance_delay: config.groups.initial_rebalance_delay,
        max_size: config.groups.max_size,
        offsets_retention: config.groups.offsets_retention,
        ..GroupSettings::default()
    }
}

/// A part of the memory budget.
fn share(memory: u64, part: u64) -> usize {
    usize::try_from(memory / part).unwrap_or(usize::MAX)
}

fn kafka_settings(config: &ServerConfig, advertised: Option<(String, u16)>) -> kafka::Settings {
    let defaults = kafka::Settings::default();
    let (host, port) = advertised.unwrap_or((defaults.host.clone(), defaults.port));
    kafka::Settings {
        host,
        port,
        request_memory: share(config.memory, PART).min(KAFKA_BYTES),
        auto_create_topics: config.auto_create_topics,
        ..defaults
    }
}

fn http_settings(config: &ServerConfig, listen: Option<SocketAddr>, advertised: Option<String>) -> http::Settings {
    let limits = http::Limits {
        record_bytes: config.limits.record_bytes as usize,
        // A body lies there twice; one that takes the whole budget would have to be alone.
        batch_bytes: (config.limits.batch_bytes as usize).min(share(config.memory, 2 * PART)),
        request_memory: share(config.memory, PART).min(REQUEST_BYTES),
        ring_memory: share(config.memory, PART).min(RING_BYTES),
        ..http::Limits::default()
    };
    http::Settings {
        limits,
        cors_origins: config.allowed_origins.clone(),
        allowed_hosts: config.allowed_hosts.clone(),
        listen,
        advertised,
        auto_create_topics: config.auto_create_topics,
        idempotency_retention: config.log.idempotency_retention,
        idempotency_keys_per_partition: config.log.idempotency_keys,
    }
}

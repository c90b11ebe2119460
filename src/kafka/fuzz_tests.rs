use super::*;
use crate::codec::fuzz_tests::{fuzz, peak_bytes};
use crate::codec::messages::tests::any_request;
use crate::codec::{MEMORY_PER_BYTE, messages::ApiKey};
use crate::config::ServerConfig;
use crate::engine::CreateTopic;
use crate::server::Server;
use crate::sys::sim::{SimDisk, machine};
use crate::types::TopicName;
use crate::view::ViewBackend;
use bytes::Bytes;
use std::{net::SocketAddr, path::PathBuf};
use tokio::runtime::{Builder, Runtime};

/// Simulated time that a request gets; then its client is gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a server does for a request and beside it, such as making a topic or writing a snapshot.
const SERVER_BYTES: usize = 24 << 20;
/// A server is used for so many requests, so that what they leave does not grow without end.
const REQUESTS: usize = 500;
/// Partitions of a server that has enough.
const PARTITIONS: usize = 300;

/// A whole server in memory, and its Kafka door.
struct Machine {
    runtime: Runtime,
    /// It is dropped inside its runtime.
    server: Option<Server>,
    door: Door,
    ids: Vec<[u8; 16]>,
    left: usize,
}

const TOPICS: [&str; 3] = ["games", "compacted", "small"];

impl Machine {
    fn start(seed: u64) -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (server, door, ids) = runtime.block_on(async {
            let mut config = ServerConfig::with_memory(64 << 20);
            (config.http, config.kafka, config.peer) = (None, None, None);
            config.data = PathBuf::from("/data");
            let sys = machine(&SimDisk::new(seed), seed, 1_700_000_000_000);
            let server = Server::start_with_views(config, sys.clone(), ViewBackend::Memory).await.unwrap();
            let door = Door::new(server.engine(), sys, Settings { fetch_bytes: 1 << 20, ..Settings::default() });
            let mut ids = Vec::new();
            for name in TOPICS {
                let config = match name {
                    "compacted" => vec![("cleanup.policy".to_owned(), "compact".to_owned())],
                    "small" => vec![("max.message.bytes".to_owned(), "1024".to_owned())],
                    _ => Vec::new(),
                };
                let name = TopicName::new(name).unwrap();
                let request = CreateTopic {
                    name,
                    partitions: Some(2),
                    replication_factor: None,
                    config: config.into_iter().collect(),
                };
                let made = server.engine().create_topic(request).await.unwrap();
                ids.push(*made.info.id.as_bytes());
            }
            (server, door, ids)
        });
        Self { runtime, server: Some(server), door, ids, left: REQUESTS }
    }

    fn is_worn(&self) -> bool {
        let partitions: i32 = self.door.engine().topics().iter().map(|topic| topic.partitions).sum();
        self.left == 0 || partitions as usize > PARTITIONS
    }

    /// Answers a frame, or refuses it; what the frame asks for is given up when it takes too long.
    fn serve(&mut self, frame: Bytes) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        self.left -= 1;
        let _ = self.runtime.block_on(async {
            let answer = match api::begin(&self.door, peer, frame)? {
                connection::Begun::Now(answer) => answer,
                connection::Begun::Soon(preparing) => preparing.await,
            };
            tokio::time::timeout(PATIENCE, answer).await.unwrap_or(Ok(None))
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.server.take());
    }
}

#[test]
fn no_request_takes_the_server_down_or_too_much_of_its_memory() {
    let mut machine: Option<Machine> = None;
    fuzz("requests", 1500, |source| {
        if machine.as_ref().is_none_or(Machine::is_worn) {
            drop(machine.take());
            machine = Some(Machine::start(source.next()));
        }
        let machine = machine.as_mut().expect("it was just started");
        source.words = TOPICS
            .iter()
            .copied()
            .chain([
                "consumer",
                "range",
                "group",
                "group2",
                "",
                "retention.ms",
                "cleanup.policy",
                "compact",
                "1000",
                "-1",
            ])
            .map(str::to_owned)
            .collect();
        source.ids.clone_from(&machine.ids);
        let mut frame = any_request(source).to_vec();
        if source.one_in(3) {
            // Not its beginning, which says what it is.
            let mut body = frame.split_off(8);
            source.damage(&mut body);
            frame.extend(body);
        }
        let api = ApiKey::from_key(i16::from_be_bytes([frame[0], frame[1]]));
        let bound = MEMORY_PER_BYTE * frame.len() + SERVER_BYTES;
        let frame = Bytes::from(frame);
        let ((), peak) = peak_bytes(|| machine.serve(frame.clone()));
        let makes_partitions = matches!(api, Some(ApiKey::CreateTopics | ApiKey::CreatePartitions | ApiKey::Metadata));
        assert!(peak <= bound || makes_partitions && machine.is_worn(), "{api:?}: {peak} bytes for {frame:?}");
    });
}

//! The metadata alone: a [`Metadata`] over the twins, with topics that come and go.

use crate::checker::Promise;
use crate::workload::{Page, Sent, Subject, Topics};
use crate::world::{Plan, run, run_seeds};
use futures_util::future::{BoxFuture, FutureExt as _};
use sluice::metadata::{BrokerRegistration, Command, DataFolder, FEATURE_LEVEL, Metadata, NodeSettings};
use sluice::sys::{Lane, Sys, run_blocking};
use sluice::types::{BrokerId, TopicId, TopicName};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const PLAN: Plan = Plan::new(Promise::Durable, 6);
const ME: BrokerId = BrokerId::new(1);

#[test]
fn metadata_keeps_every_topic_that_it_acknowledged() {
    run_seeds("metadata_keeps", PLAN, &|sys, _| start(sys).boxed());
}

#[test]
fn metadata_gives_one_trace_for_one_seed() {
    for seed in 0..5 {
        let once = || run(seed, PLAN, &|sys, _| start(sys).boxed());
        assert_eq!(once(), once(), "seed {seed}");
    }
}

async fn start(sys: Sys) -> Result<Arc<dyn Subject>, String> {
    let folder = {
        let world = sys.clone();
        let open = move || DataFolder::open(&world, Path::new("/data"), ME);
        run_blocking(&*sys.io, Lane::Background, open).await.map_err(|error| error.to_string())?
    };
    let settings = NodeSettings { broker: ME, address: String::new(), submit_timeout: Duration::from_secs(10) };
    let metadata = Metadata::open(sys.clone(), folder.metadata(), settings);
    let metadata = metadata.await.map_err(|error| error.to_string())?;
    let registration = BrokerRegistration {
        broker: ME,
        incarnation: sys.rng.next_u64(),
        storage_id: [1; 16],
        http: None,
        kafka: None,
        peer: None,
        feature_level: FEATURE_LEVEL,
        now_ms: sys.clock.now_ms(),
    };
    metadata.submit(Command::RegisterBroker(registration)).await.map_err(|error| error.to_string())?;
    Ok(Arc::new(Cluster { sys, metadata, _folder: folder }))
}

struct Cluster {
    sys: Sys,
    metadata: Metadata,
    _folder: DataFolder,
}

impl Subject for Cluster {
    fn partitions(&self) -> i32 {
        0
    }

    fn send<'a>(&'a self, _partition: i32, _key: [u8; 16], _values: &'a [String]) -> BoxFuture<'a, Sent> {
        unreachable!("there are no partitions")
    }

    fn read(&self, _partition: i32, _from: i64) -> BoxFuture<'_, Option<Page>> {
        unreachable!("there are no partitions")
    }

    fn epoch_end(&self, _partition: i32, _epoch: i32) -> BoxFuture<'_, Option<(i32, i64)>> {
        unreachable!("there are no partitions")
    }

    fn topics(&self) -> Option<&dyn Topics> {
        Some(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.metadata.shutdown().boxed()
    }
}

impl Topics for Cluster {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move {
            let mut id = [0; 16];
            self.sys.rng.fill(&mut id);
            let id = TopicId::from_random(id);
            let command = Command::CreateTopic {
                name: TopicName::new(name).expect("a good name"),
                id,
                assignment: vec![vec![ME]],
                config: BTreeMap::new(),
                now_ms: self.sys.clock.now_ms(),
            };
            self.metadata.submit(command).await.map_err(|error| error.to_string())?;
            let name = TopicName::new(name).expect("a good name");
            assert!(self.metadata.image().topic_by_name(&name).is_some(), "an answered change is in the image");
            Ok(id.to_string())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let name = TopicName::new(name).expect("a good name");
            let id = self.metadata.image().topic_by_name(&name).ok_or("it is not there")?.id;
            self.metadata.submit(Command::DeleteTopic { id }).await.map_err(|error| error.to_string())?;
            Ok(())
        }
        .boxed()
    }

    fn list(&self) -> Vec<(String, String)> {
        self.metadata.image().topics().map(|topic| (topic.name.to_string(), topic.id.to_string())).collect()
    }
}

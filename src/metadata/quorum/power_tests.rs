//! The metadata on a disk that loses its power, again and again, at any change of it.

use super::super::{BrokerRegistration, DataFolder};
use super::*;
use crate::sys::Rng as _;
use crate::sys::sim::{DiskFault, DiskOperation, SimDisk, SimRng, machine};
use crate::types::{TopicId, TopicName};
use std::{collections::BTreeSet, path::Path};

const DATA: &str = "/data";

/// What one life of the broker did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Life {
    opened: bool,
    acknowledged: Vec<String>,
    leader_epochs: Vec<i32>,
}

fn run<T>(seed: u64, life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(3600), life).await.expect("it hangs") })
}

/// Starts the broker, checks that it has everything, and makes topics until `stop` says so or a call fails.
async fn live(sys: Sys, number: u64, rng: &SimRng, known: &BTreeSet<String>, topics: u64) -> (Life, Option<Metadata>) {
    let mut life = Life::default();
    let Ok(folder) = DataFolder::open(&sys, Path::new(DATA), BrokerId::new(1)) else { return (life, None) };
    let settings =
        NodeSettings { broker: BrokerId::new(1), address: "a:1".to_owned(), submit_timeout: Duration::from_secs(60) };
    let metadata = match Metadata::open(sys.clone(), folder.metadata(), settings).await {
        Ok(metadata) => metadata,
        Err(error @ (MetadataError::Corrupt(_) | MetadataError::NewerVersion(_))) => panic!("life {number}: {error}"),
        Err(_) => return (life, None),
    };
    life.opened = true;
    let image = metadata.image();
    for name in known {
        let found = image.topic_by_name(&TopicName::new(name).unwrap());
        assert!(found.is_some(), "life {number}: {name} was acknowledged, and is gone");
    }
    let register = Command::RegisterBroker(BrokerRegistration {
        broker: BrokerId::new(1),
        incarnation: number,
        storage_id: folder.identity().storage_id,
        http: None,
        kafka: None,
        peer: None,
        feature_level: FEATURE_LEVEL,
        now_ms: 0,
    });
    if metadata.submit(register).await.is_err() {
        return (life, Some(metadata));
    }
    life.leader_epochs = metadata.image().topics().map(|t| t.partitions[0].leader_epoch.get()).collect();
    for i in 0..topics {
        let name = format!("t{number}-{i}");
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number << 32 | i).to_le_bytes());
        let create = Command::CreateTopic {
            name: TopicName::new(&name).unwrap(),
            id: TopicId::from_bytes(id),
            assignment: vec![vec![BrokerId::new(1)]; 1 + rng.below(8) as usize],
            config: BTreeMap::new(),
            now_ms: 0,
        };
        if metadata.submit(create).await.is_err() {
            break;
        }
        life.acknowledged.push(name);
        if rng.one_in(8) {
            let _ = metadata.0.raft.trigger().snapshot().await;
        }
        if rng.one_in(8) {
            let upto = metadata.0.raft.metrics().borrow().snapshot.map_or(0, |id| id.index);
            let _ = metadata.0.raft.trigger().purge_log(upto).await;
        }
    }
    (life, Some(metadata))
}

/// Some lives on one disk, each ended by a power cut at any change.
fn lives(seed: u64) -> (Vec<Life>, Vec<(PathBuf, u64)>) {
    let disk = SimDisk::new(seed);
    let rng = SimRng::new(seed);
    let mut known = BTreeSet::new();
    let mut lives = Vec::new();
    for number in 1..=8 {
        let life_seed = rng.next_u64();
        let life = run(life_seed, async {
            let sys = machine(&disk, life_seed, 0);
            disk.power_cut_after(1 + rng.below(150));
            let (life, metadata) = live(sys, number, &rng, &known, 40).await;
            assert!(
                disk.is_down() || life.acknowledged.len() == 40,
                "life {number} ended without a power cut: {life:?}"
            );
            disk.power_cut();
            drop(metadata);
            life
        });
        known.extend(life.acknowledged.iter().cloned());
        lives.push(life);
    }
    (lives, disk.files())
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let mut opened = 0;
    let mut acknowledged = 0;
    for seed in 0..60 {
        let (lives, _) = lives(seed);
        opened += lives.iter().filter(|l| l.opened).count();
        acknowledged += lives.iter().map(|l| l.acknowledged.len()).sum::<usize>();
        let mut highest = -1;
        for life in lives.iter().filter(|l| !l.leader_epochs.is_empty()) {
            let now = *life.leader_epochs.iter().max().unwrap();
            assert!(now > highest, "seed {seed}: leader epochs {highest} and then {now}");
            highest = now;
        }
    }
    assert!(opened > 200 && acknowledged > 500, "{opened} starts and {acknowledged} topics prove too little");
}

#[test]
fn one_seed_gives_one_history() {
    for seed in [3, 4] {
        assert_eq!(lives(seed), lives(seed));
    }
}

#[test]
fn after_a_failed_sync_only_what_was_acknowledged_counts() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let rng = SimRng::new(seed);
        let mut known = BTreeSet::new();
        for number in 1..=4 {
            let life_seed = rng.next_u64();
            let life = run(life_seed, async {
                let sys = machine(&disk, life_seed, 0);
                disk.inject(DiskFault::new(DiskOperation::Sync, "metadata").skip(3 + rng.below(30)));
                let (life, metadata) = live(sys, number, &rng, &known, 40).await;
                if let Some(metadata) = metadata.filter(|_| life.acknowledged.len() < 40) {
                    assert!(metadata.failure().is_some(), "seed {seed}: a failed sync is said");
                }
                disk.clear_faults();
                // A crash keeps what the failed sync was to make durable in the page cache, a power cut does not.
                if rng.one_in(2) {
                    disk.power_cut()
                } else {
                    disk.process_crash()
                }
                life
            });
            known.extend(life.acknowledged);
        }
    }
}

use super::super::{BrokerRegistration, Refusal};
use super::*;
use crate::sys::{DirEntry, DirLock, Disk, File, OpenMode, RealDisk};
use crate::types::{TopicId, TopicName};
use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

fn settings() -> NodeSettings {
    NodeSettings {
        broker: BrokerId::new(1),
        address: "127.0.0.1:0".to_owned(),
        submit_timeout: Duration::from_secs(20),
    }
}

async fn open(dir: &Path) -> Metadata {
    Metadata::open(Sys::real(), dir.to_owned(), settings()).await.unwrap()
}

fn register(incarnation: u64) -> Command {
    Command::RegisterBroker(BrokerRegistration {
        broker: BrokerId::new(1),
        incarnation,
        storage_id: [1; 16],
        http: Some("127.0.0.1:8080".to_owned()),
        kafka: None,
        peer: None,
        feature_level: FEATURE_LEVEL,
        now_ms: 1,
    })
}

fn create(name: &str, id: u8) -> Command {
    Command::CreateTopic {
        name: TopicName::new(name).unwrap(),
        id: TopicId::from_bytes([id; 16]),
        assignment: vec![vec![BrokerId::new(1)]; 2],
        config: BTreeMap::new(),
        now_ms: 2,
    }
}

#[tokio::test]
async fn a_broker_alone_leads_at_once_and_finds_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = open(folder.path()).await;
    assert_eq!(metadata.controller(), Some(BrokerId::new(1)));
    assert_eq!(metadata.submit(register(1)).await, Ok(Response::Registered { broker_epoch: 1 }));
    let mut watch = metadata.watch();
    watch.mark_unchanged();
    assert_eq!(metadata.submit(create("a", 1)).await, Ok(Response::Done));
    assert!(watch.has_changed().unwrap());
    assert_eq!(metadata.image().topics().count(), 1, "the image has what was answered");
    let refused = metadata.submit(create("a", 2)).await.unwrap_err();
    assert_eq!(refused, MetadataError::Refused(Refusal::TopicExists(TopicName::new("a").unwrap())));
    let before = metadata.image();
    metadata.shutdown().await;
    assert_eq!(metadata.submit(create("b", 3)).await, Err(MetadataError::Closed));
    assert_eq!(metadata.failure(), None, "a shutdown is no failure");

    let metadata = open(folder.path()).await;
    assert_eq!(metadata.image().topics, before.topics);
    assert!(metadata.image().version > before.version);
    assert_eq!(metadata.submit(register(2)).await, Ok(Response::Registered { broker_epoch: 2 }));
    let image = metadata.image();
    let topic = image.topic_by_name(&TopicName::new("a").unwrap()).unwrap();
    assert!(topic.partitions.iter().all(|p| p.leader_epoch.get() == 1), "a start raises the leader epochs");
    metadata.shutdown().await;
}

#[tokio::test]
async fn a_broker_that_was_killed_finds_everything_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    for start in 1..=3 {
        let metadata = open(folder.path()).await;
        assert_eq!(metadata.image().topics().count(), usize::from(start - 1));
        metadata.submit(register(u64::from(start))).await.unwrap();
        metadata.submit(create(&format!("t{start}"), start)).await.unwrap();
        drop(metadata); // no shutdown
    }
}

#[tokio::test]
async fn snapshots_take_the_place_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = open(folder.path()).await;
    metadata.submit(register(1)).await.unwrap();
    for i in 0..20 {
        metadata.submit(create(&format!("t{i}"), i)).await.unwrap();
    }
    let raft = &metadata.0.raft;
    raft.trigger().snapshot().await.unwrap();
    let mut metrics = raft.metrics();
    let taken = metrics.wait_for(|m| m.snapshot.is_some_and(|s| s.index >= 20)).await.unwrap().snapshot.unwrap();
    raft.trigger().purge_log(taken.index).await.unwrap();
    metrics.wait_for(|m| m.purged.is_some_and(|p| p.index == taken.index)).await.unwrap();
    let before = metadata.image();
    metadata.shutdown().await;
    let again = open(folder.path()).await;
    assert_eq!(again.image().topics, before.topics);
    again.shutdown().await;

    // The vote was in the log: without it the snapshot alone is not enough.
    RealDisk.remove_file(&folder.path().join("raft.wal")).unwrap();
    let refused = Metadata::open(Sys::real(), folder.path().to_owned(), settings()).await.err();
    assert!(matches!(refused, Some(MetadataError::Corrupt(_))), "{refused:?}");
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = open(folder.path()).await;
    metadata.0.raft.trigger().snapshot().await.unwrap();
    metadata.0.raft.metrics().wait_for(|m| m.snapshot.is_some()).await.unwrap();
    metadata.shutdown().await;
    let path = folder.path().join("snapshot");
    let sound = RealDisk.read(&path).unwrap();
    for byte in [0, 13, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[byte] ^= 1;
        RealDisk.write_atomic(&path, &bytes).unwrap();
        let refused = Metadata::open(Sys::real(), folder.path().to_owned(), settings()).await.err();
        assert!(matches!(refused, Some(MetadataError::Corrupt(_))), "byte {byte}: {refused:?}");
    }
}

/// The machine's disk, whose syncs fail and whose room ends when it is told so.
struct FailingDisk {
    fail_syncs: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
}

struct FailingFile {
    file: Arc<dyn File>,
    fail_syncs: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
}

impl FailingFile {
    fn check(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.fail_syncs.load(Ordering::SeqCst) { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }
}

impl File for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.try_read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync_all()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (fail_syncs, syncs) = (self.fail_syncs.clone(), self.syncs.clone());
        Ok(Arc::new(FailingFile { file: RealDisk.open(path, mode)?, fail_syncs, syncs }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealDisk.read_dir(path)
    }
    fn exists(&self, path: &Path) -> bool {
        RealDisk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<u64> {
        if self.full.load(Ordering::SeqCst) { Ok(1000) } else { RealDisk.free_space(path) }
    }
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        RealDisk.lock_dir(path)
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_it_is_never_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let (fail_syncs, syncs, full) = (Arc::default(), Arc::default(), Arc::default());
    let disk = FailingDisk { fail_syncs: Arc::clone(&fail_syncs), syncs: Arc::clone(&syncs), full: Arc::clone(&full) };
    let sys = Sys { disk: Arc::new(disk), ..Sys::real() };
    let metadata = Metadata::open(sys, folder.path().to_owned(), settings()).await.unwrap();
    metadata.submit(register(1)).await.unwrap();

    full.store(true, Ordering::SeqCst);
    assert_eq!(metadata.submit(create("a", 1)).await, Err(MetadataError::DiskFull));
    full.store(false, Ordering::SeqCst);
    assert_eq!(metadata.submit(create("a", 1)).await, Ok(Response::Done), "room again");
    assert_eq!(metadata.failure(), None);

    fail_syncs.store(true, Ordering::SeqCst);
    let failed = metadata.submit(create("b", 2)).await;
    assert!(matches!(failed, Err(MetadataError::Failed(_))), "{failed:?}");
    let tried = syncs.load(Ordering::SeqCst);
    // The disk is well again, but what was written meanwhile may be lost without a word.
    fail_syncs.store(false, Ordering::SeqCst);
    let failed = metadata.submit(create("c", 3)).await;
    assert!(matches!(failed, Err(MetadataError::Failed(_))), "{failed:?}");
    let reason = timeout(Duration::from_secs(20), metadata.failed()).await.unwrap();
    assert!(reason.contains("the disk is broken"), "{reason}");
    metadata.shutdown().await;
    assert_eq!(syncs.load(Ordering::SeqCst), tried);
    assert_eq!(metadata.image().topics().count(), 1);
}

#[tokio::test]
async fn many_changes_at_once_are_all_made() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = open(folder.path()).await;
    metadata.submit(register(1)).await.unwrap();
    let made = futures_util::future::join_all((0..50).map(|i| {
        let metadata = metadata.clone();
        async move { metadata.submit(create(&format!("t{i}"), i)).await }
    }));
    assert!(made.await.into_iter().all(|r| r == Ok(Response::Done)));
    assert_eq!(metadata.image().topics().count(), 50);
    metadata.shutdown().await;
}

use super::*;
use crate::codec::{BatchBuilder, Compression, RecordBatch};
use crate::types::{Header, HighWatermark, LogStartOffset, PartitionProgress, Record};
use futures_util::future::BoxFuture;
use proptest::prelude::*;

/// A log in memory: batches, and what happens to them.
struct FakeLog {
    id: TopicPartition,
    contents: Mutex<Contents>,
    progress: watch::Sender<PartitionProgress>,
}

#[derive(Default)]
struct Contents {
    batches: Vec<RecordBatch>,
    /// Epochs and where they begin.
    epochs: Vec<(LeaderEpoch, Offset)>,
    /// The places that were read from.
    reads: Vec<i64>,
}

impl FakeLog {
    fn new(partition: i32) -> Arc<Self> {
        let id = TopicPartition { topic: topic(), partition: PartitionId::new(partition) };
        let progress = PartitionProgress { online: true, ..PartitionProgress::default() };
        let log = Self { id, contents: Mutex::default(), progress: watch::Sender::new(progress) };
        log.lead(1);
        Arc::new(log)
    }

    fn end(contents: &Contents) -> Offset {
        contents.batches.last().map_or(Offset::ZERO, |b| b.header().next_offset())
    }

    fn lead(&self, epoch: i32) {
        let mut contents = self.contents.lock();
        let end = Self::end(&contents);
        contents.epochs.push((LeaderEpoch::new(epoch), end));
        self.progress.send_modify(|p| {
            p.leader_epoch = LeaderEpoch::new(epoch);
            p.high_watermark = end.into();
        });
    }

    fn append(&self, records: &[Record]) {
        let mut contents = self.contents.lock();
        let epoch = contents.epochs.last().unwrap().0;
        let mut builder = BatchBuilder::new(Self::end(&contents), epoch);
        for record in records {
            builder.push(record.timestamp_ms.unwrap_or(0), record);
        }
        let mut bytes = builder.finish(Compression::None);
        contents.batches.push(RecordBatch::split_from(&mut bytes).unwrap());
        let end = Self::end(&contents);
        self.progress.send_modify(|p| p.high_watermark = HighWatermark::from(end));
    }

    /// What a power cut does under `flush=os`: the last batches are gone.
    fn lose_batches(&self, count: usize) {
        let mut contents = self.contents.lock();
        let left = contents.batches.len() - count;
        contents.batches.truncate(left);
        let end = Self::end(&contents);
        contents.epochs.retain(|(_, start)| *start < end);
    }

    /// Only up, as every log start.
    fn move_start(&self, to: i64) {
        self.progress.send_modify(|p| p.log_start = p.log_start.max(LogStartOffset::new(to)));
    }
}

impl LogSource for FakeLog {
    fn id(&self) -> TopicPartition {
        self.id
    }

    fn read(&self, from: Offset, end: Offset, max_bytes: usize) -> BoxFuture<'_, Result<Vec<RecordBatch>, LogError>> {
        let mut contents = self.contents.lock();
        contents.reads.push(from.get());
        let mut bytes = 0;
        let mut batches = Vec::new();
        for batch in &contents.batches {
            let wanted = batch.header().next_offset() > from && batch.header().base_offset < end;
            if wanted && (batches.is_empty() || bytes < max_bytes) {
                bytes += batch.bytes().len();
                batches.push(batch.clone());
            }
        }
        Box::pin(async { Ok(batches) })
    }

    fn watch(&self) -> watch::Receiver<PartitionProgress> {
        self.progress.subscribe()
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        let contents = self.contents.lock();
        let at = contents.epochs.iter().rposition(|(e, _)| *e <= epoch);
        let Some(at) = at else { return (LeaderEpoch::ZERO, Offset::ZERO) };
        let end = contents.epochs.get(at + 1).map_or_else(|| Self::end(&contents), |(_, start)| *start);
        (contents.epochs[at].0, end)
    }
}

fn topic() -> TopicId {
    TopicId::from_bytes([7; 16])
}

fn p(n: i32) -> PartitionId {
    PartitionId::new(n)
}

fn record(key: &str, value: Option<&str>, timestamp_ms: i64) -> Record {
    Record {
        timestamp_ms: Some(timestamp_ms),
        key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|v| Bytes::copy_from_slice(v.as_bytes())),
        headers: vec![Header { name: Bytes::from_static(b"h"), value: None }],
    }
}

fn settings(backend: ViewBackend) -> ViewSettings {
    ViewSettings { backend, cache_bytes: 1 << 20, wait: Duration::from_secs(20) }
}

async fn open(sys: &Sys, dir: &Path, backend: ViewBackend) -> Arc<LatestView> {
    LatestView::open(sys.clone(), dir.to_owned(), settings(backend)).await.unwrap()
}

fn ensure(view: &LatestView, logs: &[Arc<FakeLog>]) {
    for log in logs {
        view.ensure_source(log.id, Arc::as_ptr(log).cast(), || log.clone());
    }
}

/// Every row of a topic, as (partition, key, value, offset), page by page.
async fn rows(view: &LatestView, snapshot: &Snapshot, max_bytes: usize) -> Vec<(i32, String, String, i64)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = view.page(snapshot, after, max_bytes).await.unwrap();
        for (partition, r) in page.records {
            rows.push((partition.get(), text(&r.key.unwrap()), text(&r.value.unwrap()), r.offset.get()));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
}

fn row(partition: i32, key: &str, value: &str, offset: i64) -> (i32, String, String, i64) {
    (partition, key.to_owned(), value.to_owned(), offset)
}

#[tokio::test]
async fn a_snapshot_has_the_latest_of_each_key_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let view = open(&Sys::real(), folder.path(), ViewBackend::Sled).await;
    let logs = [FakeLog::new(0), FakeLog::new(1)];
    assert_eq!(view.snapshot(topic(), &[p(0)]).await, Err(ViewError::NotViewed(p(0))));
    ensure(&view, &logs);
    logs[0].append(&[record("b", Some("1"), 1), record("a", Some("2"), 2), record("", Some("no key"), 3)]);
    logs[0].append(&[record("b", Some("4"), 4), record("gone", Some("5"), 5), record("gone", None, 6)]);
    logs[1].append(&[record("a", Some("other"), 1)]);
    let snapshot = view.snapshot(topic(), &[p(1), p(0)]).await.unwrap();
    let one = LeaderEpoch::new(1);
    assert_eq!(snapshot.applied, [(p(0), Offset::new(6), one), (p(1), Offset::new(1), one)]);
    let expected = vec![row(0, "a", "2", 1), row(0, "b", "4", 3), row(1, "a", "other", 0)];
    for max_bytes in [0, 1, 3, 1000] {
        assert_eq!(rows(&view, &snapshot, max_bytes).await, expected, "{max_bytes} bytes a page");
    }

    // What changes after the snapshot comes live.
    logs[0].append(&[record("a", Some("new"), 9)]);
    view.snapshot(topic(), &[p(0)]).await.unwrap();
    assert_eq!(rows(&view, &snapshot, 1000).await, expected[1..]);

    // What retention took is left out, and then removed.
    logs[0].move_start(6);
    let snapshot = view.snapshot(topic(), &[p(0), p(1)]).await.unwrap();
    assert_eq!(rows(&view, &snapshot, 1000).await, [row(0, "a", "new", 6), row(1, "a", "other", 0)]);
    assert_eq!(view.latest(topic(), &[p(0)], b"b").await.unwrap(), None);
    view.close().await;
    assert!(view.snapshot(topic(), &[p(0)]).await.is_err());
}

#[tokio::test]
async fn the_latest_over_partitions_is_by_time_and_a_tombstone_hides_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let view = open(&Sys::real(), folder.path(), ViewBackend::Sled).await;
    let logs = [FakeLog::new(0), FakeLog::new(1)];
    ensure(&view, &logs);
    let both = [p(0), p(1)];
    logs[0].append(&[record("k", Some("old"), 10)]);
    logs[1].append(&[record("k", Some("new"), 20)]);
    let (partition, found) = view.latest(topic(), &both, b"k").await.unwrap().unwrap();
    assert_eq!((partition, found.value.as_deref(), found.timestamp_ms), (p(1), Some(&b"new"[..]), 20));
    assert_eq!(found.headers, record("k", None, 0).headers);
    assert_eq!(view.latest(topic(), &both[..1], b"k").await.unwrap().unwrap().0, p(0));
    logs[1].append(&[record("k", None, 30)]);
    assert_eq!(view.latest(topic(), &both, b"k").await.unwrap(), None);
    logs[0].append(&[record("k", Some("newest"), 31)]);
    assert_eq!(view.latest(topic(), &both, b"k").await.unwrap().unwrap().0, p(0));
    view.close().await;
}

#[tokio::test]
async fn large_records_are_read_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let view = open(&Sys::real(), folder.path(), ViewBackend::Sled).await;
    let log = FakeLog::new(0);
    ensure(&view, std::slice::from_ref(&log));
    let large = "x".repeat(row::COPY_BYTES + 1);
    log.append(&[record("small", Some("1"), 1), record("large", Some(&large), 2), record("small", Some("3"), 3)]);
    let snapshot = view.snapshot(topic(), &[p(0)]).await.unwrap();
    let all = vec![row(0, "large", &large, 1), row(0, "small", "3", 2)];
    assert_eq!(rows(&view, &snapshot, 10).await, all);
    let latest = view.latest(topic(), &[p(0)], b"large").await.unwrap().unwrap().1;
    assert_eq!(latest.value.unwrap().len(), large.len());
    view.close().await;
}

async fn answers(view: &LatestView, logs: &[Arc<FakeLog>]) -> impl PartialEq + std::fmt::Debug + use<> {
    ensure(view, logs);
    let partitions: Vec<_> = logs.iter().map(|log| log.id.partition).collect();
    let snapshot = view.snapshot(topic(), &partitions).await.unwrap();
    let rows = rows(view, &snapshot, 64).await;
    let mut latest = Vec::new();
    for key in 0..30 {
        latest.push(view.latest(topic(), &partitions, format!("k{key}").as_bytes()).await.unwrap());
    }
    (snapshot, rows, latest)
}

fn fill(logs: &[Arc<FakeLog>]) {
    for i in 0..300_i64 {
        let value = (i % 7 != 0).then(|| format!("v{i}"));
        logs[i as usize % logs.len()].append(&[record(&format!("k{}", i * 31 % 29), value.as_deref(), i)]);
    }
    logs[0].move_start(20);
}

#[tokio::test]
async fn without_its_folder_the_view_gives_the_same_answers() {
    let sys = Sys::real();
    for backend in [ViewBackend::Sled, ViewBackend::Memory] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("view");
        let logs = [FakeLog::new(0), FakeLog::new(1), FakeLog::new(2)];
        fill(&logs);
        let view = open(&sys, &dir, backend).await;
        let first = answers(&view, &logs).await;
        view.close().await;

        logs.iter().for_each(|log| log.contents.lock().reads.clear());
        let view = open(&sys, &dir, backend).await;
        assert!(answers(&view, &logs).await == first, "{backend:?}: opened again");
        view.close().await;
        assert!(logs.iter().all(|log| log.contents.lock().reads.is_empty()), "{backend:?}: nothing was applied twice");

        sys.disk.remove_dir_all(&dir).unwrap();
        let view = open(&sys, &dir, backend).await;
        assert!(answers(&view, &logs).await == first, "{backend:?}: built anew");
        view.close().await;
    }
}

#[tokio::test]
async fn a_damaged_store_is_moved_aside_and_built_anew() {
    let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
    let dir = folder.path().join("view");
    let logs = [FakeLog::new(0)];
    fill(&logs);
    let view = open(&sys, &dir, ViewBackend::Sled).await;
    let first = answers(&view, &logs).await;
    view.close().await;
    drop(view);
    sys.disk.write_atomic(&dir.join("conf"), b"\0\0not what sled wrote\0\0").unwrap();
    let view = open(&sys, &dir, ViewBackend::Sled).await;
    assert!(answers(&view, &logs).await == first);
    view.close().await;
    assert!(sys.disk.exists(&folder.path().join("view.damaged")));
}

#[tokio::test]
async fn a_log_that_lost_its_tail_gets_its_rows_made_anew() {
    let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
    let log = FakeLog::new(0);
    log.append(&[record("a", Some("kept"), 1)]);
    log.append(&[record("a", Some("lost"), 2), record("b", Some("lost"), 3)]);
    let view = open(&sys, folder.path(), ViewBackend::Sled).await;
    ensure(&view, std::slice::from_ref(&log));
    assert_eq!(rows(&view, &view.snapshot(topic(), &[p(0)]).await.unwrap(), 99).await.len(), 2);
    view.close().await;

    log.lose_batches(1);
    log.lead(2);
    // The same length again, but other records: only the epoch tells.
    log.append(&[record("c", Some("new"), 4), record("c", Some("newer"), 5)]);
    let view = open(&sys, folder.path(), ViewBackend::Sled).await;
    ensure(&view, std::slice::from_ref(&log));
    let snapshot = view.snapshot(topic(), &[p(0)]).await.unwrap();
    assert_eq!(snapshot.applied, [(p(0), Offset::new(3), LeaderEpoch::new(2))]);
    assert_eq!(rows(&view, &snapshot, 99).await, [row(0, "a", "kept", 0), row(0, "c", "newer", 2)]);

    // The same while it runs, as a follower does that truncates to its leader.
    log.lose_batches(1);
    log.lead(3);
    log.append(&[record("d", Some("1"), 6)]);
    let snapshot = view.snapshot(topic(), &[p(0)]).await.unwrap();
    assert_eq!(rows(&view, &snapshot, 99).await, [row(0, "a", "kept", 0), row(0, "d", "1", 1)]);
    view.close().await;
}

#[tokio::test]
async fn a_deleted_partition_leaves_no_rows() {
    let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
    let logs = [FakeLog::new(0), FakeLog::new(1), FakeLog::new(2)];
    fill(&logs);
    let view = open(&sys, folder.path(), ViewBackend::Sled).await;
    answers(&view, &logs).await;
    view.retain(|partition| partition != logs[0].id).await.unwrap();
    assert_eq!(view.snapshot(topic(), &[p(0)]).await, Err(ViewError::NotViewed(p(0))));
    assert!(view.snapshot(topic(), &[p(1)]).await.is_ok());
    view.close().await;
    let view = open(&sys, folder.path(), ViewBackend::Sled).await;
    view.retain(|partition| partition == logs[2].id).await.unwrap();
    let left = |id| {
        let store = view.shared.store.clone();
        let mut count = 0;
        store
            .scan(&row::latest_prefix(id), &[], &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        (count, store.get(&row::applied_key(id)).unwrap().is_some())
    };
    assert_eq!(left(logs[0].id), (0, false));
    assert_eq!(left(logs[1].id), (0, false));
    assert!(left(logs[2].id).0 > 0 && left(logs[2].id).1);
    view.close().await;
}

#[tokio::test]
async fn an_offline_log_is_an_answer_and_not_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    let view = open(&Sys::real(), folder.path(), ViewBackend::Memory).await;
    let log = FakeLog::new(0);
    log.append(&[record("a", Some("1"), 1)]);
    log.progress.send_modify(|p| p.online = false);
    ensure(&view, std::slice::from_ref(&log));
    assert!(matches!(view.snapshot(topic(), &[p(0)]).await, Err(ViewError::Log { .. })));
    log.progress.send_modify(|p| p.online = true);
    while view.snapshot(topic(), &[p(0)]).await.is_err() {
        tokio::task::yield_now().await;
    }
    view.close().await;
}

#[test]
fn the_simulations_store_forgets_what_no_checkpoint_covered() {
    let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
    let path = folder.path().join("rows");
    let put = |store: &MemoryStore, key: &[u8]| {
        store.apply_batch(Changes::from([(key.to_vec(), Some(key.to_vec()))])).unwrap();
    };
    let store = MemoryStore::open(sys.disk.clone(), path.clone());
    put(&store, b"a");
    store.checkpoint().unwrap();
    put(&store, b"b");
    let store = MemoryStore::open(sys.disk.clone(), path.clone());
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"a"[..]));
    assert_eq!(store.get(b"b").unwrap(), None);
    sys.disk.write_atomic(&path, b"garbage").unwrap();
    assert_eq!(MemoryStore::open(sys.disk.clone(), path).get(b"a").unwrap(), None);
}

#[derive(Debug, Clone)]
enum Op {
    Append { partition: usize, records: Vec<(u8, Option<u8>)> },
    MoveStart { partition: usize },
    Reopen { keep: bool },
    LoseTail { partition: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let records = proptest::collection::vec((0..6_u8, proptest::option::weighted(0.7, any::<u8>())), 1..5);
    prop_oneof![
        6 => (0..2_usize, records).prop_map(|(partition, records)| Op::Append { partition, records }),
        1 => (0..2_usize).prop_map(|partition| Op::MoveStart { partition }),
        1 => any::<bool>().prop_map(|keep| Op::Reopen { keep }),
        1 => (0..2_usize).prop_map(|partition| Op::LoseTail { partition }),
    ]
}

/// What the rows must be: the log itself, walked.
fn model(logs: &[Arc<FakeLog>]) -> Vec<(i32, String, String, i64)> {
    let mut rows = Vec::new();
    for log in logs {
        let log_start = log.progress.borrow().log_start.offset();
        let mut latest = BTreeMap::new();
        for batch in &log.contents.lock().batches {
            for record in batch.records(DECOMPRESS).unwrap().map(Result::unwrap) {
                latest.insert(record.key.clone().unwrap(), record);
            }
        }
        for (key, r) in latest {
            if let (Some(value), true) = (r.value, r.offset >= log_start) {
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                rows.push((log.id.partition.get(), text(&key), text(&value), r.offset.get()));
            }
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_view_is_the_log_walked(ops in proptest::collection::vec(op(), 1..30), max_bytes in 0..40_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sys, folder) = (Sys::real(), tempfile::tempdir().unwrap());
            let dir = folder.path().join("view");
            let logs = [FakeLog::new(0), FakeLog::new(1)];
            let mut view = open(&sys, &dir, ViewBackend::Sled).await;
            let mut epoch = 1;
            for op in ops {
                match op {
                    Op::Append { partition, records } => {
                        let records: Vec<_> = records
                            .iter()
                            .map(|(k, v)| record(&format!("k{k}"), v.map(|v| v.to_string()).as_deref(), 1))
                            .collect();
                        logs[partition].append(&records);
                    }
                    Op::MoveStart { partition } => {
                        let end = FakeLog::end(&logs[partition].contents.lock());
                        logs[partition].move_start(end.get() / 2);
                    }
                    Op::Reopen { keep } => {
                        view.close().await;
                        if !keep {
                            sys.disk.remove_dir_all(&dir).unwrap();
                        }
                        view = open(&sys, &dir, ViewBackend::Sled).await;
                    }
                    Op::LoseTail { partition } => {
                        // As at a start: the view is closed meanwhile. What is below the log start is never lost.
                        view.close().await;
                        let log = &logs[partition];
                        let log_start = log.progress.borrow().log_start.offset();
                        let last = log.contents.lock().batches.last().map(|b| b.header().base_offset);
                        if last.is_some_and(|base| base >= log_start) {
                            log.lose_batches(1);
                        }
                        epoch += 1;
                        log.lead(epoch);
                        view = open(&sys, &dir, ViewBackend::Sled).await;
                    }
                }
                ensure(&view, &logs);
                let snapshot = view.snapshot(topic(), &[p(0), p(1)]).await.unwrap();
                assert_eq!(rows(&view, &snapshot, max_bytes).await, model(&logs));
            }
            view.close().await;
        });
    }
}

use super::super::state_machine::StateMachine;
use super::*;
use openraft::testing::{StoreBuilder, Suite};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let (sys, failure) = (Sys::real(), Failure::new());
        let state = StateMachine::open(&sys, folder.path().join("snapshot"), failure.clone()).unwrap();
        let log = LogStore::open(&sys, folder.path().join("raft.wal"), 0, failure).unwrap();
        Ok((folder, log, state))
    }
}

/// openraft's own suite for storages.
#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

fn entry(index: u64, text: &str) -> Entry {
    let mut changes = BTreeMap::new();
    changes.insert("text".to_owned(), Some(text.to_owned()));
    let command = super::super::Command::SetClusterConfig { changes };
    Entry {
        log_id: LogId::new(openraft::CommittedLeaderId::new(1, 1), index),
        payload: openraft::EntryPayload::Normal(super::super::Versioned { level: 1, command }),
    }
}

async fn append(log: &LogStore, entries: impl IntoIterator<Item = Entry>) {
    let payloads = entries.into_iter().map(|e| log.record(WalRecord::Entry(e)).unwrap()).collect();
    log.write_and_wait(payloads).await.unwrap();
}

#[tokio::test]
async fn everything_stored_is_there_again_also_after_compaction() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raft.wal");
    let sys = Sys::real();
    let open = || LogStore::open(&sys, path.clone(), 7, Failure::new()).unwrap();
    let mut log = open();
    assert!(log.is_empty());
    log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    let large = "x".repeat(100_000);
    for index in 0..100 {
        append(&log, [entry(index, &large)]).await;
        if index % 10 == 9 {
            log.purge(entry(index - 5, "").log_id).await.unwrap();
        }
    }
    log.truncate(entry(95, "").log_id).await.unwrap();
    append(&log, [entry(95, "after")]).await;
    log.close().await;
    let len = sys.disk.open(&path, crate::sys::OpenMode::Read).unwrap().len().unwrap();
    assert!(len < 6 << 20, "it was compacted: 10 MB went in, {len} bytes are left");
    let mut again = open();
    assert_eq!(again.read_vote().await.unwrap(), Some(Vote::new(3, 7)), "a leader comes back as a candidate");
    let entries = again.try_get_log_entries(0..).await.unwrap();
    assert_eq!(entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), [95]);
    assert_eq!(entries[0], entry(95, "after"));
    let state = again.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id.unwrap().index, 94);
}

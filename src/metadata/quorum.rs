//! This broker's member of the controller's Raft group.
//!
//! **Invariant**: [`Metadata::submit`] answers only what is durable on a quorum, and the image has it by then. One
//! broker alone is a quorum of one by the same code: only its network and its list of voters differ.

use super::network::Alone;
use super::raft_types::{self, NodeId, Raft};
use super::state_machine::StateMachine;
use super::store::{Failure, LogStore};
use super::{Command, FEATURE_LEVEL, MetadataError, MetadataImage, Response, Versioned};
use crate::sys::{Lane, Sys, run_blocking};
use crate::types::BrokerId;
use openraft::{
    BasicNode, Config, SnapshotPolicy,
    error::{ClientWriteError, Fatal, RaftError},
};
use std::{collections::BTreeMap, future::pending, path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Entries between two snapshots: replaying so many takes a fraction of a second.
const SNAPSHOT_EVERY: u64 = 4096;
/// Entries kept behind a snapshot, so that a member that is a little late needs no snapshot.
const KEEP_ENTRIES: u64 = 1024;
/// The leader says so often that it lives, in milliseconds; a follower waits this range before it wants to lead.
const HEARTBEAT_MS: u64 = 300;
const ELECTION_MS: (u64, u64) = (1000, 2000);
/// How long the start waits for a leader and for what was committed. A broker alone takes a few milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Below this much room on the disk no change is begun: a log that can not be written stops the broker.
const MIN_FREE_BYTES: u64 = 4 << 20;

/// What a broker's member of the group needs to know.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// This broker.
    pub broker: BrokerId,
    /// Where other members reach it (`host:port`); any text while it is alone.
    pub address: String,
    /// How long [`Metadata::submit`] waits.
    pub submit_timeout: Duration,
}

/// The cluster's metadata on this broker. Cheap to clone.
#[derive(Clone)]
pub struct Metadata(Arc<Inner>);

struct Inner {
    sys: Sys,
    dir: PathBuf,
    raft: Raft,
    log: LogStore,
    images: watch::Receiver<Arc<MetadataImage>>,
    failure: Failure,
    submit_timeout: Duration,
}

impl Metadata {
    /// Opens the store in `dir` (made if it is not there), joins the group, and waits until what was committed is
    /// applied. A store that is empty becomes a cluster of this broker alone.
    ///
    /// # Errors
    /// Damage, a newer version, or what the disk says.
    pub async fn open(sys: Sys, dir: PathBuf, settings: NodeSettings) -> Result<Self, MetadataError> {
        raft_types::seed(sys.rng.next_u64());
        let me = settings.broker.get() as NodeId;
        let failure = Failure::new();
        let (log, state) = {
            let (sys, dir, failure) = (sys.clone(), dir.clone(), failure.clone());
            let io = sys.io.clone();
            run_blocking(&*io, Lane::Background, move || open_stores(&sys, &dir, me, &failure)).await?
        };
        let images = state.watch();
        let was_empty = log.is_empty();
        let raft =
            Raft::new(me, Arc::new(raft_config()), Alone, log.clone(), state).await.map_err(|e| fatal(&failure, &e))?;
        let metadata =
            Self(Arc::new(Inner { sys, dir, raft, log, images, failure, submit_timeout: settings.submit_timeout }));
        metadata.start(me, was_empty, &settings.address).await?;
        Ok(metadata)
    }

    async fn start(&self, me: NodeId, was_empty: bool, address: &str) -> Result<(), MetadataError> {
        let Inner { raft, failure, .. } = &*self.0;
        if was_empty {
            let alone = BTreeMap::from([(me, BasicNode::new(address))]);
            raft.initialize(alone).await.map_err(|e| match e {
                RaftError::Fatal(e) => fatal(failure, &e),
                RaftError::APIError(e) => MetadataError::Failed(e.to_string()),
            })?;
        } else {
            // Asked of the core itself: its metrics may not have been told of the membership yet.
            let is_alone = raft.with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([me]));
            if is_alone.await.map_err(|e| fatal(failure, &e))? {
                // Nobody else could win, so there is no election timeout to wait for.
                raft.trigger().elect().await.map_err(|e| fatal(failure, &e))?;
            }
        }
        let mut metrics = raft.metrics();
        let caught_up = metrics.wait_for(|m| {
            m.running_state.is_err()
                || (m.current_leader.is_some() && m.last_applied.map(|id| id.index) == m.last_log_index)
        });
        match timeout(START_TIMEOUT, caught_up).await {
            Ok(Ok(metrics)) => metrics.running_state.as_ref().map_err(|e| fatal(failure, e)).copied(),
            Ok(Err(_closed)) => Err(MetadataError::Closed),
            Err(_elapsed) => Err(MetadataError::NoController),
        }
    }

    /// The newest image.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        self.0.images.borrow().clone()
    }

    /// The newest image and each one after it (a slow reader misses those in between).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<MetadataImage>> {
        self.0.images.clone()
    }

    /// Asks the controller for a change. When it answers, the change is durable and [`Self::image`] has it.
    ///
    /// # Errors
    /// [`MetadataError::Refused`] if the controller said no; [`MetadataError::TimedOut`] if it is not known.
    pub async fn submit(&self, command: Command) -> Result<Response, MetadataError> {
        let write = async {
            self.check_room().await?;
            let written = self.0.raft.client_write(Versioned { level: FEATURE_LEVEL, command }).await;
            match written.map_err(|e| self.write_error(e))?.data {
                Response::Refused(refusal) => Err(refusal.into()),
                response => Ok(response),
            }
        };
        timeout(self.0.submit_timeout, write).await.unwrap_or(Err(MetadataError::TimedOut))
    }

    async fn check_room(&self) -> Result<(), MetadataError> {
        let (disk, dir) = (self.0.sys.disk.clone(), self.0.dir.clone());
        let free = run_blocking(&*self.0.sys.io, Lane::Read, move || disk.free_space(&dir)).await;
        // A file system that does not say is taken to have room.
        if free.is_ok_and(|bytes| bytes < MIN_FREE_BYTES) { Err(MetadataError::DiskFull) } else { Ok(()) }
    }

    fn write_error(&self, error: RaftError<NodeId, ClientWriteError<NodeId, BasicNode>>) -> MetadataError {
        match error {
            RaftError::Fatal(e) => fatal(&self.0.failure, &e),
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => MetadataError::NoController,
            RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => MetadataError::Failed(e.to_string()),
        }
    }

    /// The broker that leads the metadata; `None` while there is none.
    #[must_use]
    pub fn controller(&self) -> Option<BrokerId> {
        let leader = self.0.raft.metrics().borrow().current_leader?;
        i32::try_from(leader).ok().map(BrokerId::new)
    }

    /// Why nothing can be changed any more, if the store failed. The broker must stop saying that it is ready.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let stopped = match &self.0.raft.metrics().borrow().running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(e) => Some(e.to_string()),
        };
        self.0.failure.get().or(stopped)
    }

    /// Resolves when the store fails, with the reason; never, if it does not.
    pub async fn failed(&self) -> String {
        let mut metrics = self.0.raft.metrics();
        let mut store = self.0.failure.watch();
        loop {
            if let Some(reason) = self.failure() {
                return reason;
            }
            let closed = tokio::select! {
                biased;
                changed = store.changed() => changed.is_err(),
                changed = metrics.changed() => changed.is_err(),
            };
            if closed {
                return match self.failure() {
                    Some(reason) => reason,
                    None => pending().await,
                };
            }
        }
    }

    /// Stops the member and writes what remains. Nothing can be changed after it.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "the controller did not stop cleanly");
        }
        self.0.log.close().await;
    }
}

fn open_stores(
    sys: &Sys,
    dir: &std::path::Path,
    me: NodeId,
    failure: &Failure,
) -> Result<(LogStore, StateMachine), MetadataError> {
    let failed = |e: std::io::Error| MetadataError::Io { context: format!("making {}", dir.display()), kind: e.kind() };
    sys.disk.create_dir_all(dir).map_err(failed)?;
    let (wal, snapshot) = (dir.join("raft.wal"), dir.join("snapshot"));
    if sys.disk.exists(&snapshot) && !sys.disk.exists(&wal) {
        return Err(MetadataError::Corrupt(format!(
            "{} is missing, and the broker's vote with it: put the data folder back from a backup",
            wal.display()
        )));
    }
    // The snapshot first: it is only read.
    let state = StateMachine::open(sys, snapshot, failure.clone())?;
    Ok((LogStore::open(sys, wal, me, failure.clone())?, state))
}

fn raft_config() -> Config {
    Config {
        cluster_name: "sluice".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        ..Config::default()
    }
}

fn fatal(failure: &Failure, error: &Fatal<NodeId>) -> MetadataError {
    match (failure.get(), error) {
        (Some(reason), _) => MetadataError::Failed(reason),
        (None, Fatal::Stopped) => MetadataError::Closed,
        (None, error) => MetadataError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod tests;

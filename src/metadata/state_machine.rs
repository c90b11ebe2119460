//! The controller behind openraft: applies what is committed, publishes images, and keeps snapshots.
//!
//! **Invariant**: the published image has every command that was answered. The state lies in memory; on the disk are
//! the newest snapshot and the log behind it, from which each start builds it anew.

use super::command::Response;
use super::controller;
use super::image::{ImageForm, MetadataImage};
use super::raft_types::{Entry, LogId, NodeId, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use super::{MetadataError, store::Failure};
use crate::sys::{Lane, Sys, run_blocking};
use openraft::{BasicNode, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError, storage::RaftStateMachine};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{io, io::Cursor, path::PathBuf, sync::Arc};
use tokio::sync::watch;

const FILE_MAGIC: [u8; 8] = *b"SLUISNA\n";
const FILE_VERSION: u32 = 1;
/// Magic, version, CRC of what follows.
const FILE_HEADER_BYTES: usize = 16;

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    image: MetadataImage,
}

struct Shared {
    sys: Sys,
    path: PathBuf,
    applied: Mutex<Applied>,
    published: watch::Sender<Arc<MetadataImage>>,
    failure: Failure,
}

/// The state machine as openraft sees it.
#[derive(Clone)]
pub(super) struct StateMachine(Arc<Shared>);

/// A snapshot's payload, in a file and between brokers.
#[derive(Serialize, Deserialize)]
struct SnapshotForm {
    meta: openraft::SnapshotMeta<NodeId, BasicNode>,
    image: ImageForm,
}

impl StateMachine {
    /// Reads the newest snapshot, if there is one. Blocks.
    pub(super) fn open(sys: &Sys, path: PathBuf, failure: Failure) -> Result<Self, MetadataError> {
        let mut applied = Applied::default();
        if sys.disk.exists(&path) {
            let name = path.display().to_string();
            let bytes = sys
                .disk
                .read(&path)
                .map_err(|e| MetadataError::Io { context: format!("reading {name}"), kind: e.kind() })?;
            let payload = check_file(&bytes, &name)?;
            let form: SnapshotForm = serde_json::from_slice(payload)
                .map_err(|e| MetadataError::Corrupt(format!("{name} holds no snapshot: {e}")))?;
            applied = Applied {
                last: form.meta.last_log_id,
                membership: form.meta.last_membership,
                image: form.image.into(),
            };
        }
        let published = watch::Sender::new(Arc::new(applied.image.clone()));
        Ok(Self(Arc::new(Shared { sys: sys.clone(), path, applied: Mutex::new(applied), published, failure })))
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<MetadataImage>> {
        self.0.published.subscribe()
    }

    async fn save(&self, payload: Vec<u8>) -> Result<(), StorageError> {
        let Shared { sys, path, failure, .. } = &*self.0;
        if let Some(reason) = failure.get() {
            return Err(StorageIOError::write_snapshot(None, &io::Error::other(reason)).into());
        }
        let (disk, path, io) = (sys.disk.clone(), path.clone(), &*sys.io);
        let saved = run_blocking(io, Lane::Background, move || disk.write_atomic(&path, &file_of(&payload))).await;
        saved.map_err(|error| {
            failure.set(format!("writing a snapshot of the metadata: {error}"));
            StorageIOError::write_snapshot(None, &error).into()
        })
    }
}

fn file_of(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&FILE_MAGIC);
    bytes.extend_from_slice(&FILE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn check_file<'a>(bytes: &'a [u8], name: &str) -> Result<&'a [u8], MetadataError> {
    let damaged = |what| MetadataError::Corrupt(format!("{name} is damaged ({what}): put it back from a backup"));
    let (header, payload) = bytes.split_at_checked(FILE_HEADER_BYTES).ok_or_else(|| damaged("too short"))?;
    if header[..8] != FILE_MAGIC {
        return Err(damaged("not a snapshot of the metadata"));
    }
    if header[8..12] != FILE_VERSION.to_le_bytes() {
        return Err(MetadataError::NewerVersion(name.to_owned()));
    }
    if header[12..] != crc32c::crc32c(payload).to_le_bytes() {
        return Err(damaged("its CRC does not match"));
    }
    Ok(payload)
}

#[allow(clippy::result_large_err)] // openraft's own error
fn encode_snapshot(meta: &SnapshotMeta, image: &MetadataImage) -> Result<Vec<u8>, StorageError> {
    let form = SnapshotForm { meta: meta.clone(), image: ImageForm::from(image) };
    serde_json::to_vec(&form).map_err(|e| StorageIOError::write_snapshot(None, &e).into())
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let applied = self.0.applied.lock().clone();
        let meta = SnapshotMeta {
            last_log_id: applied.last,
            last_membership: applied.membership,
            snapshot_id: applied.last.map_or_else(|| "0".to_owned(), |id| format!("{}-{}", id.leader_id, id.index)),
        };
        let payload = encode_snapshot(&meta, &applied.image)?;
        self.save(payload.clone()).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(payload)) })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let applied = self.0.applied.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = self.0.applied.lock();
        let mut responses = Vec::new();
        for entry in entries {
            applied.last = Some(entry.log_id);
            applied.image.version = entry.log_id.index;
            responses.push(match entry.payload {
                EntryPayload::Blank => Response::Done,
                EntryPayload::Normal(command) => controller::apply(&mut applied.image, &command),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Response::Done
                }
            });
        }
        self.0.published.send_replace(Arc::new(applied.image.clone()));
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        // A copy of the state as of now: what is applied while the snapshot is written does not change it.
        let applied = Mutex::new(self.0.applied.lock().clone());
        let Shared { sys, path, published, failure, .. } = &*self.0;
        let (sys, path, published, failure) = (sys.clone(), path.clone(), published.clone(), failure.clone());
        Self(Arc::new(Shared { sys, path, applied, published, failure }))
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let form: SnapshotForm = serde_json::from_slice(snapshot.get_ref())
            .map_err(|e| StorageError::from(StorageIOError::read_snapshot(Some(meta.signature()), &e)))?;
        let image = MetadataImage::from(form.image);
        self.save(encode_snapshot(meta, &image)?).await?;
        let mut applied = self.0.applied.lock();
        *applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone(), image };
        self.0.published.send_replace(Arc::new(applied.image.clone()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let (disk, path) = (self.0.sys.disk.clone(), self.0.path.clone());
        let read = run_blocking(&*self.0.sys.io, Lane::Background, move || {
            if !disk.exists(&path) {
                return Ok(None);
            }
            let bytes = disk.read(&path)?;
            let payload = check_file(&bytes, &path.display().to_string()).map_err(io::Error::other)?;
            let form: SnapshotForm = serde_json::from_slice(payload)?;
            Ok::<_, io::Error>(Some((form.meta, payload.to_vec())))
        });
        let read = read.await.map_err(|e| StorageError::from(StorageIOError::read_snapshot(None, &e)))?;
        Ok(read.map(|(meta, payload)| Snapshot { meta, snapshot: Box::new(Cursor::new(payload)) }))
    }
}

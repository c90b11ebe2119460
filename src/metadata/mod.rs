//! The cluster's truth: which topics there are, who leads which partition, under which epochs.
//!
//! **Invariant**: a change is in the image of a broker only when it is committed, that is durable on a quorum of the
//! controller's Raft group. One broker alone is a quorum of one, by the same code.
//!
//! `engine` submits [`Command`]s to [`Metadata`] and reads the [`MetadataImage`]; both from any thread. The controller
//! itself is a pure state machine; the Raft log lies in a write-ahead file of our own, written by one thread of the I/O
//! pool at a time.

mod command;
mod controller;
mod data_folder;
mod error;
mod form;
mod image;
mod network;
mod quorum;
mod raft_types;
mod state_machine;
mod store;
mod wal;

pub use command::{BrokerRegistration, Command, FEATURE_LEVEL, FeatureLevel, IsrMember, Refusal, Response, Versioned};
pub use controller::MAX_PARTITIONS;
pub use data_folder::{DataFolder, DataFolderError, Identity};
pub use error::MetadataError;
pub use image::{BrokerImage, MetadataImage, PartitionImage, TopicImage, TopicsImage};
pub use quorum::{Metadata, NodeSettings};

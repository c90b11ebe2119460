//! Kafka's messages: one file for each request and its response, in every version that we speak.
//!
//! The files list the fields as the protocol names and orders them: the type, the versions that have it, its tag if it is
//! a tagged field, and its default if that is not zero, empty or null. `messages!` makes structs of them. A field
//! that a version does not have keeps its default when it is read, and is left out when it is written.
//!
//! **Invariant**: reading allocates in proportion to the bytes given (see `wire`), and never panics.
//!
//! Called by `kafka` (a server's side) and `client` (the other one). Pure.

pub mod alter_configs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_topic_partitions;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sasl_authenticate;
pub mod sasl_handshake;
pub mod sync_group;

use super::wire::{Frame, Nullable as _, Reader, Wire, WireError, Writer};
pub(super) use super::wire::{RecordBytes, Uuid};
use bytes::Bytes;
use std::{fmt, ops::RangeInclusive};

macro_rules! api_keys {
    ($($name:ident = $key:literal, $versions:expr, $flexible:expr;)*) => {
        /// A request that we speak, by its key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)] // each is the request of its name
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// Every one, in the order of keys.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The one with this key.
            #[must_use]
            pub const fn from_key(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The versions that these messages can be read and written in.
            #[must_use]
            pub const fn versions(self) -> RangeInclusive<i16> {
                match self {
                    $(Self::$name => $versions,)*
                }
            }

            const fn flexible_from(self) -> Option<i16> {
                match self {
                    $(Self::$name => $flexible,)*
                }
            }
        }
    };
}

api_keys! {
    Produce = 0, 0..=13, Some(9);
    Fetch = 1, 4..=17, Some(12);
    ListOffsets = 2, 1..=10, Some(6);
    Metadata = 3, 0..=13, Some(9);
    OffsetCommit = 8, 2..=10, Some(8);
    OffsetFetch = 9, 1..=10, Some(6);
    FindCoordinator = 10, 0..=6, Some(3);
    JoinGroup = 11, 0..=9, Some(6);
    Heartbeat = 12, 0..=4, Some(4);
    LeaveGroup = 13, 0..=5, Some(4);
    SyncGroup = 14, 0..=5, Some(4);
    DescribeGroups = 15, 0..=6, Some(5);
    ListGroups = 16, 0..=5, Some(3);
    SaslHandshake = 17, 0..=1, None;
    ApiVersions = 18, 0..=4, Some(3);
    CreateTopics = 19, 2..=7, Some(5);
    DeleteTopics = 20, 1..=6, Some(4);
    DeleteRecords = 21, 0..=2, Some(2);
    InitProducerId = 22, 0..=5, Some(2);
    OffsetForLeaderEpoch = 23, 2..=4, Some(4);
    DescribeConfigs = 32, 1..=4, Some(4);
    AlterConfigs = 33, 0..=2, Some(2);
    DescribeLogDirs = 35, 1..=4, Some(2);
    SaslAuthenticate = 36, 0..=2, Some(2);
    CreatePartitions = 37, 0..=3, Some(2);
    DeleteGroups = 42, 0..=2, Some(2);
    IncrementalAlterConfigs = 44, 0..=1, Some(1);
    ListPartitionReassignments = 46, 0..=0, Some(0);
    OffsetDelete = 47, 0..=0, None;
    DescribeCluster = 60, 0..=2, Some(0);
    DescribeProducers = 61, 0..=0, Some(0);
    DescribeTopicPartitions = 75, 0..=0, Some(0);
}

impl ApiKey {
    /// Its key.
    #[must_use]
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Whether this version has tagged fields and compact lengths (KIP-482).
    #[must_use]
    pub fn is_flexible(self, version: i16) -> bool {
        self.flexible_from().is_some_and(|from| version >= from)
    }

    /// Whether the response's header is the one with tagged fields. ApiVersions keeps to the old one, since who asks does
    /// not know yet what we speak (KIP-511).
    fn has_flexible_response_header(self, version: i16) -> bool {
        self != Self::ApiVersions && self.is_flexible(version)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request's or a response's body.
pub trait Message: Wire + Default {
    /// Which request it belongs to.
    const API: ApiKey;

    /// Reads it from exactly these bytes.
    ///
    /// # Errors
    /// [`WireError`]: a version that we do not speak, or what does not fit.
    fn decode(body: Bytes, version: i16) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, version, checked_version(Self::API, version)?);
        let message = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(message)
    }
}

/// Whether the version is flexible, if it is one of ours.
fn checked_version(api: ApiKey, version: i16) -> Result<bool, WireError> {
    if !api.versions().contains(&version) {
        return Err(WireError::Unsupported { api_key: api.key(), version });
    }
    Ok(api.is_flexible(version))
}

/// A request's body.
pub trait Request: Message {
    /// What answers it.
    type Response: Message;
}

/// What stands before a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The request's key, which may be none that we know.
    pub api_key: i16,
    /// Its version.
    pub version: i16,
    /// Comes back with the response.
    pub correlation_id: i32,
    /// What the client calls itself. `None` also where we do not know the request, and so not its header.
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// Takes the header off the front of a frame (without its length), which leaves the body. Of a request that we do
    /// not know, only what every header begins with.
    ///
    /// # Errors
    /// [`WireError`]: what does not fit.
    pub fn split_from(frame: &mut Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(frame.clone(), 0, false);
        let (api_key, version, correlation_id) =
            (i16::read(&mut reader)?, i16::read(&mut reader)?, i32::read(&mut reader)?);
        let known = ApiKey::from_key(api_key).filter(|api| checked_version(*api, version).is_ok());
        let mut client_id = None;
        if let Some(api) = known {
            // Never compact, also in the flexible header, so that any version can be read up to here.
            client_id = String::read_nullable(&mut reader)?;
            if api.is_flexible(version) {
                reader.skip_tagged()?;
            }
        }
        *frame = frame.slice(frame.len() - reader.remaining()..);
        Ok(Self { api_key, version, correlation_id, client_id })
    }

    /// The request, if we know it.
    #[must_use]
    pub const fn api(&self) -> Option<ApiKey> {
        ApiKey::from_key(self.api_key)
    }
}

/// A whole request frame.
///
/// # Panics
/// If the version is none of ours: it is the caller's choice, from [`ApiKey::versions`].
#[must_use]
pub fn encode_request<R: Request>(version: i16, correlation_id: i32, client_id: Option<&str>, request: &R) -> Frame {
    let flexible = checked_version(R::API, version).expect("the caller picks a version that we speak");
    let mut writer = Writer::new(version, false);
    R::API.key().write(&mut writer);
    version.write(&mut writer);
    correlation_id.write(&mut writer);
    client_id.map(str::to_owned).write(&mut writer);
    writer.set_flexible(flexible);
    if flexible {
        writer.unsigned_varint(0);
    }
    request.write(&mut writer);
    writer.finish()
}

/// A whole response frame.
///
/// # Panics
/// As [`encode_request`].
#[must_use]
pub fn encode_response<R: Message>(version: i16, correlation_id: i32, response: &R) -> Frame {
    let flexible = checked_version(R::API, version).expect("the caller picks a version that we speak");
    let mut writer = Writer::new(version, flexible);
    correlation_id.write(&mut writer);
    if R::API.has_flexible_response_header(version) {
        writer.unsigned_varint(0);
    }
    response.write(&mut writer);
    writer.finish()
}

/// The correlation id that a response frame (without its length) begins with.
///
/// # Errors
/// [`WireError::Truncated`].
pub fn correlation_id(frame: &Bytes) -> Result<i32, WireError> {
    frame.first_chunk().map(|id| i32::from_be_bytes(*id)).ok_or(WireError::Truncated)
}

/// Reads the response to an `R` from a whole frame without its length.
///
/// # Errors
/// [`WireError`]: what does not fit.
pub fn decode_response<R: Request>(frame: Bytes, version: i16) -> Result<(i32, R::Response), WireError> {
    let flexible = checked_version(R::API, version)?;
    let mut reader = Reader::new(frame, version, flexible);
    let correlation_id = i32::read(&mut reader)?;
    if R::API.has_flexible_response_header(version) {
        reader.skip_tagged()?;
    }
    let response = Wire::read(&mut reader)?;
    reader.finish()?;
    Ok((correlation_id, response))
}

macro_rules! field_default {
    () => {
        Default::default()
    };
    ($default:expr) => {
        $default
    };
}

macro_rules! read_untagged {
    ($reader:ident, $message:ident, $field:ident, $range:expr) => {
        if ($range).contains(&$reader.version()) {
            $message.$field = Wire::read($reader)?;
        }
    };
    ($reader:ident, $message:ident, $field:ident, $range:expr, $tag:literal) => {};
}

macro_rules! write_untagged {
    ($writer:ident, $message:ident, $field:ident, $range:expr) => {
        if ($range).contains(&$writer.version()) {
            Wire::write(&$message.$field, $writer);
        }
    };
    ($writer:ident, $message:ident, $field:ident, $range:expr, $tag:literal) => {};
}

/// The struct of a message or of a part of one, with its form on the wire.
macro_rules! structs {
    ($($name:ident {
        $($field:ident: $ty:ty [$range:expr] $(tag $tag:literal)? $(= $default:expr)?,)*
    })*) => {$(
        #[allow(missing_docs)] // fields and versions are the protocol's, by its names
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: field_default!($($default)?),)* }
            }
        }

        impl Wire for $name {
            #[allow(unused_mut)] // of one without fields
            fn read(reader: &mut Reader) -> Result<Self, WireError> {
                let mut message = Self::default();
                $(read_untagged!(reader, message, $field, $range $(, $tag)?);)*
                if reader.is_flexible() {
                    for _ in 0..reader.unsigned_varint()? {
                        let tag = reader.unsigned_varint()?;
                        let size = reader.unsigned_varint()?;
                        match tag {
                            $($($tag if ($range).contains(&reader.version()) => {
                                message.$field = reader.tagged(size)?;
                            })?)*
                            _ => reader.skip(size)?,
                        }
                    }
                }
                Ok(message)
            }

            fn write(&self, writer: &mut Writer) {
                $(write_untagged!(writer, self, $field, $range $(, $tag)?);)*
                if writer.is_flexible() {
                    #[allow(unused_variables)] // of one without tagged fields
                    let default = Self::default();
                    let count = 0 $($(+ {
                        let _tag = $tag;
                        u32::from(($range).contains(&writer.version()) && self.$field != default.$field)
                    })?)*;
                    writer.unsigned_varint(count);
                    $($(if ($range).contains(&writer.version()) && self.$field != default.$field {
                        writer.tagged($tag, &self.$field);
                    })?)*
                }
            }
        }

        #[cfg(test)]
        impl $crate::codec::fuzz_tests::Arbitrary for $name {
            #[allow(unused_variables)] // of one without fields
            fn arbitrary(source: &mut $crate::codec::fuzz_tests::Source) -> Self {
                Self { $($field: $crate::codec::fuzz_tests::Arbitrary::arbitrary(source),)* }
            }
        }

        impl Nullable for $name {
            fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError> {
                match i8::read(reader)? {
                    -1 => Ok(None),
                    _ => Self::read(reader).map(Some),
                }
            }

            fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
                i8::write(&if value.is_some() { 1 } else { -1 }, writer);
                if let Some(value) = value {
                    value.write(writer);
                }
            }
        }
    )*};
}

/// A request, its response, and the structs in them.
macro_rules! messages {
    ($api:ident ($request:ident => $response:ident) $($structs:tt)*) => {
        use crate::codec::messages::{
            ApiKey, Message, Request, field_default, read_untagged, structs, write_untagged,
        };
        use crate::codec::wire::{Nullable, Reader, Wire, WireError, Writer};

        structs!($($structs)*);

        impl Message for $request {
            const API: ApiKey = ApiKey::$api;
        }

        impl Message for $response {
            const API: ApiKey = ApiKey::$api;
        }

        impl Request for $request {
            type Response = $response;
        }
    };
}
use {field_default, messages, read_untagged, structs, write_untagged};

#[cfg(test)]
pub(crate) mod tests;

//! What can go wrong between a request and its answer, and what that means for sending it again.

use crate::codec::WireError;
use crate::codec::messages::ApiKey;
use std::{fmt, io};

/// A broker's error code that is not 0. The protocol's numbers; those that the client acts on have a name here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(i16);

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        #[allow(missing_docs)] // each is the protocol's error of its name
        impl Code {
            $(pub const $name: Self = Self($number);)*

            /// The protocol's name, of those that the client knows.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    OFFSET_OUT_OF_RANGE = 1,
    CORRUPT_MESSAGE = 2,
    UNKNOWN_TOPIC_OR_PARTITION = 3,
    LEADER_NOT_AVAILABLE = 5,
    NOT_LEADER_OR_FOLLOWER = 6,
    REQUEST_TIMED_OUT = 7,
    BROKER_NOT_AVAILABLE = 8,
    REPLICA_NOT_AVAILABLE = 9,
    MESSAGE_TOO_LARGE = 10,
    NETWORK_EXCEPTION = 13,
    COORDINATOR_LOAD_IN_PROGRESS = 14,
    COORDINATOR_NOT_AVAILABLE = 15,
    NOT_COORDINATOR = 16,
    RECORD_LIST_TOO_LARGE = 18,
    NOT_ENOUGH_REPLICAS = 19,
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20,
    UNSUPPORTED_VERSION = 35,
    TOPIC_ALREADY_EXISTS = 36,
    NOT_CONTROLLER = 41,
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
    DUPLICATE_SEQUENCE_NUMBER = 46,
    INVALID_PRODUCER_EPOCH = 47,
    KAFKA_STORAGE_ERROR = 56,
    UNKNOWN_PRODUCER_ID = 59,
    FENCED_LEADER_EPOCH = 74,
    UNKNOWN_LEADER_EPOCH = 75,
    OFFSET_NOT_AVAILABLE = 78,
    UNKNOWN_TOPIC_ID = 100,
    INCONSISTENT_TOPIC_ID = 103,
}

impl Code {
    /// The code of an answer; 0 is none.
    #[must_use]
    pub const fn new(code: i16) -> Option<Self> {
        if code == 0 { None } else { Some(Self(code)) }
    }

    /// The protocol's number.
    #[must_use]
    pub const fn get(self) -> i16 {
        self.0
    }

    /// Whether the same request may succeed later, or at another broker.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::CORRUPT_MESSAGE
                | Self::UNKNOWN_TOPIC_OR_PARTITION
                | Self::LEADER_NOT_AVAILABLE
                | Self::NOT_LEADER_OR_FOLLOWER
                | Self::REQUEST_TIMED_OUT
                | Self::BROKER_NOT_AVAILABLE
                | Self::REPLICA_NOT_AVAILABLE
                | Self::NETWORK_EXCEPTION
                | Self::COORDINATOR_LOAD_IN_PROGRESS
                | Self::COORDINATOR_NOT_AVAILABLE
                | Self::NOT_COORDINATOR
                | Self::NOT_ENOUGH_REPLICAS
                | Self::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | Self::NOT_CONTROLLER
                | Self::KAFKA_STORAGE_ERROR
                | Self::FENCED_LEADER_EPOCH
                | Self::UNKNOWN_LEADER_EPOCH
                | Self::OFFSET_NOT_AVAILABLE
                | Self::UNKNOWN_TOPIC_ID
                | Self::INCONSISTENT_TOPIC_ID
        )
    }

    /// Whether the broker may have done what it answers this for: it stored the records, and cannot say more.
    #[must_use]
    pub const fn may_have_stored(self) -> bool {
        matches!(
            self,
            Self::REQUEST_TIMED_OUT
                | Self::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | Self::NETWORK_EXCEPTION
                | Self::KAFKA_STORAGE_ERROR
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a failed request did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideEffects {
    /// It did nothing: it can be sent again as it is.
    None,
    /// It may have been carried out.
    Unknown,
}

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot connect to {address}: {kind}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The network's word for it.
        kind: io::ErrorKind,
    },
    /// The connection ended before the request was written to it.
    #[error("the connection ended before the request was sent")]
    NotSent,
    /// The connection ended between the request and its answer.
    #[error("the connection ended before the answer came")]
    Cut,
    /// The deadline passed before the request was written.
    #[error("the deadline passed before the request was sent")]
    DeadlineBeforeSent,
    /// The deadline passed while the answer was awaited.
    #[error("the deadline passed before the answer came")]
    Deadline,
    /// Too many connections are in use.
    #[error("too many connections are in use")]
    TooManyConnections,
    /// The broker has no version of this request in common with us.
    #[error("the broker does not speak {0} in a version that we do")]
    Unsupported(ApiKey),
    /// What came is no answer to what was asked.
    #[error("the broker's answer cannot be read: {0}")]
    Malformed(WireError),
    /// The answer leaves out what was asked for.
    #[error("the broker's answer leaves out {0}")]
    Incomplete(&'static str),
    /// No broker is known for it yet: no leader, no coordinator, no controller.
    #[error("no broker is known for {0}")]
    Nobody(String),
    /// The request or its records are larger than allowed.
    #[error("{bytes} bytes are more than the {limit} that are allowed")]
    TooLarge {
        /// What was asked for.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The broker said no.
    #[error("the broker answered {code}{}", message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Refused {
        /// Its code.
        code: Code,
        /// Its own words, if it sent some.
        message: Option<String>,
    },
    /// A resend was answered in a way that leaves open whether the first one was stored.
    #[error("whether the records were stored is not known: {0}")]
    InDoubt(Code),
    /// The producer was closed.
    #[error("the producer is closed")]
    Closed,
}

impl ClientError {
    pub(super) fn refused(code: Code) -> Self {
        Self::Refused { code, message: None }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NotSent | Self::Cut | Self::Nobody(_) | Self::TooManyConnections => true,
            Self::Refused { code, .. } => code.is_retryable(),
            // A deadline is the caller's own: there is no later within it.
            Self::DeadlineBeforeSent
            | Self::Deadline
            | Self::Unsupported(_)
            | Self::Malformed(_)
            | Self::Incomplete(_)
            | Self::TooLarge { .. }
            | Self::InDoubt(_)
            | Self::Closed => false,
        }
    }

    /// Whether the failed request may have been carried out all the same.
    #[must_use]
    pub const fn side_effects(&self) -> SideEffects {
        match self {
            Self::Connect { .. }
            | Self::NotSent
            | Self::DeadlineBeforeSent
            | Self::TooManyConnections
            | Self::Unsupported(_)
            | Self::Nobody(_)
            | Self::TooLarge { .. }
            | Self::Closed => SideEffects::None,
            Self::Cut | Self::Deadline | Self::Malformed(_) | Self::Incomplete(_) | Self::InDoubt(_) => {
                SideEffects::Unknown
            }
            Self::Refused { code, .. } if code.may_have_stored() => SideEffects::Unknown,
            Self::Refused { .. } => SideEffects::None,
        }
    }

    /// Whether what is known of leaders and coordinators may be old.
    pub(super) const fn wants_refresh(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NotSent | Self::Cut | Self::Nobody(_) | Self::Deadline => true,
            Self::Refused { code, .. } => code.is_retryable(),
            _ => false,
        }
    }
}

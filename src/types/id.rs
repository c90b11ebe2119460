//! Identifiers of brokers, topics, partitions and producers.

use super::offset::number;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::{fmt, str::FromStr};

number! {
    /// A partition's number within its topic, from 0.
    PartitionId(i32)
}
number! {
    /// A broker's number (`node-id`), unique in its cluster.
    BrokerId(i32)
}
number! {
    /// An idempotent producer's number, handed out by the controller in blocks (KIP-98).
    ProducerId(i64)
}
number! {
    /// An idempotent producer's epoch: a newer one fences the older (KIP-98).
    ProducerEpoch(i16)
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Makes a version 4 UUID (RFC 9562) of 16 random bytes.
            #[must_use]
            pub const fn from_random(mut bytes: [u8; 16]) -> Self {
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        /// Kafka's form: base64url without padding, 22 characters.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut bytes = [0; 16];
                match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
                    Ok(16) => Ok(Self(bytes)),
                    _ => Err(InvalidId),
                }
            }
        }
    };
}

uuid! {
    /// What makes a topic itself: a topic deleted and made again under its old name has another one (KIP-516).
    TopicId
}
uuid! {
    /// The cluster's identity, written when a data folder is formatted.
    ClusterId
}

/// The text is not 22 characters of base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 22 characters of base64url, as the server gave it")]
pub struct InvalidId;

/// One partition of one topic, by identity and not by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// Its partition.
    pub partition: PartitionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = TopicId::from_random([0xa5; 16]);
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "AAAA", "not base64url at all!!", "AAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(bad.parse::<TopicId>(), Err(InvalidId), "{bad}");
        }
    }
}

//! The serde forms of the vocabulary, for `#[serde(with = "form")]`: `types` has no serde of its own.
//!
//! **Invariant**: what is read back is checked as if a client had sent it: a name keeps its rule, a number its sign.

use crate::types::{BrokerId, LeaderEpoch, Offset, PartitionId, ProducerId, TopicId, TopicName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::collections::BTreeMap;

/// A value that has a form made of what serde knows.
pub(super) trait Form: Sized {
    /// Numbers, texts and lists of them.
    type Wire: Serialize + for<'de> Deserialize<'de>;
    fn to_wire(&self) -> Self::Wire;
    fn from_wire(wire: Self::Wire) -> Result<Self, String>;
}

pub(super) fn serialize<T: Form, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.to_wire().serialize(serializer)
}

pub(super) fn deserialize<'de, T: Form, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::from_wire(T::Wire::deserialize(deserializer)?).map_err(D::Error::custom)
}

macro_rules! number_form {
    ($($name:ident: $inner:ty),*) => {$(
        impl Form for $name {
            type Wire = $inner;
            fn to_wire(&self) -> $inner {
                self.get()
            }
            fn from_wire(wire: $inner) -> Result<Self, String> {
                if wire < 0 {
                    return Err(format!("{wire} is negative"));
                }
                Ok(Self::new(wire))
            }
        }
    )*};
}
number_form!(BrokerId: i32, PartitionId: i32, LeaderEpoch: i32, ProducerId: i64, Offset: i64);

impl Form for TopicId {
    type Wire = String;
    fn to_wire(&self) -> String {
        self.to_string()
    }
    fn from_wire(wire: String) -> Result<Self, String> {
        wire.parse().map_err(|e| format!("topic id '{wire}': {e}"))
    }
}

impl Form for TopicName {
    type Wire = String;
    fn to_wire(&self) -> String {
        self.as_str().to_owned()
    }
    fn from_wire(wire: String) -> Result<Self, String> {
        Self::new(&wire).map_err(|e| e.to_string())
    }
}

impl<T: Form> Form for Option<T> {
    type Wire = Option<T::Wire>;
    fn to_wire(&self) -> Self::Wire {
        self.as_ref().map(T::to_wire)
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        wire.map(T::from_wire).transpose()
    }
}

impl<T: Form> Form for Vec<T> {
    type Wire = Vec<T::Wire>;
    fn to_wire(&self) -> Self::Wire {
        self.iter().map(T::to_wire).collect()
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

/// A map goes as a list of pairs, since JSON's keys are texts only.
impl<K: Form + Ord, V: Serialize + for<'de> Deserialize<'de> + Clone> Form for BTreeMap<K, V> {
    type Wire = Vec<(K::Wire, V)>;
    fn to_wire(&self) -> Self::Wire {
        self.iter().map(|(key, value)| (key.to_wire(), value.clone())).collect()
    }
    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        wire.into_iter().map(|(key, value)| Ok((K::from_wire(key)?, value))).collect()
    }
}

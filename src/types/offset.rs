//! Offsets and epochs: one type for each, so that a log end can not be passed where a watermark is meant.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            /// The zero of this type.
            pub const ZERO: Self = Self(0);

            /// Wraps a number that is known not to be negative.
            ///
            /// # Panics
            /// In debug builds, if `value` is negative: sentinels such as −1 end in `codec`.
            #[must_use]
            pub const fn new(value: $inner) -> Self {
                debug_assert!(value >= 0);
                Self(value)
            }

            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }

            /// This many further on.
            #[must_use]
            pub const fn plus(self, n: $inner) -> Self {
                Self::new(self.0 + n)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
pub(crate) use number;

number! {
    /// The place of one record in its partition: dense, from 0, never reused for another record once acknowledged.
    Offset(i64)
}
number! {
    /// The first offset that may still be read; retention, `truncate` and compaction's owner move it up.
    LogStartOffset(i64)
}
number! {
    /// The offset that the next record will get on this replica.
    LogEndOffset(i64)
}
number! {
    /// The first offset that readers may not see yet: all below it is on every in-sync replica.
    HighWatermark(i64)
}
number! {
    /// The number of the leadership under which a batch was written; it rises at every change of leader and at
    /// every start of a broker, so that a position tells two histories of one offset apart (KIP-101).
    LeaderEpoch(i32)
}

macro_rules! boundary {
    ($($name:ident),*) => {$(
        impl From<Offset> for $name {
            fn from(offset: Offset) -> Self {
                Self(offset.0)
            }
        }
        impl $name {
            /// The same place as a plain offset.
            #[must_use]
            pub const fn offset(self) -> Offset {
                Offset(self.0)
            }
        }
    )*};
}
boundary!(LogStartOffset, LogEndOffset, HighWatermark);

/// How far a partition is, as its readers see it. Published on a watch channel at each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionProgress {
    /// First offset that can be read.
    pub log_start: LogStartOffset,
    /// First offset that can not be read yet.
    pub high_watermark: HighWatermark,
    /// The leadership that serves it.
    pub leader_epoch: LeaderEpoch,
    /// False while the partition takes no requests (a failed disk, corruption). Reads and writes answer an error.
    pub online: bool,
}

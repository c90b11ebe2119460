//! One trace id per request (W3C Trace Context): taken from `traceparent`, or made here. It goes into problems, logs
//! and record headers.
//!
//! **Invariant**: while a handler runs, [`current`] gives its request's id. Streams that outlive the handler keep a copy.

use std::fmt;

tokio::task_local! {
    static CURRENT: TraceId;
}

/// 16 bytes, never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TraceId {
    /// An id of 16 random bytes.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[15] |= 1; // all zero means "no trace"
        Self(bytes)
    }

    /// The id in a `traceparent` header: `00-<32 hex>-<16 hex>-<2 hex>`. `None` if it has another form, which W3C
    /// Trace Context says to ignore.
    #[must_use]
    pub fn from_traceparent(header: &[u8]) -> Option<Self> {
        let hex = |part: &[u8]| part.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = header.split(|c| *c == b'-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let shape = version.len() == 2 && trace.len() == 32 && parent.len() == 16 && flags.len() == 2;
        let known = version != b"ff" && (version != b"00" || parts.next().is_none());
        if !shape || !known || ![version, trace, parent, flags].into_iter().all(hex) {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(trace.chunks_exact(2)) {
            let digit = |c: u8| if c <= b'9' { c - b'0' } else { c - b'a' + 10 };
            *byte = digit(pair[0]) << 4 | digit(pair[1]);
        }
        let zero_parent = parent.iter().all(|c| *c == b'0');
        (bytes != [0; 16] && !zero_parent).then_some(Self(bytes))
    }
}

/// The trace of the request that is being handled; `None` outside of one.
#[must_use]
pub fn current() -> Option<TraceId> {
    CURRENT.try_with(|id| *id).ok()
}

/// Runs a future under a trace id.
pub async fn scope<F: Future>(id: TraceId, future: F) -> F::Output {
    CURRENT.scope(id, future).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_gives_its_trace() {
        let id = TraceId::from_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceId::from_traceparent(bad.as_bytes()), None, "{bad}");
        }
    }
}

//! Records as the frames that go on the wire, ready to be sent as they are.
//!
//! **Invariant**: a frame is whole: an SSE event with its blank line, or a WebSocket text frame with its header
//! (RFC 6455, unmasked, as servers send them). So one buffer of frames serves every reader of its format.

use bytes::Bytes;
use std::sync::Arc;

/// About how many bytes of frames are made at once; a larger record goes alone.
pub const CHUNK_BYTES: usize = 128 << 10;

/// The transport's form of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Server-sent events.
    Sse,
    /// WebSocket text frames.
    WebSocket,
}

impl Format {
    pub(super) const COUNT: usize = 2;

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Sse => 0,
            Self::WebSocket => 1,
        }
    }

    pub(super) const ALL: [Self; Self::COUNT] = [Self::Sse, Self::WebSocket];
}

/// Consecutive frames. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// One after the other.
    pub bytes: Bytes,
    /// Where each ends.
    pub ends: Arc<[u32]>,
}

impl Frames {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Each by itself.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter()).map(|(start, end)| self.bytes.slice(start as usize..*end as usize))
    }
}

/// Collects frames.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl FrameBuffer {
    /// With room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Frames so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Adds a record, with the cursor behind it; within a snapshot there is none.
    pub fn push(&mut self, format: Format, cursor: Option<&[u8]>, record: &[u8]) {
        self.reserve(record.len() + cursor.map_or(0, <[u8]>::len) + AROUND_BYTES);
        self.push_with(format, cursor, |out| out.extend_from_slice(record));
    }

    /// The same with a record that `write` appends, so that it is written where it stays.
    pub fn push_with(&mut self, format: Format, cursor: Option<&[u8]>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        match format {
            Format::Sse => {
                if let Some(cursor) = cursor {
                    self.extend(&[b"id: ", cursor, b"\n"]);
                }
                self.extend(&[b"data: "]);
                write(&mut self.bytes);
                self.extend(&[b"\n\n"]);
            }
            Format::WebSocket => {
                self.extend(&[&SHORT_HEADER, WS_OPENING]);
                if let Some(cursor) = cursor {
                    self.extend(&[b",\"cursor\":\"", cursor, b"\""]);
                }
                self.extend(&[WS_RECORD]);
                write(&mut self.bytes);
                self.extend(&[b"}"]);
                finish_header(&mut self.bytes, start);
            }
        }
        self.ends.push(u32::try_from(self.bytes.len()).expect("a chunk is far below 4 GiB"));
    }

    fn extend(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    /// The frames, leaving an empty buffer.
    pub fn take(&mut self) -> Frames {
        let bytes = std::mem::take(&mut self.bytes).into();
        Frames { bytes, ends: std::mem::take(&mut self.ends).into() }
    }

    /// The frames in memory of just their size, leaving the buffer's own to be used again.
    pub fn take_copy(&mut self) -> Frames {
        let frames = Frames { bytes: Bytes::copy_from_slice(&self.bytes), ends: self.ends.as_slice().into() };
        self.bytes.clear();
        self.ends.clear();
        frames
    }
}

/// What a frame has around the cursor and the record, at most.
const AROUND_BYTES: usize = 64;
/// The header of a text frame whose length takes two bytes, as nearly every record's does.
const SHORT_HEADER: [u8; 4] = [0x81, 126, 0, 0];

/// Puts the length into the header at `start`, which holds the place for one of [`SHORT_HEADER`]'s form.
fn finish_header(bytes: &mut Vec<u8>, start: usize) {
    let end = start + SHORT_HEADER.len();
    let payload = bytes.len() - end;
    match u16::try_from(payload) {
        Ok(length @ 126..) => bytes[end - 2..end].copy_from_slice(&length.to_be_bytes()),
        _ => {
            let mut header = Vec::new();
            text_header(&mut header, payload);
            bytes.splice(start..end, header);
        }
    }
}

/// How each WebSocket record frame's text begins; what follows is the same for every reader.
pub const WS_OPENING: &[u8] = b"{\"type\":\"record\"";
const WS_RECORD: &[u8] = b",\"record\":";

/// Appends the header of a whole, unmasked text frame (RFC 6455, 5.2).
pub fn text_header(out: &mut Vec<u8>, payload: usize) {
    out.push(0x81);
    match payload {
        0..=125 => out.push(payload as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(payload as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload as u64).to_be_bytes());
        }
    }
}

/// What stands in a text frame that [`text_header`] began.
#[must_use]
pub fn text_payload(frame: &[u8]) -> &[u8] {
    let header = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.get(header..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole() {
        let mut buffer = FrameBuffer::default();
        buffer.push(Format::Sse, Some(b"c1"), b"{}");
        buffer.push(Format::Sse, None, b"[1]");
        let frames = buffer.take();
        assert_eq!(&frames.bytes[..], b"id: c1\ndata: {}\n\ndata: [1]\n\n");
        assert_eq!(frames.iter().map(|f| f.len()).collect::<Vec<_>>(), [17, 11]);
        assert!(buffer.is_empty());
        for size in [2, 60, 90, 200, 70_000] {
            let record = vec![b'1'; size];
            buffer.push(Format::WebSocket, Some(b"c1"), &record);
            let frame = buffer.take().iter().next().unwrap();
            let expected = format!(r#"{{"type":"record","cursor":"c1","record":{}}}"#, "1".repeat(size));
            assert_eq!(text_payload(&frame), expected.as_bytes());
            assert_eq!(frame[0], 0x81);
            assert_eq!(
                frame.len() - expected.len(),
                if expected.len() < 126 {
                    2
                } else if size < 70_000 {
                    4
                } else {
                    10
                }
            );
        }
    }
}

//! Server-sent events, read (WHATWG HTML, "Interpreting an event stream").

use bytes::{Buf as _, BytesMut};

/// The longest event that is taken: a record's limit with room for its JSON and base64.
const MAX_EVENT_BYTES: usize = 1 << 30;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// Its name; `message` if it has none.
    pub name: String,
    /// The last id of the stream so far.
    pub id: Option<String>,
    /// Its data, lines joined.
    pub data: String,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct SseParser {
    buffer: BytesMut,
    /// How far the buffer was searched for the end of a line.
    searched: usize,
    last_id: Option<String>,
    name: String,
    data: Option<String>,
    id_only: bool,
}

impl SseParser {
    /// Takes more bytes.
    ///
    /// # Errors
    /// An event that has no end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.buffer.len() + bytes.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
            return Err("an event is too long");
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole event. A heartbeat with an id only is one too, without data and of the name `heartbeat`.
    pub fn next(&mut self) -> Option<SseEvent> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + end;
            let line = String::from_utf8_lossy(self.buffer[..end].strip_suffix(b"\r").unwrap_or(&self.buffer[..end]))
                .into_owned();
            self.buffer.advance(end + 1);
            self.searched = 0;
            if !line.is_empty() {
                self.field(&line);
                continue;
            }
            let name = std::mem::take(&mut self.name);
            let id_only = std::mem::take(&mut self.id_only);
            let name = match (&self.data, name.is_empty()) {
                (None, _) if !id_only => continue,
                (None, true) => "heartbeat".to_owned(),
                (Some(_), true) => "message".to_owned(),
                (_, false) => name,
            };
            return Some(SseEvent { name, id: self.last_id.clone(), data: self.data.take().unwrap_or_default() });
        }
    }

    fn field(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => {
                self.last_id = Some(value.to_owned());
                self.id_only = true;
            }
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => (), // comments, `retry`, and what a later version may add
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": hello\n\nid: c1\ndata: {\"a\":1}\n\nevent: gap\r\ndata: x\r\ndata:y\r\n\r\nid: c2\n\nretry: 5\n\ndata\n\n";
        let event = |name: &str, id: &str, data: &str| SseEvent {
            name: name.to_owned(),
            id: Some(id.to_owned()),
            data: data.to_owned(),
        };
        let expected = [
            event("message", "c1", "{\"a\":1}"),
            event("gap", "c1", "x\ny"),
            event("heartbeat", "c2", ""),
            event("message", "c2", ""),
        ];
        for size in 1..text.len() {
            let mut parser = SseParser::default();
            let mut events = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                parser.push(chunk).unwrap();
                events.extend(std::iter::from_fn(|| parser.next()));
            }
            assert_eq!(events, expected, "cut every {size} bytes");
        }
    }
}

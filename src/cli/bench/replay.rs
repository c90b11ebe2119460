//! Reading a topic from its first record to its last: pages, or a stream.

use super::{
    Bench, Round,
    http1::{Chunk, Connection, request},
    process::Process,
    produce,
};
use crate::cli::{CliError, http_client::encode};
use tokio::{task::JoinSet, time::Instant};

const FILL_BATCH: u32 = 500;

/// Fills the topic; gives how many records it then has.
pub async fn fill(bench: &Bench, server: &Process, topic: &str) -> Result<u64, CliError> {
    let failed = |e: std::io::Error| CliError::failed(format!("filling the topic: {e}"));
    let mut connection = Connection::open(&bench.sys, &server.address).await.map_err(failed)?;
    let mut body = Vec::new();
    let batches = bench.args.records.div_ceil(u64::from(FILL_BATCH));
    for i in 0..batches {
        let request = produce::batch(&server.address, topic, FILL_BATCH, bench.args.size, |n| {
            format!("key-{}", u64::from(n) + i)
        });
        let status = connection.exchange(&request, &mut body).await.map_err(failed)?;
        if status != 200 {
            return Err(CliError::failed(format!("filling the topic: {status} {}", String::from_utf8_lossy(&body))));
        }
    }
    Ok(batches * u64::from(FILL_BATCH))
}

/// Where a round reads from.
#[derive(Clone)]
pub enum Source {
    /// Pages of a topic, by cursor.
    Pages(String),
    /// A stream of server-sent events, at this path.
    Stream(String),
}

/// One round: every reader reads it all.
pub async fn round(bench: &Bench, target: &Process, source: Source, records: u64) -> Result<Round, CliError> {
    let cpu = target.cpu_seconds();
    let started = Instant::now();
    let mut readers = JoinSet::new();
    for _ in 0..bench.args.readers {
        let (sys, address, source) = (bench.sys.clone(), target.address.clone(), source.clone());
        readers.spawn(async move {
            let mut connection = Connection::open(&sys, &address).await?;
            match source {
                Source::Pages(topic) => pages(&mut connection, &address, &topic, records).await,
                Source::Stream(path) => stream(&mut connection, &address, &path, records).await,
            }
        });
    }
    let mut total = 0;
    while let Some(reader) = readers.join_next().await {
        let read = reader.map_err(std::io::Error::other).flatten();
        total += read.map_err(|e| CliError::failed(format!("replay: {e}")))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = target.cpu_seconds().zip(cpu).map(|(after, before)| after - before);
    Ok(Round { records: total, seconds, latency: super::histogram(), cpu_seconds })
}

async fn pages(connection: &mut Connection, host: &str, topic: &str, records: u64) -> std::io::Result<u64> {
    let offset = memchr::memmem::Finder::new(b"\"offset\":");
    let mut body = Vec::new();
    let mut query = "from=earliest".to_owned();
    let mut count = 0;
    while count < records {
        let path = format!("/v1/topics/{topic}/records?limit=10000&max_bytes=4194304&{query}");
        let status = connection.exchange(&request(host, "GET", &path, "", b""), &mut body).await?;
        let cursor = next_cursor(&body);
        let found = offset.find_iter(&body).count() as u64;
        let (200, Some(cursor), 1..) = (status, cursor, found) else {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return Err(std::io::Error::other(format!("after {count} records: status {status}: {text}")));
        };
        count += found;
        query = format!("cursor={}", encode(&cursor));
    }
    Ok(count)
}

/// The cursor stands behind the records; looking for it from the end spares the parsing of the page.
fn next_cursor(body: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\"next_cursor\":\"";
    let at = memchr::memmem::rfind(body, NAME)? + NAME.len();
    let length = memchr::memchr(b'"', &body[at..])?;
    String::from_utf8(body[at..at + length].to_vec()).ok()
}

async fn stream(connection: &mut Connection, host: &str, path: &str, records: u64) -> std::io::Result<u64> {
    let status = connection.start(&request(host, "GET", path, "accept: text/event-stream\r\n", b"")).await?;
    if status != 200 {
        return Err(std::io::Error::other(format!("status {status}")));
    }
    let mut lines = DataLines::default();
    let mut chunk = Chunk::Head;
    let mut count = 0;
    while count < records {
        if !connection.chunk(&mut chunk, |bytes| count += lines.count(bytes)).await? {
            return Err(std::io::Error::other(format!("the stream ended after {count} records")));
        }
    }
    Ok(count)
}

/// Counts the lines of a stream that begin with `data:`, of events without a name.
#[derive(Debug, Default)]
pub struct DataLines {
    /// The beginning of a line whose end has not come, as far as it matters.
    begun: Vec<u8>,
    is_named: bool,
}

impl DataLines {
    /// The lines that end in these bytes.
    pub fn count(&mut self, bytes: &[u8]) -> u64 {
        const PREFIX: usize = 6;
        let mut count = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let piece = &bytes[start..end];
            start = end + 1;
            let line: &[u8] = if self.begun.is_empty() {
                piece
            } else {
                let missing = PREFIX.saturating_sub(self.begun.len()).min(piece.len());
                self.begun.extend_from_slice(&piece[..missing]);
                &self.begun
            };
            match line {
                [] | [b'\r'] => self.is_named = false,
                _ if line.starts_with(b"event:") => self.is_named = true,
                _ if line.starts_with(b"data:") && !self.is_named => count += 1,
                _ => (),
            }
            self.begun.clear();
        }
        let rest = &bytes[start..];
        let missing = PREFIX.saturating_sub(self.begun.len()).min(rest.len());
        self.begun.extend_from_slice(&rest[..missing]);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_they_are_cut() {
        let text = b"id: 1\ndata: {}\n\n: c\n\nevent: caught-up\ndata: {}\n\nid: 2\ndata: data:\n\n";
        for size in 1..text.len() {
            let mut lines = DataLines::default();
            assert_eq!(text.chunks(size).map(|c| lines.count(c)).sum::<u64>(), 2, "cut every {size} bytes");
        }
    }

    #[test]
    fn the_cursor_is_found_behind_the_records() {
        assert_eq!(next_cursor(br#"{"records":[],"next_cursor":"a-b","caught_up":true}"#).as_deref(), Some("a-b"));
        assert_eq!(next_cursor(b"{}"), None);
    }
}

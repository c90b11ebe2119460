//! Reading a topic from its first record to its last: a stream, or pages.

use super::{
    Bench, CliError, Round, Topic,
    figure::{Figure, Measure},
    histogram,
    http1::{Connection, request},
    load::{self, Load},
    process::Process,
    produce::{Kind, PARTITIONS, Producing},
    subscriber::{Subscriber, Transport},
};
use crate::{cli::http_client::encode, sys::Sys};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Records of a page.
const PAGE_RECORDS: u64 = 10_000;
const PAGE_BYTES: u64 = 4 << 20;
/// Bytes of a request that fills a topic, about.
const FILL_BYTES: usize = 512 << 10;
const FILL_CONNECTIONS: u32 = 4;
/// How long one turn of filling goes before it is counted.
const FILL_TURN: Duration = Duration::from_millis(200);

/// Puts at least so many records into a topic; gives how many it then has more.
pub async fn fill(bench: &Bench, server: &Process, topic: &Topic, records: u64, size: usize) -> Result<u64, CliError> {
    let batch = (FILL_BYTES / (size + 100)).clamp(1, 5000).min(usize::try_from(records).unwrap_or(usize::MAX)) as u32;
    let producing = Producing {
        kind: Kind::Batch,
        connections: FILL_CONNECTIONS,
        batch,
        size,
        flush: String::new(),
        partitions: 0,
        rate: None,
    };
    let load = Load { connections: FILL_CONNECTIONS, per_request: u64::from(batch), rate: None, tolerant: false };
    let requests = |connection| producing.requests(&server.address, &topic.name, connection);
    let mut filled = 0;
    while filled < records {
        let outcome = load::run(&bench.sys, &server.address, &load, &requests, FILL_TURN).await?;
        filled += outcome.accepted_requests() * u64::from(batch);
    }
    Ok(filled)
}

/// Where a reader reads from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Pages of a topic, by cursor, from this position.
    Pages { topic: String, from: String },
    /// The bare handler's pages.
    BarePages { path: String, per_page: u64 },
    /// A stream at this path.
    Stream { path: String, transport: Transport },
}

/// One round: every reader reads so many records.
pub async fn round(
    bench: &Bench,
    target: &Process,
    source: &Source,
    records: u64,
    readers: u32,
) -> Result<Round, CliError> {
    let before = target.costs();
    let started = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..readers {
        let (sys, address, source) = (bench.sys.clone(), target.address.clone(), source.clone());
        all.spawn(async move { read(&sys, &address, &source, records).await });
    }
    let mut total = 0;
    while let Some(reader) = all.join_next().await {
        let read = reader.map_err(std::io::Error::other).flatten();
        total += read.map_err(|e| CliError::failed(format!("replay: {e}")))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Round { records: total, seconds, latency: histogram(), costs: target.costs().since(&before) })
}

/// Reads so many records once.
pub async fn read(sys: &Sys, address: &str, source: &Source, records: u64) -> std::io::Result<u64> {
    match source {
        Source::Pages { topic, from } => pages(sys, address, topic, from, records).await,
        Source::BarePages { path, per_page } => bare_pages(sys, address, path, *per_page, records).await,
        Source::Stream { path, transport } => {
            let mut subscriber = Subscriber::open(sys, address, path, *transport).await?;
            let mut count = 0;
            while count < records {
                match subscriber.next(|_| ()).await? {
                    Some(n) => count += n,
                    None => return Err(std::io::Error::other(format!("the stream ended after {count} records"))),
                }
            }
            Ok(count)
        }
    }
}

async fn pages(sys: &Sys, host: &str, topic: &str, from: &str, records: u64) -> std::io::Result<u64> {
    let mut connection = Connection::open(sys, host).await?;
    let offset = memchr::memmem::Finder::new(b"\"offset\":");
    let mut body = Vec::new();
    let mut query = from.to_owned();
    let mut count = 0;
    while count < records {
        let path = format!("/v1/topics/{topic}/records?limit={PAGE_RECORDS}&max_bytes={PAGE_BYTES}&{query}");
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

async fn bare_pages(sys: &Sys, host: &str, path: &str, per_page: u64, records: u64) -> std::io::Result<u64> {
    let mut connection = Connection::open(sys, host).await?;
    let request = request(host, "GET", path, "", b"");
    let mut body = Vec::new();
    let mut count = 0;
    while count < records {
        connection.exchange(&request, &mut body).await?;
        count += per_page;
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

/// A source and the bare handler's that is like it.
pub fn sources(topic: &str, size: usize, records: u64, transport: Option<Transport>) -> (Source, Source) {
    match transport {
        Some(transport) => (
            Source::Stream { path: format!("/v1/topics/{topic}/stream?from=earliest"), transport },
            Source::Stream { path: format!("/repeat/{size}/{records}"), transport },
        ),
        None => {
            let per_page = (PAGE_BYTES / (size as u64 + 200)).clamp(1, PAGE_RECORDS);
            (
                Source::Pages { topic: topic.to_owned(), from: "from=earliest".to_owned() },
                Source::BarePages { path: format!("/page/{size}/{per_page}"), per_page },
            )
        }
    }
}

/// Every way of reading, on one topic.
pub async fn figures(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let (server, bare) = (bench.server().await?, bench.bare().await?);
    measure(bench, &server, &bare).await
}

/// The same, on processes that are there.
pub async fn measure(bench: &Bench, server: &Process, bare: &Process) -> Result<Vec<Figure>, CliError> {
    let args = &bench.args;
    let topic = bench.topic(server, args.partitions.unwrap_or(PARTITIONS), &args.flush).await?;
    let records = fill(bench, server, &topic, args.records, args.size).await?;
    let mut ways: Vec<Option<Transport>> = args.transports().into_iter().map(Some).collect();
    ways.extend(args.transport.is_none().then_some(None));
    let mut figures = Vec::new();
    for way in ways {
        let (source, limit) = sources(&topic.name, args.size, records, way);
        let name = format!("replay/{}", way.map_or("pages", Transport::name));
        let mut measured = [Figure::new(name, "records/s", Measure::Rate)];
        bench
            .alternate(
                &mut measured,
                async |_| round(bench, bare, &limit, records, args.readers).await,
                async |_| round(bench, server, &source, records, args.readers).await,
            )
            .await?;
        figures.extend(measured);
    }
    bench.delete(server, topic).await?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_found_behind_the_records() {
        assert_eq!(next_cursor(br#"{"records":[],"next_cursor":"a-b","caught_up":true}"#).as_deref(), Some("a-b"));
        assert_eq!(next_cursor(b"{}"), None);
    }
}

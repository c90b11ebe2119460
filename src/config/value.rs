//! The texts of values: how each kind is read, and written so that it reads back.

use super::LogFormat;
use crate::types::FlushPolicy;
use std::net::{Ipv4Addr, SocketAddr};

/// `IP:PORT`, `localhost:PORT`, or `off`.
pub(super) fn listener(text: &str) -> Option<Option<SocketAddr>> {
    if text == "off" {
        return Some(None);
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))));
    }
    text.parse().ok().map(Some)
}

/// The text of a listener.
pub(super) fn show_listener(listener: Option<SocketAddr>) -> Option<String> {
    Some(listener.map_or_else(|| "off".to_owned(), |address| address.to_string()))
}

/// `host:port` with a port above 0, of characters that a host name or address has.
pub(super) fn host_and_port(text: &str) -> Option<Option<String>> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-'),
    };
    (good && port > 0).then(|| Some(text.to_owned()))
}

/// A number of bytes: `1048576`, `64KiB`, `128MiB`, `2GiB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1_u64 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A whole number in a range.
pub(super) fn number<T: std::str::FromStr + PartialOrd>(text: &str, least: T, most: T) -> Option<T> {
    text.parse().ok().filter(|n| *n >= least && *n <= most)
}

/// A number of bytes in a range.
pub(super) fn small_bytes(text: &str, least: u32, most: u32) -> Option<u32> {
    bytes(text).and_then(|n| u32::try_from(n).ok()).filter(|n| (least..=most).contains(n))
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// `commit`, `interval` or `os`.
pub(super) fn flush(text: &str) -> Option<FlushPolicy> {
    match text {
        "commit" => Some(FlushPolicy::Commit),
        "interval" => Some(FlushPolicy::Interval),
        "os" => Some(FlushPolicy::Os),
        _ => None,
    }
}

/// The text of [`flush`].
pub(super) fn show_flush(flush: FlushPolicy) -> String {
    match flush {
        FlushPolicy::Commit => "commit",
        FlushPolicy::Interval => "interval",
        FlushPolicy::Os => "os",
    }
    .to_owned()
}

/// `text` or `json`.
pub(super) fn log_format(text: &str) -> Option<Option<LogFormat>> {
    match text {
        "text" => Some(Some(LogFormat::Text)),
        "json" => Some(Some(LogFormat::Json)),
        _ => None,
    }
}

/// A level, or levels by module, parted by commas. Checked here because the filter itself takes a misspelt level for
/// the name of a module.
pub(super) fn log_level(text: &str) -> Option<String> {
    let is_level = |t: &str| matches!(t, "off" | "error" | "warn" | "info" | "debug" | "trace");
    let is_module = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b':' || b == b'_');
    text.split(',')
        .all(|part| match part.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(part),
        })
        .then(|| text.to_owned())
}

/// Origins (`https://example.org`), parted by commas; none for the empty text.
pub(super) fn origins(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|part| origin(part.trim())).collect()
}

fn origin(text: &str) -> Option<String> {
    let (scheme, authority) = text.split_once("://")?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:1") };
    // An origin as browsers send it: scheme, host and port in lower case, and nothing behind.
    (matches!(scheme, "http" | "https") && !host.bytes().any(|b| b.is_ascii_uppercase()))
        .then(|| host_and_port(&with_port))
        .flatten()
        .map(|_| text.to_owned())
}

/// Names of hosts, parted by commas; none for the empty text.
pub(super) fn hosts(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let host = |name: &str| host_and_port(&format!("{name}:1")).map(|_| name.to_owned());
    text.split(',').map(|part| host(part.trim())).collect()
}

/// A path; not empty.
pub(super) fn path(text: &str) -> Option<std::path::PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

//! Where a request comes from: the check of hosts and origins, and what browsers are told.
//!
//! **Invariant**: a page of another origin gets nothing out of this door, and changes nothing through it, unless its
//! origin is on the list; neither does one that made its own name resolve to this machine.

use super::{Settings, problem::Problem};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use std::{net::IpAddr, time::Duration};

/// How long a browser may keep a preflight's answer, in seconds.
const PREFLIGHT_SECONDS: Duration = Duration::from_secs(600);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const LOCALHOST: &str = "localhost";
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// What a page may read of an answer besides its body.
const EXPOSED: &str = "Location, ETag, Retry-After, Idempotency-Replayed, Sluice-Problem";

/// A request that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// The origin, if it is one of the list.
    listed: Option<HeaderValue>,
    /// Whether answers depend on the origin.
    varies: bool,
}

/// Checks host and origin.
///
/// # Errors
/// The answer, where it does not come from a handler: a refusal, or a preflight's.
pub fn admit(parts: &Parts, settings: &Settings) -> Result<Admitted, Box<Response>> {
    check_host(parts, settings).map_err(|problem| Box::new(problem.into_response()))?;
    let listed = parts.headers.get(header::ORIGIN).filter(|o| is_listed(o, settings)).cloned();
    match &listed {
        Some(allowed) => {
            let asks = parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
            if asks && parts.method == Method::OPTIONS {
                return Err(Box::new(preflight(allowed, &parts.headers)));
            }
        }
        None => check_same_site(parts).map_err(|problem| Box::new(problem.into_response()))?,
    }
    Ok(Admitted { listed, varies: !settings.cors_origins.is_empty() })
}

impl Admitted {
    /// Tells the browser what it may do with the answer.
    pub fn mark(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(allowed) = self.listed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

fn is_listed(origin: &HeaderValue, settings: &Settings) -> bool {
    settings.cors_origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
}

fn preflight(origin: &HeaderValue, headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_SECONDS.as_secs()));
    answer.insert(
        header::VARY,
        HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
    );
    response
}

/// Refuses what a browser sends for a page of another origin: by `Origin` against the request's own host, and by
/// `Sec-Fetch-Site` where a browser sends no `Origin` (a plain GET). A link that is followed is let through.
fn check_same_site(parts: &Parts) -> Result<(), Problem> {
    if let Some(origin) = parts.headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let own = host_of(parts);
        let origin_host = origin.split_once("://").map_or("", |(_, host)| host);
        if own.is_some_and(|own| !origin_host.is_empty() && own.eq_ignore_ascii_case(origin_host)) {
            return Ok(());
        }
        return Err(cross_origin(format!("pages of the origin '{origin}' may not use this server")));
    }
    let navigates = || parts.headers.get(&SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
    match parts.headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(b"cross-site" | b"same-site") if parts.method != Method::GET || !navigates() => {
            Err(cross_origin("pages of another origin may not use this server".to_owned()))
        }
        _ => Ok(()),
    }
}

fn cross_origin(detail: String) -> Problem {
    let detail = format!("{detail}; its operator can allow an origin with the setting allowed-origins");
    Problem::new(StatusCode::FORBIDDEN, "origin-not-allowed", "The page's origin is not allowed", detail)
}

/// On a loopback listener the host must be this machine's: a name of somebody else's that resolves here is an attack
/// (DNS rebinding), for the browser takes it for that somebody's own site.
fn check_host(parts: &Parts, settings: &Settings) -> Result<(), Problem> {
    if !settings.listen.is_some_and(|listen| listen.ip().is_loopback()) {
        return Ok(());
    }
    let Some(host) = host_of(parts) else { return Ok(()) }; // HTTP/1.0, and no browser
    let name = without_port(host);
    let advertised = || settings.advertised.as_deref().map(without_port);
    let below_localhost = || {
        let tail = name.len().checked_sub(LOCALHOST.len() + 1).and_then(|at| name.get(at..));
        tail.is_some_and(|tail| tail.starts_with('.') && tail[1..].eq_ignore_ascii_case(LOCALHOST))
    };
    let known = name.eq_ignore_ascii_case(LOCALHOST)
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || below_localhost()
        || advertised().is_some_and(|own| own.eq_ignore_ascii_case(name))
        || settings.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    if known {
        return Ok(());
    }
    let detail =
        format!("'{name}' is no name of this server's; its operator can allow it with the setting allowed-hosts");
    Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host-not-allowed", "The host is not this server", detail))
}

/// The host that the request names: HTTP/2's authority, or HTTP/1.1's `Host`.
fn host_of(parts: &Parts) -> Option<&str> {
    let authority = parts.uri.authority().map(axum::http::uri::Authority::as_str);
    authority.or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if (name.ends_with(']') || !name.contains(':')) && port.bytes().all(|c| c.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/topics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(axum::body::Body::empty()).unwrap().into_parts().0
    }

    #[test]
    fn other_origins_are_refused() {
        let host = ("host", "localhost:8080");
        for good in [
            &[host][..],
            &[host, ("origin", "http://localhost:8080")],
            &[host, ("sec-fetch-site", "same-origin")],
            &[host, ("sec-fetch-site", "none")],
            &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        ] {
            assert!(check_same_site(&parts(Method::GET, good)).is_ok(), "{good:?}");
        }
        for bad in [
            &[host, ("origin", "http://evil.example")][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://localhost:8081")],
            &[host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            &[("origin", "http://evil.example")],
        ] {
            assert!(check_same_site(&parts(Method::GET, bad)).is_err(), "{bad:?}");
        }
        let form = [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(check_same_site(&parts(Method::POST, &form)).is_err());
    }

    #[test]
    fn a_loopback_listener_knows_its_names() {
        let mut settings = Settings { listen: Some("127.0.0.1:8080".parse().unwrap()), ..Settings::default() };
        settings.allowed_hosts.push("dev.example".to_owned());
        settings.advertised = Some("box.example:8080".to_owned());
        for good in ["localhost:8080", "127.0.0.1", "[::1]:8080", "app.localhost", "Dev.example:1", "box.example:9"] {
            assert!(check_host(&parts(Method::GET, &[("host", good)]), &settings).is_ok(), "{good}");
        }
        for bad in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", ""] {
            assert!(check_host(&parts(Method::GET, &[("host", bad)]), &settings).is_err(), "{bad}");
        }
        settings.listen = Some("0.0.0.0:8080".parse().unwrap());
        assert!(check_host(&parts(Method::GET, &[("host", "any.example")]), &settings).is_ok());
    }
}

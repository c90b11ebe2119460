//! The console: files of `web/`, inside the binary.
//!
//! **Invariant**: only files that were there at build time are served; a path names one of them exactly or nothing.

use super::{AppState, problem::Problem};
use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

/// The routes, as labels.
pub const PATHS: [&str; 2] = ["/", "/assets/{*path}"];

/// What the console may load: its own files, and this server's API.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// The console's routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/", get(index)).route("/assets/{*path}", get(asset))
}

async fn index(headers: HeaderMap) -> Response {
    serve("index.html", &headers)
}

async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    serve(&path, &headers)
}

fn serve(path: &str, headers: &HeaderMap) -> Response {
    match Web::get(path) {
        Some(file) => file_response(path, file, headers, POLICY),
        None => Problem::not_found(format!("the console has no file '{path}'")).into_response(),
    }
}

/// A file with its type and a strong ETag, or 304 if the client has it.
pub fn file_response(path: &str, file: EmbeddedFile, headers: &HeaderMap, policy: &'static str) -> Response {
    let hash = file.metadata.sha256_hash();
    let etag: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    tagged(content_type(path), file.data.into_owned(), &format!("\"{etag}\""), headers, policy)
}

/// A body under an ETag. It is asked for again each time (`no-cache`), which costs an empty 304.
pub fn tagged(
    content_type: &'static str,
    body: impl Into<axum::body::Body>,
    etag: &str,
    headers: &HeaderMap,
    policy: &'static str,
) -> Response {
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    let fresh = asked.split(',').any(|tag| matches!(tag.trim().trim_start_matches("W/"), t if t == etag || t == "*"));
    let mut response =
        if fresh { StatusCode::NOT_MODIFIED.into_response() } else { axum::body::Body::into_response(body.into()) };
    let answer = response.headers_mut();
    if !fresh {
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if let Ok(etag) = HeaderValue::from_str(etag) {
        answer.insert(header::ETAG, etag);
    }
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, end)| end) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" | "map" => "application/json",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

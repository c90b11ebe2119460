//! Request bodies: bounded before they are buffered and again after decompression, and given up when they fall silent.
//!
//! **Invariant**: a [`BodyReader`] never gives more than its limit, nor more than `decompression_ratio` times what came
//! in, and holds one chunk. Its errors are problems that leave nothing behind.

use super::{Limits, problem::Problem};
use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use std::{io::Write, time::Duration};
use zstd::stream::raw::{DParameter, Decoder as RawZstd, Operation as _};

/// What may come out whatever the ratio, in bytes: short texts compress beyond any sensible one.
const RATIO_ALLOWANCE: usize = 64 << 10;
/// The first allocation for a body that comes in pieces, in bytes; it grows with what really comes.
const FIRST_BUFFER: usize = 256 << 10;
/// What a zstd decoder writes at a time, in bytes.
const ZSTD_BUFFER: usize = 64 << 10;

/// A whole body of at most `limit` bytes, decompressed.
///
/// # Errors
/// 413 if it is larger (before it is read, where its length is announced), 415 for an unknown Content-Encoding, 408 for
/// silence, 400 if it is cut off.
pub async fn read(headers: &HeaderMap, body: Body, limits: &Limits, limit: usize) -> Result<Bytes, Problem> {
    let mut reader = BodyReader::new(headers, body, limits, limit)?;
    let Some(first) = reader.chunk().await? else { return Ok(Bytes::new()) };
    let Some(second) = reader.chunk().await? else { return Ok(first) };
    let mut all = BytesMut::with_capacity(
        reader.announced.clamp(first.len() + second.len(), FIRST_BUFFER.max(first.len() + second.len())),
    );
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(chunk) = reader.chunk().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Reads a body chunk by chunk.
pub struct BodyReader {
    body: Body,
    silence: Duration,
    limit: usize,
    announced: usize,
    seen: usize,
    decoder: Option<Decoder>,
}

impl BodyReader {
    /// Starts on a body. `limit` counts decompressed bytes.
    ///
    /// # Errors
    /// 413 if its announced length is over the limit already, 415 for an unknown Content-Encoding.
    pub fn new(headers: &HeaderMap, body: Body, limits: &Limits, limit: usize) -> Result<Self, Problem> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        let announced = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(too_large(limit));
        }
        let decoder = Decoder::new(headers, limits.decompression_ratio, limit)?;
        Ok(Self { body, silence: limits.body_silence, limit, announced, seen: 0, decoder })
    }

    /// The next bytes; never empty. `None` at the end.
    ///
    /// # Errors
    /// See [`read`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            // Mostly the body came with the head, and no timer is needed.
            let frame = match self.body.frame().now_or_never() {
                Some(frame) => frame,
                None => {
                    tokio::time::timeout(self.silence, self.body.frame()).await.map_err(|_| silent(self.silence))?
                }
            };
            let Some(frame) = frame else {
                return match self.decoder.take() {
                    Some(decoder) => decoder.finish().map(|rest| (!rest.is_empty()).then_some(rest)),
                    None => Ok(None),
                };
            };
            // Trailers say nothing that we use.
            let Ok(data) = frame.map_err(|_| cut_off())?.into_data() else { continue };
            let data = match &mut self.decoder {
                Some(decoder) => decoder.push(&data)?,
                None => data,
            };
            self.seen = self.seen.saturating_add(data.len());
            if self.seen > self.limit {
                return Err(too_large(self.limit));
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::too_large(format!("the body is larger than {limit} bytes, the most that this request takes"))
}

fn silent(silence: Duration) -> Problem {
    let detail = format!("the body stopped coming for {} seconds", silence.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body stopped coming", detail)
        .retry_after(Duration::ZERO)
}

fn cut_off() -> Problem {
    let detail = "the body ended before its announced length";
    Problem::new(StatusCode::BAD_REQUEST, "body-incomplete", "The body was cut off", detail).retry_after(Duration::ZERO)
}

/// Takes a compressed body apart. One stands on a request's stack, so that its size does not matter.
#[allow(clippy::large_enum_variant, reason = "a box would cost an allocation a request")]
enum Decoder {
    Gzip(flate2::write::MultiGzDecoder<Sink>),
    Zstd(Box<Zstd>),
}

struct Zstd {
    decoder: RawZstd<'static>,
    buffer: Box<[u8]>,
    mid_frame: bool,
    sink: Sink,
}

/// Holds what came out, and says stop when it is too much.
struct Sink {
    out: Vec<u8>,
    given: usize,
    taken: usize,
    ratio: usize,
    limit: usize,
    over: Option<Over>,
}

#[derive(Clone, Copy)]
enum Over {
    Limit,
    Ratio,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let total = self.given + self.out.len() + bytes.len();
        if total > self.limit {
            self.over = Some(Over::Limit);
        } else if total > RATIO_ALLOWANCE.max(self.taken.saturating_mul(self.ratio)) {
            self.over = Some(Over::Ratio);
        }
        if self.over.is_some() {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    fn new(headers: &HeaderMap, ratio: usize, limit: usize) -> Result<Option<Self>, Problem> {
        let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let sink = Sink { out: Vec::new(), given: 0, taken: 0, ratio, limit, over: None };
        let text = encoding.to_str().unwrap_or("").trim().to_ascii_lowercase();
        match text.as_str() {
            "identity" | "" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip(flate2::write::MultiGzDecoder::new(sink)))),
            "zstd" => {
                let failed = |e: std::io::Error| Problem::internal(&format!("no zstd decoder: {e}"));
                let mut decoder = RawZstd::new().map_err(failed)?;
                // A frame may ask for a window of gigabytes; 8 MiB is what RFC 8878 asks decoders to support.
                decoder.set_parameter(DParameter::WindowLogMax(23)).map_err(failed)?;
                let buffer = vec![0; ZSTD_BUFFER].into_boxed_slice();
                Ok(Some(Self::Zstd(Box::new(Zstd { decoder, buffer, mid_frame: false, sink }))))
            }
            _ => Err(Problem::unsupported_media_type(format!(
                "the Content-Encoding '{text}' is not supported; send gzip, zstd, or the body as it is"
            ))),
        }
    }

    fn push(&mut self, data: &[u8]) -> Result<Bytes, Problem> {
        let sink = match self {
            Self::Gzip(decoder) => {
                decoder.get_mut().taken += data.len();
                let written = decoder.write_all(data).and_then(|()| decoder.flush());
                written.map_err(|_| decoder.get_ref().refusal("gzip"))?;
                decoder.get_mut()
            }
            Self::Zstd(zstd) => {
                zstd.sink.taken += data.len();
                zstd.push(data).map_err(|_| zstd.sink.refusal("zstd"))?;
                &mut zstd.sink
            }
        };
        sink.given += sink.out.len();
        Ok(std::mem::take(&mut sink.out).into())
    }

    fn finish(self) -> Result<Bytes, Problem> {
        match self {
            Self::Gzip(mut decoder) => {
                decoder.try_finish().map_err(|_| decoder.get_ref().refusal("gzip"))?;
                Ok(std::mem::take(&mut decoder.get_mut().out).into())
            }
            Self::Zstd(zstd) if zstd.mid_frame => Err(zstd.sink.refusal("zstd")),
            Self::Zstd(_) => Ok(Bytes::new()),
        }
    }
}

impl Zstd {
    fn push(&mut self, mut data: &[u8]) -> std::io::Result<()> {
        loop {
            let status = self.decoder.run_on_buffers(data, &mut self.buffer)?;
            data = &data[status.bytes_read..];
            self.sink.write_all(&self.buffer[..status.bytes_written])?;
            if status.bytes_read + status.bytes_written > 0 {
                self.mid_frame = status.remaining > 0;
            }
            // A full buffer may have left something inside the decoder.
            if data.is_empty() && status.bytes_written < self.buffer.len() {
                return Ok(());
            }
        }
    }
}

impl Sink {
    fn refusal(&self, name: &str) -> Problem {
        match self.over {
            Some(Over::Limit) => too_large(self.limit),
            Some(Over::Ratio) => {
                Problem::too_large(format!("the body decompresses to more than {} times its size", self.ratio))
            }
            None => Problem::invalid_request(format!("the body is no valid {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn headers(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(encoding))])
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    async fn decoded(encoding: &'static str, data: Vec<u8>, limit: usize) -> Result<Bytes, Problem> {
        let chunks: Vec<_> = data.chunks(7).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
        let body = Body::from_stream(futures_util::stream::iter(chunks));
        read(&headers(encoding), body, &Limits::default(), limit).await
    }

    #[tokio::test]
    async fn compressed_bodies_come_out_whole() {
        let data: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(decoded("gzip", gzip(&data), 1 << 20).await.unwrap(), data);
        assert_eq!(decoded("zstd", zstd::encode_all(&data[..], 3).unwrap(), 1 << 20).await.unwrap(), data);
        assert_eq!(decoded("identity", data.clone(), 1 << 20).await.unwrap(), data);
    }

    #[tokio::test]
    async fn bombs_and_broken_bodies_are_refused() {
        let bomb = vec![b'x'; 8 << 20];
        for (encoding, data) in [("gzip", gzip(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 3).unwrap())] {
            let problem = decoded(encoding, data, 16 << 20).await.unwrap_err();
            assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert!(problem.body().detail.contains("100 times"), "{encoding}");
        }
        let data: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(decoded("gzip", gzip(&data), 1000).await.unwrap_err().code(), "request-too-large");
        assert_eq!(decoded("gzip", data.clone(), 1 << 20).await.unwrap_err().code(), "invalid-request");
        let mut cut = gzip(&data);
        cut.truncate(cut.len() / 2);
        assert_eq!(decoded("gzip", cut, 1 << 20).await.unwrap_err().code(), "invalid-request");
        let mut cut = zstd::encode_all(&data[..], 3).unwrap();
        cut.truncate(cut.len() / 2);
        assert_eq!(decoded("zstd", cut, 1 << 20).await.unwrap_err().code(), "invalid-request");
        assert_eq!(decoded("br", data, 1 << 20).await.unwrap_err().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_before_it_is_read() {
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static("11"))]);
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = read(&headers, body, &Limits::default(), 10).await.unwrap_err();
        assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_given_up() {
        let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let problem = read(&HeaderMap::new(), body, &Limits::default(), 10).await.unwrap_err();
        assert_eq!(problem.code(), "body-timeout");
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_decoder(data in prop::collection::vec(any::<u8>(), 0..200), zstd in any::<bool>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _ = runtime.block_on(decoded(if zstd { "zstd" } else { "gzip" }, data, 1000));
        }
    }
}

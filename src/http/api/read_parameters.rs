//! What readers may ask for, the same for pages, streams and the multiplexed socket.

use crate::{
    engine::TopicInfo,
    http::{App, problem::Problem},
    session::{
        ReadRequest, SlowPolicy, StartPosition, Until,
        cursor::{Cursor, CursorError},
        json::ValueEncoding,
    },
    types::{Offset, PartitionId, TopicName},
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de};
use std::{fmt, sync::Arc};
use utoipa::{IntoParams, ToSchema};

/// Where to start when nothing more exact is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The first record that is there.
    Earliest,
    /// The end: only what comes.
    Latest,
}

/// A view to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The latest record of each key.
    Latest,
}

/// How values are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As JSON, text or base64, whichever fits first.
    #[default]
    Auto,
    /// Always as base64.
    Base64,
}

/// What happens to a stream that falls behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Slow {
    /// It catches up from the log.
    #[default]
    Park,
    /// It gets the newest record of each key, and a gap says what it did not get.
    Conflate,
    /// It is closed.
    Close,
}

/// Where a page goes on whose start is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// At the first record that is there, with a gap.
    Earliest,
}

/// Parameters of a read: at most one start, and what to read from there.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadParameters {
    /// Start where a reader left off: a `next_cursor`, or an event's id.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{1,4096}$")]
    pub cursor: Option<String>,
    /// Start at an end of the log. Pages start at `earliest` if nothing is named, streams at `latest`.
    #[param(inline, nullable = false)]
    pub from: Option<From>,
    /// Start at this offset of the one partition that is named.
    #[param(nullable = false, minimum = 0)]
    pub offset: Option<i64>,
    /// Start at a time: RFC 3339, Unix time in milliseconds, or so long ago (`-15m`; ms, s, m, h, d).
    #[param(value_type = Option<String>, nullable = false, example = "-15m")]
    pub since: Option<Text>,
    /// Start so many records before the end of each partition.
    #[param(nullable = false, minimum = 0)]
    pub last: Option<u64>,
    /// Only this partition.
    #[param(nullable = false, minimum = 0, maximum = 2147483647)]
    pub partition: Option<i64>,
    /// Only these partitions, with commas between them.
    #[param(value_type = Option<String>, nullable = false, pattern = "^[0-9]{1,10}(,[0-9]{1,10})*$", example = "0,3")]
    pub partitions: Option<Text>,
    /// Only records with this key.
    #[param(nullable = false)]
    pub key: Option<String>,
    /// Only records with this key, as bytes in base64.
    #[param(nullable = false, pattern = "^[A-Za-z0-9+/_-]*={0,2}$")]
    pub key_base64: Option<String>,
    /// Most records: of a page (1000 if not named), or of a stream, which then ends.
    #[param(nullable = false, minimum = 1, maximum = 100000)]
    pub limit: Option<u64>,
    /// Pages: about the most bytes.
    #[param(nullable = false, minimum = 1, maximum = 16777216, default = 1048576)]
    pub max_bytes: Option<u64>,
    /// Pages: how long to wait for a first record, in milliseconds.
    #[param(nullable = false, minimum = 0, maximum = 60000, default = 0)]
    pub wait_ms: Option<u64>,
    /// Where to end (exclusive): a time as in `since`; with one partition and no `since` a whole number is an offset.
    #[param(value_type = Option<String>, nullable = false, example = "2026-11-23T12:00:00Z")]
    pub until: Option<Text>,
    /// Begin with the latest record of each key.
    #[param(inline, nullable = false)]
    pub view: Option<View>,
    /// How values are given.
    #[param(inline, nullable = false, default = "auto")]
    pub encoding: Option<Encoding>,
    /// Streams: what happens when this reader falls behind.
    #[param(inline, nullable = false, default = "park")]
    pub slow: Option<Slow>,
    /// Pages: where to go on when the start is gone, instead of an error.
    #[param(inline, nullable = false)]
    pub reset: Option<Reset>,
    /// The topic must be this one: a topic made again under its name has another.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{22}$")]
    pub topic_id: Option<String>,
}

/// Text, or in JSON also a number or a list of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Text, A::Error> {
                let mut text = Vec::new();
                while let Some(number) = list.next_element::<i64>()? {
                    text.push(number.to_string());
                }
                Ok(Text(text.join(",")))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// The topic of this name, which must have the id that was asked for.
///
/// # Errors
/// 404.
pub fn find_topic(app: &App, name: &TopicName, id: Option<&str>) -> Result<Arc<TopicInfo>, Problem> {
    let topic = app.engine.topic(name).ok_or_else(|| Problem::unknown_topic(name.as_str()))?;
    match id {
        Some(id) if topic.id.to_string() != id => {
            let detail = format!("topic '{name}' has the id {} now: it was deleted and made again", topic.id);
            Err(Problem::unknown_topic(name.as_str()).with_detail(detail))
        }
        _ => Ok(topic),
    }
}

impl ReadParameters {
    /// How values are given.
    #[must_use]
    pub fn value_encoding(&self) -> ValueEncoding {
        match self.encoding.unwrap_or_default() {
            Encoding::Auto => ValueEncoding::Auto,
            Encoding::Base64 => ValueEncoding::Base64,
        }
    }

    /// What happens to a slow reader.
    #[must_use]
    pub fn slow_policy(&self) -> SlowPolicy {
        match self.slow.unwrap_or_default() {
            Slow::Park => SlowPolicy::Park,
            Slow::Conflate => SlowPolicy::Conflate,
            Slow::Close => SlowPolicy::Close,
        }
    }

    /// What to read. `default` is where to start if nothing is named; `resume` overrides every start.
    ///
    /// # Errors
    /// 400 with what to write instead.
    pub fn to_request(
        &self,
        topic: Arc<TopicInfo>,
        default: StartPosition,
        resume: Option<&str>,
        now_ms: i64,
    ) -> Result<ReadRequest, Problem> {
        let partitions = self.partitions()?;
        let start = match resume {
            Some(cursor) => StartPosition::Cursor(parse_cursor(cursor)?),
            None => self.start(default, now_ms)?,
        };
        if matches!(self.limit, Some(0) | Some(100_001..)) {
            return Err(Problem::invalid_request("limit is a whole number from 1 to 100000"));
        }
        let one = partitions.as_ref().is_some_and(|list| list.len() == 1);
        let until = self.until.as_ref().map(|Text(text)| match text.parse::<i64>() {
            Ok(offset) if one && self.since.is_none() && offset >= 0 => Ok(Until::Offset(Offset::new(offset))),
            _ => moment("until", text, now_ms).map(Until::Time),
        });
        let key = key(self.key.as_deref(), self.key_base64.as_deref())?;
        let until = until.transpose()?;
        Ok(ReadRequest { topic, start, partitions, key, until, refuse_retention_gap: false })
    }

    fn start(&self, default: StartPosition, now_ms: i64) -> Result<StartPosition, Problem> {
        let given = [
            ("cursor", self.cursor.is_some()),
            ("from", self.from.is_some()),
            ("offset", self.offset.is_some()),
            ("since", self.since.is_some()),
            ("last", self.last.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if given.len() > 1 {
            let detail = format!("name one start; this names {}", given.join(" and "));
            return Err(Problem::invalid_request(detail));
        }
        Ok(if let Some(cursor) = &self.cursor {
            StartPosition::Cursor(parse_cursor(cursor)?)
        } else if let Some(offset) = self.offset {
            if offset < 0 {
                return Err(Problem::invalid_request("offset is 0 or more"));
            }
            StartPosition::Offset(Offset::new(offset))
        } else if let Some(Text(since)) = &self.since {
            StartPosition::Since(moment("since", since, now_ms)?)
        } else if let Some(n) = self.last {
            StartPosition::Last(n)
        } else {
            match self.from {
                Some(From::Earliest) => StartPosition::Earliest,
                Some(From::Latest) => StartPosition::Latest,
                None => default,
            }
        })
    }

    fn partitions(&self) -> Result<Option<Vec<PartitionId>>, Problem> {
        let parse = |text: &str| {
            let number = text.trim().parse::<i32>().ok().filter(|n| *n >= 0);
            number.map(PartitionId::new).ok_or_else(|| {
                Problem::invalid_request(format!("'{text}' is no partition: use whole numbers from 0, such as 0,3"))
            })
        };
        match (self.partition, &self.partitions) {
            (Some(_), Some(_)) => Err(Problem::invalid_request("name partition or partitions, not both")),
            (Some(one), None) => Ok(Some(vec![parse(&one.to_string())?])),
            (None, Some(Text(list))) => list.split(',').map(parse).collect::<Result<_, _>>().map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, Problem> {
    Cursor::parse(text).map_err(|error: CursorError| crate::session::SessionError::from(error).into())
}

/// A key as text or in base64 (either alphabet, padded or not).
///
/// # Errors
/// 400 for both, or for what is no base64.
pub fn key(text: Option<&str>, base64: Option<&str>) -> Result<Option<Bytes>, Problem> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(Problem::invalid_request("name key or key_base64, not both")),
        (Some(text), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        (None, Some(base64)) => {
            let plain: String = base64.trim_end_matches('=').replace('-', "+").replace(['_'], "/").replace(' ', "+");
            let key = base64_simd::STANDARD_NO_PAD.decode_to_vec(plain);
            key.map(|key| Some(key.into())).map_err(|_| Problem::invalid_request("key_base64 is no base64"))
        }
        (None, None) => Ok(None),
    }
}

/// RFC 3339, Unix milliseconds, or so long ago.
///
/// # Errors
/// 400.
pub fn moment(name: &str, text: &str, now_ms: i64) -> Result<i64, Problem> {
    let refusal = || {
        let detail = format!(
            "{name}: '{text}' is no time; use RFC 3339 (2026-11-23T12:00:00Z), Unix time in milliseconds, or so long \
             ago (-15m; the units are ms, s, m, h, d)"
        );
        Problem::invalid_request(detail)
    };
    if let Some(ago) = text.strip_prefix('-') {
        let digits = ago.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &ago[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refusal()),
        };
        let span = ago[..digits].parse::<i64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(refusal)?;
        return Ok(now_ms.saturating_sub(span).max(0));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| refusal());
    }
    rfc3339(text).ok_or_else(refusal)
}

/// Unix milliseconds of `2026-11-23T12:00:00.5+01:00`; none before 1970.
#[must_use]
pub fn rfc3339(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten()
    };
    let sign = |at: usize, allowed: &str| text.get(at..=at).filter(|s| allowed.contains(*s));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    sign(4, "-").and(sign(7, "-")).and(sign(10, "Tt ")).and(sign(13, ":")).and(sign(16, ":"))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_month = *days.get(usize::try_from(month - 1).ok()?)?;
    if !(1..=in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        millis = format!("{:0<3.3}", &fraction[..digits]).parse().ok().filter(|_| digits > 0)?;
        rest = &fraction[digits..];
    }
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let direction = if rest.starts_with('+') {
                1
            } else if rest.starts_with('-') {
                -1
            } else {
                return None;
            };
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            let part =
                |text: &str, most: i64| text.parse::<i64>().ok().filter(|n| text.len() == 2 && (0..=most).contains(n));
            direction * (part(hours, 23)? * 60 + part(minutes, 59)?)
        }
    };
    // Days since 1970 in the proleptic Gregorian calendar (Howard Hinnant's algorithm).
    let y = if month <= 2 { year - 1 } else { year };
    let (era, day_of_era_year) = (y.div_euclid(400), y.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = day_of_era_year * 365 + day_of_era_year / 4 - day_of_era_year / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60;
    Some(seconds * 1_000 + millis).filter(|ms| *ms >= 0)
}

/// Unix milliseconds as RFC 3339 says them, in UTC.
#[must_use]
pub fn to_rfc3339(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // As above, the other way round.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_their_three_forms() {
        let of = |text| moment("since", text, 1_000_000_000).ok();
        assert_eq!(of("1234"), Some(1234));
        assert_eq!(of("-15m"), Some(1_000_000_000 - 900_000));
        assert_eq!(of("-2d"), Some(1_000_000_000 - 172_800_000));
        assert_eq!(of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(of("2000-02-29T12:34:56.789Z"), Some(951_827_696_789));
        assert_eq!(of("2026-11-23T12:00:00.5+01:00"), Some(1_795_431_600_500));
        for bad in [
            "",
            "x",
            "-15",
            "-m",
            "15m",
            "2026-02-29T00:00:00Z",
            "2026-11-23",
            "2026-11-23T12:00:00",
            "2026-11-23T12:00:00.Z",
            "1960-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "99999999999999999999",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_come_out_as_they_went_in() {
        for text in
            ["1970-01-01T00:00:00Z", "2000-02-29T12:34:56.789Z", "2026-12-31T23:59:59.001Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(to_rfc3339(rfc3339(text).unwrap()), text);
        }
        for ms in (0..4_102_444_800_000).step_by(86_399_999_173) {
            assert_eq!(rfc3339(&to_rfc3339(ms)), Some(ms));
        }
    }

    #[test]
    fn keys() {
        assert_eq!(key(None, Some("_-8=")).unwrap().unwrap(), Bytes::from_static(b"\xff\xef"));
        assert_eq!(key(None, Some("/+8")).unwrap().unwrap(), Bytes::from_static(b"\xff\xef"));
        assert!(key(Some("a"), Some("YQ==")).is_err() && key(None, Some("*")).is_err());
    }
}

//! A request's query, strictly: decoded once, each name given once, and no name that is not known.
//!
//! **Invariant**: form decoding lets broken escapes, bytes that are no UTF-8, and repeated names through in silence; here
//! each is refused, in words that name the parameter.

use super::{extract::unknown_field, problem::Problem};
use serde::de::{self, DeserializeOwned, Deserializer, Error as _, IntoDeserializer, value::MapDeserializer};
use std::borrow::Cow;

/// Parameters of one query, at most.
const MOST: usize = 64;

/// What a query says. `T` must carry `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// 400 with what to write instead.
pub(super) fn parse<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let parts = split(query)?;
    let pairs = parts.into_iter().map(|(name, text)| (name.clone(), Value { name, text }));
    T::deserialize(MapDeserializer::new(pairs)).map_err(|error: de::value::Error| {
        let text = error.to_string();
        Problem::invalid_request(match unknown_field(&text) {
            Some(known) => known.refusal("parameter"),
            None => format!("the query is not understood: {text}"),
        })
    })
}

/// A parameter's name and value.
type Part<'a> = (Cow<'a, str>, Cow<'a, str>);

fn split(query: &str) -> Result<Vec<Part<'_>>, Problem> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (percent_decode(name), percent_decode(value)) else {
            let detail = format!("the query part '{pair}' is no UTF-8 after percent-decoding");
            return Err(Problem::invalid_request(format!("{detail}; for bytes use the parameter that takes base64")));
        };
        if parts.iter().any(|(other, _)| *other == name) {
            return Err(Problem::invalid_request(format!("the parameter '{name}' is given more than once")));
        }
        if parts.len() == MOST {
            return Err(Problem::invalid_request(format!("the query has more than {MOST} parameters")));
        }
        parts.push((name, value));
    }
    Ok(parts)
}

/// `None` if an escape is broken, or what comes out is no UTF-8.
fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// A parameter's value: text, and what that says where a number or a truth value is wanted.
struct Value<'a> {
    name: Cow<'a, str>,
    text: Cow<'a, str>,
}

impl<'de> IntoDeserializer<'de> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Whose value it is.
fn named(name: &str, error: impl std::fmt::Display) -> de::value::Error {
    de::value::Error::custom(format!("{name}: {error}"))
}

/// Methods that give what the text says in Rust's own notation.
macro_rules! parsed {
    ($($method:ident => $visit:ident,)*) => {$(
        fn $method<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.$visit(self.text.parse().map_err(|error| named(&self.name, error))?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = de::value::Error;

    fn deserialize_any<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let visited: Result<_, Self::Error> = match self.text {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        };
        visited.map_err(|error| named(&self.name, error))
    }

    fn deserialize_option<V: de::Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: de::Visitor<'de>>(self, _: &str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: de::Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let text: de::value::CowStrDeserializer<'_, Self::Error> = self.text.into_deserializer();
        text.deserialize_enum(name, variants, visitor).map_err(|error| named(&self.name, error))
    }

    parsed! {
        deserialize_bool => visit_bool,
        deserialize_i8 => visit_i8,
        deserialize_i16 => visit_i16,
        deserialize_i32 => visit_i32,
        deserialize_i64 => visit_i64,
        deserialize_u8 => visit_u8,
        deserialize_u16 => visit_u16,
        deserialize_u32 => visit_u32,
        deserialize_u64 => visit_u64,
        deserialize_f32 => visit_f32,
        deserialize_f64 => visit_f64,
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        All,
        Leader,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        key: Option<String>,
        count: Option<i64>,
        #[serde(default)]
        flag: bool,
        kind: Option<Kind>,
    }

    #[test]
    fn a_query_says_what_it_says() {
        let all = parse::<Sample>("key=a%20b+c&count=-7&flag=true&kind=leader").unwrap();
        let meant = Sample { key: Some("a b c".to_owned()), count: Some(-7), flag: true, kind: Some(Kind::Leader) };
        assert_eq!(all, meant);
        let nothing = Sample { key: None, count: None, flag: false, kind: None };
        assert_eq!(parse::<Sample>("").unwrap(), nothing);
        assert_eq!(parse::<Sample>("&&key=").unwrap().key.as_deref(), Some(""));
    }

    #[test]
    fn a_refusal_names_the_parameter() {
        for (query, says) in [
            ("count=x", "the query is not understood: count: invalid digit found in string"),
            ("flag=yes", "flag: provided string was not `true` or `false`"),
            ("kind=none", "kind: unknown variant `none`, expected `all` or `leader`"),
            ("kee=a", "unknown parameter 'kee'; did you mean 'key'?"),
            ("key=%ff", "no UTF-8 after percent-decoding"),
            ("key=%4", "no UTF-8 after percent-decoding"),
            ("key=a&k%65y=b", "the parameter 'key' is given more than once"),
        ] {
            let problem = parse::<Sample>(query).unwrap_err();
            let detail = &problem.body().detail;
            assert!(detail.contains(says), "{query}: {detail}");
        }
    }
}

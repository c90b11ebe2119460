//! JSON text (RFC 8259), checked and cut up in one pass without being parsed: numbers keep their digits, strings their
//! escapes, and no tree is built.
//!
//! **Invariant**: what [`Scanner::value`] lets through is JSON that every parser takes: at most [`MAX_DEPTH`] deep, with
//! finite numbers and paired surrogates. The doors use one rule for what they take and for what they give.

use std::borrow::Cow;

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 128;

/// Whether these bytes may be given to a reader as JSON: UTF-8, one JSON value that every parser takes, and not a bare
/// `null`. White space around it is allowed.
#[must_use]
pub fn is_portable(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut scanner = Scanner::new(text);
    matches!(scanner.value(), Ok((kind, _)) if kind != Kind::Null) && scanner.end().is_ok()
}

/// What kind of value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // JSON's own names
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

/// Why a text is no JSON, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct JsonError {
    /// The byte at which it goes wrong.
    pub at: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl JsonError {
    /// Line and column of the place, both from 1; columns count characters.
    #[must_use]
    pub fn line_and_column(&self, text: &str) -> (usize, usize) {
        let before = text.get(..self.at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// Goes over a JSON text from left to right.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte to be read.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, without taking it.
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    /// Takes this byte, after white space, if it comes next.
    pub fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    /// Takes this byte, after white space.
    ///
    /// # Errors
    /// `reason`, if something else comes next.
    pub fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        if self.take(byte) { Ok(()) } else { Err(self.error(reason)) }
    }

    /// Nothing but white space follows.
    ///
    /// # Errors
    /// If something does.
    pub fn end(&mut self) -> Result<(), JsonError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.error("something follows after the JSON value")) }
    }

    /// The error at this place.
    #[must_use]
    pub const fn error(&self, reason: &'static str) -> JsonError {
        JsonError { at: self.at, reason }
    }

    /// Takes a string and gives what stands between its quotes, escapes and all; see [`unescape`].
    ///
    /// # Errors
    /// If no string comes next, or one that not every parser takes.
    pub fn string(&mut self) -> Result<&'a str, JsonError> {
        self.expect(b'"', "a string was expected here")?;
        let start = self.at;
        self.finish_string()?;
        Ok(&self.text[start..self.at - 1])
    }

    /// Takes one value of any kind and gives its text, without the white space around it.
    ///
    /// # Errors
    /// If what comes next is no JSON value that every parser takes.
    pub fn value(&mut self) -> Result<(Kind, &'a str), JsonError> {
        let first = self.peek();
        let start = self.at;
        let kind = match first {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            _ => {
                let kind = self.scalar()?;
                return Ok((kind, &self.text[start..self.at]));
            }
        };
        self.containers()?;
        Ok((kind, &self.text[start..self.at]))
    }

    /// An array or object, with one bit a level for which of the two it is.
    fn containers(&mut self) -> Result<(), JsonError> {
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            // A value is due here.
            let opened = match self.peek() {
                Some(b'{') => Some(true),
                Some(b'[') => Some(false),
                _ => None,
            };
            if let Some(is_object) = opened {
                if depth == MAX_DEPTH {
                    return Err(self.error("the JSON is nested more than 128 deep"));
                }
                self.at += 1;
                depth += 1;
                objects = objects << 1 | u128::from(is_object);
                let close = if is_object { b'}' } else { b']' };
                if !self.take(close) {
                    if is_object {
                        self.name()?;
                    }
                    continue;
                }
                objects >>= 1;
                depth -= 1;
            } else {
                self.scalar()?;
            }
            // A value has ended here.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                if self.take(b',') {
                    if in_object {
                        self.name()?;
                    }
                    break;
                }
                let reason =
                    if in_object { "a comma or } was expected here" } else { "a comma or ] was expected here" };
                self.expect(if in_object { b'}' } else { b']' }, reason)?;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// A member's name and its colon.
    ///
    /// # Errors
    /// If none comes next.
    pub fn name(&mut self) -> Result<&'a str, JsonError> {
        self.expect(b'"', "a name in double quotes was expected here")?;
        let start = self.at;
        self.finish_string()?;
        let name = &self.text[start..self.at - 1];
        self.expect(b':', "a colon was expected here")?;
        Ok(name)
    }

    fn scalar(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                self.finish_string()?;
                Ok(Kind::String)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            Some(b't') => self.word("true", Kind::True),
            Some(b'f') => self.word("false", Kind::False),
            Some(b'n') => self.word("null", Kind::Null),
            Some(_) => Err(self.error("a JSON value was expected here")),
            None => Err(self.error("the JSON ends too early")),
        }
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<Kind, JsonError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("a JSON value was expected here"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let digits = |at: &mut usize| {
            let from = *at;
            while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            *at > from
        };
        self.at += usize::from(bytes[self.at] == b'-');
        let leading = self.at;
        let mut good = digits(&mut self.at) && (bytes[leading] != b'0' || self.at == leading + 1);
        let mut simple = self.at - leading < 300;
        if good && bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            good = digits(&mut self.at);
        }
        if good && matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            simple = false;
            self.at += 1;
            self.at += usize::from(matches!(bytes.get(self.at), Some(b'+' | b'-')));
            good = digits(&mut self.at);
        }
        if !good {
            return Err(JsonError { at: start, reason: "this is no JSON number" });
        }
        if !simple && !self.text[start..self.at].parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(JsonError { at: start, reason: "this number is too large for a 64-bit floating-point number" });
        }
        Ok(())
    }

    /// The rest of a string, up to and with its closing quote.
    fn finish_string(&mut self) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        loop {
            self.at = plain_until(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.error("control characters must be escaped in a JSON string")),
                None => return Err(self.error("the JSON ends within a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = hex4(bytes, self.at + 2).ok_or(self.error("\\u takes four hexadecimal digits"))?;
                let next = self.at + 6;
                match unit {
                    0xd800..=0xdbff => {
                        let low =
                            bytes.get(next..next + 2).filter(|b| *b == b"\\u").and_then(|_| hex4(bytes, next + 2));
                        if !matches!(low, Some(0xdc00..=0xdfff)) {
                            return Err(self.error("half of a surrogate pair stands alone"));
                        }
                        self.at += 12;
                    }
                    0xdc00..=0xdfff => return Err(self.error("half of a surrogate pair stands alone")),
                    _ => self.at += 6,
                }
            }
            Some(_) => return Err(self.error("there is no such escape in JSON")),
            None => return Err(self.error("the JSON ends within a string")),
        }
        Ok(())
    }
}

/// The first place at or after `at` with a quote, a backslash or a control character.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const BLOCK: usize = 32;
    let special = |b: u8| matches!(b, b'"' | b'\\' | 0..=0x1f);
    // Without a way out in the middle of a block the compiler compares all of its bytes at once.
    while let Some(block) = bytes.get(at..at + BLOCK) {
        if block.iter().fold(false, |found, &b| found | (b == b'"') | (b == b'\\') | (b < 0x20)) {
            break;
        }
        at += BLOCK;
    }
    bytes[at.min(bytes.len())..].iter().position(|&b| special(b)).map_or(bytes.len(), |n| at + n)
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |n, c| Some(n << 4 | char::from(*c).to_digit(16)?))
}

/// What a string's text between the quotes means. `text` must come from a [`Scanner`].
#[must_use]
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let bytes = rest.as_bytes();
        let mut taken = 2;
        match bytes.get(at + 1) {
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'n') => out.push('\n'),
            Some(b'r') => out.push('\r'),
            Some(b't') => out.push('\t'),
            Some(b'u') => {
                taken = 6;
                let mut unit = hex4(bytes, at + 2).unwrap_or(0xfffd);
                if (0xd800..0xdc00).contains(&unit) {
                    let low = hex4(bytes, at + 8).unwrap_or(0xdc00);
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff);
                    taken = 12;
                }
                out.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(char::from(*other)),
            None => taken = 1,
        }
        rest = rest.get(at + taken..).unwrap_or("");
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn portable_json_is_told_from_the_rest() {
        for good in [
            "1",
            " {\"a\" : [1, 2.5e3, -0, true, false, null, \"x\"]} \n",
            "\"\\ud83d\\ude00 \\u00e9 \\n\"",
            "[]",
            "{}",
            "123456789012345678901234567890",
            "1e308",
            "[[],{},[{}]]",
            &nested(128),
            "\"\u{7f} longer than eight é\"",
        ] {
            assert!(is_portable(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            " ",
            "null",
            "{",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "-",
            "1e",
            "+1",
            "1e999",
            "nul",
            "truth",
            "\"\\ud83d\"",
            "\"\\ude00\"",
            "\"\\ud83d\\n\"",
            "\"\\x\"",
            "\"a\nb\"",
            "\"",
            "[1 2]",
            "1 2",
            "[}",
            "{]",
            "\u{feff}1",
            "NaN",
            &nested(129),
            &"9".repeat(400),
            "\"\\u12\"",
            "'a'",
        ] {
            assert!(!is_portable(bad.as_bytes()), "{bad}");
        }
        assert!(!is_portable(b"\"\xff\""));
    }

    #[test]
    fn a_value_keeps_its_text() {
        let mut scanner = Scanner::new(" [ 1.50 , {\"k\":\"\\u0041\"} ] , 2");
        assert_eq!(scanner.value(), Ok((Kind::Array, "[ 1.50 , {\"k\":\"\\u0041\"} ]")));
        assert!(scanner.take(b','));
        assert_eq!(scanner.value(), Ok((Kind::Number, "2")));
        assert_eq!(scanner.end(), Ok(()));
    }

    #[test]
    fn errors_name_their_place() {
        let text = "{\n  \"é\": tru\n}";
        let error = Scanner::new(text).value().unwrap_err();
        assert_eq!(error.line_and_column(text), (2, 8));
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| serde_json::to_string(&f).unwrap()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
            Just("null".to_owned()),
            Just("true".to_owned()),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(" ,\t"))),
                prop::collection::vec((any::<String>(), inner), 0..5).prop_map(|v| {
                    let members = v.iter().map(|(k, v)| format!("{}: {v}", serde_json::to_string(k).unwrap()));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes(text in json()) {
            let mut scanner = Scanner::new(&text);
            prop_assert_eq!(scanner.value().map(|(_, t)| t), Ok(text.as_str()));
        }

        #[test]
        fn it_agrees_with_serde_json_on_damaged_text(text in json(), at in any::<prop::sample::Index>(), with in "[\\[\\]{}\",:\\\\0-9eE.ntu\\x01 -]") {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            chars[at] = with.chars().next().unwrap();
            let text: String = chars.into_iter().collect();
            let mut scanner = Scanner::new(&text);
            let ours = scanner.value().is_ok() && scanner.end().is_ok();
            prop_assert_eq!(ours, serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = is_portable(&bytes);
        }

        #[test]
        fn unescape_gives_what_was_escaped(text in any::<String>()) {
            let quoted = serde_json::to_string(&text).unwrap();
            let mut scanner = Scanner::new(&quoted);
            prop_assert_eq!(unescape(scanner.string().unwrap()), text.as_str());
            let units: String = text.encode_utf16().map(|u| format!("\\u{u:04X}")).collect();
            prop_assert_eq!(unescape(&units), text.as_str());
        }
    }
}

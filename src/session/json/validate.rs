//! Whether bytes are JSON that any parser takes, in one pass and without building anything.
//!
//! **Invariant**: what passes is valid UTF-8, a whole JSON text (RFC 8259) nested at most [`MAX_DEPTH`] deep, with
//! numbers that a double can hold and surrogates in pairs. No recursion, no allocation.

/// Deepest nesting of arrays and objects that is still given as JSON; parsers commonly stop there.
pub const MAX_DEPTH: u32 = 128;

/// A number of this many characters, or one with an exponent, is parsed to see that it is finite; a shorter one always is.
const SURELY_FINITE: usize = 300;

/// Whether `bytes` are such a text, and not a bare `null`.
#[must_use]
pub fn is_portable_json(bytes: &[u8]) -> bool {
    if std::str::from_utf8(bytes).is_err() {
        return false;
    }
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.space();
    if scanner.bytes[scanner.at..].starts_with(b"null") {
        return false; // either a bare null, or no JSON at all
    }
    scanner.text().is_some()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// A value with all that is in it, up to the end of the bytes.
    fn text(&mut self) -> Option<()> {
        // One bit for each open container: set for an object. 128 levels fit.
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            // A value begins here.
            self.space();
            match self.peek()? {
                open @ (b'{' | b'[') => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return None;
                    }
                    let is_object = open == b'{';
                    objects = (objects << 1) | u128::from(is_object);
                    self.at += 1;
                    self.space();
                    let close = if is_object { b'}' } else { b']' };
                    if self.peek()? != close {
                        if is_object {
                            self.name()?;
                        }
                        continue;
                    }
                    // empty: the loop below closes it
                }
                b'"' => self.string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value ended here, or an empty container is still open.
            loop {
                self.space();
                if depth == 0 {
                    return if self.at == self.bytes.len() { Some(()) } else { None };
                }
                let in_object = objects & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if in_object {
                            self.space();
                            self.name()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return None,
                }
                self.at += 1;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1; // the quote
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))?;
            self.at += plain + 1;
            match rest[plain] {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                _ => return None,
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        let kind = self.peek()?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.hex()? {
                0xd800..=0xdbff => {
                    self.word(b"\\u")?;
                    matches!(self.hex()?, 0xdc00..=0xdfff).then_some(())
                }
                0xdc00..=0xdfff => None,
                _ => Some(()),
            },
            _ => None,
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |n, d| Some(n << 4 | (*d as char).to_digit(16)?))
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        let mut exponent = false;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.bytes[start..self.at];
        if !exponent && text.len() < SURELY_FINITE {
            return Some(());
        }
        let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        number.is_finite().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> Vec<u8> {
        [vec![b'['; depth], vec![b']'; depth]].concat()
    }

    #[test]
    fn what_any_parser_takes() {
        for good in [
            r#"{"a":[1,-0.5e3,true,false,null,"\u00e9\ud83d\ude00 \" \\ /"],"b":{}}"#,
            " [ ] ",
            "0",
            "-0",
            "1e308",
            r#""""#,
            "[{\"a\" :\n1 , \"b\":[]}]\r\n",
            "\"\u{7f}\"",
        ] {
            assert!(is_portable_json(good.as_bytes()), "{good}");
        }
        assert!(is_portable_json(&nested(128)));
    }

    #[test]
    fn what_some_parser_refuses() {
        for bad in [
            "",
            " ",
            "null",
            " null ",
            "nul",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "1e999",
            "-1e999",
            "NaN",
            "'a'",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\"}",
            "[1}",
            "{\"a\":1]",
            "[",
            "]",
            "1 2",
            "\"a",
            "\"\n\"",
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\x""#,
            r#""\u12""#,
            "\u{feff}1",
        ] {
            assert!(!is_portable_json(bad.as_bytes()), "{bad}");
        }
        assert!(!is_portable_json(&nested(129)));
        assert!(!is_portable_json(b"\"\xff\""));
        assert!(!is_portable_json("9".repeat(400).as_bytes()));
    }

    proptest! {
        /// Bytes that look like JSON: whatever passes here, serde_json takes, and the other way round.
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}",:0-9eE.+\-\\u d8tn\n]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let expected = matches!(&theirs, Ok(value) if !value.is_null());
            prop_assert_eq!(is_portable_json(text.as_bytes()), expected, "{:?}", theirs);
        }

        #[test]
        fn takes_what_serde_json_writes(depth in 0u32..5, seed in any::<Vec<(String, f64)>>()) {
            let mut value: serde_json::Value = seed.into_iter().filter(|(_, n)| n.is_finite())
                .map(|(name, n)| (name, serde_json::json!([n, {"x": null}]))).collect::<serde_json::Map<_, _>>().into();
            for _ in 0..depth {
                value = serde_json::json!([value, "é\n\u{0}"]);
            }
            prop_assert!(is_portable_json(&serde_json::to_vec(&value).unwrap()));
            prop_assert!(is_portable_json(&serde_json::to_vec_pretty(&value).unwrap()));
        }
    }
}

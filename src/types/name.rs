//! Names of topics, queues and groups, by Kafka's rule.

use std::{fmt, sync::Arc};

/// Longest name in characters (Kafka's `Topic.MAX_NAME_LENGTH`).
const MAX_LENGTH: usize = 249;

/// Checks Kafka's rule for names: `[a-zA-Z0-9._-]{1,249}`, and not `.` or `..`.
///
/// # Errors
/// [`InvalidName`], whose text says what to write instead.
pub fn validate_name(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name == "." || name == ".." {
        return Err(InvalidName::Dots);
    }
    if let Some(c) = name.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-')) {
        return Err(InvalidName::Character(c));
    }
    if name.len() > MAX_LENGTH {
        return Err(InvalidName::TooLong(name.len()));
    }
    Ok(())
}

/// A topic's name that keeps the rule of [`validate_name`]. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks and keeps a name.
    ///
    /// # Errors
    /// See [`validate_name`].
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        validate_name(name)?;
        Ok(Self(name.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Topics of the server's own use begin with two underscores, as Kafka's do.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No character at all.
    #[error("the name is empty; use 1 to 249 of the characters a-z A-Z 0-9 . _ -")]
    Empty,
    /// `.` or `..`.
    #[error("a name may not be '.' or '..'")]
    Dots,
    /// A character outside the allowed ones.
    #[error("the name contains {0:?}; use only the characters a-z A-Z 0-9 . _ -")]
    Character(char),
    /// More than 249 characters.
    #[error("the name has {0} characters; at most 249 are allowed")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule() {
        for good in ["a", "games", "a.b_c-D9", "...", &"x".repeat(249)] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
        assert_eq!(validate_name(""), Err(InvalidName::Empty));
        assert_eq!(validate_name(".."), Err(InvalidName::Dots));
        assert_eq!(validate_name("a/b"), Err(InvalidName::Character('/')));
        assert_eq!(validate_name("é"), Err(InvalidName::Character('é')));
        assert_eq!(validate_name(&"x".repeat(250)), Err(InvalidName::TooLong(250)));
    }
}

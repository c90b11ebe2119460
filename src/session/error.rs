//! Why a subscription can not begin or go on.

use super::cursor::CursorError;
use crate::engine::EngineError;

/// A refusal or a failure. The doors map each variant once.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SessionError {
    /// The engine's.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The cursor's.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// What was asked for makes no sense; the text says what to write instead.
    #[error("{0}")]
    Invalid(String),
}

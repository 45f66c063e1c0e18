//! Failures as they cross the wire: a kind to decide by and a text to read.

use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};

/// What a peer is told when something failed. Internal detail stays in the log of whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// What the peer may decide by.
    pub kind: ErrorKind,
    /// For people: names the field and the fix.
    pub message: String,
}

impl WireError {
    /// A failure of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// [`ErrorKind::InvalidSpec`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSpec, message)
    }
}

//! The error of every boundary between crates: a kind to decide by, what was being done, and the cause beneath.

use crate::ErrorKind;

/// A result across a boundary.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, while doing what.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    /// What the caller may decide by.
    pub kind: ErrorKind,
    /// What was being done, and with which thing; a fragment that does not repeat the source.
    pub doing: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure without a deeper cause.
    pub fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    /// A failure with the cause beneath it.
    pub fn caused_by(
        kind: ErrorKind,
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    /// A refusal that names the field at fault and the fix.
    pub fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidSpec, format!("{field}: {why}"))
    }

    /// The whole chain on one line, for logs and replies.
    pub fn chain(&self) -> String {
        let mut text = self.doing.clone();
        let mut next = self.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = next {
            let cause = error.to_string();
            // Some libraries repeat the source in their own text.
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            next = error.source();
        }
        text
    }
}

//! The boundary error of the client.

use std::time::Duration;

use async_nats::client::{RequestError, RequestErrorKind};
use moat_model::ErrorKind;

use crate::WireError;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// A call that failed: what a caller may decide by, what was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    /// What to decide by.
    pub kind: ErrorKind,
    /// What was being done.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: Source,
    /// What would help, if that is known.
    pub hint: Option<String>,
}

impl Error {
    /// A failure of `kind` while `doing`.
    pub fn new(kind: ErrorKind, doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { kind, doing: doing.into(), source: source.into(), hint: None }
    }

    /// The same with advice.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// A node said no.
    pub(super) fn refused(doing: &str, error: WireError) -> Self {
        Self::new(error.kind, doing, error)
    }

    pub(super) fn from_request(doing: &str, error: RequestError, timeout: Duration) -> Self {
        let (kind, why) = match error.kind() {
            RequestErrorKind::NoResponders => (
                ErrorKind::Unavailable,
                "no node listens there: is the node id right, the node up, and this user allowed to publish?"
                    .to_owned(),
            ),
            RequestErrorKind::TimedOut => {
                (ErrorKind::Deadline, format!("no answer within {timeout:?}: --timeout allows more"))
            }
            RequestErrorKind::MaxPayloadExceeded => {
                (ErrorKind::InvalidSpec, "the request is larger than the NATS server takes".to_owned())
            }
            RequestErrorKind::InvalidSubject => (ErrorKind::InvalidSpec, error.to_string()),
            RequestErrorKind::Other => return Self::new(ErrorKind::Unavailable, doing, error),
        };
        Self::new(kind, doing, why)
    }

    /// The whole chain on one line, as logs and command lines show it.
    pub fn chain(&self) -> String {
        let mut text = self.doing.clone();
        let mut next: Option<&dyn std::error::Error> = Some(self.source.as_ref());
        while let Some(error) = next {
            let message = error.to_string();
            // Some libraries repeat their source in their own text.
            if !text.ends_with(&message) {
                text.push_str(": ");
                text.push_str(&message);
            }
            next = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_told_once() {
        let inner = Error::new(ErrorKind::Denied, "deploy", "issuer is not listed");
        let outer = Error::new(ErrorKind::Denied, "run app", inner);
        assert_eq!(outer.chain(), "run app: deploy: issuer is not listed");
        assert_eq!(outer.to_string(), "run app");
    }
}

//! A refusal or a failure, as the daemon is told.

use moat_agent::protocol::Reply;
use moat_model::ErrorKind;

/// Kind to decide by, message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the caller may decide by.
    pub kind: ErrorKind,
    /// Names the field or the path at fault.
    pub message: String,
}

impl Failure {
    /// A failure of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What was asked cannot work.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidSpec, message)
    }

    /// The kernel refused something it should not have.
    pub fn internal(doing: &str, error: &std::io::Error) -> Self {
        let kind = match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, format!("{doing}: {error}"))
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Failed { kind: failure.kind, message: failure.message }
    }
}

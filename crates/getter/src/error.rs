//! What can go wrong, in kinds that a caller can tell apart.

use serde::{Deserialize, Serialize};

/// An artifact that did not arrive. Its text names the source without credentials, and the cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("artifact {url}: {detail}")]
pub struct FetchError {
    /// What happened.
    pub kind: FetchErrorKind,
    /// The source, credentials taken out.
    pub url: String,
    /// The cause in words.
    pub detail: String,
}

impl FetchError {
    /// An error of `kind` about `source`, which is cleared of credentials here.
    pub fn new(kind: FetchErrorKind, source: &str, detail: impl Into<String>) -> Self {
        Self { kind, url: crate::origin::redacted(source), detail: detail.into() }
    }

    /// Whether another attempt may end otherwise: the restart policy decides whether there is one.
    pub fn recoverable(&self) -> bool {
        self.kind.recoverable()
    }
}

/// What happened to an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FetchErrorKind {
    /// The checksum is not `type:hex` with a known type.
    ChecksumSyntax,
    /// The checksum has not as many digits as its type has.
    ChecksumLength,
    /// The bytes are others.
    ChecksumMismatch,
    /// The source cannot be read as an address.
    BadSource,
    /// A way of fetching that there is not; the text says what to use instead.
    UnsupportedScheme,
    /// An option that does not exist or cannot be used with this source.
    BadOption,
    /// The destination leaves the allocation.
    DestinationOutside,
    /// The destination goes through a symbolic link.
    DestinationLink,
    /// A file is where a directory must be, or the other way round.
    DestinationTaken,
    /// A link that leads out of what was fetched.
    LinkOutside,
    /// A name in an archive that leads out of it.
    EntryOutside,
    /// Something in an archive that is neither file, directory nor link.
    EntryKind,
    /// More files than allowed.
    Count,
    /// More bytes than allowed.
    Size,
    /// More bytes than anything honest is compressed to.
    Ratio,
    /// It is not the archive it should be.
    Archive,
    /// Longer than allowed.
    Timeout,
    /// Nobody answers, or the connection breaks again and again.
    Unreachable,
    /// The other side cannot prove who it is.
    Tls,
    /// The operator lets nobody fetch from that address.
    AddressDenied,
    /// The server says no; the text has its status.
    Status,
    /// Redirected in a circle or too often.
    Redirect,
    /// git ended with an error.
    Git,
    /// The caller gave it up.
    Cancelled,
    /// The child could not be started or ended without an answer.
    Child,
    /// The node's own disk or configuration.
    Node,
}

impl FetchErrorKind {
    /// Whether another attempt may end otherwise. What the job file says wrongly stays wrong.
    pub fn recoverable(self) -> bool {
        !matches!(
            self,
            Self::ChecksumSyntax | Self::ChecksumLength | Self::BadSource | Self::UnsupportedScheme | Self::BadOption
        )
    }
}

//! The ten decisions a caller can take about a failure, and how each looks on every wire.

use serde::{Deserialize, Serialize};

/// What went wrong, as a decision: who can fix it, and is trying again worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// This can never work as asked.
    InvalidSpec,
    /// Not on this driver or this host.
    Unsupported,
    /// No such thing visible to the caller.
    NotFound,
    /// Phase or generation moved on.
    Conflict,
    /// Not allowed.
    Denied,
    /// Quota or capacity.
    Exhausted,
    /// A bounded wait ended.
    Deadline,
    /// Something we depend on is down.
    Unavailable,
    /// The workload itself failed.
    Guest,
    /// Our bug.
    Internal,
}

impl ErrorKind {
    /// All kinds, in the order of the table in `docs/errors.md`.
    pub const ALL: [Self; 10] = [
        Self::InvalidSpec,
        Self::Unsupported,
        Self::NotFound,
        Self::Conflict,
        Self::Denied,
        Self::Exhausted,
        Self::Deadline,
        Self::Unavailable,
        Self::Guest,
        Self::Internal,
    ];

    /// Code string on every wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidSpec => "invalid_spec",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Exhausted => "exhausted",
            Self::Deadline => "deadline",
            Self::Unavailable => "unavailable",
            Self::Guest => "guest",
            Self::Internal => "internal",
        }
    }

    /// The kind a code string stands for.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.code() == code)
    }

    /// HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidSpec => 400,
            Self::Unsupported => 422,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Denied => 403,
            Self::Exhausted => 429,
            Self::Deadline => 504,
            Self::Unavailable => 503,
            Self::Guest => 200,
            Self::Internal => 500,
        }
    }

    /// Exit code of the CLI, for commands that do not pass a program's own code through.
    pub fn cli_exit(self) -> u8 {
        match self {
            Self::InvalidSpec => 2,
            Self::Unsupported => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Denied => 6,
            Self::Exhausted => 7,
            Self::Deadline => 8,
            Self::Unavailable => 9,
            Self::Guest => 1,
            Self::Internal => 70,
        }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Exhausted | Self::Deadline | Self::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(kind));
        }
        let mut exits: Vec<u8> = ErrorKind::ALL.iter().map(|k| k.cli_exit()).collect();
        exits.sort_unstable();
        exits.dedup();
        assert_eq!(exits.len(), ErrorKind::ALL.len());
    }
}

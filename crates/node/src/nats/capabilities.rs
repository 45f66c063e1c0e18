//! What a NATS server can do, read from its greeting.

use async_nats::ServerInfo;

/// A server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second.
    pub minor: u32,
    /// Third.
    pub patch: u32,
}

impl Version {
    /// Reads `2.10.7`, `2.11.0-RC.1`; what cannot be read is zero, the least able of all.
    pub fn parse(text: &str) -> Self {
        let mut numbers = text.split(['.', '-', '+']).map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self { major: next(), minor: next(), patch: next() }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the server we are connected to can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Its version.
    pub version: Version,
    /// Its name.
    pub server_name: String,
    /// It has JetStream; whether our account may use it, a request tells.
    pub jetstream: bool,
    /// Largest message it takes.
    pub payload_max: usize,
}

impl Capabilities {
    /// Connected, greeting not read yet.
    pub(super) fn unread() -> Self {
        Self { version: Version::default(), server_name: String::new(), jetstream: false, payload_max: 0 }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.payload_max == 0
    }

    /// Reads a greeting.
    pub fn of(info: &ServerInfo) -> Self {
        Self {
            version: Version::parse(&info.version),
            server_name: info.server_name.clone(),
            jetstream: info.jetstream,
            payload_max: info.max_payload.max(1),
        }
    }

    /// Whether newer JetStream settings (stream metadata, several filter subjects, per-message TTL) are kept: a 2.9 server
    /// drops them in silence.
    pub fn modern_jetstream(&self) -> bool {
        self.jetstream && self.version >= Version { major: 2, minor: 10, patch: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_and_compare() {
        let v = Version::parse;
        assert!(v("2.9.10") < v("2.10.0") && v("2.15.1") > v("2.10.29"));
        assert_eq!(v("2.11.0-RC.1"), Version { major: 2, minor: 11, patch: 0 });
        assert_eq!(v("nonsense"), Version::default());
    }
}

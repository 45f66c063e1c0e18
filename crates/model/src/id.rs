//! Identifiers. Each is a type that can only hold a valid value, so a path or a subject built from one is safe.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {rule}")]
pub struct InvalidId {
    /// Which identifier was being read.
    pub what: &'static str,
    /// What was given, cut to a printable length.
    pub given: String,
    /// What would be accepted.
    pub rule: &'static str,
}

impl InvalidId {
    pub(crate) fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        Self { what, given: given.chars().take(80).collect(), rule }
    }
}

/// Longest namespace or workload name. They are path components and subject tokens; 255 bytes is the file name limit
/// and log files add a suffix.
const TOKEN_LEN_MAX: usize = 128;

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TOKEN_LEN_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule of this identifier.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId::new($what, text, $rule)) }
            }

            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// Tenancy unit: one NATS token.
    Namespace,
    "namespace",
    "letters, digits, '_' and '-', 1 to 128 of them",
    is_token
);

text_id!(
    /// Name a user gives a workload: one NATS token, and the `sub` of the claims that start it.
    WorkloadName,
    "workload name",
    "letters, digits, '_' and '-', 1 to 128 of them",
    is_token
);

text_id!(
    /// Identity of a workload: an xid, 20 characters of lower-case base32hex.
    WorkloadId,
    "workload id",
    "20 characters of 0-9a-v",
    |t| t.len() == 20 && t.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'v').contains(&b))
);

text_id!(
    /// Identity of a sandbox: `sb-` and a lower-case ULID.
    SandboxId,
    "sandbox id",
    "'sb-' and 26 characters of lower-case Crockford base32",
    |t| t.strip_prefix("sb-").is_some_and(|u| {
        u.len() == 26 && u.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() && !b"ilou".contains(&b))
    })
);

text_id!(
    /// What a job is called. Children of a periodic or parameterized job have a `/` and a suffix after their parent's.
    JobId,
    "job id",
    "letters, digits, '_', '-', '.' and '/', 1 to 128 of them, none of '.' and '/' first, last or beside another",
    |t| t.len() <= TOKEN_LEN_MAX && t.split(['.', '/']).all(is_token)
);

text_id!(
    /// Identity of an allocation: a UUID, lower case with hyphens.
    AllocId,
    "allocation id",
    "a UUID: 8-4-4-4-12 lower-case hexadecimal digits",
    |t| t.len() == 36
        && t.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
);

impl AllocId {
    /// The first eight digits, as people see it.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

text_id!(
    /// Public nkey of a node: `N` and 55 characters of base32.
    NodeId,
    "node id",
    "a public server nkey: 'N' and 55 characters of A-Z2-7",
    |t| t.len() == 56 && t.starts_with('N') && t.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
);

impl SandboxId {
    /// Builds an id from a moment and 10 random bytes; the caller owns clock and randomness.
    pub fn from_parts(at: crate::Timestamp, random: [u8; 10]) -> Self {
        let mut tail = [0u8; 16];
        tail[6..].copy_from_slice(&random);
        let ms = u64::try_from(at.as_millis()).unwrap_or(0);
        let ulid = ulid::Ulid::from_parts(ms, u128::from_be_bytes(tail));
        Self(format!("sb-{}", ulid.to_string().to_lowercase()))
    }
}

impl Namespace {
    /// The namespace of a client that names none.
    pub fn default_namespace() -> Self {
        Self("default".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_tokens() {
        for good in ["a", "billing_api", "A-1"] {
            assert!(WorkloadName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a b", "a*", ">", "ä", "a/b", &"x".repeat(129)] {
            assert!(WorkloadName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sandbox_ids_are_ordered_by_time_and_parse_back() {
        let early = SandboxId::from_parts(crate::Timestamp::from_millis(1), [9; 10]);
        let late = SandboxId::from_parts(crate::Timestamp::from_millis(2), [0; 10]);
        assert!(early < late);
        assert_eq!(SandboxId::parse(early.as_str()), Ok(early.clone()));
        assert!(SandboxId::parse("sb-../../../../etc/passwd-xxxxx").is_err());
    }
}

//! What jails and what belongs to them are called. Each is a path component as well, so none can leave its directory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::InvalidId;

/// Longest name of a jail: it is a host name, which Linux cuts at 64 bytes.
const JAIL_LEN_MAX: usize = 63;
/// Longest of the others: file names have 255 bytes, and dates and endings are added to some.
const LEN_MAX: usize = 128;

fn is_plain(text: &str, most: usize, extra: &[u8]) -> bool {
    (1..=most).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
        && !text.starts_with(['-', '_', '.'])
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule of this name.
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

name!(
    /// What a jail is called. `all` is every jail, and a number would be taken for a jail's number.
    JailName,
    "jail name",
    "letters, digits, '-' and '_', 1 to 63 of them, beginning with a letter or a digit, not all digits, not 'all'",
    |t| is_plain(t, JAIL_LEN_MAX, b"-_") && !t.bytes().all(|b| b.is_ascii_digit()) && !t.eq_ignore_ascii_case("all")
);

name!(
    /// What a release is called, such as `14.2-RELEASE` or `debian-12`.
    ReleaseName,
    "release",
    "letters, digits, '.', '-' and '_', 1 to 128 of them, beginning with a letter or a digit",
    |t| is_plain(t, LEN_MAX, b".-_")
);

name!(
    /// A label of jails.
    Tag,
    "tag",
    "letters, digits, '.', '-' and '_', 1 to 63 of them, beginning with a letter or a digit",
    |t| is_plain(t, JAIL_LEN_MAX, b".-_")
);

name!(
    /// What a snapshot of a jail is called.
    SnapshotTag,
    "snapshot",
    "letters, digits, '.', '-' and '_', 1 to 128 of them, beginning with a letter or a digit",
    |t| is_plain(t, LEN_MAX, b".-_")
);

name!(
    /// A template: `project/template`.
    TemplateName,
    "template",
    "PROJECT/TEMPLATE, each of letters, digits, '.', '-' and '_', beginning with a letter or a digit",
    |t| t.split_once('/').is_some_and(|(project, name)| is_plain(project, LEN_MAX, b".-_") && is_plain(name, LEN_MAX, b".-_"))
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jails() {
        for good in ["nats-jail", "pub_jail", "a", "1a", "Web01"] {
            assert!(JailName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "12", "a.b", "a/b", "..", "ALL", "all", "a b", &"x".repeat(64)] {
            assert!(JailName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn templates_have_two_parts_that_stay_below() {
        assert!(TemplateName::parse("henomis/nats-jail-template").is_ok());
        for bad in ["a", "a/b/c", "../b", "a/..", "/a", "a/", "a/.git"] {
            assert!(TemplateName::parse(bad).is_err(), "{bad}");
        }
    }
}

//! Log lines.

use std::fmt;
use std::str::FromStr;

use moat_model::{Timestamp, WorkloadId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Header of a published line: where its workload's log stands after it. See [`LogCursor`].
pub const CURSOR_HEADER: &str = "Moat-Cursor";

/// One line a program wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Without its line end.
    pub text: String,
    /// INFO for standard output, ERROR for standard error.
    pub level: Level,
    /// Which workload.
    pub id: WorkloadId,
    /// When the node took it. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// A level of Go's slog: a number, written as the name below it and the distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub i32);

impl Level {
    /// Below what people usually want to see.
    pub const DEBUG: Self = Self(-4);
    /// Standard output.
    pub const INFO: Self = Self(0);
    /// A warning.
    pub const WARN: Self = Self(4);
    /// Standard error.
    pub const ERROR: Self = Self(8);

    const NAMES: [(Self, &'static str); 4] =
        [(Self::ERROR, "ERROR"), (Self::WARN, "WARN"), (Self::INFO, "INFO"), (Self::DEBUG, "DEBUG")];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, name) = Self::NAMES.into_iter().find(|(l, _)| *l <= *self).unwrap_or((Self::DEBUG, "DEBUG"));
        match self.0 - base.0 {
            0 => f.write_str(name),
            distance => write!(f, "{name}{distance:+}"),
        }
    }
}

/// Why a text is not a level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log level {given:?} is not DEBUG, INFO, WARN or ERROR, with or without a distance (INFO+2)")]
pub struct InvalidLevel {
    given: String,
}

impl FromStr for Level {
    type Err = InvalidLevel;
    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        let invalid = || InvalidLevel { given: text.chars().take(40).collect() };
        let split = text.find(['+', '-']).unwrap_or(text.len());
        let (name, distance) = text.split_at(split);
        let (base, _) = Self::NAMES.into_iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).ok_or_else(invalid)?;
        // A distance beyond this is no level anybody meant, and must not overflow.
        let distance: i16 = if distance.is_empty() { 0 } else { distance.parse().map_err(|_| invalid())? };
        Ok(Self(base.0 + i32::from(distance)))
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A place in a workload's log: bytes of each stream up to and including a line, since its first start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogCursor {
    /// Of standard output.
    pub stdout: u64,
    /// Of standard error.
    pub stderr: u64,
}

impl LogCursor {
    /// Whether everything up to `other` lies before this place.
    pub fn covers(self, other: Self) -> bool {
        other.stdout <= self.stdout && other.stderr <= self.stderr
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.stdout, self.stderr)
    }
}

impl FromStr for LogCursor {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stdout, stderr) = text.split_once(',').unwrap_or((text, ""));
        Ok(Self { stdout: stdout.trim().parse()?, stderr: stderr.trim().parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_line_survives() {
        let json = r#"{"text":"listening on 8080","level":"INFO","id":"cq1v8k3q7d2c73f0a9g0"}"#;
        let line: LogLine = serde_json::from_str(json).unwrap();
        assert_eq!(line.level, Level::INFO);
        assert_eq!(serde_json::to_string(&line).unwrap(), json);
    }

    #[test]
    fn levels_are_written_as_slog_does() {
        for (number, text) in [
            (-4, "DEBUG"),
            (-2, "DEBUG+2"),
            (0, "INFO"),
            (2, "INFO+2"),
            (4, "WARN"),
            (8, "ERROR"),
            (9, "ERROR+1"),
            (-6, "DEBUG-2"),
        ] {
            assert_eq!(Level(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Level(number)));
        }
        for bad in ["", "4", "INFO+", "LOUD", "INFO+99999999999"] {
            assert!(bad.parse::<Level>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Level>("4").is_err(), "numbers are refused, as the Go client does");
    }

    #[test]
    fn cursors_are_written_in_a_header() {
        let cursor = LogCursor { stdout: 12, stderr: 3 };
        assert_eq!(cursor.to_string(), "12,3");
        assert_eq!("12,3".parse(), Ok(cursor));
        assert!("12".parse::<LogCursor>().is_err());
        assert!(cursor.covers(LogCursor { stdout: 12, stderr: 0 }));
        assert!(!cursor.covers(LogCursor { stdout: 13, stderr: 0 }));
    }
}

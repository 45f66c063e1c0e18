//! Spans of time and byte counts as people write them in a configuration.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A byte count: `"64MiB"`, `"10MB"` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// A span: `"500ms"`, `"30s"`, `"5m"`, `"1h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let size = match NumberOrText::deserialize(d) {
            Ok(NumberOrText::Number(n)) => Some(n),
            Ok(NumberOrText::Text(t)) => moat_model::units::parse_bytes(&t),
            Err(_) => None,
        };
        size.map(Self)
            .ok_or_else(|| serde::de::Error::custom("a size is a number of bytes or a text such as \"64MiB\""))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a span is a text such as \"500ms\", \"30s\" or \"5m\""))
    }
}

/// Reads `500ms`, `30s`, `5m`, `1h`; one number and one unit.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "5 s", "-1s", "1d", "99999999999999999999s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

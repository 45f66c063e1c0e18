//! Spans of time as Go writes them.

use std::time::Duration;

/// The longest span that is taken: ten years. Sums of two never overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Reads `30s`, `1h30m`, `1.5h`, `250ms`; `0` alone is nothing.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    seconds(sum)
}

/// A number of seconds, in whole nanoseconds.
pub(crate) fn seconds(seconds: f64) -> Option<Duration> {
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    (span <= LONGEST).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_of_go() {
        let table =
            [("30s", 30_000), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0), ("1m1ms", 60_001)];
        for (text, millis) in table {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1 s", "1d", "1h 30m", "1..5s", "99999999h", "NaNs"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

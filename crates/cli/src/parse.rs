//! Small texts of the command line, read into values.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::spec::Signal;

use crate::failure::Failure;

/// `250ms`, `2s`, `1m30s`, `1h`. A bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a time such as 250ms, 2s, 1m30s or 1h");
    if let Ok(secs) = text.parse::<u64>() {
        return Ok(Duration::from_secs(secs));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(refuse()),
        };
        let part = Duration::from_millis(number.checked_mul(millis).ok_or_else(refuse)?);
        total = total.checked_add(part).ok_or_else(refuse)?;
        rest = next;
    }
    if text.is_empty() { Err(refuse()) } else { Ok(total) }
}

/// `64MiB`, `1G`.
pub fn bytes(text: &str) -> Result<u64, String> {
    moat_model::units::parse_bytes(text).ok_or_else(|| format!("{text:?} is not a size such as 64MiB, 1G or 500000"))
}

/// `0.5`, `2`: cores, in thousandths.
pub fn cpus(text: &str) -> Result<u32, String> {
    let refuse = || format!("{text:?} is not a number of cores such as 0.5 or 2");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || whole.is_empty() && fraction.is_empty() {
        return Err(refuse());
    }
    let number = |digits: &str| -> Result<u32, String> {
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().map_err(|_| refuse()) } else { Err(refuse()) }
    };
    let whole = if whole.is_empty() { 0 } else { number(whole)? };
    let fraction = number(&format!("{fraction:0<3}"))?;
    let millis = whole.checked_mul(1000).and_then(|w| w.checked_add(fraction)).ok_or_else(refuse)?;
    if millis == 0 { Err(refuse()) } else { Ok(millis) }
}

/// `SIGTERM`, `term`, `15`.
pub fn signal(text: &str) -> Result<Signal, String> {
    Signal::parse(text).ok_or_else(|| format!("{text:?} is not a signal such as SIGTERM, term or 15"))
}

/// `KEY=VALUE` pairs.
pub fn environment(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Failure::invalid(format!("{pair:?} is not KEY=VALUE; arguments of the program go after --"))),
        })
        .collect()
}

/// Splits a text into words as a shell does: blanks separate, quotes and backslashes keep together. Nothing is expanded.
pub fn words(text: &str) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(inside) => into.push(inside),
                        None => return Err(Failure::invalid("--argv: a ' is never closed")),
                    }
                }
            }
            '"' => quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => {
                let escaped = chars.next().ok_or_else(|| Failure::invalid("--argv: ends in a backslash"))?;
                word.get_or_insert_default().push(escaped);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The rest of a part in double quotes, where a backslash only escapes what would be special.
fn quoted(chars: &mut std::str::Chars<'_>, into: &mut String) -> Result<(), Failure> {
    loop {
        match chars.next() {
            Some('"') => return Ok(()),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => into.push(c),
                Some(other) => into.extend(['\\', other]),
                None => break,
            },
            Some(inside) => into.push(inside),
            None => break,
        }
    }
    Err(Failure::invalid("--argv: a \" is never closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [("250ms", 250), ("2s", 2000), ("1m30s", 90_000), ("1h", 3_600_000), ("7", 7000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1x", "-1s", "1.5s", "99999999999999999999s", "9999999999999999d", "1s2"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores() {
        for (text, millis) in [("0.5", 500), ("2", 2000), (".25", 250), ("1.", 1000), ("0.001", 1)] {
            assert_eq!(cpus(text), Ok(millis), "{text}");
        }
        for bad in ["", ".", "0", "0.0", "1.2345", "-1", "+1", "1e3", "99999999999"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let split = |text: &str| words(text).unwrap();
        assert_eq!(split("  a  b\tc "), ["a", "b", "c"]);
        assert_eq!(
            split(r#"--msg "two words" 'single $x' a\ b "" x"y"z"#),
            ["--msg", "two words", "single $x", "a b", "", "xyz"]
        );
        assert_eq!(split(r#""a\"b" "\n" '\'"#), ["a\"b", "\\n", "\\"]);
        assert!(split("").is_empty());
        for bad in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs() {
        let pairs = ["A=1".to_owned(), "B=x=y".to_owned(), "C=".to_owned()];
        let read = environment(&pairs).unwrap();
        assert_eq!((read["A"].as_str(), read["B"].as_str(), read["C"].as_str()), ("1", "x=y", ""));
        assert!(environment(&["A".to_owned()]).is_err());
        assert!(environment(&["=1".to_owned()]).is_err());
    }
}

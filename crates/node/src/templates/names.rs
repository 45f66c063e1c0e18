//! Names of templates and snapshots, and `name@version`.

/// Names are file names; a suffix must still fit.
const LEN_MAX: usize = 128;

/// Letters, digits, `_`, `-` and `.`, beginning with a letter or digit: never hidden, never a way up.
pub fn check(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.len() <= LEN_MAX && name.bytes().all(allowed) {
        Ok(())
    } else {
        let shown: String = name.chars().take(80).collect();
        Err(format!(
            "{shown:?} is not a name: 1 to {LEN_MAX} letters, digits, '_', '-', '.', the first a letter or digit"
        ))
    }
}

/// Splits `name@3`.
pub fn split(text: &str) -> Result<(&str, Option<u64>), String> {
    let (name, version) = match text.split_once('@') {
        None => (text, None),
        Some((name, digits)) => {
            let number = digits.parse().ok().filter(|n| *n > 0 && !digits.starts_with(['+', '0']));
            let Some(number) = number else {
                let shown: String = digits.chars().take(20).collect();
                return Err(format!("{shown:?} is not a version: a number from 1"));
            };
            (name, Some(number))
        }
    };
    check(name).map(|()| (name, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_file_names_and_versions_are_numbers() {
        assert_eq!(split("node22"), Ok(("node22", None)));
        assert_eq!(split("a.b-c_d@12"), Ok(("a.b-c_d", Some(12))));
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "ä",
            "a@",
            "a@0",
            "a@x",
            "a@-1",
            "a@+1",
            "a@1@2",
            "@1",
            &"x".repeat(129),
        ] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}

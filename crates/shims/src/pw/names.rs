//! Which text may stand in a field. A colon or a newline in one would make an entry of somebody else.

use super::DATA;
use crate::Failure;

/// Longest name, as Linux has it in the records of sessions.
const LEN_MAX: usize = 32;

/// Checks what a user or a group is to be called.
pub fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(DATA, format!("{what} name `{name}': {why}")));
    if name.is_empty() {
        return refuse("is empty".to_owned());
    }
    if name.len() > LEN_MAX {
        return refuse(format!("is too long (max is {LEN_MAX})"));
    }
    if name.starts_with('-') || name.bytes().all(|b| b.is_ascii_digit()) || matches!(name, "." | "..") {
        return refuse("looks like an option, a number or a path".to_owned());
    }
    let fits = |at: usize, c: char| {
        // A dollar sign at the end: machines that Samba knows.
        c.is_ascii_alphanumeric() || "_-.".contains(c) || (c == '$' && at + 1 == name.len() && at > 0)
    };
    match name.char_indices().find(|(at, c)| !fits(*at, *c)) {
        Some((at, c)) => refuse(format!("invalid character `{}' at position {at}", c.escape_default())),
        None => Ok(()),
    }
}

/// Checks text that goes into a field.
pub fn check_field(what: &str, text: &str) -> Result<(), Failure> {
    match text.chars().find(|c| *c == ':' || c.is_control()) {
        Some(c) => Err(Failure::new(DATA, format!("{what}: invalid character `{}'", c.escape_default()))),
        None => Ok(()),
    }
}

/// Checks a path that goes into a field.
pub fn check_path(what: &str, path: &str) -> Result<(), Failure> {
    check_field(what, path)?;
    let inside = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if inside {
        Ok(())
    } else {
        Err(Failure::new(DATA, format!("{what} `{path}': is not an absolute path without `..'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["nats", "_ntp", "a-b", "a.b", "pc$", "A1"] {
            check_name("login", good).unwrap();
        }
        let long = "x".repeat(33);
        for bad in [
            "",
            "-a",
            "a:b",
            "a\nb",
            "a b",
            "$(id)",
            "a/b",
            "a,b",
            "12",
            ".",
            "..",
            "ä",
            "$",
            "a$b",
            "a'",
            long.as_str(),
        ] {
            assert_eq!(check_name("login", bad).unwrap_err().status, DATA, "{bad}");
        }
        assert_eq!(
            check_name("login", "a:b").unwrap_err().text,
            "login name `a:b': invalid character `:' at position 1"
        );
    }

    #[test]
    fn fields_and_paths() {
        check_field("comment", "$(touch /x) `id` \"quoted\"").unwrap();
        for bad in ["a:b", "a\nb", "\u{1}"] {
            assert!(check_field("comment", bad).is_err());
        }
        check_path("home", "/home/x").unwrap();
        for bad in ["home", "/a/../etc", "", "/a:b"] {
            assert!(check_path("home", bad).is_err(), "{bad}");
        }
    }
}

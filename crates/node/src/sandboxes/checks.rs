//! Texts from a request: each checked once, here.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Labels are kept in every record and reply.
const LABELS_MAX: usize = 64;
const LABEL_KEY_MAX: usize = 256;
const LABEL_VALUE_MAX: usize = 4096;
/// Prefix of labels that are the node's own.
const RESERVED: &str = "moat.";
/// The kernel takes 128 KiB of one variable; the sum is sent to the agent in one frame.
const ENV_BYTES_MAX: usize = 128 << 10;
/// Longest user name, with a group behind it.
const USER_LEN_MAX: usize = 256;
/// The kernel's.
const PATH_LEN_MAX: usize = 4096;
/// Arguments of one process, as they travel to the agent.
const ARGS_BYTES_MAX: usize = 128 << 10;

/// Labels.
pub fn metadata(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > LABELS_MAX {
        return Err(Error::invalid("metadata", format!("{} entries; at most {LABELS_MAX}", labels.len())));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_KEY_MAX {
            return Err(Error::invalid("metadata", format!("keys have 1 to {LABEL_KEY_MAX} bytes")));
        }
        if key.starts_with(RESERVED) {
            return Err(Error::invalid(
                "metadata",
                format!("{key:?}: keys that begin with {RESERVED:?} are the node's own"),
            ));
        }
        if value.len() > LABEL_VALUE_MAX {
            let why = format!("{key:?} has a value of {} bytes; at most {LABEL_VALUE_MAX}", value.len());
            return Err(Error::invalid("metadata", why));
        }
    }
    Ok(())
}

/// An environment. A refusal names variables, never their values.
pub fn env(field: &str, env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(field, format!("{name:?} is not a name: not empty, without '=' and NUL")));
        }
        if value.contains('\0') {
            return Err(Error::invalid(field, format!("the value of {name} has a NUL in it")));
        }
    }
    let bytes: usize = env.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(Error::invalid(field, format!("{bytes} bytes; at most {ENV_BYTES_MAX}")));
    }
    Ok(())
}

/// `name`, `uid` or `uid:gid`.
pub fn user(field: &str, user: Option<&str>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:$".contains(c);
    if user.is_empty() || user.len() > USER_LEN_MAX || !user.chars().all(plain) {
        let shown: String = user.chars().take(80).collect();
        return Err(Error::invalid(field, format!("{shown:?} is not a name, uid or uid:gid")));
    }
    Ok(())
}

/// An absolute path.
pub fn workdir(field: &str, path: Option<&str>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    if !path.starts_with('/') || path.len() > PATH_LEN_MAX || path.contains('\0') {
        let shown: String = path.chars().take(80).collect();
        return Err(Error::invalid(field, format!("{shown:?} is not an absolute path")));
    }
    Ok(())
}

/// Program and arguments.
pub fn command(field: &str, command: &[String]) -> Result<()> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(field, "names no program"));
    }
    if command.iter().any(|a| a.contains('\0')) {
        return Err(Error::invalid(field, "has a NUL in it"));
    }
    let bytes: usize = command.iter().map(|a| a.len() + 1).sum();
    if bytes > ARGS_BYTES_MAX {
        return Err(Error::invalid(field, format!("{bytes} bytes; at most {ARGS_BYTES_MAX}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn labels_are_bounded() {
        metadata(&one("team", "a")).unwrap();
        for bad in [one("", "a"), one("moat.pool.key", "a"), one("a", &"x".repeat(4097)), one(&"x".repeat(257), "a")] {
            assert!(metadata(&bad).is_err());
        }
        assert!(metadata(&(0..65).map(|n| (n.to_string(), String::new())).collect()).is_err());
    }

    #[test]
    fn a_refused_variable_does_not_show_its_value() {
        for bad in [one("A", "hunter2\0"), one("A=B", "hunter2"), one("A", &"hunter2".repeat(20_000))] {
            let refusal = env("env", &bad).unwrap_err().to_string();
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        env("env", &one("A", "b=c")).unwrap();
    }

    #[test]
    fn users_directories_and_commands() {
        for good in ["root", "1000", "1000:1000", "www-data"] {
            user("user", Some(good)).unwrap();
        }
        assert!(user("user", Some("")).is_err() && user("user", Some("a b")).is_err());
        workdir("workdir", Some("/srv")).unwrap();
        assert!(workdir("workdir", Some("srv")).is_err());
        assert!(command("command", &[]).is_err() && command("command", &[String::new()]).is_err());
        command("command", &["true".to_owned()]).unwrap();
    }
}

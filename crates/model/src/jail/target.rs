//! Which jails a command means: a name, a number, the beginning of a name, a label, or all of them.

use std::collections::BTreeSet;

use super::{JailName, Tag};

/// What is known of a jail where targets are resolved.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// What it is called.
    pub name: &'a JailName,
    /// The number it has while it is up.
    pub number: Option<u32>,
    /// Lower ones are started first.
    pub priority: u16,
    /// Its labels.
    pub tags: &'a BTreeSet<Tag>,
}

/// What may be written for a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anything that leads to one or several.
    Any,
    /// Whole names only, for what cannot be undone: `web` must not destroy `web01`.
    Exact,
}

/// Why a target leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing was written.
    #[error("target: give a jail's name, its number, the beginning of its name, a tag, or ALL")]
    Empty,
    /// No jail is meant.
    #[error("target {asked:?}: no such jail, and no tag{}", listed(.there))]
    Unknown {
        /// What was written.
        asked: String,
        /// Jails there are.
        there: Vec<JailName>,
    },
    /// Several names begin so.
    #[error("target {asked:?}: several names begin so: {}; write one of them", join(.matches))]
    Ambiguous {
        /// What was written.
        asked: String,
        /// Those jails.
        matches: Vec<JailName>,
    },
    /// What cannot be undone takes whole names.
    #[error("target {asked:?}: what cannot be undone takes whole names{}", meant(.matches))]
    NotExact {
        /// What was written.
        asked: String,
        /// Jails it would have meant otherwise.
        matches: Vec<JailName>,
    },
    /// The command is for one jail.
    #[error("target {asked:?} means {}, and this command is for one jail", join(.matches))]
    NotOne {
        /// What was written.
        asked: String,
        /// Jails it means.
        matches: Vec<JailName>,
    },
}

/// Names shown in an error. More would hide what is said.
const NAMES_SHOWN_MAX: usize = 20;

fn join(names: &[JailName]) -> String {
    let mut text = names.iter().take(NAMES_SHOWN_MAX).map(JailName::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_SHOWN_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMES_SHOWN_MAX));
    }
    text
}

fn listed(names: &[JailName]) -> String {
    if names.is_empty() { "; there are no jails".to_owned() } else { format!("; there are {}", join(names)) }
}

fn meant(names: &[JailName]) -> String {
    if names.is_empty() { String::new() } else { format!("; it would have meant {}", join(names)) }
}

/// The jails that `asked` means: several targets may stand in it, with blanks between. By priority, then by name, each jail
/// once; in which order they are started also depends on what they depend on.
pub fn resolve(asked: &str, jails: &[Candidate<'_>], reach: Reach) -> Result<Vec<JailName>, TargetError> {
    let mut found: Vec<&Candidate<'_>> = Vec::new();
    for word in asked.split_whitespace() {
        for jail in one(word, jails, reach)? {
            if !found.iter().any(|known| known.name == jail.name) {
                found.push(jail);
            }
        }
    }
    if found.is_empty() && asked.trim().is_empty() {
        return Err(TargetError::Empty);
    }
    found.sort_by(|a, b| (a.priority, a.name).cmp(&(b.priority, b.name)));
    Ok(found.into_iter().map(|jail| jail.name.clone()).collect())
}

/// The one jail that `asked` means, for commands that are for one.
pub fn resolve_one(asked: &str, jails: &[Candidate<'_>], reach: Reach) -> Result<JailName, TargetError> {
    let mut matches = resolve(asked, jails, reach)?;
    match matches.pop() {
        Some(only) if matches.is_empty() => Ok(only),
        Some(last) => {
            matches.push(last);
            Err(TargetError::NotOne { asked: shortened(asked), matches })
        }
        None => Err(unknown(asked, jails)),
    }
}

/// One word. What is tried first wins, so that a name beats a number, the beginning of a name and a tag.
fn one<'a>(asked: &str, jails: &'a [Candidate<'a>], reach: Reach) -> Result<Vec<&'a Candidate<'a>>, TargetError> {
    if let Some(jail) = jails.iter().find(|jail| jail.name.as_str() == asked) {
        return Ok(vec![jail]);
    }
    let meant = loosely(asked, jails);
    match reach {
        Reach::Any => meant,
        Reach::Exact => Err(match meant {
            Ok(matches) if !matches.is_empty() => {
                TargetError::NotExact { asked: shortened(asked), matches: names(&matches) }
            }
            Err(TargetError::Ambiguous { asked, matches }) => TargetError::NotExact { asked, matches },
            _ => unknown(asked, jails),
        }),
    }
}

fn loosely<'a>(asked: &str, jails: &'a [Candidate<'a>]) -> Result<Vec<&'a Candidate<'a>>, TargetError> {
    if let Ok(number) = asked.parse::<u32>()
        && let Some(jail) = jails.iter().find(|jail| jail.number == Some(number))
    {
        return Ok(vec![jail]);
    }
    // `ALL` before beginnings: a jail called "all-of-us" must not shadow it.
    if asked == "ALL" || asked == "all" {
        return Ok(jails.iter().collect());
    }
    let beginning: Vec<_> = jails.iter().filter(|jail| jail.name.as_str().starts_with(asked)).collect();
    if beginning.len() == 1 {
        return Ok(beginning);
    }
    let tagged: Vec<_> = jails.iter().filter(|jail| jail.tags.iter().any(|tag| tag.as_str() == asked)).collect();
    match (tagged.is_empty(), beginning.is_empty()) {
        // A tag is a whole word that somebody gave; several beginnings are a question.
        (false, _) => Ok(tagged),
        (true, false) => Err(TargetError::Ambiguous { asked: shortened(asked), matches: names(&beginning) }),
        (true, true) => Err(unknown(asked, jails)),
    }
}

fn names(jails: &[&Candidate<'_>]) -> Vec<JailName> {
    let mut names: Vec<_> = jails.iter().map(|jail| jail.name.clone()).collect();
    names.sort();
    names
}

fn unknown(asked: &str, jails: &[Candidate<'_>]) -> TargetError {
    TargetError::Unknown { asked: shortened(asked), there: names(&jails.iter().collect::<Vec<_>>()) }
}

fn shortened(asked: &str) -> String {
    asked.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Jail(JailName, Option<u32>, u16, BTreeSet<Tag>);

    fn jail(name: &str, number: Option<u32>, priority: u16, tags: &[&str]) -> Jail {
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        Jail(JailName::parse(name).unwrap(), number, priority, tags)
    }

    fn jails() -> Vec<Jail> {
        vec![
            jail("web01", Some(1), 99, &["front"]),
            jail("web02", Some(2), 10, &["front", "db"]),
            jail("db", Some(3), 50, &["store"]),
            jail("db-replica", None, 20, &["store", "web"]),
            jail("all-of-us", None, 99, &["4x"]),
            jail("4th", None, 99, &[]),
        ]
    }

    fn ask(asked: &str, reach: Reach) -> Result<Vec<String>, TargetError> {
        let jails = jails();
        let candidates: Vec<_> = jails
            .iter()
            .map(|Jail(name, number, priority, tags)| Candidate { name, number: *number, priority: *priority, tags })
            .collect();
        resolve(asked, &candidates, reach).map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn b09_targets() {
        for (asked, expected) in [
            ("web01", &["web01"][..]),
            // A whole name beats a name that begins so, and a tag.
            ("db", &["db"]),
            ("2", &["web02"]),
            ("db-", &["db-replica"]),
            // A number nobody has is the beginning of a name.
            ("4", &["4th"]),
            ("front", &["web02", "web01"]),
            ("store", &["db-replica", "db"]),
            // Several begin so, and a tag is called so.
            ("web", &["db-replica"]),
            ("ALL", &["web02", "db-replica", "db", "4th", "all-of-us", "web01"]),
            ("all", &["web02", "db-replica", "db", "4th", "all-of-us", "web01"]),
            ("all-", &["all-of-us"]),
            ("4x", &["all-of-us"]),
            // Several in quotes, each once, in the order of priority.
            ("web01 db 3 store", &["db-replica", "db", "web01"]),
            ("  db   4th ", &["db", "4th"]),
        ] {
            assert_eq!(ask(asked, Reach::Any).unwrap(), expected, "{asked}");
        }
    }

    #[test]
    fn b09_targets_that_lead_nowhere() {
        assert_eq!(ask("", Reach::Any), Err(TargetError::Empty));
        assert_eq!(ask("  ", Reach::Exact), Err(TargetError::Empty));
        for asked in ["nobody", "7", "WEB01", "-", "web01 nobody", "*"] {
            assert!(matches!(ask(asked, Reach::Any), Err(TargetError::Unknown { .. })), "{asked}");
        }
        let Err(TargetError::Ambiguous { matches, .. }) = ask("web0", Reach::Any) else { panic!("ambiguous") };
        assert_eq!(matches.len(), 2);
        let text = ask("web0", Reach::Any).unwrap_err().to_string();
        assert!(text.contains("web01, web02"), "{text}");
        assert!(ask("nobody", Reach::Any).unwrap_err().to_string().contains("db-replica"));
    }

    #[test]
    fn b09_what_cannot_be_undone_takes_whole_names() {
        assert_eq!(ask("db web01", Reach::Exact).unwrap(), ["db", "web01"]);
        for asked in ["web0", "2", "front", "ALL", "all", "db-", "4", "db web0"] {
            assert!(matches!(ask(asked, Reach::Exact), Err(TargetError::NotExact { .. })), "{asked}");
        }
        assert!(matches!(ask("nobody", Reach::Exact), Err(TargetError::Unknown { .. })));
        assert!(ask("web0", Reach::Exact).unwrap_err().to_string().contains("web01, web02"));
    }

    #[test]
    fn b09_commands_for_one_jail() {
        let jails = jails();
        let candidates: Vec<_> = jails
            .iter()
            .map(|Jail(name, number, priority, tags)| Candidate { name, number: *number, priority: *priority, tags })
            .collect();
        assert_eq!(resolve_one("db-r", &candidates, Reach::Any).unwrap().as_str(), "db-replica");
        assert_eq!(
            resolve_one("front db", &candidates, Reach::Any).unwrap_err().to_string(),
            "target \"front db\" means web02, db, web01, and this command is for one jail"
        );
        assert!(matches!(resolve_one("ALL", &[], Reach::Any), Err(TargetError::Unknown { .. })));
    }
}

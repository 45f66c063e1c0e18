//! In which order jails are started: what they depend on first, then by priority, then by name.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::jail::JailName;

/// What the order is made of.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub priority: u16,
    pub depend: BTreeSet<JailName>,
}

/// All of them, those to be started first in front. What a name depends on that is not among them does not count; of a
/// circle, which nobody can have made, the rest follows in plain order.
pub(super) fn order(jails: &BTreeMap<JailName, Standing>) -> Vec<JailName> {
    let mut left: Vec<(&JailName, &Standing)> = jails.iter().collect();
    left.sort_by_key(|(name, standing)| (standing.priority, (*name).clone()));
    let mut done: Vec<JailName> = Vec::with_capacity(left.len());
    let mut there: BTreeSet<&JailName> = BTreeSet::new();
    while !left.is_empty() {
        let ready = |standing: &Standing| standing.depend.iter().all(|d| there.contains(d) || !jails.contains_key(d));
        let next = left.iter().position(|(_, standing)| ready(standing)).unwrap_or(0);
        let (name, _) = left.remove(next);
        there.insert(name);
        done.push(name.clone());
    }
    done
}

/// The way from `name` back to itself, if what it depends on leads there.
pub(super) fn circle(jails: &BTreeMap<JailName, Standing>, name: &JailName) -> Option<Vec<JailName>> {
    let mut path = vec![name.clone()];
    let mut seen = BTreeSet::new();
    leads(jails, name, name, &mut path, &mut seen).then_some(path)
}

fn leads(
    jails: &BTreeMap<JailName, Standing>,
    from: &JailName,
    to: &JailName,
    path: &mut Vec<JailName>,
    seen: &mut BTreeSet<JailName>,
) -> bool {
    let Some(standing) = jails.get(from) else { return false };
    for next in &standing.depend {
        path.push(next.clone());
        if next == to || (seen.insert(next.clone()) && leads(jails, next, to, path, seen)) {
            return true;
        }
        path.pop();
    }
    false
}

/// Those that depend on `name`, directly or not.
pub(super) fn dependants(jails: &BTreeMap<JailName, Standing>, name: &JailName) -> BTreeSet<JailName> {
    let mut found: BTreeSet<JailName> = BTreeSet::new();
    let mut look = vec![name];
    while let Some(on) = look.pop() {
        for (other, standing) in jails {
            if standing.depend.contains(on) && found.insert(other.clone()) {
                look.push(other);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> JailName {
        JailName::parse(text).unwrap()
    }

    fn jails(given: &[(&str, u16, &[&str])]) -> BTreeMap<JailName, Standing> {
        let standing =
            |priority, depend: &[&str]| Standing { priority, depend: depend.iter().map(|d| name(d)).collect() };
        given.iter().map(|(n, priority, depend)| (name(n), standing(*priority, depend))).collect()
    }

    #[test]
    fn b10_what_is_depended_on_comes_first_then_priority_then_name() {
        let all = jails(&[("web", 1, &["db"]), ("db", 99, &[]), ("b", 5, &[]), ("a", 5, &["gone"])]);
        assert_eq!(order(&all), ["a", "b", "db", "web"].map(name));
        assert_eq!(dependants(&all, &name("db")), BTreeSet::from([name("web")]));
    }

    #[test]
    fn b10_circles_are_found_and_do_not_hang() {
        let all = jails(&[("a", 1, &["b"]), ("b", 1, &["c"]), ("c", 1, &["a"]), ("d", 0, &["d"])]);
        assert_eq!(circle(&all, &name("a")).unwrap(), ["a", "b", "c", "a"].map(name));
        assert_eq!(circle(&all, &name("d")).unwrap(), ["d", "d"].map(name));
        assert_eq!(order(&all).len(), 4);
        assert!(circle(&jails(&[("a", 1, &["b"]), ("b", 1, &[])]), &name("a")).is_none());
    }
}

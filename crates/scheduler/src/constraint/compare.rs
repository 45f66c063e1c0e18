//! Numbers, versions and requirements of versions.

use std::cmp::Ordering;

use semver::{Prerelease, Version};

/// Numbers as numbers, versions as versions, everything else as texts.
pub(super) fn order(left: &str, right: &str) -> Ordering {
    if let (Ok(left), Ok(right)) = (left.parse::<i128>(), right.parse::<i128>()) {
        return left.cmp(&right);
    }
    if let (Ok(left), Ok(right)) = (left.parse::<f64>(), right.parse::<f64>())
        && let Some(order) = left.partial_cmp(&right)
    {
        return order;
    }
    if let (Some(left), Some(right)) = (Lenient::parse(left), Lenient::parse(right)) {
        return left.cmp(&right);
    }
    left.cmp(right)
}

/// A version of any number of parts: `12`, `v6.1.9`, `1.7.0-beta`, `6.18.44-fc`. What is missing counts as 0.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lenient {
    parts: Vec<u64>,
    /// How many were written.
    written: usize,
    pre: Prerelease,
}

/// Parts of a version, at most: more is no version anybody writes.
const PARTS_MAX: usize = 8;

impl Lenient {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(before, _)| before);
        let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut parts: Vec<u64> = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let written = parts.len();
        if written > PARTS_MAX {
            return None;
        }
        parts.resize(PARTS_MAX, 0);
        Some(Self { parts, written, pre: Prerelease::new(pre).ok()? })
    }

    fn of(version: &Version) -> Self {
        let mut parts = vec![version.major, version.minor, version.patch];
        parts.resize(PARTS_MAX, 0);
        Self { parts, written: 3, pre: version.pre.clone() }
    }

    /// The first version that `~>` does not allow any more.
    fn ceiling(&self) -> Self {
        let raised = self.written.saturating_sub(2);
        let part = |(at, part): (usize, &u64)| match at.cmp(&raised) {
            Ordering::Less => *part,
            Ordering::Equal => part.saturating_add(1),
            Ordering::Greater => 0,
        };
        Self { parts: self.parts.iter().enumerate().map(part).collect(), written: self.written, pre: Prerelease::EMPTY }
    }
}

impl PartialOrd for Lenient {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Lenient {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts).then_with(|| self.pre.cmp(&other.pre))
    }
}

/// `>= 1.2, < 2`: all have to be met.
#[derive(Debug, Clone)]
pub(super) struct Requirements {
    all: Vec<(Relation, Lenient)>,
    /// What is compared has to be a semantic version, and its pre-releases are ordered as those are.
    strict: bool,
}

#[derive(Debug, Clone, Copy)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Pessimistic,
}

const RELATIONS: [(&str, Relation); 8] = [
    (">=", Relation::GreaterOrEqual),
    ("<=", Relation::LessOrEqual),
    ("!=", Relation::NotEqual),
    ("~>", Relation::Pessimistic),
    ("==", Relation::Equal),
    ("=", Relation::Equal),
    (">", Relation::Greater),
    ("<", Relation::Less),
];

impl Requirements {
    pub(super) fn parse(text: &str, strict: bool) -> Result<Self, String> {
        let one = |term: &str| {
            let term = term.trim();
            let found = RELATIONS.iter().find_map(|(sign, relation)| Some((*relation, term.strip_prefix(sign)?)));
            let (relation, version) = found.unwrap_or((Relation::Equal, term));
            match (strict, Lenient::parse(version)) {
                (true, _) if matches!(relation, Relation::Pessimistic) => {
                    Err(format!("\"~>\" in {text:?} is not known to semver; the operator version knows it"))
                }
                (_, None) => Err(format!("{version:?} in {text:?} is not a version")),
                (_, Some(version)) => Ok((relation, version)),
            }
        };
        Ok(Self { all: text.split(',').map(one).collect::<Result<_, _>>()?, strict })
    }

    pub(super) fn met_by(&self, text: &str) -> bool {
        let version =
            if self.strict { Version::parse(text).ok().as_ref().map(Lenient::of) } else { Lenient::parse(text) };
        version.is_some_and(|version| self.all.iter().all(|(relation, wanted)| self.meets(&version, *relation, wanted)))
    }

    fn meets(&self, version: &Lenient, relation: Relation, wanted: &Lenient) -> bool {
        // Without `semver` a pre-release is only what was asked for as one, of the very same version.
        if !self.strict && !version.pre.is_empty() && !matches!(relation, Relation::Equal | Relation::NotEqual) {
            let same = !wanted.pre.is_empty() && version.parts == wanted.parts;
            if !same {
                return false;
            }
        }
        match relation {
            Relation::Equal => version == &Lenient { written: version.written, ..wanted.clone() },
            Relation::NotEqual => version.cmp(wanted).is_ne(),
            Relation::Less => version < wanted,
            Relation::LessOrEqual => version <= wanted,
            Relation::Greater => version > wanted,
            Relation::GreaterOrEqual => version >= wanted,
            Relation::Pessimistic => version >= wanted && version < &wanted.ceiling(),
        }
    }
}

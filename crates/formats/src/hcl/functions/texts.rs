//! Functions of texts.

use regex::{Regex, RegexBuilder};

use super::{Arguments, Computed, Function, strings};
use crate::problem::Place;
use crate::tree::{Kind, Member, Text};

/// Memory one compiled expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

pub(super) const FUNCTIONS: &[Function] = &[
    ("chomp", 1, 1, |a| Ok(Kind::text(a.text(0)?.trim_end_matches(['\n', '\r'])))),
    ("endswith", 2, 2, |a| Ok(Kind::Bool(a.text(0)?.ends_with(&a.text(1)?)))),
    ("indent", 2, 2, indent),
    ("join", 2, 2, join),
    ("lower", 1, 1, |a| Ok(Kind::text(a.text(0)?.to_lowercase()))),
    ("regex", 2, 2, regex_once),
    ("regex_replace", 3, 3, |a| {
        let (text, pattern, with) = (a.text(0)?, expression(&a.text(1)?)?, a.text(2)?);
        replaced(a, &text, &pattern, &with)
    }),
    ("regexall", 2, 2, |a| {
        let (pattern, text) = (expression(&a.text(0)?)?, a.text(1)?);
        let found: Vec<Kind> = pattern.captures_iter(&text).map(|found| captures(a, &pattern, &found)).collect();
        a.spend(found.len().saturating_mul(64))?;
        Ok(Kind::List(found.into_iter().map(|kind| a.made(kind)).collect()))
    }),
    ("replace", 3, 3, replace),
    ("split", 2, 2, |a| {
        let (by, text) = (a.text(0)?, a.text(1)?);
        if by.is_empty() {
            return a.texts(text.chars().map(String::from));
        }
        a.texts(text.split(by.as_str()).map(str::to_owned))
    }),
    ("startswith", 2, 2, |a| Ok(Kind::Bool(a.text(0)?.starts_with(&a.text(1)?)))),
    ("strcontains", 2, 2, |a| Ok(Kind::Bool(a.text(0)?.contains(&a.text(1)?)))),
    ("strlen", 1, 1, |a| Ok(Kind::Number(super::operators::as_number(a.text(0)?.chars().count())))),
    ("strrev", 1, 1, |a| Ok(Kind::text(a.text(0)?.chars().rev().collect::<String>()))),
    ("substr", 3, 3, substr),
    ("title", 1, 1, |a| Ok(Kind::text(title(&a.text(0)?)))),
    ("trim", 2, 2, |a| {
        let (text, set) = (a.text(0)?, a.text(1)?);
        Ok(Kind::text(text.trim_matches(|c| set.contains(c))))
    }),
    ("trimprefix", 2, 2, |a| {
        let (text, prefix) = (a.text(0)?, a.text(1)?);
        Ok(Kind::text(text.strip_prefix(&prefix).unwrap_or(&text)))
    }),
    ("trimspace", 1, 1, |a| Ok(Kind::text(a.text(0)?.trim()))),
    ("trimsuffix", 2, 2, |a| {
        let (text, suffix) = (a.text(0)?, a.text(1)?);
        Ok(Kind::text(text.strip_suffix(&suffix).unwrap_or(&text)))
    }),
    ("upper", 1, 1, |a| Ok(Kind::text(a.text(0)?.to_uppercase()))),
];

fn indent(arguments: &Arguments<'_>) -> Computed {
    let (spaces, text) = (arguments.count(0)?, arguments.text(1)?);
    if spaces > 1024 {
        return Err("more than 1024 spaces".to_owned());
    }
    arguments.spend(text.matches('\n').count().saturating_mul(spaces))?;
    Ok(Kind::text(text.replace('\n', &format!("\n{}", " ".repeat(spaces)))))
}

/// Texts that wait for a node can be put behind one another.
fn join(arguments: &Arguments<'_>) -> Computed {
    let by = arguments.text(0)?;
    let mut out = Text { text: String::new(), deferred: false };
    for (index, item) in arguments.list(1)?.iter().enumerate() {
        let part = super::operators::text_of(item).map_err(|fault| fault.message)?;
        arguments.spend(by.len() + part.text.len())?;
        if index > 0 {
            out.text.push_str(&by);
        }
        out.text.push_str(&part.text);
        out.deferred |= part.deferred;
    }
    Ok(Kind::Text(out))
}

fn expression(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().map_err(|_| {
        format!("{:?} is not a regular expression (RE2's kind)", text.chars().take(80).collect::<String>())
    })
}

/// The whole, a list of groups, or a map of named ones.
fn captures(arguments: &Arguments<'_>, pattern: &Regex, found: &regex::Captures<'_>) -> Kind {
    let text = |found: Option<regex::Match<'_>>| found.map_or(Kind::Null, |m| Kind::text(m.as_str()));
    if found.len() <= 1 {
        return text(found.get(0));
    }
    let named: Vec<&str> = pattern.capture_names().flatten().collect();
    if named.is_empty() {
        return Kind::List(found.iter().skip(1).map(|m| arguments.made(text(m))).collect());
    }
    let member = |name: &str| {
        let place: Place = arguments.place;
        (name.to_owned(), Member { place, value: arguments.made(text(found.name(name))) })
    };
    Kind::Map(named.into_iter().map(member).collect())
}

fn regex_once(arguments: &Arguments<'_>) -> Computed {
    let (pattern, text) = (expression(&arguments.text(0)?)?, arguments.text(1)?);
    let found = pattern.captures(&text).ok_or("nothing matches: can(regex(…)) asks whether something does")?;
    Ok(captures(arguments, &pattern, &found))
}

fn replace(arguments: &Arguments<'_>) -> Computed {
    let (text, what, with) = (arguments.text(0)?, arguments.text(1)?, arguments.text(2)?);
    // A pattern between slashes is a regular expression.
    if let Some(pattern) = what.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        return replaced(arguments, &text, &expression(pattern)?, &with);
    }
    let count = if what.is_empty() { text.len() + 1 } else { text.matches(&what).count() };
    arguments.spend(text.len().saturating_add(count.saturating_mul(with.len())))?;
    Ok(Kind::text(text.replace(&what, &with)))
}

fn replaced(arguments: &Arguments<'_>, text: &str, pattern: &Regex, with: &str) -> Computed {
    // Each `$` may bring a whole match in.
    let each = with.len().saturating_add(with.matches('$').count().saturating_mul(text.len()));
    arguments.spend(pattern.find_iter(text).count().saturating_mul(each).saturating_add(text.len()))?;
    Ok(Kind::text(pattern.replace_all(text, with).into_owned()))
}

fn substr(arguments: &Arguments<'_>) -> Computed {
    let (text, offset, length) = (arguments.text(0)?, arguments.integer(1)?, arguments.integer(2)?);
    let chars: Vec<char> = text.chars().collect();
    let from_end = |n: i64| chars.len().saturating_sub(usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX));
    let start = usize::try_from(offset).unwrap_or_else(|_| from_end(offset)).min(chars.len());
    let end = usize::try_from(length).map_or(chars.len(), |length| start.saturating_add(length).min(chars.len()));
    Ok(Kind::text(chars.get(start..end).unwrap_or_default().iter().collect::<String>()))
}

fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::new();
    for c in text.chars() {
        if begins && c.is_alphabetic() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        begins = !c.is_alphanumeric() && c != '\'';
    }
    out
}

/// Texts of a list, for other families.
pub(super) fn listed(arguments: &Arguments<'_>, index: usize) -> Result<Vec<String>, String> {
    strings(arguments.list(index)?)
}

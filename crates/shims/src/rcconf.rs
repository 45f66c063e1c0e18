//! Files like `/etc/rc.conf`: assignments that a shell will read. Here they are read without one.

use std::collections::BTreeMap;
use std::ops::Range;

/// An assignment in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// What is assigned, as written.
    pub raw: String,
    /// The bytes of the file from the name to the end of the value.
    pub place: Range<usize>,
}

/// Whether a shell takes this for a variable.
pub fn is_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// All assignments of a text, in order.
pub fn assignments(text: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut begins = true;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or('\n');
        match first {
            '\n' | ';' => begins = true,
            ' ' | '\t' => {}
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            _ => {
                let end = at + word_len(rest);
                let word = text.get(at..end).unwrap_or_default();
                let split = word.split_once('=').filter(|(name, _)| begins && is_name(name));
                if let Some((name, raw)) = split {
                    found.push(Assignment { name: name.to_owned(), raw: raw.to_owned(), place: at..end });
                }
                // More of them may stand in a line; behind any other word come that word's arguments.
                begins &= split.is_some() || word == "export";
                at = end.max(at + first.len_utf8());
                continue;
            }
        }
        at += first.len_utf8();
    }
    found
}

/// How long the word at the front of `text` is, with everything that is quoted in it.
fn word_len(text: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ' | '\t' | '\n' | ';') => return at,
            (None, _) => {}
        }
    }
    text.len()
}

/// The values that a shell would have after reading these assignments, as far as it runs no programs for them.
pub fn values(found: &[Assignment], known: &mut BTreeMap<String, String>) {
    for assignment in found {
        let value = value(&assignment.raw, known);
        known.insert(assignment.name.clone(), value);
    }
}

/// What a shell makes of a word: quotes go, variables are put in. Commands to be run stay as they are written.
fn value(raw: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let mut used = c.len_utf8();
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => out.push(c),
            (None, '"' | '\'') => quote = Some(c),
            (_, '\\') => {
                let next = rest.get(1..).and_then(|rest| rest.chars().next());
                used += next.map_or(0, char::len_utf8);
                match (quote, next) {
                    (_, Some('\n')) => {}
                    (None, Some(next)) | (Some(_), Some(next @ ('$' | '`' | '"' | '\\'))) => out.push(next),
                    (_, next) => {
                        out.push('\\');
                        out.extend(next);
                    }
                }
            }
            (_, '$') => {
                let (text, len) = variable(rest, known);
                out.push_str(&text);
                used = len;
            }
            (_, c) => out.push(c),
        }
        rest = rest.get(used..).unwrap_or_default();
    }
    out
}

/// The variable at the front of `text`, put in, and how long its name is there. `${x:-y}` and `${x-y}` have their default.
fn variable(text: &str, known: &BTreeMap<String, String>) -> (String, usize) {
    let value_of = |name: &str| known.get(name).cloned().unwrap_or_default();
    let inner = text.get(1..).unwrap_or_default();
    if let Some((body, _)) = inner.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        let (name, default) = body.split_once(":-").or_else(|| body.split_once('-')).unwrap_or((body, ""));
        if is_name(name) {
            let value = value_of(name);
            return (if value.is_empty() { default.to_owned() } else { value }, body.len() + 3);
        }
    }
    let len = inner.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let name = inner.get(..len).unwrap_or_default();
    if is_name(name) { (value_of(name), len + 1) } else { ("$".to_owned(), 1) }
}

/// A value as the shell that reads the file gets it back to the letter, and nothing of it acts.
pub fn quoted(value: &str) -> String {
    if value.contains(['$', '`', '\\', '"']) {
        format!("'{}'", value.replace('\'', r"'\''"))
    } else {
        format!("\"{value}\"")
    }
}

/// The text with the variable set: its last assignment is replaced, or a line is added.
pub fn set(text: &str, name: &str, value: &str) -> String {
    let new = format!("{name}={}", quoted(value));
    if let Some(last) = assignments(text).into_iter().rfind(|found| found.name == name) {
        let mut out = text.to_owned();
        out.replace_range(last.place, &new);
        return out;
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{new}\n")
}

/// The text without the variable; lines that held nothing else go as well.
pub fn remove(text: &str, name: &str) -> String {
    let mut out = text.to_owned();
    for found in assignments(text).into_iter().rev().filter(|found| found.name == name) {
        let Range { mut start, mut end } = found.place;
        let line = out.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let alone = out.get(line..start).is_some_and(|before| matches!(before.trim(), "" | "export"));
        let after = out.get(end..).unwrap_or_default();
        if alone && after.starts_with('\n') {
            (start, end) = (line, end + 1);
        } else if alone && after.is_empty() {
            start = line;
        } else if let Some(rest) = after.strip_prefix(';') {
            end += 1 + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
        }
        out.replace_range(start..end, "");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let mut known = BTreeMap::new();
        values(&assignments(text), &mut known);
        known.into_iter().collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_shell_would_read() {
        let text =
            "# c=1\na=\"YES\" # it's\nb='x y';c=z\\ z\nexport d=\"${a}/$b\"\necho e=1\n f=\"two\nlines\"\ng=${h:-no}\n";
        let expected =
            pairs(&[("a", "YES"), ("b", "x y"), ("c", "z z"), ("d", "YES/x y"), ("f", "two\nlines"), ("g", "no")]);
        assert_eq!(read(text), expected);
    }

    #[test]
    fn nothing_is_run() {
        assert_eq!(read("a=\"$(touch x) `id` $\"\n"), pairs(&[("a", "$(touch x) `id` $")]));
        assert_eq!(read("a='$b'\nb=\"\\$x \\a\"\n"), pairs(&[("a", "$b"), ("b", "$x \\a")]));
    }

    #[test]
    fn setting_replaces_the_last_and_keeps_the_rest() {
        assert_eq!(set("", "a", "YES"), "a=\"YES\"\n");
        assert_eq!(set("x=1", "a", "YES"), "x=1\na=\"YES\"\n");
        assert_eq!(set("a=1 # why\na=2 # then\n", "a", "3"), "a=1 # why\na=\"3\" # then\n");
        assert_eq!(set("a=\"1\n2\"\nb=3\n", "a", "x"), "a=\"x\"\nb=3\n");
    }

    #[test]
    fn removing() {
        assert_eq!(remove("x=1\na=1\ny=2\n", "a"), "x=1\ny=2\n");
        assert_eq!(remove("a=1; b=2\n", "a"), "b=2\n");
        assert_eq!(remove("a=1\nexport a=2", "a"), "");
    }

    #[test]
    fn every_value_comes_back() {
        let hostile =
            ["", "YES", "$(touch /x)", "`id`", "a\"b", "a'b", "'\"'$x", "\\", "x\ny=1\n", "a;b", "#", "ä $ ö", "'"];
        for value in hostile {
            let text = set("before=1\n", "v", value);
            assert_eq!(read(&text), pairs(&[("before", "1"), ("v", value)]), "{text}");
            assert_eq!(remove(&text, "v"), "before=1\n");
        }
    }
}

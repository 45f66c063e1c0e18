//! Functions that see what the caller shows: files, and what nobody can foresee.

use uuid::Uuid;

use super::{Arguments, Computed, Function};
use crate::tree::Kind;

/// Files fileset() may find.
const FILES_MAX: usize = 4096;
/// Bytes of one file. What is greater is an artifact's.
const FILE_BYTES_MAX: usize = 1 << 20;

pub(super) const FUNCTIONS: &[Function] = &[
    ("abspath", 1, 1, |a| a.around.absolute(&a.text(0)?).map(Kind::text)),
    ("basename", 1, 1, |a| {
        let path = a.text(0)?;
        Ok(Kind::text(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()))
    }),
    ("dirname", 1, 1, |a| {
        let path = a.text(0)?;
        let dir = path.trim_end_matches('/').rsplit_once('/').map_or(".", |(dir, _)| dir);
        Ok(Kind::text(if dir.is_empty() { "/" } else { dir }))
    }),
    ("file", 1, 1, |a| {
        let path = a.text(0)?;
        String::from_utf8(read(a, &path)?)
            .map(Kind::text)
            .map_err(|_| format!("{path} is not a text: use filebase64()"))
    }),
    ("filebase64", 1, 1, |a| Ok(Kind::text(data_encoding::BASE64.encode(&read(a, &a.text(0)?)?)))),
    ("fileexists", 1, 1, |a| a.around.exists(&a.text(0)?).map(Kind::Bool)),
    ("fileset", 2, 2, fileset),
    ("pathexpand", 1, 1, |a| {
        let path = a.text(0)?;
        if path.starts_with('~') { a.around.absolute(&path).map(Kind::text) } else { Ok(Kind::text(path)) }
    }),
    ("uuidv4", 0, 0, |a| {
        let id = uuid::Builder::from_random_bytes(a.around.random()?).into_uuid();
        Ok(Kind::text(id.to_string()))
    }),
    ("uuidv5", 2, 2, |a| {
        let (space, name) = (a.text(0)?, a.text(1)?);
        let space = match space.as_str() {
            "dns" => Uuid::NAMESPACE_DNS,
            "url" => Uuid::NAMESPACE_URL,
            "oid" => Uuid::NAMESPACE_OID,
            "x500" => Uuid::NAMESPACE_X500,
            other => other.parse().map_err(|_| format!("{other:?} is none of dns, url, oid, x500, and no UUID"))?,
        };
        Ok(Kind::text(Uuid::new_v5(&space, name.as_bytes()).to_string()))
    }),
];

/// A file the caller shows, within bounds and paid for.
pub(super) fn read(arguments: &Arguments<'_>, path: &str) -> Result<Vec<u8>, String> {
    let bytes = arguments.around.read(path)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("{path} is larger than {} MiB: fetch it with an artifact", FILE_BYTES_MAX >> 20));
    }
    arguments.spend(bytes.len().saturating_mul(2))?;
    Ok(bytes)
}

fn fileset(arguments: &Arguments<'_>) -> Computed {
    let (dir, pattern) = (arguments.text(0)?, arguments.text(1)?);
    let files = arguments.around.list(&dir, FILES_MAX)?;
    let matching = glob(&pattern)?;
    let mut found: Vec<String> = files.into_iter().take(FILES_MAX).filter(|name| matching.is_match(name)).collect();
    found.sort();
    arguments.texts(found)
}

/// `*` and `?` within a name, `**` across names, `{a,b}` either.
fn glob(pattern: &str) -> Result<regex::Regex, String> {
    let mut text = String::from("^");
    let mut chars = pattern.chars().peekable();
    let mut within = false;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                // `**/` also means no directory at all.
                text.push_str(if chars.next_if_eq(&'/').is_some() { "(?:.*/)?" } else { ".*" });
            }
            '*' => text.push_str("[^/]*"),
            '?' => text.push_str("[^/]"),
            '{' => {
                within = true;
                text.push_str("(?:");
            }
            '}' if within => {
                within = false;
                text.push(')');
            }
            ',' if within => text.push('|'),
            c => text.push_str(&regex::escape(&c.to_string())),
        }
    }
    text.push('$');
    let built = regex::RegexBuilder::new(&text).size_limit(1 << 20).build();
    built.map_err(|_| format!("{pattern:?} is not a pattern of file names"))
}

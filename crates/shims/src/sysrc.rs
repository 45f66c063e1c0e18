//! `sysrc`: reads and sets the variables of `/etc/rc.conf`.
//!
//! What is set is text, never code: the scripts that read the file get it back to the letter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::options::{Options, text};
use crate::rcconf::{assignments, is_name, quoted, remove, set, values};
use crate::{Failure, Outcome, edit, place};

const USAGE: &str = "usage: sysrc [-aAceEhiFlnNqvx] [-f FILE] [-s SERVICE] [-R DIR] NAME[[+|-]=VALUE] ...";

/// What was asked, besides the names.
#[derive(Debug, Default)]
struct Asked {
    /// Only what is set in the files.
    all: bool,
    /// Defaults as well.
    defaults: bool,
    check: bool,
    file_of: bool,
    ignore: bool,
    list: bool,
    remove: bool,
    form: Form,
    verbose: bool,
    files: Vec<PathBuf>,
    /// The file of defaults.
    default_file: PathBuf,
}

/// How a value is shown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `name: value`.
    #[default]
    Both,
    /// The value alone.
    Value,
    /// The name alone.
    Name,
    /// As a line of the file.
    Line,
}

/// `sysrc`.
pub fn main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "aAceEhiFlnNqvxDdjLf:s:R:");
    let mut asked = Asked::default();
    let mut root = PathBuf::from("/");
    let mut service = None;
    let mut quiet = false;
    while let Some((letter, value)) = options.next().map_err(|e| Failure::new(1, format!("{e}\n{USAGE}")))? {
        match letter {
            'a' => asked.all = true,
            'A' => asked.defaults = true,
            'c' => asked.check = true,
            'e' | 'E' => asked.form = Form::Line,
            'h' => {
                println!("{USAGE}");
                return Ok(0);
            }
            'i' => asked.ignore = true,
            'F' => asked.file_of = true,
            'l' => asked.list = true,
            'n' => asked.form = Form::Value,
            'N' => asked.form = Form::Name,
            'q' => quiet = true,
            'v' => asked.verbose = true,
            'x' => asked.remove = true,
            'f' => asked.files.push(PathBuf::from(value)),
            's' => service = Some(text(&value)?),
            'R' => root = PathBuf::from(value),
            other => return Err(format!("-{other} does not exist here; see docs/jails-shims.md").into()),
        }
    }
    asked.verbose &= !quiet;
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    asked.default_file = below("/etc/defaults/rc.conf");
    if asked.files.is_empty() {
        asked.files = match &service {
            Some(name) if name.contains('/') || name.is_empty() => {
                return Err(format!("-s {name}: is no service").into());
            }
            Some(name) => vec![below(&format!("/etc/rc.conf.d/{name}"))],
            None => vec![below("/etc/rc.conf"), below("/etc/rc.conf.local")],
        };
    }
    run(&asked, options.rest())
}

fn run(asked: &Asked, words: &[OsString]) -> Outcome {
    if asked.list {
        asked.files.iter().for_each(|file| println!("{}", file.display()));
        return Ok(0);
    }
    if asked.all || asked.defaults {
        return show_all(asked);
    }
    if words.is_empty() {
        return Err(Failure::new(1, USAGE));
    }
    let mut status = 0;
    // Everything is understood before anything is written.
    let jobs = words.iter().map(|word| text(word).and_then(|word| Job::parse(&word))).collect::<Result<Vec<_>, _>>()?;
    for job in jobs {
        status = status.max(job.run(asked)?);
    }
    Ok(status)
}

/// What is to be done with a variable.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    name: String,
    change: Option<(Change, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Set,
    Add,
    Take,
}

impl Job {
    fn parse(word: &str) -> Result<Self, String> {
        let (name, change) = match word.split_once('=') {
            None => (word, None),
            Some((name, value)) => {
                let plus = name.strip_suffix('+').map(|name| (name, Change::Add));
                let (name, change) = plus
                    .or_else(|| name.strip_suffix('-').map(|name| (name, Change::Take)))
                    .unwrap_or((name, Change::Set));
                (name, Some((change, value.to_owned())))
            }
        };
        if !is_name(name) {
            return Err(format!("{name}: name contains characters not allowed in shell"));
        }
        if change.as_ref().is_some_and(|(_, value)| value.contains('\0')) {
            return Err(format!("{name}: its value contains a zero byte"));
        }
        Ok(Self { name: name.to_owned(), change })
    }

    fn run(&self, asked: &Asked) -> Outcome {
        let known = Known::load(asked)?;
        let old = known.values.get(&self.name).cloned();
        if asked.remove {
            return self.remove(asked, &known);
        }
        let Some((change, text)) = &self.change else {
            let Some(value) = old else { return self.unknown(asked) };
            let place = known.place_of(&self.name).unwrap_or(&asked.default_file);
            if asked.file_of {
                let place = place.display();
                println!(
                    "{}",
                    if asked.form == Form::Value { place.to_string() } else { format!("{}: {place}", self.name) }
                );
            } else if !asked.check {
                show(asked, place, &self.name, &value);
            }
            return Ok(0);
        };
        let before = old.clone().unwrap_or_default();
        let new = match change {
            Change::Set => text.clone(),
            Change::Add => added(&before, text),
            Change::Take => taken(&before, text),
        };
        if asked.check {
            return Ok(u8::from(old.as_deref() != Some(&new)));
        }
        let place =
            known.place_of(&self.name).map_or_else(|| asked.files.first().cloned(), |place| Some(place.to_owned()));
        let place = place.unwrap_or_else(|| PathBuf::from("/etc/rc.conf"));
        if old.as_ref() != Some(&new) || known.place_of(&self.name).is_none() {
            let file = edit::read(&place)?;
            edit::replace(&place, set(&file, &self.name, &new).as_bytes(), 0o644)?;
        }
        let prefix = if asked.verbose { format!("{}: ", place.display()) } else { String::new() };
        match asked.form {
            Form::Value => println!("{prefix}{before} -> {new}"),
            Form::Name => println!("{prefix}{}", self.name),
            Form::Line => println!("{prefix}{}={}", self.name, quoted(&new)),
            Form::Both => println!("{prefix}{}: {before} -> {new}", self.name),
        }
        Ok(0)
    }

    fn remove(&self, asked: &Asked, known: &Known) -> Outcome {
        let places: Vec<&PathBuf> =
            known.places.iter().filter(|(name, _)| *name == self.name).map(|(_, place)| place).collect();
        if places.is_empty() {
            return self.unknown(asked);
        }
        for place in places.into_iter().collect::<BTreeSet<_>>() {
            edit::replace(place, remove(&edit::read(place)?, &self.name).as_bytes(), 0o644)?;
        }
        Ok(0)
    }

    fn unknown(&self, asked: &Asked) -> Outcome {
        if asked.ignore {
            return Ok(0);
        }
        Err(format!("unknown variable '{}'", self.name).into())
    }
}

/// The variables as the files have them.
#[derive(Debug, Default)]
struct Known {
    values: BTreeMap<String, String>,
    /// Which file assigns what, in order; the file of defaults is none of them.
    places: Vec<(String, PathBuf)>,
}

impl Known {
    fn load(asked: &Asked) -> Result<Self, String> {
        let mut known = Self::default();
        let mut defaults = edit::read(&asked.default_file)?;
        if defaults.is_empty() {
            defaults = edit::read(&Path::new(place::DIR).join("defaults/rc.conf"))?;
        }
        values(&assignments(&defaults), &mut known.values);
        for file in &asked.files {
            let found = assignments(&edit::read(file)?);
            values(&found, &mut known.values);
            known.places.extend(found.into_iter().map(|found| (found.name, file.clone())));
        }
        Ok(known)
    }

    /// The last file that assigns it: whose word counts.
    fn place_of(&self, name: &str) -> Option<&PathBuf> {
        self.places.iter().rfind(|(known, _)| known == name).map(|(_, place)| place)
    }
}

fn show_all(asked: &Asked) -> Outcome {
    let known = Known::load(asked)?;
    for (name, value) in &known.values {
        match known.place_of(name) {
            Some(place) => show(asked, place, name, value),
            None if asked.defaults => show(asked, &asked.default_file, name, value),
            None => {}
        }
    }
    Ok(0)
}

fn show(asked: &Asked, place: &Path, name: &str, value: &str) {
    let prefix = if asked.verbose { format!("{}: ", place.display()) } else { String::new() };
    match asked.form {
        Form::Both => println!("{prefix}{name}: {value}"),
        Form::Value => println!("{prefix}{value}"),
        Form::Name => println!("{prefix}{name}"),
        Form::Line => println!("{prefix}{name}={}", quoted(value)),
    }
}

/// What separates the parts of a list, and the part: a first character that is no letter or digit is the separator.
fn part(text: &str) -> (char, &str) {
    match text.chars().next() {
        Some(first) if !first.is_alphanumeric() && !"_-/.$".contains(first) => {
            (first, text.get(first.len_utf8()..).unwrap_or_default())
        }
        _ => (' ', text),
    }
}

fn added(before: &str, text: &str) -> String {
    let (separator, part) = part(text);
    if before.split(separator).any(|known| known == part) {
        return before.to_owned();
    }
    if before.is_empty() { part.to_owned() } else { format!("{before}{separator}{part}") }
}

fn taken(before: &str, text: &str) -> String {
    let (separator, part) = part(text);
    before.split(separator).filter(|known| *known != part).collect::<Vec<_>>().join(&separator.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_lists() {
        assert_eq!(added("", "a"), "a");
        assert_eq!(added("a b", "b"), "a b");
        assert_eq!(added("a", "bc"), "a bc");
        assert_eq!(added("a,b", ",c"), "a,b,c");
        assert_eq!(added("-v", "-q"), "-v -q");
        assert_eq!(taken("a b c", "b"), "a c");
        assert_eq!(taken("a,b", ",b"), "a");
        assert_eq!(taken("abc", "b"), "abc");
    }

    #[test]
    fn what_is_asked() {
        let job = |word| Job::parse(word).map(|job| (job.name, job.change));
        assert_eq!(job("a").unwrap(), ("a".to_owned(), None));
        assert_eq!(job("a=b=c").unwrap(), ("a".to_owned(), Some((Change::Set, "b=c".to_owned()))));
        assert_eq!(job("a+=b").unwrap(), ("a".to_owned(), Some((Change::Add, "b".to_owned()))));
        assert_eq!(job("a-=b").unwrap(), ("a".to_owned(), Some((Change::Take, "b".to_owned()))));
        for bad in ["", "=x", "a b=1", "a;id=1", "$(id)=1", "1a=2", "a.b=1", "a\n=1", "ä=1"] {
            assert!(Job::parse(bad).is_err(), "{bad}");
        }
    }
}

//! What `pw` is asked: which command, of whom, with which options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{DATA, USAGE};
use crate::options::{Options, text};
use crate::{Failure, Outcome};

/// What is edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Group,
}

/// A command understood, with options that it takes.
#[derive(Debug)]
pub struct Ask {
    /// The directory of the files.
    pub etc: PathBuf,
    /// What comes before all paths of users, for the root of another system.
    pub root: PathBuf,
    kind: Kind,
    verb: &'static str,
    /// Name or number given without an option.
    subject: Option<String>,
    options: Vec<(char, String)>,
}

/// A command's whole name, what it is about, what it does, and its options.
type Known = (&'static str, Kind, &'static str, &'static str);

const COMMANDS: [Known; 12] = [
    ("useradd", Kind::User, "add", "R:V:C:qn:u:c:d:e:p:g:G:mM:k:w:s:oL:Yh:H:NPDb:"),
    ("usermod", Kind::User, "mod", "R:V:C:qn:u:l:c:d:e:p:g:G:mM:k:w:s:L:Yh:H:NP"),
    ("userdel", Kind::User, "del", "R:V:C:qn:u:rY"),
    ("usershow", Kind::User, "show", "R:V:C:qn:u:FPa7"),
    ("usernext", Kind::User, "next", "R:V:C:q"),
    ("groupadd", Kind::Group, "add", "R:V:C:qn:g:h:H:M:opNPY"),
    ("groupmod", Kind::Group, "mod", "R:V:C:qn:g:l:h:H:M:m:d:NPY"),
    ("groupdel", Kind::Group, "del", "R:V:C:qn:g:Y"),
    ("groupshow", Kind::Group, "show", "R:V:C:qn:g:FPa"),
    ("groupnext", Kind::Group, "next", "R:V:C:q"),
    ("lock", Kind::User, "lock", "R:V:C:qn:"),
    ("unlock", Kind::User, "unlock", "R:V:C:qn:"),
];

/// Options that ask for something a Linux root does not have, and what to do without.
const ABSENT: [(char, &str); 6] = [
    ('L', "login classes do not exist in a Linux root: leave -L out"),
    ('e', "times of expiry are not set here: use chage of the root"),
    ('p', "times of expiry are not set here: use chage of the root"),
    ('Y', "NIS does not exist here: leave -Y out"),
    ('D', "there is no pw.conf here: give the options with each command"),
    ('C', "there is no pw.conf here: give the options with each command"),
];

impl Ask {
    /// Reads a command line: `useradd`, `user add` or `add user`, then perhaps a name, then options.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        let usage = |e: String| Failure::new(USAGE, e);
        let words = arguments.iter().map(|word| text(word)).collect::<Result<Vec<_>, _>>().map_err(usage)?;
        let mut words: &[String] = &words;
        let mut early = Vec::new();
        while let [option, value, rest @ ..] = words
            && matches!(option.as_str(), "-R" | "-V")
        {
            early.push((if option == "-R" { 'R' } else { 'V' }, value.clone()));
            words = rest;
        }
        let ((_, kind, verb, letters), rest) = command(words)?;
        let (subject, rest) = match rest {
            [first, rest @ ..] if !first.starts_with('-') => (Some(first.clone()), rest),
            rest => (None, rest),
        };
        let given: Vec<OsString> = rest.iter().map(OsString::from).collect();
        let mut options = Options::new(&given, letters);
        let mut found = early;
        while let Some((letter, value)) = options.next().map_err(usage)? {
            found.push((letter, text(&value).map_err(usage)?));
        }
        let subject = match (subject, options.rest()) {
            (subject, []) => subject,
            (None, [name]) => Some(text(name).map_err(usage)?),
            (_, [extra, ..]) => return Err(usage(format!("'{}': one name at a time", extra.display()))),
        };
        let mut ask =
            Self { etc: PathBuf::from("/etc"), root: PathBuf::from("/"), kind, verb, subject, options: found };
        // In groups `-p` is an old way to say `-P`.
        if let Some((letter, why)) =
            ABSENT.iter().find(|(letter, _)| ask.has(*letter) && (kind == Kind::User || *letter != 'p'))
        {
            return Err(Failure::new(USAGE, format!("-{letter}: {why}")));
        }
        if let Some(root) = ask.value('R').map(PathBuf::from) {
            ask.etc = root.join("etc");
            ask.root = root;
        }
        if let Some(etc) = ask.value('V').map(PathBuf::from) {
            ask.etc = etc;
        }
        Ok(ask)
    }

    /// Does it.
    pub fn run(&self) -> Outcome {
        match (self.kind, self.verb) {
            (Kind::User, "add") => super::user::add(self),
            (Kind::User, "mod") => super::user::modify(self),
            (Kind::User, "del") => super::user::delete(self),
            (Kind::User, "show") => super::user::show(self),
            (Kind::User, "next") => super::user::next(self),
            (Kind::User, "lock") => super::password::lock(self),
            (Kind::User, _) => super::password::unlock(self),
            (Kind::Group, "add") => super::group::add(self),
            (Kind::Group, "mod") => super::group::modify(self),
            (Kind::Group, "del") => super::group::delete(self),
            (Kind::Group, "show") => super::group::show(self),
            (Kind::Group, _) => super::group::next(self),
        }
    }

    /// Whether the option was given.
    pub fn has(&self, letter: char) -> bool {
        self.options.iter().any(|(known, _)| *known == letter)
    }

    /// The value of an option; the last one counts.
    pub fn value(&self, letter: char) -> Option<&str> {
        self.options.iter().rfind(|(known, _)| *known == letter).map(|(_, value)| value.as_str())
    }

    /// The parts of all lists given with an option, which may be given several times.
    pub fn list(&self, letter: char) -> Option<Vec<&str>> {
        let lists = self.options.iter().filter(|(known, _)| *known == letter).map(|(_, value)| value.as_str());
        self.has(letter).then(|| lists.flat_map(|list| list.split(',')).filter(|part| !part.is_empty()).collect())
    }

    /// A number given with an option.
    pub fn number(&self, letter: char) -> Result<Option<u32>, Failure> {
        let parse = |text: &str| {
            // The highest stands for "no id at all" in system calls.
            let number = text.parse().ok().filter(|id| *id != u32::MAX);
            number.ok_or_else(|| Failure::new(DATA, format!("-{letter} {text}: is no id")))
        };
        self.value(letter).map(parse).transpose()
    }

    /// The name or number that stands by itself or behind `-n`.
    pub fn subject(&self) -> Option<&str> {
        self.value('n').or(self.subject.as_deref())
    }

    /// Where a path of a user is.
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }
}

/// Which command the first words are, and the rest.
fn command(words: &[String]) -> Result<(Known, &[String]), Failure> {
    let find = |text: &str| COMMANDS.iter().find(|(name, ..)| !name.is_empty() && *name == text).copied();
    let usage =
        || Failure::new(USAGE, "usage: pw [user|group] add|mod|del|show|next [NAME] OPTION..., pw lock|unlock NAME");
    let (first, rest) = words.split_first().ok_or_else(usage)?;
    let swapped =
        |first: &str, second: &str| find(&format!("{first}{second}")).or_else(|| find(&format!("{second}{first}")));
    if let Some(found) = find(first).or_else(|| turned(first).and_then(|name| find(&name))) {
        return Ok((found, rest));
    }
    let (second, rest) = rest.split_first().ok_or_else(usage)?;
    Ok((swapped(first, second).ok_or_else(usage)?, rest))
}

/// `adduser` and the like, in the usual order.
fn turned(text: &str) -> Option<String> {
    let verb = text
        .strip_suffix("user")
        .map(|verb| ("user", verb))
        .or_else(|| text.strip_suffix("group").map(|verb| ("group", verb)));
    verb.map(|(kind, verb)| format!("{kind}{verb}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Ask, Failure> {
        Ask::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn ways_to_say_it() {
        for line in [
            "useradd nats -g log",
            "user add nats -g log",
            "add user nats -g log",
            "adduser -g log nats",
            "useradd -n nats -g log",
        ] {
            let ask = parse(line).unwrap();
            assert_eq!(
                (ask.kind, ask.verb, ask.subject(), ask.value('g')),
                (Kind::User, "add", Some("nats"), Some("log")),
                "{line}"
            );
        }
        let ask = parse("-R /x groupmod log -m a,b -m c").unwrap();
        assert_eq!((ask.kind, ask.verb, ask.etc.to_str()), (Kind::Group, "mod", Some("/x/etc")));
        assert_eq!(ask.list('m').unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_refused() {
        for line in [
            "",
            "userfly x",
            "useradd a b",
            "useradd a -Z",
            "useradd a -g",
            "useradd a -L x",
            "useradd a -Y",
            "useradd -D",
        ] {
            assert_eq!(parse(line).unwrap_err().status, USAGE, "{line}");
        }
    }
}

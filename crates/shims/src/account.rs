//! Users and groups as the files in `/etc` have them. A static program has no name service to ask.

use std::path::{Path, PathBuf};

use crate::edit;

/// A file of lines whose fields are separated by colons. What cannot be read as an entry stays as it is.
#[derive(Debug, Clone)]
pub struct Table {
    path: PathBuf,
    mode: u32,
    fields: usize,
    lines: Vec<Vec<String>>,
    changed: bool,
}

impl Table {
    /// The users.
    pub fn passwd(etc: &Path) -> Result<Self, String> {
        Self::load(etc.join("passwd"), 7, 0o644)
    }

    /// The groups.
    pub fn group(etc: &Path) -> Result<Self, String> {
        Self::load(etc.join("group"), 4, 0o644)
    }

    /// The passwords of users, if the root keeps them apart.
    pub fn shadow(etc: &Path) -> Result<Option<Self>, String> {
        Self::load_if_there(etc.join("shadow"), 9)
    }

    /// The passwords of groups, if the root keeps them apart.
    pub fn gshadow(etc: &Path) -> Result<Option<Self>, String> {
        Self::load_if_there(etc.join("gshadow"), 4)
    }

    fn load_if_there(path: PathBuf, fields: usize) -> Result<Option<Self>, String> {
        if path.exists() { Self::load(path, fields, 0o600).map(Some) } else { Ok(None) }
    }

    fn load(path: PathBuf, fields: usize, mode: u32) -> Result<Self, String> {
        let text = edit::read(&path)?;
        let lines = text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect();
        Ok(Self { path, mode, fields, lines, changed: false })
    }

    /// Writes it if it was changed.
    pub fn save(&self) -> Result<(), String> {
        if !self.changed {
            return Ok(());
        }
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(&line.join(":"));
            text.push('\n');
        }
        edit::replace(&self.path, text.as_bytes(), self.mode)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Vec<String>> {
        let fields = self.fields;
        self.lines.iter().filter(move |line| is_entry(line, fields))
    }

    /// The entry whose field `at` is `value`.
    pub fn find(&self, at: usize, value: &str) -> Option<&Vec<String>> {
        self.entries().find(|entry| entry.get(at).is_some_and(|field| field == value))
    }

    /// The entry whose field `at` is `value`, to be changed.
    pub fn find_mut(&mut self, at: usize, value: &str) -> Option<&mut Vec<String>> {
        let fields = self.fields;
        let hit = |line: &&mut Vec<String>| is_entry(line, fields) && line.get(at).is_some_and(|field| field == value);
        let found = self.lines.iter_mut().find(hit);
        self.changed |= found.is_some();
        found
    }

    /// All entries, to be changed.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = &mut Vec<String>> {
        self.changed = true;
        let fields = self.fields;
        self.lines.iter_mut().filter(move |line| is_entry(line, fields))
    }

    /// Adds an entry at the end, but before the lines that stand for those of a directory service.
    pub fn add(&mut self, entry: Vec<String>) {
        let service = |line: &Vec<String>| line.first().is_some_and(|name| name.starts_with(['+', '-']));
        let at = self.lines.iter().position(service).unwrap_or(self.lines.len());
        self.lines.insert(at, entry);
        self.changed = true;
    }

    /// Removes the entries of this name.
    pub fn remove(&mut self, name: &str) {
        let before = self.lines.len();
        self.lines.retain(|line| line.first().is_none_or(|first| first != name));
        self.changed |= self.lines.len() != before;
    }

    /// The numbers in field `at`.
    pub fn numbers(&self, at: usize) -> Vec<u32> {
        self.entries().filter_map(|entry| entry.get(at)?.parse().ok()).collect()
    }
}

fn is_entry(line: &[String], fields: usize) -> bool {
    line.len() == fields && line.first().is_some_and(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']))
}

/// A user, as far as processes are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name; its number as text if it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its first group; its own number if it is not in the file.
    pub gid: u32,
    /// Where it lives.
    pub home: String,
    /// All its groups.
    pub groups: Vec<u32>,
}

/// A user by name or number.
pub fn user(etc: &Path, text: &str) -> Result<User, String> {
    let passwd = Table::passwd(etc)?;
    let entry = passwd.find(0, text).or_else(|| passwd.find(2, text).filter(|_| text.parse::<u32>().is_ok()));
    let Some(entry) = entry else {
        let uid = text.parse().map_err(|_| format!("unknown user: {text}"))?;
        return Ok(User { name: text.to_owned(), uid, gid: uid, home: "/".to_owned(), groups: vec![uid] });
    };
    let field = |at: usize| entry.get(at).map(String::as_str).unwrap_or_default();
    let number = |at: usize| field(at).parse().map_err(|_| format!("/etc/passwd: user {text}: '{}'", field(at)));
    let (uid, gid): (u32, u32) = (number(2)?, number(3)?);
    let mut groups = vec![gid];
    for group in Table::group(etc)?.entries() {
        let member = group.get(3).is_some_and(|members| members.split(',').any(|member| member == field(0)));
        if let Some(gid) = group.get(2).and_then(|gid| gid.parse().ok()).filter(|gid| member && !groups.contains(gid)) {
            groups.push(gid);
        }
    }
    Ok(User { name: field(0).to_owned(), uid, gid, home: field(5).to_owned(), groups })
}

/// The number of a group by name or number.
pub fn group(etc: &Path, text: &str) -> Result<u32, String> {
    let table = Table::group(etc)?;
    let number = table.find(0, text).and_then(|entry| entry.get(2)).map_or(text, String::as_str);
    number.parse().map_err(|_| format!("unknown group: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let users = "root:x:0:0:root:/root:/bin/sh\n# a comment\nnats:x:500:501::/home/nats:/bin/sh\n+::::::\n";
        std::fs::write(dir.path().join("passwd"), users).unwrap();
        std::fs::write(dir.path().join("group"), "root:x:0:\nnats:x:501:\nlog:x:7:a,nats\nno:x:8:natsx\n").unwrap();
        dir
    }

    #[test]
    fn users_and_their_groups() {
        let dir = etc();
        let nats = user(dir.path(), "nats").unwrap();
        assert_eq!((nats.uid, nats.gid, nats.groups.as_slice()), (500, 501, [501, 7].as_slice()));
        assert_eq!(user(dir.path(), "500").unwrap(), nats);
        assert_eq!(user(dir.path(), "9").unwrap().groups, [9]);
        assert_eq!(user(dir.path(), "nobody").unwrap_err(), "unknown user: nobody");
        assert_eq!(group(dir.path(), "log").unwrap(), 7);
        assert!(group(dir.path(), "none").is_err());
    }

    #[test]
    fn lines_that_are_no_entries_stay() {
        let dir = etc();
        let mut table = Table::passwd(dir.path()).unwrap();
        table.save().unwrap();
        table.add("a:x:1:1::/:/bin/sh".split(':').map(str::to_owned).collect());
        table.remove("nats");
        table.save().unwrap();
        let text = std::fs::read_to_string(dir.path().join("passwd")).unwrap();
        assert_eq!(text, "root:x:0:0:root:/root:/bin/sh\n# a comment\na:x:1:1::/:/bin/sh\n+::::::\n");
    }
}

//! Users by name or number, from the root's own `/etc/passwd` and `/etc/group`.
//!
//! A static glibc has no NSS, and these files belong to whoever runs in the sandbox: they are opened without blocking,
//! must be regular files, and are read up to a bound.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::failure::Failure;

/// Largest user database read: some ten thousand accounts.
const DATABASE_LEN_MAX: u64 = 1 << 20;
/// What `nobody` is where no database says so.
const NOBODY: u32 = 65_534;
/// Supplementary groups a user may have; the kernel's own bound.
const GROUPS_MAX: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name, or what was asked for if it has none.
    pub name: String,
    /// User id inside.
    pub uid: u32,
    /// Primary group inside.
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the database knows none.
    pub home: String,
}

/// The two files.
#[derive(Debug, Default)]
pub struct Database {
    passwd: String,
    group: String,
}

impl Database {
    /// Reads what is there below a root; a missing file is an empty one.
    pub fn read(root: &Path) -> Self {
        Self { passwd: read_regular(&root.join("etc/passwd")), group: read_regular(&root.join("etc/group")) }
    }

    /// From the text of the two files.
    pub fn of(passwd: String, group: String) -> Self {
        Self { passwd, group }
    }

    /// Finds `name` or `uid`, as the sandbox knows them; after a colon, the name or number of the one group to have.
    pub fn find(&self, asked: &str) -> Result<User, Failure> {
        let unknown = |what: &str| Failure::invalid(format!("user {asked:?}: {what}"));
        let Some((user, group)) = asked.split_once(':') else { return self.find_user(asked, &unknown) };
        let user = self.find_user(user, &unknown)?;
        let gid = match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => self.gid_of(group).ok_or_else(|| unknown("no such group in /etc/group of this sandbox"))?,
        };
        // Whoever names a group has that one and no other.
        Ok(User { gid, groups: vec![gid], ..user })
    }

    fn find_user(&self, asked: &str, unknown: &dyn Fn(&str) -> Failure) -> Result<User, Failure> {
        let number = asked.parse::<u32>().ok();
        let account = match number {
            Some(uid) => self.accounts().find(|a| a.uid == uid),
            None => self.accounts().find(|a| a.name == asked),
        };
        match (account, number) {
            (Some(account), _) => Ok(self.user(&account)),
            // The group of the same number: never one that somebody else has by chance, like 0.
            (None, Some(uid)) => Ok(numbered(asked, uid)),
            (None, None) if asked == "nobody" => Ok(numbered(asked, NOBODY)),
            (None, None) if asked == "root" => Ok(numbered(asked, 0)),
            (None, None) => Err(unknown("no such user in /etc/passwd of this sandbox")),
        }
    }

    fn gid_of(&self, name: &str) -> Option<u32> {
        let in_file = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? == name { fields.nth(1)?.parse().ok() } else { None }
        });
        in_file.or_else(|| (name == "root").then_some(0))
    }

    fn user(&self, account: &Account<'_>) -> User {
        let mut groups = vec![account.gid];
        for gid in self.groups_of(account.name).take(GROUPS_MAX - 1) {
            if !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        User {
            name: account.name.to_owned(),
            uid: account.uid,
            gid: account.gid,
            groups,
            home: if account.home.is_empty() { "/".to_owned() } else { account.home.to_owned() },
        }
    }

    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(Account::parse)
    }

    fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.group.lines().filter_map(move |line| {
            let mut fields = line.split(':');
            let (_, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            if members.split(',').any(|m| m == name) { gid.parse().ok() } else { None }
        })
    }
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, Copy)]
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or("/");
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    }
}

fn numbered(name: &str, id: u32) -> User {
    User { name: name.to_owned(), uid: id, gid: id, groups: vec![id], home: "/".to_owned() }
}

/// The text of a regular file; empty if there is none.
fn read_regular(path: &Path) -> String {
    // Without NONBLOCK a FIFO put here by the sandbox's user would stop the agent.
    let Ok(fd) = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return String::new();
    };
    let file = File::from(fd);
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return String::new();
    }
    let mut text = Vec::new();
    if file.take(DATABASE_LEN_MAX).read_to_end(&mut text).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database {
            passwd: "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbad line\nbob:x:1001:1001::\n"
                .to_owned(),
            group: "root:x:0:\nann:x:1000:\nwheel:x:10:bob,ann\nvideo:x:44:ann\n".to_owned(),
        }
    }

    #[test]
    fn names_numbers_and_pairs() {
        let db = database();
        let ann =
            User { name: "ann".into(), uid: 1000, gid: 1000, groups: vec![1000, 10, 44], home: "/home/ann".into() };
        assert_eq!(db.find("ann").unwrap(), ann);
        assert_eq!(db.find("1000").unwrap(), ann);
        let pair = db.find("1000:5").unwrap();
        assert_eq!((pair.name.as_str(), pair.uid, pair.gid, pair.groups), ("ann", 1000, 5, vec![5]));
        let named = db.find("ann:wheel").unwrap();
        assert_eq!((named.name.as_str(), named.uid, named.gid, named.groups), ("ann", 1000, 10, vec![10]));
        let mixed = db.find("ann:7").unwrap();
        assert_eq!((mixed.uid, mixed.gid, mixed.home.as_str()), (1000, 7, "/home/ann"));
        assert_eq!(db.find("4242:video").unwrap().groups, [44]);
        assert_eq!(Database::default().find("root:root").unwrap().gid, 0);
        assert_eq!(db.find("bob").unwrap().home, "/");
        let stranger = db.find("4242").unwrap();
        assert_eq!((stranger.uid, stranger.gid, stranger.name.as_str()), (4242, 4242, "4242"));
        assert_eq!(db.find("nobody").unwrap().uid, NOBODY);
    }

    #[test]
    fn unknown_users_are_named() {
        for asked in ["mallory", "1:x", "x:1", ":", "", "-1", "99999999999", "ann:", ":wheel", "ann:x:y", "1:-1"] {
            let failure = database().find(asked).unwrap_err();
            assert!(failure.message.contains(&format!("{asked:?}")), "{failure:?}");
        }
    }

    #[test]
    fn a_fifo_in_place_of_the_database_does_not_stop_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("etc/passwd"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        assert!(Database::read(dir.path()).find("root").is_ok());
    }
}

//! Users of the host, to know whom the task's directories belong to.

use std::fs;

/// User and primary group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// The daemon's own.
    pub fn of_daemon() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    /// Finds `name`, `uid` or `uid:gid` the way the agent will.
    pub fn find(asked: &str) -> Option<Self> {
        Self::find_in(&fs::read_to_string("/etc/passwd").unwrap_or_default(), asked)
    }

    fn find_in(passwd: &str, asked: &str) -> Option<Self> {
        if let Some((uid, gid)) = asked.split_once(':') {
            return Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? });
        }
        let number = asked.parse::<u32>().ok();
        let mut accounts = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid: u32 = fields.nth(1)?.parse().ok()?;
            Some((name, Self { uid, gid: fields.next()?.parse().ok()? }))
        });
        let known = match number {
            Some(uid) => accounts.find(|(_, owner)| owner.uid == uid),
            None => accounts.find(|(name, _)| *name == asked),
        };
        known.map(|(_, owner)| owner).or(number.map(|id| Self { uid: id, gid: id }))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_pairs() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n";
        for (asked, found) in [
            ("ann", Some((1000, 1001))),
            ("1000", Some((1000, 1001))),
            ("7", Some((7, 7))),
            ("7:8", Some((7, 8))),
            ("bob", None),
            ("7:x", None),
            ("", None),
        ] {
            assert_eq!(Owner::find_in(passwd, asked).map(|o| (o.uid, o.gid)), found, "{asked}");
        }
    }
}

//! Whom `/secrets` belongs to: the user the sandbox's programs run as, as the sandbox's own `/etc/passwd` knows it.

use std::io::Read as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::tree::{Owner, Tree};
use super::{LaunchError, at};

/// Ids that exist inside: 0 to 65,535.
const IDS: u32 = 65_536;

/// The id of `nobody` everywhere, also in a root without an `/etc/passwd`.
const NOBODY: u32 = 65_534;

/// A passwd file is a few kilobytes; whoever maps a larger one has users we do not look at.
const PASSWD_LEN_MAX: u64 = 1 << 20;

/// Reads `name`, `uid` or `uid:gid` as host ids of a sandbox whose ids begin at `base`.
pub fn of(root: &Tree, user: &str, base: u32) -> Result<Owner, LaunchError> {
    let inside = numeric(user).map_or_else(|| named(root, user), |owner| Ok(Some(owner)))?;
    match inside {
        Some(Owner { uid, gid }) if uid < IDS && gid < IDS => Ok(Owner { uid: base + uid, gid: base + gid }),
        Some(_) => Err(LaunchError::new("user", format!("{user}: ids inside are 0 to {}", IDS - 1))),
        None => Err(LaunchError::new(
            "user",
            format!("{user}: not in the sandbox's /etc/passwd; name an existing user or a number"),
        )),
    }
}

fn numeric(user: &str) -> Option<Owner> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

fn named(root: &Tree, name: &str) -> Result<Option<Owner>, LaunchError> {
    let path = Path::new("etc/passwd");
    let mut text = Vec::new();
    match root.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => {
            std::fs::File::from(file).take(PASSWD_LEN_MAX).read_to_end(&mut text).map_err(at("user", path))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(at("user", path)(e)),
    }
    let text = String::from_utf8_lossy(&text);
    Ok(find(&text, name).or(match name {
        "root" => Some(Owner { uid: 0, gid: 0 }),
        "nobody" => Some(Owner { uid: NOBODY, gid: NOBODY }),
        _ => None,
    }))
}

/// The line of `name` in the text of a passwd file.
fn find(passwd: &str, name: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (found == name).then(|| Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_number_and_by_name() {
        assert_eq!(numeric("7"), Some(Owner { uid: 7, gid: 7 }));
        assert_eq!(numeric("7:8"), Some(Owner { uid: 7, gid: 8 }));
        assert_eq!(numeric("nobody"), None);
        assert_eq!(numeric("-1"), None);
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/:/bin/false\n";
        assert_eq!(find(passwd, "web"), Some(Owner { uid: 33, gid: 34 }));
        assert_eq!(find(passwd, "we"), None);
    }
}

//! Whom `/secrets` belongs to: the user the sandbox's programs run as, as the sandbox's own `/etc/passwd` knows it.

use std::io::Read as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::tree::{Owner, Tree};
use super::{LaunchError, at};
use crate::agent::user::Database;

/// Ids that exist inside: 0 to 65,535.
const IDS: u32 = 65_536;

/// A passwd file is a few kilobytes; whoever maps a larger one has users we do not look at.
const PASSWD_LEN_MAX: u64 = 1 << 20;

/// Reads `name`, `uid` or `uid:gid` as host ids of a sandbox whose ids begin at `base`. The root is not `/` yet, so links in
/// it are followed within it.
pub fn of(root: &Tree, user: &str, base: u32) -> Result<Owner, LaunchError> {
    let found = Database::of_passwd(passwd(root)?).find(user).map_err(|e| LaunchError::new("user", e.message))?;
    if found.uid >= IDS || found.gid >= IDS {
        return Err(LaunchError::new("user", format!("{user:?}: ids inside are 0 to {}", IDS - 1)));
    }
    Ok(Owner { uid: base + found.uid, gid: base + found.gid })
}

fn passwd(root: &Tree) -> Result<String, LaunchError> {
    let path = Path::new("etc/passwd");
    let file = match root.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => std::fs::File::from(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(at("user", path)(e)),
    };
    let mut text = Vec::new();
    file.take(PASSWD_LEN_MAX).read_to_end(&mut text).map_err(at("user", path))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

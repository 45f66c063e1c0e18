//! Whom `/secrets` belongs to: the user the sandbox's programs run as, as the sandbox's own `/etc/passwd` and `/etc/group`
//! know it.

use std::io::Read as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::tree::{Owner, Tree};
use super::{LaunchError, at};
use crate::agent::user::Database;

/// Ids that exist inside: 0 to 65,535.
const IDS: u32 = 65_536;

/// These files are a few kilobytes; whoever maps a larger one has users we do not look at.
const DATABASE_LEN_MAX: u64 = 1 << 20;

/// Reads a name or number, with a group or not, as host ids of a sandbox whose ids begin at `base`. The root is not `/` yet, so links in
/// it are followed within it.
pub fn of(root: &Tree, user: &str, base: u32) -> Result<Owner, LaunchError> {
    let found = Database::of(text(root, "etc/passwd")?, text(root, "etc/group")?)
        .find(user)
        .map_err(|e| LaunchError::new("user", e.message))?;
    if found.uid >= IDS || found.gid >= IDS {
        return Err(LaunchError::new("user", format!("{user:?}: ids inside are 0 to {}", IDS - 1)));
    }
    Ok(Owner { uid: base + found.uid, gid: base + found.gid })
}

fn text(root: &Tree, path: &str) -> Result<String, LaunchError> {
    let path = Path::new(path);
    // A pipe an image put there must not stop the launcher.
    let file = match root.open_with(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => std::fs::File::from(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(at("user", path)(e)),
    };
    if !file.metadata().map_err(at("user", path))?.is_file() {
        return Ok(String::new());
    }
    let mut text = Vec::new();
    file.take(DATABASE_LEN_MAX).read_to_end(&mut text).map_err(at("user", path))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

//! Homes of users.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use super::ask::Ask;
use super::{DATA, IO, field};
use crate::Failure;

/// What a new home begins with, unless `-k` says something else: FreeBSD's place, then Linux's.
const SKELETONS: [&str; 2] = ["/usr/share/skel", "/etc/skel"];

/// Makes the home of a user and fills it. What is there already stays.
pub fn make(ask: &Ask, entry: &[String]) -> Result<(), Failure> {
    let home = ask.place(field(entry, 5));
    let failed = |e: io::Error| Failure::new(IO, format!("{}: {e}", home.display()));
    let mode = match ask.value('M') {
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| Failure::new(DATA, format!("-M {text}: is no mode")))?,
        None => 0o755,
    };
    let owner =
        |at| field(entry, at).parse::<u32>().map_err(|_| Failure::new(DATA, format!("{}: is no id", field(entry, at))));
    let owner = (owner(2)?, owner(3)?);
    let found = home.symlink_metadata().is_ok();
    fs::create_dir_all(&home).map_err(failed)?;
    let skeleton = match ask.value('k') {
        Some(path) => Some(ask.place(path)),
        None => SKELETONS.iter().map(|path| ask.place(path)).find(|path| path.is_dir()),
    };
    if let Some(skeleton) = skeleton {
        copy(&skeleton, &home, owner).map_err(|e| Failure::new(IO, format!("{}: {e}", skeleton.display())))?;
    }
    if !found {
        fs::set_permissions(&home, Permissions::from_mode(mode)).map_err(failed)?;
        lchown(&home, Some(owner.0), Some(owner.1)).map_err(failed)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, owner: (u32, u32)) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        // FreeBSD keeps dot files as "dot.profile", so that they are seen.
        let name = name
            .to_str()
            .and_then(|name| name.strip_prefix("dot"))
            .filter(|rest| rest.starts_with('.'))
            .map_or(name.clone(), Into::into);
        let (place, kind) = (to.join(name), entry.file_type()?);
        if place.symlink_metadata().is_ok() && !(kind.is_dir() && place.is_dir()) {
            continue;
        }
        if kind.is_dir() {
            fs::create_dir_all(&place)?;
            copy(&entry.path(), &place, owner)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &place)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &place)?;
        } else {
            continue;
        }
        lchown(&place, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

/// Removes the home of a user, if it is the user's own directory.
pub fn remove(ask: &Ask, entry: &[String]) -> Result<(), Failure> {
    let path = field(entry, 5);
    let home = ask.place(path);
    let parts = Path::new(path).components().count();
    match home.symlink_metadata() {
        // "/" and "/home" are nobody's own, whoever owns them.
        Ok(found) if found.is_dir() && parts > 2 && found.uid().to_string() == field(entry, 2) => {
            fs::remove_dir_all(&home).map_err(|e| Failure::new(IO, format!("{}: {e}", home.display())))
        }
        _ => Ok(()),
    }
}

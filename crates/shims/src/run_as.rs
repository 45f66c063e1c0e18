//! `as`: runs a program as somebody else, somewhere else. What `su`, `chroot` and `nice` do for FreeBSD's rc.subr, without a
//! login, a shell of the user, or anything asked of PAM.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::account::{self, User};
use crate::options::{Options, text};
use crate::{Failure, Outcome, sys};

/// `as [-u USER] [-g GROUP] [-G GROUPS] [-n NICE] [-C ROOT] [-d DIR] [--] PROGRAM ARG...`
pub fn main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "u:g:G:n:C:d:");
    let (mut user, mut group, mut groups, mut nice, mut root, mut dir) = (None, None, None, None, None, None);
    while let Some((letter, value)) = options.next()? {
        let value = text(&value)?;
        match letter {
            'u' => user = Some(value),
            'g' => group = Some(value),
            'G' => groups = Some(value),
            'n' => nice = Some(value.parse::<i32>().map_err(|_| format!("-n {value}: is no number"))?),
            'C' => root = Some(value),
            _ => dir = Some(value),
        }
    }
    let Some((program, rest)) = options.rest().split_first() else {
        return Err(Failure::new(64, "which program?"));
    };
    let etc = Path::new("/etc");
    let user = user.map(|user| account::user(etc, &user)).transpose()?;
    let group = group.map(|group| account::group(etc, &group)).transpose()?;
    let groups = groups.map(|groups| group_list(etc, &groups)).transpose()?;
    if let Some(by) = nice {
        sys::add_nice(by).map_err(|e| format!("nice {by}: {e}"))?;
    }
    if let Some(root) = root {
        std::os::unix::fs::chroot(&root).map_err(|e| format!("change the root to {root}: {e}"))?;
        std::env::set_current_dir("/").map_err(|e| format!("{root}: {e}"))?;
    }
    if let Some(dir) = dir {
        std::env::set_current_dir(&dir).map_err(|e| format!("{dir}: {e}"))?;
    }
    let mut command = Command::new(program);
    command.args(rest);
    if let Some(user) = &user {
        command.env("USER", &user.name).env("LOGNAME", &user.name).env("HOME", &user.home);
    }
    become_whom(user.as_ref(), group, groups)?;
    let e = command.exec();
    let status = if e.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure::new(status, format!("{}: {e}", program.display())))
}

fn group_list(etc: &Path, text: &str) -> Result<Vec<u32>, String> {
    text.split(',').filter(|group| !group.is_empty()).map(|group| account::group(etc, group)).collect()
}

/// Takes the rights of a user. Whoever is that user already needs none to become it, and keeps its groups.
pub fn become_whom(user: Option<&User>, group: Option<u32>, groups: Option<Vec<u32>>) -> Result<(), String> {
    if sys::user() != 0 && user.is_some_and(|user| user.uid == sys::user()) && group.is_none() && groups.is_none() {
        return Ok(());
    }
    let gid = group.or(user.map(|user| user.gid));
    let groups = groups.or_else(|| user.map(|user| user.groups.clone()));
    sys::become_user(user.map(|user| user.uid), gid, groups.as_deref()).map_err(|e| {
        let whom = user.map_or_else(|| "another group".to_owned(), |user| user.name.clone());
        format!("become {whom}: {e}")
    })
}

//! Removing a tree.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use moat_engine::error::Result;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::{self, Errno};

use super::failed;

/// Removes what is at `path`, and all that is below it; nothing there is right too.
///
/// However deep it goes: what has something in it is moved to the top first, so one directory is open at a time and no path is
/// ever long.
pub fn remove(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let parent = path.parent().unwrap_or(Path::new("."));
    let parent = match openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(failed("open the directory of", path))?,
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|e| super::refused(path, e))?;
    entry(parent.as_fd(), &name).map_err(failed("remove", path))
}

/// The same of a name in an open directory.
pub(super) fn entry(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = open(parent, name)?;
    let mut number = 0_u64;
    // What was moved up is found when the top is read again.
    while emptied(&top, top.as_fd(), &mut number)? > 0 {}
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) | Ok(()) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Empties every directory in the top one, whose directories are moved up beside them. How many there were.
fn emptied(top: &OwnedFd, dir: BorrowedFd<'_>, number: &mut u64) -> io::Result<usize> {
    let mut directories = Vec::new();
    for found in Dir::read_from(dir)? {
        let name = found?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => directories.push(name),
            Err(errno) => return Err(errno),
        }
    }
    let count = directories.len();
    for name in directories {
        match unlinkat(dir, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let inner = open(dir, &name)?;
        moved_up(top, &inner, number)?;
        unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(count)
}

/// Removes what is in a directory but its directories, and moves those to the top.
fn moved_up(top: &OwnedFd, dir: &OwnedFd, number: &mut u64) -> io::Result<()> {
    for found in Dir::read_from(dir)? {
        let name = found?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                match unlinkat(dir, &name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                // A directory of this name may be there already: another is tried.
                loop {
                    *number += 1;
                    let spot = format!("{number}.going");
                    match renameat(dir, &name, top, spot.as_str()) {
                        Ok(()) => break,
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {

    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{Mode, mkdirat};

    use super::*;

    #[test]
    fn deep_trees_and_links_go_and_nothing_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        fs::create_dir_all(&top).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("stays"), "x").unwrap();
        symlink(&other, top.join("link")).unwrap();
        for n in 0..20 {
            fs::create_dir_all(top.join(format!("{n}/a/b"))).unwrap();
            fs::write(top.join(format!("{n}/a/file")), "x").unwrap();
        }
        // Deeper than any path or any number of descriptors.
        let mut here = open(CWD, &CString::new(top.as_os_str().as_encoded_bytes()).unwrap()).unwrap();
        for _ in 0..3000 {
            let name = CString::new("deep").unwrap();
            mkdirat(&here, &name, Mode::from_raw_mode(0o755)).unwrap();
            here = open(here.as_fd(), &name).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists() && other.join("stays").exists());
        remove(&top).unwrap();
        symlink(&other, &top).unwrap();
        remove(&top).unwrap();
        assert!(!top.is_symlink() && other.join("stays").exists());
    }
}

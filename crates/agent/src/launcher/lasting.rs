//! The private layer of a root that outlives its sandbox: two directories of the host's disk, below one that root alone can reach.
//!
//! What is in `upper` was written by whoever was in the sandbox before and belongs to the sandbox's ids; only a directory that
//! does is taken. Nothing in it is opened here.
//!
//! Directories and files that things are mounted on lie in a layer below all others, so that they need not be made in what lasts.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::layers::like;
use super::root::DIRECTORIES;
use super::tree::{Tree, below};
use super::{ID_COUNT, LaunchError, at};

const STAGE: &str = "lasting layer";

/// What becomes the upper one, until it belongs to whom it should.
const NEW: &str = "upper.new";

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens both, made if they are not there. A new one is like the directory `top` that it will lie over.
pub fn open(dir: &Path, uid_base: u32, top: &OwnedFd) -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let opened = openat(CWD, dir, DIRECTORY, Mode::empty()).map_err(at(STAGE, dir))?;
    if !is_roots(&fstat(&opened).map_err(at(STAGE, dir))?) {
        return Err(at(STAGE, dir)("it must belong to root, and be for nobody else: chmod 0700"));
    }
    let upper = match openat(&opened, "upper", DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => new(&opened, dir, top)?,
        other => other.map_err(at(STAGE, dir))?,
    };
    let Stat { st_uid, st_gid, .. } = fstat(&upper).map_err(at(STAGE, dir))?;
    let ids = uid_base..uid_base.saturating_add(ID_COUNT);
    if !ids.contains(&st_uid) || !ids.contains(&st_gid) {
        let why = format!("upper belongs to {st_uid}:{st_gid}, which is not of the {ID_COUNT} ids from {uid_base} on");
        return Err(at(STAGE, dir)(why));
    }
    match mkdirat(&opened, "work", Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(at(STAGE, dir)(errno)),
    }
    let work = openat(&opened, "work", DIRECTORY, Mode::empty()).map_err(at(STAGE, dir))?;
    if !is_roots(&fstat(&work).map_err(at(STAGE, dir))?) {
        return Err(at(STAGE, dir)("work must belong to root, and be for nobody else: remove it"));
    }
    Ok((upper, work))
}

fn is_roots(found: &Stat) -> bool {
    found.st_uid == 0 && found.st_mode & 0o077 == 0
}

/// It has its name only when it belongs to the sandbox: one that was left half made is not taken for one of somebody else.
fn new(dir: &OwnedFd, path: &Path, top: &OwnedFd) -> Result<OwnedFd, LaunchError> {
    match unlinkat(dir, NEW, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(at(STAGE, path)(errno)),
    }
    mkdirat(dir, NEW, Mode::from_raw_mode(0o700)).map_err(at(STAGE, path))?;
    let made = openat(dir, NEW, DIRECTORY, Mode::empty()).map_err(at(STAGE, path))?;
    like(&made, top).map_err(at(STAGE, path))?;
    renameat(dir, NEW, dir, "upper").map_err(at(STAGE, path))?;
    Ok(made)
}

/// What things are mounted on, as a layer of its own.
pub fn furniture(own: &Tree, wired: bool) -> Result<OwnedFd, LaunchError> {
    let path = Path::new("lower/places");
    let places = own.directory(path, Mode::from_raw_mode(0o755)).map_err(at(STAGE, path))?;
    let again = openat(places.as_fd(), ".", DIRECTORY, Mode::empty()).map_err(at(STAGE, path))?;
    let tree = Tree::new(places, own.owner());
    for (path, mode) in DIRECTORIES {
        let path = below(Path::new(path));
        tree.own_directory(path, Mode::from_raw_mode(mode)).map_err(at(STAGE, path))?;
    }
    let wired: &[&str] = if wired { &["etc/resolv.conf"] } else { &[] };
    for path in ["etc/hostname", "etc/hosts"].iter().chain(wired).map(Path::new) {
        tree.own_file(path).map_err(at(STAGE, path))?;
    }
    Ok(again)
}

//! A tree as another tree, in passes: the first while programs go on writing, the last, of only what changed since, while they
//! stand still. What changed is known by the kernel's own time of change and by which file has which name; nobody inside can
//! set either.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, linkat, mkdirat, openat, openat2, statat,
    syncfs, unlinkat,
};
use rustix::io::{self, Errno};

use super::attributes::{OPAQUE, is_whiteout, xattrs};
use super::content::Means;
use super::entry::{Making, changed};
use super::remove::{self, remove};
use super::{ENTRIES_MAX, Owners, Stats, count, failed, go_on, joined, refused};

/// The kernel's clock for files is as coarse as its tick: what changed this shortly before a pass may change in it unseen.
const TICK_NANOS: i64 = 50_000_000;

/// Whether anything in the tree runs while a pass is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Programs may write. What comes out is as good as a copy gets that another pass must follow.
    Running,
    /// Nothing writes: after this the copy is the tree.
    Standing,
}

/// A copy that is being made. Dropped before [`Copier::finish`] it leaves what there is of it.
#[derive(Debug)]
pub struct Copier {
    from: OwnedFd,
    to: OwnedFd,
    to_path: PathBuf,
    owners: Owners,
    /// Layers are laid over one another: what is there stays unless they hide it.
    pub(super) laying: bool,
    device: u64,
    means: Means,
    /// What was copied from where, by a hash of its path.
    seen: HashMap<u64, Seen>,
    keys: RandomState,
    entries: u64,
    links: Links,
    pass: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    ino: u64,
    /// File systems give the number of what is gone to what comes next, which may be of another kind.
    directory: bool,
    /// Nanoseconds; none: it may have changed unseen since.
    changed: Option<i64>,
}

/// Files with several names: a name for each, by its number, in a directory beside the copy.
#[derive(Debug)]
struct Links {
    path: PathBuf,
    dir: Option<OwnedFd>,
    known: HashMap<u64, Known>,
}

impl Drop for Links {
    fn drop(&mut self) {
        if self.dir.is_some() {
            // What stays is replaced by the next copy to the same place.
            let _ = remove(&self.path);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    changed: i64,
    /// It may have changed unseen since, so it counts in this pass only.
    for_pass: Option<u32>,
}

/// A directory that is to be gone through.
#[derive(Debug)]
struct Step {
    path: PathBuf,
    /// Where it is noted that it was.
    key: u64,
    ino: u64,
    /// The copy has just got it, and nothing is in it.
    fresh: bool,
}

/// One turn.
struct Turn<'a> {
    pass: Pass,
    /// What changed at or after this moment may change again unseen.
    since: i64,
    cancel: &'a AtomicBool,
    stats: Stats,
}

impl Turn<'_> {
    fn settled(&self, stat: &Stat) -> Option<i64> {
        let at = ctime(stat);
        (self.pass == Pass::Standing || at < self.since).then_some(at)
    }

    /// While programs run, what is gone or became something else is found by the next pass.
    fn tolerates(&self, error: &Error) -> bool {
        self.pass == Pass::Running && error.kind == ErrorKind::Conflict && !self.cancel.load(Ordering::Relaxed)
    }
}

fn ctime(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_ctime_nsec).unwrap_or_default();
    stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(nanos)
}

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NOATIME).union(OFlags::CLOEXEC);

impl Copier {
    /// A copy of the directory `from` at `to`, which does not exist yet. Nothing is copied before the first pass.
    pub fn new(from: &Path, to: &Path, owners: Owners) -> Result<Self> {
        let source = openat(CWD, from, DIRECTORY, Mode::empty()).map_err(failed("open", from))?;
        mkdirat(CWD, to, Mode::from_raw_mode(0o700)).map_err(|errno| match errno {
            Errno::EXIST => Error::new(ErrorKind::Conflict, format!("{} is there already", to.display())),
            errno => failed("make", to)(errno),
        })?;
        let mut copier = Self::onto(source, to, owners)?;
        copier.laying = false;
        Ok(copier)
    }

    /// What is in `from` laid over the directory `to`.
    pub(super) fn onto(from: OwnedFd, to: &Path, owners: Owners) -> Result<Self> {
        let device = fstat(&from).map_err(failed("look at what is copied to", to))?.st_dev;
        let made = openat(CWD, to, DIRECTORY, Mode::empty()).map_err(failed("open", to))?;
        let mut beside = to.file_name().unwrap_or_default().to_owned();
        beside.push(".links");
        Ok(Self {
            from,
            to: made,
            to_path: to.to_owned(),
            owners,
            laying: true,
            device,
            means: Means::default(),
            seen: HashMap::new(),
            keys: RandomState::new(),
            entries: 0,
            links: Links { path: to.with_file_name(beside), dir: None, known: HashMap::new() },
            pass: 0,
        })
    }

    /// Copies everything, or what changed since the pass before. Blocks. `cancel` is looked at between files and within large
    /// ones. After an error the copy is of no use.
    pub fn pass(&mut self, pass: Pass, cancel: &AtomicBool) -> Result<Stats> {
        self.pass += 1;
        let mut turn = Turn { pass, since: i64::MAX, cancel, stats: Stats::default() };
        if pass == Pass::Running {
            // A page that is written through a mapping counts as changed when it is first written after it went to disk:
            // so everything goes to disk, after the moment from which changes are believed to be seen.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            turn.since = i64::try_from(now).unwrap_or_default() - TICK_NANOS;
            syncfs(&self.from).map_err(failed("write out what is to be copied to", &self.to_path))?;
        }
        let top = fstat(&self.from).map_err(failed("look at what is copied to", &self.to_path))?;
        let first = self.pass == 1 && !self.laying;
        let mut rest = vec![Step { path: PathBuf::new(), key: 0, ino: top.st_ino, fresh: first }];
        while let Some(step) = rest.pop() {
            go_on(cancel)?;
            self.directory(&step, &mut turn, &mut rest)?;
        }
        Ok(turn.stats)
    }

    /// Writes the copy out, which takes its time, and gives up what was needed to make it.
    pub fn finish(mut self) -> Result<()> {
        if self.links.dir.take().is_some() {
            remove(&self.links.path)?;
        }
        syncfs(&self.to).map_err(failed("write out", &self.to_path))
    }

    /// Of a name by where it is, not by which directory it is in: that may have been copied at two places as it went about.
    fn key(&self, path: &Path) -> u64 {
        self.keys.hash_one(path.as_os_str())
    }

    /// The same of what is in a directory.
    fn own_key(&self, path: &Path) -> u64 {
        self.keys.hash_one((path.as_os_str(), "names"))
    }

    /// Goes through one directory; those in it are put on `rest`.
    fn directory(&mut self, step: &Step, turn: &mut Turn<'_>, rest: &mut Vec<Step>) -> Result<()> {
        let from = match below(&self.from, &step.path) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if turn.pass == Pass::Running => return self.moved(step),
            Err(errno) => return Err(failed("open", &step.path)(errno)),
        };
        let stat = fstat(&from).map_err(failed("look at", &step.path))?;
        if stat.st_ino != step.ino {
            return if turn.pass == Pass::Running { self.moved(step) } else { Err(changed(&step.path)) };
        }
        let own = self.own_key(&step.path);
        let before = self.seen.get(&own).and_then(|seen| seen.changed);
        let same = !step.fresh && before == Some(ctime(&stat));
        let names = self.names(&from, &step.path)?;
        let mut here = Here { from, to: None, path: &step.path, fresh: step.fresh };
        let mut touched = !same;
        for name in &names {
            go_on(turn.cancel)?;
            match self.name(&mut here, name, turn, rest) {
                Ok(made) => touched |= made,
                Err(error) if turn.tolerates(&error) => {
                    let path = joined(&step.path, OsStr::from_bytes(name.to_bytes()))?;
                    self.seen.remove(&self.key(&path));
                    touched = true;
                }
                Err(error) => return Err(error),
            }
        }
        if !step.fresh && !same && !self.laying {
            turn.stats.removed += here.without(self.to.as_fd(), &names)?;
        }
        if touched {
            let to = here.opened(self.to.as_fd())?;
            self.making(turn).attributes(here.from.as_fd(), to.as_fd(), b".", &stat, &step.path)?;
        }
        self.seen.insert(own, Seen { ino: stat.st_ino, directory: true, changed: turn.settled(&stat) });
        Ok(())
    }

    /// It is not where it was: what the copy has there is not believed.
    fn moved(&mut self, step: &Step) -> Result<()> {
        self.seen.remove(&step.key);
        Ok(())
    }

    fn names(&mut self, from: &OwnedFd, path: &Path) -> Result<HashSet<CString>> {
        let mut names = HashSet::new();
        for found in Dir::read_from(from).map_err(failed("read", path))? {
            let found = found.map_err(failed("read", path))?;
            if !matches!(found.file_name().to_bytes(), b"." | b"..") {
                names.insert(found.file_name().to_owned());
            }
        }
        Ok(names)
    }

    fn making<'a>(&'a mut self, turn: &'a mut Turn<'_>) -> Making<'a> {
        let Turn { stats, cancel, .. } = turn;
        Making { owners: self.owners, means: &mut self.means, stats, cancel, plain: self.laying }
    }

    /// One name of a directory. Whether the copy's directory was changed for it.
    fn name(&mut self, here: &mut Here<'_>, name: &CStr, turn: &mut Turn<'_>, rest: &mut Vec<Step>) -> Result<bool> {
        let path = joined(here.path, OsStr::from_bytes(name.to_bytes()))?;
        let stat = statat(&here.from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", &path))?;
        let key = self.key(&path);
        let seen = if here.fresh { None } else { self.seen.get(&key).copied() };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if stat.st_dev != self.device {
                return Err(refused(&path, "another file system is mounted there"));
            }
            let known = seen.is_some_and(|seen| seen.directory && seen.ino == stat.st_ino);
            let fresh = if known { false } else { self.new_directory(here, name, &path, turn)? };
            if !known {
                count(&mut self.entries, ENTRIES_MAX)?;
                self.seen.insert(key, Seen { ino: stat.st_ino, directory: true, changed: None });
            }
            rest.push(Step { path, key, ino: stat.st_ino, fresh });
            return Ok(!known);
        }
        let changed = ctime(&stat);
        if seen == Some(Seen { ino: stat.st_ino, directory: false, changed: Some(changed) }) {
            turn.stats.unchanged += 1;
            return Ok(false);
        }
        let to = here.opened(self.to.as_fd())?;
        if self.is_another_state(&stat, seen)
            && self.making(turn).renew(here.from.as_fd(), to.as_fd(), name, &stat, &path)?
        {
            self.seen.insert(key, Seen { ino: stat.st_ino, directory: false, changed: turn.settled(&stat) });
            return Ok(true);
        }
        if !here.fresh {
            remove::entry(to.as_fd(), name).map_err(failed("replace", &path))?;
        }
        if self.laying && is_whiteout(&stat) {
            turn.stats.removed += 1;
            return Ok(true);
        }
        count(&mut self.entries, ENTRIES_MAX)?;
        if stat.st_nlink < 2 || !self.linked(&stat, to.as_fd(), name, turn, &path)? {
            self.making(turn).make(here.from.as_fd(), to.as_fd(), name, &stat, &path)?;
            if stat.st_nlink > 1 {
                self.keep_link(&stat, to.as_fd(), name, turn, &path)?;
            }
        }
        self.seen.insert(key, Seen { ino: stat.st_ino, directory: false, changed: turn.settled(&stat) });
        Ok(true)
    }

    /// Whether it is the one file that an earlier pass copied to this place, changed since.
    fn is_another_state(&self, stat: &Stat, seen: Option<Seen>) -> bool {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let same = seen.is_some_and(|seen| !seen.directory && seen.ino == stat.st_ino);
        is_file && same && stat.st_nlink == 1 && !self.laying
    }

    /// Makes an empty directory where there is none, or none that stays. Whether nothing is in it.
    fn new_directory(&mut self, here: &mut Here<'_>, name: &CStr, path: &Path, turn: &mut Turn<'_>) -> Result<bool> {
        let to = here.opened(self.to.as_fd())?;
        let hides = || -> Result<bool> {
            let marks = xattrs(here.from.as_fd(), name.to_bytes(), path)?;
            Ok(marks.iter().any(|(mark, value)| mark == OPAQUE && value == b"y"))
        };
        if !here.fresh && (!self.laying || hides()?) {
            remove::entry(to.as_fd(), name).map_err(failed("replace", path))?;
        }
        let mode = Mode::from_raw_mode(0o700);
        turn.stats.files += 1;
        match mkdirat(&to, name, mode) {
            Err(Errno::EXIST) if self.laying => {
                let there = statat(&to, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", path))?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    return Ok(false);
                }
                remove::entry(to.as_fd(), name).map_err(failed("replace", path))?;
                mkdirat(&to, name, mode).map_err(failed("make", path))?;
            }
            other => other.map_err(failed("make", path))?,
        }
        Ok(true)
    }

    /// Makes it another name of what was copied under its first one, if that is what it still is.
    fn linked(
        &mut self,
        stat: &Stat,
        to: BorrowedFd<'_>,
        name: &CStr,
        turn: &mut Turn<'_>,
        path: &Path,
    ) -> Result<bool> {
        let Some((known, dir)) = self.links.known.get(&stat.st_ino).zip(self.links.dir.as_ref()) else {
            return Ok(false);
        };
        if known.changed != ctime(stat) || known.for_pass.is_some_and(|pass| pass != self.pass) {
            return Ok(false);
        }
        match linkat(dir, stat.st_ino.to_string(), to, name, AtFlags::empty()) {
            Ok(()) => {
                turn.stats.files += 1;
                Ok(true)
            }
            // It has as many names as it can have: the others become names of another copy.
            Err(Errno::MLINK) => Ok(false),
            Err(errno) => Err(failed("link", path)(errno)),
        }
    }

    fn keep_link(&mut self, stat: &Stat, to: BorrowedFd<'_>, name: &CStr, turn: &Turn<'_>, path: &Path) -> Result<()> {
        let Links { path: beside, dir, known } = &mut self.links;
        let dir = match dir {
            Some(dir) => dir,
            None => {
                remove(beside)?;
                mkdirat(CWD, &*beside, Mode::from_raw_mode(0o700)).map_err(failed("make", beside))?;
                dir.insert(openat(CWD, &*beside, DIRECTORY, Mode::empty()).map_err(failed("open", beside))?)
            }
        };
        let spot = stat.st_ino.to_string();
        match unlinkat(&*dir, &*spot, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("forget the first name of", path)(errno)),
        }
        linkat(to, name, &*dir, spot, AtFlags::empty()).map_err(failed("note the first name of", path))?;
        let for_pass = if turn.settled(stat).is_some() { None } else { Some(self.pass) };
        known.insert(stat.st_ino, Known { changed: ctime(stat), for_pass });
        Ok(())
    }
}

/// A directory of the tree, and, once that is needed, of the copy.
struct Here<'a> {
    from: OwnedFd,
    to: Option<Rc<OwnedFd>>,
    path: &'a Path,
    fresh: bool,
}

impl Here<'_> {
    fn opened(&mut self, copy: BorrowedFd<'_>) -> Result<Rc<OwnedFd>> {
        if let Some(to) = &self.to {
            return Ok(Rc::clone(to));
        }
        let to = Rc::new(below(&copy, self.path).map_err(failed("open in the copy", self.path))?);
        self.to = Some(Rc::clone(&to));
        Ok(to)
    }

    /// Removes from the copy's directory what is not among these. How many that were.
    fn without(&mut self, copy: BorrowedFd<'_>, names: &HashSet<CString>) -> Result<u64> {
        let to = self.opened(copy)?;
        let mut surplus = Vec::new();
        for found in Dir::read_from(&to).map_err(failed("read the copy of", self.path))? {
            let name = found.map_err(failed("read the copy of", self.path))?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") && !names.contains(&name) {
                surplus.push(name);
            }
        }
        for name in &surplus {
            remove::entry(to.as_fd(), name).map_err(failed("remove from the copy of", self.path))?;
        }
        Ok(surplus.len() as u64)
    }
}

/// Opens a directory below another one. No link is followed, whatever becomes of it meanwhile.
pub(super) fn below(top: &impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(top, path, DIRECTORY, Mode::empty(), resolve)
}

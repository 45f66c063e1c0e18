//! What happens to files, from inotify.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use moat_agent::protocol::Reply;
use moat_agent::protocol::frame::AgentFrame;
use moat_model::ErrorKind;
use moat_model::file::{WatchEvent, WatchKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use rustix::io::Errno;

use super::line::{Line, Stop};
use super::path::{absolute, refused};
use crate::agent::failure::Failure;

/// Directories watched at once: some megabytes of the kernel's memory.
const WATCHES_MAX: usize = 8192;
/// Things found in new directories that the kernel may tell of once more.
const FOUND_MAX: usize = 8192;
/// The second half of a rename follows the first at once, or never.
const PAIR: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Read at once: a few hundred events.
const BUFFER_LEN: usize = 16 << 10;

/// Tells what happens until the daemon hangs up or what is watched is gone.
pub fn watch(line: &mut Line, path: &str, recursive: bool) -> Result<(), Stop> {
    let path = absolute("path", path)?;
    let inotify =
        init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| refused("watch", path.display(), e))?;
    let mut watcher = Watcher {
        inotify,
        recursive,
        root: path.to_owned(),
        watched: HashMap::new(),
        found: HashSet::new(),
        leaving: None,
        told: VecDeque::new(),
    };
    watcher.add(path)?;
    watcher.scan(path, false)?;
    line.reply(&Reply::Watching)?;
    loop {
        while let Some(event) = watcher.told.pop_front() {
            line.say(&AgentFrame::Event(event))?;
        }
        if watcher.watched.is_empty() {
            return line.say(&AgentFrame::Done { bytes: 0, entries: 0 });
        }
        watcher.wait(line)?;
    }
}

/// One event as the kernel tells it.
struct Raw {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<OsString>,
}

struct Watcher {
    inotify: OwnedFd,
    recursive: bool,
    root: PathBuf,
    /// Directories (or the one file) by the kernel's numbers.
    watched: HashMap<i32, PathBuf>,
    /// Told of because they were found; the kernel may tell of them too.
    found: HashSet<PathBuf>,
    /// First half of a rename.
    leaving: Option<(u32, PathBuf)>,
    told: VecDeque<WatchEvent>,
}

impl Watcher {
    /// Waits for something, and takes it in.
    fn wait(&mut self, line: &Line) -> Result<(), Stop> {
        let mut fds = [PollFd::new(line, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        let ready = poll(&mut fds, self.leaving.as_ref().map(|_| &PAIR));
        let [daemon, kernel] = fds.map(|fd| !fd.revents().is_empty());
        match ready {
            Err(Errno::INTR) => return Ok(()),
            // It has nothing to say but its end.
            _ if daemon => return Err(Stop::HungUp),
            Ok(0) => self.left(),
            _ if kernel => {
                for raw in self.read() {
                    self.take(&raw)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&self) -> Vec<Raw> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_LEN];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut all = Vec::new();
        while let Ok(event) = reader.next() {
            all.push(Raw {
                watch: event.wd(),
                flags: event.events(),
                cookie: event.cookie(),
                name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
            });
            if reader.is_buffer_empty() {
                break;
            }
        }
        all
    }

    fn tell(&mut self, kind: WatchKind, path: &Path, to: Option<&Path>) {
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let event = WatchEvent { kind, path: shown(path), to: to.map(shown) };
        // A program that writes byte by byte says the same again and again.
        if kind != WatchKind::Written || self.told.back() != Some(&event) {
            self.told.push_back(event);
        }
    }

    /// What left did not arrive anywhere that is watched.
    fn left(&mut self) {
        if let Some((_, from)) = self.leaving.take() {
            self.forget(&from);
            self.tell(WatchKind::Renamed, &from, None);
        }
    }

    fn take(&mut self, raw: &Raw) -> Result<(), Failure> {
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            let root = self.root.clone();
            self.tell(WatchKind::Overflow, &root, None);
            // Directories may have been made that nobody told of.
            return self.scan(&root, false);
        }
        let Some(base) = self.watched.get(&raw.watch).cloned() else { return Ok(()) };
        let path = raw.name.as_ref().map_or_else(|| base.clone(), |name| base.join(name));
        let arrived = raw.flags.contains(ReadFlags::MOVED_TO);
        if !arrived || self.leaving.as_ref().is_some_and(|(cookie, _)| *cookie != raw.cookie) {
            self.left();
        }
        let directory = raw.flags.contains(ReadFlags::ISDIR);
        if raw.flags.contains(ReadFlags::IGNORED) {
            self.watched.remove(&raw.watch);
        } else if raw.flags.contains(ReadFlags::MOVED_FROM) {
            self.leaving = Some((raw.cookie, path));
        } else if arrived {
            self.arrived(&path, directory)?;
        } else if raw.flags.contains(ReadFlags::CREATE) {
            self.created(&path, directory)?;
        } else if raw.flags.contains(ReadFlags::MODIFY) {
            self.tell(WatchKind::Written, &path, None);
        } else if raw.flags.contains(ReadFlags::ATTRIB) {
            // The last link going away counts as a change of attributes too; the removal itself follows.
            if raw.name.is_some() || path.symlink_metadata().is_ok() {
                self.tell(WatchKind::Changed, &path, None);
            }
        } else if raw.flags.contains(ReadFlags::DELETE) {
            self.found.remove(&path);
            self.tell(WatchKind::Removed, &path, None);
        } else if raw.flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) && path == self.root {
            self.root_gone(raw.flags, &path);
        }
        Ok(())
    }

    fn root_gone(&mut self, flags: ReadFlags, path: &Path) {
        let kind = if flags.contains(ReadFlags::DELETE_SELF) { WatchKind::Removed } else { WatchKind::Renamed };
        self.tell(kind, path, None);
        self.watched.clear();
    }

    fn created(&mut self, path: &Path, directory: bool) -> Result<(), Failure> {
        // What was found was told of, and looked into.
        if self.found.remove(path) {
            return Ok(());
        }
        self.tell(WatchKind::Created, path, None);
        self.look_into(path, directory)
    }

    fn arrived(&mut self, path: &Path, directory: bool) -> Result<(), Failure> {
        let Some((_, from)) = self.leaving.take() else {
            return self.created(path, directory);
        };
        self.found.remove(&from);
        if directory {
            self.found.clear();
            for watched in self.watched.values_mut() {
                if let Ok(below) = watched.strip_prefix(&from) {
                    *watched = if below.as_os_str().is_empty() { path.to_owned() } else { path.join(below) };
                }
            }
        }
        self.tell(WatchKind::Renamed, &from, Some(path));
        self.look_into(path, directory)
    }

    fn look_into(&mut self, path: &Path, directory: bool) -> Result<(), Failure> {
        if directory && self.recursive {
            self.add(path).or_else(gone)?;
            self.scan(path, true)?;
        }
        Ok(())
    }

    /// What is watched below a path that left is watched no more.
    fn forget(&mut self, path: &Path) {
        let gone: Vec<i32> =
            self.watched.iter().filter(|(_, at)| at.starts_with(path)).map(|(watch, _)| *watch).collect();
        for watch in gone {
            self.watched.remove(&watch);
            let _ = remove_watch(&self.inotify, watch);
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), Failure> {
        if self.watched.len() >= WATCHES_MAX {
            let limit = format!("watch {}: {WATCHES_MAX} directories are watched, which is the limit", path.display());
            return Err(Failure::new(ErrorKind::Exhausted, limit));
        }
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK;
        let follow = if path == self.root { WatchFlags::empty() } else { WatchFlags::DONT_FOLLOW };
        let watch = add_watch(&self.inotify, path, flags | follow).map_err(|e| refused("watch", path.display(), e))?;
        self.watched.insert(watch, path.to_owned());
        Ok(())
    }

    /// Watches the directories below, and tells of everything there if it is new. A directory is watched before it is
    /// read, so what is made meanwhile is told of at least once.
    fn scan(&mut self, top: &Path, new: bool) -> Result<(), Failure> {
        if !self.recursive {
            return Ok(());
        }
        let mut waiting = VecDeque::from([top.to_owned()]);
        while let Some(directory) = waiting.pop_front() {
            // A file, or gone, or not to be looked into by this user.
            let Ok(items) = std::fs::read_dir(&directory) else { continue };
            for item in items.flatten() {
                let path = item.path();
                if new {
                    if self.found.len() >= FOUND_MAX {
                        self.found.clear();
                    }
                    self.found.insert(path.clone());
                    self.tell(WatchKind::Created, &path, None);
                }
                if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                    self.add(&path).or_else(gone)?;
                    waiting.push_back(path);
                }
            }
        }
        Ok(())
    }
}

/// What is gone, or closed to this user, is not watched.
fn gone(failure: Failure) -> Result<(), Failure> {
    match failure.kind {
        ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Conflict => Ok(()),
        _ => Err(failure),
    }
}

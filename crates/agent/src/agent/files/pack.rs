//! A directory, or a file, as a tar archive.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use moat_agent::protocol::{CONTENT_LEN_MAX, Reply};
use moat_model::ErrorKind;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, fstat, fstatfs, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::EntryType;

use super::archive::{BLOCK_LEN, Member, padding};
use super::line::{Line, Outward, Stop};
use super::path::{MODE_MAX, absolute, refused};
use crate::agent::failure::Failure;

/// Files with several names that are remembered; names of more are packed as files of their own.
const LINKED_MAX: usize = 100_000;
/// File systems that hold no files of anybody: proc, sysfs, cgroup2, cgroup, devpts.
const UNREAL: [i64; 5] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x0027_e0eb, 0x1cd1];

/// Sends everything below a path, names relative to it.
pub fn pack(line: &mut Line, path: &str) -> Result<(), Stop> {
    let path = absolute("path", path)?;
    let failed = |error: Errno| refused("read", path.display(), error);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&top).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        let what = format!("read {}: it is neither a file nor a directory", path.display());
        return Err(Failure::new(ErrorKind::Conflict, what).into());
    }
    line.reply(&Reply::Content)?;
    let mut packer = Packer::new(line, path, Keep::Files);
    if kind == FileType::Directory {
        packer.walk(top)?;
    } else {
        let name = path.file_name().unwrap_or(OsStr::new("file"));
        packer.file(top, Path::new(name))?;
    }
    packer.finish()
}

/// Sends everything in the upper directory of an overlay, as a layer: what was removed below it has a name that says so.
pub fn pack_changes(line: &mut Line, upper: BorrowedFd<'_>) -> Result<(), Stop> {
    let root = Path::new("/");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(upper, ".", flags, Mode::empty()).map_err(|e| refused("read", root.display(), e))?;
    line.reply(&Reply::Content)?;
    let mut packer = Packer::new(line, root, Keep::Changes);
    packer.walk(top)?;
    packer.finish()
}

/// What is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Files as a program sees them.
    Files,
    /// The upper directory of an overlay, with its marks.
    Changes,
}

/// Begins the name of what was removed.
const REMOVED: &str = ".wh.";
/// In a directory of which nothing below is to be seen.
const OPAQUE: &str = ".wh..wh..opq";
/// How an overlay says the latter.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    // Anything else does not fit or is not there.
    fgetxattr(directory, OPAQUE_ATTRIBUTE, &mut value[..]) == Ok(1) && value == *b"y"
}

struct Packer<'a> {
    keep: Keep,
    out: Outward<'a>,
    /// First names of files that have several, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
    entries: u64,
    /// For people.
    root: &'a Path,
}

impl<'a> Packer<'a> {
    fn new(line: &'a mut Line, root: &'a Path, keep: Keep) -> Self {
        Self { keep, out: Outward::new(line), linked: HashMap::new(), entries: 0, root }
    }

    fn finish(self) -> Result<(), Stop> {
        let Self { mut out, entries, .. } = self;
        out.put(&[0; 2 * BLOCK_LEN])?;
        out.finish(entries)
    }

    /// Depth first, with one descriptor for each level and nothing else kept.
    fn walk(&mut self, top: OwnedFd) -> Result<(), Stop> {
        let mut levels = vec![(self.open(&top, Path::new(""))?, top, PathBuf::new())];
        while let Some((listing, directory, prefix)) = levels.last_mut() {
            let Some(item) = listing.read() else {
                levels.pop();
                continue;
            };
            let item = item.map_err(|e| self.failed(prefix, e))?;
            let name = OsStr::from_bytes(item.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = prefix.join(name);
            if let Some(below) = self.add(directory.as_fd(), name, &path)? {
                levels.push((self.open(&below, &path)?, below, path));
            }
        }
        Ok(())
    }

    fn open(&self, directory: &OwnedFd, path: &Path) -> Result<Dir, Failure> {
        Dir::read_from(directory).map_err(|e| self.failed(path, e))
    }

    fn failed(&self, path: &Path, error: impl Into<io::Error>) -> Failure {
        refused("read", self.root.join(path).display(), error)
    }

    /// Adds one thing; returns a directory that is to be walked.
    fn add(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<Option<OwnedFd>, Stop> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Gone since it was named.
            Err(Errno::NOENT) => return Ok(None),
            result => result.map_err(|e| self.failed(path, e))?,
        };
        if self.keep == Keep::Changes && self.is_mark(name, &stat, path)? {
            return Ok(None);
        }
        let open = |flags| openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| self.failed(path, e))?;
                let mut member = member(EntryType::Directory, &stat, path);
                member.name.push(b'/');
                self.begin(&member)?;
                if self.keep == Keep::Changes && is_opaque(&below) {
                    self.mark(&path.join(OPAQUE), &stat)?;
                }
                let real = fstatfs(&below).is_ok_and(|fs| !UNREAL.contains(&fs.f_type));
                Ok(real.then_some(below))
            }
            FileType::Symlink => {
                let link = readlinkat(parent, name, Vec::new()).map_err(|e| self.failed(path, e))?;
                let member = Member { link: link.into_bytes(), ..member(EntryType::Symlink, &stat, path) };
                self.begin(&member)?;
                Ok(None)
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY | OFlags::NONBLOCK).map_err(|e| self.failed(path, e))?;
                self.file(file, path)?;
                Ok(None)
            }
            // Devices, pipes and sockets mean nothing elsewhere.
            _ => Ok(None),
        }
    }

    /// Packs a device 0/0 as what it stands for. A file that would be taken for such a mark cannot be kept.
    fn is_mark(&mut self, name: &OsStr, stat: &Stat, path: &Path) -> Result<bool, Stop> {
        if name.as_bytes().starts_with(REMOVED.as_bytes()) {
            let what = format!(
                "{}: a layer cannot hold a file whose name begins with {REMOVED}",
                self.root.join(path).display()
            );
            return Err(Failure::new(ErrorKind::Conflict, what).into());
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != 0 {
            return Ok(false);
        }
        let mut marked = OsStr::new(REMOVED).to_owned();
        marked.push(name);
        self.mark(&path.with_file_name(marked), stat)?;
        Ok(true)
    }

    /// An empty file with a name that says something.
    fn mark(&mut self, path: &Path, stat: &Stat) -> Result<(), Stop> {
        let member = Member { size: 0, mode: 0, ..member(EntryType::Regular, stat, path) };
        self.begin(&member)
    }

    fn begin(&mut self, member: &Member) -> Result<(), Stop> {
        self.entries += 1;
        self.out.put(&member.to_blocks())
    }

    fn file(&mut self, file: OwnedFd, path: &Path) -> Result<(), Stop> {
        let stat = fstat(&file).map_err(|e| self.failed(path, e))?;
        if stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&identity) {
                let link = first.as_os_str().as_bytes().to_vec();
                return self.begin(&Member { link, size: 0, ..member(EntryType::Link, &stat, path) });
            }
            if self.linked.len() < LINKED_MAX {
                self.linked.insert(identity, path.to_owned());
            }
        }
        let member = member(EntryType::Regular, &stat, path);
        self.begin(&member)?;
        self.content(File::from(file), path, member.size)
    }

    /// Exactly as much as was announced; a file that shrank meanwhile would be a lie.
    fn content(&mut self, file: File, path: &Path, size: u64) -> Result<(), Stop> {
        let mut left = size;
        let mut file = file.take(size);
        let mut buffer = vec![0; CONTENT_LEN_MAX.min(usize::try_from(size).unwrap_or(CONTENT_LEN_MAX)).max(1)];
        while left > 0 {
            match file.read(&mut buffer) {
                Ok(0) => {
                    let what = format!("read {}: it became shorter meanwhile", self.root.join(path).display());
                    return Err(Failure::new(ErrorKind::Conflict, what).into());
                }
                Ok(n) => {
                    self.out.put(buffer.get(..n).unwrap_or_default())?;
                    left -= n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(path, error).into()),
            }
        }
        self.out.put([0; BLOCK_LEN].get(..padding(size)).unwrap_or_default())
    }
}

fn member(kind: EntryType, stat: &Stat, path: &Path) -> Member {
    Member {
        kind,
        name: path.as_os_str().as_bytes().to_vec(),
        link: Vec::new(),
        size: if kind == EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mode: stat.st_mode & MODE_MAX,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        modified: stat.st_mtime,
    }
}

//! A directory that is filled with entries whose names come from outside: nothing leaves it, nothing is followed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Failure;
use crate::config::Limits;
use crate::error::FetchErrorKind;

/// Longest name of an entry, and most directories in it.
const PATH_MAX: usize = 4096;
const DEPTH_MAX: usize = 128;

/// Longest target of a link.
const TARGET_MAX: u64 = 4096;

/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

/// A directory being filled.
pub(super) struct Tree<'a> {
    root: OwnedFd,
    limits: &'a Limits,
    entries: u64,
}

/// Bytes that may still be written.
pub(super) struct Budget<'a> {
    limits: &'a Limits,
    /// Bytes the archive has.
    packed: u64,
    spent: u64,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a Limits, packed: u64) -> Self {
        Self { limits, packed, spent: 0 }
    }

    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), Failure> {
        self.spent = self.spent.saturating_add(bytes);
        let Limits { unpacked_size, ratio_from, unpacked_ratio, .. } = self.limits;
        if self.spent > *unpacked_size {
            let detail = format!("unpacked it has more than {unpacked_size} bytes (decompression_size_limit)");
            return Err(Failure::new(FetchErrorKind::Size, detail));
        }
        if self.spent > *ratio_from && self.spent / unpacked_ratio > self.packed {
            let detail = format!("{} bytes are unpacked to more than {} each", self.packed, unpacked_ratio);
            return Err(Failure::new(FetchErrorKind::Ratio, detail));
        }
        Ok(())
    }

    /// Copies to the end, or to the limit.
    pub(super) fn copy(&mut self, from: &mut dyn Read, to: &mut File) -> Result<(), Failure> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let got = from.read(&mut chunk).map_err(|e| broken(&e))?;
            let Some(bytes) = chunk.get(..got).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            // Before it is written: not a byte more than allowed reaches the disk.
            self.spend(bytes.len() as u64)?;
            to.write_all(bytes).map_err(|e| Failure::node("write what is unpacked", e))?;
        }
    }
}

/// It is not the archive its name says.
pub(super) fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FetchErrorKind::Archive, format!("it cannot be unpacked: {error}"))
}

impl<'a> Tree<'a> {
    /// Makes the directory `name` in `parent`.
    pub(super) fn create(parent: impl AsFd, name: &str, limits: &'a Limits) -> Result<Self, Failure> {
        let node = |e: Errno| Failure::node("make a directory", e);
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).map_err(node)?;
        let root = rustix::fs::openat(&parent, name, directory_flags(), Mode::empty()).map_err(node)?;
        Ok(Self { root, limits, entries: 0 })
    }

    /// A directory.
    pub(super) fn directory(&mut self, name: &[u8], mode: u32) -> Result<(), Failure> {
        self.count()?;
        let parts = parts(name)?;
        let Some((last, before)) = parts.split_last() else { return Ok(()) };
        let parent = self.parent(before, name)?;
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o700);
        match rustix::fs::mkdirat(&parent, *last, mode) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.step(&parent, last, name).map(drop),
            Err(error) => Err(Failure::node("make a directory", error)),
        }
    }

    /// A file, empty. What an entry before it left under its name is gone.
    pub(super) fn file(&mut self, name: &[u8], mode: u32) -> Result<File, Failure> {
        let (parent, last) = self.place(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Neither set-user-id nor the like, and its owner can always read and write it.
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o600);
        let file = rustix::fs::openat(&parent, last, flags, mode).map_err(|e| Failure::node("make a file", e))?;
        Ok(File::from(file))
    }

    /// A symbolic link. Where all of them lead together is looked at by the parent; here, that this one alone stays inside.
    pub(super) fn symlink(&mut self, name: &[u8], target: &[u8]) -> Result<(), Failure> {
        let depth = parts(name)?.len().saturating_sub(1);
        if target.is_empty() || target.len() as u64 > TARGET_MAX || !stays(depth, target) {
            let detail = format!("the link {} leads out, to {}", shown(name), shown(target));
            return Err(Failure::new(FetchErrorKind::LinkOutside, detail));
        }
        let (parent, last) = self.place(name)?;
        rustix::fs::symlinkat(target, &parent, last).map_err(|e| Failure::node("make a link", e))
    }

    /// Another name for a file of the same archive.
    pub(super) fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Failure> {
        let outside = |_| {
            let detail = format!("the hard link {} leads out, to {}", shown(name), shown(target));
            Failure::new(FetchErrorKind::LinkOutside, detail)
        };
        let target_parts = parts(target).map_err(outside)?;
        let Some((target_last, before)) = target_parts.split_last() else { return Err(outside(no_name(target))) };
        let from = self.parent(before, target).map_err(outside)?;
        let (parent, last) = self.place(name)?;
        match rustix::fs::linkat(&from, *target_last, &parent, last, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT | Errno::PERM) => Err(broken(&format!(
                "the hard link {} is to {}, which is no file before it",
                shown(name),
                shown(target)
            ))),
            Err(error) => Err(Failure::node("make a hard link", error)),
        }
    }

    /// Parent and last part of a new entry's name, which nothing has.
    fn place<'n>(&mut self, name: &'n [u8]) -> Result<(OwnedFd, &'n [u8]), Failure> {
        self.count()?;
        let parts = parts(name)?;
        let (last, before) = parts.split_last().ok_or_else(|| no_name(name))?;
        let parent = self.parent(before, name)?;
        match rustix::fs::unlinkat(&parent, *last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((parent, last)),
            Err(Errno::ISDIR) => Err(broken(&format!("{} is a file and a directory", shown(name)))),
            Err(error) => Err(Failure::node("replace an entry", error)),
        }
    }

    /// Opens the directory of `parts`, making what is missing.
    fn parent(&mut self, parts: &[&[u8]], name: &[u8]) -> Result<OwnedFd, Failure> {
        let mut at =
            rustix::io::fcntl_dupfd_cloexec(&self.root, 3).map_err(|e| Failure::node("hold a directory", e))?;
        for part in parts {
            match rustix::fs::mkdirat(&at, *part, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.count()?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::node("make a directory", error)),
            }
            at = self.step(&at, part, name)?;
        }
        Ok(at)
    }

    /// Opens one directory in another, never through a link.
    fn step(&self, at: &OwnedFd, part: &[u8], name: &[u8]) -> Result<OwnedFd, Failure> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // Not also `NOFOLLOW`: a link would be told apart from a file no more.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(at, part, flags, Mode::empty(), resolve).map_err(|error| match error {
            Errno::LOOP => {
                let detail = format!("{} goes through a link of the same archive", shown(name));
                Failure::new(FetchErrorKind::EntryOutside, detail)
            }
            Errno::NOTDIR => broken(&format!("{} is below a file", shown(name))),
            error => Failure::node("open a directory", error),
        })
    }

    /// Each entry counts, directories that were only implied too.
    fn count(&mut self) -> Result<(), Failure> {
        self.entries += 1;
        if self.entries > self.limits.file_count {
            let most = self.limits.file_count;
            let detail = format!("it has more than {most} files (decompression_file_count_limit)");
            return Err(Failure::new(FetchErrorKind::Count, detail));
        }
        Ok(())
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// A name's parts; refused if it is absolute or goes up.
pub(super) fn parts(name: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let outside = |why: &str| {
        Failure::new(FetchErrorKind::EntryOutside, format!("the entry {} {why}: it is refused", shown(name)))
    };
    if name.starts_with(b"/") {
        return Err(outside("has an absolute name"));
    }
    if name.contains(&0) || name.len() > PATH_MAX {
        return Err(outside("has no name a file can have"));
    }
    let parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(outside("leads out of the archive"));
    }
    if parts.len() > DEPTH_MAX || parts.iter().any(|part| part.len() > 255) {
        return Err(outside("has no name a file can have"));
    }
    Ok(parts)
}

fn no_name(name: &[u8]) -> Failure {
    Failure::new(FetchErrorKind::EntryOutside, format!("the entry {} has no name", shown(name)))
}

/// Whether a link's target, seen from `depth` directories below the root, stays below it by its text.
pub(crate) fn stays(depth: usize, target: &[u8]) -> bool {
    if target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let mut depth = depth;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(up) => depth = up,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

/// A name for a message: no control characters, not endless.
pub(crate) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(120).flat_map(char::escape_default).collect();
    if text.chars().nth(120).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "a\0b"] {
            assert_eq!(parts(name.as_bytes()).unwrap_err().kind, FetchErrorKind::EntryOutside, "{name:?}");
        }
        assert_eq!(parts(b"./a//b/.").unwrap(), [b"a", b"b"]);
        assert!(parts("x/".repeat(200).as_bytes()).is_err());
        assert!(parts("x".repeat(256).as_bytes()).is_err());
    }

    #[test]
    fn links_stay_inside_by_their_text() {
        assert!(stays(1, b"../x"));
        assert!(stays(0, b"x/../y"));
        for (depth, target) in [(0, "../x"), (1, "../../x"), (5, "/etc/passwd"), (0, "x/../../y")] {
            assert!(!stays(depth, target.as_bytes()), "{target}");
        }
    }

    #[test]
    fn a_tree_never_follows_what_it_holds() {
        let temp = tempfile::tempdir().unwrap();
        let outer = File::open(temp.path()).unwrap();
        let limits = Limits::default();
        let mut tree = Tree::create(&outer, "tree", &limits).unwrap();
        // A link that was there before: as if an earlier entry had got past the text's check.
        std::os::unix::fs::symlink("..", temp.path().join("tree/up")).unwrap();
        assert_eq!(tree.file(b"up/x", 0o644).unwrap_err().kind, FetchErrorKind::EntryOutside);
        assert_eq!(tree.directory(b"up", 0o755).unwrap_err().kind, FetchErrorKind::EntryOutside);
        assert_eq!(tree.hard_link(b"y", b"up/z").unwrap_err().kind, FetchErrorKind::LinkOutside);
        // A file of the same name takes the link's place, and nothing happens where it led.
        tree.file(b"up", 0o4755).unwrap().write_all(b"mine").unwrap();
        assert_eq!(std::fs::read(temp.path().join("tree/up")).unwrap(), b"mine");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(temp.path().join("tree/up")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0);
    }
}

//! One output stream of one workload on disk. Blocking: called from threads that may wait for a disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use moat_model::SandboxId;

use super::index::Index;
use super::rotation::Rotation;

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the sandbox's output that are now safe.
    pub written: u64,
    /// Where the stream ends now.
    pub end: u64,
    /// The rest needs the room of a file whose content is protected.
    pub blocked: bool,
}

/// A stream's files. See the module for the invariant.
#[derive(Debug)]
pub struct StreamLog {
    dir: PathBuf,
    prefix: String,
    rotation: Rotation,
    index: Index,
    end: u64,
    current: Option<File>,
    full: bool,
}

impl StreamLog {
    /// Opens the files `<prefix>.N` in `dir`, as they were left.
    pub fn open(dir: &Path, prefix: &str, rotation: Rotation) -> io::Result<Self> {
        let found = find_files(dir, prefix)?;
        let index = match Index::load(&Index::path(dir, prefix))? {
            Some(index) => index,
            None => rebuild(&found),
        };
        for (number, _) in found.iter().filter(|(number, _)| !index.files.contains_key(number)) {
            std::fs::remove_file(dir.join(format!("{prefix}.{number}")))?;
        }
        let mut log =
            Self { dir: dir.to_owned(), prefix: prefix.to_owned(), rotation, index, end: 0, current: None, full: true };
        log.observe()?;
        Ok(log)
    }

    /// Where the stream ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte still kept.
    pub fn begin(&self) -> u64 {
        self.index.files.first_key_value().map_or(self.end, |(_, base)| *base)
    }

    /// Bytes of a sandbox's output that are safe.
    pub fn written(&self, sandbox: &SandboxId) -> u64 {
        self.index.written(sandbox, self.end)
    }

    /// Appends what is new of `bytes`, which begin at `offset` of the sandbox's output. Files holding anything at or
    /// after `protect` are not deleted for it. On an error everything up to [`Self::written`] is safe.
    pub fn append(
        &mut self,
        sandbox: &SandboxId,
        offset: u64,
        bytes: &[u8],
        protect: Option<u64>,
    ) -> io::Result<Progress> {
        let safe = self.written(sandbox);
        if offset > safe {
            let text = format!("output of {sandbox} continues at {offset}, but only {safe} bytes of it were received");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let known = usize::try_from(safe - offset).unwrap_or(usize::MAX);
        let mut rest = bytes.get(known..).unwrap_or_default();
        if !rest.is_empty() {
            self.become_writer(sandbox)?;
        }
        let mut blocked = false;
        while !rest.is_empty() {
            if self.full && !self.next_file(protect)? {
                blocked = true;
                break;
            }
            let taken = match self.write_some(rest) {
                Ok(taken) => taken,
                Err(error) => {
                    // Whatever the file has now is what is safe.
                    self.current = None;
                    self.observe()?;
                    return Err(error);
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(Progress { written: self.written(sandbox), end: self.end, blocked })
    }

    /// Which file holds `position`: its path, where `position` lies in it, and how many bytes follow in it. Moves on to
    /// the oldest kept byte if `position` is older. `None` at the end.
    pub fn locate(&self, position: u64) -> Option<Place> {
        let mut files = self.index.files.iter().peekable();
        while let Some((number, base)) = files.next() {
            let until = files.peek().map_or(self.end, |(_, next)| **next);
            if position < until {
                let at = position.max(*base);
                return Some(Place { number: *number, at, offset: at - base, available: until - at });
            }
        }
        None
    }

    /// Path of a file by number.
    pub fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{}.{number}", self.prefix))
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.begin())
    }

    fn become_writer(&mut self, sandbox: &SandboxId) -> io::Result<()> {
        if self.index.writer.as_ref().is_some_and(|writer| writer.sandbox == *sandbox) {
            return Ok(());
        }
        let next = self.index.with_writer(sandbox, self.end);
        self.adopt(next)
    }

    fn adopt(&mut self, next: Index) -> io::Result<()> {
        next.store(&Index::path(&self.dir, &self.prefix))?;
        self.index = next;
        Ok(())
    }

    /// Begins a new file, deleting the oldest ones above the bound; `false` if one of those is protected.
    fn next_file(&mut self, protect: Option<u64>) -> io::Result<bool> {
        let mut next = self.index.clone();
        let mut doomed = Vec::new();
        while next.files.len() >= self.rotation.files_max as usize {
            let Some((number, _)) = next.files.pop_first() else { break };
            let until = next.files.first_key_value().map_or(self.end, |(_, base)| *base);
            if protect.is_some_and(|protect| until > protect) {
                return Ok(false);
            }
            doomed.push(number);
        }
        let number = self.index.files.last_key_value().map_or(0, |(number, _)| number + 1);
        next.files.insert(number, self.end);
        self.adopt(next)?;
        for old in doomed {
            match std::fs::remove_file(self.path(old)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %self.path(old).display(), %error, "an old log file stays until the next start");
                }
                _ => {}
            }
        }
        self.current = None;
        self.full = false;
        Ok(true)
    }

    /// One write into the current file. The length is what the kernel took, whatever happens after.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some((number, base)) = self.index.files.last_key_value().map(|(n, b)| (*n, *b)) else {
            return Err(io::Error::other("the index names no file"));
        };
        let path = self.path(number);
        let file = match &mut self.current {
            Some(file) => file,
            none => none.insert(open_file(&path)?),
        };
        let len = self.end - base;
        let cut = self.rotation.cut(len, bytes);
        let taken = file.write(bytes.get(..cut.take).unwrap_or(bytes))?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.end += taken as u64;
        let last = taken.checked_sub(1).and_then(|at| bytes.get(at)).copied();
        self.full = if taken == cut.take { cut.full } else { self.rotation.is_full(len + taken as u64, last) };
        Ok(taken)
    }

    /// Learns from the last file how far the stream came.
    fn observe(&mut self) -> io::Result<()> {
        let Some((number, base)) = self.index.files.last_key_value().map(|(n, b)| (*n, *b)) else {
            self.end = 0;
            self.full = true;
            return Ok(());
        };
        let file = match File::open(self.path(number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.end = base;
                self.full = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        let mut last = [0u8; 1];
        let last = if len > 0 && file.read_at(&mut last, len - 1)? == 1 { last.first().copied() } else { None };
        self.end = base + len;
        self.full = self.rotation.is_full(len, last);
        Ok(())
    }
}

/// Where a position lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the file.
    pub number: u64,
    /// The position, or the oldest kept one.
    pub at: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes that follow in this file.
    pub available: u64,
}

/// Readable by the sandbox, which sees the directory read-only; writable by nobody but us.
fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    // Whatever the daemon's umask.
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

fn find_files(dir: &Path, prefix: &str) -> io::Result<BTreeMap<u64, u64>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let number =
            entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.')?.parse().ok());
        if let Some(number) = number {
            found.insert(number, entry.metadata()?.len());
        }
    }
    Ok(found)
}

/// An index for files that lost theirs: positions count from the oldest that is left.
fn rebuild(found: &BTreeMap<u64, u64>) -> Index {
    let mut end = 0;
    let mut index = Index::default();
    for (number, len) in found {
        index.files.insert(*number, end);
        end += len;
    }
    index
}

//! Trees of files that outlive their sandboxes: copied, packed, unpacked and removed.
//!
//! What lies in such a tree was written by whoever was in the sandbox: names, links, and attributes as hostile as can be, and
//! they may change while they are read. Nothing is followed out of a tree, and no depth, length or number in it costs more than
//! is said here. Everything is done as the host's root, on directories that root alone can reach, and blocks: callers use a
//! thread for it.
//!
//! | file | holds |
//! |---|---|
//! | `copier` | a tree as another tree, in passes: all of it, then what changed since |
//! | `entry`, `content`, `attributes` | one thing of it: what is made, its bytes, whose it is |
//! | `patch` | the bytes of a file that an earlier pass copied, and that was written to since |
//! | `flatten` | layers and what lies over them as one tree |
//! | `export`, `import`, `archive` | a tree as a tar stream, and back |
//! | `remove` | a tree, however deep |

mod archive;
mod attributes;
mod content;
mod copier;
mod entry;
mod export;
mod flatten;
mod import;
mod patch;
mod remove;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use copier::{Copier, Pass};
pub use export::export;
pub use flatten::{Part, flatten};
pub use import::{ImportLimits, import};
pub use remove::remove;

/// Ids of a sandbox, and of a block on the host.
pub const IDS: u32 = 1 << 16;

/// Most things in one tree: what is noted of each takes about 50 bytes of memory.
const ENTRIES_MAX: u64 = 4_000_000;

/// Longest path below the top, which is what the kernel opens in one step.
const PATH_LEN_MAX: usize = 4095;

/// Whose the files of a tree are, and whose those of its copy: first ids of blocks of [`IDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// In the tree; 0 in a layer, whose ids are those inside.
    pub from: u32,
    /// In the copy.
    pub to: u32,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Files, directories, links and everything else that was made.
    pub files: u64,
    /// Bytes read and written.
    pub bytes_copied: u64,
    /// Bytes that two files share now, which took no time and no room.
    pub bytes_cloned: u64,
    /// What was found as an earlier pass left it.
    pub unchanged: u64,
    /// What went because it is not in the tree any more.
    pub removed: u64,
    /// Sockets and devices that an archive cannot carry, or may not bring.
    pub dropped: u64,
}

impl Stats {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes_copied: self.bytes_copied + other.bytes_copied,
            bytes_cloned: self.bytes_cloned + other.bytes_cloned,
            unchanged: self.unchanged + other.unchanged,
            removed: self.removed + other.removed,
            dropped: self.dropped + other.dropped,
        }
    }
}

/// Fails if it was called off. What was made so far is the caller's to [`remove`].
fn go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::new(ErrorKind::Conflict, "the copy was called off"));
    }
    Ok(())
}

/// The kernel said no.
fn failed(doing: &str, path: &Path) -> impl Fn(Errno) -> Error {
    let what = format!("{doing} {}", path.display());
    move |errno| {
        let kind = match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::NFILE | Errno::MFILE | Errno::NOMEM => ErrorKind::Exhausted,
            Errno::NOENT | Errno::STALE => ErrorKind::Conflict,
            Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG => ErrorKind::InvalidSpec,
            _ => ErrorKind::Internal,
        };
        Error::caused_by(kind, what.clone(), io::Error::from(errno))
    }
}

/// Something about what lies at `path` is not as it may be.
fn refused(path: &Path, why: impl Display) -> Error {
    Error::new(ErrorKind::InvalidSpec, format!("{}: {why}", path.display()))
}

/// A name of a directory at `parent`, as a path below the top.
fn joined(parent: &Path, name: &std::ffi::OsStr) -> Result<PathBuf> {
    let path = parent.join(name);
    if path.as_os_str().len() > PATH_LEN_MAX {
        return Err(refused(&path, format_args!("its path is longer than {PATH_LEN_MAX} bytes")));
    }
    Ok(path)
}

/// Counts one more thing.
fn count(entries: &mut u64, most: u64) -> Result<()> {
    *entries += 1;
    if *entries > most {
        return Err(Error::new(ErrorKind::Exhausted, format!("more than {most} files are too many for one tree")));
    }
    Ok(())
}

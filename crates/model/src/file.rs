//! Files inside a sandbox, as asked for and as told. Paths are absolute inside; everything happens in the sandbox's own
//! mount namespace, by one of its users.

use serde::{Deserialize, Serialize};

/// Longest path, as the kernel's.
pub const PATH_LEN_MAX: usize = 4096;
/// Most entries one list returns; more is told by `truncated`.
pub const LIST_ENTRIES_MAX: usize = 10_000;

/// What can be asked about files with one question and one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op", deny_unknown_fields)]
pub enum FileRequest {
    /// What is there. The last component is not followed if it is a link; what it leads to is told beside it.
    Stat {
        /// Which.
        path: String,
    },
    /// What a directory holds, by name.
    List {
        /// Which.
        path: String,
        /// How deep; 1 is the directory itself.
        depth: u32,
    },
    /// Makes a directory and its parents. One that is there already is not an error.
    MakeDir {
        /// Which.
        path: String,
        /// Permissions of the last one; 0755 if absent.
        mode: Option<u32>,
    },
    /// Renames, replacing a file that is there.
    Move {
        /// From.
        from: String,
        /// To.
        to: String,
    },
    /// Removes a file, or a directory with everything in it.
    Remove {
        /// Which.
        path: String,
        /// A directory that is not empty is refused without this.
        recursive: bool,
    },
    /// Sets permissions.
    SetMode {
        /// Which.
        path: String,
        /// Permission bits.
        mode: u32,
    },
}

/// The answer to a [`FileRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "file")]
pub enum FileReply {
    /// To `stat`, `make_dir`, `move`, `set_mode`: the thing as it is now.
    Entry(FileEntry),
    /// To `list`.
    Entries {
        /// Ordered by path.
        entries: Vec<FileEntry>,
        /// There were more than [`LIST_ENTRIES_MAX`].
        truncated: bool,
    },
    /// To `remove`.
    Removed,
}

/// Something in a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute path inside.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes, for a file.
    pub size: u64,
    /// Permission bits, 0 to 07777.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Last change of its content, milliseconds since 1970.
    pub modified_ms: i64,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// What a [`FileEntry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Other,
}

/// What moves bytes out of or into a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "transfer", deny_unknown_fields)]
pub enum Transfer {
    /// The bytes of one file, from an offset, at most so many.
    Read {
        /// Which; links are followed inside the sandbox.
        path: String,
        /// First byte.
        offset: u64,
        /// Most bytes; absent: to its end.
        length: Option<u64>,
    },
    /// Replaces the bytes of one file; parents are made. The file appears whole or not at all: written beside it, renamed.
    Write {
        /// Which.
        path: String,
        /// Permissions of a new file; 0644 if absent, and an old file keeps its own.
        mode: Option<u32>,
    },
    /// A tar archive (POSIX pax) of a file or a directory, names relative to it.
    TarOut {
        /// Which.
        path: String,
    },
    /// Unpacks a tar archive below a directory, which is made if missing. Never outside it, whatever the archive says.
    TarIn {
        /// Where.
        path: String,
    },
}

/// Something happened to a file that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// What.
    pub kind: WatchKind,
    /// Absolute path inside.
    pub path: String,
    /// For `renamed`: the new path, if it is still watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchKind {
    /// It is new.
    Created,
    /// Its content changed.
    Written,
    /// Its permissions or owner changed.
    Changed,
    /// It is gone.
    Removed,
    /// It has another name.
    Renamed,
    /// The kernel had more to tell than was read: look again at everything.
    Overflow,
}

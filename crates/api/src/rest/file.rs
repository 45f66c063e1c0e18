//! Files in a sandbox. Bytes and tar archives travel as bodies, not as JSON.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something in the sandbox's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct File {
    /// Last component of the path.
    pub name: String,
    /// Absolute path inside.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Permissions as four octal digits, `0644`.
    pub mode: String,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Last change of its content.
    pub modified_at: String,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
}

/// What a directory holds, by path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// The list.
    pub entries: Vec<File>,
    /// There were more.
    pub truncated: bool,
}

/// Which file, by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    /// Absolute path inside.
    pub path: String,
    /// User it is done as; absent: the sandbox's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// For a list: how deep, 1 to 64; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// For a removal: directories with everything in them. For a watch: everything below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
    /// For an upload: permissions of a new file, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// For a download: first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// For a download: most bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Makes a directory and its parents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// Absolute path inside.
    pub path: String,
    /// Permissions, octal; 0755 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// User it is done as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Renames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    /// From.
    pub from: String,
    /// To.
    pub to: String,
    /// User it is done as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What an upload came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uploaded {
    /// Bytes of content.
    pub bytes: u64,
    /// Files, directories and links made.
    pub entries: u64,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEvent {
    /// `created`, `written`, `changed`, `removed`, `renamed`, `overflow`, or `keepalive`.
    pub event: String,
    /// Absolute path inside.
    pub path: String,
    /// For `renamed`: its new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

//! What is put into a task's directory before it starts: what is fetched, and what is rendered.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Text;

/// Bytes to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactSpec {
    /// go-getter's addresses: `http(s)://`, `git::…`, `s3::…`, with `//dir` and options; ours: `nats://bucket/key`, `oci://…`.
    pub source: Text,
    /// Where it goes, relative to the task's directory; must not leave the allocation.
    pub destination: Text,
    /// What it is made into.
    pub mode: ArtifactMode,
    /// `checksum`, `archive`, `ref`, `depth`, `sshkey`, `region`, `aws_access_key_id`, ….
    #[serde(default)]
    pub options: BTreeMap<String, Text>,
    /// Sent along over HTTP.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// No certificate is verified.
    #[serde(default)]
    pub insecure: bool,
    /// It belongs to the task's user.
    #[serde(default)]
    pub chown: bool,
}

/// What an artifact is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactMode {
    /// Unpacked if it is an archive.
    Any,
    /// One file, never unpacked.
    File,
    /// A directory.
    Dir,
}

/// A file that is rendered on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateSpec {
    /// The text itself, or …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// … a file in the task's directory that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Text>,
    /// Where it goes, relative to the task's directory; must not leave the allocation.
    pub destination: Text,
    /// What happens when it comes out differently later.
    pub change_mode: ChangeMode,
    /// Longest wait before that, by chance, so that not all instances do it at once.
    pub splay: Duration,
    /// Mode of the file, octal.
    pub perms: u32,
    /// Its owner inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// `{{` unless said otherwise.
    pub left_delimiter: String,
    /// `}}` unless said otherwise.
    pub right_delimiter: String,
    /// Its lines `KEY=value` become the task's environment.
    #[serde(default)]
    pub env: bool,
    /// A key that is missing is an error, not an empty text.
    #[serde(default)]
    pub error_on_missing_key: bool,
    /// Rendered once and never again.
    #[serde(default)]
    pub once: bool,
}

/// What a changed template does to its task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum ChangeMode {
    /// Nothing.
    Noop,
    /// Starts it again.
    Restart,
    /// Sends it a signal.
    Signal {
        /// Which.
        signal: crate::spec::Signal,
    },
    /// Runs a program inside it.
    Script {
        /// Program.
        command: Text,
        /// Arguments.
        args: Vec<Text>,
        /// How long it may take.
        timeout: Duration,
        /// The task fails if it fails.
        fail_on_error: bool,
    },
}

//! What a template becomes before anything of it is applied: steps in the file's order, each with its place.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JailLimit, JailMount, Redirect, Tag, TemplateName};

/// One step, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// File it stands in: `project/template/Bastillefile`.
    pub origin: String,
    /// Line it begins at, from 1.
    pub line: usize,
    /// The line as it reads with values filled in, joined with its continuations.
    pub text: String,
    /// What is done.
    pub action: Action,
}

/// What a step does to a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb", deny_unknown_fields)]
pub enum Action {
    /// `sh -c SCRIPT` as root in the jail.
    Cmd {
        /// The rest of the line; variables nobody declared are the inner shell's.
        script: String,
    },
    /// Copies into the jail as `cp -a` does, merging directories; directories above the target are made.
    Copy {
        /// Where from.
        source: CopySource,
        /// What is in the source, a directory, is copied, not the directory itself: it was written with a slash behind it.
        contents: bool,
        /// Absolute path inside. If a directory is there, the source goes into it under its own name.
        target: PathBuf,
        /// The target was written as a directory (with a slash behind it): it is made one if it is not there.
        into: bool,
    },
    /// A line in a file that is added unless it is there.
    LineInFile {
        /// The whole line.
        line: String,
        /// Absolute path inside.
        path: PathBuf,
    },
    /// Fills in every known `${NAME}` of a file, or of every file below a directory.
    Render {
        /// Absolute path inside.
        path: PathBuf,
        /// Names and values known at this line.
        values: Vec<(String, String)>,
    },
    /// Installs packages with what the root has.
    Pkg {
        /// Their names.
        packages: Vec<String>,
    },
    /// Sets persistent variables of rc.
    Sysrc {
        /// As `sysrc` takes them.
        args: Vec<String>,
    },
    /// Does something to a service.
    Service {
        /// Its name.
        name: String,
        /// `start`, `stop`, ….
        action: String,
    },
    /// Shows something inside.
    Mount(JailMount),
    /// Takes away what is shown there, if anything is.
    Unmount {
        /// Absolute path inside.
        target: PathBuf,
    },
    /// Bounds a resource.
    Limit(JailLimit),
    /// Takes a bound away, or all of them.
    Unlimit {
        /// Which; none: all.
        resource: Option<String>,
    },
    /// Leads a port of the host to it. One that is there already stays as it is.
    Redirect(Redirect),
    /// Takes all redirects away.
    Unredirect,
    /// Sets a property, or takes it away.
    Config {
        /// Which; [`property`](super::property::setting) knows what it means.
        property: String,
        /// To what; none: taken away.
        value: Option<String>,
    },
    /// Labels it.
    Tags {
        /// With these.
        tags: BTreeSet<Tag>,
    },
    /// Takes labels away.
    Untag {
        /// These.
        tags: BTreeSet<Tag>,
    },
    /// Has services started again when they are found down.
    Watch {
        /// Their names.
        services: BTreeSet<String>,
    },
    /// No longer does so.
    Unwatch {
        /// Their names.
        services: BTreeSet<String>,
    },
    /// Stops and starts it.
    Restart,
    /// Starts it if it is down.
    Start,
    /// Stops it if it is up.
    Stop,
}

/// Where a copy comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopySource {
    /// A path of a template's own files; it stays below them.
    Template {
        /// Whose files.
        template: TemplateName,
        /// Relative, without `..`.
        path: PathBuf,
    },
    /// A path of the host, which the operator must allow.
    Host(PathBuf),
}

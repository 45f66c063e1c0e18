//! Control groups: what bounds a sandbox, finds all of its processes, stops them and ends them.
//!
//! Three kinds of host are served by the same calls: version 2 alone, version 1 alone, and both side by side (version 1
//! with the controllers, version 2 empty but still the best way to freeze and to kill). Each controller is looked up where
//! it really is, so a host that moved only some of them to version 2 works too.
//!
//! | | version 2 | version 1 |
//! |---|---|---|
//! | group of a sandbox | `<mount>/<parent>.slice/<name>.scope` | `<mount>/<parent>/<name>.scope` in each hierarchy |
//! | memory | `memory.max`, `memory.low`, swap 0 | `limit_in_bytes`, `soft_limit_in_bytes`, memsw equal, swappiness 0 |
//! | cpu | `cpu.weight`, `cpu.max` | `cpu.shares`, `cpu.cfs_quota_us` |
//! | devices | not limited: see [`Devices`] | deny all, then the stock list |
//! | kill | `cgroup.kill` | freeze, SIGKILL to each, thaw, until empty |
//!
//! A limit that this host cannot apply is an error that names its field; it is never skipped. `memory.oom.group` stays off:
//! it would take the agent along, and with it the exit status.
//!
//! Start at [`Hierarchy::detect`].

mod cores;
mod freeze;
mod kill;
mod limits;
mod mounts;
mod tree;
mod tune;
mod usage;

use std::io;
use std::path::PathBuf;

use moat_model::ErrorKind;

pub use limits::{Devices, Limits, shares_clamped, weight_from_shares};
pub use mounts::{Controller, Layout};
pub use tree::Hierarchy;

/// A result of this module.
pub type Result<T> = std::result::Result<T, CgroupError>;

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host has none.
    #[error("no cgroup hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")]
    NoHierarchy,
    /// A value no host could honour.
    #[error("{field}: {why}")]
    Invalid {
        /// The field of the spec.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A value this host cannot honour.
    #[error("{field}: {why}")]
    Unsupported {
        /// The field of the spec.
        field: &'static str,
        /// What this host lacks, and the fix.
        why: String,
    },
    /// A name that is not one safe path component.
    #[error("cgroup name {0:?} is not valid: letters, digits, '.', '_' and '-', not beginning with '.'")]
    Name(String),
    /// The kernel refused a limit.
    #[error("{field}: writing {value:?} to {}", path.display())]
    Refused {
        /// The field of the spec.
        field: &'static str,
        /// What was written.
        value: String,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// All of it is taken.
    #[error("{field}: {why}")]
    Exhausted {
        /// The field of the spec.
        field: &'static str,
        /// How much there is.
        why: String,
    },
    /// A limit below what is in use.
    #[error("{field}: {why}")]
    InUse {
        /// The field of the spec.
        field: &'static str,
        /// How much is asked.
        why: String,
    },
    /// Any other operation on the tree failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// With which path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A bounded wait ended.
    #[error("{doing} cgroup {name}: not done after {seconds} s: {left}")]
    Deadline {
        /// What was being done.
        doing: &'static str,
        /// The group.
        name: String,
        /// How long was waited.
        seconds: u64,
        /// What is still in the way.
        left: String,
    },
}

impl CgroupError {
    /// The decision a caller can take.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoHierarchy | Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Invalid { .. } => ErrorKind::InvalidSpec,
            Self::Refused { source, .. } if source.kind() == io::ErrorKind::InvalidInput => ErrorKind::InvalidSpec,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Name(_) | Self::Refused { .. } | Self::Io { .. } => ErrorKind::Internal,
            Self::Exhausted { .. } => ErrorKind::Exhausted,
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Deadline { .. } => ErrorKind::Deadline,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_gone(source))
    }

    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

/// The group went while we looked: no such file, or a file of a group that is no more.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

impl From<CgroupError> for moat_engine::Error {
    fn from(error: CgroupError) -> Self {
        let kind = error.kind();
        match error {
            CgroupError::Invalid { field, why }
            | CgroupError::Unsupported { field, why }
            | CgroupError::Exhausted { field, why }
            | CgroupError::InUse { field, why } => Self::new(kind, format!("{field}: {why}")),
            other => Self::caused_by(kind, "control group", other),
        }
    }
}

#[cfg(test)]
mod tests;

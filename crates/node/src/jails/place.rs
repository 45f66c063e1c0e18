//! Where jails have their files.
//!
//! ```text
//! <dir>/<namespace>/<name>/   jail.json  files-<n>/{upper,work,volumes}  snapshots/<tag>/  console.*  resolv.conf
//! <dir>/.releases/<name>.json  .templates/<namespace>/<project>/<name>/  .logs/<namespace>/  .shims/<digest>/  .scratch/
//! ```

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use moat_model::Namespace;
use moat_model::jail::{JailName, SnapshotTag, TemplateName};

/// The directory of all jails.
#[derive(Debug, Clone)]
pub(super) struct Place {
    root: PathBuf,
}

impl Place {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn namespace(&self, namespace: &Namespace) -> PathBuf {
        self.root.join(namespace.as_str())
    }

    pub(super) fn jail(&self, namespace: &Namespace, name: &JailName) -> Home {
        Home(self.namespace(namespace).join(name.as_str()))
    }

    pub(super) fn releases(&self) -> PathBuf {
        self.root.join(".releases")
    }

    pub(super) fn templates(&self, namespace: &Namespace) -> PathBuf {
        self.root.join(".templates").join(namespace.as_str())
    }

    pub(super) fn template(&self, namespace: &Namespace, name: &TemplateName) -> PathBuf {
        self.templates(namespace).join(name.as_str())
    }

    /// Console logs of jails that are gone.
    pub(super) fn logs(&self, namespace: &Namespace) -> PathBuf {
        self.root.join(".logs").join(namespace.as_str())
    }

    /// What is half made: removed at the start of the daemon.
    pub(super) fn scratch(&self) -> PathBuf {
        self.root.join(".scratch")
    }

    /// A new name in [`Place::scratch`].
    pub(super) fn new_scratch(&self) -> PathBuf {
        self.scratch().join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Which boot of the host the jails were last looked after in.
    pub(super) fn boot(&self) -> PathBuf {
        self.root.join(".boot.json")
    }
}

/// Where a jail's own files lie in a making of them, as drivers want it.
pub(super) const UPPER: &str = "upper";
/// Where its volumes do.
pub(super) const VOLUMES: &str = "volumes";

/// The directory of one jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home(pub PathBuf);

impl Home {
    pub(super) fn record(&self) -> PathBuf {
        self.0.join("jail.json")
    }

    /// Its files in their `number`th making: which one holds, the record says.
    pub(super) fn files(&self, number: u64) -> PathBuf {
        self.0.join(format!("files-{number}"))
    }

    /// A volume of one making of its files.
    pub(super) fn volume(&self, files: u64, name: &str) -> PathBuf {
        self.files(files).join(VOLUMES).join(name)
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.0.join("snapshots")
    }

    pub(super) fn snapshot(&self, tag: &SnapshotTag) -> PathBuf {
        self.snapshots().join(tag.as_str())
    }

    pub(super) fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }
}

/// Makes a directory for root alone, and what is missing above it.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes whatever is there. What is not there is removed already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

//! Where a node keeps things.

use std::path::{Path, PathBuf};

/// Longest path of a run directory. Below it lie sockets, and the kernel ends their paths after 107 bytes.
const RUN_MAX: usize = 107 - "/sandboxes/sb-00000000000000000000000000/agent.sock".len();

/// What is wrong with a run directory, if anything is.
pub(crate) fn fault_of_run(run: &Path) -> Option<String> {
    let bytes = run.as_os_str().len();
    (bytes > RUN_MAX).then(|| {
        let path = run.display();
        format!("{path} has {bytes} bytes; sockets lie below it, which leave it {RUN_MAX}: choose a shorter one")
    })
}

/// The two directories of a node, and the places in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    run: PathBuf,
    data: PathBuf,
}

impl Dirs {
    /// `run` should be on a tmpfs: it must survive the daemon, not the power. `data` is on disk.
    pub fn new(run: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self { run: run.into(), data: data.into() }
    }

    /// Root of what must survive the daemon but not the power.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Root of what must survive the power.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Locked by the one daemon of this run directory; holds its pid.
    pub fn lock_file(&self) -> PathBuf {
        self.run.join("node.lock")
    }

    /// Workload records, `<id>.json`. They hold environments in clear text: 0700.
    pub fn workloads(&self) -> PathBuf {
        self.run.join("workloads")
    }

    /// Which sandbox belongs to which workload.
    pub fn bindings(&self) -> PathBuf {
        self.run.join("bindings")
    }

    /// Facts not yet confirmed by NATS.
    pub fn outbox(&self) -> PathBuf {
        self.run.join("outbox")
    }

    /// When the cluster heard of this node last.
    pub fn last_beat(&self) -> PathBuf {
        self.run.join("last-beat.json")
    }

    /// The node's seeds: 0700.
    pub fn identity(&self) -> PathBuf {
        self.data.join("identity")
    }

    /// Fetched programs by digest.
    pub fn artifacts(&self) -> PathBuf {
        self.data.join("artifacts")
    }

    /// Directories of allocations, `<id>` each, beside those of sandboxes.
    pub fn allocations(&self) -> PathBuf {
        self.data.join("alloc")
    }

    /// What becomes of allocations, `<id>.json`. They hold environments in clear text: 0700.
    pub fn allocation_records(&self) -> PathBuf {
        self.data.join("allocations")
    }

    /// Jails: their records, files, releases and templates.
    pub fn jails(&self) -> PathBuf {
        self.data.join("jails")
    }

    /// Fetched artifacts of tasks by checksum.
    pub fn fetched(&self) -> PathBuf {
        self.data.join("fetched")
    }

    /// Template records, `<name>.json`.
    pub fn templates(&self) -> PathBuf {
        self.data.join("templates")
    }

    /// Snapshot records, `<id>.json`.
    pub fn snapshots(&self) -> PathBuf {
        self.data.join("snapshots")
    }

    /// What happened to sandboxes that ended, `<id>.json`.
    pub fn history(&self) -> PathBuf {
        self.data.join("history")
    }

    /// Images, unless the configuration puts them elsewhere.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// What virtual machines boot, unless the configuration says otherwise.
    pub fn guest(&self) -> PathBuf {
        self.data.join("guest")
    }

    /// Archives on their way into the image store.
    pub fn uploads(&self) -> PathBuf {
        self.data.join("uploads")
    }

    /// API keys.
    pub fn api_keys(&self) -> PathBuf {
        self.data.join("api-keys.json")
    }

    /// Log files, a directory for each workload id.
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }
}

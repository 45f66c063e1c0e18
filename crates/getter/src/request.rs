//! What is asked of the getter, and what it answers.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_model::job::ArtifactSpec;
use sha2::{Digest as _, Sha256};

use crate::config::Ids;

/// One artifact to fetch.
#[derive(Debug)]
pub struct FetchRequest {
    /// What, every `${…}` replaced.
    pub artifact: ArtifactSpec,
    /// The allocation's directory on the host: nothing is written outside, and the destination must lie in it.
    pub alloc_dir: PathBuf,
    /// The task's directory, below `alloc_dir`: what a relative destination is relative to.
    pub task_dir: PathBuf,
    /// Whom the result belongs to on disk. The caller decides by `artifact.chown`: root of the sandbox or the task's user.
    pub owner: Option<Ids>,
    /// Who fetches.
    pub source: Source,
    /// Longest it may take, below the node's own limit.
    pub deadline: Option<Duration>,
}

impl FetchRequest {
    /// The same for the same artifact: who keeps the fingerprints of what arrived fetches only the missing after a failure.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.artifact)
    }
}

pub(crate) fn fingerprint(artifact: &ArtifactSpec) -> String {
    // A map cannot fail to be written as JSON with text keys; an empty text would only mean fetching once more.
    let fields = serde_json::to_vec(artifact).unwrap_or_default();
    hex::encode(Sha256::digest(fields))
}

/// Who fetches.
#[derive(Debug)]
pub enum Source {
    /// The child, over the network.
    Network,
    /// The daemon did (`nats://`, `oci://`: see [`crate::origin`]); the child checks and unpacks.
    Descriptor {
        /// An open regular file, at its beginning.
        file: OwnedFd,
        /// Its name: the extension says whether it is an archive.
        name: String,
    },
}

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where, on the host.
    pub destination: PathBuf,
    /// Bytes that came over the network; 0 from the cache.
    pub downloaded: u64,
    /// Bytes at the destination.
    pub bytes: u64,
    /// Files at the destination.
    pub files: u64,
    /// It was in the cache.
    pub from_cache: bool,
    /// Which artifact: [`FetchRequest::fingerprint`].
    pub fingerprint: String,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which artifact: its source, credentials taken out.
    pub url: String,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all, where the server says so.
    pub total: Option<u64>,
}

/// Who wants to hear of progress. Called at most a few times a second, from any thread; must not block.
#[derive(Clone)]
pub struct ProgressSink(Arc<dyn Fn(Progress) + Send + Sync>);

impl ProgressSink {
    /// Calls `sink`.
    pub fn new(sink: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Nobody.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    pub(crate) fn report(&self, progress: Progress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for ProgressSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgressSink")
    }
}

//! How far a pull or an import is, for whoever watches: a value in a `tokio::sync::watch` channel.

use crate::Digest;

/// Progress so far. Watchers see the latest, not every one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: PullPhase,
    /// Manifest digest, once known.
    pub digest: Option<Digest>,
    /// Each layer, lowest first, once the manifest is known.
    pub layers: Vec<LayerProgress>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPhase {
    /// Nothing yet.
    #[default]
    Queued,
    /// The reference is being looked up.
    Resolving,
    /// Layers are being fetched and put into the root file.
    Fetching,
    /// All is fetched; the root file is being finished.
    Converting,
    /// The image is in the store.
    Done,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Which.
    pub digest: Digest,
    /// Compressed bytes taken.
    pub bytes_done: u64,
    /// Compressed bytes in all.
    pub bytes_total: u64,
    /// It was in the store already.
    pub cached: bool,
    /// It is in the root file.
    pub done: bool,
}

impl PullPhase {
    /// The word used in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Resolving => "resolving",
            Self::Fetching => "fetching",
            Self::Converting => "converting",
            Self::Done => "done",
        }
    }
}

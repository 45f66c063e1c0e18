//! The content store: blobs, images and their root files below one directory.
//!
//! Everything is written to a temporary name, synced and renamed, so that whatever line the process is killed at, what has
//! its final name is whole. Nothing is removed while a [`Pin`] or one of the given references needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use moat_model::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::progress::Progress;
use crate::{Digest, ImageRef};

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Directory of the store (`/var/lib/moat/images`).
    pub dir: PathBuf,
    /// Registries spoken to in plain HTTP, `host[:port]`. Loopback ones always are, if they do not speak TLS.
    pub insecure_registries: BTreeSet<String>,
    /// Registry to the mirrors asked before it, `host[:port]` each.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// `config.json` of docker, with credentials and credential helpers.
    pub docker_config: Option<PathBuf>,
    /// Layers fetched at the same time.
    pub parallel_layers: usize,
    /// Bounds on archives.
    pub limits: crate::erofs::Limits,
}

/// Where an image is to come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A registry.
    Registry {
        /// What.
        reference: ImageRef,
        /// Instead of the configured credentials: user name and password.
        auth: Option<(String, String)>,
    },
    /// An OCI image layout: a directory, or a tar archive of one.
    OciLayout {
        /// Where.
        path: PathBuf,
        /// Which of its images, by the annotation `org.opencontainers.image.ref.name`; needed if there are several.
        name: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// Where.
        path: PathBuf,
        /// Which of its images, `repository:tag`; needed if there are several.
        name: Option<String>,
    },
    /// A directory that is a root.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// A tar archive of a root.
    RootArchive {
        /// Where.
        path: PathBuf,
    },
}

/// `os/arch[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8`.
    pub variant: Option<String>,
}

/// An image in the store: what persists of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Of its manifest: its name.
    pub digest: Digest,
    /// References it was fetched or imported by.
    pub references: BTreeSet<String>,
    /// What it runs on.
    pub platform: Platform,
    /// What it says of processes.
    pub config: ImageConfig,
    /// Its root file.
    pub root: Root,
    /// When it came into the store.
    pub created_at: Timestamp,
}

/// What an image says of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Environment, in order; `PATH` has the usual default if the image has none.
    pub env: BTreeMap<String, String>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program if there is no entrypoint.
    pub cmd: Vec<String>,
    /// `name`, `uid`, `name:group` or `uid:gid`.
    pub user: Option<String>,
    /// Absolute.
    pub working_dir: Option<String>,
    /// `SIGTERM`, say.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A root file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What it is called; not a hash of the file, but of what it was made from: manifest digest and format version.
    pub digest: Digest,
    /// The erofs file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub entries: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images.
    pub images: Vec<Digest>,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keeps an image and its root from being collected until dropped.
#[derive(Debug, Clone)]
pub struct Pin(std::sync::Arc<()>);

/// The store. Cheap to clone; all clones are the same store. One process at a time: the caller holds the node's lock.
#[derive(Debug, Clone)]
pub struct ImageStore {
    _config: std::sync::Arc<StoreConfig>,
}

impl ImageStore {
    /// Opens the store, and removes what an earlier process left half made.
    pub fn open(config: StoreConfig) -> Result<Self> {
        Ok(Self { _config: std::sync::Arc::new(config) })
    }

    /// Brings an image into the store, or finds it there: an image that is there costs one question to the registry, or
    /// none if the reference has a digest. Two pulls of the same image at once are one. Cancelled or dropped, it leaves only
    /// blobs that the next pull goes on with.
    pub async fn pull(
        &self,
        source: Source,
        platform: Option<Platform>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<(Image, Pin)> {
        let _ = (source, platform, progress, cancel);
        Err(crate::Error::new(moat_model::ErrorKind::Unsupported, "pull"))
    }

    /// All images, oldest first.
    pub fn list(&self) -> Vec<Image> {
        Vec::new()
    }

    /// The image with this digest, pinned.
    pub fn get(&self, digest: &Digest) -> Option<(Image, Pin)> {
        let _ = digest;
        None
    }

    /// The image last fetched by this reference or digest text, pinned. Asks no registry.
    pub fn find(&self, text: &str) -> Option<(Image, Pin)> {
        let _ = text;
        None
    }

    /// Takes a new layer file that `Capturer::capture` wrote to a path from [`ImageStore::scratch_file`]. Its digest is of
    /// its content.
    pub async fn adopt_layer(&self, file: PathBuf, entries: u64) -> Result<(Root, Pin)> {
        let _ = (file, entries);
        Err(crate::Error::new(moat_model::ErrorKind::Unsupported, "adopt a layer"))
    }

    /// A path in the store for a file being made; what is left there is removed when the store is opened.
    pub fn scratch_file(&self) -> PathBuf {
        PathBuf::new()
    }

    /// Forgets a reference or an image by digest. What is `used` (image and root digests) is refused as a conflict that
    /// names what needs it.
    pub async fn remove(&self, text: &str, used: &BTreeMap<Digest, Vec<String>>) -> Result<Collected> {
        let _ = (text, used);
        Err(crate::Error::new(moat_model::ErrorKind::Unsupported, "remove"))
    }

    /// Removes images, roots and blobs that neither `used` nor a pin nor, unless `all`, a reference needs.
    pub async fn collect(&self, used: &BTreeSet<Digest>, all: bool) -> Result<Collected> {
        let _ = (used, all);
        Ok(Collected::default())
    }
}

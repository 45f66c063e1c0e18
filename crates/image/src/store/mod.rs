//! The content store: blobs, images and their root files below one directory.
//!
//! Everything is written to a temporary name, synced and renamed, so that whatever line the process is killed at, what has
//! its final name is whole. Nothing is removed while a [`Pin`] or one of the given references needs it.

mod blobs;
mod collect;
mod index;
mod keyed;
mod pin;
mod pull;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moat_model::{ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::blobs::Blobs;
use self::index::Index;
use self::keyed::Keyed;
use self::pin::Pins;
use self::report::{Flights, Report};
use crate::disk;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::registry::{Patience, Registries};
use crate::{Digest, ImageRef};

pub use self::pin::Pin;

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
#[derive(Clone)]
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

/// The store. Cheap to clone; all clones are the same store. One process at a time: the caller holds the node's lock.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

/// What all clones share.
#[derive(Debug)]
struct Inner {
    config: StoreConfig,
    registries: Registries,
    blobs: Blobs,
    index: Mutex<Index>,
    /// Held, on a blocking thread, while records are written or files taken away: one change at a time.
    changes: Mutex<()>,
    pins: Pins,
    /// One pull for each image.
    images_busy: Keyed,
    /// One transfer for each blob.
    blobs_busy: Keyed,
    flights: Flights,
    transfers: Semaphore,
    conversions: Semaphore,
    scratch: AtomicU64,
}

impl ImageStore {
    /// Opens the store, and removes what an earlier process left half made.
    pub fn open(config: StoreConfig) -> Result<Self> {
        Self::open_with(config, Patience::default())
    }

    pub(crate) fn open_with(config: StoreConfig, patience: Patience) -> Result<Self> {
        if config.parallel_layers == 0 {
            return Err(Error::invalid("parallel_layers", "must be at least 1"));
        }
        let registries = Registries::new(&config, patience)?;
        let blobs = Blobs { dir: config.dir.join("blobs/sha256"), partial: config.dir.join("partial") };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let inner = Inner {
            registries,
            blobs,
            index: Mutex::default(),
            changes: Mutex::default(),
            pins: Pins::default(),
            images_busy: Keyed::default(),
            blobs_busy: Keyed::default(),
            flights: Flights::default(),
            transfers: Semaphore::new(config.parallel_layers.min(Semaphore::MAX_PERMITS)),
            conversions: Semaphore::new(cores),
            scratch: AtomicU64::new(0),
            config,
        };
        inner.prepare()?;
        Ok(Self { inner: Arc::new(inner) })
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
        let name = source.name();
        let pull = Box::pin(pull::pull(&self.inner, source, platform, Report::new(progress)));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::new(ErrorKind::Conflict, format!("pull {name}: cancelled"))),
            pulled = pull => pulled.map_err(|e| Error { doing: format!("pull {name}: {}", e.doing), ..e }),
        }
    }

    /// All images, oldest first.
    pub fn list(&self) -> Vec<Image> {
        let mut images: Vec<Image> = self.inner.index().records.values().map(|record| record.image.clone()).collect();
        images.sort_by_key(|image| (image.created_at, image.digest));
        images
    }

    /// The image with this digest, pinned.
    pub fn get(&self, digest: &Digest) -> Option<(Image, Pin)> {
        // Pinned before it is looked at: what is then there stays there.
        let pin = self.inner.pin_image(digest);
        let image = self.inner.index().records.get(digest).map(|record| record.image.clone())?;
        Some((image, pin))
    }

    /// The image last fetched by this reference or digest text, pinned. Asks no registry.
    pub fn find(&self, text: &str) -> Option<(Image, Pin)> {
        if let Ok(digest) = text.parse() {
            return self.get(&digest);
        }
        let full = text.parse::<ImageRef>().map(|reference| reference.to_string());
        let digest = {
            let index = self.inner.index();
            let exact = index.by_reference(text);
            let record = exact.or_else(|| full.ok().and_then(|full| index.by_reference(&full)))?;
            record.image.digest
        };
        self.get(&digest)
    }

    /// Keeps an image or a root from being collected, whether it is there or not: pin first, look afterwards.
    pub fn pin(&self, digest: Digest) -> Pin {
        self.inner.pin_image(&digest)
    }

    /// Takes a new layer file that `Capturer::capture` wrote to a path from [`ImageStore::scratch_file`]. Its digest is of
    /// its content.
    pub async fn adopt_layer(&self, file: PathBuf, entries: u64) -> Result<(Root, Pin)> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.adopt(&file, entries)).await.map_err(disk::lost)?
    }

    /// A path in the store for a file being made; what is left there is removed when the store is opened.
    pub fn scratch_file(&self) -> PathBuf {
        self.inner.scratch_file()
    }

    /// Forgets a reference or an image by digest. What is `used` (image and root digests) is refused as a conflict that
    /// names what needs it.
    pub async fn remove(&self, text: &str, used: &BTreeMap<Digest, Vec<String>>) -> Result<Collected> {
        let (inner, text, used) = (Arc::clone(&self.inner), text.to_owned(), used.clone());
        tokio::task::spawn_blocking(move || collect::remove(&inner, &text, &used)).await.map_err(disk::lost)?
    }

    /// Removes images, roots and blobs that neither `used` nor a pin nor, unless `all`, a reference needs.
    pub async fn collect(&self, used: &BTreeSet<Digest>, all: bool) -> Result<Collected> {
        let (inner, used) = (Arc::clone(&self.inner), used.clone());
        tokio::task::spawn_blocking(move || collect::collect(&inner, &used, all)).await.map_err(disk::lost)?
    }
}

/// What a root is called that is made of this image. The version is that of the files we write.
fn root_digest(image: &Digest) -> Digest {
    Digest::of(format!("moat root 1\n{image}\n").as_bytes())
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Inner {
    /// Makes the directories, removes what is half made, and reads the index. Partial blobs stay: they are gone on with, and
    /// verified as a whole before they count.
    fn prepare(&self) -> Result<()> {
        let dirs =
            [self.roots(), self.records(), self.scratch_dir(), self.blobs.dir.clone(), self.blobs.partial.clone()];
        for dir in &dirs {
            std::fs::create_dir_all(dir).map_err(|e| disk::failed("make", dir, e))?;
        }
        let scratch = self.scratch_dir();
        for entry in std::fs::read_dir(&scratch).map_err(|e| disk::failed("list", &scratch, e))? {
            disk::remove(&entry.map_err(|e| disk::failed("list", &scratch, e))?.path())?;
        }
        let index = index::load(&self.records(), |digest| self.root_path(digest))?;
        *self.index() = index;
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn roots(&self) -> PathBuf {
        self.config.dir.join("roots")
    }

    fn records(&self) -> PathBuf {
        self.config.dir.join("index")
    }

    fn scratch_dir(&self) -> PathBuf {
        self.config.dir.join("scratch")
    }

    fn root_path(&self, root: &Digest) -> PathBuf {
        self.roots().join(format!("{}.erofs", root.hex()))
    }

    fn scratch_file(&self) -> PathBuf {
        self.scratch_dir().join(self.scratch.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Pins an image and its root.
    fn pin_image(&self, digest: &Digest) -> Pin {
        self.pins.pin([*digest, root_digest(digest)])
    }

    fn adopt(&self, file: &std::path::Path, entries: u64) -> Result<(Root, Pin)> {
        let digest = blobs::digest_of_file(file)?;
        let pin = self.pins.pin([digest]);
        let path = self.root_path(&digest);
        let opened = File::open(file).map_err(|e| disk::failed("open", file, e))?;
        opened.sync_all().map_err(|e| disk::failed("sync", file, e))?;
        let bytes = opened.metadata().map_err(|e| disk::failed("read", file, e))?.len();
        // The same content is there already or it is not: either way this is the file of that name.
        disk::publish(file, &path)?;
        Ok((Root { digest, path, bytes, entries }, pin))
    }
}

/// Without the credentials.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Registry { .. } => "Registry",
            Self::OciLayout { .. } => "OciLayout",
            Self::DockerArchive { .. } => "DockerArchive",
            Self::Directory { .. } => "Directory",
            Self::RootArchive { .. } => "RootArchive",
        };
        write!(f, "{kind}({})", self.name())
    }
}

impl Source {
    /// For messages.
    fn name(&self) -> String {
        match self {
            Self::Registry { reference, .. } => reference.to_string(),
            Self::OciLayout { path, .. }
            | Self::DockerArchive { path, .. }
            | Self::Directory { path }
            | Self::RootArchive { path } => path.display().to_string(),
        }
    }
}

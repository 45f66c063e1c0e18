//! Read-only layers, mounted once on this host and shared by every sandbox made of them.
//!
//! ```text
//! <roots dir>/                  reachable by root alone
//!   <digest>/                   where the layer of this name is mounted
//!   users/<sandbox>/<digest>    this sandbox is made of it: removed with the sandbox
//! ```
//!
//! The mounts are a cache: a launcher copies them, so a running sandbox needs none, but as long as one stays, sandboxes of
//! one template share its pages. What is used is read from the directory, where it survives the daemon; the mounts
//! themselves are recognised in the mount table. One that nobody uses is kept warm for a while, and goes when the
//! driver does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use moat_engine::error::{Error, Result};
use moat_model::spec::RootLayer;
use moat_model::{ErrorKind, SandboxId};
use rustix::mount::{UnmountFlags, unmount};

use super::directory::{make_private_dir, remove_dir};
use super::erofs;

/// How long a mount nobody uses is kept: the next sandbox of the same template is likely to come soon.
const WARM: Duration = Duration::from_secs(600);

/// Most of those. Each keeps a file open, and every launcher copies the mount table.
const WARM_MAX: usize = 16;

/// What is mounted.
#[derive(Debug)]
struct Shared {
    file: PathBuf,
    last_used: Instant,
}

/// The layers mounted on this host.
#[derive(Debug)]
pub struct Roots {
    dir: PathBuf,
    mounted: Mutex<BTreeMap<String, Shared>>,
    /// Somebody already waits to take away what got cold.
    waiting: AtomicBool,
}

impl Roots {
    /// Takes over what an earlier daemon left, and removes what nobody uses.
    pub fn new(dir: PathBuf) -> Arc<Self> {
        let roots = Self { dir, mounted: Mutex::default(), waiting: AtomicBool::new(false) };
        if let Err(error) = roots.take_over() {
            tracing::warn!(dir = %roots.dir.display(), error = error.chain(), "mounts of an earlier daemon");
        }
        Arc::new(roots)
    }

    /// Where it is noted what a sandbox is made of: a resource of the sandbox.
    pub fn note_of(&self, id: &SandboxId) -> PathBuf {
        self.users().join(id.as_str())
    }

    /// Notes that this sandbox uses these layers and returns where they are mounted, in their order. Of a layer that is there
    /// twice only the upper one counts: everything in the lower one is hidden by it.
    pub fn mount(&self, id: &SandboxId, layers: &[RootLayer]) -> Result<Vec<PathBuf>> {
        let note = self.note_of(id);
        make_private_dir(&note)?;
        for layer in layers {
            let file = note.join(&layer.digest);
            fs::write(&file, "").map_err(|e| failed("note in", &file, e))?;
        }
        let mut mounted = self.lock();
        let mut targets = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            if layers.iter().skip(index + 1).any(|upper| upper.digest == layer.digest) {
                continue;
            }
            targets.push(self.mount_one(&mut mounted, layer)?);
        }
        Ok(targets)
    }

    fn mount_one(&self, mounted: &mut BTreeMap<String, Shared>, layer: &RootLayer) -> Result<PathBuf> {
        let target = self.dir.join(&layer.digest);
        if let Some(known) = mounted.get_mut(&layer.digest)
            && known.file == layer.path
            && erofs::is_mounted(&target)
        {
            known.last_used = Instant::now();
            return Ok(target);
        }
        // Also what another process mounted here: only what we know shows what it should.
        self.unmount(&target)?;
        make_private_dir(&target)?;
        erofs::mount(&layer.path, &target).map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ if e.raw_os_error() == Some(libc::ENODEV) => ErrorKind::Unsupported,
                _ => ErrorKind::Internal,
            };
            Error::caused_by(kind, format!("root.layers: mount {}", layer.path.display()), e)
        })?;
        mounted.insert(layer.digest.clone(), Shared { file: layer.path.clone(), last_used: Instant::now() });
        Ok(target)
    }

    /// Whether a resource is a note of ours.
    pub fn is_note(&self, path: &Path) -> bool {
        path.parent() == Some(&self.users())
    }

    /// Forgets what a sandbox was made of. Needs a runtime around it, for what becomes cold later.
    pub fn forget(self: &Arc<Self>, note: &Path) -> Result<()> {
        let mut mounted = self.lock();
        for digest in names(note)? {
            if let Some(shared) = mounted.get_mut(&digest) {
                shared.last_used = Instant::now();
            }
        }
        remove_dir(note)?;
        let cold = self.trim(&mut mounted, WARM, WARM_MAX)?;
        drop(mounted);
        if cold > 0 && !self.waiting.swap(true, Ordering::Relaxed) {
            tokio::spawn(cool(Arc::downgrade(self)));
        }
        Ok(())
    }

    /// Unmounts what nobody has used for `age`, and the longest unused above `kept`. Returns how many unused ones are left.
    fn trim(&self, mounted: &mut BTreeMap<String, Shared>, age: Duration, kept: usize) -> Result<usize> {
        let used = self.used()?;
        let mut unused: Vec<(Instant, String)> = mounted
            .iter()
            .filter(|(digest, _)| !used.contains(digest))
            .map(|(digest, shared)| (shared.last_used, digest.clone()))
            .collect();
        unused.sort();
        let surplus = unused.len().saturating_sub(kept);
        let mut left = 0;
        for (index, (last_used, digest)) in unused.into_iter().enumerate() {
            let gone = mounted.get(&digest).is_some_and(|shared| !shared.file.exists());
            if index < surplus || last_used.elapsed() >= age || gone {
                self.unmount(&self.dir.join(&digest))?;
                mounted.remove(&digest);
            } else {
                left += 1;
            }
        }
        Ok(left)
    }

    fn take_over(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let mut mounted = self.lock();
        let used = self.used()?;
        let found = erofs::mounts_in(&self.dir).map_err(|e| failed("look for mounts in", &self.dir, e))?;
        for (target, shown) in found {
            let digest = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match shown.filter(|_| used.contains(&digest)) {
                Some(shown) => drop(mounted.insert(digest, Shared { file: shown.file, last_used: Instant::now() })),
                None => self.unmount(&target)?,
            }
        }
        Ok(())
    }

    /// Digests some sandbox is made of.
    fn used(&self) -> Result<Vec<String>> {
        let mut used = Vec::new();
        for sandbox in names(&self.users())? {
            used.extend(names(&self.users().join(sandbox))?);
        }
        Ok(used)
    }

    /// Sandboxes keep their copies of it.
    fn unmount(&self, target: &Path) -> Result<()> {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Nothing is mounted there, or there is no such directory.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(failed("unmount", target, e.into())),
        }
        match fs::remove_dir(target) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove directory", target, e)),
            _ => Ok(()),
        }
    }

    fn users(&self) -> PathBuf {
        self.dir.join("users")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Shared>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        let mut mounted = std::mem::take(&mut *self.lock());
        if let Err(error) = self.trim(&mut mounted, Duration::ZERO, 0) {
            tracing::warn!(dir = %self.dir.display(), error = error.chain(), "unused layers stay mounted");
        }
        // Only where nothing is left in them.
        let _ = fs::remove_dir(self.users()).and_then(|()| fs::remove_dir(&self.dir));
    }
}

/// Takes away what got cold, until nothing is left to wait for.
async fn cool(roots: Weak<Roots>) {
    loop {
        tokio::time::sleep(WARM).await;
        let Some(roots) = roots.upgrade() else { return };
        // Before looking: whoever releases one after that starts another wait.
        roots.waiting.store(false, Ordering::Relaxed);
        let left = roots.trim(&mut roots.lock(), WARM, WARM_MAX).unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "unused layers stay mounted");
            1
        });
        if left == 0 || roots.waiting.swap(true, Ordering::Relaxed) {
            return;
        }
    }
}

/// Names in a directory; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.map_err(|e| failed("read directory", dir, e))?,
    };
    entries
        .map(|entry| {
            Ok(entry.map_err(|e| failed("read directory", dir, e))?.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::caused_by(ErrorKind::Internal, format!("{doing} {}", path.display()), error)
}

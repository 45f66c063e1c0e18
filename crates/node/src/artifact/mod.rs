//! Programs fetched for workloads: from the object store to disk, checked, kept by digest.
//!
//! A program lies at `artifacts/<sha256>` once all of it was received, its digest agreed and the ELF check passed; until
//! then it is a `.fetch-…` file that is removed whatever happens. Never more than a chunk of it is in memory. What
//! something runs from is pinned and never removed; of the rest, the least recently used goes when there is too much.

pub mod elf;
mod fetch;

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use moat_model::ErrorKind;

pub(crate) use fetch::open;
pub use fetch::{FetchError, FetchRequest};

use crate::error::{Error, Result};
use crate::guard::make_private;

/// Prefix of files that are being received.
const PARTIAL: &str = ".fetch-";

/// The programs of this node.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    cache_bytes_max: u64,
    pins: Mutex<HashMap<String, usize>>,
}

/// A program on disk that stays there as long as this value does.
#[derive(Debug)]
pub struct PinnedArtifact {
    store: Arc<Inner>,
    sha256: String,
    size: u64,
}

impl PinnedArtifact {
    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.store.dir.join(&self.sha256)
    }

    /// Its digest, 64 lower-case hex digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for PinnedArtifact {
    fn drop(&mut self) {
        let mut pins = self.store.pins();
        if let Some(count) = pins.get_mut(&self.sha256) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                pins.remove(&self.sha256);
            }
        }
    }
}

impl Inner {
    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArtifactStore {
    /// Opens the store below `dir` and removes what an earlier daemon was receiving.
    pub fn open(dir: &Path, cache_bytes_max: u64) -> Result<Self> {
        make_private(dir)?;
        let entries = std::fs::read_dir(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("list {}", dir.display()), e))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let inner = Inner { dir: dir.to_owned(), cache_bytes_max, pins: Mutex::new(HashMap::new()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The program with this digest, if it is here; pinned first, so that it cannot go in between.
    pub fn pin(&self, sha256: &str) -> Option<PinnedArtifact> {
        if !is_digest(sha256) {
            return None;
        }
        *self.inner.pins().entry(sha256.to_owned()).or_insert(0) += 1;
        let mut pinned = PinnedArtifact { store: self.inner.clone(), sha256: sha256.to_owned(), size: 0 };
        let file = File::open(pinned.path()).ok()?;
        pinned.size = file.metadata().ok()?.len();
        // Its age for the eviction is its last use. A failure only makes it older than it is.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Some(pinned)
    }

    /// Removes the least recently used programs that nothing runs from, until what is left fits.
    pub fn evict(&self) {
        let Ok(entries) = std::fs::read_dir(&self.inner.dir) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf, String)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok().filter(|n| is_digest(n))?;
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path(), name))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|f| f.1).sum();
        for (_, size, path, name) in files {
            if total <= self.inner.cache_bytes_max {
                return;
            }
            // Held while the file goes: whoever pins it afterwards finds it gone and fetches it.
            let pins = self.inner.pins();
            if !pins.contains_key(&name) && std::fs::remove_file(&path).is_ok() {
                total = total.saturating_sub(size);
                tracing::debug!(sha256 = %name, size, "artifact removed from the cache");
            }
        }
    }

    fn dir(&self) -> &Path {
        &self.inner.dir
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn put(dir: &Path, digit: char, size: usize, age: u64) -> String {
        let name: String = std::iter::repeat_n(digit, 64).collect();
        std::fs::write(dir.join(&name), vec![0; size]).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age);
        File::open(dir.join(&name)).unwrap().set_times(FileTimes::new().set_modified(at)).unwrap();
        name
    }

    #[test]
    fn the_oldest_that_nothing_uses_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path(), 250).unwrap();
        let used = put(dir.path(), 'a', 100, 300);
        let old = put(dir.path(), 'b', 100, 200);
        let new = put(dir.path(), 'c', 100, 100);
        let pin = store.pin(&used).unwrap();
        assert_eq!(pin.size(), 100);
        store.evict();
        assert!(dir.path().join(&used).exists() && !dir.path().join(&old).exists() && dir.path().join(&new).exists());
        drop(pin);
        assert!(store.inner.pins().is_empty());
    }

    #[test]
    fn only_digests_are_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".fetch-1"), b"half").unwrap();
        let store = ArtifactStore::open(dir.path(), 0).unwrap();
        assert!(!dir.path().join(".fetch-1").exists());
        for bad in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert!(store.pin(bad).is_none(), "{bad}");
        }
        assert!(store.pin(&"a".repeat(64)).is_none());
        assert!(store.inner.pins().is_empty(), "a miss leaves no pin");
    }
}

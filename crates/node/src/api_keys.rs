//! API keys: who may use the REST API, and in which namespace.
//!
//! A key is shown once, when it is made; the file keeps its SHA-256. The file is read again when it changed, so that a key
//! made or revoked on the command line works without the daemon's help. Writers hold a lock beside the file and replace it
//! whole. A file that cannot be read lets nobody in.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;
use moat_model::{ErrorKind, Namespace, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock;
use crate::durable;
use crate::error::{Error, Result};

/// Longest that a revoked key goes on working; reading metadata at every request would cost more than it is worth.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A file of ten thousand keys is two megabytes; more is not one node's.
const KEYS_MAX: usize = 10_000;
/// A note is a line for people.
const NOTE_LEN_MAX: usize = 200;

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum Scope {
    /// Everything: all namespaces, templates, images.
    Admin,
    /// Sandboxes and snapshots of one namespace; templates may be read and used.
    Namespace {
        /// Which.
        namespace: Namespace,
    },
}

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// First characters of the key: its name.
    pub id: String,
    /// What it may.
    pub scope: Scope,
    /// For people.
    pub note: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A key as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key: ApiKey,
    /// SHA-256 of the whole secret text, in hex. The secret has 256 random bits, so a slow hash would add nothing.
    sha256: String,
}

/// The file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    keys: Vec<Kept>,
}

/// Which state of the file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    len: u64,
}

struct Seen {
    looked: Instant,
    stamp: Option<Stamp>,
    /// An error as text: it is told again until the file changes.
    keys: std::result::Result<Arc<Vec<Kept>>, String>,
}

/// The keys in one file.
pub struct ApiKeys {
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKeys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Opens the file, which need not exist.
    pub fn open(path: &Path) -> Result<Self> {
        let stamp = stamp(path)?;
        let keys = Arc::new(read(path)?.keys);
        let seen = Seen { looked: Instant::now(), stamp, keys: Ok(keys) };
        Ok(Self { path: path.to_owned(), seen: Mutex::new(seen) })
    }

    /// Makes one; returns it and the only copy of the secret, `moat_<id>_<secret>`.
    pub fn create(&self, scope: Scope, note: &str) -> Result<(ApiKey, String)> {
        if note.len() > NOTE_LEN_MAX || note.chars().any(char::is_control) {
            return Err(Error::invalid("note", format!("at most {NOTE_LEN_MAX} bytes on one line")));
        }
        let id = text(&rand::random::<[u8; 8]>());
        let secret = format!("moat_{id}_{}", text(&rand::random::<[u8; 32]>()));
        let key = ApiKey { id, scope, note: note.to_owned(), created_at: clock::now() };
        let kept = Kept { key: key.clone(), sha256: hash(&secret) };
        self.change(|keys| {
            if keys.len() >= KEYS_MAX {
                return Err(Error::new(ErrorKind::Exhausted, format!("there are {KEYS_MAX} API keys; revoke some")));
            }
            keys.push(kept);
            Ok(())
        })?;
        Ok((key, secret))
    }

    /// All, oldest first. An error, not an empty list, if the file cannot be read.
    pub fn list(&self) -> Result<Vec<ApiKey>> {
        Ok(self.keys()?.iter().map(|kept| kept.key.clone()).collect())
    }

    /// Whether there is none, so that callers from this machine need none. An error means: let nobody in.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.keys()?.is_empty())
    }

    /// Revokes one by id.
    pub fn revoke(&self, id: &str) -> Result<()> {
        self.change(|keys| {
            let before = keys.len();
            keys.retain(|kept| kept.key.id != id);
            if keys.len() == before {
                return Err(Error::new(ErrorKind::NotFound, format!("no such API key {id:?}")));
            }
            Ok(())
        })
    }

    /// Who brings this secret; compared in constant time.
    pub fn check(&self, secret: &str) -> Option<ApiKey> {
        let keys = match self.keys() {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(error = %error.chain(), "API keys cannot be read: nobody is let in");
                return None;
            }
        };
        let brought = hash(secret);
        // Every key is looked at to its end: how long it takes tells nothing of which came close.
        let mut found = None;
        for kept in keys.iter() {
            if same(kept.sha256.as_bytes(), brought.as_bytes()) {
                found = Some(&kept.key);
            }
        }
        found.cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys as they are in the file, or were a moment ago.
    fn keys(&self) -> Result<Arc<Vec<Kept>>> {
        let mut seen = self.lock();
        if seen.looked.elapsed() >= LOOK_EVERY {
            seen.looked = Instant::now();
            match stamp(&self.path) {
                Ok(now) if now == seen.stamp => {}
                Ok(now) => {
                    seen.stamp = now;
                    seen.keys = read(&self.path).map(|document| Arc::new(document.keys)).map_err(|e| e.chain());
                }
                Err(error) => {
                    // What can be looked at again is read again.
                    seen.stamp = None;
                    seen.keys = Err(error.chain());
                }
            }
        }
        seen.keys.clone().map_err(|why| Error::new(ErrorKind::Internal, why))
    }

    /// Changes the file under its lock: the command line and the daemon may both write.
    fn change(&self, change: impl FnOnce(&mut Vec<Kept>) -> Result<()>) -> Result<()> {
        let internal =
            |e: std::io::Error| Error::caused_by(ErrorKind::Internal, format!("write {}", self.path.display()), e);
        let lock = private().create(true).truncate(false).open(self.path.with_extension("lock")).map_err(internal)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| internal(e.into()))?;
        let mut document = read(&self.path)?;
        change(&mut document.keys)?;
        document.version = 1;
        let body = serde_json::to_vec_pretty(&document)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write the API keys", e))?;
        durable::replace(&self.path, &body).map_err(internal)?;
        let mut seen = self.lock();
        seen.looked = Instant::now();
        seen.stamp = stamp(&self.path)?;
        seen.keys = Ok(Arc::new(document.keys));
        Ok(())
    }
}

fn private() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn stamp(path: &Path) -> Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(m) if m.mode() & 0o077 != 0 => {
            let what = format!("{}: others may read or write it; chmod 600 it", path.display());
            Err(Error::new(ErrorKind::Denied, what))
        }
        Ok(m) => Ok(Some(Stamp { inode: m.ino(), changed: (m.mtime(), m.mtime_nsec()), len: m.len() })),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e)),
    }
}

fn read(path: &Path) -> Result<Document> {
    let broken = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e)
    };
    match std::fs::read(path) {
        Ok(body) => serde_json::from_slice(&body).map_err(|e| broken(e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Document::default()),
        Err(e) => Err(broken(e.into())),
    }
}

fn text(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |sum, (x, y)| sum | (x ^ y));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn tenant(name: &str) -> Scope {
        Scope::Namespace { namespace: Namespace::parse(name).unwrap() }
    }

    #[test]
    fn a_key_is_known_by_its_secret_alone_and_the_file_does_not_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-keys.json");
        let keys = ApiKeys::open(&path).unwrap();
        assert!(keys.is_empty().unwrap() && keys.check("").is_none());
        let (admin, admin_secret) = keys.create(Scope::Admin, "me").unwrap();
        let (other, other_secret) = keys.create(tenant("billing"), "").unwrap();
        assert_eq!(keys.check(&admin_secret), Some(admin.clone()));
        assert_eq!(keys.check(&other_secret).unwrap().scope, tenant("billing"));
        assert!(admin_secret.starts_with(&format!("moat_{}_", admin.id)));
        for bad in
            ["", "moat_", &admin.id, &admin_secret[1..], &format!("{admin_secret}a"), &admin_secret.to_uppercase()]
        {
            assert_eq!(keys.check(bad), None, "{bad}");
        }
        let file = std::fs::read_to_string(&path).unwrap();
        for secret in [&admin_secret, &other_secret] {
            assert!(!file.contains(secret.rsplit('_').next().unwrap()));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(keys.list().unwrap(), [admin.clone(), other]);
        keys.revoke(&admin.id).unwrap();
        assert_eq!(keys.check(&admin_secret), None);
        assert_eq!(keys.revoke(&admin.id).unwrap_err().kind, ErrorKind::NotFound);
        assert!(keys.create(Scope::Admin, "two\nlines").is_err());
    }

    #[test]
    fn a_change_by_another_process_is_seen_within_a_tenth_of_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-keys.json");
        let (daemon, command) = (ApiKeys::open(&path).unwrap(), ApiKeys::open(&path).unwrap());
        let (key, secret) = command.create(Scope::Admin, "").unwrap();
        let until = |wanted: bool| {
            let begun = Instant::now();
            while daemon.check(&secret).is_some() != wanted {
                assert!(begun.elapsed() < Duration::from_secs(5));
                std::thread::yield_now();
            }
        };
        until(true);
        command.revoke(&key.id).unwrap();
        until(false);
    }

    #[test]
    fn writers_do_not_lose_each_others_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-keys.json");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let keys = ApiKeys::open(&path).unwrap();
                    for _ in 0..5 {
                        keys.create(Scope::Admin, "").unwrap();
                    }
                });
            }
        });
        assert_eq!(ApiKeys::open(&path).unwrap().list().unwrap().len(), 20);
    }

    #[test]
    fn a_file_that_cannot_be_trusted_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-keys.json");
        let keys = ApiKeys::open(&path).unwrap();
        let (_, secret) = keys.create(Scope::Admin, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(ApiKeys::open(&path).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{").unwrap();
        let begun = Instant::now();
        while keys.check(&secret).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        assert!(keys.is_empty().is_err() && keys.list().is_err());
    }
}

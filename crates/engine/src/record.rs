//! What is written down of a sandbox, and where.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use moat_model::lifecycle::State;
use moat_model::{ErrorKind, SandboxId};
use serde::{Deserialize, Serialize};

use crate::driver::{Place, Record};
use crate::error::{Error, Result};

/// Version of [`SandboxRecord`]. A record of another version is set aside, never guessed at.
pub const RECORD_VERSION: u32 = 1;

/// Everything needed to take a sandbox up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What is true of it.
    pub state: State,
    /// Where it was put.
    pub place: Place,
    /// What its driver keeps.
    pub driver_record: Option<Record>,
}

/// What was found in a store.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Records that could be read.
    pub records: Vec<SandboxRecord>,
    /// Sandboxes whose record could not be read and was set aside.
    pub set_aside: BTreeSet<SandboxId>,
}

/// Where records are kept. Calls are short and synchronous: a few KiB to a tmpfs, no fsync, so that no caller can be
/// interrupted between deciding and having written.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Reads all records; what cannot be read is set aside and does not stand in the way.
    fn load(&self) -> Result<Loaded>;
    /// Reads one.
    fn load_one(&self, id: &SandboxId) -> Result<SandboxRecord>;
    /// Writes one, whole or not at all.
    fn save(&self, record: &SandboxRecord) -> Result<()>;
    /// Removes one; succeeds if there is none.
    fn remove(&self, id: &SandboxId) -> Result<()>;
}

/// One JSON file for each sandbox, mode 0600 since environments hold secrets, written to a temporary name and renamed.
#[derive(Debug)]
pub struct FileStore {
    dir: PathBuf,
}

impl FileStore {
    /// Opens the store in `dir`, creating it.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|e| io_error(format!("create record directory {}", dir.display()), e))?;
        Ok(Self { dir })
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn read(&self, path: &Path) -> Result<SandboxRecord> {
        let doing = || format!("read record {}", path.display());
        let bytes = fs::read(path).map_err(|e| io_error(doing(), e))?;
        let corrupt = |e: serde_json::Error| Error::caused_by(ErrorKind::Internal, doing(), e);
        // The version first: a newer record need not even parse.
        let header: Header = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if header.version != RECORD_VERSION {
            let what = format!("{}: version is {}, this daemon knows {RECORD_VERSION}", doing(), header.version);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        serde_json::from_slice(&bytes).map_err(corrupt)
    }

    /// Moves a record that cannot be read out of the way, keeping it for whoever looks into it.
    fn set_aside(&self, path: &Path, why: &Error) {
        let suffix = if why.kind == ErrorKind::Unsupported { "unknown-version" } else { "corrupt" };
        let mut to = path.to_path_buf().into_os_string();
        to.push(format!(".{suffix}"));
        match fs::rename(path, &to) {
            Ok(()) => tracing::error!(path = %path.display(), kept = ?to, error = why.chain(), "record set aside"),
            Err(e) => tracing::error!(path = %path.display(), error = %e, "record cannot be read nor set aside"),
        }
    }
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

impl Store for FileStore {
    fn load(&self) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        let listing = || format!("list records in {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).map_err(|e| io_error(listing(), e))? {
            let path = entry.map_err(|e| io_error(listing(), e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(id) = name.strip_suffix(".json.new").and_then(|id| SandboxId::parse(id).ok()) {
                // Half written when a daemon ended; the record before it stands.
                tracing::debug!(sandbox = %id, "removing half-written record");
                fs::remove_file(&path).map_err(|e| io_error(format!("remove {}", path.display()), e))?;
                continue;
            }
            let Some(id) = name.strip_suffix(".json").and_then(|id| SandboxId::parse(id).ok()) else { continue };
            match self.read(&path) {
                Ok(record) if record.state.id == id => loaded.records.push(record),
                Ok(record) => {
                    let what = format!("record {} is of sandbox {}", path.display(), record.state.id);
                    self.set_aside(&path, &Error::new(ErrorKind::Internal, what));
                    loaded.set_aside.insert(id);
                }
                Err(error) => {
                    self.set_aside(&path, &error);
                    loaded.set_aside.insert(id);
                }
            }
        }
        loaded.records.sort_by(|a, b| a.state.id.cmp(&b.state.id));
        Ok(loaded)
    }

    fn load_one(&self, id: &SandboxId) -> Result<SandboxRecord> {
        self.read(&self.path(id))
    }

    fn save(&self, record: &SandboxRecord) -> Result<()> {
        let path = self.path(&record.state.id);
        let doing = || format!("write record {}", path.display());
        let bytes = serde_json::to_vec(record).map_err(|e| Error::caused_by(ErrorKind::Internal, doing(), e))?;
        let new = path.with_extension("json.new");
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| io_error(doing(), e))
    }

    fn remove(&self, id: &SandboxId) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(io_error(format!("remove record {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

fn io_error(doing: String, error: io::Error) -> Error {
    Error::caused_by(ErrorKind::Internal, doing, error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing;

    #[test]
    fn a_record_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path()).unwrap();
        let record = testing::record(7);
        store.save(&record).unwrap();
        let mode = fs::metadata(store.path(&record.state.id)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(store.load().unwrap().records, std::slice::from_ref(&record));
        assert_eq!(store.load_one(&record.state.id).unwrap(), record);
        store.remove(&record.state.id).unwrap();
        store.remove(&record.state.id).unwrap();
        assert!(store.load().unwrap().records.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_set_aside_and_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path()).unwrap();
        let (good, cut, newer, half) = (testing::record(1), testing::record(2), testing::record(3), testing::record(4));
        for record in [&good, &cut, &newer] {
            store.save(record).unwrap();
        }
        fs::write(store.path(&cut.state.id), b"{\"version\": 1, \"st").unwrap();
        fs::write(store.path(&newer.state.id), b"{\"version\": 99, \"shape\": \"other\"}").unwrap();
        fs::write(store.path(&half.state.id).with_extension("json.new"), b"{").unwrap();
        fs::write(dir.path().join("README"), b"not ours").unwrap();

        let loaded = store.load().unwrap();
        assert_eq!(loaded.records, [good]);
        assert_eq!(loaded.set_aside, BTreeSet::from([cut.state.id.clone(), newer.state.id.clone()]));
        let mut names: Vec<String> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(names.contains(&format!("{}.json.corrupt", cut.state.id)), "{names:?}");
        assert!(names.contains(&format!("{}.json.unknown-version", newer.state.id)), "{names:?}");
        assert!(!names.iter().any(|n| n.ends_with(".new")), "{names:?}");
        assert_eq!(store.load().unwrap().set_aside.len(), 0, "set aside once");
    }
}

//! What a guest remembers, and the files a snapshot of it is.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;

use moat_agent::protocol::MainState;
use moat_agent::protocol::machine::{GuestSetup, Identity};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a memory says that all of it is there: only a full snapshot writes that.
const MARK_AT: u64 = 1 << 20;
const MARK: &[u8] = b"all of it";
/// Largest memory of a scripted guest.
const LENGTH_MAX: u64 = MARK_AT - 8;

/// What a guest remembers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    pub setup: Option<GuestSetup>,
    pub identity: Option<Identity>,
    /// Everything it was ever seeded with.
    pub seeds: Vec<String>,
    pub quiesced: bool,
    /// It was renewed since it was quiesced last.
    pub renewed: bool,
    pub files: BTreeMap<String, Vec<u8>>,
    pub main: MainState,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            setup: None,
            identity: None,
            seeds: Vec::new(),
            quiesced: false,
            renewed: false,
            files: BTreeMap::new(),
            main: MainState::Idle,
        }
    }
}

/// What the devices were set to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Whose format it is.
    pub version: String,
    /// Which kind of snapshot it is of.
    pub kind: String,
    pub config: BTreeMap<String, Value>,
}

impl State {
    pub fn write(&self, path: &str) -> Result<(), String> {
        let text = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("cannot create the snapshot file: {e}"))
    }

    pub fn read(path: &str) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|e| format!("failed to open the snapshot file: {e}"))?;
        serde_json::from_slice(&text).map_err(|e| format!("failed to deserialize the snapshot: {e}"))
    }
}

impl Memory {
    /// All of it, or with holes where nothing changed since the last time.
    pub fn write(&self, path: &str, length: u64, whole: bool) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("cannot create the memory file: {e}");
        let text = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        if text.len() as u64 > LENGTH_MAX {
            return Err("the scripted guest remembers too much".to_owned());
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(failed)?;
        file.set_len(length).map_err(failed)?;
        file.write_all_at(&(text.len() as u64).to_le_bytes(), 0).map_err(failed)?;
        file.write_all_at(&text, 8).map_err(failed)?;
        if whole { file.write_all_at(MARK, MARK_AT).map_err(failed) } else { Ok(()) }
    }

    /// The memory in a file, which stays open: a real monitor maps it for as long as the machine lives.
    pub fn read(path: &str, length: u64) -> Result<(Self, File), String> {
        let failed = |e: std::io::Error| format!("failed to open the memory file: {e}");
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found != length {
            return Err(format!("the memory file has {found} bytes, the state {length}"));
        }
        let mut mark = [0; MARK.len()];
        file.read_exact_at(&mut mark, MARK_AT).map_err(failed)?;
        if mark != MARK {
            return Err("the memory file is not a whole one".to_owned());
        }
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 0).map_err(failed)?;
        let size = u64::from_le_bytes(size).min(LENGTH_MAX);
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut text, 8).map_err(failed)?;
        Ok((serde_json::from_slice(&text).map_err(|e| format!("the memory file makes no sense: {e}"))?, file))
    }
}

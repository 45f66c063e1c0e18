//! The images of the store: one JSON file each, read when the store is opened, written whenever one changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Image, Platform};
use crate::Digest;
use crate::disk;
use crate::error::{Error, Result};

/// Version of a record.
const VERSION: u32 = 1;

/// What is kept of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The image.
    pub image: Image,
    /// Compressed layers kept in the store, for other images with the same ones.
    pub blobs: Vec<Digest>,
    /// Millisecond at which it was last fetched or found by a pull; tells which of two images a reference means.
    pub fetched_at: i64,
}

impl Record {
    /// A new one.
    pub fn new(image: Image, blobs: Vec<Digest>, fetched_at: i64) -> Self {
        Self { version: VERSION, image, blobs, fetched_at }
    }
}

/// All records, by image.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub records: BTreeMap<Digest, Record>,
}

/// Where the record of an image lies.
pub(crate) fn path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{}.json", digest.hex()))
}

/// Reads all records whose root is there. The others, and files that are no records, are removed: an image without its root
/// is fetched again, nothing else depends on it.
pub(crate) fn load(dir: &Path, root_of: impl Fn(&Digest) -> PathBuf) -> Result<Index> {
    let mut index = Index::default();
    for entry in std::fs::read_dir(dir).map_err(|e| disk::failed("list", dir, e))? {
        let file = entry.map_err(|e| disk::failed("list", dir, e))?.path();
        let read = std::fs::read(&file).map_err(|e| disk::failed("read", &file, e))?;
        let record = serde_json::from_slice::<Record>(&read).map_err(|e| e.to_string()).and_then(|mut record| {
            record.image.root.path = root_of(&record.image.root.digest);
            let size = std::fs::metadata(&record.image.root.path).map(|meta| meta.len()).ok();
            if record.version != VERSION {
                return Err(format!("version {}, not {VERSION}", record.version));
            }
            if file != path(dir, &record.image.digest) {
                return Err("it is of another image".to_owned());
            }
            if size != Some(record.image.root.bytes) {
                return Err("its root is not there as it was written".to_owned());
            }
            Ok(record)
        });
        match record {
            Ok(record) => {
                index.records.insert(record.image.digest, record);
            }
            Err(why) => {
                tracing::warn!(file = %file.display(), why, "an image is forgotten; the next pull fetches it again");
                disk::remove(&file)?;
            }
        }
    }
    Ok(index)
}

/// Writes a record.
pub(crate) fn write(dir: &Path, scratch: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record)
        .map_err(|e| Error::caused_by(moat_model::ErrorKind::Internal, "write the record of an image", e))?;
    disk::write_whole(scratch, &path(dir, &record.image.digest), &text)
}

impl Index {
    /// The image that a reference means: of those fetched by it the one for this host, then the one fetched last.
    pub fn by_reference(&self, reference: &str) -> Option<&Record> {
        let host = Platform::host();
        let named = self.records.values().filter(|record| record.image.references.contains(reference));
        named.max_by_key(|record| (record.image.platform.architecture == host.architecture, record.fetched_at))
    }

    /// The image fetched by this reference for this platform.
    pub fn by_reference_on(&self, reference: &str, platform: &Platform) -> Option<&Record> {
        let named = self.records.values().filter(|record| record.image.references.contains(reference));
        let fitting = named.filter(|record| {
            let there = &record.image.platform;
            there.os == platform.os
                && there.architecture == platform.architecture
                && (platform.variant.is_none() || there.variant.is_none() || there.variant == platform.variant)
        });
        fitting.max_by_key(|record| record.fetched_at)
    }

    /// Takes a reference from every other image of the same platform: a tag moved. Returns the records that changed.
    pub fn move_reference(&mut self, reference: &str, to: &Digest, platform: &Platform) -> Vec<Record> {
        let mut changed = Vec::new();
        for record in self.records.values_mut() {
            if record.image.digest != *to
                && record.image.platform == *platform
                && record.image.references.remove(reference)
            {
                changed.push(record.clone());
            }
        }
        changed
    }
}

//! Where images come from. Each source ends in the same: a manifest by its digest, and where its parts are.

mod archive;
mod docker_archive;
mod layout;
mod remote;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use moat_model::ErrorKind;

use crate::Digest;
use crate::disk;
use crate::erofs::Compression;
use crate::error::{Error, Result};
use crate::manifest::{Configuration, DOCUMENT_MAX, Descriptor, Manifest};
use crate::registry::Repository;

pub(crate) use docker_archive::open as open_docker_archive;
pub(crate) use layout::open as open_layout;
pub(crate) use remote::resolve as resolve_remote;

/// An image found in a source.
#[derive(Debug)]
pub(crate) struct Found {
    /// Of the manifest.
    pub digest: Digest,
    /// Its parts.
    pub manifest: Manifest,
    /// Where they are.
    pub origin: Origin,
    /// For messages.
    pub what: String,
}

/// Where the parts of an image are.
#[derive(Debug)]
pub(crate) enum Origin {
    /// In a registry: they are fetched and kept.
    Registry(Repository),
    /// In files of this host: they are read in place.
    Files(HashMap<Digest, Part>),
    /// In files, with a configuration of our own making.
    Bare(HashMap<Digest, Part>, Box<Configuration>),
}

/// Bytes in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which.
    pub file: PathBuf,
    /// From where on.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

impl Part {
    /// A whole file.
    pub fn whole(file: PathBuf) -> Result<Self> {
        let len = std::fs::metadata(&file).map_err(|e| disk::failed("read", &file, e))?.len();
        Ok(Self { file, offset: 0, len })
    }

    /// Opened at its first byte.
    pub fn open(&self) -> Result<std::io::Take<File>> {
        let failed = |e| disk::failed("read", &self.file, e);
        let mut file = File::open(&self.file).map_err(failed)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        Ok(file.take(self.len))
    }

    /// All of it, if it is a document.
    pub fn document(&self, what: &str) -> Result<Vec<u8>> {
        if self.len > DOCUMENT_MAX {
            let text = format!("{what} has {} bytes; the most is {DOCUMENT_MAX}", self.len);
            return Err(Error::new(ErrorKind::InvalidSpec, text));
        }
        let mut bytes = Vec::new();
        self.open()?.read_to_end(&mut bytes).map_err(|e| disk::failed("read", &self.file, e))?;
        Ok(bytes)
    }

    /// How it is compressed, by its first bytes.
    pub fn compression(&self) -> Result<Compression> {
        let mut start = Vec::new();
        self.open()?.take(4).read_to_end(&mut start).map_err(|e| disk::failed("read", &self.file, e))?;
        Ok(match start.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
            _ => Compression::None,
        })
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> Result<Digest> {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        let mut part = self.open()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match part.read(&mut buffer).map_err(|e| disk::failed("read", &self.file, e))? {
                0 => return Ok(Digest::from_bytes(hash.finalize().into())),
                n => hash.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    }
}

/// A document of a local source, verified.
fn verified(part: &Part, blob: &Descriptor, what: &str) -> Result<Vec<u8>> {
    let bytes = part.document(what)?;
    let is = Digest::of(&bytes);
    if is != blob.digest || bytes.len() as u64 != blob.size {
        let text = format!("{what}: its bytes are not what its digest says: expected {}, got {is}", blob.digest);
        return Err(Error::new(ErrorKind::InvalidSpec, text));
    }
    Ok(bytes)
}

impl Found {
    /// The configuration of the image.
    pub async fn configuration(&self) -> Result<Configuration> {
        let bytes = match &self.origin {
            Origin::Bare(_, configuration) => return Ok(configuration.as_ref().clone()),
            Origin::Registry(repository) => repository.document(&self.manifest.config).await?,
            Origin::Files(parts) => {
                let config = self.manifest.config.clone();
                let what = format!("the configuration of {}", self.what);
                let part = part_of(parts, &config, &what)?.clone();
                tokio::task::spawn_blocking(move || verified(&part, &config, &what)).await.map_err(disk::lost)??
            }
        };
        crate::manifest::read_configuration(&bytes, &self.what)
    }
}

/// Where a blob is.
pub(crate) fn part_of<'a>(parts: &'a HashMap<Digest, Part>, blob: &Descriptor, what: &str) -> Result<&'a Part> {
    let part = parts
        .get(&blob.digest)
        .ok_or_else(|| Error::new(ErrorKind::InvalidSpec, format!("{what}: {} is not in it", blob.digest)))?;
    if part.len != blob.size {
        let text = format!("{what}: {} has {} bytes, not {}", blob.digest, part.len, blob.size);
        return Err(Error::new(ErrorKind::InvalidSpec, text));
    }
    Ok(part)
}

/// A tar archive of a root as an image of one layer; its digest is made of the archive's.
pub(crate) fn open_root_archive(path: &Path, configuration: Configuration) -> Result<Found> {
    let part = Part::whole(path.to_owned())?;
    let compression = part.compression()?;
    let digest = part.digest()?;
    let layer = Descriptor { media_type: String::new(), digest, size: part.len, platform: None, annotations: None };
    let config = Descriptor { size: 0, digest: Digest::of(b""), ..layer.clone() };
    Ok(Found {
        digest: made_digest("root-archive", &digest, &configuration),
        manifest: Manifest { config, layers: vec![(layer, compression)] },
        origin: Origin::Bare(HashMap::from([(digest, part)]), Box::new(configuration)),
        what: path.display().to_string(),
    })
}

/// The name of an image that has no manifest: made from its content and the platform it was said to be for.
pub(crate) fn made_digest(kind: &str, content: &Digest, configuration: &Configuration) -> Digest {
    Digest::of(format!("moat {kind} 1\n{content}\n{}\n", configuration.platform).as_bytes())
}

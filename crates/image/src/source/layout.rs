//! OCI image layouts: directories, and tar archives of them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use moat_model::ErrorKind;

use super::archive::Members;
use super::remote::{DEPTH_MAX, too_deep};
use super::{Found, Origin, Part, verified};
use crate::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, Descriptor, Document};
use crate::store::Platform;

/// The annotation that names an image in a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

enum Layout {
    Directory(PathBuf),
    Archive(Members),
}

impl Layout {
    fn part(&self, name: &str) -> Result<Part> {
        match self {
            Self::Directory(dir) => Part::whole(dir.join(name)),
            Self::Archive(members) => members.need(name).cloned(),
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Part> {
        self.part(&format!("blobs/sha256/{}", digest.hex()))
    }
}

/// Finds an image in a layout.
pub(crate) fn open(path: &Path, name: Option<&str>, wanted: &Platform) -> Result<Found> {
    let layout = if path.is_dir() { Layout::Directory(path.to_owned()) } else { Layout::Archive(Members::read(path)?) };
    let what = path.display().to_string();
    let index = layout.part("index.json")?.document(&what)?;
    let Document::Index(all) = manifest::read(&index, &what)? else {
        return Err(Error::new(ErrorKind::InvalidSpec, format!("{what}: its index.json is no index")));
    };
    let named = choose(&all, name, &what)?;
    let mut chosen = manifest::select(&named, wanted, &what)?.clone();
    for _ in 0..DEPTH_MAX {
        let bytes = verified(&layout.blob(&chosen.digest)?, &chosen, &what)?;
        match manifest::read(&bytes, &what)? {
            Document::Index(manifests) => chosen = manifest::select(&manifests, wanted, &what)?.clone(),
            Document::Manifest(manifest) => {
                let mut parts = HashMap::new();
                for blob in manifest.layers.iter().map(|(layer, _)| layer).chain([&manifest.config]) {
                    parts.insert(blob.digest, layout.blob(&blob.digest)?);
                }
                return Ok(Found { digest: chosen.digest, manifest, origin: Origin::Files(parts), what });
            }
        }
    }
    Err(too_deep(&what))
}

/// The entries with the wanted name; without one, those of the only name there is.
fn choose(all: &[Descriptor], name: Option<&str>, what: &str) -> Result<Vec<Descriptor>> {
    let name_of = |entry: &Descriptor| entry.annotations.as_ref().and_then(|all| all.get(NAME)).cloned();
    let names: BTreeSet<Option<String>> = all.iter().map(name_of).collect();
    let shown = || names.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => {
            let found: Vec<_> = all.iter().filter(|entry| name_of(entry).as_deref() == Some(name)).cloned().collect();
            if found.is_empty() {
                let text = format!("{what}: no image {name:?} in it; there is: {}", shown());
                return Err(Error::new(ErrorKind::NotFound, text));
            }
            Ok(found)
        }
        None if all.is_empty() => Err(Error::new(ErrorKind::NotFound, format!("{what}: no image in it"))),
        None if names.len() == 1 => Ok(all.to_vec()),
        None => Err(Error::invalid("name", format!("{what} has several images; name one of: {}", shown()))),
    }
}

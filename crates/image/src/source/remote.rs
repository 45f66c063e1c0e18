//! From a reference to the manifest for one platform.

use moat_model::ErrorKind;

use super::{Found, Origin};
use crate::error::{Error, Result};
use crate::manifest::{self, Document};
use crate::reference::ImageRef;
use crate::registry::Repository;
use crate::store::Platform;

/// An index may lead to an index; more than this deep nobody goes.
pub(super) const DEPTH_MAX: usize = 3;

/// Finds the manifest of `reference` for `wanted`.
pub(crate) async fn resolve(repository: Repository, reference: &ImageRef, wanted: &Platform) -> Result<Found> {
    let what = reference.to_string();
    let tag = reference.tag.as_deref().unwrap_or("latest");
    let mut fetched = repository.manifest(tag, reference.digest).await?;
    for _ in 0..DEPTH_MAX {
        match manifest::read(&fetched.bytes, &what)? {
            Document::Manifest(manifest) => {
                return Ok(Found { digest: fetched.digest, manifest, origin: Origin::Registry(repository), what });
            }
            Document::Index(manifests) => {
                let chosen = manifest::select(&manifests, wanted, &what)?;
                fetched = repository.manifest(tag, Some(chosen.digest)).await?;
            }
        }
    }
    Err(too_deep(&what))
}

pub(super) fn too_deep(what: &str) -> Error {
    Error::new(ErrorKind::InvalidSpec, format!("{what}: indexes lead to indexes more than {DEPTH_MAX} deep"))
}

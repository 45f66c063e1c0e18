//! What `docker save` writes.

use std::collections::HashMap;
use std::path::Path;

use moat_model::ErrorKind;
use serde::Deserialize;

use super::archive::Members;
use super::{Found, Origin};
use crate::Digest;
use crate::erofs::Compression;
use crate::error::{Error, Result};
use crate::manifest::{Descriptor, Manifest, read_configuration};
use crate::reference::ImageRef;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds an image in an archive, and says the names it was saved with.
pub(crate) fn open(path: &Path, name: Option<&str>) -> Result<(Found, Vec<ImageRef>)> {
    let what = path.display().to_string();
    let members = Members::read(path)?;
    let list = members.need("manifest.json")?.document(&what)?;
    let list: Vec<Saved> = serde_json::from_slice(&list)
        .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("read manifest.json of {what}"), e))?;
    let saved = choose(list, name, &what)?;
    let names = saved.repo_tags.iter().flatten().filter_map(|tag| tag.parse().ok()).collect();

    let config_part = members.need(&saved.config)?;
    let config_bytes = config_part.document(&what)?;
    let configuration = read_configuration(&config_bytes, &what)?;
    if configuration.diff_ids.len() != saved.layers.len() {
        let text = format!("{what}: its configuration and its manifest.json disagree about the layers");
        return Err(Error::new(ErrorKind::InvalidSpec, text));
    }
    let config = descriptor(Digest::of(&config_bytes), config_part.len);
    let mut parts = HashMap::from([(config.digest, config_part.clone())]);
    let mut layers = Vec::new();
    for (layer, diff_id) in saved.layers.iter().zip(&configuration.diff_ids) {
        let part = members.need(layer)?;
        let compression = part.compression()?;
        // Of a plain one the configuration has the digest, and it is checked when the layer is read.
        let digest = if compression == Compression::None { *diff_id } else { part.digest()? };
        parts.insert(digest, part.clone());
        layers.push((descriptor(digest, part.len), compression));
    }
    let digest = synthetic(&config, &layers);
    let found = Found { digest, manifest: Manifest { config, layers }, origin: Origin::Files(parts), what };
    Ok((found, names))
}

fn descriptor(digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: String::new(), digest, size, platform: None, annotations: None }
}

/// These archives have no manifest with a digest: one is made of what a manifest would name.
fn synthetic(config: &Descriptor, layers: &[(Descriptor, Compression)]) -> Digest {
    let mut text = format!("moat docker-archive 1\n{}\n", config.digest);
    for (layer, _) in layers {
        text.push_str(&format!("{}\n", layer.digest));
    }
    Digest::of(text.as_bytes())
}

fn choose(list: Vec<Saved>, name: Option<&str>, what: &str) -> Result<Saved> {
    let tags: Vec<String> = list.iter().flat_map(|saved| saved.repo_tags.iter().flatten().cloned()).collect();
    let there = tags.join(", ");
    let count = list.len();
    let mut list = list.into_iter();
    let wanted = match name {
        Some(name) => {
            let full = |text: &str| text.parse::<ImageRef>().ok();
            let wanted = full(name);
            list.find(|saved| {
                saved.repo_tags.iter().flatten().any(|tag| tag == name || wanted.is_some() && full(tag) == wanted)
            })
        }
        None if count > 1 => {
            return Err(Error::invalid("name", format!("{what} has several images; name one of: {there}")));
        }
        None => list.next(),
    };
    wanted.ok_or_else(|| {
        let name = name.unwrap_or("any");
        Error::new(ErrorKind::NotFound, format!("{what}: no image {name:?} in it; there is: {there}"))
    })
}

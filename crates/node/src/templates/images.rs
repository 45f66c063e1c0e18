//! Images: what is in the store, what needs it, and what goes when nothing does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moat_api::nex::event::rfc3339;
use moat_api::rest::image::{Collected, Image, ImageList, PullImage};
use moat_image::Digest;
use moat_image::progress::Progress;
use moat_image::store::{self, Source};
use moat_model::ErrorKind;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

use super::{Templates, warmup};

/// How often the store is looked through without anybody asking.
const ROUND: Duration = Duration::from_secs(3600);

impl Templates {
    /// The store beneath, for the layers of snapshots.
    pub fn store(&self) -> &moat_image::ImageStore {
        &self.shared.store
    }

    /// Fetches an image without making a template of it.
    pub async fn pull(
        &self,
        request: PullImage,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Image> {
        let reference = request.image.parse().map_err(|e| Error::invalid("image", e))?;
        let platform = warmup::platform(request.platform.as_deref())?;
        let auth = request.auth.map(|a| (a.username, a.password));
        let source = Source::Registry { reference, auth };
        let (image, _pin) = self.shared.store.pull(source, platform, progress, cancel).await?;
        Ok(self.shown(image))
    }

    /// Imports an image from a file or directory on this node.
    pub async fn import(
        &self,
        source: Source,
        name: Option<String>,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Image> {
        let source = match (source, name) {
            (source, None) => source,
            (Source::OciLayout { path, .. }, name) => Source::OciLayout { path, name },
            (Source::DockerArchive { path, .. }, name) => Source::DockerArchive { path, name },
            (_, Some(_)) => {
                return Err(Error::invalid(
                    "name",
                    "chooses among the images of a layout or archive; this is a plain root",
                ));
            }
        };
        let (image, _pin) = self.shared.store.pull(source, None, progress, cancel).await?;
        Ok(self.shown(image))
    }

    /// All images.
    pub fn images(&self) -> ImageList {
        let used = self.shown_uses();
        let images = self.shared.store.list().into_iter().map(|image| described(image, &used)).collect();
        ImageList { images }
    }

    /// Removes a reference, or an image by digest.
    pub async fn remove_image(&self, name: &str) -> Result<Collected> {
        Ok(collected(self.shared.store.remove(name, &self.used()?).await?))
    }

    /// Removes what nothing needs; with `all` also what only a reference holds.
    pub async fn collect(&self, all: bool) -> Result<Collected> {
        self.forget_versions();
        let used: BTreeSet<Digest> = self.used()?.into_keys().collect();
        Ok(collected(self.shared.store.collect(&used, all).await?))
    }

    fn shown(&self, image: store::Image) -> Image {
        described(image, &self.shown_uses())
    }

    /// What a list shows beside each image.
    fn shown_uses(&self) -> BTreeMap<Digest, Vec<String>> {
        self.used().unwrap_or_default()
    }

    /// Images and layers that must stay, each with what needs it.
    fn used(&self) -> Result<BTreeMap<Digest, Vec<String>>> {
        let others = self.shared.in_use();
        let Some(others) = others else {
            let what = "what needs the images is not known at this moment, so none is removed; try again";
            return Err(Error::new(ErrorKind::Unavailable, what));
        };
        let mut used: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for entry in self.shared.table().values() {
            for version in &entry.record.versions {
                let who = format!("template {}@{}", version.request.name, version.number);
                if let Some((image, _)) = entry.images.get(&version.number) {
                    used.entry(image.root.digest).or_default().push(who.clone());
                }
                used.entry(version.digest).or_default().push(who);
            }
        }
        for (digest, who) in others.layers {
            used.entry(digest).or_default().push(who);
        }
        Ok(used)
    }

    /// Old versions that nothing lives from are forgotten; the one in use stays.
    fn forget_versions(&self) {
        let Some(used) = self.shared.in_use() else { return };
        let needed: BTreeSet<(String, u64)> = used.versions.into_iter().collect();
        let mut shorter = Vec::new();
        for entry in self.shared.table().values_mut() {
            let current = entry.record.current().map(|v| v.number);
            let name = entry.record.name.clone();
            let before = entry.record.versions.len();
            entry.record.versions.retain(|v| Some(v.number) == current || needed.contains(&(name.clone(), v.number)));
            if entry.record.versions.len() < before {
                let kept: BTreeSet<u64> = entry.record.versions.iter().map(|v| v.number).collect();
                entry.images.retain(|number, _| kept.contains(number));
                shorter.push(name);
            }
        }
        for name in shorter {
            if let Err(error) = self.shared.persist(&name) {
                tracing::warn!(template = name, error = %error.chain(), "its record still names old versions");
            }
        }
    }

    /// Looks through the store now and then, for ever.
    pub(super) async fn rounds(self) {
        let closed = self.shared.closed.clone();
        while closed.run_until_cancelled(tokio::time::sleep(ROUND)).await.is_some() {
            self.round().await;
        }
    }

    /// Removes what nothing needs, then the oldest of what is merely kept, if that is too much.
    pub(super) async fn round(&self) {
        match self.collect(false).await {
            Ok(gone) if gone.files > 0 => tracing::info!(files = gone.files, bytes = gone.bytes, "images collected"),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %error.chain(), "images not collected"),
        }
        let Some(max) = self.shared.cache_bytes_max else { return };
        for digest in self.surplus(max) {
            let Ok(used) = self.used() else { return };
            match self.shared.store.remove(&digest.to_string(), &used).await {
                Ok(gone) => tracing::info!(%digest, bytes = gone.bytes, "image removed: oci.cache_max"),
                Err(error) => tracing::warn!(%digest, error = %error.chain(), "image not removed"),
            }
        }
    }

    /// The oldest images that nothing uses, until the rest of those fits.
    fn surplus(&self, max: u64) -> Vec<Digest> {
        let Ok(used) = self.used() else { return Vec::new() };
        let unused = |i: &store::Image| !used.contains_key(&i.digest) && !used.contains_key(&i.root.digest);
        let mut kept: Vec<store::Image> = self.shared.store.list().into_iter().filter(unused).collect();
        kept.sort_by_key(|i| i.created_at);
        let mut bytes: u64 = kept.iter().map(|i| i.root.bytes).sum();
        let mut surplus = Vec::new();
        for image in kept {
            if bytes <= max {
                break;
            }
            bytes = bytes.saturating_sub(image.root.bytes);
            surplus.push(image.digest);
        }
        surplus
    }
}

fn described(image: store::Image, used: &BTreeMap<Digest, Vec<String>>) -> Image {
    let of = |digest: &Digest| used.get(digest).cloned().unwrap_or_default();
    let mut used_by = of(&image.digest);
    used_by.extend(of(&image.root.digest));
    used_by.sort();
    used_by.dedup();
    let platform = match &image.platform.variant {
        Some(variant) => format!("{}/{}/{variant}", image.platform.os, image.platform.architecture),
        None => format!("{}/{}", image.platform.os, image.platform.architecture),
    };
    Image {
        digest: image.digest.to_string(),
        references: image.references.into_iter().collect(),
        platform,
        bytes: image.root.bytes,
        entries: image.root.entries,
        created_at: rfc3339(image.created_at),
        used_by,
    }
}

fn collected(gone: store::Collected) -> Collected {
    let images = gone.images.iter().map(Digest::to_string).collect();
    Collected { images, files: gone.files, bytes: gone.bytes }
}

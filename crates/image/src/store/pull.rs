//! Bringing an image in: find it, fetch what is missing, and put each layer into the root as soon as it is whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::{BoxFuture, try_join_all};
use moat_model::ErrorKind;
use tokio::sync::Semaphore;

use super::blobs::Received;
use super::index::{self, Record};
use super::report::Report;
use super::{Image, Inner, Pin, Platform, Root, Source, now, root_digest};
use crate::Digest;
use crate::convert::{Feed, Stop, feed_directory};
use crate::disk;
use crate::erofs::{Compression, RootBuilder, RootSummary};
use crate::error::{Error, Result};
use crate::manifest::{self, Configuration, Descriptor};
use crate::platform::check_platform;
use crate::progress::{LayerProgress, PullPhase};
use crate::registry::Repository;
use crate::source::{self, Found, Origin, Part};

/// Times a blob is begun anew after other bytes came than asked for.
const ANEW_MAX: usize = 2;

/// A file of the scratch directory, gone with this unless it got its name.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Opening the store removes what this cannot.
        let _ = disk::remove(&self.0);
    }
}

/// Runs on the blocking pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(disk::lost)?
}

async fn permit(semaphore: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>> {
    semaphore.acquire().await.map_err(|e| Error::caused_by(ErrorKind::Internal, "wait for a place", e))
}

/// From any source.
pub(super) async fn pull(
    inner: &Arc<Inner>,
    source: Source,
    platform: Option<Platform>,
    report: Report,
) -> Result<(Image, Pin)> {
    report.phase(PullPhase::Resolving);
    let wanted = platform.unwrap_or_else(Platform::host);
    let (found, name) = match source {
        Source::Registry { reference, auth } => {
            let text = reference.to_string();
            if let Some(digest) = reference.digest
                && let Some(known) = known_by_digest(inner, &text, &digest, &wanted)?
            {
                // Pinned, and looked at once more: a collection may just have taken it.
                let _pin = inner.pin_image(&known);
                if inner.index().records.contains_key(&known) {
                    return finish(inner, known, &text, report).await;
                }
            }
            let repository = inner.registries.open(&reference, auth).await?;
            (source::resolve_remote(repository, &reference, &wanted).await?, text)
        }
        Source::OciLayout { path, name } => {
            let text = format!("oci:{}{}", path.display(), name.as_ref().map_or(String::new(), |n| format!(":{n}")));
            let wanted = wanted.clone();
            (blocking(move || source::open_layout(&path, name.as_deref(), &wanted)).await?, text)
        }
        Source::DockerArchive { path, name } => {
            let text = format!("docker-archive:{}", path.display());
            let (found, names) = blocking(move || source::open_docker_archive(&path, name.as_deref())).await?;
            let text = names.first().map_or(text, ToString::to_string);
            (found, text)
        }
        Source::RootArchive { path } => {
            let text = format!("tar:{}", path.display());
            let configuration = manifest::bare_configuration(wanted.clone());
            (blocking(move || source::open_root_archive(&path, configuration)).await?, text)
        }
        Source::Directory { path } => return directory(inner, path, wanted, report).await,
    };
    take(inner, found, &wanted, &name, report).await
}

/// An image that a reference with a digest means, of an index or of a manifest. By whatever name it came: a digest says
/// everything.
fn known_by_digest(inner: &Inner, text: &str, digest: &Digest, wanted: &Platform) -> Result<Option<Digest>> {
    if known(inner, digest, wanted, text)? {
        return Ok(Some(*digest));
    }
    Ok(inner.index().by_reference_on(text, wanted).map(|record| record.image.digest))
}

/// Whether the image is in the store. One that is, but for another platform, is refused as if it had just been fetched.
fn known(inner: &Inner, digest: &Digest, wanted: &Platform, what: &str) -> Result<bool> {
    let platform = inner.index().records.get(digest).map(|record| record.image.platform.clone());
    match platform {
        None => Ok(false),
        Some(there) => check_platform(&there, wanted, what).map(|()| true),
    }
}

/// The image is there: remember its name, and pin it.
async fn finish(inner: &Arc<Inner>, digest: Digest, name: &str, report: Report) -> Result<(Image, Pin)> {
    let pin = inner.pin_image(&digest);
    let (shared, name) = (Arc::clone(inner), name.to_owned());
    let image = blocking(move || shared.name_image(&digest, &name)).await?;
    report.update(|progress| {
        progress.digest = Some(digest);
        progress.phase = PullPhase::Done;
        for layer in &mut progress.layers {
            layer.done = true;
        }
    });
    Ok((image, pin))
}

/// Makes sure that a found image is in the store.
async fn take(inner: &Arc<Inner>, found: Found, wanted: &Platform, name: &str, report: Report) -> Result<(Image, Pin)> {
    let digest = found.digest;
    // Everything is pinned before the first look: a collection beside us takes nothing that we then count on.
    let layers = found.manifest.layers.iter().map(|(layer, _)| layer.digest);
    let pin = inner.pins.pin(layers.chain([digest, root_digest(&digest)]));
    report.update(|progress| progress.digest = Some(digest));
    if known(inner, &digest, wanted, &found.what)? {
        return finish(inner, digest, name, report).await;
    }
    let _busy = wait_for_others(inner, digest, &report).await;
    if known(inner, &digest, wanted, &found.what)? {
        return finish(inner, digest, name, report).await;
    }
    let flight = inner.flights.begin(digest);
    let shared = report.shared_with(&flight);
    let configuration = found.configuration().await?;
    let count = found.manifest.layers.len();
    manifest::check_configuration(&configuration, count, wanted, &found.what)?;
    check_size(&found, inner.config.limits.bytes_max)?;
    let blobs: Vec<Digest> = match &found.origin {
        Origin::Registry(_) => found.manifest.layers.iter().map(|(layer, _)| layer.digest).collect(),
        Origin::Files(_) | Origin::Bare(..) => Vec::new(),
    };
    let made = layers_to_root(inner, &found, &configuration, &shared).await?;
    insert(inner, New { digest, configuration, blobs, pin: pin.clone() }, made).await?;
    finish(inner, digest, name, shared).await
}

/// Refuses an image before its first layer that says itself that it is too large.
fn check_size(found: &Found, most: u64) -> Result<()> {
    let sizes = found.manifest.layers.iter().map(|(layer, _)| layer.size);
    let total = sizes.fold(0_u64, u64::saturating_add);
    if total > most {
        let text = format!("{}: its layers have {total} bytes; the most is {most} ([oci] limits)", found.what);
        return Err(Error::new(ErrorKind::InvalidSpec, text));
    }
    Ok(())
}

/// Waits until nobody else brings this image in, and shows their progress meanwhile.
async fn wait_for_others(inner: &Inner, digest: Digest, report: &Report) -> tokio::sync::OwnedMutexGuard<()> {
    let lock = inner.images_busy.lock(digest);
    match inner.flights.watch(&digest) {
        None => lock.await,
        Some(progress) => {
            let follow = async {
                report.follow(progress).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                guard = lock => guard,
                () = follow => std::future::pending().await,
            }
        }
    }
}

/// Fetches and feeds all layers, each as soon as it can be.
async fn layers_to_root(
    inner: &Arc<Inner>,
    found: &Found,
    configuration: &Configuration,
    report: &Report,
) -> Result<(Scratch, RootSummary)> {
    let layers = &found.manifest.layers;
    report.update(|progress| {
        progress.phase = PullPhase::Fetching;
        progress.layers = layers
            .iter()
            .map(|(layer, _)| LayerProgress {
                digest: layer.digest,
                bytes_done: 0,
                bytes_total: layer.size,
                cached: false,
                done: false,
            })
            .collect();
    });
    let (scratch, builder) = new_builder(inner, layers.len()).await?;
    let stop = Stop::default();
    let mut each: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
    for (index, (blob, compression)) in layers.iter().enumerate() {
        let diff_id = configuration.diff_ids.get(index).copied();
        let job = Layer { index, blob, compression: *compression, diff_id };
        each.push(Box::pin(one_layer(inner, found, job, Arc::clone(&builder), &stop, report)));
    }
    // The semaphores bound how many of them do anything at once.
    try_join_all(each).await?;
    report.phase(PullPhase::Converting);
    let summary = finish_builder(inner, builder).await?;
    Ok((scratch, summary))
}

async fn new_builder(inner: &Arc<Inner>, layers: usize) -> Result<(Scratch, Arc<RootBuilder>)> {
    let scratch = Scratch(inner.scratch_file());
    let (path, limits) = (scratch.0.clone(), inner.config.limits);
    let builder = blocking(move || {
        let made = File::options().read(true).write(true).create_new(true).open(&path);
        Ok(RootBuilder::new(made.map_err(|e| disk::failed("make", &path, e))?, layers, limits))
    });
    Ok((scratch, Arc::new(builder.await?)))
}

async fn finish_builder(inner: &Inner, builder: Arc<RootBuilder>) -> Result<RootSummary> {
    // Every thread that had the builder has ended, or this would not have been reached.
    let builder = Arc::try_unwrap(builder)
        .map_err(|_| Error::new(ErrorKind::Internal, "a layer is still being read after all were"))?;
    blocking(move || builder.finish()).await.map_err(|e| disk::name_full(e, &inner.scratch_dir()))
}

struct Layer<'a> {
    index: usize,
    blob: &'a Descriptor,
    compression: Compression,
    diff_id: Option<Digest>,
}

async fn one_layer(
    inner: &Arc<Inner>,
    found: &Found,
    layer: Layer<'_>,
    builder: Arc<RootBuilder>,
    stop: &Stop,
    report: &Report,
) -> Result<()> {
    let index = layer.index;
    let (part, verify, counts) = match &found.origin {
        Origin::Registry(repository) => {
            fetch(inner, repository, layer.blob, index, report).await?;
            let file = inner.blobs.path(&layer.blob.digest);
            (Part { file, offset: 0, len: layer.blob.size }, None, false)
        }
        Origin::Files(parts) | Origin::Bare(parts, _) => {
            let part = source::part_of(parts, layer.blob, &found.what)?.clone();
            (part, Some(layer.blob.digest), true)
        }
    };
    let _place = permit(&inner.conversions).await?;
    let counter = report.clone();
    let feed = Feed {
        index,
        part,
        compression: layer.compression,
        verify,
        diff_id: layer.diff_id,
        stop: stop.flag(),
        on_bytes: Box::new(move |n| {
            if counts {
                counter.layer(index, |layer| layer.bytes_done += n);
            }
        }),
    };
    blocking(move || feed.run(&builder)).await.map_err(|e| disk::name_full(e, &inner.scratch_dir()))?;
    report.layer(index, |layer| layer.done = true);
    Ok(())
}

/// Makes sure that a blob is in the store, verified.
async fn fetch(inner: &Inner, repository: &Repository, blob: &Descriptor, index: usize, report: &Report) -> Result<()> {
    for anew in 0..=ANEW_MAX {
        let lock = inner.blobs_busy.lock(blob.digest).await;
        if inner.blobs.has(blob) {
            report.layer(index, |layer| {
                layer.cached = layer.bytes_done == 0;
                layer.bytes_done = layer.bytes_total;
            });
            return Ok(());
        }
        let _place = permit(&inner.transfers).await?;
        let receiving = inner.blobs.receive(blob, lock).await?;
        let resumed = receiving.resumed > 0;
        let mut counted = Counted { receiving, index, report };
        if let Err(error) = repository.blob(blob, &mut counted, anew).await {
            counted.receiving.leave().await?;
            return Err(error);
        }
        match counted.receiving.end().await? {
            Received::Whole => return Ok(()),
            // What an earlier process left may be what was wrong; and another place may have the right bytes.
            Received::Other(_) if anew < ANEW_MAX && (resumed || anew + 1 < repository.places()) => {
                tracing::warn!(digest = %blob.digest, "a blob came with other bytes; it is fetched anew");
            }
            Received::Other(is) => return Err(repository.other_bytes(blob, is)),
            Received::Partial => break,
        }
    }
    Err(Error::new(ErrorKind::Internal, format!("{} was not written to its end", blob.digest)))
}

/// A blob being received that shows how far it is.
struct Counted<'a> {
    receiving: super::blobs::Receiving,
    index: usize,
    report: &'a Report,
}

impl crate::registry::Sink for Counted<'_> {
    fn have(&self) -> u64 {
        self.receiving.have()
    }

    async fn put(&mut self, piece: bytes::Bytes) -> Result<()> {
        self.receiving.put(piece).await?;
        let have = self.have();
        self.report.layer(self.index, |layer| layer.bytes_done = have);
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.receiving.restart().await?;
        self.report.layer(self.index, |layer| layer.bytes_done = 0);
        Ok(())
    }
}

/// A directory: its name comes from the root file made of it, so it is made before it is known.
async fn directory(inner: &Arc<Inner>, path: PathBuf, wanted: Platform, report: Report) -> Result<(Image, Pin)> {
    let name = format!("dir:{}", path.display());
    report.phase(PullPhase::Converting);
    let (scratch, builder) = new_builder(inner, 1).await?;
    let builder = {
        let _place = permit(&inner.conversions).await?;
        let fed = blocking(move || feed_directory(&builder, &path).map(|()| builder)).await;
        fed.map_err(|e| disk::name_full(e, &inner.scratch_dir()))?
    };
    let summary = finish_builder(inner, builder).await?;
    let file = scratch.0.clone();
    let content = blocking(move || super::blobs::digest_of_file(&file)).await?;
    let configuration = manifest::bare_configuration(wanted);
    let digest = source::made_digest("directory", &content, &configuration);
    let pin = inner.pin_image(&digest);
    insert(inner, New { digest, configuration, blobs: Vec::new(), pin: pin.clone() }, (scratch, summary)).await?;
    finish(inner, digest, &name, report).await
}

/// An image that is about to be there.
struct New {
    digest: Digest,
    configuration: Configuration,
    blobs: Vec<Digest>,
    /// Held until it is: also when nobody waits for it any more.
    pin: Pin,
}

/// Gives the root its name, and writes the record: from here on the image is there. If somebody was faster, theirs stays.
async fn insert(inner: &Arc<Inner>, new: New, (scratch, summary): (Scratch, RootSummary)) -> Result<()> {
    let inner = Arc::clone(inner);
    blocking(move || {
        let _pin = new.pin;
        let _one = inner.changes();
        if inner.index().records.contains_key(&new.digest) {
            return Ok(());
        }
        let root = root_digest(&new.digest);
        let path = inner.root_path(&root);
        disk::publish(&scratch.0, &path)?;
        let at = now();
        let image = Image {
            digest: new.digest,
            references: BTreeSet::new(),
            platform: new.configuration.platform,
            config: new.configuration.config,
            root: Root { digest: root, path, bytes: summary.bytes, entries: summary.entries },
            created_at: at,
        };
        let record = Record::new(image, new.blobs, at.as_millis());
        index::write(&inner.records(), &inner.scratch_file(), &record)?;
        inner.index().records.insert(new.digest, record);
        Ok(())
    })
    .await
}

impl Inner {
    /// Gives an image one more name, and takes it from whoever had it. Blocks.
    fn name_image(&self, digest: &Digest, name: &str) -> Result<Image> {
        let _one = self.changes();
        let gone = || Error::new(ErrorKind::Conflict, format!("image {digest} was removed meanwhile"));
        let mut record = self.index().records.get(digest).cloned().ok_or_else(gone)?;
        if record.image.references.insert(name.to_owned()) {
            record.fetched_at = now().as_millis();
            index::write(&self.records(), &self.scratch_file(), &record)?;
            let moved = {
                let mut index = self.index();
                index.records.insert(*digest, record.clone());
                index.move_reference(name, digest, &record.image.platform)
            };
            for other in moved {
                index::write(&self.records(), &self.scratch_file(), &other)?;
            }
        }
        Ok(record.image)
    }
}

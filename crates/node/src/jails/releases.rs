//! Releases: names for layers of the image store that jails are made of. They belong to the node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moat_image::ImageStore;
use moat_image::progress::Progress;
use moat_image::store::{Image, Pin, Source};
use moat_model::jail::{Bootstrap, JailEvent, ReleaseArchive, ReleaseName, ReleaseSource, ReleaseView};
use moat_model::spec::RootLayer;
use moat_model::{ErrorKind, Namespace, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::outlet::blocking;
use crate::{clock, durable};

use super::events::Events;
use super::record::FORMAT;
use super::table::{Key, Shared};
use super::{archive, copy, place};

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseRecord {
    format: u32,
    pub name: ReleaseName,
    /// For people.
    pub source: String,
    pub image: String,
    pub layers: Vec<RootLayer>,
    pub created_at: Timestamp,
}

#[derive(Debug)]
struct Entry {
    record: ReleaseRecord,
    _pins: Vec<Pin>,
}

/// All releases.
#[derive(Debug)]
pub(super) struct Releases {
    dir: PathBuf,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<ReleaseName, Entry>,
    /// Those being made.
    making: BTreeSet<ReleaseName>,
}

/// The right to make a release; given back when dropped.
struct Making<'a>(&'a Releases, ReleaseName);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.table().making.remove(&self.1);
    }
}

fn pins(store: &ImageStore, record: &ReleaseRecord) -> Vec<Pin> {
    super::record::digests(&record.layers, Some(&record.image)).map(|digest| store.pin(digest)).collect()
}

impl Releases {
    /// Reads the records. Blocking.
    pub(super) fn open(dir: PathBuf, store: &ImageStore) -> Result<Self> {
        let failed = |e| Error::caused_by(ErrorKind::Unavailable, "read the releases of jails", e);
        place::make(&dir).map_err(failed)?;
        let mut entries = BTreeMap::new();
        for (_, path) in durable::list(&dir).map_err(failed)? {
            match std::fs::read(&path).map(|body| serde_json::from_slice::<ReleaseRecord>(&body)) {
                Ok(Ok(record)) if record.format == FORMAT => {
                    let _pins = pins(store, &record);
                    entries.insert(record.name.clone(), Entry { record, _pins });
                }
                _ => tracing::warn!(path = %path.display(), "not a release of this version, left alone"),
            }
        }
        Ok(Self { dir, table: Mutex::new(Table { entries, ..Table::default() }) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that jails can be made of.
    pub(super) fn get(&self, name: &ReleaseName) -> Result<ReleaseRecord> {
        let table = self.table();
        table.entries.get(name).map(|entry| entry.record.clone()).ok_or_else(|| {
            let there: Vec<&str> = table.entries.keys().map(ReleaseName::as_str).collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            let what = format!("release: {name} is not bootstrapped; there are: {there}; moat jail bootstrap {name}");
            Error::new(ErrorKind::NotFound, what)
        })
    }

    pub(super) fn all(&self) -> Vec<ReleaseRecord> {
        self.table().entries.values().map(|entry| entry.record.clone()).collect()
    }

    fn begin(&self, name: &ReleaseName) -> Result<Making<'_>> {
        if !self.table().making.insert(name.clone()) {
            let what = format!("release {name}: is just being made; try again when that is done");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        Ok(Making(self, name.clone()))
    }

    fn path(&self, name: &ReleaseName) -> PathBuf {
        // A release's name may end like a file that is being written.
        self.dir.join(format!("{name}.json"))
    }
}

impl Shared {
    /// Makes a release, unless it is there and nobody wants it anew. A jail it is made of is one of `namespace`.
    pub(super) async fn bootstrap(
        self: &Arc<Self>,
        namespace: &Namespace,
        asked: Bootstrap,
        events: &Events,
    ) -> Result<ReleaseView> {
        let _making = self.releases.begin(&asked.name)?;
        if !asked.update
            && let Ok(record) = self.releases.get(&asked.name)
            && record.layers.iter().all(|layer| layer.path.exists())
        {
            if let Some(ReleaseSource::Jail(jail)) = &asked.source {
                let what = format!("release {}: is there already; name another for jail {jail}", asked.name);
                return Err(Error::new(ErrorKind::Conflict, what));
            }
            events.note(format!("release {} is there already", asked.name)).await;
            return Ok(self.shown_release(record, None));
        }
        let given = asked.source.clone().or_else(|| self.base.config.releases.get(&asked.name).cloned());
        let Some(source) = given else {
            let known: Vec<&str> = self.base.config.releases.keys().map(ReleaseName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let what = format!(
                "release: the operator names no source of {}; known are: {known}; name an image, or add it to \
                 [jails.releases]",
                asked.name
            );
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        let text = describe(&source);
        let (image, pin) = self.pull_from(source, namespace, asked.update, events).await?;
        self.keep_release(asked.name, text, &image, vec![pin]).await
    }

    /// Makes one of an archive that was sent.
    pub(super) async fn bootstrap_from(
        &self,
        name: ReleaseName,
        kind: ReleaseArchive,
        archive: PathBuf,
        events: &Events,
    ) -> Result<ReleaseView> {
        let _making = self.releases.begin(&name)?;
        let source = match kind {
            ReleaseArchive::Oci => Source::OciLayout { path: archive, name: None },
            ReleaseArchive::Docker => Source::DockerArchive { path: archive, name: None },
            ReleaseArchive::Root => Source::RootArchive { path: archive },
        };
        let (image, pin) = self.pull(source, events).await?;
        self.keep_release(name, "an archive that was sent".to_owned(), &image, vec![pin]).await
    }

    async fn pull_from(
        self: &Arc<Self>,
        source: ReleaseSource,
        namespace: &Namespace,
        update: bool,
        events: &Events,
    ) -> Result<(Image, Pin)> {
        let source = match source {
            ReleaseSource::Jail(jail) => return self.pull_jail(&(namespace.clone(), jail), events).await,
            // An image that is in the store is not asked for again, unless it is to be the newest.
            ReleaseSource::Image(text) if !update && let Some(found) = self.base.templates.store().find(&text) => {
                return Ok(found);
            }
            ReleaseSource::Image(text) => {
                let reference = text.parse().map_err(|e| Error::invalid("source", e))?;
                Source::Registry { reference, auth: None }
            }
            ReleaseSource::OciLayout(path) => Source::OciLayout { path: there(path)?, name: None },
            ReleaseSource::DockerArchive(path) => Source::DockerArchive { path: there(path)?, name: None },
            ReleaseSource::Directory(path) => Source::Directory { path: there(path)? },
            ReleaseSource::RootArchive(path) => Source::RootArchive { path: there(path)? },
        };
        self.pull(source, events).await
    }

    async fn pull_jail(self: &Arc<Self>, key: &Key, events: &Events) -> Result<(Image, Pin)> {
        let scratch = self.place.new_scratch();
        let pulled = async {
            let path = archive::root_of(self, key, &scratch, events).await?;
            self.pull(Source::RootArchive { path }, events).await
        }
        .await;
        let left = blocking("remove what a release was made of", move || copy::remove(&scratch)).await;
        left.unwrap_or_else(|error| tracing::warn!(error = %error.chain(), "left until the next start"));
        pulled
    }

    async fn pull(&self, source: Source, events: &Events) -> Result<(Image, Pin)> {
        let (progress, mut news) = watch::channel(Progress::default());
        let told = events.clone();
        let telling = async move {
            while news.changed().await.is_ok() {
                let now = news.borrow_and_update().clone();
                let done = now.layers.iter().map(|layer| layer.bytes_done).sum();
                let total = now.layers.iter().map(|layer| layer.bytes_total).sum();
                let doing = now.phase.as_str().to_owned();
                told.tell(JailEvent::Progress { doing, done, total: Some(total) }).await;
            }
            std::future::pending().await
        };
        let cancel = self.closed.child_token();
        tokio::select! {
            biased;
            pulled = self.base.templates.store().pull(source, None, progress, cancel) => pulled,
            () = telling => Err(Error::new(ErrorKind::Internal, "pull an image")),
        }
    }

    async fn keep_release(
        &self,
        name: ReleaseName,
        source: String,
        image: &Image,
        pins: Vec<Pin>,
    ) -> Result<ReleaseView> {
        let layers = vec![crate::templates::layer(&image.root.digest, &image.root.path)];
        let created_at = clock::now();
        let image = image.digest.to_string();
        let record = ReleaseRecord { format: FORMAT, name: name.clone(), source, image, layers, created_at };
        let body = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write a release", e))?;
        let path = self.releases.path(&name);
        blocking("write the record of a release", move || durable::replace(&path, &body)).await?;
        let mut kept = self::pins(self.base.templates.store(), &record);
        kept.extend(pins);
        let entry = Entry { record: record.clone(), _pins: kept };
        self.releases.table().entries.insert(name, entry);
        Ok(self.shown_release(record, None))
    }

    /// Removes one that no jail needs.
    pub(super) async fn drop_release(&self, name: &ReleaseName) -> Result<()> {
        let _making = self.releases.begin(name)?;
        let record = self.releases.get(name)?;
        if let Some(user) = self.users_of(&record, None).first() {
            let what = format!("release {name}: jail {user} needs it; destroy or convert that first");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let path = self.releases.path(name);
        blocking("remove the record of a release", move || durable::remove(&path)).await?;
        self.releases.table().entries.remove(name);
        Ok(())
    }

    pub(super) fn shown_release(&self, record: ReleaseRecord, namespace: Option<&Namespace>) -> ReleaseView {
        ReleaseView {
            used_by: self.users_of(&record, namespace),
            layers: record.layers.iter().map(|layer| layer.digest.clone()).collect(),
            name: record.name,
            source: record.source,
            created_at: record.created_at,
        }
    }

    /// Jails that stand on it, or will at their next start.
    fn users_of(&self, release: &ReleaseRecord, namespace: Option<&Namespace>) -> Vec<String> {
        let uses = |(key, record): &(Key, Arc<super::record::JailRecord>)| {
            namespace.is_none_or(|own| *own == key.0)
                && super::plan::has_layers(record.spec.kind)
                && record.spec.release.as_ref() == Some(&release.name)
        };
        self.records().iter().filter(|one| uses(one)).map(|(key, _)| key.1.to_string()).collect()
    }
}

fn describe(source: &ReleaseSource) -> String {
    match source {
        ReleaseSource::Image(text) => text.clone(),
        ReleaseSource::OciLayout(path) => format!("oci:{}", path.display()),
        ReleaseSource::DockerArchive(path) => format!("docker:{}", path.display()),
        ReleaseSource::Directory(path) => format!("dir:{}", path.display()),
        ReleaseSource::RootArchive(path) => format!("rootfs:{}", path.display()),
        ReleaseSource::Jail(name) => format!("jail {name}"),
    }
}

/// A path the operator names.
fn there(path: PathBuf) -> Result<PathBuf> {
    match path.exists() {
        true => Ok(path),
        false => Err(Error::new(ErrorKind::NotFound, format!("source: there is no {} on the node", path.display()))),
    }
}

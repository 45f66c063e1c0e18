//! Templates by name: warmed up from images in the background, versioned, never changed under a running sandbox.
//!
//! A version is an image digest and the defaults that go over it; the root file is the image store's. Warming a name up
//! again makes a new version only if the image behind the reference has moved, or other defaults were given; what lives
//! from the old version keeps it. A warm-up that a dying daemon leaves behind is started again by the next one.

mod defaults;
mod images;
pub(crate) mod names;
mod record;
mod resolve;
#[cfg(test)]
pub(crate) mod tests;
mod warmup;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_api::nex::event::rfc3339;
use moat_api::rest::template::{PoolStatus, Template, TemplateDefaults, TemplateList, Warmup, WarmupStatus};
use moat_engine::Engine;
use moat_image::store::{Image, Pin};
use moat_image::{Digest, ImageStore};
use moat_model::spec::Owner;
use moat_model::{ErrorKind, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::error::{Error, Result};

use record::{RecordStore, Task, TemplateRecord};
pub use resolve::Resolved;
pub(crate) use resolve::layer;
pub use warmup::layers as layer_statuses;

/// Templates on one node: each holds an image, so this is far beyond any disk.
const TEMPLATES_MAX: usize = 1000;
/// Warm-ups at a time; the others wait. Each fetches several layers at once already.
const WARMUPS_MAX: usize = 2;
/// Longest that a request waits for a warm-up it has cancelled to be over.
const CANCEL_WITHIN: Duration = Duration::from_secs(10);

/// The templates that are always there: views of the host, and nothing.
pub const BUILT_IN: [&str; 2] = ["host", "scratch"];

/// What else needs images: sandboxes and snapshots.
#[derive(Debug, Default)]
pub struct ImageUse {
    /// Images and layers by digest, each with what needs it, for people.
    pub layers: Vec<(Digest, String)>,
    /// Template versions that something lives from.
    pub versions: Vec<(String, u64)>,
}

/// Who knows what else needs images.
pub trait ImageUsers: Send + Sync + std::fmt::Debug {
    /// Everything that must stay; `None` if that is not known, so that nothing may go.
    fn in_use(&self) -> Option<ImageUse>;
    /// The warm pool of a template, if it has one.
    fn pool_of(&self, template: &str) -> Option<PoolStatus>;
}

/// The templates and images of this node. Cheap to clone. They belong to the node, not to a tenant.
#[derive(Debug, Clone)]
pub struct Templates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: ImageStore,
    engine: Engine,
    records: RecordStore,
    table: Mutex<BTreeMap<String, Entry>>,
    /// Held while a record is written, so that the last state of the table is the last on disk.
    writing: Mutex<()>,
    users: Mutex<Vec<Arc<dyn ImageUsers>>>,
    warmups: Semaphore,
    tasks: TaskTracker,
    closed: CancellationToken,
    /// Changes when a template gets another version, or goes.
    changed: watch::Sender<u64>,
    cache_bytes_max: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    record: TemplateRecord,
    /// Of each version that is in the store.
    images: BTreeMap<u64, (Image, Pin)>,
    status: watch::Sender<WarmupStatus>,
    /// Ends the warm-up under way.
    running: Option<CancellationToken>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Entries are changed whole, so a panic elsewhere cannot have left one half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who else needs images.
    fn users(&self) -> Vec<Arc<dyn ImageUsers>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What all of them need; `None` if that is not known, so that nothing may go.
    fn in_use(&self) -> Option<ImageUse> {
        let users = self.users();
        let all: Option<Vec<ImageUse>> = users.iter().map(|users| users.in_use()).collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some(all.into_iter().fold(ImageUse::default(), |mut sum, one| {
            sum.layers.extend(one.layers);
            sum.versions.extend(one.versions);
            sum
        }))
    }

    /// Brings the record on disk to what the table says: written, or removed. Blocking.
    fn persist(&self, name: &str) -> Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.table().get(name).map(|entry| entry.record.clone());
        match record {
            Some(record) => self.records.write(&record),
            None => self.records.remove(name),
        }
    }

    async fn persisted(self: &Arc<Self>, name: &str) -> Result<()> {
        let (this, name) = (Arc::clone(self), name.to_owned());
        tokio::task::spawn_blocking(move || this.persist(&name))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write a template record", e))?
    }
}

impl Templates {
    /// Opens the templates in `dir`. Warm-ups that were under way begin again with [`Templates::go_on`].
    pub fn open(dir: &Path, store: ImageStore, engine: Engine, cache_bytes_max: Option<u64>) -> Result<Self> {
        let records = RecordStore::open(dir)?;
        let mut table = BTreeMap::new();
        for mut record in records.read_all()? {
            let mut images = BTreeMap::new();
            for version in &record.versions {
                if let Some(found) = store.get(&version.digest) {
                    images.insert(version.number, found);
                }
            }
            let current = record.current().map(|v| v.number);
            if current.is_some_and(|n| !images.contains_key(&n)) {
                tracing::warn!(template = record.name, "its image is gone from the store: warming it up again");
                record.task = Task::Warming { since: clock::now() };
            }
            let status = watch::Sender::new(warmup::status_of(&record));
            table.insert(record.name.clone(), Entry { record, images, status, running: None });
        }
        let shared = Shared {
            store,
            engine,
            records,
            table: Mutex::new(table),
            writing: Mutex::new(()),
            users: Mutex::default(),
            warmups: Semaphore::new(WARMUPS_MAX),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
            changed: watch::Sender::new(0),
            cache_bytes_max,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who else needs images, one more of them. Before the first nothing is removed.
    pub fn add_users(&self, users: Arc<dyn ImageUsers>) {
        self.shared.users.lock().unwrap_or_else(PoisonError::into_inner).push(users);
    }

    /// Starts the warm-ups again that an earlier daemon did not finish, and the round that removes what nobody needs.
    pub fn go_on(&self) {
        let unfinished: Vec<Warmup> = {
            let table = self.shared.table();
            let warming = |e: &&Entry| matches!(e.record.task, Task::Warming { .. });
            table.values().filter(warming).map(|e| e.record.request.clone()).collect()
        };
        for request in unfinished {
            tracing::info!(template = request.name, "its warm-up was interrupted: starting it again");
            if let Err(error) = self.begin(request) {
                tracing::warn!(error = %error.chain(), "interrupted warm-up not started again");
            }
        }
        let this = self.clone();
        self.shared.tasks.spawn(async move { this.rounds().await });
    }

    /// Ends the background tasks. A warm-up under way goes on in the next daemon.
    pub async fn close(&self) {
        self.shared.closed.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Takes a warm-up; it goes on in the background. One under way for the same name and image is joined, for another
    /// image is a conflict.
    pub async fn warm_up(&self, request: Warmup) -> Result<WarmupStatus> {
        warmup::check(&request, self.shared.store.find(&request.image).is_some())?;
        let name = request.name.clone();
        if let Some(written) = self.begin(request)? {
            written.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "the node is shutting down: nothing was started"))
            })?;
        }
        self.status(&name)
    }

    /// Gives a warm-up up. The version in use stays.
    pub async fn cancel(&self, name: &str) -> Result<WarmupStatus> {
        let mut status = {
            let table = self.shared.table();
            let entry = table.get(name).ok_or_else(|| no_such(name))?;
            let Some(running) = &entry.running else {
                return Err(Error::new(ErrorKind::Conflict, format!("template {name}: no warm-up is under way")));
            };
            running.cancel();
            entry.status.subscribe()
        };
        let over = tokio::time::timeout(CANCEL_WITHIN, status.wait_for(|s| s.status != "warming")).await;
        match over {
            Ok(Ok(status)) => Ok(status.clone()),
            Ok(Err(_)) => Err(no_such(name)),
            Err(_) => Err(Error::new(ErrorKind::Deadline, format!("template {name}: its warm-up is still ending"))),
        }
    }

    /// How far it is.
    pub fn status(&self, name: &str) -> Result<WarmupStatus> {
        if BUILT_IN.contains(&name) {
            return Ok(warmup::always_ready(name));
        }
        self.watch(name).map(|status| status.borrow().clone())
    }

    /// Follows a warm-up: the latest of every change.
    pub fn watch(&self, name: &str) -> Result<watch::Receiver<WarmupStatus>> {
        if BUILT_IN.contains(&name) {
            return Ok(watch::Sender::new(warmup::always_ready(name)).subscribe());
        }
        self.shared.table().get(name).map(|entry| entry.status.subscribe()).ok_or_else(|| no_such(name))
    }

    /// One.
    pub fn get(&self, name: &str) -> Result<Template> {
        let mut template = if BUILT_IN.contains(&name) {
            built_in(name)
        } else {
            self.shared.table().get(name).map(described).ok_or_else(|| no_such(name))?
        };
        self.count(std::slice::from_mut(&mut template));
        Ok(template)
    }

    /// All, `host` and `scratch` included.
    pub fn list(&self) -> TemplateList {
        let mut templates: Vec<Template> = BUILT_IN.into_iter().map(built_in).collect();
        templates.extend(self.shared.table().values().map(described));
        templates.sort_by(|a, b| a.name.cmp(&b.name));
        self.count(&mut templates);
        TemplateList { templates }
    }

    /// Removes one; sandboxes made from it live on, its pool is emptied.
    pub async fn remove(&self, name: &str) -> Result<()> {
        if BUILT_IN.contains(&name) {
            return Err(Error::new(ErrorKind::Denied, format!("template {name} is always there")));
        }
        match self.cancel(name).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        if self.shared.table().remove(name).is_none() {
            return Err(no_such(name));
        }
        self.shared.persisted(name).await?;
        self.shared.changed.send_modify(|n| *n += 1);
        let this = self.clone();
        self.shared.tasks.spawn(async move { this.round().await });
        Ok(())
    }

    /// Changes when a template gets another version, or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Names of templates that sandboxes can be made from.
    pub fn ready(&self) -> Vec<String> {
        let mut names: Vec<String> = BUILT_IN.map(str::to_owned).to_vec();
        let table = self.shared.table();
        names.extend(table.values().filter(|e| usable(e)).map(|e| e.record.name.clone()));
        drop(table);
        names.sort();
        names
    }

    /// Fills in what the engine knows: sandboxes that live from each.
    fn count(&self, templates: &mut [Template]) {
        let mut living: BTreeMap<String, u64> = BTreeMap::new();
        for view in self.shared.engine.list() {
            if view.origin.owner == Owner::Api
                && !view.phase.is_terminal()
                && let Some(template) = view.origin.template
            {
                *living.entry(template.name).or_default() += 1;
            }
        }
        for template in templates {
            template.sandboxes = living.get(&template.name).copied().unwrap_or(0);
            template.pool = self.shared.users().iter().find_map(|users| users.pool_of(&template.name));
        }
    }
}

fn usable(entry: &Entry) -> bool {
    entry.record.current().is_some_and(|v| entry.images.contains_key(&v.number))
}

fn built_in(name: &str) -> Template {
    Template {
        name: name.to_owned(),
        image: None,
        digest: None,
        version: 1,
        status: "ready".to_owned(),
        bytes: None,
        defaults: TemplateDefaults::default(),
        sandboxes: 0,
        pool: None,
        created_at: None,
    }
}

fn described(entry: &Entry) -> Template {
    let current = entry.record.current();
    let image = current.and_then(|v| entry.images.get(&v.number)).map(|(image, _)| image);
    let defaults = current.zip(image).map(|(v, image)| defaults::of_template(&image.config, &v.request));
    Template {
        name: entry.record.name.clone(),
        image: Some(current.map_or(&entry.record.request.image, |v| &v.request.image).clone()),
        digest: current.map(|v| v.digest.to_string()),
        version: current.map_or(0, |v| v.number),
        status: entry.status.borrow().status.clone(),
        bytes: image.map(|i| i.root.bytes),
        defaults: defaults.unwrap_or_default(),
        sandboxes: 0,
        pool: None,
        created_at: current.map(|v| rfc3339(v.created_at)),
    }
}

fn no_such(name: &str) -> Error {
    let shown: String = name.chars().take(80).collect();
    Error::new(ErrorKind::NotFound, format!("no such template {shown:?}"))
}

/// Says why a text cannot name the template of a pool: the rule of [`names::check`], with `host` and `scratch` allowed.
pub(crate) fn check_pool_name(name: &str) -> std::result::Result<(), String> {
    names::check(name)
}

/// When something was, for replies.
fn shown(at: Timestamp) -> Option<String> {
    Some(rfc3339(at))
}

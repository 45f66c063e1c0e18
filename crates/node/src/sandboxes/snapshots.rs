//! Snapshots: what is on record of each, and who may see it.
//!
//! A record is written, synced, only after the layer it names is in the store and synced. Until then there is neither a
//! usable id nor a usable name; a name is taken for the length of the work, and free again if that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use moat_api::nex::event::rfc3339;
use moat_api::rest::sandbox::{ResourceLimits, Snapshot};
use moat_api::rest::template::TemplateDefaults;
use moat_image::store::Pin;
use moat_image::{Digest, ImageStore};
use moat_model::spec::{RootLayer, RootSpec, TemplateRef};
use moat_model::{ErrorKind, Namespace, SandboxId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, Result};
use crate::guard::make_private;
use crate::templates::{ImageUse, Resolved, names};

use super::{launch, lock};

/// Version of the format. A record of another version is left alone and reported.
const FORMAT: u32 = 1;
/// Snapshots on one node: each is at least a file and a record.
const SNAPSHOTS_MAX: usize = 10_000;

/// Everything that is kept. The environment a sandbox was given is not: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotRecord {
    format: u32,
    pub id: String,
    pub name: Option<String>,
    pub namespace: Namespace,
    pub sandbox: SandboxId,
    pub template: Option<TemplateRef>,
    pub image: Option<String>,
    /// The last is its own.
    pub layers: Vec<RootLayer>,
    /// What processes get: the template's or the image's.
    pub defaults: TemplateDefaults,
    pub memory: bool,
    pub bytes: u64,
    pub created_at: Timestamp,
}

/// What is known of a snapshot before it is written down.
#[derive(Debug)]
pub(super) struct NewSnapshot {
    pub sandbox: SandboxId,
    pub template: Option<TemplateRef>,
    pub image: Option<String>,
    pub layers: Vec<RootLayer>,
    pub defaults: TemplateDefaults,
    pub memory: bool,
    pub bytes: u64,
    pub created_at: Timestamp,
}

#[derive(Debug)]
struct Entry {
    record: SnapshotRecord,
    /// The layers stay in the store as long as the record does.
    _pins: Vec<Pin>,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<String, Entry>,
    /// Names of snapshots being taken.
    taken: BTreeSet<(Namespace, String)>,
    /// Snapshots being taken, named or not.
    coming: usize,
}

/// The snapshots of a node.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    store: ImageStore,
    table: Mutex<Table>,
}

/// A place for a snapshot and its name, free again when dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    snapshots: &'a Snapshots,
    namespace: Namespace,
    name: Option<String>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.snapshots.table);
        table.coming = table.coming.saturating_sub(1);
        if let Some(name) = &self.name {
            table.taken.remove(&(self.namespace.clone(), name.clone()));
        }
    }
}

impl Snapshots {
    /// Reads the records in `dir`. Blocking, briefly.
    pub(super) fn open(dir: &Path, store: ImageStore) -> Result<Self> {
        make_private(dir)?;
        let files = durable::list(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("read {}", dir.display()), e))?;
        let mut entries = BTreeMap::new();
        for (stem, path) in files {
            match read(&path) {
                Ok(record) if record.format == FORMAT && record.id == stem => {
                    let pins = pins(&store, &record.layers);
                    entries.insert(stem, Entry { record, _pins: pins });
                }
                Ok(_) => tracing::warn!(path = %path.display(), "not a snapshot of this version, left alone"),
                Err(error) => tracing::warn!(error = %error.chain(), "snapshot record left alone"),
            }
        }
        let table = Mutex::new(Table { entries, ..Table::default() });
        Ok(Self { dir: dir.to_owned(), store, table })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Takes a place, and the name for as long as the snapshot is being taken.
    pub(super) fn claim(&self, namespace: &Namespace, name: Option<&str>) -> Result<Claim<'_>> {
        if let Some(name) = name {
            names::check(name).map_err(|why| Error::invalid("name", why))?;
            if name.starts_with("sn-") {
                return Err(Error::invalid("name", "must not begin with sn-, as the ids of snapshots do"));
            }
        }
        let mut table = lock(&self.table);
        if table.entries.len() + table.coming >= SNAPSHOTS_MAX {
            let what = format!("there are {SNAPSHOTS_MAX} snapshots on this node, and may be no more; delete some");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        if let Some(name) = name {
            let same = |e: &Entry| e.record.namespace == *namespace && e.record.name.as_deref() == Some(name);
            let key = (namespace.clone(), name.to_owned());
            if table.entries.values().any(same) || !table.taken.insert(key) {
                let what = format!("name: there is a snapshot {name} already; delete it, or choose another name");
                return Err(Error::new(ErrorKind::Conflict, what));
            }
        }
        table.coming += 1;
        drop(table);
        Ok(Claim { snapshots: self, namespace: namespace.clone(), name: name.map(str::to_owned) })
    }

    /// Writes a record for a layer that is safe. Blocking.
    pub(super) fn add(
        &self,
        namespace: &Namespace,
        name: Option<String>,
        new: NewSnapshot,
        pins: Vec<Pin>,
    ) -> Result<Snapshot> {
        let record = SnapshotRecord {
            format: FORMAT,
            id: launch::new_id().as_str().replacen("sb-", "sn-", 1),
            name,
            namespace: namespace.clone(),
            sandbox: new.sandbox,
            template: new.template,
            image: new.image,
            layers: new.layers,
            defaults: new.defaults,
            memory: new.memory,
            bytes: new.bytes,
            created_at: new.created_at,
        };
        let path = self.path(&record.id);
        let body = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write a snapshot record", e))?;
        durable::replace(&path, &body).map_err(|e| {
            let full = e.kind() == std::io::ErrorKind::StorageFull;
            let kind = if full { ErrorKind::Exhausted } else { ErrorKind::Internal };
            Error::caused_by(kind, format!("write {}", path.display()), e)
        })?;
        let shown = shown(&record);
        lock(&self.table).entries.insert(record.id.clone(), Entry { record, _pins: pins });
        Ok(shown)
    }

    fn find(&self, namespace: &Namespace, text: &str) -> Result<SnapshotRecord> {
        let table = lock(&self.table);
        let own = |r: &SnapshotRecord| r.namespace == *namespace && (r.id == text || r.name.as_deref() == Some(text));
        table.entries.values().map(|e| &e.record).find(|r| own(r)).cloned().ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            Error::new(ErrorKind::NotFound, format!("no such snapshot {shown:?}"))
        })
    }

    /// All of a namespace, oldest first.
    pub(super) fn of(&self, namespace: &Namespace) -> Vec<Snapshot> {
        let table = lock(&self.table);
        table.entries.values().filter(|e| e.record.namespace == *namespace).map(|e| shown(&e.record)).collect()
    }

    /// What a sandbox from this snapshot is made of.
    pub(super) fn resolve(&self, namespace: &Namespace, text: &str) -> Result<Resolved> {
        let record = self.find(namespace, text)?;
        let pins = pins(&self.store, &record.layers);
        Ok(Resolved {
            root: RootSpec::Layers { layers: record.layers },
            template: record.template,
            image: record.image,
            defaults: record.defaults,
            resources: ResourceLimits::default(),
            pins,
        })
    }

    /// Removes one, unless `user` names a sandbox that lives from its layer. Blocking.
    pub(super) fn remove(
        &self,
        namespace: &Namespace,
        text: &str,
        user: impl Fn(&RootLayer) -> Option<SandboxId>,
    ) -> Result<()> {
        let record = self.find(namespace, text)?;
        if let Some(sandbox) = record.layers.last().and_then(&user) {
            let what = format!("snapshot {}: sandbox {sandbox} lives from it; delete that first", record.id);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let path = self.path(&record.id);
        durable::remove(&path)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("remove {}", path.display()), e))?;
        lock(&self.table).entries.remove(&record.id);
        Ok(())
    }

    /// What the records need of the image store.
    pub(super) fn add_needs(&self, used: &mut ImageUse) {
        for entry in lock(&self.table).entries.values() {
            let record = &entry.record;
            let who = format!("snapshot {}", record.name.as_ref().unwrap_or(&record.id));
            let layers = record.layers.iter().filter_map(digest);
            let image = record.image.iter().filter_map(|i| i.parse().ok());
            used.layers.extend(layers.chain(image).map(|d| (d, who.clone())));
            used.versions.extend(record.template.iter().map(|t| (t.name.clone(), t.version)));
        }
    }
}

fn digest(layer: &RootLayer) -> Option<Digest> {
    format!("sha256:{}", layer.digest).parse().ok()
}

/// Keeps these layers from being collected.
fn pins(store: &ImageStore, layers: &[RootLayer]) -> Vec<Pin> {
    layers.iter().filter_map(digest).map(|digest| store.pin(digest)).collect()
}

fn read(path: &Path) -> Result<SnapshotRecord> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e)
    };
    let body = std::fs::read(path).map_err(|e| failed(e.into()))?;
    serde_json::from_slice(&body).map_err(|e| failed(e.into()))
}

fn shown(record: &SnapshotRecord) -> Snapshot {
    Snapshot {
        id: record.id.clone(),
        name: record.name.clone(),
        namespace: record.namespace.to_string(),
        sandbox: record.sandbox.to_string(),
        template: record.template.as_ref().map(|t| t.name.clone()),
        memory: record.memory,
        bytes: record.bytes,
        created_at: rfc3339(record.created_at),
    }
}

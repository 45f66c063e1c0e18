//! Snapshots: what is on record of each, and who may see it.
//!
//! A record is written, synced, only after the layer it names is in the store and synced. Until then there is neither a
//! usable id nor a usable name; a name is taken for the length of the work, and free again if that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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

use super::machines::{Machine, MachineRecord};
use super::{limits, lock};

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
    /// The last is its own, unless it is a machine.
    pub layers: Vec<RootLayer>,
    /// What processes get: the template's or the image's.
    pub defaults: TemplateDefaults,
    pub memory: bool,
    /// What is made of it, if its memory was kept: then there are no layers of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineRecord>,
    pub bytes: u64,
    pub created_at: Timestamp,
}

/// What is known of a snapshot before it is written down.
#[derive(Debug)]
pub(super) struct NewSnapshot {
    pub id: String,
    pub sandbox: SandboxId,
    pub template: Option<TemplateRef>,
    pub image: Option<String>,
    pub layers: Vec<RootLayer>,
    pub defaults: TemplateDefaults,
    pub machine: Option<(MachineRecord, Arc<Machine>)>,
    pub bytes: u64,
    pub created_at: Timestamp,
}

/// What a sandbox from a snapshot is made of.
#[derive(Debug)]
pub(super) struct Source {
    pub resolved: Resolved,
    /// The machine that goes on in it.
    pub machine: Option<(MachineRecord, Arc<Machine>)>,
}

#[derive(Debug)]
struct Entry {
    record: SnapshotRecord,
    machine: Option<Arc<Machine>>,
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
    /// Reads the records in `dir`; machines of theirs lie in `machines`. Blocking, briefly.
    pub(super) fn open(dir: &Path, machines: &Path, store: ImageStore) -> Result<Self> {
        make_private(dir)?;
        let files = durable::list(dir)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("read {}", dir.display()), e))?;
        let mut entries = BTreeMap::new();
        for (stem, path) in files {
            match read(&path) {
                Ok(record) if record.format == FORMAT && record.id == stem => {
                    let pins = pins(&store, &record.layers);
                    let kept = |m: &MachineRecord| Arc::new(Machine::kept(machines.join(&record.id), m.driver.clone()));
                    let machine = record.machine.as_ref().map(kept);
                    entries.insert(stem, Entry { record, machine, _pins: pins });
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
            id: new.id,
            name,
            namespace: namespace.clone(),
            sandbox: new.sandbox,
            template: new.template,
            image: new.image,
            layers: new.layers,
            defaults: new.defaults,
            memory: new.machine.is_some(),
            machine: new.machine.as_ref().map(|(record, _)| record.clone()),
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
        let machine = new.machine.map(|(_, machine)| machine);
        if let Some(machine) = &machine {
            machine.keep();
        }
        lock(&self.table).entries.insert(record.id.clone(), Entry { record, machine, _pins: pins });
        Ok(shown)
    }

    fn find(&self, namespace: &Namespace, text: &str) -> Result<(SnapshotRecord, Option<Arc<Machine>>)> {
        let table = lock(&self.table);
        let own = |r: &SnapshotRecord| r.namespace == *namespace && (r.id == text || r.name.as_deref() == Some(text));
        let found = table.entries.values().find(|e| own(&e.record)).map(|e| (e.record.clone(), e.machine.clone()));
        found.ok_or_else(|| {
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
    pub(super) fn resolve(&self, namespace: &Namespace, text: &str) -> Result<Source> {
        let (record, machine) = self.find(namespace, text)?;
        let pins = pins(&self.store, &record.layers);
        let root = match &record.machine {
            Some(machine) => machine.root.clone(),
            None => RootSpec::Layers { layers: record.layers },
        };
        let resolved = Resolved {
            root,
            template: record.template,
            image: record.image,
            defaults: record.defaults,
            resources: ResourceLimits::default(),
            pins,
        };
        Ok(Source { resolved, machine: record.machine.zip(machine) })
    }

    /// Removes one, unless `user` names a sandbox that lives from its layer. Blocking.
    pub(super) fn remove(
        &self,
        namespace: &Namespace,
        text: &str,
        user: impl Fn(&RootLayer) -> Option<SandboxId>,
    ) -> Result<()> {
        let (record, machine) = self.find(namespace, text)?;
        // The last layer is its own, unless it is a machine.
        let own = record.layers.last().filter(|_| record.machine.is_none());
        if let Some(sandbox) = own.and_then(&user) {
            let what = format!("snapshot {}: sandbox {sandbox} lives from it; delete that first", record.id);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        drop(machine);
        let entry = self.take(&record.id)?;
        let path = self.path(&record.id);
        if let Err(error) = durable::remove(&path) {
            lock(&self.table).entries.insert(record.id, entry);
            return Err(Error::caused_by(ErrorKind::Internal, format!("remove {}", path.display()), error));
        }
        if let Some(machine) = &entry.machine {
            machine.let_go();
        }
        Ok(())
    }

    /// Takes one off the table, so that nobody begins to make anything of it; unless somebody has begun.
    fn take(&self, id: &str) -> Result<Entry> {
        let mut table = lock(&self.table);
        let gone = || Error::new(ErrorKind::NotFound, format!("no such snapshot {id:?}"));
        let busy = |entry: &Entry| entry.machine.as_ref().is_some_and(|machine| Arc::strong_count(machine) > 1);
        if table.entries.get(id).is_some_and(busy) {
            let what = format!("snapshot {id}: a sandbox is just being made of it; try again when that is done");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        table.entries.remove(id).ok_or_else(gone)
    }

    /// Keeps these layers from being collected.
    pub(super) fn pins(&self, layers: &[RootLayer]) -> Vec<Pin> {
        pins(&self.store, layers)
    }

    /// Whether a machine of this name is on record.
    pub(super) fn has(&self, id: &str) -> bool {
        lock(&self.table).entries.contains_key(id)
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
        driver: record.machine.as_ref().map(|m| m.driver.clone()),
        resources: record.machine.as_ref().map(|m| limits::shown(&m.resources)),
        created_at: rfc3339(record.created_at),
    }
}

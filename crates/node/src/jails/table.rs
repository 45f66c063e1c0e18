//! All jails in memory: one entry each, at most one thing being done to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moat_engine::Engine;
use moat_getter::Getter;
use moat_image::store::Pin;
use moat_model::jail::{JailName, JailState, JailView, SnapshotTag};
use moat_model::spec::Resources;
use moat_model::{ErrorKind, Namespace, NodeId, SandboxId};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::JailsConfig;
use crate::config::jails::UIDS_PER_JAIL;
use crate::error::{Error, Result};
use crate::logfile::Rotation;
use crate::networks::Networks;
use crate::outlet::{NodeOutlet, blocking};
use crate::templates::Templates;

use super::order::Standing;
use super::place::{Home, Place};
use super::record::{JailRecord, SnapshotRecord, Stage, digests};
use super::releases::Releases;

/// What jails stand on.
#[derive(Debug)]
pub struct Foundation {
    /// Whose they are.
    pub node: NodeId,
    /// Their directory.
    pub dir: std::path::PathBuf,
    /// Makes their sandboxes.
    pub engine: Engine,
    /// Takes their output.
    pub outlet: NodeOutlet,
    /// Keeps the layers they stand on.
    pub templates: Templates,
    /// Networks and ports.
    pub networks: Arc<Networks>,
    /// Fetches templates of jails.
    pub getter: Getter,
    /// What the operator sets.
    pub config: JailsConfig,
    /// Limits of those that name none.
    pub resources: Resources,
    /// Size of a console log.
    pub console: Rotation,
    /// First of the ids that volumes' files have on disk.
    pub disk_ids: u32,
    /// What of the node's own is inside every jail.
    pub inside: Option<Inside>,
}

/// The node's own programs in every jail.
#[derive(Debug, Clone)]
pub struct Inside {
    /// Their directory on the host.
    pub source: std::path::PathBuf,
    /// Where it is inside.
    pub target: &'static str,
    /// The main program: starts and stops services, and another program if one is named.
    pub init: &'static str,
    /// In front of a program, runs it as somebody else.
    pub run_as: [&'static str; 2],
    /// `PATH` of a jail's processes.
    pub path: &'static str,
}

/// A jail's name in its namespace.
pub(super) type Key = (Namespace, JailName);

#[derive(Debug)]
pub(super) struct Shared {
    pub base: Foundation,
    pub place: Place,
    pub releases: Releases,
    table: Mutex<Table>,
    /// Something that was being done to a jail is over.
    pub freed: Notify,
    pub copies: Semaphore,
    pub tasks: TaskTracker,
    pub closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    jails: BTreeMap<Key, Entry>,
    /// The last number given.
    number: u32,
}

#[derive(Debug)]
struct Entry {
    record: Arc<JailRecord>,
    /// What is being done to it.
    doing: Option<&'static str>,
    snapshots: BTreeMap<SnapshotTag, SnapshotRecord>,
    /// Its layers, and those of its snapshots, stay in the store.
    _pins: Vec<Pin>,
}

impl Shared {
    pub(super) fn new(base: Foundation, releases: Releases) -> Self {
        Self {
            place: Place::new(base.dir.clone()),
            copies: Semaphore::new(base.config.copies_max),
            base,
            releases,
            table: Mutex::default(),
            freed: Notify::new(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Entries are changed whole, so a panic elsewhere cannot have left one half changed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self, record: &JailRecord, snapshots: &BTreeMap<SnapshotTag, SnapshotRecord>) -> Vec<Pin> {
        let of_snapshots = snapshots.values().flat_map(|s| digests(&s.layers, s.image.as_deref()));
        let needed: BTreeSet<_> = record.needs().chain(of_snapshots).collect();
        needed.into_iter().map(|digest| self.base.templates.store().pin(digest)).collect()
    }

    pub(super) fn home(&self, key: &Key) -> Home {
        self.place.jail(&key.0, &key.1)
    }

    /// Puts one that was read from disk.
    pub(super) fn put(&self, record: JailRecord, snapshots: BTreeMap<SnapshotTag, SnapshotRecord>) {
        let key = (record.spec.namespace.clone(), record.spec.name.clone());
        let pins = self.pins(&record, &snapshots);
        let mut table = self.table();
        table.number = table.number.max(record.number.unwrap_or(0));
        table.jails.insert(key, Entry { record: Arc::new(record), doing: None, snapshots, _pins: pins });
    }

    pub(super) fn record(&self, key: &Key) -> Result<Arc<JailRecord>> {
        self.table().jails.get(key).map(|entry| Arc::clone(&entry.record)).ok_or_else(|| no_such(&key.1))
    }

    /// All of them.
    pub(super) fn records(&self) -> Vec<(Key, Arc<JailRecord>)> {
        self.table().jails.iter().map(|(key, entry)| (key.clone(), Arc::clone(&entry.record))).collect()
    }

    /// Those of a namespace, as far as the order of starting depends on them.
    pub(super) fn standings(&self, namespace: &Namespace) -> BTreeMap<JailName, Standing> {
        let table = self.table();
        let own = table.jails.iter().filter(|((of, _), _)| of == namespace);
        own.map(|((_, name), entry)| {
            let spec = &entry.record.spec;
            (name.clone(), Standing { priority: spec.priority, depend: spec.depend.clone() })
        })
        .collect()
    }

    pub(super) fn snapshots_of(&self, key: &Key) -> Result<Vec<SnapshotRecord>> {
        let table = self.table();
        let entry = table.jails.get(key).ok_or_else(|| no_such(&key.1))?;
        let mut found: Vec<SnapshotRecord> = entry.snapshots.values().cloned().collect();
        found.sort_by_key(|s| (s.created_at, s.tag.clone()));
        Ok(found)
    }

    /// What needs layers of the image store, for people.
    pub(super) fn needs(&self) -> Vec<(moat_image::Digest, String)> {
        let table = self.table();
        let of = |entry: &Entry| {
            let who = format!("jail {}", entry.record.spec.name);
            let of_snapshots = entry.snapshots.values().flat_map(|s| digests(&s.layers, s.image.as_deref()));
            entry.record.needs().chain(of_snapshots).map(|d| (d, who.clone())).collect::<Vec<_>>()
        };
        table.jails.values().flat_map(of).collect()
    }

    /// The jail that is this sandbox.
    pub(super) fn of_sandbox(&self, id: &SandboxId) -> Option<Key> {
        let table = self.table();
        let is = |entry: &Entry| entry.record.sandbox.as_ref() == Some(id);
        table.jails.iter().find(|(_, entry)| is(entry)).map(|(key, _)| key.clone())
    }

    /// Takes a name, an id block and a place for a jail to be made; nothing is on disk yet.
    pub(super) fn reserve(
        self: &Arc<Self>,
        doing: &'static str,
        make: impl FnOnce(u32) -> JailRecord,
    ) -> Result<Claim> {
        let mut table = self.table();
        let max = self.base.config.jails_max;
        if table.jails.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
            let what = format!("this node has {max} jails, its limit (jails.jails_max): destroy some");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        let taken: BTreeSet<u32> = table.jails.values().map(|entry| entry.record.uid_base).collect();
        let blocks = (0..max).map(|n| self.base.config.uid_base.saturating_add(n * UIDS_PER_JAIL));
        let Some(uid_base) = blocks.into_iter().find(|base| !taken.contains(base)) else {
            let what = "all ids of jails are taken (jails.uid_base, jails.jails_max)";
            return Err(Error::new(ErrorKind::Exhausted, what));
        };
        let record = make(uid_base);
        let key = (record.spec.namespace.clone(), record.spec.name.clone());
        free_name(&table, &key)?;
        let none = BTreeMap::new();
        let pins = self.pins(&record, &none);
        let entry = Entry { record: Arc::new(record), doing: Some(doing), snapshots: none, _pins: pins };
        table.jails.insert(key.clone(), entry);
        drop(table);
        Ok(Claim { shared: Arc::clone(self), key, forget: false })
    }

    /// The right to do something to a jail that is whole.
    pub(super) fn claim(self: &Arc<Self>, key: &Key, doing: &'static str) -> Result<Claim> {
        let mut table = self.table();
        let entry = table.jails.get_mut(key).ok_or_else(|| no_such(&key.1))?;
        if let Some(other) = entry.doing {
            let what = format!("jail {}: busy ({other}); try again when that is done", key.1);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        if entry.record.stage != Stage::Whole && doing != "destroy" {
            let what = format!("jail {}: was left half removed; destroy it", key.1);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        entry.doing = Some(doing);
        drop(table);
        Ok(Claim { shared: Arc::clone(self), key: key.clone(), forget: false })
    }

    /// The same, once nothing else is done to it.
    pub(super) async fn claim_next(self: &Arc<Self>, key: &Key, doing: &'static str) -> Result<Claim> {
        loop {
            let mut over = std::pin::pin!(self.freed.notified());
            // Listening before looking: the end of what is done is not missed in between.
            over.as_mut().enable();
            match self.claim(key, doing) {
                Err(error) if error.kind == ErrorKind::Conflict && self.is_busy(key) => over.await,
                claimed => return claimed,
            }
        }
    }

    fn is_busy(&self, key: &Key) -> bool {
        self.table().jails.get(key).is_some_and(|entry| entry.doing.is_some())
    }

    /// The name of another jail of anybody that has this address, if this caller may know it.
    pub(super) fn holder_of(&self, address: Ipv4Addr, but: &Key, up: bool) -> Option<String> {
        let table = self.table();
        let has = |entry: &Entry| {
            let record = &entry.record;
            record.spec.network.address.or(record.given) == Some(address) && (!up || record.sandbox.is_some())
        };
        let mut found = table.jails.iter().filter(|(key, entry)| *key != but && has(entry));
        found.next().map(|((namespace, name), _)| {
            if *namespace == but.0 { format!("jail {name}") } else { "a jail of another namespace".to_owned() }
        })
    }

    /// Its view.
    pub(super) fn view(&self, key: &Key) -> Result<JailView> {
        let (record, doing) = {
            let table = self.table();
            let entry = table.jails.get(key).ok_or_else(|| no_such(&key.1))?;
            (Arc::clone(&entry.record), entry.doing)
        };
        Ok(self.shown(key, &record, doing))
    }

    pub(super) fn views(&self, namespace: &Namespace) -> Vec<JailView> {
        let found: Vec<_> = {
            let table = self.table();
            let own = table.jails.iter().filter(|((of, _), _)| of == namespace);
            own.map(|(key, entry)| (key.clone(), Arc::clone(&entry.record), entry.doing)).collect()
        };
        let order = super::order::order(&self.standings(namespace));
        let mut views: Vec<JailView> =
            found.iter().map(|(key, record, doing)| self.shown(key, record, *doing)).collect();
        views.sort_by_key(|view| order.iter().position(|name| *name == view.spec.name));
        views
    }

    fn shown(&self, key: &Key, record: &JailRecord, doing: Option<&'static str>) -> JailView {
        let up = record
            .sandbox
            .as_ref()
            .and_then(|id| self.base.engine.get(id))
            .filter(|view| view.started_at.is_some() && !view.phase.is_terminal());
        let mut spec = record.spec.clone();
        spec.network.address = spec.network.address.or(record.given);
        let half = (record.stage != Stage::Whole).then_some("destroy");
        let state = match (doing.or(half), &up) {
            (Some(doing), _) => JailState::Busy { doing: doing.to_owned() },
            (None, Some(_)) => JailState::Up,
            (None, None) => JailState::Down { cause: record.cause.clone() },
        };
        let given = up.as_ref().and_then(|view| self.base.engine.offer_of(&view.driver)).map(|offer| offer.shown());
        JailView {
            spec,
            number: record.number.filter(|_| up.is_some()),
            state,
            sandbox: up.map(|view| view.id),
            given,
            path: self.home(key).0.display().to_string(),
            interrupted: record.template.clone().filter(|_| doing != Some("template")),
            created_at: record.created_at,
        }
    }
}

fn free_name(table: &Table, key: &Key) -> Result<()> {
    let label = super::network::label(&key.1);
    let same = |(namespace, name): &&Key| *namespace == key.0 && super::network::label(name) == label;
    match table.jails.keys().find(same) {
        None => Ok(()),
        Some((_, name)) if *name == key.1 => {
            let what = format!("name: there is a jail {name} already; destroy it, or choose another name");
            Err(Error::new(ErrorKind::Conflict, what))
        }
        Some((_, name)) => {
            let what = format!("name: {} and jail {name} would have the same host name; choose another", key.1);
            Err(Error::new(ErrorKind::Conflict, what))
        }
    }
}

pub(super) fn no_such(name: &JailName) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such jail {name}"))
}

/// The right to do something to one jail; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub shared: Arc<Shared>,
    pub key: Key,
    forget: bool,
}

impl Claim {
    pub(super) fn record(&self) -> Result<Arc<JailRecord>> {
        self.shared.record(&self.key)
    }

    pub(super) fn home(&self) -> Home {
        self.shared.home(&self.key)
    }

    /// Changes the record: on disk first, then for everybody.
    pub(super) async fn update(&self, change: impl FnOnce(&mut JailRecord)) -> Result<Arc<JailRecord>> {
        let mut record = self.record()?.as_ref().clone();
        change(&mut record);
        let (home, written) = (self.home(), record.clone());
        blocking("write the record of a jail", move || written.write(&home)).await?;
        let record = Arc::new(record);
        let mut table = self.shared.table();
        if let Some(entry) = table.jails.get_mut(&self.key) {
            entry.record = Arc::clone(&record);
            let pins = self.shared.pins(&record, &entry.snapshots);
            entry._pins = pins;
        }
        drop(table);
        Ok(record)
    }

    /// The next number for a start.
    pub(super) fn number(&self) -> u32 {
        let mut table = self.shared.table();
        table.number = table.number.checked_add(1).unwrap_or(1);
        table.number
    }

    /// Notes a snapshot that is on disk, or that one is no longer.
    pub(super) fn snapshot(&self, tag: &SnapshotTag, record: Option<SnapshotRecord>) {
        let mut table = self.shared.table();
        if let Some(entry) = table.jails.get_mut(&self.key) {
            match record {
                Some(record) => drop(entry.snapshots.insert(tag.clone(), record)),
                None => drop(entry.snapshots.remove(tag)),
            }
            let pins = self.shared.pins(&entry.record, &entry.snapshots);
            entry._pins = pins;
        }
    }

    /// It has another name from now on: its directory has it already.
    pub(super) fn renamed(&mut self, name: &JailName) {
        let new = (self.key.0.clone(), name.clone());
        let mut table = self.shared.table();
        if let Some(mut entry) = table.jails.remove(&self.key) {
            let mut record = entry.record.as_ref().clone();
            record.spec.name = name.clone();
            entry.record = Arc::new(record);
            table.jails.insert(new.clone(), entry);
        }
        drop(table);
        self.key = new;
    }

    /// Whether a jail may have this name.
    pub(super) fn may_be(&self, name: &JailName) -> Result<()> {
        let mut table = self.shared.table();
        let own = table.jails.remove(&self.key);
        let free = free_name(&table, &(self.key.0.clone(), name.clone()));
        if let Some(own) = own {
            table.jails.insert(self.key.clone(), own);
        }
        free
    }

    /// Nothing of it is left: nobody sees it any more.
    pub(super) fn forget(mut self) {
        self.forget = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if self.forget {
            table.jails.remove(&self.key);
        } else if let Some(entry) = table.jails.get_mut(&self.key) {
            entry.doing = None;
        }
        drop(table);
        self.shared.freed.notify_waiters();
    }
}

//! What the handle and the actors share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use moat_model::job::{AllocStatus, Desired};
use moat_model::network::NetworkMode;
use moat_model::{AllocId, ErrorKind};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{self, Actor, Command};
use super::dirs::AllocDirs;
use super::front::{AllocView, Assignment, Directory, ExecTarget};
use super::ground::Ground;
use super::health::Health;
use super::life::{Event, Life, Plan};
use super::ports::Ports;
use super::record::{Record, Store};
use super::{Foundation, room, secrets};
use crate::clock;
use crate::config::jobs::JobNetwork;
use crate::error::{Error, Result};
use crate::outlet::blocking;

/// Commands waiting for one allocation; those who ask more wait.
const COMMANDS_MAX: usize = 16;
/// MHz of a core that does not say.
const MHZ_PER_CORE: u32 = 1000;

#[derive(Debug)]
pub(super) struct Shared {
    pub base: Foundation,
    pub store: Store,
    pub ports: Ports,
    pub news: Notify,
    pub tasks: TaskTracker,
    /// Cancelled when the daemon lets go of everything: actors end, tasks live on.
    pub detached: CancellationToken,
    table: Mutex<Table>,
    directory: OnceLock<Arc<dyn Directory>>,
    fenced: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<AllocId, Entry>,
    changed: BTreeSet<AllocId>,
}

#[derive(Debug)]
struct Entry {
    view: Arc<AllocView>,
    commands: mpsc::Sender<Command>,
}

impl Shared {
    pub(super) fn new(base: Foundation, fenced: bool) -> Result<Arc<Self>> {
        let store = Store::open(&base.records)?;
        Ok(Arc::new(Self {
            base,
            store,
            ports: Ports::default(),
            news: Notify::new(),
            tasks: TaskTracker::new(),
            detached: CancellationToken::new(),
            table: Mutex::default(),
            directory: OnceLock::new(),
            fenced: AtomicBool::new(fenced),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- one allocation

    /// Takes one that is not known yet; `false` if it is.
    pub(super) fn begin(self: &Arc<Self>, assignment: &Assignment) -> Result<bool> {
        let id = &assignment.allocation.id;
        if self.view(id).is_some() {
            return Ok(false);
        }
        let now = clock::now();
        let mut record = Record {
            allocation: assignment.allocation.clone(),
            job: assignment.job.as_ref().clone(),
            life: Life {
                ready: false,
                tasks: BTreeMap::new(),
                end: None,
                fenced: false,
                began: None,
                description: String::new(),
            },
            ports: BTreeMap::new(),
            fetched: BTreeSet::new(),
            health: Health::default(),
            checks: BTreeMap::new(),
            modified: now,
        };
        let plan = self.plan_of(&record);
        record.life = Life::new(&plan, now, self.is_fenced() && record.may_be_replaced());
        let refusal = match assignment.allocation.desired {
            Desired::Run => room::refusal(self, assignment).map(Event::NotSetUp),
            Desired::Stop | Desired::Evict => Some(Event::Stop { no_delay: true }),
        };
        if let Some(event) = refusal {
            record.life.step(&plan, event, now, 0);
        }
        self.store.write(&record)?;
        Ok(self.launch(record))
    }

    /// Puts one into the table and starts its actor; `false` if somebody was faster.
    pub(super) fn launch(self: &Arc<Self>, record: Record) -> bool {
        let view = Arc::new(actor::view(&record, self));
        let id = record.allocation.id.clone();
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        {
            let mut table = self.table();
            if table.entries.contains_key(&id) {
                return false;
            }
            table.entries.insert(id.clone(), Entry { view, commands });
            table.changed.insert(id);
        }
        self.news.notify_waiters();
        self.tasks.spawn(Actor::new(Arc::clone(self), record, inbox).run());
        true
    }

    pub(super) async fn send(&self, id: &AllocId, command: Command) -> Result<()> {
        let commands = self.table().entries.get(id).map(|entry| entry.commands.clone());
        let commands = commands.ok_or_else(|| no_such(id))?;
        commands.send(command).await.map_err(|_| Error::new(ErrorKind::Unavailable, "the node is shutting down"))
    }

    pub(super) fn publish(&self, view: AllocView) {
        let id = view.status.id.clone();
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&id) else { return };
        entry.view = Arc::new(view);
        table.changed.insert(id);
        drop(table);
        self.news.notify_waiters();
    }

    /// One is over: what it held of the node is free.
    pub(super) fn over(&self, record: &Record) {
        self.ports.free(&record.allocation.id);
    }

    pub(super) async fn forget(&self, id: &AllocId) -> Result<()> {
        let Some(view) = self.view(id) else { return Ok(()) };
        if !view.status.client.is_terminal() {
            return Err(Error::new(ErrorKind::Conflict, format!("allocation {id} has not ended; stop it first")));
        }
        let dirs = self.dirs_of(id);
        let tasks: Vec<String> = view.status.tasks.keys().cloned().collect();
        blocking("remove the directories of an allocation", move || {
            for task in tasks {
                secrets::unmount(&dirs.task(&task).join("secrets"))?;
            }
            dirs.remove()
        })
        .await?;
        // The record last: whoever is killed before this removes again.
        self.store.remove(id)?;
        {
            let mut table = self.table();
            table.entries.remove(id);
            table.changed.remove(id);
        }
        // Being set up when it ended, it may have made them again since; from here on it sees that nobody wants them.
        let dirs = self.dirs_of(id);
        blocking("remove the directories of an allocation", move || dirs.remove()).await
    }

    // --- what is known

    pub(super) fn view(&self, id: &AllocId) -> Option<Arc<AllocView>> {
        self.table().entries.get(id).map(|entry| Arc::clone(&entry.view))
    }

    pub(super) fn known(&self, id: &AllocId) -> Result<Arc<AllocView>> {
        self.view(id).ok_or_else(|| no_such(id))
    }

    pub(super) fn views(&self) -> Vec<Arc<AllocView>> {
        self.table().entries.values().map(|entry| Arc::clone(&entry.view)).collect()
    }

    /// Tasks of one that run.
    pub(super) fn running(&self, id: &AllocId) -> Result<Vec<ExecTarget>> {
        use moat_model::job::TaskPhase;
        let view = self.known(id)?;
        let running = view.status.tasks.iter().filter(|(_, task)| task.phase == TaskPhase::Running);
        Ok(running
            .filter_map(|(task, s)| Some(ExecTarget { task: task.clone(), sandbox: s.sandbox.clone()? }))
            .collect())
    }

    pub(super) fn is_over(&self, id: &AllocId) -> bool {
        self.view(id).is_none_or(|view| view.status.client.is_terminal())
    }

    pub(super) fn task_is_over(&self, id: &AllocId, task: &str) -> bool {
        use moat_model::job::TaskPhase;
        self.view(id).is_none_or(|view| view.status.tasks.get(task).is_none_or(|task| task.phase == TaskPhase::Dead))
    }

    pub(super) fn ground_of(self: &Arc<Self>, view: &AllocView) -> Ground {
        Ground {
            shared: Arc::clone(self),
            allocation: Arc::new(view.assignment.allocation.clone()),
            job: Arc::clone(&view.assignment.job),
            ports: Arc::new(view.status.ports.clone()),
            fetched: Arc::default(),
        }
    }

    // --- who is told

    pub(super) fn all_changed(&self) {
        let mut table = self.table();
        let all: Vec<AllocId> = table.entries.keys().cloned().collect();
        table.changed.extend(all);
        drop(table);
        self.news.notify_waiters();
    }

    pub(super) fn changed(&self, id: AllocId) {
        self.table().changed.insert(id);
        self.news.notify_waiters();
    }

    pub(super) fn take_changed(&self) -> Vec<AllocStatus> {
        let mut table = self.table();
        let changed = std::mem::take(&mut table.changed);
        changed.iter().filter_map(|id| Some(table.entries.get(id)?.view.status.clone())).collect()
    }

    // --- the node

    pub(super) fn set_directory(&self, directory: Arc<dyn Directory>) {
        let _ = self.directory.set(directory);
    }

    pub(super) fn directory(&self) -> Option<Arc<dyn Directory>> {
        self.directory.get().cloned()
    }

    pub(super) fn set_fenced(&self, fenced: bool) {
        self.fenced.store(fenced, Ordering::Release);
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    pub(super) fn dirs_of(&self, id: &AllocId) -> AllocDirs {
        AllocDirs::new(self.base.dir.join(id.as_str()), self.base.disk_ids)
    }

    pub(super) fn plan_of(&self, record: &Record) -> Plan {
        match record.job.group(&record.allocation.group) {
            Some(group) => Plan::of(&record.job, group, self.base.jobs.kill_timeout_max),
            None => Plan { shutdown_delay: std::time::Duration::ZERO, max_run: None, tasks: BTreeMap::new() },
        }
    }

    /// Where ports of the node lead in.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.base.networks.terms().net.publish_address
    }

    /// What names of sandboxes end with.
    pub(super) fn domain(&self) -> &str {
        &self.base.networks.terms().net.domain
    }

    /// The network of tasks whose group names none; a node without networks has only loopback to give.
    pub(super) fn default_network(&self) -> NetworkMode {
        match self.base.jobs.network {
            _ if self.base.networks.wires().is_none() => NetworkMode::Isolated,
            JobNetwork::Internet => NetworkMode::Internet,
            JobNetwork::Internal => NetworkMode::Internal,
            JobNetwork::Isolated => NetworkMode::Isolated,
        }
    }

    /// By what shares are counted.
    pub(super) fn mhz_per_core(&self) -> u32 {
        let said = self.base.facts.attributes.get("cpu.frequency").and_then(|mhz| mhz.parse().ok());
        said.filter(|mhz| *mhz > 0).unwrap_or(MHZ_PER_CORE)
    }
}

fn no_such(id: &AllocId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such allocation {id} on this node"))
}

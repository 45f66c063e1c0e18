//! Hands that keep a table instead of sandboxes, and tell what would answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use moat_model::AllocId;
use moat_model::job::{AllocStatus, ClientStatus, Desired};
use tokio::sync::Notify;

use crate::allocations::Assignment;
use crate::clock::{self, since_boot};
use crate::error::Result;
use crate::jobs::hands::{Feed, Hands, Known, is_replaceable};

#[derive(Debug, Default)]
struct Table {
    all: BTreeMap<AllocId, (Assignment, ClientStatus)>,
    untold: BTreeSet<AllocId>,
    frozen: bool,
    leash: Option<Duration>,
}

/// See the module. Outlives its node's daemon, as sandboxes do.
#[derive(Debug, Clone, Default)]
pub struct Pretend {
    table: Arc<Mutex<Table>>,
    news: Arc<Notify>,
}

impl Pretend {
    /// Allocations that answer now: running, and not standing still.
    pub fn answering(&self) -> Vec<AllocId> {
        let table = self.table.lock().unwrap();
        let runs = |(id, (assignment, client)): (&AllocId, &(Assignment, ClientStatus))| {
            let over = table.leash.is_some_and(|until| until < since_boot());
            let stands = (table.frozen || over) && is_replaceable(assignment);
            (*client == ClientStatus::Running && !stands).then(|| id.clone())
        };
        table.all.iter().filter_map(runs).collect()
    }

    /// A daemon finds them: what an earlier one froze goes on, unless nobody may know of the node any more.
    pub fn open(&self, fenced: bool) {
        self.table.lock().unwrap().frozen = fenced;
    }

    /// Everything of the node dies at once.
    pub fn die(&self) {
        let mut table = self.table.lock().unwrap();
        table.all.clear();
        table.untold.clear();
    }

    fn set(&self, table: &mut Table, id: &AllocId, client: ClientStatus) {
        if let Some((_, old)) = table.all.get_mut(id) {
            *old = client;
            table.untold.insert(id.clone());
        }
        self.news.notify_one();
    }
}

#[async_trait]
impl Hands for Pretend {
    async fn assign(&self, assignment: Assignment) -> Result<()> {
        let mut table = self.table.lock().unwrap();
        let id = assignment.allocation.id.clone();
        let old = table.all.get(&id).map(|(old, client)| (old.allocation.generation, *client));
        let wanted = assignment.allocation.desired == Desired::Run && !assignment.allocation.lost;
        let client = match old {
            Some((generation, _)) if generation > assignment.allocation.generation => return Ok(()),
            Some((_, client)) if client.is_terminal() => client,
            _ if wanted => ClientStatus::Running,
            _ => ClientStatus::Complete,
        };
        table.all.insert(id.clone(), (assignment, client));
        self.set(&mut table, &id, client);
        Ok(())
    }

    async fn fence(&self) -> Result<()> {
        self.table.lock().unwrap().frozen = true;
        Ok(())
    }

    async fn confirm(&self, wanted: &[Assignment]) -> Result<()> {
        let mut table = self.table.lock().unwrap();
        let wanted: BTreeSet<&AllocId> = wanted.iter().map(|assignment| &assignment.allocation.id).collect();
        let unwanted: Vec<AllocId> = table
            .all
            .iter()
            .filter(|(id, (_, client))| !client.is_terminal() && !wanted.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in unwanted {
            self.set(&mut table, &id, ClientStatus::Complete);
        }
        table.frozen = false;
        Ok(())
    }

    async fn leash(&self, until: Duration) {
        let mut table = self.table.lock().unwrap();
        table.leash = table.leash.max(Some(until));
    }

    async fn forget(&self, id: &AllocId) -> Result<()> {
        self.table.lock().unwrap().all.remove(id);
        Ok(())
    }

    fn known(&self) -> Vec<Known> {
        let table = self.table.lock().unwrap();
        let known = |(assignment, client): &(Assignment, ClientStatus)| Known {
            assignment: assignment.clone(),
            ended: client.is_terminal(),
        };
        table.all.values().map(known).collect()
    }

    fn feed(&self) -> Box<dyn Feed> {
        let mut table = self.table.lock().unwrap();
        table.untold = table.all.keys().cloned().collect();
        self.news.notify_one();
        Box::new(self.clone())
    }
}

#[async_trait]
impl Feed for Pretend {
    async fn next(&mut self) -> Vec<AllocStatus> {
        loop {
            let told: Vec<AllocStatus> = {
                let mut table = self.table.lock().unwrap();
                let untold = std::mem::take(&mut table.untold);
                untold.iter().filter_map(|id| table.all.get(id)).map(|(a, client)| status(a, *client)).collect()
            };
            if !told.is_empty() {
                return told;
            }
            self.news.notified().await;
        }
    }

    fn again(&mut self, id: AllocId) {
        self.table.lock().unwrap().untold.insert(id);
        self.news.notify_one();
    }
}

fn status(assignment: &Assignment, client: ClientStatus) -> AllocStatus {
    AllocStatus {
        id: assignment.allocation.id.clone(),
        node: assignment.allocation.node.clone(),
        generation: assignment.allocation.generation,
        client,
        description: String::new(),
        tasks: BTreeMap::new(),
        healthy: Some(client == ClientStatus::Running),
        ports: BTreeMap::new(),
        checks: BTreeMap::new(),
        modified: clock::now(),
    }
}

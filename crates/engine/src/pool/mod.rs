//! Sandboxes that stand ready before they are asked for.
//!
//! A member is an ordinary sandbox with [`Owner::Pool`] and no main process, so whatever is true of sandboxes is true of
//! it: it is on record, survives the daemon, and is ended in good order. [`Engine::claim`] makes it somebody's. A member is
//! used once.
//!
//! [`plan`] decides, [`shelf`] counts, [`runner`] does.

pub mod plan;
mod runner;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_model::spec::{MachineSnapshot, Owner};
use moat_model::{SandboxId, SandboxSpec};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};
use crate::supervisor::Engine;
use shelf::Shelves;

/// Label of a member that names its shape.
pub const KEY_LABEL: &str = "moat.pool.key";
/// Label of a member that names the version of its shape.
pub const VERSION_LABEL: &str = "moat.pool.version";

/// What is true of all shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How often the pool is looked after if nothing happens. Also the interval over which demand is counted.
    pub replenish_interval: Duration,
    /// Members above what is wanted go after this long.
    pub max_idle: Duration,
    /// Members being started at once, at most: a refill must not slow down those who create.
    pub starts_at_once: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { replenish_interval: Duration::from_secs(5), max_idle: Duration::from_secs(600), starts_at_once: 2 }
    }
}

/// A kind of sandbox to be kept ready.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Its name.
    pub key: String,
    /// Which state of what it is made from. Members of another version, or whose spec is another, are replaced.
    pub version: u64,
    /// What a member is. Its owner and labels are the pool's.
    pub spec: SandboxSpec,
    /// A machine members are made from, which is one of them; without, each starts from nothing.
    pub machine: Option<MachineSnapshot>,
    /// Members that stand ready whatever the demand.
    pub min_ready: usize,
    /// Members that stand ready at most, after demand.
    pub max_ready: usize,
}

/// How a shape fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeStatus {
    /// Its name.
    pub key: String,
    /// Which state of what it is made from.
    pub version: u64,
    /// Members that stand ready.
    pub ready: usize,
    /// Members being started.
    pub starting: usize,
    /// Takes that found a member.
    pub hits: u64,
    /// Takes that found none.
    pub misses: u64,
    /// Why the last start failed, if it did.
    pub problem: Option<String>,
    /// Why no member is made from the shape's machine any more, if one could not be.
    pub broken: Option<String>,
}

/// The warm pool of an engine. Cheap to clone; all clones are the same pool. Its members outlive it: the next pool on the
/// same records takes them up again.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    runner: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    config: PoolConfig,
    shelves: Mutex<Shelves>,
    wake: Notify,
}

impl Shared {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        // Every change leaves it whole: counters and lists of ids.
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// A pool on this engine. It does nothing, to members of an earlier daemon neither, until it is told its shapes.
    pub fn open(engine: Engine, config: PoolConfig) -> Self {
        let shared = Arc::new(Shared { engine, config, shelves: Mutex::default(), wake: Notify::new() });
        let runner = tokio::spawn(runner::run(Arc::clone(&shared)));
        Self { shared, runner: Arc::new(AbortOnDropHandle::new(runner)) }
    }

    /// Keeps these shapes from now on, and no others: members of shapes that are gone, or of other versions, are deleted.
    pub fn set_shapes(&self, shapes: Vec<Shape>) -> Result<()> {
        let mut keys = BTreeSet::new();
        for shape in &shapes {
            if !keys.insert(shape.key.as_str()) {
                return Err(Error::invalid("pool", format!("{} is named twice; name it once", shape.key)));
            }
            if shape.spec.main.is_some() {
                let why = format!("{} has a main process, which a member cannot have; leave it out", shape.key);
                return Err(Error::invalid("pool", why));
            }
            self.shared.engine.validate(&shape.spec)?;
        }
        self.shared.shelves().set_shapes(shapes);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Hands out the oldest member of this shape, if one of this version stands ready. Whoever gets it claims it with
    /// [`Engine::claim`]; nobody else is given it. One that is not claimed within a
    /// minute goes back to its shelf: it is unused. Should its taker come after all, one of two claims wins.
    pub fn take(&self, key: &str, version: u64) -> Option<SandboxId> {
        let usable = |id: &SandboxId| self.shared.is_usable(id);
        let taken = self.shared.shelves().take(key, version, usable);
        self.shared.wake.notify_one();
        taken
    }

    /// Hands a member out for a while, to somebody who will not use it: it is not claimed meanwhile, none is started in its
    /// place, and [`Pool::give_back`] puts it back.
    pub fn lend(&self, key: &str, version: u64) -> Option<SandboxId> {
        let usable = |id: &SandboxId| self.shared.is_usable(id);
        self.shared.shelves().lend(key, version, usable)
    }

    /// Takes back what was lent.
    pub fn give_back(&self, id: &SandboxId) {
        self.shared.shelves().give_back(id);
        self.shared.wake.notify_one();
    }

    /// How one shape fares.
    pub fn status(&self, key: &str) -> Option<ShapeStatus> {
        self.statuses().into_iter().find(|status| status.key == key)
    }

    /// How all shapes fare, in the order of their names.
    pub fn statuses(&self) -> Vec<ShapeStatus> {
        self.shared.shelves().statuses()
    }

    /// Deletes every member: for a node that is to leave nothing behind. Takes find nothing from now on.
    pub async fn empty(&self) {
        self.runner.abort();
        self.shared.shelves().set_shapes(Vec::new());
        let members = self.shared.engine.list().into_iter().filter(|view| view.origin.owner == Owner::Pool);
        let ends = members.map(|view| async move {
            if let Err(error) = self.shared.engine.delete(&view.id).await {
                tracing::warn!(sandbox = %view.id, error = error.chain(), "a pool member could not be deleted");
            }
        });
        futures::future::join_all(ends).await;
    }
}

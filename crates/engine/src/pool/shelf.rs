//! What a pool has and how it fares: shelves of members, by shape.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use moat_model::spec::{MachineSnapshot, Origin, Owner};
use moat_model::{SandboxId, SandboxSpec, Timestamp};
use tokio::time::Instant;

use super::plan::{Member, Rules, Stock, back_off, plan};
use super::{KEY_LABEL, PoolConfig, Shape, ShapeStatus, VERSION_LABEL};

/// All shelves of a pool.
#[derive(Debug, Default)]
pub struct Shelves {
    /// Shapes were named: until then nothing is known of what a member should be.
    pub opened: bool,
    shelves: BTreeMap<String, Shelf>,
    /// Members handed out and not yet seen claimed, and when they were.
    taken: BTreeMap<SandboxId, Instant>,
    /// Members being started, and for which shape.
    starting: BTreeMap<SandboxId, String>,
    /// Members being deleted.
    ending: BTreeSet<SandboxId>,
    /// Members lent, of which shape, and what they were put on the shelf with.
    lent: BTreeMap<SandboxId, (String, Ready)>,
}

/// One shape and its members.
#[derive(Debug)]
struct Shelf {
    version: u64,
    spec: Arc<SandboxSpec>,
    machine: Option<MachineSnapshot>,
    broken: Option<String>,
    min_ready: usize,
    max_ready: usize,
    ready: VecDeque<Ready>,
    demand: [usize; 2],
    hits: u64,
    misses: u64,
    failures: u32,
    wait_until: Option<Timestamp>,
    problem: Option<String>,
}

#[derive(Debug)]
struct Ready {
    id: SandboxId,
    since: Timestamp,
    spec: Arc<SandboxSpec>,
}

/// What is to be done for all shapes.
#[derive(Debug, Default)]
pub struct Work {
    /// Members to start.
    pub start: Vec<(SandboxId, Arc<SandboxSpec>)>,
    /// Members to delete.
    pub retire: Vec<SandboxId>,
}

impl Shelf {
    fn new(shape: Shape) -> Self {
        let labels = [(KEY_LABEL.to_owned(), shape.key), (VERSION_LABEL.to_owned(), shape.version.to_string())].into();
        let origin = Origin { owner: Owner::Pool, from_pool: false, ..shape.spec.origin.clone() };
        Self {
            version: shape.version,
            spec: Arc::new(SandboxSpec { labels, origin, ..shape.spec }),
            machine: shape.machine,
            broken: None,
            min_ready: shape.min_ready,
            max_ready: shape.max_ready,
            ready: VecDeque::new(),
            demand: [0; 2],
            hits: 0,
            misses: 0,
            failures: 0,
            wait_until: None,
            problem: None,
        }
    }

    fn stock(&self, starting: usize) -> Stock {
        let member = |ready: &Ready| Member {
            id: ready.id.clone(),
            since: ready.since,
            current: alike(&ready.spec, &self.spec),
        };
        Stock {
            ready: self.ready.iter().map(member).collect(),
            starting,
            demand: self.demand.into_iter().max().unwrap_or(0),
            failures: self.failures,
            wait_until: self.wait_until,
        }
    }
}

/// Whether two members are the same, wherever each came from.
fn alike(one: &Arc<SandboxSpec>, other: &Arc<SandboxSpec>) -> bool {
    let made = |spec: &SandboxSpec| SandboxSpec { restore: None, ..spec.clone() };
    Arc::ptr_eq(one, other) || made(one) == made(other)
}

impl Shelf {
    /// What a member is started as.
    fn fresh(&self) -> Arc<SandboxSpec> {
        match &self.machine {
            None => Arc::clone(&self.spec),
            Some(machine) => Arc::new(SandboxSpec { restore: Some(machine.clone()), ..(*self.spec).clone() }),
        }
    }

    fn put(&mut self, ready: Ready) {
        let at = self.ready.partition_point(|other| (other.since, &other.id) < (ready.since, &ready.id));
        self.ready.insert(at, ready);
    }
}

impl Shelves {
    /// Keeps these shapes. Members of those that are gone are found by [`Shelves::strays`].
    pub fn set_shapes(&mut self, shapes: Vec<Shape>) {
        self.opened = true;
        let mut old = std::mem::take(&mut self.shelves);
        for shape in shapes {
            let (key, mut shelf) = (shape.key.clone(), Shelf::new(shape));
            if let Some(before) = old.remove(&key) {
                shelf = Shelf { ready: before.ready, hits: before.hits, misses: before.misses, ..shelf };
                if before.spec == shelf.spec {
                    shelf = Shelf {
                        spec: before.spec,
                        demand: before.demand,
                        failures: before.failures,
                        wait_until: before.wait_until,
                        problem: before.problem,
                        // One that was found to be broken is not tried again, until somebody has seen that and named none.
                        broken: before.broken.filter(|_| shelf.machine.is_some()),
                        ..shelf
                    };
                    if shelf.broken.is_some() {
                        shelf.machine = None;
                    }
                }
            }
            self.shelves.insert(key, shelf);
        }
    }

    /// Hands out the oldest member that is of this version and usable. Those that are not are left for the runner.
    pub fn take(&mut self, key: &str, version: u64, usable: impl Fn(&SandboxId) -> bool) -> Option<SandboxId> {
        let shelf = self.shelves.get_mut(key).filter(|shelf| shelf.version == version)?;
        if let Some(now) = shelf.demand.first_mut() {
            *now = now.saturating_add(1);
        }
        while let Some(Ready { id, spec, .. }) = shelf.ready.pop_front() {
            // What is passed over here is nobody's any more, and is found and deleted as such.
            if alike(&spec, &shelf.spec) && usable(&id) {
                shelf.hits = shelf.hits.saturating_add(1);
                self.taken.insert(id.clone(), Instant::now());
                return Some(id);
            }
        }
        shelf.misses = shelf.misses.saturating_add(1);
        None
    }

    /// Hands out the oldest usable member for a while.
    pub fn lend(&mut self, key: &str, version: u64, usable: impl Fn(&SandboxId) -> bool) -> Option<SandboxId> {
        let shelf = self.shelves.get_mut(key).filter(|shelf| shelf.version == version)?;
        let fits = |ready: &Ready| alike(&ready.spec, &shelf.spec) && usable(&ready.id);
        let at = shelf.ready.iter().position(fits)?;
        let ready = shelf.ready.remove(at)?;
        let id = ready.id.clone();
        self.lent.insert(id.clone(), (key.to_owned(), ready));
        Some(id)
    }

    /// Puts back what was lent. If nobody keeps its shape any more, it is found as a stray.
    pub fn give_back(&mut self, id: &SandboxId) {
        if let Some((key, ready)) = self.lent.remove(id)
            && let Some(shelf) = self.shelves.get_mut(&key)
        {
            shelf.put(ready);
        }
    }

    /// How all shapes fare.
    pub fn statuses(&self) -> Vec<ShapeStatus> {
        let status = |(key, shelf): (&String, &Shelf)| ShapeStatus {
            key: key.clone(),
            version: shelf.version,
            ready: shelf.ready.len(),
            starting: self.starting.values().filter(|of| *of == key).count(),
            hits: shelf.hits,
            misses: shelf.misses,
            problem: shelf.problem.clone(),
            broken: shelf.broken.clone(),
        };
        self.shelves.iter().map(status).collect()
    }

    /// An interval is over: demand is counted anew, with the last one remembered.
    pub fn next_interval(&mut self) {
        for shelf in self.shelves.values_mut() {
            let [now, _] = shelf.demand;
            shelf.demand = [0, now];
        }
    }

    /// Puts a member that nobody knows of on its shelf. False: there is none for it.
    pub fn adopt(&mut self, id: &SandboxId, since: Timestamp, spec: &Arc<SandboxSpec>) -> bool {
        let shelf = spec.labels.get(KEY_LABEL).and_then(|key| self.shelves.get_mut(key));
        let Some(shelf) = shelf.filter(|shelf| alike(&shelf.spec, spec)) else { return false };
        shelf.put(Ready { id: id.clone(), since, spec: Arc::clone(&shelf.spec) });
        true
    }

    /// Whether somebody knows of this member: it stands on a shelf, is coming, going or just handed out.
    pub fn knows(&self, id: &SandboxId) -> bool {
        self.taken.contains_key(id)
            || self.starting.contains_key(id)
            || self.lent.contains_key(id)
            || self.ending.contains(id)
            || self.shelves.values().any(|shelf| shelf.ready.iter().any(|ready| ready.id == *id))
    }

    /// Members on shelves that are of no use any more: taken off.
    pub fn drop_unusable(&mut self, usable: impl Fn(&SandboxId) -> bool) {
        for shelf in self.shelves.values_mut() {
            shelf.ready.retain(|ready| usable(&ready.id));
        }
    }

    /// Forgets who was handed out before `before`: claimed by now, or never to be.
    pub fn forget_taken(&mut self, before: Instant) {
        self.taken.retain(|_, at| *at > before);
    }

    /// What is to be done now. What it says is noted as begun.
    pub fn work(&mut self, config: &PoolConfig, now: Timestamp, mut new_id: impl FnMut() -> SandboxId) -> Work {
        let mut work = Work::default();
        let mut room = config.starts_at_once.max(1).saturating_sub(self.starting.len());
        for (key, shelf) in &mut self.shelves {
            // What is lent comes back.
            let lent = self.lent.values().filter(|(of, _)| of == key).count();
            let starting = lent + self.starting.values().filter(|of| *of == key).count();
            let rules =
                Rules { min_ready: shelf.min_ready, max_ready: shelf.max_ready, max_idle: config.max_idle, room };
            let plan = plan(&rules, &shelf.stock(starting), now);
            shelf.ready.retain(|ready| !plan.retire.contains(&ready.id));
            self.ending.extend(plan.retire.iter().cloned());
            work.retire.extend(plan.retire);
            room = room.saturating_sub(plan.start);
            for _ in 0..plan.start {
                let id = new_id();
                self.starting.insert(id.clone(), key.clone());
                work.start.push((id, shelf.fresh()));
            }
        }
        work
    }

    /// Notes that a member nobody knows of is being deleted.
    pub fn begin_end(&mut self, id: SandboxId) {
        self.ending.insert(id);
    }

    /// A member is gone, or could not be made to go and will be found again.
    pub fn ended(&mut self, id: &SandboxId) {
        self.ending.remove(id);
    }

    /// A start came to its end: with the moment it was accepted, or with why it failed. False: nobody wants it any more.
    pub fn started(
        &mut self,
        id: &SandboxId,
        spec: &Arc<SandboxSpec>,
        result: Result<Timestamp, String>,
        now: Timestamp,
    ) -> bool {
        let Some(key) = self.starting.remove(id) else { return false };
        let Some(shelf) = self.shelves.get_mut(&key) else { return false };
        match result {
            Ok(since) if alike(spec, &shelf.spec) => {
                (shelf.failures, shelf.wait_until, shelf.problem) = (0, None, None);
                shelf.ready.push_back(Ready { id: id.clone(), since, spec: Arc::clone(&shelf.spec) });
                true
            }
            Ok(_) => false,
            // From nothing, and at once: that says what is wrong, if it is not the machine.
            Err(problem) if spec.restore.is_some() => {
                if shelf.machine == spec.restore {
                    (shelf.machine, shelf.broken) = (None, Some(problem));
                }
                true
            }
            Err(problem) => {
                shelf.failures = shelf.failures.saturating_add(1);
                shelf.wait_until = Some(now.plus(back_off(shelf.failures)));
                shelf.problem = Some(problem);
                true
            }
        }
    }

    /// When the first shape that waits after a failure may try again.
    pub fn next_try(&self) -> Option<Timestamp> {
        self.shelves.values().filter_map(|shelf| shelf.wait_until).min()
    }
}

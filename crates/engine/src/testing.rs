//! Values for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::lifecycle::{Deadlines, SandboxView, State};
use moat_model::spec::RootSpec;
use moat_model::{ErrorKind, Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};

use crate::driver::Place;
use crate::error::{Error, Result};
use crate::fake::FakeWorld;
use crate::outlet::Outlet;
use crate::record::{RECORD_VERSION, SandboxRecord};

/// A sandbox id that is always the same for `n`.
pub fn id(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(1), [n; 10])
}

/// A spec with this main process.
pub fn spec(command: &str, args: &[&str]) -> SandboxSpec {
    let process = ProcessSpec {
        command: command.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        cwd: None,
        user: None,
    };
    SandboxSpec {
        main: Some(process),
        ..SandboxSpec::new(Namespace::default_namespace(), Isolation::Container, RootSpec::Scratch)
    }
}

/// A record of a sandbox that was just accepted.
pub fn record(n: u8) -> SandboxRecord {
    let at = Timestamp::from_millis(5);
    let state = State::accepted(id(n), spec("app", &[]), "fake", Isolation::Container, Deadlines::default(), at);
    SandboxRecord { version: RECORD_VERSION, state, place: place(&id(n)), driver_record: None }
}

/// A place of this sandbox, without ids of its own.
pub fn place(id: &SandboxId) -> Place {
    Place {
        id: id.clone(),
        run_dir: format!("/run/moat/sandboxes/{id}").into(),
        data_dir: format!("/var/lib/moat/alloc/{id}").into(),
        uid_base: 0,
        network: None,
    }
}

/// An outlet in memory. Like a disk, it outlives the daemon.
#[derive(Debug, Clone, Default)]
pub struct MemoryOutlet {
    inner: Arc<Mutex<Told>>,
}

/// What a [`MemoryOutlet`] was told.
#[derive(Debug, Default)]
struct Told {
    output: BTreeMap<SandboxId, [Vec<u8>; 2]>,
    views: BTreeMap<SandboxId, Vec<SandboxView>>,
    failures: u32,
    /// Dies with the daemon: the world and the epoch it belongs to.
    world: Option<(FakeWorld, u64)>,
}

impl MemoryOutlet {
    /// Fails this often, at whatever it is asked.
    pub fn fail(&self, times: u32) {
        self.lock().failures = times;
    }

    /// Belongs to the daemon that runs in `world` now: its calls are points at which that daemon may die.
    pub fn attach(&self, world: &FakeWorld) {
        self.lock().world = Some((world.clone(), world.epoch()));
    }

    /// What was written to standard output, or standard error.
    pub fn output(&self, id: &SandboxId, stream: StreamName) -> String {
        let told = self.lock();
        let streams = told.output.get(id).cloned().unwrap_or_default();
        String::from_utf8_lossy(&streams[stream as usize]).into_owned()
    }

    /// The facts told of a sandbox: views with generations not seen before, in order.
    pub fn facts(&self, id: &SandboxId) -> Vec<SandboxView> {
        self.lock().views.get(id).cloned().unwrap_or_default()
    }

    /// The terminal ones among them.
    pub fn ends(&self, id: &SandboxId) -> Vec<SandboxView> {
        self.facts(id).into_iter().filter(|view| view.phase.is_terminal()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self) -> Result<()> {
        let world = self.lock().world.clone();
        if let Some((world, epoch)) = world
            && world.point(epoch)
        {
            std::future::pending::<()>().await;
        }
        let mut told = self.lock();
        if told.failures > 0 {
            told.failures -= 1;
            return Err(Error::new(ErrorKind::Unavailable, "disk full"));
        }
        Ok(())
    }
}

#[async_trait]
impl Outlet for MemoryOutlet {
    async fn position(&self, id: &SandboxId) -> Result<Offsets> {
        self.enter().await?;
        let told = self.lock();
        let at = |stream: usize| told.output.get(id).map_or(0, |streams| streams[stream].len() as u64);
        Ok(Offsets { stdout: at(0), stderr: at(1) })
    }

    async fn append(&self, id: &SandboxId, stream: StreamName, offset: u64, bytes: Bytes) -> Result<()> {
        self.enter().await?;
        let mut told = self.lock();
        let have = &mut told.output.entry(id.clone()).or_default()[stream as usize];
        assert_eq!(have.len() as u64, offset, "output doubled or lost");
        have.extend_from_slice(&bytes);
        Ok(())
    }

    async fn announce(&self, view: &SandboxView) -> Result<()> {
        self.enter().await?;
        let mut told = self.lock();
        let views = told.views.entry(view.id.clone()).or_default();
        match views.iter().find(|known| known.generation == view.generation) {
            Some(known) => assert_eq!(known, view, "one generation told with two meanings"),
            None => {
                assert!(views.last().is_none_or(|last| last.generation < view.generation), "told out of order");
                views.push(view.clone());
            }
        }
        Ok(())
    }
}

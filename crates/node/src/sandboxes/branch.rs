//! Snapshots and forks. Of a microVM the whole machine is kept, memory and processes; of anything else, or if that is asked
//! for, what was changed in its files, as one more layer.

use std::path::PathBuf;
use std::sync::Arc;

use moat_api::rest::sandbox::{Fork, Forked, ForkedChild, Snapshot, SnapshotList, TakeSnapshot};
use moat_image::store::Pin;
use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::spec::{Origin, Owner, ROOT_LAYERS_MAX, RootLayer, RootSpec};
use moat_model::{ErrorKind, Namespace, SandboxId, SandboxSpec};

use crate::clock;
use crate::error::{Error, Result};
use crate::templates::layer;

use super::machines::{self, Machine, MachineRecord};
use super::plan::{Plan, layers_of, new_span};
use super::snapshots::NewSnapshot;
use super::{Sandboxes, checks, launch, no_such, reply};

/// Children of one fork.
const CHILDREN_MAX: u32 = 16;

/// A file being made in the store; what is left of it goes when this is dropped.
struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let path = std::mem::take(&mut self.path);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(Sandboxes::remove_file(path));
        }
    }
}

/// A sandbox that was kept: with what was changed in it as its last layer, or whole.
struct Kept {
    layers: Vec<RootLayer>,
    machine: Option<Arc<Machine>>,
    bytes: u64,
    pins: Vec<Pin>,
}

impl Sandboxes {
    /// Makes children of it.
    pub async fn fork(&self, namespace: &Namespace, id: &SandboxId, request: Fork) -> Result<Forked> {
        self.admit()?;
        let count = request.count.unwrap_or(1);
        if !(1..=CHILDREN_MAX).contains(&count) {
            return Err(Error::invalid("count", format!("{count}: must lie within 1 and {CHILDREN_MAX}")));
        }
        let wanted = match (request.memory, request.require_memory) {
            (Some(false), true) => {
                return Err(Error::invalid("require_memory", "memory: false says the opposite; leave one of them out"));
            }
            (given, required) => given.or(required.then_some(true)),
        };
        checks::metadata(&request.metadata)?;
        let timeout = new_span(&self.shared.base.config, request.timeout_sec)?;
        let field = if request.require_memory { "require_memory" } else { "memory" };
        let (view, parent) = self.living_one(namespace, id, "fork")?;
        let name = machines::fork_name(id.as_str());
        let kept = match self.keeps_memory(field, "fork", &view, wanted)? {
            true => self.keep_machine(&view, &parent, &name).await?,
            false => self.keep_files(id, &parent, "fork").await?,
        };
        let mut labels = view.labels;
        labels.extend(request.metadata);
        checks::metadata(&labels)?;
        let child = SandboxSpec {
            labels,
            timeout: timeout.or(parent.timeout),
            root: match &kept.machine {
                Some(_) => parent.root.clone(),
                None => RootSpec::Layers { layers: kept.layers },
            },
            restore: kept.machine.as_ref().map(|machine| machine.restore()),
            network: machines::shared_network(&parent.network),
            origin: Origin {
                owner: Owner::Api,
                template: view.origin.template,
                image: view.origin.image,
                parent: Some(id.clone()),
                from_pool: false,
            },
            ..(*parent).clone()
        };
        let births = (0..count).map(|number| {
            let plan = Plan { spec: child.clone(), pins: kept.pins.clone(), machine: kept.machine.clone() };
            async move {
                match self.launch(plan).await.and_then(|view| self.shown(&view)) {
                    Ok(sandbox) => ForkedChild { sandbox: Some(sandbox), error: None },
                    Err(error) => {
                        tracing::warn!(parent = %id, error = %error.chain(), "a child could not be made");
                        ForkedChild { sandbox: None, error: Some(reply::error(&error, &format!("{id}-{number}"))) }
                    }
                }
            }
        });
        let children = futures::future::join_all(births).await;
        Ok(Forked { memory: kept.machine.is_some(), children })
    }

    /// Keeps it under an id.
    pub async fn snapshot(&self, namespace: &Namespace, id: &SandboxId, request: TakeSnapshot) -> Result<Snapshot> {
        self.own(namespace, id)?;
        let (this, namespace, id) = (self.clone(), namespace.clone(), id.clone());
        // Whoever asked may go away: then it is there, under its name, or it is not; never half.
        let taken = self.shared.tasks.spawn(async move { this.take(&namespace, &id, request).await });
        taken.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "take a snapshot", e))?
    }

    async fn take(&self, namespace: &Namespace, id: &SandboxId, request: TakeSnapshot) -> Result<Snapshot> {
        let _claim = self.shared.snapshots.claim(namespace, request.name.as_deref())?;
        let (view, spec) = self.living_one(namespace, id, "snapshot")?;
        let new_id = launch::new_id().as_str().replacen("sb-", machines::OF_SNAPSHOTS, 1);
        let kept = match self.keeps_memory("memory", "snapshot", &view, request.memory)? {
            true => self.keep_machine(&view, &spec, &new_id).await?,
            false => self.keep_files(id, &spec, "snapshot").await?,
        };
        let new = NewSnapshot {
            id: new_id,
            sandbox: id.clone(),
            defaults: self.shared.base.templates.defaults_of(&view.origin),
            template: view.origin.template,
            image: view.origin.image,
            layers: kept.layers,
            machine: kept.machine.map(|machine| (MachineRecord::of(&view.driver, &spec), machine)),
            bytes: kept.bytes,
            created_at: clock::now(),
        };
        let (shared, namespace, pins) = (Arc::clone(&self.shared), namespace.clone(), kept.pins);
        tokio::task::spawn_blocking(move || shared.snapshots.add(&namespace, request.name, new, pins))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write a snapshot record", e))?
    }

    /// All snapshots.
    pub fn snapshots(&self, namespace: &Namespace) -> Result<SnapshotList> {
        Ok(SnapshotList { snapshots: self.shared.snapshots.of(namespace) })
    }

    /// Removes a snapshot by id or name; one that sandboxes live from is a conflict.
    pub async fn delete_snapshot(&self, namespace: &Namespace, name: &str) -> Result<()> {
        let (shared, namespace, name) = (Arc::clone(&self.shared), namespace.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let engine = &shared.base.engine;
            let lives_from = |wanted: &RootLayer| {
                let living = engine.list().into_iter().filter(|view| !view.phase.is_terminal());
                let has = |id: &SandboxId| {
                    engine.spec(id).is_some_and(|s| layers_of(&s.root).iter().any(|l| l.digest == wanted.digest))
                };
                living.map(|view| view.id).find(has)
            };
            shared.snapshots.remove(&namespace, &name, lives_from)
        })
        .await
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "remove a snapshot", e))?
    }

    /// A sandbox that has something to keep.
    fn living_one(
        &self,
        namespace: &Namespace,
        id: &SandboxId,
        doing: &str,
    ) -> Result<(SandboxView, Arc<SandboxSpec>)> {
        let view = self.own(namespace, id)?;
        if !matches!(view.phase, PhaseName::Running | PhaseName::Paused) {
            let what =
                format!("{doing}: sandbox {id} is {}; only a running or paused one has anything to keep", view.phase);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        Ok((view, spec))
    }

    /// Whether its memory is kept: as asked, or if it can be.
    fn keeps_memory(&self, field: &str, doing: &str, view: &SandboxView, wanted: Option<bool>) -> Result<bool> {
        let offer = self.shared.base.engine.offer_of(&view.driver);
        let can = offer.is_some_and(|offer| offer.snapshots);
        if wanted == Some(true) && !can {
            let what = format!(
                "{field}: sandbox {} is a {}, of which a {doing} keeps files and never memory; leave it out",
                view.id, view.isolation
            );
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Ok(wanted.unwrap_or(can))
    }

    /// Its root can be had by another with one more layer on it.
    fn has_layers(&self, id: &SandboxId, spec: &SandboxSpec, doing: &str) -> Result<()> {
        match &spec.root {
            RootSpec::Layers { layers } if layers.len() >= ROOT_LAYERS_MAX => {
                let what = format!(
                    "{doing}: sandbox {id} stands on {} layers, the most there may be; make an image of its files instead",
                    layers.len()
                );
                Err(Error::new(ErrorKind::Exhausted, what))
            }
            RootSpec::Layers { .. } => Ok(()),
            RootSpec::Host | RootSpec::Scratch => {
                let what = format!(
                    "{doing}: sandbox {id} is not made from an image, so what changed in it cannot be kept as a layer; use a template of an image"
                );
                Err(Error::new(ErrorKind::Unsupported, what))
            }
        }
    }

    /// Keeps it whole, under this name. What was written goes if nobody keeps it.
    async fn keep_machine(&self, view: &SandboxView, spec: &SandboxSpec, name: &str) -> Result<Kept> {
        let machine = machines::place(&self.shared.base.machines_dir, name, &view.driver)?;
        let (engine, id, held) = (self.shared.base.engine.clone(), view.id.clone(), Arc::clone(&machine));
        // Whoever asked may go away while it is being written: what is written goes after that, not meanwhile.
        let written = self.shared.tasks.spawn(async move { engine.snapshot(&id, held.dir().to_owned()).await });
        let captured = written.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "keep a machine", e))??;
        let layers = layers_of(&spec.root).to_vec();
        let pins = self.shared.snapshots.pins(&layers);
        Ok(Kept { layers, machine: Some(machine), bytes: captured.bytes, pins })
    }

    /// Keeps what was changed in it: captured, then adopted by the store, which syncs it.
    async fn keep_files(&self, id: &SandboxId, spec: &SandboxSpec, doing: &str) -> Result<Kept> {
        self.has_layers(id, spec, doing)?;
        let store = self.shared.base.templates.store();
        let mut scratch = Scratch { path: store.scratch_file(), kept: false };
        let captured = self.shared.base.engine.capture(id, scratch.path.clone()).await?;
        let (root, pin) = store.adopt_layer(scratch.path.clone(), captured.entries).await?;
        scratch.kept = true;
        let mut layers = layers_of(&spec.root).to_vec();
        layers.push(layer(&root.digest, &root.path));
        Ok(Kept { layers, machine: None, bytes: root.bytes, pins: vec![pin] })
    }
}

//! Snapshots and forks: both keep what was changed in a sandbox as one more layer.

use std::path::PathBuf;
use std::sync::Arc;

use moat_api::rest::sandbox::{Fork, Forked, ForkedChild, Snapshot, SnapshotList, TakeSnapshot};
use moat_image::store::Pin;
use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::network::NetworkSpec;
use moat_model::spec::{Origin, Owner, ROOT_LAYERS_MAX, RootLayer, RootSpec};
use moat_model::{ErrorKind, Namespace, SandboxId, SandboxSpec};

use crate::clock;
use crate::error::{Error, Result};
use crate::templates::layer;

use super::plan::{Plan, layers_of, new_span};
use super::snapshots::NewSnapshot;
use super::{Sandboxes, checks, no_such, reply};

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

/// A sandbox with what was changed in it as its last layer.
struct Kept {
    layers: Vec<RootLayer>,
    bytes: u64,
    memory: bool,
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
        if request.require_memory {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "require_memory: a fork on the container tier keeps files, never memory; leave it out",
            ));
        }
        checks::metadata(&request.metadata)?;
        let timeout = new_span(&self.shared.base.config, request.timeout_sec)?;
        let (view, parent) = self.branchable(namespace, id, "fork")?;
        let kept = self.keep(id, &parent).await?;
        let mut labels = view.labels;
        labels.extend(request.metadata);
        checks::metadata(&labels)?;
        let child = SandboxSpec {
            labels,
            timeout: timeout.or(parent.timeout),
            root: RootSpec::Layers { layers: kept.layers },
            // What there can be only one of stays the parent's.
            network: NetworkSpec { address: None, name: None, publish: Vec::new(), ..parent.network.clone() },
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
            let plan = Plan { spec: child.clone(), pins: kept.pins.clone() };
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
        Ok(Forked { memory: kept.memory, children })
    }

    /// Keeps its file system under an id.
    pub async fn snapshot(&self, namespace: &Namespace, id: &SandboxId, request: TakeSnapshot) -> Result<Snapshot> {
        self.view(namespace, id)?;
        let (this, namespace, id) = (self.clone(), namespace.clone(), id.clone());
        // Whoever asked may go away: then it is there, under its name, or it is not; never half.
        let taken = self.shared.tasks.spawn(async move { this.take(&namespace, &id, request).await });
        taken.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "take a snapshot", e))?
    }

    async fn take(&self, namespace: &Namespace, id: &SandboxId, request: TakeSnapshot) -> Result<Snapshot> {
        let _claim = self.shared.snapshots.claim(namespace, request.name.as_deref())?;
        let (view, spec) = self.branchable(namespace, id, "snapshot")?;
        let kept = self.keep(id, &spec).await?;
        let new = NewSnapshot {
            sandbox: id.clone(),
            defaults: self.shared.base.templates.defaults_of(&view.origin),
            template: view.origin.template,
            image: view.origin.image,
            layers: kept.layers,
            memory: kept.memory,
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

    /// A sandbox whose files can be kept.
    fn branchable(
        &self,
        namespace: &Namespace,
        id: &SandboxId,
        doing: &str,
    ) -> Result<(SandboxView, Arc<SandboxSpec>)> {
        let view = self.view(namespace, id)?;
        if !matches!(view.phase, PhaseName::Running | PhaseName::Paused) {
            let what =
                format!("{doing}: sandbox {id} is {}; only a running or paused one has files to keep", view.phase);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        match &spec.root {
            RootSpec::Layers { layers } if layers.len() >= ROOT_LAYERS_MAX => {
                let what = format!(
                    "{doing}: sandbox {id} stands on {} layers, the most there may be; make an image of its files instead",
                    layers.len()
                );
                Err(Error::new(ErrorKind::Exhausted, what))
            }
            RootSpec::Layers { .. } => Ok((view, spec)),
            RootSpec::Host | RootSpec::Scratch => {
                let what = format!(
                    "{doing}: sandbox {id} is not made from an image, so what changed in it cannot be kept as a layer; use a template of an image"
                );
                Err(Error::new(ErrorKind::Unsupported, what))
            }
        }
    }

    /// Keeps what was changed in it: captured, then adopted by the store, which syncs it.
    async fn keep(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<Kept> {
        let store = self.shared.base.templates.store();
        let mut scratch = Scratch { path: store.scratch_file(), kept: false };
        let captured = self.shared.base.engine.capture(id, scratch.path.clone()).await?;
        let (root, pin) = store.adopt_layer(scratch.path.clone(), captured.entries).await?;
        scratch.kept = true;
        let mut layers = layers_of(&spec.root).to_vec();
        layers.push(layer(&root.digest, &root.path));
        Ok(Kept { layers, bytes: root.bytes, memory: captured.memory, pins: vec![pin] })
    }
}

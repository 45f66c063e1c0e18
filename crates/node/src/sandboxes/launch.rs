//! Making sandboxes: admission, the pool, the engine, and nothing left behind if whoever asked goes away.

use std::sync::atomic::Ordering;

use moat_model::lifecycle::SandboxView;
use moat_model::spec::Owner;
use moat_model::{ErrorKind, Isolation, Namespace, SandboxId};

use crate::clock;
use crate::error::{Error, Result};

use super::plan::{Plan, claim};
use super::{Made, Sandboxes, lock, logs};

/// A sandbox being made: counted, and ended if the request is dropped before it is there.
struct Making {
    sandboxes: Sandboxes,
    id: SandboxId,
    done: bool,
}

impl Making {
    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        lock(&self.sandboxes.shared.coming).remove(&self.id);
        if self.done {
            return;
        }
        let (sandboxes, id) = (self.sandboxes.clone(), self.id.clone());
        // Nobody knows its id: it would stand until its time is up.
        self.sandboxes.shared.tasks.spawn(async move {
            match sandboxes.shared.base.engine.delete(&id).await {
                Err(error) if error.kind != ErrorKind::NotFound => {
                    tracing::warn!(sandbox = %id, error = %error.chain(), "nobody waited for it, and it is not gone");
                }
                _ => {}
            }
            sandboxes.unbind(&id).await;
        });
    }
}

impl Sandboxes {
    /// Whether anything new is taken.
    pub(super) fn admit(&self) -> Result<()> {
        if self.shared.base.lameduck.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Unavailable, "this node takes nothing new (lame duck); ask another"));
        }
        Ok(())
    }

    /// Counts a sandbox that is about to be against the quota of its namespace.
    fn reserve(&self, namespace: &Namespace) -> Result<Making> {
        let id = new_id();
        let mut coming = lock(&self.shared.coming);
        if let Some(max) = self.shared.base.config.max_per_namespace {
            let lives = |view: &SandboxView| {
                view.origin.owner == Owner::Api && view.namespace == *namespace && !view.phase.is_terminal()
            };
            let living = self.shared.base.engine.list().into_iter().filter(lives);
            let living = living.filter(|view| !coming.contains_key(&view.id)).count();
            let making = coming.values().filter(|n| *n == namespace).count();
            if living + making >= max {
                let what = format!(
                    "namespace {namespace} has {} sandboxes, its limit on this node (sandboxes.max_per_namespace): delete some, or try again when some have ended",
                    living + making
                );
                return Err(Error::new(ErrorKind::Exhausted, what));
            }
        }
        coming.insert(id.clone(), namespace.clone());
        drop(coming);
        Ok(Making { sandboxes: self.clone(), id, done: false })
    }

    /// Makes a sandbox from nothing.
    pub(super) async fn launch(&self, plan: Plan) -> Result<SandboxView> {
        // The machine, if it is made of one, is held until it has started.
        let Plan { spec, pins, machine: _machine } = plan;
        let making = self.reserve(&spec.namespace)?;
        let base = &self.shared.base;
        base.engine.validate(&spec)?;
        if spec.main.is_some() {
            base.outlet.bind(making.id.clone(), logs::reference(&base.node, &spec.namespace, &making.id)?).await?;
        }
        // If this fails nothing is left but the binding, which goes with `making`.
        let view = base.engine.create(making.id.clone(), spec).await?;
        lock(&self.shared.made).insert(view.id.clone(), Made { boot_ms: None, _pins: pins });
        making.finish();
        self.shared.created.fetch_add(1, Ordering::Relaxed);
        Ok(view)
    }

    /// Takes a member of the pool that can be what was planned.
    pub(super) async fn claim_member(&self, plan: &Plan) -> Option<SandboxView> {
        let engine = &self.shared.base.engine;
        let template = plan.spec.origin.template.as_ref()?;
        let wanted = self.member_of(template)?;
        let machine = engine.offer(wanted.isolation).ok()?.isolation == Isolation::Microvm;
        let request = claim(&plan.spec, &wanted, machine)?;
        // The quota is held by an id that never is; the member has one of its own.
        let making = self.reserve(&plan.spec.namespace).ok()?;
        // A member may have died a moment ago: the next one is asked, and there are only so many.
        for _ in 0..3 {
            let id = self.shared.base.ready.pool.take(&template.name, template.version)?;
            match engine.claim(&id, request.clone()).await {
                Ok(view) => {
                    making.finish();
                    self.shared.created.fetch_add(1, Ordering::Relaxed);
                    return Some(view);
                }
                Err(error) => {
                    tracing::warn!(sandbox = %id, error = %error.chain(), "a member of the pool could not be claimed");
                    // What was asked of the network is more likely at fault than the member, which is used up by it: the
                    // create from nothing says what it was.
                    if request.network.is_some() {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Closes the output of a sandbox, if it has any.
    pub(super) async fn unbind(&self, id: &SandboxId) {
        if let Err(error) = self.shared.base.outlet.unbind(id).await {
            tracing::warn!(sandbox = %id, error = %error.chain(), "output not closed");
        }
    }
}

pub(super) fn new_id() -> SandboxId {
    SandboxId::from_parts(clock::now(), rand::random())
}

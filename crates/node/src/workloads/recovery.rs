//! Records meet the sandboxes the engine found.

use std::collections::HashSet;
use std::sync::Arc;

use moat_model::lifecycle::SandboxView;
use moat_model::spec::Owner;
use moat_model::{ErrorKind, SandboxId};

use super::record::{Stage, WorkloadRecord};
use super::{Shared, new_sandbox_id};
use crate::clock;
use crate::error::Result;

/// What a record and its sandbox call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Follow it: it runs, or ended while nobody looked, or is to wait.
    Adopt,
    /// Its first start was not seen through: undo it.
    Undo,
    /// A later start was not seen through and nothing runs: make the attempt again.
    Again,
    /// A later start was not seen through, and the sandbox is there: it counts as seen.
    Seen,
}

fn fate(record: &WorkloadRecord, found: Option<&SandboxView>) -> Fate {
    match &record.stage {
        _ if record.unacknowledged() => Fate::Undo,
        Stage::Starting { .. } => match found {
            // Its end, if it has ended, is then reported like any other.
            Some(view) if view.started_at.is_some() => Fate::Seen,
            _ => Fate::Again,
        },
        Stage::Running { .. } | Stage::Waiting { .. } | Stage::Ended { .. } => Fate::Adopt,
    }
}

/// Takes up every workload, and ends every sandbox that belongs to none.
pub(super) async fn recover(shared: &Arc<Shared>, found: Vec<SandboxView>) -> Result<()> {
    let mut owned: HashSet<SandboxId> = HashSet::new();
    let mut gone: HashSet<SandboxId> = HashSet::new();
    let (mut adopted, mut undone) = (0u32, 0u32);
    for mut record in shared.store.read_all()? {
        let view = record.sandbox.as_ref().and_then(|id| found.iter().find(|v| v.id == *id));
        match fate(&record, view) {
            Fate::Undo => {
                // Sandbox first, record last: a daemon killed in between undoes again.
                if let Some(view) = view {
                    end_unowned(shared, &view.id).await;
                    gone.insert(view.id.clone());
                }
                shared.store.remove(&record.id)?;
                tracing::warn!(workload = %record.id, name = %record.name, "deploy was not answered before the node ended: undone");
                undone += 1;
                continue;
            }
            Fate::Seen => {
                if let Some(view) = view {
                    record.running(view);
                }
                shared.store.write(&record)?;
            }
            Fate::Again => {
                record.attempt = record.attempt.saturating_sub(1);
                record.starting(new_sandbox_id(), clock::now());
                shared.store.write(&record)?;
            }
            Fate::Adopt => {}
        }
        if let Stage::Running { sandbox } | Stage::Starting { sandbox } = &record.stage {
            owned.insert(sandbox.clone());
        }
        adopted += 1;
        let pin = if record.ended() { None } else { shared.base.artifacts.pin(record.sha256()) };
        shared.launch(record, pin, None);
    }
    // Sandboxes of the API and of pools have owners of their own.
    let (ours, others): (Vec<_>, Vec<_>) = found.iter().partition(|view| view.origin.owner == Owner::Workload);
    for view in ours.iter().filter(|v| !owned.contains(&v.id) && !gone.contains(&v.id)) {
        end_unowned(shared, &view.id).await;
    }
    let others: HashSet<&SandboxId> = others.into_iter().map(|view| &view.id).collect();
    for (sandbox, _) in shared.base.outlet.bindings() {
        if !owned.contains(&sandbox)
            && !others.contains(&sandbox)
            && let Err(error) = shared.base.outlet.unbind(&sandbox).await
        {
            tracing::warn!(%sandbox, error = %error.chain(), "output not closed");
        }
    }
    tracing::info!(adopted, undone, sandboxes = found.len(), "workloads recovered");
    Ok(())
}

async fn end_unowned(shared: &Arc<Shared>, sandbox: &SandboxId) {
    match shared.base.engine.delete(sandbox).await {
        Ok(()) => tracing::debug!(%sandbox, "sandbox without a workload removed"),
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => tracing::error!(%sandbox, error = %error.chain(), "sandbox without a workload not removed"),
    }
}

//! Records meet the sandboxes the engine found.

use std::collections::BTreeSet;
use std::sync::Arc;

use moat_model::lifecycle::SandboxView;
use moat_model::spec::Owner;
use moat_model::{ErrorKind, SandboxId};

use super::table::Shared;
use crate::error::Result;

/// Takes up every allocation, and ends every sandbox of a task that belongs to none.
pub(super) async fn recover(shared: &Arc<Shared>, found: Vec<SandboxView>) -> Result<()> {
    let records = shared.store.read_all()?;
    let owned: BTreeSet<SandboxId> =
        records.iter().flat_map(|record| record.life.sandboxes().map(|(_, sandbox)| sandbox.clone())).collect();
    // Ports first, all of them: none is given twice.
    for record in records.iter().filter(|record| !record.life.is_over()) {
        shared.ports.hold(&record.allocation.id, &record.ports);
    }
    let count = records.len();
    for view in found.iter().filter(|view| view.origin.owner == Owner::Task && !owned.contains(&view.id)) {
        match shared.base.engine.delete(&view.id).await {
            Ok(()) => tracing::debug!(sandbox = %view.id, "sandbox without a task removed"),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(sandbox = %view.id, error = %error.chain(), "sandbox without a task not removed")
            }
        }
    }
    for sandbox in shared.base.outlet.task_sandboxes() {
        // Jails keep their consoles the same way.
        let of_jail = |view: SandboxView| view.origin.owner == Owner::Jail;
        if !owned.contains(&sandbox)
            && !shared.base.engine.get(&sandbox).is_some_and(of_jail)
            && let Err(error) = shared.base.outlet.unbind_task(&sandbox).await
        {
            tracing::warn!(%sandbox, error = %error.chain(), "output not closed");
        }
    }
    for mut record in records {
        if shared.is_fenced() && !record.life.is_over() && record.may_be_replaced() {
            record.life.fenced = true;
        }
        shared.launch(record);
    }
    tracing::info!(allocations = count, "allocations recovered");
    Ok(())
}

//! This node and its sums, for the API.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use futures::StreamExt as _;
use moat_api::nex::event::rfc3339;
use moat_api::rest::node::{Node, Stats};
use moat_model::Namespace;

use crate::verbs::{VERSION, host};

use super::Sandboxes;

/// Sandboxes measured at a time: each measurement is a few reads of the cgroup file system.
const MEASURED_AT_ONCE: usize = 16;

fn whole(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Sandboxes {
    /// This node.
    pub fn node(&self) -> Node {
        let base = &self.shared.base;
        let memory = host::memory();
        let kib = |n: Option<u64>| n.unwrap_or(0).saturating_mul(1024);
        Node {
            id: base.node.to_string(),
            name: base.name.clone(),
            version: VERSION.to_owned(),
            status: if base.lameduck.load(Ordering::Acquire) { "lameduck" } else { "ready" }.to_owned(),
            isolation: base.isolation.clone(),
            cpus: u32::try_from(host::cpu_count()).unwrap_or(u32::MAX),
            memory_bytes: kib(memory.as_ref().map(|m| m.total)),
            memory_available_bytes: kib(memory.as_ref().map(|m| m.available)),
            sandboxes: whole(self.views().iter().filter(|view| !view.phase.is_terminal()).count()),
            sandboxes_max: whole(base.sandboxes_max),
            templates: base.templates.ready(),
            started_at: rfc3339(base.started_at),
        }
    }

    /// Sums over what this tenant may see; over all for an administrator (`None`).
    pub async fn stats(&self, namespace: Option<&Namespace>) -> Stats {
        let mut views = self.views();
        views.retain(|view| namespace.is_none_or(|n| view.namespace == *n));
        let mut sandboxes: BTreeMap<String, u64> = BTreeMap::new();
        for view in &views {
            *sandboxes.entry(view.phase.to_string()).or_default() += 1;
        }
        let networks = whole(views.iter().filter(|view| view.address.is_some()).count());
        let engine = &self.shared.base.engine;
        let living = views.into_iter().filter(|view| !view.phase.is_terminal());
        // One that ends meanwhile uses nothing.
        let (memory_bytes, processes) = futures::stream::iter(living)
            .map(|view| async move { engine.usage(&view.id).await.unwrap_or_default() })
            .buffer_unordered(MEASURED_AT_ONCE)
            .fold((0u64, 0u64), |(memory, pids), usage| async move {
                (memory.saturating_add(usage.memory_bytes), pids.saturating_add(usage.pids))
            })
            .await;
        let (pool_ready, pool_starting, pool_hits, pool_misses) = self.pool_sums();
        Stats {
            nodes: 1,
            sandboxes,
            templates: whole(self.shared.base.templates.ready().len()),
            pool_ready,
            pool_starting,
            pool_hits,
            pool_misses,
            created_total: self.shared.created.load(Ordering::Relaxed),
            memory_bytes,
            processes,
            networks,
        }
    }
}

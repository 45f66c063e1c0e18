//! What PING, WPING and INFO answer.

use std::sync::Arc;

use moat_api::nex::{InfoResponse, MachineSummary, PingResponse, WorkloadBrief, WorkloadPingResponse, WorkloadSummary};
use moat_api::subjects::WorkloadSearch;
use moat_model::lifecycle::PhaseName;
use moat_model::time::format_uptime;
use moat_model::{Namespace, Timestamp};

use super::{Service, VERSION, host};
use crate::clock;
use crate::workloads::Snapshot;

impl Service {
    pub(super) fn ping(&self) -> PingResponse {
        PingResponse {
            node_id: self.node().clone(),
            nexus: Some(self.config.nexus.clone()),
            version: VERSION.to_owned(),
            uptime: self.uptime(),
            target_xkey: self.identity.xkey().public_key(),
            tags: self.tags(),
            running_machines: u64::try_from(self.workloads.live().len()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn info(&self, namespace: &Namespace) -> InfoResponse {
        let now = clock::now();
        let machines = self
            .workloads
            .live()
            .iter()
            .filter(|s| same(&s.view.namespace, namespace))
            .map(|s| machine(s, now))
            .collect();
        InfoResponse {
            version: VERSION.to_owned(),
            uptime: self.uptime(),
            public_xkey: self.identity.xkey().public_key(),
            tags: self.tags(),
            memory: host::memory(),
            machines,
            supported_workload_types: self.config.workload_types.clone(),
        }
    }

    /// `None`: nothing found, nothing said.
    pub(super) fn search(&self, search: &WorkloadSearch) -> Option<WorkloadPingResponse> {
        let found: Vec<WorkloadBrief> = self.workloads.live().iter().filter(|s| found(s, search)).map(brief).collect();
        (!found.is_empty()).then(|| WorkloadPingResponse {
            node_id: self.node().clone(),
            target_xkey: self.identity.xkey().public_key(),
            version: VERSION.to_owned(),
            tags: self.tags(),
            uptime: self.uptime(),
            running_machines: found,
        })
    }
}

fn same(a: &Namespace, b: &Namespace) -> bool {
    a.as_str().eq_ignore_ascii_case(b.as_str())
}

/// Names without regard to case, ids exactly.
fn found(snapshot: &Arc<Snapshot>, search: &WorkloadSearch) -> bool {
    let view = &snapshot.view;
    same(&view.namespace, &search.namespace)
        && search.wanted.as_ref().is_none_or(|wanted| {
            view.id.as_str() == wanted.as_str() || view.name.as_str().eq_ignore_ascii_case(wanted.as_str())
        })
}

fn brief(snapshot: &Arc<Snapshot>) -> WorkloadBrief {
    let view = &snapshot.view;
    WorkloadBrief {
        id: view.id.to_string(),
        namespace: view.namespace.clone(),
        name: view.name.to_string(),
        workload_type: view.workload_type.clone(),
    }
}

fn machine(snapshot: &Arc<Snapshot>, now: Timestamp) -> MachineSummary {
    let view = &snapshot.view;
    let ran = view.started_at.map(|at| format_uptime(now.since(at))).unwrap_or_else(|| "0s".to_owned());
    MachineSummary {
        id: view.id.to_string(),
        healthy: matches!(view.phase, PhaseName::Running | PhaseName::Paused),
        uptime: format_uptime(now.since(view.created_at)),
        namespace: Some(view.namespace.clone()),
        workload: WorkloadSummary {
            name: view.name.to_string(),
            description: view.description.clone(),
            runtime: ran,
            workload_type: view.workload_type.clone(),
            hash: view.hash.clone(),
        },
    }
}

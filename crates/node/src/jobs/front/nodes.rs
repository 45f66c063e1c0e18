//! Nodes, and what is wanted of them.

use moat_model::job::cluster::Capacity;
use moat_model::job::{DrainSpec, Eligibility, NodeFacts, NodeWish};
use moat_model::{ErrorKind, NodeId};

use super::status;
use crate::clock;
use crate::error::{Error, Result};
use crate::jobs::controller::node_state;
use crate::jobs::keys::Key;
use crate::jobs::replica::State;
use crate::jobs::store::WriteError;
use crate::jobs::view::{DrainRequest, NodeView};
use crate::jobs::{Jobs, Live};

/// Tries against others who want something of the same node.
const TRIES: usize = 5;

impl Jobs {
    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        let live = self.live()?;
        let state = live.replica.state();
        Ok(state.facts.values().map(|held| live.node_view(&state, &held.value)).collect())
    }

    /// One node: by its id, a beginning that no other has, or its name; `self` is this one.
    pub async fn node(&self, id: &str) -> Result<NodeView> {
        let live = self.live()?;
        let state = live.replica.state();
        let wanted = |facts: &NodeFacts| match id {
            "self" => facts.id == live.me,
            _ => facts.id.as_str().starts_with(id) || facts.name == id,
        };
        let found = state.facts.values().filter(|held| wanted(&held.value));
        let found = found.map(|held| (held.value.id.to_string(), live.node_view(&state, &held.value))).collect();
        status::only("node", id, found)
    }

    /// Empties a node.
    pub async fn drain(&self, node: &NodeId, request: DrainRequest) -> Result<NodeView> {
        let drain = DrainSpec {
            deadline: request.deadline,
            started: clock::now(),
            ignore_system: request.ignore_system,
            message: request.message,
        };
        let wish = NodeWish { eligibility: Eligibility::Ineligible, drain: Some(drain) };
        self.live()?.wish(node, |_| Ok(wish.clone())).await
    }

    /// Ends that; the node may be used again unless `keep_ineligible`.
    pub async fn undrain(&self, node: &NodeId, keep_ineligible: bool) -> Result<NodeView> {
        let eligibility = if keep_ineligible { Eligibility::Ineligible } else { Eligibility::Eligible };
        self.live()?.wish(node, |_| Ok(NodeWish { eligibility, drain: None })).await
    }

    /// Whether anything new may be placed on a node. Refused while it is being emptied.
    pub async fn set_eligibility(&self, node: &NodeId, eligibility: Eligibility) -> Result<NodeView> {
        let change = |old: &NodeWish| {
            if old.drain.is_some() && eligibility == Eligibility::Eligible {
                let why = format!("node {node} is being emptied: end the drain instead");
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            Ok(NodeWish { eligibility, ..old.clone() })
        };
        self.live()?.wish(node, change).await
    }
}

impl Live {
    async fn wish(&self, node: &NodeId, change: impl Fn(&NodeWish) -> Result<NodeWish>) -> Result<NodeView> {
        let key = Key::Wish(node.clone());
        for _ in 0..TRIES {
            let (over, old) = {
                let state = self.replica.state();
                if !state.facts.contains_key(node) {
                    return Err(Error::new(ErrorKind::NotFound, format!("no node {node} has joined for jobs")));
                }
                let old = state.wishes.get(node).map(|held| (*held.value).clone()).unwrap_or_default();
                (state.revision(&key).unwrap_or(0), old)
            };
            let value = serde_json::to_vec(&change(&old)?).unwrap_or_default();
            match self.store.put(&key, value.clone(), Some(over)).await {
                Ok(revision) => {
                    self.replica.apply(&key, revision, Some(&value));
                    let state = self.replica.state();
                    let gone = || Error::new(ErrorKind::NotFound, format!("no node {node} has joined for jobs"));
                    return Ok(self.node_view(&state, &state.facts.get(node).ok_or_else(gone)?.value));
                }
                Err(WriteError::Conflict) => self.reread(&key).await?,
                Err(error) => return Err(error.into_error(format!("write what is wanted of node {node}"))),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("node {node} is changed by somebody else all the time")))
    }

    fn node_view(&self, state: &State, facts: &NodeFacts) -> NodeView {
        let wish = state.wishes.get(&facts.id).map(|held| (*held.value).clone()).unwrap_or_default();
        let (mut allocations, mut used) = (0, Capacity::default());
        for (key, held) in &state.outcomes {
            for allocation in held.value.on(&facts.id).filter(|a| !status::client(state, a).is_terminal()) {
                allocations += 1;
                let job = state.version(key, allocation.job_version);
                if let Some(group) = job.as_ref().and_then(|job| job.group(&allocation.group)) {
                    let takes = moat_scheduler::demand(group).on(facts);
                    used.cpu_mhz += takes.cpu_mhz;
                    used.cores += takes.cores;
                    used.memory_mb += takes.memory_mb;
                    used.disk_mb += takes.disk_mb;
                }
            }
        }
        let holder = state.lease.as_ref().and_then(|held| held.value.holder.clone());
        NodeView {
            facts: facts.clone(),
            state: node_state(state, &facts.id),
            eligibility: wish.eligibility,
            drain: wish.drain,
            allocations,
            controller: holder.as_ref() == Some(&facts.id),
            own: facts.id == self.me,
            used,
        }
    }
}

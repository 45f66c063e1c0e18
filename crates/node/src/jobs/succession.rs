//! An instance that takes the place of another begins when that one has left it.
//!
//! Who decides writes both into one document: the one stops, the other runs. Their nodes carry that out apart from each other, and
//! the node of the one may be slow, or its daemon dead while its programs live on. Both would answer for that time.

use moat_model::job::{Allocation, Desired};

use super::replica::State;

/// The one that must end before this one begins: it is to stop, its node has not said that it did, and nobody has given that
/// node up. Whoever is to run until its successor does, as where a node is drained, is not waited for.
///
/// The wait is not bounded by time: it ends with what is waited for, with its node, or when this one is not wanted any more, as
/// when its deployment has made no progress.
pub fn awaited<'a>(state: &'a State, allocation: &Allocation) -> Option<&'a Allocation> {
    if allocation.desired != Desired::Run {
        return None;
    }
    let previous = allocation.previous.as_ref()?;
    let outcome = state.outcomes.get(state.owners.get(previous)?)?;
    let previous = outcome.value.allocation(previous)?;
    let status = state.statuses.get(&previous.id).map(|held| &*held.value);
    let stops = previous.desired != Desired::Run && !previous.client(status).is_terminal();
    stops.then_some(previous)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use moat_model::job::{AllocStatus, ClientStatus};
    use moat_model::{AllocId, JobId, Namespace, NodeId, Timestamp};
    use moat_scheduler::JobKey;

    use super::super::document::Outcome;
    use super::super::keys::Key;
    use super::*;

    fn allocation(n: u8, previous: Option<u8>) -> Allocation {
        let id = |n: u8| AllocId::parse(&format!("{n:08x}-0000-4000-8000-000000000000")).unwrap();
        Allocation {
            id: id(n),
            namespace: Namespace::default_namespace(),
            job: JobId::parse("j").unwrap(),
            job_version: 0,
            group: "g".to_owned(),
            index: 0,
            node: NodeId::parse(&format!("N{}", "A".repeat(55))).unwrap(),
            desired: Desired::Run,
            reason: String::new(),
            no_shutdown_delay: false,
            generation: 1,
            created: Timestamp::from_millis(1),
            modified: Timestamp::from_millis(1),
            previous: previous.map(id),
            next: None,
            reschedules: Vec::new(),
            not_before: None,
            deployment: None,
            canary: false,
            lost: false,
        }
    }

    fn status(allocation: &Allocation, client: ClientStatus) -> AllocStatus {
        AllocStatus {
            id: allocation.id.clone(),
            node: allocation.node.clone(),
            generation: 1,
            client,
            description: String::new(),
            tasks: BTreeMap::new(),
            healthy: None,
            ports: BTreeMap::new(),
            checks: BTreeMap::new(),
            modified: Timestamp::from_millis(1),
        }
    }

    /// Whether the second waits for the first, of which its node says this.
    fn waits(first: Allocation, says: Option<ClientStatus>, second: Allocation) -> bool {
        let mut state = State::default();
        let of = JobKey { namespace: first.namespace.clone(), job: first.job.clone() };
        if let Some(client) = says {
            let told = serde_json::to_vec(&status(&first, client)).unwrap();
            state.apply(&Key::Status(first.id.clone()), 1, Some(&told));
        }
        let outcome = Outcome { allocations: vec![first, second.clone()], ..Outcome::default() };
        state.apply(&Key::Outcome(of), 2, Some(&serde_json::to_vec(&outcome).unwrap()));
        awaited(&state, &second).is_some()
    }

    #[test]
    fn one_waits_for_whom_it_replaces_until_that_has_left() {
        let stops = || Allocation { desired: Desired::Stop, ..allocation(1, None) };
        let next = || allocation(2, Some(1));
        // Its node has said nothing of it yet, or that it is there.
        for says in [None, Some(ClientStatus::Pending), Some(ClientStatus::Running), Some(ClientStatus::Unknown)] {
            assert!(waits(stops(), says, next()), "{says:?}");
        }
        for says in [ClientStatus::Complete, ClientStatus::Failed, ClientStatus::Lost] {
            assert!(!waits(stops(), Some(says), next()), "{says:?}");
        }
        let lost = Allocation { lost: true, ..stops() };
        assert!(!waits(lost, Some(ClientStatus::Running), next()), "its node was given up");
        assert!(!waits(allocation(1, None), Some(ClientStatus::Running), next()), "it goes when the next one runs");
        assert!(!waits(stops(), Some(ClientStatus::Running), allocation(2, None)), "it replaces nobody");
        assert!(
            !waits(stops(), Some(ClientStatus::Running), allocation(2, Some(3))),
            "nothing is known of that one any more"
        );
        let unwanted = Allocation { desired: Desired::Stop, ..next() };
        assert!(!waits(stops(), Some(ClientStatus::Running), unwanted), "what is to stop is told at once");
    }
}

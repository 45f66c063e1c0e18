//! What is told while a job is placed and deployed: from one look to the next, what has changed.

use std::collections::BTreeMap;

use moat_api::rest::allocation::AllocationView;
use moat_api::rest::deployment::{Deployment, DeploymentGroup};
use moat_api::rest::evaluation::{Evaluation, PlacementFailure};
use moat_model::AllocId;
use moat_model::job::ClientStatus;
use serde::Serialize;

use super::show;
use crate::output::Output;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Step {
    /// It is followed from here on.
    Watching { evaluation: String, job: String, triggered_by: String },
    /// It is part of a deployment.
    Within { deployment: String },
    /// An instance has its place.
    Placed { allocation: String, node: String, group: String },
    /// What is wanted of one that was there has changed.
    Modified { allocation: String, node: String, group: String, desired: String },
    /// Its node says something new of it.
    Status { allocation: String, from: ClientStatus, to: ClientStatus, why: String },
    /// Another word for the evaluation.
    Evaluation { from: String, to: String },
    /// It is done.
    Finished { evaluation: String, status: String },
    /// A group, or some of it, has no place.
    Unplaced { group: String, failure: PlacementFailure },
    /// It is tried again when a node or what it runs changes.
    Blocked { evaluation: String },
    /// How far a group of a deployment is.
    Progress { deployment: String, group: String, progress: DeploymentGroup },
    /// How far a deployment is.
    Deployment { deployment: String, status: String, why: String },
    /// Canaries wait for somebody.
    Waiting { deployment: String, job: String },
}

impl Step {
    /// As people read it; ids as long as asked for.
    pub fn text(&self, output: &Output, verbose: bool) -> String {
        let short = |id: &str| format!("{:?}", show::short(id, verbose));
        match self {
            Self::Watching { evaluation, job, triggered_by } => {
                let by = if triggered_by.is_empty() { String::new() } else { format!(" ({triggered_by})") };
                format!("evaluation {} of job {job:?}{by}", short(evaluation))
            }
            Self::Within { deployment } => format!("within deployment {}", short(deployment)),
            Self::Placed { allocation, node, group } => {
                format!("allocation {} created: node {node:?}, group {group:?}", short(allocation))
            }
            Self::Modified { allocation, node, group, desired } => {
                format!("allocation {} modified: node {node:?}, group {group:?}, {desired}", short(allocation))
            }
            Self::Status { allocation, from, to, why } => {
                let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
                let (from, to) = (from.as_str(), show::client(output, *to));
                format!("allocation {} status: {from} -> {to}{why}", short(allocation))
            }
            Self::Evaluation { from, to } => format!("evaluation status: {from} -> {to}"),
            Self::Finished { evaluation, status } => {
                format!("evaluation {} finished: {}", short(evaluation), show::status(output, status))
            }
            Self::Unplaced { group, failure } => show::unplaced(output, group, failure),
            Self::Blocked { evaluation } => {
                format!("evaluation {} waits for room: it is tried again when a node changes", short(evaluation))
            }
            Self::Progress { deployment, group, progress: p } => {
                let (d, placed, healthy, unhealthy) = (p.desired, p.placed, p.healthy, p.unhealthy);
                let canaries = if p.canaries > 0 { format!(", {} canaries", p.canaries) } else { String::new() };
                let of = short(deployment);
                format!(
                    "deployment {of}, group {group:?}: {placed} of {d} placed, {healthy} healthy, {unhealthy} \
                     unhealthy{canaries}"
                )
            }
            Self::Deployment { deployment, status, why } => {
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                format!("deployment {} {}{why}", short(deployment), show::status(output, status))
            }
            Self::Waiting { deployment, job } => format!(
                "deployment {} waits for somebody to look at its canaries: `moat job promote {job}` goes on",
                short(deployment)
            ),
        }
    }
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Monitor {
    evaluation: Option<String>,
    deployment: Option<String>,
    deployment_status: Option<String>,
    groups: BTreeMap<String, DeploymentGroup>,
    allocations: BTreeMap<AllocId, (ClientStatus, u64)>,
}

impl Monitor {
    /// Nothing is said of what was so before.
    pub fn new(before: &[AllocationView]) -> Self {
        let allocations = before.iter().map(|a| (a.allocation.id.clone(), (a.client, a.allocation.generation)));
        Self { allocations: allocations.collect(), ..Self::default() }
    }

    /// A look at the evaluation; says whether it is done.
    pub fn evaluation(&mut self, evaluation: &Evaluation, allocations: &[AllocationView]) -> (Vec<Step>, bool) {
        let mut steps = Vec::new();
        let id = evaluation.id.clone();
        if self.evaluation.is_none() {
            let (job, triggered_by) = (evaluation.job.clone(), evaluation.triggered_by.clone());
            steps.push(Step::Watching { evaluation: id.clone(), job, triggered_by });
        }
        if let Some(deployment) = evaluation.deployment.as_ref().filter(|d| self.deployment.as_ref() != Some(*d)) {
            self.deployment = Some(deployment.clone());
            steps.push(Step::Within { deployment: deployment.clone() });
        }
        steps.extend(self.allocations(allocations));
        let to = evaluation.status.clone();
        let from = self.evaluation.replace(to.clone());
        if let Some(from) = from.filter(|from| *from != to) {
            steps.push(Step::Evaluation { from, to: to.clone() });
        }
        if to == "pending" {
            return (steps, false);
        }
        steps.push(Step::Finished { evaluation: id.clone(), status: to });
        let failures = evaluation.failures.iter();
        steps.extend(failures.map(|(g, f)| Step::Unplaced { group: g.clone(), failure: f.clone() }));
        if !evaluation.failures.is_empty() {
            steps.push(Step::Blocked { evaluation: id });
        }
        (steps, true)
    }

    /// A look at the deployment; says whether there is anything more to wait for.
    pub fn deployment(&mut self, deployment: &Deployment, allocations: &[AllocationView]) -> (Vec<Step>, bool) {
        let mut steps: Vec<Step> = self.allocations(allocations);
        let id = &deployment.id;
        for (group, progress) in &deployment.groups {
            if self.groups.get(group) != Some(progress) {
                self.groups.insert(group.clone(), progress.clone());
                let (deployment, group) = (id.clone(), group.clone());
                steps.push(Step::Progress { deployment, group, progress: progress.clone() });
            }
        }
        if self.deployment_status.as_ref() != Some(&deployment.status) {
            self.deployment_status = Some(deployment.status.clone());
            let (status, why) = (deployment.status.clone(), deployment.description.clone());
            steps.push(Step::Deployment { deployment: id.clone(), status, why });
        }
        // Healthy canaries are what somebody is to look at; before, there is nothing to see.
        let canaries = |g: &DeploymentGroup| g.canaries == 0 || g.promoted || g.healthy >= g.canaries;
        let waiting = deployment.needs_promotion() && deployment.groups.values().all(canaries);
        if waiting {
            steps.push(Step::Waiting { deployment: id.clone(), job: deployment.job.clone() });
        }
        (steps, waiting || !deployment.is_active())
    }

    /// What is new of allocations, the oldest first.
    pub fn allocations(&mut self, allocations: &[AllocationView]) -> Vec<Step> {
        let mut steps = Vec::new();
        for view in allocations.iter().rev() {
            let a = &view.allocation;
            let (allocation, node, group) = (a.id.to_string(), node_of(view), a.group.clone());
            let known = self.allocations.insert(a.id.clone(), (view.client, a.generation));
            match known {
                None => steps.push(Step::Placed { allocation: allocation.clone(), node, group }),
                Some((_, generation)) if generation != a.generation => {
                    let desired = view.desired().to_owned();
                    steps.push(Step::Modified { allocation: allocation.clone(), node, group, desired });
                }
                Some(_) => {}
            }
            let from = known.map_or(ClientStatus::Pending, |(client, _)| client);
            if from != view.client {
                let why = view.description.clone();
                steps.push(Step::Status { allocation, from, to: view.client, why });
            }
        }
        steps
    }
}

/// What people call the node of an allocation.
pub fn node_of(view: &AllocationView) -> String {
    if view.node_name.is_empty() {
        show::short(view.allocation.node.as_str(), false).to_owned()
    } else {
        view.node_name.clone()
    }
}

#[cfg(test)]
mod tests {
    use moat_model::job::Desired;

    use super::super::samples;
    use super::*;

    fn told(steps: &[Step]) -> String {
        steps.iter().map(|step| step.text(&Output::plain(), false)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_new_is_told_once() {
        let (good, allocations) = (samples::evaluations().remove(1), samples::allocations());
        let mut monitor = Monitor::new(&[]);
        let pending = Evaluation { status: "pending".to_owned(), deployment: None, ..good.clone() };
        let (steps, done) = monitor.evaluation(&pending, &[]);
        let mut text = told(&steps);
        assert!(!done && monitor.evaluation(&pending, &[]).0.is_empty());
        let (steps, done) = monitor.evaluation(&good, &allocations);
        text.push_str(&format!("\n{}", told(&steps)));
        assert!(done);
        let mut deployment = samples::deployment();
        let (steps, done) = monitor.deployment(&deployment, &allocations);
        text.push_str(&format!("\n{}", told(&steps)));
        assert!(!done && monitor.deployment(&deployment, &allocations).0.is_empty());
        deployment.status = "successful".to_owned();
        let (steps, done) = monitor.deployment(&deployment, &allocations);
        text.push_str(&format!("\n{}", told(&steps)));
        assert!(done);
        insta::assert_snapshot!("monitored", text);
    }

    #[test]
    fn what_has_no_place_is_told_with_reasons() {
        let mut monitor = Monitor::new(&samples::allocations());
        let (steps, done) = monitor.evaluation(&samples::evaluations().remove(0), &samples::allocations());
        assert!(done);
        insta::assert_snapshot!("unplaced", told(&steps));
    }

    #[test]
    fn what_was_there_before_is_told_of_only_when_it_changes() {
        let mut allocations = samples::allocations();
        let mut monitor = Monitor::new(&allocations);
        assert!(monitor.allocations(&allocations).is_empty());
        allocations[0].allocation.generation += 1;
        allocations[0].allocation.desired = Desired::Stop;
        let steps = monitor.allocations(&allocations);
        assert_eq!(told(&steps), "allocation \"11111111\" modified: node \"one\", group \"api\", stop");
    }

    #[test]
    fn canaries_that_are_healthy_wait_for_somebody() {
        let mut deployment = samples::deployment();
        for group in deployment.groups.values_mut() {
            (group.promoted, group.healthy) = (false, 0);
        }
        let mut monitor = Monitor::new(&[]);
        assert!(!monitor.deployment(&deployment, &[]).1, "nothing to look at yet");
        for group in deployment.groups.values_mut() {
            group.healthy = group.canaries;
        }
        let (steps, done) = monitor.deployment(&deployment, &[]);
        assert!(done && steps.iter().any(|step| matches!(step, Step::Waiting { .. })));
    }
}

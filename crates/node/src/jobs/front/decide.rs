//! What people decide about deployments and allocations: changes of the document the controller writes, by compare-and-set.

use moat_model::job::{Deployment, Desired};
use moat_model::{AllocId, ErrorKind, JobId, Namespace};
use moat_scheduler::{JobKey, deployment};

use super::jobs::{key, unknown};
use super::status;
use crate::clock;
use crate::error::{Error, Result};
use crate::jobs::document::{Outcome, REQUESTS_MAX};
use crate::jobs::evaluation::{DeploymentView, Trigger};
use crate::jobs::keys::Key;
use crate::jobs::store::WriteError;
use crate::jobs::view::Submitted;
use crate::jobs::{Jobs, Live};

/// Tries against the controller, which writes the same document.
const TRIES: usize = 8;

impl Jobs {
    /// Looks at a job anew.
    pub async fn evaluate(&self, namespace: &Namespace, job: &JobId) -> Result<Submitted> {
        let live = self.live()?;
        let (submitted, ()) = live.decide(&key(namespace, job), Trigger::Scheduled, |_| Ok(())).await?;
        Ok(submitted)
    }

    /// Deployments that are kept, the newest first; of one job, if it is named.
    pub async fn deployments(&self, namespace: &Namespace, job: Option<&JobId>) -> Result<Vec<DeploymentView>> {
        let live = self.live()?;
        let state = live.replica.state();
        let wanted = |of: &&JobKey| &of.namespace == namespace && job.is_none_or(|job| job == &of.job);
        let keys = state.outcomes.keys().filter(wanted);
        let all = keys.flat_map(|of| status::deployments(of, state.outcomes.get(of).map(|held| &*held.value)));
        let mut all: Vec<DeploymentView> = all.collect();
        all.sort_by_key(|view| std::cmp::Reverse(view.deployment.created));
        Ok(all)
    }

    /// One deployment, by its id or a beginning that no other has.
    pub async fn deployment(&self, namespace: &Namespace, id: &str) -> Result<DeploymentView> {
        let all = self.deployments(namespace, None).await?;
        let found = all.into_iter().filter(|view| view.deployment.id.starts_with(id));
        status::only("deployment", id, found.map(|view| (view.deployment.id.clone(), view)).collect())
    }

    /// Accepts the canaries of a deployment: of these groups, or of all.
    pub async fn promote(&self, namespace: &Namespace, id: &str, groups: &[String]) -> Result<DeploymentView> {
        let change = |deployment: &Deployment| {
            let all = deployment::promote(deployment, clock::now()).map_err(refused)?;
            let mut promoted = all.clone();
            if let Some(unknown) = groups.iter().find(|name| !all.groups.contains_key(*name)) {
                return Err(Error::invalid("groups", format!("the deployment has no group {unknown:?}")));
            }
            for (name, group) in &mut promoted.groups {
                if !groups.is_empty()
                    && !groups.contains(name)
                    && let Some(as_it_was) = deployment.groups.get(name)
                {
                    group.clone_from(as_it_was);
                }
            }
            Ok(promoted)
        };
        self.change_deployment(namespace, id, change).await
    }

    /// Gives a deployment up.
    pub async fn fail(&self, namespace: &Namespace, id: &str) -> Result<DeploymentView> {
        let change = |deployment: &Deployment| deployment::fail(deployment, clock::now()).map_err(refused);
        self.change_deployment(namespace, id, change).await
    }

    async fn change_deployment(
        &self,
        namespace: &Namespace,
        id: &str,
        change: impl Fn(&Deployment) -> Result<Deployment>,
    ) -> Result<DeploymentView> {
        let view = self.deployment(namespace, id).await?;
        let of = key(namespace, &view.job);
        let live = self.live()?;
        let changed = live.decide(&of, Trigger::DeploymentWatcher, |outcome| {
            let current = outcome.deployment.as_ref().filter(|current| current.id == view.deployment.id);
            let over = || Error::new(ErrorKind::Conflict, format!("deployment {} is over", view.deployment.id));
            let changed = change(current.ok_or_else(over)?)?;
            outcome.deployment = Some(changed.clone());
            Ok(changed)
        });
        let (_, deployment) = changed.await?;
        Ok(DeploymentView { deployment, ..view })
    }

    /// Stops an allocation; another is placed if its job wants it.
    pub async fn stop_allocation(
        &self,
        namespace: &Namespace,
        id: &AllocId,
        no_shutdown_delay: bool,
    ) -> Result<Submitted> {
        let live = self.live()?;
        let unknown = || Error::new(ErrorKind::NotFound, format!("no allocation {id} in namespace {namespace}"));
        let of = live.replica.state().owners.get(id).filter(|of| &of.namespace == namespace).cloned();
        let of = of.ok_or_else(unknown)?;
        let stopped = live.decide(&of, Trigger::AllocStop, |outcome| {
            let allocation = outcome.allocations.iter_mut().find(|a| &a.id == id).ok_or_else(unknown)?;
            if allocation.desired == Desired::Run {
                allocation.desired = Desired::Stop;
                "stopped by somebody".clone_into(&mut allocation.reason);
                allocation.no_shutdown_delay = no_shutdown_delay;
                allocation.generation += 1;
                allocation.modified = clock::now();
            }
            Ok(())
        });
        Ok(stopped.await?.0)
    }
}

fn refused(refusal: deployment::Refusal) -> Error {
    Error::new(ErrorKind::Conflict, refusal.to_string())
}

impl Live {
    /// Changes a job's document and asks the controller to look at it.
    async fn decide<T>(
        &self,
        of: &JobKey,
        trigger: Trigger,
        change: impl Fn(&mut Outcome) -> Result<T>,
    ) -> Result<(Submitted, T)> {
        let at = Key::Outcome(of.clone());
        for _ in 0..TRIES {
            let (over, mut outcome, record) = {
                let state = self.replica.state();
                let record = state.jobs.get(of).ok_or_else(|| unknown(of))?.clone();
                if state.is_foreign(of) {
                    let why = format!("job {of} was written by a newer moat: change it there");
                    return Err(Error::new(ErrorKind::Unsupported, why));
                }
                let outcome = state.outcomes.get(of).map(|held| (*held.value).clone()).unwrap_or_default();
                (state.revision(&at).unwrap_or(0), outcome, record)
            };
            if outcome.requests.len() >= REQUESTS_MAX {
                let why = format!("{REQUESTS_MAX} requests about job {of} wait for a controller: none answers now");
                return Err(Error::new(ErrorKind::Unavailable, why));
            }
            let made = change(&mut outcome)?;
            let request = status::request(trigger);
            outcome.requests.push(request.clone());
            let value = serde_json::to_vec(&outcome).unwrap_or_default();
            match self.store.put(&at, value.clone(), Some(over)).await {
                Ok(revision) => {
                    self.replica.apply(&at, revision, Some(&value));
                    let submitted = Submitted {
                        job: of.job.clone(),
                        evaluation: Some(request.id),
                        index: record.value.index,
                        version: record.value.version,
                        warnings: Vec::new(),
                        next_launch: None,
                    };
                    return Ok((submitted, made));
                }
                Err(WriteError::Conflict) => self.reread(&at).await?,
                Err(error) => return Err(error.into_error(format!("change what became of job {of}"))),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("job {of} is changed by somebody else all the time")))
    }
}

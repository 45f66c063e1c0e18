//! Declaring, stopping and looking at jobs.

use moat_model::job::Job;
use moat_model::{ErrorKind, JobId, Namespace};
use moat_scheduler::dispatch::{Dispatch, dispatch};
use moat_scheduler::{JobKey, dry_run, periodic};

use super::status;
use crate::clock;
use crate::error::{Error, Result};
use crate::jobs::controller::{check_size, next_launch, picture};
use crate::jobs::declare::{first_version, next_version, put_record};
use crate::jobs::document::JobRecord;
use crate::jobs::evaluation::{EvaluationView, Trigger};
use crate::jobs::replica::{Held, State};
use crate::jobs::store::WriteError;
use crate::jobs::view::{
    DispatchRequest, JobPlan, JobSummary, JobVersion, JobView, StopOptions, SubmitOptions, Submitted,
};
use crate::jobs::{Jobs, Live};

/// Tries against others who change the same job.
const TRIES: usize = 5;

impl Jobs {
    /// Refuses a job that can never work in this cluster, naming the field; returns what had better be looked at.
    pub fn validate(&self, namespace: &Namespace, job: &Job) -> Result<Vec<String>> {
        let live = self.live()?;
        check(&live.replica.state(), namespace, job)
    }

    /// Declares a job. A job that is the declared one already makes no new version; it is looked at anew all the same.
    pub async fn submit(&self, namespace: &Namespace, job: Job, options: SubmitOptions) -> Result<Submitted> {
        let live = self.live()?;
        let warnings = check(&live.replica.state(), namespace, &job)?;
        let key = JobKey { namespace: namespace.clone(), job: job.id.clone() };
        let submitted = live.change(&key, Trigger::JobRegister, |old, request| {
            let index = old.map_or(0, |record| record.index);
            if let Some(wanted) = options.enforce_index.filter(|wanted| *wanted != index) {
                let why = format!("the index of job {key} is {index}, not {wanted}: somebody changed it meanwhile");
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            let mut job = job.clone();
            if options.preserve_counts
                && let Some(old) = old
            {
                for group in &mut job.groups {
                    group.count = old.job.group(&group.name).map_or(group.count, |kept| kept.count);
                }
            }
            let request = (!job.is_only_a_parent() || old.is_some()).then_some(request);
            Ok(match old {
                Some(old) => next_version(old, job, request),
                None => first_version(job, request),
            })
        });
        Ok(Submitted { warnings, ..submitted.await? })
    }

    /// What [`Jobs::submit`] would do now. Changes nothing.
    pub async fn plan(&self, namespace: &Namespace, job: Job) -> Result<JobPlan> {
        let live = self.live()?;
        let key = JobKey { namespace: namespace.clone(), job: job.id.clone() };
        let (warnings, cluster, index, next_launch) = {
            let state = live.replica.state();
            let warnings = check(&state, namespace, &job)?;
            let index = state.jobs.get(&key).map_or(0, |held| held.value.index);
            let outcome = state.outcomes.get(&key).map(|held| &*held.value);
            (warnings, picture(&state), index, next_launch(&first_version(job.clone(), None), outcome))
        };
        let planned = tokio::task::spawn_blocking(move || dry_run(&cluster, &job, clock::now())).await;
        let dry = planned.map_err(|error| Error::caused_by(ErrorKind::Internal, "plan a job", error))?;
        Ok(JobPlan {
            changes: !(dry.plan.place.is_empty() && dry.plan.change.is_empty()),
            diff: dry.diff,
            index,
            failures: dry.plan.evaluation.failures,
            warnings,
            next_launch,
        })
    }

    /// All jobs of a namespace (of all, if none is named) whose id begins with `prefix`, in order.
    pub async fn list(&self, namespace: Option<&Namespace>, prefix: &str) -> Result<Vec<JobSummary>> {
        let live = self.live()?;
        let state = live.replica.state();
        let wanted = |key: &JobKey| {
            namespace.is_none_or(|namespace| namespace == &key.namespace) && key.job.as_str().starts_with(prefix)
        };
        let jobs = state.jobs.iter().filter(|(key, _)| wanted(key));
        Ok(jobs.map(|(key, held)| status::summary(&state, key, &held.value)).collect())
    }

    /// One job.
    pub async fn get(&self, namespace: &Namespace, job: &JobId) -> Result<JobView> {
        let live = self.live()?;
        let (state, key) = (live.replica.state(), key(namespace, job));
        let held = state.jobs.get(&key).ok_or_else(|| unknown(&key))?;
        Ok(status::view(&state, &key, &held.value))
    }

    /// Its versions that are kept, the newest first.
    pub async fn versions(&self, namespace: &Namespace, job: &JobId) -> Result<Vec<JobVersion>> {
        let live = self.live()?;
        let (state, key) = (live.replica.state(), key(namespace, job));
        let record = &state.jobs.get(&key).ok_or_else(|| unknown(&key))?.value;
        let stable = state.outcomes.get(&key).map(|held| held.value.stable.clone()).unwrap_or_default();
        let mut all = vec![JobVersion {
            version: record.version,
            stable: stable.contains(&record.version),
            current: true,
            submitted: record.submitted,
            job: record.job.clone(),
        }];
        let earlier = state.versions.get(&key).into_iter().flatten().rev().filter(|(n, _)| **n != record.version);
        all.extend(earlier.map(|(number, kept)| JobVersion {
            version: *number,
            stable: stable.contains(number),
            current: false,
            submitted: kept.submitted,
            job: kept.job.clone(),
        }));
        Ok(all)
    }

    /// Stops it.
    pub async fn stop(&self, namespace: &Namespace, job: &JobId, options: StopOptions) -> Result<Submitted> {
        let live = self.live()?;
        let key = key(namespace, job);
        let stopped = live.change(&key, Trigger::JobDeregister, |old, request| {
            let old = old.ok_or_else(|| unknown(&key))?;
            Ok(JobRecord {
                stop: true,
                purge: options.purge,
                no_shutdown_delay: options.no_shutdown_delay,
                index: old.index + 1,
                modified: clock::now(),
                request: Some(request),
                ..old.clone()
            })
        });
        stopped.await
    }

    /// Declares an earlier version anew, as a new version. Refused unless the declared one is `enforce_prior`, if given.
    pub async fn revert(
        &self,
        namespace: &Namespace,
        job: &JobId,
        version: u64,
        enforce_prior: Option<u64>,
    ) -> Result<Submitted> {
        let live = self.live()?;
        let key = key(namespace, job);
        let content = live.replica.state().version(&key, version);
        let reverted = live.change(&key, Trigger::JobRegister, |old, request| {
            let old = old.ok_or_else(|| unknown(&key))?;
            if old.version == version {
                return Err(Error::invalid("version", format!("{version} is the declared one")));
            }
            if let Some(wanted) = enforce_prior.filter(|wanted| *wanted != old.version) {
                let why = format!("the declared version of job {key} is {}, not {wanted}", old.version);
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            let gone = || Error::new(ErrorKind::NotFound, format!("version {version} of job {key} is not kept"));
            Ok(next_version(old, (*content.clone().ok_or_else(gone)?).clone(), Some(request)))
        });
        reverted.await
    }

    /// Starts a child of a parameterized job.
    pub async fn dispatch(&self, namespace: &Namespace, job: &JobId, request: DispatchRequest) -> Result<Submitted> {
        let live = self.live()?;
        let parent = live.declared(&key(namespace, job))?;
        let payload = request.payload.map(|bytes| data_encoding::BASE64.encode(&bytes));
        let with = Dispatch { payload, meta: request.meta };
        let child = dispatch(&parent, &with, clock::now(), rand::random());
        let child = child.map_err(|error| Error::new(ErrorKind::InvalidSpec, error.to_string()))?;
        live.start_child(child, Trigger::JobRegister).await
    }

    /// Starts a child of a periodic job now.
    pub async fn force_periodic(&self, namespace: &Namespace, job: &JobId) -> Result<Submitted> {
        let live = self.live()?;
        let parent = live.declared(&key(namespace, job))?;
        if parent.periodic.is_none() {
            return Err(Error::new(ErrorKind::InvalidSpec, format!("job {job} is not periodic")));
        }
        let child = periodic::child(&parent, clock::now());
        let child = child.map_err(|error| Error::new(ErrorKind::InvalidSpec, error.to_string()))?;
        live.start_child(child, Trigger::PeriodicJob).await
    }

    /// Its evaluations that are kept, the oldest first.
    pub async fn evaluations(&self, namespace: &Namespace, job: &JobId) -> Result<Vec<EvaluationView>> {
        let live = self.live()?;
        let (state, key) = (live.replica.state(), key(namespace, job));
        if !state.jobs.contains_key(&key) {
            return Err(unknown(&key));
        }
        Ok(status::evaluations(&state, &key))
    }

    /// One evaluation, by its id or a beginning that no other has.
    pub async fn evaluation(&self, namespace: &Namespace, id: &str) -> Result<EvaluationView> {
        let live = self.live()?;
        let state = live.replica.state();
        let jobs = state.jobs.keys().filter(|key| &key.namespace == namespace);
        let all = jobs.flat_map(|key| status::evaluations(&state, key));
        status::only("evaluation", id, all.filter(|e| e.id.starts_with(id)).map(|e| (e.id.clone(), e)).collect())
    }
}

pub(super) fn key(namespace: &Namespace, job: &JobId) -> JobKey {
    JobKey { namespace: namespace.clone(), job: job.clone() }
}

pub(super) fn unknown(key: &JobKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("no job {:?} in namespace {}", key.job.as_str(), key.namespace))
}

fn check(state: &State, namespace: &Namespace, job: &Job) -> Result<Vec<String>> {
    if &job.namespace != namespace {
        return Err(Error::invalid(
            "namespace",
            format!("the job is of {}, the request of {namespace}", job.namespace),
        ));
    }
    check_size(job, state.facts.len())?;
    if let Some(policy) = &job.periodic {
        periodic::validate(policy).map_err(|error| Error::invalid("periodic", error))?;
    }
    let mut warnings = Vec::new();
    if state.facts.is_empty() {
        warnings.push("no node has joined for jobs yet: nothing is placed until one does".to_owned());
    }
    Ok(warnings)
}

impl Live {
    fn declared(&self, key: &JobKey) -> Result<Job> {
        let state = self.replica.state();
        let record = &state.jobs.get(key).ok_or_else(|| unknown(key))?.value;
        if record.stop {
            return Err(Error::new(ErrorKind::Conflict, format!("job {key} is stopped: submit it again first")));
        }
        Ok(record.job.clone())
    }

    async fn start_child(&self, child: Job, trigger: Trigger) -> Result<Submitted> {
        let key = JobKey::of(&child);
        let started = self.change(&key, trigger, |old, request| match old {
            Some(_) => Err(Error::new(ErrorKind::Conflict, format!("{key} was started already"))),
            None => Ok(first_version(child.clone(), Some(request))),
        });
        started.await
    }

    fn answered(&self, key: &JobKey) -> u64 {
        self.replica.state().outcomes.get(key).map_or(0, |held| held.value.answered)
    }

    /// Changes a record, again with what it is by then if somebody was faster.
    async fn change(
        &self,
        key: &JobKey,
        trigger: Trigger,
        make: impl Fn(Option<&JobRecord>, crate::jobs::document::Request) -> Result<JobRecord>,
    ) -> Result<Submitted> {
        for _ in 0..TRIES {
            let old: Option<Held<JobRecord>> = {
                let state = self.replica.state();
                if state.is_foreign(key) {
                    let why = format!("job {key} was written by a newer moat: change it there");
                    return Err(Error::new(ErrorKind::Unsupported, why));
                }
                state.jobs.get(key).cloned()
            };
            let mut record = make(old.as_ref().map(|held| &*held.value), status::request(trigger))?;
            if old.is_none() {
                // What is left of one that was purged has its own count of what was answered.
                record.index = record.index.max(self.answered(key) + 1);
            }
            match put_record(&self.store, &self.replica, key, old.as_ref(), &record).await {
                Ok(()) => {
                    let state = self.replica.state();
                    let outcome = state.outcomes.get(key).map(|held| &*held.value);
                    return Ok(Submitted {
                        job: key.job.clone(),
                        evaluation: record.request.as_ref().map(|request| request.id.clone()),
                        index: record.index,
                        version: record.version,
                        warnings: Vec::new(),
                        next_launch: next_launch(&record, outcome),
                    });
                }
                Err(WriteError::Conflict) => self.reread(&crate::jobs::keys::Key::Job(key.clone())).await?,
                Err(error) => return Err(error.into_error(format!("write job {key}"))),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("job {key} is changed by somebody else all the time")))
    }
}

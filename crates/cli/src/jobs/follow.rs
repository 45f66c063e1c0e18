//! Following an evaluation and its deployment until there is nothing more to wait for.

use std::time::Duration;

use moat_api::client::rest::RestClient;
use moat_api::rest::allocation::AllocationView;
use moat_model::ErrorKind;
use serde::Serialize;

use super::monitor::{Monitor, Step};
use super::show;
use crate::failure::Failure;
use crate::output::{Output, now};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks that may fail in a row: a node may be restarting, the controller changing.
const FAILURES_MAX: u32 = 60;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All has its place, and the deployment, if there is one, went well or waits for somebody.
    Good,
    /// Something has no place.
    Unplaced,
    /// The deployment failed.
    Failed,
}

/// What is followed, and how it is told.
#[derive(Debug)]
pub struct Follower<'a> {
    client: &'a RestClient,
    output: &'a Output,
    verbose: bool,
    job: &'a str,
    monitor: Monitor,
}

#[derive(Serialize)]
struct Told<'a> {
    at: String,
    #[serde(flatten)]
    step: &'a Step,
}

/// The allocations of a job; none if there is no such job.
pub async fn allocations(client: &RestClient, job: &str) -> Result<Vec<AllocationView>, Failure> {
    match client.job_allocations(job).await {
        Ok(list) => Ok(list.allocations),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

impl<'a> Follower<'a> {
    /// Of a job whose allocations were these before.
    pub fn new(
        client: &'a RestClient,
        output: &'a Output,
        verbose: bool,
        job: &'a str,
        before: &[AllocationView],
    ) -> Self {
        Self { client, output, verbose, job, monitor: Monitor::new(before) }
    }

    /// Until the evaluation is done, and then its deployment.
    pub async fn run(mut self, evaluation: &str) -> Result<Outcome, Failure> {
        let (deployment, unplaced) = self.evaluation(evaluation).await?;
        let after = match deployment {
            Some(deployment) if !unplaced => self.deployment(&deployment).await?,
            _ => Outcome::Good,
        };
        Ok(if unplaced { Outcome::Unplaced } else { after })
    }

    async fn evaluation(&mut self, id: &str) -> Result<(Option<String>, bool), Failure> {
        let mut failures = 0;
        loop {
            let (client, job) = (self.client, self.job);
            let look = async { Ok::<_, Failure>((client.evaluation(id).await?, allocations(client, job).await?)) };
            if let Some((evaluation, allocations)) = patient(look.await, &mut failures)? {
                let (steps, done) = self.monitor.evaluation(&evaluation, &allocations);
                self.tell(&steps)?;
                if done {
                    return Ok((evaluation.deployment, !evaluation.failures.is_empty()));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn deployment(&mut self, id: &str) -> Result<Outcome, Failure> {
        let mut failures = 0;
        loop {
            let (client, job) = (self.client, self.job);
            let look = async { Ok::<_, Failure>((client.deployment(id).await?, allocations(client, job).await?)) };
            if let Some((deployment, allocations)) = patient(look.await, &mut failures)? {
                let (steps, done) = self.monitor.deployment(&deployment, &allocations);
                self.tell(&steps)?;
                if done {
                    let failed = deployment.status == "failed";
                    return Ok(if failed { Outcome::Failed } else { Outcome::Good });
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn tell(&self, steps: &[Step]) -> Result<(), Failure> {
        tell(self.output, self.verbose, steps)
    }
}

/// Each with its time.
pub fn tell(output: &Output, verbose: bool, steps: &[Step]) -> Result<(), Failure> {
    for step in steps {
        let at = show::written(now());
        if output.json {
            output.record(&Told { at, step })?;
        } else {
            let text = step.text(output, verbose).replace('\n', "\n    ");
            output.line(&format!("{at}: {text}"))?;
        }
    }
    Ok(())
}

/// Failures that may pass are borne for a while.
fn patient<T>(look: Result<T, Failure>, failures: &mut u32) -> Result<Option<T>, Failure> {
    match look {
        Ok(seen) => {
            *failures = 0;
            Ok(Some(seen))
        }
        Err(failure) if matches!(failure.kind, ErrorKind::Unavailable | ErrorKind::Deadline) => {
            *failures += 1;
            if *failures >= FAILURES_MAX { Err(failure) } else { Ok(None) }
        }
        Err(failure) => Err(failure),
    }
}

//! What people may do to a deployment. What happens to it by itself is in [`crate::plan()`].

use moat_model::Timestamp;
use moat_model::job::{Deployment, DeploymentStatus};

/// Why a deployment cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("deployment {id} {reason}")]
pub struct Refusal {
    /// Which one.
    pub id: String,
    /// Why not.
    pub reason: String,
}

fn active(deployment: &Deployment) -> Result<(), Refusal> {
    if deployment.status.is_active() {
        return Ok(());
    }
    Err(refuse(deployment, &format!("is {} already", deployment.status.as_str())))
}

fn refuse(deployment: &Deployment, reason: &str) -> Refusal {
    Refusal { id: deployment.id.clone(), reason: reason.to_owned() }
}

/// Its canaries are found good: the rest follows. Whoever promotes answers for them, healthy or not.
pub fn promote(deployment: &Deployment, now: Timestamp) -> Result<Deployment, Refusal> {
    active(deployment)?;
    if !deployment.needs_promotion() {
        return Err(refuse(deployment, "has no canaries that wait for a promotion"));
    }
    let mut promoted = deployment.clone();
    for group in promoted.groups.values_mut().filter(|group| group.needs_promotion()) {
        group.promoted = true;
        group.progress_by = None;
    }
    promoted.modified = now;
    Ok(promoted)
}

/// It is given up by somebody. No other version is gone back to: whoever gives it up decides what follows.
pub fn fail(deployment: &Deployment, now: Timestamp) -> Result<Deployment, Refusal> {
    active(deployment)?;
    let description = "somebody gave it up".to_owned();
    Ok(Deployment { status: DeploymentStatus::Failed, description, modified: now, ..deployment.clone() })
}

/// Nothing more is replaced until it is resumed.
pub fn pause(deployment: &Deployment, now: Timestamp) -> Result<Deployment, Refusal> {
    active(deployment)?;
    let description = "somebody paused it".to_owned();
    Ok(Deployment { status: DeploymentStatus::Paused, description, modified: now, ..deployment.clone() })
}

/// Goes on.
pub fn resume(deployment: &Deployment, now: Timestamp) -> Result<Deployment, Refusal> {
    if deployment.status != DeploymentStatus::Paused {
        return Err(refuse(deployment, "is not paused"));
    }
    let mut resumed = deployment.clone();
    resumed.status = DeploymentStatus::Running;
    resumed.description = "goes on".to_owned();
    resumed.modified = now;
    // Time that it stood still is no lack of progress.
    resumed.groups.values_mut().for_each(|group| group.progress_by = None);
    Ok(resumed)
}

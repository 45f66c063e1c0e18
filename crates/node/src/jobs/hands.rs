//! What carries out on this node what the controller wants: allocations, or what stands in for them in tests.

use std::time::Duration;

use async_trait::async_trait;
use moat_model::AllocId;
use moat_model::job::{AllocStatus, Allocation};

use crate::allocations::{Allocations, Assignment, Statuses};
use crate::error::Result;

/// An allocation this node has.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// As it was assigned last.
    pub assignment: Assignment,
    /// It will never run again.
    pub ended: bool,
}

/// Carries out. See [`Allocations`] for what each promises.
#[async_trait]
pub trait Hands: Send + Sync + std::fmt::Debug {
    /// Takes what is wanted.
    async fn assign(&self, assignment: Assignment) -> Result<()>;
    /// Lets nothing run that may be placed elsewhere.
    async fn fence(&self) -> Result<()>;
    /// Kills what is not wanted while it stands still, and lets the rest go on.
    async fn confirm(&self, wanted: &[Assignment]) -> Result<()>;
    /// What may be placed elsewhere may run until then, since the machine was started, also when this daemon is gone; then it
    /// stands still. Waits for nobody for long.
    async fn leash(&self, until: Duration);
    /// Removes one that has ended.
    async fn forget(&self, id: &AllocId) -> Result<()>;
    /// All there are.
    fn known(&self) -> Vec<Known>;
    /// Statuses as they change, everything first.
    fn feed(&self) -> Box<dyn Feed>;
}

/// Statuses as they change.
#[async_trait]
pub trait Feed: Send {
    /// What changed since the last call; waits for something.
    async fn next(&mut self) -> Vec<AllocStatus>;
    /// This one could not be told: it is among the next again.
    fn again(&mut self, id: AllocId);
}

#[async_trait]
impl Hands for Allocations {
    async fn assign(&self, assignment: Assignment) -> Result<()> {
        Allocations::assign(self, assignment).await
    }

    async fn fence(&self) -> Result<()> {
        Allocations::fence(self).await
    }

    async fn confirm(&self, wanted: &[Assignment]) -> Result<()> {
        Allocations::confirm(self, wanted).await
    }

    async fn leash(&self, until: Duration) {
        Allocations::leash(self, until).await;
    }

    async fn forget(&self, id: &AllocId) -> Result<()> {
        Allocations::forget(self, id).await
    }

    fn known(&self) -> Vec<Known> {
        let known = |view: std::sync::Arc<crate::allocations::AllocView>| Known {
            assignment: view.assignment.clone(),
            ended: view.status.client.is_terminal(),
        };
        self.list().into_iter().map(known).collect()
    }

    fn feed(&self) -> Box<dyn Feed> {
        Box::new(self.statuses())
    }
}

#[async_trait]
impl Feed for Statuses {
    async fn next(&mut self) -> Vec<AllocStatus> {
        Statuses::next(self).await
    }

    fn again(&mut self, id: AllocId) {
        Statuses::again(self, id);
    }
}

/// Whether another may be placed in its stead while nobody hears from its node.
pub fn is_replaceable(assignment: &Assignment) -> bool {
    assignment.group().is_none_or(|group| group.disconnect.replace)
}

/// Whether it is to run as far as the controller is concerned.
pub fn is_wanted(allocation: &Allocation) -> bool {
    allocation.desired == moat_model::job::Desired::Run && !allocation.lost
}

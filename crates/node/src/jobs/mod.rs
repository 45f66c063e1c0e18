//! Jobs of the whole cluster: what is declared, where its instances are placed, and what nodes say of them.
//!
//! Everything is kept in JetStream (docs/cluster.md). Every node has a copy ([`replica`]), serves it ([`Jobs`], the front),
//! says that it lives ([`heart`]) and carries out what is wanted of it ([`local`]); one of them holds the lease and controls
//! ([`controller`]).

mod buckets;
mod controller;
mod declare;
mod document;
mod evaluation;
mod facts;
mod front;
mod hands;
mod heart;
mod keys;
mod lease;
mod local;
mod replica;
mod serve;
mod store;
mod succession;
#[cfg(test)]
mod tests;
mod view;
mod watchman;

use std::sync::Arc;

use moat_model::{ErrorKind, NodeId};
use tokio::sync::watch;

use crate::error::{Error, Result};

pub use controller::Bounds;
pub use evaluation::{DeploymentView, EvaluationView, Progress, Trigger};
pub use facts::facts;
pub use hands::{Feed, Hands, Known};
pub use heart::LastBeat;
pub use serve::{Parts, drain_before_end, serve};
pub use view::{
    AllocView, ChildrenSummary, DispatchRequest, DrainRequest, FutureReschedule, GroupSummary, JobPlan, JobStatus,
    JobSummary, JobVersion, JobView, NodeView, ServiceInstance, StopOptions, SubmitOptions, Submitted,
};

/// Jobs of the cluster, as this node sees them. Clones are the same ones.
///
/// Every method fails with `Unavailable` and the reason while there is no NATS, no JetStream, or not all was read yet.
#[derive(Debug, Clone)]
pub struct Jobs {
    tell: Arc<watch::Sender<Link>>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self::missing("this node has no connection to NATS yet")
    }
}

/// Whether there is anything to answer from.
#[derive(Debug, Clone)]
enum Link {
    Missing(String),
    Live(Arc<Live>),
}

/// What answers stand on.
#[derive(Debug)]
struct Live {
    me: NodeId,
    store: store::Store,
    replica: replica::Replica,
}

impl Jobs {
    /// None, for this reason.
    pub fn missing(why: &str) -> Self {
        Self { tell: Arc::new(watch::Sender::new(Link::Missing(why.to_owned()))) }
    }

    fn live(&self) -> Result<Arc<Live>> {
        let unavailable = |why: &str| Error::new(ErrorKind::Unavailable, format!("jobs are not available here: {why}"));
        match &*self.tell.borrow() {
            Link::Missing(why) => Err(unavailable(why)),
            Link::Live(live) if live.replica.state().is_synced() => Ok(Arc::clone(live)),
            Link::Live(_) => Err(unavailable("the cluster's state is not read yet, or NATS is away")),
        }
    }
}

impl Live {
    /// Reads from where it is certain what somebody else has changed.
    async fn reread(&self, key: &keys::Key) -> Result<()> {
        self.replica.reread(&self.store, key).await
    }
}

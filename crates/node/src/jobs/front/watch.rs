//! Following a job: every item is all of it, so whoever misses one misses nothing.

use futures::stream::BoxStream;
use moat_model::{JobId, Namespace};
use moat_scheduler::JobKey;
use tokio::sync::watch;

use super::jobs::key;
use super::status;
use crate::jobs::replica::{Replica, State};
use crate::jobs::view::JobChange;
use crate::jobs::{Jobs, Link};

struct Follow {
    link: watch::Receiver<Link>,
    of: JobKey,
    replica: Option<(Replica, watch::Receiver<u64>)>,
    last: Option<JobChange>,
}

impl Jobs {
    /// The job as it is, and again whenever anything of it changed. Ends only with the daemon; after an outage it goes on.
    pub fn watch(&self, namespace: &Namespace, job: &JobId) -> BoxStream<'static, JobChange> {
        let follow = Follow { link: self.link(), of: key(namespace, job), replica: None, last: None };
        Box::pin(futures::stream::unfold(follow, |mut follow| async move {
            let change = follow.next().await?;
            Some((change, follow))
        }))
    }
}

impl Follow {
    async fn next(&mut self) -> Option<JobChange> {
        loop {
            let (replica, mut news) = self.replica().await?;
            news.mark_unchanged();
            let change = {
                let state = replica.state();
                state.is_synced().then(|| change(&state, &self.of))
            };
            if let Some(change) = change.filter(|change| self.last.as_ref() != Some(change)) {
                self.last = Some(change.clone());
                return Some(change);
            }
            if news.changed().await.is_err() {
                self.replica = None;
            }
        }
    }

    async fn replica(&mut self) -> Option<(Replica, watch::Receiver<u64>)> {
        if self.replica.is_none() {
            let link = self.link.wait_for(|link| matches!(link, Link::Live(_))).await.ok()?.clone();
            if let Link::Live(live) = link {
                let news = live.replica.news();
                self.replica = Some((live.replica.clone(), news));
            }
        }
        self.replica.clone()
    }
}

fn change(state: &State, of: &JobKey) -> JobChange {
    let outcome = state.outcomes.get(of).map(|held| &*held.value);
    let allocations = outcome.map(|outcome| outcome.allocations.as_slice()).unwrap_or_default();
    JobChange {
        job: state.jobs.get(of).map(|held| status::summary(state, of, &held.value)),
        evaluations: status::evaluations(state, of),
        deployment: status::deployments(of, outcome).into_iter().next(),
        allocations: allocations.iter().map(|a| status::alloc_view(state, of, a, false)).collect(),
    }
}

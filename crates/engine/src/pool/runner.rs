//! Does what the plan of a pool says: starts and deletes members, and takes up those of an earlier daemon.

use std::sync::Arc;
use std::time::Duration;

use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::spec::Owner;
use moat_model::{SandboxId, SandboxSpec, Timestamp};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Shared;

/// How long a member that was handed out may be unclaimed. A claim follows in microseconds; one that does not come within
/// this will not come, and the member must not stand for ever unseen.
const CLAIM_WITHIN: Duration = Duration::from_secs(60);

/// Something the runner began, done.
enum Done {
    /// With the moment it was accepted, or with why it could not be started.
    Started(SandboxId, Arc<SandboxSpec>, Result<Timestamp, String>),
    Ended(SandboxId),
}

/// Runs until it is dropped: what it began in the engine goes on, and is taken up by the next runner.
pub async fn run(shared: Arc<Shared>) {
    let mut begun: JoinSet<Done> = JoinSet::new();
    let mut next_look = Instant::now();
    loop {
        if Instant::now() >= next_look {
            next_look = Instant::now() + shared.config.replenish_interval;
            shared.shelves().next_interval();
            shared.look(&mut begun);
        }
        shared.work(&mut begun);
        tokio::select! {
            Some(done) = begun.join_next() => shared.done(done, &mut begun),
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(shared.next_turn(next_look)) => {}
        }
    }
}

impl Shared {
    /// It can be claimed.
    pub(super) fn is_usable(&self, id: &SandboxId) -> bool {
        self.engine.get(id).is_some_and(|view| view.phase == PhaseName::Running && view.origin.owner == Owner::Pool)
    }

    fn next_turn(&self, next_look: Instant) -> Instant {
        let next_try = self.shelves().next_try().map(|at| self.engine.instant(at)).filter(|at| *at > Instant::now());
        next_try.map_or(next_look, |at| at.min(next_look))
    }

    /// Finds members that nobody knows of: those of an earlier daemon, and those that were handed out and never claimed.
    fn look(&self, begun: &mut JoinSet<Done>) {
        if !self.shelves().opened {
            return;
        }
        let mut members: Vec<SandboxView> =
            self.engine.list().into_iter().filter(|view| view.origin.owner == Owner::Pool).collect();
        members.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut strays = Vec::new();
        {
            let mut shelves = self.shelves();
            if let Some(before) = Instant::now().checked_sub(CLAIM_WITHIN) {
                shelves.forget_taken(before);
            }
            let running: std::collections::BTreeSet<&SandboxId> =
                members.iter().filter(|view| view.phase == PhaseName::Running).map(|view| &view.id).collect();
            shelves.drop_unusable(|id| running.contains(id));
            for view in members.iter().filter(|view| view.phase != PhaseName::Recovering) {
                if shelves.knows(&view.id) {
                    continue;
                }
                // Whether one was handed out by a dead daemon is not known, and nobody can claim it any more.
                let spec = self.engine.spec(&view.id).filter(|_| view.phase == PhaseName::Running);
                if !spec.is_some_and(|spec| shelves.adopt(&view.id, view.created_at, &spec)) {
                    shelves.begin_end(view.id.clone());
                    strays.push(view.id.clone());
                }
            }
        }
        for id in strays {
            self.end(id, begun);
        }
    }

    fn work(&self, begun: &mut JoinSet<Done>) {
        let now = self.engine.now();
        let work = self.shelves().work(&self.config, now, || SandboxId::from_parts(now, rand::random()));
        for (id, spec) in work.start {
            let engine = self.engine.clone();
            begun.spawn(async move {
                let result = engine.create(id.clone(), (*spec).clone()).await;
                Done::Started(id, spec, result.map(|view| view.created_at).map_err(|error| error.chain()))
            });
        }
        for id in work.retire {
            self.end(id, begun);
        }
    }

    fn end(&self, id: SandboxId, begun: &mut JoinSet<Done>) {
        let engine = self.engine.clone();
        begun.spawn(async move {
            if let Err(error) = engine.delete(&id).await {
                // It goes on being ended, or is found again at the next look.
                tracing::warn!(sandbox = %id, error = error.chain(), "a pool member could not be deleted yet");
            }
            Done::Ended(id)
        });
    }

    fn done(&self, done: Result<Done, JoinError>, begun: &mut JoinSet<Done>) {
        match done {
            Ok(Done::Started(id, spec, result)) => {
                if let Err(problem) = &result {
                    tracing::warn!(sandbox = %id, problem, "a pool member could not be started");
                }
                let came_up = result.is_ok();
                let kept = self.shelves().started(&id, &spec, result, self.engine.now());
                if came_up && !kept {
                    self.shelves().begin_end(id.clone());
                    self.end(id, begun);
                }
            }
            Ok(Done::Ended(id)) => self.shelves().ended(&id),
            Err(error) => tracing::error!(%error, "a task of the pool broke"),
        }
    }
}

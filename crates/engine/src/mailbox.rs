//! How the rest of the engine speaks to an actor, and what it may know without speaking.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moat_model::lifecycle::{CaptureKind, Deadlines, PhaseName, Request, SandboxView, State, Step};
use moat_model::network::NetworkSpec;
use moat_model::spec::{ClaimSpec, Resources, StopSpec};
use moat_model::{ErrorKind, SandboxId, SandboxSpec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::driver::{Captured, Driver, Record};
use crate::error::{Error, Result};
use crate::guest::Guest;

/// Kills, deletes and stops waiting for one actor: it takes them at once, so more than a few means that many callers
/// want the same thing.
const ENDS_MAX: usize = 8;
/// Other requests waiting for one actor.
const OTHERS_MAX: usize = 64;
/// An actor never waits inside a turn, and what it answers late has a bound of its own. Nothing heard for longer than this:
/// it is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// An agent answers a new daemon in milliseconds, in an emulated machine on a busy host in seconds.
const GREETED_WITHIN: Duration = Duration::from_secs(10);

/// Something asked of an actor.
#[derive(Debug)]
pub enum Ask {
    /// Stop, kill or delete. Answered when it is under way, or needless.
    End {
        /// Which.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<()>,
    },
    /// Pause or resume. Answered when it has come to something.
    Freeze {
        /// Pause or resume.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SandboxView>>,
    },
    /// Give it a new life span. Answered at once.
    Keepalive {
        /// How long.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SandboxView>>,
    },
    /// Take it out of its pool. Answered when its new limits and its network are in force.
    Claim {
        /// What it becomes.
        claim: Box<ClaimSpec>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SandboxView>>,
    },
    /// Give it another network. Answered when that is in force, or what was before is again.
    Rewire {
        /// Which.
        wanted: Box<NetworkSpec>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SandboxView>>,
    },
    /// Give it other limits. Answered when they are in force, or those before are again.
    Relimit {
        /// Which; what is absent stays.
        wanted: Box<Resources>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<SandboxView>>,
    },
    /// Keep its files, or the whole machine. Answered when that is done and it goes on, or was given up.
    Capture {
        /// Which of the two.
        kind: CaptureKind,
        /// Where to.
        into: PathBuf,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Captured>>,
    },
    /// It is in use.
    Touch,
    /// The agent, if it may be used now.
    Guest {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Arc<dyn Guest>>>,
    },
    /// The agent, if it is connected, in whatever phase. No use.
    Agent {
        /// Where the answer goes.
        reply: oneshot::Sender<Option<Arc<dyn Guest>>>,
    },
    /// The driver and its record, as long as something exists.
    Driver {
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(Arc<dyn Driver>, Record)>>,
    },
    /// What happened so far.
    Explain {
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<Step>>,
    },
}

/// The actor's side.
#[derive(Debug)]
pub struct Inbox {
    /// Kills have a channel of their own: nothing can be in front of them.
    pub kill: mpsc::Receiver<Ask>,
    /// Deletes.
    pub delete: mpsc::Receiver<Ask>,
    /// Stops.
    pub stop: mpsc::Receiver<Ask>,
    /// Everything else.
    pub other: mpsc::Receiver<Ask>,
}

impl Inbox {
    /// Answers everybody who is still waiting.
    pub fn refuse_rest(&mut self, id: &SandboxId) {
        for queue in [&mut self.kill, &mut self.delete, &mut self.stop, &mut self.other] {
            queue.close();
            while let Ok(ask) = queue.try_recv() {
                match ask {
                    Ask::Freeze { reply, .. }
                    | Ask::Keepalive { reply, .. }
                    | Ask::Claim { reply, .. }
                    | Ask::Rewire { reply, .. }
                    | Ask::Relimit { reply, .. } => {
                        drop(reply.send(Err(gone(id))));
                    }
                    Ask::Capture { reply, .. } => drop(reply.send(Err(gone(id)))),
                    Ask::Guest { reply } => drop(reply.send(Err(gone(id)))),
                    Ask::Driver { reply } => drop(reply.send(Err(gone(id)))),
                    // Dropping the sender of these says the same.
                    Ask::End { .. } | Ask::Agent { .. } | Ask::Explain { .. } | Ask::Touch => {}
                }
            }
        }
    }
}

/// What an actor shows without being asked. Outlives it: a broken actor is replaced behind the same signals.
#[derive(Debug, Clone)]
pub struct Signals {
    /// The sandbox as it is.
    pub views: Arc<watch::Sender<SandboxView>>,
    /// The sandbox as asked for.
    pub specs: Arc<watch::Sender<Arc<SandboxSpec>>>,
    /// Its record is gone, and nobody finds it any more.
    pub forgotten: CancellationToken,
    /// In which way its start failed first.
    pub failure: Arc<OnceLock<ErrorKind>>,
    /// Its block of user ids was given back.
    pub uids_freed: Arc<Once>,
    /// Its place in the network was given back.
    pub network_freed: Arc<Once>,
}

/// A flag that is raised once.
#[derive(Debug, Default)]
pub struct Once(AtomicBool);

impl Once {
    /// Raises it and says whether it was raised before.
    pub fn swap(&self, raised: bool) -> bool {
        self.0.swap(raised, Ordering::AcqRel)
    }
}

impl Signals {
    /// Signals that begin with this state.
    pub fn new(state: &State) -> Self {
        Self {
            views: Arc::new(watch::Sender::new(state.view())),
            specs: Arc::new(watch::Sender::new(Arc::clone(&state.spec))),
            forgotten: CancellationToken::new(),
            failure: Arc::default(),
            uids_freed: Arc::default(),
            network_freed: Arc::default(),
        }
    }
}

/// The others' side. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    id: SandboxId,
    /// How it is asked to stop if nobody says otherwise.
    pub stop_spec: StopSpec,
    /// Bounds of its waits.
    pub deadlines: Deadlines,
    kill: mpsc::Sender<Ask>,
    delete: mpsc::Sender<Ask>,
    stop: mpsc::Sender<Ask>,
    other: mpsc::Sender<Ask>,
    /// What it shows.
    pub signals: Signals,
}

/// A mailbox for a sandbox.
pub fn mailbox(state: &State, signals: Signals) -> (Handle, Inbox) {
    let (kill, kills) = mpsc::channel(ENDS_MAX);
    let (delete, deletes) = mpsc::channel(ENDS_MAX);
    let (stop, stops) = mpsc::channel(ENDS_MAX);
    let (other, others) = mpsc::channel(OTHERS_MAX);
    let handle = Handle {
        id: state.id.clone(),
        stop_spec: state.stop_spec(),
        deadlines: state.deadlines,
        kill,
        delete,
        stop,
        other,
        signals,
    };
    (handle, Inbox { kill: kills, delete: deletes, stop: stops, other: others })
}

impl Handle {
    /// Which sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Waits for a view of this kind, no longer than until `deadline`.
    pub async fn wait_for(&self, deadline: Instant, wanted: impl FnMut(&SandboxView) -> bool) -> Option<SandboxView> {
        let mut views = self.signals.views.subscribe();
        let waiting = views.wait_for(wanted);
        let found = tokio::time::timeout_at(deadline, waiting).await.ok()?.ok()?.clone();
        Some(found)
    }

    /// The sandbox as it is.
    pub fn view(&self) -> SandboxView {
        self.signals.views.borrow().clone()
    }

    /// Stops, kills or deletes; returns when that is under way.
    pub async fn end(&self, request: Request) -> Result<()> {
        let queue = match request {
            Request::Kill => &self.kill,
            Request::Delete => &self.delete,
            _ => &self.stop,
        };
        self.ask(queue, |reply| Ask::End { request, reply }).await
    }

    /// Pauses or resumes, within `limit`; returns when that has come to something.
    pub async fn freeze(&self, request: Request, limit: Duration) -> Result<SandboxView> {
        self.ask_within(limit, &self.other, |reply| Ask::Freeze { request, reply }).await?
    }

    /// Gives it a new life span.
    pub async fn keepalive(&self, request: Request) -> Result<SandboxView> {
        self.ask(&self.other, |reply| Ask::Keepalive { request, reply }).await?
    }

    /// Takes it out of its pool, within `limit`; returns when its new limits and its network are in force.
    pub async fn claim(&self, claim: Box<ClaimSpec>, limit: Duration) -> Result<SandboxView> {
        self.ask_within(limit, &self.other, |reply| Ask::Claim { claim, reply }).await?
    }

    /// Gives it other limits, within `limit`; returns when that has come to something.
    pub async fn relimit(&self, wanted: Box<Resources>, limit: Duration) -> Result<SandboxView> {
        self.ask_within(limit, &self.other, |reply| Ask::Relimit { wanted, reply }).await?
    }

    /// Gives it another network, within `limit`; returns when that has come to something.
    pub async fn rewire(&self, wanted: Box<NetworkSpec>, limit: Duration) -> Result<SandboxView> {
        self.ask_within(limit, &self.other, |reply| Ask::Rewire { wanted, reply }).await?
    }

    /// Keeps its files or the whole machine, within `limit`.
    pub async fn capture(&self, kind: CaptureKind, into: PathBuf, limit: Duration) -> Result<Captured> {
        self.ask_within(limit, &self.other, |reply| Ask::Capture { kind, into, reply }).await?
    }

    /// Notes that it is in use. A full mailbox is full of uses.
    pub fn touch(&self) {
        let _ = self.other.try_send(Ask::Touch);
    }

    /// The sandbox as asked for.
    pub fn spec(&self) -> Arc<SandboxSpec> {
        Arc::clone(&self.signals.specs.borrow())
    }

    /// The agent, if it may be used now. Whoever asks while a daemon that has just come up greets it still waits for that.
    pub async fn guest(&self) -> Result<Arc<dyn Guest>> {
        self.wait_for(Instant::now() + GREETED_WITHIN, |view| view.phase != PhaseName::Recovering).await;
        self.ask(&self.other, |reply| Ask::Guest { reply }).await?
    }

    /// The agent, if it is connected: also of one that is being stopped. Nobody counts as using it.
    pub async fn agent(&self) -> Result<Option<Arc<dyn Guest>>> {
        self.ask(&self.other, |reply| Ask::Agent { reply }).await
    }

    /// The driver and its record, as long as something exists.
    pub async fn driver(&self) -> Result<(Arc<dyn Driver>, Record)> {
        self.ask(&self.other, |reply| Ask::Driver { reply }).await?
    }

    /// What happened so far.
    pub async fn explain(&self) -> Result<Vec<Step>> {
        self.ask(&self.other, |reply| Ask::Explain { reply }).await
    }

    async fn ask<T>(&self, queue: &mpsc::Sender<Ask>, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        self.ask_within(ANSWER_WITHIN, queue, ask).await
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        queue: &mpsc::Sender<Ask>,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            queue.send(ask(reply)).await.map_err(|_| gone(&self.id))?;
            answer.await.map_err(|_| gone(&self.id))
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Error::new(ErrorKind::Unavailable, format!("sandbox {}: its actor does not answer", self.id)))
            }
        }
    }
}

fn gone(id: &SandboxId) -> Error {
    Error::new(ErrorKind::Unavailable, format!("sandbox {id}: the daemon let go of it"))
}

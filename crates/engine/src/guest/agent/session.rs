//! The task that owns the connection to an agent, and makes it again when it breaks.

use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::mux::{self, FORWARDS_MAX, Mode, OpenReply};
use moat_model::spec::Forward;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Channel, Endpoint, forward};

/// First wait before connecting again. The listening socket is there as long as the agent is, so one try should do.
const DELAY_INITIAL: Duration = Duration::from_millis(5);
/// Longest wait: an agent that drops every connection costs one attempt a second.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// A session of this length clears the back-off.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// One attempt.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// After the agent ended, for what it had said to be read.
const DRAIN: Duration = Duration::from_secs(1);

/// What the task works with.
#[derive(Debug)]
pub struct Session {
    endpoint: Arc<dyn Endpoint>,
    forwards: Arc<[Forward]>,
    broken: Arc<Notify>,
    permits: Arc<Semaphore>,
}

/// Why a session ended.
enum End {
    /// Nobody needs it, or nobody is there.
    Final,
    /// It can be made again.
    Broken,
}

impl Session {
    /// Nothing happens before [`run`](Self::run).
    pub fn new(endpoint: Arc<dyn Endpoint>, forwards: Vec<Forward>, broken: Arc<Notify>) -> Self {
        let permits = Arc::new(Semaphore::new(FORWARDS_MAX));
        Self { endpoint, forwards: forwards.into(), broken, permits }
    }

    /// Serves `opens` until the agent is gone. The receiver is then dropped, which is how callers learn of it.
    pub async fn run(self, mut opens: mpsc::Receiver<OpenReply>) {
        let mut gone = std::pin::pin!(self.endpoint.gone());
        let mut delay = DELAY_INITIAL;
        loop {
            let connected = tokio::select! {
                biased;
                why = &mut gone => return tracing::debug!(why, "agent is gone"),
                connected = timeout(CONNECT_DEADLINE, self.endpoint.connect()) => connected,
            };
            match connected {
                Ok(Ok(channel)) => {
                    let began = Instant::now();
                    if let End::Final = self.serve(channel, &mut opens, gone.as_mut()).await {
                        return;
                    }
                    if began.elapsed() >= HEALTHY_AFTER {
                        delay = DELAY_INITIAL;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "cannot connect to the agent"),
                Err(_) => tracing::debug!("the agent does not accept a connection"),
            }
            tokio::select! {
                biased;
                why = &mut gone => return tracing::debug!(why, "agent is gone"),
                () = sleep(delay) => delay = (delay * 2).min(DELAY_MAX),
            }
        }
    }

    /// One connection from beginning to end.
    async fn serve(
        &self,
        channel: Box<dyn Channel>,
        opens: &mut mpsc::Receiver<OpenReply>,
        gone: std::pin::Pin<&mut impl Future<Output = String>>,
    ) -> End {
        // Ends with the session: every task in it is dropped.
        let mut forwarding = JoinSet::new();
        let inbound = |stream| {
            while forwarding.try_join_next().is_some() {}
            // Without a permit the stream is dropped here, which resets it.
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                let forwards = self.forwards.clone();
                forwarding.spawn(async move {
                    forward::carry(stream, &forwards).await;
                    drop(permit);
                });
            }
        };
        let mut driving = std::pin::pin!(mux::drive(channel, Mode::Client, opens, inbound));
        tokio::select! {
            ended = &mut driving => match ended {
                Ok(()) => End::Broken,
                Err(error) => {
                    tracing::debug!(%error, "connection to the agent broke");
                    End::Broken
                }
            },
            () = self.broken.notified() => {
                tracing::warn!("the agent broke the protocol; its connection is dropped");
                End::Broken
            }
            why = gone => {
                tracing::debug!(why, "agent is gone");
                // What it said last still lies in the socket.
                let _ = timeout(DRAIN, driving).await;
                End::Final
            }
        }
    }
}

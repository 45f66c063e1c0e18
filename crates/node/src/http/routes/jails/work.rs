//! What takes long, told in lines while it is done. The node does it in a task of its own, so a client that goes away ends
//! the telling, not the work.

use std::pin::Pin;

use axum::response::Response;
use futures::StreamExt;
use moat_model::jail::{JailEvent, JailView};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::http::answer::{Answer, Failure};
use crate::http::meter::RequestId;
use crate::http::{App, lines};
use crate::jails::{EVENTS_WAITING, Listener};

/// Something under way, and what it tells.
pub(super) struct Work {
    work: Option<Pin<Box<dyn Future<Output = Result<JailEvent>> + Send>>>,
    told: mpsc::Receiver<JailEvent>,
    /// How it ended, while there are still news from before.
    outcome: Option<Answer<JailEvent>>,
    closing: CancellationToken,
    id: String,
    ended: bool,
}

impl Work {
    /// Begins it. A refusal before anything was told is a status, not a line.
    pub(super) async fn respond<F>(app: &App, id: RequestId, begin: impl FnOnce(Listener) -> F) -> Answer<Response>
    where
        F: Future<Output = Result<JailEvent>> + Send + 'static,
    {
        let (listener, told) = mpsc::channel(EVENTS_WAITING);
        let work = Some(Box::pin(begin(listener)) as Pin<Box<_>>);
        let mut work = Self { work, told, outcome: None, closing: app.closing.clone(), id: id.0, ended: false };
        let first = work.next().await?;
        let rest = futures::stream::unfold(work, |mut work| async move {
            if work.ended {
                return None;
            }
            let event = work.next().await.unwrap_or_else(|failure| work.failed(&failure));
            Some((event, work))
        });
        Ok(lines::respond(futures::stream::once(std::future::ready(first)).chain(rest)))
    }

    fn failed(&self, failure: &Failure) -> JailEvent {
        JailEvent::Failed { error: serde_json::to_value(failure.body(&self.id)).unwrap_or_default() }
    }

    async fn next(&mut self) -> Answer<JailEvent> {
        loop {
            if self.outcome.is_some() {
                // What was told before the end is told before the end.
                if let Ok(event) = self.told.try_recv() {
                    return Ok(event);
                }
                self.ended = true;
                return self.outcome.take().unwrap_or_else(|| Err(Failure::bug("an end that was told twice")));
            }
            let work = self.work.as_mut();
            tokio::select! {
                biased;
                Some(event) = self.told.recv() => return Ok(event),
                outcome = async {
                    match work {
                        Some(work) => work.await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.work = None;
                    self.outcome = Some(outcome.map_err(Failure::from));
                }
                () = self.closing.cancelled() => {
                    self.ended = true;
                    return Err(Failure::closing());
                }
                // Nothing new is a sign of life too.
                () = tokio::time::sleep(lines::QUIET_MAX) => return Ok(JailEvent::Keepalive),
            }
        }
    }
}

/// The end of something that has a jail as its result.
pub(super) fn jail(view: JailView) -> JailEvent {
    JailEvent::Done { jail: Some(Box::new(view)), applied: None, result: None }
}

/// The end of something else.
pub(super) fn other<T: Serialize>(result: &T) -> JailEvent {
    JailEvent::Done { jail: None, applied: None, result: serde_json::to_value(result).ok() }
}

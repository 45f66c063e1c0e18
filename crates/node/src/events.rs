//! Facts on their way to NATS: an outbox that survives the daemon.
//!
//! A fact is a small file before [`Outbox::emit`] returns, and is removed when NATS has confirmed it. Facts leave in the
//! order in which they came. The same fact always has the same id, which is also its `Nats-Msg-Id`: sent twice, JetStream
//! keeps it once. Heartbeats are about now or about nothing: they are not kept.

mod fact;
mod sender;
mod spool;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use moat_api::Subjects;
use moat_model::ErrorKind;
use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};
use crate::outlet::blocking;

pub use fact::{Attempt, Fact};
pub(crate) use sender::{barrier, run};
use spool::{Spool, Spooled};

/// Facts kept. At two for each start of a workload this is a day of one start every twenty seconds.
pub const OUTBOX_MAX: usize = 10_000;

/// Heartbeats waiting for the sender. More than one means that it is busy, more than this that they are stale.
const PASSING_MAX: usize = 16;

/// The outbox. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    subjects: Subjects,
    spool: Mutex<Spool>,
    depth: watch::Sender<usize>,
    passing: mpsc::Sender<Passing>,
    /// Taken by the one sender.
    passing_out: Mutex<Option<mpsc::Receiver<Passing>>>,
}

/// A fact that is not kept.
#[derive(Debug)]
struct Passing {
    subject: String,
    body: Bytes,
}

impl Outbox {
    /// Opens the outbox in `dir`, making it, and finds again what was not confirmed.
    pub async fn open(dir: &Path, subjects: Subjects) -> Result<Self> {
        let dir = dir.to_owned();
        let spool = blocking("open the outbox", move || Spool::open(&dir, OUTBOX_MAX)).await?;
        let (passing, passing_out) = mpsc::channel(PASSING_MAX);
        let depth = watch::Sender::new(spool.len());
        let inner =
            Inner { subjects, spool: Mutex::new(spool), depth, passing, passing_out: Mutex::new(Some(passing_out)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes a fact. When it returns, the fact survives the daemon and will be told once. Taking a fact that already
    /// waits changes nothing. A heartbeat is sent if NATS is there, and forgotten if not.
    pub async fn emit(&self, fact: Fact) -> Result<()> {
        let event = fact.event().map_err(|e| Error::caused_by(ErrorKind::Internal, "write an event", e))?;
        let body =
            serde_json::to_vec(&event).map_err(|e| Error::caused_by(ErrorKind::Internal, "write an event", e))?;
        let subject = fact.subject(&self.inner.subjects);
        if !fact.is_kept() {
            // Full: the sender is away, and so is the moment this was about.
            let _ = self.inner.passing.try_send(Passing { subject, body: body.into() });
            return Ok(());
        }
        let spooled = Spooled { subject, id: event.id, body };
        let inner = Arc::clone(&self.inner);
        blocking("keep an event", move || {
            let mut spool = inner.spool.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = spool.push(spooled);
            inner.depth.send_replace(spool.len());
            outcome
        })
        .await
    }

    /// Facts not yet confirmed.
    pub fn depth(&self) -> usize {
        *self.inner.depth.borrow()
    }

    /// Waits until every fact is confirmed, at most this long. Says whether it is so.
    pub async fn flush(&self, within: Duration) -> bool {
        let mut depth = self.inner.depth.subscribe();
        tokio::time::timeout(within, depth.wait_for(|depth| *depth == 0)).await.is_ok_and(|empty| empty.is_ok())
    }
}

//! The body of a request on its way into a sandbox.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

/// A client that waits for `100 Continue` gets it after this long even if the program inside says nothing: many do not
/// know of it, and clients do not wait for ever either.
const CONTINUE_MAX: Duration = Duration::from_secs(1);

/// What can be seen of a body from outside.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pieces: AtomicU64,
    broken: AtomicBool,
}

impl Progress {
    /// Pieces that were sent so far.
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// The client did not send it whole.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// The client's body, taken piece by piece as the sandbox takes it.
pub(super) struct Sending {
    inner: Incoming,
    /// Until then nothing is taken from the client, which waits for us.
    gate: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    progress: Arc<Progress>,
}

impl Sending {
    /// `told`: the client waits until the program says `100 Continue`, which is told here.
    pub fn new(inner: Incoming, told: Option<Arc<Notify>>, progress: Arc<Progress>) -> Self {
        let gate = told.map(|told| {
            let wait = async move {
                // Whether it was told or the time is over makes no difference: the body is sent.
                let _ = tokio::time::timeout(CONTINUE_MAX, told.notified()).await;
            };
            Box::pin(wait) as Pin<Box<dyn Future<Output = ()> + Send>>
        });
        Self { inner, gate, progress }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(gate) = &mut this.gate {
            ready!(gate.as_mut().poll(cx));
            this.gate = None;
        }
        let piece = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &piece {
            Some(Ok(_)) => drop(this.progress.pieces.fetch_add(1, Ordering::Relaxed)),
            Some(Err(_)) => this.progress.broken.store(true, Ordering::Relaxed),
            None => {}
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

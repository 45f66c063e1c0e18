//! Progress of one pull, for everybody who waits for the same image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::Digest;
use crate::progress::{LayerProgress, Progress, PullPhase};

/// Where progress goes.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    own: watch::Sender<Progress>,
    shared: Option<watch::Sender<Progress>>,
}

impl Report {
    /// To the one who asked.
    pub fn new(own: watch::Sender<Progress>) -> Self {
        Self { own, shared: None }
    }

    /// And to those who wait for the same.
    pub fn shared_with(&self, flight: &Flight) -> Self {
        Self { own: self.own.clone(), shared: Some(flight.progress.clone()) }
    }

    /// Changes what watchers see.
    pub fn update(&self, change: impl Fn(&mut Progress)) {
        self.own.send_modify(&change);
        if let Some(shared) = &self.shared {
            shared.send_modify(&change);
        }
    }

    /// A new phase.
    pub fn phase(&self, phase: PullPhase) {
        self.update(|progress| progress.phase = phase);
    }

    /// Changes one layer.
    pub fn layer(&self, index: usize, change: impl Fn(&mut LayerProgress)) {
        self.update(|progress| {
            if let Some(layer) = progress.layers.get_mut(index) {
                change(layer);
            }
        });
    }

    /// Takes over what somebody else reports, for as long as it is polled.
    pub async fn follow(&self, mut other: watch::Receiver<Progress>) {
        loop {
            let seen = other.borrow_and_update().clone();
            self.own.send_replace(seen);
            if other.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Pulls under way, by image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<Digest, watch::Sender<Progress>>>>);

/// One of them. There is one for an image at a time: its lock is held.
#[derive(Debug)]
pub(crate) struct Flight {
    digest: Digest,
    progress: watch::Sender<Progress>,
    all: Flights,
}

impl Flights {
    /// Begins one.
    pub fn begin(&self, digest: Digest) -> Flight {
        let progress = watch::Sender::new(Progress::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, progress.clone());
        Flight { digest, progress, all: self.clone() }
    }

    /// Progress of the one under way.
    pub fn watch(&self, digest: &Digest) -> Option<watch::Receiver<Progress>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(digest).map(watch::Sender::subscribe)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

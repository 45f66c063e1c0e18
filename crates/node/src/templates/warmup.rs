//! Warm-ups: one for each name at a time, in the background.

use moat_api::rest::ErrorBody;
use moat_api::rest::template::{LayerStatus, Warmup, WarmupStatus};
use moat_image::progress::{Progress, PullPhase};
use moat_image::store::{Image, Pin, Platform, Source};
use moat_model::{ErrorKind, Timestamp};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::{Error, Result};
use crate::sandboxes::{checks, limits};

use super::record::{Task, TemplateRecord};
use super::resolve::reference;
use super::{BUILT_IN, Entry, TEMPLATES_MAX, Templates, names, shown};

/// Refuses what can never work. `known`: the store has an image of this name.
pub(super) fn check(request: &Warmup, known: bool) -> Result<()> {
    names::check(&request.name).map_err(|why| Error::invalid("name", why))?;
    if BUILT_IN.contains(&request.name.as_str()) {
        return Err(Error::invalid("name", format!("{} is always there; choose another", request.name)));
    }
    // An imported image has a name that no registry would take.
    if !known && !request.image.starts_with("sha256:") {
        let _: moat_image::ImageRef = request.image.parse().map_err(|e| Error::invalid("image", e))?;
    }
    platform(request.platform.as_deref())?;
    limits::parse("resources", &request.resources)?;
    checks::env("env", &request.env)?;
    checks::user("user", request.user.as_deref())?;
    checks::workdir("workdir", request.workdir.as_deref())
}

/// Reads `os/arch[/variant]`.
pub(super) fn platform(text: Option<&str>) -> Result<Option<Platform>> {
    let Some(text) = text else { return Ok(None) };
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |p: &&str| !p.is_empty() && p.len() <= 32 && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !parts.iter().all(plain) {
        return Err(Error::invalid("platform", format!("{text:?} is not os/arch or os/arch/variant")));
    }
    let platform = |os: &str, architecture: &str, variant: Option<&str>| Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
    };
    match parts.as_slice() {
        [os, architecture] => Ok(Some(platform(os, architecture, None))),
        [os, architecture, variant] => Ok(Some(platform(os, architecture, Some(variant)))),
        _ => Err(Error::invalid("platform", format!("{text:?} is not os/arch or os/arch/variant"))),
    }
}

impl Templates {
    /// Starts a warm-up, unless the same is under way; the receiver tells that it was written down.
    pub(super) fn begin(&self, request: Warmup) -> Result<Option<oneshot::Receiver<Result<()>>>> {
        let now = clock::now();
        let name = request.name.clone();
        // Sandboxes of a template that was removed may still carry its numbers.
        let taken = self.versions_alive(&name);
        let cancel = self.shared.closed.child_token();
        {
            let mut table = self.shared.table();
            if !table.contains_key(&name) && table.len() >= TEMPLATES_MAX {
                let what = format!("there are {TEMPLATES_MAX} templates, and may be no more; remove some");
                return Err(Error::new(ErrorKind::Exhausted, what));
            }
            let entry = table.entry(name.clone()).or_insert_with(|| {
                let record = TemplateRecord::new(request.clone(), taken.saturating_add(1), now);
                let status = watch::Sender::new(status_of(&record));
                Entry { record, images: std::collections::BTreeMap::new(), status, running: None }
            });
            if entry.running.is_some() {
                return if entry.record.request == request {
                    Ok(None)
                } else {
                    let what = format!(
                        "template {name}: is being warmed up from {}; cancel that, or wait for its end",
                        entry.record.request.image
                    );
                    Err(Error::new(ErrorKind::Conflict, what))
                };
            }
            entry.record.request = request.clone();
            entry.record.task = Task::Warming { since: now };
            entry.running = Some(cancel.clone());
            entry.status.send_replace(status_of(&entry.record));
        }
        let (told, written) = oneshot::channel();
        let this = self.clone();
        self.shared.tasks.spawn(async move { this.warm(request, cancel, told).await });
        Ok(Some(written))
    }

    fn versions_alive(&self, name: &str) -> u64 {
        let used = self.shared.in_use().unwrap_or_default();
        used.versions.into_iter().filter(|(n, _)| n == name).map(|(_, v)| v).max().unwrap_or(0)
    }

    async fn warm(self, request: Warmup, cancel: CancellationToken, told: oneshot::Sender<Result<()>>) {
        let name = request.name.clone();
        match self.shared.persisted(&name).await {
            Ok(()) => drop(told.send(Ok(()))),
            Err(error) => {
                self.undo(&name, &error);
                let _ = told.send(Err(error));
                return;
            }
        }
        let outcome = match cancel.run_until_cancelled(self.shared.warmups.acquire()).await {
            Some(Ok(_permit)) => self.fetch(&request, &cancel).await,
            _ => Err(Error::new(ErrorKind::Conflict, "cancelled")),
        };
        if self.shared.closed.is_cancelled() && outcome.is_err() {
            // The record says that it is under way, and the next daemon believes it.
            return;
        }
        self.conclude(&name, &request, outcome, cancel.is_cancelled());
        if let Err(error) = self.shared.persisted(&name).await {
            tracing::error!(template = name, error = %error.chain(), "the end of a warm-up is not on disk: it will be made again");
        }
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Nothing was begun: what was before is again.
    fn undo(&self, name: &str, error: &Error) {
        let mut table = self.shared.table();
        let Some(entry) = table.get_mut(name) else { return };
        if entry.record.versions.is_empty() {
            table.remove(name);
            return;
        }
        entry.running = None;
        entry.record.task = failed(error, clock::now());
        entry.status.send_replace(status_of(&entry.record));
    }

    async fn fetch(&self, request: &Warmup, cancel: &CancellationToken) -> Result<(Image, Pin)> {
        let store = &self.shared.store;
        let local = store.find(&request.image);
        let reference = match (reference("image", &request.image), local.clone()) {
            (Ok(reference), _) => reference,
            (Err(_), Some(found)) => return Ok(found),
            (Err(error), None) => return Err(error),
        };
        let (progress, follow) = watch::channel(Progress::default());
        let source = Source::Registry { reference, auth: None };
        let pull = store.pull(source, platform(request.platform.as_deref())?, progress, cancel.clone());
        let (pulled, ()) = tokio::join!(pull, self.follow(&request.name, follow));
        match (pulled, local) {
            (Err(error), Some(found)) if error.kind == ErrorKind::Unavailable && !cancel.is_cancelled() => {
                tracing::warn!(template = request.name, error = %error.chain(), "registry not reached: the image in the store is used");
                Ok(found)
            }
            (pulled, _) => pulled,
        }
    }

    /// Shows how far the pull is, until it is over.
    async fn follow(&self, name: &str, mut progress: watch::Receiver<Progress>) {
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            if let Some(entry) = self.shared.table().get(name) {
                entry.status.send_modify(|status| show(status, &now));
            }
        }
    }

    fn conclude(&self, name: &str, request: &Warmup, outcome: Result<(Image, Pin)>, cancelled: bool) {
        let now = clock::now();
        let mut table = self.shared.table();
        let Some(entry) = table.get_mut(name) else { return };
        entry.running = None;
        match outcome {
            Ok((image, pin)) => {
                entry.record.arrived(image.digest, request, now);
                if let Some(version) = entry.record.current().map(|v| v.number) {
                    entry.images.insert(version, (image, pin));
                    tracing::info!(template = name, version, "ready");
                }
            }
            Err(_) if cancelled => entry.record.task = Task::Cancelled { at: now },
            Err(error) => {
                tracing::warn!(template = name, error = %error.chain(), "warm-up failed");
                entry.record.task = failed(&error, now);
            }
        }
        let ended = status_of(&entry.record);
        entry.status.send_modify(|status| {
            let before = std::mem::replace(status, ended);
            status.started_at = before.started_at;
            status.ended_at = shown(now);
            status.layers = before.layers;
            status.bytes_done = before.bytes_done;
            status.bytes_total = before.bytes_total;
        });
    }
}

fn failed(error: &Error, at: Timestamp) -> Task {
    Task::Failed { at, kind: error.kind, message: error.chain() }
}

fn show(status: &mut WarmupStatus, progress: &Progress) {
    progress.phase.as_str().clone_into(&mut status.phase);
    status.digest = progress.digest.map(|d| d.to_string());
    status.bytes_done = progress.layers.iter().map(|l| l.bytes_done).sum();
    status.bytes_total = (!progress.layers.is_empty()).then(|| progress.layers.iter().map(|l| l.bytes_total).sum());
    status.layers = layers(progress);
}

/// Each layer, in the words of the API.
pub fn layers(progress: &Progress) -> Vec<LayerStatus> {
    let of = |layer: &moat_image::progress::LayerProgress| LayerStatus {
        digest: layer.digest.to_string(),
        bytes_done: layer.bytes_done,
        bytes_total: layer.bytes_total,
        cached: layer.cached,
        done: layer.done,
    };
    progress.layers.iter().map(of).collect()
}

/// What a record says, before there is any progress.
pub(super) fn status_of(record: &TemplateRecord) -> WarmupStatus {
    let mut status = WarmupStatus {
        name: record.name.clone(),
        status: String::new(),
        phase: PullPhase::Done.as_str().to_owned(),
        version: record.current().map_or(0, |v| v.number),
        digest: record.current().map(|v| v.digest.to_string()),
        bytes_done: 0,
        bytes_total: None,
        layers: Vec::new(),
        error: None,
        started_at: None,
        ended_at: None,
    };
    let word = match &record.task {
        Task::Warming { since } => {
            status.digest = None;
            PullPhase::Queued.as_str().clone_into(&mut status.phase);
            status.started_at = shown(*since);
            "warming"
        }
        Task::Ready => {
            status.ended_at = record.current().and_then(|v| shown(v.created_at));
            "ready"
        }
        Task::Failed { at, kind, message } => {
            status.ended_at = shown(*at);
            status.error = Some(ErrorBody {
                code: kind.code().to_owned(),
                message: message.clone(),
                hint: None,
                id: format!("warmup-{}", record.name),
            });
            "failed"
        }
        Task::Cancelled { at } => {
            status.ended_at = shown(*at);
            "cancelled"
        }
    };
    word.clone_into(&mut status.status);
    status
}

pub(super) fn always_ready(name: &str) -> WarmupStatus {
    WarmupStatus {
        name: name.to_owned(),
        status: "ready".to_owned(),
        phase: PullPhase::Done.as_str().to_owned(),
        version: 1,
        digest: None,
        bytes_done: 0,
        bytes_total: None,
        layers: Vec::new(),
        error: None,
        started_at: None,
        ended_at: None,
    }
}

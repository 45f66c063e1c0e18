//! A jail goes up and down. What it depends on goes up first, what depends on it goes down first.
//!
//! Nobody claims two jails at once to start or stop them: each is claimed, brought where it should be, and let go.
//!
//! A jail whose sandbox ends without being asked is down, with the cause, until somebody starts it or the node comes up
//! again: it has an init that starts its services again, so what ends it is not cured by doing it once more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use moat_model::jail::{JailKind, JailName};
use moat_model::lifecycle::SandboxView;
use moat_model::{Cause, ErrorKind, Namespace, SandboxId};

use crate::clock;
use crate::error::{Error, Result};
use crate::outlet::{TaskOutput, blocking};

use super::events::Events;
use super::order::{dependants, order};
use super::plan;
use super::record::JailRecord;
use super::table::{Claim, Key, Shared};

/// Longest wait for a jail that something else is just being done to, when another depends on it.
const OTHERS_WITHIN: Duration = Duration::from_secs(300);

/// Whether it has a sandbox that lives.
pub(super) fn is_up(shared: &Shared, record: &JailRecord) -> bool {
    let view = record.sandbox.as_ref().and_then(|id| shared.base.engine.get(id));
    view.is_some_and(|view| !view.phase.is_terminal())
}

/// Where its console goes.
pub(super) fn console(shared: &Shared, key: &Key) -> TaskOutput {
    TaskOutput { dir: shared.home(key).0, task: "console".to_owned(), rotation: shared.base.console }
}

async fn claim_soon(shared: &Arc<Shared>, key: &Key, doing: &'static str) -> Result<Claim> {
    let late = |_| {
        let what = format!("jail {}: something else is being done to it, and does not end", key.1);
        Error::new(ErrorKind::Deadline, what)
    };
    tokio::time::timeout(OTHERS_WITHIN, shared.claim_next(key, doing)).await.map_err(late)?
}

/// All that `name` depends on, directly or not, in the order they are started in.
fn needed(shared: &Shared, key: &Key) -> Vec<JailName> {
    let standings = shared.standings(&key.0);
    let mut found: BTreeSet<JailName> = BTreeSet::new();
    let mut look = vec![key.1.clone()];
    while let Some(name) = look.pop() {
        let depend = standings.get(&name).map(|standing| standing.depend.clone()).unwrap_or_default();
        look.extend(depend.into_iter().filter(|other| found.insert(other.clone())));
    }
    found.remove(&key.1);
    order(&standings).into_iter().filter(|name| found.contains(name)).collect()
}

/// Brings up what a jail depends on.
pub(super) async fn bring_up_needed(shared: &Arc<Shared>, key: &Key, events: &Events) -> Result<()> {
    for name in needed(shared, key) {
        let other = (key.0.clone(), name);
        let claim = claim_soon(shared, &other, "start").await?;
        if !is_up(shared, claim.record()?.as_ref()) {
            events.note(format!("jail {} is started: {} depends on it", other.1, key.1)).await;
            start(&claim).await.map_err(|e| Error { doing: format!("jail {}: {}", other.1, e.doing), ..e })?;
        }
    }
    Ok(())
}

/// Starts one, what it depends on first.
pub(super) async fn up(shared: &Arc<Shared>, key: &Key, events: &Events) -> Result<()> {
    let refuse_if_up = || match is_up(shared, shared.record(key)?.as_ref()) {
        true => Err(Error::new(ErrorKind::Conflict, format!("jail {}: is up already", key.1))),
        false => Ok(()),
    };
    refuse_if_up()?;
    bring_up_needed(shared, key, events).await?;
    let claim = shared.claim(key, "start")?;
    refuse_if_up()?;
    start(&claim).await
}

/// Starts one that is down and claimed. After an error it is down.
pub(super) async fn start(claim: &Claim) -> Result<()> {
    let shared = &claim.shared;
    let (record, home) = (claim.record()?, claim.home());
    if let Some(old) = &record.sandbox {
        // It ended, and nobody has cleared it away yet.
        bury(shared, old).await?;
    }
    let record = newest(claim).await?.unwrap_or(record);
    let address = record.spec.network.address;
    if let Some(address) = address
        && let Some(holder) = shared.holder_of(address, &claim.key, true)
    {
        let what = format!("address: {address} is that of {holder}, which is up; stop that, or change one of them");
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    let disk_ids = shared.base.disk_ids;
    let (prepared, place) = (Arc::clone(&record), home.clone());
    blocking("prepare a jail's directory", move || plan::prepare(&prepared, &place, disk_ids)).await?;
    match launch(claim).await {
        // The address the node gave it once may be somebody else's by now: then it gets another.
        Err(error) if record.given.is_some() && address.is_none() && error.kind == ErrorKind::Conflict => {
            claim.update(|record| record.given = None).await?;
            launch(claim).await
        }
        launched => launched,
    }
}

/// A thin jail stands on its release as it is now.
async fn newest(claim: &Claim) -> Result<Option<Arc<JailRecord>>> {
    let record = claim.record()?;
    let (JailKind::Thin, Some(name)) = (record.spec.kind, &record.spec.release) else { return Ok(None) };
    match claim.shared.releases.get(name) {
        Ok(release) if release.layers != record.layers => {
            let (layers, image) = (release.layers, Some(release.image));
            claim.update(|record| (record.layers, record.image) = (layers, image)).await.map(Some)
        }
        // A release that is gone was removed by hand: the jail keeps what it stands on.
        _ => Ok(None),
    }
}

async fn launch(claim: &Claim) -> Result<()> {
    let (shared, record, home) = (&claim.shared, claim.record()?, claim.home());
    let spec = plan::sandbox(shared, &record, &home)?;
    let engine = &shared.base.engine;
    engine.validate(&spec)?;
    let id = SandboxId::from_parts(clock::now(), rand::random());
    let (number, named) = (claim.number(), id.clone());
    // Written before it is made: a sandbox of a jail that no record names is nobody's.
    let was = record.wanted;
    claim.update(|record| (record.sandbox, record.number, record.wanted) = (Some(named), Some(number), true)).await?;
    let made = match shared.base.outlet.bind_task(id.clone(), console(shared, &claim.key)).await {
        Ok(()) => engine.create(id.clone(), spec).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(view) => {
            claim.update(|record| (record.given, record.cause) = (given(record, &view), None)).await?;
            follow(shared, claim.key.clone(), id);
            Ok(())
        }
        Err(error) => {
            if let Err(left) = bury(shared, &id).await {
                tracing::warn!(sandbox = %id, error = %left.chain(), "a start that failed is not cleared away yet");
            }
            claim.update(|record| (record.sandbox, record.number, record.wanted) = (None, None, was)).await?;
            Err(error)
        }
    }
}

fn given(record: &JailRecord, view: &SandboxView) -> Option<std::net::Ipv4Addr> {
    if record.spec.network.address.is_some() { None } else { view.address }
}

/// Forgets a sandbox, ended or not; its output stays.
pub(super) async fn bury(shared: &Shared, id: &SandboxId) -> Result<()> {
    match shared.base.engine.delete(id).await {
        Err(error) if error.kind != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    shared.base.outlet.unbind_task(id).await
}

/// Stops one, those that depend on it first.
pub(super) async fn down(shared: &Arc<Shared>, key: &Key, force: bool, events: &Events) -> Result<Vec<JailName>> {
    if !is_up(shared, shared.record(key)?.as_ref()) {
        return Err(Error::new(ErrorKind::Conflict, format!("jail {}: is down already", key.1)));
    }
    let standings = shared.standings(&key.0);
    let on_it = dependants(&standings, &key.1);
    let mut stopped = Vec::new();
    for name in order(&standings).into_iter().rev().filter(|name| on_it.contains(name)) {
        let other = (key.0.clone(), name.clone());
        let claim = claim_soon(shared, &other, "stop").await?;
        if is_up(shared, claim.record()?.as_ref()) {
            events.note(format!("jail {name} is stopped: it depends on {}", key.1)).await;
            stop(&claim, force).await?;
            stopped.push(name);
        }
    }
    let claim = shared.claim(key, "stop")?;
    stop(&claim, force).await?;
    stopped.reverse();
    Ok(stopped)
}

/// Ends all that are up, each before what it depends on: for a node that leaves nothing running. Nobody wanted them down, so
/// those that come up by themselves do so with the next daemon.
pub(super) async fn end_all(shared: &Arc<Shared>) {
    let namespaces: BTreeSet<Namespace> = shared.records().into_iter().map(|((namespace, _), _)| namespace).collect();
    let mut busy = Vec::new();
    for namespace in namespaces {
        for name in order(&shared.standings(&namespace)).into_iter().rev() {
            let key = (namespace.clone(), name);
            match shared.claim(&key, "stop") {
                Ok(claim) => told(&key, end(&claim, false).await),
                // The others do not wait for it.
                Err(_) => busy.push(key),
            }
        }
    }
    for key in busy {
        let ended = async { end(&claim_soon(shared, &key, "stop").await?, false).await };
        told(&key, ended.await);
    }
}

fn told(key: &Key, ended: Result<()>) {
    if let Err(error) = ended {
        tracing::warn!(jail = %key.1, error = %error.chain(), "not stopped");
    }
}

/// Stops one that is claimed; one that is down is down.
pub(super) async fn stop(claim: &Claim, force: bool) -> Result<()> {
    let record = claim.record()?;
    if record.sandbox.is_some() && record.wanted {
        claim.update(|record| record.wanted = false).await?;
    }
    end(claim, force).await
}

async fn end(claim: &Claim, force: bool) -> Result<()> {
    let shared = &claim.shared;
    let Some(id) = claim.record()?.sandbox.clone() else { return Ok(()) };
    let engine = &shared.base.engine;
    let ended = if force { engine.kill(&id).await } else { engine.stop(&id, None).await };
    match ended {
        Err(error) if engine.get(&id).is_some_and(|view| !view.phase.is_terminal()) => return Err(error),
        _ => {}
    }
    bury(shared, &id).await?;
    claim.update(|record| (record.sandbox, record.number, record.cause) = (None, None, None)).await?;
    Ok(())
}

/// Notes when its sandbox ends without being asked.
pub(super) fn follow(shared: &Arc<Shared>, key: Key, id: SandboxId) {
    let Some(mut views) = shared.base.engine.watch(&id) else { return };
    let this = Arc::clone(shared);
    let following = async move {
        // An error: the engine lets go of it. It is forgotten, or the daemon ends.
        let Ok(view) = views.wait_for(|view| view.phase.is_terminal()).await.map(|view| view.clone()) else { return };
        let Ok(claim) = this.claim_next(&key, "stop").await else { return };
        if let Err(error) = ended(&claim, &view).await {
            tracing::warn!(jail = %key.1, error = %error.chain(), "its end is not written down yet");
        }
    };
    let closed = shared.closed.clone();
    shared.tasks.spawn(async move {
        closed.run_until_cancelled(following).await;
    });
}

/// Its sandbox has ended, and nobody asked for that.
pub(super) async fn ended(claim: &Claim, view: &SandboxView) -> Result<()> {
    if claim.record()?.sandbox.as_ref() != Some(&view.id) {
        return Ok(());
    }
    let cause = view.cause.as_ref().map_or_else(|| "its sandbox is gone".to_owned(), Cause::message);
    tracing::warn!(jail = %claim.key.1, sandbox = %view.id, cause, "it went down by itself");
    bury(&claim.shared, &view.id).await?;
    let down = |record: &mut JailRecord| {
        (record.sandbox, record.number, record.wanted) = (None, None, false);
        record.cause = Some(cause);
    };
    claim.update(down).await.map(drop)
}

/// Stops and starts one, and those that depend on it and were up.
pub(super) async fn again(shared: &Arc<Shared>, key: &Key, events: &Events) -> Result<()> {
    let stopped = match is_up(shared, shared.record(key)?.as_ref()) {
        true => down(shared, key, false, events).await?,
        false => Vec::new(),
    };
    up(shared, key, events).await?;
    for name in stopped {
        events.note(format!("jail {name} is started again")).await;
        up(shared, &(key.0.clone(), name), events).await?;
    }
    Ok(())
}

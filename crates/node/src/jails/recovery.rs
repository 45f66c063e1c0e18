//! What an earlier daemon left: jails that are whole, halves that go, sandboxes that live on.
//!
//! What of the jails that should be up is not is started: after a boot of the host all with `boot`, after a mere restart of the
//! daemon those with `boot` that were up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use moat_model::jail::{JailName, SnapshotTag};
use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::spec::Owner;
use moat_model::{ErrorKind, Namespace, SandboxId};

use crate::error::{Error, Result};
use crate::outlet::blocking;
use crate::{durable, guard};

use super::events::Events;
use super::place::{self, Home};
use super::record::{FORMAT, JailRecord, SnapshotRecord, Stage};
use super::table::{Key, Shared};
use super::{branch, copy, life};

/// What was found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Sandboxes of jails that are no more.
    pub gone: Vec<SandboxId>,
    /// Old names, and what depends on them now.
    renamed: Vec<(Namespace, JailName, JailName)>,
}

/// Reads all of them, and removes what was left half made. Blocking.
pub(super) fn read(shared: &Shared) -> Result<Found> {
    let failed = |e| Error::caused_by(ErrorKind::Unavailable, "read the jails of this node", e);
    let root = shared.place.root().to_owned();
    guard::make_private(&root)?;
    clear(&shared.place.scratch()).map_err(failed)?;
    place::make(&shared.place.scratch()).map_err(failed)?;
    let mut found = Found::default();
    for (name, dir) in directories(&root).map_err(failed)? {
        let Ok(namespace) = Namespace::parse(&name) else { continue };
        for (name, dir) in directories(&dir).map_err(failed)? {
            let Ok(name) = JailName::parse(&name) else { continue };
            let key = (namespace.clone(), name);
            if let Err(error) = one(shared, &key, Home(dir), &mut found) {
                tracing::error!(jail = %key.1, namespace = %key.0, %error, "a jail that cannot be read is left alone");
            }
        }
    }
    Ok(found)
}

/// What was half made there goes.
fn clear(dir: &Path) -> std::io::Result<()> {
    copy::remove(dir)
}

fn directories(dir: &Path) -> std::io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn one(shared: &Shared, key: &Key, home: Home, found: &mut Found) -> std::io::Result<()> {
    let Some(mut record) = JailRecord::read(&home)? else {
        tracing::info!(jail = %key.1, "was being made when the daemon died: removed");
        return copy::remove(&home.0);
    };
    if record.format != FORMAT {
        return Err(std::io::Error::other(format!("its format is {}", record.format)));
    }
    if record.stage != Stage::Whole {
        tracing::info!(jail = %key.1, stage = ?record.stage, "was half made or half removed: removed");
        found.gone.extend(record.sandbox);
        return copy::remove(&home.0);
    }
    if let Some(new) = record.renaming.take() {
        if new == key.1 {
            found.renamed.push((key.0.clone(), record.spec.name.clone(), new));
        }
        record.spec.name = key.1.clone();
        record.write(&home)?;
    }
    if record.spec.name != key.1 || record.spec.namespace != key.0 {
        return Err(std::io::Error::other("its record is another's"));
    }
    sweep(&home, record.files)?;
    let snapshots = snapshots(&home)?;
    shared.put(record, snapshots);
    Ok(())
}

/// Files that hold no longer, or not yet, go.
fn sweep(home: &Home, files: u64) -> std::io::Result<()> {
    let holds = home.files(files);
    for (name, dir) in directories(&home.0)? {
        if name.starts_with("files-") && dir != holds {
            // Only what came before the one that holds is older: a newer one was not finished.
            let number = name.strip_prefix("files-").and_then(|n| n.parse::<u64>().ok());
            if number.is_some_and(|number| number < files) {
                branch::take_over_volumes(&dir, &holds)?;
            }
            copy::remove(&dir)?;
        }
    }
    Ok(())
}

fn snapshots(home: &Home) -> std::io::Result<BTreeMap<SnapshotTag, SnapshotRecord>> {
    let mut found = BTreeMap::new();
    let dir = home.snapshots();
    if !dir.is_dir() {
        return Ok(found);
    }
    for (name, dir) in directories(&dir)? {
        if name.starts_with(branch::UNFINISHED) {
            copy::remove(&dir)?;
            continue;
        }
        let record: SnapshotRecord = serde_json::from_slice(&std::fs::read(dir.join("snapshot.json"))?)?;
        if record.format == FORMAT && record.tag.as_str() == name {
            found.insert(record.tag.clone(), record);
        }
    }
    Ok(found)
}

/// Finishes what of renames was not, and takes up sandboxes. Returns the jails that are to be started.
pub(super) async fn take_up(shared: &Arc<Shared>, found: Found) -> Result<Vec<Key>> {
    for (namespace, old, new) in found.renamed {
        for (key, record) in shared.records() {
            if key.0 == namespace && record.spec.depend.contains(&old) {
                branch::renamed_in(&shared.claim(&key, "rename")?, &old, &new).await?;
            }
        }
    }
    for id in found.gone {
        life::bury(shared, &id).await?;
    }
    let booted = booted(shared).await?;
    let mut to_start = Vec::new();
    for (key, record) in shared.records() {
        let claim = shared.claim(&key, "start")?;
        let lives = match &record.sandbox {
            None => false,
            Some(id) => match shared.base.engine.get(id) {
                Some(view) if !view.phase.is_terminal() => {
                    adopt(shared, &key, &view).await;
                    true
                }
                view => {
                    // The others go up whatever is wrong with this one, whose start tries it again.
                    if let Err(error) = lost(&claim, id, view).await {
                        tracing::error!(jail = %key.1, error = %error.chain(), "what is left of it is not cleared away");
                    }
                    false
                }
            },
        };
        if !lives && record.spec.boot && (booted || record.wanted) {
            to_start.push(key);
        }
    }
    end_strays(shared).await;
    Ok(to_start)
}

/// One that lived on. Nobody but a copy lets a jail stand still, and that copy died with its daemon.
async fn adopt(shared: &Arc<Shared>, key: &Key, view: &SandboxView) {
    if view.phase == PhaseName::Paused
        && let Err(error) = shared.base.engine.resume(&view.id).await
    {
        tracing::error!(jail = %key.1, error = %error.chain(), "stands still, and does not go on");
    }
    life::follow(shared, key.clone(), view.id.clone());
}

async fn lost(claim: &super::table::Claim, id: &SandboxId, view: Option<SandboxView>) -> Result<()> {
    if let Some(view) = view {
        life::ended(claim, &view).await?;
    } else {
        life::bury(&claim.shared, id).await?;
    }
    let down = |record: &mut JailRecord| {
        (record.sandbox, record.number) = (None, None);
        // Until it is up again: this daemon may die before it is.
        record.wanted = record.spec.boot;
        let gone = || "its sandbox was gone when the node started: the host was, too".to_owned();
        record.cause = Some(record.cause.take().unwrap_or_else(gone));
    };
    claim.update(down).await.map(drop)
}

/// Sandboxes of jails that no record names.
async fn end_strays(shared: &Arc<Shared>) {
    for view in shared.base.engine.list() {
        if view.origin.owner == Owner::Jail
            && shared.of_sandbox(&view.id).is_none()
            && let Err(error) = life::bury(shared, &view.id).await
        {
            tracing::error!(sandbox = %view.id, error = %error.chain(), "the sandbox of no jail is not ended yet");
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Whether the host was booted since the jails were last brought up.
async fn booted(shared: &Arc<Shared>) -> Result<bool> {
    let path = shared.place.boot();
    blocking("look which boot this is", move || Ok(std::fs::read(&path).ok() != Some(std::fs::read(BOOT_ID)?))).await
}

/// Starts these in their order, those that several stand on once.
pub(super) async fn start_all(shared: Arc<Shared>, keys: Vec<Key>) {
    let mut namespaces: BTreeMap<Namespace, Vec<JailName>> = BTreeMap::new();
    for (namespace, name) in keys {
        namespaces.entry(namespace).or_default().push(name);
    }
    for (namespace, names) in namespaces {
        let order = super::order::order(&shared.standings(&namespace));
        for name in order.into_iter().filter(|name| names.contains(name)) {
            let key = (namespace.clone(), name);
            match life::up(&shared, &key, &Events::none()).await {
                Ok(()) => tracing::info!(jail = %key.1, "started with the node"),
                // What depends on it had it started.
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => tracing::error!(jail = %key.1, error = %error.chain(), "not started with the node"),
            }
        }
    }
    // Not before: what is not up because a daemon died here is started by the next.
    let path = shared.place.boot();
    if let Err(error) = blocking("note this boot", move || durable::replace(&path, &std::fs::read(BOOT_ID)?)).await {
        tracing::error!(error = %error.chain(), "the next daemon starts all jails as if the host had been booted");
    }
}

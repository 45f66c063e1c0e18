//! Files of jails, copied: of one that is up while it runs, and then, while it stands still for a moment, what changed since.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moat_drivers::lasting::{self, Copier, Owners, Part, Pass, Stats};
use moat_model::lifecycle::PauseTo;
use moat_model::spec::RootLayer;
use moat_model::{ErrorKind, SandboxId};
use tokio::runtime::Handle;

use crate::error::{Error, Result};

use super::events::Events;
use super::place::{self, UPPER, VOLUMES};
use super::record::JailRecord;
use super::table::{Key, Shared};

/// Passes over a jail that runs, at most, before it is frozen: each is about what changed during the one before.
const RUNNING_PASSES: u32 = 3;
/// So few changes are copied while it stands still.
const FEW: u64 = 200;

/// One directory to be copied.
#[derive(Debug)]
struct Tree {
    from: PathBuf,
    to: PathBuf,
    owners: Owners,
}

/// Whose files are copied to where.
#[derive(Debug)]
pub(super) struct Order {
    /// A making of files: `upper`, and volumes.
    pub from: PathBuf,
    /// First of the ids of `upper` there.
    pub from_base: u32,
    /// The same to be made.
    pub to: PathBuf,
    pub to_base: u32,
    /// First of the ids of volumes, at both.
    pub volumes_base: u32,
}

impl Order {
    /// The directories there are.
    fn trees(&self) -> std::io::Result<Vec<Tree>> {
        let mut trees = Vec::new();
        let upper = self.from.join(UPPER);
        if upper.is_dir() {
            let owners = Owners { from: self.from_base, to: self.to_base };
            trees.push(Tree { from: upper, to: self.to.join(UPPER), owners });
        }
        let volumes = self.from.join(VOLUMES);
        if volumes.is_dir() {
            for entry in std::fs::read_dir(&volumes)? {
                let entry = entry?;
                let owners = Owners { from: self.volumes_base, to: self.volumes_base };
                let to = self.to.join(VOLUMES).join(entry.file_name());
                trees.push(Tree { from: entry.path(), to, owners });
            }
        }
        Ok(trees)
    }
}

/// Tells a copy to stop when whoever waits for it has gone.
#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs work on files on a thread that may wait. Only so many do at once on a node.
async fn on_thread<T: Send + 'static>(
    shared: &Arc<Shared>,
    events: &Events,
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    let closing = || Error::new(ErrorKind::Unavailable, "the node is shutting down");
    let turn = match shared.copies.try_acquire() {
        Ok(turn) => turn,
        Err(_) => {
            events.note("waits for other copies (jails.copies_max)").await;
            shared.copies.acquire().await.map_err(|_| closing())?
        }
    };
    let stop = Stop::default();
    let flag = Arc::clone(&stop.0);
    let working = tokio::task::spawn_blocking(move || work(&flag));
    let done = tokio::select! {
        done = working => done.map_err(|e| Error::caused_by(ErrorKind::Internal, "copy files", e))?,
        () = shared.closed.cancelled() => Err(closing()),
    };
    drop((turn, stop));
    done
}

/// Copies a making of files. `up`: the sandbox that writes to them, if one does; it stands still for as short as can be, and
/// goes on whatever happens.
pub(super) async fn files(shared: &Arc<Shared>, order: Order, up: Option<SandboxId>, events: &Events) -> Result<Stats> {
    let (this, handle) = (Arc::clone(shared), Handle::current());
    let stats = on_thread(shared, events, move |stop| copy(&this, &handle, &order, up.as_ref(), stop)).await?;
    let text = format!(
        "{} files: {} bytes copied, {} shared with the original",
        stats.files, stats.bytes_copied, stats.bytes_cloned
    );
    events.note(text).await;
    Ok(stats)
}

fn copy(shared: &Shared, handle: &Handle, order: &Order, up: Option<&SandboxId>, stop: &AtomicBool) -> Result<Stats> {
    let failed = |e| Error::caused_by(ErrorKind::Unavailable, "make the directories of a copy", e);
    place::make(&order.to).map_err(failed)?;
    let trees = order.trees().map_err(failed)?;
    if trees.iter().any(|tree| tree.to.parent().is_some_and(|p| p.ends_with(VOLUMES))) {
        place::make(&order.to.join(VOLUMES)).map_err(failed)?;
    }
    let made = trees.iter().map(|tree| Copier::new(&tree.from, &tree.to, tree.owners));
    let mut copiers = made.collect::<Result<Vec<_>>>()?;
    let mut stats = Stats::default();
    if let Some(id) = up {
        for nth in 1..=RUNNING_PASSES {
            let done = pass(&mut copiers, Pass::Running, stop)?;
            stats = stats.and(done);
            // How many the first one copies says how many there are, not how many change.
            if nth > 1 && done.files + done.removed < FEW {
                break;
            }
        }
        let _standing = Standing::freeze(shared, handle, id)?;
        stats = stats.and(pass(&mut copiers, Pass::Standing, stop)?);
    } else {
        stats = stats.and(pass(&mut copiers, Pass::Standing, stop)?);
    }
    for copier in copiers {
        copier.finish()?;
    }
    Ok(stats)
}

fn pass(copiers: &mut [Copier], pass: Pass, stop: &AtomicBool) -> Result<Stats> {
    copiers.iter_mut().try_fold(Stats::default(), |stats, copier| Ok(stats.and(copier.pass(pass, stop)?)))
}

/// A sandbox that stands still, until this is dropped.
struct Standing<'a> {
    shared: &'a Shared,
    handle: &'a Handle,
    id: &'a SandboxId,
}

impl<'a> Standing<'a> {
    fn freeze(shared: &'a Shared, handle: &'a Handle, id: &'a SandboxId) -> Result<Self> {
        // Also a freeze that failed half way is taken back.
        let this = Self { shared, handle, id };
        handle.block_on(shared.base.engine.pause(id, PauseTo::Memory))?;
        Ok(this)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        match self.handle.block_on(self.shared.base.engine.resume(self.id)) {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => tracing::error!(sandbox = %self.id, error = %error.chain(), "does not go on after a copy"),
        }
    }
}

/// Makes one tree of layers, and of what lies above them.
pub(super) async fn flatten(
    shared: &Arc<Shared>,
    layers: &[RootLayer],
    above: Option<(PathBuf, u32)>,
    to: PathBuf,
    uid_base: u32,
    events: &Events,
) -> Result<Stats> {
    let mut parts: Vec<Part> = layers.iter().map(|layer| Part::Layer(layer.path.clone())).collect();
    parts.extend(above.map(|(dir, uid_base)| Part::Tree { dir, uid_base }));
    on_thread(shared, events, move |stop| {
        let failed = |e| Error::caused_by(ErrorKind::Unavailable, "make the directory of a copy", e);
        place::make(&to).map_err(failed)?;
        lasting::flatten(&parts, &to.join(UPPER), uid_base, stop)
    })
    .await
}

/// Work on files that is a copy in the sense of the operator's bound.
pub(super) async fn work<T: Send + 'static>(
    shared: &Arc<Shared>,
    events: &Events,
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    on_thread(shared, events, work).await
}

/// Removes a tree, however deep. Blocking.
pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    lasting::remove(path).map_err(std::io::Error::other)
}

/// Copies the files of a jail that is claimed, up or down.
pub(super) async fn of_jail(
    shared: &Arc<Shared>,
    key: &Key,
    record: &JailRecord,
    to: PathBuf,
    to_base: u32,
    events: &Events,
) -> Result<Stats> {
    let up = record.sandbox.clone().filter(|_| super::life::is_up(shared, record));
    let order = Order {
        from: shared.home(key).files(record.files),
        from_base: record.uid_base,
        to,
        to_base,
        volumes_base: shared.base.disk_ids,
    };
    files(shared, order, up, events).await
}

//! Machines that members of pools are made from.
//!
//! The first member of a version is booted. Once it stands ready the whole of it is kept, and those that follow are made from
//! that, which is quicker than booting. What is kept goes when the template, the limits or the driver are others, when the
//! driver refuses it because kernel or monitor are others, and when nothing could be made of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_engine::pool::Shape;
use moat_model::spec::MachineSnapshot;
use moat_model::{SandboxId, SandboxSpec};
use sha2::{Digest as _, Sha256};

use crate::error::Result;

use super::{Sandboxes, machines};

/// How often it is looked whether a member stands ready to be kept, and whether what was kept still serves.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a machine could not be kept, members boot for this long before another is tried.
const AGAIN: Duration = Duration::from_secs(60);
/// Digits of a digest that tell one kind of member from another.
const NAME_DIGITS: usize = 32;

/// The machine behind one pool.
#[derive(Debug, Clone)]
pub(super) struct Seed {
    /// Beginning of the name of its directory.
    pub name: String,
    key: String,
    version: u64,
    driver: &'static str,
    /// Where it is, if members are made from it.
    kept: Option<PathBuf>,
}

/// A member on loan; it goes back whatever becomes of what it was lent for.
struct Loan {
    sandboxes: Sandboxes,
    id: SandboxId,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.sandboxes.shared.base.ready.pool.give_back(&self.id);
    }
}

/// A name for what members like this are made from: another for everything that makes them differ.
fn name_of(driver: &str, version: u64, spec: &SandboxSpec) -> Option<String> {
    let text = serde_json::to_vec(&(driver, version, spec)).ok()?;
    let digest = hex::encode(Sha256::digest(text));
    Some(format!("{}{}", machines::OF_POOLS, digest.get(..NAME_DIGITS)?))
}

/// Whether a directory of this name is a whole machine: drivers give what they write its name last.
pub(super) fn is_whole(name: &str) -> bool {
    let digits = |part: &str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = name.strip_prefix(machines::OF_POOLS).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(of, one)| digits(of, NAME_DIGITS) && digits(one, 16))
}

/// The whole machine that was kept under this name. Blocking.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let own = |found: &String| found.starts_with(name) && is_whole(found);
    entries.filter(own).min().map(|found| dir.join(found))
}

impl Sandboxes {
    /// Looks for the machine behind a pool whose members are machines. As long as there is none, one member at a time.
    pub(super) async fn seed(&self, shape: &mut Shape) -> Option<Seed> {
        let engine = self.shared.base.engine.clone();
        let offer = engine.offer(shape.spec.isolation).ok().filter(|offer| offer.snapshots)?;
        let name = name_of(offer.driver, shape.version, &shape.spec)?;
        let seed = Seed { name, key: shape.key.clone(), version: shape.version, driver: offer.driver, kept: None };
        let (dir, wanted, spec) = (self.shared.base.machines_dir.clone(), seed.clone(), shape.spec.clone());
        // A driver reads the manifest of what was kept.
        let fits = tokio::task::spawn_blocking(move || {
            let machine = MachineSnapshot { dir: find(&dir, &wanted.name)?, driver: wanted.driver.to_owned() };
            let made = SandboxSpec { restore: Some(machine.clone()), ..spec };
            match engine.validate(&made) {
                Ok(()) => Some(machine),
                Err(error) => {
                    let why = error.chain();
                    tracing::info!(
                        template = wanted.key,
                        why,
                        "what members of its pool were made from does not fit any more"
                    );
                    machines::remove(&machine.dir);
                    None
                }
            }
        });
        match fits.await {
            Ok(Some(machine)) => {
                let kept = Some(machine.dir.clone());
                shape.machine = Some(machine);
                Some(Seed { kept, ..seed })
            }
            Ok(None) | Err(_) => {
                (shape.min_ready, shape.max_ready) = (shape.min_ready.min(1), 1);
                Some(seed)
            }
        }
    }

    /// Returns when something changed about what pools are made from; never, if there is nothing to be done.
    pub(super) async fn tend_seeds(&self, seeds: &[Seed]) {
        if seeds.is_empty() {
            std::future::pending::<()>().await;
        }
        let tend = seeds.iter().map(|seed| {
            Box::pin(async move {
                match &seed.kept {
                    Some(dir) => self.watch_seed(seed, dir).await,
                    None => self.keep_seed(seed).await,
                }
            })
        });
        futures::future::select_all(tend).await;
    }

    /// Waits until nothing can be made from it any more, and removes it.
    async fn watch_seed(&self, seed: &Seed, dir: &Path) {
        let broken = loop {
            if let Some(broken) = self.shared.base.ready.pool.status(&seed.key).and_then(|status| status.broken) {
                break broken;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        tracing::warn!(template = seed.key, broken, "no member could be made from what was kept: they boot again");
        let dir = dir.to_owned();
        if let Err(error) = tokio::task::spawn_blocking(move || machines::remove(&dir)).await {
            tracing::error!(%error, "a task of the pool broke");
        }
        tokio::time::sleep(AGAIN).await;
    }

    /// Waits for a member, and keeps it.
    async fn keep_seed(&self, seed: &Seed) {
        let loan = loop {
            if let Some(id) = self.shared.base.ready.pool.lend(&seed.key, seed.version) {
                break Loan { sandboxes: self.clone(), id };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let (this, owned) = (self.clone(), seed.clone());
        // If templates change meanwhile it is written to its end all the same, and found again.
        let written = self.shared.tasks.spawn(async move { this.write_seed(&owned, loan).await });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let why = error.chain();
                tracing::warn!(template = seed.key, why, "a member of its pool could not be kept: they boot");
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => tracing::error!(%error, "a task of the pool broke"),
        }
    }

    async fn write_seed(&self, seed: &Seed, loan: Loan) -> Result<()> {
        let (dir, name) = (self.shared.base.machines_dir.clone(), seed.name.clone());
        let there = tokio::task::spawn_blocking(move || find(&dir, &name).is_some()).await;
        if there.unwrap_or(false) {
            return Ok(());
        }
        let name = format!("{}-{:016x}", seed.name, rand::random::<u64>());
        let machine = machines::place(&self.shared.base.machines_dir, &name, seed.driver)?;
        let captured = self.shared.base.engine.snapshot(&loan.id, machine.dir().to_owned()).await?;
        machine.keep();
        tracing::info!(template = seed.key, bytes = captured.bytes, "members of its pool are made from one of them");
        Ok(())
    }

    /// Removes what pools were made from, but for these.
    pub(super) async fn sweep_seeds(&self, current: Vec<String>) {
        let dir = self.shared.base.machines_dir.clone();
        let swept = tokio::task::spawn_blocking(move || {
            machines::sweep(&dir, |name| {
                !name.starts_with(machines::OF_POOLS) || current.iter().any(|of| name.starts_with(of.as_str()))
            })
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error.chain(), "what pools were made from is left over"),
            Err(error) => tracing::error!(%error, "a task of the pool broke"),
        }
    }
}

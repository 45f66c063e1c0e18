//! Jobs in the daemon: what this node says of itself, and what runs for them in the background.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use moat_engine::Registry;
use moat_model::job::{NodeFacts, TaskDriver};
use moat_model::{ErrorKind, Isolation, NodeId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::allocations::Allocations;
use crate::config::NodeConfig;
use crate::dirs::Dirs;
use crate::error::{Error, Result};
use crate::jobs::{self, Bounds, Jobs, LastBeat, Parts};
use crate::nats::Connection;

/// Drivers of tasks that work here.
pub(super) fn offered(registry: &Registry, config: &NodeConfig) -> BTreeSet<TaskDriver> {
    let gives = |isolation| registry.iter().any(|driver| driver.describe().isolation == isolation);
    let all = [
        (TaskDriver::Exec, gives(Isolation::Container)),
        (TaskDriver::RawExec, gives(Isolation::Process) && config.unsafe_allowed()),
        (TaskDriver::Microvm, registry.offer(Isolation::Microvm).is_ok()),
    ];
    all.into_iter().filter(|(_, works)| *works).map(|(driver, _)| driver).collect()
}

/// What this node says of itself.
pub(super) async fn facts(
    id: &NodeId,
    name: &str,
    config: &NodeConfig,
    offered: BTreeSet<TaskDriver>,
    data_dir: &Path,
) -> Result<NodeFacts> {
    let http = config.api.listen.first().filter(|address| is_reachable(address)).map(|a| format!("http://{a}"));
    let (id, name, config, data_dir) = (id.clone(), name.to_owned(), config.jobs.clone(), data_dir.to_owned());
    let read = tokio::task::spawn_blocking(move || jobs::facts(&id, &name, &config, &offered, &data_dir, http));
    read.await.map_err(|error| Error::caused_by(ErrorKind::Internal, "read what this node is", error))
}

/// Others can reach an address that is neither loopback nor every address.
fn is_reachable(address: &SocketAddr) -> bool {
    !address.ip().is_loopback() && !address.ip().is_unspecified()
}

/// Nobody may have heard of this node for so long that what it runs was placed elsewhere. Blocking, for a small file.
pub(super) fn is_fenced(dirs: &Dirs) -> bool {
    !LastBeat::read(&dirs.last_beat()).is_some_and(LastBeat::is_young)
}

/// What taking part in jobs needs.
pub(super) struct Ground<'a> {
    /// The whole configuration.
    pub config: &'a NodeConfig,
    /// Where things lie.
    pub dirs: &'a Dirs,
    /// The node's connection.
    pub connection: &'a Connection,
    /// What the node says of itself.
    pub facts: NodeFacts,
    /// What it ran may have been placed elsewhere.
    pub fenced: bool,
}

/// Begins to take part in jobs, in the background: NATS need not be there yet.
pub(super) fn start(
    ground: Ground<'_>,
    allocations: &Allocations,
    (tasks, stop): (&TaskTracker, CancellationToken),
) -> Jobs {
    let jobs = Jobs::default();
    allocations.set_directory(Arc::new(jobs.clone()));
    let parts = Parts {
        me: ground.facts.id.clone(),
        client: ground.connection.client().clone(),
        facts: ground.facts,
        hands: Arc::new(allocations.clone()),
        fenced: ground.fenced,
        beat: ground.dirs.last_beat(),
        replicas: ground.config.jobs.replicas,
        bounds: Bounds::default(),
    };
    tasks.spawn(jobs::serve(jobs.clone(), parts, stop));
    jobs
}

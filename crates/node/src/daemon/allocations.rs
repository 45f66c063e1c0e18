//! The instances of jobs on this node, as the configuration says.

use std::path::PathBuf;
use std::sync::Arc;

use moat_engine::Engine;
use moat_getter::{Getter, GetterConfig, Ids, Limits};
use moat_model::job::NodeFacts;
use moat_model::lifecycle::SandboxView;
use moat_model::{ErrorKind, NodeId};

use crate::allocations::{Allocations, Foundation};
use crate::config::NodeConfig;
use crate::dirs::Dirs;
use crate::error::{Error, Result};
use crate::networks::Networks;
use crate::outlet::NodeOutlet;
use crate::templates::Templates;

/// The child is the last but one of the ids that are nobody's on the host: no task has it.
const FETCHER: u32 = 65_533;

/// What they stand on, besides the configuration.
#[derive(Debug)]
pub(super) struct Parts {
    pub node: NodeId,
    pub facts: NodeFacts,
    pub engine: Engine,
    pub outlet: NodeOutlet,
    pub templates: Templates,
    pub networks: Arc<Networks>,
    /// Sandboxes the engine found.
    pub found: Vec<SandboxView>,
    /// Nothing moves before it is known what is still wanted.
    pub fenced: bool,
}

/// Takes up what an earlier daemon left.
pub(super) async fn open(config: &NodeConfig, dirs: &Dirs, parts: Parts) -> Result<Allocations> {
    let base = Foundation {
        node: parts.node,
        facts: Arc::new(parts.facts),
        dir: config.jobs.alloc_dir.clone().unwrap_or_else(|| dirs.allocations()),
        records: dirs.allocation_records(),
        disk_ids: config.container.disk_ids,
        engine: parts.engine,
        outlet: parts.outlet,
        templates: parts.templates,
        networks: parts.networks,
        getter: getter(config, Some(dirs.fetched()))?,
        jobs: config.jobs.clone(),
    };
    Allocations::open(base, parts.found, parts.fenced).await
}

pub(super) fn getter(config: &NodeConfig, cache_dir: Option<PathBuf>) -> Result<Getter> {
    let artifact = &config.jobs.artifact;
    let nobody = config.container.disk_ids.saturating_add(FETCHER);
    let getter = GetterConfig {
        ids: rustix::process::geteuid().is_root().then_some(Ids { uid: nobody, gid: nobody }),
        limits: Limits {
            http_read_timeout: artifact.http_timeout,
            http_max_size: artifact.http_bytes_max,
            git_timeout: artifact.git_timeout,
            s3_timeout: artifact.s3_timeout,
            file_count: artifact.files_max,
            unpacked_size: artifact.unpacked_bytes_max,
            ..Limits::default()
        },
        extra_paths: artifact.paths_allowed.clone(),
        environment: artifact.env_allowed.clone(),
        network: artifact.network.clone(),
        cache_dir,
        ..GetterConfig::of_this_program()
    };
    Getter::new(getter).map_err(|e| Error::caused_by(ErrorKind::Unavailable, "make ready for fetching artifacts", e))
}

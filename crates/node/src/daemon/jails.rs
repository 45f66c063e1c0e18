//! Jails, as the configuration says.

use std::sync::Arc;

use moat_engine::Engine;
use moat_model::{ErrorKind, NodeId};

use crate::config::NodeConfig;
use crate::dirs::Dirs;
use crate::error::Result;
use crate::jails::{Foundation, Inside, Jails};
use crate::logfile::Rotation;
use crate::networks::Networks;
use crate::outlet::{NodeOutlet, blocking};
use crate::sandboxes::limits;
use crate::templates::Templates;

/// What they stand on, besides the configuration.
#[derive(Debug)]
pub(super) struct Parts {
    pub node: NodeId,
    pub engine: Engine,
    pub outlet: NodeOutlet,
    pub templates: Templates,
    pub networks: Arc<Networks>,
}

/// Takes up what an earlier daemon left.
pub(super) async fn open(config: &NodeConfig, dirs: &Dirs, parts: Parts) -> Result<Jails> {
    let shims = dirs.jails().join(".shims");
    let source = blocking("write what is inside every jail", move || {
        crate::guard::make_private(shims.parent().unwrap_or(&shims)).map_err(std::io::Error::other)?;
        moat_shims::install(&shims)
    })
    .await
    .map_err(|e| crate::error::Error { kind: ErrorKind::Unavailable, ..e })?;
    let inside = Inside {
        source,
        target: moat_shims::DIR,
        init: moat_shims::INIT,
        run_as: moat_shims::AS,
        path: moat_shims::PATH,
    };
    let mut resources = limits::with_room(&config.resources);
    // Said here, not left to the driver: it is what a limit that is taken away goes back to.
    resources.pids_max.get_or_insert(config.container.resources.pids_max);
    let base = Foundation {
        node: parts.node,
        dir: dirs.jails(),
        engine: parts.engine,
        outlet: parts.outlet,
        templates: parts.templates,
        networks: parts.networks,
        getter: super::allocations::getter(config, None)?,
        config: config.jails.clone(),
        resources,
        console: Rotation { files_max: config.logs.files_max, file_bytes_max: config.logs.file_bytes_max },
        disk_ids: config.container.disk_ids,
        inside: Some(inside),
    };
    Jails::open(base).await
}

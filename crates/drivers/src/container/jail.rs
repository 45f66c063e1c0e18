//! From what was asked to what the launcher is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use moat_agent::launch::{AgentConfig, BindConfig, HostPath, JailConfig, JailNetwork, LaunchConfig, Payload, ShownIds};
use moat_engine::error::{Error, Result};
use moat_engine::fabric::NetworkPlace;
use moat_model::spec::{Artifact, BindIds, RootSpec};
use moat_model::{ErrorKind, SandboxId, SandboxSpec};

use super::config::ContainerConfig;
use crate::linux::seccomp;

/// Unacknowledged output kept for each stream of the main process: what a program writes in a second at 500 lines of 1 KiB,
/// while the daemon is being replaced. It counts against the sandbox's memory, whose least is 10 MiB.
const OUTPUT_BUFFER_BYTES: usize = 512 << 10;

/// What the driver decided and made before the launcher is told.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub id: &'a SandboxId,
    pub uid_base: u32,
    pub mount_point: PathBuf,
    pub layers: Vec<PathBuf>,
    pub network: Option<&'a NetworkPlace>,
    pub cgroup_procs: Vec<PathBuf>,
    pub capabilities: u64,
}

/// Everything the launcher needs to build this sandbox.
pub(super) fn launch_config(
    config: &ContainerConfig,
    spec: &SandboxSpec,
    prepared: &Prepared<'_>,
) -> Result<LaunchConfig> {
    let defaults = &config.resources;
    let seccomp = seccomp::default_filters(prepared.capabilities)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "compile the system call filter", e))?;
    // Programs that are executed later and name no user are the main process's companions: they run as it does.
    let main = spec.main.as_ref().and_then(|main| main.user.as_ref());
    let user = main.or(spec.process.user.as_ref()).unwrap_or(&config.default_user);
    Ok(LaunchConfig {
        cgroup_procs: prepared.cgroup_procs.clone(),
        jail: Some(JailConfig {
            hostname: spec.hostname.clone().unwrap_or_else(|| prepared.id.as_str().to_owned()),
            uid_base: prepared.uid_base,
            mount_point: prepared.mount_point.clone(),
            writable_bytes: spec.resources.disk_bytes.unwrap_or(defaults.disk_bytes),
            lasting: spec.lasting.as_ref().map(|lasting| lasting.dir.clone()),
            layers: prepared.layers.clone(),
            host_paths: host_paths(config, &spec.root),
            binds: binds(config, spec)?,
            secrets_bytes: spec.resources.secrets_bytes.unwrap_or(defaults.secrets_bytes),
            host_pid: spec.host.pid,
            host_ipc: spec.host.ipc,
            network: network(spec, prepared.network)?,
        }),
        payload: Payload::Agent(AgentConfig {
            default_user: user.clone(),
            task_dir: None,
            capabilities: Some(prepared.capabilities),
            no_new_privs: !spec.security.allow_new_privs,
            seccomp,
            nofile: spec.resources.nofile.unwrap_or(defaults.nofile),
            forward_ports: spec.forwards.iter().map(|forward| forward.listen_port).collect(),
            oom_score_adj: 0,
            output_buffer_bytes: OUTPUT_BUFFER_BYTES,
        }),
    })
}

/// The network the engine had made, if one was asked for: none where one was would be less isolation than asked, or more.
fn network(spec: &SandboxSpec, place: Option<&NetworkPlace>) -> Result<Option<JailNetwork>> {
    if spec.network.is_wired() != place.is_some() {
        let made = if place.is_some() { "one" } else { "none" };
        let what = format!("network: {} was asked for and {made} was made", spec.network.mode);
        return Err(Error::new(ErrorKind::Internal, what));
    }
    Ok(place.map(|place| JailNetwork {
        netns: place.netns.clone(),
        address: place.address,
        resolver: place.gateway,
        search: place.search.clone(),
        name: spec.network.name.as_ref().map(|name| name.as_str().to_owned()),
    }))
}

fn host_paths(config: &ContainerConfig, root: &RootSpec) -> Vec<HostPath> {
    match root {
        RootSpec::Scratch | RootSpec::Layers { .. } => Vec::new(),
        RootSpec::Host => config
            .host_paths
            .iter()
            .map(|(source, target)| HostPath { source: source.clone(), target: target.clone() })
            .collect(),
    }
}

fn binds(config: &ContainerConfig, spec: &SandboxSpec) -> Result<Vec<BindConfig>> {
    let mut binds = Vec::new();
    if let Some(artifact) = &spec.artifact {
        check_artifact(artifact)?;
        binds.push(BindConfig {
            source: artifact.path.clone(),
            target: Path::new("/local").join(&artifact.name),
            read_only: true,
            exec: true,
            ids: ShownIds::Foreign,
        });
    }
    if let Some(log_dir) = &spec.log_dir {
        let target = PathBuf::from("/alloc/logs");
        let ids = ShownIds::Foreign;
        binds.push(BindConfig { source: log_dir.clone(), target, read_only: true, exec: false, ids });
    }
    binds.extend(spec.binds.iter().map(|bind| BindConfig {
        source: bind.source.clone(),
        target: bind.target.clone(),
        read_only: bind.read_only,
        exec: true,
        ids: match bind.ids {
            BindIds::Node => ShownIds::Block(config.disk_ids),
            BindIds::Host => ShownIds::Same,
        },
    }));
    Ok(binds)
}

/// The file is shown as it is on the host, where it belongs to somebody who does not exist inside.
fn check_artifact(artifact: &Artifact) -> Result<()> {
    let path = artifact.path.display();
    let found = fs::metadata(&artifact.path)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("artifact.path: {path}"), e))?;
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o005 != 0o005 {
        return Err(Error::invalid(
            "artifact.path",
            format!("{path} (mode {:04o}) must be a file everybody may read and execute: chmod 0555", mode & 0o7777),
        ));
    }
    Ok(())
}

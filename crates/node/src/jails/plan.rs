//! One start of a jail as a sandbox.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use moat_model::jail::{JailKind, JailMount, MountKind, limit};
use moat_model::network::NetworkSpec;
use moat_model::spec::{
    Bind, BindIds, LastingRoot, Origin, Owner, ProcessDefaults, Resources, RootSpec, Security, Signal, StopSpec,
};
use moat_model::{ErrorKind, Isolation, ProcessSpec, SandboxSpec};

use crate::error::{Error, Result};

use super::place::{self, Home};
use super::record::JailRecord;
use super::table::{Inside, Shared};

/// What its processes find in their environment, besides `PATH`.
const ENVIRONMENT: [(&str, &str); 5] =
    [("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("SHELL", "/bin/sh"), ("TERM", "xterm")];
/// Who works in a jail where nobody is named, and who its init is.
const ROOT: &str = "root";
/// Without the node's own programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the engine is asked for. Checks everything that can be checked before anything is made.
pub(super) fn sandbox(shared: &Shared, record: &JailRecord, home: &Home) -> Result<SandboxSpec> {
    let spec = &record.spec;
    let network = super::network::plan(&shared.base.networks, record)?;
    let layers = record.layers.clone();
    let root = if layers.is_empty() { RootSpec::Scratch } else { RootSpec::Layers { layers } };
    let process = defaults(record, shared.base.inside.as_ref());
    Ok(SandboxSpec {
        labels: BTreeMap::from([("jail".to_owned(), spec.name.to_string())]),
        binds: binds(shared, record, home, &network)?,
        lasting: Some(LastingRoot { dir: home.files(record.files), uid_base: record.uid_base }),
        hostname: Some(spec.properties.get("host.hostname").cloned().unwrap_or_else(|| spec.name.to_string())),
        main: main(record, shared.base.inside.as_ref()),
        stop: StopSpec { signal: Signal::TERM, grace: shared.base.config.stop_within },
        resources: resources(shared, record)?,
        // su and sudo are how people work in a jail; its ids are nobody's on the host.
        security: Security { allow_new_privs: true, ..Security::default() },
        network,
        process,
        origin: Origin { owner: Owner::Jail, image: record.image.clone(), ..Origin::default() },
        ..SandboxSpec::new(spec.namespace.clone(), spec.isolation, root)
    })
}

pub(super) fn resources(shared: &Shared, record: &JailRecord) -> Result<Resources> {
    let mut asked = Resources::default();
    for one in &record.spec.limits {
        limit(one, &mut asked).map_err(|e| Error::new(ErrorKind::InvalidSpec, e.to_string()))?;
    }
    // Its files lie on the disk of the host, whose file system has no quota for them.
    let beneath = Resources { disk_bytes: None, ..shared.base.resources.clone() };
    let mut resources = asked.over(&beneath);
    if record.spec.isolation == Isolation::Microvm {
        // The host does not see which of a machine's memory is in use.
        resources.memory_reserve_bytes = asked.memory_reserve_bytes;
    }
    // A bound the user lowers may pass what the node protects.
    if let (Some(memory), Some(reserve)) = (resources.memory_bytes, resources.memory_reserve_bytes) {
        resources.memory_reserve_bytes = Some(reserve.min(memory));
    }
    Ok(resources)
}

fn defaults(record: &JailRecord, inside: Option<&Inside>) -> ProcessDefaults {
    let mut env: BTreeMap<String, String> =
        ENVIRONMENT.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    if let Some(program) = &record.spec.program {
        env.extend(program.env.clone());
    }
    let path = inside.map_or(PATH, |inside| inside.path);
    // What the image adds to PATH stays behind the node's own programs.
    let path = match env.get("PATH") {
        Some(own) => format!("{path}:{own}"),
        None => path.to_owned(),
    };
    env.insert("PATH".to_owned(), path);
    ProcessDefaults { env, user: Some(ROOT.to_owned()), cwd: None }
}

/// The node's init with what it is to look after, and the image's own program behind it.
fn main(record: &JailRecord, inside: Option<&Inside>) -> Option<ProcessSpec> {
    let program = record.spec.program.as_ref();
    let Some(inside) = inside else { return program.cloned() };
    let mut args = Vec::new();
    if !record.spec.watched.is_empty() {
        args.push("--watch".to_owned());
        args.push(record.spec.watched.iter().cloned().collect::<Vec<_>>().join(","));
    }
    if let Some(program) = program {
        args.push("--".to_owned());
        args.extend(as_its_user(program, inside));
        args.push(program.command.clone());
        args.extend(program.args.clone());
    }
    let (command, env) = (inside.init.to_owned(), BTreeMap::new());
    Some(ProcessSpec { command, args, env, cwd: None, user: Some(ROOT.to_owned()) })
}

/// Words in front of a program that is to be somebody else than the init, or somewhere else.
fn as_its_user(program: &ProcessSpec, inside: &Inside) -> Vec<String> {
    let whom = program.user.as_deref().map(|user| user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g))));
    let mut options = Vec::new();
    if let Some((user, group)) = whom {
        options.extend(["-u", user]);
        options.extend(group.map(|group| ["-g", group]).into_iter().flatten());
    }
    options.extend(program.cwd.as_deref().map(|dir| ["-d", dir]).into_iter().flatten());
    if options.is_empty() {
        return Vec::new();
    }
    inside.run_as.iter().chain(&options).chain(&["--"]).map(|word| (*word).to_owned()).collect()
}

fn binds(shared: &Shared, record: &JailRecord, home: &Home, network: &NetworkSpec) -> Result<Vec<Bind>> {
    let read_only =
        |source: PathBuf, target: &str| Bind { source, target: target.into(), read_only: true, ids: BindIds::Node };
    let mut binds = Vec::new();
    if let Some(inside) = &shared.base.inside {
        binds.push(read_only(inside.source.clone(), inside.target));
    }
    if network.is_wired() && !record.spec.network.nameservers.is_empty() {
        binds.push(read_only(home.resolv_conf(), "/etc/resolv.conf"));
    }
    for mount in &record.spec.mounts {
        let (source, ids) = match &mount.kind {
            MountKind::Host(path) => (allowed(shared, path)?, BindIds::Host),
            MountKind::Volume(name) => (home.volume(record.files, name), BindIds::Node),
        };
        binds.push(Bind { source, target: mount.target.clone(), read_only: mount.read_only, ids });
    }
    Ok(binds)
}

/// A path of the host that the operator lets jails have, as it really is: no link leads out of what is allowed.
pub(super) fn allowed(shared: &Shared, path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let real = std::fs::canonicalize(path)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("{shown}: on the host"), e))?;
    let below = |allowed: &PathBuf| std::fs::canonicalize(allowed).is_ok_and(|allowed| real.starts_with(allowed));
    if !shared.base.config.host_paths.iter().any(below) {
        let what = format!("{shown}: a path of the host its operator does not let jails have (jails.host_paths)");
        return Err(Error::new(ErrorKind::Denied, what));
    }
    // What a jail can write into could become a link between this look and the mount.
    let writes = |mount: &JailMount| {
        !mount.read_only
            && matches!(&mount.kind, MountKind::Host(source) if real != *source && real.starts_with(source))
    };
    if shared.records().iter().any(|(_, record)| record.spec.mounts.iter().any(writes)) {
        let what = format!("{shown}: lies in a directory that a jail may write to; show that one as a whole instead");
        return Err(Error::new(ErrorKind::Denied, what));
    }
    Ok(real)
}

/// Makes what a start needs on disk. Blocking.
pub(super) fn prepare(record: &JailRecord, home: &Home, disk_ids: u32) -> std::io::Result<()> {
    place::make(&home.files(record.files))?;
    for mount in &record.spec.mounts {
        if let MountKind::Volume(name) = &mount.kind {
            let dir = home.volume(record.files, name);
            if !dir.is_dir() {
                place::make(&home.files(record.files).join(place::VOLUMES))?;
                std::fs::create_dir(&dir)?;
                if rustix::process::geteuid().is_root() {
                    std::os::unix::fs::chown(&dir, Some(disk_ids), Some(disk_ids))?;
                }
            }
        }
    }
    if !record.spec.network.nameservers.is_empty() {
        let lines = record.spec.network.nameservers.iter().map(|server| format!("nameserver {server}\n"));
        std::fs::write(home.resolv_conf(), lines.collect::<String>())?;
        // Read inside by people whom nothing on the host belongs to.
        std::fs::set_permissions(home.resolv_conf(), std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Whether this kind stands on layers.
pub(super) fn has_layers(kind: JailKind) -> bool {
    matches!(kind, JailKind::Thin | JailKind::Clone | JailKind::Oci)
}

//! Fields of a spec that mean the same to every driver that isolates, and what they may be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use moat_engine::error::{Error, Result};
use moat_model::spec::{
    Artifact, BINDS_MAX, BindIds, Forward, ProcessDefaults, ProcessSpec, ROOT_LAYERS_MAX, RootLayer, RootSpec,
};
use moat_model::{ErrorKind, Resource, SandboxSpec};

use crate::linux::erofs;

/// What a driver says to a resource of the engine's it is given to release.
pub fn of_the_engine(resource: &Resource) -> Error {
    Error::new(ErrorKind::Internal, format!("{resource:?} was given to a driver to release: it is the engine's"))
}

/// Each is a listening socket and a task of the agent.
const FORWARDS_MAX: usize = 64;

/// `PATH_MAX` of Linux.
const PATH_MAX: usize = 4096;

/// `NAME_MAX` of Linux file systems.
const FILE_NAME_MAX: usize = 255;

/// Linux's own.
const HOSTNAME_LEN_MAX: usize = 64;

/// Checks them; names the one at fault.
pub fn check(spec: &SandboxSpec) -> Result<()> {
    if let RootSpec::Layers { layers } = &spec.root {
        check_layers(layers)?;
    }
    if let Some(artifact) = &spec.artifact {
        check_artifact(artifact)?;
    }
    if let Some(lasting) = &spec.lasting {
        check_path("lasting.dir", &lasting.dir)?;
    }
    if let Some(hostname) = &spec.hostname {
        check_hostname(hostname)?;
    }
    if spec.log_dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        return Err(Error::invalid("log_dir", "must be absolute"));
    }
    if let Some(main) = &spec.main {
        check_process(main)?;
    }
    check_defaults(&spec.process)?;
    if spec.task_dir.is_some() {
        return Err(Error::invalid(
            "task_dir",
            "only a program without a sandbox works in a directory of the host: binds",
        ));
    }
    if spec.oom_score_adj.is_some() {
        let why = "a sandbox's programs compete for its own memory only: leave it out";
        return Err(Error::new(ErrorKind::Unsupported, format!("oom_score_adj: {why}")));
    }
    check_binds(spec)?;
    check_forwards(&spec.forwards)
}

/// Where nothing may be shown: file systems of the kernel, and what the agent and the user are told in confidence.
const COVERED: [&str; 5] = ["/dev", "/private", "/proc", "/secrets", "/sys"];

fn check_binds(spec: &SandboxSpec) -> Result<()> {
    if spec.binds.len() > BINDS_MAX {
        return Err(Error::invalid("binds", format!("{} are more than {BINDS_MAX}", spec.binds.len())));
    }
    let mut targets = BTreeSet::new();
    for bind in &spec.binds {
        check_path("binds.source", &bind.source)?;
        check_path("binds.target", &bind.target)?;
        let target = bind.target.display();
        // Secrets the node made before the sandbox was, on a file system in memory of its own: they stand instead of its.
        let made_before = bind.ids == BindIds::Node && bind.target == Path::new("/secrets");
        let covered = COVERED.iter().find(|own| bind.target.starts_with(own));
        if let Some(own) = covered.filter(|_| !made_before) {
            return Err(Error::invalid("binds.target", format!("{target}: {own} is the sandbox's own")));
        }
        if !targets.insert(&bind.target) {
            return Err(Error::invalid("binds.target", format!("{target} is the target of two")));
        }
        if spec.artifact.is_some() && bind.target == Path::new("/local") {
            return Err(Error::invalid("artifact", "/local is a bind: the program is one of its files"));
        }
    }
    Ok(())
}

/// As the kernel takes it, with one name for each place.
fn check_path(field: &'static str, path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    // Compared as text too: components leave out `.` and doubled slashes.
    let normal = path.components().collect::<PathBuf>().as_os_str() == path.as_os_str();
    if !path.is_absolute() || !path.components().all(plain) || !normal || path.parent().is_none() {
        let why = format!("{} must be absolute, without '.', '..' and empty parts, and not '/'", path.display());
        return Err(Error::invalid(field, why));
    }
    if bytes.len() >= PATH_MAX || bytes.contains(&0) {
        return Err(Error::invalid(field, format!("must be below {PATH_MAX} bytes, without NUL")));
    }
    Ok(())
}

/// It stands in files, a line each, and in the kernel.
fn check_hostname(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if name.is_empty() || name.len() > HOSTNAME_LEN_MAX || !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        let why = format!("{name:?} must be 1 to {HOSTNAME_LEN_MAX} letters, digits, '-', '.' and '_'");
        return Err(Error::invalid("hostname", why));
    }
    Ok(())
}

fn check_artifact(artifact: &Artifact) -> Result<()> {
    let name = artifact.name.as_str();
    if name.is_empty() || name.len() > FILE_NAME_MAX || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(Error::invalid("artifact.name", format!("{name:?} is not a file name")));
    }
    if !is_digest(&artifact.sha256) {
        return Err(Error::invalid("artifact.sha256", "must be 64 lower-case hex digits"));
    }
    if !artifact.path.is_absolute() {
        return Err(Error::invalid("artifact.path", "must be absolute"));
    }
    Ok(())
}

/// Enough for the kernel, and for a path below the roots directory.
fn check_layers(layers: &[RootLayer]) -> Result<()> {
    let refused = |why: String| Err(Error::invalid("root.layers", why));
    if layers.is_empty() || layers.len() > ROOT_LAYERS_MAX {
        return refused(format!("{} layers are not within 1 to {ROOT_LAYERS_MAX}", layers.len()));
    }
    for layer in layers {
        if !is_digest(&layer.digest) {
            return refused(format!("digest {:?} must be 64 lower-case hex digits", layer.digest));
        }
        if !layer.path.is_absolute() || layer.path.as_os_str().len() > erofs::SOURCE_LEN_MAX {
            let path = layer.path.display();
            return refused(format!("path {path} must be absolute and of at most {} bytes", erofs::SOURCE_LEN_MAX));
        }
    }
    Ok(())
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_process(process: &ProcessSpec) -> Result<()> {
    if process.command.is_empty() || process.command.contains('\0') {
        return Err(Error::invalid("main.command", "must not be empty nor hold a NUL"));
    }
    if process.args.iter().any(|arg| arg.contains('\0')) {
        return Err(Error::invalid("main.args", "must not hold a NUL"));
    }
    check_env("main.env", &process.env)?;
    check_cwd("main.cwd", process.cwd.as_deref())?;
    check_user("main.user", process.user.as_deref())
}

fn check_defaults(process: &ProcessDefaults) -> Result<()> {
    check_env("process.env", &process.env)?;
    check_cwd("process.cwd", process.cwd.as_deref())?;
    check_user("process.user", process.user.as_deref())
}

fn check_env(field: &'static str, env: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(field, format!("{name:?} is not a name: no '=', no NUL, not empty")));
        }
        if value.contains('\0') {
            return Err(Error::invalid(field, format!("the value of {name} holds a NUL")));
        }
    }
    Ok(())
}

fn check_cwd(field: &'static str, cwd: Option<&str>) -> Result<()> {
    if cwd.is_some_and(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
        return Err(Error::invalid(field, "must be absolute inside the sandbox"));
    }
    Ok(())
}

fn check_user(field: &'static str, user: Option<&str>) -> Result<()> {
    if user.is_some_and(|user| user.is_empty() || user.contains(['\0', '\n'])) {
        return Err(Error::invalid(field, "must be a name or uid, with :group or not"));
    }
    Ok(())
}

fn check_forwards(forwards: &[Forward]) -> Result<()> {
    if forwards.len() > FORWARDS_MAX {
        return Err(Error::invalid("forwards", format!("{} are more than {FORWARDS_MAX}", forwards.len())));
    }
    let mut ports = BTreeSet::new();
    for forward in forwards {
        if forward.listen_port == 0 || !ports.insert(forward.listen_port) {
            let why = format!("{} must be at least 1 and used once", forward.listen_port);
            return Err(Error::invalid("forwards.listen_port", why));
        }
        let port = forward.target.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        if port.and_then(|port| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            return Err(Error::invalid("forwards.target", format!("{:?} is not host:port", forward.target)));
        }
    }
    Ok(())
}

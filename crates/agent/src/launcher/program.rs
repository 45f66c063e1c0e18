//! A program in a jail: a virtual machine monitor, which talks to a guest nobody trusts and may be taken over by it.
//!
//! Its root has what it was given and nothing else; nothing of the layout of a sandbox is there. It runs as a user that is
//! not root inside, without a capability, and does not get any back. What it needs and may not open itself – a tap, sockets,
//! files – it is given open.
//!
//! One that serves the files of a sandbox to a machine is root inside, with what that takes over the sandbox's own ids, and has
//! beside its own root that of the sandbox.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use moat_agent::launch::{DESCRIPTORS_MAX, HostPath, JailConfig, ProgramConfig, SERVED, SERVES_WITH, ServedRoot};
use rustix::fs::{CWD, Mode};
use rustix::mount::MountAttrFlags;
use rustix::net::{SendFlags, send};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::layers::{self, Stack};
use super::mount::{self, INERT, Reach};
use super::root::{READ_ONLY, own_mounts, writable_layer};
use super::tree::{Owner, Tree, below};
use super::{GO_ON, ID_COUNT, LaunchError, at, binds, devices, kernel};
use crate::sys;

const STAGE: &str = "program";

/// Everything that came over the launcher's socket for it, and the tap.
#[derive(Debug)]
pub struct Given {
    /// Where it writes what it has to say.
    pub log: OwnedFd,
    /// From 3 on.
    pub others: Vec<OwnedFd>,
}

/// Sorts out what came, before anything is made.
pub fn check(jail: Option<&JailConfig>, program: &ProgramConfig, came: Vec<OwnedFd>) -> Result<Given, LaunchError> {
    let refused = |why: String| Err(LaunchError::new(STAGE, why));
    let Some(jail) = jail else {
        return refused("it runs in a jail or not at all".to_owned());
    };
    if !jail.layers.is_empty() {
        return refused("its root has no layers: it is shown host paths and binds".to_owned());
    }
    if jail.host_pid || jail.host_ipc {
        return refused("its namespaces are its own".to_owned());
    }
    if (program.uid == 0) != program.serves.is_some() {
        return refused("it is root of its namespaces if it serves files, and only then".to_owned());
    }
    if program.uid >= ID_COUNT {
        return refused(format!("user {}: it is one of 1 to {}", program.uid, ID_COUNT - 1));
    }
    if program.tap.is_some() && jail.network.is_none() {
        return refused("a tap lies in a network that somebody made".to_owned());
    }
    let wanted = usize::try_from(program.descriptors).unwrap_or(usize::MAX);
    if wanted >= DESCRIPTORS_MAX || came.len() != wanted + 1 {
        return refused(format!(
            "{} descriptors came, {wanted} and one for its output are announced (at most {DESCRIPTORS_MAX})",
            came.len()
        ));
    }
    let mut came = came.into_iter();
    match came.next() {
        Some(log) => Ok(Given { log, others: came.collect() }),
        None => refused("no descriptor came".to_owned()),
    }
}

/// Builds its root, and makes it the working directory.
pub fn assemble(jail: &JailConfig, program: &ProgramConfig) -> Result<(), LaunchError> {
    own_mounts()?;
    let owner = Owner { uid: jail.uid_base, gid: jail.uid_base };
    let own = Tree::new(writable_layer(jail, INERT)?, owner);
    let private = Mode::from_raw_mode(0o755);
    let root = own.directory(Path::new("root"), private).map_err(at("root", &jail.mount_point))?;
    own.directory(Path::new("empty"), Mode::from_raw_mode(0o555)).map_err(at("root", &jail.mount_point))?;
    let root = Tree::new(root, owner);
    for (path, mode) in [("dev", 0o755), ("proc", 0o555), ("tmp", 0o1777)] {
        root.directory(Path::new(path), Mode::from_raw_mode(mode)).map_err(at("directories", Path::new(path)))?;
    }
    let mut paths: Vec<&HostPath> = jail.host_paths.iter().collect();
    // Parents before what lies in them.
    paths.sort_by(|a, b| a.target.cmp(&b.target));
    paths.into_iter().try_for_each(|path| host_path(&root, path))?;
    if let Some(served) = &program.serves {
        serve(&root, &own, jail, served)?;
    }
    devices::give_nodes(&root, &program.devices, jail.uid_base + program.uid)?;
    binds::show(&root, &jail.binds, jail.uid_base)?;
    rustix::process::fchdir(root.root()).map_err(|e| LaunchError::new("enter root", e))
}

/// The root of the sandbox, where the program looks for it.
fn serve(root: &Tree, own: &Tree, jail: &JailConfig, served: &ServedRoot) -> Result<(), LaunchError> {
    let failed = at("served root", &served.lasting);
    let place = below(Path::new(SERVED));
    own.directory(place, Mode::from_raw_mode(0o755)).map_err(&failed)?;
    let (overlay, _) = layers::mount(own, place, Stack::served(jail, served))?;
    binds::show(&Tree::new(overlay, own.owner()), &served.binds, jail.uid_base)?;
    let shown = root.directory(place, Mode::from_raw_mode(0o755)).map_err(&failed)?;
    let copy = mount::bind(own.root(), place, Reach::Tree, MountAttrFlags::empty()).map_err(&failed)?;
    mount::attach(&copy, shown.as_fd()).map_err(&failed)
}

/// A host path as it is, links included, that cannot be written through. One that is missing is skipped.
fn host_path(root: &Tree, path: &HostPath) -> Result<(), LaunchError> {
    let stage = "host path";
    let (source, target) = (path.source.as_path(), below(&path.target));
    let found = match fs::symlink_metadata(source) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at(stage, source)(e)),
    };
    if found.is_symlink() {
        let to = fs::read_link(source).map_err(at(stage, source))?;
        return root.symlink(target, &to).map_err(at(stage, &path.target));
    }
    let place = match (found.is_dir(), found.is_file()) {
        (true, _) => root.directory(target, Mode::from_raw_mode(found.mode() & 0o755)),
        (_, true) => root.file(target),
        _ => return Err(at(stage, source)("sockets, pipes and devices are not shown")),
    };
    let place = place.map_err(at(stage, &path.target))?;
    let copy = mount::bind(CWD, source, Reach::Tree, READ_ONLY).map_err(at(stage, source))?;
    mount::attach(&copy, place.as_fd()).map_err(at(stage, &path.target))
}

/// Becomes the program. It is root of its namespaces until here. Whoever reads from `report` is told that all is ready; then
/// comes the end of the channel, or what failed.
pub fn run(program: &ProgramConfig, given: Given, report: OwnedFd) -> ! {
    let report = match kernel::give_descriptors(given.log, given.others, report) {
        Ok(report) => report,
        // The channel may be closed by now: the parent reads end of file without a word, which is an answer too.
        Err(_) => sys::exit_now(i32::from(crate::OURS)),
    };
    let Err(error) = attempt(program, &report);
    super::fail(&report, error)
}

fn attempt(program: &ProgramConfig, report: &OwnedFd) -> Result<Infallible, LaunchError> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| LaunchError::new(STAGE, "a zero byte in an argument"));
    let path = text(program.path.as_os_str().as_bytes())?;
    let args = program.args.iter().map(|arg| text(arg.as_bytes()));
    let argv = std::iter::once(Ok(path.clone())).chain(args).collect::<Result<Vec<_>, _>>()?;
    let filters = program.seccomp.iter().map(|bytes| sys::Filter::from_bytes(bytes));
    let filters: Vec<_> =
        filters.collect::<Option<_>>().ok_or_else(|| LaunchError::new(STAGE, "a malformed system call filter"))?;

    sys::reset_signals();
    limit(program).map_err(|e| LaunchError::new("limits", e))?;
    let keep = if program.serves.is_some() { SERVES_WITH } else { 0 };
    give_up(program.uid, keep).map_err(|e| LaunchError::new("give up privileges", e))?;
    send(report, GO_ON, SendFlags::NOSIGNAL).map_err(|e| LaunchError::new(STAGE, e))?;
    for filter in &filters {
        filter.apply().map_err(|e| LaunchError::new("system call filter", e))?;
    }
    let error = sys::execve(&path, &argv, &[]);
    Err(at("execute", &program.path)(error))
}

fn limit(program: &ProgramConfig) -> rustix::io::Result<()> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, both(0))?;
    setrlimit(Resource::Nofile, both(program.nofile))?;
    program.file_bytes_max.map_or(Ok(()), |bytes| setrlimit(Resource::Fsize, both(bytes)))
}

/// From root inside to a user with these capabilities, mostly none, and no exec gives back another.
fn give_up(uid: u32, keep: u64) -> rustix::io::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    clear_ambient_capability_set()?;
    for bit in (0..u64::BITS).filter(|bit| keep & 1 << bit == 0) {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            // The first one this kernel does not know.
            Err(_) => break,
        }
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let (kept, none) = (CapabilitySet::from_bits_retain(keep), CapabilitySet::empty());
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    set_no_new_privs(true)
}

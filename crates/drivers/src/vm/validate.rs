//! Which field of a spec no machine can honour.

use moat_engine::error::{Error, Result};
use moat_model::network::NetworkMode;
use moat_model::spec::{Resources, RootSpec};
use moat_model::{ErrorKind, Isolation, SandboxSpec};

use super::config::{MachineDefaults, VCPUS_MAX};
use super::setup::capabilities;
use crate::fields;

/// Disks a machine has room for beside the one it writes to: letters of `/dev/vd?`, which some programs stop at.
pub const LAYERS_MAX: usize = 24;
/// A distribution's kernel, its page tables and the initramfs with the agent in it while it is unpacked.
const MEMORY_MIN: u64 = 96 << 20;
/// More than hosts of sandboxes have.
const MEMORY_MAX: u64 = 1 << 40;
/// The least an ext4 file system with the directories every sandbox has.
const DISK_MIN: u64 = 8 << 20;
/// One file on the host.
const DISK_MAX: u64 = 4 << 40;
/// A file system has whole pages.
const SECRETS_MIN: u64 = 4096;
/// Standard streams, a few libraries: with less no program starts.
const NOFILE_MIN: u64 = 16;
/// What the kernel inside allows without being told otherwise.
const NOFILE_MAX: u64 = 1 << 20;

/// What of the host a monitor shows its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Disks.
    Disks,
    /// Directories, too: a root that outlives the machine, and what is shown in it.
    Directories,
}

/// Checks everything that does not depend on the monitor.
pub fn check(spec: &SandboxSpec, defaults: &MachineDefaults, shows: Shows) -> Result<()> {
    let unsupported = |why: String| Err(Error::new(ErrorKind::Unsupported, why));
    if !Isolation::Microvm.satisfies(spec.isolation) {
        return unsupported(format!("isolation: {} was asked for, this driver gives microvm", spec.isolation));
    }
    if spec.network.mode == NetworkMode::Host {
        return unsupported(
            "network: a machine has a network of its own; the host's needs isolation process".to_owned(),
        );
    }
    match &spec.root {
        RootSpec::Host => {
            let why = "a machine cannot show paths of the host; use a template of an image, or scratch";
            return unsupported(format!("root: {why}"));
        }
        RootSpec::Layers { layers } if layers.len() > LAYERS_MAX && spec.lasting.is_none() => {
            let why = format!("{} layers are more than the {LAYERS_MAX} disks of a machine", layers.len());
            return unsupported(format!("root.layers: {why}; make the image anew"));
        }
        RootSpec::Layers { .. } | RootSpec::Scratch => {}
    }
    directories(spec, shows)?;
    if !spec.host.is_none() {
        return unsupported("host: a machine has a kernel of its own, and no namespace of the host's".to_owned());
    }
    if spec.resources.cores.is_some() {
        return unsupported("resources.cores: the threads of a machine share CPUs: cpu_quota_millis".to_owned());
    }
    if spec.log_dir.is_some() {
        return unsupported("log_dir: a machine cannot show directories of the host".to_owned());
    }
    fields::check(spec)?;
    capabilities(spec)?;
    sizes(&spec.resources, defaults)?;
    refuse_memory_reserve(&spec.resources)
}

/// Directories of the host are shown in a root that is one.
fn directories(spec: &SandboxSpec, shows: Shows) -> Result<()> {
    let lasts = spec.lasting.is_some();
    let refused = [
        (
            lasts && shows == Shows::Disks,
            "lasting: this monitor shows a machine no directory of the host: use driver qemu, or isolation container",
        ),
        (lasts && spec.restore.is_some(), "restore: a snapshot holds the whole machine, and no root that outlives it"),
        (
            lasts && spec.resources.disk_bytes.is_some(),
            "resources.disk_bytes: what lasts lies on the host's disk, where nothing counts it: leave it out",
        ),
        (
            !lasts && !spec.binds.is_empty(),
            "binds: a machine is shown directories of the host only in a root that lasts",
        ),
    ];
    match refused.into_iter().find(|(asked, _)| *asked) {
        Some((_, why)) => Err(Error::new(ErrorKind::Unsupported, why)),
        None => Ok(()),
    }
}

fn refuse_memory_reserve(asked: &Resources) -> Result<()> {
    match asked.memory_reserve_bytes {
        None => Ok(()),
        Some(_) => {
            let why = "the host does not see which of a machine's memory is in use; leave it out";
            Err(Error::new(ErrorKind::Unsupported, format!("resources.memory_reserve_bytes: {why}")))
        }
    }
}

/// Checks sizes, with the driver's defaults where nothing was asked.
pub fn sizes(asked: &Resources, defaults: &MachineDefaults) -> Result<()> {
    let memory = defaults.memory(asked);
    within("resources.memory_bytes", memory, MEMORY_MIN, MEMORY_MAX, "a kernel of its own needs that much")?;
    if !memory.is_multiple_of(1 << 20) {
        return Err(Error::invalid(
            "resources.memory_bytes",
            format!("{memory} is not in whole MiB, as machines have it"),
        ));
    }
    within("resources.disk_bytes", defaults.disk(asked), DISK_MIN, DISK_MAX, "it holds a file system")?;
    let secrets = asked.secrets_bytes.unwrap_or(defaults.secrets_bytes);
    within("resources.secrets_bytes", secrets, SECRETS_MIN, memory, "it is kept in the machine's memory")?;
    let nofile = asked.nofile.unwrap_or(defaults.nofile);
    within("resources.nofile", nofile, NOFILE_MIN, NOFILE_MAX, "what programs and kernels can do with")?;
    let quota_max = u64::from(VCPUS_MAX) * 1000;
    within(
        "resources.cpu_quota_millis",
        asked.cpu_quota_millis.unwrap_or(1000).into(),
        1,
        quota_max,
        "processors of a machine",
    )
}

fn within(field: &'static str, value: u64, least: u64, most: u64, why: &str) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{value} is not within {least} to {most}: {why}")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use moat_model::Namespace;
    use moat_model::network::NetworkSpec;
    use moat_model::spec::{Bind, BindIds, LastingRoot, RootLayer};

    use super::*;

    fn spec() -> SandboxSpec {
        let spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, RootSpec::Scratch);
        SandboxSpec { network: NetworkSpec::new(NetworkMode::Isolated), ..spec }
    }

    fn with(resources: Resources) -> SandboxSpec {
        SandboxSpec { resources, ..spec() }
    }

    #[test]
    fn every_refusal_names_its_field() {
        let defaults = MachineDefaults::default();
        let check = |spec: &SandboxSpec, defaults: &MachineDefaults| check(spec, defaults, Shows::Disks);
        check(&spec(), &defaults).unwrap();
        check(&SandboxSpec { isolation: Isolation::Container, ..spec() }, &defaults).unwrap();
        let layer = RootLayer { digest: "a".repeat(64), path: PathBuf::from("/x") };
        let layers = |count| RootSpec::Layers { layers: vec![layer.clone(); count] };
        check(&SandboxSpec { root: layers(LAYERS_MAX), ..spec() }, &defaults).unwrap();
        let none = Resources::default;
        for (spec, named) in [
            (SandboxSpec { network: NetworkSpec::new(NetworkMode::Host), ..spec() }, "network"),
            (SandboxSpec { root: RootSpec::Host, ..spec() }, "root"),
            (SandboxSpec { root: layers(LAYERS_MAX + 1), ..spec() }, "root.layers"),
            (SandboxSpec { log_dir: Some(PathBuf::from("/x")), ..spec() }, "log_dir"),
            (with(Resources { memory_bytes: Some(1 << 20), ..none() }), "resources.memory_bytes"),
            (with(Resources { memory_bytes: Some((256 << 20) + 1), ..none() }), "resources.memory_bytes"),
            (with(Resources { memory_reserve_bytes: Some(1 << 20), ..none() }), "resources.memory_reserve_bytes"),
            (with(Resources { disk_bytes: Some(1), ..none() }), "resources.disk_bytes"),
            (with(Resources { secrets_bytes: Some(1), ..none() }), "resources.secrets_bytes"),
            (with(Resources { nofile: Some(1), ..none() }), "resources.nofile"),
            (with(Resources { cpu_quota_millis: Some(1_000_000), ..none() }), "resources.cpu_quota_millis"),
        ] {
            let refusal = check(&spec, &defaults).unwrap_err();
            assert_eq!(refusal.doing.split(':').next(), Some(named), "{refusal}");
        }
    }

    #[test]
    fn directories_are_shown_in_roots_that_last_by_those_who_show_any() {
        let bind = Bind { source: "/a".into(), target: "/b".into(), read_only: true, ids: BindIds::Node };
        let lasting = LastingRoot { dir: "/jail".into(), uid_base: 1 << 20 };
        let lasts = SandboxSpec { lasting: Some(lasting), binds: vec![bind], ..spec() };
        let defaults = MachineDefaults::default();
        check(&lasts, &defaults, Shows::Directories).unwrap();
        let disk = Resources { disk_bytes: Some(1 << 30), ..Resources::default() };
        for (spec, shows, named) in [
            (lasts.clone(), Shows::Disks, "lasting"),
            (SandboxSpec { lasting: None, ..lasts.clone() }, Shows::Directories, "binds"),
            (SandboxSpec { resources: disk, ..lasts.clone() }, Shows::Directories, "resources.disk_bytes"),
        ] {
            let refusal = check(&spec, &defaults, shows).unwrap_err();
            assert_eq!(refusal.doing.split(':').next(), Some(named), "{refusal}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        MachineDefaults::default().check("qemu").unwrap();
        let bad = MachineDefaults { vcpus: 0, ..MachineDefaults::default() };
        assert!(bad.check("qemu").unwrap_err().doing.starts_with("qemu.vcpus: "));
        let bad = MachineDefaults { memory_bytes: 1, ..MachineDefaults::default() };
        assert!(bad.check("qemu").unwrap_err().chain().contains("memory_bytes"));
    }

    #[test]
    fn a_quota_has_as_many_processors_as_it_fills() {
        let defaults = MachineDefaults { vcpus: 2, ..MachineDefaults::default() };
        for (millis, vcpus) in [(None, 2), (Some(1), 1), (Some(1000), 1), (Some(1001), 2), (Some(4000), 4)] {
            assert_eq!(defaults.vcpus(&Resources { cpu_quota_millis: millis, ..Resources::default() }), vcpus);
        }
    }
}

//! Which field of a spec cannot be honoured. Everything here is decided without looking at the host's state.

use moat_engine::error::{Error, Result};
use moat_model::network::NetworkMode;
use moat_model::spec::{Resources, RootSpec};
use moat_model::{ErrorKind, Isolation, SandboxSpec};

use super::config::ResourceDefaults;
use crate::fields;
use crate::linux::capability;

/// Nomad's least. The agent, its buffers and the file systems of an empty sandbox take about a third of it; with less it
/// would be the agent that runs out of memory.
const MEMORY_MIN: u64 = 10 << 20;

/// A tmpfs smaller than this has no room for the directories every sandbox has.
const DISK_MIN: u64 = 256 << 10;

/// A file system has whole pages.
const SECRETS_MIN: u64 = 4096;

/// Standard streams, a few libraries: with less no program starts.
const NOFILE_MIN: u64 = 16;

/// Checks everything that does not depend on the node's settings.
pub(super) fn check(spec: &SandboxSpec) -> Result<()> {
    if !Isolation::Container.satisfies(spec.isolation) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("isolation: {} was asked for, this driver gives container", spec.isolation),
        ));
    }
    if spec.network.mode == NetworkMode::Host {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "network: a container has a network of its own; the host's needs isolation process",
        ));
    }
    lasting(spec)?;
    fields::check(spec)
}

/// What cannot be had together with a root that lasts.
fn lasting(spec: &SandboxSpec) -> Result<()> {
    if spec.lasting.is_none() {
        return Ok(());
    }
    let refused = [
        (
            spec.root == RootSpec::Host,
            "lasting: a view of the host's paths has a layer over each, and none of them lasts: use layers or scratch",
        ),
        (
            spec.resources.disk_bytes.is_some(),
            "resources.disk_bytes: what lasts lies on the host's disk, where nothing counts it: leave it out",
        ),
    ];
    match refused.into_iter().find(|(asked, _)| *asked) {
        Some((_, why)) => Err(Error::new(ErrorKind::Unsupported, why)),
        None => Ok(()),
    }
}

/// Capabilities over a network: a sandbox has them over a namespace of its own, and never over one that the node made, whose
/// rules it would undo. Giving them without effect would be ignoring what was asked.
pub(super) fn network_capabilities(spec: &SandboxSpec, kernel: u64) -> Result<()> {
    if !spec.network.is_wired() {
        return Ok(());
    }
    let field = "security.cap_add";
    for asked in &spec.security.cap_add {
        // `all` is whatever there is to have here.
        let bits = capability::parse(field, std::slice::from_ref(asked), kernel)?;
        if bits.count_ones() == 1 && bits & capability::OF_NETWORKS != 0 {
            let why = format!(
                "{asked} has no effect with network {}: the node makes that network and nobody inside may change it; \
                 with network isolated it has",
                spec.network.mode
            );
            return Err(Error::new(ErrorKind::Unsupported, format!("{field}: {why}")));
        }
    }
    Ok(())
}

/// Checks a memory limit asked for.
pub(super) fn memory(asked: Option<u64>) -> Result<()> {
    at_least("resources.memory_bytes", asked.unwrap_or(MEMORY_MIN), MEMORY_MIN, "the agent lives in it too")
}

fn at_least(field: &'static str, value: u64, least: u64, why: &str) -> Result<()> {
    if value < least { Err(Error::invalid(field, format!("{value} is below {least}: {why}"))) } else { Ok(()) }
}

/// Checks sizes, with the node's defaults where nothing was asked.
pub(super) fn limits(asked: &Resources, defaults: &ResourceDefaults, nofile_max: u64) -> Result<()> {
    let memory = asked.memory_bytes.unwrap_or(defaults.memory_bytes);
    let secrets = asked.secrets_bytes.unwrap_or(defaults.secrets_bytes);
    self::memory(Some(memory))?;
    let disk = asked.disk_bytes.unwrap_or(defaults.disk_bytes);
    at_least("resources.disk_bytes", disk, DISK_MIN, "the directories every sandbox has need that much")?;
    at_least("resources.secrets_bytes", secrets, SECRETS_MIN, "a file system has at least one page")?;
    if secrets > memory {
        let why = format!("{secrets} is above memory_bytes, {memory}, against which it counts");
        return Err(Error::invalid("resources.secrets_bytes", why));
    }
    let nofile = asked.nofile.unwrap_or(defaults.nofile);
    if !(NOFILE_MIN..=nofile_max).contains(&nofile) {
        let why = format!("{nofile} is not within {NOFILE_MIN} to {nofile_max}, the most this daemon may give");
        return Err(Error::invalid("resources.nofile", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use moat_model::Namespace;
    use moat_model::spec::{
        Artifact, Forward, LastingRoot, ProcessDefaults, ProcessSpec, ROOT_LAYERS_MAX, RootLayer, Security, StopSpec,
    };

    use super::*;
    use moat_model::network::NetworkSpec;

    fn spec() -> SandboxSpec {
        SandboxSpec {
            restore: None,
            namespace: Namespace::default_namespace(),
            labels: BTreeMap::new(),
            isolation: Isolation::Container,
            root: RootSpec::Scratch,
            artifact: None,
            log_dir: None,
            binds: Vec::new(),
            task_dir: None,
            host: Default::default(),
            lasting: None,
            hostname: None,
            leashed: false,
            oom_score_adj: None,
            main: None,
            stop: StopSpec::default(),
            resources: Resources::default(),
            security: Security::default(),
            network: NetworkSpec::new(NetworkMode::Isolated),
            ingress: Default::default(),
            forwards: Vec::new(),
            timeout: None,
            idle_timeout: None,
            on_timeout: Default::default(),
            process: Default::default(),
            origin: Default::default(),
        }
    }

    fn process() -> ProcessSpec {
        ProcessSpec { command: "x".to_owned(), args: vec![], env: BTreeMap::new(), cwd: None, user: None }
    }

    fn artifact() -> Artifact {
        Artifact { path: PathBuf::from("/a"), name: "a".to_owned(), sha256: "0".repeat(64) }
    }

    /// The text before the first colon of the refusal.
    fn field(spec: &SandboxSpec) -> String {
        check(spec).unwrap_err().doing.split(':').next().unwrap().to_owned()
    }

    #[test]
    fn every_refusal_names_its_field() {
        check(&spec()).unwrap();
        let main = |change: fn(&mut ProcessSpec)| {
            let mut process = process();
            change(&mut process);
            SandboxSpec { main: Some(process), ..spec() }
        };
        let with = |change: fn(&mut Artifact)| {
            let mut artifact = artifact();
            change(&mut artifact);
            SandboxSpec { artifact: Some(artifact), ..spec() }
        };
        let forward = |port, target: &str| SandboxSpec {
            forwards: vec![Forward { listen_port: port, target: target.to_owned() }; 2],
            ..spec()
        };
        let lasting = |dir: &str, change: fn(&mut SandboxSpec)| {
            let lasting = LastingRoot { dir: PathBuf::from(dir), uid_base: 0x2000_0000 };
            let mut spec = SandboxSpec { lasting: Some(lasting), ..spec() };
            change(&mut spec);
            spec
        };
        check(&lasting("/a", |_| ())).unwrap();
        let layers = |count, digest: &str| {
            let layer = RootLayer { digest: digest.to_owned(), path: PathBuf::from("/x.erofs") };
            SandboxSpec { root: RootSpec::Layers { layers: vec![layer; count] }, ..spec() }
        };
        let defaults = |change: fn(&mut ProcessDefaults)| {
            let mut process = ProcessDefaults::default();
            change(&mut process);
            SandboxSpec { process, ..spec() }
        };
        check(&layers(ROOT_LAYERS_MAX, &"a".repeat(64))).unwrap();
        for (spec, named) in [
            (SandboxSpec { isolation: Isolation::Microvm, ..spec() }, "isolation"),
            (SandboxSpec { network: NetworkSpec::new(NetworkMode::Host), ..spec() }, "network"),
            (SandboxSpec { log_dir: Some(PathBuf::from("logs")), ..spec() }, "log_dir"),
            (with(|a| a.name = "a/b".to_owned()), "artifact.name"),
            (with(|a| a.name = "..".to_owned()), "artifact.name"),
            (with(|a| a.sha256 = "F".repeat(64)), "artifact.sha256"),
            (with(|a| a.path = PathBuf::from("a")), "artifact.path"),
            (lasting("/a", |spec| spec.root = RootSpec::Host), "lasting"),
            (lasting("/a", |spec| spec.resources.disk_bytes = Some(1 << 30)), "resources.disk_bytes"),
            (lasting("/a/../b", |_| ()), "lasting.dir"),
            (SandboxSpec { hostname: Some("a b".to_owned()), ..spec() }, "hostname"),
            (SandboxSpec { hostname: Some("x".repeat(65)), ..spec() }, "hostname"),
            (main(|p| p.command = String::new()), "main.command"),
            (main(|p| p.args.push("a\0".to_owned())), "main.args"),
            (main(|p| drop(p.env.insert("A=B".to_owned(), String::new()))), "main.env"),
            (main(|p| drop(p.env.insert("A".to_owned(), "\0".to_owned()))), "main.env"),
            (main(|p| p.cwd = Some("tmp".to_owned())), "main.cwd"),
            (main(|p| p.user = Some(String::new())), "main.user"),
            (layers(0, &"a".repeat(64)), "root.layers"),
            (layers(ROOT_LAYERS_MAX + 1, &"a".repeat(64)), "root.layers"),
            (layers(1, "../../etc"), "root.layers"),
            (layers(1, &"A".repeat(64)), "root.layers"),
            (defaults(|p| p.cwd = Some("tmp".to_owned())), "process.cwd"),
            (defaults(|p| p.user = Some("a\nb".to_owned())), "process.user"),
            (defaults(|p| drop(p.env.insert("A=B".to_owned(), String::new()))), "process.env"),
            (forward(0, "h:1"), "forwards.listen_port"),
            (forward(1, "h:1"), "forwards.listen_port"),
            (forward(1, "h"), "forwards.target"),
            (forward(1, ":1"), "forwards.target"),
            (forward(1, "h:0"), "forwards.target"),
        ] {
            assert_eq!(field(&spec), named);
        }
    }

    #[test]
    fn power_over_a_network_that_the_node_made_is_refused_by_name() {
        let kernel = capability::of_kernel();
        let wired = |mode, cap: &str| SandboxSpec {
            network: NetworkSpec::new(mode),
            security: Security { cap_add: vec!["kill".to_owned(), cap.to_owned()], ..Security::default() },
            ..spec()
        };
        for cap in ["NET_ADMIN", "cap_net_raw", "net_raw"] {
            for mode in [NetworkMode::Internal, NetworkMode::Internet] {
                let refusal = network_capabilities(&wired(mode, cap), kernel).unwrap_err();
                assert_eq!(refusal.kind, ErrorKind::Unsupported);
                assert!(refusal.doing.starts_with("security.cap_add: ") && refusal.doing.contains(cap), "{refusal}");
            }
            network_capabilities(&wired(NetworkMode::Isolated, cap), kernel).unwrap();
        }
        for cap in ["net_bind_service", "all"] {
            network_capabilities(&wired(NetworkMode::Internet, cap), kernel).unwrap();
        }
    }

    #[test]
    fn sizes_have_a_least() {
        let defaults = ResourceDefaults::default();
        limits(&Resources::default(), &defaults, 65_536).unwrap();
        for (asked, named) in [
            (Resources { memory_bytes: Some(MEMORY_MIN - 1), ..Resources::default() }, "resources.memory_bytes"),
            (Resources { disk_bytes: Some(1), ..Resources::default() }, "resources.disk_bytes"),
            (Resources { secrets_bytes: Some(0), ..Resources::default() }, "resources.secrets_bytes"),
            (Resources { secrets_bytes: Some(1 << 40), ..Resources::default() }, "resources.secrets_bytes"),
            (Resources { nofile: Some(65_537), ..Resources::default() }, "resources.nofile"),
            (Resources { nofile: Some(1), ..Resources::default() }, "resources.nofile"),
        ] {
            let refusal = limits(&asked, &defaults, 65_536).unwrap_err().doing;
            assert!(refusal.starts_with(named), "{refusal}");
        }
    }
}

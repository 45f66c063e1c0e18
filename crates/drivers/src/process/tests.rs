//! What is refused, and that it is named. What runs is in `tests/raw_exec.rs`.

use moat_model::network::{Action, HostLabel, NetworkMode, NetworkSpec, Protocol, PublishSpec};
use moat_model::spec::{Forward, ProcessSpec, Resources, Security};
use moat_model::{Namespace, SandboxId, Timestamp};

use super::*;

fn driver(enabled: bool) -> Option<ProcessDriver> {
    let config = ProcessConfig { enabled, cgroup_parent: "moat-test".to_owned(), ..ProcessConfig::default() };
    match ProcessDriver::new(config, AgentBinary::embedded().unwrap()) {
        Ok(driver) => Some(driver),
        Err(error) => {
            moat_testkit::not_run_here(&error.chain());
            None
        }
    }
}

fn spec() -> SandboxSpec {
    SandboxSpec {
        network: NetworkSpec::new(NetworkMode::Host),
        ingress: Default::default(),
        ..SandboxSpec::new(Namespace::default_namespace(), Isolation::Process, RootSpec::Host)
    }
}

#[test]
fn what_only_a_sandbox_has_is_refused_by_name() {
    let Some(driver) = driver(true) else { return };
    driver.validate(&spec()).unwrap();
    let main = |cwd: &str| ProcessSpec {
        command: "x".to_owned(),
        args: Vec::new(),
        env: Default::default(),
        cwd: Some(cwd.to_owned()),
        user: None,
    };
    let artifact =
        |name: &str| moat_model::spec::Artifact { path: "/x".into(), name: name.to_owned(), sha256: "0".repeat(64) };
    let publish =
        PublishSpec { host_address: [127, 0, 0, 1].into(), host_port: 1, port: 1, count: 1, protocol: Protocol::Tcp };
    let network = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut network = NetworkSpec::new(NetworkMode::Host);
        change(&mut network);
        SandboxSpec { network, ..spec() }
    };
    let wrong: Vec<(&str, SandboxSpec)> = vec![
        ("isolation", SandboxSpec { isolation: Isolation::Container, ..spec() }),
        ("root", SandboxSpec { root: RootSpec::Scratch, ..spec() }),
        ("root", SandboxSpec { root: RootSpec::Layers { layers: Vec::new() }, ..spec() }),
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Isolated), ..spec() }),
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Internal), ..spec() }),
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Internet), ..spec() }),
        ("network.address", network(&|n| n.address = Some([10, 0, 0, 2].into()))),
        ("network.name", network(&|n| n.name = HostLabel::parse("web").ok())),
        ("network.egress", network(&|n| n.egress.default = Action::Deny)),
        ("network.publish", network(&|n| n.publish.push(publish))),
        ("network.limits", network(&|n| n.limits.up_bits_per_sec = Some(1))),
        ("forwards", SandboxSpec { forwards: vec![Forward { listen_port: 1, target: "a:1".to_owned() }], ..spec() }),
        (
            "security.cap_add",
            SandboxSpec { security: Security { cap_add: vec!["kill".into()], ..Default::default() }, ..spec() },
        ),
        (
            "security.cap_drop",
            SandboxSpec { security: Security { cap_drop: vec!["all".into()], ..Default::default() }, ..spec() },
        ),
        (
            "resources.disk_bytes",
            SandboxSpec { resources: Resources { disk_bytes: Some(1), ..Default::default() }, ..spec() },
        ),
        (
            "resources.secrets_bytes",
            SandboxSpec { resources: Resources { secrets_bytes: Some(1), ..Default::default() }, ..spec() },
        ),
        (
            "resources.pids_max",
            SandboxSpec { resources: Resources { pids_max: Some(1), ..Default::default() }, ..spec() },
        ),
        (
            "resources.nofile",
            SandboxSpec { resources: Resources { nofile: Some(1 << 40), ..Default::default() }, ..spec() },
        ),
        ("artifact.name", SandboxSpec { artifact: Some(artifact("../x")), ..spec() }),
        ("artifact.name", SandboxSpec { artifact: Some(artifact("..")), ..spec() }),
        ("main.cwd", SandboxSpec { main: Some(main("tmp")), ..spec() }),
    ];
    for (field, spec) in wrong {
        let error = driver.validate(&spec).unwrap_err();
        assert!(error.doing.starts_with(&format!("{field}: ")), "{field}: {error}");
    }
}

#[test]
fn everything_it_makes_is_planned() {
    let Some(driver) = driver(true) else { return };
    let id = SandboxId::from_parts(Timestamp::from_millis(1), [7; 10]);
    let place =
        Place { id: id.clone(), run_dir: "/run/x".into(), data_dir: "/var/x".into(), uid_base: 0, network: None };
    let planned = driver.plan(&place, &spec());
    assert_eq!(
        planned,
        [
            Resource::Directory { path: "/run/x".into() },
            Resource::Directory { path: "/var/x".into() },
            Resource::Cgroup { name: id.to_string() },
        ]
    );
}

#[test]
fn a_record_of_another_driver_or_version_is_not_taken() {
    for (name, version) in [("container", record::VERSION), (NAME, 99)] {
        let record = Record { driver: name.to_owned(), version, data: serde_json::json!({}) };
        assert!(ProcessRecord::read(&record).unwrap_err().doing.contains(name));
    }
}

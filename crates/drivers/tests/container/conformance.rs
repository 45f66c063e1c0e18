//! The suite every driver has to pass, and the page that says so.

use std::path::Path;

use moat_engine::conformance::{Counted, HostProfile, run, update_document};
use moat_engine::driver::Driver as _;
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{Resources, RootSpec};
use moat_model::{Isolation, SandboxSpec};

use crate::harness::*;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drivers/conformance.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let Some(host) = Host::new("conformance") else { return };
    let layout = moat_drivers::linux::cgroup::Hierarchy::detect(CGROUP_PARENT).unwrap().layout();
    let release = read("/proc/sys/kernel/osrelease");
    let refused = [
        ("isolation", SandboxSpec { isolation: Isolation::Microvm, ..spec(RootSpec::Host) }),
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Host), ..spec(RootSpec::Host) }),
        (
            "resources.memory_bytes",
            SandboxSpec {
                resources: Resources { memory_bytes: Some(1), ..Resources::default() },
                ..spec(RootSpec::Host)
            },
        ),
        (
            "resources.cpuset",
            SandboxSpec {
                resources: Resources { cpuset: Some("100000".to_owned()), ..Resources::default() },
                ..spec(RootSpec::Host)
            },
        ),
    ];
    let profile = HostProfile {
        host: format!("Linux {}, cgroups {layout}", release.trim()),
        run_dir: host.dir.path().join("r"),
        data_dir: host.dir.path().join("data"),
        uid_base: 0x6000_0000,
        spec: SandboxSpec { artifact: Some(probe_artifact()), ..spec(RootSpec::Host) },
        shell: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
        full_shell: true,
        listener: Some(vec!["probe".to_owned(), "listen".to_owned()]),
        slow: false,
        counted: Counted::Processes,
        refused: refused.into_iter().map(|(field, spec)| (field.to_owned(), spec)).collect(),
    };
    let report = run(host.driver.clone(), profile).await;
    for (case, why) in report.not_run() {
        moat_testkit::not_run(&format!("{} {case}", host.driver.describe().name), why);
    }
    if std::env::var_os("MOAT_REGENERATE").is_some() {
        let path = Path::new(DOCUMENT);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let before = std::fs::read_to_string(path).unwrap_or_default();
        std::fs::write(path, update_document(&before, &report)).unwrap();
    }
    assert_eq!(report.failures(), Vec::<String>::new());
}

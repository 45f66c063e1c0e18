//! The suite every driver has to pass, on the real Firecracker where there is one and a guest can run.

use std::sync::Arc;

use moat_drivers::firecracker::{FirecrackerConfig, FirecrackerDriver};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_engine::conformance::{Counted, HostProfile, run};
use moat_engine::driver::{Driver as _, Need};
use moat_model::spec::{Resources, RootSpec};
use moat_model::{Isolation, SandboxSpec};

use crate::host::{CGROUP_PARENT, spec};

const ID: &str = "firecracker conformance";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let (Some(binary), Some(jailer)) = (moat_testkit::tool("firecracker"), moat_testkit::tool("jailer")) else {
        return moat_testkit::not_run(ID, "firecracker and jailer are not installed");
    };
    let guest_dir = moat_testkit::tools_dir().join("guest");
    let dir = tempfile::Builder::new().prefix("moat-fc-").tempdir().unwrap();
    let config = FirecrackerConfig {
        binary,
        jailer,
        guest_dir,
        cache_dir: dir.path().join("cache"),
        cgroup_parent: CGROUP_PARENT.to_owned(),
        ..FirecrackerConfig::default()
    };
    let driver = Arc::new(FirecrackerDriver::new(config, AgentBinary::embedded().unwrap()).unwrap());
    let unmet = driver.probe().into_iter().find(|need| !need.met && need.need == Need::Required);
    if let Some(unmet) = unmet {
        return moat_testkit::not_run(ID, &format!("no stock guest runs here: {}: {}", unmet.name, unmet.fact));
    }
    let _lock = moat_testkit::exclusive().unwrap();
    let refused = [
        ("root", SandboxSpec { root: RootSpec::Host, ..spec() }),
        ("isolation", SandboxSpec { isolation: Isolation::Process, ..spec() }),
        (
            "resources.memory_bytes",
            SandboxSpec { resources: Resources { memory_bytes: Some(1), ..spec().resources }, ..spec() },
        ),
    ];
    let profile = HostProfile {
        host: "Firecracker".to_owned(),
        run_dir: dir.path().join("r"),
        data_dir: dir.path().join("data"),
        uid_base: 0x6100_0000,
        spec: spec(),
        shell: None,
        full_shell: false,
        listener: None,
        slow: false,
        counted: Counted::Monitor,
        refused: refused.into_iter().map(|(field, spec)| (field.to_owned(), spec)).collect(),
    };
    let report = run(driver.clone(), profile).await;
    for (case, why) in report.not_run() {
        moat_testkit::not_run(&format!("firecracker {case}"), why);
    }
    assert_eq!(report.failures(), Vec::<String>::new());
}

//! What is refused before anything exists, and what a host lacks.

use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::qemu::config::AcceleratorChoice;
use moat_drivers::qemu::{QemuConfig, QemuDriver};
use moat_engine::driver::{Driver as _, Need};
use moat_model::spec::RootSpec;
use moat_model::{ErrorKind, Isolation, Namespace, SandboxSpec};

/// Without a guest the driver is there, says what is missing, and refuses.
#[test]
fn what_is_missing_is_told_with_its_fix() {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run("qemu missing", "needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = QemuConfig {
        accelerator: AcceleratorChoice::Tcg,
        guest_dir: dir.path().join("no-guest"),
        run_dir: dir.path().join("run"),
        data_dir: dir.path().join("data"),
        ..QemuConfig::default()
    };
    let driver = QemuDriver::new(config, AgentBinary::embedded().unwrap()).map_err(|e| e.chain()).unwrap();
    assert_eq!(driver.describe().accelerator, None);
    let unmet: Vec<_> = driver.probe().into_iter().filter(|r| !r.met).collect();
    let guest = unmet.iter().find(|r| r.name == "guest").unwrap();
    // Where no kernel is installed, installing one comes before it.
    assert_eq!((guest.need, guest.fix.clone()), (Need::Required, Some(moat_guest::fix())));
    assert!(moat_guest::fix().ends_with("moat guest build"), "{}", moat_guest::fix());
    assert!(unmet.iter().all(|r| r.fix.is_some()), "{unmet:?}");
    let mut spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, RootSpec::Scratch);
    spec.network = moat_model::network::NetworkSpec::new(moat_model::network::NetworkMode::Isolated);
    let refusal = driver.validate(&spec).unwrap_err();
    assert!(matches!(refusal.kind, ErrorKind::NotFound | ErrorKind::Unsupported), "{refusal}");
}

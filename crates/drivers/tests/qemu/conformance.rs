//! The suite every driver has to pass.

use std::path::Path;

use moat_engine::conformance::{Counted, HostProfile, run, update_document};
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{Artifact, Resources, RootSpec};
use moat_model::{Isolation, SandboxSpec};

use crate::bed::{Bed, UID_BASE};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drivers/conformance.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let Some(bed) = Bed::new("conformance") else { return };
    // Many boots under emulation take minutes: whoever watches sees how far it is.
    let shown = tracing_subscriber::EnvFilter::new("moat_engine::conformance=info");
    drop(tracing_subscriber::fmt().with_env_filter(shown).with_writer(std::io::stderr).try_init());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let path = moat_testkit::small_bin("probe").expect("build the test program");
    let spec = SandboxSpec {
        artifact: Some(Artifact { path, name: "probe".to_owned(), sha256: "0".repeat(64) }),
        isolation: Isolation::Microvm,
        ..bed.spec()
    };
    let memory = Resources { memory_bytes: Some(1), ..Resources::default() };
    let refused = [
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Host), ..spec.clone() }),
        ("resources.memory_bytes", SandboxSpec { resources: memory, ..spec.clone() }),
        ("root", SandboxSpec { root: RootSpec::Host, ..spec.clone() }),
    ];
    let profile = HostProfile {
        host: format!("Linux {}, emulated", release.trim()),
        run_dir: bed.dir.path().join("r"),
        data_dir: bed.dir.path().join("data"),
        uid_base: UID_BASE,
        spec,
        shell: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
        full_shell: true,
        listener: Some(vec!["probe".to_owned(), "listen".to_owned()]),
        slow: true,
        counted: Counted::Monitor,
        refused: refused.into_iter().map(|(field, spec)| (field.to_owned(), spec)).collect(),
    };
    let report = run(bed.driver.clone(), profile).await;
    for (case, why) in report.not_run() {
        moat_testkit::not_run(&format!("qemu {case}"), why);
    }
    if std::env::var_os("MOAT_REGENERATE").is_some() {
        let path = Path::new(DOCUMENT);
        let before = std::fs::read_to_string(path).unwrap_or_default();
        std::fs::write(path, update_document(&before, &report)).unwrap();
    }
    assert_eq!(report.failures(), Vec::<String>::new());
}

//! Limits that change while the sandbox lives.

use moat_engine::driver::Driver as _;
use moat_model::spec::{Resources, RootSpec};
use moat_model::{ErrorKind, SandboxSpec};

use crate::harness::*;

fn only(change: impl FnOnce(&mut Resources)) -> Resources {
    let mut resources = Resources::default();
    change(&mut resources);
    resources
}

#[tokio::test]
async fn more_and_less_of_everything_that_can_change() {
    let Some(host) = Host::new("tune") else { return };
    let sandbox = host.sandbox(SandboxSpec { artifact: Some(probe_artifact()), ..spec(RootSpec::Host) }).await;
    let tuner = host.driver.tuner().unwrap();
    let tune = async |resources: Resources| tuner.tune(sandbox.record(), &resources).await;
    // Processes: one more than there are is too few for a shell with a child.
    tune(only(|r| r.pids_max = Some(3))).await.unwrap();
    assert!(!sandbox.sh("sleep 0 & sleep 0 & sleep 0 & wait").await.stderr.is_empty());
    tune(only(|r| r.pids_max = Some(64))).await.unwrap();
    assert_eq!(sandbox.sh("sleep 0 & sleep 0 & sleep 0 & wait").await.stderr, "");
    // Memory: what is in use is not taken away, and nothing is killed for it.
    let fill = "head -c 40000000 /dev/zero > /tmp/fill && stat -c %s /tmp/fill";
    assert_eq!(sandbox.sh(fill).await.ok(), "40000000");
    let refused = tune(only(|r| r.memory_bytes = Some(16 << 20))).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{}", refused.chain());
    assert!(refused.doing.starts_with("resources.memory_bytes: "), "{refused}");
    assert_eq!(sandbox.sh("stat -c %s /tmp/fill && rm /tmp/fill").await.ok(), "40000000");
    tune(only(|r| r.memory_bytes = Some(32 << 20))).await.unwrap();
    // A limit that came later counts like one that was there from the start.
    assert_eq!(sandbox.exec(&["probe", "alloc", "96"]).await.exit.signal, Some(9));
    assert!(host.driver.usage(sandbox.record()).await.unwrap().oom_kills > 0);
    tune(only(|r| r.memory_bytes = Some(512 << 20))).await.unwrap();
    assert_eq!(sandbox.sh(fill).await.ok(), "40000000");
    // CPU, and doing it twice.
    for _ in 0..2 {
        let resources = only(|r| (r.cpu_weight, r.cpu_quota_millis) = (Some(50), Some(500)));
        tune(resources).await.unwrap();
    }
    sandbox.end().await;
}

#[tokio::test]
async fn what_cannot_change_is_named() {
    let Some(host) = Host::new("tune refusals") else { return };
    let tuner = host.driver.tuner().unwrap();
    tuner.validate_live(&Resources::default()).unwrap();
    for (resources, field) in [
        (only(|r| r.disk_bytes = Some(1 << 30)), "resources.disk_bytes"),
        (only(|r| r.secrets_bytes = Some(1 << 20)), "resources.secrets_bytes"),
        (only(|r| r.nofile = Some(64)), "resources.nofile"),
        (only(|r| r.memory_bytes = Some(1)), "resources.memory_bytes"),
        (only(|r| r.cpu_weight = Some(0)), "resources.cpu_weight"),
        (only(|r| r.pids_max = Some(1)), "resources.pids_max"),
        (only(|r| r.cpuset = Some("100000".to_owned())), "resources.cpuset"),
    ] {
        let refused = tuner.validate_live(&resources).unwrap_err();
        assert!(refused.doing.starts_with(field), "{refused}");
    }
}

//! Limits: in the control files, and against programs that exceed them.

use std::path::PathBuf;
use std::process::Command;

use moat_drivers::linux::cgroup::{Controller, Hierarchy, Limits};
use moat_engine::driver::Driver as _;
use moat_model::SandboxSpec;
use moat_model::spec::{Resources, RootSpec};

use crate::harness::*;

const MIB: u64 = 1 << 20;

/// The cgroup of a sandbox for a controller, and whether it is version 2.
fn group(sandbox: &Sandbox, controller: Controller) -> (PathBuf, bool) {
    let hierarchy = Hierarchy::detect(CGROUP_PARENT).unwrap();
    let mount = hierarchy.controller(controller).unwrap().to_path_buf();
    let files = hierarchy.procs_files(sandbox.place.id.as_str());
    let dir = files.iter().map(|file| file.parent().unwrap()).find(|dir| dir.starts_with(&mount)).unwrap();
    (dir.to_path_buf(), dir.join("cgroup.controllers").exists())
}

fn memory_file(sandbox: &Sandbox, v1: &str, v2: &str) -> String {
    let (dir, is_v2) = group(sandbox, Controller::Memory);
    read(dir.join(if is_v2 { v2 } else { v1 })).trim().to_owned()
}

fn memory(limit: u64, reserve: Option<u64>) -> Resources {
    Resources {
        memory_bytes: Some(limit * MIB),
        memory_reserve_bytes: reserve.map(|mib| mib * MIB),
        ..Resources::default()
    }
}

#[tokio::test]
async fn n03_memory_limit_is_in_the_cgroup_and_the_cgroup_goes() {
    let Some(host) = Host::new("N03") else { return };
    let sandbox = host.sandbox(SandboxSpec { resources: memory(64, None), ..spec(RootSpec::Scratch) }).await;
    assert_eq!(memory_file(&sandbox, "memory.limit_in_bytes", "memory.max"), (64 * MIB).to_string());
    let files = Hierarchy::detect(CGROUP_PARENT).unwrap().procs_files(sandbox.place.id.as_str());
    assert!(!files.is_empty());
    sandbox.end().await;
    assert!(files.iter().all(|file| !file.parent().unwrap().exists()), "{files:?}");
}

#[tokio::test]
async fn n04_reserve_and_hard_limit() {
    let Some(host) = Host::new("N04") else { return };
    for (limit, reserve) in [(100, None), (200, Some(100))] {
        let sandbox = host.sandbox(SandboxSpec { resources: memory(limit, reserve), ..spec(RootSpec::Scratch) }).await;
        assert_eq!(memory_file(&sandbox, "memory.limit_in_bytes", "memory.max"), (limit * MIB).to_string());
        let soft: u64 = memory_file(&sandbox, "memory.soft_limit_in_bytes", "memory.low").parse().unwrap();
        match reserve {
            Some(reserve) => assert_eq!(soft, reserve * MIB),
            // Version 1 says "none" by a number near the largest one, version 2 by zero.
            None => assert!(soft == 0 || soft > 1 << 60, "{soft}"),
        }
        sandbox.end().await;
    }
}

#[tokio::test]
async fn n05_a_program_over_its_memory_limit_is_killed_and_the_reason_known() {
    let Some(host) = Host::new("N05") else { return };
    let main = Some(process(&["/local/probe", "alloc", "512"]));
    let sandbox = host.sandbox(SandboxSpec { main, resources: memory(64, None), ..probe_spec() }).await;
    assert_eq!(host.driver.usage(sandbox.record()).await.unwrap().oom_kills, 0);
    sandbox.start_main().await;
    let exit = sandbox.wait_main().await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(host.driver.usage(sandbox.record()).await.unwrap().oom_kills > 0);
    // The agent outlives the program it had to bury.
    assert!(sandbox.guest().hello().await.is_ok());
}

#[tokio::test]
async fn n06_the_cgroup_is_a_scope_and_invisible_from_inside() {
    let Some(host) = Host::new("N06") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let outside = read(format!("/proc/{}/cgroup", sandbox.pid()));
    let ours: Vec<&str> = outside.lines().filter(|line| line.contains(CGROUP_PARENT)).collect();
    assert!(!ours.is_empty(), "{outside}");
    assert!(ours.iter().all(|line| line.ends_with(&format!("{}.scope", sandbox.place.id))), "{outside}");
    // With a cgroup namespace of its own, a program sees itself at the root: the host's path is not told.
    let inside = sandbox.sh("cat /proc/self/cgroup").await;
    assert!(inside.ok().lines().all(|line| line.ends_with(":/")), "{inside:?}");
}

#[tokio::test]
async fn n17_a_stray_process_in_the_cgroup_is_killed_first() {
    let Some(host) = Host::new("N17") else { return };
    let place = host.place();
    let hierarchy = Hierarchy::detect(CGROUP_PARENT).unwrap();
    hierarchy.create(place.id.as_str(), &Limits::default()).unwrap();
    let mut stray = Command::new("sleep").arg("1000").spawn().unwrap();
    for file in hierarchy.procs_files(place.id.as_str()) {
        std::fs::write(file, stray.id().to_string()).unwrap();
    }
    let sandbox = host.sandbox_at(place, spec(RootSpec::Scratch)).await;
    assert!(!stray.wait().unwrap().success());
    // The launcher may still be on its way out.
    let procs = group(&sandbox, Controller::Memory).0.join("cgroup.procs");
    let alone = async || (read(&procs).trim() == sandbox.pid().to_string()).then_some(());
    moat_testkit::wait_until(DEADLINE, "the agent alone", alone).await.unwrap();
}

#[tokio::test]
async fn n33_stats_name_what_was_measured() {
    let Some(host) = Host::new("N33") else { return };
    let sandbox = host.sandbox(probe_spec()).await;
    let before = host.driver.usage(sandbox.record()).await.unwrap();
    assert!(before.pids >= 1 && before.memory_bytes > 0, "{before:?}");
    let got_ms: u64 = sandbox.exec(&["/local/probe", "spin", "200"]).await.ok().parse().unwrap();
    let after = host.driver.usage(sandbox.record()).await.unwrap();
    assert!(after.cpu_usec >= before.cpu_usec + got_ms * 1000, "{before:?} {after:?}");
    assert!(after.memory_peak_bytes.is_none_or(|peak| peak >= before.memory_bytes), "{after:?}");
    let inside = sandbox.guest().stats().await.unwrap();
    assert!(inside.processes >= 1 && inside.agent_rss_bytes > 0, "{inside:?}");
}

#[tokio::test]
async fn open_files_are_limited() {
    let Some(host) = Host::new("nofile") else { return };
    let resources = Resources { nofile: Some(64), ..Resources::default() };
    let sandbox = host.sandbox(SandboxSpec { resources, ..spec(RootSpec::Host) }).await;
    assert_eq!(sandbox.sh("ulimit -n; ulimit -Hn").await.ok(), "64\n64");
}

#[test]
fn limits_that_cannot_be_are_refused_by_name() {
    let Some(host) = Host::new("limits") else { return };
    for (resources, named) in [
        (Resources { memory_bytes: Some(9 * MIB), ..Resources::default() }, "resources.memory_bytes"),
        (memory(64, Some(65)), "resources.memory_reserve_bytes"),
        (Resources { cpu_weight: Some(0), ..Resources::default() }, "resources.cpu_weight"),
        (Resources { cpu_weight: Some(10_001), ..Resources::default() }, "resources.cpu_weight"),
        (Resources { cpu_quota_millis: Some(0), ..Resources::default() }, "resources.cpu_quota_millis"),
        (Resources { cpuset: Some("0-".to_owned()), ..Resources::default() }, "resources.cpuset"),
        (Resources { cpuset: Some("100000".to_owned()), ..Resources::default() }, "resources.cpuset"),
        (Resources { pids_max: Some(1), ..Resources::default() }, "resources.pids_max"),
        (Resources { nofile: Some(u64::MAX), ..Resources::default() }, "resources.nofile"),
    ] {
        let refusal = host.driver.validate(&SandboxSpec { resources, ..spec(RootSpec::Scratch) }).unwrap_err();
        assert!(refusal.doing.starts_with(named), "{refusal}");
    }
    let mut asked = spec(RootSpec::Scratch);
    asked.security.cap_add = vec!["sys_time".to_owned(), "CAP_SYS_ADMIN".to_owned()];
    let refusal = host.driver.validate(&asked).unwrap_err();
    assert!(refusal.doing.contains("sys_admin, sys_time"), "{refusal}");
}

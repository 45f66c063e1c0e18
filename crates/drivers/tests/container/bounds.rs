//! Limits hold against programs that try (N41), and what N11 says of capabilities at the driver.

use crate::harness::{Host, config, probe_spec};
use moat_drivers::container::{ContainerConfig, ContainerDriver};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_engine::driver::Driver;
use moat_model::spec::{Resources, Security};
use moat_model::{ErrorKind, SandboxSpec};
use moat_testkit::not_run;

fn limited(resources: Resources) -> SandboxSpec {
    SandboxSpec { resources, ..probe_spec() }
}

#[tokio::test]
async fn n41_a_fork_bomb_meets_the_limit_of_processes() {
    let Some(host) = Host::new("N41") else { return };
    let sandbox = host.sandbox(limited(Resources { pids_max: Some(24), ..Resources::default() })).await;
    for user in ["root", "nobody"] {
        let said = sandbox.exec_as(user, &["probe", "forks", "200"]).await;
        let words: Vec<&str> = said.ok().split(' ').collect();
        let ["started", count, errno] = words[..] else { panic!("{said:?}") };
        assert_eq!(errno, "EAGAIN", "as {user}");
        let count: u32 = count.parse().unwrap();
        assert!((10..24).contains(&count), "{count} as {user}");
    }
    // And it is still there for others.
    assert_eq!(sandbox.exec(&["probe", "exit", "3"]).await.exit.code, 3);
    sandbox.end().await;
}

#[tokio::test]
async fn n41_twice_the_memory_limit_is_death_with_the_cause_on_record() {
    let Some(host) = Host::new("N41") else { return };
    let sandbox = host.sandbox(limited(Resources { memory_bytes: Some(48 << 20), ..Resources::default() })).await;
    assert_eq!(host.driver.usage(sandbox.record()).await.unwrap().oom_kills, 0);
    let output = sandbox.exec(&["probe", "alloc", "96"]).await;
    assert_eq!(output.exit.signal, Some(9), "{output:?}");
    assert_eq!(output.stdout, "");
    let usage = host.driver.usage(sandbox.record()).await.unwrap();
    assert!(usage.oom_kills >= 1, "{usage:?}");
    assert!(usage.memory_peak_bytes.is_none_or(|peak| peak <= 48 << 20), "{usage:?}");
    // The agent was not the one to die, and half the limit is no trouble.
    let mut session = sandbox
        .guest()
        .exec(&moat_model::spec::ExecSpec {
            process: crate::harness::process(&["probe", "alloc", "24"]),
            pty: None,
            stdin: false,
            timeout: None,
        })
        .await
        .unwrap();
    let said = tokio::time::timeout(crate::harness::DEADLINE, session.output.recv()).await.unwrap();
    assert!(format!("{said:?}").contains("allocated 24"), "{said:?}");
    drop(session);
    sandbox.end().await;
}

/// Alone on the machine, both on one CPU.
#[tokio::test]
async fn n41_two_spinners_share_a_cpu_by_weight() {
    let Some(host) = Host::alone("N41") else { return };
    let weighing =
        |weight| limited(Resources { cpu_weight: Some(weight), cpuset: Some("0".to_owned()), ..Resources::default() });
    let (light, heavy) = (host.sandbox(weighing(100)).await, host.sandbox(weighing(300)).await);
    // What else runs here takes its part of the CPU before these two divide the rest; long enough for that to even out.
    let spin = ["probe", "spin", "8000"];
    let (a, b) = tokio::join!(light.exec(&spin), heavy.exec(&spin));
    let (a, b): (f64, f64) = (a.ok().parse().unwrap(), b.ok().parse().unwrap());
    println!("N41: CPU time {a} ms at weight 100, {b} ms at weight 300: ratio {:.2}", b / a);
    assert!((b / a - 3.0).abs() <= 0.45, "{a} ms to {b} ms");
    light.end().await;
    heavy.end().await;
}

#[tokio::test]
async fn n41_a_quota_is_a_ceiling() {
    let Some(host) = Host::new("N41") else { return };
    let sandbox = host.sandbox(limited(Resources { cpu_quota_millis: Some(200), ..Resources::default() })).await;
    let used: u64 = sandbox.exec(&["probe", "spin", "2000"]).await.ok().parse().unwrap();
    // A fifth of two seconds, and one period more at the edge.
    assert!(used <= 520, "{used} ms of CPU time in 2000 ms at a quota of 0.2");
    sandbox.end().await;
}

#[tokio::test]
async fn n41_pinned_to_the_cpus_asked_for() {
    let Some(host) = Host::new("N41") else { return };
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    for cpus in ["0".to_owned(), last.to_string()] {
        let sandbox = host.sandbox(limited(Resources { cpuset: Some(cpus.clone()), ..Resources::default() })).await;
        assert_eq!(sandbox.exec(&["probe", "affinity"]).await.ok(), cpus);
        sandbox.end().await;
    }
}

/// N11, the nine cases at the driver: what the operator allows, what is asked, what comes of it.
#[test]
fn n11_driver_level_cases() {
    let owned = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let defaults = ContainerConfig::default().allow_caps.join(" ");
    for (ceiling, add, drop, refused) in [
        (defaults.as_str(), "", "", None),
        (defaults.as_str(), "chown CAP_KILL", "", None),
        (defaults.as_str(), "net_raw", "", Some("net_raw")),
        (defaults.as_str(), "sys_time net_raw", "all", Some("net_raw, sys_time")),
        ("all", "sys_admin net_raw", "", None),
        ("all", "all", "", None),
        (defaults.as_str(), "", "all", None),
        ("chown", "kill chown", "", Some("kill")),
        (defaults.as_str(), "no_such", "", Some("no_such")),
    ] {
        let config = ContainerConfig { allow_caps: owned(ceiling), ..config() };
        let driver = ContainerDriver::new(config, AgentBinary::embedded().unwrap()).unwrap();
        let security = Security { cap_add: owned(add), cap_drop: owned(drop), ..Security::default() };
        let spec = SandboxSpec { security, ..crate::harness::spec(moat_model::spec::RootSpec::Scratch) };
        match (driver.validate(&spec), refused) {
            (Ok(()), None) => {}
            (Err(error), Some(names)) => {
                assert!(error.chain().contains("security.cap_add: "), "{}", error.chain());
                assert!(error.chain().ends_with(names), "{}", error.chain());
                assert!(matches!(error.kind, ErrorKind::Denied | ErrorKind::InvalidSpec));
            }
            (got, refused) => panic!("ceiling {ceiling}, add {add}, drop {drop}: {got:?}, not {refused:?}"),
        }
    }
    let config = ContainerConfig { allow_caps: owned("chown nonsense"), ..config() };
    let error = ContainerDriver::new(config, AgentBinary::embedded().unwrap()).unwrap_err();
    assert!(error.chain().contains("nonsense"), "{}", error.chain());
}

#[test]
fn n27_and_n28_are_not_of_this_driver() {
    not_run(
        "N27 (driver)",
        "every id inside maps into the sandbox's own range; denied ids are the node's to check, before there is a sandbox",
    );
    not_run(
        "N28",
        "there is no no_pivot_root: the root is always a mount of its own, which pivot_root takes on any host",
    );
}

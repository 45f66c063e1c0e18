//! From nothing to nothing, on every version.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use moat_engine::driver::{Driver as _, Recovered};
use moat_model::ErrorKind;
use moat_model::SandboxSpec;
use moat_model::spec::{Artifact, Resources};

use crate::host::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_created_started_stopped_let_go_on_and_released() {
    for version in VERSIONS {
        let Some(host) = Host::new(version, "") else { return };
        let program = host.dir.path().join("program");
        fs::write(&program, "the program").unwrap();
        let artifact = Artifact { path: program, name: "job".to_owned(), sha256: "a".repeat(64) };
        let spec = SandboxSpec { artifact: Some(artifact), ..spec() };
        let machine = host.machine(spec.clone()).await;
        let (id, name, seeds) = machine.who().await;
        assert_eq!((id.len(), name.as_str(), seeds.len()), (32, machine.place.id.as_str(), 1), "{version}");
        assert_eq!(machine.cat("/local/job").await.as_deref(), Some("the program"));
        let usage = host.driver.usage(machine.record()).await.unwrap();
        assert!(usage.pids > 0 && usage.memory_bytes > 0, "{usage:?}");

        let freezer = host.driver.freezer().unwrap();
        for _ in 0..2 {
            freezer.freeze(machine.record()).await.map_err(|e| e.chain()).unwrap();
        }
        for _ in 0..2 {
            freezer.thaw(machine.record()).await.map_err(|e| e.chain()).unwrap();
        }
        let (again, _, seeds) = machine.who().await;
        assert_eq!((again, seeds.len()), (id, 1), "nobody inside was asked");

        let pid = machine.pid().unwrap();
        for _ in 0..2 {
            host.driver.kill(machine.record()).await.unwrap();
            assert!(!alive(pid));
        }
        assert_eq!(host.driver.usage(machine.record()).await.unwrap().pids, 0);
        host.release(&machine.place, &spec).await;
        host.release(&machine.place, &spec).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_has_its_own_user_namespaces_root_and_limits() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let machine = host.machine(spec()).await;
    let pid = machine.pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let uid = machine.place.uid_base + moat_engine::driver::VMM_UID;
    let four = [uid; 4].map(|uid| uid.to_string()).join("\t");
    assert_eq!((field("Uid:"), field("Gid:"), field("Groups:")), (four.clone(), four, String::new()));
    assert_eq!(field("CapEff:"), "0000000000000000");
    for namespace in ["net", "ipc", "uts", "pid"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{namespace}")).unwrap();
        assert_ne!(of("self"), of(&pid.to_string()), "{namespace}");
    }
    let links = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    assert_eq!(links.lines().count(), 3, "a loopback and nothing else: {links}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        limits.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(
        (limit("Max open files"), limit("Max file size")),
        ("512".to_owned(), ((128_u64 + 64) << 20).to_string())
    );
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), Vec::<u8>::new());
    assert!(fs::metadata(format!("/proc/{pid}/root/api.sock")).unwrap().uid() == uid);
    assert!(!fs::exists(format!("/proc/{pid}/root/etc")).unwrap());
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.lines().filter(|line| line.contains(machine.place.id.as_str())).count() > 0, "{cgroups}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_outlives_its_daemon_and_its_daemon_its_monitor() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let mut machine = host.machine(spec()).await;
    let before = machine.who().await;
    machine.forget_guest();
    let later = host.again(NEWEST, "");
    match later.driver.recover(machine.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Alive(guest) => machine.set_guest(guest),
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.who().await, before);

    let pid = machine.pid().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let found = later.driver.recover(machine.record()).await.map_err(|e| e.chain());
    // The signal may not have been taken yet, in which case the agent is found and then gone.
    if let Ok(Recovered::Gone { detail }) = &found {
        assert!(detail.starts_with("the machine's monitor has ended"), "{detail}");
    }
    moat_testkit::wait_until(DEADLINE, "the monitor has ended", async || (!alive(pid)).then_some(())).await.unwrap();
    assert!(matches!(later.driver.recover(machine.record()).await.unwrap(), Recovered::Gone { .. }));
    assert_eq!(later.driver.usage(machine.record()).await.unwrap().pids, 0);
    later.release(&machine.place, &spec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_while_a_machine_is_frozen_leaves_one_that_goes_on() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let mut machine = host.machine(spec()).await;
    host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap();
    machine.forget_guest();
    let later = host.again(NEWEST, "");
    // As the engine does with one that may be frozen.
    later.driver.freezer().unwrap().thaw(machine.record()).await.map_err(|e| e.chain()).unwrap();
    match later.driver.recover(machine.record()).await.map_err(|e| e.chain()).unwrap() {
        Recovered::Alive(guest) => machine.set_guest(guest),
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.who().await.2.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_while_it_lives_and_what_cannot_is_refused_by_name() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let machine = host.machine(spec()).await;
    let tuner = host.driver.tuner().unwrap();
    let with = |memory: u64| Resources { memory_bytes: Some(memory << 20), ..Resources::default() };
    for memory in [64, 96, 128] {
        tuner.tune(machine.record(), &with(memory)).await.map_err(|e| e.chain()).unwrap();
    }
    let weight = Resources { cpu_weight: Some(50), cpu_quota_millis: Some(500), ..Resources::default() };
    tuner.tune(machine.record(), &weight).await.map_err(|e| e.chain()).unwrap();
    let grown = tuner.tune(machine.record(), &with(256)).await.unwrap_err();
    assert_eq!(grown.kind, ErrorKind::Unsupported);
    assert!(grown.doing.starts_with("resources.memory_bytes: "), "{grown}");
    for (field, resources) in [
        ("resources.disk_bytes", Resources { disk_bytes: Some(1), ..Resources::default() }),
        ("resources.nofile", Resources { nofile: Some(100), ..Resources::default() }),
        ("resources.pids_max", Resources { pids_max: Some(100), ..Resources::default() }),
    ] {
        let refusal = tuner.validate_live(&resources).unwrap_err();
        assert!(refusal.doing.starts_with(&format!("{field}: ")), "{refusal}");
    }
    assert!(machine.cat("/etc/hostname").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_is_a_layer() {
    let Some(host) = Host::new(NEWEST, "") else { return };
    let machine = host.machine(spec()).await;
    host.driver.freezer().unwrap().freeze(machine.record()).await.unwrap();
    let into = host.dir.path().join("layer");
    let captured =
        host.driver.capturer().unwrap().capture(machine.record(), &into).await.map_err(|e| e.chain()).unwrap();
    assert_eq!((captured.bytes, captured.memory), (fs::metadata(&into).unwrap().len(), false));
    host.driver.freezer().unwrap().thaw(machine.record()).await.unwrap();
    assert!(machine.cat("/etc/hostname").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_kernel_and_root_are_what_is_booted() {
    let Some(host) = Host::with(NEWEST, "", |config| {
        let base = config.cache_dir.parent().unwrap().to_owned();
        fs::write(base.join("kernel"), b"\x7fELF of the operator's").unwrap();
        fs::write(base.join("rootfs"), vec![7; 9 << 20]).unwrap();
        config.kernel = Some(base.join("kernel"));
        config.rootfs = Some(base.join("rootfs"));
    }) else {
        return;
    };
    let sized = host.driver.validate(&spec()).unwrap_err();
    assert!(sized.doing.starts_with("resources.disk_bytes: "), "{sized}");
    let resources = Resources { memory_bytes: Some(128 << 20), ..Resources::default() };
    let machine = host.machine(SandboxSpec { resources, ..spec() }).await;
    assert_eq!(machine.record().data["setup"]["root"]["kind"], "whole");
    assert_eq!(fs::metadata(machine.in_jail("disk")).unwrap().len(), 9 << 20);
    assert_eq!(fs::read(machine.in_jail("kernel")).unwrap(), b"\x7fELF of the operator's");
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    assert_ne!(inode(&machine.in_jail("disk")), inode(host.config.rootfs.as_ref().unwrap()), "each has a copy");
}

//! All three layouts against a made-up tree, and this host's own against the kernel.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use moat_model::spec::Resources;
use moat_testkit::not_run;
use tempfile::TempDir;

use super::*;

/// Files the kernel would put into a new group, by hierarchy.
const V2_FILES: [&str; 16] = [
    "cgroup.procs",
    "cgroup.kill",
    "cgroup.freeze",
    "cgroup.events",
    "cgroup.subtree_control",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.swap.max",
    "memory.current",
    "memory.events",
    "cpu.weight",
    "cpu.max",
    "cpu.stat",
    "pids.max",
    "cpuset.cpus",
];
const V1_FILES: [(&str, &[&str]); 7] = [
    (
        "memory",
        &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness"],
    ),
    ("cpu", &["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"]),
    ("cpuacct", &["cpuacct.usage"]),
    ("cpuset", &["cpuset.cpus", "cpuset.mems"]),
    ("pids", &["pids.max", "pids.current"]),
    ("freezer", &["freezer.state"]),
    ("devices", &["devices.allow", "devices.deny"]),
];

/// A directory that looks like `/sys/fs/cgroup` with the groups of one sandbox, `box`, already furnished.
struct FakeHost {
    dir: TempDir,
    mountinfo: String,
}

impl FakeHost {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), mountinfo: "22 1 0:21 / /proc rw - proc proc rw\n".to_owned() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn with_v1(mut self) -> Self {
        for (controller, files) in V1_FILES {
            let point = self.path(controller);
            furnish(&point, files);
            furnish(&point.join("moat/box.scope"), files);
            furnish(&point.join("moat/box.scope"), &["cgroup.procs"]);
            furnish(&point.join("moat"), files);
            self.mountinfo += &format!("30 1 0:9 / {} rw - cgroup cgroup rw,{controller}\n", point.display());
        }
        fs::write(self.path("cpuset/cpuset.cpus"), "0-3\n").unwrap();
        fs::write(self.path("cpuset/cpuset.mems"), "0\n").unwrap();
        self
    }

    fn with_v2(mut self, at: &str, controllers: &str) -> Self {
        let point = self.path(at);
        furnish(&point, &V2_FILES);
        furnish(&point.join("moat.slice/box.scope"), &V2_FILES);
        furnish(&point.join("moat.slice"), &["cgroup.subtree_control"]);
        fs::write(point.join("cgroup.controllers"), controllers).unwrap();
        fs::write(point.join("cpuset.cpus.effective"), "0-3\n").unwrap();
        self.mountinfo += &format!("31 1 0:10 / {} rw - cgroup2 cgroup2 rw\n", point.display());
        self
    }

    fn hierarchy(&self) -> Hierarchy {
        Hierarchy::from_mountinfo(&self.mountinfo, "moat").unwrap()
    }

    fn reads(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }
}

fn furnish(dir: &Path, files: &[&str]) {
    fs::create_dir_all(dir).unwrap();
    for file in files {
        fs::write(dir.join(file), "").unwrap();
    }
}

fn all_limits() -> Limits {
    Limits {
        memory_bytes: Some(64 << 20),
        memory_reserve_bytes: Some(32 << 20),
        cpu_weight: Some(300),
        cpu_quota_millis: Some(1500),
        cpuset: Some("1-2".to_owned()),
        cores: None,
        pids_max: Some(50),
        devices: Devices::Stock,
    }
}

#[test]
fn v2_writes_every_limit_and_enables_controllers_above() {
    let host = FakeHost::new().with_v2("", "cpuset cpu io memory pids");
    let tree = host.hierarchy();
    assert_eq!(tree.layout(), Layout::V2);
    tree.create("box", &all_limits()).unwrap();
    let group = "moat.slice/box.scope";
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "0"),
        ("cpu.weight", "300"),
        ("cpu.max", "150000 100000"),
        ("pids.max", "50"),
        ("cpuset.cpus", "1-2"),
    ] {
        assert_eq!(host.reads(&format!("{group}/{file}")), value, "{file}");
    }
    for above in ["cgroup.subtree_control", "moat.slice/cgroup.subtree_control"] {
        assert_eq!(host.reads(above), "+memory +cpu +cpuset +pids", "{above}");
    }
    assert_eq!(tree.procs_files("box"), [host.path("moat.slice/box.scope/cgroup.procs")]);
}

#[test]
fn v1_writes_every_limit_in_its_hierarchy() {
    let host = FakeHost::new().with_v1();
    let tree = host.hierarchy();
    assert_eq!(tree.layout(), Layout::V1);
    tree.create("box", &all_limits()).unwrap();
    for (file, value) in [
        ("memory/moat/box.scope/memory.limit_in_bytes", "67108864"),
        ("memory/moat/box.scope/memory.memsw.limit_in_bytes", "67108864"),
        ("memory/moat/box.scope/memory.soft_limit_in_bytes", "33554432"),
        ("memory/moat/box.scope/memory.swappiness", "0"),
        ("cpu/moat/box.scope/cpu.shares", "3072"),
        ("cpu/moat/box.scope/cpu.cfs_period_us", "100000"),
        ("cpu/moat/box.scope/cpu.cfs_quota_us", "150000"),
        ("pids/moat/box.scope/pids.max", "50"),
        ("cpuset/moat/cpuset.cpus", "0-3"),
        ("cpuset/moat/cpuset.mems", "0"),
        ("cpuset/moat/box.scope/cpuset.mems", "0"),
        ("cpuset/moat/box.scope/cpuset.cpus", "1-2"),
        ("devices/moat/box.scope/devices.deny", "a"),
        // A made-up file keeps only the last write.
        ("devices/moat/box.scope/devices.allow", "c 136:* rw"),
    ] {
        assert_eq!(host.reads(file), value, "{file}");
    }
    assert_eq!(tree.procs_files("box").len(), V1_FILES.len());
}

#[test]
fn hybrid_limits_in_v1_and_kills_in_v2() {
    let host = FakeHost::new().with_v1().with_v2("unified", "hugetlb");
    let tree = host.hierarchy();
    assert_eq!(tree.layout(), Layout::Hybrid);
    tree.create("box", &all_limits()).unwrap();
    assert_eq!(host.reads("memory/moat/box.scope/memory.limit_in_bytes"), "67108864");
    assert_eq!(host.reads("unified/moat.slice/box.scope/memory.max"), "", "not a controller of version 2 here");
    let (file, frozen, _) = tree.freezer_file("box").unwrap();
    assert_eq!((file, frozen), (host.path("unified/moat.slice/box.scope/cgroup.freeze"), "1"));
}

#[test]
fn controllers_split_between_versions_are_each_used_where_they_are() {
    let mut host = FakeHost::new().with_v1().with_v2("unified", "pids");
    host.mountinfo = host.mountinfo.lines().filter(|l| !l.contains("rw,pids")).fold(String::new(), |s, l| s + l + "\n");
    host.hierarchy().create("box", &all_limits()).unwrap();
    assert_eq!(host.reads("unified/moat.slice/box.scope/pids.max"), "50");
    assert_eq!(host.reads("memory/moat/box.scope/memory.limit_in_bytes"), "67108864");
}

#[test]
fn a_limit_the_host_cannot_apply_is_refused_by_name() {
    let host = FakeHost::new().with_v2("", "cpu");
    let tree = host.hierarchy();
    let memory = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    let error = tree.check(&memory).unwrap_err();
    assert!(error.to_string().starts_with("resources.memory_bytes: "), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let weight = Limits { cpu_weight: Some(10), ..Limits::default() };
    fs::remove_file(host.path("moat.slice/box.scope/cpu.weight")).unwrap();
    let error = tree.create("box", &weight).unwrap_err();
    assert!(error.to_string().starts_with("resources.cpu_weight: "), "{error}");
}

#[test]
fn values_no_host_could_honour_are_refused_by_name() {
    let tree = FakeHost::new().with_v1();
    let tree = tree.hierarchy();
    let none = Limits::default;
    for (field, limits) in [
        ("resources.memory_bytes", Limits { memory_bytes: Some(4096), ..none() }),
        (
            "resources.memory_reserve_bytes",
            Limits { memory_bytes: Some(64 << 20), memory_reserve_bytes: Some(65 << 20), ..none() },
        ),
        ("resources.cpu_weight", Limits { cpu_weight: Some(0), ..none() }),
        ("resources.cpu_weight", Limits { cpu_weight: Some(10_001), ..none() }),
        ("resources.cpu_quota_millis", Limits { cpu_quota_millis: Some(9), ..none() }),
        ("resources.pids_max", Limits { pids_max: Some(1), ..none() }),
        ("resources.cpuset", Limits { cpuset: Some("2-1".to_owned()), ..none() }),
        ("resources.cpuset", Limits { cpuset: Some("".to_owned()), ..none() }),
        ("resources.cpuset", Limits { cpuset: Some("0,99".to_owned()), ..none() }),
    ] {
        let error = tree.check(&limits).unwrap_err();
        assert!(error.to_string().starts_with(field), "{field}: {error}");
    }
}

#[test]
fn names_are_single_path_components() {
    let host = FakeHost::new().with_v1();
    for bad in ["", "..", ".x", "a/b", "a b", "a\n"] {
        assert!(matches!(host.hierarchy().create(bad, &Limits::default()), Err(CgroupError::Name(_))), "{bad:?}");
        assert!(Hierarchy::from_mountinfo(&host.mountinfo, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn no_hierarchy_at_all_is_an_error_with_the_fix() {
    let error = Hierarchy::from_mountinfo("22 1 0:21 / /proc rw - proc proc rw\n", "moat").unwrap_err();
    assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
}

#[test]
fn the_daemons_own_group_in_a_named_hierarchy_is_left() {
    let mut host = FakeHost::new().with_v1();
    let named = host.path("systemd");
    furnish(&named.join("moat"), &["cgroup.procs"]);
    furnish(&named.join("moat/box.scope"), &["cgroup.procs"]);
    host.mountinfo += &format!("40 1 0:37 / {} rw - cgroup cgroup rw,name=systemd\n", named.display());
    assert!(host.hierarchy().procs_files("box").contains(&named.join("moat/box.scope/cgroup.procs")));
}

/// N04: Nomad's `memory` and `memory_max` are our reserve and limit.
#[test]
fn n04_reserve_and_hard_limit_table() {
    let none = Resources::default();
    for (limit, reserve, hard, soft) in [
        (Some(100), None, Some(100), None),
        (Some(200), Some(100), Some(200), Some(100)),
        (None, Some(100), None, Some(100)),
    ] {
        let asked = Resources { memory_bytes: limit, memory_reserve_bytes: reserve, ..none.clone() };
        let limits = Limits::new(&asked, &none);
        assert_eq!((limits.memory_bytes, limits.memory_reserve_bytes), (hard, soft));
    }
    let defaults = Resources { memory_bytes: Some(300), memory_reserve_bytes: Some(200), ..none.clone() };
    let asked = Resources { memory_bytes: Some(100), ..none };
    assert_eq!(
        Limits::new(&asked, &defaults).memory_reserve_bytes,
        Some(100),
        "a default never contradicts what was asked"
    );
}

/// N19: shares of a job file fit the kernel's range; a host above it has all of them scaled.
#[test]
fn n19_cpu_share_clamp_table() {
    for (shares, host_total, clamped) in [
        (0, 8_000, 2),
        (1, 8_000, 2),
        (2, 8_000, 2),
        (1_000, 8_000, 1_000),
        (300_000, 200_000, 262_144),
        (1_000, 262_144, 1_000),
        (1_000, 524_288, 500),
        (524_288, 524_288, 262_144),
        (1, 1_000_000, 2),
    ] {
        assert_eq!(shares_clamped(shares, host_total), clamped, "{shares} of {host_total}");
    }
}

#[test]
fn shares_become_weights_by_the_newer_curve() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(weight_from_shares(shares), weight, "{shares}");
    }
    let weights: Vec<u32> = (1..18).map(|n| weight_from_shares(1 << n)).collect();
    assert!(weights.is_sorted(), "{weights:?}");
}

#[test]
fn cpu_lists_are_read_as_the_kernel_writes_them() {
    let parsed = |text| limits::parse_cpu_list(text).map(|set| set.into_iter().collect::<Vec<_>>());
    assert_eq!(parsed("0-2,5\n"), Some(vec![0, 1, 2, 5]));
    for bad in ["", "a", "1-", "3-1", "0-99999999", "0,,1"] {
        assert_eq!(parsed(bad), None, "{bad:?}");
    }
}

/// This host's own tree, with a group name that no parallel test has.
fn real(test: &str) -> Option<(Hierarchy, String)> {
    if !moat_testkit::is_root() {
        not_run(test, "needs root to make cgroups");
        return None;
    }
    match Hierarchy::detect("moat-test") {
        Ok(tree) => Some((tree, format!("{test}-{}", std::process::id()))),
        Err(error) => {
            not_run(test, &error.to_string());
            None
        }
    }
}

/// A shell in the group: it joins before it runs the script.
fn spawn_in(tree: &Hierarchy, name: &str, script: &str) -> Child {
    let joins: String =
        tree.procs_files(name).iter().map(|f| format!("echo $$ > {} || exit 99; ", f.display())).collect();
    let child = Command::new("/bin/sh").arg("-c").arg(format!("{joins}{script}")).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let joined = || tree.existing(name).iter().all(|(_, dir)| kill::processes(dir).unwrap().contains(&pid));
    wait_until("the shell has joined", joined);
    child
}

#[test]
fn cpus_are_set_aside_for_those_who_ask_for_whole_ones() {
    let host = FakeHost::new().with_v1();
    for bad in ["", "x", "3-2", "0-3", "9"] {
        let error = host.hierarchy().with_exclusive(Some(bad)).unwrap_err();
        assert!(error.to_string().starts_with("jobs.capacity.cores: "), "{bad}: {error}");
    }
    let tree = host.hierarchy().with_exclusive(Some("2-3")).unwrap();
    let none = Limits::default;
    tree.check(&Limits { cores: Some(2), ..none() }).unwrap();
    tree.check(&Limits { cpuset: Some("0-1".to_owned()), ..none() }).unwrap();
    for (field, limits) in [
        ("resources.cores", Limits { cores: Some(0), ..none() }),
        ("resources.cores", Limits { cores: Some(3), ..none() }),
        ("resources.cores", Limits { cores: Some(1), cpuset: Some("0".to_owned()), ..none() }),
        ("resources.cpuset", Limits { cpuset: Some("1-2".to_owned()), ..none() }),
    ] {
        let error = tree.check(&limits).unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
    let error = host.hierarchy().check(&Limits { cores: Some(1), ..none() }).unwrap_err();
    assert_eq!(error.kind(), moat_model::ErrorKind::Unsupported);
    assert!(error.to_string().contains("jobs.capacity.cores"), "{error}");
    let error = tree.tune("box", &Limits { cores: Some(1), ..none() }).unwrap_err();
    assert!(error.to_string().starts_with("resources.cores: "), "{error}");
    // Whoever asks for nothing runs on the rest.
    tree.create("box", &Limits::default()).unwrap();
    assert_eq!(host.reads("cpuset/moat/box.scope/cpuset.cpus"), "0,1");
}

/// N41 (cores): what says who has which is in the kernel, so no daemon that forgets gives one twice.
#[tokio::test]
async fn n41_whole_cpus_are_given_once_and_kept_from_the_others() {
    let Some((tree, name)) = real("n41-cores") else { return };
    let present = tree.cpus().unwrap().unwrap_or_default();
    let Some(last) = present.last().filter(|_| present.len() > 1).map(u32::to_string) else {
        return not_run("N41 (cores)", "needs two CPUs and a cpuset controller");
    };
    // As a daemon does, and the one after it.
    let daemon = || tree.clone().with_exclusive(Some(&last)).unwrap();
    let cpus = |name: &str| {
        let (_, dir) = tree.group(Controller::Cpuset, name).unwrap();
        limits::parse_cpu_list(&fs::read_to_string(dir.join("cpuset.cpus")).unwrap()).unwrap()
    };
    let (second, shared) = (format!("{name}-second"), format!("{name}-shared"));
    let one = Limits { cores: Some(1), ..Limits::default() };
    let own = limits::parse_cpu_list(&last).unwrap();
    daemon().create(&name, &one).unwrap();
    assert_eq!((cpus(&name), daemon().own_cpus(&name).unwrap()), (own.clone(), own.clone()));
    // Making it again keeps it; nobody else gets it.
    daemon().create(&name, &one).unwrap();
    let error = daemon().create(&second, &one).unwrap_err();
    assert_eq!(error.kind(), moat_model::ErrorKind::Exhausted, "{error}");
    assert!(error.to_string().contains("0 of"), "{error}");
    daemon().create(&shared, &Limits::default()).unwrap();
    assert_eq!(cpus(&shared), present.difference(&own).copied().collect());
    assert!(daemon().own_cpus(&shared).unwrap().is_empty());
    // Gone with the group, whoever removed it.
    tree.remove(&name).await.unwrap();
    daemon().create(&second, &one).unwrap();
    assert_eq!(cpus(&second), own);
    for name in [&second, &shared] {
        tree.remove(name).await.unwrap();
    }
}

/// N04 (hard limit none), on a real host too in R10.
#[test]
fn unlimited_memory_is_said_in_the_kernels_words() {
    let limits = Limits { memory_bytes: Some(Resources::UNLIMITED), ..Limits::default() };
    let host = FakeHost::new().with_v1();
    host.hierarchy().create("box", &limits).unwrap();
    assert_eq!(host.reads("memory/moat/box.scope/memory.limit_in_bytes"), "-1");
    assert_eq!(host.reads("memory/moat/box.scope/memory.memsw.limit_in_bytes"), "-1");
    let host = FakeHost::new().with_v2("", "cpuset cpu io memory pids");
    host.hierarchy().create("box", &limits).unwrap();
    assert_eq!(host.reads("moat.slice/box.scope/memory.max"), "max");
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !ready() {
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// N03: the limit can be read where the kernel keeps it, and the group is gone afterwards.
#[tokio::test]
async fn n03_real_limits_are_in_the_kernel_and_go_with_the_group() {
    let Some((tree, name)) = real("n03") else { return };
    let limits = Limits { cpuset: Some("0".to_owned()), ..all_limits() };
    tree.create(&name, &limits).unwrap();
    tree.create(&name, &limits).unwrap();
    let (version, dir) = tree.group(Controller::Memory, &name).unwrap();
    let file = if version == tree::Version::Two { "memory.max" } else { "memory.limit_in_bytes" };
    assert_eq!(fs::read_to_string(dir.join(file)).unwrap().trim(), (64 << 20).to_string());
    let dirs = tree.existing(&name);
    assert!(tree.list().unwrap().contains(&name));
    assert_eq!(tree.usage(&name).unwrap().pids, 0);
    tree.remove(&name).await.unwrap();
    tree.remove(&name).await.unwrap();
    assert!(dirs.iter().all(|(_, dir)| !dir.exists()));
    assert!(!tree.list().unwrap().contains(&name));
}

/// A daemon that ends leaves nothing of its own; what an operator made beforehand is theirs.
#[tokio::test]
async fn a_parent_goes_with_its_last_group_if_a_daemon_made_it() {
    let Some((_, name)) = real("cgroup-parent") else { return };
    let tree = Hierarchy::detect(&name).unwrap();
    tree.create("box", &Limits::default()).unwrap();
    let groups = tree.existing("box");
    let parents: Vec<_> = groups.iter().map(|(_, dir)| dir.parent().unwrap().to_owned()).collect();
    tree.remove_parent().unwrap();
    assert!(groups.iter().all(|(_, dir)| dir.exists()), "somebody is in it");
    tree.remove("box").await.unwrap();
    Hierarchy::detect(&name).unwrap().remove_parent().unwrap();
    assert!(parents.iter().all(|dir| !dir.exists()), "{parents:?}");
    tree.remove_parent().unwrap();

    parents.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    tree.create("box", &Limits::default()).unwrap();
    tree.remove("box").await.unwrap();
    tree.remove_parent().unwrap();
    assert!(parents.iter().all(|dir| fs::remove_dir(dir).is_ok()), "{parents:?}");
}

#[tokio::test]
async fn kill_ends_a_whole_tree_also_below_and_while_frozen() {
    let Some((tree, name)) = real("cgroup-kill") else { return };
    tree.create(&name, &Limits::default()).unwrap();
    let mut first = spawn_in(&tree, &name, "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000");
    wait_until("five processes", || tree.usage(&name).unwrap().pids >= 4);
    let (_, pids) = tree.group(Controller::Pids, &name).unwrap();
    fs::create_dir(pids.join("below")).unwrap();
    fs::write(pids.join("below/cgroup.procs"), first.id().to_string()).unwrap();
    tree.freeze(&name).await.unwrap();
    tree.freeze(&name).await.unwrap();
    tree.kill(&name).await.unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9));
    tree.kill(&name).await.unwrap();
    tree.remove(&name).await.unwrap();
    assert!(!pids.exists());
}

/// The version 1 way, on a host that also has version 2: freeze, kill each, thaw.
#[tokio::test]
async fn kill_without_cgroup_kill() {
    let Some((_, name)) = real("cgroup-kill-v1") else { return };
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v1_only: String =
        mountinfo.lines().filter(|l| !l.contains(" - cgroup2 ")).fold(String::new(), |text, line| text + line + "\n");
    let tree = match Hierarchy::from_mountinfo(&v1_only, "moat-test") {
        Ok(tree) if tree.controller(Controller::Freezer).is_some() => tree,
        _ => return not_run("cgroup-kill-v1", "this host has no version 1 freezer"),
    };
    let name = format!("{name}-v1");
    tree.create(&name, &Limits::default()).unwrap();
    // Forks as fast as it can until it is killed.
    let mut first = spawn_in(&tree, &name, "while :; do sleep 1000 & done");
    wait_until("some processes", || tree.usage(&name).unwrap().pids >= 20);
    tree.freeze(&name).await.unwrap();
    let frozen = tree.usage(&name).unwrap().pids;
    assert_eq!(tree.usage(&name).unwrap().pids, frozen, "nothing forks while frozen");
    tree.kill(&name).await.unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9));
    tree.remove(&name).await.unwrap();
}

#[tokio::test]
async fn a_frozen_group_uses_no_time_until_thawed() {
    let Some((tree, name)) = real("cgroup-freeze") else { return };
    tree.create(&name, &Limits::default()).unwrap();
    let mut spinner = spawn_in(&tree, &name, "while :; do :; done");
    wait_until("it spins", || tree.usage(&name).unwrap().cpu_usec > 10_000);
    tree.freeze(&name).await.unwrap();
    let before = tree.usage(&name).unwrap().cpu_usec;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(tree.usage(&name).unwrap().cpu_usec, before);
    tree.thaw(&name).unwrap();
    wait_until("it spins on", || tree.usage(&name).unwrap().cpu_usec > before + 10_000);
    tree.remove(&name).await.unwrap();
    spinner.wait().unwrap();
}

#[tokio::test]
async fn a_group_that_is_gone_is_not_found_and_cannot_be_paused() {
    let Some((tree, name)) = real("cgroup-gone") else { return };
    assert_eq!(tree.usage(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tree.freeze(&name).await.unwrap_err().kind(), ErrorKind::Unsupported);
    tree.kill(&name).await.unwrap();
}

#[test]
fn a_live_v2_group_is_tuned_and_a_limit_below_what_is_in_use_is_refused() {
    let host = FakeHost::new().with_v2("", "cpuset cpu io memory pids");
    let tree = host.hierarchy();
    tree.create("box", &all_limits()).unwrap();
    let file = |name: &str| format!("moat.slice/box.scope/{name}");
    fs::write(host.path(&file("memory.current")), (32 << 20).to_string()).unwrap();
    let wanted = Limits { memory_bytes: Some(48 << 20), cpu_weight: Some(7), ..Limits::default() };
    tree.tune("box", &wanted).unwrap();
    for (name, value) in [
        ("memory.max", "50331648"),
        ("memory.high", "max"),
        ("cpu.weight", "7"),
        ("pids.max", "50"),
        ("cpuset.cpus", "1-2"),
    ] {
        assert_eq!(host.reads(&file(name)), value, "{name}");
    }
    let lower = Limits { memory_bytes: Some(16 << 20), cpu_weight: Some(9), ..Limits::default() };
    let refused = tree.tune("box", &lower).unwrap_err();
    assert!(matches!(refused, CgroupError::InUse { field: "resources.memory_bytes", .. }), "{refused}");
    for (name, value) in [("memory.max", "50331648"), ("memory.high", "max"), ("cpu.weight", "7")] {
        assert_eq!(host.reads(&file(name)), value, "{name}");
    }
}

#[test]
fn a_live_v1_group_without_a_cpuset_gets_none() {
    let host = FakeHost::new().with_v1();
    let tree = host.hierarchy();
    fs::write(host.path("memory/moat/box.scope/memory.limit_in_bytes"), "9223372036854771712").unwrap();
    fs::remove_dir_all(host.path("cpuset/moat/box.scope")).unwrap();
    let refused = tree.tune("box", &Limits { cpuset: Some("1".to_owned()), ..Limits::default() }).unwrap_err();
    assert!(matches!(refused, CgroupError::Unsupported { field: "resources.cpuset", .. }), "{refused}");
    tree.tune("box", &Limits { pids_max: Some(9), memory_bytes: Some(64 << 20), ..Limits::default() }).unwrap();
    assert_eq!(host.reads("pids/moat/box.scope/pids.max"), "9");
    assert_eq!(host.reads("memory/moat/box.scope/memory.memsw.limit_in_bytes"), "67108864");
}

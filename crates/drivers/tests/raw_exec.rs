//! The process driver, by the names of Nomad's raw_exec tests (R01 to R10).

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[expect(dead_code, reason = "shared with the tests of the container driver, which use more of it")]
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use harness::{CGROUP_PARENT, DEADLINE, Host, Sandbox, probe_artifact, process, spec_with_main};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::cgroup::{Controller, Hierarchy};
use moat_drivers::process::{ProcessConfig, ProcessDriver};
use moat_engine::conformance::{Counted, HostProfile, run, update_document};
use moat_engine::driver::{Driver, Recovered};
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{Bind, BindIds, HostNamespaces, Resources, RootSpec, Signal};
use moat_model::{ErrorKind, Isolation, ProcessSpec, Resource, SandboxSpec};
use moat_testkit::wait_until;

/// A host for its directories and its lock, and a process driver on it.
struct Raw {
    host: Host,
    driver: Arc<ProcessDriver>,
}

impl Raw {
    fn new(id: &str) -> Option<Self> {
        let config =
            ProcessConfig { cgroup_parent: CGROUP_PARENT.to_owned(), enabled: true, ..ProcessConfig::default() };
        Self::with(id, config)
    }

    fn with(id: &str, config: ProcessConfig) -> Option<Self> {
        let host = Host::new(id)?;
        fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let driver = Arc::new(ProcessDriver::new(config, AgentBinary::embedded().unwrap()).unwrap());
        Some(Self { host, driver })
    }

    async fn start(&self, spec: SandboxSpec) -> Sandbox {
        Sandbox::start(self.driver.clone(), self.host.place(), spec).await
    }
}

fn raw(words: &[&str]) -> SandboxSpec {
    SandboxSpec {
        isolation: Isolation::Process,
        network: NetworkSpec::new(NetworkMode::Host),
        artifact: Some(probe_artifact()),
        ..spec_with_main(RootSpec::Host, words)
    }
}

fn idle() -> SandboxSpec {
    SandboxSpec { main: None, ..raw(&["true"]) }
}

/// Processes of its group, the agent included. (`pids.current` would count those nobody has collected yet, too.)
fn members(sandbox: &Sandbox) -> usize {
    let files = Hierarchy::detect(CGROUP_PARENT).unwrap().procs_files(sandbox.place.id.as_str());
    harness::read(files.first().unwrap()).lines().count()
}

async fn until_members(sandbox: &Sandbox, least: usize) {
    wait_until(DEADLINE, "that many processes", async || (members(sandbox) >= least).then_some(())).await.unwrap();
}

#[tokio::test]
async fn r01_disabled_it_refuses_and_says_how_to_enable() {
    let Some(raw_host) = Raw::with("R01", ProcessConfig::default()) else { return };
    let enabled = raw_host.driver.probe().into_iter().find(|r| r.name == "enabled").unwrap();
    assert_eq!((enabled.met, enabled.fact.as_str()), (false, "disabled"));
    let place = raw_host.host.place();
    for error in
        [raw_host.driver.validate(&idle()).unwrap_err(), raw_host.driver.create(&place, &idle()).await.unwrap_err()]
    {
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(error.doing.contains("drivers = [\"container\", \"process\"]"), "{error}");
    }
    assert!(!place.run_dir.exists() && !place.data_dir.exists());
}

#[tokio::test]
async fn r02_runs_in_its_task_directory_on_the_hosts_file_system() {
    let Some(raw_host) = Raw::new("R02") else { return };
    let sandbox = raw_host.start(idle()).await;
    let dir = sandbox.place.data_dir.clone();
    assert_eq!(sandbox.exec(&["/bin/pwd"]).await.ok(), dir.to_str().unwrap());
    let net = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(sandbox.exec(&["readlink", "/proc/self/ns/net"]).await.ok(), net.to_str().unwrap());
    sandbox.sh("echo hello > local/file; echo bye > alloc/data/file").await.ok();
    assert_eq!(harness::read(dir.join("local/file")), "hello\n");
    assert_eq!(harness::read(dir.join("alloc/data/file")), "bye\n");
    assert_eq!(sandbox.exec(&["probe", "exit", "5"]).await.exit.code, 5, "the artifact is at local/");
    sandbox.end().await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn r03_a_tree_in_sessions_of_its_own_dies_with_the_group() {
    let Some(raw_host) = Raw::new("R03") else { return };
    let sandbox = raw_host.start(raw(&["probe", "tree", "4"])).await;
    sandbox.start_main().await;
    until_members(&sandbox, 6).await;
    raw_host.driver.kill(sandbox.record()).await.unwrap();
    assert_eq!(members(&sandbox), 0);
    assert!(!fs::exists(format!("/proc/{}/exe", sandbox.pid())).unwrap() || is_zombie(sandbox.pid()));
    raw_host.driver.kill(sandbox.record()).await.unwrap();
    assert!(matches!(raw_host.driver.recover(sandbox.record()).await.unwrap(), Recovered::Gone { .. }));
    sandbox.end().await;
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test]
async fn r04_a_signal_reaches_the_program_and_its_answer_the_log() {
    let Some(raw_host) = Raw::new("R04") else { return };
    let script = "trap 'echo caught; exit 3' USR1; touch local/ready; while :; do sleep 0.05; done";
    let sandbox = raw_host.start(raw(&["/bin/sh", "-c", script])).await;
    sandbox.start_main().await;
    let ready = sandbox.place.data_dir.join("local/ready");
    wait_until(DEADLINE, "the trap is set", async || ready.exists().then_some(())).await.unwrap();
    sandbox.guest().signal_main(Signal::parse("USR1").unwrap()).await.unwrap();
    let output = sandbox.main_to_end().await;
    assert_eq!((output.exit.code, output.stdout.as_str()), (3, "caught\n"), "{output:?}");
    sandbox.end().await;
}

/// The agent ends what is left when the main process has; a kill of the group ends it all the same if the agent cannot.
#[tokio::test]
async fn r05_a_child_does_not_outlive_its_parent() {
    let Some(raw_host) = Raw::new("R05") else { return };
    for agent_too in [false, true] {
        let sandbox = raw_host.start(raw(&["/bin/sh", "-c", "setsid sleep 1000 & touch local/forked; wait"])).await;
        sandbox.start_main().await;
        let forked = sandbox.place.data_dir.join("local/forked");
        wait_until(DEADLINE, "a child", async || forked.exists().then_some(())).await.unwrap();
        until_members(&sandbox, 3).await;
        if agent_too {
            raw_host.driver.kill(sandbox.record()).await.unwrap();
            assert_eq!(members(&sandbox), 0);
        } else {
            sandbox.guest().signal_main(Signal::KILL).await.unwrap();
            assert_eq!(sandbox.wait_main().await.signal, Some(9));
            assert_eq!(members(&sandbox), 1, "only the agent is left");
        }
        let name = sandbox.place.id.to_string();
        sandbox.end().await;
        assert!(!Hierarchy::detect(CGROUP_PARENT).unwrap().list().unwrap().contains(&name));
    }
}

#[tokio::test]
async fn r06_working_directory_user_and_unknown_user() {
    let Some(raw_host) = Raw::new("R06") else { return };
    let mut spec = raw(&["/bin/sh", "-c", "pwd; id -u; id -g; touch \"$TASK/local/mine\" && echo wrote"]);
    let place = raw_host.host.place();
    let task = place.data_dir.to_str().unwrap().to_owned();
    spec.main = spec.main.map(|main| ProcessSpec {
        cwd: Some("/etc".to_owned()),
        user: Some("nobody".to_owned()),
        env: BTreeMap::from([("TASK".to_owned(), task), ("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        ..main
    });
    let sandbox = Sandbox::start(raw_host.driver.clone(), place, spec.clone()).await;
    sandbox.start_main().await;
    let output = sandbox.main_to_end().await;
    assert_eq!(output.ok(), "/etc\n65534\n65534\nwrote");
    sandbox.end().await;

    spec.main = spec.main.map(|main| ProcessSpec { user: Some("mallory".to_owned()), ..main });
    let place = raw_host.host.place();
    let error = raw_host.driver.create(&place, &spec).await.unwrap_err();
    assert!(error.doing.contains("mallory"), "{error}");
    assert!(!place.data_dir.exists());
}

/// R07: nothing is inherited, so there is nothing to deny by pattern.
#[tokio::test]
async fn r07_nothing_of_the_daemons_environment_is_inherited() {
    let Some(raw_host) = Raw::new("R07") else { return };
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "this test needs a variable that must not come through");
    let sandbox = raw_host.start(idle()).await;
    let output = sandbox.exec(&["probe", "env"]).await;
    let mut names: Vec<&str> = output.ok().lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LOGNAME", "PATH", "USER"]);
    sandbox.end().await;
}

/// R08: groups cannot be overridden by a user, and an operator's parent must be one safe name.
#[test]
fn r08_no_group_but_our_own() {
    for member in ["cgroup_v1_override", "cgroup_v2_override"] {
        let text = format!(r#"{{"{member}": "/some/where"}}"#);
        let error = serde_json::from_str::<Resources>(&text).unwrap_err();
        assert!(error.to_string().contains(member), "{error}");
    }
    let config = ProcessConfig { cgroup_parent: "../somebody".to_owned(), enabled: true, ..ProcessConfig::default() };
    let error = ProcessDriver::new(config, AgentBinary::embedded().unwrap()).unwrap_err();
    assert!(error.chain().contains("../somebody"), "{}", error.chain());
}

/// R09: the daemon's own value does not come through, and nobody asks for a lower one.
#[tokio::test]
async fn r09_oom_score_is_reset() {
    let Some(raw_host) = Raw::new("R09") else { return };
    assert!(serde_json::from_str::<Resources>(r#"{"oom_score_adj": -1}"#).is_err());
    let before = harness::read("/proc/self/oom_score_adj");
    fs::write("/proc/self/oom_score_adj", "17").unwrap();
    let sandbox = raw_host.start(idle()).await;
    let seen = sandbox.exec(&["cat", "/proc/self/oom_score_adj"]).await;
    fs::write("/proc/self/oom_score_adj", before.trim()).unwrap();
    assert_eq!(seen.ok(), "0");
    sandbox.end().await;

    // A higher one is for the program alone: whoever looks after it is spared.
    let sandbox = raw_host.start(SandboxSpec { oom_score_adj: Some(250), ..idle() }).await;
    assert_eq!(sandbox.exec(&["cat", "/proc/self/oom_score_adj"]).await.ok(), "250");
    assert_eq!(harness::read(format!("/proc/{}/oom_score_adj", sandbox.pid())).trim(), "0");
    sandbox.end().await;
}

#[tokio::test]
async fn r10_memory_limited_and_unlimited() {
    let reserve_only = ProcessConfig {
        cgroup_parent: CGROUP_PARENT.to_owned(),
        enabled: true,
        resources: Resources { memory_reserve_bytes: Some(64 << 20), ..Resources::default() },
        ..ProcessConfig::default()
    };
    let Some(raw_host) = Raw::with("R10", reserve_only) else { return };
    let tree = Hierarchy::detect(CGROUP_PARENT).unwrap();
    let mount = tree.controller(Controller::Memory).unwrap();
    let v2 = mount.join("cgroup.controllers").exists();
    let read = |sandbox: &Sandbox, file: &str| {
        let parent = if v2 { format!("{CGROUP_PARENT}.slice") } else { CGROUP_PARENT.to_owned() };
        harness::read(mount.join(parent).join(format!("{}.scope", sandbox.place.id)).join(file)).trim().to_owned()
    };
    let (hard, soft, unlimited) = if v2 {
        ("memory.max", "memory.low", "max")
    } else {
        ("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "9223372036854771712")
    };
    let limited = Resources { memory_bytes: Some(128 << 20), ..Resources::default() };
    let none = Resources { memory_bytes: Some(Resources::UNLIMITED), ..Resources::default() };
    for (resources, expected) in [
        (limited, (128u64 << 20).to_string()),
        (Resources::default(), unlimited.to_owned()),
        (none, unlimited.to_owned()),
    ] {
        let sandbox = raw_host.start(SandboxSpec { resources, ..idle() }).await;
        assert_eq!(read(&sandbox, hard), expected);
        assert_eq!(read(&sandbox, soft), (64 << 20).to_string());
        sandbox.end().await;
    }
}

/// A task's directory is made before the program and stays after it.
#[tokio::test]
async fn r02_a_task_directory_that_was_there_before() {
    let Some(raw_host) = Raw::new("R02 (task directory)") else { return };
    let dir = raw_host.host.dir.path().join("task");
    fs::create_dir_all(dir.join("local")).unwrap();
    fs::copy(probe_artifact().path, dir.join("local/run")).unwrap();
    fs::set_permissions(dir.join("local/run"), fs::Permissions::from_mode(0o644)).unwrap();
    let spec = SandboxSpec { artifact: None, task_dir: Some(dir.clone()), ..idle() };
    let sandbox = raw_host.start(spec.clone()).await;
    assert_eq!(sandbox.exec(&["/bin/pwd"]).await.ok(), dir.to_str().unwrap());
    assert_eq!(sandbox.exec(&["run", "args", "ran"]).await.ok(), "ran", "made executable, for it is the task's own");
    let (own, place) = (sandbox.place.data_dir.clone(), sandbox.place.run_dir.clone());
    sandbox.end().await;
    assert!(dir.join("local/run").exists() && !own.exists() && !place.exists());

    let link = raw_host.host.dir.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    for bad in [link, dir.join("absent"), dir.join("local/run")] {
        let place = raw_host.host.place();
        let error =
            raw_host.driver.create(&place, &SandboxSpec { task_dir: Some(bad), ..spec.clone() }).await.unwrap_err();
        assert!(error.doing.starts_with("task_dir: "), "{error}");
        raw_host.driver.release(&Resource::Directory { path: place.run_dir.clone() }).await.unwrap();
    }
    let bind = Bind { source: dir.clone(), target: "/x".into(), read_only: true, ids: BindIds::Node };
    for (field, spec) in [
        ("binds", SandboxSpec { binds: vec![bind], ..spec.clone() }),
        ("artifact", SandboxSpec { artifact: Some(probe_artifact()), ..spec.clone() }),
        ("log_dir", SandboxSpec { log_dir: Some(dir.clone()), ..spec.clone() }),
        ("host", SandboxSpec { host: HostNamespaces { pid: true, ipc: false }, ..spec.clone() }),
        ("oom_score_adj", SandboxSpec { oom_score_adj: Some(1001), ..spec.clone() }),
    ] {
        let refusal = raw_host.driver.validate(&spec).unwrap_err();
        assert!(refusal.doing.starts_with(&format!("{field}: ")), "{refusal}");
    }
}

/// N05 without a sandbox: whoever asks afterwards learns that it was memory.
#[tokio::test]
async fn r10_a_program_over_its_memory_limit_is_killed_and_the_reason_known() {
    let Some(raw_host) = Raw::new("R10 (out of memory)") else { return };
    let resources = Resources { memory_bytes: Some(64 << 20), ..Resources::default() };
    let sandbox = raw_host.start(SandboxSpec { resources, ..raw(&["probe", "alloc", "512"]) }).await;
    sandbox.start_main().await;
    assert_eq!(sandbox.wait_main().await.signal, Some(9));
    assert!(raw_host.driver.usage(sandbox.record()).await.unwrap().oom_kills > 0);
    assert!(sandbox.guest().hello().await.is_ok(), "the agent is spared");
    sandbox.end().await;
}

/// Found again from its record alone, paused or not, with its output kept.
#[tokio::test]
async fn recovered_from_the_record_alone() {
    let Some(raw_host) = Raw::new("R-recover") else { return };
    let mut sandbox = raw_host.start(raw(&["sleep", "1000"])).await;
    sandbox.start_main().await;
    // The daemon that had it is gone: an agent serves one at a time.
    sandbox.forget_guest();
    let freezer = raw_host.driver.freezer().unwrap();
    for paused in [false, true] {
        if paused {
            freezer.freeze(sandbox.record()).await.unwrap();
        }
        let Recovered::Alive(guest) = raw_host.driver.recover(sandbox.record()).await.unwrap() else {
            panic!("gone while it runs")
        };
        if paused {
            freezer.thaw(sandbox.record()).await.unwrap();
        }
        guest.hello().await.unwrap();
    }
    sandbox.end().await;
}

/// N25: the agent is killed from outside. Nothing of the workload survives it unnoticed.
#[tokio::test]
async fn n25_killing_the_agent_is_noticed_and_the_rest_is_ended() {
    let Some(raw_host) = Raw::new("N25") else { return };
    let sandbox = raw_host.start(raw(&["sleep", "1000"])).await;
    sandbox.start_main().await;
    let guest = sandbox.guest();
    let agent = rustix::process::Pid::from_raw(i32::try_from(sandbox.pid()).unwrap()).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    let lost = tokio::time::timeout(DEADLINE, guest.lost()).await.unwrap();
    assert!(lost.contains(&sandbox.pid().to_string()), "{lost}");
    let Recovered::Gone { .. } = raw_host.driver.recover(sandbox.record()).await.unwrap() else { panic!("it is gone") };
    assert_eq!(members(&sandbox), 0, "the orphan was ended too");
    assert_eq!(moat_model::Exit::unknown().code, -1);
    sandbox.end().await;
}

/// N26: a user the host does not know.
#[tokio::test]
async fn n26_unknown_users_are_named() {
    let Some(raw_host) = Raw::new("N26") else { return };
    let sandbox = raw_host.start(idle()).await;
    let contained = raw_host.host.sandbox(harness::spec(RootSpec::Host)).await;
    for guest in [sandbox.guest(), contained.guest()] {
        let process = ProcessSpec { user: Some("mallory".to_owned()), ..process(&["/bin/true"]) };
        let spec = moat_model::spec::ExecSpec { process, pty: None, stdin: false, timeout: None };
        let error = guest.exec(&spec).await.map(|session| session.pid).unwrap_err();
        assert!(error.chain().contains("mallory"), "{}", error.chain());
        assert_eq!(error.kind, ErrorKind::InvalidSpec);
    }
    contained.end().await;
    sandbox.end().await;
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drivers/conformance.md");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let Some(raw_host) = Raw::new("conformance") else { return };
    let layout = Hierarchy::detect(CGROUP_PARENT).unwrap().layout();
    let release = harness::read("/proc/sys/kernel/osrelease");
    let refused = [
        ("isolation", SandboxSpec { isolation: Isolation::Container, ..idle() }),
        ("root", SandboxSpec { root: RootSpec::Scratch, ..idle() }),
        ("network", SandboxSpec { network: NetworkSpec::new(NetworkMode::Isolated), ..idle() }),
        (
            "resources.disk_bytes",
            SandboxSpec { resources: Resources { disk_bytes: Some(1 << 20), ..Resources::default() }, ..idle() },
        ),
    ];
    let profile = HostProfile {
        host: format!("Linux {}, cgroups {layout}", release.trim()),
        run_dir: raw_host.host.dir.path().join("r"),
        data_dir: raw_host.host.dir.path().join("data"),
        uid_base: 0x6000_0000,
        spec: SandboxSpec { artifact: Some(probe_artifact()), ..idle() },
        shell: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
        full_shell: true,
        listener: Some(vec!["probe".to_owned(), "listen".to_owned()]),
        slow: false,
        counted: Counted::Processes,
        refused: refused.into_iter().map(|(field, spec)| (field.to_owned(), spec)).collect(),
    };
    let report = run(raw_host.driver.clone(), profile).await;
    for (case, why) in report.not_run() {
        moat_testkit::not_run(&format!("process {case}"), why);
    }
    if std::env::var_os("MOAT_REGENERATE").is_some() {
        let before = fs::read_to_string(DOCUMENT).unwrap_or_default();
        fs::write(DOCUMENT, update_document(&before, &report)).unwrap();
    }
    assert_eq!(report.failures(), Vec::<String>::new());
}

//! Programs of the host in a jail: what a virtual machine monitor that was taken over by its guest may still do.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use moat_agent::launch::{
    BindConfig, DeviceNode, HostPath, JailConfig, JailNetwork, LaunchConfig, Payload, ProgramConfig, ShownIds,
};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::cgroup::{Devices, Hierarchy, Limits};
use moat_drivers::linux::launch::{LaunchError, Launched, launch};
use moat_drivers::linux::seccomp;
use moat_engine::driver::VMM_UID;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mount::{UnmountFlags, unmount};

use crate::harness::*;
use crate::wired::{can_wire, shell};

const BASE: u32 = 0x5200_0000;

/// Where `/dev/kvm` is, on every machine that has it.
const KVM: (u32, u32) = (10, 232);

/// The test program at `/probe`, a directory it may write at `/data`, one it may not at `/read`.
fn config(host: &Host, args: &[&str]) -> LaunchConfig {
    let dir = |name: &str| {
        let path = host.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (mount_point, data, read) = (dir("root"), dir("data"), dir("read"));
    chown(&data, Some(BASE + VMM_UID), Some(BASE + VMM_UID)).unwrap();
    fs::set_permissions(&read, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(read.join("file"), "text").unwrap();
    fs::set_permissions(read.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    let probe = moat_testkit::static_bin("probe").unwrap();
    fs::copy(&probe, data.join("probe")).unwrap();
    let bind = |source: PathBuf, target: &str, read_only, exec| BindConfig {
        source,
        target: PathBuf::from(target),
        read_only,
        exec,
        ids: ShownIds::Foreign,
    };
    LaunchConfig {
        cgroup_procs: Vec::new(),
        jail: Some(JailConfig {
            hostname: "machine".to_owned(),
            uid_base: BASE,
            mount_point,
            writable_bytes: 1 << 20,
            layers: Vec::new(),
            host_paths: Vec::new(),
            binds: vec![
                bind(probe, "/probe", true, true),
                bind(data, "/data", false, false),
                bind(read, "/read", true, false),
            ],
            secrets_bytes: 0,
            host_pid: false,
            host_ipc: false,
            lasting: None,
            network: None,
        }),
        payload: Payload::Program(ProgramConfig {
            path: PathBuf::from("/probe"),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            uid: VMM_UID,
            serves: None,
            descriptors: 0,
            tap: None,
            devices: Vec::new(),
            seccomp: seccomp::default_filters(0).unwrap(),
            nofile: 64,
            file_bytes_max: Some(1 << 20),
        }),
    }
}

fn program(config: &mut LaunchConfig) -> &mut ProgramConfig {
    match &mut config.payload {
        Payload::Program(program) => program,
        Payload::Agent(_) => unreachable!("these tests launch programs"),
    }
}

fn jail(config: &mut LaunchConfig) -> &mut JailConfig {
    config.jail.as_mut().unwrap()
}

async fn start(config: &LaunchConfig, descriptors: Vec<OwnedFd>) -> Result<Launched, LaunchError> {
    launch(&AgentBinary::embedded().unwrap(), config, descriptors).await
}

/// What it says until it ends.
async fn said(config: &LaunchConfig, others: Vec<OwnedFd>) -> String {
    let (mut output, log) = std::io::pipe().unwrap();
    let _launched = match start(config, std::iter::once(log.into()).chain(others).collect()).await {
        Ok(launched) => Some(launched),
        // What it said is there all the same.
        Err(LaunchError::Ended(_)) => None,
        Err(error) => panic!("{error:?}"),
    };
    let reading = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap().unwrap()
}

/// Makes every attempt and compares the answers.
async fn answers(host: &Host, expected: &[(&str, &str)]) {
    let words: Vec<&str> = std::iter::once("tries").chain(expected.iter().map(|(words, _)| *words)).collect();
    let said = said(&config(host, &words), Vec::new()).await;
    let expected: Vec<String> = expected.iter().map(|(words, answer)| format!("{words}: {answer}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn it_sees_nothing_but_what_it_was_given() {
    let Some(host) = Host::new("program sees") else { return };
    let own = std::process::id();
    answers(
        &host,
        &[
            ("open-read /read/file", "ok"),
            ("open-read /etc/passwd", "ENOENT"),
            ("open-read /etc/hostname", "ENOENT"),
            ("list /usr", "ENOENT"),
            ("list /sys", "ENOENT"),
            ("list /home", "ENOENT"),
            ("list /secrets", "ENOENT"),
            ("list /dev/pts", "ENOENT"),
            ("exec /bin/sh", "ENOENT"),
            ("symlink-read /../../../../etc/passwd", "ENOENT"),
            (&format!("kill {own}"), "ESRCH"),
            (&format!("proc-fd {own}"), "ENOENT"),
            ("open-read /proc/1/root/etc/passwd", "ENOENT"),
        ],
    )
    .await;
    let said = |words: [&'static str; 2]| {
        let config = config(&host, &words);
        async move { said(&config, Vec::new()).await }
    };
    let mut top: Vec<String> = said(["names", "/"]).await.lines().map(str::to_owned).collect();
    top.sort_unstable();
    assert_eq!(top, ["data", "dev", "probe", "proc", "read", "tmp"]);
    let mut devices: Vec<String> = said(["names", "/dev"]).await.lines().map(str::to_owned).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero"]);
    // The first process of its namespace, and the only one.
    let processes = said(["names", "/proc"]).await;
    let processes: Vec<&str> =
        processes.lines().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect();
    assert_eq!(processes, ["1"]);
    let links = said(["show", "/proc/self/net/dev"]).await;
    let links: Vec<&str> = links.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(links, ["lo"]);
    // Nothing of the host is mounted anywhere in it.
    let mounts = said(["show", "/proc/self/mounts"]).await;
    let mut targets: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    targets.retain(|target| !target.starts_with("/dev/") && !target.starts_with("/proc/"));
    targets.sort_unstable();
    assert_eq!(targets, ["/", "/data", "/dev", "/probe", "/proc", "/read"]);
}

#[tokio::test]
async fn it_changes_nothing_but_what_it_was_given() {
    let Some(host) = Host::new("program changes") else { return };
    answers(
        &host,
        &[
            ("open-write /data/probe", "EACCES"),
            ("grow /data/new=10", "ok"),
            ("grow /data/new=1048577", "EFBIG"),
            ("grow /tmp/new=10", "ok"),
            ("grow /new=10", "EACCES"),
            ("grow /dev/new=10", "EACCES"),
            ("open-write /read/file", "EROFS"),
            ("grow /read/new=10", "EROFS"),
            ("exec /data/probe", "EACCES"),
            ("exec /read/file", "EACCES"),
            ("mknod-disk 8:0", "EPERM"),
            ("remount-rw /read", "EPERM"),
            ("umount /read", "EPERM"),
            ("mount /tmp", "EPERM"),
            ("fsopen tmpfs", "EPERM"),
            ("open-tree /", "EPERM"),
            ("chroot /tmp", "EPERM"),
            ("pivot-root /tmp", "EPERM"),
        ],
    )
    .await;
}

#[tokio::test]
async fn it_is_nobody_and_becomes_nobody() {
    let Some(host) = Host::new("program is") else { return };
    let ids = said(&config(&host, &["ids"]), Vec::new()).await;
    let expected = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!(ids, expected);
    answers(
        &host,
        &[
            ("setuid 0", "EPERM"),
            ("setgid 0", "EPERM"),
            ("setgroups", "EPERM"),
            ("capset-all", "EPERM"),
            ("uid-map", "EPERM"),
            ("unshare-user", "EPERM"),
            ("unshare-net", "EPERM"),
            ("clone-flags 0x10000000", "EPERM"),
            ("clone3-user", "ENOSYS"),
            ("setns /proc/self/ns/net", "EPERM"),
            ("ptrace 1", "EPERM"),
            ("process-vm-readv 1", "EPERM"),
            ("pidfd-getfd 1", "EPERM"),
            ("dmesg", "EPERM"),
            ("bpf", "EPERM"),
            ("perf", "EPERM"),
            ("keyctl", "EPERM"),
            ("add-key", "EPERM"),
            ("io-uring", "EPERM"),
            ("userfaultfd", "EPERM"),
            ("init-module", "EPERM"),
            ("kexec", "EPERM"),
            ("reboot", "EPERM"),
            ("set-time", "EPERM"),
            ("set-hostname", "EPERM"),
            ("iopl", "EPERM"),
            ("setrlimit-nofile 65", "EPERM"),
            // Packets and vsock: kernel code a monitor has no business in; its tap comes open.
            ("socket 17,3,0", "EPERM"),
            ("socket 40,1,0", "EPERM"),
        ],
    )
    .await;
}

#[tokio::test]
async fn it_has_the_descriptors_it_was_given() {
    let Some(host) = Host::new("program descriptors") else { return };
    let memory = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    let mut config = config(&host, &["fds"]);
    program(&mut config).descriptors = 3;
    let said = said(&config, vec![memory("one"), memory("two"), memory("three")]).await;
    let mut lines: Vec<&str> = said.lines().map(|line| line.split_once("[").map_or(line, |(name, _)| name)).collect();
    lines.sort_unstable();
    let memory = ["3 -> /memfd:one (deleted)", "4 -> /memfd:two (deleted)", "5 -> /memfd:three (deleted)"];
    assert_eq!(lines, [["0 -> /dev/null", "1 -> pipe:", "2 -> pipe:"], memory].concat());
}

#[tokio::test]
async fn it_has_the_devices_it_was_given() {
    let Some(host) = Host::new("program devices") else { return };
    let hierarchy = Hierarchy::detect(CGROUP_PARENT).unwrap();
    let name = format!("program-{}", std::process::id());
    let limits = Limits { devices: Devices::StockAnd(&[KVM]), ..Limits::default() };
    hierarchy.create(&name, &limits).unwrap();
    let attempts =
        ["tries", "open-read /dev/kvm", "open-read /dev/null", "open-read /dev/net/tun", "mknod-disk 10:232"];
    let mut config = config(&host, &attempts);
    config.cgroup_procs = hierarchy.procs_files(&name);
    let (major, minor) = KVM;
    let node = |path: &str| DeviceNode { path: PathBuf::from(path), major, minor };
    program(&mut config).devices = vec![node("/dev/kvm")];
    let there = if Path::new("/dev/kvm").exists() { "ok" } else { "ENODEV" };
    let expected = [
        format!("open-read /dev/kvm: {there}"),
        "open-read /dev/null: ok".to_owned(),
        "open-read /dev/net/tun: ENOENT".to_owned(),
        "mknod-disk 10:232: EPERM".to_owned(),
    ];
    assert_eq!(said(&config, Vec::new()).await.lines().collect::<Vec<_>>(), expected);

    for path in ["/tmp/kvm", "/dev/../kvm", "/dev", "kvm"] {
        program(&mut config).devices = vec![node(path)];
        let failed = start(&config, vec![std::io::pipe().unwrap().1.into()]).await.unwrap_err();
        let LaunchError::Failed { stage, detail } = failed else { panic!("{failed:?}") };
        assert_eq!((stage, detail), ("devices".to_owned(), format!("{path}: a device lies below /dev")));
    }
    hierarchy.remove(&name).await.unwrap();
}

#[tokio::test]
async fn it_has_the_tap_of_its_network() {
    let Some(host) = Host::new("program tap").filter(|_| can_wire("program tap")) else { return };
    if !Path::new("/dev/net/tun").exists() {
        return moat_testkit::not_run("program tap", "no /dev/net/tun: modprobe tun");
    }
    let netns = host.dir.path().join("netns");
    fs::write(&netns, "").unwrap();
    let file = netns.display();
    shell(&format!("unshare --net={file} true; nsenter --net={file} ip tuntap add tap0 mode tap vnet_hdr"));
    let mut config = config(&host, &["fds"]);
    let address = "10.77.0.2".parse().unwrap();
    let resolver = "169.254.1.1".parse().unwrap();
    jail(&mut config).network =
        Some(JailNetwork { netns: netns.clone(), address, resolver, search: String::new(), name: None });
    program(&mut config).tap = Some("tap0".to_owned());
    program(&mut config).descriptors = 1;
    let memory = || memfd_create("one", MemfdFlags::CLOEXEC).unwrap();
    let lines = said(&config, vec![memory()]).await;
    let lines: Vec<&str> = lines.lines().filter(|line| !line.contains("pipe")).collect();
    assert_eq!(lines, ["0 -> /dev/null", "3 -> /memfd:one (deleted)", "4 -> /dev/net/tun"]);

    program(&mut config).args = vec!["show".to_owned(), "/proc/self/net/dev".to_owned()];
    let links = said(&config, vec![memory()]).await;
    assert!(links.contains(" tap0:") && !links.contains("eth0:"), "{links}");

    // One that is not there is not made.
    program(&mut config).tap = Some("tap1".to_owned());
    let failed = start(&config, vec![std::io::pipe().unwrap().1.into(), memory()]).await.unwrap_err();
    let LaunchError::Failed { stage, detail } = failed else { panic!("{failed:?}") };
    assert_eq!((&*stage, &*detail), ("open the tap", "tap1: No such device (os error 19)"));
    unmount(&netns, UnmountFlags::DETACH).unwrap();
}

/// What makes a good configuration a bad one.
type Spoil = fn(&mut LaunchConfig);

#[tokio::test]
async fn a_program_that_cannot_be_started_is_said_so() {
    let Some(host) = Host::new("program failures") else { return };
    let cases: [(&str, &str, Spoil); 8] = [
        ("program", "it runs in a jail or not at all", |c| c.jail = None),
        ("program", "it is root of its namespaces if it serves files, and only then", |c| program(c).uid = 0),
        ("program", "user 65536: it is one of 1 to 65535", |c| program(c).uid = 65_536),
        ("program", "1 descriptors came, 1 and one for its output are announced (at most 32)", |c| {
            program(c).descriptors = 1;
        }),
        ("program", "a tap lies in a network that somebody made", |c| program(c).tap = Some("tap0".to_owned())),
        ("program", "its root has no layers: it is shown host paths and binds", |c| {
            jail(c).layers.push(PathBuf::from("/"));
        }),
        ("execute", "/nowhere: No such file or directory (os error 2)", |c| {
            program(c).path = PathBuf::from("/nowhere")
        }),
        ("execute", "/data/probe: Permission denied (os error 13)", |c| program(c).path = PathBuf::from("/data/probe")),
    ];
    for (stage, detail, spoil) in cases {
        let mut config = config(&host, &["ids"]);
        spoil(&mut config);
        let failed = start(&config, vec![std::io::pipe().unwrap().1.into()]).await.unwrap_err();
        let LaunchError::Failed { stage: said_stage, detail: said } = &failed else { panic!("{failed:?}") };
        assert_eq!((&**said_stage, &**said), (stage, detail));
    }
}

/// The program this is for, with nothing but the host's programs and libraries, and its own filter on top of ours.
#[tokio::test]
async fn a_monitor_starts_in_it() {
    let Some(host) = Host::new("program qemu") else { return };
    let path = PathBuf::from("/usr/bin/qemu-system-x86_64");
    if !path.exists() {
        return moat_testkit::not_run("program qemu", "no qemu-system-x86_64");
    }
    let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let words = "-machine none -S -nodefaults -no-user-config -display none -monitor none -chardev socket,id=control,fd=3 \
                 -mon chardev=control,mode=control -sandbox";
    let mut config = config(&host, &words.split_whitespace().chain([sandbox]).collect::<Vec<_>>());
    let shown = ["/usr", "/lib", "/lib64"].map(PathBuf::from);
    jail(&mut config).host_paths =
        shown.map(|path| HostPath { source: path.clone(), target: path }).into_iter().collect();
    program(&mut config).path = path;
    program(&mut config).descriptors = 1;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let talking = tokio::task::spawn_blocking(move || {
        let mut ours = ours;
        ours.set_read_timeout(Some(DEADLINE)).unwrap();
        ours.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}").unwrap();
        let mut text = String::new();
        ours.read_to_string(&mut text).map(|_| text).unwrap()
    });
    let said = said(&config, vec![theirs.into()]).await;
    let answers = talking.await.unwrap();
    assert!(answers.contains("\"QMP\"") && answers.contains("SHUTDOWN"), "{answers}{said}");
}

//! What a program in a container must not be able to do (N37, N38, N39), as root of the sandbox and as nobody.
//!
//! Every attempt demands the errno it is refused with: "it failed" would also be true of a typo. Attempts that reading or
//! connecting could prove harmless by accident are made outside first, where they must succeed.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use crate::harness::{Host, Sandbox, probe_artifact, spec};
use moat_model::SandboxSpec;
use moat_model::spec::{RootSpec, Security};

const USERS: [&str; 2] = ["root", "nobody"];

fn host_root() -> SandboxSpec {
    SandboxSpec { artifact: Some(probe_artifact()), ..spec(RootSpec::Host) }
}

async fn attempt(sandbox: &Sandbox, user: &str, words: &[&str]) -> String {
    let all: Vec<&str> = ["probe", "try"].iter().chain(words).copied().collect();
    let output = sandbox.exec_as(user, &all).await;
    assert!(output.exit.success(), "{words:?} as {user}: {output:?}");
    output.stdout.trim().to_owned()
}

/// The same attempt on the host itself.
fn outside(words: &[&str]) -> String {
    let output = Command::new(probe_artifact().path).arg("try").args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Every attempt of the table as both users; all that went wrong is told at once.
async fn demand(sandbox: &Sandbox, table: &[(&[&str], &str, &str)]) {
    let mut wrong = Vec::new();
    for (words, as_root, as_nobody) in table {
        for (user, expected) in USERS.into_iter().zip([as_root, as_nobody]) {
            let got = attempt(sandbox, user, words).await;
            if got != **expected {
                wrong.push(format!("{} as {user}: {got}, not {expected}", words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A file outside every mapped path, removed with the value.
struct Canary(String);

impl Canary {
    fn new() -> Self {
        let path = format!("/root/.moat-canary-{}", std::process::id());
        fs::write(&path, "only on the host").unwrap();
        Self(path)
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn n37_nothing_of_the_host_can_be_read_or_reached() {
    let Some(host) = Host::new("N37") else { return };
    let (sandbox, other) = (host.sandbox(host_root()).await, host.sandbox(host_root()).await);
    let canary = Canary::new();
    let run_dir = host.dir.path().to_str().unwrap();
    let others_run_dir = other.place.run_dir.to_str().unwrap();
    let me = std::process::id().to_string();
    let my_environ = format!("/proc/{me}/environ");
    let others_root = format!("/proc/{}/root", other.pid());
    let name = format!("moat-n37-{me}");
    let _listening = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for control in [
        ["open-read", canary.0.as_str()],
        ["list", run_dir],
        ["list", others_run_dir],
        ["open-read", my_environ.as_str()],
        ["abstract-connect", name.as_str()],
        ["open-read", "/etc/shadow"],
        ["list", others_root.as_str()],
    ] {
        assert_eq!(outside(&control), "ok", "{control:?}");
    }
    let table: &[(&[&str], &str, &str)] = &[
        (&["open-read", &canary.0], "ENOENT", "ENOENT"),
        (&["symlink-read", &canary.0], "ENOENT", "ENOENT"),
        (&["open-read", "/etc/shadow"], "EACCES", "EACCES"),
        (&["list", run_dir], "ENOENT", "ENOENT"),
        (&["list", others_run_dir], "ENOENT", "ENOENT"),
        (&["list", "/run/moat"], "ENOENT", "ENOENT"),
        (&["list", "/var/lib/moat"], "ENOENT", "ENOENT"),
        (&["list", &others_root], "ENOENT", "ENOENT"),
        // The agent is the first process inside: nothing of it can be looked into.
        (&["list", "/proc/1/root"], "EACCES", "EACCES"),
        (&["list", "/proc/1/cwd"], "EACCES", "EACCES"),
        (&["open-read", "/proc/1/environ"], "EACCES", "EACCES"),
        (&["open-read", "/proc/1/mem"], "EACCES", "EACCES"),
        (&["open-write", "/proc/1/mem"], "EACCES", "EACCES"),
        (&["open-read", "/proc/1/exe"], "EACCES", "EACCES"),
        (&["proc-fd", "1"], "EACCES", "EACCES"),
        (&["setns", "/proc/1/ns/mnt"], "EACCES", "EACCES"),
        (&["setns", "/proc/self/ns/user"], "EPERM", "EPERM"),
        (&["ptrace", "1"], "EPERM", "EPERM"),
        (&["process-vm-readv", "1"], "EPERM", "EPERM"),
        (&["pidfd-getfd", "1"], "EPERM", "EPERM"),
        // The daemon, and every other process of the host, has no number inside.
        (&["open-read", &my_environ], "ENOENT", "ENOENT"),
        (&["kill", &me], "ESRCH", "ESRCH"),
        (&["kill-hard", &me], "ESRCH", "ESRCH"),
        // The default capabilities, which nobody has too, allow it the call: see below for what comes of it.
        (&["kill-hard", "1"], "ok", "ok"),
        (&["abstract-connect", &name], "ECONNREFUSED", "ECONNREFUSED"),
        (&["open-write", "/sys/fs/cgroup/cgroup.procs"], "ENOENT", "ENOENT"),
        (&["open-write", "/sys/fs/cgroup/memory/release_agent"], "ENOENT", "ENOENT"),
    ];
    demand(&sandbox, table).await;
    // From inside, the kernel keeps every signal from the first process that it does not ask for.
    assert_eq!(sandbox.exec(&["probe", "exit", "7"]).await.exit.code, 7);
    other.end().await;
    sandbox.end().await;
}

#[tokio::test]
async fn n38_changing_the_root_twice_leads_nowhere() {
    let Some(host) = Host::new("N38") else { return };
    let canary = Canary::new();
    assert_eq!(outside(&["open-read", &canary.0]), "ok");
    let with = host.sandbox(host_root()).await;
    let security = Security { cap_drop: vec!["sys_chroot".to_owned()], ..Security::default() };
    let without = host.sandbox(SandboxSpec { security, ..host_root() }).await;
    demand(&with, &[(&["chroot-breakout", &canary.0], "inside", "inside")]).await;
    demand(&without, &[(&["chroot-breakout", &canary.0], "EPERM", "EPERM")]).await;
    // Binding what a descriptor points to needs a mount, and a detached copy of one is a mount too.
    for sandbox in [&with, &without] {
        demand(sandbox, &[(&["mount", "/proc/self/fd/0"], "EPERM", "EPERM"), (&["open-tree", "/"], "EPERM", "EPERM")])
            .await;
    }
    with.end().await;
    without.end().await;
}

/// Numbers of the disk the host's root is on, or of some disk.
fn a_disk() -> String {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata("/").unwrap().dev();
    match libc::major(device) {
        0 => "8:0".to_owned(),
        major => format!("{major}:{}", libc::minor(device)),
    }
}

#[tokio::test]
async fn n39_calls_that_change_the_machine_are_refused() {
    let Some(host) = Host::new("N39") else { return };
    let sandbox = host.sandbox(host_root()).await;
    let mut wrong = Vec::new();
    let eperm: &[&[&str]] = &[
        &["mount", "/tmp"],
        &["remount-rw", "/proc"],
        &["remount-rw", "/local/probe"],
        &["umount", "/proc"],
        &["umount", "/secrets"],
        &["pivot-root", "/tmp"],
        &["fsopen", "tmpfs"],
        &["unshare-user"],
        &["unshare-mount"],
        &["unshare-net"],
        &["unshare-pid"],
        &["unshare-cgroup"],
        &["clone-flags", "0x10000000"],
        &["clone-flags", "0x20000"],
        &["clone-flags", "0x40000000"],
        &["init-module"],
        &["finit-module", "x"],
        &["delete-module", "x"],
        &["kexec"],
        &["kexec-file"],
        &["reboot"],
        &["set-time"],
        &["clock-settime"],
        &["adjtimex"],
        &["set-hostname"],
        &["swapon", "/tmp"],
        &["swapoff", "/tmp"],
        &["acct", "/tmp"],
        &["quotactl", "/tmp"],
        &["dmesg"],
        &["iopl"],
        &["bpf"],
        &["perf"],
        &["userfaultfd"],
        &["io-uring"],
        &["keyctl"],
        &["add-key", "user"],
        &["request-key", "user"],
        &["fanotify"],
        &["open-by-handle"],
        &["vhangup"],
        &["capset-all"],
        &["setrlimit-nofile", "9000000"],
        &["personality", "0x40000"],
        &["tty-inject"],
        &["uid-map"],
        // Raw and foreign sockets: vsock, packet, alg, raw IP, netfilter.
        &["socket", "40,1,0"],
        &["socket", "17,3,3"],
        &["socket", "38,5,0"],
        &["socket", "2,3,1"],
        &["socket", "16,3,12"],
    ];
    for words in eperm {
        for user in USERS {
            let got = attempt(&sandbox, user, words).await;
            if got != "EPERM" {
                wrong.push(format!("{} as {user}: {got}", words.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let disk = a_disk();
    let uevent_helper = "/sys/kernel/uevent_helper";
    // A kernel built without a file has nothing to refuse.
    let refused = |path: &str| if fs::exists(path).unwrap() { "EACCES" } else { "ENOENT" };
    let table: &[(&[&str], &str, &str)] = &[
        (&["clone3-user"], "ENOSYS", "ENOSYS"),
        // Making nodes needs a capability of the first user namespace.
        (&["mknod-disk", &disk], "EPERM", "EPERM"),
        // Also nobody has the default capabilities; becoming root inside gives no more than those.
        (&["setuid", "0"], "ok", "ok"),
        (&["setgroups"], "ok", "ok"),
        (&["open-write", "/proc/sys/kernel/core_pattern"], "EACCES", "EACCES"),
        (&["open-write", "/proc/sys/kernel/hostname"], "EACCES", "EACCES"),
        (&["open-write", "/proc/sysrq-trigger"], refused("/proc/sysrq-trigger"), refused("/proc/sysrq-trigger")),
        (&["open-write", uevent_helper], refused(uevent_helper), refused(uevent_helper)),
        (&["open-write", "/sys/power/state"], refused("/sys/power/state"), refused("/sys/power/state")),
        (&["open-read", "/dev/mem"], "ENOENT", "ENOENT"),
        (&["open-read", "/dev/kmsg"], "ENOENT", "ENOENT"),
        (&["open-read", "/dev/kvm"], "ENOENT", "ENOENT"),
        (&["open-read", "/dev/fuse"], "ENOENT", "ENOENT"),
        (&["open-write", "/local/probe"], "EACCES", "EACCES"),
    ];
    demand(&sandbox, table).await;
    sandbox.end().await;
}

//! What a sandbox has of its own, and what it does not get.

use std::fs;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use moat_engine::driver::Driver as _;
use moat_model::SandboxSpec;
use moat_model::spec::{HostNamespaces, RootSpec, Security};

use crate::harness::*;

/// Every namespace is its own, but for those of the host it asked for.
#[tokio::test]
async fn n01_every_namespace_is_its_own_but_those_asked_for() {
    let Some(host) = Host::with("N01", shared()) else { return };
    for (pid, ipc) in [(false, false), (false, true), (true, false), (true, true)] {
        let sandbox = host.sandbox(SandboxSpec { host: HostNamespaces { pid, ipc }, ..spec(RootSpec::Host) }).await;
        for kind in ["mnt", "pid", "ipc", "net", "uts", "cgroup", "user"] {
            let link = |pid: String| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            let shared = link(sandbox.pid().to_string()) == link("self".to_owned());
            assert_eq!(shared, (kind == "pid" && pid) || (kind == "ipc" && ipc), "{kind} of {pid} {ipc}");
        }
        assert_eq!(
            read(format!("/proc/{}/uid_map", sandbox.pid())).split_whitespace().collect::<Vec<_>>(),
            ["0", &sandbox.place.uid_base.to_string(), "65536"]
        );
        // Programs start and end as ever, and what they leave behind goes with them.
        assert_eq!(sandbox.sh("setsid sleep 1000 >/dev/null 2>&1 & echo started").await.stdout.trim(), "started");
        sandbox.end().await;
    }
}

/// With permission to ask for namespaces of the host.
fn shared() -> moat_drivers::container::ContainerConfig {
    moat_drivers::container::ContainerConfig { allow_host_pid: true, allow_host_ipc: true, ..config() }
}

#[tokio::test]
async fn namespaces_of_the_host_are_the_operators_to_give() {
    let Some(host) = Host::new("host namespaces") else { return };
    for (asked, field) in [
        (HostNamespaces { pid: true, ipc: false }, "host.pid: "),
        (HostNamespaces { pid: false, ipc: true }, "host.ipc: "),
    ] {
        let spec = SandboxSpec { host: asked, ..spec(RootSpec::Host) };
        let place = host.place();
        for refusal in
            [host.driver.validate(&spec).unwrap_err(), host.driver.create(&place, &spec).await.map(drop).unwrap_err()]
        {
            assert_eq!(refusal.kind, moat_model::ErrorKind::Denied);
            assert!(refusal.doing.starts_with(field) && refusal.doing.contains("jobs."), "{refusal}");
        }
        assert!(!place.run_dir.exists());
    }
}

/// Seeing the host's processes is not reaching them.
#[tokio::test]
async fn n35_the_hosts_processes_are_seen_and_not_reached() {
    let Some(host) = Host::with("N35 (host)", shared()) else { return };
    let asked = HostNamespaces { pid: true, ipc: true };
    let sandbox =
        host.sandbox(SandboxSpec { host: asked, artifact: Some(probe_artifact()), ..spec(RootSpec::Host) }).await;
    let mine = std::process::id().to_string();
    assert_eq!(sandbox.sh(&format!("cat /proc/{mine}/stat | cut -d' ' -f1")).await.ok(), mine);
    let own: u32 = sandbox.sh("echo $$").await.ok().parse().unwrap();
    assert!(own > 2, "{own}");
    for (words, errno) in [
        (["kill".to_owned(), mine.clone()], "EPERM"),
        (["kill-hard".to_owned(), "1".to_owned()], "EPERM"),
        (["ptrace".to_owned(), mine.clone()], "EPERM"),
        (["open-read".to_owned(), format!("/proc/{mine}/environ")], "EACCES"),
        (["open-read".to_owned(), format!("/proc/{mine}/root/etc/passwd")], "EACCES"),
        (["open-write".to_owned(), "/proc/sys/kernel/hostname".to_owned()], "EACCES"),
        (["open-write".to_owned(), format!("/proc/{mine}/oom_score_adj")], "EACCES"),
        (["remount-rw".to_owned(), "/proc/sys".to_owned()], "EPERM"),
        (["umount".to_owned(), "/proc".to_owned()], "EPERM"),
    ] {
        let tried = sandbox.exec_as("root", &["/local/probe", "try", &words[0], &words[1]]).await;
        assert_eq!(tried.ok(), errno, "{words:?}");
    }
    sandbox.end().await;
}

#[tokio::test]
async fn n09_oom_score_of_the_daemon_is_not_inherited() {
    let Some(host) = Host::new("N09") else { return };
    let own = "/proc/self/oom_score_adj";
    let before = read(own);
    // Lowering it may not be permitted here; what must not be inherited is any value.
    let changed = ["-100", "100"].into_iter().any(|score| fs::write(own, score).is_ok());
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    fs::write(own, before.trim()).unwrap();
    assert!(changed);
    assert_eq!(read(format!("/proc/{}/oom_score_adj", sandbox.pid())).trim(), "0");
    assert_eq!(sandbox.sh("cat /proc/self/oom_score_adj").await.ok(), "0");
}

/// Root gets the computed set like everybody else.
#[tokio::test]
async fn n10_capability_masks() {
    let Some(host) = Host::new("N10") else { return };
    let sandbox = host.sandbox(probe_spec()).await;
    let nobody = sandbox.exec(&["/local/probe", "ids"]).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(nobody.ok(), set), "00000000a80405fb", "{set} of nobody");
    }
    assert_eq!(field(nobody.ok(), "Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(field(nobody.ok(), "NoNewPrivs"), "1");
    assert_eq!(field(nobody.ok(), "Seccomp"), "2");
    let root = sandbox.exec_as("root", &["/local/probe", "ids"]).await;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(root.ok(), set), "00000000a80405fb", "{set} of root");
    }
    sandbox.end().await;

    let security = Security {
        cap_drop: vec!["all".to_owned()],
        cap_add: vec!["net_bind_service".to_owned()],
        ..Security::default()
    };
    let sandbox = host.sandbox(SandboxSpec { security, ..probe_spec() }).await;
    let reduced = sandbox.exec(&["/local/probe", "ids"]).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(reduced.ok(), set), "0000000000000400", "{set}");
    }
}

/// Sandboxes are given no devices but the stock ones; those are what they claim to be.
#[tokio::test]
async fn n13_devices_are_the_stock_ones() {
    moat_testkit::not_run("N13 (device grants)", "a spec grants no devices in this version");
    let Some(host) = Host::new("N13") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let listed = sandbox.sh("cd /dev && stat -c '%n %F %t:%T %a' null zero full random urandom tty").await;
    let expected = "null character special file 1:3 666\nzero character special file 1:5 666\n\
         full character special file 1:7 666\nrandom character special file 1:8 666\n\
         urandom character special file 1:9 666\ntty character special file 5:0 666";
    assert_eq!(listed.ok(), expected);
    assert_eq!(
        sandbox.sh("ls /dev").await.ok().split_whitespace().collect::<Vec<_>>(),
        [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
            "urandom", "zero"
        ]
    );
}

#[tokio::test]
async fn n36_ending_one_sandbox_leaves_the_devices_of_another() {
    let Some(host) = Host::new("N36") else { return };
    let (one, other) = (host.sandbox(spec(RootSpec::Host)).await, host.sandbox(spec(RootSpec::Host)).await);
    one.end().await;
    let line = "echo x > /dev/null && head -c 3 /dev/zero | od -An -tx1";
    assert_eq!(other.sh(line).await.ok(), "00 00 00");
}

#[tokio::test]
async fn n42_programs_start_with_three_descriptors() {
    let Some(host) = Host::new("N42") else { return };
    let sandbox = host.sandbox(SandboxSpec { main: Some(process(&["/local/probe", "fds"])), ..probe_spec() }).await;
    let numbers = |text: &str| text.lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    let exec = sandbox.exec(&["/local/probe", "fds"]).await;
    assert_eq!(numbers(exec.ok()), ["0", "1", "2"]);
    sandbox.start_main().await;
    let main = sandbox.main_to_end().await;
    assert_eq!(numbers(main.ok()), ["0", "1", "2"]);
    // Nor does the agent hold anything of the host but its listening socket and /dev/null; its one directory is what the
    // sandbox itself changed, and read-only.
    let changes = PathBuf::from(format!("/proc/{}/fd/5", sandbox.pid()));
    assert_eq!(fs::write(changes.join("x"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    for entry in fs::read_dir(format!("/proc/{}/fd", sandbox.pid())).unwrap() {
        let path = entry.unwrap().path();
        let to = fs::read_link(&path).unwrap().display().to_string();
        let harmless = ["/dev/null", "socket:", "anon_inode:", "pipe:"].iter().any(|start| to.starts_with(start));
        assert!(harmless || path == changes, "{to}");
    }
}

#[tokio::test]
async fn n43_ipc_and_abstract_sockets_of_the_host_are_invisible() {
    let Some(host) = Host::new("N43") else { return };
    let name = format!("moat-n43-{}", std::process::id());
    let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert!(read("/proc/net/unix").contains(&name));
    let shared = tempfile::Builder::new().prefix("moat-n43-").tempfile_in("/dev/shm").unwrap();
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    assert!(!sandbox.sh("cat /proc/net/unix").await.ok().contains(&name));
    assert_eq!(sandbox.sh("ls /dev/shm /dev/mqueue | grep -v :").await.stdout.trim(), "");
    assert!(shared.path().exists());
    // One line of headings: no segment, queue or semaphore.
    for kind in ["shm", "msg", "sem"] {
        assert_eq!(sandbox.sh(&format!("wc -l < /proc/sysvipc/{kind}")).await.ok(), "1", "{kind}");
    }
    let interfaces = sandbox.sh("tail -n +3 /proc/net/dev | cut -d: -f1").await;
    assert_eq!(interfaces.ok(), "lo");
}

/// What the kernel shows of the host is masked or read-only.
#[tokio::test]
async fn kernel_file_systems_tell_and_switch_nothing() {
    let Some(host) = Host::new("masks") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    assert_eq!(
        sandbox.sh_root("cat /proc/keys /proc/kcore /proc/timer_list /proc/interrupts 2>/dev/null").await.stdout,
        ""
    );
    assert_eq!(sandbox.sh_root("ls /sys/firmware").await.ok(), "");
    let switches = ["/proc/sys/kernel/core_pattern", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger"];
    for switch in switches.into_iter().filter(|path| std::path::Path::new(path).exists()) {
        let refused = sandbox.sh_root(&format!("echo 1 > {switch}")).await;
        assert!(refused.stderr.contains("Read-only file system"), "{switch}: {refused:?}");
    }
    let refused = sandbox.sh_root("echo 1 > /sys/kernel/uevent_seqnum").await;
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    assert_eq!(sandbox.sh("hostname").await.ok(), sandbox.place.id.as_str());
    assert_ne!(sandbox.sh_root("cat /proc/1/environ").await.exit.code, 0);
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("{name} in {status}"))
}

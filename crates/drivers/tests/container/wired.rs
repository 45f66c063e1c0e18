//! Sandboxes in a network namespace that somebody made for them: the names they are given there, and that nobody inside,
//! root least of all, can do anything to it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use moat_drivers::container::ContainerConfig;
use moat_engine::driver::{Driver as _, Place};
use moat_engine::fabric::NetworkPlace;
use moat_engine::guest::AttachOutput;
use moat_model::network::{HostLabel, NetworkMode, NetworkSpec};
use moat_model::spec::{RootSpec, Security};
use moat_model::{ErrorKind, SandboxSpec};
use rustix::mount::{UnmountFlags, unmount};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::*;
use crate::image::*;

const GATEWAY: &str = "169.254.1.1";

/// A namespace with an `eth0` as the node makes it, and one in the node's place at the other end. Nothing of the machine's own
/// network is touched.
struct Wire {
    inside: PathBuf,
    outside: PathBuf,
    address: Ipv4Addr,
}

impl Wire {
    fn new(host: &Host, name: &str, address: Ipv4Addr) -> Self {
        let file = |suffix: &str| {
            let path = host.dir.path().join(format!("{name}{suffix}"));
            fs::write(&path, "").unwrap();
            path
        };
        let wire = Self { inside: file("-in"), outside: file("-out"), address };
        let (inside, outside) = (wire.inside.display(), wire.outside.display());
        shell(&format!("unshare --net={inside} true; unshare --net={outside} true"));
        // IPv6 first: an interface that is up once has an address.
        shell(&format!(
            "nsenter --net={inside} sh -ec '
                cd /proc/sys/net
                for which in all default; do echo 1 > ipv6/conf/$which/disable_ipv6 || true; done
                echo 0 > ipv4/ip_unprivileged_port_start
                echo 0 2147483647 > ipv4/ping_group_range
                ip link set lo up
                ip link add eth0 type veth peer name peer0
                ip link set peer0 netns {outside}
                ip address add {address}/32 dev eth0
                ip link set eth0 up
                ip route add {GATEWAY} dev eth0 scope link
                ip route add default via {GATEWAY}'
            nsenter --net={outside} sh -ec '
                ip link set lo up
                ip address add {GATEWAY}/32 dev peer0
                ip link set peer0 up
                ip route add {address}/32 dev peer0'
            nsenter --net={inside} timeout {} sh -ec '
                until ip -o link show eth0 | grep -q \"state UP\"; do sleep 0.05; done
                while ip route | grep -q linkdown; do sleep 0.05; done'",
            // That a link has a carrier is noticed some time after both ends are up.
            DEADLINE.as_secs()
        ));
        wire
    }

    fn place(&self, host: &Host) -> Place {
        let network = NetworkPlace {
            netns: self.inside.clone(),
            address: self.address,
            gateway: GATEWAY.parse().unwrap(),
            search: "default.moat".to_owned(),
            mac: [2, 0x10, 0, 0, 0, 1],
            gateway_mac: [2, 0x20, 0, 0, 0, 1],
            tap: "tap0".to_owned(),
        };
        Place { network: Some(network), ..host.place() }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for file in [&self.inside, &self.outside] {
            let _ = unmount(file, UnmountFlags::DETACH);
            let _ = fs::remove_file(file);
        }
    }
}

pub fn shell(script: &str) {
    let done = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Whether namespaces can be made with the programs of this machine.
pub fn can_wire(id: &str) -> bool {
    let found = ["ip", "unshare", "nsenter"].into_iter().find(|name| {
        !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).exists())
    });
    if let Some(missing) = found {
        moat_testkit::not_run(id, &format!("no {missing}"));
    }
    found.is_none()
}

fn wired(root: RootSpec) -> SandboxSpec {
    let mut network = NetworkSpec::new(NetworkMode::Internet);
    network.name = HostLabel::parse("web").ok();
    SandboxSpec { network, ..spec(root) }
}

fn wired_probe() -> SandboxSpec {
    SandboxSpec { artifact: Some(probe_artifact()), ..wired(RootSpec::Scratch) }
}

async fn attempt(sandbox: &Sandbox, user: &str, words: &[&str]) -> String {
    let all = [&["/local/probe", "try"], words].concat();
    sandbox.exec_as(user, &all).await.ok().to_owned()
}

#[tokio::test]
async fn it_lives_in_the_network_that_was_made_for_it() {
    let Some(host) = Host::new("wired").filter(|_| can_wire("wired")) else { return };
    let wire = Wire::new(&host, "a", [10, 77, 0, 2].into());
    let spec = SandboxSpec { artifact: Some(probe_artifact()), ..wired(RootSpec::Host) };
    let sandbox = host.sandbox_at(wire.place(&host), spec).await;
    let namespace = fs::metadata(format!("/proc/{}/ns/net", sandbox.pid())).unwrap();
    assert_eq!(namespace.ino(), fs::metadata(&wire.inside).unwrap().ino());
    assert_ne!(namespace.ino(), fs::metadata("/proc/self/ns/net").unwrap().ino());
    // Everything else is its own, as without a network.
    for kind in ["mnt", "pid", "ipc", "uts", "cgroup", "user"] {
        let link = |pid: String| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(link(sandbox.pid().to_string()), link("self".to_owned()), "{kind}");
    }

    assert_eq!(sandbox.sh("ls /sys/class/net").await.ok(), "eth0\nlo");
    let mounts = sandbox.sh("cat /proc/self/mounts").await;
    let options = |target: &str| {
        let mut lines = mounts.stdout.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.find(|words| words[1] == target).map(|words| format!("{} {}", words[2], words[3])).unwrap_or_default()
    };
    assert_eq!(options("/sys"), "sysfs ro,nosuid,nodev,noexec,relatime");
    assert!(options("/proc/sys").starts_with("proc ro,"), "{}", options("/proc/sys"));
    assert_eq!(
        sandbox.sh("ls /sys/firmware /sys/devices/virtual/powercap 2>&1 | grep -v -e : -e '^$'").await.stdout,
        ""
    );

    for user in ["root", "nobody"] {
        // Low ports and pings need no capability there; the address is the sandbox's, others are not.
        for (words, expected) in [
            (["bind", "0.0.0.0:80"], "ok"),
            (["bind", "10.77.0.2:53"], "ok"),
            (["bind", "127.0.0.1:81"], "ok"),
            (["bind", "10.77.0.3:80"], "EADDRNOTAVAIL"),
            (["socket", "2,2,1"], "ok"),
        ] {
            assert_eq!(attempt(&sandbox, user, &words).await, expected, "{words:?} as {user}");
        }
        // The other end answers: nobody listens there.
        let answer = sandbox.exec_as(user, &["/local/probe", "connect", &format!("{GATEWAY}:9")]).await;
        assert_eq!(answer.ok(), "ECONNREFUSED", "as {user}");
    }

    // The daemon reaches what listens on its loopback, past that network.
    let listener = sandbox.guest().spawn(&plain(&["/local/probe", "listen"])).await.unwrap();
    let mut follower = sandbox.guest().attach(listener, Default::default()).await.unwrap();
    let Some(AttachOutput::Data(line)) = follower.output.recv().await else { panic!("the listener says nothing") };
    let port = String::from_utf8_lossy(&line.bytes).trim().parse().unwrap();
    let mut channel = sandbox.guest().connect_port(port).await.unwrap();
    channel.write_all(b"hello ").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut back = String::new();
    tokio::time::timeout(DEADLINE, channel.read_to_string(&mut back)).await.unwrap().unwrap();
    assert_eq!(back, "hello bye");
    sandbox.end().await;
}

fn plain(words: &[&str]) -> moat_model::spec::ExecSpec {
    moat_model::spec::ExecSpec { process: process(words), pty: None, stdin: false, timeout: None }
}

/// With every capability there is, root inside is nobody in a namespace that belongs to the host.
#[tokio::test]
async fn root_inside_has_no_power_over_it() {
    let config = ContainerConfig { allow_caps: vec!["all".to_owned()], ..config() };
    let Some(host) = Host::with("wired power", config).filter(|_| can_wire("wired power")) else { return };
    let wire = Wire::new(&host, "a", [10, 77, 0, 2].into());
    let state = |wire: &Wire| {
        let show = ["ip address", "ip route show table all", "ip link"].map(|words| {
            let script = format!("nsenter --net={} {words}", wire.inside.display());
            String::from_utf8(Command::new("sh").args(["-ec", &script]).output().unwrap().stdout).unwrap()
        });
        show.join("\n")
    };
    let before = state(&wire);
    assert!(before.contains("10.77.0.2"), "{before}");
    for cap_add in [vec![], vec!["all".to_owned()]] {
        let security = Security { cap_add: cap_add.clone(), ..Security::default() };
        let sandbox = host.sandbox_at(wire.place(&host), SandboxSpec { security, ..wired_probe() }).await;
        let eth0 = fs::read_to_string(sandbox.root().join("sys/class/net/eth0/ifindex")).unwrap();
        let eth0 = eth0.trim();
        let mut eperm = vec![
            ["socket", "2,3,1"],
            ["socket", "2,3,255"],
            ["socket", "17,3,3"],
            ["socket", "17,2,3"],
            ["new-address", "1"],
            ["new-address", eth0],
            ["new-route", eth0],
            ["link-down", "eth0"],
            ["link-down", "lo"],
        ];
        if cap_add.is_empty() {
            eperm.extend([["unshare-net", "/"], ["setns", "/proc/self/ns/net"], ["remount-rw", "/sys"]]);
        }
        for user in ["root", "nobody"] {
            for words in &eperm {
                assert_eq!(attempt(&sandbox, user, words).await, "EPERM", "{words:?} as {user} with {cap_add:?}");
            }
            for path in ["ipv4/ip_forward", "ipv4/conf/eth0/rp_filter", "ipv4/ip_unprivileged_port_start"] {
                let words = ["write-text", &format!("/proc/sys/net/{path}=1")];
                assert_eq!(attempt(&sandbox, user, &words).await, "EACCES", "{words:?} as {user} with {cap_add:?}");
            }
            let mtu = attempt(&sandbox, user, &["write-text", "/sys/class/net/eth0/mtu=1000"]).await;
            assert!(mtu == "EROFS" || mtu == "EACCES", "{mtu} as {user} with {cap_add:?}");
        }
        // Flags of a mount that was made outside are not root's to take away.
        assert_eq!(attempt(&sandbox, "root", &["remount-rw", "/sys"]).await, "EPERM", "with {cap_add:?}");
        sandbox.end().await;
    }
    assert_eq!(state(&wire), before);
}

const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

fn expected(place: &Place, address: &str) -> String {
    let id = &place.id;
    format!(
        "{id}\n127.0.0.1\tlocalhost\n{address}\t{id} web.default.moat web\nnameserver {GATEWAY}\nsearch default.moat\n"
    )
}

#[tokio::test]
async fn n29_its_names_are_shown_over_those_of_the_host() {
    let Some(host) = Host::new("N29").filter(|_| can_wire("N29")) else { return };
    let wire = Wire::new(&host, "a", [10, 77, 0, 2].into());
    let of_host = || FILES.map(|name| fs::read(Path::new("/etc").join(name)).unwrap_or_default());
    let before = of_host();
    let sandbox = host.sandbox_at(wire.place(&host), wired(RootSpec::Host)).await;
    let read = "cat /etc/hostname /etc/hosts /etc/resolv.conf";
    assert_eq!(sandbox.sh(read).await.stdout, expected(&sandbox.place, "10.77.0.2"));
    // Its own root may change them, and changes nobody else's.
    assert_eq!(sandbox.sh_root("for f in hostname hosts resolv.conf; do echo mine > /etc/$f; done").await.ok(), "");
    assert_eq!(sandbox.sh(read).await.ok(), "mine\nmine\nmine");
    assert_eq!(of_host(), before);
    sandbox.end().await;

    // An empty root has nothing to show them over. The name is not known of a member of a pool.
    let mut spec = wired_probe();
    spec.network.name = None;
    let sandbox = host.sandbox_at(wire.place(&host), spec).await;
    let hosts = fs::read_to_string(sandbox.root().join("etc/hosts")).unwrap();
    assert_eq!(hosts, format!("127.0.0.1\tlocalhost\n10.77.0.2\t{}\n", sandbox.place.id));
    let conf = fs::read_to_string(sandbox.root().join("etc/resolv.conf")).unwrap();
    assert_eq!(conf, format!("nameserver {GATEWAY}\nsearch default.moat\n"));
    sandbox.end().await;

    // Without a network everything is as the host has it.
    let sandbox = host.sandbox(crate::harness::spec(RootSpec::Host)).await;
    assert_eq!(sandbox.sh("cat /etc/hostname").await.stdout.as_bytes(), before[0]);
}

#[tokio::test]
async fn links_of_an_image_lead_nowhere_and_nothing_of_it_is_captured() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "of the host").unwrap();
    let change = |dir: &Path| {
        fs::write(dir.join("etc/victim"), "of the image").unwrap();
        symlink("/etc/victim", dir.join("etc/resolv.conf")).unwrap();
        symlink(Path::new("../../../../..").join(outside.path().strip_prefix("/").unwrap()), dir.join("etc/hosts"))
            .unwrap();
        fs::write(dir.join("etc/hostname"), "image-name\n").unwrap();
    };
    let Some((host, image)) = with_image("wired image", change).filter(|_| can_wire("wired image")) else { return };
    let (one, other) = (Wire::new(&host, "a", [10, 77, 0, 2].into()), Wire::new(&host, "b", [10, 88, 0, 9].into()));
    let sandbox = host.sandbox_at(one.place(&host), wired(layers(&[&image]))).await;
    let read = "cat /etc/hostname /etc/hosts /etc/resolv.conf";
    assert_eq!(sandbox.sh(read).await.stdout, expected(&sandbox.place, "10.77.0.2"));
    assert_eq!(
        sandbox.sh_root("echo mine > /etc/resolv.conf && echo mine > /etc/hosts; cat /etc/victim").await.ok(),
        "of the image"
    );
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "of the host");
    assert_eq!(sandbox.sh_root("echo kept > /etc/kept").await.exit.code, 0);

    let file = host.dir.path().join("first.erofs");
    let freezer = host.driver.freezer().unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    host.driver.capturer().unwrap().capture(sandbox.record(), &file).await.unwrap();
    freezer.thaw(sandbox.record()).await.unwrap();
    let bytes = fs::read(&file).unwrap();
    for text in ["10.77.0.2", "web.default", "mine"] {
        assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text} was captured");
    }
    let first = moat_model::spec::RootLayer { digest: "f".repeat(64), path: file };
    // A fork has its own, and one without a network what the image had.
    let fork = host.sandbox_at(other.place(&host), wired(layers(&[&image, &first]))).await;
    assert_eq!(fork.sh(read).await.stdout, expected(&fork.place, "10.88.0.9"));
    assert_eq!(fork.sh("cat /etc/kept").await.ok(), "kept");
    let lone = host.sandbox(spec(layers(&[&image, &first]))).await;
    let seen = "cat /etc/kept /etc/hostname /etc/resolv.conf; stat -c '%F %N' /etc/hosts /etc/resolv.conf";
    let target = format!("../../../../..{}", outside.path().display());
    assert_eq!(
        lone.sh(seen).await.ok().replace('`', "'"),
        format!(
            "kept\nimage-name\nof the imagesymbolic link '/etc/hosts' -> '{target}'\nsymbolic link '/etc/resolv.conf' -> \
             '/etc/victim'"
        )
    );
}

#[tokio::test]
async fn a_directory_of_names_that_is_a_link_is_followed_inside_the_root() {
    let change = |dir: &Path| {
        fs::rename(dir.join("etc"), dir.join("opt/etc")).unwrap();
        symlink("/opt/etc", dir.join("etc")).unwrap();
    };
    let Some((host, image)) = with_image("wired etc", change).filter(|_| can_wire("wired etc")) else { return };
    let wire = Wire::new(&host, "a", [10, 77, 0, 2].into());
    let sandbox = host.sandbox_at(wire.place(&host), wired(layers(&[&image]))).await;
    let read = "cat /etc/hostname /etc/hosts /opt/etc/resolv.conf";
    assert_eq!(sandbox.sh(read).await.stdout, expected(&sandbox.place, "10.77.0.2"));
    // Users are still found where the link leads.
    assert_eq!(sandbox.exec_as("ann", &["/bin/id", "-u"]).await.ok(), "1000");
    sandbox.end().await;
    let nowhere = layer_of(host.dir.path(), "nowhere", |dir| symlink("/nowhere", dir.join("etc")).unwrap());
    let spec = SandboxSpec { artifact: Some(probe_artifact()), ..wired(layers(&[&nowhere])) };
    let sandbox = host.sandbox_at(wire.place(&host), spec).await;
    let names: String = FILES.iter().map(|name| read_in(&sandbox, &format!("etc/{name}"))).collect();
    assert_eq!(names, expected(&sandbox.place, "10.77.0.2"));
}

fn read_in(sandbox: &Sandbox, path: &str) -> String {
    fs::read_to_string(sandbox.root().join(path)).unwrap()
}

#[tokio::test]
async fn a_place_that_does_not_fit_is_never_made_up_for() {
    let Some(host) = Host::new("wired places").filter(|_| can_wire("wired places")) else { return };
    let wire = Wire::new(&host, "a", [10, 77, 0, 2].into());
    let fails = async |place: Place, spec: SandboxSpec, word: &str| {
        let error = host.driver.create(&place, &spec).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal, "{}", error.chain());
        assert!(error.chain().contains(word), "{word}: {}", error.chain());
        for resource in host.driver.plan(&place, &spec).iter().rev() {
            host.driver.release(resource).await.unwrap();
        }
    };
    // No network where one was asked for would be a loopback; one where none was, a way out.
    fails(host.place(), wired_probe(), "internet was asked for and none was made").await;
    fails(wire.place(&host), probe_spec(), "isolated was asked for and one was made").await;
    let at = |netns: PathBuf| {
        let mut place = wire.place(&host);
        place.network.as_mut().unwrap().netns = netns;
        place
    };
    fails(at(host.dir.path().join("gone")), wired_probe(), "enter the network").await;
    let file = host.dir.path().join("file");
    fs::write(&file, "").unwrap();
    fails(at(file.clone()), wired_probe(), "Invalid argument").await;
    fails(at("/proc/self/ns/ipc".into()), wired_probe(), "enter the network").await;
    rustix::mount::mount_bind("/proc/self/ns/ipc", &file).unwrap();
    fails(at(file.clone()), wired_probe(), "Invalid argument").await;
    unmount(&file, UnmountFlags::DETACH).unwrap();
    rustix::mount::mount_bind("/proc/self/ns/net", &file).unwrap();
    fails(at(file.clone()), wired_probe(), "the host's own").await;
    unmount(&file, UnmountFlags::DETACH).unwrap();
    fs::remove_file(&file).unwrap();

    let security = Security { cap_add: vec!["net_raw".to_owned()], ..Security::default() };
    let error = host.driver.validate(&SandboxSpec { security, ..wired_probe() }).unwrap_err();
    assert!(error.chain().starts_with("security.cap_add"), "{}", error.chain());
}

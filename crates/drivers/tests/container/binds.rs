//! Directories of the host inside a sandbox: whose their files are, and that nothing gets past what was allowed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use moat_drivers::container::ContainerConfig;
use moat_engine::driver::Driver as _;
use moat_model::spec::{Bind, BindIds, RootSpec, Security};
use moat_model::{ErrorKind, SandboxSpec};

use crate::harness::*;

/// Id of root of a sandbox on disk, with default settings.
fn disk_ids() -> u32 {
    ContainerConfig::default().disk_ids
}

fn bind(source: &Path, target: &str, read_only: bool, ids: BindIds) -> Bind {
    Bind { source: source.to_owned(), target: PathBuf::from(target), read_only, ids }
}

/// A directory as the node makes them, owned by this id inside.
fn node_dir(dir: &Path, name: &str, owner: u32) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(&path).unwrap();
    chown(&path, Some(disk_ids() + owner), Some(disk_ids() + owner)).unwrap();
    path
}

fn with_binds(binds: Vec<Bind>) -> SandboxSpec {
    SandboxSpec { binds, ..spec(RootSpec::Host) }
}

/// Why it could not be created, without leaving anything.
async fn refused(host: &Host, spec: SandboxSpec) -> (ErrorKind, String) {
    let place = host.place();
    let error = host.driver.create(&place, &spec).await.map(drop).unwrap_err();
    for resource in host.driver.plan(&place, &spec).iter().rev() {
        host.driver.release(resource).await.unwrap();
    }
    (error.kind, error.chain())
}

#[tokio::test]
async fn files_of_the_nodes_directories_are_nobodys_on_the_host() {
    let Some(host) = Host::new("binds of the node") else { return };
    let dir = tempfile::tempdir().unwrap();
    let shared = node_dir(dir.path(), "alloc", 65_534);
    node_dir(&shared, "logs", 0);
    fs::copy(probe_artifact().path, shared.join("probe")).unwrap();
    fs::set_permissions(shared.join("probe"), fs::Permissions::from_mode(0o755)).unwrap();
    let local = node_dir(dir.path(), "local", 65_534);
    let binds = vec![
        // Deeper ones first: the order is the launcher's to find.
        bind(&shared.join("logs"), "/alloc/logs", true, BindIds::Node),
        bind(&shared, "/alloc", false, BindIds::Node),
        bind(&local, "/local", false, BindIds::Node),
    ];
    let [one, two] = [host.sandbox(with_binds(binds.clone())).await, host.sandbox(with_binds(binds)).await];

    // What nobody of one sandbox wrote, nobody of the other owns, though they are not the same on the host.
    assert_ne!(one.place.uid_base, two.place.uid_base);
    assert_eq!(one.sh("echo hello > /alloc/word && stat -c '%u:%g' /alloc/word").await.ok(), "65534:65534");
    assert_eq!(
        two.sh("cat /alloc/word && echo more >> /alloc/word && stat -c %U /alloc/word").await.ok(),
        "hello\nnobody"
    );
    let word = fs::metadata(shared.join("word")).unwrap();
    assert_eq!((word.uid(), word.gid()), (disk_ids() + 65_534, disk_ids() + 65_534));

    // Root inside is not root on disk, and whoever finds its set-user-id program does not become root either.
    let left =
        one.sh_root("cp /alloc/probe /alloc/suid && chown 0:0 /alloc/suid && chmod 6755 /alloc/suid && id -u").await;
    assert_eq!(left.ok(), "0");
    let suid = fs::metadata(shared.join("suid")).unwrap();
    assert_eq!((suid.uid(), suid.gid(), suid.mode() & 0o7777), (disk_ids(), disk_ids(), 0o6755));
    assert_eq!(two.sh("stat -c %u /alloc/suid && /alloc/suid say 0 ran").await.ok(), "0\nran");

    // What was fetched without the right to be executed is executed all the same, if it is the task's own.
    let fetched = local.join("fetched");
    fs::copy(probe_artifact().path, &fetched).unwrap();
    chown(&fetched, Some(disk_ids() + 65_534), Some(disk_ids() + 65_534)).unwrap();
    fs::set_permissions(&fetched, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("/alloc/probe", local.join("link")).unwrap();
    fs::set_permissions(shared.join("probe"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(one.exec(&["fetched", "args", "ran"]).await.ok(), "ran");
    assert_eq!(fs::metadata(&fetched).unwrap().mode() & 0o7777, 0o755);
    assert!(one.exec_refused(&["link", "args", "ran"]).await.contains("permission denied"));
    fs::set_permissions(shared.join("probe"), fs::Permissions::from_mode(0o755)).unwrap();

    // Logs cannot be written, replaced, or made writable, whatever the permissions say.
    fs::write(shared.join("logs/main"), "line").unwrap();
    chown(shared.join("logs/main"), Some(disk_ids()), Some(disk_ids())).unwrap();
    fs::set_permissions(shared.join("logs/main"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(one.exec(&["/alloc/probe", "try", "open-write", "/alloc/logs/main"]).await.ok(), "EROFS");
    for (line, why) in [
        ("echo x > /alloc/logs/new", "Read-only file system"),
        ("rm -f /alloc/logs/main", "Read-only file system"),
        ("chmod 777 /alloc/logs", "Read-only file system"),
        ("mv /alloc/logs /alloc/away", "busy"),
        ("ln /alloc/logs/main /alloc/linked", "cross-device"),
    ] {
        let tried = one.sh_root(line).await;
        assert!(!tried.exit.success(), "{line}: {tried:?}");
        assert!(tried.stderr.to_lowercase().contains(&why.to_lowercase()), "{line}: {tried:?}");
    }
    // Nothing mounted there is a device or raises rights, and nothing mounted on the host later shows inside.
    let mounts = read(format!("/proc/{}/mountinfo", one.pid()));
    for point in [" /alloc ", " /alloc/logs ", " /local "] {
        let line = mounts.lines().rev().find(|line| line.contains(point)).unwrap();
        assert!(line.contains("nosuid,nodev") && line.contains("idmapped"), "{line}");
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
    one.end().await;
    two.end().await;
}

/// With every capability there is inside, which system calls of mounts need to get past the filter.
#[tokio::test]
async fn a_read_only_bind_stays_so_for_whoever_may_mount() {
    let Some(host) = Host::with("binds read-only", ContainerConfig { allow_caps: vec!["all".to_owned()], ..config() })
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    // Everybody may write it, so that only the mount can refuse.
    fs::set_permissions(dir.path().join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    for (ids, owner) in [(BindIds::Node, disk_ids() + 1000), (BindIds::Host, 1000)] {
        chown(dir.path().join("file"), Some(owner), Some(owner)).unwrap();
        let security = Security { cap_add: vec!["all".to_owned()], ..Security::default() };
        let binds = vec![bind(dir.path(), "/srv/ro", true, ids)];
        let sandbox =
            host.sandbox(SandboxSpec { security, artifact: Some(probe_artifact()), ..with_binds(binds) }).await;
        for (words, errno) in [
            (["open-write", "/srv/ro/file"], "EROFS"),
            (["remount-rw", "/srv/ro"], "EPERM"),
            (["umount", "/srv/ro"], "EINVAL"),
        ] {
            let tried = sandbox.exec_as("root", &["/local/probe", "try", words[0], words[1]]).await;
            assert_eq!(tried.ok(), errno, "{ids:?} {words:?}");
        }
        // A bind of the bind, made inside, is no way round either.
        let again =
            sandbox.sh_root("mkdir /tmp/x && mount --bind /srv/ro /tmp/x && mount -o remount,rw,bind /tmp/x").await;
        assert!(!again.exit.success(), "{again:?}");
        let write = sandbox.sh_root("echo x > /tmp/x/file || echo x > /srv/ro/file").await;
        assert!(!write.exit.success(), "{write:?}");
        assert_eq!(read(dir.path().join("file")), "", "{ids:?}");
        sandbox.end().await;
    }
}

/// N14: a directory of the operator's, read-only and not.
#[tokio::test]
async fn n14_ids_of_the_operators_directories_are_the_hosts() {
    let Some(host) = Host::new("N14 (operator's directories)") else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (mine, roots) = (dir.path().join("mine"), dir.path().join("roots"));
    for (path, owner) in [(&mine, 1234), (&roots, 0)] {
        fs::create_dir(path).unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    fs::write(roots.join("secret"), "x").unwrap();
    fs::set_permissions(roots.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let binds = vec![bind(dir.path(), "/srv/data", false, BindIds::Host)];
    let sandbox = host.sandbox(SandboxSpec { artifact: Some(probe_artifact()), ..with_binds(binds) }).await;
    let written = sandbox.exec_as("1234:1234", &["/bin/sh", "-c", "echo mine > /srv/data/mine/file; id -u"]).await;
    assert_eq!(written.ok(), "1234");
    assert_eq!(fs::metadata(mine.join("file")).unwrap().uid(), 1234);
    assert_eq!(read(mine.join("file")), "mine\n");
    // Root inside is nobody to the host's root: it reads nothing of it, changes nothing of it, and leaves nothing as it.
    let tried = |words: &'static [&'static str]| {
        let all: Vec<&str> = ["/local/probe", "try"].iter().chain(words).copied().collect();
        let sandbox = &sandbox;
        async move { sandbox.exec_as("root", &all).await.ok().to_owned() }
    };
    assert_eq!(tried(&["open-read", "/srv/data/roots/secret"]).await, "EACCES");
    assert_eq!(tried(&["open-write", "/srv/data/roots/secret"]).await, "EACCES");
    let made = sandbox.sh_root("touch /srv/data/mine/rooted").await;
    assert!(made.stderr.contains("Value too large"), "{made:?}");
    let given = sandbox.sh_root("chown 0 /srv/data/mine/file").await;
    assert!(!given.exit.success(), "{given:?}");
    assert!(!mine.join("rooted").exists());
    assert_eq!(fs::metadata(mine.join("file")).unwrap().uid(), 1234);
    sandbox.end().await;
}

#[tokio::test]
async fn what_cannot_be_shown_is_refused_by_name() {
    let Some(host) = Host::new("binds refused") else { return };
    let dir = tempfile::tempdir().unwrap();
    let real = node_dir(dir.path(), "real", 0);
    fs::write(real.join("file"), "").unwrap();
    symlink(&real, dir.path().join("link")).unwrap();
    symlink("/etc", real.join("out")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap();
    assert!(fifo.success());
    let node = |source: &str, target: &str| bind(&dir.path().join(source), target, false, BindIds::Node);
    let inner = |target: &str| vec![node("real", "/srv/a"), node("real/file", target)];
    let own = vec![bind(&host.dir.path().join("data"), "/srv/x", false, BindIds::Host)];
    for (binds, named) in [
        (vec![node("link", "/srv/x")], "a symbolic link is not followed"),
        (vec![node("fifo", "/srv/x")], "sockets, pipes and devices are not shown"),
        (vec![node("absent", "/srv/x")], "No such file"),
        (
            vec![bind(Path::new("/proc"), "/srv/x", true, BindIds::Host)],
            "(proc), or one mounted below it, cannot be shown",
        ),
        // Below another bind nothing is made and no link is followed.
        (inner("/srv/a/new"), "it lies in what is shown at /srv/a, where nothing is made"),
        (inner("/srv/a/out/passwd"), "it lies in what is shown at /srv/a"),
        (own, "would show the node's own directory"),
    ] {
        let (_, said) = refused(&host, with_binds(binds)).await;
        assert!(said.contains(named), "{named}: {said}");
    }
    assert_eq!(fs::read_dir(&real).unwrap().count(), 2, "nothing was made in it");
    for (target, field) in [
        ("/", "binds.target"),
        ("srv", "binds.target"),
        ("/srv/../etc", "binds.target"),
        ("/srv/./x", "binds.target"),
        ("/proc", "binds.target"),
        ("/proc/sys", "binds.target"),
        ("/dev/shm", "binds.target"),
        ("/sys", "binds.target"),
        ("/private", "binds.target"),
        ("/secrets/key", "binds.target"),
    ] {
        let refusal = host.driver.validate(&with_binds(vec![node("real", target)])).unwrap_err();
        assert!(refusal.doing.starts_with(field), "{target}: {refusal}");
    }
    let twice = with_binds(vec![node("real", "/srv/a"), node("real", "/srv/a")]);
    assert!(host.driver.validate(&twice).unwrap_err().doing.contains("the target of two"));
    let many = (0..65).map(|n| node("real", &format!("/srv/{n}"))).collect();
    assert!(host.driver.validate(&with_binds(many)).unwrap_err().doing.starts_with("binds: 65"));
    let task_dir = SandboxSpec { task_dir: Some(real), ..spec(RootSpec::Host) };
    assert!(host.driver.validate(&task_dir).unwrap_err().doing.starts_with("task_dir"));
}

/// A root somebody else made may have links where a directory is wanted.
#[tokio::test]
async fn a_link_in_the_root_is_neither_followed_nor_replaced() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("opt/real")).unwrap();
    symlink("/dev", tree.path().join("opt/led")).unwrap();
    let paths = std::collections::BTreeMap::from([(tree.path().join("opt"), PathBuf::from("/opt"))]);
    let Some(host) = Host::with("binds and links", ContainerConfig { host_paths: paths, ..config() }) else { return };
    let dir = tempfile::tempdir().unwrap();
    for target in ["/opt/led", "/opt/led/shm"] {
        let (_, said) = refused(&host, with_binds(vec![bind(dir.path(), target, true, BindIds::Node)])).await;
        assert!(said.contains("a link in the root is not followed"), "{target}: {said}");
    }
    let sandbox = host.sandbox(with_binds(vec![bind(dir.path(), "/opt/real/deep/er", true, BindIds::Node)])).await;
    assert!(sandbox.root().join("opt/real/deep/er").is_dir());
    assert!(!tree.path().join("opt/real/deep").exists(), "what was missing was made in the private layer");
    sandbox.end().await;
}

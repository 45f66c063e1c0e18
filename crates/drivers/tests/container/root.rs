//! What is in the root, how programs are found in it, and that the host's part of it cannot be changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use moat_drivers::container::ContainerConfig;
use moat_engine::driver::Driver as _;
use moat_model::SandboxSpec;
use moat_model::spec::{Artifact, Resources, RootSpec, Security};

use crate::harness::*;

/// A driver whose `host` template shows these, from a directory made for the test.
fn mapped(id: &str, dir: &Path, paths: &[(&str, &str)]) -> Option<Host> {
    let host_paths = paths.iter().map(|(from, to)| (dir.join(from), PathBuf::from(to))).collect::<BTreeMap<_, _>>();
    Host::with(id, ContainerConfig { host_paths, ..config() })
}

/// A directory everybody may enter, as mapped ones are.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("moat-tree-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn put_probe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(probe_artifact().path, path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn n02_listing_of_a_minimal_root() {
    let dir = tree();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/one"), "1").unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink("usr/bin", dir.path().join("bin")).unwrap();
    let paths = [("etc", "/etc"), ("bin", "/bin"), ("file", "/opt/deep/file"), ("missing", "/missing")];
    let Some(host) = mapped("N02", dir.path(), &paths) else { return };
    let own = ["alloc", "dev", "local", "private", "proc", "secrets", "sys", "tmp"];

    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let mut expected: Vec<&str> = own.iter().chain(&["bin", "etc", "opt"]).copied().collect();
    expected.sort_unstable();
    assert_eq!(listing(&sandbox.root()), expected);
    assert_eq!(listing(&sandbox.root().join("etc")), ["one"]);
    assert_eq!(fs::read_link(sandbox.root().join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(read(sandbox.root().join("opt/deep/file")), "content");
    assert_eq!(sandbox.record().data["notes"], serde_json::json!([]));
    sandbox.end().await;

    let sandbox = host.sandbox(spec(RootSpec::Scratch)).await;
    assert_eq!(listing(&sandbox.root()), own);
    assert_eq!(listing(&sandbox.root().join("alloc")), ["data", "logs", "tmp"]);
}

/// A05: directories in directories, links in them, and what is not there, as mapped paths and below them.
#[tokio::test]
async fn a05_nested_directories_links_and_missing_paths_are_shown() {
    let dir = tree();
    fs::create_dir_all(dir.path().join("opt/one/two")).unwrap();
    fs::write(dir.path().join("opt/one/two/deep"), "deep").unwrap();
    fs::create_dir_all(dir.path().join("other")).unwrap();
    fs::write(dir.path().join("other/file"), "other").unwrap();
    fs::create_dir_all(dir.path().join("inner")).unwrap();
    fs::write(dir.path().join("inner/file"), "inner").unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, dir.path().join(at)).unwrap();
    link("two/deep", "opt/one/near");
    link("/other/file", "opt/one/far");
    link("nowhere", "opt/one/broken");
    let paths = [("opt", "/opt"), ("inner", "/opt/one/inner"), ("other", "/other"), ("gone/deep", "/gone/deep")];
    let Some(host) = mapped("A05", dir.path(), &paths) else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let root = sandbox.root();
    assert_eq!(listing(&root.join("opt/one")), ["broken", "far", "inner", "near", "two"]);
    assert_eq!(fs::read_link(root.join("opt/one/broken")).unwrap(), Path::new("nowhere"));
    assert!(!root.join("gone").exists());
    // Followed inside: a link of the host's leads to what the sandbox has under that name.
    put_probe(&dir.path().join("other/probe"));
    for (path, holds) in [("two/deep", "deep"), ("near", "deep"), ("far", "other"), ("inner/file", "inner")] {
        let path = format!("/opt/one/{path}");
        let shown = sandbox.exec(&["/other/probe", "show", &path]).await;
        assert_eq!(shown.ok(), holds, "{path}");
    }
}

#[tokio::test]
async fn n07_commands_are_looked_up_in_the_root_alone() {
    let dir = tree();
    for path in ["ulb/tool", "foo/x", "srv/y"] {
        put_probe(&dir.path().join(path));
    }
    fs::create_dir_all(dir.path().join("ulb/folder")).unwrap();
    let paths = [("ulb", "/usr/local/bin"), ("foo", "/foo"), ("srv", "/srv")];
    let Some(host) = mapped("N07", dir.path(), &paths) else { return };
    let artifact = Some(Artifact { name: "app".to_owned(), ..probe_artifact() });
    let sandbox = host.sandbox(SandboxSpec { artifact, ..spec(RootSpec::Host) }).await;
    for found in ["tool", "/usr/local/bin/tool", "/foo/x", "foo/x", "/local/app", "local/app", "app", "/srv/y"] {
        assert_eq!(sandbox.exec(&[found, "args", "hello"]).await.ok(), "hello", "{found}");
    }
    let on_host = dir.path().join("foo/x");
    for absent in ["x", "y", "folder", "/usr/local/bin/folder", "../tool", on_host.to_str().unwrap(), "/bin/sh"] {
        let refusal = sandbox.exec_refused(&[absent]).await;
        assert!(refusal.contains(absent), "{absent}: {refusal}");
    }
}

#[tokio::test]
async fn n08_what_is_not_mapped_is_not_found() {
    let dir = tree();
    put_probe(&dir.path().join("bin/echo"));
    let Some(host) = mapped("N08", dir.path(), &[("bin", "/bin")]) else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    for absent in ["/bin/kill", "kill"] {
        let refusal = sandbox.exec_refused(&[absent]).await;
        assert!(refusal.contains(absent), "{refusal}");
    }
    assert_eq!(sandbox.exec(&["echo", "args", "here"]).await.ok(), "here");
}

/// What a sandbox is shown of its own logs is read-only, and lies on the host's own file system. Binds that may be
/// written are in `binds.rs`.
#[tokio::test]
async fn n14_binds_are_the_hosts_files_and_read_only() {
    moat_testkit::not_run("N14 (devices)", "a spec grants no devices in this version");
    let Some(host) = Host::new("N14") else { return };
    let logs = tree();
    fs::set_permissions(logs.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(logs.path().join("main.log"), "line\n").unwrap();
    fs::set_permissions(logs.path().join("main.log"), fs::Permissions::from_mode(0o666)).unwrap();
    let artifact = Some(probe_artifact());
    let log_dir = Some(logs.path().to_path_buf());
    let sandbox = host.sandbox(SandboxSpec { log_dir, artifact, ..spec(RootSpec::Host) }).await;
    let inside = fs::metadata(sandbox.root().join("alloc/logs/main.log")).unwrap();
    let outside = fs::metadata(logs.path().join("main.log")).unwrap();
    assert_eq!((inside.dev(), inside.ino()), (outside.dev(), outside.ino()));
    assert_eq!(sandbox.sh("cat /alloc/logs/main.log").await.ok(), "line");
    // World-writable on the host, so that only the mount can refuse.
    let tried = sandbox.exec(&["/local/probe", "try", "open-write", "/alloc/logs/main.log"]).await;
    assert_eq!(tried.ok(), "EROFS");
    // A file created on the host appears inside.
    fs::write(logs.path().join("later"), "").unwrap();
    assert!(sandbox.root().join("alloc/logs/later").exists());
}

#[tokio::test]
async fn n40_the_hosts_files_stay_as_they_are() {
    let Some(host) = Host::new("N40") else { return };
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let before = (fs::read(&shell).unwrap(), fs::metadata(&shell).unwrap().mode(), fs::read("/etc/passwd").unwrap());
    let marker = format!("moat-n40-{}", std::process::id());
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let path = shell.display();
    for line in [
        format!("echo x > {path}"),
        format!("truncate -s 0 {path}"),
        format!("chmod 4777 {path}"),
        format!("chown 0 {path}"),
        format!("rm -f {path} && test ! -e {path}"),
        "cat /etc/shadow".to_owned(),
        "ln /etc/shadow /etc/stolen && cat /etc/stolen".to_owned(),
    ] {
        let tried = sandbox.sh_root(&line).await;
        assert!(!tried.exit.success(), "{line}: {tried:?}");
        assert!(["Permission denied", "not permitted"].iter().any(|e| tried.stderr.contains(e)), "{line}: {tried:?}");
    }
    // In the mapped directory itself files may be added and replaced: in the private layer.
    let edit = format!(
        "echo mine > /etc/{marker} && rm /etc/passwd && echo root:x:0:0::/:/bin/sh > /etc/passwd && cat /etc/{marker}"
    );
    assert_eq!(sandbox.sh_root(&edit).await.ok(), "mine");
    assert_eq!(sandbox.sh("wc -l < /etc/passwd").await.ok(), "1");
    assert!(!Path::new("/etc").join(&marker).exists());
    let after = (fs::read(&shell).unwrap(), fs::metadata(&shell).unwrap().mode(), fs::read("/etc/passwd").unwrap());
    assert!(before == after, "the host's files changed");
}

/// A set-user-id file of the host raises nobody, and nobody makes one that does.
#[tokio::test]
async fn mapped_directories_are_nosuid_and_nodev() {
    let Some(host) = Host::new("nosuid") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let mounts = read(format!("/proc/{}/mountinfo", sandbox.pid()));
    let overlays: Vec<&str> = mounts.lines().filter(|line| line.contains(" - overlay ")).collect();
    assert!(!overlays.is_empty());
    for line in overlays {
        assert!(line.contains("nosuid,nodev"), "{line}");
    }
    // Nothing of the host's mounts is left in the namespace.
    let own = [
        "/", "/etc", "/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/run", "/dev", "/proc", "/sys", "/secrets",
        "/private",
    ];
    for point in mounts.lines().map(|line| line.split(' ').nth(4).unwrap()) {
        assert!(own.iter().any(|own| point == *own || point.starts_with(&format!("{own}/")) && *own != "/"), "{point}");
    }
}

#[tokio::test]
async fn n44_the_log_directory_cannot_be_written_replaced_or_linked() {
    let Some(host) = Host::new("N44") else { return };
    let logs = tree();
    fs::set_permissions(logs.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(logs.path().join("fifo"), "").unwrap();
    let sandbox = host.sandbox(SandboxSpec { log_dir: Some(logs.path().to_path_buf()), ..spec(RootSpec::Host) }).await;
    for (line, why) in [
        ("echo x > /alloc/logs/new", "Read-only file system"),
        ("mkdir /alloc/logs/new", "Read-only file system"),
        ("rm -f /alloc/logs/fifo", "Read-only file system"),
        ("mv /alloc/logs/fifo /alloc/logs/other", "Read-only file system"),
        ("ln /alloc/logs/fifo /tmp/linked", "cross-device"),
        ("mv /alloc/logs /alloc/away", "busy"),
        ("rmdir /alloc/logs", "busy"),
        ("umount /alloc/logs", ""),
        ("mount -o remount,rw /alloc/logs", ""),
    ] {
        let tried = sandbox.sh_root(line).await;
        assert!(!tried.exit.success(), "{line}: {tried:?}");
        assert!(tried.stderr.to_lowercase().contains(&why.to_lowercase()), "{line}: {tried:?}");
    }
    assert_eq!(listing(logs.path()), ["fifo"]);
}

#[tokio::test]
async fn n45_secrets_are_small_private_and_not_executable() {
    let Some(host) = Host::new("N45") else { return };
    // Without DAC_OVERRIDE, which is one of the default 13: whoever has it reads every file of his sandbox.
    let security = Security { cap_drop: vec!["all".to_owned()], ..Security::default() };
    let sandbox = host.sandbox(SandboxSpec { security, ..spec(RootSpec::Host) }).await;
    let other = host.sandbox(spec(RootSpec::Host)).await;
    assert_eq!(sandbox.sh("stat -c '%a %U' /secrets").await.ok(), "700 nobody");
    assert_eq!(sandbox.sh("cp /bin/true /secrets/true && /secrets/true").await.exit.code, 126);
    let filled = sandbox.sh("head -c 2000000 /dev/zero > /secrets/big").await;
    assert!(filled.stderr.contains("No space left on device"), "{filled:?}");
    assert_eq!(sandbox.sh("rm /secrets/* && echo word > /secrets/token && cat /secrets/token").await.ok(), "word");
    // Neither another user of this sandbox, nor another sandbox, nor the host's file system.
    let stranger = sandbox.exec_as("1234", &["/bin/cat", "/secrets/token"]).await;
    assert_eq!(stranger.stdout, "", "{stranger:?}");
    assert_ne!(stranger.exit.code, 0, "{stranger:?}");
    assert_ne!(other.sh("cat /secrets/token").await.exit.code, 0);
    assert_eq!(listing(&sandbox.place.run_dir.join("root")), Vec::<String>::new());
    // Nor can its user look into the agent's own.
    assert_ne!(sandbox.sh("ls /private").await.exit.code, 0);
    let mounts = read(format!("/proc/{}/mountinfo", sandbox.pid()));
    for point in [" /secrets ", " /private "] {
        let line = mounts.lines().find(|line| line.contains(point)).unwrap();
        assert!(line.contains("nosuid,nodev,noexec"), "{line}");
    }
}

#[tokio::test]
async fn the_writable_layer_has_the_size_asked_for() {
    let Some(host) = Host::new("disk") else { return };
    let resources = Resources { disk_bytes: Some(4 << 20), ..Resources::default() };
    let sandbox = host.sandbox(SandboxSpec { resources, ..spec(RootSpec::Host) }).await;
    for dir in ["/tmp", "/local", "/alloc/data", "/alloc/tmp"] {
        let filled = sandbox.sh(&format!("head -c 8000000 /dev/zero > {dir}/big; s=$?; rm {dir}/big; exit $s")).await;
        assert!(filled.stderr.contains("No space left on device"), "{dir}: {filled:?}");
    }
    let filled = sandbox.sh_root("head -c 8000000 /dev/zero > /etc/big").await;
    assert!(filled.stderr.contains("No space left on device"), "{filled:?}");
}

#[tokio::test]
async fn the_nodes_own_directories_are_never_shown() {
    let Some(host) = Host::new("private dirs") else { return };
    let paths = BTreeMap::from([(host.dir.path().to_path_buf(), PathBuf::from("/shown"))]);
    let driver = moat_drivers::container::ContainerDriver::new(
        ContainerConfig { host_paths: paths, ..config() },
        moat_drivers::linux::agent_binary::AgentBinary::embedded().unwrap(),
    );
    let place = host.place();
    let refusal = driver.unwrap().create(&place, &spec(RootSpec::Host)).await.unwrap_err();
    assert!(refusal.doing.contains("would show the node's own directory"), "{refusal}");
    assert!(!place.run_dir.exists());
}

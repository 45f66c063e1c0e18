//! Roots whose writable layer lies on the host's disk and outlives the sandbox.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use moat_drivers::lasting::{Copier, Owners, Part, Pass, flatten};
use moat_engine::driver::{Driver as _, Place};
use moat_model::spec::{LastingRoot, Resources, RootLayer, RootSpec, Security};
use moat_model::{ErrorKind, SandboxSpec};

use crate::harness::*;
use crate::image::*;

const BASE: u32 = 0x2000_0000;

/// A directory as a node makes it.
fn directory(host: &Host, name: &str) -> PathBuf {
    let dir = host.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

fn lasting(root: RootSpec, dir: &Path, uid_base: u32) -> SandboxSpec {
    let security = Security { allow_new_privs: true, ..Security::default() };
    let lasting = Some(LastingRoot { dir: dir.to_owned(), uid_base });
    SandboxSpec { lasting, security, hostname: Some("jail-1".to_owned()), ..spec(root) }
}

fn place(host: &Host, uid_base: u32) -> Place {
    Place { uid_base, ..host.place() }
}

async fn started(host: &Host, spec: SandboxSpec) -> Sandbox {
    let uid_base = spec.lasting.as_ref().unwrap().uid_base;
    host.sandbox_at(place(host, uid_base), spec).await
}

/// Why it is not made.
async fn refused(host: &Host, spec: &SandboxSpec) -> moat_engine::error::Error {
    let place = place(host, spec.lasting.as_ref().unwrap().uid_base);
    let error = host.driver.create(&place, spec).await.unwrap_err();
    for resource in host.driver.plan(&place, spec).iter().rev() {
        host.driver.release(resource).await.unwrap();
    }
    error
}

/// Names in a directory, however deep, with what lies there by itself left out.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_written_is_there_for_the_next_and_nobodys_on_the_host() {
    let Some((host, image)) = with_image("lasting", |_| {}) else { return };
    let dir = directory(&host, "jail");
    let root = || lasting(layers(&[&image]), &dir, BASE);
    let first = started(&host, root()).await;
    assert_eq!(first.sh_root("hostname; cat /etc/hostname").await.ok(), "jail-1\njail-1");
    // What every sandbox has is not in what lasts.
    assert_eq!(names(&dir.join("upper")), [""; 0]);
    let change = "echo kept > /etc/kept && rm /etc/gone && rm -r /opt/dir && mkdir /opt/dir && echo n > /opt/dir/n &&
                  cat /bin/busybox > /bin/su && chmod 4755 /bin/su && echo secret > /secrets/s && echo l > /local/l && id -u";
    assert_eq!(first.sh_root(change).await.ok(), "0");
    assert_eq!(first.exec_as("ann", &["/bin/sh", "-c", "echo mine > /home/ann/f; id -u"]).await.ok(), "1000");
    first.end().await;
    assert_eq!(names(&dir.join("upper")), ["bin", "etc", "home", "opt"]);
    // On the disk: the sandbox's ids, and a directory before it that lets nobody through to a program that would become one.
    let owner = |path: &str| fs::symlink_metadata(dir.join("upper").join(path)).unwrap().uid();
    assert_eq!([owner(""), owner("etc/kept"), owner("home/ann/f")], [BASE, BASE, BASE + 1000]);
    let su = fs::metadata(dir.join("upper/bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid()), (0o4755, BASE));
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let gone = fs::symlink_metadata(dir.join("upper/etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    // The next: all of it, and nothing of what does not last.
    fs::write(dir.join("work/left"), "over").unwrap();
    let next = started(&host, root()).await;
    let seen = "cat /etc/kept /opt/dir/n /home/ann/f; ls /opt/dir /secrets /local; test -e /etc/gone || echo gone";
    assert_eq!(next.sh_root(seen).await.ok(), "kept\nn\nmine\n/local:\n\n/opt/dir:\nn\n\n/secrets:\ngone");
    next.end().await;
    // What it lies over is as it was.
    let plain = host.sandbox(spec(layers(&[&image]))).await;
    assert_eq!(plain.sh("cat /etc/gone /opt/dir/old; ls /bin/su").await.stdout, "gone\nold\n");
    plain.end().await;
    assert!(dir.join("upper/etc/kept").exists(), "nothing that a sandbox releases is there");
}

#[tokio::test]
async fn without_layers_there_is_what_was_put_there() {
    let Some((host, image)) = with_image("lasting scratch", |_| {}) else { return };
    let dir = directory(&host, "thick");
    // As for a jail that has a copy of everything.
    flatten(&[Part::Layer(image.path.clone())], &dir.join("upper"), BASE, &AtomicBool::new(false)).unwrap();
    for turn in ["one", "two"] {
        let sandbox = started(&host, lasting(RootSpec::Scratch, &dir, BASE)).await;
        assert_eq!(sandbox.sh_root(&format!("echo {turn} >> /etc/turns; id -u; hostname")).await.ok(), "0\njail-1");
        sandbox.end().await;
    }
    assert_eq!(fs::read_to_string(dir.join("upper/etc/turns")).unwrap(), "one\ntwo\n");
    assert_eq!(names(&dir.join("upper")), ["bin", "etc", "home", "opt", "root", "tmp"]);
    // A new one has nothing, and it is the sandbox's own.
    let empty = directory(&host, "empty");
    let sandbox = started(
        &host,
        SandboxSpec { artifact: Some(probe_artifact()), ..lasting(RootSpec::Scratch, &empty, BASE + 65_536) },
    )
    .await;
    assert_eq!(sandbox.exec_as("0", &["/local/probe", "try", "list", "/dev"]).await.exit.code, 0);
    sandbox.end().await;
    assert_eq!(fs::metadata(empty.join("upper")).unwrap().uid(), BASE + 65_536);
}

/// Escapes a writable layer on the host's disk could allow (N37 to N46 on other roots), each with its errno.
#[tokio::test]
async fn a_root_that_lasts_opens_no_way_out() {
    let everything = moat_drivers::container::ContainerConfig { allow_caps: vec!["all".to_owned()], ..config() };
    let Some((host, image)) = with_image_on("lasting escape", everything, |_| {}) else { return };
    let (dir, others) = (directory(&host, "jail"), directory(&host, "other"));
    let all = Security { cap_add: vec!["all".to_owned()], allow_new_privs: true, ..Security::default() };
    let other = started(&host, lasting(layers(&[&image]), &others, BASE + 65_536)).await;
    for (root, security) in
        [(layers(&[&image]), Security { allow_new_privs: true, ..Security::default() }), (layers(&[&image]), all)]
    {
        let jail = SandboxSpec { artifact: Some(probe_artifact()), security, ..lasting(root, &dir, BASE) };
        let sandbox = started(&host, jail).await;
        let others_changes = format!("/proc/{}/fd/5", other.pid());
        let (own, upper) = (dir.to_str().unwrap(), others.join("upper"));
        let table: [(&[&str], &str); 9] = [
            (&["mknod-disk", "8:0"], "EPERM"),
            (&["remount-rw", "/"], "EPERM"),
            (&["remount-rw", "/etc/hosts"], "EPERM"),
            (&["list", own], "ENOENT"),
            (&["list", upper.to_str().unwrap()], "ENOENT"),
            (&["list", &others_changes], "ENOENT"),
            (&["list", "/proc/1/fd/5"], "EACCES"),
            (&["open-by-handle", "/"], "EPERM"),
            (&["open-read", "/proc/1/root/../../etc/shadow"], "EACCES"),
        ];
        for (words, expected) in table {
            for user in ["root", "nobody"] {
                let all: Vec<&str> = ["/local/probe", "try"].iter().chain(words).copied().collect();
                assert_eq!(sandbox.exec_as(user, &all).await.ok(), expected, "{words:?} as {user}");
            }
        }
        // Nobody inside writes what an overlay believes.
        let upper = dir.join("upper");
        assert_eq!(sandbox.sh_root("mkdir -p /opt/own && echo made").await.ok(), "made");
        let inside = PathBuf::from(format!("/proc/{}/root/opt/own", sandbox.pid()));
        assert!(rustix::fs::lgetxattr(&inside, "trusted.overlay.opaque", &mut [0_u8; 8][..]).is_err());
        assert!(upper.join("opt/own").is_dir());
        sandbox.end().await;
    }
    other.end().await;
}

#[tokio::test]
async fn directories_of_others_are_refused() {
    let Some((host, image)) = with_image("lasting refusals", |_| {}) else { return };
    let dir = directory(&host, "jail");
    let root = |base| lasting(layers(&[&image]), &dir, base);
    started(&host, root(BASE)).await.end().await;
    // Its files are not those of these ids.
    let error = refused(&host, &root(BASE + 65_536)).await;
    assert!(error.chain().contains("upper belongs to"), "{}", error.chain());
    // Somebody else could reach it.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
    let error = refused(&host, &root(BASE)).await;
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.doing.starts_with("lasting.dir: "), "{error}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&dir, Some(BASE), None).unwrap();
    assert_eq!(refused(&host, &root(BASE)).await.kind, ErrorKind::InvalidSpec);
    chown(&dir, Some(0), None).unwrap();
    // A link is not followed, as the directory or as what is in it.
    let link = host.dir.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    assert_eq!(refused(&host, &lasting(layers(&[&image]), &link, BASE)).await.kind, ErrorKind::InvalidSpec);
    fs::rename(dir.join("upper"), host.dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(host.dir.path().join("elsewhere"), dir.join("upper")).unwrap();
    let error = refused(&host, &root(BASE)).await;
    assert!(error.chain().contains("lasting layer"), "{}", error.chain());
    fs::remove_file(dir.join("upper")).unwrap();
    assert_eq!(refused(&host, &lasting(layers(&[&image]), &dir.join("none"), BASE)).await.kind, ErrorKind::NotFound);
    // Half made by a launcher that died: made again.
    fs::create_dir(dir.join("upper.new")).unwrap();
    started(&host, root(BASE)).await.end().await;
    assert!(!dir.join("upper.new").exists());
}

#[tokio::test]
async fn it_is_found_again_captured_and_copied_while_it_runs() {
    let Some((host, image)) = with_image("lasting copy", |_| {}) else { return };
    let dir = directory(&host, "jail");
    let mut sandbox = started(&host, lasting(layers(&[&image]), &dir, BASE)).await;
    assert_eq!(sandbox.sh_root("echo 1 > /etc/turn; rm /etc/gone; cat /etc/turn").await.ok(), "1");
    // The daemon dies and is back.
    drop(sandbox.forget_guest());
    let moat_engine::driver::Recovered::Alive(guest) = host.driver.recover(sandbox.record()).await.unwrap() else {
        unreachable!("it runs")
    };
    sandbox.set_guest(guest);
    // Copied while it runs, then what changed, while it stands still.
    let writing = "while true; do echo x >> /etc/log; done > /dev/null 2>&1 & echo started";
    assert_eq!(sandbox.sh_root(writing).await.ok(), "started");
    let (from, clone, go) = (dir.join("upper"), directory(&host, "clone"), AtomicBool::new(false));
    let mut copier = Copier::new(&from, &clone.join("upper"), Owners { from: BASE, to: BASE + 131_072 }).unwrap();
    copier.pass(Pass::Running, &go).unwrap();
    let freezer = host.driver.freezer().unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    copier.pass(Pass::Standing, &go).unwrap();
    let log = |dir: &Path| fs::read(dir.join("etc/log")).unwrap();
    assert_eq!(log(&from), log(&clone.join("upper")));
    let layer = host.dir.path().join("captured.erofs");
    host.driver.capturer().unwrap().capture(sandbox.record(), &layer).await.unwrap();
    freezer.thaw(sandbox.record()).await.unwrap();
    copier.finish().unwrap();
    sandbox.end().await;
    // The copy is a root of its own, under ids of its own; so is what was captured.
    let child = started(&host, lasting(layers(&[&image]), &clone, BASE + 131_072)).await;
    assert_eq!(
        child.sh_root("cat /etc/turn; test -e /etc/gone || echo gone; stat -c %u /etc/turn").await.ok(),
        "1\ngone\n0"
    );
    child.end().await;
    let layer = RootLayer { digest: "c".repeat(64), path: layer };
    let captured = host.sandbox(spec(layers(&[&image, &layer]))).await;
    assert_eq!(captured.sh("cat /etc/turn").await.ok(), "1");
    captured.end().await;
}

#[tokio::test]
async fn no_quota_is_promised() {
    let Some(host) = Host::new("lasting quota") else { return };
    let resources = Resources { disk_bytes: Some(1 << 30), ..Resources::default() };
    let asked = SandboxSpec { resources, ..lasting(RootSpec::Scratch, Path::new("/x"), BASE) };
    let error = host.driver.validate(&asked).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.doing.starts_with("resources.disk_bytes: "), "{error}");
}

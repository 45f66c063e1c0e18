//! Roots made of shared read-only layers: what is in them, whose it is, and how the mounts come and go.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_drivers::container::ContainerDriver;
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::erofs;
use moat_engine::driver::Driver as _;
use moat_model::SandboxSpec;
use moat_model::spec::{RootLayer, RootSpec, Security};
use moat_testkit::LeakAudit;

use crate::harness::*;
use crate::image::*;

fn mounts(host: &Host) -> Vec<PathBuf> {
    erofs::mounts_in(&host.dir.path().join("roots")).unwrap().into_iter().map(|(target, _)| target).collect()
}

#[tokio::test]
async fn an_image_is_the_root_and_belongs_to_the_sandboxs_users() {
    let Some((host, image)) = with_image("image root", |dir| {
        fs::write(dir.join("home/ann/file"), "ann's").unwrap();
        for path in ["home/ann", "home/ann/file"] {
            chown(dir.join(path), Some(1000), Some(1000)).unwrap();
        }
    }) else {
        return;
    };
    let sandbox = host.sandbox(spec(layers(&[&image]))).await;
    let owners = sandbox.sh_root("stat -c '%u:%g %a' / /etc /home/ann/file /tmp /bin/busybox").await;
    assert_eq!(owners.ok(), "0:0 755\n0:0 755\n1000:1000 644\n0:0 1777\n0:0 755");
    // The sandbox's root may change everything; what it changes is its own.
    let changed =
        "echo new > /etc/new && echo more >> /home/ann/file && rm /etc/gone && mv /opt/dir /opt/moved && ls /opt";
    assert_eq!(sandbox.sh_root(changed).await.ok(), "moved");
    let other = host.sandbox(spec(layers(&[&image]))).await;
    assert_eq!(other.sh_root("cat /home/ann/file /etc/gone; ls /opt /etc/new").await.stdout, "ann'sgone\n/opt:\ndir\n");
    // A user of the image, by name and by both names, is who the image says.
    assert_eq!(
        other.exec_as("ann", &["/bin/sh", "-c", "id -u; id -g; id -G; touch /home/ann/x"]).await.ok(),
        "1000\n1000\n1000 10"
    );
    assert_eq!(other.exec_as("ann:wheel", &["/bin/sh", "-c", "id -u; id -G"]).await.ok(), "1000\n10");
    assert_eq!(other.exec_as("0:ann", &["/bin/sh", "-c", "id -u; id -G"]).await.ok(), "0\n1000");
    // Without capabilities, the image's permissions are all there is.
    let security = Security { cap_drop: vec!["all".to_owned()], ..Security::default() };
    let bare = host.sandbox(SandboxSpec { security, ..spec(layers(&[&image])) }).await;
    let denied = bare.sh("touch /etc/x").await;
    assert_eq!((denied.exit.code, denied.stderr.contains("Permission denied")), (1, true), "{denied:?}");
    assert_eq!(
        bare.exec_as("ann", &["/bin/sh", "-c", "touch /home/ann/y && stat -c %u /home/ann/y"]).await.ok(),
        "1000"
    );
    bare.end().await;
    // One mount for both, shown to nobody but root.
    assert_eq!(mounts(&host).len(), 1);
    assert_eq!(fs::metadata(host.dir.path().join("roots")).unwrap().permissions().mode() & 0o777, 0o700);
    sandbox.end().await;
    other.end().await;
}

#[tokio::test]
async fn upper_layers_hide_what_is_below_them() {
    let Some((host, image)) = with_image("two layers", |_| {}) else { return };
    let second = layer_of(host.dir.path(), "second", |dir| {
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::create_dir_all(dir.join("opt/dir")).unwrap();
        fs::write(dir.join("etc/only-above"), "above\n").unwrap();
        fs::write(dir.join("opt/dir/new"), "").unwrap();
        let device = libc::makedev(0, 0);
        let gone = dir.join("etc/gone");
        rustix::fs::mknodat(rustix::fs::CWD, &gone, rustix::fs::FileType::CharacterDevice, 0o000.into(), device)
            .unwrap();
        rustix::fs::setxattr(dir.join("opt/dir"), "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .unwrap();
    });
    let sandbox = host.sandbox(spec(layers(&[&image, &second]))).await;
    let seen = "cat /etc/only-above; ls /opt/dir; test -e /etc/gone || echo hidden";
    assert_eq!(sandbox.sh(seen).await.ok(), "above\nnew\nhidden");
    sandbox.end().await;
    // The same layer again changes nothing, and many layers work.
    let empty: Vec<RootLayer> = (0..40).map(|n| layer_of(host.dir.path(), &format!("empty{n}"), |_| {})).collect();
    let all: Vec<&RootLayer> = [&image, &second, &image, &second].into_iter().chain(&empty).collect();
    let sandbox = host.sandbox(spec(layers(&all))).await;
    assert_eq!(sandbox.sh(seen).await.ok(), "above\nnew\nhidden");
    assert_eq!(mounts(&host).len(), 42);
    sandbox.end().await;
}

/// Links where the sandbox has something of its own must neither lead out of the root nor move what is mounted.
#[tokio::test]
async fn links_of_an_image_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().to_owned();
    let Some((host, image)) = with_image("hostile links", move |dir| {
        fs::remove_dir(dir.join("tmp")).unwrap();
        for name in ["proc", "dev", "sys", "tmp", "secrets", "private", "alloc", "local"] {
            symlink(&there, dir.join(name)).unwrap();
        }
        symlink(there.join("hosts"), dir.join("etc/hosts")).unwrap();
        fs::remove_file(dir.join("etc/passwd")).unwrap();
        symlink(there.join("passwd"), dir.join("etc/passwd")).unwrap();
    }) else {
        return;
    };
    fs::write(outside.path().join("passwd"), "nobody:x:0:0::/:/bin/sh\n").unwrap();
    let sandbox = host.sandbox(SandboxSpec { artifact: Some(probe_artifact()), ..spec(layers(&[&image])) }).await;
    for name in ["proc", "dev", "sys", "tmp", "secrets", "private", "alloc", "local"] {
        let found = fs::symlink_metadata(sandbox.root().join(name)).unwrap();
        assert!(found.is_dir(), "{name}: {found:?}");
    }
    assert_eq!(sandbox.exec(&["/local/probe", "exit", "3"]).await.exit.code, 3);
    assert_eq!(sandbox.sh("id -u; stat -c %a /tmp; stat -c %a /secrets 2>&1").await.ok(), "65534\n1777\n700");
    let names: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["passwd"]);
    sandbox.end().await;
}

#[tokio::test]
async fn names_are_given_where_the_image_has_none() {
    let Some((host, image)) = with_image("names", |dir| fs::write(dir.join("etc/hostname"), "").unwrap()) else {
        return;
    };
    let own = layer_of(host.dir.path(), "own", |dir| {
        fs::create_dir(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/hosts"), "127.0.0.1 mine\n").unwrap();
    });
    let sandbox = host.sandbox(spec(layers(&[&image]))).await;
    let id = sandbox.place.id.to_string();
    assert_eq!(sandbox.sh("cat /etc/hostname; hostname").await.ok(), format!("{id}\n{id}"));
    assert!(sandbox.sh("cat /etc/hosts").await.ok().starts_with(&format!("127.0.0.1\tlocalhost {id}\n")));
    let other = host.sandbox(spec(layers(&[&image, &own]))).await;
    assert_eq!(other.sh("cat /etc/hosts").await.ok(), "127.0.0.1 mine");
    sandbox.end().await;
    other.end().await;
}

/// A set-user-id program of an image raises nobody, unless the sandbox was made to let it.
#[tokio::test]
async fn set_user_id_counts_only_where_it_was_asked_for() {
    let probe = probe_artifact().path;
    let Some((host, image)) = with_image("set-user-id", move |dir| {
        fs::copy(&probe, dir.join("bin/suid")).unwrap();
        fs::set_permissions(dir.join("bin/suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    }) else {
        return;
    };
    for (allow_new_privs, expected) in [(false, "65534"), (true, "0")] {
        let security = Security { allow_new_privs, ..Security::default() };
        let sandbox = host.sandbox(SandboxSpec { security, ..spec(layers(&[&image])) }).await;
        let ids = sandbox.exec(&["/bin/suid", "ids"]).await;
        let uids = ids.ok().lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().to_owned();
        assert_eq!(uids.split('\t').nth(1), Some(expected), "{uids}");
        sandbox.end().await;
    }
}

#[tokio::test]
async fn a_layer_is_mounted_once_and_goes_with_the_driver() {
    let Some((host, image)) = with_image("mounts", |_| {}) else { return };
    let Host { driver, dir, _lock } = host;
    let audit = LeakAudit::of_cgroup(CGROUP_PARENT).and_dir(dir.path());
    let roots = dir.path().join("roots");
    let there = || erofs::mounts_in(&roots).unwrap();
    let host = Host { driver: driver.clone(), dir, _lock };
    let many: Vec<Sandbox> = futures::future::join_all((0..4).map(|_| host.sandbox(spec(layers(&[&image]))))).await;
    assert_eq!(there().len(), 1, "{:?}", there());
    let kept = there();
    assert_eq!(kept[0].1.as_ref().map(|m| m.file.clone()), Some(image.path.clone()));

    // A daemon that was killed: its successor finds the mount, and keeps it for those who use it.
    let config = moat_drivers::container::ContainerConfig { roots_dir: roots.clone(), ..config() };
    let successor = Arc::new(ContainerDriver::new(config.clone(), AgentBinary::embedded().unwrap()).unwrap());
    assert_eq!(there(), kept);
    for sandbox in many {
        sandbox.end().await;
    }
    // Warm: nobody uses it, and it stays. Whoever comes next gets it.
    assert_eq!(there(), kept);
    let sandbox = Sandbox::start(successor.clone(), host.place(), spec(layers(&[&image]))).await;
    assert_eq!(there(), kept);
    // Somebody unmounted it by hand: it is mounted again, and the sandbox that has a copy goes on.
    rustix::mount::unmount(&kept[0].0, rustix::mount::UnmountFlags::DETACH).unwrap();
    let second = Sandbox::start(successor.clone(), host.place(), spec(layers(&[&image]))).await;
    assert_eq!(sandbox.sh("cat /etc/gone").await.ok(), "gone");
    assert_eq!(there().len(), 1);
    // The driver goes, the sandbox stays, and with it what it uses.
    drop(successor);
    assert_eq!(there().len(), 1);
    sandbox.end().await;
    second.end().await;
    // Left unused by a daemon that was killed, as far as the next one can see.
    drop(ContainerDriver::new(config, AgentBinary::embedded().unwrap()).unwrap());
    assert_eq!(there(), []);
    drop(driver);
    let Host { driver, dir, _lock } = host;
    drop(driver);
    audit.assert_same(DEADLINE).await.unwrap();
    drop(dir);
}

/// Kernels before 6.12 mount files through loop devices, which must not outlive the mount.
#[tokio::test]
async fn a_loop_device_does_as_well_and_goes_with_the_mount() {
    let Some((host, image)) = with_image("loop device", |_| {}) else { return };
    let target = host.dir.path().join("roots").join(&image.digest);
    fs::create_dir_all(&target).unwrap();
    if let Err(e) = erofs::mount_by_loop(&image.path, &target) {
        moat_testkit::not_run("loop device", &format!("this host has none: {e}"));
        return;
    }
    let found = erofs::mounts_in(target.parent().unwrap()).unwrap();
    assert_eq!(found[0].1.as_ref().map(|m| m.file.as_path()), Some(image.path.as_path()));
    let device = loop_of(&image.path).unwrap();
    assert_eq!(fs::read(target.join("etc/gone")).unwrap(), b"gone\n");
    // Made by an unmapped root: nothing in it is a program for the host.
    assert_eq!(fs::metadata(target.join("bin/busybox")).unwrap().uid(), 0);
    let refused = std::process::Command::new(target.join("bin/busybox")).status().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
    let gone = moat_testkit::wait_until(DEADLINE, "the loop device is free", async || {
        loop_of(&image.path).is_none().then_some(())
    });
    gone.await.unwrap_or_else(|e| panic!("{device}: {e}"));
}

/// The loop device over a file.
fn loop_of(file: &Path) -> Option<String> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|entry| entry.unwrap());
    let backing = |path: PathBuf| fs::read_to_string(path.join("loop/backing_file")).unwrap_or_default();
    devices
        .filter(|d| backing(d.path()).trim() == file.to_str().unwrap())
        .map(|d| d.file_name().into_string().unwrap())
        .next()
}

#[tokio::test]
async fn a_layer_that_is_none_is_named() {
    let Some(host) = Host::new("bad layers") else { return };
    let path = host.dir.path().join("text");
    let digest = "0".repeat(64);
    for (content, said) in [(None, "No such file"), (Some("not a file system"), "Invalid argument")] {
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let root = RootSpec::Layers { layers: vec![RootLayer { digest: digest.clone(), path: path.clone() }] };
        let (place, spec) = (host.place(), spec(root));
        let error = host.driver.create(&place, &spec).await.unwrap_err();
        assert!(error.chain().contains("root.layers") && error.chain().contains(said), "{}", error.chain());
        for resource in host.driver.plan(&place, &spec).iter().rev() {
            host.driver.release(resource).await.unwrap();
        }
        assert_eq!(mounts(&host), Vec::<PathBuf>::new());
    }
}

//! What a program on an image must not be able to do to the image, to the host, or to others made of the same layers.

use std::fs;

use moat_model::SandboxSpec;
use moat_model::spec::Security;

use crate::harness::*;
use crate::image::*;

fn node(path: &std::path::Path, major: u32, minor: u32) {
    let device = rustix::fs::makedev(major, minor);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o666.into(), device).unwrap();
}

async fn attempt(sandbox: &Sandbox, user: &str, words: &[&str]) -> String {
    let all: Vec<&str> = ["/local/probe", "try"].iter().chain(words).copied().collect();
    sandbox.exec_as(user, &all).await.ok().to_owned()
}

/// Whatever capabilities the sandbox was given: those that matter here are the host's.
#[tokio::test]
async fn shared_layers_cannot_be_changed_and_devices_in_them_are_dead() {
    let everything = moat_drivers::container::ContainerConfig { allow_caps: vec!["all".to_owned()], ..config() };
    let Some((host, image)) = with_image_on("image escape", everything, |dir| node(&dir.join("opt/zero"), 1, 5)) else {
        return;
    };
    // Our own writer leaves devices out.
    let device = if moat_testkit::tool("mkfs.erofs").is_some() { "EACCES" } else { "ENOENT" };
    let shared = host.dir.path().join("roots").join(&image.digest);
    let all = Security { cap_add: vec!["all".to_owned()], ..Security::default() };
    for security in [Security::default(), all.clone()] {
        let image_spec =
            SandboxSpec { artifact: Some(probe_artifact()), security: security.clone(), ..spec(layers(&[&image])) };
        let (sandbox, other) = (host.sandbox(image_spec.clone()).await, host.sandbox(image_spec).await);
        // Changes of the sandbox's root stay in the sandbox.
        assert_eq!(sandbox.sh_root("echo evil > /etc/gone; rm -r /opt/dir; cat /etc/gone").await.ok(), "evil");
        assert_eq!(fs::read(shared.join("etc/gone")).unwrap(), b"gone\n");
        assert!(shared.join("opt/dir/old").exists());
        assert_eq!(other.sh("cat /etc/gone /opt/dir/old").await.ok(), "gone\nold");
        // Even for the host, the layer is read-only.
        assert_eq!(fs::write(shared.join("etc/gone"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let others_changes = format!("/proc/{}/fd/5", other.pid());
        let roots = host.dir.path().join("roots");
        let table: [(&[&str], &str); 9] = [
            (&["open-read", "/opt/zero"], device),
            (&["mknod-disk", "8:0"], "EPERM"),
            (&["remount-rw", "/"], "EPERM"),
            (&["remount-rw", "/etc/hosts"], "EPERM"),
            (&["list", &others_changes], "ENOENT"),
            (&["list", roots.to_str().unwrap()], "ENOENT"),
            (&["list", image.path.to_str().unwrap()], "ENOENT"),
            (&["list", "/proc/1/fd/5"], "EACCES"),
            (&["open-by-handle", "/"], "EPERM"),
        ];
        for (words, expected) in table {
            for user in ["root", "nobody"] {
                let got = attempt(&sandbox, user, words).await;
                assert_eq!(got, expected, "{words:?} as {user} with {security:?}");
            }
        }
        sandbox.end().await;
        other.end().await;
    }
}

/// A full disk is the sandbox's own trouble: it is told, it goes on, and others do not notice.
#[tokio::test]
async fn a_full_disk_is_told_and_stays_inside() {
    let Some((host, image)) = with_image("full disk", |_| {}) else { return };
    let mut small = spec(layers(&[&image]));
    small.resources.disk_bytes = Some(1 << 20);
    let (sandbox, other) = (host.sandbox(small).await, host.sandbox(spec(layers(&[&image]))).await);
    for place in ["/tmp/fill", "/local/fill", "/etc/gone"] {
        let full = sandbox.sh_root(&format!("dd if=/dev/zero of={place} bs=4096 count=1000")).await;
        assert!(full.stderr.contains("No space left on device"), "{place}: {full:?}");
        assert_eq!(sandbox.sh_root(&format!("rm {place}; echo on")).await.ok(), "on");
    }
    assert_eq!(other.sh("head -c 4000000 /dev/zero > /tmp/fill; stat -c %s /tmp/fill").await.ok(), "4000000");
    sandbox.end().await;
    other.end().await;
}

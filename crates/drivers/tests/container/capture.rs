//! Keeping what was changed in a root, and making the next one of it.

use std::fs;
use std::path::Path;

use moat_engine::driver::{Captured, Driver as _};
use moat_model::spec::{Artifact, RootLayer, RootSpec, Security};
use moat_model::{ErrorKind, SandboxSpec};

use crate::harness::*;
use crate::image::*;

/// Freezes, captures, thaws: as the engine does.
async fn capture(host: &Host, sandbox: &Sandbox, into: &Path) -> moat_engine::error::Result<Captured> {
    let freezer = host.driver.freezer().unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    let captured = host.driver.capturer().unwrap().capture(sandbox.record(), into).await;
    freezer.thaw(sandbox.record()).await.unwrap();
    captured
}

fn as_layer(path: &Path) -> RootLayer {
    let digest = path.file_stem().unwrap().as_encoded_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>();
    RootLayer { digest: format!("{digest:0>64}"), path: path.to_owned() }
}

#[tokio::test]
async fn what_was_changed_is_there_again_and_secrets_are_not() {
    let Some((host, image)) = with_image("capture", |_| {}) else { return };
    let sandbox = host.sandbox(spec(layers(&[&image]))).await;
    let canary = "canary-5d1f0c2e";
    let change = format!(
        "echo kept > /etc/kept && rm /etc/gone && rm -r /opt/dir && mkdir /opt/dir && echo new > /opt/dir/new &&
         ln /etc/kept /etc/again && ln -s kept /etc/link && touch /home/ann/a && mkdir -p /var/deep/er && cat /etc/kept &&
         echo {canary} > /secrets/s && echo {canary} > /private/p && echo {canary} > /dev/shm/d &&
         echo {canary} > /local/l && echo {canary} > /alloc/data/a && echo {canary} > /etc/hostname"
    );
    assert_eq!(sandbox.sh_root(&change).await.ok(), "kept");
    assert_eq!(sandbox.exec_as("ann", &["/bin/sh", "-c", "echo mine > /home/ann/b"]).await.exit.code, 0);
    let file = host.dir.path().join("first.erofs");
    let captured = capture(&host, &sandbox, &file).await.unwrap();
    assert_eq!((captured.bytes, captured.memory), (fs::metadata(&file).unwrap().len(), false));
    assert!(captured.entries > 10, "{captured:?}");
    // It goes on as if nothing had been.
    assert_eq!(sandbox.sh("cat /etc/kept").await.ok(), "kept");
    // Not a byte of what was secret, and nothing of the directories the sandbox does not own.
    let bytes = fs::read(&file).unwrap();
    assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()));

    let first = as_layer(&file);
    let child = host.sandbox(spec(layers(&[&image, &first]))).await;
    let seen =
        "cat /etc/kept /etc/again /etc/link /opt/dir/new; ls /opt/dir /local /alloc/data /secrets; test -e /etc/gone ||
                echo gone; stat -c '%u %h' /home/ann/b /etc/kept; ls -d /var/deep/er; cat /etc/hostname";
    let expected = format!(
        "kept\nkept\nkept\nnew\n/alloc/data:\n\n/local:\n\n/opt/dir:\nnew\n\n/secrets:\ngone\n1000 1\n0 2\n/var/deep/er\n{}",
        child.place.id
    );
    assert_eq!(child.sh_root(seen).await.ok(), expected);
    // A change of the change: a layer more.
    assert_eq!(child.sh_root("rm /etc/kept; echo second > /etc/second").await.exit.code, 0);
    let second = host.dir.path().join("second.erofs");
    capture(&host, &child, &second).await.unwrap();
    child.end().await;
    sandbox.end().await;
    let grandchild = host.sandbox(spec(layers(&[&image, &first, &as_layer(&second)]))).await;
    let seen = "cat /etc/second /etc/again; test -e /etc/kept || echo gone";
    assert_eq!(grandchild.sh(seen).await.ok(), "second\nkept\ngone");
    grandchild.end().await;
}

#[tokio::test]
async fn a_scratch_root_can_be_kept_and_one_of_the_host_cannot() {
    let Some((host, _)) = with_image("capture of scratch", |_| {}) else { return };
    let busybox = Artifact { path: moat_testkit::busybox().unwrap(), name: "busybox".to_owned(), ..probe_artifact() };
    let sandbox = host.sandbox(SandboxSpec { artifact: Some(busybox), ..probe_spec() }).await;
    let wrote = sandbox.exec_as("root", &["busybox", "sh", "-c", "echo by hand > /made; echo x > /local/other"]).await;
    assert_eq!(wrote.exit.code, 0, "{wrote:?}");
    let file = host.dir.path().join("scratch.erofs");
    capture(&host, &sandbox, &file).await.unwrap();
    sandbox.end().await;
    let child = host.sandbox(SandboxSpec { root: layers(&[&as_layer(&file)]), ..probe_spec() }).await;
    assert_eq!(read(child.root().join("made")), "by hand\n");
    assert!(!child.root().join("local/other").exists());
    child.end().await;

    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let refused = capture(&host, &sandbox, &host.dir.path().join("host.erofs")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert!(refused.doing.starts_with("capture: "), "{refused}");
    assert!(!host.dir.path().join("host.erofs").exists());
}

/// The agent holds the directory. Nobody inside can take it from there, whatever they were allowed.
#[tokio::test]
async fn the_directory_of_the_changes_cannot_be_reached_from_inside() {
    let all = Security { cap_add: vec!["all".to_owned()], ..Security::default() };
    let everything = moat_drivers::container::ContainerConfig { allow_caps: vec!["all".to_owned()], ..config() };
    let Some(host) = Host::with("held directory", everything) else { return };
    for security in [Security::default(), all] {
        let sandbox = host.sandbox(SandboxSpec { security: security.clone(), ..probe_spec() }).await;
        for user in ["root", "nobody"] {
            for words in [["list", "/proc/1/fd/5"], ["list", "/proc/1/fd"], ["open-read", "/proc/1/fd/5"]] {
                let said = sandbox.exec_as(user, &["/local/probe", "try", words[0], words[1]]).await;
                assert_eq!(said.ok(), "EACCES", "{words:?} as {user} with {security:?}");
            }
            let taken = sandbox.exec_as(user, &["/local/probe", "try", "pidfd-getfd", "1"]).await;
            assert_eq!(taken.ok(), "EPERM", "{security:?}");
        }
        sandbox.end().await;
    }
}

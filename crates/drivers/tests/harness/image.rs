//! Small images for tests: a directory that becomes an erofs file.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use moat_drivers::container::ContainerConfig;
use moat_image::erofs::{Limits, RootBuilder};
use moat_model::spec::{RootLayer, RootSpec};
use sha2::{Digest as _, Sha256};

use crate::harness::{Host, config};

/// A host, and an image with a shell on it that `change` has had a hand in; `None`, after saying so, where one cannot be had.
pub fn with_image(id: &str, change: impl FnOnce(&Path)) -> Option<(Host, RootLayer)> {
    with_image_on(id, config(), change)
}

/// The same, on a host with these settings.
pub fn with_image_on(id: &str, config: ContainerConfig, change: impl FnOnce(&Path)) -> Option<(Host, RootLayer)> {
    let Some(busybox) = moat_testkit::busybox() else {
        moat_testkit::not_run(id, "no busybox");
        return None;
    };
    let host = Host::with(id, config)?;
    let layer = layer_of(host.dir.path(), "image", |dir| {
        for (path, mode) in
            [("bin", 0o755), ("etc", 0o755), ("home/ann", 0o755), ("opt/dir", 0o755), ("tmp", 0o1777), ("root", 0o700)]
        {
            fs::create_dir_all(dir.join(path)).unwrap();
            fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::copy(&busybox, dir.join("bin/busybox")).unwrap();
        fs::set_permissions(dir.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
        for name in
            ["sh", "cat", "id", "ls", "stat", "touch", "mv", "rm", "hostname", "mkdir", "ln", "dd", "sleep", "head"]
        {
            symlink("busybox", dir.join("bin").join(name)).unwrap();
        }
        fs::write(dir.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n").unwrap();
        fs::write(dir.join("etc/group"), "root:x:0:\nwheel:x:10:ann\nann:x:1000:\n").unwrap();
        fs::write(dir.join("etc/gone"), "gone\n").unwrap();
        fs::write(dir.join("opt/dir/old"), "old\n").unwrap();
        change(dir);
    });
    Some((host, layer))
}

/// A layer of what `fill` puts into an empty directory.
pub fn layer_of(dir: &Path, name: &str, fill: impl FnOnce(&Path)) -> RootLayer {
    let tree = tempfile::tempdir_in(dir).unwrap();
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fill(tree.path());
    let path = dir.join(format!("{name}.erofs"));
    write_erofs(tree.path(), &path);
    let digest = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    RootLayer { digest, path }
}

/// By the tool of the file system's authors, which keeps what ours leaves out; by ours where it is not installed.
fn write_erofs(tree: &Path, path: &Path) {
    let program = moat_testkit::tool("mkfs.erofs").unwrap_or_else(|| "mkfs.erofs".into());
    match Command::new(program).arg("--quiet").arg(path).arg(tree).output() {
        Ok(made) => assert!(made.status.success(), "{made:?}"),
        Err(_) => {
            let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
            let builder = RootBuilder::new(file, 1, Limits::default());
            builder.add_directory(0, fs::File::open(tree).unwrap().as_fd(), 0, true).unwrap();
            builder.finish().unwrap();
        }
    }
}

/// A root of these layers, the lowest first.
pub fn layers(layers: &[&RootLayer]) -> RootSpec {
    RootSpec::Layers { layers: layers.iter().map(|&layer| layer.clone()).collect() }
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::samples::{Elf, Root, VERSION, debian};
use crate::{ErrorKind, Guest, Source, build, find_source_below, initramfs};

fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_same_source_makes_the_same_bytes() {
    let (root, to) = (Root::usual(), tempfile::tempdir().unwrap());
    let (one, two) = (to.path().join("one"), to.path().join("two"));
    build(&root.source(), &one).unwrap();
    build(&root.source(), &two).unwrap();
    let made = contents(&one);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&one), mode(&one.join("vmlinux"))), (0o755, 0o644));
    let names: Vec<_> = made.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["guest.json", "modules.cpio", "vmlinux"]);
    assert!(made == contents(&two));
}

#[test]
fn what_was_built_is_what_is_opened_and_verified() {
    let (root, to) = (Root::usual(), tempfile::tempdir().unwrap());
    let dir = to.path().join("below/guest");
    let built = build(&root.source(), &dir).unwrap();
    let opened = Guest::open(&dir).unwrap();
    assert_eq!(built, opened);
    opened.verify().unwrap();
    assert_eq!(opened.image.kernel_version, VERSION);
    let line = format!(
        "kernel {VERSION}, 12 modules, without virtio_balloon, \
        vmw_vsock_virtio_transport, tcp_diag, udp_diag, virtiofs"
    );
    assert_eq!(opened.describe(), line);

    let mut bytes = fs::read(opened.modules()).unwrap();
    bytes[200] ^= 1;
    fs::write(opened.modules(), bytes).unwrap();
    let error = opened.verify().unwrap_err().to_string();
    assert!(error.contains("modules.cpio: its SHA-256 is") && error.contains("moat guest build"), "{error}");
}

#[test]
fn a_new_one_takes_the_old_ones_place_and_leaves_nothing_beside() {
    let (root, to) = (Root::usual(), tempfile::tempdir().unwrap());
    let dir = to.path().join("guest");
    build(&root.source(), &dir).unwrap();
    let kernel = to.path().join("own-kernel");
    fs::write(&kernel, Elf { pvh: false, ..Elf::default() }.make()).unwrap();
    let guest = build(&Source { kernel: kernel.clone(), modules: None }, &dir).unwrap();
    assert_eq!(Guest::open(&dir).unwrap(), guest);
    assert!(guest.describe().ends_with("no PVH entry (QEMU cannot start it)"), "{}", guest.describe());

    // One that cannot be made leaves the old one as it is.
    fs::write(&kernel, "no kernel").unwrap();
    build(&Source { kernel, modules: None }, &dir).unwrap_err();
    guest.verify().unwrap();
    let mut left: Vec<_> = fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["guest", "own-kernel"]);
}

#[test]
fn only_a_guest_is_replaced() {
    let (root, to) = (Root::usual(), tempfile::tempdir().unwrap());
    fs::write(to.path().join("thesis.txt"), "five years").unwrap();
    let error = build(&root.source(), to.path()).unwrap_err().to_string();
    assert!(error.contains("--output"), "{error}");
    assert_eq!(contents(to.path()).len(), 1);
}

#[test]
fn an_absent_or_foreign_manifest_says_what_to_do() {
    let to = tempfile::tempdir().unwrap();
    assert_eq!(Guest::open(to.path()).unwrap_err().kind, ErrorKind::Missing);
    let error = Guest::open(to.path()).unwrap_err().to_string();
    assert!(error.contains("no guest there; make one: `moat guest build`"), "{error}");
    fs::write(to.path().join("guest.json"), "{}").unwrap();
    let error = Guest::open(to.path()).unwrap_err().to_string();
    assert!(error.contains("make it again"), "{error}");
}

#[test]
fn an_initramfs_is_the_modules_and_then_the_agent() {
    let (root, to) = (Root::usual(), tempfile::tempdir().unwrap());
    let guest = build(&root.source(), &to.path().join("guest")).unwrap();
    let file = to.path().join("initramfs");
    initramfs(&guest, b"the agent", &file).unwrap();
    let expected = [fs::read(guest.modules()).unwrap(), crate::agent_cpio(b"the agent")].concat();
    assert!(fs::read(&file).unwrap() == expected);
    initramfs(&guest, b"the agent", &to.path().join("nowhere/initramfs")).unwrap_err();
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
}

#[test]
fn a_distributions_kernel_becomes_a_guest() {
    let Some(root) = debian() else {
        return moat_testkit::not_run_here("no guest-kernel in the tools directory; `cargo xtask test` unpacks one");
    };
    let to = tempfile::tempdir().unwrap();
    let guest = build(&find_source_below(&root, None).unwrap(), &to.path().join("guest")).unwrap();
    assert!(guest.image.pvh, "QEMU starts it");
    assert!(guest.image.kernel_version.ends_with("-cloud-amd64"), "{}", guest.image.kernel_version);
    assert_eq!(guest.image.absent, [""; 0]);
    for name in ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "erofs", "overlay"] {
        assert!(guest.image.modules.iter().any(|known| known == name), "{name} of {:?}", guest.image.modules);
    }
    // What every start copies and every machine holds in memory until the agent has loaded it.
    assert!(fs::metadata(guest.modules()).unwrap().len() < 4 << 20);
}

use std::fs;

use super::samples::{Root, VERSION, module};
use crate::modules::{Picked, pick};

fn names(picked: &Picked) -> Vec<&str> {
    picked.modules.iter().map(|module| module.name.as_str()).collect()
}

fn position(picked: &Picked, name: &str) -> usize {
    names(picked).iter().position(|known| *known == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn each_module_comes_after_what_it_needs_and_nothing_else_comes() {
    let root = Root::usual();
    let picked = pick(&root.modules(), VERSION).unwrap();
    for (first, then) in [
        ("virtio", "virtio_pci"),
        ("virtio_ring", "virtio_blk"),
        ("failover", "net_failover"),
        ("net_failover", "virtio_net"),
        ("libcrc32c", "erofs"),
    ] {
        assert!(position(&picked, first) < position(&picked, then), "{:?}", names(&picked));
    }
    assert_eq!(picked.modules.len(), 12, "{:?}", names(&picked));
    // Built in, and not asked for.
    for name in ["ext4", "virtio_console", "unwanted"] {
        assert!(!names(&picked).contains(&name));
    }
    assert!(names(&picked).contains(&"virtio_rng"), "the kernel's name of virtio-rng.ko");
    let absent = ["virtio_balloon", "vmw_vsock_virtio_transport", "tcp_diag", "udp_diag", "virtiofs"];
    assert_eq!(picked.absent, absent);
}

#[test]
fn packed_modules_come_out_as_they_were() {
    let root = Root::usual();
    let picked = pick(&root.modules(), VERSION).unwrap();
    for name in ["virtio_ring", "virtio_pci", "virtio_mmio"] {
        let bytes = &picked.modules[position(&picked, name)].bytes;
        assert!(bytes.starts_with(b"\x7fELF"), "{name}");
    }
}

#[test]
fn modules_dep_is_believed_where_it_is() {
    let root = Root::usual();
    let list = "kernel/fs/overlayfs/overlay.ko: kernel/fs/unwanted.ko\nkernel/fs/erofs/erofs.ko:\n";
    root.write(&format!("lib/modules/{VERSION}/modules.dep"), list.as_bytes());
    let picked = pick(&root.modules(), VERSION).unwrap();
    assert!(position(&picked, "unwanted") < position(&picked, "overlay"));
    assert!(!names(&picked).contains(&"libcrc32c"));
}

#[test]
fn soft_dependencies_come_if_they_are_there() {
    let root = Root::usual();
    let erofs = module(&["depends=", "softdep=pre: crc32c nowhere post: unwanted"]);
    root.write(&format!("lib/modules/{VERSION}/kernel/fs/erofs/erofs.ko"), &erofs);
    root.write(&format!("lib/modules/{VERSION}/kernel/crypto/crc32c_generic.ko"), &module(&["depends="]));
    let picked = pick(&root.modules(), VERSION).unwrap();
    assert!(position(&picked, "crc32c_generic") < position(&picked, "erofs"));
    assert!(!names(&picked).contains(&"unwanted"));
}

#[test]
fn a_module_that_is_nowhere_is_named() {
    let root = Root::usual();
    fs::remove_file(root.modules().join("kernel/fs/overlayfs/overlay.ko")).unwrap();
    let error = pick(&root.modules(), VERSION).unwrap_err().to_string();
    assert!(error.starts_with("module overlay: neither a file") && error.contains("apt-get install"), "{error}");
}

#[test]
fn so_is_one_that_another_needs() {
    let root = Root::usual();
    fs::remove_file(root.modules().join("kernel/net/core/failover.ko")).unwrap();
    let error = pick(&root.modules(), VERSION).unwrap_err().to_string();
    assert!(error.starts_with("module failover:"), "{error}");
}

#[test]
fn one_way_to_virtio_is_enough_and_none_is_not() {
    let root = Root::usual();
    fs::remove_file(root.modules().join("kernel/drivers/virtio/virtio_pci.ko.zst")).unwrap();
    let picked = pick(&root.modules(), VERSION).unwrap();
    assert_eq!(picked.absent[0], "virtio_pci");
    fs::remove_file(root.modules().join("kernel/drivers/virtio/virtio_mmio.ko.gz")).unwrap();
    let error = pick(&root.modules(), VERSION).unwrap_err().to_string();
    assert!(error.starts_with("module virtio_pci or virtio_mmio:"), "{error}");
}

#[test]
fn what_is_welcome_comes_whole_or_not_at_all() {
    let root = Root::usual();
    let vsock = module(&["depends=vsock,vmw_vsock_virtio_transport_common"]);
    root.write(&format!("lib/modules/{VERSION}/kernel/net/vmw_vsock_virtio_transport.ko"), &vsock);
    root.write(&format!("lib/modules/{VERSION}/kernel/net/vsock.ko"), &module(&["depends="]));
    let picked = pick(&root.modules(), VERSION).unwrap();
    assert!(!names(&picked).contains(&"vsock"));
    assert!(picked.absent.contains(&"vmw_vsock_virtio_transport".to_owned()));
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let root = Root::usual();
    let error = pick(&root.modules(), "6.9.1").unwrap_err().to_string();
    assert!(error.contains(&format!("built for kernel {VERSION}, but the kernel is 6.9.1")), "{error}");
    assert!(error.contains("--modules"), "{error}");
}

#[test]
fn modules_of_the_operator_win_over_the_packages() {
    let root = Root::usual();
    let own = module(&["depends=", "license=mine"]);
    root.write(&format!("lib/modules/{VERSION}/updates/overlay.ko"), &own);
    let picked = pick(&root.modules(), VERSION).unwrap();
    assert!(picked.modules[position(&picked, "overlay")].bytes == own);
}

#[test]
fn a_circle_of_needs_ends() {
    let root = Root::usual();
    root.write(&format!("lib/modules/{VERSION}/kernel/lib/libcrc32c.ko"), &module(&["depends=erofs"]));
    pick(&root.modules(), VERSION).unwrap();
}

#[test]
fn a_directory_without_modules_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = pick(dir.path(), VERSION).unwrap_err().to_string();
    assert!(error.contains("/lib/modules/<version>"), "{error}");
    pick(&dir.path().join("nowhere"), VERSION).unwrap_err();
}

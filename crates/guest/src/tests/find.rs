use super::samples::{Elf, Root, VERSION};
use crate::{find_source_below, source_of};

#[test]
fn the_newest_with_modules_is_taken() {
    let root = Root::usual();
    for version in ["6.9.12-1", "6.12.3-1", "6.1.0"] {
        root.write(&format!("boot/vmlinuz-{version}"), b"");
        root.write(&format!("lib/modules/{version}/modules.builtin"), b"");
    }
    root.write("boot/vmlinuz-7.0.0", b"");
    root.write("lib/modules/7.1.0/modules.builtin", b"");
    let source = find_source_below(root.dir.path(), None).unwrap();
    assert_eq!(source.kernel, root.dir.path().join("boot/vmlinuz-6.12.3-1"));
    assert_eq!(source.modules.unwrap(), root.dir.path().join("lib/modules/6.12.3-1"));
}

#[test]
fn a_version_can_be_named() {
    let root = Root::usual();
    root.write("lib/modules/9.9.9/vmlinuz", b"");
    let source = find_source_below(root.dir.path(), Some(VERSION)).unwrap();
    assert_eq!(source.modules.unwrap(), root.modules());
    let newest = find_source_below(root.dir.path(), None).unwrap();
    assert_eq!(newest.kernel, root.dir.path().join("lib/modules/9.9.9/vmlinuz"));
}

#[test]
fn where_there_is_none_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = find_source_below(dir.path(), None).unwrap_err().to_string();
    for part in ["no kernel with its modules", "apt-get install linux-image-cloud-amd64", "--kernel"] {
        assert!(error.contains(part), "{error}");
    }
    let error = find_source_below(dir.path(), Some("6.6.6")).unwrap_err().to_string();
    assert!(error.contains("of version 6.6.6"), "{error}");
}

#[test]
fn a_kernel_by_path_without_installed_modules_has_none() {
    let root = Root::usual();
    let kernel = root.source().kernel;
    assert_eq!(source_of(kernel).unwrap().modules, None);
    root.write("vmlinux", &Elf::default().make());
    assert_eq!(source_of(root.dir.path().join("vmlinux")).unwrap().modules, None);
    root.write("vmlinux", b"text");
    let error = source_of(root.dir.path().join("vmlinux")).unwrap_err().to_string();
    assert!(error.contains("vmlinux: neither an ELF file"), "{error}");
    source_of(root.dir.path().join("nowhere")).unwrap_err();
}

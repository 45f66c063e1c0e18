//! Directories of the host as layers, and layers of an overlay.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt as _, chown, symlink};
use std::path::Path;

use moat_model::ErrorKind;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::mounted::{assert_clean, assert_same, listing, mounted};
use super::tars::{Tar, built};
use crate::erofs::{Limits, RootBuilder};
use crate::error::Result;

fn from_directory(dir: &Path, uid_shift: u32, overlay: bool) -> Result<File> {
    let file = tempfile::tempfile().unwrap();
    let builder = RootBuilder::new(file.try_clone().unwrap(), 1, Limits::default());
    builder.add_directory(0, File::open(dir).unwrap().as_fd(), uid_shift, overlay)?;
    builder.finish().map(|_| file)
}

/// A directory with a file of every kind in it.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("d/e/f")).unwrap();
    std::fs::write(at("d/file"), "content").unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::write(at(".wh.literal"), "a name that means nothing here").unwrap();
    std::fs::hard_link(at("d/file"), at("d/e/same")).unwrap();
    symlink("/etc/passwd", at("out")).unwrap();
    symlink("nowhere", at("d/dangling")).unwrap();
    let big: Vec<u8> = (0..2_000_001_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(at("big"), big).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 50 << 20).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from(0o640), 0).unwrap();
    dir
}

#[test]
fn a_directory_is_read_back() {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run_here("trusted attributes need root");
    }
    let dir = filled();
    let at = |name: &str| dir.path().join(name);
    lsetxattr(at("d/file"), "user.note", b"hello", XattrFlags::empty()).unwrap();
    lsetxattr(at("out"), "trusted.of-a-link", b"x", XattrFlags::empty()).unwrap();
    chown(at("empty"), Some(1000), Some(65535)).unwrap();
    let file = from_directory(dir.path(), 0, false).unwrap();
    assert_clean(&file);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    assert!(blocks * 512 < 10 << 20, "holes stay holes: {blocks} blocks");
    let again = from_directory(dir.path(), 0, false).unwrap();
    let whole = |file: &File| {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        crate::Digest::of(&bytes)
    };
    assert_eq!(whole(&file), whole(&again), "the same directory makes the same bytes");
    let Some(root) = mounted(&file) else { return };
    assert_same(&listing(root.path(), true), &listing(dir.path(), true));
}

#[test]
fn ids_are_those_of_the_sandbox() {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run_here("giving files away needs root");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [dir.path(), &file] {
        chown(path, Some(200_000), Some(200_007)).unwrap();
    }
    // CAP_NET_RAW, for the user namespace whose root is 200000.
    let capability = |root: u32| {
        let mut value = vec![1, 0, 0, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        value.extend_from_slice(&root.to_le_bytes());
        value
    };
    lsetxattr(&file, "security.capability", &capability(200_000), XattrFlags::empty()).unwrap();
    let Some(root) = mounted(&from_directory(dir.path(), 200_000, true).unwrap()) else { return };
    let line = listing(root.path(), false).remove("file").unwrap();
    assert!(line.starts_with("100644 0:7 "), "{line}");
    // Of root 0 the kernel shows the shorter form.
    assert!(line.contains("security.capability=\\x01\\x00\\x00\\x02"), "{line}");
    let error = from_directory(dir.path(), 200_001, true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.chain().contains("owner 200000"), "{}", error.chain());
    chown(&file, Some(200_000 + 65_536), None).unwrap();
    let error = from_directory(dir.path(), 200_000, true).unwrap_err();
    assert!(error.chain().contains("entry \"file\": its owner 265536"), "{}", error.chain());
}

#[test]
fn other_file_systems_and_marks_of_other_overlays_are_refused() {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run_here("mounting needs root");
    }
    let dir = filled();
    let inner = dir.path().join("d/e/f");
    mount("tmpfs", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
    let error = from_directory(dir.path(), 0, false).map(|_| ()).unwrap_err();
    unmount(&inner, UnmountFlags::DETACH).unwrap();
    assert!(error.chain().contains("entry \"d/e/f\": another file system"), "{}", error.chain());
    lsetxattr(&inner, "trusted.overlay.redirect", b"/etc", XattrFlags::empty()).unwrap();
    let error = from_directory(dir.path(), 0, true).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.chain().contains("entry \"d/e/f\": the overlay mark"), "{}", error.chain());
}

/// An overlay, unmounted when dropped.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn new(lower: &[&Path], upper: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
        let mut options = format!("lowerdir={},redirect_dir=off,metacopy=off,index=off", lower.join(":"));
        if let Some(upper) = upper {
            let upper = upper.display();
            options.push_str(&format!(",upperdir={upper}/upper,workdir={upper}/work"));
        }
        let options = std::ffi::CString::new(options).unwrap();
        mount("overlay", dir.path(), "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// What a sandbox writes becomes a layer that, over the same root, shows the same.
#[test]
fn an_overlays_upper_directory_is_a_layer() {
    let base = Tar::default()
        .file("etc/passwd", b"root")
        .file("etc/shadow", b"secret")
        .file("opt/app/one", b"1")
        .file("opt/app/two", b"2")
        .file("usr/bin/tool", b"tool")
        .symlink("bin", "usr/bin")
        .file("replaced", b"by a directory")
        .file("var/replaced/x", b"by a file");
    let (base, _) = built(&[base.end()]).unwrap();
    let Some(base) = mounted(&base) else { return };
    let writable = tempfile::tempdir().unwrap();
    std::fs::create_dir(writable.path().join("upper")).unwrap();
    std::fs::create_dir(writable.path().join("work")).unwrap();
    let live = Overlay::new(&[base.path()], Some(writable.path()));
    let at = |name: &str| live.0.path().join(name);
    std::fs::remove_file(at("etc/shadow")).unwrap();
    std::fs::write(at("etc/passwd"), "root and more").unwrap();
    std::fs::remove_dir_all(at("opt/app")).unwrap();
    std::fs::create_dir(at("opt/app")).unwrap();
    std::fs::write(at("opt/app/three"), "3").unwrap();
    std::fs::remove_file(at("replaced")).unwrap();
    std::fs::create_dir(at("replaced")).unwrap();
    std::fs::remove_dir_all(at("var/replaced")).unwrap();
    std::fs::write(at("var/replaced"), "a file").unwrap();
    std::fs::write(at("bin/new"), "through a link").unwrap();
    std::fs::hard_link(at("bin/new"), at("usr/bin/other")).unwrap();
    std::fs::create_dir_all(at("home/.wh.user")).unwrap();
    let layer = from_directory(&writable.path().join("upper"), 0, true).unwrap();
    assert_clean(&layer);
    let layer = mounted(&layer).unwrap();
    let again = Overlay::new(&[layer.path(), base.path()], None);
    assert_same(&listing(again.0.path(), true), &listing(live.0.path(), true));
    assert!(!again.0.path().join("etc/shadow").exists() && !again.0.path().join("opt/app/one").exists());
}

//! What the kernel reads from a root file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::tars::{Tar, built};
use crate::Digest;

/// A mounted root file, unmounted when dropped.
pub(super) struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

/// Mounts a root file; None, and said so, where that cannot be.
pub(super) fn mounted(file: &File) -> Option<Mounted> {
    if !moat_testkit::is_root() {
        moat_testkit::not_run_here("mounting needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match mount(&source, dir.path(), "erofs", MountFlags::RDONLY, None) {
        Ok(()) => Some(Mounted { dir }),
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOTBLK) => {
            moat_testkit::not_run_here("this kernel does not mount erofs from a file");
            None
        }
        Err(error) => panic!("mount a root file: {error}"),
    }
}

/// Everything about every file below a directory, by path. Times of directories only if asked: who unpacks by writing into
/// them changes those.
pub(super) fn listing(root: &Path, directory_times: bool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    // Only there are the numbers in directories those of the files: an overlay makes them up.
    let erofs = rustix::fs::statfs(root).unwrap().f_type == 0xe0f5_e1e2;
    let mut rest = vec![PathBuf::new()];
    while let Some(path) = rest.pop() {
        let full = root.join(&path);
        let meta = full.symlink_metadata().unwrap();
        let name = path.as_os_str().as_encoded_bytes().escape_ascii().to_string();
        let mut line = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_dir() {
            let mut names: Vec<_> = full.read_dir().unwrap().map(|e| e.unwrap()).collect();
            names.sort_by_key(std::fs::DirEntry::file_name);
            for entry in names.iter().filter(|_| erofs) {
                assert_ne!(entry.ino(), 0, "{name}");
                // What a listing says and what looking up says is the same file.
                assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{name}/{:?}", entry.file_name());
            }
            rest.extend(names.iter().map(|entry| path.join(entry.file_name())));
        } else {
            let first = first_names.entry(meta.ino()).or_insert_with(|| name.clone());
            write!(line, " size {} links {} first {first}", meta.size(), meta.nlink()).unwrap();
        }
        if directory_times || !meta.is_dir() {
            write!(line, " time {}.{}", meta.mtime(), meta.mtime_nsec()).unwrap();
        }
        if meta.is_symlink() {
            write!(line, " to {:?}", full.read_link().unwrap()).unwrap();
        } else if meta.is_file() {
            write!(line, " {}", Digest::of(&std::fs::read(&full).unwrap())).unwrap();
        }
        for (xattr, value) in xattrs(&full) {
            write!(line, " {xattr}={}", value.escape_ascii()).unwrap();
        }
        found.insert(name, line);
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65536];
    let count = llistxattr(path, list.as_mut_slice()).unwrap_or(0);
    let names = list[..count].split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut value = vec![0; 65536];
    names
        .map(|name| {
            let count = lgetxattr(path, name, value.as_mut_slice());
            let count = count.unwrap_or_else(|e| panic!("{path:?} {}: {e}", name.escape_ascii()));
            (String::from_utf8_lossy(name).into_owned(), value[..count].to_vec())
        })
        .collect()
}

/// Two listings are the same, or the first differences are shown.
pub(super) fn assert_same(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .take(20)
        .map(|name| format!("{name:?}:\n  ours   {:?}\n  theirs {:?}", ours.get(name), theirs.get(name)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// fsck.erofs, where it is installed, finds nothing.
pub(super) fn assert_clean(file: &File) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    match std::process::Command::new("fsck.erofs").arg(path).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => moat_testkit::not_run_here("fsck.erofs is not installed"),
    }
}

#[test]
fn every_type_of_file_is_read_back() {
    let big: Vec<u8> = (0..3_000_001_u32).map(|n| (n / 7) as u8).collect();
    let mut tar = Tar::default()
        .dir("./")
        .dir("bin")
        .entry(b'0', "bin/tool", "", 0o4755, b"#!/bin/sh\n")
        .link("bin/same", "bin/tool")
        .symlink("bin/short", "tool")
        .file("empty", b"")
        .file("block", &[7; 4096])
        .file("big", &big)
        .entry(b'6', "pipe", "", 0o600, b"")
        .entry(b'3', "null", "", 0o666, b"")
        .file("+first", b"sorts before the point")
        .file("..both", b"sorts behind")
        .dir("many");
    for n in 0..3000 {
        tar = tar.file(&format!("many/file-{n:04}-{}", "x".repeat(n % 60)), &n.to_string().into_bytes());
    }
    let long = "l".repeat(4000);
    let records: [(&str, &[u8]); 5] = [
        ("mtime", b"1234567890.000000123"),
        ("SCHILY.xattr.user.note", b"hello"),
        ("SCHILY.xattr.trusted.secret", &[0, 1, 2]),
        ("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("SCHILY.xattr.com.apple.provenance", b"dropped"),
    ];
    tar = tar.pax(&records).file("attributes", b"x");
    tar = tar.pax(&[("mtime", b"-1.25")]).file("old", b"");
    tar = tar.pax(&[("linkpath", long.as_bytes())]).symlink("long", "");
    tar = tar.pax(&[("SCHILY.xattr.trusted.large", &[b'v'; 5000])]).symlink("large", "target");
    let (file, summary) = built(&[tar.end()]).unwrap();
    assert_clean(&file);
    let Some(root) = mounted(&file) else { return };
    let seen = listing(root.path(), true);
    assert_eq!(summary.entries, seen.len() as u64);
    let line = |name: &str| seen.get(name).cloned().unwrap_or_default();
    let time = "time 1600000000.0";
    let of = |bytes: &[u8]| Digest::of(bytes);
    assert_eq!(line(""), format!("40755 0:0 {time}"));
    let tool = "104755 0:0 size 10 links 2 first bin/";
    assert!(line("bin/tool").starts_with(tool) && line("bin/same").starts_with(tool), "{}", line("bin/tool"));
    assert_eq!(line("bin/short"), format!("120777 0:0 size 4 links 1 first bin/short {time} to \"tool\""));
    assert_eq!(line("empty"), format!("100644 0:0 size 0 links 1 first empty {time} {}", of(b"")));
    assert_eq!(line("big"), format!("100644 0:0 size 3000001 links 1 first big {time} {}", of(&big)));
    assert_eq!(line("pipe"), format!("10600 0:0 size 0 links 1 first pipe {time}"));
    assert!(!seen.contains_key("null"));
    let last = format!("many/file-2999-{}", "x".repeat(2999 % 60));
    assert!(line(&last).ends_with(&of(b"2999").to_string()));
    assert!(line("long").ends_with(&format!("{long}\"")));
    assert!(line("large").ends_with(&"v".repeat(5000)));
    assert!(line("old").contains("time -2.750000000"), "{}", line("old"));
    let attributes = line("attributes");
    assert!(attributes.contains("time 1234567890.123 "), "{attributes}");
    assert!(attributes.contains("user.note=hello") && attributes.contains("trusted.secret=\\x00\\x01\\x02"));
    assert!(attributes.contains("security.capability=\\x01\\x00\\x00\\x02") && !attributes.contains("apple"));
    let links = std::fs::metadata(root.path()).unwrap().nlink();
    assert_eq!(links, 4, "of the root: its own, bin, many");
}

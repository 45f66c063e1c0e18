//! The same images, unpacked by umoci: what it makes of their layers and what we make of them is the same tree.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mounted::{assert_clean, assert_same, listing, mounted};
use super::tars::Tar;
use crate::erofs::{Compression, Limits, RootBuilder};

/// An OCI layout that umoci works on.
struct Layout {
    umoci: PathBuf,
    dir: tempfile::TempDir,
}

impl Layout {
    /// An empty one with an image of no layers. None, and said so, where there is no umoci.
    fn new() -> Option<Self> {
        let Some(umoci) = moat_testkit::tool("umoci").filter(|_| moat_testkit::is_root()) else {
            moat_testkit::not_run_here("needs umoci and root");
            return None;
        };
        let layout = Self { umoci, dir: tempfile::tempdir().unwrap() };
        layout.run(&["init", "--layout", &layout.path("image")]);
        layout.run(&["new", "--image", &layout.image()]);
        Some(layout)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn image(&self) -> String {
        self.path("image:test")
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(&self.umoci).args(arguments).output().unwrap();
        assert!(output.status.success(), "umoci {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn add(&self, layer: &Path) {
        self.run(&["raw", "add-layer", "--image", &self.image(), layer.to_str().unwrap()]);
    }

    fn add_bytes(&self, layer: &[u8]) {
        let path = self.path("layer.tar");
        std::fs::write(&path, layer).unwrap();
        self.add(Path::new(&path));
    }

    /// Unpacks it; the tree is in `rootfs` there.
    fn unpack(&self, to: &str) -> PathBuf {
        let to = self.path(to);
        self.run(&["unpack", "--image", &self.image(), &to]);
        Path::new(&to).join("rootfs")
    }

    fn blob(&self, descriptor: &serde_json::Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        self.dir.path().join("image/blobs/sha256").join(digest)
    }

    fn json(path: &Path) -> serde_json::Value {
        serde_json::from_reader(File::open(path).unwrap()).unwrap()
    }

    /// Our root file of it, every layer in a thread of its own.
    fn build(&self) -> File {
        let index = Self::json(&self.dir.path().join("image/index.json"));
        let manifest = Self::json(&self.blob(&index["manifests"][0]));
        let config = Self::json(&self.blob(&manifest["config"]));
        let layers = manifest["layers"].as_array().unwrap();
        let file = tempfile::tempfile().unwrap();
        let builder = RootBuilder::new(file.try_clone().unwrap(), layers.len(), Limits::default());
        std::thread::scope(|scope| {
            for (index, layer) in layers.iter().enumerate() {
                let (builder, config, blob) = (&builder, &config, self.blob(layer));
                scope.spawn(move || {
                    let blob = File::open(blob).unwrap();
                    let length = blob.metadata().unwrap().len();
                    let summary = builder.add_layer(index, Compression::Gzip, length, BufReader::new(blob)).unwrap();
                    assert_eq!(summary.diff_id.to_string(), config["rootfs"]["diff_ids"][index].as_str().unwrap());
                });
            }
        });
        builder.finish().unwrap();
        file
    }

    /// Both trees are the same. Times of directories are left out: umoci writes into them.
    fn compare(&self) {
        let theirs = self.unpack("compared");
        let file = self.build();
        assert_clean(&file);
        let Some(ours) = mounted(&file) else { return };
        assert_same(&listing(ours.path(), false), &listing(&theirs, false));
    }
}

#[test]
fn layers_by_hand_are_what_umoci_makes_of_them() {
    let Some(layout) = Layout::new() else { return };
    let first = Tar::default()
        .dir("./")
        .dir("etc")
        .file("etc/passwd", b"root")
        .file("etc/group", b"wheel")
        .dir("usr")
        .dir("usr/lib")
        .file("usr/lib/libc.so", b"code")
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/lib")
        .dir("opaque")
        .file("opaque/old", b"old")
        .dir("opaque/deep")
        .file("opaque/deep/old", b"old")
        .file("becomes-dir", b"file")
        .dir("becomes-file")
        .file("becomes-file/x", b"x")
        .file("linked", b"one content")
        .link("linked-too", "linked")
        .file("twice", b"first")
        .file("twice", b"second and longer")
        .pax(&[("SCHILY.xattr.user.note", b"kept"), ("mtime", b"1000000000.5")])
        .file("noted", b"x")
        .entry(b'6', "pipe", "", 0o622, b"");
    layout.add_bytes(&first.end());
    let second = Tar::default()
        .file("etc/.wh.group", b"")
        .file("lib/through-a-link", b"x")
        .file("absolute/through-another", b"y")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .dir("becomes-dir")
        .file("becomes-dir/x", b"x")
        .file("becomes-file", b"file")
        .link("linked-later", "linked")
        .file(".wh.linked-too", b"")
        .file(".wh.never-was", b"")
        .dir("made/on/the/way");
    layout.add_bytes(&second.end());
    layout.add_bytes(&Tar::default().file(".wh.linked", b"").file("opaque/.wh.new", b"").end());
    layout.compare();
}

#[test]
fn what_umoci_packs_is_what_it_unpacks() {
    let Some(layout) = Layout::new() else { return };
    let Some(busybox) = moat_testkit::busybox() else {
        return moat_testkit::not_run_here("needs a busybox");
    };
    let list = Command::new(&busybox).arg("--list").output().unwrap().stdout;
    let applets = String::from_utf8(list).unwrap();
    let mut tar = Tar::default().dir("bin").entry(b'0', "bin/busybox", "", 0o4755, &std::fs::read(&busybox).unwrap());
    for applet in applets.lines().filter(|name| *name != "busybox") {
        tar = tar.link(&format!("bin/{applet}"), "bin/busybox");
    }
    layout.add_bytes(&tar.end());
    let bundle = layout.unpack("bundle");
    assert!(bundle.join("bin/sh").exists(), "some three hundred links: {}", applets.lines().count());
    std::fs::remove_file(bundle.join("bin/vi")).unwrap();
    std::fs::create_dir_all(bundle.join("home/user")).unwrap();
    std::fs::write(bundle.join("home/user/file"), "content").unwrap();
    std::os::unix::fs::symlink("../bin", bundle.join("home/bin")).unwrap();
    layout.run(&["repack", "--image", &layout.image(), &layout.path("bundle")]);
    layout.compare();
}

/// A whole system: about ten thousand files. Then one with a layer on top that removes much of it.
#[test]
fn a_whole_system_is_the_same() {
    let Some(layout) = Layout::new() else { return };
    let Some(root) = moat_testkit::tool("debian-root.tar") else {
        return moat_testkit::not_run_here("needs debian-root.tar, which cargo xtask test installs");
    };
    layout.add(&root);
    let above = Tar::default().file("usr/share/.wh.doc", b"").file("usr/share/locale/.wh..wh..opq", b"");
    layout.add_bytes(&above.file("bin/added", b"through the merged bin").end());
    layout.compare();
}

use std::os::unix::fs::symlink;

use super::super::beneath::{Beneath, place};
use super::super::dirs::AllocDirs;
use super::super::{files, secrets};
use super::*;

fn built(dir: &Path, n: u32) -> AllocDirs {
    let dirs = AllocDirs::new(dir.join(alloc_id(n).as_str()), 0x3000_0000);
    dirs.build([("web", true), ("db", false)]).unwrap();
    dirs
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a01_directories_are_made_shared_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = built(dir.path(), 1);
    for (path, wanted) in [
        ("alloc", 0o777),
        ("alloc/logs", 0o755),
        ("alloc/tmp", 0o777),
        ("alloc/data", 0o777),
        ("web/local", 0o777),
        ("web/tmp", 0o1777),
        ("web/secrets", 0o700),
        ("db/local", 0o777),
    ] {
        assert_eq!(mode(&dirs.root().join(path)), wanted, "{path}");
    }
    assert!(!dirs.root().join("db/secrets").exists(), "its sandbox makes them");
    dirs.build([("web", true), ("db", false)]).unwrap();
    std::fs::write(dirs.shared().join("data/f"), vec![1u8; 1 << 20]).unwrap();
    assert!(dirs.bytes().unwrap() >= 1 << 20);
    dirs.remove().unwrap();
    dirs.remove().unwrap();
    assert!(!dirs.root().exists());
}

/// A06: whoever is not root makes the same directories, all of them their own.
#[test]
fn a06_directories_are_made_without_root() {
    use std::os::unix::fs::MetadataExt;
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    std::fs::create_dir(&place).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let own = std::fs::metadata(&place).unwrap().uid();
    let build = move || {
        if root {
            // Of this thread alone: it ends with the test.
            rustix::thread::set_thread_gid(rustix::process::Gid::from_raw(NOBODY)).unwrap();
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
        }
        let dirs = built(&place, 1);
        std::fs::write(dirs.local("web").join("file"), "1").unwrap();
        dirs.build([("web", true), ("db", false)]).unwrap();
        dirs
    };
    let dirs = std::thread::spawn(build).join().unwrap();
    for path in ["alloc/logs", "alloc/data", "web/local", "web/secrets", "db/tmp"] {
        assert_eq!(std::fs::metadata(dirs.root().join(path)).unwrap().uid(), own, "{path}");
    }
    assert_eq!(mode(&dirs.root().join("web/secrets")), 0o700);
    assert_eq!(mode(&dirs.root().join("web/local")), 0o777);
    dirs.remove().unwrap();
}

#[test]
fn a02_a_successor_takes_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (built(dir.path(), 1), built(dir.path(), 2));
    std::fs::write(old.shared().join("data/kept"), "1").unwrap();
    std::fs::write(old.shared().join("tmp/lost"), "1").unwrap();
    std::fs::write(old.local("web").join("kept"), "1").unwrap();
    new.take_from(&old, ["web", "db", "other"]).unwrap();
    assert!(new.shared().join("data/kept").exists() && new.local("web").join("kept").exists());
    assert!(!new.shared().join("tmp/lost").exists());
    new.take_from(&old, ["web", "db"]).unwrap();
    assert!(new.local("web").join("kept").exists(), "what is there is not replaced");
}

#[test]
fn a03_nothing_outside_and_nothing_secret_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = built(dir.path(), 1);
    let root = dirs.root();
    std::fs::write(dir.path().join("outside"), "no").unwrap();
    std::fs::write(root.join("web/local/file"), "one\ntwo\n").unwrap();
    std::fs::write(root.join("web/secrets/key"), "no").unwrap();
    symlink("../../../outside", root.join("web/local/up")).unwrap();
    symlink("/etc/passwd", root.join("web/local/etc")).unwrap();
    symlink("../secrets/key", root.join("web/local/key")).unwrap();
    symlink("file", root.join("web/local/same")).unwrap();
    let read = |path: &str| {
        let allowed = files::allowed(path)?;
        let (mut file, at) = files::begin(root, &allowed, Origin::Start(0))?;
        Ok::<_, Error>(String::from_utf8(files::piece(&mut file, at, 100).unwrap()).unwrap())
    };
    assert_eq!(read("web/local/file").unwrap(), "one\ntwo\n");
    assert_eq!(read("/web/local/same").unwrap(), "one\ntwo\n");
    for path in [
        "../outside",
        "web/../../outside",
        "web/local/up",
        "web/local/etc",
        "web/local/key",
        "web/secrets/key",
        "web/SECRETS/key",
        "web/Secrets",
        "db/private/x",
        "db/PRIVATE",
    ] {
        let error = read(path).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{path}: {}", error.chain());
    }
    assert_eq!(read("web/local").unwrap_err().kind, ErrorKind::InvalidSpec);
    assert_eq!(read("web/none").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(files::list(root, Path::new("web/secrets")).unwrap_err().kind, ErrorKind::Denied);
    let names: Vec<String> = files::list(root, Path::new("web/local")).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["etc", "file", "key", "same", "up"]);
    assert_eq!(files::stat(root, Path::new("web/local/file")).unwrap().size, 8);
    let (_, at) = files::begin(root, Path::new("web/local/file"), Origin::Lines(1)).unwrap();
    assert_eq!(at, 4);
}

#[test]
fn a04_secrets_are_mounted_once_again_after_an_unmount_and_bounded() {
    if !rustix::process::geteuid().is_root() {
        moat_testkit::not_run("A04", "mounting needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("secrets");
    for _ in 0..2 {
        secrets::mount(&place, 1, Some((0x3000_0000, 0x3000_0000))).unwrap();
        secrets::mount(&place, 1, None).unwrap();
        std::fs::write(place.join("key"), "s").unwrap();
        let too_much = std::fs::write(place.join("big"), vec![0u8; 2 << 20]).unwrap_err();
        assert_eq!(too_much.kind(), std::io::ErrorKind::StorageFull);
        secrets::unmount(&place).unwrap();
        secrets::unmount(&place).unwrap();
        assert!(!place.join("key").exists());
    }
}

#[test]
fn destinations_stay_in_the_allocation() {
    let root = Path::new("/data/alloc/1");
    for (text, wanted) in [
        ("local/x", Some("web/local/x")),
        ("x", Some("web/x")),
        ("../alloc/x", Some("alloc/x")),
        ("/alloc/x", Some("alloc/x")),
        ("/local/x", Some("web/local/x")),
        ("/etc/passwd", Some("web/etc/passwd")),
        ("/data/alloc/1/alloc/x", Some("alloc/x")),
        ("../../x", None),
        ("../../../etc/passwd", None),
    ] {
        assert_eq!(place(root, "web", text).as_deref(), wanted.map(Path::new), "{text}");
    }
}

#[test]
fn what_is_written_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = built(dir.path(), 1);
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    symlink("../../../outside", dirs.local("web").join("out")).unwrap();
    std::fs::write(dir.path().join("target"), "old").unwrap();
    symlink("../../../target", dirs.local("web").join("file")).unwrap();
    let beneath = Beneath::open(dirs.root()).unwrap();
    assert!(beneath.replace(Path::new("web/local/out/x"), b"x", 0o644, None).is_err());
    beneath.replace(Path::new("web/local/file"), b"new", 0o640, None).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("target")).unwrap(), "old");
    assert_eq!(std::fs::read_to_string(dirs.local("web").join("file")).unwrap(), "new");
    assert_eq!(mode(&dirs.local("web").join("file")), 0o640);
    beneath.replace(Path::new("web/local/new/deep/x"), b"x", 0o600, None).unwrap();
    assert!(dirs.local("web").join("new/deep/x").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
}

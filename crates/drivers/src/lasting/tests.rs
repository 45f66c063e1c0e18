//! Copies compared bit by bit with what they were made of, and archives that mean harm.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use moat_model::ErrorKind;
use proptest::prelude::*;
use rustix::fs::{
    CWD, FallocateFlags, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr, mknodat,
};

use super::archive::{Member, padding};
use super::*;

const FROM: u32 = 0x2000_0000;
const TO: u32 = 0x2345_0000;
static GO: AtomicBool = AtomicBool::new(false);

fn not_root(id: &str) -> bool {
    if !moat_testkit::is_root() {
        moat_testkit::not_run(id, "needs root");
    }
    !moat_testkit::is_root()
}

/// Everything there is to know of a tree, with ids as they are inside.
fn told(top: &Path, base: u32) -> BTreeMap<PathBuf, String> {
    let mut told = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut rest = vec![PathBuf::new()];
    while let Some(path) = rest.pop() {
        let at = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(&path) };
        let found = fs::symlink_metadata(&at).unwrap();
        let kind = found.file_type();
        let whiteout = kind.is_char_device() && found.rdev() == 0;
        let id = |id: u32| if whiteout { id } else { id.wrapping_sub(base) };
        let content = if kind.is_file() {
            format!("{:?}", fs::read(&at).unwrap())
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&at).unwrap())
        } else {
            format!("{:?} {}{}", kind, found.rdev(), if whiteout { " whiteout" } else { "" })
        };
        let same = if kind.is_dir() { path.clone() } else { first.entry(found.ino()).or_insert(path.clone()).clone() };
        let (uid, gid, mode) = (id(found.uid()), id(found.gid()), found.mode());
        let (time, nanos) = (found.mtime(), found.mtime_nsec());
        told.insert(
            path.clone(),
            format!("{uid}:{gid} {mode:o} {time}.{nanos} {content} {same:?} {:?}", attributes_of(&at, base)),
        );
        if kind.is_dir() {
            let mut names: Vec<_> =
                fs::read_dir(&at).unwrap().map(|entry| path.join(entry.unwrap().file_name())).collect();
            // The first of two names is the same in both trees.
            names.sort_by(|a, b| b.cmp(a));
            rest.extend(names);
        }
    }
    told
}

fn attributes_of(path: &Path, base: u32) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    let owners = Owners { from: base, to: 0 };
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = lgetxattr(path, name, value.as_mut_slice()).unwrap();
            (String::from_utf8_lossy(name).into_owned(), owners.value(name, &value[..length], path).unwrap())
        })
        .collect()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// Capabilities that count for root of the tree.
fn capabilities(root: u32) -> Vec<u8> {
    let mut value = vec![1, 0, 0, 3, 0, 4, 0, 0];
    value.extend([0; 12]);
    value.extend(root.to_le_bytes());
    value
}

/// An access list with a named user.
fn acl(user: u32) -> Vec<u8> {
    let entry =
        |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries = [entry(1, 6, none), entry(2, 4, user), entry(4, 4, none), entry(16, 4, none), entry(32, 4, none)];
    [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
}

/// One thing, of a kind, at one of a few places.
#[derive(Debug, Clone)]
struct Thing {
    kind: u8,
    place: u8,
    other: u8,
    id: u16,
    mode: u16,
    bytes: Vec<u8>,
}

fn things(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Thing>> {
    let thing = (0_u8..12, 0_u8..24, 0_u8..24, any::<u16>(), 0_u16..0o10000, prop::collection::vec(any::<u8>(), 0..40));
    let thing = thing.prop_map(|(kind, place, other, id, mode, bytes)| Thing { kind, place, other, id, mode, bytes });
    prop::collection::vec(thing, count)
}

fn spot(top: &Path, place: u8) -> PathBuf {
    let names = ["a", "b", "c", "d\n", "e", "f"];
    let dirs = ["", "one", "one/two", "three"];
    top.join(dirs[usize::from(place / 6)]).join(names[usize::from(place % 6)])
}

/// Does what it can; what does not fit the tree is left out.
fn happen(top: &Path, thing: &Thing) {
    let (path, other) = (spot(top, thing.place), spot(top, thing.other));
    let _ = fs::create_dir_all(path.parent().unwrap());
    let node = |kind, device| mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).is_ok();
    // What is no file is not written to: a pipe would wait, and a link lead somewhere.
    let plain = fs::symlink_metadata(&path).map_or(true, |found| found.is_file());
    let made = match thing.kind {
        0 | 1 => plain && fs::write(&path, &thing.bytes).is_ok(),
        2 => fs::create_dir(&path).is_ok(),
        3 => symlink(String::from_utf8_lossy(&thing.bytes).replace('\0', "x") + "../../x", &path).is_ok(),
        4 => node(FileType::Fifo, 0),
        5 => node(FileType::CharacterDevice, 0),
        6 => node(FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        7 => fs::hard_link(&other, &path).is_ok(),
        8 => fs::rename(&other, &path).is_ok(),
        9 => {
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            false
        }
        10 => {
            for name in ["user.x", "trusted.overlay.opaque", "system.posix_acl_default", "security.capability"] {
                let _ = lremovexattr(&path, name);
            }
            false
        }
        _ => {
            let end = u64::from(thing.id) * 3;
            plain && File::options().write(true).open(&path).is_ok_and(|file| file.write_at(&thing.bytes, end).is_ok())
        }
    };
    let Ok(found) = fs::symlink_metadata(&path) else { return };
    if !made || found.nlink() > 1 && !found.is_dir() || found.file_type().is_char_device() && found.rdev() == 0 {
        return;
    }
    lchown(&path, Some(FROM + u32::from(thing.id)), Some(FROM + u32::from(thing.id / 2))).unwrap();
    if found.is_symlink() {
        return;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(thing.mode.into())).unwrap();
    if found.is_file() || found.is_dir() {
        set(&path, "user.x", &thing.bytes);
        set(&path, "system.posix_acl_access", &acl(FROM + 7));
    }
    if found.is_dir() && thing.id.is_multiple_of(3) {
        // What is made in it from now on has it too.
        set(&path, "system.posix_acl_default", &acl(FROM + 7));
    }
    if found.is_dir() && thing.id.is_multiple_of(2) {
        set(&path, "trusted.overlay.opaque", b"y");
    }
    if found.is_file() {
        set(&path, "security.capability", &capabilities(FROM));
    }
}

fn tree(dir: &Path, things: &[Thing]) -> PathBuf {
    let top = dir.join("tree");
    for sub in ["", "one", "one/two", "three"] {
        let path = top.join(sub);
        fs::create_dir(&path).unwrap();
        lchown(&path, Some(FROM), Some(FROM)).unwrap();
    }
    things.iter().for_each(|thing| happen(&top, thing));
    owned(&top);
    top
}

/// What was made in passing belongs to somebody of the tree too.
fn owned(top: &Path) {
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let whiteout = found.file_type().is_char_device() && found.rdev() == 0;
        if found.uid() < FROM && !whiteout {
            lchown(&path, Some(FROM), Some(FROM)).unwrap();
        }
        if found.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

fn copied(top: &Path, to: &Path) -> Copier {
    let mut copier = Copier::new(top, to, Owners { from: FROM, to: TO }).unwrap();
    copier.pass(Pass::Running, &GO).unwrap();
    copier
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_copy_is_the_tree_also_after_it_changed(before in things(0..40), after in things(0..20), archived in any::<bool>()) {
        if not_root("lasting copy") { return Ok(()); }
        let dir = tempfile::tempdir().unwrap();
        let top = tree(dir.path(), &before);
        let to = dir.path().join("copy");
        let mut copier = copied(&top, &to);
        prop_assert_eq!(told(&top, FROM), told(&to, TO));
        after.iter().for_each(|thing| happen(&top, thing));
        owned(&top);
        copier.pass(Pass::Standing, &GO).unwrap();
        prop_assert_eq!(told(&top, FROM), told(&to, TO));
        copier.finish().unwrap();
        prop_assert!(!dir.path().join("copy.links").exists());
        if archived {
            let mut bytes = Vec::new();
            let packed = export(&to, TO, &mut bytes, &GO).unwrap();
            let again = dir.path().join("again");
            import(&mut &bytes[..], &again, FROM, &ImportLimits::default(), &GO).unwrap();
            let mut expected = told(&top, FROM);
            let mut got = told(&again, FROM);
            // Nothing says when whiteouts were made, nor by whom.
            for tree in [&mut expected, &mut got] {
                tree.retain(|_, line| !line.contains("whiteout"));
            }
            if packed.dropped == 0 {
                prop_assert_eq!(expected, got);
            }
        }
        remove(&top).unwrap();
        remove(&to).unwrap();
    }
}

#[test]
fn holes_stay_holes_and_nothing_is_copied_twice() {
    if not_root("lasting holes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let top = tree(dir.path(), &[]);
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_at(b"middle", 1 << 29).unwrap();
    fs::write(top.join("plain"), vec![7; 1 << 20]).unwrap();
    fs::hard_link(top.join("plain"), top.join("one/again")).unwrap();
    // Old enough that the kernel's clock has moved on.
    owned(&top);
    let to = dir.path().join("copy");
    let mut copier = copied(&top, &to);
    let made = fs::metadata(to.join("sparse")).unwrap();
    assert!(made.len() == 1 << 30 && made.blocks() < 1 << 12, "{made:?}");
    assert_eq!(fs::metadata(to.join("plain")).unwrap().ino(), fs::metadata(to.join("one/again")).unwrap().ino());
    let again = copier.pass(Pass::Standing, &GO).unwrap();
    let third = copier.pass(Pass::Standing, &GO).unwrap();
    assert_eq!((third.files, third.bytes_copied + third.bytes_cloned, third.unchanged), (0, 0, 3), "{again:?}");
    // Called off before anything is done.
    let error = copier.pass(Pass::Standing, &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    // There already: never written into.
    let error = Copier::new(&top, &to, Owners { from: FROM, to: TO }).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    const SIZE: usize = 64 << 20;
    if not_root("lasting shared blocks") {
        return;
    }
    let Some(disk) = moat_testkit::SharingDisk::make(1 << 30).unwrap() else {
        return moat_testkit::not_run("lasting shared blocks", "mkfs.xfs is not installed");
    };
    let top = tree(disk.path(), &[]);
    fs::write(top.join("large"), vec![7; SIZE]).unwrap();
    owned(&top);
    let before = disk.taken().unwrap();
    let to = disk.path().join("copy");
    let mut copier = Copier::new(&top, &to, Owners { from: FROM, to: TO }).unwrap();
    let first = copier.pass(Pass::Running, &GO).unwrap();
    assert_eq!((first.bytes_cloned, first.bytes_copied), (SIZE as u64, 0));
    // What changed since is shared anew, and each of the two keeps what it is.
    File::options().write(true).open(top.join("large")).unwrap().write_at(b"changed", 1 << 20).unwrap();
    let last = copier.pass(Pass::Standing, &GO).unwrap();
    assert_eq!((last.bytes_cloned, last.bytes_copied), (SIZE as u64, 0));
    copier.finish().unwrap();
    assert_eq!(told(&top, FROM), told(&to, TO));
    let took = disk.taken().unwrap() - before;
    assert!(took < SIZE as u64 / 16, "{took} bytes for a copy of {SIZE}");
    File::options().write(true).open(to.join("large")).unwrap().write_at(b"other", 2 << 20).unwrap();
    assert_eq!(fs::read(top.join("large")).unwrap()[2 << 20], 7);
}

/// Written to at random, a file that shares its blocks falls into pieces; to share those anew takes longer than to read it.
#[test]
fn what_lies_in_many_pieces_is_read_and_what_differs_is_written() {
    const SIZE: u64 = 16 << 20;
    const STEP: u64 = 8 << 10;
    if not_root("lasting pieces") {
        return;
    }
    let Some(disk) = moat_testkit::SharingDisk::make(1 << 30).unwrap() else {
        return moat_testkit::not_run("lasting pieces", "mkfs.xfs is not installed");
    };
    let top = tree(disk.path(), &[]);
    fs::write(top.join("large"), vec![7; SIZE as usize]).unwrap();
    owned(&top);
    let to = disk.path().join("copy");
    let mut copier = copied(&top, &to);
    let before = disk.taken().unwrap();
    let large = File::options().write(true).open(top.join("large")).unwrap();
    for at in (0..SIZE).step_by(STEP as usize) {
        large.write_at(b"changed", at).unwrap();
    }
    let second = copier.pass(Pass::Running, &GO).unwrap();
    assert_eq!((second.bytes_cloned, second.bytes_copied), (0, SIZE / 2));
    large.write_at(b"again", STEP).unwrap();
    let last = copier.pass(Pass::Standing, &GO).unwrap();
    assert_eq!((last.bytes_cloned, last.bytes_copied), (0, 4 << 10));
    copier.finish().unwrap();
    assert_eq!(told(&top, FROM), told(&to, TO));
    // Half of it was changed: those blocks are there twice, the others are shared as before.
    let took = disk.taken().unwrap() - before;
    assert!(took < SIZE + SIZE / 4, "{took} bytes for two files of {SIZE} of which half differs");
}

/// Where blocks cannot be shared: the copy stays the file it is, and of it only what changed is written.
#[test]
fn what_changed_in_a_file_is_written_into_its_copy() {
    const MIB: u64 = 1 << 20;
    if not_root("lasting patches") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let top = tree(dir.path(), &[]);
    let names = ["written", "grown", "cut", "punched", "emptied", "mode"];
    for name in names {
        fs::write(top.join(name), vec![7; 4 * MIB as usize]).unwrap();
    }
    File::create(top.join("sparse")).unwrap().set_len(16 * MIB).unwrap();
    owned(&top);
    let to = dir.path().join("copy");
    let mut copier = copied(&top, &to);
    let inodes = || names.map(|name| fs::metadata(to.join(name)).unwrap().ino());
    let before = inodes();
    let open = |name| File::options().write(true).open(top.join(name)).unwrap();
    open("written").write_at(b"changed", 2 * MIB + 17).unwrap();
    open("grown").write_at(b"end", 5 * MIB).unwrap();
    open("cut").set_len(MIB + 5).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(open("punched"), punch, MIB, 2 * MIB).unwrap();
    open("emptied").set_len(0).unwrap();
    fs::set_permissions(top.join("mode"), fs::Permissions::from_mode(0o4755)).unwrap();
    open("sparse").write_at(b"x", 8 * MIB).unwrap();
    let last = copier.pass(Pass::Standing, &GO).unwrap();
    // A page each, of the three that were written to.
    assert_eq!((last.bytes_cloned, last.bytes_copied), (0, 2 * (4 << 10) + 3));
    copier.finish().unwrap();
    assert_eq!(told(&top, FROM), told(&to, TO));
    assert_eq!(inodes(), before, "none was made anew");
    for name in ["punched", "sparse"] {
        let blocks = fs::metadata(to.join(name)).unwrap().blocks();
        assert!(blocks * 512 < 3 * MIB, "{name}: {blocks} blocks");
    }
}

#[test]
fn files_of_the_host_are_not_taken_along() {
    if not_root("lasting owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let top = tree(dir.path(), &[]);
    fs::write(top.join("roots"), "x").unwrap();
    let mut copier = Copier::new(&top, &dir.path().join("copy"), Owners { from: FROM, to: TO }).unwrap();
    let error = copier.pass(Pass::Standing, &GO).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.doing.contains("its owner 0 is nobody of this tree"), "{error}");
}

/// B05: what is written while the first pass runs is in the copy after the second.
#[test]
fn a_tree_that_is_written_to_is_copied_as_it_is_when_it_stands_still() {
    if not_root("B05 copy") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let top = tree(dir.path(), &[]);
    for n in 0..400 {
        let path = top.join(format!("one/{n}"));
        fs::write(&path, vec![n as u8; 5000]).unwrap();
        lchown(&path, Some(5), Some(5)).unwrap();
    }
    for path in ["", "one", "one/two", "three"] {
        lchown(top.join(path), Some(0), Some(0)).unwrap();
    }
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (top, stop, turns) = (top.clone(), Arc::clone(&stop), Arc::clone(&turns));
        std::thread::spawn(move || {
            let mut log = File::options().append(true).create(true).open(top.join("log")).unwrap();
            for n in 0_u64.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                writeln!(log, "turn {n}").unwrap();
                let (a, b) = (top.join(format!("one/{}", n % 400)), top.join(format!("three/{}", n % 50)));
                match n % 5 {
                    0 => drop(fs::rename(&a, &b)),
                    1 => drop(fs::write(&a, n.to_string())),
                    2 => drop(
                        fs::rename(top.join("three"), top.join("moved"))
                            .and_then(|()| fs::create_dir(top.join("three"))),
                    ),
                    3 => drop(fs::hard_link(&b, top.join(format!("one/link{}", n % 7)))),
                    _ => drop(fs::remove_dir_all(top.join("moved"))),
                }
                turns.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    while turns.load(Ordering::SeqCst) < 5 {
        std::thread::yield_now();
    }
    let to = dir.path().join("copy");
    let mut copier = Copier::new(&top, &to, Owners { from: 0, to: TO }).unwrap();
    for _ in 0..3 {
        copier.pass(Pass::Running, &GO).unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    copier.pass(Pass::Standing, &GO).unwrap();
    assert_eq!(told(&top, 0), told(&to, TO));
    copier.finish().unwrap();
}

fn tar(members: &[(Member<'_>, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (member, content) in members {
        bytes.extend(member.blocks(Path::new("x")).unwrap());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len() + padding(content.len() as u64), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

fn member(kind: u8, name: &'static str, link: &'static str) -> Member<'static> {
    Member { kind, name: name.as_bytes(), link: link.as_bytes(), mode: 0o4755, ..Member::default() }
}

#[test]
fn hostile_archives_make_nothing_outside() {
    if not_root("lasting import") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/file"), "host").unwrap();
    let big = vec![(b"trusted.overlay.redirect".to_vec(), b"/secret".to_vec())];
    let (file, out) = (|name| (member(b'0', name, ""), &b""[..]), |to| (member(b'2', "out", to), &b""[..]));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (tar(&[file("../outside/file")]), "\"..\""),
        (tar(&[file("a/../../outside/file")]), "\"..\""),
        (tar(&[file("/etc/passwd")]), "absolute"),
        (tar(&[out("../outside"), file("out/file")]), "through a link"),
        (tar(&[out("/"), file("out/etc/x")]), "through a link"),
        (tar(&[out("../outside"), (member(b'5', "out", ""), b"")]), "through a link"),
        (tar(&[(member(b'1', "a", "../outside/file"), b"")]), "\"..\""),
        (tar(&[(member(b'1', "a", "/etc/passwd"), b"")]), "absolute"),
        (tar(&[out("../outside"), (member(b'1', "a", "out/file"), b"")]), "no file of this archive"),
        (tar(&[(member(b'1', "a", "nowhere"), b"")]), "no file of this archive"),
        (tar(&[(member(b'5', "d", ""), b""), (member(b'1', "a", "d"), b"")]), "no file of this archive"),
        (tar(&[(member(b'5', "d", ""), b""), file("d")]), "a directory of this name"),
        (tar(&[(Member { uid: 65_536, ..member(b'0', "a", "") }, b"")]), "owner 65536"),
        (tar(&[(Member { xattrs: &big, ..member(b'0', "a", "") }, b"")]), "trusted.overlay.redirect"),
        (tar(&[(member(b'2', "a", ""), b"")]), "target"),
        (tar(&[(member(b'S', "a", ""), b"")]), "--sparse"),
        (tar(&[(Member { size: 2048, ..member(b'0', "a", "") }, &[1; 10])]), "ends in the middle"),
        (vec![1; 512], "checksum"),
        (Vec::new(), "ends in the middle"),
    ];
    for (index, (bytes, why)) in cases.iter().enumerate() {
        let to = dir.path().join(format!("import{index}"));
        let error = import(&mut &bytes[..], &to, TO, &ImportLimits::default(), &GO).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidSpec, "{why}: {}", error.chain());
        assert!(error.chain().contains(why), "{index}: {}, not {why}", error.chain());
    }
    assert_eq!(fs::read(dir.path().join("outside/file")).unwrap(), b"host");
    assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
    // Too much of it.
    let limits = ImportLimits { bytes_max: 10, entries_max: 1 };
    let huge = tar(&[(Member { size: 11, ..member(b'0', "a", "") }, &[1; 11])]);
    let error = import(&mut &huge[..], &dir.path().join("huge"), TO, &limits, &GO).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    let many = tar(&[file("a"), file("b")]);
    let error = import(&mut &many[..], &dir.path().join("many"), TO, &limits, &GO).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
}

#[test]
fn an_import_belongs_to_its_own_ids_and_brings_no_devices() {
    if not_root("lasting import") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("import");
    let bytes = tar(&[
        (Member { uid: 5, gid: 6, size: 5, ..member(b'0', "deep/er/file", "") }, b"hello"),
        (member(b'2', "deep/link", "/etc/passwd"), b""),
        (member(b'3', "gone", ""), b""),
        (member(b'4', "disk", ""), b""),
    ]);
    let stats = import(&mut &bytes[..], &to, TO, &ImportLimits::default(), &GO).unwrap();
    assert_eq!((stats.dropped, stats.bytes_copied), (1, 5));
    let file = fs::metadata(to.join("deep/er/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (TO + 5, TO + 6, 0o4755));
    for path in ["", "deep", "deep/er", "deep/link", "gone"] {
        assert_eq!(fs::symlink_metadata(to.join(path)).unwrap().uid(), TO, "{path}");
    }
    assert!(fs::symlink_metadata(to.join("gone")).unwrap().file_type().is_char_device());
}

#[test]
fn layers_and_what_lies_over_them_become_one_tree() {
    if not_root("lasting flatten") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, base: u32, fill: &dyn Fn(&Path)| {
        let top = dir.path().join(name);
        fs::create_dir(&top).unwrap();
        fill(&top);
        let mut rest = vec![top.clone()];
        while let Some(path) = rest.pop() {
            lchown(&path, Some(base), Some(base)).unwrap();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        Part::Tree { dir: top, uid_base: base }
    };
    let below = make("below", 0, &|top| {
        fs::create_dir_all(top.join("keep/deep")).unwrap();
        fs::create_dir_all(top.join("hide")).unwrap();
        for file in ["keep/deep/a", "keep/b", "hide/c", "gone", "becomes"] {
            fs::write(top.join(file), file).unwrap();
        }
    });
    let above = make("above", FROM, &|top| {
        fs::create_dir_all(top.join("keep")).unwrap();
        fs::create_dir_all(top.join("hide")).unwrap();
        fs::create_dir_all(top.join("becomes/dir")).unwrap();
        fs::write(top.join("keep/b"), "changed").unwrap();
        fs::write(top.join("hide/new"), "new").unwrap();
        set(&top.join("hide"), "trusted.overlay.opaque", b"y");
        mknodat(CWD, top.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    });
    let to = dir.path().join("flat");
    flatten(&[below, above], &to, TO, &GO).unwrap();
    let read = |path: &str| fs::read_to_string(to.join(path)).unwrap();
    assert_eq!([read("keep/deep/a"), read("keep/b"), read("hide/new")], ["keep/deep/a", "changed", "new"]);
    assert!(to.join("becomes/dir").is_dir() && !to.join("gone").exists() && !to.join("hide/c").exists());
    assert!(attributes_of(&to.join("hide"), TO).is_empty());
    assert!(told(&to, TO).values().all(|line| line.starts_with("0:0 ")), "{:?}", told(&to, TO));
}

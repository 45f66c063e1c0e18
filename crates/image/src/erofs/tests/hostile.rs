//! Archives made to hurt: each is refused by name, or can be seen to do nothing outside its root.

use moat_model::ErrorKind;

use super::mounted::{listing, mounted};
use super::tars::{Tar, built, built_within, layer};
use crate::erofs::{Compression, Limits};

/// Refused as one of these kinds, with the name of the entry or the reason in the message.
fn refused(name: &str, tar: Vec<u8>, kind: ErrorKind, says: &str) {
    let error = built(&[tar]).map(|(_, summary)| summary).expect_err(name);
    assert_eq!(error.kind, kind, "{name}: {}", error.chain());
    assert!(error.chain().contains(says), "{name}: {:?} does not say {says:?}", error.chain());
}

#[test]
fn names_that_lead_out_are_refused() {
    let invalid = ErrorKind::InvalidSpec;
    refused("dot-dot", Tar::default().file("../x", b"x").end(), invalid, "entry \"../x\"");
    refused("dot-dot inside", Tar::default().file("a/../../x", b"").end(), invalid, "..");
    refused("dot-dot directory", Tar::default().dir("a/..").end(), invalid, "..");
    refused("absolute dot-dot", Tar::default().file("/../x", b"").end(), invalid, "..");
    refused("hard link out", Tar::default().link("x", "../../etc/shadow").end(), invalid, "..");
    refused("hard link to the host", Tar::default().link("x", "/etc/shadow").end(), invalid, "not there");
    refused("hard link to a directory", Tar::default().dir("d").link("x", "d").end(), invalid, "directory");
    refused("hard link to itself", Tar::default().link("x", "x").end(), invalid, "not there");
    refused("whiteout of the parent", Tar::default().file("d/.wh...", b"").end(), invalid, "whiteout");
    refused("whiteout of the directory", Tar::default().file("d/.wh..", b"").end(), invalid, "whiteout");
    refused("whiteout of nothing", Tar::default().file(".wh.", b"").end(), invalid, "whiteout");
    refused("no name", Tar::default().file("", b"").end(), invalid, "no name");
    refused("a root that is a file", Tar::default().file("./", b"x").end(), invalid, "root");
    refused("a root that is a link", Tar::default().symlink("/", "/etc").end(), invalid, "root");
    let nul: &[u8] = b"a\0b";
    refused("zero byte", Tar::default().pax(&[("path", nul)]).file("x", b"").end(), invalid, "zero");
    let long = "x".repeat(256);
    refused("long part", Tar::default().pax(&[("path", long.as_bytes())]).file("x", b"").end(), invalid, "longer");
    let deep = "d/".repeat(2100);
    refused("long path", Tar::default().pax(&[("path", deep.as_bytes())]).dir("x").end(), invalid, "longer");
    let escape = "\x1b[2J\n";
    let error = built(&[Tar::default().file(&format!("../{escape}"), b"").end()]).map(|_| ()).unwrap_err();
    assert!(!error.chain().contains('\x1b') && !error.chain().contains('\n'), "terminals are not driven by names");
}

#[test]
fn writing_through_links_stays_inside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let tar = Tar::default()
        .symlink("absolute", target)
        .file("absolute/a", b"a")
        .symlink("upwards", "../../../../../../../../up")
        .file("upwards/b", b"b")
        .dir("real")
        .symlink("inner", "real")
        .file("inner/c", b"c")
        .symlink("leaf", "real/c")
        .file("leaf", b"instead of the link")
        .file(".wh.absolute", b"");
    let (file, _) = built(&[tar.end()]).unwrap();
    assert_eq!(outside.path().read_dir().unwrap().count(), 0, "nothing was written to the host");
    let Some(root) = mounted(&file) else { return };
    let read = |path: &str| std::fs::read_to_string(root.path().join(path.trim_start_matches('/'))).unwrap();
    assert_eq!(read(&format!("{target}/a")), "a");
    assert_eq!(read("up/b"), "b");
    assert_eq!(read("real/c"), "c");
    assert_eq!(read("leaf"), "instead of the link");
    assert!(root.path().join("absolute").is_symlink(), "a whiteout is about lower layers");
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let invalid = ErrorKind::InvalidSpec;
    let around = Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    refused("a circle", around.end(), invalid, "too many symbolic links");
    refused("a link to itself", Tar::default().symlink("a", "a").file("a/x", b"").end(), invalid, "too many");
    let mut doubling = Tar::default().symlink("l0", "d");
    for n in 1..40 {
        doubling = doubling.symlink(&format!("l{n}"), &format!("l{0}/../l{0}", n - 1));
    }
    refused("doubling", doubling.dir("d").file("l39/x", b"").end(), invalid, "symbolic links");
    refused("through a file", Tar::default().file("f", b"").file("f/x", b"").end(), invalid, "not a directory");
    refused("empty target", Tar::default().symlink("a", "").end(), invalid, "target");
    let far = vec![b't'; 4096];
    refused("long target", Tar::default().pax(&[("linkpath", &far)]).symlink("a", "").end(), invalid, "target");
    let part = "p".repeat(300);
    let wide = Tar::default().pax(&[("linkpath", part.as_bytes())]).symlink("a", "").file("a/x", b"");
    refused("a part that is too long behind a link", wide.end(), invalid, "too long");
}

#[test]
fn broken_archives_are_refused() {
    let invalid = ErrorKind::InvalidSpec;
    let whole = Tar::default().file("file", &[1; 2000]).end();
    refused("cut in a header", whole[..100].to_vec(), invalid, "ends within");
    refused("cut in content", whole[..1000].to_vec(), invalid, "entry \"file\"");
    refused("cut in padding", whole[..512 + 2001].to_vec(), invalid, "ends within");
    let mut wrong = whole.clone();
    wrong[0] = b'g';
    refused("wrong sum", wrong, invalid, "checksum");
    let mut behind = whole.clone();
    behind.extend_from_slice(&Tar::default().file("second", b"").0);
    refused("something behind the end", behind, invalid, "behind the end");
    refused("noise", (0..2048_u32).map(|n| (n * 7919 / 13) as u8).collect(), invalid, "");
    refused("a kind nobody knows", Tar::default().entry(b'M', "x", "", 0, b"").end(), invalid, "'M'");
    let global = Tar::default().entry(b'g', "pax", "", 0, b"10 path=x\n");
    refused("a header for all", global.file("a", b"").end(), invalid, "all entries");
    let lonely = Tar::default().pax(&[("path", b"x")]);
    refused("a header for nothing", lonely.end(), invalid, "no entry");
    let sparse = Tar::default().pax(&[("GNU.sparse.major", b"1")]).file("s", b"");
    refused("sparse in pax form", sparse.end(), invalid, "--format=gnu");
    assert!(built(&[Vec::new()]).is_ok(), "an empty layer is one");
    assert!(built(&[whole[..512 + 2048].to_vec()]).is_ok(), "the end may be missing, as other readers allow");
    let comment = Tar::default().entry(b'g', "pax", "", 0, b"20 comment=something\n");
    let error = built(&[comment.clone().file("a", b"").end()]).map(|_| ()).map_err(|e| e.chain());
    assert!(error.is_err(), "a wrong length is refused even where the text means nothing: {error:?}");
    let comment = Tar::default().entry(b'g', "pax", "", 0, b"21 comment=something\n");
    assert!(built(&[comment.file("a", b"").end()]).is_ok(), "what git archive writes");
}

#[test]
fn sparse_files_are_expanded_within_bounds() {
    let sparse = |real: u64, pieces: &[(u64, u64)], content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let gnu = header.as_gnu_mut().unwrap();
        for (place, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            place.offset = octal(*offset);
            place.numbytes = octal(*length);
        }
        gnu.realsize = octal(real);
        header.set_cksum();
        let mut tar = Tar(header.as_bytes().to_vec());
        tar.0.extend_from_slice(content);
        tar.0.resize(tar.0.len().next_multiple_of(512), 0);
        tar.end()
    };
    let invalid = ErrorKind::InvalidSpec;
    refused("out of order", sparse(9000, &[(5000, 1), (1, 1)], b"ab"), invalid, "order");
    refused("beyond the end", sparse(10, &[(9, 2)], b"ab"), invalid, "order");
    refused("more than there is", sparse(10, &[(0, 5)], b"ab"), invalid, "as long as");
    let limits = Limits { bytes_max: 1 << 30, ..Limits::default() };
    let error = built_within(&[sparse(0o77_777_777_777, &[(0, 2)], b"ab")], limits).map(|_| ()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted, "one that is all hole: {}", error.chain());
    let (file, _) = built(&[sparse(1_000_000, &[(5, 2), (700_000, 3)], b"abcde")]).unwrap();
    let Some(root) = mounted(&file) else { return };
    let mut expected = vec![0; 1_000_000];
    expected[5..7].copy_from_slice(b"ab");
    expected[700_000..700_003].copy_from_slice(b"cde");
    assert!(std::fs::read(root.path().join("sparse")).unwrap() == expected);
}

fn octal(number: u64) -> [u8; 12] {
    format!("{number:011o}\0").into_bytes().try_into().unwrap()
}

#[test]
fn limits_hold() {
    let exhausted = ErrorKind::Exhausted;
    let limits = Limits { entries_max: 10, bytes_max: 100_000, xattr_bytes_max: 100, ..Limits::default() };
    let within = |name: &str, tar: Tar, says: &str| {
        let error = built_within(&[tar.end()], limits).map(|_| ()).expect_err(name);
        assert_eq!(error.kind, exhausted, "{name}: {}", error.chain());
        assert!(error.chain().contains(says), "{name}: {}", error.chain());
    };
    let many = (0..11).fold(Tar::default(), |tar, n| tar.dir(&format!("d{n}")));
    within("entries", many, "entry \"d10\"");
    within("directories nobody wrote", Tar::default().dir("a/b/c/d/e/f/g/h/i/j/k"), "10 entries");
    let through = Tar::default().symlink("l", "a/b/c/d/e/f/g/h/i/j").dir("l/x");
    within("directories behind a link", through, "10 entries");
    within("bytes", Tar::default().file("big", &vec![0; 100_001]), "100000 bytes");
    within("attributes", Tar::default().pax(&[("SCHILY.xattr.user.x", &[0; 101])]).file("f", b""), "attributes");
    let mut huge = Tar::default();
    let mut header = tar::Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_size(u64::MAX >> 2);
    header.set_cksum();
    huge.0.extend_from_slice(header.as_bytes());
    within("a size that is a lie", huge.clone(), "entry \"huge\"");
    refused("the same within default limits", huge.end(), exhausted, "entry \"huge\"");
    let extended = Tar::default().entry(b'L', "long", "", 0, &vec![b'x'; (1 << 20) + 1]);
    refused("a name of a mebibyte", extended.end(), exhausted, "extended header");
}

#[test]
fn bombs_are_stopped_on_the_way() {
    use std::io::Write as _;
    let tar = Tar::default().file("zeros", &vec![0; 64 << 20]).end();
    let bomb = zstd::encode_all(&tar[..], 19).unwrap();
    let error = layer(Compression::Zstd, bomb.len() as u64, &bomb[..]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.chain().contains("entry \"zeros\": layer: expands to more than 1000 times"), "{}", error.chain());
    // A member a hundred bytes long, again and again, each of them nothing: no progress is no loop.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"").unwrap();
    let empty = encoder.finish().unwrap();
    assert!(layer(Compression::Gzip, 0, &empty.repeat(10_000)[..]).is_ok());
}

#[test]
fn repeated_marks_cost_nothing() {
    // Ten thousand files and eight thousand marks above them: eighty million steps if each were a walk.
    let mut tar = Tar::default().dir("d").dir("d/e");
    for n in 0..10_000 {
        tar = tar.file(&format!("d/e/{n}"), b"");
    }
    for _ in 0..4_000 {
        tar = tar.file("d/.wh..wh..opq", b"").file(".wh.d", b"");
    }
    let (file, summary) = built(&[Tar::default().file("d/e/low", b"").end(), tar.end()]).unwrap();
    assert_eq!(summary.entries, 10_003);
    let Some(root) = mounted(&file) else { return };
    assert!(!listing(root.path(), false).contains_key("d/e/low"));
}

//! Directories as tar archives, against the tar program, and archives that are up to no good.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use moat_engine::Guest;
use moat_model::ErrorKind;
use moat_model::file::Transfer;
use tar::{EntryType, Header};

use crate::files::{pull, push, text};
use crate::harness::{Sandbox, until_alone};

fn out_of(path: &Path) -> Transfer {
    Transfer::TarOut { path: text(path) }
}

fn into(path: &Path) -> Transfer {
    Transfer::TarIn { path: text(path) }
}

/// Something of everything.
fn tree(top: &Path) {
    let deep = top.join("d".repeat(120)).join("e".repeat(120)).join("ü");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();
    std::fs::write(top.join("large"), vec![3; 1_000_001]).unwrap();
    std::fs::write(top.join("empty"), "").unwrap();
    std::fs::write(top.join("script"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(top.join("script"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::hard_link(top.join("script"), top.join("same")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    symlink("t".repeat(300), top.join("far")).unwrap();
    std::fs::create_dir(top.join("closed")).unwrap();
    std::fs::write(top.join("closed/in"), "in").unwrap();
    std::fs::set_permissions(top.join("closed"), std::fs::Permissions::from_mode(0o1500)).unwrap();
    let touched = Command::new("touch").args(["-d", "2001-02-03 04:05:06 UTC"]).arg(top.join("empty")).status();
    assert!(touched.unwrap().success());
}

/// Names, kinds, permissions, times and contents.
fn told(top: &Path) -> Vec<String> {
    let find =
        Command::new("find").current_dir(top).args([".", "-mindepth", "1", "-printf", "%P %y %m %s %l %T@\n"]).output();
    let mut lines: Vec<String> = String::from_utf8(find.unwrap().stdout)
        .unwrap()
        .lines()
        // Directories have sizes and fractions of times of their own.
        .map(|line| line.split('.').next().unwrap().to_owned())
        .filter(|line| !line.contains(" d "))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn there_and_back_again() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let (from, to) = (sandbox.dir.path().join("from"), sandbox.dir.path().join("to/here"));
    std::fs::create_dir(&from).unwrap();
    tree(&from);
    let archive = pull(&guest, None, &out_of(&from)).await.unwrap();
    let pushed = push(&guest, None, &into(&to), &archive).await.unwrap();
    assert_eq!(pushed.entries, 12);
    assert_eq!(told(&to), told(&from));
    assert_eq!(std::fs::metadata(to.join("closed")).unwrap().mode() & 0o7777, 0o1500);
    assert_eq!(std::fs::metadata(to.join("same")).unwrap().ino(), std::fs::metadata(to.join("script")).unwrap().ino());
    assert_eq!(std::fs::read(to.join("large")).unwrap(), vec![3; 1_000_001]);
    // Once more over itself.
    push(&guest, None, &into(&to), &archive).await.unwrap();
    assert_eq!(told(&to), told(&from));

    // What the tar program makes of it, and what is made of its archives.
    let (file, other) = (sandbox.dir.path().join("x.tar"), sandbox.dir.path().join("other"));
    std::fs::write(&file, &archive).unwrap();
    std::fs::create_dir(&other).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new("tar").args(args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["-xpf", &text(&file), "-C", &text(&other)]);
    assert_eq!(told(&other), told(&from));
    for format in ["gnu", "pax", "oldgnu"] {
        run(&["-cf", &text(&file), "--format", format, "-C", &text(&from), "."]);
        let to = sandbox.dir.path().join(format);
        push(&guest, None, &into(&to), &std::fs::read(&file).unwrap()).await.unwrap();
        assert_eq!(told(&to), told(&from), "{format}");
    }

    // One file.
    let archive = pull(&guest, None, &out_of(&from.join("script"))).await.unwrap();
    let to = sandbox.dir.path().join("one");
    assert_eq!(push(&guest, None, &into(&to), &archive).await.unwrap().entries, 1);
    assert_eq!(std::fs::metadata(to.join("script")).unwrap().mode() & 0o7777, 0o4755);
    until_alone(&guest).await;
}

fn member(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    let fields = header.as_old_mut();
    for (field, text) in [(&mut fields.name, name), (&mut fields.linkname, link)] {
        for (to, from) in field.iter_mut().zip(text.bytes()) {
            *to = from;
        }
    }
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Nothing outside the directory is read, written or made, whatever the archive says; the entry at fault is named.
#[tokio::test]
async fn archives_stay_in_their_directory() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let outside = sandbox.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let to = sandbox.dir.path().join("to");
    let link = |name: &str, to: &str| member(EntryType::Symlink, name, to, b"");
    let file = |name: &str| member(EntryType::Regular, name, "", b"evil");
    let hard = |name: &str, to: &str| member(EntryType::Link, name, to, b"");
    let absolute = text(&outside);
    let cases: [(&str, Vec<Vec<u8>>, ErrorKind); 10] = [
        ("../outside/x", vec![file("../outside/x")], ErrorKind::InvalidSpec),
        ("a/../../outside/x", vec![file("a/../../outside/x")], ErrorKind::InvalidSpec),
        ("rel/x", vec![link("rel", "../outside"), file("rel/x")], ErrorKind::Denied),
        ("abs/x", vec![link("abs", &absolute), file("abs/x")], ErrorKind::Denied),
        ("abs/d", vec![link("abs", &absolute), member(EntryType::Directory, "abs/d", "", b"")], ErrorKind::Denied),
        ("two/x", vec![link("one", ".."), link("two", "one/outside"), file("two/x")], ErrorKind::Denied),
        ("hard", vec![hard("hard", "../outside/secret")], ErrorKind::InvalidSpec),
        ("hard2", vec![link("rel", "../outside"), hard("hard2", "rel/secret")], ErrorKind::Denied),
        ("null", vec![member(EntryType::Char, "null", "", b"")], ErrorKind::InvalidSpec),
        ("sparse", vec![member(EntryType::GNUSparse, "sparse", "", b"")], ErrorKind::InvalidSpec),
    ];
    for (name, members, kind) in cases {
        let error = push(&guest, None, &into(&to), &members.concat()).await.unwrap_err();
        assert!(error.kind == kind && error.chain().contains(name), "{name}: {:?} {}", error.kind, error.chain());
        let _ = std::fs::remove_dir_all(&to);
    }
    // An absolute name is one below; a link in the place of a file is replaced, not followed.
    let secret = text(&outside.join("secret"));
    let members = [file("/etc/x"), link("l", &secret), file("l")].concat();
    push(&guest, None, &into(&to), &members).await.unwrap();
    assert_eq!(std::fs::read_to_string(to.join("etc/x")).unwrap(), "evil");
    assert_eq!(std::fs::read_to_string(to.join("l")).unwrap(), "evil");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);

    // What is cut short, or is no archive, is no success.
    let whole = member(EntryType::Regular, "cut", "", &[1; 5000]);
    for cut in [100, 600, 5400] {
        let error = push(&guest, None, &into(&to), &whole[..cut]).await.unwrap_err();
        assert!(error.kind == ErrorKind::InvalidSpec && error.chain().contains("ends within"), "{}", error.chain());
    }
    assert!(!to.join("cut").exists());
    let error = push(&guest, None, &into(&to), &[0x1f; 2048]).await.unwrap_err();
    assert!(error.chain().contains("not a tar archive"), "{}", error.chain());
    until_alone(&guest).await;
    assert!(guest.pull(None, &out_of(Path::new("/dev/null"))).await.unwrap_err().kind == ErrorKind::Conflict);
}

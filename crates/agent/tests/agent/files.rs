//! Files through the agent: what is written is what is read, whole or not at all, and only what the user may.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use moat_engine::Guest;
use moat_engine::guest::Pushed;
use moat_engine::guest::agent::AgentGuest;
use moat_model::ErrorKind;
use moat_model::file::{FileEntry, FileKind, FileReply, FileRequest, Transfer};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, exec_sh, listen, until_alone};

type Result<T> = std::result::Result<T, moat_engine::Error>;

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn write_to(path: &str) -> Transfer {
    Transfer::Write { path: path.to_owned(), mode: None }
}

pub fn read_of(path: &str) -> Transfer {
    Transfer::Read { path: path.to_owned(), offset: 0, length: None }
}

/// Sends everything and finishes.
pub async fn push(guest: &AgentGuest, user: Option<&str>, transfer: &Transfer, content: &[u8]) -> Result<Pushed> {
    let mut sink = guest.push(user, transfer).await?;
    for piece in content.chunks(100_000) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

/// Receives everything.
pub async fn pull(guest: &AgentGuest, user: Option<&str>, transfer: &Transfer) -> Result<Vec<u8>> {
    let mut pieces = guest.pull(user, transfer).await?;
    let mut all = Vec::new();
    while let Some(piece) = timeout(DEADLINE, pieces.recv()).await.expect("a piece") {
        let piece = piece?;
        assert!(piece.len() <= 64 << 10);
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

async fn entry(guest: &AgentGuest, request: FileRequest) -> FileEntry {
    match guest.file(None, &request).await.unwrap_or_else(|e| panic!("{}", e.chain())) {
        FileReply::Entry(entry) => entry,
        other => panic!("{other:?}"),
    }
}

async fn refusal(guest: &AgentGuest, request: FileRequest) -> ErrorKind {
    let error = guest.file(None, &request).await.unwrap_err();
    assert!(error.chain().contains('/') || error.kind == ErrorKind::InvalidSpec, "{}", error.chain());
    error.kind
}

#[tokio::test]
async fn what_is_written_is_read() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let file = sandbox.dir.path().join("a/b/c.bin");
    let content: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 253) as u8).collect();
    // Parents are made.
    let pushed = push(&guest, None, &write_to(&text(&file)), &content).await.unwrap();
    assert_eq!(pushed, Pushed { bytes: content.len() as u64, entries: 1 });
    assert_eq!(std::fs::read(&file).unwrap(), content);
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(pull(&guest, None, &read_of(&text(&file))).await.unwrap(), content);
    for (offset, length, expected) in [
        (10, Some(5), &content[10..15]),
        (1_000_000, None, &content[1_000_000..]),
        (1_000_000, Some(99), &content[1_000_000..]),
        (5_000_000, None, &[]),
    ] {
        let part = Transfer::Read { path: text(&file), offset, length };
        assert_eq!(pull(&guest, None, &part).await.unwrap(), expected, "{offset} {length:?}");
    }

    // An old file keeps its permissions; an empty one is a file too; a new one gets what is asked for.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o750)).unwrap();
    let asked = Transfer::Write { path: text(&file), mode: Some(0o600) };
    push(&guest, None, &asked, b"new").await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o750);
    let empty = sandbox.dir.path().join("empty");
    push(&guest, None, &Transfer::Write { path: text(&empty), mode: Some(0o4711) }, b"").await.unwrap();
    assert_eq!(std::fs::metadata(&empty).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(pull(&guest, None, &read_of(&text(&empty))).await.unwrap(), b"");

    // Through links, which stay: to a file, to nothing, over a directory.
    let links = sandbox.dir.path().join("links");
    std::fs::create_dir(&links).unwrap();
    symlink("../a/b/c.bin", links.join("relative")).unwrap();
    symlink(links.join("relative"), links.join("twice")).unwrap();
    symlink("fresh/file", links.join("dangling")).unwrap();
    push(&guest, None, &write_to(&text(&links.join("twice"))), b"through").await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"through");
    assert!(links.join("twice").is_symlink() && links.join("relative").is_symlink());
    push(&guest, None, &write_to(&text(&links.join("dangling"))), b"new").await.unwrap();
    assert_eq!(std::fs::read(links.join("fresh/file")).unwrap(), b"new");
    until_alone(&guest).await;
}

#[tokio::test]
async fn what_is_not_finished_leaves_nothing() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let there = sandbox.dir.path().join("there");
    std::fs::write(&there, "old").unwrap();
    for path in [there.clone(), sandbox.dir.path().join("not/there/yet")] {
        let mut sink = guest.push(None, &write_to(&text(&path))).await.unwrap();
        sink.send(Bytes::from(vec![7; 300_000])).await.unwrap();
        drop(sink);
    }
    // So does the death of whoever sent it, and that of the process that writes.
    let mut sink = guest.push(None, &write_to(&text(&there))).await.unwrap();
    sink.send(Bytes::from("half")).await.unwrap();
    let second = sandbox.connect().await;
    assert!(sink.finish().await.is_err());
    // Or it would come back, and the newest connection wins.
    drop(guest);
    until_alone(&second).await;
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "old");
    let names: Vec<_> = std::fs::read_dir(sandbox.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".moat") || name == "not"), "{names:?}");

    // A reader that goes away ends the process that reads.
    let zeros = sandbox.dir.path().join("zeros");
    std::fs::File::create(&zeros).unwrap().set_len(1 << 30).unwrap();
    let mut pieces = second.pull(None, &read_of(&text(&zeros))).await.unwrap();
    pieces.recv().await.unwrap().unwrap();
    drop(pieces);
    until_alone(&second).await;
}

/// A gigabyte both ways, while somebody else does not read at all.
#[tokio::test]
async fn large_files_take_no_memory() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let zeros = sandbox.dir.path().join("zeros");
    const LEN: u64 = 1 << 30;
    std::fs::File::create(&zeros).unwrap().set_len(LEN).unwrap();
    let _stuck = guest.pull(None, &read_of(&text(&zeros))).await.unwrap();
    let mut pieces = guest.pull(None, &read_of(&text(&zeros))).await.unwrap();
    let mut sink = guest.push(None, &write_to("/dev/shm/moat-agent-test-large")).await.unwrap();
    let (mut received, mut sent) = (0, 0);
    while let Some(piece) = timeout(DEADLINE, pieces.recv()).await.unwrap() {
        let piece = piece.unwrap();
        received += piece.len() as u64;
        // A quarter is written too.
        if sent < LEN / 4 {
            sent += piece.len() as u64;
            sink.send(piece).await.unwrap();
        }
    }
    assert_eq!(received, LEN);
    assert_eq!(sink.finish().await.unwrap().bytes, sent);
    let rss = sandbox.rss() >> 10;
    println!("agent: {rss} KiB after {} MiB", (received + sent) >> 20);
    std::fs::remove_file("/dev/shm/moat-agent-test-large").unwrap();
    assert!(rss < 8 << 10, "agent has {rss} KiB");
}

#[tokio::test]
async fn questions_and_their_answers() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let at = |name: &str| text(&sandbox.dir.path().join(name));
    let made = entry(&guest, FileRequest::MakeDir { path: at("d/e"), mode: Some(0o711) }).await;
    assert_eq!((made.kind, made.mode, made.path.as_str()), (FileKind::Directory, 0o711, at("d/e").as_str()));
    entry(&guest, FileRequest::MakeDir { path: at("d/e"), mode: None }).await;
    std::fs::write(at("d/f"), "12345").unwrap();
    symlink("f", at("d/l")).unwrap();
    let file = entry(&guest, FileRequest::Stat { path: at("d/f") }).await;
    assert_eq!((file.kind, file.size, file.link_target.clone()), (FileKind::File, 5, None));
    assert!(file.modified_ms > 1_600_000_000_000);
    let link = entry(&guest, FileRequest::Stat { path: at("d/l") }).await;
    assert_eq!((link.kind, link.link_target.as_deref()), (FileKind::Symlink, Some("f")));
    assert_eq!(entry(&guest, FileRequest::SetMode { path: at("d/f"), mode: 0o4700 }).await.mode, 0o4700);

    let list = async |depth| match guest.file(None, &FileRequest::List { path: at("d"), depth }).await.unwrap() {
        FileReply::Entries { entries, truncated: false } => entries.into_iter().map(|e| e.path).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    std::fs::write(at("d/e/deep"), "").unwrap();
    assert_eq!(list(1).await, [at("d/e"), at("d/f"), at("d/l")]);
    assert_eq!(list(2).await, [at("d/e"), at("d/e/deep"), at("d/f"), at("d/l")]);

    let moved = entry(&guest, FileRequest::Move { from: at("d/f"), to: at("d/g") }).await;
    assert_eq!((moved.path, moved.size), (at("d/g"), 5));
    let remove = |name: &str, recursive| FileRequest::Remove { path: at(name), recursive };
    assert_eq!(refusal(&guest, remove("d", false)).await, ErrorKind::Conflict);
    assert_eq!(guest.file(None, &remove("d/l", false)).await.unwrap(), FileReply::Removed);
    assert_eq!(guest.file(None, &remove("d", true)).await.unwrap(), FileReply::Removed);
    assert!(!Path::new(&at("d")).exists());

    // Refusals say why in their kind.
    std::fs::write(at("file"), "x").unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    let stat = |path: String| FileRequest::Stat { path };
    assert_eq!(refusal(&guest, stat(at("nothing"))).await, ErrorKind::NotFound);
    assert_eq!(refusal(&guest, stat("relative".to_owned())).await, ErrorKind::InvalidSpec);
    assert_eq!(refusal(&guest, stat("/a\0b".to_owned())).await, ErrorKind::InvalidSpec);
    assert_eq!(refusal(&guest, stat(format!("/{}", "x".repeat(5000)))).await, ErrorKind::InvalidSpec);
    assert_eq!(
        refusal(&guest, FileRequest::SetMode { path: at("file"), mode: 0o10_000 }).await,
        ErrorKind::InvalidSpec
    );
    assert_eq!(refusal(&guest, FileRequest::MakeDir { path: at("file"), mode: None }).await, ErrorKind::Conflict);
    assert_eq!(refusal(&guest, FileRequest::List { path: at("file"), depth: 1 }).await, ErrorKind::Conflict);
    assert_eq!(refusal(&guest, FileRequest::List { path: at("dir"), depth: 0 }).await, ErrorKind::InvalidSpec);
    assert_eq!(refusal(&guest, remove("..", true)).await, ErrorKind::InvalidSpec);
    for (transfer, kind) in [
        (read_of(&at("nothing")), ErrorKind::NotFound),
        (read_of(&at("dir")), ErrorKind::Conflict),
        (read_of("/dev/zero"), ErrorKind::Conflict),
        (read_of("x"), ErrorKind::InvalidSpec),
        (write_to(&at("file")), ErrorKind::InvalidSpec),
    ] {
        assert_eq!(guest.pull(None, &transfer).await.unwrap_err().kind, kind, "{transfer:?}");
    }
    for (transfer, kind) in [
        (write_to(&at("dir")), ErrorKind::Conflict),
        (write_to(&at("file/below")), ErrorKind::Conflict),
        (write_to(&at("dir/")), ErrorKind::Conflict),
        (write_to("/"), ErrorKind::Conflict),
        (read_of(&at("file")), ErrorKind::InvalidSpec),
    ] {
        assert_eq!(guest.push(None, &transfer).await.err().unwrap().kind, kind, "{transfer:?}");
    }
    let unknown = guest.file(Some("mallory"), &stat("/".to_owned())).await.unwrap_err();
    assert!(unknown.kind == ErrorKind::InvalidSpec && unknown.chain().contains("mallory"), "{}", unknown.chain());
    // A pipe in the way stops nobody.
    assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    assert_eq!(guest.pull(None, &read_of(&at("fifo"))).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(guest.push(None, &write_to(&at("fifo"))).await.err().unwrap().kind, ErrorKind::Conflict);
    until_alone(&guest).await;
}

#[tokio::test]
async fn long_lists_are_cut_and_say_so() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    for n in 0..10_050 {
        std::fs::write(sandbox.dir.path().join(format!("local/{n:0120}")), "").unwrap();
    }
    let path = text(&sandbox.dir.path().join("local"));
    let reply = timeout(DEADLINE, guest.file(None, &FileRequest::List { path, depth: 9 })).await.unwrap().unwrap();
    let FileReply::Entries { entries, truncated } = reply else { panic!("{reply:?}") };
    assert!(truncated && entries.len() > 5000 && entries.len() <= 10_000, "{}", entries.len());
    assert!(entries.is_sorted_by(|a, b| a.path < b.path));
}

/// The kernel decides what a user may, as it does for that user's programs.
#[tokio::test]
async fn files_are_touched_as_their_user() {
    if !rustix::process::geteuid().is_root() {
        return moat_testkit::not_run("files as their user", "needs root to build a jail");
    }
    let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(0));
    let guest = sandbox.connect().await;
    for path in ["/private", "/proc/1/fd", "/proc/1/root/etc", "/proc/1/cwd/etc"] {
        let list = FileRequest::List { path: path.to_owned(), depth: 1 };
        assert_eq!(guest.file(None, &list).await.unwrap_err().kind, ErrorKind::Denied, "{path}");
    }
    for path in ["/proc/1/environ", "/proc/1/mem", "/proc/1/root/etc/passwd", "/etc/shadow"] {
        assert_eq!(guest.pull(None, &read_of(path)).await.unwrap_err().kind, ErrorKind::Denied, "{path}");
    }
    assert_eq!(guest.push(None, &write_to("/private/x")).await.err().unwrap().kind, ErrorKind::Denied);
    assert_eq!(guest.push(None, &write_to("/nobody-may/x")).await.err().unwrap().kind, ErrorKind::Denied);
    // Root inside may what its programs may, and the agent stays closed to it too.
    let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(0xa804_05fb));
    let guest = sandbox.connect().await;
    for path in ["/proc/1/environ", "/proc/1/mem", "/proc/1/root/etc/passwd"] {
        assert_eq!(guest.pull(Some("0"), &read_of(path)).await.unwrap_err().kind, ErrorKind::Denied, "{path}");
    }
    push(&guest, Some("1000"), &write_to("/tmp/theirs"), b"of 1000").await.unwrap();
    push(&guest, Some("0"), &write_to("/tmp/roots"), b"of root").await.unwrap();
    let stat = exec_sh("stat -c %u:%g /tmp/theirs /tmp/roots; grep ^Groups: /proc/self/status");
    assert!(listen(guest.exec(&stat).await.unwrap()).await.stdout.starts_with("1000:1000\n0:0\n"));
    // Root writes what is another's, and it stays theirs.
    push(&guest, Some("0"), &write_to("/tmp/theirs"), b"by root").await.unwrap();
    assert!(listen(guest.exec(&stat).await.unwrap()).await.stdout.starts_with("1000:1000\n0:0\n"));
    assert_eq!(pull(&guest, Some("1000"), &read_of("/tmp/theirs")).await.unwrap(), b"by root");
    // An id beyond the range of the sandbox.
    let error = guest.pull(Some("70000"), &read_of("/tmp/theirs")).await.unwrap_err();
    assert!(error.kind == ErrorKind::InvalidSpec && error.chain().contains("70000"), "{}", error.chain());
    // A full disk is told as one, names the file, and leaves nothing.
    let error = push(&guest, None, &write_to("/tmp/large"), &vec![1; 20 << 20]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Exhausted && error.chain().contains("/tmp/large"), "{}", error.chain());
    until_alone(&guest).await;
    let ls = listen(guest.exec(&exec_sh("ls -A /tmp")).await.unwrap()).await;
    assert_eq!(ls.stdout, "roots\ntheirs\n");
}

/// E33: a link that is swapped all the time against reads and writes through it. Whatever is hit is inside.
#[tokio::test]
async fn e33_a_swapped_link_never_leads_to_the_host() {
    if !rustix::process::geteuid().is_root() {
        return moat_testkit::not_run("e33", "needs root to build a jail");
    }
    let sandbox = Sandbox::launch_jailed(|agent| agent.capabilities = Some(0xa804_05fb));
    let guest = sandbox.connect().await;
    // The same path exists on the host, with another content.
    let bait = tempfile::Builder::new().prefix("moat-bait").tempdir_in("/tmp").unwrap();
    let host = bait.path().join("file");
    std::fs::write(&host, "HOST").unwrap();
    let (dir, file) = (text(bait.path()), text(&host));
    let script = format!(
        "mkdir -p {dir} /tmp/in; echo -n inside > {file}; echo -n inside > /tmp/in/file; cd /tmp; \
         while :; do ln -sfn /tmp/in s; ln -sfn {dir} s; ln -sfn /proc/1/root{dir} s; ln -sfn ../../../../{dir} s; done"
    );
    let mut swapping = exec_sh(&script);
    swapping.process.user = Some("0".to_owned());
    let swapping = guest.exec(&swapping).await.unwrap();
    let (mut read, mut written) = (0, 0);
    for round in 0..10_000 {
        if round % 2 == 0 {
            if let Ok(content) = pull(&guest, Some("0"), &read_of("/tmp/s/file")).await {
                assert_ne!(content, b"HOST");
                read += 1;
            }
        } else if push(&guest, Some("0"), &write_to("/tmp/s/file"), b"inside").await.is_ok() {
            written += 1;
        }
    }
    println!("e33: {read} reads and {written} writes went through");
    assert!(read > 100 && written > 100, "{read} {written}");
    assert_eq!(std::fs::read_to_string(&host).unwrap(), "HOST");
    drop(swapping);
    tokio::time::timeout(Duration::from_secs(20), until_alone(&guest)).await.unwrap();
}

//! Artifacts and servers that mean harm: G08, G10, G11, and what a child that was taken over can still do.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod kit;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use kit::*;
use moat_getter::{FetchErrorKind as Kind, GetterConfig, ProgressSink};
use moat_model::job::ArtifactMode::{Any, File};

/// Serves the archives by their names.
fn serving(archives: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |request, out| {
        let body = archives.iter().find(|(name, _)| request.path.ends_with(name)).map(|(_, body)| body);
        respond(out, "200 OK", &[], body.expect("an archive of that name"));
    })
}

/// A zip whose only entry has this name and these attributes.
fn zip_named(name: &str, mode: u32, body: &[u8]) -> Vec<u8> {
    // Written under a name of the same length, for writers refuse such names too.
    let plain = "n".repeat(name.len());
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file(&plain, options.unix_permissions(0o644)).unwrap();
    writer.write_all(body).unwrap();
    let mut bytes = writer.finish().unwrap().into_inner();
    replace(&mut bytes, plain.as_bytes(), name.as_bytes());
    // The directory's entry holds the mode in the upper half of its attributes, 38 bytes after its mark.
    let entry = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[entry + 5] = 3;
    bytes[entry + 40..entry + 42].copy_from_slice(&u16::try_from(mode).unwrap().to_le_bytes());
    bytes
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let places: Vec<usize> = (0..=bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

#[test]
fn g08_names_and_kinds_that_mean_harm_are_refused_by_name() {
    let file = |name: &str| raw_entry(b'0', name.as_bytes(), b"", b"evil");
    let long = |name: &str| [raw_entry(b'L', b"././@LongLink", b"", name.as_bytes()), file("plain")].concat();
    let pax = |name: &str| {
        let record = format!(" path={name}\n");
        let length = record.len() + 2;
        [raw_entry(b'x', b"pax", b"", format!("{length}{record}").as_bytes()), file("plain")].concat()
    };
    let through = [raw_entry(b'2', b"d", b".", b""), file("d/x")].concat();
    let hard = [file("a"), raw_entry(b'1', b"h", b"../../../../../../etc/passwd", b"")].concat();
    let archives: Vec<(&'static str, Vec<u8>, Kind, &str)> = vec![
        ("slip.tar", tar_end(file("../../evil")), Kind::EntryOutside, "../../evil"),
        ("inner.tar", tar_end(file("a/../../../evil")), Kind::EntryOutside, "evil"),
        ("absolute.tar", tar_end(file("/tmp/moat-evil")), Kind::EntryOutside, "/tmp/moat-evil"),
        ("long.tar", tar_end(long("../../evil\0")), Kind::EntryOutside, "../../evil"),
        ("pax.tar", tar_end(pax("../../evil")), Kind::EntryOutside, "../../evil"),
        ("through.tar", tar_end(through), Kind::EntryOutside, "d/x"),
        ("hard.tar", tar_end(hard), Kind::LinkOutside, "/etc/passwd"),
        ("hardabs.tar", tar_end(raw_entry(b'1', b"h", b"/etc/passwd", b"")), Kind::LinkOutside, "/etc/passwd"),
        ("char.tar", tar_end(raw_entry(b'3', b"null", b"", b"")), Kind::EntryKind, "null"),
        ("block.tar", tar_end(raw_entry(b'4', b"sda", b"", b"")), Kind::EntryKind, "sda"),
        ("fifo.tar", tar_end(raw_entry(b'6', b"pipe", b"", b"")), Kind::EntryKind, "pipe"),
        ("odd.tar", tar_end(raw_entry(b'V', b"volume", b"", b"")), Kind::EntryKind, "volume"),
        ("cut.tar", raw_entry(b'0', b"cut", b"", &[7; 5000])[..2048].to_vec(), Kind::Archive, ""),
        ("noise.tgz", b"this is no archive at all".to_vec(), Kind::Archive, ""),
        ("noise.zip", b"this is no archive at all".to_vec(), Kind::Archive, ""),
        ("slip.zip", zip_named("../../evil", 0o100_644, b"evil"), Kind::EntryOutside, "../../evil"),
        ("absolute.zip", zip_named("/tmp/moat-evil", 0o100_644, b"evil"), Kind::EntryOutside, "/tmp/moat-evil"),
        ("link.zip", zip_named("link", 0o120_777, b"/etc/passwd"), Kind::LinkOutside, "/etc/passwd"),
        ("device.zip", zip_named("null", 0o020_666, b""), Kind::EntryKind, "null"),
        ("fifo.zip", zip_named("pipe", 0o010_666, b""), Kind::EntryKind, "pipe"),
    ];
    let server = serving(archives.iter().map(|(name, bytes, ..)| (*name, bytes.clone())).collect());
    let node = Node::new();
    std::fs::write(node.local("before"), "before").unwrap();
    for (name, _, kind, says) in &archives {
        let error = node.fetch(to("local/d", Any, server.url(name))).unwrap_err();
        assert_eq!(error.kind, *kind, "{name}: {error}");
        assert!(error.detail.contains(says), "{name}: {error}");
        assert!(error.url.ends_with(name));
        assert_eq!(node.files(), ["web/local/before"], "{name}");
    }
    assert!(!Path::new("/tmp/moat-evil").exists());
    assert_eq!(std::fs::read_dir(node.data.path()).unwrap().count(), 1, "nothing beside the allocations");
}

#[test]
fn g08_set_user_id_is_taken_away() {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = [raw_entry(b'5', b"d/", b"", b""), raw_entry(b'0', b"d/tool", b"", b"x")].concat();
    let server = serving(vec![("a.tar", tar_end(entries)), ("a.zip", zip_named("tool", 0o106_755, b"x"))]);
    let node = Node::new();
    node.fetch(to("local/t", Any, server.url("a.tar"))).unwrap();
    node.fetch(to("local/z", Any, server.url("a.zip"))).unwrap();
    for path in ["t/d", "t/d/tool", "z/tool"] {
        let mode = std::fs::metadata(node.local(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{path}");
    }
}

/// A file of ten gigabytes of zeros in a tar, packed by bzip2 into about ten kilobytes: one stream of 45 MB, again and again.
fn bomb() -> Vec<u8> {
    const STREAM: usize = 45_900_000;
    let copies = 218;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size((STREAM * copies) as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let zeros = bzip2(&vec![0; STREAM]);
    let mut bomb = bzip2(header.as_bytes());
    for _ in 0..copies {
        bomb.extend_from_slice(&zeros);
    }
    bomb
}

/// A zip whose directory names the same bytes many times.
fn overlapping() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("f000", zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(&vec![0; 10_000_000]).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let start = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    let end = bytes.windows(4).position(|window| window == b"PK\x05\x06").unwrap();
    let mut made = bytes[..start].to_vec();
    let copies: u16 = 1000;
    for number in 0..copies {
        let mut entry = bytes[start..end].to_vec();
        replace(&mut entry, b"f000", format!("f{number:03}").as_bytes());
        made.extend(entry);
    }
    let size = u32::try_from(made.len() - start).unwrap();
    let mut tail = bytes[end..].to_vec();
    tail[8..10].copy_from_slice(&copies.to_le_bytes());
    tail[10..12].copy_from_slice(&copies.to_le_bytes());
    tail[12..16].copy_from_slice(&size.to_le_bytes());
    made.extend(tail);
    made
}

#[test]
fn g08_ten_gigabytes_from_ten_kilobytes_fail_at_the_limit() {
    let bomb = bomb();
    assert!(bomb.len() < 16 << 10, "{} bytes", bomb.len());
    let server = serving(vec![("bomb.tar.bz2", bomb.clone()), ("bomb.bz2", bomb), ("overlapping.zip", overlapping())]);
    const LIMIT: u64 = 16 << 20;
    let node = Node::with(|config| config.limits.ratio_from = LIMIT);
    for name in ["bomb.tar.bz2", "bomb.bz2", "overlapping.zip"] {
        let error = node.fetch(to("local/d", Any, server.url(name))).unwrap_err();
        assert_eq!(error.kind, Kind::Ratio, "{name}: {error}");
        assert!(node.files().is_empty());
    }
    // Where the operator allows any ratio, the size is the bound, and the kernel holds it too: no byte more is written.
    let node = Node::with(|config| {
        config.limits.ratio_from = u64::MAX;
        config.limits.unpacked_size = LIMIT;
        config.limits.http_max_size = LIMIT;
    });
    let error = node.fetch(to("local/d", Any, server.url("bomb.tar.bz2"))).unwrap_err();
    assert_eq!(error.kind, Kind::Size, "{error}");
    assert!(node.files().is_empty());
}

#[test]
fn a_download_that_is_too_large_is_refused_or_cut_off() {
    let server = Server::start(|request, out| {
        if request.path.ends_with("said") {
            return respond(out, "200 OK", &[], &[0; 4096]);
        }
        // Nothing is said of its length.
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while out.write_all(&[0; 1024]).is_ok() {}
    });
    let node = Node::with(|config| config.limits.http_max_size = 2048);
    for name in ["said", "unsaid"] {
        let error = node.fetch(artifact(server.url(name))).unwrap_err();
        assert_eq!(error.kind, Kind::Size, "{error}");
        assert!(error.detail.contains("2048"), "{error}");
    }
    assert!(node.files().is_empty());
}

#[test]
fn g10_a_server_that_trickles_meets_the_time_limit() {
    let server = Server::start(|_, out| {
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        // A byte now and then, for as long as somebody takes it.
        let (_never, wait) = mpsc::channel::<()>();
        while out.write_all(b"x").and_then(|()| out.flush()).is_ok() {
            let _ = wait.recv_timeout(Duration::from_millis(50));
        }
    });
    let node = Node::with(|config| config.limits.http_read_timeout = Duration::from_secs(2));
    let error = node.fetch(artifact(server.url("slow"))).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    assert!(error.recoverable());
    // The same by the caller's own deadline, which the parent holds.
    let node = Node::new();
    let mut request = node.request(artifact(server.url("slow")));
    request.deadline = Some(Duration::from_secs(1));
    let error = block_on(node.getter.fetch(request, ProgressSink::none())).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    node.nothing_hidden();
    assert!(node.files().is_empty());
}

#[test]
fn redirects_in_circles_without_end_and_to_elsewhere() {
    let other = Server::of("theirs");
    let there = other.url("theirs");
    let server = Server::start(move |request, out| {
        let count: u32 = request.query.parse().unwrap_or(0);
        let next = match request.path.as_str() {
            "/circle" => "/back".to_owned(),
            "/back" => "/circle".to_owned(),
            "/self" => "/self".to_owned(),
            "/endless" => format!("/endless?{}", count + 1),
            "/metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
            "/mapped" => "http://[::ffff:169.254.169.254]/latest".to_owned(),
            "/file" => "file:///etc/passwd".to_owned(),
            "/nowhere" => return respond(out, "302 Found", &[], b""),
            "/once" => "/here".to_owned(),
            "/other" => there.clone(),
            _ => return respond(out, "200 OK", &[], b"ours"),
        };
        respond(out, "302 Found", &[("Location", &next)], b"");
    });
    let node = Node::new();
    for (name, kind) in [
        ("circle", Kind::Redirect),
        ("self", Kind::Redirect),
        ("endless", Kind::Redirect),
        ("nowhere", Kind::Redirect),
        ("file", Kind::Redirect),
        ("metadata", Kind::AddressDenied),
        ("mapped", Kind::AddressDenied),
    ] {
        let error = node.fetch(artifact(server.url(name))).unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
    }
    assert!(node.files().is_empty());
    // A password and a header go to the host they are for and to no other.
    for name in ["once", "other"] {
        let source = server.url(name).replace("http://", "http://me:secret@");
        let mut wanted = to("local/f", File, source);
        wanted.headers.insert("X-Token".to_owned(), "secret".to_owned());
        wanted.headers.insert("Authorization".to_owned(), "Bearer secret".to_owned());
        node.fetch(wanted).unwrap();
    }
    let first = server.requests();
    assert!(first.iter().filter(|r| r.path == "/here").all(|r| r.headers["x-token"] == "secret"));
    let elsewhere = other.requests();
    assert_eq!(elsewhere.len(), 1);
    assert!(!format!("{elsewhere:?}").contains("secret"), "{elsewhere:?}");
}

#[test]
fn the_node_itself_is_nobodys_to_fetch_from_unless_the_operator_says_so() {
    let server = Server::of("secret");
    let node = Node::with(|config| config.network.allow = Vec::new());
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "[::ffff:7f00:1]", "169.254.169.254"] {
        for source in [format!("http://{host}:{port}/x"), format!("git::http://{host}:{port}/x.git")] {
            let error = node.fetch(artifact(source.as_str())).unwrap_err();
            assert_eq!(error.kind, Kind::AddressDenied, "{source}: {error}");
        }
        let error = node.fetch(artifact(format!("s3::http://{host}:{port}/bucket/key"))).unwrap_err();
        assert_eq!(error.kind, Kind::AddressDenied, "{host}: {error}");
    }
    assert!(server.requests().is_empty());
    assert!(node.files().is_empty());
}

#[test]
fn destinations_that_leave_the_allocation_are_refused_before_anything_is_asked() {
    let server = Server::of("x");
    let node = Node::new();
    for destination in ["../../x", "../..", "local/../../../x", "/../../../x", "..", "../alloc/../../2/x"] {
        let error = node.fetch(to(destination, Any, server.url("x"))).unwrap_err();
        assert_eq!(error.kind, Kind::DestinationOutside, "{destination}: {error}");
    }
    assert!(server.requests().is_empty());
    assert!(node.files().is_empty());
    assert_eq!(std::fs::read_dir(node.data.path().join("alloc")).unwrap().count(), 1);
}

#[test]
fn g11_the_child_reads_neither_the_hosts_secrets_nor_the_daemons() {
    let node = Node::with(|config: &mut GetterConfig| config.environment = vec!["MOAT_GETTER_TEST_NONE".to_owned()]);
    let secret = node.data.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let own = format!("/proc/{}/environ", std::process::id());
    let memory = format!("/proc/{}/mem", std::process::id());
    let alloc = node.task().join("local/written");
    let paths = [
        "/etc/shadow",
        own.as_str(),
        memory.as_str(),
        secret.to_str().unwrap(),
        "/root/.ssh/id_rsa",
        "/etc/machine-id",
        "/proc/1/environ",
        // A plus: written.
        "+/tmp/moat-evil",
        "+/etc/moat-evil",
        "+/usr/bin/moat-evil",
        "+/dev/shm/moat-evil",
        &format!("+{}", alloc.display()),
    ];
    let list: Vec<String> = paths.iter().map(|path| path.replace('/', "~")).collect();
    // Names of files are short: a few at a time.
    for (number, chunk) in list.chunks(2).enumerate() {
        let name = format!("probe,{}", chunk.join(","));
        let mut wanted = artifact("http://127.0.0.1:9/x");
        wanted.options.insert("filename".to_owned(), name);
        let error = node.fetch(wanted).unwrap_err();
        assert_eq!(error.kind, Kind::Child, "{error}");
        for (index, path) in paths.iter().skip(number * 2).take(chunk.len()).enumerate() {
            let said = error.detail.split(' ').find_map(|word| word.strip_prefix(&format!("{}=", index + 1)));
            assert_eq!(said, Some("13"), "{path}: {error}");
        }
        let words = &error.detail;
        let environment = words.split(' ').find_map(|word| word.strip_prefix("env=")).unwrap();
        let mut names: Vec<&str> = environment.split(',').collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "PATH", "TMPDIR"]);
        // Nothing listens (EACCES), nothing speaks to programs of this host, nothing leaves the group (EPERM).
        for wanted in ["bind=13", "unix=1", "setsid=1"] {
            assert!(words.contains(wanted), "{wanted}: {error}");
        }
        if is_root() {
            let ids = format!("ids=({}, {}) groups=Ok(0)", CHILD.uid, CHILD.gid);
            assert!(words.contains(&ids), "{error}");
        }
    }
    if !is_root() {
        moat_testkit::not_run("G11 ids", "giving up root needs root");
    }
}

#[test]
fn a_caller_that_gives_up_leaves_neither_child_nor_files() {
    let (asked, was_asked) = mpsc::channel();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        asked.send(()).unwrap();
        // Ends when the child is gone, and not before.
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    });
    let node = Node::new();
    let request = node.request(artifact(format!("http://{address}/never")));
    block_on(async {
        let fetch = node.getter.fetch(request, ProgressSink::none());
        let until_asked = tokio::task::spawn_blocking(move || was_asked.recv_timeout(Duration::from_secs(60)).unwrap());
        tokio::select! {
            result = fetch => panic!("{result:?}"),
            done = until_asked => done.unwrap(),
        }
    });
    server.join().unwrap();
    // The thread removes what the child left; nobody waits for it but this test.
    let hidden = || {
        let mut names = std::fs::read_dir(node.alloc()).unwrap().map(|e| e.unwrap().file_name());
        names.any(|name| name.to_string_lossy().starts_with('.'))
    };
    let gone = async || (!hidden()).then_some(());
    block_on(moat_testkit::wait_until(Duration::from_secs(60), "the staging directory gone", gone)).unwrap();
    assert!(node.files().is_empty());
}

#[test]
fn a_node_that_is_root_never_runs_the_child_as_root() {
    if !is_root() {
        return moat_testkit::not_run("getter as root", "needs root");
    }
    for ids in [None, Some(moat_getter::Ids { uid: 0, gid: 5 })] {
        let mut config = GetterConfig::new("/bin/false".into(), Vec::new());
        config.ids = ids;
        assert_eq!(moat_getter::Getter::new(config).unwrap_err().kind, Kind::Node);
    }
}

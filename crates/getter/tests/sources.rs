//! Where artifacts come from and where they go: G01 to G07, G09, G10.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod kit;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kit::*;
use moat_getter::{FetchErrorKind as Kind, ProgressSink, Source, check, origin};
use moat_model::job::ArtifactMode::{Any, Dir, File};
use sha2::{Digest as _, Sha256};

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn g01_a_file_goes_where_the_job_says() {
    let server = Server::of("hello");
    let node = Node::new();
    let host = node.alloc().join("alloc/host");
    for (destination, mode, at) in [
        ("local/", Any, "web/local/a.txt"),
        ("local/", File, "web/local/a.txt"),
        ("local/deep/er", Any, "web/local/deep/er/a.txt"),
        ("local/named", File, "web/local/named"),
        ("../alloc/shared", Any, "alloc/shared/a.txt"),
        (host.to_str().unwrap(), Any, "alloc/host/a.txt"),
        ("/alloc/inside", Any, "alloc/inside/a.txt"),
        // What is absolute and not the allocation's is the task's.
        ("/etc", Any, "web/etc/a.txt"),
    ] {
        let fetched = node.fetch(to(destination, mode, server.url("x/a.txt?q=1"))).unwrap();
        assert_eq!(fetched.destination, node.alloc().join(at), "{destination}");
        assert_eq!(read(&fetched.destination), "hello");
        assert_eq!((fetched.bytes, fetched.files, fetched.downloaded), (5, 1, 5));
    }
    let requests = server.requests();
    assert!(requests.iter().all(|r| r.method == "GET" && r.path == "/x/a.txt" && r.query == "q=1"), "{requests:?}");
    assert_eq!(requests.len(), 8, "nothing is asked twice");
}

#[test]
fn g01_archives_are_unpacked_by_their_names() {
    let files = [("bin/app", "hello\n")];
    let tar = tar_of(&files);
    let base64 = |text: &str| data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    let txz = base64(
        "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Cf/AGBdADEaShsJEIwnpaE7dSsI/jDFd+CqSaIrzQLzDKk98kLBaNMylwgdcQ/NGUKLpTcmnSbvY1YvieBTCQ\
         BmbohwAjv3XMEdM+uBozy8boXhElRHS1FxmreLtdjUqwR1DLsAAACJwhInJZ+sKQABfIBQAAAAV6ZexbHEZ/sCAAAAAARZWg==",
    );
    let xz = base64("/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQAFaGVsbG8KAAAApWCX8ZT2/eAAAR4GwS+kHR+2830BAAAAAARZWg==");
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 1).unwrap();
    let bodies: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        ("a.zip", zip_of(&files)),
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&tar)),
        ("a.tgz", gzip(&tar)),
        ("a.tar.bz2", bzip2(&tar)),
        ("a.tbz2", bzip2(&tar)),
        ("a.tar.xz", txz.clone()),
        ("a.txz", txz),
        ("a.tar.zst", zstd(&tar)),
        ("a.tzst", zstd(&tar)),
        ("one.gz", gzip(b"hello\n")),
        ("one.bz2", bzip2(b"hello\n")),
        ("one.xz", xz),
        ("one.zst", zstd(b"hello\n")),
    ]);
    let names: Vec<&str> = bodies.keys().copied().collect();
    let served = bodies.clone();
    let server = Server::start(move |request, out| {
        respond(out, "200 OK", &[], &served[request.path.trim_start_matches('/')]);
    });
    let node = Node::new();
    for name in names {
        let directory = format!("local/{name}.d");
        let fetched = node.fetch(to(&directory, Any, server.url(name))).unwrap();
        let one = name.starts_with("one");
        let inner = if one { "one" } else { "bin/app" };
        let path = node.task().join(&directory).join(inner);
        assert_eq!(read(&path), "hello\n", "{name}");
        assert_eq!((fetched.files, fetched.bytes), (1, 6), "{name}");
        if !one {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755, "{name}");
            node.fetch(to(&format!("local/{name}.dir"), Dir, server.url(name))).unwrap();
        } else {
            assert_eq!(node.fetch(to("local/x", Dir, server.url(name))).unwrap_err().kind, Kind::Archive);
        }
        // Mode `file` and `archive=false` leave it as it is.
        node.fetch(to("local/raw", File, server.url(name))).unwrap();
        assert_eq!(std::fs::read(node.local("raw")).unwrap(), bodies[name], "{name}");
        node.fetch(artifact(server.url(&format!("{name}?archive=false")))).unwrap();
        assert_eq!(std::fs::read(node.local(name)).unwrap(), bodies[name], "{name}");
    }
    // An option says what no name does; the other way round it is refused.
    node.fetch(to("local/said", Any, server.url("a.zip?archive=zip&filename=blob"))).unwrap();
    assert_eq!(read(node.local("said/bin/app")), "hello\n");
    assert_eq!(node.fetch(to("local/y", Any, server.url("a.zip?archive=tar"))).unwrap_err().kind, Kind::Archive);
    // Only a directory of it.
    node.fetch(to("local/sub", Any, format!("{}//bin", server.url("a.tar.gz")))).unwrap();
    assert_eq!(read(node.local("sub/app")), "hello\n");
    let missing = node.fetch(to("local/none", Any, format!("{}//lib", server.url("a.tar.gz")))).unwrap_err();
    assert_eq!(missing.kind, Kind::BadSource);
    assert!(!node.local("none").exists());
}

#[test]
fn g02_a_file_more_than_allowed_fails_the_download() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("f{n}")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        (gzip(&tar_of(&files)), zip_of(&files))
    };
    let (full, over) = (many(4096), many(4097));
    let server = Server::start(move |request, out| {
        let (tar, zip) = if request.query.contains("over") { &over } else { &full };
        respond(out, "200 OK", &[], if request.path.ends_with("zip") { zip } else { tar });
    });
    let node = Node::new();
    for name in ["a.tgz", "a.zip"] {
        let error = node.fetch(to("local/d", Any, server.url(&format!("{name}?x=over")))).unwrap_err();
        assert_eq!(error.kind, Kind::Count, "{error}");
        assert!(error.detail.contains("4096") && error.recoverable(), "{error}");
        assert!(!node.local("d").exists());
    }
    assert_eq!(node.fetch(to("local/full", Any, server.url("a.tgz"))).unwrap().files, 4096);
}

#[test]
fn g04_the_result_belongs_to_whom_the_caller_says() {
    if !is_root() {
        return moat_testkit::not_run("G04", "changing owners needs root");
    }
    let server = Server::of(zip_of(&[("bin/app", "x"), ("lib/y", "y")]));
    let node = Node::new();
    node.fetch(to("local/new/dir", Any, server.url("a.zip"))).unwrap();
    for path in ["new", "new/dir", "new/dir/bin", "new/dir/bin/app", "new/dir/lib/y"] {
        let about = std::fs::symlink_metadata(node.local(path)).unwrap();
        assert_eq!((about.uid(), about.gid()), (OWNER.uid, OWNER.gid), "{path}");
    }
    // What was there before stays whose it was.
    assert_eq!(std::fs::metadata(node.task().join("local")).unwrap().uid(), 0);
}

#[test]
fn g05_links_stay_inside_or_are_refused_and_old_ones_are_not_blamed() {
    let bodies: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        (
            "/in.tar",
            tar_end(
                [
                    raw_entry(b'5', b"d/", b"", b""),
                    raw_entry(b'0', b"d/file", b"", b"x"),
                    raw_entry(b'2', b"d/link", b"file", b""),
                    raw_entry(b'2', b"up", b"d/../d/file", b""),
                    raw_entry(b'2', b"dangling", b"d/none", b""),
                    raw_entry(b'1', b"hard", b"d/file", b""),
                ]
                .concat(),
            ),
        ),
        ("/absolute.tar", tar_end(raw_entry(b'2', b"l", b"/etc/passwd", b""))),
        ("/up.tar", tar_end(raw_entry(b'2', b"l", b"../../../../etc/passwd", b""))),
        // Each stays inside by its text; together they do not.
        (
            "/chain.tar",
            tar_end(
                [
                    raw_entry(b'5', b"a/b/c/", b"", b""),
                    raw_entry(b'2', b"a/b/c/root", b"../../..", b""),
                    raw_entry(b'2', b"out", b"a/b/c/root/../..", b""),
                ]
                .concat(),
            ),
        ),
    ]);
    let server = Server::start(move |request, out| respond(out, "200 OK", &[], &bodies[request.path.as_str()]));
    // With Landlock, and as on a kernel without it: what arrives is looked at in either case.
    for isolated in [true, false] {
        let node = Node::with(|config| config.filesystem_isolation = isolated);
        // Made by the task in an earlier life: neither followed nor a reason to fail.
        symlink("/etc/passwd", node.local("theirs")).unwrap();
        let fetched = node.fetch(to("local/", Any, server.url("in.tar"))).unwrap();
        assert_eq!(fetched.files, 2);
        assert_eq!(read(node.local("d/link")), "x");
        assert_eq!(read(node.local("hard")), "x");
        for name in ["absolute", "up", "chain"] {
            let error = node.fetch(to("local/n", Any, server.url(&format!("{name}.tar")))).unwrap_err();
            assert_eq!(error.kind, Kind::LinkOutside, "{name}: {error}");
            assert!(!node.local("n").exists());
        }
    }
}

#[test]
fn g06_destinations_that_are_taken() {
    let server = Server::start(|request, out| {
        let body =
            if request.path.ends_with("zip") { zip_of(&[("app", "new"), ("x/y", "y")]) } else { b"new".to_vec() };
        respond(out, "200 OK", &[], &body);
    });
    for isolated in [true, false] {
        let node = Node::with(|config| config.filesystem_isolation = isolated);
        let (file, zip) = (server.url("app"), server.url("a.zip"));
        // A directory that exists is added to, a file that exists is replaced.
        std::fs::create_dir(node.local("dir")).unwrap();
        std::fs::write(node.local("dir/kept"), "old").unwrap();
        std::fs::write(node.local("dir/app"), "old").unwrap();
        node.fetch(to("local/dir", Any, &zip)).unwrap();
        assert_eq!((read(node.local("dir/kept")), read(node.local("dir/app"))), ("old".into(), "new".into()));
        assert_eq!(read(node.local("dir/x/y")), "y");
        node.fetch(to("local/dir", Any, &file)).unwrap();
        std::fs::write(node.local("dir/app"), "old").unwrap();
        node.fetch(to("local/dir/app", File, &file)).unwrap();
        assert_eq!(read(node.local("dir/app")), "new");
        // One where the other must be is refused, and nothing changes.
        std::fs::create_dir_all(node.local("clash/app")).unwrap();
        std::fs::write(node.local("afile"), "old").unwrap();
        for (destination, mode, source) in [
            ("local/afile", Any, &zip),
            ("local/afile", Dir, &zip),
            ("local/afile", Any, &file),
            ("local/dir", File, &file),
            ("local/clash", Any, &zip),
            ("local/clash", Any, &file),
            ("local/afile/deeper", File, &file),
        ] {
            let error = node.fetch(to(destination, mode, source.as_str())).unwrap_err();
            assert_eq!(error.kind, Kind::DestinationTaken, "{destination} {mode:?}: {error}");
        }
        assert_eq!(read(node.local("afile")), "old");
        assert!(!node.local("clash/x").exists(), "nothing of a refused archive is there");
        // A link is nobody's way, and a file's own name is replaced, not what a link of that name leads to.
        let outside = node.data.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("victim"), "old").unwrap();
        symlink(&outside, node.local("linked")).unwrap();
        symlink(outside.join("victim"), node.local("name")).unwrap();
        for (destination, mode, source) in [
            ("local/linked", Any, &zip),
            ("local/linked", Any, &file),
            ("local/linked/deep/er", Any, &zip),
            ("local/linked/x", File, &file),
        ] {
            let error = node.fetch(to(destination, mode, source.as_str())).unwrap_err();
            assert_eq!(error.kind, Kind::DestinationLink, "{destination}: {error}");
        }
        node.fetch(to("local/name", File, &file)).unwrap();
        assert_eq!((read(node.local("name")), read(outside.join("victim"))), ("new".into(), "old".into()));
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}

#[test]
fn g07_checksums_of_each_type_are_compared_before_anything_is_there() {
    let body = zip_of(&[("app", "hello")]);
    let (md5, sha1, sha512) = (md5::Md5::digest(&body), sha1::Sha1::digest(&body), sha2::Sha512::digest(&body));
    let right = [
        format!("md5:{}", hex::encode(md5)),
        format!("sha1:{}", hex::encode(sha1)),
        sha256(&body),
        format!("sha512:{}", hex::encode(sha512)),
    ];
    let server = Server::of(body);
    let node = Node::new();
    for (number, checksum) in right.iter().enumerate() {
        let mut wanted = to(&format!("local/{number}"), Any, server.url("a.zip"));
        wanted.options.insert(
            "checksum".to_owned(),
            checksum.to_uppercase().replacen(
                &checksum.to_uppercase()[..checksum.find(':').unwrap()],
                &checksum[..checksum.find(':').unwrap()],
                1,
            ),
        );
        node.fetch(wanted).unwrap();
        assert_eq!(read(node.local(&format!("{number}/app"))), "hello");
        let last = if checksum.ends_with('0') { "1" } else { "0" };
        let wrong = format!("{}{last}", &checksum[..checksum.len() - 1]);
        let error = node.fetch(to("local/wrong", Any, server.url(&format!("a.zip?checksum={wrong}")))).unwrap_err();
        assert_eq!(error.kind, Kind::ChecksumMismatch);
        assert!(error.detail.contains(&checksum[checksum.find(':').unwrap() + 1..]), "{error}");
        assert!(error.recoverable());
        assert!(!node.local("wrong").exists());
    }
    let before = server.requests().len();
    for (checksum, kind) in [
        ("sha256:abc", Kind::ChecksumLength),
        ("sha1:", Kind::ChecksumLength),
        ("crc32:00000000", Kind::ChecksumSyntax),
        ("sha256", Kind::ChecksumSyntax),
        ("sha256:zz", Kind::ChecksumSyntax),
    ] {
        let mut wanted = artifact(server.url("a.zip"));
        wanted.options.insert("checksum".to_owned(), checksum.to_owned());
        assert_eq!(check(&wanted).unwrap_err().kind, kind, "{checksum}");
        let error = node.fetch(wanted).unwrap_err();
        assert_eq!((error.kind, error.recoverable()), (kind, false), "{checksum}");
    }
    assert_eq!(server.requests().len(), before, "nothing is asked for what is written wrongly");
    let mut open = artifact(server.url("a.zip"));
    open.options.insert("checksum".to_owned(), "sha256:${meta.sum}".to_owned());
    check(&open).unwrap();
    moat_testkit::not_run("G07 FIPS", "moat has no FIPS mode: md5 and sha1 are there to find errors, sha256 to trust");
}

#[test]
fn what_has_a_checksum_is_fetched_once() {
    let body = zip_of(&[("app", "hello")]);
    let checksum = sha256(&body);
    let server = Server::of(body);
    let cache = tempfile::tempdir().unwrap();
    let node = Node::with(|config| config.cache_dir = Some(cache.path().join("artifacts")));
    let wanted = |directory: &str| {
        let mut wanted = to(directory, Any, server.url("a.zip"));
        wanted.options.insert("checksum".to_owned(), checksum.clone());
        wanted
    };
    assert!(!node.fetch(wanted("local/1")).unwrap().from_cache);
    let again = node.fetch(wanted("local/2")).unwrap();
    assert!(again.from_cache && again.downloaded == 0);
    assert_eq!(read(node.local("2/app")), "hello");
    assert_eq!(server.requests().len(), 1);
    node.fetch(to("local/3", Any, server.url("a.zip"))).unwrap();
    assert_eq!(server.requests().len(), 2, "without a checksum it is another");
}

#[test]
fn what_the_node_fetched_is_checked_and_unpacked_alike() {
    let body = tar_of(&[("model/weights", "w")]);
    let node = Node::new();
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        file.into()
    };
    for (number, source) in ["nats://apps/models/m.tar", "oci://registry:5000/a/m:v1"].into_iter().enumerate() {
        let mut wanted = to(&format!("local/{number}"), Any, source);
        assert_ne!(origin(&wanted).unwrap(), moat_getter::Origin::Network);
        if number == 0 {
            wanted.options.insert("checksum".to_owned(), sha256(&body));
        }
        let mut request = node.request(wanted);
        request.source = Source::Descriptor { file: file(&body), name: "m.tar".to_owned() };
        block_on(node.getter.fetch(request, ProgressSink::none())).unwrap();
        assert_eq!(read(node.local(&format!("{number}/model/weights"))), "w");
    }
    let mut wanted = to("local/bad", Any, "nats://apps/m.tar");
    wanted.options.insert("checksum".to_owned(), sha256(b"other"));
    let mut request = node.request(wanted);
    request.source = Source::Descriptor { file: file(&body), name: "m.tar".to_owned() };
    let error = block_on(node.getter.fetch(request, ProgressSink::none())).unwrap_err();
    assert_eq!(error.kind, Kind::ChecksumMismatch);
    assert!(!node.local("bad").exists());
    node.nothing_hidden();
}

#[test]
fn three_of_one_task_at_a_time() {
    let state = Arc::new((Mutex::new((0usize, 0usize)), Condvar::new()));
    let seen = Arc::clone(&state);
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let server = Server::start(move |_, out| {
        let (lock, changed) = &*seen;
        let mut now = lock.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
        changed.notify_all();
        // All three are here before the first is answered, so more would be seen if they could come.
        let three = |now: &mut (usize, usize)| now.1 < 3;
        let (mut now, _) = changed.wait_timeout_while(now, Duration::from_secs(60), three).unwrap();
        now.0 -= 1;
        drop(now);
        count.fetch_add(1, Ordering::SeqCst);
        respond(out, "200 OK", &[], b"x");
    });
    let node = Node::new();
    let requests = (0..7).map(|n| node.request(artifact(server.url(&format!("f{n}"))))).collect();
    let results = block_on(node.getter.fetch_all(requests, ProgressSink::none()));
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(state.0.lock().unwrap().1, 3);
    assert_eq!(answered.load(Ordering::SeqCst), 7);
    assert_eq!(node.files(), (0..7).map(|n| format!("web/local/f{n}")).collect::<Vec<_>>());
}

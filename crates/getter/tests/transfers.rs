//! Transfers that need a real other side: broken connections, TLS, git, S3. G01's repositories, G03, G09.

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
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kit::*;
use moat_getter::{FetchErrorKind as Kind, HostAddress, ProgressSink};
use moat_model::job::ArtifactMode::{Any, Dir, File};
use sha2::{Digest as _, Sha256};

/// Bytes in which no part is like another.
fn body(length: u32) -> Vec<u8> {
    (0..length).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// Serves `whole` with ranges, but breaks off every answer after a fifth of it. The validator is what `tag` says.
fn breaking(whole: Vec<u8>, tag: impl Fn(usize) -> Option<&'static str> + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request, out| {
        let tag = tag(count.fetch_add(1, Ordering::SeqCst));
        let range =
            request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let same = tag.is_some() && request.headers.get("if-range").map(String::as_str) == tag;
        let from: usize = range.filter(|_| same).unwrap_or(0);
        let (status, length) =
            if from > 0 { ("206 Partial Content", whole.len() - from) } else { ("200 OK", whole.len()) };
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
        if from > 0 {
            head.push_str(&format!("Content-Range: bytes {from}-{}/{}\r\n", whole.len() - 1, whole.len()));
        }
        if let Some(tag) = tag {
            head.push_str(&format!("ETag: {tag}\r\n"));
        }
        let _ = out.write_all(head.as_bytes());
        let _ = out.write_all(b"\r\n");
        let _ = out.write_all(&whole[from..(from + whole.len() / 5 + 1).min(whole.len())]);
        let _ = out.flush();
    })
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let whole = body(100_000);
    let server = breaking(whole.clone(), |_| Some("\"v1\""));
    let node = Node::new();
    let mut wanted = to("local/f", File, server.url("f"));
    wanted.options.insert("checksum".to_owned(), format!("sha256:{}", hex::encode(Sha256::digest(&whole))));
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let progress = ProgressSink::new(move |progress| sink.lock().unwrap().push(progress));
    block_on(node.getter.fetch(node.request(wanted), progress)).unwrap();
    assert!(std::fs::read(node.local("f")).unwrap() == whole);
    let requests = server.requests();
    assert_eq!(requests.len(), 5, "{requests:?}");
    assert!(requests.iter().skip(1).all(|r| r.headers["if-range"] == "\"v1\""));
    let told = told.lock().unwrap();
    assert!(!told.is_empty() && told.iter().all(|p| p.total == Some(whole.len() as u64)), "{told:?}");
}

#[test]
fn a_broken_download_begins_anew_when_the_file_is_another_and_ends_when_it_always_breaks() {
    // Another tag each time: a part of one and a part of the other would be nothing.
    let server = breaking(body(1000), |count| Some(if count % 2 == 0 { "\"a\"" } else { "\"b\"" }));
    let node = Node::with(|config| config.limits.resumes = 2);
    let error = node.fetch(artifact(server.url("f"))).unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable, "{error}");
    assert!(error.detail.contains("resumed 2 times"), "{error}");
    assert_eq!(server.requests().len(), 3);
    // A weak tag or none says nothing about bytes: the whole is asked for again.
    let weak = breaking(body(1000), |_| Some("W/\"a\""));
    node.fetch(artifact(weak.url("f"))).unwrap_err();
    assert!(weak.requests().iter().all(|r| !r.headers.contains_key("range")));
    assert!(node.files().is_empty());
}

#[test]
fn a_server_that_says_no_and_one_that_is_not_there() {
    let server = Server::start(|_, out| respond(out, "403 Forbidden", &[], b"no"));
    let node = Node::new();
    let source = server.url("f?token=secret").replace("http://", "http://me:secret@");
    let error = node.fetch(artifact(source)).unwrap_err();
    assert_eq!(error.kind, Kind::Status, "{error}");
    assert!(error.to_string().contains("403") && error.recoverable(), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = node.fetch(artifact(format!("http://{gone}/f"))).unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable, "{error}");
    assert!(node.files().is_empty());
}

#[test]
fn a_name_leads_where_the_operator_says_to_one_port_and_nothing_else_of_that_host() {
    let server = Server::of("there");
    let other = Server::of("not for jobs");
    let node = Node::with(|config| {
        config.network.allow.clear();
        let lead = |text: String| HostAddress::parse(&text).unwrap();
        config.network.hosts.insert("s3.internal.test".to_owned(), lead(server.address.to_string()));
        config.network.hosts.insert("node.internal.test".to_owned(), lead("127.0.0.1".to_owned()));
    });
    for source in ["http://s3.internal.test/f", "http://S3.Internal.Test/f"] {
        node.fetch(to("local/f", File, source)).unwrap();
        assert_eq!(std::fs::read(node.local("f")).unwrap(), b"there");
    }
    node.fetch(to("local/g", File, format!("http://s3.internal.test:{}/f", server.address.port()))).unwrap();
    assert!(server.requests().iter().all(|request| request.headers["host"].starts_with("s3.internal.test")));
    let port = other.address.port();
    for source in [
        format!("http://s3.internal.test:{port}/f"),
        format!("http://127.0.0.1:{port}/f"),
        format!("http://127.0.0.1:{}/f", server.address.port()),
        format!("http://node.internal.test:{port}/f"),
        format!("git::http://s3.internal.test:{port}/r.git"),
        "git::http://s3.internal.test/r.git".to_owned(),
    ] {
        let error = node.fetch(to("local/no", Any, source.clone())).unwrap_err();
        assert_eq!(error.kind, Kind::AddressDenied, "{source}: {error}");
    }
    assert!(other.requests().is_empty(), "nobody spoke to it");
    assert!(!node.local("no").exists());
}

/// A server with a certificate only it vouches for.
fn self_signed() -> Option<(tempfile::TempDir, Server)> {
    let dir = tempfile::tempdir().unwrap();
    let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return None;
    }
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&key).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let wrap = move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).ok()?;
        Some(Box::new(rustls::StreamOwned::new(connection, stream)) as Box<dyn Line>)
    };
    let server = Server::wrapped(wrap, |_, out| respond(out, "200 OK", &[], b"sealed"));
    Some((dir, server))
}

#[test]
fn g03_a_certificate_nobody_vouches_for_needs_insecure() {
    let Some((_dir, server)) = self_signed() else {
        return moat_testkit::not_run("G03", "openssl is needed to make a certificate");
    };
    let node = Node::new();
    let source = server.url("f").replace("http://", "https://");
    let error = node.fetch(artifact(source.as_str())).unwrap_err();
    assert_eq!(error.kind, Kind::Tls, "{error}");
    assert!(node.files().is_empty());
    let mut wanted = artifact(source.as_str());
    wanted.insecure = true;
    node.fetch(wanted).unwrap();
    assert_eq!(read(node.local("f")), "sealed");
    // And git alike.
    let error = node.fetch(artifact(format!("git::{source}"))).unwrap_err();
    assert_eq!(error.kind, Kind::Git, "{error}");
    assert!(error.detail.contains("certificate"), "{error}");
}

/// Runs git as somebody, in `at`.
fn git(at: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(["-c", "commit.gpgsign=false", "-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(at)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A directory of bare repositories behind git's own server, and the commit before the last.
fn repositories() -> (tempfile::TempDir, Server, String) {
    let root = tempfile::tempdir().unwrap();
    let work = root.path().join("work");
    std::fs::create_dir_all(work.join("sub")).unwrap();
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("app"), "one").unwrap();
    std::fs::write(work.join("sub/inner"), "inner").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-qm", "one"]);
    let first = git(&work, &["rev-parse", "HEAD"]);
    git(&work, &["tag", "v1"]);
    std::fs::write(work.join("app"), "two").unwrap();
    git(&work, &["commit", "-qam", "two"]);
    git(&work, &["branch", "side"]);
    std::os::unix::fs::symlink("/etc/passwd", work.join("escape")).unwrap();
    git(&work, &["checkout", "-qb", "evil"]);
    git(&work, &["add", "."]);
    git(&work, &["commit", "-qm", "evil"]);
    git(&work, &["checkout", "-q", "main"]);
    git(&work, &["checkout", "-qb", "nested"]);
    std::fs::write(work.join(".gitmodules"), "[submodule \"x\"]\n\tpath = x\n\turl = file:///etc\n").unwrap();
    git(&work, &["add", ".gitmodules"]);
    git(&work, &["commit", "-qm", "nested"]);
    git(&work, &["checkout", "-q", "main"]);
    git(root.path(), &["clone", "-q", "--bare", "work", "repo.git"]);
    let served = root.path().to_owned();
    let server = Server::start(move |request, out| backend(&served, request, out));
    (root, server, first)
}

/// git's own server, as a program of the common gateway.
fn backend(root: &Path, request: &Request, out: &mut dyn Line) {
    if request.path.starts_with("/private") {
        let expected = format!("Basic {}", data_encoding::BASE64.encode(b"me:pass word"));
        if request.headers.get("authorization") != Some(&expected) {
            return respond(out, "401 Unauthorized", &[("WWW-Authenticate", "Basic realm=\"x\"")], b"");
        }
    }
    if request.path.starts_with("/moved") {
        return respond(
            out,
            "301 Moved Permanently",
            &[("Location", "http://169.254.169.254/repo.git/info/refs")],
            b"",
        );
    }
    let path = request.path.strip_prefix("/private").unwrap_or(&request.path);
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", &request.query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&request.body).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut status = "200 OK";
    let mut headers = Vec::new();
    for line in head.lines() {
        match line.split_once(": ").unwrap() {
            ("Status", value) => status = value,
            pair => headers.push(pair),
        }
    }
    respond(out, status, &headers, &output[end + 4..]);
}

#[test]
fn g01_repositories_by_branch_tag_commit_and_directory() {
    let (_root, server, first) = repositories();
    let node = Node::new();
    let source = |options: &str| format!("git::{}{options}", server.url("repo.git"));
    for (options, text) in [
        ("", "two"),
        ("?ref=v1", "one"),
        ("?ref=side", "two"),
        ("?depth=1", "two"),
        ("?ref=v1&depth=1", "one"),
        (&format!("?ref={first}"), "one"),
    ] {
        let directory = format!("local/{}", options.replace(['?', '&', '='], "_"));
        let fetched = node.fetch(to(&directory, Any, source(options))).unwrap();
        assert_eq!(read(fetched.destination.join("app")), text, "{options}");
        assert_eq!(read(fetched.destination.join("sub/inner")), "inner");
    }
    node.fetch(to("local/sub", Dir, source("//sub?ref=v1"))).unwrap();
    assert_eq!(read(node.local("sub/inner")), "inner");
    assert!(!node.local("sub/.git").exists());
    let mut options = to("local/opt", Any, source(""));
    options.options.insert("ref".to_owned(), "v1".to_owned());
    node.fetch(options).unwrap();
    assert_eq!(read(node.local("opt/app")), "one");
    for (wanted, kind) in [
        (to("local/no", Any, source("?ref=nothing")), Kind::Git),
        (to("local/no", Any, format!("git::{}", server.url("none.git"))), Kind::Git),
        (to("local/no", File, source("")), Kind::BadOption),
        (to("local/no", Any, source("//none")), Kind::BadSource),
        (to("local/no", Any, source("?ref=evil")), Kind::LinkOutside),
        (to("local/no", Any, source("?ref=nested")), Kind::Git),
        // A server leads nowhere but to itself.
        (to("local/no", Any, format!("git::{}", server.url("moved.git"))), Kind::Git),
    ] {
        let source = wanted.source.clone();
        let error = node.fetch(wanted).unwrap_err();
        assert_eq!(error.kind, kind, "{source}: {error}");
        assert!(!node.local("no").exists(), "{source}");
    }
    node.fetch(to("local/flat", Any, source("?ref=nested&submodules=false"))).unwrap();
    // A destination that is a file, or a link.
    std::fs::write(node.local("file"), "old").unwrap();
    let error = node.fetch(to("local/file", Any, source(""))).unwrap_err();
    assert_eq!(error.kind, Kind::DestinationTaken, "{error}");
}

#[test]
fn a_repositorys_password_is_sent_and_kept_nowhere() {
    let (_root, server, _) = repositories();
    let node = Node::new();
    let source = format!("git::{}", server.url("private/repo.git"));
    let error = node.fetch(to("local/p", Any, source.as_str())).unwrap_err();
    assert_eq!(error.kind, Kind::Git, "{error}");
    let with = source.replace("http://", "http://me:pass%20word@");
    node.fetch(to("local/p", Any, with)).unwrap();
    assert_eq!(read(node.local("p/app")), "two");
    assert!(!read(node.local("p/.git/config")).contains("pass"));
}

#[test]
fn nothing_in_a_job_configures_git() {
    let (_root, server, _) = repositories();
    let node = Node::new();
    for source in [
        "git::ext::sh -c touch% x",
        "git::file:///etc",
        "git::git://127.0.0.1/x",
        "git::ssh://-oProxyCommand=touch%20x/y",
        "git@-oProxyCommand=x:y",
        &format!("git::{}?ref=--upload-pack=touch", server.url("repo.git")),
    ] {
        let error = node.fetch(to("local/x", Any, source)).unwrap_err();
        assert!(!node.local("x").exists(), "{source}");
        assert!(
            matches!(error.kind, Kind::UnsupportedScheme | Kind::BadSource | Kind::BadOption | Kind::Unreachable),
            "{source}: {error}"
        );
    }
}

/// A store of one bucket that wants right signatures, unless the key begins with `public`.
fn store(objects: BTreeMap<&'static str, Vec<u8>>, page: usize) -> Server {
    Server::start(move |request, out| {
        let query: BTreeMap<String, String> = url::form_urlencoded::parse(request.query.as_bytes())
            .map(|(k, v)| (k.into_owned(), v.into_owned()))
            .collect();
        let path = request.path.strip_prefix("/bucket/").unwrap_or_else(|| panic!("{request:?}"));
        let prefix = query.get("prefix").cloned().unwrap_or_default();
        let public = path.starts_with("public") || prefix.starts_with("public");
        if !public && query.get("X-Amz-Signature") != Some(&signature(request, &query)) {
            return respond(out, "403 Forbidden", &[], b"<Code>SignatureDoesNotMatch</Code>");
        }
        if query.contains_key("list-type") {
            let keys: Vec<_> = objects.keys().filter(|key| key.starts_with(&prefix)).collect();
            let from: usize = query.get("continuation-token").map_or(0, |token| token.parse().unwrap());
            let shown = &keys[from..(from + page).min(keys.len())];
            let mut xml = String::from("<ListBucketResult>");
            for key in shown {
                xml.push_str(&format!("<Contents><Key>{}</Key></Contents>", key.replace(' ', "+")));
            }
            let more = from + page < keys.len();
            xml.push_str(&format!("<IsTruncated>{more}</IsTruncated>"));
            if more {
                xml.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", from + page));
            }
            xml.push_str("</ListBucketResult>");
            return respond(out, "200 OK", &[], xml.as_bytes());
        }
        let key = url::form_urlencoded::parse(format!("k={}", path.replace('+', "%2B")).as_bytes())
            .next()
            .unwrap()
            .1
            .into_owned();
        let key = query.get("versionId").map_or(key.clone(), |version| format!("{key}@{version}"));
        match objects.get(key.as_str()) {
            Some(body) => respond(out, "200 OK", &[], body),
            None => respond(out, "404 Not Found", &[], b"<Code>NoSuchKey</Code>"),
        }
    })
}

const SECRET: &str = "the/secret+key";

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// The signature of version 4 that a request with its credentials in the query must have.
fn signature(request: &Request, query: &BTreeMap<String, String>) -> String {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let mut pairs: Vec<&str> = request.query.split('&').filter(|p| !p.starts_with("X-Amz-Signature=")).collect();
    pairs.sort_unstable();
    let host = &request.headers["host"];
    let canonical = format!("GET\n{}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", request.path, pairs.join("&"));
    let credential = get("X-Amz-Credential");
    let Some((_, scope)) = credential.split_once('/') else { return "none".to_owned() };
    let text = format!(
        "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
        get("X-Amz-Date"),
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part));
    hex::encode(hmac(&key, &text))
}

#[test]
fn g09_a_store_with_and_without_keys() {
    let zip = zip_of(&[("bin/app", "app")]);
    let objects = BTreeMap::from([
        ("private/app.zip", zip.clone()),
        ("private/app.zip@7", b"seventh".to_vec()),
        ("public/file", b"open".to_vec()),
        ("private/dir/a b", b"a".to_vec()),
        ("private/dir/sub/b", b"b".to_vec()),
        ("private/dir/sub/c", b"c".to_vec()),
        ("private/evil/../../../up", b"evil".to_vec()),
    ]);
    let server = store(objects, 2);
    let node = Node::new();
    let keyed = |destination: &str, mode, key: &str, secret: &str| {
        let mut wanted = to(destination, mode, format!("s3::{}", server.url(&format!("bucket/{key}"))));
        for (name, value) in [("aws_access_key_id", "id"), ("aws_access_key_secret", secret), ("region", "nowhere-1")] {
            wanted.options.insert(name.to_owned(), value.to_owned());
        }
        wanted
    };
    node.fetch(keyed("local/zip", Any, "private/app.zip", SECRET)).unwrap();
    assert_eq!(read(node.local("zip/bin/app")), "app");
    assert!(server.requests().iter().all(|r| r.query.contains("nowhere-1")));
    let mut version = keyed("local/version", File, "private/app.zip", SECRET);
    version.options.insert("version".to_owned(), "7".to_owned());
    version.options.insert("aws_access_token".to_owned(), "token".to_owned());
    node.fetch(version).unwrap();
    assert_eq!(read(node.local("version")), "seventh");
    assert!(server.requests().last().unwrap().query.contains("X-Amz-Security-Token=token"));
    // Without keys: what is public, and nothing else.
    node.fetch(to("local/open", File, format!("s3::{}", server.url("bucket/public/file")))).unwrap();
    assert_eq!(read(node.local("open")), "open");
    for (wanted, kind) in [
        (to("local/no", Any, format!("s3::{}", server.url("bucket/private/app.zip"))), Kind::Status),
        (keyed("local/no", Any, "private/app.zip", "wrong"), Kind::Status),
        (keyed("local/no", File, "private/none", SECRET), Kind::Status),
        (keyed("local/no", Any, "private/none", SECRET), Kind::Status),
        // A key that leads up is refused before it is asked for.
        (keyed("local/no", Any, "private/evil/", SECRET), Kind::EntryOutside),
    ] {
        let key = wanted.source.clone();
        let error = node.fetch(wanted).unwrap_err();
        assert_eq!(error.kind, kind, "{key}: {error}");
        assert!(!error.to_string().contains("wrong") && !error.to_string().contains(SECRET), "{error}");
        assert!(!node.local("no").exists());
    }
    // A directory, over pages, with and without the slash.
    for key in ["private/dir", "private/dir/"] {
        let name = format!("local/{}", key.len());
        let fetched = node.fetch(keyed(&name, Any, key, SECRET)).unwrap();
        assert_eq!(fetched.files, 3);
        assert_eq!(read(fetched.destination.join("a b")), "a");
        assert_eq!(read(fetched.destination.join("sub/c")), "c");
    }
}

//! A node's directory with an allocation in it, a getter, and servers on loopback.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what tests stand on; each test file uses a part of it"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moat_getter::{FetchError, FetchRequest, Fetched, Getter, GetterConfig, Ids, ProgressSink, Source};
use moat_model::job::{ArtifactMode, ArtifactSpec};

/// Nobody on any host.
pub const CHILD: Ids = Ids { uid: 1_947_483_001, gid: 1_947_483_002 };
pub const OWNER: Ids = Ids { uid: 1_947_483_011, gid: 1_947_483_012 };

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A getter and an allocation it fetches for.
pub struct Node {
    pub getter: Getter,
    pub data: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut GetterConfig)) -> Self {
        // Not below /tmp, which the child has none of.
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut config = GetterConfig::new(env!("CARGO_BIN_EXE_moat-getter").into(), Vec::new());
        config.ids = is_root().then_some(CHILD);
        // Everything here is on loopback, which nobody fetches from by default.
        config.network.allow = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        change(&mut config);
        let node = Self { getter: Getter::new(config).unwrap(), data };
        std::fs::create_dir_all(node.task().join("local")).unwrap();
        std::fs::create_dir_all(node.alloc().join("alloc/data")).unwrap();
        // As on a node: only root may enter what is above.
        std::fs::set_permissions(node.data.path(), PermissionsExt::from_mode(0o700)).unwrap();
        node
    }

    pub fn alloc(&self) -> PathBuf {
        self.data.path().join("alloc/1")
    }

    pub fn task(&self) -> PathBuf {
        self.alloc().join("web")
    }

    pub fn local(&self, name: &str) -> PathBuf {
        self.task().join("local").join(name)
    }

    pub fn request(&self, artifact: ArtifactSpec) -> FetchRequest {
        FetchRequest {
            artifact,
            alloc_dir: self.alloc(),
            task_dir: self.task(),
            owner: Some(OWNER),
            source: Source::Network,
            deadline: Some(Duration::from_secs(300)),
        }
    }

    pub fn fetch(&self, artifact: ArtifactSpec) -> Result<Fetched, FetchError> {
        let request = self.request(artifact);
        let result = block_on(self.getter.fetch(request, ProgressSink::none()));
        self.nothing_hidden();
        result
    }

    /// No staging directory is left.
    pub fn nothing_hidden(&self) {
        let names: Vec<_> = std::fs::read_dir(self.alloc()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
    }

    /// Everything below the allocation's directory, relative to it.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.alloc(), Path::new(""), &mut found);
        found.sort();
        found
    }
}

fn walk(at: &Path, inner: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let entry = entry.unwrap();
        let inner = inner.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &inner, found);
        } else {
            found.push(inner.display().to_string());
        }
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub fn artifact(source: impl Into<String>) -> ArtifactSpec {
    ArtifactSpec {
        source: source.into(),
        destination: "local/".to_owned(),
        mode: ArtifactMode::Any,
        options: BTreeMap::new(),
        headers: BTreeMap::new(),
        insecure: false,
        chown: false,
    }
}

pub fn to(destination: &str, mode: ArtifactMode, source: impl Into<String>) -> ArtifactSpec {
    ArtifactSpec { destination: destination.to_owned(), mode, ..artifact(source) }
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// A server that answers each connection once, by a function.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Request>>>,
}

pub trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

impl Server {
    pub fn start(answer: impl Fn(&Request, &mut dyn Line) + Send + Sync + 'static) -> Self {
        Self::wrapped(|stream| Some(Box::new(stream) as Box<dyn Line>), answer)
    }

    pub fn wrapped(
        wrap: impl Fn(TcpStream) -> Option<Box<dyn Line>> + Send + Sync + 'static,
        answer: impl Fn(&Request, &mut dyn Line) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, wrap, kept) = (Arc::new(answer), Arc::new(wrap), Arc::clone(&seen));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, wrap, kept) = (Arc::clone(&answer), Arc::clone(&wrap), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let Some(mut line) = wrap(stream) else { return };
                    let Some(request) = read_request(&mut line) else { return };
                    kept.lock().unwrap().push(request.clone());
                    answer(&request, &mut line);
                });
            }
        });
        Self { address, seen }
    }

    /// The same bytes under every path.
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self::start(move |_, out| respond(out, "200 OK", &[], &body))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn read_request(line: &mut Box<dyn Line>) -> Option<Request> {
    let mut reader = BufReader::new(line);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text: &String| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

/// Whoever asked may be gone: no error here is the test's.
pub fn respond(out: &mut dyn Line, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let _ = out.write_all(head.as_bytes());
    let _ = out.write_all(b"\r\n");
    let _ = out.write_all(body);
    let _ = out.flush();
}

/// A tar of regular files.
pub fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar entry whose name and type are written as they are, which no builder would do.
pub fn raw_entry(kind: u8, name: &[u8], link: &[u8], body: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(body.len() as u64);
    header.set_mode(0o6755);
    {
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name);
        bytes[156] = kind;
        bytes[157..157 + link.len()].copy_from_slice(link);
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub fn tar_end(mut entries: Vec<u8>) -> Vec<u8> {
    entries.extend([0; 1024]);
    entries
}

pub fn zip_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default().unix_permissions(0o755)).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

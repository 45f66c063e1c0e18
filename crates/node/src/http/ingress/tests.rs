//! The proxy over real sockets, before sandboxes that are not there.

mod admission;
mod bodies;
mod hostile;
mod upgrades;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use moat_engine::guest::Channel;
use moat_model::{ErrorKind, SandboxId, Timestamp};
use moat_testkit::{wait_until, web};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Closed, Doors, HttpServer, serve};
use crate::config::ProxyConfig;
use crate::error::Error;
use crate::tokens::Tokens;

/// Longest wait for anything: a loaded machine is slow.
const SOON: Duration = Duration::from_secs(60);
/// Nothing listens there.
const DEAF: u16 = 1;
/// It is the agent's.
const AGENTS: u16 = 2;
/// It never takes a connection.
const SLOW: u16 = 3;
/// The sandbox is paused.
const PAUSED: u16 = 4;
/// WebSockets that echo. Everywhere else [`web`] answers.
const SOCKETS: u16 = 5;
/// The other end of a connection inside goes away in the middle.
const DYING: u16 = 6;

/// One sandbox that there is.
#[derive(Debug, Default)]
struct Fake {
    id: Mutex<Option<SandboxId>>,
    public: AtomicBool,
    open: Arc<AtomicUsize>,
    touched: Mutex<HashSet<SandboxId>>,
    touches: AtomicUsize,
}

#[async_trait]
impl Doors for Fake {
    fn public(&self, id: &SandboxId) -> bool {
        self.public.load(Ordering::SeqCst) && self.id.lock().unwrap().as_ref() == Some(id)
    }

    async fn connect(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Channel>, Closed> {
        if self.id.lock().unwrap().as_ref() != Some(id) {
            return Err(Closed::Sandbox(Error::new(ErrorKind::NotFound, "no such sandbox")));
        }
        match port {
            DEAF => return Err(Closed::Port(Error::new(ErrorKind::NotFound, "connection refused"))),
            AGENTS => return Err(Closed::Port(Error::new(ErrorKind::Denied, "the agent's"))),
            SLOW => std::future::pending().await,
            PAUSED => return Err(Closed::Sandbox(Error::new(ErrorKind::Conflict, "the sandbox is paused"))),
            _ => {}
        }
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let open = Arc::clone(&self.open);
        open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            match port {
                SOCKETS => {
                    let (sink, stream) = tokio_tungstenite::accept_async(theirs).await.unwrap().split();
                    let _ = stream.take_while(|m| std::future::ready(m.is_ok())).forward(sink).await;
                }
                DYING => {
                    let mut theirs = theirs;
                    let _ = theirs.read(&mut [0; 4096]).await;
                    let _ = theirs.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
                }
                _ => drop(web::answer(theirs).await),
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(Box::new(ours))
    }

    fn touch(&self, id: &SandboxId) {
        self.touched.lock().unwrap().insert(id.clone());
        self.touches.fetch_add(1, Ordering::SeqCst);
    }
}

/// A proxy, and one sandbox behind it.
struct Lab {
    doors: Arc<Fake>,
    server: HttpServer,
    address: SocketAddr,
    id: SandboxId,
    /// Another, which is not there.
    other: SandboxId,
    tokens: Arc<Tokens>,
    token: String,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(https: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Arc::new(Tokens::load_or_create(dir.path()).unwrap());
        let [id, other] = [7, 8].map(|n| SandboxId::from_parts(Timestamp::from_millis(1_700_000_000_000), [n; 10]));
        let doors = Arc::new(Fake { id: Mutex::new(Some(id.clone())), ..Fake::default() });
        let config = ProxyConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            domain: "box.test".to_owned(),
            https,
            ..ProxyConfig::default()
        };
        let server = serve(&config, Arc::clone(&doors) as Arc<dyn Doors>, Arc::clone(&tokens)).await.unwrap();
        let (address, token) = (server.addresses[0], tokens.of(&id));
        Self { doors, server, address, id, other, tokens, token, _dir: dir }
    }

    fn host(&self, port: u16) -> String {
        format!("{port}-{}.box.test", self.id)
    }

    /// A head with the token, for this port, and these lines besides. The connection ends with the answer.
    fn head(&self, method: &str, port: u16, path: &str, lines: &str) -> String {
        let (host, token) = (self.host(port), &self.token);
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nMoat-Token: {token}\r\nConnection: close\r\n{lines}\r\n")
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What comes back for these bytes until the connection ends.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> Said {
        let mut stream = self.connect().await;
        // A refusal may come, and the connection go, before all was sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        Said::rest_of(stream).await
    }

    async fn get(&self, port: u16, path: &str) -> Said {
        self.raw(self.head("GET", port, path, "")).await
    }

    /// Waits until nothing is connected inside.
    async fn quiet(&self) {
        let quiet = async || (self.doors.open.load(Ordering::SeqCst) == 0).then_some(());
        wait_until(SOON, "all connections inside end", quiet).await.unwrap();
    }
}

/// An answer as it came.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    async fn rest_of(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
        Self::of(&bytes, read.is_err())
    }

    fn of(bytes: &[u8], broken: bool) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = if broken { format!("{body} (broken)") } else { body.to_owned() };
        Self { status, head: head.to_owned(), body }
    }

    /// The values of a header.
    fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The lines of a head that was echoed, sorted.
    fn echoed(&self) -> Vec<&str> {
        let mut lines: Vec<&str> = self.body.split("\r\n").filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        lines
    }
}

/// Reads until this was seen.
async fn until(stream: &mut TcpStream, seen: &str) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&all).contains(seen) {
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "the end after {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

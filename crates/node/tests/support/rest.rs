//! A node on the fake driver without any broker, and a client of its REST API that can be as rude as a test needs.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use moat_engine::Registry;
use moat_engine::fake::{FakeConfig, FakeWorld};
use moat_node::api_keys::{ApiKeys, Scope};
use moat_node::config::{ApiConfig, NatsConfig, NodeConfig};
use moat_node::daemon::Node;
use moat_node::http::{HttpServer, Pages, Services, serve};
use moat_testkit::wait_until;
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything: a loaded machine is slow.
pub const SOON: Duration = Duration::from_secs(30);

/// A fake host that outlives its daemons.
pub struct Host {
    pub dir: TempDir,
    pub world: FakeWorld,
    pub config: NodeConfig,
}

/// A daemon on it, in a runtime of its own, so that it can be crashed.
pub struct Daemon {
    pub node: Node,
    server: Option<HttpServer>,
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug)]
struct Healthy;

impl moat_node::metrics::Scrape for Healthy {
    fn refresh(&self) {}
    fn health(&self) -> Result<String, String> {
        Ok("ok".to_owned())
    }
}

impl Host {
    pub fn new(fake: FakeConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            run_dir: dir.path().join("run"),
            data_dir: dir.path().join("data"),
            // Nobody is there: the API does not need it.
            nats: NatsConfig { servers: vec!["nats://127.0.0.1:9".to_owned()], ..NatsConfig::default() },
            api: ApiConfig::off(),
            ..NodeConfig::default()
        };
        Self { dir, world: FakeWorld::new(fake), config }
    }

    /// Makes a key before the daemon comes up, so that it knows it at once.
    pub fn key(&self, scope: Scope) -> String {
        std::fs::create_dir_all(&self.config.data_dir).unwrap();
        let path = moat_node::Dirs::new(&self.config.run_dir, &self.config.data_dir).api_keys();
        ApiKeys::open(&path).unwrap().create(scope, "test").unwrap().1
    }

    pub async fn up(&self) -> Daemon {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // The lock goes with the last task of a crashed node, which ends at its next await.
        let node = wait_until(SOON, "a node", async || {
            let (config, registry) = (self.config.clone(), Registry::new(vec![self.world.driver() as Arc<_>]));
            runtime.spawn(Node::start(config, registry)).await.unwrap().ok()
        })
        .await
        .unwrap();
        let services = Services {
            sandboxes: node.sandboxes().clone(),
            templates: node.templates().clone(),
            keys: Arc::clone(node.keys()),
            pages: Some(Pages { handle: moat_node::metrics::install().unwrap(), scrape: Arc::new(Healthy) }),
            cluster: None,
            jails: node.jails().cloned(),
            scratch: self.dir.path().join("scratch"),
        };
        let serving = async move { serve(&["127.0.0.1:0".parse().unwrap()], services).await };
        let server = runtime.spawn(serving).await.unwrap().unwrap();
        let address = server.addresses[0];
        Daemon { node, server: Some(server), address, runtime: Some(runtime) }
    }
}

impl Daemon {
    /// Ends everything the daemon does, in the middle of whatever it does.
    pub fn crash(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Ends the server as a daemon that shuts down does.
    pub async fn close(&mut self) {
        self.server.take().unwrap().close().await;
    }

    pub fn client(&self) -> Client {
        Client { address: self.address, headers: HeaderMap::new() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks over a new connection each time.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub headers: HeaderMap,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The answer, which has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }
}

impl Client {
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, value.parse().unwrap());
        client
    }

    pub fn key(&self, key: &str) -> Self {
        self.with("authorization", &format!("Bearer {key}"))
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, Body::empty()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.with(CONTENT_TYPE.as_str(), "application/json").ask("POST", path, body.to_string().into()).await
    }

    pub async fn ask(&self, method: &str, path: &str, body: Body) -> Reply {
        let response = self.open(method, path, body).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 64 << 20).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, bytes: bytes.to_vec() }
    }

    /// The head of the answer, and its body as it comes. Dropping it hangs up.
    pub async fn open(&self, method: &str, path: &str, body: Body) -> Result<Response<Body>, String> {
        let stream = tokio::net::TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
        let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connection.map_err(|e| e.to_string())?;
        let carrying = tokio::spawn(async move { drop(connection.await) });
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
        *request.headers_mut() = self.headers.clone();
        if !self.headers.contains_key("host") {
            request.headers_mut().insert("host", self.address.to_string().parse().unwrap());
        }
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let carried = Carried { task: carrying, _sender: sender };
        Ok(response.map(|body| {
            let pieces = Body::new(body).into_data_stream();
            Body::from_stream(futures::stream::unfold((pieces, carried), |(mut pieces, carried)| async move {
                let piece = pieces.next().await?;
                Some((piece, (pieces, carried)))
            }))
        }))
    }
}

/// A connection that ends with whoever uses it.
struct Carried {
    task: tokio::task::JoinHandle<()>,
    _sender: hyper::client::conn::http1::SendRequest<Body>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// JSON lines of a body.
pub struct Lines {
    pieces: axum::body::BodyDataStream,
    held: Vec<u8>,
}

impl Lines {
    pub fn of(response: Response<Body>) -> Self {
        Self { pieces: response.into_body().into_data_stream(), held: Vec::new() }
    }

    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.held.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(SOON, self.pieces.next()).await.unwrap()?;
            self.held.extend_from_slice(&piece.ok()?);
        }
    }
}

//! The HTTP proxy before the ports of sandboxes: `http://8080-sb-….localhost:8081/` is port 8080 of that sandbox.
//!
//! ```text
//! client -> server -> target (which port of which sandbox) -> admission (may this client?) -> visits (is there room?)
//!   -> Doors::connect, through the agent -> exchange (one request, one answer) or tunnel (after an upgrade)
//! ```
//!
//! What callers may assume: a request reaches the port it names or nothing; no token of ours is seen inside; whoever has
//! no token learns nothing about which sandboxes there are; nothing is held that nobody reads. Both sides speak HTTP/1.1
//! through hyper, so what is passed on is what was understood, never the bytes as they came.

mod admission;
mod exchange;
mod headers;
mod page;
mod sending;
mod target;
#[cfg(test)]
mod tests;
mod tunnel;
mod visits;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use moat_engine::guest::Channel;
use moat_model::SandboxId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::Peer;
use super::server::{Answers, HttpServer, Place, listen};
use crate::config::ProxyConfig;
use crate::error::{Error, Result};
use crate::tokens::Tokens;
use visits::Visits;

/// Clients connected at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How often it is said that sandboxes are in use; shorter than the shortest idle time-out, which is a second.
const TOUCH_EVERY: Duration = Duration::from_millis(400);

/// The ports of sandboxes.
#[async_trait]
pub trait Doors: Send + Sync + std::fmt::Debug {
    /// Whether everybody may reach the ports of this sandbox.
    fn public(&self, id: &SandboxId) -> bool;

    /// Connects to a port inside. Counts as use.
    async fn connect(&self, id: &SandboxId, port: u16) -> std::result::Result<Box<dyn Channel>, Closed>;

    /// Notes that it is in use.
    fn touch(&self, id: &SandboxId);
}

/// Why a port cannot be reached.
#[derive(Debug)]
pub enum Closed {
    /// The sandbox is not there, or not as it would have to be.
    Sandbox(Error),
    /// It is, but the port does not answer.
    Port(Error),
}

/// What every request needs.
#[derive(Debug)]
struct Ingress {
    doors: Arc<dyn Doors>,
    tokens: Arc<Tokens>,
    domain: String,
    https: bool,
    visits: Visits,
    /// The server ends: what is open ends too.
    closing: CancellationToken,
    /// Connections that are no longer HTTP.
    tunnels: TaskTracker,
}

/// Serves the ports of sandboxes.
pub async fn serve(config: &ProxyConfig, doors: Arc<dyn Doors>, tokens: Arc<Tokens>) -> Result<HttpServer> {
    let (closing, tunnels) = (CancellationToken::new(), TaskTracker::new());
    let ingress = Arc::new(Ingress {
        doors,
        tokens,
        domain: config.domain.clone(),
        https: config.https,
        visits: Visits::default(),
        closing: closing.clone(),
        tunnels: tunnels.clone(),
    });
    let front = Front(Arc::clone(&ingress));
    let server = listen("proxy.listen", &config.listen, CONNECTIONS_MAX, front, closing.clone(), tunnels).await?;
    server.tasks().spawn(async move {
        closing.run_until_cancelled(ingress.keep_in_use()).await;
    });
    Ok(server)
}

impl Ingress {
    /// A sandbox that somebody is connected to does not idle.
    async fn keep_in_use(&self) {
        loop {
            tokio::time::sleep(TOUCH_EVERY).await;
            for id in self.visits.visited() {
                self.doors.touch(&id);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Front(Arc<Ingress>);

impl Answers for Front {
    async fn answer(self, request: Request<Incoming>, peer: SocketAddr, place: Place) -> Response<Body> {
        let shown = page::Shown::of(request.headers());
        match exchange::answer(&self.0, request, Peer(peer), place).await {
            Ok(response) => response,
            Err(failure) => shown.page(&failure),
        }
    }
}

//! Where the numbers are read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use moat_engine::Engine;
use moat_model::ErrorKind;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::events::Outbox;
use crate::nats::{Connection, Link};
use crate::outlet::NodeOutlet;
use crate::workloads::Workloads;

/// Knows what is true now.
pub trait Scrape: Send + Sync + std::fmt::Debug {
    /// Sets every gauge.
    fn refresh(&self);
    /// Whether the daemon works, and one line about it.
    fn health(&self) -> std::result::Result<String, String>;
}

/// The running server.
#[derive(Debug)]
pub struct MetricsServer {
    /// Where it listens.
    pub address: SocketAddr,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl MetricsServer {
    /// Takes no more requests and waits for those under way.
    pub async fn close(self) {
        self.cancel.cancel();
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "the metrics server ended badly");
        }
    }
}

#[derive(Debug, Clone)]
struct Page {
    handle: PrometheusHandle,
    scrape: Arc<dyn Scrape>,
}

/// Serves `/metrics` and `/healthz` at `address`.
pub async fn serve(address: SocketAddr, handle: PrometheusHandle, scrape: Arc<dyn Scrape>) -> Result<MetricsServer> {
    let failed = |error| Error::caused_by(ErrorKind::Unavailable, format!("metrics_listen: {address}"), error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "metrics can be read from other machines, and nobody is asked who they are");
    }
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .with_state(Page { handle, scrape });
    let cancel = CancellationToken::new();
    let ended = cancel.clone().cancelled_owned();
    let serving = axum::serve(listener, router).with_graceful_shutdown(ended);
    Ok(MetricsServer { address, cancel, task: tokio::spawn(serving.into_future()) })
}

async fn metrics_page(State(page): State<Page>) -> String {
    page.scrape.refresh();
    page.handle.run_upkeep();
    page.handle.render()
}

async fn health_page(State(page): State<Page>) -> (StatusCode, String) {
    match page.scrape.health() {
        Ok(text) => (StatusCode::OK, format!("{text}\n")),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    }
}

/// The gauges of a node.
#[derive(Debug)]
pub struct NodeNumbers {
    engine: Engine,
    workloads: Workloads,
    outlet: NodeOutlet,
    outbox: Outbox,
    connection: Connection,
    /// Label values that were given out once: those that are no more must become zero, not stay.
    given: Mutex<BTreeSet<(&'static str, [String; 2])>>,
}

impl NodeNumbers {
    /// Reads from these.
    pub fn new(
        engine: Engine,
        workloads: Workloads,
        outlet: NodeOutlet,
        outbox: Outbox,
        connection: Connection,
    ) -> Self {
        Self { engine, workloads, outlet, outbox, connection, given: Mutex::default() }
    }

    /// Sets a family of gauges with two labels, and to zero whatever it had before and has no more.
    fn set_family(&self, name: &'static str, labels: [&'static str; 2], counts: BTreeMap<[String; 2], u32>) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let set = |values: &[String; 2], count: u32| {
            let [first, second] = values.clone();
            gauge!(name, labels[0] => first, labels[1] => second).set(f64::from(count));
        };
        for (_, values) in given.iter().filter(|(family, values)| *family == name && !counts.contains_key(values)) {
            set(values, 0);
        }
        for (values, count) in counts {
            set(&values, count);
            given.insert((name, values));
        }
    }

    fn connected(&self) -> bool {
        matches!(&*self.connection.link().borrow(), Link::Up(_))
    }
}

impl Scrape for NodeNumbers {
    fn refresh(&self) {
        let mut sandboxes = BTreeMap::new();
        for view in self.engine.list() {
            *sandboxes.entry([view.phase.to_string(), view.driver]).or_default() += 1;
        }
        self.set_family("moat_sandboxes", ["phase", "driver"], sandboxes);
        let mut workloads = BTreeMap::new();
        for snapshot in self.workloads.live() {
            let kind = format!("{:?}", snapshot.view.kind).to_lowercase();
            *workloads.entry([snapshot.view.namespace.to_string(), kind]).or_default() += 1;
        }
        self.set_family("moat_workloads", ["namespace", "kind"], workloads);
        gauge!("moat_nats_connected").set(f64::from(u8::from(self.connected())));
        gauge!("moat_outbox_events").set(float(self.outbox.depth() as u64));
        gauge!("moat_publisher_lag_bytes").set(float(self.outlet.lag()));
        counter!("moat_actor_panics_total", "actor" => "sandbox").absolute(self.engine.panics());
    }

    fn health(&self) -> std::result::Result<String, String> {
        match (self.engine.panics(), self.connected()) {
            (0, true) => Ok("ok".to_owned()),
            (0, false) => Ok("ok; NATS is away, events and log lines are kept".to_owned()),
            (panics, _) => Err(format!("{panics} sandbox actors ended with a bug; see the log")),
        }
    }
}

/// Exact up to 2^53, which no number here reaches.
#[expect(clippy::cast_precision_loss, reason = "the format has nothing but floating point numbers")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Debug)]
    struct Still;

    impl Scrape for Still {
        fn refresh(&self) {
            gauge!("moat_outbox_events").set(7.0);
        }

        fn health(&self) -> std::result::Result<String, String> {
            Err("2 actors".to_owned())
        }
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn numbers_and_health_are_served() {
        let handle = crate::metrics::install().unwrap();
        let server = serve("127.0.0.1:0".parse().unwrap(), handle, Arc::new(Still)).await.unwrap();
        metrics::histogram!("moat_sandbox_create_seconds", "driver" => "fake").record(0.004);
        let numbers = fetch(server.address, "/metrics").await;
        assert!(numbers.contains("moat_outbox_events 7"), "{numbers}");
        assert!(numbers.contains(r#"moat_sandbox_create_seconds_bucket{driver="fake",le="0.005"} 1"#), "{numbers}");
        assert!(numbers.contains("# HELP moat_outbox_events Events kept"), "{numbers}");
        let health = fetch(server.address, "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 503") && health.contains("2 actors"), "{health}");
        server.close().await;
    }
}

//! The REST API: `/api/v1` over HTTP/1.1, with streams as JSON lines and WebSockets.
//!
//! Here is decided who may ask, what a request must look like and what an answer looks like. What it does is in
//! [`Sandboxes`] and [`Templates`]. Start at [`serve`]; the routes are in [`routes`], their document in [`openapi`].
//!
//! What callers may assume: every failure is an `ErrorBody`; every wait for a client has a bound; nothing of a body, a
//! query or a key is ever logged.

mod answer;
mod auth;
mod body;
mod bounds;
mod files;
pub mod ingress;
mod lines;
mod meter;
pub mod openapi;
mod presence;
mod process;
pub mod routes;
mod server;
mod transcript;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api_keys::ApiKeys;
use crate::jails::Jails;
use crate::jobs::Jobs;
use crate::metrics::Scrape;
use crate::sandboxes::Sandboxes;
use crate::stream::reach::Reach;
use crate::templates::Templates;

pub use server::{HttpServer, serve};

/// Largest archive that can be sent for an import. It lies on the disk of the node until it is in the store.
pub const IMPORT_BYTES_MAX: u64 = 32 << 30;

/// What the API speaks for.
#[derive(Debug, Clone)]
pub struct Services {
    /// Sandboxes and snapshots.
    pub sandboxes: Sandboxes,
    /// Templates and images.
    pub templates: Templates,
    /// Who may ask.
    pub keys: Arc<ApiKeys>,
    /// `/metrics` and `/healthz`; absent: there are none here.
    pub pages: Option<Pages>,
    /// Jails; absent: there are none here.
    pub jails: Option<Jails>,
    /// Jobs of the cluster; absent: this node takes no part in them.
    pub cluster: Option<Cluster>,
    /// Directory for archives on their way into the image store.
    pub scratch: PathBuf,
}

/// Jobs, and where their instances are reached.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What is declared, placed and said.
    pub jobs: Jobs,
    /// Instances on any node.
    pub reach: Reach,
}

/// What `/metrics` and `/healthz` show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Counters.
    pub handle: PrometheusHandle,
    /// Gauges and health.
    pub scrape: Arc<dyn Scrape>,
}

/// What every handler has at hand.
#[derive(Debug, Clone)]
struct App {
    services: Services,
    /// Requests that are not streams, at once.
    slots: Arc<Semaphore>,
    /// The server ends: streams end too.
    closing: CancellationToken,
    /// WebSockets, which outlive the connection they came on.
    sockets: TaskTracker,
}

impl App {
    /// Jails, if this node has any.
    fn jails(&self) -> answer::Answer<&Jails> {
        let none = || answer::Failure::new(moat_model::ErrorKind::Unavailable, "this node has no jails");
        self.services.jails.as_ref().ok_or_else(none)
    }

    /// Jobs, if this node takes part in them.
    fn cluster(&self) -> answer::Answer<&Cluster> {
        self.services.cluster.as_ref().ok_or_else(|| {
            answer::Failure::new(moat_model::ErrorKind::Unavailable, "this node takes no part in jobs")
                .with_hint("its log says why; other nodes may")
        })
    }
}

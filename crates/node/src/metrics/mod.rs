//! Numbers for Prometheus: what is counted, and where it is read.
//!
//! Counters and histograms are moved where things happen, through the `metrics` macros. Gauges are read from the truth at
//! the moment of a scrape, see [`Scrape`], so none can drift. Every name is in [`NUMBERS`], the source of
//! `docs/metrics.md`.

mod document;
mod numbers;
mod server;

use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use moat_model::ErrorKind;

use crate::error::{Error, Result};

pub use document::markdown;
pub use numbers::{Kind, NUMBERS, Number};
pub use server::{MetricsServer, NodeNumbers, Scrape, serve};

/// Bounds of the histogram of creates: the promise is 5 ms, a slow machine needs a second, a timeout is 30.
const CREATE_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// Bounds of the histogram of requests: a look-up takes less than a millisecond, a buffered exec as long as it takes.
const REQUEST_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0];

/// There is one recorder in a process.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Makes this process's numbers readable. Later calls return what the first made.
pub fn install() -> Result<PrometheusHandle> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let failed = |error| Error::caused_by(ErrorKind::Internal, "set up the metrics", error);
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("moat_sandbox_create_seconds".to_owned()), &CREATE_SECONDS)
        .map_err(failed)?
        .set_buckets_for_metric(Matcher::Full("moat_http_request_seconds".to_owned()), &REQUEST_SECONDS)
        .map_err(failed)?
        .install_recorder()
        .map_err(failed)?;
    for number in NUMBERS {
        match number.kind {
            Kind::Counter => metrics::describe_counter!(number.name, number.meaning),
            Kind::Gauge => metrics::describe_gauge!(number.name, number.meaning),
            Kind::Histogram => metrics::describe_histogram!(number.name, number.meaning),
        }
    }
    Ok(installed.insert(handle).clone())
}

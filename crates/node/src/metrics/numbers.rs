//! Every number a node gives out.

/// How a number behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the daemon lives.
    Counter,
    /// Is what it is now.
    Gauge,
    /// A distribution.
    Histogram,
}

impl Kind {
    /// Its name in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Name, with its unit.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub meaning: &'static str,
}

const fn number(name: &'static str, kind: Kind, labels: &'static [&'static str], meaning: &'static str) -> Number {
    Number { name, kind, labels, meaning }
}

use Kind::{Counter, Gauge, Histogram};

/// All of them.
pub const NUMBERS: &[Number] = &[
    number("moat_sandboxes", Gauge, &["phase", "driver"], "Sandboxes by phase and driver."),
    number("moat_workloads", Gauge, &["namespace", "kind"], "Workloads that run or will run again."),
    number(
        "moat_deploys_total",
        Counter,
        &["outcome"],
        "Deploys answered: `started`, or the kind of the error they were refused with.",
    ),
    number(
        "moat_sandbox_create_seconds",
        Histogram,
        &["driver"],
        "From asking for a sandbox to its program running, successful creates only.",
    ),
    number("moat_nats_connected", Gauge, &[], "1 while the daemon's connection to NATS is up."),
    number("moat_outbox_events", Gauge, &[], "Events kept until NATS confirms them; 10,000 at most."),
    number("moat_events_published_total", Counter, &[], "Events confirmed by NATS."),
    number("moat_events_dropped_total", Counter, &[], "Events lost: the outbox was full, or a file in it was damaged."),
    number("moat_log_bytes_total", Counter, &["stream"], "Bytes of output written to log files."),
    number("moat_log_write_errors_total", Counter, &[], "Writes to log files that failed and are tried again."),
    number(
        "moat_log_waits_total",
        Counter,
        &[],
        "Times a program was held up because its log files are full of lines not published yet.",
    ),
    number("moat_log_published_lines_total", Counter, &[], "Log messages confirmed by NATS."),
    number("moat_log_published_bytes_total", Counter, &[], "Bytes of output published and confirmed."),
    number(
        "moat_log_lost_bytes_total",
        Counter,
        &[],
        "Bytes of output whose file was deleted before they could be published: NATS was away for too long.",
    ),
    number("moat_log_batches_refused_total", Counter, &[], "Batches of log lines the server refused; tried again."),
    number(
        "moat_log_batches_repeated_total",
        Counter,
        &[],
        "Batches sent again because the server, overrun, kept only some of their lines.",
    ),
    number("moat_publisher_lag_bytes", Gauge, &[], "Bytes of output in log files that are not published yet."),
    number("moat_publisher_links_broken_total", Counter, &[], "Connections for log lines that broke."),
    number(
        "moat_exec_sessions_total",
        Counter,
        &["outcome"],
        "Exec sessions that ended: `exited`, `hung_up`, `failed`.",
    ),
    number("moat_http_requests_total", Counter, &["method", "route", "status"], "Requests to the REST API answered."),
    number(
        "moat_http_request_seconds",
        Histogram,
        &["route"],
        "From a request to the head of its answer; a stream goes on after that.",
    ),
    number("moat_actor_panics_total", Counter, &["actor"], "Tasks that ended with a bug, by what they were."),
];

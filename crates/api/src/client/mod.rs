//! The Rust client: everything a `moat` command line, a test or another program does to nodes goes through here.
//!
//! A [`Client`] is cheap to clone and holds one NATS connection; a [`rest::RestClient`] speaks the REST API of one node.
//! Every call has a deadline; every failure has a kind.

mod allocations;
mod artifacts;
mod deploy;
mod directory;
mod error;
mod exec;
mod feeds;
mod operate;
pub mod rest;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use moat_model::{ErrorKind, Namespace, Timestamp};
use rand::TryRngCore;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

pub use artifacts::Uploaded;
pub use deploy::{Deploy, Deployed, Placement};
pub use directory::{Directory, Listed};
pub use error::{Error, Result};
pub use exec::{Exec, ExecControl, ExecOutput, ExecSession};
pub use feeds::{Events, LogMessage, Logs};

use crate::nex::{AuctionRequest, PingResponse, WorkloadPingResponse, envelope};
use crate::subjects::Subjects;
use moat_model::WorkloadName;

/// Most answers taken from one question to all nodes: far more nodes than anybody runs, far fewer than would hurt.
const REPLIES_MAX: usize = 10_000;

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// An ordinary request, and the first answer to a question to all nodes.
    pub request: Duration,
    /// After an answer of one node, how long to wait for one of another.
    pub stall: Duration,
    /// First bid of an auction.
    pub auction: Duration,
    /// A deploy: the node fetches the program meanwhile.
    pub deploy: Duration,
    /// A stop: the program has its grace period meanwhile.
    pub stop: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::of_request(Duration::from_secs(2))
    }
}

impl Timeouts {
    /// All of them from the one an operator names. Deploys and stops take what they take: the Nex command line gives
    /// them 2 s and reports slow downloads as failures.
    pub fn of_request(request: Duration) -> Self {
        Self {
            request,
            stall: Duration::from_millis(250).min(request),
            auction: Duration::from_millis(750).min(request),
            deploy: request.max(Duration::from_secs(60)),
            stop: request.max(Duration::from_secs(60)),
        }
    }
}

/// What a client is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Subjects of the nodes it talks to.
    pub subjects: Subjects,
    /// Tenant it acts for.
    pub namespace: Namespace,
    /// How long its calls may take.
    pub timeouts: Timeouts,
    /// JetStream domain of the object stores.
    pub jsdomain: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            subjects: Subjects::default(),
            namespace: Namespace::default_namespace(),
            timeouts: Timeouts::default(),
            jsdomain: None,
        }
    }
}

/// Talks to nodes over one NATS connection.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    options: Options,
}

impl Client {
    /// A client over a connection.
    pub fn new(nats: async_nats::Client, options: Options) -> Self {
        Self { nats, options }
    }

    /// Its connection.
    pub fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// What it is about.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Asks all nodes who they are.
    pub async fn ping(&self) -> Result<Vec<PingResponse>> {
        let subject = self.options.subjects.ping();
        let messages = self.gather("ping nodes", subject, Bytes::new(), self.options.timeouts.request).await?;
        Ok(decoded(&messages))
    }

    /// Asks all nodes which could run something. Silence means no.
    pub async fn auction(&self, request: &AuctionRequest) -> Result<Vec<PingResponse>> {
        let payload = encode("ask nodes for bids", request)?;
        let subject = self.options.subjects.auction();
        let messages = self.gather("ask nodes for bids", subject, payload, self.options.timeouts.auction).await?;
        Ok(decoded(&messages))
    }

    /// Asks all nodes for workloads of the namespace, or for those with an id or name. Nodes without one stay silent.
    pub async fn wping(&self, wanted: Option<&WorkloadName>) -> Result<Vec<WorkloadPingResponse>> {
        let namespace = &self.options.namespace;
        let subject = match wanted {
            Some(wanted) => self.options.subjects.wping_workload(namespace, wanted),
            None => self.options.subjects.wping(namespace),
        };
        let messages = self.gather("search workloads", subject, Bytes::new(), self.options.timeouts.request).await?;
        Ok(decoded(&messages))
    }

    /// One request, one answer in an envelope.
    async fn request<T: DeserializeOwned>(
        &self,
        doing: &str,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<T> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(timeout));
        let message =
            self.nats.send_request(subject, request).await.map_err(|e| Error::from_request(doing, e, timeout))?;
        envelope::decode(&message.payload).map_err(|e| Error::refused(doing, e))
    }

    /// One question, any number of answers: until none came for `first`, or for the stall time after an answer.
    async fn gather(&self, doing: &str, subject: String, payload: Bytes, first: Duration) -> Result<Vec<Message>> {
        let inbox = self.nats.new_inbox();
        let mut answers =
            self.nats.subscribe(inbox.clone()).await.map_err(|e| Error::new(ErrorKind::Unavailable, doing, e))?;
        self.nats
            .publish_with_reply(subject, inbox, payload)
            .await
            .map_err(|e| Error::new(ErrorKind::Unavailable, doing, e))?;

        let mut messages = Vec::new();
        let mut until = Instant::now() + first;
        while messages.len() < REPLIES_MAX {
            match timeout_at(until, answers.next()).await {
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => break,
                Ok(Some(message)) => {
                    messages.push(message);
                    until = Instant::now() + self.options.timeouts.stall;
                }
                Ok(None) | Err(_) => break,
            }
        }
        // Answers that come later belong to nobody; the subscription ends with its drop.
        Ok(messages)
    }
}

/// The answers that can be read. One node that speaks strangely must not hide the others.
fn decoded<T: DeserializeOwned>(messages: &[Message]) -> Vec<T> {
    messages
        .iter()
        .filter_map(|message| match envelope::decode(&message.payload) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::debug!(subject = %message.subject, %error, "an answer cannot be read");
                None
            }
        })
        .collect()
}

fn encode(doing: &str, value: &impl serde::Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| Error::new(ErrorKind::Internal, doing, e))
}

/// The one clock of the client.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Bytes nobody can guess.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|e| Error::new(ErrorKind::Internal, "get randomness from the kernel", e))?;
    Ok(bytes)
}

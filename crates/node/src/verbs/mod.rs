//! The `$NEX` verbs.
//!
//! Each verb is parsed, decided on and only then acted on; the decisions are pure functions in the modules below, tested
//! without NATS. Silence is part of the protocol: an auction that does not match, a search that finds nothing.

mod answer;
mod auction;
pub mod autostart;
pub(crate) mod deploy;
pub(crate) mod host;
pub mod pattern;
mod stop;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use moat_api::nex::{AuctionRequest, LameDuckResponse, ReplyType, envelope, tags};
use moat_api::{Subjects, WireError};
use moat_model::time::format_uptime;
use moat_model::{Isolation, Namespace, NodeId, Timestamp};

use crate::artifact::ArtifactStore;
use crate::clock;
use crate::config::NodeConfig;
use crate::error::Error;
use crate::events::{Fact, Outbox};
use crate::identity::Identity;
use crate::nats::{Connection, Handler, Verb};
use crate::networks::Networks;
use crate::outlet::NodeOutlet;
use crate::workloads::Workloads;

/// Version told to clients: ours. Go's clients print it and compare nothing.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything the verbs need.
#[derive(Debug)]
pub struct Service {
    /// What the operator set.
    pub config: NodeConfig,
    /// Who answers.
    pub identity: Identity,
    /// Subjects below the prefix.
    pub subjects: Subjects,
    /// The connection artifacts are fetched over.
    pub connection: Connection,
    /// Programs.
    pub artifacts: ArtifactStore,
    /// What runs.
    pub workloads: Workloads,
    /// Where its output goes.
    pub outlet: NodeOutlet,
    /// Where facts go.
    pub outbox: Outbox,
    /// What connects sandboxes.
    pub networks: Arc<Networks>,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// Takes nothing new.
    pub lameduck: Arc<AtomicBool>,
}

impl Service {
    /// The node's id.
    pub fn node(&self) -> &NodeId {
        self.identity.id()
    }

    /// Written tags and automatic ones.
    pub fn tags(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            (tags::OS.to_owned(), host::OS.to_owned()),
            (tags::ARCH.to_owned(), host::arch().to_owned()),
            (tags::CPU_COUNT.to_owned(), host::cpu_count().to_string()),
            ("nexus".to_owned(), self.config.nexus.clone()),
        ]);
        all.extend(self.config.tags.clone());
        let name = self.config.name.clone();
        all.entry(tags::NODE_NAME.to_owned()).or_insert_with(|| name.unwrap_or_else(|| self.identity.nickname()));
        if self.config.unsafe_allowed() {
            all.insert(tags::UNSAFE.to_owned(), "true".to_owned());
        }
        if let Ok(offer) = self.workloads.engine().offer(Isolation::Microvm) {
            all.insert(tags::MICROVM.to_owned(), offer.accelerator.unwrap_or("true").to_owned());
        }
        if self.in_lameduck() {
            all.insert(tags::LAMEDUCK.to_owned(), "true".to_owned());
        }
        all
    }

    /// Whether it takes nothing new.
    pub fn in_lameduck(&self) -> bool {
        self.lameduck.load(Ordering::Acquire)
    }

    /// As Nex writes it.
    pub fn uptime(&self) -> String {
        format_uptime(clock::now().since(self.started_at))
    }

    fn auction(&self, payload: &[u8]) -> Option<Vec<u8>> {
        // What cannot be parsed asks for nothing in particular, as in Nex.
        let request: AuctionRequest = serde_json::from_slice(payload).unwrap_or_default();
        let offer = auction::Offer {
            tags: &self.tags(),
            workload_types: &self.config.workload_types,
            sandboxed: self.config.sandboxed(),
        };
        auction::matches(&request, &offer).then(|| envelope::encode(ReplyType::Auction, &self.ping()))
    }

    async fn lameduck(&self) -> Vec<u8> {
        if !self.lameduck.swap(true, Ordering::AcqRel) {
            self.workloads.clear_essential();
            tracing::info!("lame duck: nothing new is taken, what runs goes on and is not restarted");
            let fact = Fact::node_entered_lameduck(self.node(), VERSION, clock::now());
            if let Err(error) = self.outbox.emit(fact).await {
                tracing::warn!(error = %error.chain(), "lame duck is not told");
            }
        }
        envelope::encode(ReplyType::LameDuck, &LameDuckResponse { node_id: self.node().clone(), success: true })
    }

    /// The namespace a request is for; Nex never checks it, but everything built from it must be one token.
    fn namespace(&self, subject: &str) -> Result<Namespace, WireError> {
        self.subjects.namespace_of(subject).ok_or_else(|| {
            WireError::invalid(format!("subject {subject:?} names no valid namespace: letters, digits, '_' and '-'"))
        })
    }
}

impl Handler for Service {
    async fn handle(self: Arc<Self>, verb: Verb, subject: String, payload: Bytes) -> Option<Vec<u8>> {
        match verb {
            Verb::Auction => self.auction(&payload),
            Verb::Ping => Some(envelope::encode(ReplyType::Ping, &self.ping())),
            Verb::Wping => {
                let search = self.subjects.parse_wping(&subject)?;
                self.search(&search).map(|found| envelope::encode(ReplyType::Ping, &found))
            }
            Verb::Info => Some(match self.namespace(&subject) {
                Ok(namespace) => envelope::encode(ReplyType::Info, &self.info(&namespace)),
                Err(error) => envelope::encode_error(ReplyType::Info, &error),
            }),
            Verb::Deploy => Some(match self.deploy(&subject, &payload).await {
                Ok(run) => {
                    metrics::counter!("moat_deploys_total", "outcome" => "started").increment(1);
                    envelope::encode(ReplyType::Run, &run)
                }
                Err(error) => {
                    metrics::counter!("moat_deploys_total", "outcome" => error.kind.code()).increment(1);
                    tracing::warn!(%subject, kind = error.kind.code(), error = %error.message, "deploy refused");
                    envelope::encode_error(ReplyType::Run, &error)
                }
            }),
            Verb::Stop => Some(match self.stop(&subject, &payload).await {
                Ok(stopped) => envelope::encode(ReplyType::Stop, &stopped),
                Err(error) => {
                    tracing::warn!(%subject, kind = error.kind.code(), error = %error.message, "stop refused");
                    envelope::encode_error(ReplyType::Stop, &error)
                }
            }),
            Verb::LameDuck => Some(self.lameduck().await),
        }
    }
}

/// A failure of ours as it crosses the wire, cause included: the caller has to act on it.
fn wire(error: &Error) -> WireError {
    WireError::new(error.kind, error.chain())
}

//! Allocations wherever they run: any node is asked, the one that has the allocation answers.
//!
//! What is on this node goes straight to [`Allocations`]; what is elsewhere goes over NATS to its node ([`serve`] is the
//! other end). Both ways take the same request and give the same answer, so nothing above knows the difference.

mod carry;
mod local;
mod serve;

use std::time::Duration;

use moat_api::Subjects;
use moat_api::allocation::AllocationVerb;
use moat_api::client::{Client, Options, Timeouts};
use moat_api::stream::StreamId;
use moat_engine::Engine;
use moat_engine::guest::ExecSession;
use moat_model::{AllocId, ErrorKind, Namespace, NodeId};
use serde::de::DeserializeOwned;

use crate::allocations::Allocations;
use crate::error::{Error, Result};

pub use serve::serve;

/// How long another node may take for an answer: it waits for an agent or a disk.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Which allocation, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Tenant.
    pub namespace: Namespace,
    /// The node that has it.
    pub node: NodeId,
    /// Which.
    pub allocation: AllocId,
}

/// Reaches allocations. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Reach {
    node: NodeId,
    allocations: Allocations,
    engine: Engine,
    nats: async_nats::Client,
    subjects: Subjects,
}

impl Reach {
    /// From this node, which has these.
    pub fn new(
        node: NodeId,
        allocations: Allocations,
        engine: Engine,
        nats: async_nats::Client,
        subjects: Subjects,
    ) -> Self {
        Self { node, allocations, engine, nats, subjects }
    }

    /// One question, one answer.
    pub async fn ask<T: DeserializeOwned>(&self, place: &Place, verb: AllocationVerb) -> Result<T> {
        if place.node == self.node {
            let value = self.answer(&place.namespace, &place.allocation, verb).await?;
            return serde_json::from_value(value)
                .map_err(|error| Error::caused_by(ErrorKind::Internal, "read an own answer", error));
        }
        self.client(place).ask_about_allocation(&place.node, &place.allocation, verb).await.map_err(elsewhere)
    }

    /// A verb that answers with a stream. Dropping the session hangs up.
    pub async fn stream(
        &self,
        place: &Place,
        verb: impl FnOnce(StreamId) -> AllocationVerb + Send,
    ) -> Result<ExecSession> {
        if place.node == self.node {
            // Nobody listens to a stream that stays in this process.
            let verb = verb(StreamId::from_random([0; 16]));
            return self.begin(&place.namespace, &place.allocation, verb).await;
        }
        let session = self.client(place).stream_of_allocation(&place.node, &place.allocation, verb).await;
        Ok(carry::from_elsewhere(session.map_err(elsewhere)?))
    }

    fn client(&self, place: &Place) -> Client {
        let options = Options {
            subjects: self.subjects.clone(),
            namespace: place.namespace.clone(),
            timeouts: Timeouts::of_request(ANSWER_MAX),
            jsdomain: None,
        };
        Client::new(self.nats.clone(), options)
    }
}

fn elsewhere(error: moat_api::client::Error) -> Error {
    Error::new(error.kind, error.chain())
}

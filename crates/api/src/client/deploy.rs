//! Starting a workload: find a node, seal, sign, deploy.

use std::collections::BTreeMap;

use bytes::Bytes;
use moat_model::claims::{self, ClaimsSpec};
use moat_model::{ErrorKind, GivenIsolation, NodeId, WorkloadName, seal};
use nkeys::{KeyPair, XKey};

use super::{Client, Error, Result, encode, now, random};
use crate::nex::{AuctionRequest, DeployRequest, Extension, InfoResponse, Location, PingResponse, RunResponse};
use crate::sandbox::InspectRequest;

/// What to start.
#[derive(Debug, Clone)]
pub struct Deploy {
    /// Its name, and the subject of its claims.
    pub name: WorkloadName,
    /// The program.
    pub location: Location,
    /// `native`, ...
    pub workload_type: String,
    /// Program arguments.
    pub argv: Vec<String>,
    /// Its whole environment; only the node can read it.
    pub environment: BTreeMap<String, String>,
    /// For people.
    pub description: String,
    /// Started again when it fails.
    pub essential: bool,
    /// Hex SHA-256 the node must find the program to have.
    pub sha256: Option<String>,
    /// What Nex cannot ask for. A Go node ignores it, so it is only sent where it says something.
    pub extension: Option<Extension>,
}

/// What runs now, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// On this node.
    pub node: NodeId,
    /// Under this id.
    pub id: String,
    /// Under this name.
    pub name: String,
    /// Isolation it was given; absent if the node does not say.
    pub isolation: Option<GivenIsolation>,
}

/// Where to start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// On this node.
    Node(NodeId),
    /// On the one of the bidders that runs the fewest workloads.
    Auction(AuctionRequest),
}

impl Client {
    /// A node that would take it.
    pub async fn place(&self, placement: &Placement) -> Result<NodeId> {
        let request = match placement {
            Placement::Node(node) => return Ok(node.clone()),
            Placement::Auction(request) => request,
        };
        let bids = self.auction(request).await?;
        let none = || {
            Error::new(
                ErrorKind::Exhausted,
                "choose a node",
                "no node bid: none is up, or none fits (see `moat node ls --full`)",
            )
        };
        choose(bids).map(|bid| bid.node_id).ok_or_else(none)
    }

    /// What a node says of itself and of its workloads in our namespace.
    pub async fn info(&self, node: &NodeId) -> Result<InfoResponse> {
        let subject = self.options.subjects.info(&self.options.namespace, node);
        self.request(&format!("ask node {node} about itself"), subject, Bytes::new(), self.options.timeouts.request)
            .await
    }

    /// Starts a workload: signed by `issuer`, its environment sealed by `sender` to the node.
    pub async fn deploy(&self, node: &NodeId, deploy: &Deploy, issuer: &KeyPair, sender: &XKey) -> Result<Deployed> {
        let doing = format!("deploy {} to node {node}", deploy.name);
        let invalid = |e: Box<dyn std::error::Error + Send + Sync>| Error::new(ErrorKind::InvalidSpec, &doing, e);

        if deploy.extension.is_some() {
            self.understands_extension(&doing, node, deploy).await?;
        }
        let info = self.info(node).await?;
        let environment =
            seal::seal(&deploy.environment, sender, &info.public_xkey, random()?).map_err(|e| invalid(e.into()))?;
        let workload_jwt = claims::sign(issuer, &start_claims(deploy)?).map_err(|e| invalid(e.into()))?;
        let request = DeployRequest {
            argv: deploy.argv.clone(),
            description: deploy.description.clone(),
            workload_type: deploy.workload_type.clone(),
            location: deploy.location.clone(),
            essential: deploy.essential,
            workload_jwt,
            environment,
            jsdomain: self.options.jsdomain.clone(),
            sender_public_key: sender.public_key(),
            target_node: node.to_string(),
            trigger_subjects: Vec::new(),
            trigger_connection: None,
            retry_count: None,
            retried_at: None,
            host_services: None,
            moat: deploy.extension.clone(),
        };
        let subject = self.options.subjects.deploy(&self.options.namespace, node);
        let reply: RunResponse =
            self.request(&doing, subject, encode(&doing, &request)?, self.options.timeouts.deploy).await?;
        if !reply.started {
            return Err(Error::new(ErrorKind::Guest, doing, "the node says that it did not start"));
        }
        Ok(Deployed { node: node.clone(), id: reply.id, name: reply.name, isolation: reply.isolation })
    }
}

impl Client {
    /// A node of Nex would ignore the extension in silence, and a limit with it: refuse instead.
    async fn understands_extension(&self, doing: &str, node: &NodeId, deploy: &Deploy) -> Result<()> {
        let question = InspectRequest { name: Some(deploy.name.clone()), ..InspectRequest::default() };
        match self.inspect(node, &question).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::Unavailable => Err(Error::new(
                ErrorKind::Unsupported,
                doing,
                "it is not a moat node: it would ignore kind, isolation, template, limits, user and stop options",
            )),
            Err(error) => Err(error),
        }
    }
}

/// Claims of a start are dated back by a second: a stop is refused in the second of its start, and a script must be able
/// to stop at once what it started.
fn start_claims(deploy: &Deploy) -> Result<ClaimsSpec> {
    let mut spec = ClaimsSpec::new(deploy.name.clone(), now());
    spec.issued_at = spec.issued_at.saturating_sub(1);
    spec.hash = deploy.sha256.clone();
    spec.nonce = Some(super::operate::nonce()?);
    Ok(spec)
}

/// The bidder with the fewest workloads; among equals, the first by id, so that two callers agree.
fn choose(bids: Vec<PingResponse>) -> Option<PingResponse> {
    bids.into_iter()
        .filter(|bid| !bid.lameduck())
        .min_by(|a, b| (a.running_machines, &a.node_id).cmp(&(b.running_machines, &b.node_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bid(letter: char, running_machines: u64, lameduck: bool) -> PingResponse {
        PingResponse {
            node_id: NodeId::parse(&format!("N{}", letter.to_string().repeat(55))).unwrap(),
            nexus: None,
            version: String::new(),
            uptime: String::new(),
            target_xkey: String::new(),
            tags: if lameduck {
                BTreeMap::from([("nex.lameduck".to_owned(), "true".to_owned())])
            } else {
                BTreeMap::new()
            },
            running_machines,
        }
    }

    #[test]
    fn the_least_busy_node_that_takes_work_is_chosen() {
        let chosen = choose(vec![bid('C', 2, false), bid('B', 1, false), bid('A', 1, false), bid('D', 0, true)]);
        assert_eq!(chosen.unwrap().node_id.as_str().chars().nth(1), Some('A'));
        assert_eq!(choose(vec![bid('D', 0, true)]), None);
    }
}

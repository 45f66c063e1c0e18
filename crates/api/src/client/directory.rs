//! Which workloads there are, on all nodes, and which of them somebody means.

use std::collections::BTreeMap;

use futures::StreamExt;
use moat_model::{ErrorKind, NodeId, WorkloadName};
use serde::Serialize;

use super::{Client, Error, Result};
use crate::nex::{PingResponse, WorkloadPingResponse};
use crate::sandbox::{InspectRequest, WorkloadView};

/// Nodes asked at the same time.
const NODES_AT_ONCE: usize = 32;

/// A workload found on a node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Tenant.
    pub namespace: String,
    /// `native`, ...
    #[serde(rename = "type")]
    pub workload_type: String,
    /// Node that runs it.
    pub node: NodeId,
    /// That node's name.
    pub node_name: String,
    /// All that is known of it; absent from nodes that are not moat's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<WorkloadView>,
}

impl Listed {
    /// It will not run again.
    pub fn ended(&self) -> bool {
        self.view.as_ref().is_some_and(WorkloadView::ended)
    }
}

/// What all nodes together run.
#[derive(Debug, Default)]
pub struct Directory {
    /// The workloads, by name, then id.
    pub workloads: Vec<Listed>,
    /// Nodes that are there and did not answer, and why.
    pub unanswered: Vec<(NodeId, Error)>,
}

impl Client {
    /// Asks every node for its workloads of the namespace.
    pub async fn list(&self, request: &InspectRequest) -> Result<Directory> {
        let nodes = self.ping().await?;
        let mut answers = futures::stream::iter(nodes)
            .map(|node| async move {
                let answer = self.inspect(&node.node_id, request).await;
                (node, answer)
            })
            .buffer_unordered(NODES_AT_ONCE);

        let mut directory = Directory::default();
        let mut foreign = Vec::new();
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(answer) => {
                    directory.workloads.extend(answer.workloads.into_iter().map(|view| listed_view(&node, view)));
                }
                // Nobody listens to our verbs there: a node of Nex itself, which answers searches.
                Err(error) if error.kind == ErrorKind::Unavailable => foreign.push(node),
                Err(error) => directory.unanswered.push((node.node_id, error)),
            }
        }
        drop(answers);
        if !foreign.is_empty() {
            let names: BTreeMap<_, _> =
                foreign.iter().map(|node| (node.node_id.clone(), node.name().to_owned())).collect();
            let found = self.wping(request.name.as_ref()).await?;
            directory.workloads.extend(found.into_iter().flat_map(|answer| listed_briefs(&names, answer)));
        }
        directory.workloads.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(directory)
    }

    /// The one workload somebody means by an id, the beginning of one, or a name.
    pub async fn find(&self, text: &str) -> Result<Listed> {
        let directory = self.list(&InspectRequest { ended: true, ..InspectRequest::default() }).await?;
        resolve(text, directory)
    }
}

fn listed_view(node: &PingResponse, view: WorkloadView) -> Listed {
    Listed {
        id: view.id.to_string(),
        name: view.name.to_string(),
        namespace: view.namespace.to_string(),
        workload_type: view.workload_type.clone(),
        node: node.node_id.clone(),
        node_name: node.name().to_owned(),
        view: Some(view),
    }
}

fn listed_briefs(names: &BTreeMap<NodeId, String>, answer: WorkloadPingResponse) -> Vec<Listed> {
    let Some(node_name) = names.get(&answer.node_id) else { return Vec::new() };
    let listed = |brief: crate::nex::WorkloadBrief| Listed {
        id: brief.id,
        name: brief.name,
        namespace: brief.namespace.to_string(),
        workload_type: brief.workload_type,
        node: answer.node_id.clone(),
        node_name: node_name.clone(),
        view: None,
    };
    answer.running_machines.into_iter().map(listed).collect()
}

/// An exact id wins over the beginning of one and over a name; what runs wins over what has ended; of what has ended, the
/// last of a name wins.
fn resolve(text: &str, directory: Directory) -> Result<Listed> {
    let doing = format!("find workload {text:?}");
    if WorkloadName::parse(text).is_err() {
        return Err(Error::new(ErrorKind::InvalidSpec, doing, "give an id, the beginning of one, or a name"));
    }
    let unanswered = directory.unanswered.len();
    let (mut live, mut ended) = (Vec::new(), Vec::new());
    for workload in directory.workloads {
        if workload.id == text {
            return Ok(workload);
        }
        if workload.name == text || workload.id.starts_with(text) {
            if workload.ended() { ended.push(workload) } else { live.push(workload) }
        }
    }
    if live.is_empty() {
        let same_name = ended.iter().all(|w| ended.first().is_some_and(|first| first.name == w.name));
        if same_name {
            ended.sort_by_key(|w| w.view.as_ref().map(|v| v.created_at));
            live.extend(ended.pop());
        } else {
            live = ended;
        }
    }
    let candidates: Vec<_> = live.iter().map(|w| format!("{} ({}, node {})", w.id, w.name, w.node_name)).collect();
    match (live.pop(), candidates.len()) {
        (Some(found), 1) => Ok(found),
        (None, _) if unanswered > 0 => {
            Err(Error::new(ErrorKind::Unavailable, doing, format!("not found, but {unanswered} nodes did not answer")))
        }
        (None, _) => {
            Err(Error::new(ErrorKind::NotFound, doing, "no such workload in this namespace (see `moat ps --all`)"))
        }
        (Some(_), _) => {
            Err(Error::new(ErrorKind::InvalidSpec, doing, format!("it could be any of: {}", candidates.join("; "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: &str) -> Listed {
        Listed {
            id: id.to_owned(),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            workload_type: "native".to_owned(),
            node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
            node_name: "n1".to_owned(),
            view: None,
        }
    }

    fn find(text: &str) -> Result<Listed> {
        let workloads = vec![listed("aaa1", "web"), listed("aaa2", "db"), listed("bbb1", "db"), listed("web0", "aaa1")];
        resolve(text, Directory { workloads, unanswered: Vec::new() })
    }

    #[test]
    fn a_workload_is_named_by_id_prefix_or_name() {
        assert_eq!(find("bbb").unwrap().id, "bbb1");
        assert_eq!(find("aaa1").unwrap().name, "web", "an exact id wins over a name");
        assert_eq!(find("nope").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(find("a.b").unwrap_err().kind, ErrorKind::InvalidSpec);
        let ambiguous = find("db").unwrap_err();
        assert_eq!(ambiguous.kind, ErrorKind::InvalidSpec);
        assert!(ambiguous.chain().contains("aaa2 (db, node n1); bbb1 (db, node n1)"), "{}", ambiguous.chain());
    }

    #[test]
    fn silence_is_not_absence() {
        let node = listed("a", "b").node;
        let silent = Error::new(ErrorKind::Deadline, "list", "no answer");
        let directory = Directory { workloads: Vec::new(), unanswered: vec![(node, silent)] };
        assert_eq!(resolve("web", directory).unwrap_err().kind, ErrorKind::Unavailable);
    }
}

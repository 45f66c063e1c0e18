//! What can be told, and how each fact is named so that it is told once.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_api::Subjects;
use moat_api::nex::event::{
    CloudEvent, EventType, Heartbeat, NodeEnteredLameduck, NodeStarted, NodeStopped, WorkloadDeployed,
    WorkloadUndeployed,
};
use moat_model::lifecycle::SandboxView;
use moat_model::time::format_uptime;
use moat_model::{Cause, Exit, Namespace, NodeId, Timestamp, WorkloadId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::logfile::WorkloadRef;

/// Name space of our event ids.
const EVENT_IDS: Uuid = Uuid::from_u128(0x6d6f_6174_2d65_5645_8e74_2d69_6473_0001);

/// What is known about one start of a workload beyond its sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 the first time; 0: not counted.
    pub number: u32,
    /// Size of its program.
    pub artifact_bytes: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The same for the same fact, different for any other.
    key: String,
    node: NodeId,
    at: Timestamp,
    about: About,
}

#[derive(Debug, Clone, PartialEq)]
enum About {
    NodeStarted(NodeStarted),
    NodeStopped(NodeStopped),
    NodeEnteredLameduck(NodeEnteredLameduck),
    Heartbeat(Heartbeat),
    Deployed { namespace: Namespace, workload: WorkloadId, data: WorkloadDeployed },
    Undeployed { namespace: Namespace, workload: WorkloadId, data: WorkloadUndeployed },
}

impl Fact {
    /// The daemon is up. `at` is when it started, and tells one start from another.
    pub fn node_started(node: &NodeId, version: &str, tags: BTreeMap<String, String>, at: Timestamp) -> Self {
        let data = NodeStarted { version: version.to_owned(), id: node.clone(), tags };
        Self::of_node("started", node, at, About::NodeStarted(data))
    }

    /// The daemon ends in order.
    pub fn node_stopped(node: &NodeId, at: Timestamp) -> Self {
        Self::of_node("stopped", node, at, About::NodeStopped(NodeStopped { id: node.clone(), graceful: true }))
    }

    /// The node takes no new workloads.
    pub fn node_entered_lameduck(node: &NodeId, version: &str, at: Timestamp) -> Self {
        let data = NodeEnteredLameduck { version: version.to_owned(), id: node.clone() };
        Self::of_node("lameduck", node, at, About::NodeEnteredLameduck(data))
    }

    /// The node lives.
    pub fn heartbeat(
        node: &NodeId,
        version: &str,
        nexus: Option<String>,
        (started, now): (Timestamp, Timestamp),
        tags: BTreeMap<String, String>,
        running: u64,
    ) -> Self {
        let uptime = format_uptime(Duration::from_millis(u64::try_from(now.since(started).as_millis()).unwrap_or(0)));
        let version = version.to_owned();
        let data = Heartbeat { version, node_id: node.clone(), nexus, uptime, tags, running_machines: running };
        Self::of_node("heartbeat", node, now, About::Heartbeat(data))
    }

    fn of_node(what: &str, node: &NodeId, at: Timestamp, about: About) -> Self {
        Self { key: format!("{node}/{what}/{}", at.as_millis()), node: node.clone(), at, about }
    }

    /// A workload's program runs.
    pub fn workload_deployed(workload: &WorkloadRef, attempt: Attempt, view: &SandboxView) -> Self {
        let data = WorkloadDeployed {
            workload_name: workload.name.to_string(),
            total_bytes: attempt.artifact_bytes,
            code: 0,
            message: None,
            attempt: (attempt.number > 0).then_some(attempt.number),
            isolation: Some(view.into()),
        };
        let about = About::Deployed { namespace: workload.namespace.clone(), workload: workload.id.clone(), data };
        let at = view.started_at.unwrap_or(view.created_at);
        Self { key: format!("{}/deployed", view.id), node: workload.node.clone(), at, about }
    }

    /// A workload's program ended, or never ran.
    pub fn workload_undeployed(workload: &WorkloadRef, attempt: Attempt, restarting: bool, view: &SandboxView) -> Self {
        let exit = view.exit.unwrap_or(Exit::unknown());
        let data = WorkloadUndeployed {
            workload_name: workload.name.to_string(),
            code: if view.started_at.is_some() { exit.code } else { -1 },
            message: view.cause.as_ref().map(Cause::message).unwrap_or_default(),
            attempt: (attempt.number > 0).then_some(attempt.number),
            exit: view.exit,
            cause: view.cause.clone(),
            restarting,
        };
        let about = About::Undeployed { namespace: workload.namespace.clone(), workload: workload.id.clone(), data };
        let at = view.ended_at.unwrap_or(view.created_at);
        Self { key: format!("{}/undeployed", view.id), node: workload.node.clone(), at, about }
    }

    /// Whether it is kept until it is confirmed.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self.about, About::Heartbeat(_))
    }

    pub(super) fn subject(&self, subjects: &Subjects) -> String {
        let event_type = self.event_type().as_str();
        match &self.about {
            About::Deployed { namespace, .. } | About::Undeployed { namespace, .. } => {
                subjects.event(namespace, event_type)
            }
            _ => subjects.node_event(event_type),
        }
    }

    fn event_type(&self) -> EventType {
        match &self.about {
            About::NodeStarted(_) => EventType::NodeStarted,
            About::NodeStopped(_) => EventType::NodeStopped,
            About::NodeEnteredLameduck(_) => EventType::NodeEnteredLameduck,
            About::Heartbeat(_) => EventType::Heartbeat,
            About::Deployed { .. } => EventType::WorkloadDeployed,
            About::Undeployed { .. } => EventType::WorkloadUndeployed,
        }
    }

    /// The fact as it is told.
    pub(super) fn event(&self) -> serde_json::Result<CloudEvent> {
        let id = Uuid::new_v5(&EVENT_IDS, self.key.as_bytes()).to_string();
        let (kind, node, at) = (self.event_type(), &self.node, self.at);
        match &self.about {
            About::NodeStarted(data) => CloudEvent::of_node(kind, id, node, at, data),
            About::NodeStopped(data) => CloudEvent::of_node(kind, id, node, at, data),
            About::NodeEnteredLameduck(data) => CloudEvent::of_node(kind, id, node, at, data),
            About::Heartbeat(data) => CloudEvent::of_node(kind, id, node, at, data),
            About::Deployed { namespace, workload, data } => {
                CloudEvent::of_workload(kind, id, node, (namespace, workload), at, data)
            }
            About::Undeployed { namespace, workload, data } => {
                CloudEvent::of_workload(kind, id, node, (namespace, workload), at, data)
            }
        }
    }
}

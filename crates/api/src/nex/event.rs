//! Facts, told as CloudEvents 1.0 in structured JSON.

use std::collections::BTreeMap;

use moat_model::{Cause, Exit, GivenIsolation, Namespace, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::quirks;

/// The types of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A node is up.
    NodeStarted,
    /// A node ended in order.
    NodeStopped,
    /// A node takes no new workloads.
    NodeEnteredLameduck,
    /// A node lives: every 30 s.
    Heartbeat,
    /// A workload runs.
    WorkloadDeployed,
    /// A workload has ended for good.
    WorkloadUndeployed,
}

impl EventType {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::NodeStarted,
        Self::NodeStopped,
        Self::NodeEnteredLameduck,
        Self::Heartbeat,
        Self::WorkloadDeployed,
        Self::WorkloadUndeployed,
    ];

    /// As it is written in subjects and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeStarted => "node_started",
            Self::NodeStopped => "node_stopped",
            Self::NodeEnteredLameduck => "node_entered_lameduck",
            Self::Heartbeat => "heartbeat",
            Self::WorkloadDeployed => "workload_deployed",
            Self::WorkloadUndeployed => "workload_undeployed",
        }
    }
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// UUID; the same fact has the same one.
    pub id: String,
    /// The node, or `<node>-<workload id>`.
    pub source: String,
    /// See [`EventType`].
    #[serde(rename = "type")]
    pub event_type: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// Tenant, in events about workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Depends on the type.
    #[serde(default)]
    pub data: serde_json::Value,
    /// Extension attributes of others.
    #[serde(flatten)]
    pub extensions: BTreeMap<String, serde_json::Value>,
}

impl CloudEvent {
    /// A node's own fact.
    pub fn of_node(
        event_type: EventType,
        id: String,
        node: &NodeId,
        at: Timestamp,
        data: &impl Serialize,
    ) -> serde_json::Result<Self> {
        Self::build(event_type, id, node.to_string(), None, at, data)
    }

    /// A fact about a workload.
    pub fn of_workload(
        event_type: EventType,
        id: String,
        node: &NodeId,
        (namespace, workload): (&Namespace, &moat_model::WorkloadId),
        at: Timestamp,
        data: &impl Serialize,
    ) -> serde_json::Result<Self> {
        Self::build(event_type, id, format!("{node}-{workload}"), Some(namespace.to_string()), at, data)
    }

    fn build(
        event_type: EventType,
        id: String,
        source: String,
        namespace: Option<String>,
        at: Timestamp,
        data: &impl Serialize,
    ) -> serde_json::Result<Self> {
        Ok(Self {
            specversion: "1.0".to_owned(),
            id,
            source,
            event_type: event_type.as_str().to_owned(),
            time: Some(rfc3339(at)),
            datacontenttype: Some("application/json".to_owned()),
            namespace,
            data: serde_json::to_value(data)?,
            extensions: BTreeMap::new(),
        })
    }
}

/// A moment as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(at: Timestamp) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_millis()) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// Data of [`EventType::NodeStarted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStarted {
    /// Its version.
    pub version: String,
    /// Which node.
    pub id: NodeId,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
}

/// Data of [`EventType::NodeStopped`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStopped {
    /// Which node.
    pub id: NodeId,
    /// In order: always true, a node that dies tells nothing.
    pub graceful: bool,
}

/// Data of [`EventType::NodeEnteredLameduck`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEnteredLameduck {
    /// Its version.
    pub version: String,
    /// Which node.
    pub id: NodeId,
}

/// Data of [`EventType::Heartbeat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its version.
    pub version: String,
    /// Which node.
    pub node_id: NodeId,
    /// Group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexus: Option<String>,
    /// `3m9s`.
    pub uptime: String,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// Workloads it runs.
    pub running_machines: u64,
}

/// Data of [`EventType::WorkloadDeployed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadDeployed {
    /// Its name.
    pub workload_name: String,
    /// Size of its artifact.
    #[serde(default)]
    pub total_bytes: u64,
    /// Always 0.
    #[serde(default)]
    pub code: i32,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Which start of it this is: 1 the first time. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Isolation it was given. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<GivenIsolation>,
}

/// Data of [`EventType::WorkloadUndeployed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadUndeployed {
    /// Its name.
    pub workload_name: String,
    /// Exit status; -1: it never started, or was lost.
    pub code: i32,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Which start of it ended. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How its process ended. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Why it ended. Our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// It will be started again: this was not its end. Our addition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// specs C.2.
    const DEPLOYED: &str = r#"{"specversion":"1.0","id":"6a1f2c1e-6c0f-4a55-9d0b-2f3b7c1f9f10","source":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA-cq1v8k3q7d2c73f0a9g0","type":"workload_deployed","time":"2024-07-03T09:46:40Z","datacontenttype":"application/json","namespace":"default","data":{"workload_name":"billing_api","total_bytes":5242880}}"#;

    #[test]
    fn the_documented_event_survives() {
        let event: CloudEvent = serde_json::from_str(DEPLOYED).unwrap();
        let wanted: serde_json::Value = serde_json::from_str(DEPLOYED).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), wanted);
        let data: WorkloadDeployed = serde_json::from_value(event.data).unwrap();
        assert_eq!((data.total_bytes, data.code), (5_242_880, 0));
    }

    #[test]
    fn ours_has_the_same_shape() {
        let node = NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap();
        let workload = moat_model::WorkloadId::parse("cq1v8k3q7d2c73f0a9g0").unwrap();
        let event = CloudEvent::of_workload(
            EventType::WorkloadDeployed,
            "6a1f2c1e-6c0f-4a55-9d0b-2f3b7c1f9f10".to_owned(),
            &node,
            (&Namespace::default_namespace(), &workload),
            Timestamp::from_millis(1_720_000_000_000),
            &serde_json::json!({"workload_name": "billing_api", "total_bytes": 5_242_880}),
        )
        .unwrap();
        let wanted: serde_json::Value = serde_json::from_str(DEPLOYED).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), wanted);
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(rfc3339(Timestamp::from_millis(1_720_000_000_250)), "2024-07-03T09:46:40.25Z");
        assert_eq!(rfc3339(Timestamp::from_millis(i64::MAX)), "1970-01-01T00:00:00Z");
    }
}

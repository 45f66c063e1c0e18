//! What nodes answer.

use std::collections::BTreeMap;

use moat_model::{GivenIsolation, Namespace, NodeId};
use serde::{Deserialize, Serialize};

use super::{quirks, tags};

/// To PING and AUCTION.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingResponse {
    /// Who answers.
    pub node_id: NodeId,
    /// Group it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexus: Option<String>,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// `3m9s`.
    #[serde(default)]
    pub uptime: String,
    /// Public xkey environments are sealed to.
    #[serde(default)]
    pub target_xkey: String,
    /// See [`tags`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// Workloads it runs, of all namespaces.
    #[serde(default)]
    pub running_machines: u64,
}

impl PingResponse {
    /// Name for people.
    pub fn name(&self) -> &str {
        self.tags.get(tags::NODE_NAME).map_or("no-name", String::as_str)
    }

    /// It takes no new workloads.
    pub fn lameduck(&self) -> bool {
        flag(&self.tags, tags::LAMEDUCK)
    }

    /// It runs workloads without a sandbox.
    pub fn unsafe_mode(&self) -> bool {
        flag(&self.tags, tags::UNSAFE)
    }
}

fn flag(tags: &BTreeMap<String, String>, tag: &str) -> bool {
    tags.get(tag).is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "true" | "t" | "1"))
}

/// To WPING.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadPingResponse {
    /// Who answers.
    pub node_id: NodeId,
    /// Public xkey environments are sealed to.
    #[serde(default)]
    pub target_xkey: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// See [`tags`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// `3m9s`.
    #[serde(default)]
    pub uptime: String,
    /// What was found: a list here, a number in [`PingResponse`].
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    pub running_machines: Vec<WorkloadBrief>,
}

/// A workload found by a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadBrief {
    /// Opaque: a Go node's need not be an xid.
    pub id: String,
    /// Tenant.
    pub namespace: Namespace,
    /// Name it was given.
    pub name: String,
    /// `native`, ...
    #[serde(rename = "type")]
    pub workload_type: String,
}

/// To INFO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InfoResponse {
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// `3m9s`.
    #[serde(default)]
    pub uptime: String,
    /// Public xkey environments are sealed to.
    pub public_xkey: String,
    /// See [`tags`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// Memory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Workloads of the namespace asked for.
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    pub machines: Vec<MachineSummary>,
    /// Types it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "quirks::null_is_default")]
    pub supported_workload_types: Vec<String>,
}

/// Memory of a host, in kB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All there is.
    pub total: u64,
    /// Not used for anything.
    pub free: u64,
    /// What programs could get.
    pub available: u64,
}

/// A workload of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    /// Workload id.
    pub id: String,
    /// It runs.
    pub healthy: bool,
    /// `41s`.
    pub uptime: String,
    /// Tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    /// What runs.
    pub workload: WorkloadSummary,
}

/// What runs in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSummary {
    /// Name it was given.
    pub name: String,
    /// For people. Always written.
    #[serde(default)]
    pub description: String,
    /// How long it has run.
    #[serde(default)]
    pub runtime: String,
    /// `native`, ...
    #[serde(rename = "type")]
    pub workload_type: String,
    /// Hex SHA-256 of its artifact.
    #[serde(default)]
    pub hash: String,
}

/// To DEPLOY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResponse {
    /// It runs.
    pub started: bool,
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// The same id under the name clients up to 0.1.3 read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Who signed its claims.
    #[serde(default)]
    pub issuer: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Isolation it was given: our addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<GivenIsolation>,
}

/// To STOP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopResponse {
    /// It ended.
    pub stopped: bool,
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Who signed the claims.
    #[serde(default)]
    pub issuer: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// To LAMEDUCK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LameDuckResponse {
    /// Who answers.
    pub node_id: NodeId,
    /// It takes no new workloads.
    pub success: bool,
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::nex::envelope;

    fn round_trip<T: DeserializeOwned + Serialize>(reply_type: envelope::ReplyType, json: &str) {
        let value: T = envelope::decode(json.as_bytes()).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&envelope::encode(reply_type, &value)).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }

    /// The replies of specs C.2.
    #[test]
    fn the_documented_replies_survive() {
        use envelope::ReplyType;
        round_trip::<PingResponse>(
            ReplyType::Ping,
            r#"{"type":"io.nats.nex.v1.ping_response","data":{"node_id":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA","nexus":"nexus","version":"0.2.7","uptime":"3m9s",
 "target_xkey":"XBLRI5U5CFV7OZBWVZ2LY6J5FQYK2GIDYWNMKJZYAXD6E2MLIEGDMZ4H","tags":{"node_name":"rusty-otter","nex.os":"linux","nex.arch":"amd64","nex.cpucount":"8"},"running_machines":2}}"#,
        );
        round_trip::<InfoResponse>(
            ReplyType::Info,
            r#"{"type":"io.nats.nex.v1.info_response","data":{"version":"0.2.7","uptime":"3m9s","public_xkey":"XBLRI5U5CFV7OZBWVZ2LY6J5FQYK2GIDYWNMKJZYAXD6E2MLIEGDMZ4H","tags":{"node_name":"rusty-otter"},
 "memory":{"total":16384000,"free":8000000,"available":12000000},"supported_workload_types":["native","wasm"],
 "machines":[{"id":"cq1v8k3q7d2c73f0a9g0","healthy":true,"uptime":"41s","namespace":"default","workload":{"name":"billing_api","description":"demo","runtime":"41s","type":"native","hash":"9f2c"}}]}}"#,
        );
        round_trip::<WorkloadPingResponse>(
            ReplyType::Ping,
            r#"{"type":"io.nats.nex.v1.ping_response","data":{"node_id":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA","target_xkey":"XBLRI5U5CFV7OZBWVZ2LY6J5FQYK2GIDYWNMKJZYAXD6E2MLIEGDMZ4H","version":"0.2.7","uptime":"4m","tags":{"node_name":"rusty-otter"},
 "running_machines":[{"id":"cq1v8k3q7d2c73f0a9g0","namespace":"default","name":"billing_api","type":"native"}]}}"#,
        );
        round_trip::<RunResponse>(
            ReplyType::Run,
            r#"{"type":"io.nats.nex.v1.run_response","data":{"started":true,"id":"cq1v8k3q7d2c73f0a9g0","issuer":"ACT7Z5645VKTDVNMHBOMPPNBUTVX2AGWESFH7D55RW5535Z2EHJKAUQZ","name":"billing_api"}}"#,
        );
        round_trip::<StopResponse>(
            ReplyType::Stop,
            r#"{"type":"io.nats.nex.v1.stop_response","data":{"stopped":true,"id":"cq1v8k3q7d2c73f0a9g0","issuer":"ACT7Z5645VKTDVNMHBOMPPNBUTVX2AGWESFH7D55RW5535Z2EHJKAUQZ","name":"billing_api"}}"#,
        );
        round_trip::<LameDuckResponse>(
            ReplyType::LameDuck,
            r#"{"type":"io.nats.nex.v1.lameduck_response","data":{"node_id":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA","success":true}}"#,
        );
    }

    #[test]
    fn an_empty_node_still_lists_its_machines() {
        let info = InfoResponse {
            version: String::new(),
            uptime: String::new(),
            public_xkey: String::new(),
            tags: BTreeMap::new(),
            memory: None,
            machines: Vec::new(),
            supported_workload_types: Vec::new(),
        };
        assert!(serde_json::to_string(&info).unwrap().contains(r#""machines":[]"#));
    }

    #[test]
    fn tags_say_what_a_node_is() {
        let json =
            r#"{"node_id":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA","tags":{"nex.lameduck":"true"}}"#;
        let ping: PingResponse = serde_json::from_str(json).unwrap();
        assert!(ping.lameduck() && !ping.unsafe_mode());
        assert_eq!(ping.name(), "no-name");
    }
}

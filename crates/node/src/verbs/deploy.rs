//! DEPLOY: from a request to a running workload, every check in Nex's order.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_api::WireError;
use moat_api::nex::deploy::Extension;
use moat_api::nex::{DeployRequest, Location, RunResponse, Template};
use moat_model::claims::{self, Claims};
use moat_model::spec::{Artifact, Forward, Resources, RootSpec, StopSpec};
use moat_model::workload::WorkloadKind;
use moat_model::{ErrorKind, Isolation, Namespace, ProcessSpec, SandboxSpec, WorkloadId, WorkloadName, seal};

use super::{Service, pattern, wire};
use crate::artifact::{FetchRequest, PinnedArtifact};
use crate::clock;
use crate::config::NodeConfig;
use crate::error::Error;
use crate::logfile::WorkloadRef;
use crate::networks::Networks;
use crate::workloads::{NewWorkload, Slot, Snapshot, StartClaims};

/// Port a workload finds its NATS server at.
const WORKLOAD_NATS_PORT: u16 = 4222;

/// Types that run when called.
const FUNCTION_TYPES: [&str; 2] = ["v8", "wasm"];

/// A workload that passed every check that needs no artifact.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) namespace: Namespace,
    pub(super) name: WorkloadName,
    pub(super) claims: StartClaims,
    /// Digest the signer vouches for, if he does.
    pub(super) sha256: Option<String>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) argv: Vec<String>,
    pub(super) description: String,
    pub(super) essential: bool,
    pub(super) autostart: bool,
    pub(super) workload_type: String,
    pub(super) location: Location,
    pub(super) jsdomain: Option<String>,
    pub(super) extension: Extension,
}

impl Service {
    pub(super) async fn deploy(&self, subject: &str, payload: &[u8]) -> Result<RunResponse, WireError> {
        let namespace = self.namespace(subject)?;
        if self.in_lameduck() {
            return Err(WireError::new(
                ErrorKind::Unavailable,
                "this node is in lame duck mode: it takes no new workloads",
            ));
        }
        let slot = self.workloads.reserve().map_err(|e| wire(&e))?;
        let request = DeployRequest::decode(payload)?;
        let admitted = self.admit(namespace, request)?;
        let snapshot = self.start(slot, admitted).await?;
        let view = &snapshot.view;
        Ok(RunResponse {
            started: true,
            id: view.id.to_string(),
            machine_id: Some(view.id.to_string()),
            issuer: view.issuer.clone(),
            name: view.name.to_string(),
            isolation: Some(view.isolation.clone()),
        })
    }

    /// Nex's checks 5 to 10.
    fn admit(&self, namespace: Namespace, request: DeployRequest) -> Result<Admitted, WireError> {
        acceptable(&request, &self.config, self.node().as_str())?;
        let environment = seal::open(&request.environment, self.identity.xkey(), &request.sender_public_key)
            .map_err(|e| WireError::invalid(e.to_string()))?;
        let claims = claims::decode_and_verify(&request.workload_jwt, clock::now())
            .map_err(|e| WireError::new(ErrorKind::Denied, format!("workload_jwt: {e}")))?;
        let issuers = &self.config.valid_issuers;
        if !issuers.is_empty() && !issuers.contains(&claims.issuer) {
            let why = format!("issuer {} is not on this node's list (valid_issuers)", claims.issuer);
            return Err(WireError::new(ErrorKind::Denied, why));
        }
        Ok(Admitted {
            namespace,
            name: claims.subject.clone(),
            sha256: claims.sha256(),
            claims: start_claims(claims),
            environment,
            argv: request.argv,
            description: request.description,
            essential: request.essential,
            autostart: false,
            workload_type: request.workload_type,
            location: request.location,
            jsdomain: request.jsdomain,
            extension: request.moat.unwrap_or_default(),
        })
    }

    /// Fetches the program and starts it. After an error nothing of it is left.
    pub(super) async fn start(&self, slot: Slot, admitted: Admitted) -> Result<std::sync::Arc<Snapshot>, WireError> {
        // What can be refused without the program is refused before it is fetched.
        let asked = admitted.extension.isolation.unwrap_or(self.config.isolation);
        let offer = self.workloads.engine().offer(asked);
        let machine = offer.is_ok_and(|offer| offer.isolation == Isolation::Microvm);
        let mut spec = sandbox_spec(&self.config, &self.networks, &admitted, machine)?;
        self.workloads.engine().validate(&spec).map_err(|e| wire(&e))?;
        let artifact = self.fetch(&admitted, spec.isolation).await?;
        let slot = slot.with_bytes(artifact.size()).map_err(|e| wire(&e))?;
        let id = WorkloadId::parse(&xid::new().to_string())
            .map_err(|e| WireError::new(ErrorKind::Internal, e.to_string()))?;
        let reference = WorkloadRef {
            namespace: admitted.namespace.clone(),
            name: admitted.name.clone(),
            id: id.clone(),
            node: self.node().clone(),
        };
        let log_dir = self.outlet.log_dir(&reference).await.map_err(|e| wire(&e))?;
        // A machine sees no directory of the host.
        spec.log_dir = (!machine).then_some(log_dir);
        spec.artifact = Some(Artifact {
            path: artifact.path(),
            name: admitted.name.to_string(),
            sha256: artifact.sha256().to_owned(),
        });
        let new = NewWorkload {
            id,
            name: admitted.name,
            description: admitted.description,
            kind: admitted.extension.kind.unwrap_or(WorkloadKind::Service),
            workload_type: admitted.workload_type,
            essential: admitted.essential,
            autostart: admitted.autostart,
            claims: admitted.claims,
            spec,
            artifact_bytes: artifact.size(),
        };
        self.workloads.deploy(slot, new, artifact).await.map_err(|e| wire(&e))
    }

    async fn fetch(&self, admitted: &Admitted, isolation: Isolation) -> Result<PinnedArtifact, WireError> {
        let request = FetchRequest {
            bucket: admitted.location.bucket(),
            key: admitted.location.key(),
            domain: admitted.jsdomain.as_deref(),
            sha256: admitted.sha256.as_deref(),
            bytes_max: self.config.limits.artifact_bytes_max,
            // Without a sandbox the host's loader and libraries are there, as in Nex.
            must_be_static: isolation > Isolation::Process,
        };
        self.artifacts.fetch(self.connection.client(), &request).await.map_err(|e| {
            let kind = e.kind();
            wire(&Error::caused_by(kind, format!("artifact {}", admitted.location), e))
        })
    }
}

pub(super) fn start_claims(claims: Claims) -> StartClaims {
    StartClaims { issuer: claims.issuer, subject: claims.subject, jti: claims.id, issued_at: claims.issued_at }
}

/// Type, triggers, target: Nex's checks 5 to 7. Pure.
fn acceptable(request: &DeployRequest, config: &NodeConfig, node: &str) -> Result<(), WireError> {
    let workload_type = request.workload_type.as_str();
    if !config.workload_types.iter().any(|t| t == workload_type) {
        let shown: String = workload_type.chars().take(40).collect();
        return Err(WireError::new(
            ErrorKind::Unsupported,
            format!("unsupported workload type on this node: {shown:?}; it runs {}", config.workload_types.join(", ")),
        ));
    }
    if !request.trigger_subjects.is_empty() && !FUNCTION_TYPES.contains(&workload_type) {
        return Err(WireError::invalid(format!(
            "trigger_subjects: only functions (v8, wasm) have triggers, not {workload_type}"
        )));
    }
    for trigger in &request.trigger_subjects {
        if !pattern::is_pattern(trigger) {
            return Err(WireError::invalid(format!("trigger_subjects: {trigger:?} is not a NATS subject")));
        }
        if let Some(denied) = config.deny_trigger_subjects.iter().find(|d| pattern::overlap(trigger, d)) {
            return Err(WireError::new(
                ErrorKind::Denied,
                format!("trigger_subjects: {trigger:?} overlaps {denied:?}, which this node denies"),
            ));
        }
    }
    if !request.target_node.is_empty() && request.target_node != node {
        let shown: String = request.target_node.chars().take(60).collect();
        return Err(WireError::invalid(format!("target_node: {shown:?} is not this node ({node})")));
    }
    Ok(())
}

/// What the workload asked for, and the node's defaults for the rest; `machine`: it will be given a microVM.
fn sandbox_spec(
    config: &NodeConfig,
    networks: &Networks,
    admitted: &Admitted,
    machine: bool,
) -> Result<SandboxSpec, WireError> {
    let asked = &admitted.extension;
    if asked.kind == Some(WorkloadKind::Function) {
        return Err(WireError::new(ErrorKind::Unsupported, "moat.kind: functions cannot run on this version"));
    }
    let stop = StopSpec::default();
    Ok(SandboxSpec {
        namespace: admitted.namespace.clone(),
        labels: BTreeMap::from([("workload".to_owned(), admitted.name.to_string())]),
        main: Some(ProcessSpec {
            // Found at /local/<name>, or in the task directory where there is no sandbox.
            command: admitted.name.to_string(),
            args: admitted.argv.clone(),
            env: environment(&admitted.environment)?,
            cwd: asked.cwd.clone(),
            user: asked.user.clone(),
        }),
        stop: StopSpec {
            signal: asked.stop_signal.unwrap_or(stop.signal),
            grace: asked.stop_grace_ms.map_or(stop.grace, Duration::from_millis),
        },
        timeout: asked.timeout_ms.map(Duration::from_millis),
        ..surroundings(config, networks, asked, machine)?
    })
}

/// What a workload in a microVM that asks for nothing of its own finds around it: what can stand ready before there is one.
pub(crate) fn machine_of_a_workload(config: &NodeConfig, networks: &Networks) -> Result<SandboxSpec, WireError> {
    let asked = Extension { isolation: Some(Isolation::Microvm), ..Extension::default() };
    surroundings(config, networks, &asked, true)
}

/// Everything of a sandbox that does not depend on which program it is for.
fn surroundings(
    config: &NodeConfig,
    networks: &Networks,
    asked: &Extension,
    machine: bool,
) -> Result<SandboxSpec, WireError> {
    let isolation = asked.isolation.unwrap_or(config.isolation);
    let unsandboxed = isolation == Isolation::Process;
    if unsandboxed && !config.unsafe_allowed() {
        return Err(WireError::new(
            ErrorKind::Denied,
            "isolation: this node runs nothing without a sandbox; its operator can allow it with drivers = [\"container\", \"process\"]",
        ));
    }
    let limits = if machine { config.machine_resources() } else { config.resources.clone() };
    let root = match asked.template {
        Some(Template::Host) => RootSpec::Host,
        Some(Template::Scratch) => RootSpec::Scratch,
        None if machine || config.template == "scratch" => RootSpec::Scratch,
        None => RootSpec::Host,
    };
    Ok(SandboxSpec {
        resources: with_defaults(&asked.resources, &limits),
        security: asked.security.clone(),
        network: networks.plan(asked.network.as_ref(), isolation).map_err(|e| wire(&e))?,
        forwards: forwards(config, asked.nats, unsandboxed)?,
        ..SandboxSpec::new(Namespace::default_namespace(), isolation, root)
    })
}

/// Nex hands every variable over with its name in upper case.
fn environment(given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, WireError> {
    let mut upper = BTreeMap::new();
    for (name, value) in given {
        if upper.insert(name.to_uppercase(), value.clone()).is_some() {
            return Err(WireError::invalid(format!(
                "environment: {name:?} is there twice once names are in upper case, as Nex hands them over"
            )));
        }
    }
    Ok(upper)
}

fn with_defaults(asked: &Resources, default: &Resources) -> Resources {
    Resources {
        memory_bytes: asked.memory_bytes.or(default.memory_bytes),
        memory_reserve_bytes: asked.memory_reserve_bytes.or(default.memory_reserve_bytes),
        cpu_weight: asked.cpu_weight.or(default.cpu_weight),
        cpu_quota_millis: asked.cpu_quota_millis.or(default.cpu_quota_millis),
        cpuset: asked.cpuset.clone().or_else(|| default.cpuset.clone().filter(|_| asked.cores.is_none())),
        cores: asked.cores,
        pids_max: asked.pids_max.or(default.pids_max),
        disk_bytes: asked.disk_bytes.or(default.disk_bytes),
        secrets_bytes: asked.secrets_bytes.or(default.secrets_bytes),
        nofile: asked.nofile.or(default.nofile),
    }
}

fn forwards(config: &NodeConfig, wanted: bool, unsandboxed: bool) -> Result<Vec<Forward>, WireError> {
    match (&config.workload_nats, wanted) {
        (_, false) => Ok(Vec::new()),
        (_, true) if unsandboxed => Err(WireError::invalid(
            "moat.nats: without a sandbox a program has the host's network already; leave it out",
        )),
        (None, true) => Err(WireError::new(
            ErrorKind::Unsupported,
            "moat.nats: this node leads workloads to no NATS server; its operator can set workload_nats",
        )),
        (Some(target), true) => Ok(vec![Forward { listen_port: WORKLOAD_NATS_PORT, target: target.clone() }]),
    }
}

#[cfg(test)]
mod tests {
    use moat_model::network::NetworkMode;

    use super::*;
    use crate::networks::tests as networks;

    const NODE: &str = "NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA";

    fn request(members: &str) -> DeployRequest {
        let text = format!(
            r#"{{"type":"native","location":"nats://B/k","workload_jwt":"j","environment":"e","sender_public_key":"X"{members}}}"#
        );
        DeployRequest::decode(text.as_bytes()).unwrap()
    }

    fn refusal(members: &str, config: &NodeConfig) -> String {
        let base = request("");
        let text = serde_json::to_value(&base).unwrap();
        let serde_json::Value::Object(mut map) = text else { panic!() };
        let serde_json::Value::Object(more) = serde_json::from_str(members).unwrap() else { panic!() };
        map.extend(more);
        let request = DeployRequest::decode(&serde_json::to_vec(&map).unwrap()).unwrap();
        acceptable(&request, config, NODE).unwrap_err().message
    }

    #[test]
    fn type_triggers_and_target() {
        let mut config = NodeConfig::default();
        assert!(acceptable(&request(""), &config, NODE).is_ok());
        assert!(refusal(r#"{"type":"v8"}"#, &config).contains("unsupported workload type"));
        assert!(refusal(r#"{"trigger_subjects":["a"]}"#, &config).contains("only functions"));
        assert!(refusal(r#"{"target_node":"NOTHER"}"#, &config).contains("target_node"));
        config.workload_types.push("v8".to_owned());
        for (trigger, expected) in
            [("$JS.x", "overlaps"), (">", "overlaps"), ("*.x", "overlaps"), ("a..b", "not a NATS")]
        {
            let message = refusal(&format!(r#"{{"type":"v8","trigger_subjects":["{trigger}"]}}"#), &config);
            assert!(message.contains(expected), "{trigger}: {message}");
        }
    }

    fn admitted(extension: Extension) -> Admitted {
        let name = WorkloadName::parse("echo").unwrap();
        Admitted {
            namespace: Namespace::default_namespace(),
            name: name.clone(),
            claims: StartClaims { issuer: "A".to_owned(), subject: name, jti: "j".to_owned(), issued_at: 0 },
            sha256: None,
            environment: BTreeMap::from([("nats_url".to_owned(), "x".to_owned())]),
            argv: vec!["-v".to_owned()],
            description: String::new(),
            essential: false,
            autostart: false,
            workload_type: "native".to_owned(),
            location: Location::parse("nats://B/k").unwrap(),
            jsdomain: None,
            extension,
        }
    }

    #[test]
    fn defaults_are_the_nodes_and_wishes_the_workloads() {
        let mut config = NodeConfig::default();
        config.resources.memory_bytes = Some(1 << 20);
        config.resources.pids_max = Some(5);
        let extension = Extension {
            resources: Resources { memory_bytes: Some(2 << 20), ..Resources::default() },
            template: Some(Template::Scratch),
            timeout_ms: Some(10),
            ..Extension::default()
        };
        let spec = sandbox_spec(&config, &networks::off(), &admitted(extension), false).unwrap();
        assert_eq!((spec.resources.memory_bytes, spec.resources.pids_max), (Some(2 << 20), Some(5)));
        assert_eq!(spec.root, RootSpec::Scratch);
        assert_eq!(spec.main.unwrap().env["NATS_URL"], "x");
        assert_eq!(spec.timeout, Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_machine_has_nothing_of_the_host_and_limits_of_its_own() {
        let config = NodeConfig { isolation: Isolation::Microvm, ..NodeConfig::default() };
        let machine = sandbox_spec(&config, &networks::off(), &admitted(Extension::default()), true).unwrap();
        assert_eq!((machine.isolation, machine.root), (Isolation::Microvm, RootSpec::Scratch));
        assert_eq!(machine.resources, config.machine_resources());
        let asked = Extension { template: Some(Template::Host), ..Extension::default() };
        let asked = sandbox_spec(&config, &networks::off(), &admitted(asked), true).unwrap();
        assert_eq!(asked.root, RootSpec::Host, "the driver says why that cannot be");
    }

    #[test]
    fn no_sandbox_only_where_it_is_allowed() {
        let mut config = NodeConfig::default();
        let wish = || admitted(Extension { isolation: Some(Isolation::Process), ..Extension::default() });
        assert_eq!(sandbox_spec(&config, &networks::off(), &wish(), false).unwrap_err().kind, ErrorKind::Denied);
        config.drivers.push("process".to_owned());
        assert_eq!(sandbox_spec(&config, &networks::off(), &wish(), false).unwrap().network.mode, NetworkMode::Host);
    }

    #[test]
    fn nats_only_where_it_leads_somewhere() {
        let mut config = NodeConfig::default();
        let wish = || admitted(Extension { nats: true, ..Extension::default() });
        assert!(sandbox_spec(&config, &networks::off(), &wish(), false).unwrap_err().message.contains("workload_nats"));
        config.workload_nats = Some("127.0.0.1:4333".to_owned());
        let spec = sandbox_spec(&config, &networks::off(), &wish(), false).unwrap();
        assert_eq!(spec.forwards, [Forward { listen_port: 4222, target: "127.0.0.1:4333".to_owned() }]);
        let mut twice = wish();
        twice.environment.insert("NATS_URL".to_owned(), "y".to_owned());
        assert!(sandbox_spec(&config, &networks::off(), &twice, false).unwrap_err().message.contains("twice"));
    }
    #[test]
    fn a_network_is_asked_for_as_over_rest() {
        let config = NodeConfig::default();
        let wish = |network: serde_json::Value| {
            admitted(Extension { network: Some(serde_json::from_value(network).unwrap()), ..Extension::default() })
        };
        let given =
            sandbox_spec(&config, &networks::on(), &wish(serde_json::json!({"mode": "internal", "name": "db"})), false);
        let network = given.unwrap().network;
        assert_eq!((network.mode, network.name.unwrap().as_str()), (NetworkMode::Internal, "db"));
        let none = sandbox_spec(&config, &networks::on(), &admitted(Extension::default()), false).unwrap();
        assert_eq!(none.network.mode, NetworkMode::Isolated);
        let refused = sandbox_spec(&config, &networks::on(), &wish(serde_json::json!("none")), false).unwrap_err();
        assert!(refused.message.starts_with("network.mode: "), "{}", refused.message);
        assert_eq!(
            sandbox_spec(&config, &networks::off(), &wish(serde_json::json!("internet")), false).unwrap_err().kind,
            ErrorKind::Unsupported
        );
    }
}

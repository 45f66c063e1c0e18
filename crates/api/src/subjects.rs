//! Every NATS subject, built in one place.
//!
//! Order of tokens: prefix, verb, namespace, node, thing. The prefix is `$NEX` unless the operator chose another; it may
//! have several tokens. Ids and names are types that can only hold one token, so nothing here can be injected into.

use std::fmt;

use moat_model::{Namespace, NodeId, WorkloadId, WorkloadName};

use crate::stream::StreamId;

/// The prefix of Nex.
pub const DEFAULT_PREFIX: &str = "$NEX";

/// Namespace of a node's own events.
pub const SYSTEM_NAMESPACE: &str = "system";

/// Why a text cannot be a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subject prefix {given:?} must be 1 to 8 tokens of letters, digits, '$', '_' and '-' with dots between them")]
pub struct InvalidPrefix {
    /// As given.
    pub given: String,
}

/// Builds the subjects below one prefix, and takes apart those that arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subjects {
    prefix: String,
}

impl Default for Subjects {
    fn default() -> Self {
        Self { prefix: DEFAULT_PREFIX.to_owned() }
    }
}

/// Where a log line comes from, read from its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSource {
    /// Tenant.
    pub namespace: Namespace,
    /// Node that runs the workload.
    pub node: NodeId,
    /// Its name.
    pub name: WorkloadName,
    /// Its id.
    pub id: WorkloadId,
}

/// Which log lines; what is absent matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Of this node.
    pub node: Option<NodeId>,
    /// Of workloads with this name.
    pub name: Option<WorkloadName>,
    /// Of this workload.
    pub id: Option<WorkloadId>,
}

/// A workload search, read from its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSearch {
    /// Tenant; compared without regard to case.
    pub namespace: Namespace,
    /// Id or name of one workload; all of the namespace if absent.
    pub wanted: Option<WorkloadName>,
}

impl Subjects {
    /// Subjects below `prefix`.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"$_-".contains(&b));
        let valid = prefix.len() <= 128 && prefix.split('.').count() <= 8 && prefix.split('.').all(token);
        if valid { Ok(Self { prefix: prefix.to_owned() }) } else { Err(InvalidPrefix { given: prefix.to_owned() }) }
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn join<const N: usize>(&self, tokens: [&dyn fmt::Display; N]) -> String {
        use fmt::Write as _;
        let mut subject = self.prefix.clone();
        for token in tokens {
            // Writing to a String cannot fail.
            let _ = write!(subject, ".{token}");
        }
        subject
    }

    fn tokens<'s>(&self, subject: &'s str) -> Option<Vec<&'s str>> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        // No subject of ours has more than five tokens after its prefix.
        Some(rest.splitn(6, '.').collect())
    }

    // --- what a client asks, and a node listens to

    /// All nodes; those that match the request answer.
    pub fn auction(&self) -> String {
        self.join([&"AUCTION"])
    }

    /// All nodes.
    pub fn ping(&self) -> String {
        self.join([&"PING"])
    }

    /// One node.
    pub fn ping_node(&self, node: &NodeId) -> String {
        self.join([&"PING", node])
    }

    /// All workloads of a namespace, on all nodes.
    pub fn wping(&self, namespace: &Namespace) -> String {
        self.join([&"WPING", namespace])
    }

    /// The workloads of a namespace with this id or name, on all nodes.
    pub fn wping_workload(&self, namespace: &Namespace, id_or_name: &WorkloadName) -> String {
        self.join([&"WPING", namespace, id_or_name])
    }

    /// What a node subscribes to for workload searches.
    pub fn wping_any(&self) -> String {
        self.join([&"WPING", &">"])
    }

    /// A node, and its workloads in a namespace.
    pub fn info(&self, namespace: &Namespace, node: &NodeId) -> String {
        self.join([&"INFO", namespace, node])
    }

    /// What a node subscribes to for INFO.
    pub fn info_any(&self, node: &NodeId) -> String {
        self.join([&"INFO", &"*", node])
    }

    /// Starts a workload.
    pub fn deploy(&self, namespace: &Namespace, node: &NodeId) -> String {
        self.join([&"DEPLOY", namespace, node])
    }

    /// What a node subscribes to for DEPLOY.
    pub fn deploy_any(&self, node: &NodeId) -> String {
        self.join([&"DEPLOY", &"*", node])
    }

    /// What a node subscribes to for RUN, the name of DEPLOY up to 0.1.3.
    pub fn run_any(&self, node: &NodeId) -> String {
        self.join([&"RUN", &"*", node])
    }

    /// Stops a workload.
    pub fn stop(&self, namespace: &Namespace, node: &NodeId) -> String {
        self.join([&"STOP", namespace, node])
    }

    /// What a node subscribes to for STOP.
    pub fn stop_any(&self, node: &NodeId) -> String {
        self.join([&"STOP", &"*", node])
    }

    /// Makes a node refuse new workloads.
    pub fn lameduck(&self, node: &NodeId) -> String {
        self.join([&"LAMEDUCK", node])
    }

    /// Our own verbs on the sandboxes of a node.
    pub fn sandbox(&self, namespace: &Namespace, node: &NodeId) -> String {
        self.join([&"SANDBOX", namespace, node])
    }

    /// What a node subscribes to for our own verbs.
    pub fn sandbox_any(&self, node: &NodeId) -> String {
        self.join([&"SANDBOX", &"*", node])
    }

    /// What a node is asked about its allocations.
    pub fn allocation(&self, namespace: &Namespace, node: &NodeId) -> String {
        self.join([&"ALLOC", namespace, node])
    }

    /// What a node subscribes to for its allocations.
    pub fn allocation_any(&self, node: &NodeId) -> String {
        self.join([&"ALLOC", &"*", node])
    }

    // --- streams

    /// Frames from client to node.
    pub fn stream_in(&self, id: &StreamId) -> String {
        self.join([&"STREAM", id, &"in"])
    }

    /// Frames from node to client.
    pub fn stream_out(&self, id: &StreamId) -> String {
        self.join([&"STREAM", id, &"out"])
    }

    // --- what nodes tell

    /// An event of a namespace; a node's own are in [`SYSTEM_NAMESPACE`].
    pub fn event(&self, namespace: &Namespace, event_type: &str) -> String {
        self.join([&"events", namespace, &event_type])
    }

    /// All events of a namespace.
    pub fn events_of(&self, namespace: &Namespace) -> String {
        self.join([&"events", namespace, &"*"])
    }

    /// All events of nodes.
    pub fn events_of_nodes(&self) -> String {
        self.join([&"events", &SYSTEM_NAMESPACE, &"*"])
    }

    /// A node's own event.
    pub fn node_event(&self, event_type: &str) -> String {
        self.join([&"events", &SYSTEM_NAMESPACE, &event_type])
    }

    /// All events: what their JetStream stream captures.
    pub fn events_all(&self) -> String {
        self.join([&"events", &">"])
    }

    /// Log lines of one workload.
    pub fn log(&self, source: &LogSource) -> String {
        self.join([&"logs", &source.namespace, &source.node, &source.name, &source.id])
    }

    /// Log lines of a namespace, narrowed by a filter.
    pub fn logs_of(&self, namespace: &Namespace, filter: &LogFilter) -> String {
        fn token<T: fmt::Display>(t: Option<&T>) -> &dyn fmt::Display {
            t.map_or(&"*" as &dyn fmt::Display, |t| t)
        }
        let node = token(filter.node.as_ref());
        let name = token(filter.name.as_ref());
        let id = token(filter.id.as_ref());
        self.join([&"logs", namespace, node, name, id])
    }

    /// All log lines: what their JetStream stream captures.
    pub fn logs_all(&self) -> String {
        self.join([&"logs", &">"])
    }

    /// A node's own log, `stdout` or `stderr`; one token shorter than a workload's, so that nobody takes it for one.
    pub fn node_log(&self, node: &NodeId, stream: &str) -> String {
        self.join([&"logs", &SYSTEM_NAMESPACE, node, &stream])
    }

    // --- what arrived

    /// The namespace of a request to a node: the token after the verb.
    pub fn namespace_of(&self, subject: &str) -> Option<Namespace> {
        self.tokens(subject).and_then(|t| t.get(1).and_then(|ns| Namespace::parse(ns).ok()))
    }

    /// What a workload search looks for.
    pub fn parse_wping(&self, subject: &str) -> Option<WorkloadSearch> {
        let (namespace, wanted) = match self.tokens(subject)?.as_slice() {
            ["WPING", namespace] => (*namespace, None),
            ["WPING", namespace, wanted] => (*namespace, Some(WorkloadName::parse(wanted).ok()?)),
            _ => return None,
        };
        Some(WorkloadSearch { namespace: Namespace::parse(namespace).ok()?, wanted })
    }

    /// Where a log line comes from. Subjects of another length are not workloads' logs.
    pub fn parse_log(&self, subject: &str) -> Option<LogSource> {
        match self.tokens(subject)?.as_slice() {
            ["logs", namespace, node, name, id] => Some(LogSource {
                namespace: Namespace::parse(namespace).ok()?,
                node: NodeId::parse(node).ok()?,
                name: WorkloadName::parse(name).ok()?,
                id: WorkloadId::parse(id).ok()?,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA";
    const ID: &str = "cq1v8k3q7d2c73f0a9g0";

    fn node() -> NodeId {
        NodeId::parse(NODE).unwrap()
    }

    fn namespace() -> Namespace {
        Namespace::default_namespace()
    }

    fn name() -> WorkloadName {
        WorkloadName::parse("billing_api").unwrap()
    }

    fn source() -> LogSource {
        LogSource { namespace: namespace(), node: node(), name: name(), id: WorkloadId::parse(ID).unwrap() }
    }

    #[test]
    fn every_subject_is_spelt_as_nex_spells_it() {
        let s = Subjects::default();
        let (ns, n) = (namespace(), node());
        let stream = StreamId::from_random([0xab; 16]);
        let table = [
            (s.auction(), "$NEX.AUCTION".to_owned()),
            (s.ping(), "$NEX.PING".to_owned()),
            (s.ping_node(&n), format!("$NEX.PING.{NODE}")),
            (s.wping(&ns), "$NEX.WPING.default".to_owned()),
            (s.wping_workload(&ns, &name()), "$NEX.WPING.default.billing_api".to_owned()),
            (s.wping_any(), "$NEX.WPING.>".to_owned()),
            (s.info(&ns, &n), format!("$NEX.INFO.default.{NODE}")),
            (s.info_any(&n), format!("$NEX.INFO.*.{NODE}")),
            (s.deploy(&ns, &n), format!("$NEX.DEPLOY.default.{NODE}")),
            (s.deploy_any(&n), format!("$NEX.DEPLOY.*.{NODE}")),
            (s.run_any(&n), format!("$NEX.RUN.*.{NODE}")),
            (s.stop(&ns, &n), format!("$NEX.STOP.default.{NODE}")),
            (s.stop_any(&n), format!("$NEX.STOP.*.{NODE}")),
            (s.lameduck(&n), format!("$NEX.LAMEDUCK.{NODE}")),
            (s.sandbox(&ns, &n), format!("$NEX.SANDBOX.default.{NODE}")),
            (s.sandbox_any(&n), format!("$NEX.SANDBOX.*.{NODE}")),
            (s.allocation(&ns, &n), format!("$NEX.ALLOC.default.{NODE}")),
            (s.allocation_any(&n), format!("$NEX.ALLOC.*.{NODE}")),
            (s.stream_in(&stream), format!("$NEX.STREAM.{stream}.in")),
            (s.stream_out(&stream), format!("$NEX.STREAM.{stream}.out")),
            (s.event(&ns, "workload_deployed"), "$NEX.events.default.workload_deployed".to_owned()),
            (s.events_of(&ns), "$NEX.events.default.*".to_owned()),
            (s.node_event("heartbeat"), "$NEX.events.system.heartbeat".to_owned()),
            (s.events_of_nodes(), "$NEX.events.system.*".to_owned()),
            (s.events_all(), "$NEX.events.>".to_owned()),
            (s.log(&source()), format!("$NEX.logs.default.{NODE}.billing_api.{ID}")),
            (s.logs_of(&ns, &LogFilter::default()), "$NEX.logs.default.*.*.*".to_owned()),
            (s.logs_all(), "$NEX.logs.>".to_owned()),
            (s.node_log(&n, "stdout"), format!("$NEX.logs.system.{NODE}.stdout")),
        ];
        for (built, wanted) in table {
            assert_eq!(built, wanted);
        }
    }

    #[test]
    fn what_is_built_is_read_back_below_any_prefix() {
        for prefix in ["$NEX", "moat", "acme.prod.$NEX"] {
            let s = Subjects::new(prefix).unwrap();
            assert_eq!(s.parse_log(&s.log(&source())), Some(source()));
            assert_eq!(s.namespace_of(&s.deploy(&namespace(), &node())), Some(namespace()));
            let one = s.parse_wping(&s.wping_workload(&namespace(), &name())).unwrap();
            assert_eq!(one.wanted, Some(name()));
            assert_eq!(s.parse_wping(&s.wping(&namespace())).unwrap().wanted, None);
        }
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        let s = Subjects::default();
        for subject in ["", "$NEX", "$NEX.", "$NEX.WPING", "$NEXT.WPING.a", "$NEX.WPING.a.b.c", "$NEX.WPING.a b"] {
            assert_eq!(s.parse_wping(subject), None, "{subject}");
        }
        let swapped = format!("$NEX.logs.default.{NODE}.{ID}.billing_api");
        assert_eq!(s.parse_log(&swapped), None);
        assert_eq!(s.parse_log(&s.node_log(&node(), "stdout")), None);
        for bad in ["", ".", "a.", "a..b", "a.*", "a.>", "a b", &"x".repeat(129), "1.2.3.4.5.6.7.8.9"] {
            assert!(Subjects::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn log_filters_narrow_each_token() {
        let s = Subjects::default();
        let filter = LogFilter { node: Some(node()), name: Some(name()), id: None };
        assert_eq!(s.logs_of(&namespace(), &filter), format!("$NEX.logs.default.{NODE}.billing_api.*"));
    }
}

//! What is asked of nodes: auction, deploy, stop.

use std::collections::BTreeMap;
use std::fmt;

use moat_model::Isolation;
use moat_model::spec::{Resources, Security, Signal};
use moat_model::workload::WorkloadKind;
use serde::{Deserialize, Serialize};

use super::quirks;
use crate::WireError;
use crate::rest::network::NetworkWish;

/// Who could run something. Every member narrows; what is absent matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuctionRequest {
    /// Go's word: `amd64`, `arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Go's word: `linux`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Whether workloads are isolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandboxed: Option<bool>,
    /// Tags the node must have with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "quirks::null_is_default")]
    pub tags: BTreeMap<String, String>,
    /// Types the node must run.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "quirks::null_is_default")]
    pub workload_types: Vec<String>,
}

/// An object in a NATS object store: `nats://BUCKET/key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    bucket: String,
    key: String,
}

impl Location {
    /// Reads `nats://BUCKET/key`. Percent escapes in the key are undone.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        let refuse = || WireError::invalid(format!("location {text:?} is not of the form nats://BUCKET/key"));
        let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
        let (bucket, key) = rest.split_once('/').ok_or_else(refuse)?;
        Self::new(scheme, bucket, &unescape(key).ok_or_else(refuse)?)
    }

    /// From the parts of a URL; slashes around the key do not count.
    pub fn new(scheme: &str, bucket: &str, key: &str) -> Result<Self, WireError> {
        if scheme != "nats" {
            return Err(WireError::invalid(format!(
                "location scheme {scheme:?} is not supported: put the program into an object store and name it nats://BUCKET/key"
            )));
        }
        let key = key.trim_matches('/');
        // The rules of the object store: a bucket is part of a stream name, a key is encoded before it becomes a subject.
        let bucket_valid = !bucket.is_empty()
            && bucket.len() <= 128
            && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !bucket_valid {
            return Err(WireError::invalid(format!("location bucket {bucket:?}: letters, digits, '_' and '-' only")));
        }
        if key.is_empty() || key.len() > 1024 || key.contains(|c: char| c.is_control()) {
            return Err(WireError::invalid(format!("location key {key:?}: 1 to 1024 bytes, no control characters")));
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Name of the object store, in its own case.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Name of the object.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nats://{}/{}", self.bucket, self.key)
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A NATS connection given by value.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NatsJwtConnectionInfo {
    /// Server.
    pub nats_url: String,
    /// User JWT.
    pub nats_user_jwt: String,
    /// User seed.
    pub nats_user_seed: String,
}

impl fmt::Debug for NatsJwtConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsJwtConnectionInfo").field("nats_url", &self.nats_url).finish_non_exhaustive()
    }
}

/// Starts a workload. Members in the order the `nex` command line writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployRequest {
    /// Program arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// For people. Always written: the Go node crashes without it.
    pub description: String,
    /// `native`, `v8`, `wasm` or `oci`.
    #[serde(rename = "type")]
    pub workload_type: String,
    /// The program.
    #[serde(serialize_with = "quirks::serialize_location")]
    pub location: Location,
    /// Started again when it fails.
    pub essential: bool,
    /// The signed claims.
    pub workload_jwt: String,
    /// The sealed environment.
    pub environment: String,
    /// JetStream domain of the object store.
    #[serde(serialize_with = "quirks::none_is_empty")]
    pub jsdomain: Option<String>,
    /// Public xkey of whoever sealed the environment.
    pub sender_public_key: String,
    /// The node this is meant for; empty if the sender named none.
    pub target_node: String,
    /// Subjects that call a function.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trigger_subjects: Vec<String>,
    /// Connection those subjects are on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_connection: Option<NatsJwtConnectionInfo>,
    /// Restarts so far, as a Go node counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_count: Option<u64>,
    /// Last restart, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<String>,
    /// Connection of the host services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_services: Option<NatsJwtConnectionInfo>,
    /// What Nex cannot ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moat: Option<Extension>,
}

/// As it arrives: nothing is certain to be there.
#[derive(Deserialize)]
struct DeployWire {
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    argv: Vec<String>,
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    description: String,
    #[serde(default, rename = "type", deserialize_with = "quirks::empty_is_none")]
    workload_type: Option<String>,
    #[serde(default, deserialize_with = "quirks::deserialize_location")]
    location: Option<Location>,
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    essential: bool,
    #[serde(default, deserialize_with = "quirks::empty_is_none")]
    workload_jwt: Option<String>,
    #[serde(default, deserialize_with = "quirks::empty_is_none")]
    environment: Option<String>,
    #[serde(default, deserialize_with = "quirks::empty_is_none")]
    jsdomain: Option<String>,
    #[serde(default, deserialize_with = "quirks::empty_is_none")]
    sender_public_key: Option<String>,
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    target_node: String,
    #[serde(default, deserialize_with = "quirks::null_is_default")]
    trigger_subjects: Vec<String>,
    #[serde(default)]
    trigger_connection: Option<NatsJwtConnectionInfo>,
    #[serde(default)]
    retry_count: Option<u64>,
    #[serde(default, deserialize_with = "quirks::empty_is_none")]
    retried_at: Option<String>,
    #[serde(default)]
    host_services: Option<NatsJwtConnectionInfo>,
    #[serde(default)]
    moat: Option<Extension>,
}

impl DeployRequest {
    /// Reads a request; what is missing is named.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        fn required<T>(member: &str, value: Option<T>) -> Result<T, WireError> {
            value.ok_or_else(|| WireError::invalid(format!("deploy request: {member} is missing")))
        }
        let wire: DeployWire =
            serde_json::from_slice(bytes).map_err(|e| WireError::invalid(format!("deploy request: {e}")))?;
        Ok(Self {
            argv: wire.argv,
            description: wire.description,
            workload_type: required("type", wire.workload_type)?,
            location: required("location", wire.location)?,
            essential: wire.essential,
            workload_jwt: required("workload_jwt", wire.workload_jwt)?,
            environment: required("environment", wire.environment)?,
            jsdomain: wire.jsdomain,
            sender_public_key: required("sender_public_key", wire.sender_public_key)?,
            target_node: wire.target_node,
            trigger_subjects: wire.trigger_subjects,
            trigger_connection: wire.trigger_connection,
            retry_count: wire.retry_count,
            retried_at: wire.retried_at,
            host_services: wire.host_services,
            moat: wire.moat,
        })
    }
}

/// Our extension of a deploy request. Strict: an unknown member is refused, because ignoring a limit is a bug.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// `service` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<WorkloadKind>,
    /// The weakest isolation accepted; the node's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Root file system; the node's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    /// Limits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Privileges.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: Security,
    /// `name`, `uid` or `uid:gid`; the node's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Number of the signal that asks it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// How long it may take after that, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// Life span, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Network: a mode or an object, as in the REST API; `isolated` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkWish>,
    /// Give it the operator's NATS server at 127.0.0.1:4222.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nats: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a root file system is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// The operator's list of host paths.
    Host,
    /// Nothing: for static programs.
    Scratch,
}

impl Template {
    /// The word used in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Scratch => "scratch",
        }
    }
}

/// Stops a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopRequest {
    /// Which.
    #[serde(deserialize_with = "quirks::null_is_default")]
    pub workload_id: String,
    /// New claims about the same name by the same issuer.
    #[serde(deserialize_with = "quirks::null_is_default")]
    pub workload_jwt: String,
    /// The node this is meant for.
    #[serde(deserialize_with = "quirks::null_is_default")]
    pub target_node: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// specs C.2, as the 0.2.7 command line sends it.
    const DEPLOY: &str = r#"{"description":"","type":"native","location":{"Scheme":"nats","Opaque":"","User":null,"Host":"ARTIFACTS","Path":"/billing_api","RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"","Fragment":"","RawFragment":""},"essential":false,"workload_jwt":"<token>","environment":"<sealed>","jsdomain":"","sender_public_key":"XAD2G7F4CQQJHSFXKXOBWEHINS2CMN2K2FVKQU7NBPP4BMVYNUOHZWPX","target_node":"NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA"}"#;

    #[test]
    fn a_request_of_the_nex_command_line_survives_byte_for_byte() {
        let request = DeployRequest::decode(DEPLOY.as_bytes()).unwrap();
        assert_eq!(request.location.to_string(), "nats://ARTIFACTS/billing_api");
        assert_eq!(request.jsdomain, None);
        assert_eq!(serde_json::to_string(&request).unwrap(), DEPLOY);
    }

    fn minimal(members: &str) -> String {
        format!(
            r#"{{"type":"native","location":"nats://B/k","workload_jwt":"j","environment":"e","sender_public_key":"x"{members}}}"#
        )
    }

    #[test]
    fn whatever_go_may_leave_out_may_be_left_out() {
        let request = DeployRequest::decode(
            minimal(r#","argv":null,"essential":null,"jsdomain":null,"trigger_subjects":null,"moat":null,"new":1"#)
                .as_bytes(),
        )
        .unwrap();
        assert!(!request.essential && request.argv.is_empty() && request.description.is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        for member in ["type", "location", "workload_jwt", "environment", "sender_public_key"] {
            for nothing in [serde_json::Value::Null, serde_json::Value::from("")] {
                let mut json: serde_json::Value = serde_json::from_str(DEPLOY).unwrap();
                json[member] = nothing;
                let error = DeployRequest::decode(json.to_string().as_bytes()).unwrap_err();
                assert_eq!(error, WireError::invalid(format!("deploy request: {member} is missing")));
            }
        }
        for bytes in [&b""[..], b"null", b"[]", b"{}"] {
            assert!(DeployRequest::decode(bytes).is_err());
        }
    }

    #[test]
    fn locations_are_objects_in_object_stores() {
        let read = |text: &str| Location::parse(text).map(|l| (l.bucket().to_owned(), l.key().to_owned()));
        assert_eq!(read("nats://Big_Bucket/a/b%20c/").unwrap(), ("Big_Bucket".to_owned(), "a/b c".to_owned()));
        for bad in ["", "nats://", "nats://B", "nats://B/", "file:///bin/true", "nats://a.b/c", "nats://B/%zz", "B/k"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn our_extension_refuses_what_it_does_not_know() {
        let with = |moat: &str| DeployRequest::decode(minimal(&format!(r#","moat":{moat}"#)).as_bytes());
        let extension = with(
            r#"{"kind":"job","isolation":"container","template":"scratch","resources":{"memory_bytes":1048576},"stop_signal":15,"nats":true,"network":{"mode":"internal","name":"db"}}"#,
        )
        .unwrap()
        .moat
        .unwrap();
        assert_eq!((extension.kind, extension.template), (Some(WorkloadKind::Job), Some(Template::Scratch)));
        assert_eq!(serde_json::to_string(&Extension::default()).unwrap(), "{}");
        for bad in [
            r#"{"network":{"ports":[]}}"#,
            r#"{"memory":1}"#,
            r#"{"resources":{"memory":1}}"#,
            r#"{"isolation":"none"}"#,
            r#"{"stop_signal":0}"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_auction_of_the_nex_command_line_is_read() {
        let request: AuctionRequest =
            serde_json::from_str(r#"{"arch":"amd64","os":"linux","workload_types":["native"],"tags":null}"#).unwrap();
        assert_eq!(request.workload_types, ["native"]);
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"arch":"amd64","os":"linux","workload_types":["native"]}"#
        );
    }
}

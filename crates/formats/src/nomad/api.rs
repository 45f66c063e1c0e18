//! The JSON of Nomad's API, `{"Job": {"ID": …}}`, in the words of job files.
//!
//! What comes out of `nomad job inspect` has every key there is, most of them empty: an empty one says nothing. Keys a server
//! writes about a registered job (`SERVERS`) say nothing of what it should be.

use std::collections::BTreeMap;

use crate::json::{Json, JsonKind};
use crate::problem::{Fault, Place, Reports};
use crate::tree::{Block, Body, Kind, Member, Value};

/// What a server says of a job it holds.
const SERVERS: [&str; 17] = [
    "Status",
    "StatusDescription",
    "Stable",
    "Version",
    "SubmitTime",
    "CreateIndex",
    "ModifyIndex",
    "JobModifyIndex",
    "Dispatched",
    "DispatchIdempotencyToken",
    "NomadTokenID",
    "VersionTag",
    "Stop",
    "ParentID",
    "Payload",
    "ConsulNamespace",
    "VaultNamespace",
];

/// How the value of a key is written in a job file.
#[derive(Clone, Copy)]
enum Shape {
    /// As it is.
    Same,
    /// Free keys: as they are.
    Free,
    /// A block, its keys by this table.
    Block(Keys),
    /// A list of blocks.
    Blocks(Keys),
    /// A list of blocks, each with a label under this key.
    Labelled(Keys, &'static str),
    /// A map of blocks by label.
    Mapped(Keys),
}

/// Key of the API, key of job files, how it is written.
type Keys = &'static [(&'static str, &'static str, Shape)];

use Shape::{Block as One, Blocks, Free, Labelled, Mapped, Same};

const JOB: Keys = &[
    ("Name", "name", Same),
    ("Namespace", "namespace", Same),
    ("Region", "region", Same),
    ("Type", "type", Same),
    ("Priority", "priority", Same),
    ("AllAtOnce", "all_at_once", Same),
    ("Datacenters", "datacenters", Same),
    ("NodePool", "node_pool", Same),
    ("Constraints", "constraint", Blocks(CONSTRAINT)),
    ("Affinities", "affinity", Blocks(CONSTRAINT)),
    ("Spreads", "spread", Blocks(SPREAD)),
    ("Update", "update", One(UPDATE)),
    ("Reschedule", "reschedule", One(RESCHEDULE)),
    ("Migrate", "migrate", One(UPDATE)),
    ("Periodic", "periodic", One(PERIODIC)),
    ("ParameterizedJob", "parameterized", One(PARAMETERIZED)),
    ("Meta", "meta", Free),
    ("TaskGroups", "group", Labelled(GROUP, "Name")),
];

const GROUP: Keys = &[
    ("Count", "count", Same),
    ("Constraints", "constraint", Blocks(CONSTRAINT)),
    ("Affinities", "affinity", Blocks(CONSTRAINT)),
    ("Spreads", "spread", Blocks(SPREAD)),
    ("Volumes", "volume", Mapped(VOLUME)),
    ("RestartPolicy", "restart", One(RESTART)),
    ("ReschedulePolicy", "reschedule", One(RESCHEDULE)),
    ("Disconnect", "disconnect", One(DISCONNECT)),
    ("StopAfterClientDisconnect", "stop_after_client_disconnect", Same),
    ("MaxClientDisconnect", "max_client_disconnect", Same),
    ("PreventRescheduleOnLost", "prevent_reschedule_on_lost", Same),
    ("EphemeralDisk", "ephemeral_disk", One(DISK)),
    ("Update", "update", One(UPDATE)),
    ("Migrate", "migrate", One(UPDATE)),
    ("Networks", "network", Blocks(NETWORK)),
    ("Services", "service", Blocks(SERVICE)),
    ("ShutdownDelay", "shutdown_delay", Same),
    ("MaxRunDuration", "max_run_duration", Same),
    ("Scaling", "scaling", Same),
    ("Consul", "consul", Same),
    ("Meta", "meta", Free),
    ("Tasks", "task", Labelled(TASK, "Name")),
];

const TASK: Keys = &[
    ("Driver", "driver", Same),
    ("User", "user", Same),
    ("Config", "config", Free),
    ("Env", "env", Free),
    ("Resources", "resources", One(RESOURCES)),
    ("RestartPolicy", "restart", One(RESTART)),
    ("KillSignal", "kill_signal", Same),
    ("KillTimeout", "kill_timeout", Same),
    ("ShutdownDelay", "shutdown_delay", Same),
    ("Leader", "leader", Same),
    ("Lifecycle", "lifecycle", One(LIFECYCLE)),
    ("LogConfig", "logs", One(LOGS)),
    ("Artifacts", "artifact", Blocks(ARTIFACT)),
    ("Templates", "template", Blocks(TEMPLATE)),
    ("VolumeMounts", "volume_mount", Blocks(MOUNT)),
    ("Constraints", "constraint", Blocks(CONSTRAINT)),
    ("Affinities", "affinity", Blocks(CONSTRAINT)),
    ("Services", "service", Blocks(SERVICE)),
    ("Meta", "meta", Free),
    ("DispatchPayload", "dispatch_payload", One(&[("File", "file", Same)])),
    ("CSIPluginConfig", "csi_plugin", Same),
    ("ScalingPolicies", "scaling", Same),
];

const CONSTRAINT: Keys = &[
    ("LTarget", "attribute", Same),
    ("RTarget", "value", Same),
    ("Operand", "operator", Same),
    ("Weight", "weight", Same),
];

const SPREAD: Keys = &[
    ("Attribute", "attribute", Same),
    ("Weight", "weight", Same),
    ("SpreadTarget", "target", Labelled(&[("Percent", "percent", Same)], "Value")),
];

const UPDATE: Keys = &[
    ("MaxParallel", "max_parallel", Same),
    ("HealthCheck", "health_check", Same),
    ("MinHealthyTime", "min_healthy_time", Same),
    ("HealthyDeadline", "healthy_deadline", Same),
    ("ProgressDeadline", "progress_deadline", Same),
    ("AutoRevert", "auto_revert", Same),
    ("AutoPromote", "auto_promote", Same),
    ("Canary", "canary", Same),
];

const RESTART: Keys = &[
    ("Attempts", "attempts", Same),
    ("Interval", "interval", Same),
    ("Delay", "delay", Same),
    ("Mode", "mode", Same),
    ("RenderTemplates", "render_templates", Same),
];

const RESCHEDULE: Keys = &[
    ("Attempts", "attempts", Same),
    ("Interval", "interval", Same),
    ("Delay", "delay", Same),
    ("DelayFunction", "delay_function", Same),
    ("MaxDelay", "max_delay", Same),
    ("Unlimited", "unlimited", Same),
];

const DISCONNECT: Keys = &[
    ("LostAfter", "lost_after", Same),
    ("Replace", "replace", Same),
    ("Reconcile", "reconcile", Same),
    ("StopOnClientAfter", "stop_on_client_after", Same),
];

const PERIODIC: Keys = &[
    ("Spec", "cron", Same),
    ("Specs", "crons", Same),
    ("ProhibitOverlap", "prohibit_overlap", Same),
    ("TimeZone", "time_zone", Same),
    ("Enabled", "enabled", Same),
];

const PARAMETERIZED: Keys =
    &[("Payload", "payload", Same), ("MetaRequired", "meta_required", Same), ("MetaOptional", "meta_optional", Same)];

const VOLUME: Keys = &[
    ("Type", "type", Same),
    ("Source", "source", Same),
    ("ReadOnly", "read_only", Same),
    ("AccessMode", "access_mode", Same),
    ("AttachmentMode", "attachment_mode", Same),
    ("MountOptions", "mount_options", Same),
    ("PerAlloc", "per_alloc", Same),
    ("Sticky", "sticky", Same),
];

const MOUNT: Keys = &[
    ("Volume", "volume", Same),
    ("Destination", "destination", Same),
    ("ReadOnly", "read_only", Same),
    ("PropagationMode", "propagation_mode", Same),
    ("SELinuxLabel", "selinux_label", Same),
];

const DISK: Keys = &[("SizeMB", "size", Same), ("Sticky", "sticky", Same), ("Migrate", "migrate", Same)];

const PORT: Keys = &[
    ("Value", "static", Same),
    ("To", "to", Same),
    ("HostNetwork", "host_network", Same),
    ("IgnoreCollision", "ignore_collision", Same),
];

const NETWORK: Keys = &[
    ("Mode", "mode", Same),
    ("Hostname", "hostname", Same),
    ("DNS", "dns", Same),
    ("Device", "device", Same),
    ("CNI", "cni", Same),
    ("MBits", "mbits", Same),
    ("ReservedPorts", "port", Labelled(PORT, "Label")),
    ("DynamicPorts", "port", Labelled(PORT, "Label")),
];

const SERVICE: Keys = &[
    ("Name", "name", Same),
    ("PortLabel", "port", Same),
    ("Provider", "provider", Same),
    ("AddressMode", "address_mode", Same),
    ("TaskName", "task", Same),
    ("Tags", "tags", Same),
    ("CanaryTags", "canary_tags", Same),
    ("Meta", "meta", Free),
    ("CanaryMeta", "canary_meta", Same),
    ("Connect", "connect", Same),
    ("Identity", "identity", Same),
    ("EnableTagOverride", "enable_tag_override", Same),
    ("TaggedAddresses", "tagged_addresses", Same),
    ("CheckRestart", "check_restart", One(CHECK_RESTART)),
    ("Checks", "check", Blocks(CHECK)),
];

const CHECK: Keys = &[
    ("Name", "name", Same),
    ("Type", "type", Same),
    ("Interval", "interval", Same),
    ("Timeout", "timeout", Same),
    ("PortLabel", "port", Same),
    ("Path", "path", Same),
    ("Protocol", "protocol", Same),
    ("Method", "method", Same),
    ("Body", "body", Same),
    ("Header", "header", Free),
    ("TLSSkipVerify", "tls_skip_verify", Same),
    ("Command", "command", Same),
    ("Args", "args", Same),
    ("TaskName", "task", Same),
    ("OnUpdate", "on_update", Same),
    ("CheckRestart", "check_restart", One(CHECK_RESTART)),
    ("SuccessBeforePassing", "success_before_passing", Same),
    ("FailuresBeforeCritical", "failures_before_critical", Same),
    ("FailuresBeforeWarning", "failures_before_warning", Same),
    ("InitialStatus", "initial_status", Same),
    ("AddressMode", "address_mode", Same),
    ("GRPCService", "grpc_service", Same),
    ("GRPCUseTLS", "grpc_use_tls", Same),
    ("TLSServerName", "tls_server_name", Same),
    ("Notes", "notes", Same),
    ("Expose", "expose", Same),
];

const CHECK_RESTART: Keys =
    &[("Limit", "limit", Same), ("Grace", "grace", Same), ("IgnoreWarnings", "ignore_warnings", Same)];

const RESOURCES: Keys = &[
    ("CPU", "cpu", Same),
    ("Cores", "cores", Same),
    ("MemoryMB", "memory", Same),
    ("MemoryMaxMB", "memory_max", Same),
    ("SecretsMB", "secrets", Same),
    ("DiskMB", "disk", Same),
    ("IOPS", "iops", Same),
    ("Networks", "network", Same),
    ("Devices", "device", Same),
    ("NUMA", "numa", Same),
];

const LIFECYCLE: Keys = &[("Hook", "hook", Same), ("Sidecar", "sidecar", Same)];

const LOGS: Keys = &[
    ("MaxFiles", "max_files", Same),
    ("MaxFileSizeMB", "max_file_size", Same),
    ("Disabled", "disabled", Same),
    ("Enabled", "enabled", Same),
];

const ARTIFACT: Keys = &[
    ("GetterSource", "source", Same),
    ("GetterOptions", "options", Free),
    ("GetterHeaders", "headers", Free),
    ("GetterMode", "mode", Same),
    ("GetterInsecure", "insecure", Same),
    ("RelativeDest", "destination", Same),
    ("Chown", "chown", Same),
];

const TEMPLATE: Keys = &[
    ("EmbeddedTmpl", "data", Same),
    ("SourcePath", "source", Same),
    ("DestPath", "destination", Same),
    ("ChangeMode", "change_mode", Same),
    ("ChangeSignal", "change_signal", Same),
    ("ChangeScript", "change_script", One(SCRIPT)),
    ("Splay", "splay", Same),
    ("Perms", "perms", Same),
    ("Uid", "uid", Same),
    ("Gid", "gid", Same),
    ("LeftDelim", "left_delimiter", Same),
    ("RightDelim", "right_delimiter", Same),
    ("Envvars", "env", Same),
    ("Once", "once", Same),
    ("ErrMissingKey", "error_on_missing_key", Same),
    ("Wait", "wait", Same),
];

const SCRIPT: Keys = &[
    ("Command", "command", Same),
    ("Args", "args", Same),
    ("Timeout", "timeout", Same),
    ("FailOnError", "fail_on_error", Same),
    ("RunOnFirstRender", "run_on_first_render", Same),
];

/// Keys that say nothing when they are this, although it is not empty: what a server fills in.
const SAID_BY_SERVERS: [(&str, &str); 5] = [
    ("OnUpdate", "require_healthy"),
    ("AddressMode", "auto"),
    ("SpecType", "cron"),
    ("Provider", "nomad"),
    ("VaultGrace", "0"),
];

/// Keys a server fills in with spans and numbers that mean nothing here.
const FILLED_IN: [&str; 3] = ["Stagger", "VaultGrace", "SpecType"];

/// Whether a file is of this form: an object with a job that has an ID.
pub(super) fn is_one(json: &Json) -> bool {
    job(json).is_some()
}

fn job(json: &Json) -> Option<&Json> {
    let JsonKind::Map(members) = &json.kind else { return None };
    let inner = members.get("Job").map(|(_, job)| job);
    let job = inner.unwrap_or(json);
    matches!(&job.kind, JsonKind::Map(members) if members.contains_key("ID")).then_some(job)
}

/// The tree a job file of the same content would have.
pub(super) fn body(json: &Json, reports: &Reports) -> Body {
    let Some((job, JsonKind::Map(members))) = job(json).map(|job| (job, &job.kind)) else { return Body::default() };
    if let JsonKind::Map(outer) = &json.kind {
        let strange = outer
            .iter()
            .filter(|(key, _)| members.len() != outer.len() && key.as_str() != "Job" && !members.contains_key(*key));
        for (key, (place, _)) in strange {
            reports.push(Fault::new(*place, format!("the file: there is no {key:?} beside a job")));
        }
    }
    let label = match members.get("ID") {
        Some((_, Json { place, kind: JsonKind::Text(id) })) => (id.clone(), *place),
        Some((place, _)) => {
            reports.push(Fault::new(*place, "the file: the ID of a job is a text"));
            (String::new(), *place)
        }
        None => (String::new(), job.place),
    };
    let attributes = renamed(members, JOB, "the job", &["ID"], reports);
    let inner = Body { place: job.place, attributes, blocks: Vec::new(), json: true, nanoseconds: true };
    let place = Place { end: label.1.end, ..label.1 };
    let block = Block { kind: "job".to_owned(), place, labels: vec![label], body: inner };
    Body { place: json.place, blocks: vec![block], json: true, nanoseconds: true, ..Body::default() }
}

/// Whether a value says nothing.
fn is_empty(json: &Json) -> bool {
    match &json.kind {
        JsonKind::Null => true,
        JsonKind::Bool(value) => !value,
        JsonKind::Number(number) => *number == 0.0,
        JsonKind::Text(text) => text.is_empty(),
        JsonKind::List(items) => items.is_empty(),
        JsonKind::Map(members) => members.values().all(|(_, value)| is_empty(value)),
    }
}

fn renamed(
    members: &BTreeMap<String, (Place, Json)>,
    keys: Keys,
    what: &str,
    taken: &[&str],
    reports: &Reports,
) -> BTreeMap<String, Member> {
    let mut out: BTreeMap<String, Member> = BTreeMap::new();
    for (key, (place, json)) in members {
        let known = keys.iter().find(|(name, ..)| name == key);
        let said = SAID_BY_SERVERS
            .iter()
            .any(|(name, word)| name == key && matches!(&json.kind, JsonKind::Text(text) if text == word));
        let server = what == "the job" && SERVERS.contains(&key.as_str());
        if taken.contains(&key.as_str()) || server || said || FILLED_IN.contains(&key.as_str()) {
            continue;
        }
        let Some((_, name, shape)) = known else {
            if !is_empty(json) {
                let near = crate::problem::alike(key, keys.iter().map(|(name, ..)| *name));
                let fault = Fault::new(*place, format!("{what}: {key:?} is not supported"));
                reports.push(match near {
                    Some(near) => fault.fix(format!("did you mean {near:?}?")),
                    None => fault.fix("docs/jobs.md says what a job may hold"),
                });
            }
            continue;
        };
        // An empty text or list is how Go writes that there is none; zero and false mean themselves where they are known.
        let absent = matches!(&json.kind, JsonKind::Null)
            || matches!(&json.kind, JsonKind::Text(text) if text.is_empty())
            || matches!(&json.kind, JsonKind::List(items) if items.is_empty())
            || (matches!(shape, One(_)) && is_empty(json))
            || (matches!(shape, Same) && is_empty(json) && says_nothing_empty(name));
        if absent {
            continue;
        }
        let value = shaped(json, *shape, key, reports);
        add(&mut out, name, *place, value);
    }
    out
}

/// Keys of which zero or false is the same as nothing, and which are not supported otherwise, or exclude others.
fn says_nothing_empty(name: &str) -> bool {
    matches!(
        name,
        "static"
            | "to"
            | "memory_max"
            | "cores"
            | "cpu"
            | "iops"
            | "disk"
            | "weight"
            | "ignore_collision"
            | "per_alloc"
            | "enable_tag_override"
            | "success_before_passing"
            | "failures_before_critical"
            | "failures_before_warning"
            | "grpc_use_tls"
            | "expose"
            | "tls_skip_verify"
            | "ignore_warnings"
            | "mbits"
            | "render_templates"
            | "sticky"
            | "prevent_reschedule_on_lost"
            | "run_on_first_render"
            | "secrets"
            | "lost_after"
    ) || matches!(name, "connect" | "dns" | "scaling" | "numa" | "wait" | "consul" | "identity")
}

/// Reserved and dynamic ports come under one name.
fn add(out: &mut BTreeMap<String, Member>, name: &str, place: Place, value: Value) {
    match (out.get_mut(name).map(|member| &mut member.value.kind), value.kind) {
        (Some(Kind::Map(all)), Kind::Map(more)) => all.extend(more),
        (_, kind) => {
            let value = Value::new(value.place, kind);
            out.insert(name.to_owned(), Member { place, value });
        }
    }
}

fn shaped(json: &Json, shape: Shape, what: &str, reports: &Reports) -> Value {
    let place = json.place;
    let map = |members: BTreeMap<String, Member>| Value::new(place, Kind::Map(members));
    match (shape, &json.kind) {
        (One(keys), JsonKind::Map(members)) => map(renamed(members, keys, what, &[], reports)),
        (Blocks(keys), JsonKind::List(items)) => {
            Value::new(place, Kind::List(items.iter().map(|item| shaped(item, One(keys), what, reports)).collect()))
        }
        (Mapped(keys), JsonKind::Map(members)) => {
            let one = |(label, (place, json)): (&String, &(Place, Json))| {
                let value = match &json.kind {
                    JsonKind::Map(members) => {
                        Value::new(json.place, Kind::Map(renamed(members, keys, what, &["Name"], reports)))
                    }
                    _ => Value::from_json(json.clone()),
                };
                (label.clone(), Member { place: *place, value })
            };
            map(members.iter().map(one).collect())
        }
        (Labelled(keys, label), JsonKind::List(items)) => {
            let mut out = BTreeMap::new();
            for item in items {
                let JsonKind::Map(members) = &item.kind else {
                    reports.push(Fault::new(item.place, format!("{what}: this is not an object")));
                    continue;
                };
                let Some((_, Json { place, kind: JsonKind::Text(name) })) = members.get(label) else {
                    reports.push(Fault::new(item.place, format!("{what}: {label} is missing")));
                    continue;
                };
                let value = Value::new(item.place, Kind::Map(renamed(members, keys, name, &[label], reports)));
                if out.insert(name.clone(), Member { place: *place, value }).is_some() {
                    reports.push(Fault::new(*place, format!("{what}: {name:?} is given twice")));
                }
            }
            map(out)
        }
        _ => Value::from_json(json.clone()),
    }
}

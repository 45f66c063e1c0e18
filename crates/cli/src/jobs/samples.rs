//! What a node might answer, for tests of how it looks.

use std::time::Duration;

use moat_api::rest::allocation::{AllocationChecks, AllocationFile, AllocationStats, AllocationView, TaskStats};
use moat_api::rest::deployment::{Deployment, DeploymentGroup};
use moat_api::rest::evaluation::{Evaluation, PlacementFailure};
use moat_api::rest::job::{ChildrenSummary, FutureReschedule, GroupSummary, JobDetail, JobPlan, JobRow, JobVersion};
use moat_api::rest::node::ClusterNode;
use moat_model::Timestamp;
use moat_model::job::diff::JobDiff;
use moat_model::job::{Job, NodeState};
use serde::de::DeserializeOwned;
use serde_json::json;

const ALLOC: &str = "11111111-aaaa-4bbb-8ccc-000000000001";
const OTHER: &str = "22222222-aaaa-4bbb-8ccc-000000000002";
const NODE: &str = "NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA";
const EVALUATION: &str = "33333333-aaaa-4bbb-8ccc-000000000003";
const DEPLOYMENT: &str = "44444444-aaaa-4bbb-8ccc-000000000004";
const SUBMITTED: &str = "2026-11-22T12:00:00Z";

/// A moment an hour after everything was submitted.
pub fn now() -> Timestamp {
    super::show::moment(SUBMITTED).unwrap().plus(Duration::from_secs(3600))
}

fn at(secs: u64) -> i64 {
    super::show::moment(SUBMITTED).unwrap().plus(Duration::from_secs(secs)).as_millis()
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A job without groups: nothing that is shown comes from them.
pub fn job() -> Job {
    read(json!({
        "id": "web", "name": "the web", "namespace": "default", "region": "global", "type": "service", "priority": 50,
        "datacenters": ["dc1", "dc2"], "node_pool": "default", "groups": [],
    }))
}

/// A list.
pub fn rows() -> Vec<JobRow> {
    let row = |id: &str, kind: &str, status: &str| JobRow {
        id: id.to_owned(),
        name: id.to_owned(),
        kind: kind.to_owned(),
        priority: 50,
        status: status.to_owned(),
        stopped: false,
        version: 0,
        submitted_at: SUBMITTED.to_owned(),
        periodic: false,
        parameterized: false,
        parent: None,
    };
    vec![
        JobRow { periodic: true, ..row("backup", "batch", "running") },
        JobRow { parameterized: true, ..row("convert", "batch", "running") },
        JobRow { stopped: true, ..row("leaving", "service", "running") },
        JobRow { stopped: true, ..row("old", "service", "dead") },
        row("web", "service", "pending"),
    ]
}

/// Two groups of which one has no place.
pub fn detail() -> JobDetail {
    JobDetail {
        job: job(),
        version: 3,
        modify_index: 17,
        status: "running".to_owned(),
        stopped: false,
        submitted_at: SUBMITTED.to_owned(),
        summary: [
            ("api".to_owned(), GroupSummary { running: 2, complete: 1, ..GroupSummary::default() }),
            ("db".to_owned(), GroupSummary { queued: 1, failed: 2, lost: 1, ..GroupSummary::default() }),
        ]
        .into(),
        deployment: Some(deployment()),
        blocked: evaluations().into_iter().next(),
        reschedules: vec![FutureReschedule {
            group: "db".to_owned(),
            allocation: OTHER.to_owned(),
            at: "2026-11-22T13:00:30Z".to_owned(),
        }],
        next_launch: None,
        children: None,
    }
}

/// A parent's.
pub fn children() -> ChildrenSummary {
    ChildrenSummary { pending: 1, running: 2, dead: 3 }
}

/// With a canary that was accepted.
pub fn deployment() -> Deployment {
    let group = DeploymentGroup {
        desired: 3,
        placed: 3,
        healthy: 2,
        unhealthy: 1,
        canaries: 1,
        promoted: true,
        progress_by: Some("2026-11-22T12:10:00Z".to_owned()),
        ..DeploymentGroup::default()
    };
    Deployment {
        id: DEPLOYMENT.to_owned(),
        job: "web".to_owned(),
        job_version: 3,
        status: "running".to_owned(),
        description: "Deployment is running".to_owned(),
        groups: [("api".to_owned(), group)].into(),
    }
}

/// One that could not place everything, one that could.
pub fn evaluations() -> Vec<Evaluation> {
    let good = Evaluation {
        id: EVALUATION.to_owned(),
        job: "web".to_owned(),
        job_version: 3,
        status: "complete".to_owned(),
        description: String::new(),
        triggered_by: "job-register".to_owned(),
        deployment: Some(DEPLOYMENT.to_owned()),
        failures: [].into(),
        created_at: SUBMITTED.to_owned(),
    };
    let bad = Evaluation { status: "blocked".to_owned(), failures: failures(), ..good.clone() };
    vec![bad, good]
}

fn failures() -> std::collections::BTreeMap<String, PlacementFailure> {
    let reasons = [
        "Constraint \"missing drivers\": 2 nodes excluded by filter",
        "Resources exhausted on 1 nodes",
        "Dimension \"memory\" exhausted on 1 nodes",
    ];
    let failure = PlacementFailure { unplaced: 2, reasons: reasons.map(str::to_owned).to_vec() };
    [("db".to_owned(), failure)].into()
}

/// One that runs, one its node has not heard of, one that failed.
pub fn allocations() -> Vec<AllocationView> {
    let allocation = |id: &str, group: &str| {
        json!({
            "id": id, "namespace": "default", "job": "web", "job_version": 3, "group": group, "index": 0, "node": NODE,
            "desired": "run", "generation": 1, "created": at(0), "modified": at(10), "deployment": DEPLOYMENT,
        })
    };
    let status = json!({
        "id": ALLOC, "node": NODE, "generation": 1, "client": "running", "description": "Tasks are running",
        "healthy": true, "modified": at(60), "checks": {},
        "ports": { "http": { "host_ip": "10.0.0.1", "host_port": 23456, "to": 8080 } },
        "tasks": { "server": {
            "phase": "running", "restarts": 1, "started": at(30), "finished": at(20),
            "events": [
                { "at": at(1), "kind": "Received", "message": "" },
                { "at": at(5), "kind": "Started", "message": "" },
                { "at": at(20), "kind": "Terminated", "message": "Exit code: 1" },
                { "at": at(21), "kind": "Restarting", "message": "Task restarting in 9s" },
                { "at": at(30), "kind": "Started", "message": "" },
            ],
        } },
    });
    vec![
        read(json!({
            "allocation": allocation(ALLOC, "api"), "node_name": "one", "client": "running",
            "description": "Tasks are running", "status": status,
        })),
        read(json!({ "allocation": allocation(OTHER, "db"), "client": "pending" })),
    ]
}

/// Of the first of them.
pub fn stats() -> AllocationStats {
    let task = TaskStats {
        memory_bytes: 12 << 20,
        memory_peak_bytes: Some(20 << 20),
        cpu_usec: 1_500_000,
        pids: 3,
        oom_kills: 0,
    };
    AllocationStats { tasks: [("server".to_owned(), task)].into() }
}

/// Good and bad.
pub fn checks() -> AllocationChecks {
    read(json!({ "checks": {
        "web/alive": { "status": "success", "output": "HTTP 200", "at": at(3590) },
        "web/ready": { "status": "failure", "output": "connection refused\nand more", "at": at(3580) },
    } }))
}

/// A directory and a file.
pub fn files() -> Vec<AllocationFile> {
    let file = |name: &str, directory, size| AllocationFile {
        name: name.to_owned(),
        directory,
        mode: if directory { "drwxrwxrwx" } else { "-rw-r--r--" }.to_owned(),
        size,
        modified_at: SUBMITTED.to_owned(),
    };
    vec![file("logs", true, 4096), file("data.bin", false, 1_500_000)]
}

/// One that takes work, one that is drained and away.
pub fn nodes() -> Vec<ClusterNode> {
    let facts = |id: &str, name: &str| {
        json!({
            "id": id, "name": name, "datacenter": "dc1", "region": "global", "class": "", "pool": "default",
            "attributes": { "kernel.name": "linux", "driver.exec": "1" }, "meta": { "rack": "7" },
            "capacity": { "cpu_mhz": 8000, "cores": 4, "memory_mb": 16000, "disk_mb": 100_000 },
            "host_volumes": { "certs": { "read_only": true }, "data": { "read_only": false } }, "version": "0.1.0",
        })
    };
    let away = NODE.replace("NAO5", "NBBB");
    let drain = json!({ "deadline": { "secs": 3600, "nanos": 0 }, "started": at(3000), "message": "new disks" });
    vec![
        ClusterNode {
            facts: read(facts(NODE, "one")),
            wish: read(json!({ "eligibility": "eligible" })),
            state: NodeState::Ready,
        },
        ClusterNode {
            facts: read(facts(&away, "two")),
            wish: read(json!({ "eligibility": "ineligible", "drain": drain })),
            state: NodeState::Down,
        },
    ]
}

fn diff() -> JobDiff {
    let field =
        |kind: &str, name: &str, old: &str, new: &str| json!({ "kind": kind, "name": name, "old": old, "new": new });
    read(json!({
        "kind": "edited", "id": "web",
        "fields": [field("edited", "priority", "50", "60"), field("none", "region", "global", "global")],
        "objects": [{ "kind": "added", "name": "constraint", "objects": [],
            "fields": [field("added", "attribute", "", "${attr.kernel.name}"), field("added", "value", "", "linux")] }],
        "groups": [{
            "kind": "edited", "name": "api",
            "fields": [{ "kind": "edited", "name": "count", "old": "2", "new": "3", "annotations": ["forces create"] }],
            "objects": [], "updates": { "create": 1, "create/destroy update": 2, "ignore": 0 },
            "tasks": [
                { "kind": "edited", "name": "server", "annotations": ["forces create/destroy update"],
                    "fields": [field("deleted", "user", "www", "")],
                    "objects": [{ "kind": "edited", "name": "config", "objects": [],
                        "fields": [field("edited", "command", "local/a", "local/b")] }] },
                { "kind": "none", "name": "helper", "fields": [], "objects": [], "annotations": [] },
            ],
        }],
    }))
}

/// With differences, a group without a place, and a warning.
pub fn plan() -> JobPlan {
    JobPlan {
        diff: diff(),
        changes: true,
        failures: failures(),
        modify_index: 7,
        next_launch: None,
        warnings: vec!["group \"db\": its count is 0".to_owned()],
    }
}

/// Two of them.
pub fn versions() -> Vec<JobVersion> {
    let version = |version, current: bool, diff| JobVersion {
        version,
        stable: !current,
        current,
        submitted_at: SUBMITTED.to_owned(),
        job: job(),
        diff,
    };
    vec![version(3, true, Some(diff())), version(2, false, None)]
}

//! Several nodes over one real server, with hands that only pretend.

mod cluster;
mod cut;
mod declared;
mod pretend;
mod quorum;
mod store;

use moat_model::job::{Job, JobType};
use moat_model::{JobId, Namespace, NodeId};

fn node(letter: char) -> NodeId {
    NodeId::parse(&format!("N{}", letter.to_string().repeat(55))).unwrap()
}

/// One group `g` of so many instances of one task.
fn job(name: &str, count: u32) -> Job {
    let text = serde_json::json!({
        "id": name, "name": name, "namespace": "default", "region": "global", "type": "service", "priority": 50,
        "datacenters": ["*"], "node_pool": "all",
        "groups": [{
            "name": "g", "count": count,
            "restart": restart(), "reschedule": reschedule(),
            "disconnect": {"replace": true}, "migrate": moat_model::job::Migrate::default(),
            "ephemeral_disk": {"size_mb": 10, "sticky": false, "migrate": false},
            "tasks": [{
                "name": "t", "driver": "exec", "config": {"command": "x"},
                "resources": {"cpu_mhz": 10, "memory_mb": 10, "secrets_mb": 1},
                "kill_signal": moat_model::spec::Signal::INT,
                "kill_timeout": {"secs": 5, "nanos": 0},
                "logs": {"max_files": 1, "max_file_size_mb": 1, "disabled": false}
            }]
        }]
    });
    let job: Job = serde_json::from_value(text).unwrap();
    assert_eq!((job.kind, &job.id), (JobType::Service, &JobId::parse(name).unwrap()));
    job
}

fn restart() -> serde_json::Value {
    serde_json::json!({"attempts": 0, "interval": {"secs": 60, "nanos": 0}, "delay": {"secs": 1, "nanos": 0}, "mode": "fail"})
}

fn reschedule() -> serde_json::Value {
    serde_json::json!({
        "attempts": 0, "interval": {"secs": 0, "nanos": 0}, "delay": {"secs": 5, "nanos": 0},
        "delay_function": "constant", "max_delay": {"secs": 5, "nanos": 0}, "unlimited": true
    })
}

fn default_namespace() -> Namespace {
    Namespace::default_namespace()
}

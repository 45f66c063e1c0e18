//! The document against the server, by a fuzzer that reads the document: no answer with 500, none that is not
//! documented.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/rest.rs"]
mod rest;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hyper::header::HeaderMap;
use moat_engine::fake::FakeConfig;
use moat_node::config::ApiConfig;
use moat_testkit::{NatsServer, Release, not_run, tool, wait_until};
use rest::{Client, Host, SOON};
use serde_json::json;

/// Longest run. The fuzzer is bounded by examples, a loaded machine by this.
const RUN_MAX: Duration = Duration::from_secs(150);

/// What is a cluster's or a whole node's, and answers 503 without it, which the fuzzer takes for a fault.
const OF_A_WHOLE_NODE: &str = "/(jobs|allocations|evaluations|deployments|jails|releases|jail-templates)(/|$)|/nodes/";
/// What never ends by itself, or is no request and answer.
const STREAMS: &str = "/(ws|terminal|watch|console)$|/allocations/.*/exec$";

/// Runs the fuzzer over a part of the document.
async fn fuzz(fuzzer: &Path, address: SocketAddr, dir: &Path, part: &[&str]) {
    let url = format!("http://{address}/api/v1/openapi.json");
    let mut command = tokio::process::Command::new(fuzzer);
    command.args(["run", &url, "--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--no-color"]);
    // A stream without an end is as it should be; a request that takes longer is not waited for.
    command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
    command.args(["--request-timeout", "5", "--suppress-health-check", "all", "--seed", "7"]);
    command.args(part);
    // It cannot make archives.
    command.args(["--exclude-operation-id", "upload_tar"]);
    command.current_dir(dir).kill_on_drop(true);
    let output =
        tokio::time::timeout(RUN_MAX, command.output()).await.unwrap_or_else(|_| panic!("{RUN_MAX:?} are over"));
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let end = text.char_indices().rev().nth(12_000).map_or(0, |(at, _)| at);
    assert!(output.status.success(), "{}\n{}", &text[end..], String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_holds() {
    let Some(fuzzer) = tool("schemathesis") else {
        not_run("openapi-fuzz", "schemathesis is not installed");
        return;
    };
    let host = Host::new(FakeConfig { lines: vec!["ok".to_owned()], ..FakeConfig::default() });
    let daemon = host.up().await;
    let client = daemon.client();
    client.post("sandboxes", &json!({"template": "scratch"})).await.expect(201);
    let excluded = format!("{STREAMS}|{OF_A_WHOLE_NODE}");
    fuzz(&fuzzer, daemon.address, host.dir.path(), &["--exclude-path-regex", &excluded]).await;
    client.get("nodes").await.expect(200);
}

/// The routes of jobs and jails, on a node that has NATS, a job that runs and a jail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_holds_for_jobs_and_jails() {
    let Some(fuzzer) = tool("schemathesis") else {
        not_run("openapi-fuzz-jobs-jails", "schemathesis is not installed");
        return;
    };
    let Some(nats) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let mut host = Host::new(FakeConfig { lines: vec!["ok".to_owned()], ..FakeConfig::default() });
    host.config.nats.servers = vec![nats.url()];
    host.config.api = ApiConfig { listen: vec!["127.0.0.1:0".parse().unwrap()], ..ApiConfig::default() };
    let daemon = host.up().await;
    let client = Client { address: daemon.node.api()[0], headers: HeaderMap::new() };
    let known = async || (client.get("jobs").await.status == 200).then_some(());
    wait_until(SOON, "jobs are there", known).await.unwrap();
    let file = "job \"a\" {\n task \"t\" {\n driver = \"exec\"\n config {\n command = \"x\"\n }\n }\n}\n";
    let parsed = client.post("jobs/parse", &json!({ "text": file })).await.expect(200);
    client.post("jobs", &json!({ "job": parsed["job"] })).await.expect(200);
    let jail = json!({"name": "a", "kind": "empty"});
    client.post("jails", &jail).await.expect(200);
    let part = ["--include-path-regex", OF_A_WHOLE_NODE, "--exclude-path-regex", STREAMS];
    fuzz(&fuzzer, client.address, host.dir.path(), &part).await;
    client.get("jobs").await.expect(200);
    client.get("jails").await.expect(200);
}

//! The document against the server, by a fuzzer that reads the document: no answer with 500, none that is not
//! documented.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/rest.rs"]
mod rest;

use std::time::Duration;

use moat_engine::fake::FakeConfig;
use moat_testkit::{not_run, tool};
use rest::Host;
use serde_json::json;

/// Longest run. The fuzzer is bounded by examples, a loaded machine by this.
const RUN_MAX: Duration = Duration::from_secs(150);

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
    let url = format!("http://{}/api/v1/openapi.json", daemon.address);
    let mut command = tokio::process::Command::new(fuzzer);
    command.args(["run", &url, "--max-examples", "8", "--phases", "examples,coverage,fuzzing", "--no-color"]);
    // A stream without an end is as it should be; a request that takes longer is not waited for.
    command.args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]);
    command.args(["--request-timeout", "5", "--suppress-health-check", "all", "--seed", "7"]);
    // Without NATS what is a cluster's answers 503, which the fuzzer takes for a fault.
    let excluded = "/(ws|terminal|watch)$|/(jobs|allocations|evaluations|deployments)(/|$)|/nodes/";
    command.args(["--exclude-path-regex", excluded]);
    // It cannot make archives.
    command.args(["--exclude-operation-id", "upload_tar"]);
    command.current_dir(host.dir.path()).kill_on_drop(true);
    let output =
        tokio::time::timeout(RUN_MAX, command.output()).await.unwrap_or_else(|_| panic!("{RUN_MAX:?} are over"));
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let end = text.char_indices().rev().nth(12_000).map_or(0, |(at, _)| at);
    assert!(output.status.success(), "{}\n{}", &text[end..], String::from_utf8_lossy(&output.stderr));
    client.get("nodes").await.expect(200);
}

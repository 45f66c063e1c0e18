//! The command line from outside: help, errors and shapes that need no node.
#![expect(clippy::unwrap_used, reason = "tests")]

use assert_cmd::Command;
use moat_testkit::{NatsServer, Release};
use predicates::prelude::*;
use tempfile::TempDir;

/// `moat` in a world of its own: no keys, contexts, credentials or variables of whoever runs the tests.
fn moat(home: &TempDir) -> Command {
    let mut command = Command::cargo_bin("moat").unwrap();
    command.env_clear().env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
    command.timeout(std::time::Duration::from_secs(60));
    command
}

/// Nobody listens on port 1.
const NOWHERE: &str = "nats://127.0.0.1:1";

#[test]
fn every_command_explains_itself() {
    let home = TempDir::new().unwrap();
    let help = moat(&home).arg("--help").assert().success().get_output().stdout.clone();
    let help = String::from_utf8(help).unwrap();
    let commands = ["up", "node", "run", "devrun", "ps", "stop", "logs", "events", "exec", "lameduck", "completions"];
    for command in commands.into_iter().chain(["sandbox", "template", "image", "snapshot", "network", "api-key"]) {
        assert!(help.contains(command), "{command}");
        moat(&home).args([command, "--help"]).assert().success().stdout(predicate::str::contains("Usage: moat"));
    }
    moat(&home).args(["yeet", "--help"]).assert().success().stdout(predicate::str::contains("devrun"));
    moat(&home).args(["completions", "bash"]).assert().success().stdout(predicate::str::contains("_moat"));
}

#[test]
fn mistakes_have_their_exit_codes() {
    let home = TempDir::new().unwrap();
    moat(&home).arg("ps").arg("--nonsense").assert().code(2);
    moat(&home).args(["run", "--nonsense"]).assert().code(125);
    moat(&home).args(["exec"]).assert().code(125);
    moat(&home).args(["-s", NOWHERE, "ps"]).assert().code(9).stderr(predicate::str::contains("(unavailable)"));
    moat(&home).args(["-s", NOWHERE, "run", "nats://B/app"]).assert().code(125);
    moat(&home).args(["run", "file:///bin/true"]).assert().code(125).stderr(predicate::str::contains("not supported"));
    moat(&home).args(["run", "nats://B/app", "NAME"]).assert().code(125).stderr(predicate::str::contains("KEY=VALUE"));
    moat(&home).args(["--context", "none", "ps"]).assert().code(4);
    moat(&home).args(["--prefix", "a b", "ps"]).assert().code(2);
    moat(&home).args(["devrun", "/etc/passwd"]).assert().code(125).stderr(predicate::str::contains("not a program"));
    moat(&home).args(["--json", "completions", "bash"]).assert().code(2);
    moat(&home).args(["sandbox", "run", "host", "--nonsense"]).assert().code(125);
    moat(&home).args(["sandbox", "exec"]).assert().code(125);
    moat(&home).args(["sandbox", "create"]).assert().code(2).stderr(predicate::str::contains("hint: "));
    moat(&home).args(["sandbox", "cp", "a", "b"]).assert().code(2).stderr(predicate::str::contains("SANDBOX:PATH"));
    moat(&home).args(["--url", "nonsense", "sandbox", "ls"]).assert().code(2);
}

#[test]
fn mistakes_about_networks_name_the_flag_and_show_how() {
    let home = TempDir::new().unwrap();
    let wrong = |words: &[&str], wanted: [&str; 2]| {
        let output = moat(&home).args(words).assert().code(2).get_output().clone();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(wanted.iter().all(|part| told.contains(part)), "{words:?}: {told}");
    };
    let create = |flag, value| ["sandbox", "create", "host", flag, value];
    wrong(&create("--network", "bridge"), ["--network <MODE>", "internal"]);
    wrong(&create("--allow", "pypi.org:https"), ["--allow <DESTINATION>", "For one: :443"]);
    wrong(&create("--deny", "::1"), ["--deny <DESTINATION>", "no IPv6"]);
    wrong(&create("--publish", "80"), ["--publish", "For one: 8080:80"]);
    wrong(&create("--address", "fe80::1"), ["--address <ADDRESS>", "10.1.2.3"]);
    wrong(&create("--bandwidth-up", "10"), ["--bandwidth-up <RATE>", "10mbit"]);
    wrong(&["sandbox", "network", "sb-1", "--deny", "any"], ["--set", "hint: "]);
    wrong(&["sandbox", "network", "sb-1", "--set"], ["--set", "for one: --set --deny"]);
    wrong(&["network", "test", "pypi.org"], ["from where?", "--network internet"]);
    wrong(&["network", "test", "sb-1"], ["where to?", "pypi.org:443"]);
    wrong(&["sandbox", "url", "sb-1", "0"], ["<PORT>", "1..=65535"]);
    let policy = home.path().join("policy.json");
    std::fs::write(&policy, r#"{"mode": "internet", "egress": {"allow": []}}"#).unwrap();
    wrong(&["sandbox", "network", "sb-1", "--file", policy.to_str().unwrap()], ["policy.json", "`allow`"]);
}

#[test]
fn nobody_at_the_rest_api_is_told_with_a_hint() {
    let home = TempDir::new().unwrap();
    let nobody = |words: &[&str]| {
        let mut command = moat(&home);
        command.args(["--url", "http://127.0.0.1:1"]).args(words);
        command.assert()
    };
    nobody(&["sandbox", "ls"]).code(9).stderr(predicate::str::contains("hint: is a node there?"));
    nobody(&["template", "ls"]).code(9);
    nobody(&["image", "ls"]).code(9);
    nobody(&["snapshot", "ls"]).code(9);
    nobody(&["sandbox", "run", "host", "--", "true"]).code(125);
    let output = nobody(&["--json", "sandbox", "ls"]).code(9).get_output().clone();
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"]["hint"].as_str().unwrap().contains("moat up"));
}

#[test]
fn api_keys_are_made_listed_and_revoked() {
    let home = TempDir::new().unwrap();
    let dir = home.path().join("node");
    std::fs::create_dir(&dir).unwrap();
    let key = |words: &[&str]| {
        let mut command = moat(&home);
        command.arg("api-key").args(words).arg("--data-dir").arg(&dir);
        let output = command.assert().success().get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    let secret = key(&["create", "--for-namespace", "team", "--note", "ci"]);
    assert!(secret.starts_with("moat_"), "{secret}");
    key(&["create", "--admin"]);
    let listed: serde_json::Value = serde_json::from_str(&key(&["list", "--json"])).unwrap();
    assert_eq!(
        (listed[0]["scope"]["namespace"].as_str(), listed[1]["scope"]["scope"].as_str()),
        (Some("team"), Some("admin"))
    );
    assert!(!key(&["list"]).contains(secret.trim()), "the secret is shown once");
    key(&["revoke", listed[0]["id"].as_str().unwrap()]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&key(&["list", "--json"])).unwrap().as_array().unwrap().len(),
        1
    );
    moat(&home).args(["api-key", "create"]).assert().code(2);
}

#[test]
fn a_shell_is_given_candidates_and_no_errors() {
    let home = TempDir::new().unwrap();
    let candidates = |words: &[&str]| {
        let mut command = moat(&home);
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true").env("_CLAP_IFS", "\n");
        command.env("MOAT_URL", "http://127.0.0.1:1").arg("--").args(words);
        let output = command.assert().success().get_output().clone();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(candidates(&["moat", "sandb"]).contains("sandbox"));
    assert_eq!(candidates(&["moat", "sandbox", "pause", "sb-"]), "", "nobody to ask");
}

#[test]
fn failures_are_json_for_scripts() {
    let home = TempDir::new().unwrap();
    let output = moat(&home).args(["-s", NOWHERE, "--json", "node", "ls"]).assert().code(9).get_output().clone();
    assert!(output.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "unavailable");
    assert!(error["error"]["message"].as_str().unwrap().contains("127.0.0.1:1"));
}

#[test]
fn the_version_is_told() {
    let home = TempDir::new().unwrap();
    let output = moat(&home).args(["version", "--json"]).assert().success().get_output().stdout.clone();
    let version: serde_json::Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(version["nex"], "0.2.7");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let home = TempDir::new().unwrap();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("moat"))
        .env("HOME", home.path())
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_server_without_nodes_is_an_empty_world() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let home = TempDir::new().unwrap();
    let url = server.url();
    tokio::task::spawn_blocking(move || {
        moat(&home).args(["-s", &url, "--json", "node", "ls"]).assert().success().stdout("[]\n");
        moat(&home).args(["-s", &url, "--json", "ps"]).assert().success().stdout("[]\n");
        moat(&home).args(["-s", &url, "stop", "web"]).assert().code(4);
        moat(&home).args(["-s", &url, "lameduck", "web"]).assert().code(4);
        moat(&home).args(["-s", &url, "devrun", "/proc/self/exe", "--name", "web"]).assert().code(125);
        // A context of the `nats` command line leads to the same place.
        let contexts = home.path().join(".config/nats/context");
        std::fs::create_dir_all(&contexts).unwrap();
        std::fs::write(contexts.join("test.json"), serde_json::json!({"url": url}).to_string()).unwrap();
        moat(&home).args(["--context", "test", "--json", "ps"]).assert().success().stdout("[]\n");
        std::fs::write(home.path().join(".config/nats/context.txt"), "test").unwrap();
        moat(&home).args(["--json", "ps"]).assert().success().stdout("[]\n");
    })
    .await
    .unwrap();
}

//! Series J through the real program: plans and drains.

use std::time::Duration;

use serde_json::Value;

use crate::stage::{Stage, client, id, is_over, is_running};

fn sleeper(name: &str, kind: &str, more: &str) -> String {
    format!(
        "job \"{name}\" {{\n type = \"{kind}\"\n group \"g\" {{\n{more}\n task \"t\" {{\n driver = \"exec\"\n config {{\n \
         command = \"/bin/sh\"\n args = [\"-c\", \"echo up; exec sleep 1000\"]\n }}\n }}\n }}\n}}\n"
    )
}

/// A batch job that takes its time to end: asked to, it says so and goes on.
fn stubborn(name: &str, kill_timeout: &str) -> String {
    let script = "trap 'echo asked' TERM INT; echo up; while :; do sleep 0.1; done";
    format!(
        "job \"{name}\" {{\n type = \"batch\"\n group \"g\" {{\n task \"t\" {{\n driver = \"exec\"\n \
         kill_timeout = \"{kill_timeout}\"\n config {{\n command = \"/bin/sh\"\n args = [\"-c\", \"{script}\"]\n }}\n }}\n \
         }}\n}}\n"
    )
}

/// J05: 0 if nothing would start or stop, 1 if something would, 255 if it cannot be told; and an index that moved refuses.
pub async fn j05_plans_exit_codes_and_an_index_that_moved(stage: &Stage) {
    let code = |words: &[&str]| stage.moat(words).status.code();
    let file = stage.job("j05.hcl", &sleeper("j05", "service", ""));
    assert_eq!(code(&["job", "plan", &file]), Some(1), "it is not there yet");
    assert_eq!(code(&["job", "run", "--check-index", "7", &file]), Some(1), "it has no index yet");
    assert!(stage.allocations("j05").is_empty(), "refused, so not declared");
    stage.says(&["job", "run", "--detach", "--check-index", "0", &file]);
    stage.until("j05", "it runs", is_running).await;
    assert_eq!(code(&["job", "run", "--detach", "--check-index", "0", &file]), Some(1), "it is there by now");
    assert_eq!(code(&["job", "plan", &file]), Some(0), "nothing would change");

    let more = stage.job("j05-more.hcl", &sleeper("j05", "service", "count = 2"));
    let plan = stage.moat(&["job", "plan", &more]);
    let text = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert_eq!(plan.status.code(), Some(1), "{text}");
    let hint = text.lines().find(|line| line.contains("--check-index")).unwrap_or_else(|| panic!("{text}"));
    let index = hint.split_whitespace().skip_while(|word| *word != "--check-index").nth(1).unwrap().to_owned();
    // Somebody is faster.
    stage.says(&["job", "stop", "--detach", "j05"]);
    let late = stage.moat(&["job", "run", "--check-index", &index, &more]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stderr).contains("somebody changed"), "{late:?}");

    for (name, text) in [("j05-typo.hcl", "job \"j05\" {\n grup \"g\" {}\n}\n"), ("j05-empty.hcl", "")] {
        let file = stage.job(name, text);
        assert_eq!(code(&["job", "plan", &file]), Some(255), "{name}");
    }
    assert_eq!(code(&["job", "plan", "/nowhere.hcl"]), Some(255));
    // What has no place is told by the plan, and by 2 where it is declared.
    let most = stage.job(
        "j05-most.hcl",
        &sleeper("j05-most", "service", "constraint {\n attribute = \"${attr.kernel.name}\"\n value = \"plan9\"\n}"),
    );
    let plan = stage.moat(&["job", "plan", &most]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("plan9"), "{plan:?}");
    assert_eq!(code(&["job", "run", &most]), Some(2));
    stage.purge("j05-most").await;
    stage.purge("j05").await;
}

/// A job that was asked to stop is not called running while it does.
pub async fn what_is_stopped_says_so(stage: &Stage) {
    stage.run(&stage.job("slow.hcl", &stubborn("slow", "20s")));
    stage.writes("slow", "up").await;
    stage.says(&["job", "stop", "--detach", "slow"]);
    stage.writes("slow", "asked").await;
    let status = stage.says(&["job", "status", "--short", "slow"]);
    let line = status.lines().find(|line| line.starts_with("status")).unwrap_or_default();
    assert!(line.ends_with("stopping"), "{status}");
    stage.until("slow", "it ended", is_over).await;
    stage
        .when("its status says so", async || {
            stage.says(&["job", "status", "--short", "slow"]).contains("dead (stopped)")
        })
        .await;
    stage.purge("slow").await;
}

fn node(stage: &Stage) -> Value {
    let nodes = stage.told(&["node", "status", "self"]);
    nodes["node"].clone()
}

fn drains(stage: &Stage) -> bool {
    !node(stage)["wish"]["drain"].is_null()
}

fn is_eligible(stage: &Stage) -> bool {
    node(stage)["wish"]["eligibility"] == "eligible"
}

/// J04: what stays and what goes, when, and whether the node may be used again. Disk migration is J04's last part.
pub async fn j04_drains(stage: &Stage) {
    stage.run(&stage.job("every.hcl", &sleeper("every", "system", "")));
    stage.run(&stage.job("batch.hcl", &stubborn("batch", "2s")));
    stage.until("every", "it runs", is_running).await;
    stage.writes("batch", "up").await;
    let before = stage.until("batch", "it runs", is_running).await;

    // Batch work is let end until the deadline; nothing new comes; then the drain is taken back.
    stage.says(&["node", "drain", "--enable", "--self", "--ignore-system", "--deadline", "1h", "--detach"]);
    assert!(drains(stage) && !is_eligible(stage));
    let refused = stage.moat(&["node", "eligibility", "--enable", "--self"]);
    assert!(!refused.status.success(), "a node that drains is not eligible");
    stage.run(&stage.job("late.hcl", &sleeper("late", "service", "")));
    stage
        .when("the late one waits for a node", async || {
            let evaluations = stage.told(&["job", "status", "--evals", "late"]);
            evaluations["evaluations"].as_array().is_some_and(|all| all.iter().any(|e| e["status"] == "blocked"))
        })
        .await;
    assert!(is_running(&stage.allocations("batch")[0]), "its time is not over");
    stage.says(&["node", "drain", "--disable", "--self", "--keep-ineligible"]);
    assert!(!drains(stage) && !is_eligible(stage));
    assert_eq!(stage.allocations("late").len(), 0, "kept ineligible");
    stage.says(&["node", "eligibility", "--enable", "--self"]);
    stage.until("late", "it has its place", is_running).await;

    // At the deadline what is left is asked to end, and has its kill_timeout for that.
    let told = stage.says(&["node", "drain", "--enable", "--self", "--ignore-system", "--deadline", "1s"]);
    assert!(told.contains("is complete"), "{told}");
    let ended = stage.until("batch", "it was stopped", is_over).await;
    assert_eq!(id(&ended), id(&before), "nowhere else to go");
    assert!(stage.writes("batch", "asked").await.contains("asked"));
    let took = kill_took(&ended);
    assert!(took >= Duration::from_secs(2), "it had its kill_timeout: {took:?}");
    assert!(is_running(&stage.allocations("every")[0]), "system work stays");
    assert!(is_over(&stage.allocations("late")[0]));
    assert!(!is_eligible(stage), "a node that was emptied stays out of use");
    stage.says(&["node", "drain", "--disable", "--self"]);
    assert!(is_eligible(stage));

    // By force, system work too.
    stage.until("late", "it is back", is_running).await;
    let told = stage.says(&["node", "drain", "--enable", "--self", "--force"]);
    assert!(told.contains("is complete"), "{told}");
    stage.until("late", "it went", is_over).await;
    stage.until("every", "it went", is_over).await;
    stage.says(&["node", "drain", "--disable", "--self"]);
    for job in ["every", "batch", "late"] {
        stage.purge(job).await;
    }
    moat_testkit::not_run("J04 disk migration", "it is between nodes, and a sticky disk moves only on its own");
}

/// From when its task was asked to end to its end.
fn kill_took(allocation: &Value) -> Duration {
    let events = allocation["status"]["tasks"]["t"]["events"].as_array().cloned().unwrap_or_default();
    let at = |kind: &str| {
        let event = events.iter().rev().find(|event| event["kind"] == kind);
        event
            .and_then(|event| event["at"].as_i64())
            .unwrap_or_else(|| panic!("{kind}: {}: {events:#?}", client(allocation)))
    };
    Duration::from_millis(u64::try_from(at("Terminated") - at("Killing")).unwrap_or_default())
}

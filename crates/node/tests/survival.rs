//! A daemon that dies and one that comes after it, on one fake host.
//!
//! A crash is a runtime shut down with everything in it; the fake world and the run directory stay.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use moat_engine::fake::FakeConfig;
use moat_model::Cause;
use moat_model::lifecycle::PhaseName;
use moat_node::daemon::Node;
use moat_testkit::{Release, wait_until};
use serde_json::{Value, json};
use support::{Rig, SOON, now_secs, registry};

/// The runtime of a node that can be crashed.
struct Apart(Option<tokio::runtime::Runtime>);

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends everything the daemon does, in the middle of whatever it does.
fn crash(rig: &mut Rig, runtime: Apart) {
    drop(runtime);
    rig.node = None;
}

/// A node on a runtime of its own, so that it can be crashed.
async fn up_apart(rig: &mut Rig) -> Apart {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (config, drivers) = (rig.config.clone(), registry(&rig.world));
    // The lock goes with the last task of the crashed node, which ends at its next await.
    let node = wait_until(SOON, "the lock is free", async || {
        let (config, drivers) = (config.clone(), drivers.clone());
        runtime.spawn(async move { Node::start(config, drivers).await }).await.unwrap().ok()
    })
    .await
    .unwrap();
    node.connection().up().await.unwrap();
    rig.id = node.id().to_string();
    rig.xkey = node.xkey();
    rig.node = Some(node);
    let subject = format!("$NEX.PING.{}", rig.id);
    wait_until(SOON, "the node answers", async || rig.ask(&subject, b"").await).await.unwrap();
    Apart(Some(runtime))
}

async fn rig(fake: FakeConfig) -> Option<Rig> {
    let mut rig = Rig::start(Release::Current, fake, |c| {
        c.restart.delay_initial = Duration::from_millis(50);
        c.restart.attempts_max = 3;
        c.restart.delay_max = Duration::from_millis(200);
    })
    .await?;
    rig.down().await;
    Some(rig)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_and_workloads_outlive_the_daemon() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    let first = up_apart(&mut rig).await;
    let (node_id, xkey) = (rig.id.clone(), rig.xkey.clone());
    let id = rig.run(&rig.deploy("app")).await;
    crash(&mut rig, first);
    let second = up_apart(&mut rig).await;
    assert_eq!((&rig.id, &rig.xkey), (&node_id, &xkey));
    let live = rig.node().workloads().live();
    assert_eq!((live.len(), live[0].view.id.as_str(), live[0].view.attempt), (1, id.as_str(), 1));
    // The claims of the start are still known: a stop works, one with the start's own second does not.
    let old = rig.token("app", live[0].claims.issued_at);
    let refused = rig.ask_json(&format!("$NEX.STOP.default.{}", rig.id), &rig.stop_body(&id, &old)).await;
    assert!(refused["error"].as_str().unwrap().contains("same second"), "{refused}");
    assert_eq!(rig.stop(&id, "app").await["data"]["stopped"], true);
    crash(&mut rig, second);
    let _third = up_apart(&mut rig).await;
    assert!(rig.node().workloads().live().is_empty());
    assert_eq!(rig.node().workloads().list()[0].view.cause, Some(Cause::Stopped), "ended ones are remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_nobody_saw_is_reported_once_with_its_code() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    let mut events = rig.client.subscribe("$NEX.events.default.workload_undeployed").await.unwrap();
    rig.client.flush().await.unwrap();
    let first = up_apart(&mut rig).await;
    let id = rig.run(&rig.deploy("sh").script("sleep 1; exit 7")).await;
    crash(&mut rig, first);
    let _second = up_apart(&mut rig).await;
    let event = tokio::time::timeout(SOON, events.next()).await.expect("told").unwrap();
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((&event["data"]["code"], &event["source"]), (&json!(7), &json!(format!("{}-{id}", rig.id))));
    wait_until(SOON, "the end is recorded", async || {
        rig.node().workloads().list().first().filter(|s| s.view.ended()).cloned()
    })
    .await
    .unwrap();
    assert_eq!(rig.node().workloads().list()[0].view.exit.unwrap().code, 7);
    assert!(tokio::time::timeout(Duration::from_millis(500), events.next()).await.is_err(), "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_essential_workload_is_restarted_with_its_id_and_given_up() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    let mut events = rig.client.subscribe("$NEX.events.default.*").await.unwrap();
    rig.client.flush().await.unwrap();
    rig.up().await;
    let deploy = rig.deploy("sh").with(json!({"argv": ["-c", "exit 1"], "essential": true}));
    let id = rig.run(&deploy).await;
    let ended =
        wait_until(SOON, "it is given up", async || rig.node().workloads().list().into_iter().find(|s| s.view.ended()))
            .await
            .unwrap();
    assert_eq!((ended.view.id.as_str(), ended.view.attempt), (id.as_str(), 4), "one start and three restarts");
    assert_eq!((ended.view.phase, ended.view.exit.unwrap().code), (PhaseName::Stopped, 1));
    let mut told = Vec::new();
    while told.len() < 8 {
        let event = tokio::time::timeout(SOON, events.next()).await.unwrap_or_else(|_| panic!("{told:?}")).unwrap();
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        let kind = event["type"].as_str().unwrap().trim_start_matches("workload_").to_owned();
        told.push((event["data"]["attempt"].as_u64().unwrap(), kind, event["data"]["restarting"] == json!(true)));
    }
    told.sort();
    let expected: Vec<_> =
        (1..=4).flat_map(|n| [(n, "deployed".to_owned(), false), (n, "undeployed".to_owned(), n < 4)]).collect();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_succeeds_is_not_restarted() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    rig.up().await;
    let deploy = rig.deploy("sh").with(json!({"argv": ["-c", "true"], "essential": true, "moat": {"kind": "job"}}));
    rig.run(&deploy).await;
    let ended =
        wait_until(SOON, "it ends", async || rig.node().workloads().list().into_iter().find(|s| s.view.ended()))
            .await
            .unwrap();
    assert_eq!((ended.view.attempt, ended.view.exit.unwrap().code), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_essential_workload_stays_stopped_across_a_crash() {
    let Some(mut rig) = rig(FakeConfig { ignores_signals: true, ..FakeConfig::default() }).await else { return };
    let first = up_apart(&mut rig).await;
    let id = rig.run(&rig.deploy("app").with(json!({"essential": true, "moat": {"stop_grace_ms": 3000}}))).await;
    let began = std::time::Instant::now();
    let stopped = rig.stop(&id, "app").await;
    assert_eq!(stopped["data"]["stopped"], true, "{stopped}");
    assert!(began.elapsed() < Duration::from_secs(2), "answered within the two seconds a client waits");
    crash(&mut rig, first);
    let _second = up_apart(&mut rig).await;
    let ended =
        wait_until(SOON, "it ends", async || rig.node().workloads().list().into_iter().find(|s| s.view.ended()))
            .await
            .unwrap();
    assert_eq!(ended.view.attempt, 1);
    assert!(matches!(ended.view.cause, Some(Cause::StopTimedOut | Cause::Stopped)), "{:?}", ended.view.cause);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_was_not_answered_is_undone() {
    let hang = FakeConfig { hang_at: Some(moat_engine::fake::FakeStep::StartMain), ..FakeConfig::default() };
    let Some(mut rig) = rig(hang).await else { return };
    let first = up_apart(&mut rig).await;
    rig.upload("app", &support::program()).await;
    let body = serde_json::to_vec(&rig.deploy("app").body(&rig.id)).unwrap();
    assert!(rig.ask(&format!("$NEX.DEPLOY.default.{}", rig.id), &body).await.is_none());
    assert_eq!(rig.node().workloads().live().len(), 1);
    crash(&mut rig, first);
    let _second = up_apart(&mut rig).await;
    assert!(rig.node().workloads().list().is_empty(), "nobody was told of it");
    wait_until(SOON, "its sandbox is gone", async || rig.node().workloads().engine().list().is_empty().then_some(()))
        .await
        .unwrap();
    assert!(std::fs::read_dir(rig.dir.path().join("run/workloads")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_to_start_leaves_nothing() {
    let broken = FakeConfig { create_error: Some("no room".to_owned()), ..FakeConfig::default() };
    let Some(mut rig) = rig(broken).await else { return };
    rig.up().await;
    rig.upload("app", &support::program()).await;
    let reply = rig.send(&rig.deploy("app")).await;
    assert!(reply["error"].as_str().unwrap().contains("no room"), "{reply}");
    assert!(rig.node().workloads().list().is_empty() && rig.node().workloads().engine().list().is_empty());
    assert!(std::fs::read_dir(rig.dir.path().join("run/workloads")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn autostart_runs_in_order_once_and_only_the_operator_stops_it() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    rig.upload("one", &support::program()).await;
    rig.upload("two", &support::program()).await;
    let entries = |name: &str| {
        format!(
            "[[autostart]]\nname = '{name}'\nlocation = 'nats://{}/{name}'\nenvironment = {{ a = 'b' }}\n",
            support::BUCKET
        )
    };
    let text = format!("{}{}", entries("one"), entries("two"));
    rig.config.autostart = moat_node::config::NodeConfig::from_toml(&text, "test").unwrap().autostart;
    // An allow-list does not concern the node itself.
    rig.config.valid_issuers = vec![rig.issuer.public_key()];
    let first = up_apart(&mut rig).await;
    // One that is still starting when the daemon dies is undone, and started anew: not what this is about.
    let running = |rig: &Rig| {
        let live = rig.node().workloads().live();
        let running = live.iter().filter(|s| s.view.phase == PhaseName::Running);
        running.map(|s| s.view.name.to_string()).collect::<Vec<_>>()
    };
    wait_until(SOON, "both run", async || (running(&rig) == ["one", "two"]).then_some(())).await.unwrap();
    let ids: Vec<_> = rig.node().workloads().live().iter().map(|s| s.view.id.clone()).collect();
    crash(&mut rig, first);
    let _second = up_apart(&mut rig).await;
    let again: Vec<_> = rig.node().workloads().live().iter().map(|s| s.view.id.clone()).collect();
    assert_eq!(ids, again, "not started a second time");

    // Signed for a second later than the start, which may be less than a second ago.
    let foreign = rig.stop_body(ids[0].as_str(), &rig.token("one", now_secs() + 1));
    let refused = rig.ask_json(&format!("$NEX.STOP.default.{}", rig.id), &foreign).await;
    assert!(refused["error"].as_str().unwrap().contains("issuer"), "{refused}");
    let seed = std::fs::read_to_string(rig.dir.path().join("data/identity/node.nk")).unwrap();
    let operator = nkeys::KeyPair::from_seed(seed.trim()).unwrap();
    let later = support::token(&operator, "one", now_secs() + 1);
    let reply = rig.ask_json(&format!("$NEX.STOP.default.{}", rig.id), &rig.stop_body(ids[0].as_str(), &later)).await;
    assert_eq!(reply["data"]["stopped"], true, "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_nats_starts_and_comes_back() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    rig.up().await;
    let id = rig.run(&rig.deploy("app")).await;
    rig.down().await;
    rig.nats.kill();
    let node = Node::start(rig.config.clone(), registry(&rig.world)).await.unwrap();
    assert_eq!(node.workloads().live()[0].view.id.as_str(), id, "its workloads are there without NATS");
    rig.nats.restart().await.unwrap();
    node.connection().up().await.unwrap();
    rig.node = Some(node);
    rig.client = rig.nats.client().await.unwrap();
    let subject = format!("$NEX.INFO.default.{}", rig.id);
    let info = wait_until(SOON, "the node answers", async || rig.ask(&subject, b"").await).await.unwrap();
    assert_eq!(info["data"]["machines"][0]["id"], json!(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_in_one_run_dir_is_refused_and_an_end_with_its_workloads_is_possible() {
    let Some(mut rig) = rig(FakeConfig::default()).await else { return };
    rig.config.stop_workloads = true;
    rig.up().await;
    let refusal = Node::start(rig.config.clone(), registry(&rig.world)).await.unwrap_err();
    assert!(refusal.to_string().contains(&format!("pid {}", std::process::id())), "{refusal}");
    rig.run(&rig.deploy("app")).await;
    rig.down().await;
    rig.config.stop_workloads = false;
    rig.up().await;
    let all = rig.node().workloads().list();
    assert!(all.len() == 1 && all[0].view.cause == Some(Cause::Stopped), "{all:?}");
}

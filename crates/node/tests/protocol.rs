//! The acceptance script of the Nex control API against a node and a real nats-server, current and Debian's.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use moat_engine::fake::FakeConfig;
use moat_node::config::Limits;
use moat_testkit::{Release, wait_until};
use nkeys::{KeyPair, XKey};
use serde_json::{Value, json};
use support::{Rig, SOON, now_secs, token};

/// A test for each release.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod current { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(super::Release::Current).await } )+ }
        mod debian { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name(super::Release::Debian).await } )+ }
    };
}

on_both!(
    discovery,
    a_workload_lives_and_is_stopped,
    refused_deploys,
    refused_stops,
    limits_and_lame_duck,
    events_and_logs,
    a_real_digest_is_enforced,
);

fn error_of(reply: &Value) -> String {
    reply["error"].as_str().unwrap_or_else(|| panic!("not refused: {reply}")).to_owned()
}

async fn discovery(release: Release) {
    let Some(rig) = Rig::start(release, FakeConfig::default(), |c| {
        c.tags.insert("zone".to_owned(), "eu".to_owned());
        c.name = Some("rusty".to_owned());
    })
    .await
    else {
        return;
    };
    let id = rig.id.clone();
    let ping = rig.ask("$NEX.PING", b"").await.unwrap();
    assert_eq!(ping["type"], "io.nats.nex.v1.ping_response");
    let data = &ping["data"];
    assert_eq!((&data["node_id"], &data["target_xkey"]), (&json!(id), &json!(rig.xkey)));
    assert_eq!(data["running_machines"], 0);
    let tags = &data["tags"];
    assert_eq!((&tags["node_name"], &tags["zone"], &tags["nex.os"]), (&json!("rusty"), &json!("eu"), &json!("linux")));
    assert!(tags["nex.cpucount"].is_string() && tags["nex.unsafe"].is_null() && tags["nex.lameduck"].is_null());
    assert!(rig.ask(&format!("$NEX.PING.{id}"), b"ignored").await.is_some());
    assert!(rig.ask(&format!("$NEX.PING.N{}", "A".repeat(55)), b"").await.is_none());

    let info = rig.ask(&format!("$NEX.INFO.default.{id}"), b"").await.unwrap();
    assert_eq!(info["type"], "io.nats.nex.v1.info_response");
    assert_eq!(info["data"]["public_xkey"], json!(rig.xkey));
    assert_eq!(info["data"]["machines"], json!([]));
    assert_eq!(info["data"]["supported_workload_types"], json!(["native"]));
    assert!(info["data"]["memory"]["total"].as_u64().unwrap() > 0);

    let auction = |body: Value| {
        let rig = &rig;
        async move { rig.ask("$NEX.AUCTION", &serde_json::to_vec(&body).unwrap()).await }
    };
    let bid = auction(json!({"arch": go_arch(), "os": "linux", "workload_types": ["native"]})).await.unwrap();
    assert_eq!(bid["type"], "io.nats.nex.v1.auction_response");
    assert!(rig.ask("$NEX.AUCTION", b"not json").await.is_some(), "what cannot be read filters nothing");
    assert!(auction(json!({"tags": {"zone": "us"}})).await.is_none());
    assert!(auction(json!({"sandboxed": false})).await.is_none());
    assert!(auction(json!({"workload_types": ["v8"]})).await.is_none());
    // Nothing runs, so a search is silent.
    assert!(rig.ask("$NEX.WPING.default", b"").await.is_none());
}

fn go_arch() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

async fn a_workload_lives_and_is_stopped(release: Release) {
    let Some(rig) = Rig::start(release, FakeConfig::default(), |_| {}).await else { return };
    rig.upload("billing_api", &support::program()).await;
    let reply = rig.send(&rig.deploy("billing_api")).await;
    assert_eq!(reply["type"], "io.nats.nex.v1.run_response");
    assert_eq!(reply["data"]["started"], true);
    assert_eq!(reply["data"]["name"], "billing_api");
    assert_eq!(reply["data"]["issuer"], rig.issuer.public_key());
    let id = reply["data"]["id"].as_str().unwrap().to_owned();
    assert!(id.len() == 20 && reply["data"]["machine_id"] == json!(id));

    // Namespaces without regard to case, and nothing of it elsewhere.
    for (namespace, count) in [("default", 1), ("DEFAULT", 1), ("other", 0)] {
        let info = rig.ask(&format!("$NEX.INFO.{namespace}.{}", rig.id), b"").await.unwrap();
        let machines = info["data"]["machines"].as_array().unwrap();
        assert_eq!(machines.len(), count, "{namespace}");
        if let Some(machine) = machines.first() {
            assert_eq!((&machine["id"], &machine["healthy"]), (&json!(id), &json!(true)));
            assert_eq!(machine["workload"]["hash"].as_str().unwrap().len(), 64);
            assert_eq!(machine["workload"]["description"], "");
        }
    }
    for (search, found) in [
        ("default".to_owned(), true),
        ("default.BILLING_API".to_owned(), true),
        (format!("default.{id}"), true),
        (format!("default.{}", id.to_uppercase()), false),
        ("other".to_owned(), false),
        ("default.nobody".to_owned(), false),
    ] {
        let reply = rig.ask(&format!("$NEX.WPING.{search}"), b"").await;
        assert_eq!(reply.is_some(), found, "{search}");
        if let Some(reply) = reply {
            assert_eq!(reply["type"], "io.nats.nex.v1.ping_response");
            assert_eq!(reply["data"]["running_machines"][0]["id"], json!(id));
        }
    }
    // The old verb does the same.
    let body = rig.deploy("billing_api").body(&rig.id);
    let second = rig.ask_json(&format!("$NEX.RUN.default.{}", rig.id), &body).await;
    assert_eq!(second["data"]["started"], true, "{second}");

    let stopped = rig.stop(&id, "billing_api").await;
    assert_eq!(stopped["type"], "io.nats.nex.v1.stop_response");
    assert_eq!((&stopped["data"]["stopped"], &stopped["data"]["id"]), (&json!(true), &json!(id)));
    let again = rig.stop(&id, "billing_api").await;
    assert!(error_of(&again).contains("No such workload"), "{again}");
}

async fn refused_deploys(release: Release) {
    let listed = KeyPair::new_account();
    let allowed = listed.public_key();
    let Some(mut rig) = Rig::start(release, FakeConfig::default(), |c| c.valid_issuers.push(allowed)).await else {
        return;
    };
    rig.issuer = listed;
    rig.upload("app", &support::program()).await;
    rig.upload("dynamic", &support::dynamic_program()).await;
    rig.upload("foreign", &support::foreign_program()).await;
    rig.upload("cut", &support::program()[..100]).await;
    rig.upload("script", b"#!/bin/sh\necho hello\n").await;
    let mut base = rig.deploy("app");
    base.key = "app".to_owned();
    let with = |members: Value| base.clone().with(members);
    let key = |key: &str| support::Deploy { key: key.to_owned(), ..base.clone() };
    let location = |host: &str, path: &str| with(json!({"location": {"Scheme": "nats", "Host": host, "Path": path}}));
    let other_name = {
        let mut deploy = with(json!({}));
        deploy.name = "other".to_owned();
        let token = deploy.body(&rig.id)["workload_jwt"].clone();
        // Signed with the right key over other bytes.
        let mut parts: Vec<String> = token.as_str().unwrap().split('.').map(str::to_owned).collect();
        parts[1] = base.body(&rig.id)["workload_jwt"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
        with(json!({"workload_jwt": parts.join(".")}))
    };
    let cases = [
        (
            "unknown issuer",
            support::Deploy { issuer: KeyPair::new_account().seed().unwrap(), ..base.clone() },
            "not on this node's list",
        ),
        (
            "sealed to another node",
            support::Deploy { node_xkey: XKey::new().public_key(), ..base.clone() },
            "cannot be decrypted",
        ),
        ("expired", support::Deploy { expires: Some(now_secs() - 5), ..base.clone() }, "expired"),
        ("claims for another name", other_name, "signature"),
        ("not a token", with(json!({"workload_jwt": "x"})), "workload_jwt"),
        ("unknown type", with(json!({"type": "elf"})), "unsupported workload type"),
        ("functions", with(json!({"type": "v8"})), "unsupported workload type"),
        ("oci", with(json!({"type": "oci"})), "unsupported workload type"),
        ("trigger", with(json!({"trigger_subjects": ["$JS.x"]})), "trigger_subjects"),
        ("no environment", with(json!({"environment": null})), "environment is missing"),
        ("no token", with(json!({"workload_jwt": ""})), "workload_jwt is missing"),
        ("no sender", with(json!({"sender_public_key": null})), "sender_public_key is missing"),
        ("no location", with(json!({"location": null})), "location is missing"),
        ("other scheme", with(json!({"location": "file:///bin/true"})), "scheme"),
        ("another node", with(json!({"target_node": "NOTHERE"})), "target_node"),
        ("missing bucket", location("NOWHERE", "/app"), "bucket \"NOWHERE\" does not exist"),
        ("missing object", location(support::BUCKET, "/nothing"), "no object \"nothing\""),
        ("dynamic", key("dynamic"), "dynamically linked"),
        ("another processor", key("foreign"), "is built for"),
        ("truncated", key("cut"), "truncated"),
        ("a script", key("script"), "script"),
        ("digest mismatch", support::Deploy { hash: Some("0".repeat(64)), ..base.clone() }, "checksum mismatch"),
        ("unknown extension", with(json!({"moat": {"gpu": 1}})), "gpu"),
        ("no sandbox", with(json!({"moat": {"isolation": "process"}})), "without a sandbox"),
        ("a vm", with(json!({"moat": {"isolation": "microvm"}})), "isolation"),
        ("nats", with(json!({"moat": {"nats": true}})), "workload_nats"),
    ];
    for (what, deploy, expected) in cases {
        let reply = rig.send(&deploy).await;
        assert_eq!(reply["type"], "io.nats.nex.v1.run_response", "{what}");
        let message = error_of(&reply);
        assert!(message.contains(expected), "{what}: {message}");
        assert!(reply["code"].is_string(), "{what}: {reply}");
        assert!(rig.node().workloads().list().is_empty(), "{what} left a workload");
    }
    let garbage = rig.ask(&format!("$NEX.DEPLOY.default.{}", rig.id), b"{").await.unwrap();
    assert!(error_of(&garbage).contains("deploy request"), "{garbage}");
    let empty = rig.ask(&format!("$NEX.DEPLOY.default.{}", rig.id), b"").await.unwrap();
    assert!(error_of(&empty).contains("deploy request"), "{empty}");
    assert_eq!(rig.leftovers(), Vec::<std::path::PathBuf>::new());
    // A name with a dot never becomes claims of ours, so it is written by hand.
    let dotted = dotted_token(&rig.issuer);
    let reply = rig.send(&with(json!({"workload_jwt": dotted}))).await;
    assert!(error_of(&reply).contains("workload name"), "{reply}");
    // And with everything right it runs.
    let reply = rig.send(&base).await;
    assert_eq!(reply["data"]["started"], true, "{reply}");
}

fn dotted_token(issuer: &KeyPair) -> String {
    let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
    let payload = json!({"jti": "x", "iat": now_secs(), "iss": issuer.public_key(), "sub": "a.b"}).to_string();
    let signed = format!("{}.{}", encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#), encode(&payload));
    let signature = data_encoding::BASE64URL_NOPAD.encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

async fn refused_stops(release: Release) {
    let Some(rig) = Rig::start(release, FakeConfig::default(), |_| {}).await else { return };
    let deploy = rig.deploy("app");
    let id = rig.run(&deploy).await;
    let stop = format!("$NEX.STOP.default.{}", rig.id);
    let start_token = deploy.body(&rig.id)["workload_jwt"].as_str().unwrap().to_owned();
    for (what, subject, body, expected) in [
        ("the start token", stop.clone(), rig.stop_body(&id, &start_token), "started with"),
        ("same second", stop.clone(), rig.stop_body(&id, &rig.token("app", deploy.issued_at)), "same second"),
        ("older", stop.clone(), rig.stop_body(&id, &rig.token("app", deploy.issued_at - 1)), "earlier workload"),
        (
            "another issuer",
            stop.clone(),
            rig.stop_body(&id, &token(&KeyPair::new_account(), "app", now_secs())),
            "issuer",
        ),
        ("another name", stop.clone(), rig.stop_body(&id, &rig.token("other", now_secs())), "subject"),
        (
            "another namespace",
            format!("$NEX.STOP.other.{}", rig.id),
            rig.stop_body(&id, &rig.token("app", now_secs())),
            "No such workload",
        ),
        (
            "unknown id",
            stop.clone(),
            rig.stop_body("cq1v8k3q7d2c73f0a9g0", &rig.token("app", now_secs())),
            "No such workload",
        ),
        ("no id", stop.clone(), json!({}), "No such workload"),
        ("no token", stop.clone(), rig.stop_body(&id, ""), "workload_jwt"),
    ] {
        let reply = rig.ask_json(&subject, &body).await;
        let message = error_of(&reply);
        assert!(message.contains(expected), "{what}: {message}");
        assert!(reply["data"].is_null(), "{what}: one answer, and a refusal");
    }
    assert_eq!(rig.node().workloads().live().len(), 1);
    assert_eq!(rig.stop(&id, "app").await["data"]["stopped"], true);
}

async fn limits_and_lame_duck(release: Release) {
    let size = u64::try_from(support::program().len()).unwrap();
    let Some(rig) = Rig::start(release, FakeConfig::default(), |c| {
        c.limits =
            Limits { workloads_max: Some(2), artifact_bytes_max: Some(size), total_bytes_max: Some(2 * size - 1) };
    })
    .await
    else {
        return;
    };
    let first = rig.run(&rig.deploy("one").with(json!({"essential": true}))).await;
    rig.upload("two", &support::program()).await;
    let total = rig.send(&rig.deploy("two")).await;
    assert!(error_of(&total).contains("total_size_max"), "{total}");
    let mut large = support::program();
    large.push(0);
    rig.upload("large", &large).await;
    let reply = rig.send(&rig.deploy("large")).await;
    assert!(error_of(&reply).contains("artifact_size_max"), "{reply}");

    let mut lameduck = rig.client.subscribe("$NEX.events.system.node_entered_lameduck").await.unwrap();
    rig.client.flush().await.unwrap();
    for _ in 0..2 {
        let reply = rig.ask(&format!("$NEX.LAMEDUCK.{}", rig.id), b"").await.unwrap();
        assert_eq!(reply["type"], "io.nats.nex.v1.lameduck_response");
        assert_eq!(reply["data"], json!({"node_id": rig.id, "success": true}));
    }
    let refused = rig.send(&rig.deploy("two")).await;
    assert!(error_of(&refused).contains("lame duck"), "{refused}");
    let ping = rig.ask("$NEX.PING", b"").await.unwrap();
    assert_eq!(ping["data"]["tags"]["nex.lameduck"], "true");
    assert!(rig.ask("$NEX.AUCTION", b"").await.is_some(), "it still bids; the tag tells");
    wait_until(SOON, "what runs is not essential any more", async || {
        let live = rig.node().workloads().live();
        (live.len() == 1 && !live[0].view.essential).then_some(())
    })
    .await
    .unwrap();
    let event = tokio::time::timeout(SOON, lameduck.next()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&event.payload).unwrap()["data"]["id"], json!(rig.id));
    let second = tokio::time::timeout(Duration::from_millis(300), lameduck.next()).await;
    assert!(second.is_err(), "told once");
    assert_eq!(rig.stop(&first, "one").await["data"]["stopped"], true);

    let Some(rig) = Rig::start(release, FakeConfig::default(), |c| c.limits.workloads_max = Some(1)).await else {
        return;
    };
    rig.run(&rig.deploy("one")).await;
    let reply = rig.send(&rig.deploy("one")).await;
    assert!(error_of(&reply).contains("workloads_max"), "{reply}");
    assert_eq!(reply["code"], "exhausted");
}

async fn events_and_logs(release: Release) {
    let Some(rig) = Rig::start(release, FakeConfig::default(), |c| c.heartbeat_interval = Duration::from_secs(1)).await
    else {
        return;
    };
    let mut events = rig.client.subscribe("$NEX.events.>").await.unwrap();
    let mut logs = rig.client.subscribe("$NEX.logs.default.*.*.*").await.unwrap();
    rig.client.flush().await.unwrap();
    // A fake "sh" runs scripts; it ends by itself with status 3.
    let id = rig.run(&rig.deploy("sh").script("echo hello; echo trouble >&2; exit 3")).await;
    let mut lines = Vec::new();
    while lines.len() < 2 {
        let message = tokio::time::timeout(SOON, logs.next()).await.expect("two lines").unwrap();
        assert_eq!(message.subject.as_str(), format!("$NEX.logs.default.{}.sh.{id}", rig.id));
        let line: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(line["id"], json!(id));
        lines.push((line["level"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned()));
    }
    lines.sort();
    assert_eq!(lines, [("ERROR".to_owned(), "trouble".to_owned()), ("INFO".to_owned(), "hello".to_owned())]);

    let mut seen = Vec::new();
    let mut beats = 0;
    while beats == 0 || !seen.contains(&"workload_undeployed".to_owned()) {
        let message = tokio::time::timeout(SOON, events.next()).await.expect("events").unwrap();
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event["specversion"], "1.0");
        let kind = event["type"].as_str().unwrap().to_owned();
        let namespace = if kind.starts_with("workload_") { "default" } else { "system" };
        assert_eq!(message.subject.as_str(), format!("$NEX.events.{namespace}.{kind}"));
        match kind.as_str() {
            "heartbeat" => {
                beats += 1;
                assert_eq!((&event["source"], &event["data"]["node_id"]), (&json!(rig.id), &json!(rig.id)));
                continue;
            }
            "workload_deployed" => assert_eq!(event["data"]["workload_name"], "sh"),
            "workload_undeployed" => {
                assert_eq!((&event["data"]["code"], &event["data"]["workload_name"]), (&json!(3), &json!("sh")));
                assert_eq!(event["source"], json!(format!("{}-{id}", rig.id)));
            }
            _ => {}
        }
        seen.push(kind);
    }
    let count = |kind: &str| seen.iter().filter(|s| *s == kind).count();
    assert_eq!((count("workload_deployed"), count("workload_undeployed")), (1, 1), "{seen:?}");
    let ended = rig.node().workloads().list();
    assert_eq!(ended[0].view.exit.unwrap().code, 3);
    assert!(!ended[0].timeline.is_empty());
}

async fn a_real_digest_is_enforced(release: Release) {
    use sha2::Digest as _;
    let Some(rig) = Rig::start(release, FakeConfig::default(), |_| {}).await else { return };
    let program = support::program();
    rig.upload("app", &program).await;
    let mut deploy = rig.deploy("app");
    deploy.hash = Some(hex::encode(sha2::Sha256::digest(&program)));
    assert_eq!(rig.send(&deploy).await["data"]["started"], true);
    // The same bytes a second time: from the cache, and another digest still refused.
    assert_eq!(rig.send(&deploy).await["data"]["started"], true);
    deploy.hash = Some("f".repeat(64));
    let reply = rig.send(&deploy).await;
    assert!(error_of(&reply).contains("checksum mismatch"), "{reply}");
}
